from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ctrbench.errors import StoreError
from ctrbench.plugins.inspection import GateSite, Inspection
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore
from ctrbench.studies.draw import draw_study
from ctrbench.studies.drawing import Domain, Part, make_part
from ctrbench.studies.study import Study

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
        options = {"by_user": True} if by_user else {}
        study = Study(title="S", draw=kind, methods={"Base": "plain", "STAR": "star"}, **options)
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
    assert "| STAR | 0.6800 ± 0.0000 | 40.0 % | 2 |" in users
    assert "over users of the training rows with both classes" in users


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


@pytest.fixture
def masks(store: RunStore, tmp_path: Path, record: Callable[..., RunRecord]) -> Callable[..., str]:
    """Draw the masks of a site of four neurons, given by domain and seed as neurons pruned; return the tables."""

    def masks(pruned: dict[int, dict[int, set[int]]], *, stage: str = "head", repeated: int = 0) -> str:
        any_result = record("plain").result
        assert any_result is not None
        records = [record("plain", seed, bins=any_result.bins[:2]) for seed in pruned]
        for made in records:
            seed, of_domain = made.key.seed, pruned[made.key.seed]
            if not of_domain:
                continue
            kept_DN = [[float(place not in out) for place in range(4)] for out in of_domain.values()]
            file = store.inspection_file(made.key)
            file.parent.mkdir(parents=True, exist_ok=True)
            assert made.result is not None
            inspection = Inspection(
                domain_D=np.array(list(of_domain)),
                rows_D=np.array([40, 30, 15]),
                sites=(GateSite(stage=stage if seed == 2 else "head", kept_DN=np.array(kept_DN)),),
                predictions="other" if seed == repeated else made.result.predictions_sha256,
            )
            np.savez(file, **inspection.arrays())
        study = Study(title="S", draw="masks", site="head", methods={"Gated": "plain"})
        labels = {records[0].key.method.digest: "Gated"}
        draw_study(study, [make_part(records, labels=labels, domains=NAMES)], store=store, out=tmp_path)
        return (tmp_path / "table.md").read_text(encoding="utf-8")

    return masks


def test_masks_are_drawn_of_every_seed(masks: Callable[..., str], tmp_path: Path) -> None:
    text = masks({1: {1: {0, 1}, 2: {0}, 3: {2}}, 2: {1: {3}, 2: {3}, 3: set()}})
    # Pruned: 2 and 1 of 4. With south: 1 of 2 and 1 of 1; with west: nothing in common.
    assert "| north | 40 | 0.375 ± 0.177 | 1.000 ± 0.000 | 0.750 ± 0.354 | 0.000 ± 0.000 |" in text
    # West prunes nothing in the second seed.
    assert "| west | 15 | 0.125 ± 0.177 | 0.000 ± 0.000 | 0.000 ± 0.000 | 1.000 |" in text
    assert text.count("Mean ± standard deviation over 2 seeds.") == 2
    picture = (tmp_path / "masks.svg").read_text(encoding="utf-8")
    assert "seed 1" in picture
    assert "seed 2" in picture


def test_masks_of_one_seed_have_no_deviation(masks: Callable[..., str]) -> None:
    text = masks({1: {1: {0, 1}, 2: {0}, 3: set()}})
    assert "| north | 40 | 0.500 | 1.000 | 0.500 | 0.000 |" in text
    assert "| west | 15 | 0.000 | 0.000 | 0.000 | – |" in text
    assert "over 1 seeds" not in text


def test_an_inspection_of_another_version_is_refused(
    store: RunStore, record: Callable[..., RunRecord]
) -> None:
    key = record("plain", 1).key
    file = store.inspection_file(key)
    file.parent.mkdir(parents=True)
    np.savez(file, domain=np.array([1]), rows=np.array([40]), predictions=np.array("digest"))
    with pytest.raises(StoreError, match="not an inspection of this version"):
        store.inspection(key)


TWO_SEEDS = {1: {1: {0, 1}, 2: {0}, 3: {2, 3}}, 2: {1: {3}, 2: {3}, 3: set()}}


def test_the_pruned_share_of_a_bin_weighs_its_domains_by_rows(masks: Callable[..., str]) -> None:
    # South and west, 30 and 15 rows: 1/4 and 2/4 in one seed, 1/4 and 0 in the other.
    assert "| head | 0.375 ± 0.177 | 0.250 ± 0.118 |" in masks(TWO_SEEDS)


def test_a_seed_that_shows_nothing_is_said(masks: Callable[..., str]) -> None:
    assert masks({1: TWO_SEEDS[1], 2: {}}).count("Seed 1.\n- 1 of 2 runs have an inspection.") == 2


def test_a_model_made_once_more_is_said_of_its_seed(masks: Callable[..., str]) -> None:
    assert "inspected in a repetition of the run (seed 2)" in masks(TWO_SEEDS, repeated=2)
    assert "repetition" not in masks(TWO_SEEDS)


def test_seeds_that_show_different_things_are_refused(masks: Callable[..., str]) -> None:
    with pytest.raises(StoreError, match=r"inspection data differ between seeds.*Gated × dnn"):
        masks(TWO_SEEDS, stage="tower")
    with pytest.raises(StoreError, match=r"inspection data differ"):
        masks({1: TWO_SEEDS[1], 2: {1: {3}, 3: {3}, 2: set()}})
