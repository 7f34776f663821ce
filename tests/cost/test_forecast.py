from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ctrbench.cost.forecast import forecast
from ctrbench.data.card import DatasetCard
from ctrbench.data.prepare import prepare
from ctrbench.data.prepared import Prepared
from ctrbench.errors import SettingError
from ctrbench.runs.grid import Run, make_config, make_grid


@pytest.fixture
def prepared(tmp_path: Path, write_tiny: Callable[..., DatasetCard]) -> Prepared:
    generator, rows = np.random.default_rng(0), 60
    columns = {
        "time": np.arange(rows),
        "shop": generator.choice(5, rows),
        "click": generator.integers(0, 2, rows),
    }
    return prepare(write_tiny(tmp_path, columns), home=tmp_path / "home")


def grid(prepared: Prepared, *methods: str, backbone: str = "dnn[hidden=8-4]") -> tuple[Run, ...]:
    return make_grid(
        prepared, methods=methods, backbones=[backbone], seeds=[1, 2], domain_set="default", indicator=None,
        config=make_config(embedding_size=4),
    )  # fmt: skip


def test_each_pair_is_forecast_once_for_any_number_of_seeds(prepared: Prepared) -> None:
    pairs = forecast(prepared, grid(prepared, "plain", "star")).pairs
    assert [pair.method for pair in pairs] == ["plain", "star"]


def test_memory_is_that_of_the_largest_run(prepared: Prepared) -> None:
    small, large = (forecast(prepared, grid(prepared, method)).memory for method in ("plain", "star"))
    assert 0 < small < large
    assert forecast(prepared, grid(prepared, "plain", "star")).memory == large


def test_memory_is_0_where_no_cost_is_known(prepared: Prepared) -> None:
    assert forecast(prepared, grid(prepared, "gbdt")).memory == 0


def test_a_refusal_of_a_method_is_raised(prepared: Prepared) -> None:
    refused = forecast(prepared, grid(prepared, "plain", "cross_stitch[max_domains=2]"))
    with pytest.raises(SettingError, match="max_domains"):
        refused.raise_refusal()


def test_nothing_is_raised_without_a_refusal(prepared: Prepared) -> None:
    expected = forecast(prepared, grid(prepared, "plain"))
    expected.raise_refusal()
    assert [pair.refusal for pair in expected.pairs] == [None]
