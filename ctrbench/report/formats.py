"""Tables in each form that people take them away in: Markdown, LaTeX, the terminal and tidy CSV.

The first three show the same rounded cells. The CSV files are for computing: one number a line, unrounded, with all
that names it, so that no reader has to parse a table.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence

from rich.table import Table as RichTable
from rich.text import Text

from ctrbench.eval.significance import Standing
from ctrbench.names import Metric
from ctrbench.report.bins import BIN_METRICS, BinTable
from ctrbench.report.comparison import (
    Comparison,
    Estimate,
    Row,
    domain_gain,
    estimate,
    gain,
    higher_is_better,
    stand,
)
from ctrbench.report.tables import COST, DASH, QUALITY, Cell, Line, Mark, Table, quality_and_cost

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "†": r"$^{\dagger}$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "–": "--",
    "…": r"\dots{}",
}
_STYLES = {
    "backbone": "bold cyan",
    "variant": "dim",
    "gain": "dim",
    "oracle": "italic",
    "fact": "dim",
    "method": "",
}


def markdown(table: Table) -> str:
    """Return a Markdown table with its title and footnotes."""
    head = ["", *map(markdown_text, table.columns)]
    rule = [":--", *("--:" for _ in table.columns)]
    lines = [_markdown_line(line, len(table.columns)) for line in table.lines]
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))
    notes = "\n".join(f"- {markdown_text(note)}" for note in (*table.remarks, *table.footnotes))
    notice = f"**{markdown_text(table.notice)}**\n\n" if table.notice else ""
    return f"### {markdown_text(table.title)}\n\n{notice}{body}\n\n{notes}\n"


def _markdown_line(line: Line, num_columns: int) -> list[str]:
    indent = {"variant": "&nbsp;&nbsp;&nbsp;&nbsp;", "gain": "&nbsp;&nbsp;&nbsp;&nbsp;"}.get(line.kind, "")
    label = markdown_text(line.label)
    label = f"**{label}**" if line.kind == "backbone" else f"*{label}*" if line.kind == "oracle" else label
    cells = [_markdown_cell(cell) for cell in line.cells] or [""] * num_columns
    if line.remark:
        cells = [DASH] * num_columns
    return [indent + label, *cells]


def _markdown_cell(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.mark is Mark.BEST else cell.text
    spread = f" ± {cell.spread}" if cell.spread else ""
    return f"{text}{spread}{_sign(cell).replace('*', '&#42;')}"


def markdown_text(text: str) -> str:
    """Escape what Markdown would read as markup."""
    for character in "\\|*_[]<>`":
        text = text.replace(character, f"\\{character}")
    return text


def _sign(cell: Cell) -> str:
    return f" {cell.mark}" if cell.mark in (Mark.NOT_SIGNIFICANT, Mark.CLEAR) else ""


def latex(table: Table) -> str:
    """Return a LaTeX `table*` for the booktabs package, every text escaped."""
    body = "\n".join(_latex_lines(table))
    columns = " & ".join(["", *(escape_latex(column) for column in table.columns)])
    notes = " ".join(escape_latex(note) for note in (*table.remarks, *table.footnotes))
    return (
        "% needs \\usepackage{booktabs}\n"
        "\\begin{table*}[t]\n\\centering\\footnotesize\\setlength{\\tabcolsep}{5pt}\n"
        f"\\caption{{{escape_latex(_caption(table))}}}\n\\label{{tab:{_slug(table.title)}}}\n"
        f"\\begin{{tabular}}{{l{'r' * len(table.columns)}}}\n\\toprule\n{columns} \\\\\n{body}\n\\bottomrule\n"
        f"\\end{{tabular}}\n\\par\\smallskip\\raggedright\\scriptsize {notes}\n\\end{{table*}}\n"
    )


def _caption(table: Table) -> str:
    return f"{table.title}. {table.notice}" if table.notice else table.title


def _slug(title: str) -> str:
    """Return a label that differs wherever titles do: a report may hold several comparisons."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def escape_latex(text: str) -> str:
    """Escape every character that LaTeX reads as a command, and write the signs we use as commands.

    >>> escape_latex("adasparse[r_min=5%]")
    'adasparse[r\\\\_min=5\\\\%]'
    """
    return "".join(_LATEX.get(character, character) for character in text)


def _latex_lines(table: Table) -> Iterable[str]:
    was_rule = False
    for line in table.lines:
        if line.kind in ("backbone", "oracle") or not was_rule:
            yield r"\midrule"
            was_rule = True
        yield _latex_line(line, table.spreads)


def _latex_line(line: Line, spreads: Sequence[str]) -> str:
    width = len(spreads)
    label = escape_latex(line.label)
    if line.kind == "backbone":
        return rf"\multicolumn{{{width + 1}}}{{l}}{{\textbf{{{label}}}}} \\"
    indent = {"oracle": "", "fact": "", "method": r"\quad "}.get(line.kind, r"\qquad ")
    styled = rf"\textit{{{label}}}" if line.kind in ("oracle", "variant", "gain") else label
    if line.remark:
        return " & ".join([f"{indent}{styled}", *(escape_latex(DASH) for _ in spreads)]) + r" \\"
    return " & ".join([f"{indent}{styled}", *map(_latex_cell, line.cells, spreads)]) + r" \\"


def _latex_cell(cell: Cell, room: str) -> str:
    text = escape_latex(cell.text)
    text = rf"\textbf{{{text}}}" if cell.mark is Mark.BEST else text
    spread = rf"\,{{\scriptsize$\pm$\,{escape_latex(cell.spread or room)}}}" if cell.spread or room else ""
    spread = spread if cell.spread or not (spread and text) else rf"\phantom{{{spread}}}"
    # Signs take no room, so that the digits of a column stay under each other.
    sign = {Mark.NOT_SIGNIFICANT: r"\rlap{$^{\dagger}$}", Mark.CLEAR: r"\rlap{$^{*}$}"}.get(cell.mark, "")
    return f"{text}{spread}{sign}" if text else ""


def terminal_tables(tables: Iterable[Table]) -> list[RichTable]:
    """Return the tables for a terminal; Table 1 as two, quality and cost, so that it fits."""
    return [_rich(narrow) for table in tables for narrow in _narrow(table)]


def _narrow(table: Table) -> tuple[Table, ...]:
    return quality_and_cost(table) if table.columns == (*QUALITY, *COST) else (table,)


def _rich(table: Table) -> RichTable:
    remarks = () if table.name == "cost" else table.remarks
    notes = "\n".join((*remarks, *table.notes)).replace("Bold:", "Bold and •:")
    shown = RichTable(
        title=Text("\n".join(filter(None, (table.title, table.notice))), style="bold"),
        title_justify="left",
        caption=Text(notes, style="dim") if notes else None,
        caption_justify="left",
        box=None,
        pad_edge=False,
        header_style="dim",
    )
    shown.add_column("", no_wrap=True)
    for column in table.columns:
        shown.add_column(column, justify="right")
    for line in table.lines:
        shown.add_row(*_rich_cells(line, len(table.columns)), style=_STYLES[line.kind])
    return shown


def _rich_cells(line: Line, num_columns: int) -> list[Text]:
    indent = {"backbone": "", "oracle": "", "fact": "", "method": "  "}.get(line.kind, "    ")
    cells = [_rich_cell(cell) for cell in line.cells] or [Text("")] * num_columns
    if line.remark:
        cells = [Text(DASH)] * num_columns
    return [Text(indent + line.label), *cells]


def _rich_cell(cell: Cell) -> Text:
    # Marks stand before the number, so that the digits of a right-aligned column stay under each other; the best has
    # one too, since bold type is lost in a pipe.
    sign = "•" if cell.mark is Mark.BEST else cell.mark
    text = Text(f"{sign}{cell.text}", style="bold green" if cell.mark is Mark.BEST else "")
    if cell.spread:
        # ±.0012 for ±0.0012: narrow columns, nothing lost.
        text.append(f" ±{cell.spread.removeprefix('0')}", style="dim")
    return text


OVERALL_COLUMNS = (
    "comparison",
    "dataset",
    "data_digest",
    "domain_set",
    "domain_features",
    "indicator",
    "backbone",
    "method",
    "variant",
    "metric",
    "mean",
    "std",
    "seeds",
    "failed",
    "is_best",
    "is_tied",
    "p_holm",
    "gain_mean",
    "gain_std",
    "gain_seeds",
    "gain_domains_low",
    "gain_domains_high",
    "backbone_settings",
    "method_settings",
)
BIN_COLUMNS = (
    *OVERALL_COLUMNS[:8],
    "bin",
    "domains",
    "rows_train",
    "rows",
    "metric",
    "mean",
    "std",
    "seeds",
    "gain_mean",
    "gain_std",
    "gain_seeds",
    "gain_p_holm",
)


def overall_csv(comparisons: Sequence[Comparison]) -> str:
    """Return every metric of every row and variant, and the oracle's, one number a line."""
    lines = [
        {**_place(index, comparison, row), **line}
        for index, comparison in enumerate(comparisons, start=1)
        for row in comparison.rows
        for line in _metric_lines(comparison, row)
    ]
    oracles = [
        {**_base(index, comparison), "method": "oracle", "metric": metric, "mean": value}
        for index, comparison in enumerate(comparisons, start=1)
        for metric, value in sorted(comparison.oracle.items())
    ]
    return _csv(OVERALL_COLUMNS, [*lines, *oracles])


def bins_csv(tables: Sequence[BinTable]) -> str:
    """Return AUC and GAUC of every bin and row with the gain over the plain backbone, one number a line."""
    lines = [
        {**_place(index, table.comparison, row), **line}
        for index, table in enumerate(tables, start=1)
        for row in table.comparison.rows
        for line in _bin_lines(table, row)
    ]
    return _csv(BIN_COLUMNS, lines)


def tidy_csv(lines: Sequence[Mapping[str, object]]) -> str:
    """Return lines that all have the columns of the first."""
    return _csv(tuple(lines[0]), lines)


def _metric_lines(comparison: Comparison, row: Row) -> Iterable[dict[str, object]]:
    settings = {
        "failed": row.num_failed,
        "backbone_settings": json.dumps(row.key.backbone.settings, sort_keys=True),
        "method_settings": json.dumps(row.key.method.settings, sort_keys=True),
    }
    rivals = comparison.of_backbone(row.backbone)
    for metric in sorted({metric for result in row.results.values() for metric in result.test}):
        # Only metrics with a better end have a best row.
        ranked = {} if higher_is_better(metric) is None else stand(rivals, metric)
        standing = ranked.get((row.backbone, row.method))
        gained = _gain(comparison.plain(row.backbone), row, metric)
        found = row.estimate(metric)
        yield {"metric": metric, **_estimate(found), **_standing(standing), **gained, **settings}
    for name, found in _costs(row).items():
        yield {"metric": name, **_estimate(found), **settings}
    for variant in row.variants:
        metrics = {metric for result in row.results.values() for metric in result.variants.get(variant, {})}
        for metric in sorted(metrics):
            found = row.estimate(metric, variant=variant)
            yield {"variant": variant, "metric": metric, **_estimate(found), **settings}


def _gain(plain: Row | None, row: Row, metric: str) -> dict[str, object]:
    """Return the gain over the plain backbone, paired over seeds; GAUC's also with its interval over domains."""
    if plain is None or row is plain:
        return {}
    found = estimate(gain(row, plain, metric).values())
    gained = {f"gain_{name}": value for name, value in _estimate(found).items()}
    interval = domain_gain(row, plain) if metric == Metric.GAUC else None
    if interval is not None:
        gained |= {"gain_domains_low": interval.low, "gain_domains_high": interval.high}
    return gained


def _costs(row: Row) -> dict[str, Estimate | None]:
    parameters = row.parameters
    counts = parameters.model_dump() if parameters else {}
    found = {f"parameters_{name}": estimate([value]) for name, value in counts.items()}
    return {**found, "train_seconds": row.seconds()}


def _bin_lines(table: BinTable, row: Row) -> Iterable[dict[str, object]]:
    for one in table.bins:
        facts = {"bin": one.bin, "domains": one.domains, "rows_train": one.rows_train, "rows": one.rows}
        for metric in BIN_METRICS:
            gained = estimate(table.gains(row, one.bin, metric).values())
            shown = {f"gain_{name}": value for name, value in _estimate(gained).items()}
            p = table.p_values.get((row.backbone, row.method, one.bin, metric))
            found = _estimate(table.estimate(row, one.bin, metric))
            yield {**facts, "metric": metric, **found, **shown, "gain_p_holm": p}


def _base(index: int, comparison: Comparison) -> dict[str, object]:
    key = comparison.key
    return {
        "comparison": index,
        "dataset": key.dataset,
        "data_digest": key.data_digest,
        "domain_set": key.domain_set,
        "domain_features": ",".join(key.domain_features),
        "indicator": comparison.indicator,
    }


def _place(index: int, comparison: Comparison, row: Row) -> dict[str, object]:
    own = {"indicator": row.key.indicator, "backbone": row.backbone, "method": row.method}
    return {**_base(index, comparison), **own}


def _estimate(found: Estimate | None) -> dict[str, object]:
    if found is None:
        return {"mean": None, "std": None, "seeds": 0}
    return {"mean": found.mean, "std": found.std, "seeds": found.num}


def _standing(standing: Standing | None) -> dict[str, object]:
    if standing is None:
        return {}
    is_tied = None if standing.p_holm is None and not standing.is_best else standing.is_tied
    return {"is_best": standing.is_best, "is_tied": is_tied, "p_holm": standing.p_holm}


def _csv(columns: Sequence[str], lines: Iterable[Mapping[str, object]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({name: _csv_value(value) for name, value in line.items()} for line in lines)
    return out.getvalue()


def _csv_value(value: object) -> object:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else value
