from __future__ import annotations

from pathlib import Path

from ctrbench.data.card import DatasetCard
from ctrbench.data.prepare import prepare
from ctrbench.data.summary import summarize
from ctrbench.names import Split


def test_a_summary_counts_rows_fields_ids_and_domains(card: DatasetCard, home: Path) -> None:
    figures = summarize(prepare(card, home=home))
    assert figures.rows == {Split.TRAIN: 8, Split.DEV: 2, Split.TEST: 2}
    assert figures.positives == {Split.TRAIN: 4, Split.DEV: 1, Split.TEST: 1}
    assert (figures.num_domains, figures.largest, figures.median, figures.smallest) == (5, 3, 1.0, 1)
    assert figures.unseen_share == {Split.TRAIN: 0.0, Split.DEV: 0.5, Split.TEST: 1.0}
    assert (figures.num_fields, figures.num_ids) == (4, 4 + 3 + 4)
