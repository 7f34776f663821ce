"""Tables and charts of one metric per domain, which the drawings `domains` and `pcoc` share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ctrbench.eval.metrics.gauc import Gauc
from ctrbench.eval.metrics.user_gauc import UserGauc
from ctrbench.eval.metrics.user_gauc_coverage import UserGaucCoverage
from ctrbench.report.comparison import Row
from ctrbench.report.estimate import Estimate, estimate
from ctrbench.report.footnotes import USERS_NOTE, indicator_note
from ctrbench.report.table import DASH, Cell, Line, Mark, Table, cell
from ctrbench.studies.charts import Point, domains_chart
from ctrbench.studies.drawing import Drawn, Part, numbered

ALL_DOMAINS = "all rows"


@dataclass(frozen=True, kw_only=True)
class DomainMetric:
    """A metric per domain, and how it is shown."""

    name: str
    """Name of the metric in `DomainMetrics.metrics`."""
    overall: str
    """Name of the metric over all test rows."""
    title: str
    digits: int
    reference: float | None = None
    """The best value; None for a metric of which more is better."""
    min_positives: int = 0
    """Clicks in a domain's test rows from which on the chart shows it."""
    by_user: bool = False
    """Whether the table has AUC within users too."""

    def best_index(self, values: Sequence[float | None]) -> int | None:
        """Return the index of the best defined value, or None if all are undefined."""
        defined = [(i, value) for i, value in enumerate(values) if value is not None]
        if not defined:
            return None
        reference = self.reference
        score: Callable[[float], float] = (
            (lambda value: value) if reference is None else (lambda value: -abs(value - reference))
        )
        return max(defined, key=lambda pair: score(pair[1]))[0]


def draw_metric(parts: Sequence[Part], metric: DomainMetric) -> Drawn:
    """Return a table and a chart of the metric per domain set and backbone."""
    tables, charts = [], []
    data: list[dict[str, object]] = []
    panels = [(part, backbone) for part in parts for backbone in part.comparison.backbones]
    for number, (part, backbone) in enumerate(panels, start=1):
        table = _domains_table(part, backbone, metric)
        tables.append(_with_users(table, part, backbone, metric) if metric.by_user else table)
        points = list(_domain_points(part, backbone, metric))
        data += [
            {
                "backbone": backbone,
                "domain": point.position,
                "method": point.method,
                "metric": metric.name,
                **point.statistics(),
            }
            for point in points
        ]
        title = f"{metric.title} on the test rows"
        chart = (
            domains_chart(part.comparison, points, title=title, reference=metric.reference)
            if points
            else None
        )
        charts.append((numbered(metric.name, number, len(panels)), chart))
    return Drawn(tables=tuple(tables), charts=tuple(charts), data=tuple(data))


def _values_of_domain(row: Row, domain: int, metric: DomainMetric) -> list[float]:
    """Return the metric of a domain per seed; undefined values are left out."""
    values = (
        result.domains.metrics[metric.name][result.domains.domain.index(domain)]
        for result in row.results.values()
    )
    return [value for value in values if value is not None]


def _domains_with_test_rows(part: Part) -> list[int]:
    """Return the ids of domains with test rows, largest training sets first."""
    domains = part.any_result.domains
    columns = zip(domains.domain, domains.rows_train, domains.rows, strict=True)
    return [domain for domain, _, rows in sorted(columns, key=lambda column: -column[1]) if rows]


def _domains_table(part: Part, backbone: str, metric: DomainMetric) -> Table:
    rows = [row for row in part.comparison.of_backbone(backbone) if row.finished]
    without_result = [row for row in part.comparison.of_backbone(backbone) if not row.finished]
    domains = part.any_result.domains
    test_rows = dict(zip(domains.domain, domains.rows, strict=True))
    overall = [estimate(row.values(metric.overall).values()) for row in rows]
    lines = [_table_line(ALL_DOMAINS, sum(test_rows.values()), overall, metric)]
    if metric.reference is None:
        gauc = [estimate(row.values(Gauc.name).values()) for row in rows]
        lines.append(_table_line("GAUC over domains", sum(test_rows.values()), gauc, metric))
    for domain in _domains_with_test_rows(part):
        values = [estimate(_values_of_domain(row, domain, metric)) for row in rows]
        lines.append(_table_line(part.domain_name(domain), test_rows[domain], values, metric))
    return Table(
        name=f"domains-{metric.name}",
        title=f"{metric.title} of each domain · {backbone} · {part.comparison.title}",
        columns=("test rows", *(row.method for row in rows)),
        lines=tuple(lines),
        notes=(
            f"{'±: standard deviation over seeds. ' if part.comparison.num_seeds > 1 else ''}Bold: the best mean "
            f"per line{'' if metric.reference is None else ', nearest to 1'}; {DASH}: undefined, since a class is "
            f"missing. Domains by training rows, largest first.{_share_in_chart(part, metric)}",
            *indicator_note(part.comparison),
        ),
        definitions=tuple(f"{row.method} on {backbone}: {row.reason}" for row in without_result),
    )


def _table_line(label: str, rows: int | None, values: list[Estimate | None], metric: DomainMetric) -> Line:
    """Return one line: the number of test rows, then one cell per method."""
    best = metric.best_index([value.mean if value else None for value in values])
    cells = [
        cell(value, metric.digits, mark=Mark.BEST if i == best else Mark.NONE)
        for i, value in enumerate(values)
    ]
    return Line(kind="method", label=label, cells=(Cell(text=DASH if rows is None else f"{rows:,}"), *cells))


def _with_users(table: Table, part: Part, backbone: str, metric: DomainMetric) -> Table:
    """Insert AUC within users after the two lines of all domains."""
    rows = [row for row in part.comparison.of_backbone(backbone) if row.finished]
    values = [estimate(row.values(UserGauc.name).values()) for row in rows]
    coverages = (estimate(row.values(UserGaucCoverage.name).values()) for row in rows)
    share = next((coverage.mean for coverage in coverages if coverage), None)
    num_rows = None if share is None else round(share * sum(part.any_result.domains.rows))
    line = _table_line("GAUC over users", num_rows, values, metric)
    note = f"{USERS_NOTE} Its test rows: those of such users."
    return replace(table, lines=(*table.lines[:2], line, *table.lines[2:]), notes=(*table.notes, note))


def _share_in_chart(part: Part, metric: DomainMetric) -> str:
    """Return a sentence on how many domains the chart shows, if it leaves some out."""
    if not metric.min_positives:
        return ""
    domains = part.any_result.domains
    columns = list(zip(domains.positives, domains.rows, strict=True))
    rows = [count for positives, count in columns if positives >= metric.min_positives]
    share = 100 * sum(rows) / max(sum(count for _, count in columns), 1)
    return (
        f" The chart shows the {len(rows)} domains with at least {metric.min_positives} clicks, {share:.1f} % of "
        "the test rows."
    )


def _domain_points(part: Part, backbone: str, metric: DomainMetric) -> Iterator[Point]:
    domains = part.any_result.domains
    positives = dict(zip(domains.domain, domains.positives, strict=True))
    for domain in _domains_with_test_rows(part):
        if positives[domain] < metric.min_positives:
            continue
        for row in part.comparison.of_backbone(backbone):
            values = _values_of_domain(row, domain, metric)
            if values:
                yield Point(method=row.method, position=part.domain_name(domain), values=values)
