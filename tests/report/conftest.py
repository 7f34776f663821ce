from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import altair as alt
import pytest

from ctrbench.report.comparison import compare
from ctrbench.report.summary import Summary, summarize
from ctrbench.runs.record import RunRecord

MakeRecord = Callable[..., RunRecord]


@pytest.fixture
def toy(record: MakeRecord) -> list[RunRecord]:
    """Plain 0.70 and 0.72, adasparse 0.73 and 0.77, on one backbone."""
    return [
        record("plain", 1, 0.70),
        record("plain", 2, 0.72),
        record("adasparse", 1, 0.73),
        record("adasparse", 2, 0.77),
    ]


@pytest.fixture
def six(record: MakeRecord) -> list[RunRecord]:
    """Plain 0.71 and adasparse 0.73 on average, six seeds: t = 0.56 on five degrees of freedom, p = 0.60."""
    plain, gains = (0.70, 0.72) * 3, (0.10, -0.06) * 3
    return [
        *(record("plain", seed, auc) for seed, auc in enumerate(plain, start=1)),
        *(
            record("adasparse", seed, auc + more)
            for seed, (auc, more) in enumerate(zip(plain, gains, strict=True), 1)
        ),
    ]


@pytest.fixture
def summary_of() -> Callable[[list[RunRecord]], Summary]:
    """Return the function that summarizes records of a single comparison."""

    def summary(records: list[RunRecord]) -> Summary:
        (comparison,) = compare(records)
        return summarize(comparison)

    return summary


@pytest.fixture
def chart_rows() -> Callable[[alt.VConcatChart, str], list[dict[str, Any]]]:
    """Return the function that lists the data rows of a chart that have a column."""
    return lambda chart, key: [
        row for data in chart.to_dict()["datasets"].values() for row in data if key in row
    ]


@pytest.fixture
def svg_texts() -> Callable[[str], list[str | None]]:
    """Return the function that lists the texts of an SVG file."""
    return lambda svg: [
        node.text for node in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]
