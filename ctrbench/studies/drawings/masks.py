"""Pruned neurons of three domains at one stage, as in AdaSparse's Figure 3a, and the pruned share by size of domain.

A neuron is pruned in a domain if at least half of the domain's test rows prune it. The three domains are chosen before
any mask is read: the largest, the largest that differs from it in one feature, the largest that differs in all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

import altair as alt
import numpy as np

from ctrbench.errors import StoreError
from ctrbench.eval.longtail import assign_bins
from ctrbench.plugins.inspection import Inspection
from ctrbench.report.comparison import Row
from ctrbench.report.estimate import estimate
from ctrbench.report.plots import GRID, PALETTE, PAPER, WIDTH, inline, styled
from ctrbench.report.table import DASH, Cell, Line, Table, cell
from ctrbench.runs.store import RunStore
from ctrbench.studies.drawing import Drawing, Drawn, Part, numbered
from ctrbench.studies.inspections import read_inspections, repetition_note, select_domains


class Masks(Drawing):
    """The pruned neurons of three domains."""

    needs_inspection: ClassVar[bool] = True

    site: str = "head"
    """Stage whose gated input is shown."""

    def draw(self, parts: Sequence[Part], *, store: RunStore) -> Drawn:
        """Return the overlap of the pruned sets, the pruned share per bin, and a chart per method.

        Raises `StoreError` if no method has a gate before the stage.
        """
        tables: list[Table] = []
        charts: list[tuple[str, alt.VConcatChart | None]] = []
        stages: list[str] = []
        for part in parts:
            for row in part.comparison.rows:
                inspections = read_inspections(row, store)
                row_stages = [stage for shown in inspections.values() for stage in shown.stages]
                stages += row_stages
                if self.site in row_stages:
                    domains = _three_domains(part, next(iter(inspections.values())))
                    tables.append(_overlap_table(part, row, inspections, self.site, domains))
                    tables.append(_pruned_by_bin(part, row, inspections))
                    masks_by_seed = {
                        seed: select_domains(shown, shown.site(self.site).kept_DN, domains)
                        for seed, shown in inspections.items()
                    }
                    chart = masks_chart([part.domain_name(domain) for domain in domains], masks_by_seed)
                    # The first chart has no number, whether or not others follow.
                    name = numbered("masks", len(charts) + 1, 2 if charts else 1)
                    charts.append((name, chart))
        if not tables:
            stage_names = ", ".join(dict.fromkeys(stages)) or "none, since no method of the study prunes"
            raise StoreError(
                "no gate before that stage", value=self.site, remedy=f"stages with gates: {stage_names}"
            )
        return Drawn(tables=tuple(tables), charts=tuple(charts))


def _three_domains(part: Part, inspection: Inspection) -> list[int]:
    """Return the ids of up to three domains.

    The largest in test rows, the largest that differs from it in one feature, and the largest that differs in all;
    the same for all seeds, whose test rows are the same.
    """
    order = inspection.domain_D[np.argsort(-inspection.rows_D, kind="stable")].tolist()
    values = {domain: part.domains[domain].values for domain in order if domain in part.domains}
    if not values:
        raise StoreError(
            "the inspected domains are not in the prepared data",
            value=part.comparison.title,
            remedy="run the study again with the data as they are prepared now",
        )
    first, *others = values
    num_equal = {
        domain: sum(a == b for a, b in zip(values[first], values[domain], strict=True)) for domain in others
    }
    similar = next((domain for domain in others if num_equal[domain] == len(values[first]) - 1), None)
    different = next((domain for domain in others if num_equal[domain] == 0 and domain != similar), None)
    return [domain for domain in (first, similar, different) if domain is not None]


def _overlap_table(
    part: Part, row: Row, inspections: Mapping[int, Inspection], site: str, domains: Sequence[int]
) -> Table:
    pruned = [
        select_domains(shown, shown.site(site).kept_DN, domains) <= 0.5 for shown in inspections.values()
    ]
    first = next(iter(inspections.values()))
    rows = select_domains(first, first.rows_D, domains)
    lines = [
        Line(
            kind="method",
            label=part.domain_name(domain),
            cells=(
                Cell(text=f"{int(rows[i]):,}"),
                _share_cell(float(pruned_DN[i].mean()) for pruned_DN in pruned),
                *(
                    _share_cell(_jaccard(pruned_DN[i], pruned_DN[other]) for pruned_DN in pruned)
                    for other in range(len(domains))
                ),
            ),
        )
        for i, domain in enumerate(domains)
    ]
    return Table(
        name="masks",
        title=f"{row.method} on {row.backbone}, input of {site} · {part.comparison.title}",
        columns=("test rows", "pruned", *(f"with {letter}" for letter in "ABC"[: len(domains)])),
        lines=tuple(lines),
        notes=(
            "A neuron is pruned in a domain if at least half of the domain's test rows prune it. With A, B, C: the "
            "overlap of the pruned sets (intersection over union) with those of the first, second and third line; "
            f"{DASH}: neither domain prunes anything, and the seed is left out. Domains shown (where they exist): the "
            "largest in test rows, the largest that differs from it in one feature, the largest that differs in all.",
            *_seeds_note(row, inspections),
            *repetition_note(row, inspections),
        ),
    )


def _share_cell(values: Iterable[float | None]) -> Cell:
    """Return mean and standard deviation over the seeds for which the share is defined."""
    return cell(estimate(value for value in values if value is not None), 3)


def _seeds_note(row: Row, inspections: Mapping[int, Inspection]) -> Iterator[str]:
    if len(inspections) > 1:
        yield f"Mean ± standard deviation over {len(inspections)} seeds."
    else:
        yield f"Seed {next(iter(inspections))}."
    if len(inspections) < len(row.finished):
        yield f"{len(inspections)} of {len(row.finished)} runs have an inspection."


def _jaccard(first: np.ndarray, second: np.ndarray) -> float | None:
    """Return intersection over union of two sets, given as membership; None if both are empty."""
    union = int((first | second).sum())
    return None if union == 0 else int((first & second).sum()) / union


def _pruned_by_bin(part: Part, row: Row, inspections: Mapping[int, Inspection]) -> Table:
    """Return the pruned share per gate by size of domain (spec: adasparse-1.4)."""
    result = next(record.result for record in row.finished if record.result)
    num_bins = len(result.bins)
    bins = assign_bins(result.domains.rows_train, num_bins).tolist()
    bin_of_domain = dict(zip(result.domains.domain, bins, strict=True))
    lines = [
        Line(
            kind="method",
            label=stage,
            cells=tuple(
                _share_cell(
                    _pruned_in_bin(shown, stage, bin_of_domain, number) for shown in inspections.values()
                )
                for number in range(1, num_bins + 1)
            ),
        )
        for stage in next(iter(inspections.values())).stages
    ]
    return Table(
        name="pruned-by-bin",
        title=f"Pruned share by size of domain · {row.method} on {row.backbone} · {part.comparison.title}",
        columns=tuple(f"BIN{bin_metrics.bin}" for bin_metrics in result.bins),
        lines=tuple(lines),
        notes=(
            "Bins: domains by training rows, largest first, in equal shares of rows; share over test rows.",
            *_seeds_note(row, inspections),
        ),
    )


def _pruned_in_bin(
    inspection: Inspection, stage: str, bin_of_domain: Mapping[int, int], number: int
) -> float | None:
    """Return the pruned share of a gate over the test rows of a bin; None for a bin without test rows."""
    weights = np.array(
        [
            rows if bin_of_domain[domain] == number else 0
            for domain, rows in zip(inspection.domain_D.tolist(), inspection.rows_D.tolist(), strict=True)
        ]
    )
    kept_DN = inspection.site(stage).kept_DN
    return float(np.average(1.0 - kept_DN.mean(1), weights=weights)) if weights.any() else None


def masks_chart(names: Sequence[str], masks_by_seed: Mapping[int, np.ndarray]) -> alt.VConcatChart:
    """Draw the neurons of a stage, one row per domain; dark where most rows prune the neuron.

    `kept` maps a seed to the share of a domain's rows that keep each neuron, of shape (domains, neurons). Neurons of
    different models do not correspond, so each seed has its own panel.
    """
    panels = [
        _masks_panel(names, kept_DN, f"seed {seed}" if len(masks_by_seed) > 1 else "")
        for seed, kept_DN in masks_by_seed.items()
    ]
    return styled(alt.vconcat(*panels))


def _masks_panel(names: Sequence[str], kept_DN: np.ndarray, title: str) -> alt.Chart:
    data = [
        {"domain": name, "neuron": neuron, "kept": "kept" if share > 0.5 else "pruned"}
        for name, shares in zip(names, kept_DN, strict=True)
        for neuron, share in enumerate(shares.tolist())
    ]
    width = WIDTH + 60
    x = alt.X(
        "neuron:O",
        title="neuron",
        axis=alt.Axis(values=list(range(0, kept_DN.shape[1], 16)), labelAngle=0, ticks=False),
        scale=alt.Scale(paddingInner=0, paddingOuter=0),
    )
    y = alt.Y("domain:N", sort=list(names), title=None, axis=alt.Axis(domain=False, ticks=False))
    color = alt.Color(
        "kept:N",
        scale=alt.Scale(domain=["kept", "pruned"], range=[GRID, PALETTE[0]]),
        legend=alt.Legend(orient="top", symbolType="square"),
    )
    cells = alt.Chart(inline(data), width=width, height=34 * len(names), title=title)
    panel: alt.Chart = cells.mark_rect(stroke=PAPER, strokeWidth=0.6).encode(x=x, y=y, color=color)
    return panel
