from __future__ import annotations

import pytest

from ctrbench.eval.contrasts import Contrast, Uncertainty
from ctrbench.eval.verdicts import RankRange, Verdict, rank_ranges, verdict


def contrast(low: float, high: float, num_seeds: int = 6) -> Contrast:
    uncertainty = Uncertainty(seeds=0.1, users=0.1, total=0.1, freedom=5.0, low=low, high=high, p=0.5)
    return Contrast(mean=(low + high) / 2, num_seeds=num_seeds, uncertainty=uncertainty)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0001, 0.003, Verdict.BETTER),
        (-0.003, -0.0001, Verdict.WORSE),
        (-0.0009, 0.0009, Verdict.EQUIVALENT),
        (0.0001, 0.0009, Verdict.EQUIVALENT),
        (-0.0009, 0.0011, Verdict.UNDECIDED),
        (0.0, 0.003, Verdict.UNDECIDED),
    ],
)
def test_verdicts_follow_from_the_interval(low: float, high: float, expected: Verdict) -> None:
    assert verdict(contrast(low, high), higher_is_better=True, margin=0.001) is expected


def test_lower_values_may_be_better() -> None:
    assert verdict(contrast(0.1, 0.2), higher_is_better=False) is Verdict.WORSE
    assert verdict(contrast(-0.2, -0.1), higher_is_better=False) is Verdict.BETTER


def test_without_a_margin_nothing_is_equivalent() -> None:
    assert verdict(contrast(-1e-9, 1e-9), higher_is_better=True) is Verdict.UNDECIDED


def test_few_seeds_and_untested_pairs() -> None:
    untested = Contrast(mean=0.1, num_seeds=6, uncertainty=None)
    assert verdict(untested, higher_is_better=True) is Verdict.UNDECIDED
    few = Contrast(mean=0.1, num_seeds=5, uncertainty=None)
    assert verdict(few, higher_is_better=True) is Verdict.TOO_FEW_SEEDS


def ranges(pairs: dict[tuple[str, str], Contrast], **more: object) -> dict[str, tuple[int, int]]:
    means = {"low": 0.6, "top": 0.8, "mid": 0.7}
    result = rank_ranges(means, pairs, higher_is_better=True, **more)
    assert list(result) == ["top", "mid", "low"]
    return {name: (value.first, value.last) for name, value in result.items()}


UNKNOWN = contrast(-1, 1)
ABOVE, BELOW = contrast(0.1, 0.3), contrast(-0.3, -0.1)


def test_rank_ranges_follow_from_all_pairs() -> None:
    pairs = {("top", "mid"): UNKNOWN, ("low", "mid"): BELOW, ("top", "low"): ABOVE}
    assert ranges(pairs) == {"top": (1, 2), "mid": (1, 2), "low": (3, 3)}


def test_without_any_decided_pair_every_rank_is_possible() -> None:
    assert set(ranges({}).values()) == {(1, 3)}


def test_rank_ranges_are_monotone_in_the_mean() -> None:
    # The top row has a large error and beats neither; the middle one beats the last.
    pairs = {("top", "mid"): UNKNOWN, ("mid", "low"): ABOVE, ("top", "low"): UNKNOWN}
    assert ranges(pairs) == {"top": (1, 3), "mid": (1, 3), "low": (2, 3)}


def test_rows_with_failed_runs_rank_after_all_others() -> None:
    assert ranges({("mid", "low"): ABOVE}, failed={"top"}) == {
        "top": (3, 3),
        "mid": (1, 1),
        "low": (2, 2),
    }


def test_where_lower_is_better_the_lowest_mean_comes_first() -> None:
    pairs = {("a", "b"): BELOW}
    result = rank_ranges({"a": 0.1, "b": 0.3}, pairs, higher_is_better=False)
    assert result == {"a": RankRange(first=1, last=1), "b": RankRange(first=2, last=2)}
