"""What a study ends with: its table or picture in the paper's shape, from the records of its runs.

Nothing here runs or trains: a `Part` holds the records of one domain set, found by whoever made the runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import altair as alt
import numpy as np
from rich.table import Table as RichTable

from ctrbench.errors import StoreError
from ctrbench.eval.longtail import assign_bins
from ctrbench.names import Metric
from ctrbench.plugins.inspection import Inspection
from ctrbench.report.charts.by_method import metric_chart
from ctrbench.report.charts.gain_by_bin import gain_chart
from ctrbench.report.comparison import Comparison, Row, compare, gain
from ctrbench.report.csv_files import overall_csv, tidy_csv
from ctrbench.report.estimate import Estimate, estimate
from ctrbench.report.formats import latex, markdown, terminal_tables
from ctrbench.report.notes import USERS_NOTE, indicator_note
from ctrbench.report.paper import paper_table
from ctrbench.report.plots import save_chart
from ctrbench.report.summary import summarize
from ctrbench.report.table import DASH, Cell, Line, Mark, Table, cell, signed_cell
from ctrbench.report.tables import bins_table, narrow_tables, overall_table, users_table
from ctrbench.runs.record import Result, RunRecord
from ctrbench.runs.store import RunStore
from ctrbench.storage.files import write_text
from ctrbench.studies.charts import Point, domains_chart, line_chart, masks_chart
from ctrbench.studies.study import Drawing, Study

ALL_DOMAINS = "all rows"
LEAST_POSITIVES = 100
"""Clicks in the test rows from which on a domain's calibration is drawn (spec: metrics-8.4)."""


@dataclass(frozen=True, kw_only=True)
class Domain:
    """A domain as it is shown: its name, and the ids of its features' values, by which domains are told apart."""

    name: str
    values: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Part:
    """The runs of one domain set of a study."""

    comparison: Comparison
    domains: Mapping[int, Domain]


@dataclass(frozen=True, kw_only=True)
class StudyFiles:
    """What a study wrote, and its tables for a terminal."""

    paths: tuple[Path, ...]
    terminal: tuple[RichTable, ...]


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    tables: tuple[Table, ...]
    charts: tuple[tuple[str, alt.VConcatChart | None], ...]
    data: tuple[dict[str, object], ...] = ()
    """What the drawing shows, unrounded, one number a line; empty where the runs' own metrics say it all."""


def make_part(
    records: Iterable[RunRecord], *, labels: Mapping[str, str], domains: Mapping[int, Domain]
) -> Part:
    """Return the records of one domain set as a comparison, methods by their labels (by digest) and in their order."""
    (comparison,) = compare(records)
    order = list(labels)

    def place(row: Row) -> tuple[int, int]:
        backbone = comparison.backbones.index(row.backbone)
        return backbone, order.index(row.key.method.digest)

    rows = sorted(comparison.rows, key=place)
    named = tuple(
        replace(row, method=f"{labels[row.key.method.digest]}{row.indicator_suffix}") for row in rows
    )
    return Part(comparison=replace(comparison, rows=named), domains=domains)


def draw_study(study: Study, parts: Sequence[Part], *, store: RunStore, out: Path) -> StudyFiles:
    """Write the study's tables and pictures to a folder; raises `StoreError` where a domain set has no result."""
    for part in parts:
        if not part.comparison.records:
            reasons = " ".join(dict.fromkeys(f"{row.method}: {row.reason}" for row in part.comparison.rows))
            raise StoreError("no run of a study has a result", value=part.comparison.title, remedy=reasons)
    drawn = _DRAWINGS[study.draw](study, parts, store)
    notice = parts[0].comparison.notice
    tables = [replace(_with_source(table, study), notice=notice) for table in drawn.tables]
    paths = [
        write_text(out / "table.md", "\n".join(map(markdown, tables))),
        write_text(
            out / "table.tex",
            "\n".join(latex(narrow) for table in tables for narrow in narrow_tables(table)),
        ),
        write_text(out / "runs.csv", overall_csv([summarize(part.comparison) for part in parts])),
    ]
    if drawn.data:
        paths.append(write_text(out / "data.csv", tidy_csv(drawn.data)))
    for stem, chart in drawn.charts:
        if chart is not None:
            paths += save_chart(chart, out / stem)
    return StudyFiles(paths=tuple(paths), terminal=tuple(terminal_tables(tables)))


def _with_source(table: Table, study: Study) -> Table:
    after = f"After {study.source}." if study.source else ""
    notes = tuple(note for note in (after, study.note) if note)
    return replace(table, title=f"{study.title} · {table.title}", notes=(*table.notes, *notes))


def _stem(name: str, place: int, num: int) -> str:
    return name if num == 1 else f"{name}-{place}"


def _draw_table(study: Study, parts: Sequence[Part], store: RunStore) -> _Drawn:
    tables: list[Table] = []
    summaries = [summarize(part.comparison) for part in parts]
    for summary in summaries:
        users = users_table(summary) if study.by_user else None
        found = (overall_table(summary), users, paper_table(summary))
        tables += [table for table in found if table]
    charts = [
        (_stem(metric, place, len(parts)), metric_chart(summary, metric))
        for place, summary in enumerate(summaries, start=1)
        for metric in (Metric.AUC, Metric.GAUC)
    ]
    return _Drawn(tables=tuple(tables), charts=tuple(charts))


def _draw_bins(study: Study, parts: Sequence[Part], store: RunStore) -> _Drawn:
    found = [summarize(part.comparison, num_bins=study.bins, store=store) for part in parts]
    tables = [bins_table(one, metric.name) for one in found for metric in one.bin_metrics]
    charts = [
        (_stem(f"gain-{metric.name}", place, len(found)), gain_chart(one, metric.name))
        for place, one in enumerate(found, start=1)
        for metric in one.bin_metrics
    ]
    return _Drawn(tables=tuple(tables), charts=tuple(charts))


# A metric of each domain.


def _draw_auc(study: Study, parts: Sequence[Part], store: RunStore) -> _Drawn:
    return _draw_domains(parts, "auc", "AUC", None, by_user=study.by_user)


def _draw_pcoc(study: Study, parts: Sequence[Part], store: RunStore) -> _Drawn:
    return _draw_domains(parts, "pcoc", "PCOC", 1.0)


def _draw_domains(
    parts: Sequence[Part], metric: str, title: str, reference: float | None, *, by_user: bool = False
) -> _Drawn:
    tables, charts = [], []
    data: list[dict[str, object]] = []
    panels = [(part, backbone) for part in parts for backbone in part.comparison.backbones]
    for place, (part, backbone) in enumerate(panels, start=1):
        table = _domains_table(part, backbone, metric, title, reference)
        tables.append(_with_users(table, part, backbone) if by_user else table)
        points = list(_domain_points(part, backbone, metric, 0 if reference is None else LEAST_POSITIVES))
        data += [
            {
                "backbone": backbone,
                "domain": point.place,
                "method": point.method,
                "metric": metric,
                **_number(point),
            }
            for point in points
        ]
        words = f"{title} on the test rows"
        chart = domains_chart(part.comparison, points, title=words, reference=reference) if points else None
        charts.append((_stem(metric, place, len(panels)), chart))
    return _Drawn(tables=tuple(tables), charts=tuple(charts), data=tuple(data))


def _number(point: Point) -> dict[str, object]:
    found = estimate(point.values)
    return {"mean": found.mean, "std": found.std, "seeds": found.num} if found else {}


def _of_domain(row: Row, domain: int, metric: str) -> dict[int, float]:
    """Return a metric of a domain by seed; undefined ones are left out."""
    found = {
        seed: result.domains.metrics[metric][result.domains.domain.index(domain)]
        for seed, result in row.results.items()
    }
    return {seed: value for seed, value in found.items() if value is not None}


def _shown_domains(part: Part) -> list[int]:
    """Return the domains with test rows, largest training sets first."""
    result = _any_result(part)
    columns = zip(result.domains.domain, result.domains.rows_train, result.domains.rows, strict=True)
    return [domain for domain, _, rows in sorted(columns, key=lambda one: -one[1]) if rows]


def _domains_table(part: Part, backbone: str, metric: str, title: str, reference: float | None) -> Table:
    rows = [row for row in part.comparison.of_backbone(backbone) if row.finished]
    result = _any_result(part)
    test_rows = dict(zip(result.domains.domain, result.domains.rows, strict=True))

    overall = Metric.AUC if reference is None else Metric.PCOC
    total = sum(test_rows.values())
    lines = [
        _of_rows(ALL_DOMAINS, total, [estimate(row.values(overall).values()) for row in rows], reference)
    ]
    if reference is None:
        found = [estimate(row.values(Metric.GAUC).values()) for row in rows]
        lines.append(_of_rows("GAUC over domains", total, found, reference))
    for domain in _shown_domains(part):
        values = [estimate(_of_domain(row, domain, metric).values()) for row in rows]
        lines.append(_of_rows(_name(part, domain), test_rows[domain], values, reference))
    return Table(
        name=f"domains-{metric}",
        title=f"{title} of each domain · {backbone} · {part.comparison.title}",
        columns=("test rows", *(row.method for row in rows)),
        lines=tuple(lines),
        notes=(
            f"{'±: standard deviation over seeds. ' if part.comparison.num_seeds > 1 else ''}Bold: the best mean of "
            f"the line{'' if reference is None else ', nearest to 1'}; {DASH}: undefined for want of a class. "
            f"Domains by training rows, largest first.{_drawn_share(result, reference)}",
            *indicator_note(part.comparison),
        ),
        definitions=tuple(f"{row.method} on {backbone}: {row.reason}" for row in _without(part, backbone)),
    )


def _of_rows(label: str, count: int | None, values: list[Estimate | None], reference: float | None) -> Line:
    """Return the methods' numbers on some of the test rows."""
    best = _best([value.mean if value else None for value in values], reference)
    cells = [
        cell(value, 4 if reference is None else 3, mark=Mark.BEST if place == best else Mark.NONE)
        for place, value in enumerate(values)
    ]
    return Line(
        kind="method", label=label, cells=(Cell(text=DASH if count is None else f"{count:,}"), *cells)
    )


def _with_users(table: Table, part: Part, backbone: str) -> Table:
    """Put AUC within users behind the two lines that are of all domains."""
    rows = [row for row in part.comparison.of_backbone(backbone) if row.finished]
    found = [estimate(row.values(Metric.USER_GAUC).values()) for row in rows]
    share = next(
        (one.mean for row in rows if (one := estimate(row.values(Metric.USER_GAUC_COVERAGE).values()))), None
    )
    num_rows = None if share is None else round(share * sum(_any_result(part).domains.rows))
    lines = (*table.lines[:2], _of_rows("GAUC over users", num_rows, found, None), *table.lines[2:])
    return replace(
        table, lines=lines, notes=(*table.notes, f"{USERS_NOTE} Its test rows: those of such users.")
    )


def _drawn_share(result: Result, reference: float | None) -> str:
    """Say how many domains the picture of calibration shows, and which share of test rows they hold."""
    if reference is None:
        return ""
    columns = list(zip(result.domains.positives, result.domains.rows, strict=True))
    rows = [count for positives, count in columns if positives >= LEAST_POSITIVES]
    share = 100 * sum(rows) / max(sum(count for _, count in columns), 1)
    return f" The picture shows the {len(rows)} with {LEAST_POSITIVES} clicks or more, {share:.1f} % of the test rows."


def _without(part: Part, backbone: str) -> list[Row]:
    return [row for row in part.comparison.of_backbone(backbone) if not row.finished]


def _name(part: Part, domain: int) -> str:
    return part.domains[domain].name if domain in part.domains else str(domain)


def _best(values: Sequence[float | None], reference: float | None) -> int | None:
    known = [(place, value) for place, value in enumerate(values) if value is not None]
    if not known:
        return None
    goodness: Callable[[float], float] = (
        (lambda value: value) if reference is None else (lambda value: -abs(value - reference))
    )
    return max(known, key=lambda one: goodness(one[1]))[0]


def _domain_points(part: Part, backbone: str, metric: str, least: int) -> Iterable[Point]:
    domains = _any_result(part).domains
    positives = dict(zip(domains.domain, domains.positives, strict=True))
    for domain in (one for one in _shown_domains(part) if positives[one] >= least):
        for row in part.comparison.of_backbone(backbone):
            values = list(_of_domain(row, domain, metric).values())
            if values:
                yield Point(method=row.method, place=_name(part, domain), values=values)


def _any_result(part: Part) -> Result:
    """Return some run's result: rows, positives and training rows of the domains are the same for all."""
    return next(record.result for record in part.comparison.records if record.result)


# Gain against the number of domains.


def _draw_domain_sets(study: Study, parts: Sequence[Part], store: RunStore) -> _Drawn:
    tables, charts = [], []
    data: list[dict[str, object]] = []
    backbones = parts[0].comparison.backbones
    for place, backbone in enumerate(backbones, start=1):
        tables.append(_domain_sets_table(parts, backbone))
        for metric in (Metric.AUC, Metric.GAUC):
            points = list(_domain_set_points(parts, backbone, metric))
            data += [
                {
                    "backbone": backbone,
                    "domains": int(point.place),
                    "method": point.method,
                    "metric": f"gain in {metric}",
                    **_number(point),
                }
                for point in points
            ]
            chart = line_chart(
                parts[0].comparison,
                points,
                x_title="domains in training, logarithmic",
                y_title=f"gain in {metric.upper()} over plain",
                is_log=True,
            )
            charts.append((_stem(f"gain-{metric}", place, len(backbones)), chart))
    return _Drawn(tables=tuple(tables), charts=tuple(charts), data=tuple(data))


def _num_domains(part: Part) -> int:
    result = _any_result(part)
    return sum(rows > 0 for rows in result.domains.rows_train)


def _domain_set_points(parts: Sequence[Part], backbone: str, metric: str) -> Iterable[Point]:
    for part in parts:
        plain = part.comparison.plain(backbone)
        for row in part.comparison.of_backbone(backbone) if plain else ():
            values = list(gain(row, plain, metric).values()) if plain and row is not plain else []
            if values:
                yield Point(method=row.method, place=_num_domains(part), values=values)


def _domain_sets_table(parts: Sequence[Part], backbone: str) -> Table:
    methods = [row.method for row in parts[0].comparison.of_backbone(backbone)]
    lines = []
    for part in parts:
        key, num = part.comparison.key, _num_domains(part)
        label = f"{' × '.join(key.domain_features)}: {num:,} domains, indicator {key.indicator}"
        lines.append(Line(kind="backbone", label=label))
        for metric in (Metric.AUC, Metric.GAUC):
            cells = [_gain_cell(part, backbone, method, metric) for method in methods]
            lines.append(Line(kind="method", label=metric.upper(), cells=tuple(cells)))
    return Table(
        name="domain-sets",
        title=f"Gain by domain set · {backbone} · {parts[0].comparison.key.dataset}",
        columns=tuple(methods),
        lines=tuple(lines),
        notes=(
            "plain: its own metric; the others: gain over plain with the same seed, mean and standard deviation over "
            "seeds. GAUC's groups are the domains of the set, so plain's own changes with it. Methods with parameters "
            "of single domains keep them by the indicator, which differs between the sets.",
        ),
    )


def _gain_cell(part: Part, backbone: str, method: str, metric: str) -> Cell:
    plain = part.comparison.plain(backbone)
    row = next(one for one in part.comparison.of_backbone(backbone) if one.method == method)
    if plain is None or row is plain:
        return cell(estimate(row.values(metric).values()), 4)
    return signed_cell(estimate(gain(row, plain, metric).values()), 4)


# What a method shows of itself.


def _draw_sparsity(study: Study, parts: Sequence[Part], store: RunStore) -> _Drawn:
    tables, charts = [], []
    data: list[dict[str, object]] = []
    panels = [(part, backbone) for part in parts for backbone in part.comparison.backbones]
    for place, (part, backbone) in enumerate(panels, start=1):
        shares = {row.method: _pruned_shares(row, store) for row in part.comparison.of_backbone(backbone)}
        tables.append(_sparsity_table(part, backbone, shares, store))
        charts.append((_stem("sparsity", place, len(panels)), _sparsity_chart(part, backbone, shares)))
        data += [
            {"backbone": backbone, "method": method, "seed": seed, "pruned": share}
            for method, found in shares.items()
            for seed, share in found.items()
        ]
    return _Drawn(tables=tuple(tables), charts=tuple(charts), data=tuple(data))


def _pruned_shares(row: Row, store: RunStore) -> dict[int, float]:
    """Return the share of pruned neurons over all sites and test rows, by seed; empty for methods without gates."""
    found = {}
    for seed, shown in _seen(row, store).items():
        kept_of_sites = [site.kept_DN.astype(np.float64) for site in shown.sites]
        kept = [shown.rows_D @ kept_DN.mean(1) / shown.rows_D.sum() for kept_DN in kept_of_sites]
        sizes = [kept_DN.shape[1] for kept_DN in kept_of_sites]
        found[seed] = 1.0 - float(np.average(kept, weights=sizes))
    return found


def _sparsity_table(
    part: Part, backbone: str, shares: Mapping[str, Mapping[int, float]], store: RunStore
) -> Table:
    lines = []
    for row in part.comparison.of_backbone(backbone):
        share = estimate(shares[row.method].values())
        cells = (
            Cell() if share is None else cell(share, 3),
            cell(estimate(row.values(Metric.AUC).values()), 4),
            cell(estimate(row.values(Metric.GAUC).values()), 4),
            _gain_cell(part, backbone, row.method, Metric.AUC) if not row.is_plain else Cell(text=""),
        )
        lines.append(Line(kind="method", label=row.method, cells=cells, remark=row.reason))
    return Table(
        name="sparsity",
        title=f"AUC by pruned share · {backbone} · {part.comparison.title}",
        columns=("pruned share", "AUC ↑", "GAUC ↑", "gain in AUC"),
        lines=tuple(lines),
        notes=(
            "Pruned share: of all sites' neurons together, on the test rows"
            f"{'; ±: standard deviation over seeds' if part.comparison.num_seeds > 1 else ''}.",
            *(
                note
                for row in part.comparison.of_backbone(backbone)
                for note in _repetition_note(row, _seen(row, store))
            ),
        ),
    )


def _sparsity_chart(
    part: Part, backbone: str, shares: Mapping[str, Mapping[int, float]]
) -> alt.VConcatChart | None:
    plain = part.comparison.plain(backbone)
    if plain is None:
        return None
    gated = [row for row in part.comparison.of_backbone(backbone) if shares[row.method]]
    points = [
        Point(
            method=plain.method,
            place=float(np.mean(list(shares[row.method].values()))),
            values=list(gain(row, plain, Metric.AUC).values()),
        )
        for row in gated
        if gain(row, plain, Metric.AUC)
    ]
    if not points:
        return None
    return line_chart(
        part.comparison,
        [replace(point, method=gated[0].method) for point in points],
        x_title="share of neurons pruned on the test rows",
        y_title="gain in AUC over plain",
        is_log=False,
    )


def _draw_masks(study: Study, parts: Sequence[Part], store: RunStore) -> _Drawn:
    tables: list[Table] = []
    charts: list[tuple[str, alt.VConcatChart | None]] = []
    gates: list[str] = []
    for part in parts:
        for row in part.comparison.rows:
            seen = _seen(row, store)
            stages = [stage for shown in seen.values() for stage in shown.stages]
            gates += stages
            if (site := study.site) in stages:
                domains = _three(part, next(iter(seen.values())))
                tables += _mask_tables(part, row, seen, site, domains)
                kept = {
                    seed: _of_domains(shown, shown.site(site).kept_DN, domains)
                    for seed, shown in seen.items()
                }
                chart = masks_chart([_name(part, domain) for domain in domains], kept)
                charts.append((_stem("masks", len(charts) + 1, 1 if not charts else 2), chart))
    if not tables:
        known = ", ".join(dict.fromkeys(gates)) or "none of these methods prunes"
        raise StoreError("no gate before that stage", value=study.site, remedy=f"known: {known}")
    return _Drawn(tables=tuple(tables), charts=tuple(charts))


def _seen(row: Row, store: RunStore) -> dict[int, Inspection]:
    """Return the inspections of a row's runs by seed; empty for a method without them."""
    inspections = {record.key.seed: store.inspection(record.key) for record in row.finished}
    seen = {seed: shown for seed, shown in inspections.items() if shown is not None}
    if len({(*sorted(shown.stages), *shown.domain_D.tolist()) for shown in seen.values()}) > 1:
        raise StoreError(
            "runs of one method show the same of their models, seed by seed",
            value=f"runs of {row.method} × {row.backbone} show different things",
            remedy="make the runs again with one version of the method",
        )
    return seen


def _three(part: Part, shown: Inspection) -> list[int]:
    """Return the ids of three domains: the largest in test rows, its largest near one and its largest far one.

    Near: all but one feature alike; far: none alike. Chosen before any mask is looked at, and alike for all seeds,
    whose test rows are the same.
    """
    order = shown.domain_D[np.argsort(-shown.rows_D, kind="stable")].tolist()
    values = {domain: part.domains[domain].values for domain in order if domain in part.domains}
    if not values:
        raise StoreError(
            "what a run shows of its model is by domain, and the data have none of these",
            value=part.comparison.title,
            remedy="make the runs again with the data as they are prepared now",
        )
    first, *others = values
    alike = {
        domain: sum(a == b for a, b in zip(values[first], values[domain], strict=True)) for domain in others
    }
    near = next((domain for domain in others if alike[domain] == len(values[first]) - 1), None)
    far = next((domain for domain in others if alike[domain] == 0 and domain != near), None)
    return [domain for domain in (first, near, far) if domain is not None]


def _of_domains(shown: Inspection, values: np.ndarray, domains: Sequence[int]) -> np.ndarray:
    """Return the lines of an array of the inspection that belong to these domains, in their order."""
    index = {domain: i for i, domain in enumerate(shown.domain_D.tolist())}
    lines: np.ndarray = values[[index[domain] for domain in domains]]
    return lines


def _mask_tables(
    part: Part, row: Row, seen: Mapping[int, Inspection], site: str, domains: Sequence[int]
) -> Iterable[Table]:
    pruned = [_of_domains(shown, shown.site(site).kept_DN, domains) <= 0.5 for shown in seen.values()]
    first = next(iter(seen.values()))
    rows = _of_domains(first, first.rows_D, domains)
    lines = [
        Line(
            kind="method",
            label=_name(part, domain),
            cells=(
                Cell(text=f"{int(rows[place]):,}"),
                _over_seeds(float(pruned_DN[place].mean()) for pruned_DN in pruned),
                *(
                    _over_seeds(_jaccard(pruned_DN[place], pruned_DN[other]) for pruned_DN in pruned)
                    for other in range(len(domains))
                ),
            ),
        )
        for place, domain in enumerate(domains)
    ]
    yield Table(
        name="masks",
        title=f"{row.method} on {row.backbone}, input of {site} · {part.comparison.title}",
        columns=("test rows", "pruned", *(f"with {letter}" for letter in "ABC"[: len(domains)])),
        lines=tuple(lines),
        notes=(
            "A neuron is pruned in a domain where at least half of the domain's test rows prune it. With A, B, C: "
            "the overlap of the pruned sets, as intersection over union, lines in order; "
            f"{DASH}: nothing is pruned in either, and such a seed is left out. The domains, as far as there are such: "
            "the largest in test rows, the largest that differs from it in one feature, the largest that differs in "
            "all.",
            *_seeds_note(row, seen),
            *_repetition_note(row, seen),
        ),
    )
    yield _pruned_by_bin(part, row, seen)


def _over_seeds(values: Iterable[float | None]) -> Cell:
    """Show a share's mean and deviation over the seeds for which it is defined."""
    return cell(estimate(value for value in values if value is not None), 3)


def _seeds_note(row: Row, seen: Mapping[int, object]) -> Iterable[str]:
    """Say which seeds are shown."""
    if len(seen) > 1:
        yield f"Mean ± standard deviation over {len(seen)} seeds."
    else:
        yield f"Seed {next(iter(seen))}."
    if len(seen) < len(row.finished):
        yield f"Of {len(row.finished)} runs {len(seen)} left what is shown here."


def _repetition_note(row: Row, seen: Mapping[int, Inspection]) -> Iterable[str]:
    """Say so where the model looked at is not the very one of the record."""
    made = {record.key.seed: record.result.predictions_sha256 for record in row.finished if record.result}
    other = [seed for seed, shown in seen.items() if shown.predictions != made[seed]]
    if other:
        yield (
            f"{row.method}: looked at in a repetition of the run (seed {', '.join(map(str, other))}), whose "
            "predictions are not those of the record to the last digit."
        )


def _jaccard(first: np.ndarray, second: np.ndarray) -> float | None:
    """Return intersection over union of two sets, given as membership; None where both are empty."""
    union = int((first | second).sum())
    return None if union == 0 else int((first & second).sum()) / union


def _pruned_by_bin(part: Part, row: Row, seen: Mapping[int, Inspection]) -> Table:
    """Return the pruned share of each site by size of domain (spec: adasparse-1.4)."""
    result = next(record.result for record in row.finished if record.result)
    num_bins = len(result.bins)
    known = dict(
        zip(result.domains.domain, assign_bins(result.domains.rows_train, num_bins).tolist(), strict=True)
    )
    lines = [
        Line(
            kind="method",
            label=stage,
            cells=tuple(
                _over_seeds(_pruned_in_bin(shown, stage, known, one) for shown in seen.values())
                for one in range(1, num_bins + 1)
            ),
        )
        for stage in next(iter(seen.values())).stages
    ]
    return Table(
        name="pruned-by-bin",
        title=f"Pruned share by size of domain · {row.method} on {row.backbone} · {part.comparison.title}",
        columns=tuple(f"BIN{one.bin}" for one in result.bins),
        lines=tuple(lines),
        notes=(
            "Bins: domains by training rows, largest first, in equal shares of rows; share over test rows.",
            *_seeds_note(row, seen),
        ),
    )


def _pruned_in_bin(shown: Inspection, stage: str, bin_of: Mapping[int, int], wanted: int) -> float | None:
    """Return the pruned share of a site over a bin's test rows; None where it has none."""
    weights = np.array(
        [
            rows if bin_of[domain] == wanted else 0
            for domain, rows in zip(shown.domain_D.tolist(), shown.rows_D.tolist(), strict=True)
        ]
    )
    kept_DN = shown.site(stage).kept_DN
    return float(np.average(1.0 - kept_DN.mean(1), weights=weights)) if weights.any() else None


_DRAWINGS: dict[Drawing, Callable[[Study, Sequence[Part], RunStore], _Drawn]] = {
    "table": _draw_table,
    "bins": _draw_bins,
    "domains": _draw_auc,
    "pcoc": _draw_pcoc,
    "domain_sets": _draw_domain_sets,
    "sparsity": _draw_sparsity,
    "masks": _draw_masks,
}
