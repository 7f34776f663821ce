from __future__ import annotations

import shlex
from collections.abc import Callable

import pytest

from ctrbench.report.commands import run_command, show_seeds
from ctrbench.report.comparison import compare
from ctrbench.runs.record import RunRecord


def test_the_command_writes_every_setting_out(record: Callable[..., RunRecord]) -> None:
    (comparison,) = compare([record("adasparse", seed, settings={"form": "fusion"}) for seed in (3, 4)])
    words = shlex.split(run_command(comparison.rows[0]))
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert options == {
        "--dataset": "toy", "--domains": "default", "--indicator": "a", "--methods": "adasparse[form=fusion]",
        "--backbone": "dnn[hidden=8-4]", "--batch-size": "256", "--lr": "0.001", "--seeds": "3-4",
    }  # fmt: skip


def test_a_file_from_outside_is_named_as_one(record: Callable[..., RunRecord]) -> None:
    (comparison,) = compare([record("mine", settings={"k": 1}, source="a" * 64)])
    assert "--methods 'mine.py[k=1]'" in run_command(comparison.rows[0])


@pytest.mark.parametrize(("seeds", "text"), [([2, 1], "1-2"), ([5], "5-5"), ([1, 2, 7], "1,2,7")])
def test_seeds_are_written_as_the_command_line_reads_them(seeds: list[int], text: str) -> None:
    from ctrbench.runs.grid import parse_seeds

    assert show_seeds(seeds) == text
    assert parse_seeds(text) == tuple(sorted(seeds))
