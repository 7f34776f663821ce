from __future__ import annotations

from collections.abc import Callable

import pytest

from ctrbench.report.comparison import compare
from ctrbench.report.published_figures import published_figures, published_figures_table
from ctrbench.report.summary import summarize
from ctrbench.report.table import Table
from ctrbench.runs.record import RunRecord

DOMAIN_FEATURES = published_figures()[0].domain_features


def table(
    record: Callable[..., RunRecord], dataset: str, features: tuple[str, ...] = DOMAIN_FEATURES
) -> Table | None:
    (comparison,) = compare([
        record("adasparse", auc=0.66, dataset=dataset, features=features),
        record("mine", auc=0.67, dataset=dataset, features=features),
    ])  # fmt: skip
    return published_figures_table(summarize(comparison))


def test_published_figures_are_shown_next_to_ours(record: Callable[..., RunRecord]) -> None:
    lines = table(record, "iaac").lines
    assert [line.label for line in lines] == ["dnn", "adasparse"]
    assert [cell.text for cell in lines[1].cells] == [
        "0.09314", "0.50000", "0.6607", "0.6600", "0.6572", "0.5600",
    ]  # fmt: skip


@pytest.mark.parametrize("settings", [{"form": "scaling"}, {"form": "fusion", "norm": "bn"}])
def test_no_published_figures_for_another_form_of_the_method(
    record: Callable[..., RunRecord], settings: dict[str, str]
) -> None:
    (comparison,) = compare(
        [record("adasparse", auc=0.66, dataset="iaac", features=DOMAIN_FEATURES, settings=settings)]
    )
    assert published_figures_table(summarize(comparison)) is None


@pytest.mark.parametrize("dataset", ["iaac-twin", "iaac-round1", "movielens-1m"])
def test_no_published_figures_for_other_data(record: Callable[..., RunRecord], dataset: str) -> None:
    assert table(record, dataset) is None


def test_no_published_figures_for_other_domains(record: Callable[..., RunRecord]) -> None:
    assert table(record, "iaac", features=("user_gender_id",)) is None
