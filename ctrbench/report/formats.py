"""Tables as Markdown, LaTeX and terminal output; all show the same rounded cells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rich.table import Table as RichTable
from rich.text import Text

from ctrbench.plain_text import one_line, printable
from ctrbench.report.table import DASH, Cell, Line, Mark, Table
from ctrbench.report.tables import narrow_tables

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
    text = markdown_text(cell.text)
    text = f"**{text}**" if cell.mark is Mark.BEST else text
    std = f" ± {cell.std}" if cell.std else ""
    return f"{text}{std}"


def markdown_text(text: str) -> str:
    """Return text in one line, with the characters escaped that Markdown reads as markup."""
    text = one_line(text)
    for character in "\\|*_[]<>`":
        text = text.replace(character, f"\\{character}")
    return text


def latex(table: Table) -> str:
    """Return a LaTeX `table*` for the booktabs package, with all text escaped."""
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
    """Return a label that is unique per title, as a report may hold several comparisons."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def escape_latex(text: str) -> str:
    """Escape every character that LaTeX reads as a command, and write the symbols of our tables as commands.

    >>> escape_latex("adasparse[r_min=5%]")
    'adasparse[r\\\\_min=5\\\\%]'
    """
    return "".join(_LATEX.get(character, character) for character in one_line(text))


def _latex_lines(table: Table) -> Iterable[str]:
    was_rule = False
    for line in table.lines:
        if line.kind in ("backbone", "oracle") or not was_rule:
            yield r"\midrule"
            was_rule = True
        yield _latex_line(line, table.stds)


def _latex_line(line: Line, stds: Sequence[str]) -> str:
    width = len(stds)
    label = escape_latex(line.label)
    if line.kind == "backbone":
        return rf"\multicolumn{{{width + 1}}}{{l}}{{\textbf{{{label}}}}} \\"
    indent = {"oracle": "", "fact": "", "method": r"\quad "}.get(line.kind, r"\qquad ")
    styled = rf"\textit{{{label}}}" if line.kind in ("oracle", "variant", "gain") else label
    if line.remark:
        return " & ".join([f"{indent}{styled}", *(escape_latex(DASH) for _ in stds)]) + r" \\"
    return " & ".join([f"{indent}{styled}", *map(_latex_cell, line.cells, stds)]) + r" \\"


def _latex_cell(cell: Cell, column_std: str) -> str:
    text = escape_latex(cell.text)
    text = rf"\textbf{{{text}}}" if cell.mark is Mark.BEST else text
    # Cells without a deviation leave as much space free, so that the digits of a column are aligned.
    std = rf"\,{{\scriptsize$\pm$\,{escape_latex(cell.std or column_std)}}}" if cell.std or column_std else ""
    std = std if cell.std or not (std and text) else rf"\phantom{{{std}}}"
    return f"{text}{std}" if text else ""


def terminal_tables(tables: Iterable[Table]) -> list[RichTable]:
    """Return the tables for a terminal; Table 1 as two, quality and cost, so that it fits."""
    return [_to_rich(narrow) for table in tables for narrow in narrow_tables(table)]


MAX_LABEL = 36
"""Largest width of labels on a terminal; longer ones are folded."""


def _to_rich(table: Table) -> RichTable:
    remarks = () if table.name == "cost" else table.remarks
    notes = "\n".join((*remarks, *table.notes)).replace("Bold:", "Bold and •:")
    rich_table = RichTable(
        title=Text(printable("\n".join(filter(None, (table.title, table.notice)))), style="bold"),
        title_justify="left",
        caption=Text(printable(notes), style="dim") if notes else None,
        caption_justify="left",
        box=None,
        pad_edge=False,
        header_style="dim",
    )
    rich_table.add_column("", overflow="fold", max_width=MAX_LABEL)
    for column in table.columns:
        rich_table.add_column(Text(one_line(column)), justify="right")
    for line in table.lines:
        rich_table.add_row(*_rich_cells(line, len(table.columns)), style=_STYLES[line.kind])
    return rich_table


def _rich_cells(line: Line, num_columns: int) -> list[Text]:
    indent = {"backbone": "", "oracle": "", "fact": "", "method": "  "}.get(line.kind, "    ")
    cells = [_rich_cell(cell) for cell in line.cells] or [Text("")] * num_columns
    if line.remark:
        cells = [Text(DASH)] * num_columns
    return [Text(indent + one_line(line.label)), *cells]


def _rich_cell(cell: Cell) -> Text:
    # The best has a sign before the number, since bold type is lost in a pipe.
    sign = "•" if cell.mark is Mark.BEST else ""
    text = Text(one_line(f"{sign}{cell.text}"), style="bold green" if cell.mark is Mark.BEST else "")
    if cell.std:
        # ±.0012 instead of ±0.0012, to save space.
        text.append(f" ±{cell.std.removeprefix('0')}", style="dim")
    return text
