from __future__ import annotations

import pytest

from ctrbench.errors import SettingError
from ctrbench.plugins.ranges import Choices, LogRange
from ctrbench.tuning.proposals import MAX_DRAWS, NUM_RANDOM, ROUND, Proposals, Settings

SPACE = {"lr": LogRange(1e-4, 1e-1), "dropout": Choices(0.0, 0.5), "norm": Choices(None, "batch")}


def is_valid(settings: Settings) -> bool:
    return True


def rounds(seed: int, scores: float, total: int = 20) -> list[list[Settings]]:
    proposals, proposed = Proposals(SPACE, seed=seed), []
    left = total
    while part := proposals.next_round(left, is_valid):
        proposed.append(part)
        proposals.add_scores([scores * index for index in range(len(part))])
        left -= len(part)
    return proposed


def test_the_first_round_is_random_and_later_ones_are_smaller() -> None:
    assert [len(part) for part in rounds(0, 1.0, total=23)] == [NUM_RANDOM, ROUND, ROUND, 3]


def test_equal_seeds_and_scores_give_equal_proposals() -> None:
    assert rounds(3, 1.0) == rounds(3, 1.0)
    assert rounds(3, 1.0)[0] != rounds(4, 1.0)[0]


def test_later_rounds_follow_the_scores() -> None:
    assert rounds(3, 1.0)[0] == rounds(3, -1.0)[0]
    assert rounds(3, 1.0)[1:] != rounds(3, -1.0)[1:]


def test_numbers_have_two_significant_digits_and_lie_in_their_range() -> None:
    proposed = [settings for part in rounds(1, 1.0) for settings in part]
    for settings in proposed:
        lr = settings["lr"]
        assert isinstance(lr, float)
        assert lr == float(f"{lr:.2g}")
        assert 1e-4 <= lr <= 1e-1
        assert settings["dropout"] in (0.0, 0.5)
        assert settings["norm"] in (None, "batch")


def test_better_settings_are_proposed_more_often() -> None:
    proposals, proposed = Proposals({"a": Choices(0, 1, 2, 3)}, seed=0), []
    for _ in range(6):
        part = proposals.next_round(100, is_valid)
        proposals.add_scores([1.0 if settings["a"] == 2 else 0.0 for settings in part])
        proposed += part
    assert sum(settings["a"] == 2 for settings in proposed[NUM_RANDOM:]) > len(proposed[NUM_RANDOM:]) / 2


def test_invalid_settings_are_not_proposed() -> None:
    proposals = Proposals(SPACE, seed=0)
    part = proposals.next_round(10, lambda settings: settings["norm"] is None)
    assert [settings["norm"] for settings in part] == [None] * 10


def test_a_space_without_valid_settings_is_an_error() -> None:
    with pytest.raises(SettingError, match=f"{MAX_DRAWS} proposals in a row"):
        Proposals(SPACE, seed=0).next_round(1, lambda settings: False)


def test_failed_trials_have_no_score() -> None:
    proposals = Proposals(SPACE, seed=0)
    part = proposals.next_round(10, is_valid)
    proposals.add_scores([None] * len(part))
    assert len(proposals.next_round(5, is_valid)) == 5
