"""A split read shard by shard: trained on through a sliding window, scored piece after piece.

Memory holds a window of rows however many there are. Each shard's rows are dealt at random, evenly, to the window that
opens with the shard and to those that follow it, `num_shards` in all; a window holds its share of that many
consecutive shards, in time order, and the learner shuffles it. So a row moves by less than a window, as in a sliding
buffer (METHODS 2.3, 9.3), yet window k is a pure function of seed, epoch and k, and training resumes anywhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from ctrbench.data.batches import SplitData, Window, concatenated, subset, to_split_data
from ctrbench.data.prepared import Prepared
from ctrbench.names import Split

T = TypeVar("T")
SHORT = 1 / 8
"""A last shard with less than this share of the largest one's rows is short: its parts would be next to nothing."""


@dataclass(frozen=True, kw_only=True)
class StreamedSplit:
    """A split of prepared data that is never held whole; what `SplitData` is to training and scoring."""

    prepared: Prepared
    split: Split
    domain_set: str
    indicator: str
    window: int
    """Rows held for shuffling, at least; shards are held whole."""
    device: torch.device

    def __len__(self) -> int:
        return self.prepared.manifest.splits[self.split].rows

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of each shard."""
        return tuple(shard.rows for shard in self.prepared.manifest.splits[self.split].shards)

    @property
    def runs(self) -> tuple[range, ...]:
        """The shards that are dealt together: each by itself, but for a short last one, which joins the one before."""
        sizes = self.sizes
        last = len(sizes) - 1
        is_short = last > 0 and sizes[last] < max(sizes) * SHORT
        single = [range(place, place + 1) for place in range(last - 1 if is_short else last + 1)]
        return (*single, range(last - 1, last + 1)) if is_short else tuple(single)

    @property
    def num_shards(self) -> int:
        """Shards in a window."""
        return min(len(self.runs), max(1, -(-self.window // max(self.sizes, default=1))))

    def windows(self, seed: Sequence[int], *, first: int = 0) -> Iterator[Window]:
        """Yield the windows of an epoch from number `first` on; the next shard is read meanwhile.

        `seed` is that of the run and the epoch's number.
        """
        runs, width = self.runs, self.num_shards
        shares = _shares([sum(self.sizes[shard] for shard in run) for run in runs], width)
        oldest = max(0, first - width + 1)
        held: deque[tuple[int, list[SplitData | None]]] = deque()
        dealt = _ahead(partial(self._dealt, place, seed) for place in range(oldest, len(runs)))
        for place in range(oldest, len(shares)):
            if place < len(runs):
                held.append((place, next(dealt)))
            if held and held[0][0] <= place - width:
                held.popleft()
            if place < first:
                continue
            parts = [_take_out(parts, place - shard) for shard, parts in held]
            yield Window(
                data=concatenated(parts).to(self.device),
                generator=np.random.default_rng([*seed, place]),
                before=float(sum(shares[:place])),
                share=float(shares[place]),
            )

    def pieces(self) -> Iterator[SplitData]:
        """Yield all rows in time order, a shard at a time; the next one is read meanwhile."""
        for piece in _ahead(partial(self._shard, shard) for shard in range(len(self.sizes))):
            yield piece.to(self.device)

    def latest(self) -> SplitData:
        """Return the last shards in time order, as many as a window holds."""
        last = range(len(self.sizes) - self.num_shards, len(self.sizes))
        return concatenated([self._shard(shard) for shard in last]).to(self.device)

    def _shard(self, shard: int) -> SplitData:
        table = self.prepared.read_shard(self.split, shard, self.prepared.model_columns)
        return to_split_data(self.prepared, table, domain_set=self.domain_set, indicator=self.indicator)

    def _dealt(self, place: int, seed: Sequence[int]) -> list[SplitData | None]:
        """Return the parts of a run of shards, for its own window and for those that follow."""
        runs = self.runs
        data = concatenated([self._shard(shard) for shard in runs[place]])
        order = np.random.default_rng([*seed, len(runs) + place, 1]).permutation(len(data))
        return [subset(data, np.sort(part)) for part in np.array_split(order, self.num_shards)]


def _take_out(parts: list[SplitData | None], place: int) -> SplitData:
    """Return a part, which is not held any longer."""
    part, parts[place] = parts[place], None
    assert part is not None
    return part


def _shares(sizes: Sequence[int], width: int) -> np.ndarray:
    """Share of all rows that each window has, up to the rounding of parts."""
    rows = np.zeros(len(sizes) + width - 1)
    for shard, size in enumerate(sizes):
        rows[shard : shard + width] += size / width
    shares: np.ndarray = rows / rows.sum()
    return shares


def _ahead(tasks: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Yield the results in order, the next one being made while one is used."""
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[T]] = deque()
        for task in tasks:
            waiting.append(pool.submit(task))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
