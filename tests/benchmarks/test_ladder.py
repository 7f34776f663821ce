"""The ladder of plain networks and trees on synthetic data."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import ladder
import torch
from without_fields import ZeroFields

from ctrbench.names import Split
from ctrbench.plugins.registry import select

BOUNDS = ladder.Bounds(levels={Split.DEV: 0.6, Split.TEST: 0.65}, ceiling={Split.DEV: 0.7, Split.TEST: 0.75})


def test_a_row_has_the_share_of_the_way_from_levels_to_the_ceiling() -> None:
    history = [SimpleNamespace(epoch=0.2), SimpleNamespace(epoch=0.4)]
    results = [
        SimpleNamespace(dev={"auc": dev}, test={"auc": 0.7}, best_evaluation=2, history=history)
        for dev in (0.64, 0.66)
    ]
    records = [SimpleNamespace(result=result) for result in results]
    row = ladder.row_of("all ids", records, BOUNDS)  # type: ignore[arg-type]
    assert row == "| all ids | 0.6500 | 0.50 | 0.7000 | 0.50 | 0.4 |"
    assert ladder.row_of("trees", [None], BOUNDS) == "| trees | failed | | | | |"


def test_bounds_of_a_twin_are_steps_of_its_ladder(tmp_path: Path) -> None:
    auc = {
        step: {"features, fifth sixth": value, "features, last sixth": value + 0.01}
        for step, value in (("+ context", 0.6), ("+ idiosyncratic", 0.7))
    }
    file = tmp_path / "twin.json"
    file.write_text(json.dumps({"levels": "+ context", "ceiling": "+ idiosyncratic", "auc": auc}))
    bounds = ladder.bounds_of_twin(file)
    assert bounds.levels == {Split.DEV: 0.6, Split.TEST: 0.61}
    assert bounds.ceiling[Split.TEST] == 0.71


def test_steps_select_methods_with_files_of_this_folder() -> None:
    methods = {step.label: step.method for step in ladder.steps(Path(ladder.__file__).parent)}
    assert len(methods) == 13
    settings = select("methods", methods["without user and item ids"]).value
    assert settings.model_dump()["fields"] == "user_id+item_id"


def test_zeroed_fields_do_not_reach_the_network() -> None:
    build = SimpleNamespace(schema=SimpleNamespace(slices={"user_id": slice(2, 4)}))
    module = ZeroFields(name="without_fields", fields=("user_id",)).build(5, build)  # type: ignore[arg-type]
    x_BN = torch.ones(3, 5)
    assert module(x_BN, None).tolist() == [[1.0, 1.0, 0.0, 0.0, 1.0]] * 3
