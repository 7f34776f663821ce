from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctrbench.controls.runs import with_controls, with_costs
from ctrbench.cost.forecast import forecasts
from ctrbench.data.card import DatasetCard
from ctrbench.data.prepare import prepare
from ctrbench.runs.execute import execute
from ctrbench.runs.experiment import Experiment, plan_runs
from ctrbench.runs.grid import Run
from ctrbench.runs.record import EQUAL_COST, SHUFFLED_DOMAINS
from ctrbench.runs.store import open_store

METHODS = "plain,no_domain,mmoe,star"


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_tiny: Callable[..., DatasetCard]) -> str:
    monkeypatch.setenv("CTRBENCH_HOME", str(tmp_path / "home"))
    generator = np.random.default_rng(0)
    columns = {
        "time": np.arange(600),
        "shop": generator.integers(0, 4, 600),
        "item": generator.integers(0, 30, 600),
        "click": generator.integers(0, 2, 600),
    }
    return prepare(write_tiny(tmp_path, columns)).manifest.name


def plan(
    dataset: str, folder: Path, methods: str = METHODS, backbones: str = "dnn[hidden=8-4]"
) -> Experiment:
    return plan_runs(
        open_store(str(folder / "results")), dataset=dataset, methods=methods, backbones=backbones, seeds="2",
        settings={"epochs": 1, "batch_size": 64, "embedding_size": 4},
    )  # fmt: skip


def labels(runs: tuple[Run, ...], seed: int = 1) -> list[str]:
    return [" × ".join(run.labels) for run in runs if run.key.seed == seed]


def test_controls_are_added_to_the_runs_of_each_seed(dataset: str, tmp_path: Path) -> None:
    own = plan(dataset, tmp_path)
    controlled = with_controls(own)
    assert labels(controlled.runs) == [
        "plain × dnn[hidden=8-4]",
        "no_domain × dnn[hidden=8-4]",
        "mmoe × dnn[hidden=8-4]",
        "star × dnn[hidden=8-4]",
        "plain[norm=bn,aux=all] × dnn[hidden=8-4]",
        "mmoe, shuffled domains × dnn[hidden=8-4]",
        "star, shuffled domains × dnn[hidden=8-4]",
        "plain[norm=bn,aux=all], shuffled domains × dnn[hidden=8-4]",
        "plain at the cost of star, mmoe × dnn[hidden=22-12]",
    ]
    assert labels(controlled.runs, 1) == labels(controlled.runs, 2)
    assert [run.key.seed for run in controlled.runs] == [1] * 9 + [2] * 9
    assert controlled.missing == controlled.runs
    kinds = [run.key.control for run in controlled.runs[:9]]
    assert kinds == [None] * 5 + [SHUFFLED_DOMAINS] * 3 + [EQUAL_COST]
    assert {run.key.digest for run in own.runs} < {run.key.digest for run in controlled.runs}


def test_controls_of_controls_are_not_added_twice(dataset: str, tmp_path: Path) -> None:
    both = plan(dataset, tmp_path, f"{METHODS},plain[norm=bn,aux=all]")
    assert len(with_controls(both).runs) == len(with_controls(plan(dataset, tmp_path)).runs)


def test_a_pair_without_a_run_has_no_control(dataset: str, tmp_path: Path) -> None:
    controlled = with_controls(plan(dataset, tmp_path, "gbdt,mmoe", "dcnv2"))
    assert [label for label in labels(controlled.runs) if "gbdt" in label] == ["gbdt × dcnv2"]
    assert "mmoe, shuffled domains × dcnv2" in labels(controlled.runs)


def test_the_runs_record_their_cost(dataset: str, tmp_path: Path) -> None:
    experiment = with_controls(plan(dataset, tmp_path, "plain,mmoe"))
    pairs = [pair for costs in forecasts(experiment) for pair in costs.pairs]
    costed = with_costs(experiment, pairs)
    assert costed.missing == costed.runs
    by_label = {run.labels[0]: run for run in costed.runs if run.key.seed == 1}
    counts = {label: run.multiply_adds or 0 for label, run in by_label.items()}
    assert counts["plain"] == 8 * 8 + 8 * 4 + 4
    assert counts["mmoe"] == counts["mmoe, shuffled domains"]
    assert 1 <= counts["plain at the cost of mmoe"] / counts["mmoe"] < 1.1
    run = by_label["plain at the cost of mmoe"]
    record = execute(run, costed.store)
    assert record.measured.multiply_adds == run.multiply_adds
    again = with_controls(plan(dataset, tmp_path, "plain,mmoe"))
    assert len(again.missing) == len(again.runs) - 1
    assert replace(run, multiply_adds=None) not in again.missing
