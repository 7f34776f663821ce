"""Splits that are read shard by shard: training uses a sliding window, scoring one piece after the other.

Memory holds one window of rows, however many rows there are. The rows of each shard are distributed at random and
evenly over `num_shards` windows, the first of which starts at that shard. A window holds its share of `num_shards`
consecutive shards in time order, and the learner shuffles it. A row thus moves by less than one window, as in a sliding
buffer (spec: star-2.3), while window k is a pure function of seed, epoch and k, so training resumes at any window.
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

from ctrbench.data.batches import SplitData, Window, concatenated, subset
from ctrbench.data.load import to_split_data
from ctrbench.data.prepared import Prepared
from ctrbench.data.shuffle import ShuffledDomains, with_shuffled_domains
from ctrbench.names import Split

T = TypeVar("T")
SHORT = 1 / 8
"""A last shard below this share of the largest one's rows is merged with the shard before it."""


@dataclass(frozen=True, kw_only=True)
class StreamedSplit:
    """A split of prepared data that is never loaded completely; a `RowSource` like `SplitData`."""

    prepared: Prepared
    split: Split
    domain_set: str
    indicator: str
    window: int
    """Minimum number of rows that are shuffled together; rounded up to complete shards."""
    device: torch.device
    shuffle: ShuffledDomains | None = None
    """Shuffled domains that replace the rows' own for the model; None: none."""

    def __len__(self) -> int:
        return self.prepared.manifest.splits[self.split].rows

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of rows per shard."""
        return tuple(shard.rows for shard in self.prepared.manifest.splits[self.split].shards)

    @property
    def runs(self) -> tuple[range, ...]:
        """Shards that are distributed together: single shards, except that a short last one joins the one before."""
        sizes = self.sizes
        last = len(sizes) - 1
        is_short = last > 0 and sizes[last] < max(sizes) * SHORT
        single = [range(shard, shard + 1) for shard in range(last - 1 if is_short else last + 1)]
        return (*single, range(last - 1, last + 1)) if is_short else tuple(single)

    @property
    def num_shards(self) -> int:
        """Number of shards, or runs of shards, per window."""
        return min(len(self.runs), max(1, -(-self.window // max(self.sizes, default=1))))

    def windows(self, seed: Sequence[int], *, first: int = 0) -> Iterator[Window]:
        """Yield the windows of an epoch from index `first` on, while the next shard is read in the background.

        `seed` consists of the run's seed and the epoch's number.
        """
        runs, width = self.runs, self.num_shards
        shares = _window_shares([sum(self.sizes[shard] for shard in run) for run in runs], width)
        oldest = max(0, first - width + 1)
        shards: deque[tuple[int, list[SplitData | None]]] = deque()
        loaded = _prefetch(partial(self._load_parts, run, seed) for run in range(oldest, len(runs)))
        for index in range(oldest, len(shares)):
            if index < len(runs):
                shards.append((index, next(loaded)))
            if shards and shards[0][0] <= index - width:
                shards.popleft()
            if index < first:
                continue
            parts = [_pop_part(parts, index - run) for run, parts in shards]
            yield Window(
                data=concatenated(parts).to(self.device),
                generator=np.random.default_rng([*seed, index]),
                before=float(sum(shares[:index])),
                share=float(shares[index]),
            )

    def in_memory(self) -> None:
        """Return None: the split is never loaded completely."""
        return

    def pieces(self) -> Iterator[SplitData]:
        """Yield all rows in time order, one shard at a time, while the next shard is read in the background."""
        for piece in _prefetch(partial(self._load_shard, shard) for shard in range(len(self.sizes))):
            yield piece.to(self.device)

    def latest(self) -> SplitData:
        """Return the rows of the last shards in time order, as many shards as a window has."""
        last = range(len(self.sizes) - self.num_shards, len(self.sizes))
        return concatenated([self._load_shard(shard) for shard in last]).to(self.device)

    def _load_shard(self, shard: int) -> SplitData:
        table = self.prepared.read_shard(self.split, shard, self.prepared.model_columns)
        data = to_split_data(self.prepared, table, domain_set=self.domain_set, indicator=self.indicator)
        if self.shuffle is None:
            return data
        return with_shuffled_domains(data, self.shuffle, first=sum(self.sizes[:shard]))

    def _load_parts(self, run: int, seed: Sequence[int]) -> list[SplitData | None]:
        """Load a run of shards and distribute its rows at random over its own window and those that follow."""
        runs = self.runs
        data = concatenated([self._load_shard(shard) for shard in runs[run]])
        order = np.random.default_rng([*seed, len(runs) + run, 1]).permutation(len(data))
        return [subset(data, np.sort(part)) for part in np.array_split(order, self.num_shards)]


def _pop_part(parts: list[SplitData | None], index: int) -> SplitData:
    """Return a part and release its memory from the list."""
    part, parts[index] = parts[index], None
    assert part is not None
    return part


def _window_shares(sizes: Sequence[int], width: int) -> np.ndarray:
    """Return the share of all rows per window, up to the rounding of parts."""
    rows = np.zeros(len(sizes) + width - 1)
    for shard, size in enumerate(sizes):
        rows[shard : shard + width] += size / width
    shares: np.ndarray = rows / rows.sum()
    return shares


def _prefetch(tasks: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Yield the results in order, computing the next one in the background."""
    with ThreadPoolExecutor(1) as pool:
        pending: deque[Future[T]] = deque()
        for task in tasks:
            pending.append(pool.submit(task))
            if len(pending) > 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
