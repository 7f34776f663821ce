"""A few kills of `make kill`: the same command again ends as if nothing had happened."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import kills
import pytest
from forks import Forks


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    """The process whose forks execute all commands, since its start takes seconds."""
    forks = Forks()
    yield forks
    forks.close()


@pytest.mark.kill
@pytest.mark.parametrize(("scenario", "num_kills"), [("run", 3), ("prepare --force", 2)])
def test_a_killed_command_ends_bit_identical(
    tmp_path: Path, forks: Forks, scenario: str, num_kills: int
) -> None:
    tally = kills.run_kills(num_kills, only=scenario, forked=1.0, folder=tmp_path, forks=forks)
    assert tally.failures == []
    assert tally.num_identical == num_kills


def test_kills_are_the_same_for_the_same_seed() -> None:
    first, second = (
        [kills.draw_kill(random.Random(seed), scenario) for scenario in kills.SCENARIOS] for seed in (1, 1)
    )
    assert first == second


def test_a_lost_record_is_noticed() -> None:
    before = {"record a.json": "1", "dataset clicks": "2", "report/overall.csv": "3"}
    assert kills.lost(before, {"dataset clicks": "2"}) == ["record a.json"]
    assert kills.lost(before, {**before, "dataset clicks": "4"}) == ["dataset clicks"]
