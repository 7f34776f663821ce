"""The base class of report charts, their figures, and the charts of a report.

One file is one chart: a built-in file of `report/charts`, a path to a `.py` file (`report --charts my_chart.py`), or an
entry point of the group `ctrbench.charts`. Imports altair for type checkers only, so that listings stay fast.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctrbench.discovery import Plugin, PluginKind, builtin_plugins, find
from ctrbench.errors import ContractError

if TYPE_CHECKING:
    import altair as alt

    from ctrbench.report.summary import Summary


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart with its title and the stem of its files."""

    stem: str
    """File name without suffix, unique within a report."""
    title: str
    """Heading above the figure on the page."""
    chart: alt.VConcatChart


class Chart(ABC):
    """A chart of reports. Implement `draw`, which may yield one figure per metric or backbone.

    A chart shows numbers of the summary, which has every estimate and test, and computes none. A complete chart, saved
    as `gauc_over_auc.py` and drawn by `ctrbench report --charts gauc_over_auc.py`::

        \"\"\"GAUC over AUC, one point per method and backbone.\"\"\"

        import altair as alt

        from ctrbench.report.chart import Chart, Figure
        from ctrbench.report.plots import inline, styled


        class GaucOverAuc(Chart):
            def draw(self, summary):
                points = [
                    {"method": " × ".join(row.row.name), "auc": auc.mean, "gauc": gauc.mean}
                    for row in summary.rows
                    if (auc := row.estimate("auc")) and (gauc := row.estimate("gauc"))
                ]
                if points:
                    x, y = (alt.X(f"{name}:Q", scale=alt.Scale(zero=False)) for name in ("auc", "gauc"))
                    chart = alt.Chart(inline(points)).mark_point().encode(x=x, y=y, color="method:N")
                    yield Figure(stem="gauc-over-auc", title="GAUC over AUC", chart=styled(alt.vconcat(chart)))
    """

    @abstractmethod
    def draw(self, summary: Summary) -> Iterable[Figure]:
        """Yield the figures of a summary; none if it has nothing to show."""


CHARTS: PluginKind[Chart] = PluginKind(
    name="charts", package="ctrbench.report.charts", base="ctrbench.report.chart:Chart"
)


def load_charts(names: Iterable[str] = ()) -> tuple[Chart, ...]:
    """Return the built-in charts by file name, then those in `names`: paths of `.py` files or names of entry points.

    Raises `SettingError` for a name that no chart has and for a file that does not exist.
    """
    plugins: dict[str, Plugin] = {str(plugin.file): plugin for plugin in builtin_plugins(CHARTS).values()}
    plugins |= {str(plugin.file): plugin for plugin in (find(CHARTS, name) for name in names)}
    return tuple(plugin.load()() for plugin in plugins.values())


def draw_figures(charts: Sequence[Chart], summary: Summary) -> tuple[Figure, ...]:
    """Return the figures of all charts, in order.

    Raises `ContractError` where two would write the same files, and for a chart that returns anything but figures.
    """
    figures: dict[str, Figure] = {}
    for chart in charts:
        for figure in _draw(chart, summary):
            if figure.stem in figures:
                raise ContractError(
                    "stems of figures must be unique",
                    value=f"{figure.stem} of {type(chart).__name__}",
                    remedy="give the figure another `stem`",
                )
            figures[figure.stem] = figure
    return tuple(figures.values())


def _draw(chart: Chart, summary: Summary) -> list[Figure]:
    drawn: object = chart.draw(summary)
    figures = []
    for figure in drawn if isinstance(drawn, Iterable) else (drawn,):
        if not isinstance(figure, Figure):
            raise ContractError(
                "draw() of a chart must yield figures",
                value=f"{type(chart).__name__} returned {type(figure).__name__}",
                remedy="yield Figure(stem=…, title=…, chart=…)",
            )
        figures.append(figure)
    return figures
