"""The training configuration that a study's runs have."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctrbench.data.prepared import open_prepared
from ctrbench.studies.plan import plan_study
from ctrbench.studies.study import Study


def windows(home: Path, **train: int) -> set[int | None]:
    study = Study(title="A study", draw="table", methods={"Plain": "plain"}, train=dict(train))
    parts = plan_study(study, open_prepared("tiny", home / "home"))
    return {run.key.train.get("window") for part in parts for run in part.runs}


def test_a_study_of_more_rows_than_memory_should_hold_streams_them(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert windows(home) == {None}
    monkeypatch.setattr("ctrbench.runs.grid.MOST_HELD", 20_000)
    assert windows(home) == {1 << 22}
    assert windows(home, window=7000) == {7000}
    assert windows(home, window=0) == {None}
