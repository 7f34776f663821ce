from __future__ import annotations

import pytest

from ctrbench.cli import formats


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (0.00004, "0.0000"), (0.05234, "0.0523"), (0.5, "0.500"), (12.34, "12.3"), (12345.6, "12,346"),
    ],
)  # fmt: skip
def test_three_significant_digits(value: float, text: str) -> None:
    assert formats.three_digits(value) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (1_000, "1.00k"), (57_600, "57.6k"), (3_210_000, "3.21M")]
)
def test_counts_are_shortened_with_a_unit(number: int, text: str) -> None:
    assert formats.short_count(number) == text


def test_an_undefined_metric_is_a_word() -> None:
    assert formats.metric(None, 4) == "undefined"
    assert formats.metric(0.5, 4) == "0.5000"


def test_a_percentage_of_nothing_is_a_dash() -> None:
    assert formats.percentage(1, 8) == "12.50%"
    assert formats.percentage(0, 0) == formats.DASH
