from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ctrbench.report.study import Domain, Part, draw_study, make_part
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore
from ctrbench.study import Study

NAMES = {
    one: Domain(name=name, values=(one,)) for one, name in enumerate(("unseen", "north", "south", "west"))
}
BY_USER = {"user_gauc": 0.65, "user_gauc_coverage": 0.4}
"""Of 85 test rows, 34."""


@pytest.fixture
def draw(store: RunStore, tmp_path: Path, record: Callable[..., RunRecord]) -> Callable[..., str]:
    """Draw a study of plain and a better star; return its tables as Markdown."""

    def draw(kind: str, by_user: bool, metrics: dict[str, float | None]) -> str:
        records = [
            record(method, seed, test={"auc": auc, "gauc": auc, **metrics, **_moved(metrics, auc - 0.7)})
            for method, auc in (("plain", 0.7), ("star", 0.73))
            for seed in (1, 2)
        ]
        study = Study(title="S", draw=kind, methods={"Base": "plain", "STAR": "star"}, by_user=by_user)
        draw_study(study, [_part(records)], store=store, out=tmp_path)
        return (tmp_path / "table.md").read_text(encoding="utf-8")

    return draw


def _moved(metrics: dict[str, float | None], by: float) -> dict[str, float | None]:
    value = metrics.get("user_gauc")
    return {} if value is None else {"user_gauc": value + by}


def _part(records: list[RunRecord]) -> Part:
    labels = {
        record.key.method.digest: name for record, name in zip(records[::2], ("Base", "STAR"), strict=True)
    }
    return make_part(records, labels=labels, domains=NAMES)


def test_auc_within_users_stands_in_a_table_of_its_own(draw: Callable[..., str]) -> None:
    text = draw("table", True, BY_USER)
    _, users = text.split("### S · AUC within users · ")
    assert "| Base | 0.6500 ± 0.0000 | 40.0 % | 2 |" in users
    assert "| STAR | **0.6800** ± 0.0000 | 40.0 % | 2 |" in users
    assert "over users seen in training who have both classes" in users


def test_auc_within_users_is_a_line_of_all_domains(draw: Callable[..., str]) -> None:
    lines = draw("domains", True, BY_USER).splitlines()
    place = next(place for place, line in enumerate(lines) if line.startswith("| GAUC over domains"))
    assert lines[place + 1] == "| GAUC over users | 34 | 0.6500 ± 0.0000 | **0.6800** ± 0.0000 |"
    assert lines[place + 2].startswith("| north | 40 |")


@pytest.mark.parametrize("kind", ["table", "domains"])
def test_auc_within_users_is_shown_where_it_is_asked_for_alone(draw: Callable[..., str], kind: str) -> None:
    assert "users" not in draw(kind, False, BY_USER)


def test_without_users_a_dash_stands_for_it(draw: Callable[..., str]) -> None:
    assert "| GAUC over users | – | – | – |" in draw("domains", True, {})
    assert "| STAR | – | – | 2 |" in draw("table", True, {})
