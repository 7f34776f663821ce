"""What the command line shows: tables, and progress that is live on a terminal and plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from textwrap import shorten
from typing import TYPE_CHECKING, Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ctrbench.names import Column, DomainColumn, Metric, Split

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

    from ctrbench.contract.check import Finding
    from ctrbench.cost.explain import Explanation, PairCost
    from ctrbench.cost.tree import Part, PlanCost
    from ctrbench.data.generated import Outlook
    from ctrbench.data.prepared import Prepared
    from ctrbench.nn.stages import Stage
    from ctrbench.plugins.finder import Plugin
    from ctrbench.plugins.registry import PlugKind
    from ctrbench.report.write import ReportFiles
    from ctrbench.runs.grid import Run
    from ctrbench.runs.record import RunRecord
    from ctrbench.runs.store import RunStore
    from ctrbench.speed.bench import Line, Report, Started
    from ctrbench.speed.measure import Figures
    from ctrbench.studies.plan import Planned
    from ctrbench.studies.study import Study

    Measured = Sequence[tuple[Line, Figures]]
    from ctrbench.train.loop import Tick

SEES, GROWS = "Uses", "Parameters per domain"
"""Lines of a method's docstring."""

LISTING_COLUMNS = 110
"""Width from which on methods are listed in six columns; below, their lines stand under one another."""

TREE_COLUMNS = 100
"""Width from which on the numbers of a plan are written in full."""

PLAIN_SECONDS = 10.0
"""Seconds between lines about the same run, where there is no terminal."""

SPEED_COLUMNS = 120
"""Width of the tables about speed where there is no terminal to fit into."""

console = Console()
progress_console = Console(stderr=True)


class PhaseReport(Protocol):
    """Hears which phase is under way and which share of it is done."""

    def __call__(self, phase: str, done: float) -> None:
        """`done` is in [0, 1]."""


@contextmanager
def phases() -> Iterator[PhaseReport]:
    """Show the phases of a preparation, one bar each; a line each where there is no terminal."""
    if not progress_console.is_terminal:
        yield _PlainPhases()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=progress_console) as progress:
        tasks: dict[str, TaskID] = {}

        def report(phase: str, done: float) -> None:
            if phase not in tasks:
                tasks[phase] = progress.add_task(phase, total=1.0)
            progress.update(tasks[phase], completed=done)

        yield report


class _PlainPhases:
    def __init__(self) -> None:
        self.seen: set[str] = set()

    def __call__(self, phase: str, done: float) -> None:
        if phase not in self.seen:
            self.seen.add(phase)
            progress_console.print(phase, highlight=False)


@contextmanager
def training(prepared: Prepared, grid: Sequence[Run], waiting: Sequence[Run]) -> Iterator[TrainingView]:
    """Show the runs under way."""
    known = len(grid) - len(waiting)
    manifest = prepared.manifest
    progress_console.print(
        f"{manifest.name}: {len(grid)} runs, {known} finished before, {len(waiting)} to make", highlight=False
    )
    if not progress_console.is_terminal:
        yield TrainingView(len(waiting), None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=progress_console) as progress:
        yield TrainingView(len(waiting), progress)


class TrainingView:
    """One line for all runs and one for each that is under way."""

    def __init__(self, num_runs: int, progress: Progress | None) -> None:
        self.num_runs, self.num_started, self.progress = num_runs, 0, progress
        self.tasks: dict[str, TaskID] = {}
        self.told: dict[str, float] = {}
        self.all = progress.add_task("all runs", total=num_runs, figures="") if progress else None

    def started(self, run: Run) -> None:
        """A run has begun."""
        self.num_started += 1
        title = f"[{self.num_started}/{self.num_runs}] {run.label}"
        self.told[run.key.digest] = time.monotonic()
        if self.progress is None:
            progress_console.print(f"{title}: started", highlight=False, markup=False)
        else:
            self.tasks[run.key.digest] = self.progress.add_task(escape(title), total=None, figures="")

    def ticked(self, run: Run, tick: Tick) -> None:
        """A run has gone on."""
        dev = "" if tick.dev_auc is None else f" · dev AUC {tick.dev_auc:.4f}"
        figures = f"epoch {tick.epoch}/{tick.epochs} · loss {tick.loss:.4f} · {tick.rows_per_second:,.0f} rows/s{dev}"
        if self.progress is not None:
            task = self.tasks[run.key.digest]
            self.progress.update(task, completed=tick.step, total=tick.steps, figures=figures)
        elif time.monotonic() - self.told[run.key.digest] > PLAIN_SECONDS:
            self.told[run.key.digest] = time.monotonic()
            line = f"{run.label}: step {tick.step}/{tick.steps} · {figures}"
            progress_console.print(line, highlight=False, markup=False)

    def finished(self, run: Run, record: RunRecord) -> None:
        """A run has ended, well or not."""
        if self.progress is not None:
            self.progress.remove_task(self.tasks.pop(run.key.digest))
            self.progress.advance(self.all or TaskID(0))
        line = f"{run.label}: {_outcome(record)}"
        (self.progress.console if self.progress else progress_console).print(
            line, highlight=False, markup=False
        )


def _outcome(record: RunRecord) -> str:
    if record.result is None:
        return f"{record.status}: {record.error}"
    test, seconds = record.result.test, sum(record.measured.seconds.values())
    return (
        f"AUC {_number(test.get(Metric.AUC), 4)} · GAUC {_number(test.get(Metric.GAUC), 4)}"
        f" · log-loss {_number(test.get(Metric.LOGLOSS), 5)} · {seconds:.0f} s"
    )


def _number(value: float | None, digits: int) -> str:
    return "undefined" if value is None else f"{value:.{digits}f}"


def show_prepared(prepared: Prepared, domain_set: str) -> None:
    """Print what `prepare` made."""
    from ctrbench.data.prepare import summary

    facts = summary(prepared, domain_set)
    manifest = prepared.manifest
    table = Table(title=f"{manifest.title} ({manifest.name})", title_justify="left")
    for heading in ("split", "rows", "positives", "CTR", "rows of unseen domains"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for split in Split:
        info = manifest.splits[split]
        unseen = manifest.domain_sets[domain_set].rows_unseen.get(split, 0)
        share = f"{info.positives / info.rows:.2%}"
        table.add_row(
            split, f"{info.rows:,}", f"{info.positives:,}", share, f"{unseen:,} ({unseen / info.rows:.2%})"
        )
    console.print(table)
    features = ", ".join(manifest.domain_sets[domain_set].features)
    console.print(
        f"{len(manifest.fields)} features · {facts.num_domains} domains by {features}: training rows "
        f"{facts.largest:,} (largest), {facts.median:,.0f} (median), {facts.smallest:,} (smallest)",
        highlight=False,
    )
    others = [name for name in manifest.domain_sets if name != domain_set]
    if others:
        console.print(f"other domain sets: {', '.join(others)}", highlight=False)
    if manifest.note:
        console.print(manifest.note, highlight=False, markup=False)
    console.print(f"in {prepared.folder}", highlight=False, soft_wrap=True)


def show_outlook(outlook: Outlook) -> None:
    """Print what generated data would take; nothing is made."""
    lines = [
        f"{outlook.rows:,} rows, {outlook.domains:,} domains, {outlook.users:,} users, {outlook.items:,} items",
        f"{outlook.bytes / 1e9:,.1f} GB on disk ({outlook.bytes_a_row:.0f} bytes a row), none with --on-the-fly"
        if outlook.bytes
        else "nothing on disk: every reading makes the rows anew",
        f"{outlook.rows_per_second:,.0f} rows/s a process here, "
        f"{'writing included' if outlook.bytes else 'what preparing counts alone'} "
        f"(a sample of {outlook.sample:,} rows was made)",
    ]
    for machines in (1, 2, 4, 8, 16):
        hours = outlook.hours(outlook.processes * machines)
        machine = "this machine" if machines == 1 else f"{machines} machines like it"
        lines.append(f"{hours:8.2f} hours on {machine} ({outlook.processes * machines} processes)")
    console.print("\n".join(lines), highlight=False)


def show_domains(prepared: Prepared, domain_set: str, domains: pl.DataFrame, top: int) -> None:
    """Print the largest domains of a set."""
    features = " · ".join(prepared.manifest.domain_sets[domain_set].features)
    table = Table(title=f"{prepared.manifest.name}: domains by {features}", title_justify="left")
    for heading in ("domain", "key", *(f"rows {split}" for split in Split), "CTR train", "CTR test"):
        table.add_column(heading, justify="left" if heading == "key" else "right")
    for row in domains.head(top + 1).iter_rows(named=True):
        counts = [row[DomainColumn.ROWS.format(split=split)] for split in Split]
        positives = [row[DomainColumn.POSITIVES.format(split=split)] for split in Split]
        rates = [_share(positives[place], counts[place]) for place in (0, 2)]
        key = row[DomainColumn.KEY] if row[Column.DOMAIN] else "(unseen in training)"
        table.add_row(str(row[Column.DOMAIN]), key, *(f"{count:,}" for count in counts), *rates)
    console.print(table)
    if len(domains) > top + 1:
        console.print(f"… and {len(domains) - top - 1:,} more (--top N shows more)", highlight=False)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else "–"


def show_runs(grid: Sequence[Run], store: RunStore) -> None:
    """Print a line a run, whenever it was made, and below why runs failed."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for heading in ("method", "backbone", "seed", "AUC", "GAUC", "log-loss", "epoch", "s"):
        table.add_column(
            heading, justify="left" if heading in ("method", "backbone") else "right", no_wrap=True
        )
    problems = []
    for run in grid:
        record = store.find(run.key)
        if record is None:
            continue
        if record.result is None:
            problems.append(f"{run.label}: {_outcome(record)}")
            continue
        test = record.result.test
        table.add_row(
            run.key.method.name,
            run.key.backbone.name,
            str(run.key.seed),
            _number(test.get(Metric.AUC), 4),
            _number(test.get(Metric.GAUC), 4),
            _number(test.get(Metric.LOGLOSS), 5),
            str(record.result.best_epoch),
            f"{record.measured.seconds.get('train', 0.0):.1f}",
        )
    console.print(table)
    for problem in problems:
        console.print(problem, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def measuring() -> Iterator[Started]:
    """Show which case is measured; a line each where there is no terminal."""
    if not progress_console.is_terminal:
        yield lambda name, number, total: progress_console.print(
            f"[{number}/{total}] {name}", highlight=False, markup=False, soft_wrap=True
        )
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=progress_console, transient=True) as progress:
        task = progress.add_task("what the machine can do", total=None)
        yield lambda name, number, total: progress.update(
            task, description=escape(name), completed=number - 1, total=total
        )


def show_speed(report: Report) -> None:
    """Print where the time of a step goes, then size and bounds, and below why cases have no figures."""
    machine, roofs = report.machine, report.roofs
    measured = [(line, line.figures) for line in report.lines if line.figures is not None]
    if measured:
        data = f"{measured[0][0].data}, {measured[0][0].rows:,} rows"
        threads = f"{machine['threads']} thread{'' if machine['threads'] == 1 else 's'}"
        device = machine.get("gpu") or f"{machine['cpu']}, {threads}"
        wide = console if console.is_terminal else Console(width=max(console.width, SPEED_COLUMNS))
        wide.print(_speed_table(f"Milliseconds a step; {data}; {device}", measured))
        wide.print(_bounds_table("Size, and the milliseconds that a step takes at least", measured))
    console.print(
        f"bounds are for {roofs.gflops:,.0f} GFLOP/s in matrix products and "
        f"{roofs.gigabytes_per_second:,.1f} GB/s in copying, measured now",
        highlight=False,
        soft_wrap=True,
    )
    for line in report.lines:
        if line.reason is not None:
            console.print(f"{line.label}: {line.reason}", highlight=False, markup=False, soft_wrap=True)


def _speed_table(title: str, measured: Measured) -> Table:
    phases = measured[0][1].phases_ms
    table = _case_table(title, "rows/s", "step", *(_SHORT.get(phase, phase) for phase in phases))
    for line, figures in measured:
        times = (figures.ms_per_step, *figures.phases_ms.values())
        table.add_row(*_case(line), f"{figures.rows_per_second:,.0f}", *map(_three_digits, times))
    return table


def _bounds_table(title: str, measured: Measured) -> Table:
    weights = (f"{_SHORT.get(kind, kind)}\nweights" for kind in measured[0][1].parameters)
    table = _case_table(
        title, "rows\na step", "memory\nMB", *weights, "arith-\nmetic", "band-\nwidth", "reached"
    )
    for line, figures in measured:
        memory, bounds = figures.peak_memory_bytes, figures.bounds
        table.add_row(
            *_case(line),
            f"{figures.rows_per_step:,.0f}",
            "–" if memory is None else f"{memory / 1e6:,.0f}",
            *map(_count, figures.parameters.values()),
            _three_digits(bounds.arithmetic_ms),
            _three_digits(bounds.bandwidth_ms),
            f"{figures.closeness:.0f} %",
        )
    return table


_SHORT = {"embedding": "embed", "optimiser": "optim", "per_domain": "domain"}


def _case_table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("method", overflow="fold")
    table.add_column("backbone", overflow="fold")
    for heading in ("domains", "batch", *headings):
        table.add_column(heading, justify="right")
    return table


def _case(line: Line) -> tuple[str, ...]:
    return escape(line.method), escape(line.backbone), f"{line.domains:,}", f"{line.batch_size:,}"


def _three_digits(value: float) -> str:
    """Write a number with three digits that count, or more where more stand before the point."""
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:,.{min(4, max(0, digits))}f}"


def _count(number: int) -> str:
    for unit, sign in ((1_000_000, "M"), (1_000, "k")):
        if number >= unit:
            return f"{_three_digits(number / unit)}{sign}"
    return str(number)


def show_report(files: ReportFiles) -> None:
    """Print the tables of a report and where everything was written."""
    for table in files.terminal:
        console.print(table)
    for file in files.paths:
        console.print(str(file), highlight=False, soft_wrap=True)


def show_study(study: Study, parts: Sequence[Planned], store: RunStore, out: Path) -> None:
    """Draw a study from the records of its runs; print its tables and where everything was written."""
    from ctrbench.studies.draw import Domain, draw_study, make_part

    drawn = []
    for part in parts:
        records = [record for run in part.runs if (record := store.find(run.key)) is not None]
        features = part.prepared.manifest.domain_sets[part.domain_set].features
        table = part.prepared.domain_table(part.domain_set).select(Column.DOMAIN, DomainColumn.KEY, *features)
        domains = {
            domain: Domain(name=name, values=tuple(values)) for domain, name, *values in table.iter_rows()
        }
        drawn.append(make_part(records, labels=part.labels, domains=domains))
    files = draw_study(study, drawn, store=store, out=out)
    for one in files.terminal:
        console.print(one)
    for file in files.paths:
        console.print(str(file), highlight=False, soft_wrap=True)


def show_studies(what: str) -> None:
    """List the studies that come with ctrbench."""
    import tomllib

    from ctrbench.studies.study import bundled_studies

    table = Table(title=what, title_justify="left")
    for heading in ("name", "what it shows", "after"):
        table.add_column(heading)
    for name, file in bundled_studies().items():
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        table.add_row(name, content.get("title", ""), content.get("source", ""))
    console.print(table)


def show_datasets(what: str) -> None:
    """List bundled cards and what is prepared."""
    import tomllib

    from ctrbench.data.card import bundled_cards
    from ctrbench.data.home import prepared_names

    prepared = prepared_names()
    cards = bundled_cards()
    table = Table(title=what, title_justify="left")
    for heading in ("name", "what it is", "prepared"):
        table.add_column(heading)
    for name, file in cards.items():
        title = tomllib.loads(file.read_text(encoding="utf-8")).get("title", "")
        table.add_row(name, title, "yes" if name in prepared else "")
    for name in prepared:
        if name not in cards:
            table.add_row(name, "", "yes")
    console.print(table)


def show_plugins(what: str) -> None:
    """List methods or backbones, read from their files, and the presets of them."""
    from ctrbench.plugins.registry import ALL, plugins, presets

    kind: PlugKind = "methods" if what == "methods" else "backbones"
    found = plugins(kind).values()
    if kind == "backbones":
        table = _listing(what, "name", "what it is", "paper", "year")
        for plugin in found:
            table.add_row(plugin.name, _what(plugin), _paper(plugin), _year(plugin))
    elif console.width >= LISTING_COLUMNS:
        table = _listing(what, "name", "what it does", "paper", "year", SEES.lower(), GROWS.lower())
        for plugin in found:
            tags = (escape(plugin.tag(name)) for name in (SEES, GROWS))
            table.add_row(plugin.name, _what(plugin, 90), _paper(plugin), _year(plugin), *tags)
    else:
        table = _listing(what, "name", "what it does, paper, uses, parameters per domain")
        for plugin in found:
            lines = (
                _what(plugin, console.width - 22),
                f"[dim]{_paper(plugin)} · {_year(plugin)}[/]" if _year(plugin) else "",
                f"uses: {escape(plugin.tag(SEES))}",
                f"per domain: {escape(plugin.tag(GROWS))}",
            )
            table.add_row(plugin.name, "\n".join(filter(None, lines)))
    console.print(table)
    for name, several in presets(kind).items():
        listed = "every one of these" if name == ALL else ", ".join(several)
        console.print(f"{name}: {listed}", highlight=False, markup=False)


def _listing(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.expand = any(heading in _WEIGHTS for heading in headings)
    for heading in headings:
        table.add_column(heading, no_wrap=heading in ("name", "year"), ratio=_WEIGHTS.get(heading))
    return table


_WEIGHTS = {"what it does": 8, "paper": 5, "uses": 6, "parameters per domain": 7}
"""Shares of the width that is left."""


def _what(plugin: Plugin, width: int | None = None) -> str:
    """Return what a plug-in does, cut where room is short."""
    text = (plugin.summary.partition(": ")[2] or plugin.summary).rstrip(".")
    return escape(text if width is None else shorten(text, width, placeholder=" …"))


def _paper(plugin: Plugin) -> str:
    """Return authors and place; titles are for the page about methods."""
    authors, *rest = plugin.tag("Paper").split(", ")
    is_none = authors.startswith("none")
    return "" if is_none else escape(", ".join((authors, *rest[-1:])))


def _year(plugin: Plugin) -> str:
    year = plugin.tag("Year")
    return "" if year == "none" else escape(year)


def show_findings(findings: Iterable[Finding]) -> bool:
    """Print what the contract found, failures explained; return whether all is well."""
    findings = tuple(findings)
    table = Table(title="the contract", title_justify="left")
    backbones = list(dict.fromkeys(finding.backbone for finding in findings))
    for heading in ("rule", *backbones):
        table.add_column(escape(heading))
    for rule in dict.fromkeys(finding.rule for finding in findings):
        states = {finding.backbone: finding for finding in findings if finding.rule == rule}
        table.add_row(rule, *(_state(states.get(one)) for one in backbones))
    console.print(table)
    for finding in findings:
        if not finding.ok or finding.is_skipped:
            line = f"{finding.backbone}: {finding.rule}: {finding.sentence}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    failed = sum(not finding.ok for finding in findings)
    console.print(f"{len(findings) - failed} passed, {failed} failed", highlight=False)
    return not failed


def show_matrix(methods: Sequence[str], check: Callable[[str], Iterable[Finding]]) -> bool:
    """Check methods one after the other; print a line each, and failures explained; return whether all is well."""
    found: dict[str, tuple[Finding, ...]] = {}
    for number, method in enumerate(methods, start=1):
        progress_console.print(f"[{number}/{len(methods)}] {method}", highlight=False, markup=False)
        found[method] = tuple(check(method))
    everything = [(method, finding) for method, findings in found.items() for finding in findings]
    backbones = list(dict.fromkeys(finding.backbone for _, finding in everything))
    # By number: the names of a dozen backbones side by side fit no terminal.
    for number, backbone in enumerate(backbones, start=1):
        console.print(f"{number:3} {backbone}", highlight=False, markup=False)
    table = _listing("the contract", "name", *map(str, range(1, len(backbones) + 1)))
    for method, findings in found.items():
        table.add_row(escape(method), *(_verdict(findings, backbone) for backbone in backbones))
    console.print(table)
    console.print(
        "ok: every rule holds; –: skipped, the method says why; 2!: two rules are broken", highlight=False
    )
    failures = [(method, finding) for method, finding in everything if not finding.ok]
    for method, finding in failures:
        line = f"{method} × {finding.backbone}: {finding.rule}: {finding.sentence}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(f"{len(everything) - len(failures)} passed, {len(failures)} failed", highlight=False)
    return not failures


def _verdict(findings: Iterable[Finding], backbone: str) -> str:
    """Say how a method does on a backbone: ok, – for skipped, or how many rules it breaks."""
    here = [finding for finding in findings if finding.backbone == backbone]
    failed = sum(not finding.ok for finding in here)
    if failed:
        return f"{failed}!"
    return "–" if any(finding.is_skipped for finding in here) else "ok" if here else ""


def show_costs(pairs: Sequence[PairCost], *, memory: int) -> None:
    """Print what each method costs on each backbone, before it is trained; below, why that cannot be said.

    `memory` is what the largest run takes, in bytes.
    """
    title = "Parameters, and multiply-adds of a row forward; training makes about three times as many"
    table = _listing(title)
    for heading in ("method", "backbone"):
        table.add_column(heading, overflow="fold")
    for heading in ("embed", "shared", "per domain", "multiply-\nadds a row", "× plain", "indicator"):
        table.add_column(heading, justify="left" if heading == "indicator" else "right")
    for pair in pairs:
        if pair.cost is not None:
            counts = (pair.cost.embedding, pair.cost.shared, pair.cost.per_domain, pair.cost.row)
            times = "–" if pair.times_plain is None else f"{pair.times_plain:.2f}"
            table.add_row(
                *map(escape, (pair.method, pair.backbone, *map(_count, counts), times, pair.indicator))
            )
    if table.row_count:
        progress_console.print(table)
        progress_console.print(f"memory of the largest run: about {memory / 1e9:.1f} GB", highlight=False)
    for pair in pairs:
        if pair.reason:
            line = f"{pair.method} × {pair.backbone}: {pair.reason}"
            progress_console.print(line, highlight=False, markup=False, soft_wrap=True)


def show_explanation(found: Explanation) -> None:
    """Print both plans as trees, and below what all of it costs."""
    before, after = found.before, found.after
    console.print(found.data, highlight=False, markup=False)
    names = (f"before: {found.backbone}", f"after: {found.method}")
    for name, one, other, sign in ((names[0], before, after, "-"), (names[1], after, before, "+")):
        title = f"{name}, {one.join}" if one.join else name
        console.print(_tree(title, one, _Changes(other.stages, sign), number=_in_full()))
    console.print(_totals(before, after, found.indicator))
    console.print(
        "Multiply-adds are those of matrix products in a forward pass; ~ changed, + new, - gone.",
        highlight=False,
    )


def _in_full() -> Callable[[int], str]:
    return (lambda value: f"{value:,}") if console.width >= TREE_COLUMNS else _count


class _Changes:
    """Marks the stages that another plan has not."""

    def __init__(self, others: Sequence[Stage], sign: str) -> None:
        self.others, self.sign = {stage.name: stage for stage in others}, sign

    def mark(self, part: Part) -> str:
        """Return the sign of a stage that is not there, `~` for one that is not the same."""
        if part.stage is None or self.others.get(part.stage.name) == part.stage:
            return ""
        return "~" if part.stage.name in self.others else self.sign


def _tree(title: str, account: PlanCost, changes: _Changes, *, number: Callable[[int], str]) -> Table:
    table = _listing(escape(title), "", "part", "kind")
    table.columns[1].no_wrap = True
    for heading in ("shape", "parameters", "per domain", "multiply-\nadds a row"):
        table.add_column(heading, justify="right", no_wrap=True)
    for guide, part in _branches(account.sections):
        cost, width = part.cost, "" if part.num_inputs is None else str(part.num_inputs)
        shape = "" if part.num_outputs is None else f"{width} → {part.num_outputs}".strip()
        counts = (
            number(value) if value else ""
            for value in (cost.embedding + cost.shared, cost.per_domain, cost.row)
        )
        style = "dim" if not guide else None
        table.add_row(
            changes.mark(part), escape(f"{guide}{part.name}"), escape(part.kind), shape, *counts, style=style
        )
    return table


def _branches(parts: Sequence[Part], guide: str = "", *, is_root: bool = True) -> Iterator[tuple[str, Part]]:
    """Yield each part with the lines that lead to it."""
    for place, part in enumerate(parts, start=1):
        is_last = place == len(parts)
        yield "" if is_root else f"{guide}{'└─ ' if is_last else '├─ '}", part
        below = "" if is_root else f"{guide}{'   ' if is_last else '│  '}"
        yield from _branches(part.parts, below, is_root=False)


def _totals(before: PlanCost, after: PlanCost, indicator: str) -> Table:
    table = _listing("in all", "")
    for heading in ("before", "after", "difference", "×"):
        table.add_column(heading, justify="right")
    own = f"per-domain parameters, by {indicator}" if indicator else "per-domain parameters"
    lines = {
        "embedding parameters": (before.cost.embedding, after.cost.embedding),
        "shared parameters": (before.cost.shared, after.cost.shared),
        own: (before.cost.per_domain, after.cost.per_domain),
        "multiply-adds of a row": (before.cost.row, after.cost.row),
        "beyond its rows, of a batch of one domain": (before.cost.once, after.cost.once),
        f"of {after.batch_rows:,} rows of {after.batch_domains:,} domains": (before.batch, after.batch),
    }
    for name, (one, two) in lines.items():
        times = f"{two / one:.2f}" if one and two != one else ""
        table.add_row(escape(name), f"{one:,}", f"{two:,}", f"{two - one:+,}" if two != one else "", times)
    return table


def _state(finding: Finding | None) -> str:
    if finding is None:
        return ""
    if finding.is_skipped:
        return "skipped"
    return "ok" if finding.ok else "FAILED"
