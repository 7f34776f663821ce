from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ctrbench.data.card import DatasetCard
from ctrbench.data.prepare import prepare
from ctrbench.errors import SettingError
from ctrbench.runs.experiment import Experiment, plan_runs
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import open_store


@pytest.fixture
def dataset(card: DatasetCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a dataset that is prepared in the home of the test."""
    monkeypatch.setenv("CTRBENCH_HOME", str(tmp_path / "home"))
    return prepare(card).manifest.name


def plan(dataset: str, folder: Path, *, preset: str | None = None, **settings: object) -> Experiment:
    return plan_runs(
        open_store(str(folder / "results")),
        dataset=dataset,
        methods="plain,no_domain",
        backbones="dnn",
        seeds="2",
        preset=preset,
        settings=settings,
    )


def test_an_experiment_is_the_product_of_methods_and_seeds(dataset: str, tmp_path: Path) -> None:
    experiment = plan(dataset, tmp_path)
    assert [run.label for run in experiment.runs] == [
        f"{method} × dnn, seed {seed}" for seed in (1, 2) for method in ("plain", "no_domain")
    ]
    assert experiment.missing == experiment.runs


def test_finished_runs_are_not_missing(dataset: str, tmp_path: Path, record: Callable[[], RunRecord]) -> None:
    first, *others = plan(dataset, tmp_path).runs
    identity = {"run": first.key.run, "digest": first.key.digest, "key": first.key}
    finished = record().model_copy(update=identity)
    open_store(str(tmp_path / "results")).write(finished)
    experiment = plan(dataset, tmp_path)
    assert [run.key for run in experiment.missing] == [run.key for run in others]
    assert experiment.records()[0][1] == finished


def test_a_preset_fills_in_settings_that_are_not_given(dataset: str, tmp_path: Path) -> None:
    given = plan(dataset, tmp_path, preset="production", batch_size=64, epochs=None)
    assert (given.config.batch_size, given.config.epochs) == (64, 1)
    assert given.runs[0].key.backbone.settings["hidden"] == [512, 256, 128]


def test_an_unknown_preset_is_refused(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no such preset: publik"):
        plan(dataset, tmp_path, preset="publik")
