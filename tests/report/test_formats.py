from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from ctrbench.eval.metrics.registry import MetricSet, builtin_metrics
from ctrbench.report.comparison import compare
from ctrbench.report.difference_table import difference_table
from ctrbench.report.footnotes import FEW_SEEDS_NOTE
from ctrbench.report.formats import escape_latex, latex, markdown, terminal_tables
from ctrbench.report.summary import summarize
from ctrbench.report.table import Cell, Line, Table
from ctrbench.report.tables import bins_table, overall_table, users_table
from ctrbench.runs.record import RunRecord

METRICS = ("logloss", "auc", "gauc", "gauc_coverage", "pcoc", "pcoc_error")
"""The metrics of the stored example; a further built-in metric does not change it."""


def overall(records: list[RunRecord]) -> Table:
    (comparison,) = compare(records)
    metrics = MetricSet.of(builtin_metrics().by_name[name] for name in METRICS)
    return overall_table(summarize(comparison, metrics=metrics))


def table_of(*lines: Line) -> Table:
    return Table(name="t", title="a_b & c", columns=("x|y", "z"), lines=lines)


def test_markdown_matches_the_stored_example(toy: list[RunRecord]) -> None:
    assert markdown(overall(toy)) == Path(__file__).with_name("overall.md").read_text(encoding="utf-8")


def test_markdown_escapes_names() -> None:
    text = markdown(
        table_of(Line(kind="method", label="my_m[a|b=*]", cells=(Cell(text="1"), Cell(text="2"))))
    )
    assert r"| my\_m\[a\|b=\*\] | 1 | 2 |" in text
    assert r"|  | x\|y | z |" in text


def test_markdown_explains_an_empty_line_below_the_table() -> None:
    lines = (Line(kind="backbone", label="pnn"), Line(kind="method", label="star", remark="No tower."))
    text = markdown(table_of(*lines))
    assert "| star | – | – |" in text
    assert "- star on pnn: No tower." in text


def test_latex_escapes_every_special_character() -> None:
    assert escape_latex("a_b & 5 % #1 ${x}$ ~^\\ <|>") == (
        r"a\_b \& 5 \% \#1 \$\{x\}\$ \textasciitilde{}\textasciicircum{}\textbackslash{} "
        r"\textless{}\textbar{}\textgreater{}"
    )


def test_latex_marks_the_best(six: list[RunRecord]) -> None:
    text = latex(overall(six))
    assert r"\textbf{0.7300}\,{\scriptsize$\pm$\,0.0767}" in text
    assert r"0.7100\,{\scriptsize$\pm$\,0.0110}" in text
    assert text.count(" & ") == (1 + 2) * 13


def test_latex_is_ascii(toy: list[RunRecord], record: Callable[..., RunRecord]) -> None:
    (comparison,) = compare([*toy, record(oracle={"auc": 0.8})])
    summary = summarize(comparison)
    tables = [overall_table(summary), bins_table(summary, "gauc")]
    assert all(latex(table).isascii() for table in tables)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_latex_compiles(toy: list[RunRecord], tmp_path: Path) -> None:
    body = latex(overall(toy)) + latex(table_of(Line(kind="method", label=r"\x_{$%", cells=(Cell(), Cell()))))
    head = r"\documentclass{article}\usepackage{booktabs}\begin{document}"
    (tmp_path / "t.tex").write_text(head + body + r"\end{document}")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "t.tex"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0


def printed(tables: list[Table], width: int) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    for table in terminal_tables(tables):
        console.print(table)
    return console.file.getvalue()


def test_terminal_shows_quality_then_cost(six: list[RunRecord]) -> None:
    text = printed([overall(six)], 100)
    assert "•0.7300 ±.0767" in text
    assert "0.7100 ±.0110" in text
    assert text.index("LogLoss") < text.index("embedding")


def test_terminal_does_not_break_names_at_80_columns(record: Callable[..., RunRecord]) -> None:
    runs = [record("adasparse", settings={"form": form}) for form in ("binarization", "fusion")]
    text = printed([overall(runs)], 80)
    assert "adasparse[form=binarization]" in text
    assert max(map(len, text.splitlines())) <= 80


def test_no_format_has_a_mark_or_a_verdict_below_six_seeds(six_with_users: list[RunRecord]) -> None:
    (comparison,) = compare([run for run in six_with_users if run.key.seed < 6])
    summary = summarize(comparison)
    tables = [
        overall_table(summary),
        difference_table(summary),
        bins_table(summary, "auc"),
        users_table(summary),
    ]
    for table in tables:
        text = f"{markdown(table)}{latex(table)}{printed([table], 200)}"
        assert not any(word in text for word in ("†", "dagger", "undecided", "better", "textbf{0", "•0"))
    assert [sum(FEW_SEEDS_NOTE in note for note in table.notes) for table in tables] == [1, 1, 0, 0]


def test_a_notice_is_right_under_the_title() -> None:
    table = replace(
        table_of(Line(kind="method", label="a", cells=(Cell(), Cell()))), notice="Synthetic data."
    )
    assert markdown(table).splitlines()[2] == "**Synthetic data.**"
    assert r". Synthetic data.}" in latex(table)
    assert "a_b & c Synthetic data." in " ".join(printed([table], 80).split())


HOSTILE = "a|`b`\n# c\x1b[31m$_"


@pytest.mark.parametrize("form", [markdown, latex])
def test_controls_and_line_breaks_of_names_and_cells_are_escaped(form: Callable[[Table], str]) -> None:
    line = Line(kind="method", label=HOSTILE, cells=(Cell(text=HOSTILE), Cell(text="2")))
    text, plain = form(table_of(line)), form(table_of(replace(line, label="a", cells=(Cell(text="1"),) * 2)))
    assert "\x1b" not in text
    assert text.count("\n") == plain.count("\n")


def test_markdown_escapes_cells() -> None:
    text = markdown(table_of(Line(kind="method", label="a", cells=(Cell(text=HOSTILE), Cell(text="2")))))
    assert r"| a | a\|\`b\`\\n# c\\x1b\[31m$\_ | 2 |" in text


def test_the_terminal_gets_no_control_character() -> None:
    line = Line(kind="method", label=HOSTILE, cells=(Cell(text=HOSTILE), Cell(text="2")))
    assert "\x1b[31m" not in printed([table_of(line)], 100)
    assert "[31m" in printed([table_of(line)], 100)
