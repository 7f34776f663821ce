from __future__ import annotations

import shlex
from collections.abc import Callable

import pytest

from ctrbench.report.commands import run_commands, show_seeds
from ctrbench.report.comparison import compare
from ctrbench.runs.record import RunRecord


def options(command: str) -> dict[str, str]:
    words = shlex.split(command)
    return dict(zip(words[2::2], words[3::2], strict=True))


def commands(records: list[RunRecord]) -> list[dict[str, str]]:
    (comparison,) = compare(records)
    return [options(command) for command in run_commands(comparison)]


def test_the_command_writes_every_setting(record: Callable[..., RunRecord]) -> None:
    runs = [record("adasparse", seed, settings={"form": "fusion"}) for seed in (3, 4)]
    assert commands(runs) == [{
        "--dataset": "toy", "--domains": "default", "--indicator": "a", "--methods": "adasparse[form=fusion]",
        "--backbone": "dnn[hidden=8-4]", "--batch-size": "256", "--lr": "0.001", "--seeds": "3-4",
    }]  # fmt: skip


def test_a_table_has_one_command(record: Callable[..., RunRecord]) -> None:
    (command,) = commands([record("plain"), record("apg", 3), record("plain", 2, backbone="dcnv2")])
    assert command["--methods"] == "plain,apg"
    assert command["--backbone"] == "dnn[hidden=8-4],dcnv2[hidden=8-4]"
    assert command["--seeds"] == "1-3"


def test_each_indicator_has_a_command(record: Callable[..., RunRecord]) -> None:
    runs = [record("star"), record("apg"), record("star", indicator="all"), record("plain", indicator="all")]
    assert [(command["--indicator"], command["--methods"]) for command in commands(runs)] == [
        ("a", "plain,star,apg"),
        ("all", "star"),
    ]


def test_an_external_method_is_named_by_its_file(record: Callable[..., RunRecord]) -> None:
    (command,) = commands([record("mine", settings={"k": 1}, source="a" * 64)])
    assert command["--methods"] == "mine.py[k=1]"


@pytest.mark.parametrize(("seeds", "text"), [([2, 1], "1-2"), ([5], "5-5"), ([1, 2, 7], "1,2,7")])
def test_seeds_are_written_as_the_command_line_reads_them(seeds: list[int], text: str) -> None:
    from ctrbench.runs.grid import parse_seeds

    assert show_seeds(seeds) == text
    assert parse_seeds(text) == tuple(sorted(seeds))
