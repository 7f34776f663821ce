from __future__ import annotations

from pathlib import Path

import calibration
import numpy as np
import pytest
from calibration import (
    RULES,
    STATED,
    Components,
    Line,
    all_pairs,
    components_of,
    dealt_tables,
    holm,
    markdown,
    measure,
    replace_block,
    simulated_tables,
    with_first,
)

from ctrbench.eval.crossed import CrossedRows, RowSample

ROOT = Path(__file__).parents[2]


def test_holm_by_hand() -> None:
    # Sorted: .005 x 4, .01 x 3, .03 x 2, .04 x 1; the last may not be below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


def test_pairs_of_a_table() -> None:
    table = dict.fromkeys(range(3), RowSample(values={}, influences={}))
    assert with_first(table) == [(1, 0), (2, 0)]
    assert all_pairs(table) == [(0, 1), (0, 2), (1, 2)]


def test_simulated_rows_have_the_stated_components() -> None:
    stated = Components(
        seeds=np.array([0.002]),
        users=np.array([0.001]),
        interaction=np.array([0.0005]),
        num_users=400,
        source="",
    )
    (table,) = simulated_tables(stated, 12, 1, num_seeds=40)
    estimated = components_of(list(table.values()), "")
    assert np.mean(estimated.seeds**2) ** 0.5 == pytest.approx(0.002, rel=0.15)
    assert np.mean(estimated.users**2) ** 0.5 == pytest.approx(0.001, rel=0.25)
    assert np.mean(estimated.interaction**2) ** 0.5 == pytest.approx(0.0005, rel=0.2)


def test_influences_predict_the_variation_of_simulated_values() -> None:
    gaps, errors = [], []
    for table in simulated_tables(STATED, 2, 300, seed=3):
        means, parts = CrossedRows.of(list(table.values())).differences([(0, 1)])
        gaps.append(means[0])
        errors.append(parts.total[0])
    # 300 tables: a standard error of 8 % in the variance.
    assert np.mean(errors) == pytest.approx(np.var(gaps), rel=0.25)


def test_dealt_tables_use_every_run_once() -> None:
    runs = RowSample(
        values={seed: float(seed) for seed in range(30)},
        influences={seed: np.full(2, float(seed)) for seed in range(30)},
    )
    first, second = dealt_tables(runs, 5, 2)
    for table in (first, second):
        assert sorted(value for row in table.values() for value in row.values.values()) == list(range(30))
        row = table[3]
        assert all(row.influences[seed][0] == value for seed, value in row.values.items())
    assert first != second


def test_every_rule_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "DRAWS", 200)
    line = measure(3, simulated_tables(STATED, 3, 4))
    assert (line.num_rows, line.num_tables, set(line.num_false)) == (3, 4, set(RULES))
    assert 0.001 < line.gap < 0.02


def test_a_clear_difference_is_claimed_by_every_rule() -> None:
    (table,) = simulated_tables(STATED, 3, 1)
    better = RowSample(
        values={seed: value + 0.5 for seed, value in table[1].values.items()}, influences=table[1].influences
    )
    assert all(is_claimed({**table, 1: better}) for is_claimed in RULES.values())


def test_the_block_between_the_markers_is_replaced() -> None:
    line = Line(num_rows=5, num_tables=200, num_false=dict.fromkeys(RULES, 10), gap=0.0023)
    block = markdown([line], "A source.")
    assert "standard error of a share of 5 % is 1.5 %" in block
    assert block.splitlines()[-1] == "| 5 | 200 | 5.0 % | 5.0 % | 5.0 % | 5.0 % | 5.0 % | 0.0023 |"
    text = "a\n<!-- calibration:start -->\nold\n<!-- calibration:end -->\nb"
    assert replace_block(text, "new", "calibration") == text.replace("old", "new")
    with pytest.raises(SystemExit, match="must have the lines"):
        replace_block("a", "new", "calibration")


def test_the_protocol_has_both_blocks() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    for name in ("calibration", "repeats"):
        assert replace_block(text, "new", name) != text
