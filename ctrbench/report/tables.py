"""Tables of a report: all methods (Table 1), AUC within users, and metrics by size of domain.

`overall_table` has the shape of Table 1 of the AdaSparse paper, method rows under backbone rows, and adds deviations,
tests, calibration, size and time. `bins_table` shows its Fig. 3b as numbers. Formats are in `formats`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.metrics.base import Metric
from ctrbench.eval.metrics.gauc import Gauc
from ctrbench.eval.metrics.gauc_coverage import GaucCoverage
from ctrbench.eval.metrics.registry import MetricSet
from ctrbench.eval.metrics.user_gauc import UserGauc
from ctrbench.eval.metrics.user_gauc_coverage import UserGaucCoverage
from ctrbench.eval.oracle import CEILING_METRIC
from ctrbench.eval.stored import BinMetrics
from ctrbench.report.bin_scores import BinScore
from ctrbench.report.comparison import Comparison
from ctrbench.report.controls_table import controls_by_kind
from ctrbench.report.difference_table import differences_by_metric
from ctrbench.report.estimate import Estimate
from ctrbench.report.footnotes import (
    USERS_NOTE,
    best_note,
    collapse_notes,
    indicator_note,
    mark_notes,
    std_note,
)
from ctrbench.report.summary import RowSummary, Summary
from ctrbench.report.table import (
    DASH,
    Cell,
    Line,
    Mark,
    Table,
    cell,
    count,
    mark_of,
    number,
    percent,
    rank_text,
    seconds,
    signed_cell,
    verdict_text,
)

REFERENCES = {"learnable ceiling": CEILING_METRIC, "oracle": "{metric}"}
"""Rows that no model beats except by chance: label → names of their metrics among those of the oracle."""
OVERALL_TITLE = "Test results"
COST_TITLE = "Parameters, time and GAUC's share of rows"
COST = ("embedding", "dense", "per domain", "train s", "GAUC rows", "seeds")
_ARROWS = {True: " ↑", False: " ↓", None: ""}
VERDICTS = ("verdict", "rank")
NO_COSTS, NO_VERDICTS = (tuple(Cell(text="") for _ in columns) for columns in (COST, VERDICTS))


def overall_table(summary: Summary) -> Table:
    """Return Table 1: every method under its backbone, and the oracle where it is known."""
    comparison = summary.comparison
    lines = [line for backbone in comparison.backbones for line in _backbone_lines(summary, backbone)]
    return Table(
        name="overall",
        title=f"{OVERALL_TITLE} · {comparison.title}",
        columns=(*map(_metric_heading, _table_metrics(summary.metrics)), *VERDICTS, *COST),
        lines=(*lines, *_oracle_lines(summary)),
        notes=tuple(mark_notes(summary)),
        definitions=tuple(_metric_definitions(comparison)),
        cost_definitions=(
            "Parameters: embedding tables; dense parameters shared by all domains; per-domain parameters.",
            *indicator_note(comparison),
        ),
    )


def narrow_tables(table: Table) -> tuple[Table, ...]:
    """Return the tables for formats with few columns: those with many columns in parts, any other table as it is."""
    splits: dict[str, Callable[[Table], tuple[Table, ...]]] = {
        "overall": quality_and_cost,
        "differences": differences_by_metric,
        "controls": controls_by_kind,
    }
    return splits[table.name](table) if table.name in splits else (table,)


def quality_and_cost(table: Table) -> tuple[Table, Table]:
    """Split Table 1 by columns; verdicts and ranks are in the table of differences."""
    quality, cost = [name for name in table.columns if name not in (*VERDICTS, *COST)], table.select(COST)
    return (
        replace(table.select(quality), cost_definitions=()),
        replace(
            cost,
            name="cost",
            title=table.title.replace(OVERALL_TITLE, COST_TITLE),
            # Variants and the oracle have no costs of their own.
            lines=tuple(line for line in cost.lines if line.kind in ("backbone", "method")),
            notes=(),
            definitions=(),
        ),
    )


def users_table(summary: Summary) -> Table:
    """Return AUC within users of every method under its backbone, and the share of rows that it covers."""
    comparison = summary.comparison
    return Table(
        name="users",
        title=f"AUC within users · {comparison.title}",
        columns=("GAUC over users ↑", "share of rows", "seeds"),
        lines=tuple(method_lines(summary, _user_cells)),
        notes=(best_note(comparison), std_note(comparison), *collapse_notes(summary)),
        definitions=(f"{USERS_NOTE} Share of rows: test rows of these users.",),
    )


def bins_table(summary: Summary, metric: str) -> Table:
    """Return a metric by bin of domains, each method with its gain over plain."""
    bins = summary.bins.bins
    lines = [
        line for backbone in summary.comparison.backbones for line in _bin_lines(summary, backbone, metric)
    ]
    return Table(
        name=f"bins-{metric}",
        title=f"{summary.metrics.by_name[metric].title} by size of domain · {summary.comparison.title}",
        columns=tuple(f"BIN{bin_.bin}" for bin_ in bins),
        lines=(*_bin_facts(bins), *lines),
        notes=tuple(_bin_notes(summary, metric)),
        definitions=tuple(_bin_definitions(metric)),
    )


def method_lines(summary: Summary, cells: Callable[[RowSummary], Sequence[Cell]]) -> Iterable[Line]:
    """Yield one line per method under a line per backbone."""
    for backbone in summary.comparison.backbones:
        yield Line(kind="backbone", label=backbone)
        yield from (method_line(row, cells(row)) for row in summary.of_backbone(backbone))


def method_line(row: RowSummary, cells: Sequence[Cell]) -> Line:
    """Return the line of a method; without a result, with the reason instead of cells."""
    reason = row.row.reason
    return Line(kind="method", label=row.row.method, cells=() if reason else tuple(cells), remark=reason)


# Table 1.


def _backbone_lines(summary: Summary, backbone: str) -> Iterable[Line]:
    yield Line(kind="backbone", label=backbone)
    for row in summary.of_backbone(backbone):
        estimates = {metric: score.estimate for metric, score in row.scores.items()}
        marks = {metric: mark_of(score) for metric, score in row.scores.items()}
        cells = (*_quality_cells(summary.metrics, estimates, marks), *_verdict_cells(row), *_cost_cells(row))
        yield method_line(row, cells)
        for variant, of_variant in row.variants.items():
            cells = (*_quality_cells(summary.metrics, of_variant, {}), *NO_VERDICTS, *NO_COSTS)
            yield Line(kind="variant", label=variant, cells=cells)


def _table_metrics(metrics: MetricSet) -> list[Metric]:
    """Return the metrics of Table 1: those shown with deviation and marks, then those shown by their mean alone."""
    return [metric for kind in ("ranked", "mean") for metric in metrics.metrics if metric.in_table == kind]


def _metric_heading(metric: Metric) -> str:
    return f"{metric.title}{_ARROWS[metric.higher_is_better]}"


def _quality_cells(
    metrics: MetricSet, estimates: Mapping[str, Estimate | None], marks: Mapping[str, Mark]
) -> tuple[Cell, ...]:
    return tuple(
        _quality_cell(metric, estimates.get(metric.name), marks.get(metric.name, Mark.NONE))
        for metric in _table_metrics(metrics)
    )


def _quality_cell(metric: Metric, value: Estimate | None, mark: Mark) -> Cell:
    if metric.in_table == "ranked":
        return cell(value, metric.digits, mark=mark)
    return Cell(text=number(value.mean if value else None, metric.digits))


def _verdict_cells(row: RowSummary) -> tuple[Cell, ...]:
    return Cell(text=verdict_text(row.score(Auc.name).gain)), Cell(text=rank_text(row.rank))


def _cost_cells(row: RowSummary) -> tuple[Cell, ...]:
    parameters = row.row.parameters
    counts = (
        (parameters.embedding, parameters.dense, parameters.per_domain) if parameters else (None, None, None)
    )
    return (
        *(Cell(text=DASH if value is None else count(value)) for value in counts),
        Cell(text=seconds(row.costs["train_seconds"])),
        Cell(text=percent(row.estimate(GaucCoverage.name))),
        _seeds_cell(row),
    )


def _seeds_cell(row: RowSummary) -> Cell:
    return Cell(text=row.row.failed_share or str(len(row.row.finished)))


def _oracle_lines(summary: Summary) -> Iterable[Line]:
    oracle, columns = summary.comparison.oracle, _table_metrics(summary.metrics)
    for label, form in REFERENCES.items():
        values = [oracle.get(form.format(metric=metric.name)) for metric in columns]
        if any(value is not None for value in values):
            cells = [
                Cell(text=number(value, metric.digits)) for metric, value in zip(columns, values, strict=True)
            ]
            yield Line(kind="oracle", label=label, cells=(*cells, *NO_VERDICTS, *NO_COSTS))


def _metric_definitions(comparison: Comparison) -> Iterable[str]:
    if any(row.variants for row in comparison.rows):
        yield "Indented: a further score of the same runs, which is not compared with other rows."
    if comparison.oracle:
        yield "Oracle: the true click probability, scored on the same test rows; a model beats it only by chance."
    if comparison.oracle.get(CEILING_METRIC.format(metric=Auc.name)) is not None:
        yield (
            "Learnable ceiling: the click probability given everything that could be learned about a row, behaviors "
            "of its user included; models see behaviors only where sequences are among the fields."
        )
    yield (
        "GAUC: AUC within each domain, weighted by rows, over domains with both classes; GAUC rows: the share of test "
        "rows in them. PCOC: predicted over observed positives; |PCOC−1|: its weighted mean over domains."
    )


# AUC within users.


def _user_cells(row: RowSummary) -> tuple[Cell, ...]:
    score = row.score(UserGauc.name)
    return (
        cell(score.estimate, 4, mark=mark_of(score)),
        Cell(text=percent(row.estimate(UserGaucCoverage.name))),
        _seeds_cell(row),
    )


# Metrics by size of domain.


def _bin_facts(bins: Sequence[BinMetrics]) -> Iterable[Line]:
    total = sum(bin_.rows_train for bin_ in bins) or 1
    facts = {
        "domains": [f"{bin_.domains:,}" for bin_ in bins],
        "training rows": [count(bin_.rows_train) for bin_ in bins],
        "share of training rows": [f"{100 * bin_.rows_train / total:.1f} %" for bin_ in bins],
        "test rows": [count(bin_.rows) for bin_ in bins],
    }
    for label, texts in facts.items():
        yield Line(kind="fact", label=label, cells=tuple(Cell(text=text) for text in texts))


def _bin_lines(summary: Summary, backbone: str, metric: str) -> Iterable[Line]:
    rows = [row for row in summary.of_backbone(backbone) if row.row.finished]
    digits = summary.metrics.by_name[metric].digits
    if rows:
        yield Line(kind="backbone", label=backbone)
    for row in rows:
        scores = row.bins[metric]
        cells = [_bin_cell(score, digits) for score in scores]
        yield Line(kind="method", label=row.row.method, cells=tuple(cells))
        if not row.row.is_plain and summary.plain(backbone) is not None:
            gains = [signed_cell(score.gain, digits) for score in scores]
            yield Line(kind="gain", label="gain", cells=tuple(gains))


def _bin_cell(score: BinScore, digits: int) -> Cell:
    return cell(score.estimate, digits, mark=Mark.BEST if score.is_marked else Mark.NONE)


def _bin_notes(summary: Summary, metric: str) -> Iterable[str]:
    yield "Bold: the best mean of its backbone and bin. Gain: over plain with the same seed."
    yield f"{std_note(summary.comparison)} Gains in bins are not tested."
    yield from collapse_notes(summary)
    definition = summary.metrics.by_name[metric]
    if definition in summary.metrics.of_rows and summary.bins.is_missing(metric):
        yield (
            f"{DASH}: {definition.title} in {summary.bins.num_bins} bins needs predictions, which are not available "
            "for all of these records."
        )
    if summary.bins.is_without_empty_domains:
        yield "Domains without test rows are missing from these records, and therefore from these bins."


def _bin_definitions(metric: str) -> Iterable[str]:
    yield (
        "Bins: domains by training rows, largest first, in equal shares of rows; metrics are of the bin's test rows."
    )
    if metric == Gauc.name:
        yield "GAUC: over the bin's domains with both classes, weighted by rows."
