from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import altair as alt
import numpy as np
import pytest

from ctrbench.eval.cluster_influence import pack
from ctrbench.eval.stored import ClusterInfluence
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
def with_users() -> Callable[[list[RunRecord]], list[RunRecord]]:
    """Return the function that adds the influence of 100 users to records: a standard error of 0.0014 per row."""

    def with_influence(records: list[RunRecord]) -> list[RunRecord]:
        draw = np.random.default_rng(0)
        shared = draw.normal(size=100)
        return [with_result(run, 0.0001 * (shared + draw.normal(size=100))) for run in records]

    def with_result(run: RunRecord, values: np.ndarray) -> RunRecord:
        metrics = {name: pack(values - values.mean()) for name in ("auc", "gauc", "logloss")}
        influence = ClusterInfluence(clusters="users", num_keys=100, digest="0", metrics=metrics)
        return run.model_copy(update={"result": run.result.model_copy(update={"influence": influence})})

    return with_influence


@pytest.fixture
def six_with_users(
    six: list[RunRecord], with_users: Callable[[list[RunRecord]], list[RunRecord]]
) -> list[RunRecord]:
    """The records of `six` with the influence of test users."""
    return with_users(six)


@pytest.fixture
def clear_lead(
    record: MakeRecord, with_users: Callable[[list[RunRecord]], list[RunRecord]]
) -> list[RunRecord]:
    """Plain 0.70 and apg 0.75 on average, six seeds that agree."""
    auc = {"plain": (0.70, 0.71, 0.69) * 2, "apg": (0.75, 0.7601, 0.74) * 2}
    return with_users([record(n, seed, a) for n, values in auc.items() for seed, a in enumerate(values)])


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
