from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from ctrbench.report.comparison import compare
from ctrbench.report.page import Picture, Section, render_page
from ctrbench.report.summary import summarize
from ctrbench.report.tables import overall_table
from ctrbench.runs.record import RunRecord


def page(records: list[RunRecord], title: str = "toy") -> tuple[list[Section], str]:
    sections = [
        Section(
            summary=summary,
            tables=(overall_table(summary),),
            pictures=(Picture(title="AUC", svg="<svg><text>hi</text></svg>"),),
        )
        for summary in map(summarize, compare(records))
    ]
    return sections, render_page(title, sections)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_the_page_makes_no_requests(toy: list[RunRecord]) -> None:
    _, text = page(toy)
    tags = Tags()
    tags.feed(text)
    links = [value for _, attrs in tags.seen for name, value in attrs.items() if name in ("href", "src")]
    assert links == ["data:,"]
    assert not {"script", "iframe", "img", "object"} & {tag for tag, _ in tags.seen}
    assert not re.search(r"url\(|@import|https?:", text)


def test_names_are_escaped_and_charts_are_not(record: Callable[..., RunRecord]) -> None:
    _, text = page([record("<b>&", auc=0.7)], title="<script>")
    assert "&lt;b&gt;&amp;" in text
    assert "<script>" not in text
    assert "<svg><text>hi</text></svg>" in text


def test_findings_name_the_best_mean_and_the_verdicts(six: list[RunRecord]) -> None:
    ((section,), text) = page(six)
    assert section.findings[0] == (
        "On dnn, adasparse has the best mean AUC, 0.7300 ± 0.0767, over 6 seeds. "
        "Against plain: undecided: adasparse +0.0200."
    )
    assert section.findings[0] in text


def test_findings_of_one_seed_name_the_mean_only(record: Callable[..., RunRecord]) -> None:
    ((section,), _) = page([record("plain", auc=0.7), record("apg", auc=0.8)])
    assert section.findings[0] == "On dnn, apg has the best mean AUC, 0.8000, over 1 seed."


def test_findings_of_five_seeds_name_no_test(six: list[RunRecord]) -> None:
    ((section,), text) = page([run for run in six if run.key.seed < 6])
    assert section.findings == (
        "On dnn, adasparse has the best mean AUC, 0.7440 ± 0.0767, over 5 seeds.",
        "On dnn, adasparse has the best mean GAUC, 0.6440 ± 0.0767, over 5 seeds.",
    )
    assert "†" not in text


def test_a_page_of_synthetic_data_has_a_notice_under_its_title(record: Callable[..., RunRecord]) -> None:
    _, text = page([record(oracle={"auc": 0.8})])
    assert '<h1>toy</h1>\n<p class="notice">Synthetic data:' in text
    assert 'notice">' not in page([record()])[1]


def test_findings_name_a_difference_with_its_interval(clear_lead: list[RunRecord]) -> None:
    ((section,), _) = page(clear_lead)
    assert re.search(
        r" Against plain: better: apg \+0\.0500 \(\+0\.04\d\d to \+0\.05\d\d\)\.$", section.findings[0]
    )


def test_a_single_method_has_no_finding(record: Callable[..., RunRecord]) -> None:
    ((section,), _) = page([record("plain")])
    assert section.findings == ()


@pytest.mark.parametrize("status", ["failed", "unsupported"])
def test_a_row_without_a_result_shows_the_reason(
    toy: list[RunRecord], record: Callable[..., RunRecord], status: str
) -> None:
    ((section,), text) = page([*toy, record("star", status=status, error="no tower")])
    num_columns = len(section.tables[0].columns)
    assert f'<td class="remark" colspan="{num_columns}">no tower.</td>' in text
