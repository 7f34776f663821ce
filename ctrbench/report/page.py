"""The report as one HTML page without scripts, fonts or external requests.

Tables and charts are those of the other files. The page adds sentences about the best means and the verdicts, generated
from the numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from ctrbench.eval.metrics.base import Metric
from ctrbench.eval.metrics.gauc import Gauc
from ctrbench.eval.protocol import MIN_SEEDS
from ctrbench.plain_text import printable
from ctrbench.report.commands import run_commands
from ctrbench.report.comparison import Comparison
from ctrbench.report.estimate import Estimate
from ctrbench.report.summary import RowSummary, Summary
from ctrbench.report.table import Table, difference_text, number, signed


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A chart as SVG text, with its title."""

    title: str
    svg: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """Part of the page about one comparison; the first table is Table 1."""

    summary: Summary
    tables: tuple[Table, ...]
    pictures: tuple[Picture, ...]

    @property
    def title(self) -> str:
        """The heading."""
        return self.summary.comparison.title

    @property
    def difference(self) -> str:
        """Conditions that differ between this comparison and others on the page."""
        return self.summary.comparison.difference

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """Names and values that describe data and runs."""
        return tuple(_header_facts(self.summary.comparison))

    @property
    def findings(self) -> tuple[str, ...]:
        """Sentences about the best mean and the verdicts, per backbone and metric."""
        return tuple(
            finding
            for backbone in self.summary.comparison.backbones
            for metric in self.summary.metrics.metrics
            if metric.in_charts
            for finding in _finding_sentences(self.summary, backbone, metric)
        )

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands that repeat the runs."""
        return run_commands(self.summary.comparison)


def render_page(dataset: str, sections: Sequence[Section]) -> str:
    """Return the page as HTML."""
    loader = PackageLoader("ctrbench.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, finalize=_without_controls
    )
    template = environment.get_template("page.html.jinja")
    notices = tuple(
        dict.fromkeys(notice for section in sections if (notice := section.summary.comparison.notice))
    )
    return template.render(dataset=dataset, sections=sections, notices=notices) + "\n"


def _without_controls(value: object) -> object:
    """Return a value to insert; HTML allows no control characters but line breaks and tabs."""
    if not isinstance(value, str):
        return value
    shown = printable(value)
    return value if shown == value else shown


def _header_facts(comparison: Comparison) -> Iterable[tuple[str, str]]:
    key = comparison.key
    yield "domain features", " × ".join(key.domain_features)
    yield "indicator", ", ".join((comparison.indicator, *comparison.other_indicators))
    result = next((record.result for record in comparison.records if record.result), None)
    if result is not None:
        yield "domains", f"{sum(rows > 0 for rows in result.domains.rows_train):,}"
        yield "test rows", f"{sum(result.domains.rows):,}"
        yield "positive", f"{100 * sum(result.domains.positives) / max(sum(result.domains.rows), 1):.2f} %"
    yield "runs", f"{len(comparison.records):,}"
    num_controls = sum(len(row.finished) for row in comparison.controls)
    if num_controls:
        yield "runs of controls", f"{num_controls:,}"
    yield "data", key.data_digest[:12]
    versions = sorted({record.code.version for record in comparison.records})
    yield "ctrbench", ", ".join(versions) or "–"


def _finding_sentences(summary: Summary, backbone: str, metric: Metric) -> Iterable[str]:
    rows = [row for row in summary.of_backbone(backbone) if row.score(metric.name).is_best is not None]
    best = next((row for row in rows if row.score(metric.name).is_best), None)
    if best is None or len(rows) < 2:
        return
    mean = _mean_and_std(best.estimate(metric.name), metric.digits)
    num_seeds = len(best.row.finished)
    seeds = "1 seed" if num_seeds == 1 else f"{num_seeds} seeds"
    over_plain = _domain_gain_sentence(best) if metric.name == Gauc.name else ""
    yield (
        f"On {backbone}, {best.row.method} has the best mean {metric.title}, {mean}, over {seeds}."
        f"{_verdicts_sentence(rows, metric)}{over_plain}"
    )


def _verdicts_sentence(rows: Sequence[RowSummary], metric: Metric) -> str:
    """Return the methods by their verdict against plain; empty if no row has enough seeds."""
    methods: dict[str, list[str]] = {}
    for row in rows:
        gain = row.score(metric.name).gain
        if gain and gain.difference and gain.difference.contrast.num_seeds >= MIN_SEEDS:
            interval = difference_text(gain, metric.digits)
            methods.setdefault(gain.difference.verdict, []).append(f"{row.row.method} {interval}")
    if not methods:
        return ""
    texts = [f"{name}: {', '.join(group)}" for name, group in methods.items()]
    return f" Against plain: {'; '.join(texts)}."


def _domain_gain_sentence(best: RowSummary) -> str:
    """Return the gain of a row in GAUC over plain with its interval over resampled domains; empty with few seeds."""
    gain = best.score(Gauc.name).gain
    interval = gain.over_domains if gain and len(best.row.finished) >= MIN_SEEDS else None
    if interval is None or interval.mean is None or interval.low is None or interval.high is None:
        return ""
    mean, low, high = (signed(value, 4) for value in (interval.mean, interval.low, interval.high))
    return f" Its gain over plain is {mean}; over resampled domains, {low} to {high} (95 %)."


def _mean_and_std(value: Estimate | None, digits: int) -> str:
    if value is None:
        return "–"
    std = "" if value.std is None else f" ± {number(value.std, digits)}"
    return f"{number(value.mean, digits)}{std}"
