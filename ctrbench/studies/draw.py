"""The output of a study: tables and charts in the paper's form, from the records of its runs. Nothing is run here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table as RichTable

from ctrbench.errors import ContractError, StoreError
from ctrbench.names import Column, DomainColumn
from ctrbench.plain_text import file_name
from ctrbench.report.csv_files import overall_csv, tidy_csv
from ctrbench.report.formats import latex, markdown, terminal_tables
from ctrbench.report.plots import render_chart
from ctrbench.report.summary import summarize
from ctrbench.report.table import Table
from ctrbench.report.tables import narrow_tables
from ctrbench.runs.store import RunStore
from ctrbench.storage.files import write_files
from ctrbench.studies.drawing import Domain, Drawn, Part, make_part
from ctrbench.studies.plan import PlannedPart
from ctrbench.studies.study import Study


@dataclass(frozen=True, kw_only=True)
class StudyFiles:
    """The files that a study wrote, and its tables for a terminal."""

    paths: tuple[Path, ...]
    terminal: tuple[RichTable, ...]


def draw_runs(study: Study, planned: Iterable[PlannedPart], *, store: RunStore, out: Path) -> StudyFiles:
    """Draw a study from the stored records of its runs; see `draw_study`."""
    return draw_study(study, [_read_part(part, store) for part in planned], store=store, out=out)


def _read_part(planned: PlannedPart, store: RunStore) -> Part:
    records = [record for run in planned.runs if (record := store.find(run.key)) is not None]
    features = planned.prepared.manifest.domain_sets[planned.domain_set].features
    table = planned.prepared.domain_table(planned.domain_set)
    columns = table.select(Column.DOMAIN, DomainColumn.KEY, *features)
    domains = {
        domain: Domain(name=name, values=tuple(values)) for domain, name, *values in columns.iter_rows()
    }
    return make_part(records, labels=planned.labels, domains=domains)


def draw_study(study: Study, parts: Sequence[Part], *, store: RunStore, out: Path) -> StudyFiles:
    """Write the tables and charts of a study to a folder, all of them or none.

    Raises `StoreError` if a domain set has no result.
    """
    for part in parts:
        if not part.comparison.records:
            reasons = " ".join(dict.fromkeys(f"{row.method}: {row.reason}" for row in part.comparison.rows))
            raise StoreError("no run of a study has a result", value=part.comparison.title, remedy=reasons)
    drawn = _call_drawing(study, parts, store)
    notice = parts[0].comparison.notice
    tables = [replace(_with_source(table, study), notice=notice) for table in drawn.tables]
    narrow = [part for table in tables for part in narrow_tables(table)]
    texts = {
        "table.md": "\n".join(map(markdown, tables)),
        "table.tex": "\n".join(map(latex, narrow)),
        "runs.csv": overall_csv([summarize(part.comparison) for part in parts]),
        **({"data.csv": tidy_csv(drawn.data)} if drawn.data else {}),
    }
    files = {out / name: text.encode() for name, text in texts.items()}
    for stem, chart in drawn.charts:
        if chart is not None:
            files |= render_chart(chart, out / file_name(stem))
    terminal = tuple(terminal_tables(tables))
    write_files(files)
    return StudyFiles(paths=tuple(files), terminal=terminal)


def _call_drawing(study: Study, parts: Sequence[Part], store: RunStore) -> Drawn:
    drawn: object = study.drawing.draw(parts, store=store)
    if not isinstance(drawn, Drawn):
        raise ContractError(
            "draw() of a drawing must return Drawn",
            value=f"{study.draw} returned {type(drawn).__name__}",
            remedy="return Drawn(tables=…, charts=…, data=…)",
        )
    return drawn


def _with_source(table: Table, study: Study) -> Table:
    source = f"After {study.source}." if study.source else ""
    notes = tuple(note for note in (source, study.note) if note)
    return replace(table, title=f"{study.title} · {table.title}", notes=(*table.notes, *notes))
