"""What stands in the tables of a report: lines, marks and footnotes, free of any file format.

`overall_table` is Table 1 of the AdaSparse paper in its own shape, method rows under backbone rows, with what the
paper leaves out: deviations, tests, calibration, size, time. `bins_table` is its Fig. 3b as numbers. Formats are in
`formats`; numbers are rounded here and nowhere else, and the CSV files hold them unrounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from ctrbench.eval.metrics.registry import builtin_metrics
from ctrbench.eval.oracle import CEILING_METRIC
from ctrbench.eval.protocol import MIN_SEEDS
from ctrbench.eval.significance import Standing
from ctrbench.eval.stored import BinMetrics
from ctrbench.names import Metric
from ctrbench.report.bins import BinMetric, BinTable
from ctrbench.report.comparison import Comparison, Estimate, Row, estimate, stand
from ctrbench.runs.record import RunRecord

DASH = "–"
"""Stands for what is undefined or unknown, never a number."""
RANKED = tuple(metric.name for metric in builtin_metrics().metrics if metric.in_table == "ranked")
"""Metrics shown with deviation and with the best row marked."""
MEANS = tuple(metric.name for metric in builtin_metrics().metrics if metric.in_table == "mean")
"""Metrics shown by their mean alone."""
TITLES = {metric.name: metric.title for metric in builtin_metrics().metrics}
DIGITS = {metric.name: metric.digits for metric in builtin_metrics().metrics}
PARAMETERS_NOTE = "Parameters: embedding tables; dense, shared by all domains; owned by single domains."
BEST_NOTE = "Bold: the best mean of its backbone."
FEW_SEEDS_NOTE = f"Too few seeds for a test (fewer than {MIN_SEEDS})."
USERS_NOTE = (
    "GAUC over users: AUC inside each user, weighted by rows, over users seen in training who have both classes among "
    f"the test rows; {DASH}: there is no such user, or the data name none."
)
REFERENCES = {"learnable ceiling": CEILING_METRIC, "oracle": "{metric}"}
"""What no model beats but by luck, by label: how its metrics are named among the oracle's."""
CEILING_NOTE = (
    "Learnable ceiling: the click probability given all that could be learned of a row, behaviours of its user "
    "included; models see those only where sequences are among the fields."
)
INDICATOR_NOTE = "What single domains own goes by"
"""Begins the note that names the indicator."""
LineKind = Literal["backbone", "method", "variant", "gain", "oracle", "fact"]


class Mark(StrEnum):
    """What a cell says beside its number."""

    NONE = ""
    BEST = "best"
    NOT_SIGNIFICANT = "†"
    CLEAR = "*"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number as it is shown: its text, its deviation and its mark."""

    text: str = DASH
    spread: str = ""
    mark: Mark = Mark.NONE


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a table; a backbone line has no cells, a line without a result has a remark instead."""

    kind: LineKind
    label: str
    cells: tuple[Cell, ...] = ()
    remark: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table in any format: the first column holds the labels."""

    name: str
    """Stem of file names and of LaTeX labels."""
    title: str
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    """What the marks mean."""
    definitions: tuple[str, ...] = ()
    """What the columns mean, for places with room."""
    notice: str = ""
    """Warning right under the title, such as that the data are synthetic."""

    @property
    def footnotes(self) -> tuple[str, ...]:
        """Everything that stands under the table."""
        return self.notes + self.definitions

    @property
    def spreads(self) -> tuple[str, ...]:
        """A deviation of each column, empty where it has none: formats leave its room free in cells without one."""
        filled = [line.cells for line in self.lines if line.cells]
        return tuple(
            next((cells[place].spread for cells in filled if cells[place].spread), "")
            for place in range(len(self.columns))
        )

    @property
    def remarks(self) -> tuple[str, ...]:
        """The remarks as sentences of their own, for formats whose lines have no room for one."""
        found, group = [], ""
        for line in self.lines:
            group = line.label if line.kind == "backbone" else group
            if line.remark:
                found.append(f"{line.label} on {group}: {line.remark}")
        return tuple(found)

    def select(self, columns: Sequence[str]) -> Table:
        """Return the table with these columns only, for narrow places."""
        places = [self.columns.index(column) for column in columns]
        lines = tuple(
            replace(line, cells=tuple(line.cells[place] for place in places) if line.cells else ())
            for line in self.lines
        )
        return replace(self, columns=tuple(columns), lines=lines)


OVERALL_TITLE = "Test results"
_ARROWS = {True: " ↑", False: " ↓", None: ""}
QUALITY = tuple(
    f"{metric.title}{_ARROWS[metric.higher_is_better]}"
    for name in (*RANKED, *MEANS)
    for metric in [builtin_metrics().by_name[name]]
)
COST = ("embedding", "dense", "per domain", "train s", "GAUC rows", "seeds")


def overall_table(comparison: Comparison) -> Table:
    """Return Table 1: every method under its backbone, and the oracle where it is known."""
    lines = [line for backbone in comparison.backbones for line in _backbone_lines(comparison, backbone)]
    return Table(
        name="overall",
        title=f"{OVERALL_TITLE} · {comparison.title}",
        columns=(*QUALITY, *COST),
        lines=(*lines, *_oracle_lines(comparison)),
        notes=tuple(_mark_notes(comparison)),
        definitions=tuple(_definitions(comparison)),
    )


def quality_and_cost(table: Table) -> tuple[Table, Table]:
    """Part Table 1 in two, where its columns do not fit beside each other."""
    quality, cost = table.select(QUALITY), table.select(COST)
    # Variants and the oracle cost nothing of their own.
    lines = tuple(line for line in cost.lines if line.kind in ("backbone", "method"))
    of_cost = tuple(note for note in table.definitions if note.startswith((PARAMETERS_NOTE, INDICATOR_NOTE)))
    words = tuple(note for note in table.definitions if note not in of_cost)
    title = table.title.replace(OVERALL_TITLE, "Parameters, time and GAUC's share of rows")
    return (
        replace(quality, definitions=words),
        replace(cost, name="cost", title=title, lines=lines, notes=(), definitions=of_cost),
    )


def users_table(comparison: Comparison) -> Table:
    """Return AUC within users, weighted by rows, of every method under its backbone, and which rows it is of."""
    lines = [line for backbone in comparison.backbones for line in _user_lines(comparison, backbone)]
    return Table(
        name="users",
        title=f"AUC within users · {comparison.title}",
        columns=("GAUC over users ↑", "its rows", "seeds"),
        lines=tuple(lines),
        notes=(best_note(comparison), seeds_note(comparison), *comparison.collapses),
        definitions=(f"{USERS_NOTE} Its rows: the share of test rows in them.",),
    )


def bins_table(table: BinTable, metric: BinMetric) -> Table:
    """Return a metric by bin of domains, each method with its gain over the plain backbone."""
    comparison, bins = table.comparison, table.bins
    lines = [line for backbone in comparison.backbones for line in _bin_lines(table, backbone, metric)]
    return Table(
        name=f"bins-{metric}",
        title=f"{metric.upper()} by size of domain · {comparison.title}",
        columns=tuple(f"BIN{one.bin}" for one in bins),
        lines=(*_bin_facts(bins), *lines),
        notes=tuple(_bin_notes(table, metric)),
        definitions=tuple(_bin_definitions(metric)),
    )


def number(value: float | None, digits: int) -> str:
    """Write a number with a true minus sign; the dash where it is undefined."""
    return DASH if value is None else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int) -> str:
    """Write a difference with its sign; 0 has none."""
    text = f"{value:+.{digits}f}"
    return (text[1:] if float(text) == 0 else text).replace("-", "−")


def count(value: int) -> str:
    """Write a count in at most five characters: 999, 1.2 k, 3.4 M."""
    for size, unit in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if value >= size * 0.9995:
            return f"{value / size:.3g}{unit}"
    return str(value)


def cell(found: Estimate | None, digits: int, *, mark: Mark = Mark.NONE) -> Cell:
    """Show mean and deviation; the deviation only where there are two seeds or more."""
    if found is None:
        return Cell()
    spread = "" if found.std is None else number(found.std, digits)
    return Cell(text=number(found.mean, digits), spread=spread, mark=mark)


def mark_of(standing: Standing | None) -> Mark:
    """Return the mark of the best row, and of a row whose difference from it was tested and is not significant."""
    if standing is None:
        return Mark.NONE
    if standing.is_best:
        return Mark.BEST
    return Mark.NOT_SIGNIFICANT if standing.is_tied and standing.p_holm is not None else Mark.NONE


def _backbone_lines(comparison: Comparison, backbone: str) -> Iterable[Line]:
    rows = comparison.of_backbone(backbone)
    standing = {metric: stand(rows, metric) for metric in RANKED}
    yield Line(kind="backbone", label=backbone)
    for row in rows:
        if row.reason:
            yield Line(kind="method", label=row.method, remark=row.reason)
            continue
        marks = {metric: mark_of(standing[metric].get((row.backbone, row.method))) for metric in RANKED}
        yield Line(kind="method", label=row.method, cells=(*_quality(row, marks), *_cost(row)))
        yield from (_variant_line(row, variant) for variant in row.variants)


def _quality(row: Row, marks: dict[str, Mark], variant: str | None = None) -> tuple[Cell, ...]:
    ranked = [
        cell(row.estimate(metric, variant=variant), DIGITS[metric], mark=marks.get(metric, Mark.NONE))
        for metric in RANKED
    ]
    means = [(row.estimate(metric, variant=variant), DIGITS[metric]) for metric in MEANS]
    return (*ranked, *(Cell(text=number(found.mean if found else None, digits)) for found, digits in means))


def _cost(row: Row) -> tuple[Cell, ...]:
    parameters, seconds = row.parameters, row.seconds()
    counts = (
        (parameters.embedding, parameters.dense, parameters.per_domain) if parameters else (None, None, None)
    )
    return (
        *(Cell(text=DASH if value is None else count(value)) for value in counts),
        Cell(text=_seconds(seconds)),
        Cell(text=_percent(row.estimate(Metric.GAUC_COVERAGE))),
        Cell(text=row.failed_share or str(len(row.finished))),
    )


def _user_lines(comparison: Comparison, backbone: str) -> Iterable[Line]:
    rows = comparison.of_backbone(backbone)
    standing = stand(rows, Metric.USER_GAUC)
    yield Line(kind="backbone", label=backbone)
    for row in rows:
        cells = (
            cell(row.estimate(Metric.USER_GAUC), 4, mark=mark_of(standing.get((row.backbone, row.method)))),
            Cell(text=_percent(row.estimate(Metric.USER_GAUC_COVERAGE))),
            Cell(text=row.failed_share or str(len(row.finished))),
        )
        yield Line(kind="method", label=row.method, cells=() if row.reason else cells, remark=row.reason)


def _seconds(found: Estimate | None) -> str:
    return DASH if found is None else f"{found.mean:,.0f}" if found.mean >= 10 else f"{found.mean:.1f}"


def _percent(found: Estimate | None) -> str:
    return DASH if found is None else f"{100 * found.mean:.1f} %"


def _variant_line(row: Row, variant: str) -> Line:
    blank = tuple(Cell(text="") for _ in COST)
    return Line(kind="variant", label=variant, cells=(*_quality(row, {}, variant), *blank))


def _oracle_lines(comparison: Comparison) -> Iterable[Line]:
    blank = tuple(Cell(text="") for _ in COST)
    digits = {metric: DIGITS[metric] for metric in (*RANKED, *MEANS)}
    for label, form in REFERENCES.items():
        found = {metric: comparison.oracle.get(form.format(metric=metric)) for metric in digits}
        if any(value is not None for value in found.values()):
            shown = tuple(Cell(text=number(found[metric], digits[metric])) for metric in digits)
            yield Line(kind="oracle", label=label, cells=(*shown, *blank))


def _mark_notes(comparison: Comparison) -> Iterable[str]:
    yield best_note(comparison)
    yield seeds_note(comparison)
    yield from _provenance_notes(comparison.records)
    yield from comparison.failures
    yield from comparison.collapses


def _definitions(comparison: Comparison) -> Iterable[str]:
    if any(row.variants for row in comparison.rows):
        yield "Indented: a further score of the same runs, which takes no part in the comparison."
    if comparison.oracle:
        yield "Oracle: the true click probability, scored on the same test rows; a model beats it by luck alone."
    if comparison.oracle.get(CEILING_METRIC.format(metric=Metric.AUC)) is not None:
        yield CEILING_NOTE
    yield (
        "GAUC: AUC inside each domain, weighted by rows, over domains with both classes; GAUC rows: the share of test "
        "rows in them. PCOC: predicted over observed positives; |PCOC−1|: its weighted mean over domains."
    )
    yield PARAMETERS_NOTE
    yield from indicator_note(comparison)


def indicator_note(comparison: Comparison) -> Iterable[str]:
    """Say which indicator the methods that keep something for single domains have used, if there are any."""
    has_own = any(row.parameters is not None and row.parameters.per_domain for row in comparison.rows)
    others = comparison.other_indicators
    if has_own or others:
        named = "".join(f"; in rows “by {other}” by {_all_or(other)}" for other in others)
        yield f"{INDICATOR_NOTE} {_all_or(comparison.indicator)}{named}."


def _all_or(indicator: str) -> str:
    return "all domain features together" if indicator == "all" else indicator


def best_note(comparison: Comparison) -> str:
    """Return the meaning of bold type."""
    rows = [row for row in comparison.rows if row.finished]
    is_mixed = comparison.num_seeds >= MIN_SEEDS and any(len(row.finished) < MIN_SEEDS for row in rows)
    if is_mixed or any(row.num_failed for row in rows):
        return f"{BEST_NOTE[:-1]}, of the rows with enough seeds and without failed runs if there are any."
    return BEST_NOTE


def seeds_note(comparison: Comparison, family: str = "the methods of the backbone") -> str:
    """Return what ± and † mean; with too few seeds, that there is no test."""
    if comparison.num_seeds < 2:
        return f"One seed: no deviation. {FEW_SEEDS_NOTE}"
    deviation = f"±: standard deviation over {_seeds(comparison)} seeds."
    if comparison.num_seeds < MIN_SEEDS:
        return f"{deviation} {FEW_SEEDS_NOTE}"
    return (
        f"{deviation} †: difference from the best not significant (two-sided paired t-test over the common seeds, "
        f"Holm-adjusted over {family}, 5 %; it speaks of other seeds, not of other test users). Rows with fewer than "
        f"{MIN_SEEDS} seeds or with failed runs are not tested."
    )


def _seeds(comparison: Comparison) -> str:
    numbers = sorted({len(row.finished) for row in comparison.rows if row.finished})
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _provenance_notes(records: Sequence[RunRecord]) -> Iterable[str]:
    versions = sorted({record.code.version for record in records})
    if len(versions) > 1:
        yield f"Made by several versions of ctrbench: {', '.join(versions)}."
    machines = {tuple(sorted(map(str, record.measured.machine.items()))) for record in records}
    if len(machines) > 1:
        yield f"Made on {len(machines)} different machines: seconds are not comparable."


def _bin_facts(bins: Sequence[BinMetrics]) -> Iterable[Line]:
    total = sum(one.rows_train for one in bins) or 1
    facts = {
        "domains": [f"{one.domains:,}" for one in bins],
        "training rows": [count(one.rows_train) for one in bins],
        "share of training rows": [f"{100 * one.rows_train / total:.1f} %" for one in bins],
        "test rows": [count(one.rows) for one in bins],
    }
    for label, texts in facts.items():
        yield Line(kind="fact", label=label, cells=tuple(Cell(text=text) for text in texts))


def _bin_lines(table: BinTable, backbone: str, metric: BinMetric) -> Iterable[Line]:
    rows = [row for row in table.comparison.of_backbone(backbone) if row.finished]
    if not rows:
        return
    numbers = range(1, len(table.bins) + 1)
    best = {place: _best_mean(table, rows, place, metric) for place in numbers}
    yield Line(kind="backbone", label=backbone)
    for row in rows:
        found = {place: table.estimate(row, place, metric) for place in numbers}
        cells = tuple(
            cell(value, 4, mark=Mark.BEST if value and value.mean == best[place] else Mark.NONE)
            for place, value in found.items()
        )
        yield Line(kind="method", label=row.method, cells=cells)
        if not row.is_plain and table.comparison.plain(backbone) is not None:
            gains = tuple(_gain_cell(table, row, place, metric) for place in numbers)
            yield Line(kind="gain", label="gain", cells=gains)


def _best_mean(table: BinTable, rows: Sequence[Row], place: int, metric: BinMetric) -> float | None:
    found = (table.estimate(row, place, metric) for row in rows)
    return max((value.mean for value in found if value is not None), default=None)


def _gain_cell(table: BinTable, row: Row, place: int, metric: BinMetric) -> Cell:
    found = estimate(table.gains(row, place, metric).values())
    if found is None:
        return Cell()
    mark = Mark.CLEAR if table.is_clear(row, place, metric) else Mark.NONE
    spread = "" if found.std is None else number(found.std, 4)
    return Cell(text=signed(found.mean, 4), spread=spread, mark=mark)


def _bin_notes(table: BinTable, metric: BinMetric) -> Iterable[str]:
    yield "Bold: the best mean of its backbone and bin. Gain: over the plain backbone with the same seed."
    if table.comparison.num_seeds >= MIN_SEEDS:
        yield (
            "*: the gain differs from 0 (two-sided paired t-test over seeds, Holm-adjusted over all methods and bins "
            "of the backbone, 5 %)."
        )
    else:
        yield FEW_SEEDS_NOTE
    yield from table.comparison.collapses
    if metric == "auc" and table.is_pooled_auc_missing:
        yield (
            f"{DASH}: pooled AUC in {table.num_bins} bins needs the predictions, which are not kept beside all of "
            "these records; GAUC does not."
        )
    if table.is_without_empty_domains:
        yield "Domains without test rows are not in these records, and so not in these bins."


def _bin_definitions(metric: BinMetric) -> Iterable[str]:
    yield "Bins: domains by training rows, largest first, in equal shares of rows; scored on the bin's test rows."
    if metric == "gauc":
        yield "GAUC: over the bin's domains with both classes, weighted by rows."
