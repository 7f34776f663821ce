from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ctrbench.data.card import DatasetCard
from ctrbench.data.prepare import prepare
from ctrbench.data.prepared import Prepared
from ctrbench.data.selection import (
    ListedDataset,
    choose_domains,
    domain_features,
    list_datasets,
    open_dataset,
)
from ctrbench.errors import DataError, SettingError


@pytest.fixture
def prepared(
    tmp_path: Path, write_tiny: Callable[..., DatasetCard], monkeypatch: pytest.MonkeyPatch
) -> Prepared:
    """A dataset with the domain sets `default` (shop) and `both` (shop, age)."""
    monkeypatch.setenv("CTRBENCH_HOME", str(tmp_path / "home"))
    generator, rows = np.random.default_rng(0), 60
    columns = {
        "time": np.arange(rows),
        "shop": generator.choice(5, rows),
        "age": generator.choice(3, rows),
        "click": generator.integers(0, 2, rows),
    }
    return prepare(write_tiny(tmp_path, columns, 'default = ["shop"], both = ["shop", "age"]'))


def test_bundled_cards_and_prepared_datasets_are_listed(prepared: Prepared) -> None:
    listed = {dataset.name: dataset for dataset in list_datasets()}
    assert listed["movielens-1m"].homepage.startswith("https://grouplens.org/")
    assert not listed["movielens-1m"].is_prepared
    assert listed["tiny"] == ListedDataset(
        name="tiny", title=prepared.manifest.title, homepage="", is_prepared=True
    )


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 100_000, b"{}", b'{"schema_version": "x"}', None])
def test_a_damaged_dataset_does_not_hide_the_others(
    tmp_path: Path, prepared: Prepared, content: bytes | None
) -> None:
    folder = tmp_path / "home" / "datasets" / "other"
    folder.mkdir()
    if content is None:
        (folder / "manifest.json").mkdir()
    else:
        (folder / "manifest.json").write_bytes(content)
    (tmp_path / "home" / "datasets" / "foreign").mkdir()
    listed = {dataset.name: dataset for dataset in list_datasets()}
    assert listed["tiny"].is_prepared
    assert listed["other"].title.endswith("prepare it again")
    assert "foreign" not in listed
    assert prepare(prepared.manifest.card).manifest.created == prepared.manifest.created
    assert open_dataset("tiny")[1] == "default"


def test_a_dataset_is_opened_with_its_default_set(prepared: Prepared) -> None:
    opened, name = open_dataset("tiny")
    assert (opened.manifest.name, name) == ("tiny", "default")


def test_a_set_is_chosen_by_its_name(prepared: Prepared) -> None:
    assert choose_domains(prepared, "both") == (prepared, "both")


def test_a_set_is_chosen_by_its_features(prepared: Prepared) -> None:
    assert choose_domains(prepared, "shop, age")[1] == "both"


def test_a_new_set_is_computed_and_named_after_its_features(prepared: Prepared) -> None:
    chosen, name = choose_domains(prepared, "age")
    assert name == "age"
    assert chosen.domain_set("age").num_domains == 3


def test_features_of_a_named_set_are_not_listed(prepared: Prepared) -> None:
    card = prepared.manifest.card
    assert [domain_features(card, text) for text in (None, "both", "age,shop")] == [(), (), ("age", "shop")]


def test_unknown_names_are_refused(prepared: Prepared) -> None:
    with pytest.raises(SettingError, match="did you mean 'shop'"):
        open_dataset("tiny", "shopp")
    with pytest.raises(DataError, match="no such prepared dataset"):
        open_dataset("tinny")
