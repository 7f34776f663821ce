"""Two plans as trees, a backbone before and after a method, with the cost of each stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from ctrbench.cli import console
from ctrbench.cli.formats import listing, short_count

if TYPE_CHECKING:
    from ctrbench.cost.explain import Explanation
    from ctrbench.cost.tree import Part, PlanCost
    from ctrbench.nn.stages import Stage

WIDE_COLUMNS = 100
"""Terminal width from which numbers are written in full."""


def show_explanation(explanation: Explanation) -> None:
    """Print both plans as trees, and below the totals."""
    before, after = explanation.before, explanation.after
    console.out.print(explanation.data, highlight=False, markup=False)
    for title, cost, other, sign in (
        (f"before: {explanation.backbone}", before, after, "-"),
        (f"after: {explanation.method}", after, before, "+"),
    ):
        name = f"{title}, {cost.join}" if cost.join else title
        console.print_table(_part_table(name, cost, _Changes(other.stages, sign), number=_number_format()))
    console.print_table(_totals_table(before, after, explanation.indicator))
    console.out.print(
        "Multiply-adds count matrix products of a forward pass. Stages: ~ changed, + added, - removed.",
        highlight=False,
    )


def _number_format() -> Callable[[int], str]:
    return (lambda value: f"{value:,}") if console.out.width >= WIDE_COLUMNS else short_count


class _Changes:
    """Marks the stages in which a plan differs from another."""

    def __init__(self, others: Sequence[Stage], sign: str) -> None:
        self.others, self.sign = {stage.name: stage for stage in others}, sign

    def mark(self, part: Part) -> str:
        """Return the mark of a stage: the sign if the other plan lacks it, `~` if both differ, else no text."""
        if part.stage is None or self.others.get(part.stage.name) == part.stage:
            return ""
        return "~" if part.stage.name in self.others else self.sign


def _part_table(title: str, cost: PlanCost, changes: _Changes, *, number: Callable[[int], str]) -> Table:
    table = listing(title, "", "part", "kind")
    table.columns[1].no_wrap = True
    for heading in ("shape", "parameters", "per domain", "multiply-\nadds/row"):
        table.add_column(heading, justify="right", no_wrap=True)
    for guide, part in _tree_lines(cost.sections):
        name = f"{guide}{part.name}"
        style = None if guide else "dim"
        table.add_row(
            changes.mark(part),
            name,
            part.kind,
            _shape_text(part),
            *_count_cells(part, number),
            style=style,
        )
    return table


def _shape_text(part: Part) -> str:
    if part.num_outputs is None:
        return ""
    width = "" if part.num_inputs is None else str(part.num_inputs)
    return f"{width} → {part.num_outputs}".strip()


def _count_cells(part: Part, number: Callable[[int], str]) -> Iterator[str]:
    cost = part.cost
    for value in (cost.embedding + cost.shared, cost.per_domain, cost.row):
        yield number(value) if value else ""


def _tree_lines(
    parts: Sequence[Part], guide: str = "", *, is_root: bool = True
) -> Iterator[tuple[str, Part]]:
    """Yield each part with the lines of the tree that lead to it."""
    for number, part in enumerate(parts, start=1):
        is_last = number == len(parts)
        yield "" if is_root else f"{guide}{'└─ ' if is_last else '├─ '}", part
        below = "" if is_root else f"{guide}{'   ' if is_last else '│  '}"
        yield from _tree_lines(part.parts, below, is_root=False)


def _totals_table(before: PlanCost, after: PlanCost, indicator: str) -> Table:
    table = listing("Totals", "")
    for heading in ("before", "after", "difference", "×"):
        table.add_column(heading, justify="right")
    per_domain = f"per-domain parameters, by {indicator}" if indicator else "per-domain parameters"
    batch = f"multiply-adds per batch ({after.batch_rows:,} rows of {after.batch_domains:,} domains)"
    lines = {
        "embedding parameters": (before.cost.embedding, after.cost.embedding),
        "shared parameters": (before.cost.shared, after.cost.shared),
        per_domain: (before.cost.per_domain, after.cost.per_domain),
        "multiply-adds per row": (before.cost.row, after.cost.row),
        "fixed multiply-adds per batch (one domain)": (before.cost.once, after.cost.once),
        batch: (before.batch, after.batch),
    }
    for name, (old, new) in lines.items():
        ratio = f"{new / old:.2f}" if old and new != old else ""
        difference = f"{new - old:+,}" if new != old else ""
        table.add_row(name, f"{old:,}", f"{new:,}", difference, ratio)
    return table
