"""The report as one page that needs nothing beside itself: no script, no font, no request.

Tables and pictures are those of the other files. What the page adds is a few sentences that say what the tables show,
made from the numbers, whichever method wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from ctrbench.eval.protocol import MIN_SEEDS
from ctrbench.eval.significance import Standing
from ctrbench.names import Metric
from ctrbench.report.commands import run_command
from ctrbench.report.comparison import Comparison, Estimate, Row, domain_gain, stand
from ctrbench.report.tables import DIGITS, TITLES, Mark, Table, mark_of, number, signed


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture as SVG text, with its title."""

    title: str
    svg: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """What the page shows of one comparison; the first table is Table 1."""

    comparison: Comparison
    tables: tuple[Table, ...]
    pictures: tuple[Picture, ...]

    @property
    def title(self) -> str:
        """The heading."""
        return self.comparison.title

    @property
    def apart(self) -> str:
        """What sets this comparison apart from the others on the page."""
        return self.comparison.apart

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """What was compared, in names and numbers."""
        return tuple(_facts(self.comparison))

    @property
    def findings(self) -> tuple[str, ...]:
        """What the numbers say, for each backbone and metric."""
        return tuple(
            finding
            for backbone in self.comparison.backbones
            for metric in (Metric.AUC, Metric.GAUC)
            for finding in _finding(self.comparison, backbone, metric)
        )

    @property
    def commands(self) -> tuple[str, ...]:
        """One command a row."""
        return tuple(run_command(row) for row in self.comparison.rows)


def render_page(dataset: str, sections: Sequence[Section]) -> str:
    """Return the page as HTML."""
    loader = PackageLoader("ctrbench.report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    template = environment.get_template("page.html.jinja")
    notices = tuple(dict.fromkeys(one.comparison.notice for one in sections if one.comparison.notice))
    return template.render(dataset=dataset, sections=sections, notices=notices) + "\n"


def _facts(comparison: Comparison) -> Iterable[tuple[str, str]]:
    key = comparison.key
    yield "domains are", " × ".join(key.domain_features)
    yield "per-domain parameters by", ", ".join((comparison.indicator, *comparison.other_indicators))
    result = next((record.result for record in comparison.records if record.result), None)
    if result is not None:
        yield "domains", f"{sum(rows > 0 for rows in result.domains.rows_train):,}"
        yield "test rows", f"{sum(result.domains.rows):,}"
        yield "positive", f"{100 * sum(result.domains.positives) / max(sum(result.domains.rows), 1):.2f} %"
    yield "runs", f"{len(comparison.records):,}"
    yield "data", key.data_digest[:12]
    versions = sorted({record.code.version for record in comparison.records})
    yield "ctrbench", ", ".join(versions) or "–"


def _finding(comparison: Comparison, backbone: str, metric: str) -> Iterable[str]:
    rows = comparison.of_backbone(backbone)
    standing = stand(rows, metric)
    marks = {row.method: mark_of(standing.get((row.backbone, row.method))) for row in rows}
    best = next((row for row in rows if marks[row.method] is Mark.BEST), None)
    if best is None or len(standing) < 2:
        return
    lead = f"On {best.backbone}, {best.method} has the best mean {TITLES[metric]}, {_mean(best, metric)}"
    seeds = "1 seed" if len(best.finished) == 1 else f"{len(best.finished)} seeds"
    over_plain = _over_plain(best, comparison.plain(backbone)) if metric == Metric.GAUC else ""
    yield f"{lead}, over {seeds}{_differences(marks, standing, backbone)}.{over_plain}"


def _over_plain(best: Row, plain: Row | None) -> str:
    """Say how far ahead of the plain backbone it is, and how much of that hangs on which domains there are."""
    is_shown = plain is not None and best is not plain and len(best.finished) >= MIN_SEEDS
    found = domain_gain(best, plain) if plain is not None and is_shown else None
    if found is None or found.mean is None or found.low is None or found.high is None:
        return ""
    mean, low, high = (signed(value, 4) for value in (found.mean, found.low, found.high))
    return f" Over plain it gains {mean}; over resampled domains, {low} to {high} (95 %)."


def _mean(row: Row, metric: str) -> str:
    found: Estimate | None = row.estimate(metric)
    if found is None:
        return "–"
    spread = "" if found.std is None else f" ± {number(found.std, DIGITS[metric])}"
    return f"{number(found.mean, DIGITS[metric])}{spread}"


def _differences(
    marks: Mapping[str, Mark], standing: Mapping[tuple[str, str], Standing], backbone: str
) -> str:
    """Return whose difference from the best is not significant; nothing where no row is tested."""
    tested = [
        method for method in marks if (one := standing.get((backbone, method))) and one.p_holm is not None
    ]
    if not tested:
        return ""
    same = [method for method in tested if marks[method] is Mark.NOT_SIGNIFICANT]
    if same:
        return f"; difference not significant: {_listed(same)}"
    every = "every other method" if len(tested) == len(marks) - 1 else "every other tested method"
    return f"; the difference from {every} is significant over seeds"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
