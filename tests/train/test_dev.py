from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
import pytest

from ctrbench.data.batches import RowSource, SplitData, subset
from ctrbench.train.dev import sample_rows, selection_score


class Pieces:
    """A split that is read in pieces, as a streamed one."""

    def __init__(self, data: SplitData, size: int) -> None:
        self.data, self.size = data, size

    def __len__(self) -> int:
        return len(self.data)

    def in_memory(self) -> None:
        return None

    def pieces(self) -> Iterator[SplitData]:
        for start in range(0, len(self.data), self.size):
            yield subset(self.data, np.arange(start, min(start + self.size, len(self.data))))


def test_sampled_rows_have_equal_distances(data: SplitData) -> None:
    assert len(data) == 300
    assert sample_rows(data, 4).row.tolist() == [0, 75, 150, 225]
    assert sample_rows(data, 7).row.tolist() == [0, 42, 85, 128, 171, 214, 257]


def test_no_more_rows_are_sampled_than_there_are(data: SplitData) -> None:
    assert sample_rows(data, 300) is data
    assert sample_rows(data, 1_000) is data


@pytest.mark.parametrize("count", [1, 7, 299, 1_000])
@pytest.mark.parametrize("size", [13, 300])
def test_the_sample_does_not_depend_on_the_pieces(data: SplitData, count: int, size: int) -> None:
    whole, pieced = sample_rows(data, count), sample_rows(cast(RowSource, Pieces(data, size)), count)
    assert pieced.row.tolist() == whole.row.tolist()
    assert pieced.ids_BF.equal(whole.ids_BF)
    assert pieced.label_B.equal(whole.label_B)


def test_weights_are_chosen_by_auc_or_by_logloss_without_it() -> None:
    assert selection_score({"auc": 0.7, "logloss": 0.1}) == 0.7
    assert selection_score({"auc": None, "logloss": 0.1}) == -0.1
    assert selection_score({"auc": None, "logloss": None}) == -float("inf")
