from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.conftest import SMALL, Call


@pytest.mark.usefixtures("prepared", "trained_here")
def test_tune_finds_settings_that_run_uses(call: Call) -> None:
    tune = ("tune", *SMALL, "--methods", "plain", "--trials", "2")
    first, second = call(*tune), call(*tune)
    assert "3 of 3 trials were run" in first.stdout
    assert "0 of 3 trials were run" in second.stdout
    assert "next: ctrbench run --tuned --methods plain --backbone 'dnn[hidden=8-4]'" in first.stdout
    assert re.search(r"1 left, about \d+ min", first.stderr)
    run = call("run", *SMALL, "--methods", "plain", "--tuned", "--dry-run")
    assert "plain, tuned" in run.stdout
    assert len(list(Path("results/tiny/trials").glob("*.json"))) == 3


@pytest.mark.usefixtures("prepared")
def test_tuned_runs_need_trials(call: Call) -> None:
    done = call("run", *SMALL, "--tuned")
    assert done.returncode == 2
    assert "run: ctrbench tune --methods plain" in done.stderr
    assert not Path("results").exists()
