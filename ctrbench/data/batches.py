"""Rows in memory as contiguous arrays, and the batches taken from them.

Ids are stored in one int32 block; a batch gathers its rows without a loop. The order of the rows in an epoch is a value
(`Order`) that is a pure function of seed and epoch, so two numbers describe a position in the data. Within `data`, only
this module, `load`, `shuffle` and `stream` import torch.

Shapes in names: B rows, F one-id fields, K numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
import torch

from ctrbench.nn.gather import to_device

Cut = Callable[[torch.Tensor], tuple[torch.Tensor, float]]
"""Maps the rows of a batch to the rows of one worker and their share of the batch."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows as a model reads them; see `ctrbench.nn.embed.Inputs` for the tensors."""

    ids_BF: torch.Tensor
    bags: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    numeric_BK: torch.Tensor
    domain_B: torch.Tensor
    indicator_B: torch.Tensor
    label_B: torch.Tensor
    copies_BD: torch.Tensor | None = None
    """Ids of the shuffled copies of the domain features, which e_d reads in place of those in `ids_BF`; None: none."""

    def __len__(self) -> int:
        return len(self.label_B)

    def tensors(self) -> dict[str, Any]:
        """Return inputs and labels by name, such as for a checkpoint; `split_of` restores the rows."""
        return {
            "ids_BF": self.ids_BF,
            "bags": self.bags,
            "numeric_BK": self.numeric_BK,
            "domain_B": self.domain_B,
            "indicator_B": self.indicator_B,
            "label_B": self.label_B,
            "copies_BD": self.copies_BD,
        }


@dataclass(frozen=True, kw_only=True)
class Batch(Rows):
    """The rows of one step."""

    weight: float = 1.0
    """Factor of the batch's mean loss; below 1 for the remainder blocks of domain-pure batches."""
    share: float = 1.0
    """Share of the rows of all workers in this step; 0 if the batch is a placeholder for no rows."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """The order of the rows in an epoch, divided into batches at `starts`."""

    rows: np.ndarray
    """int64 row numbers."""
    starts: np.ndarray
    """int64, start index of each batch, and the end of the last one."""
    nominal: int | None = None
    """Rows of a full batch if smaller batches have a lower weight."""

    @classmethod
    def of(cls, batches: Sequence[np.ndarray], *, nominal: int | None = None) -> Self:
        """Return the order that visits these batches of row numbers one after the other."""
        starts = np.concatenate([[0], np.cumsum([len(rows) for rows in batches])])
        return cls(rows=np.concatenate(batches), starts=starts, nominal=nominal)

    @property
    def num_batches(self) -> int:
        """Number of batches of the epoch."""
        return len(self.starts) - 1


@dataclass(frozen=True, kw_only=True)
class SplitData(Rows):
    """All rows of a split, in time order."""

    row: np.ndarray
    user: np.ndarray | None
    probability: np.ndarray | None
    """The true click probability, if it is known."""
    ceiling: np.ndarray | None = None
    """The probability given everything that a model could learn, if it is known."""
    user_key: np.ndarray | None = None
    """int64, the user of each row, distinct also for users without a training row."""
    true_domain: np.ndarray | None = None
    """Composite domain of each row, if `domain_B` holds shuffled ones."""

    @property
    def evaluation_domain(self) -> np.ndarray:
        """Composite domain of each row for metrics, int32; never a shuffled one."""
        domain = self.domain_B.cpu().numpy() if self.true_domain is None else self.true_domain
        return domain.astype(np.int32)

    def to(self, device: torch.device) -> SplitData:
        """Return the split with the model's inputs on the device.

        Domain, indicator and list offsets stay on the CPU, where batches are selected and grouped, so that no step
        waits for the device.
        """
        if device.type == "cpu":
            return self
        return replace(
            self,
            ids_BF=self.ids_BF.to(device),
            bags=tuple((values.to(device), offsets) for values, offsets in self.bags),
            numeric_BK=self.numeric_BK.to(device),
            label_B=self.label_B.to(device),
            copies_BD=None if self.copies_BD is None else self.copies_BD.to(device),
        )

    def take(self, rows: torch.Tensor, *, weight: float = 1.0, share: float = 1.0) -> Batch:
        """Return a batch of the rows with these numbers (int64, on the CPU)."""
        domain_B = self.domain_B.index_select(0, rows)
        # Keeping both one tensor lets the model group the rows once.
        is_same = self.indicator_B is self.domain_B
        device_rows = to_device(rows, self.label_B.device)
        return Batch(
            ids_BF=self.ids_BF.index_select(0, device_rows),
            bags=tuple(_take_bag(values, offsets, rows) for values, offsets in self.bags),
            numeric_BK=self.numeric_BK.index_select(0, device_rows),
            domain_B=domain_B,
            indicator_B=domain_B if is_same else self.indicator_B.index_select(0, rows),
            label_B=self.label_B.index_select(0, device_rows),
            copies_BD=None if self.copies_BD is None else self.copies_BD.index_select(0, device_rows),
            weight=weight,
            share=share,
        )

    def slice(self, start: int, stop: int) -> Batch:
        """Return rows start..stop-1 as a batch, without copying."""
        rows = slice(start, stop)
        return Batch(
            ids_BF=self.ids_BF[rows],
            bags=tuple(_slice_bag(values, offsets, start, stop) for values, offsets in self.bags),
            numeric_BK=self.numeric_BK[rows],
            domain_B=self.domain_B[rows],
            indicator_B=self.indicator_B[rows],
            label_B=self.label_B[rows],
            copies_BD=None if self.copies_BD is None else self.copies_BD[rows],
        )

    def windows(self, seed: Sequence[int], *, first: int = 0) -> Iterator[Window]:
        """Yield the single window of an epoch: all rows."""
        if first == 0:
            yield Window(data=self, generator=np.random.default_rng([*seed]))

    def in_memory(self) -> SplitData:
        """Return the split itself."""
        return self

    def pieces(self) -> Iterator[SplitData]:
        """Yield the split itself."""
        yield self

    def latest(self) -> SplitData:
        """Return the split itself."""
        return self

    def batches(self, order: Order, *, first: int = 0, cut: Cut | None = None) -> Iterator[Batch]:
        """Yield the batches of an order, beginning with batch `first`.

        `cut` selects the rows of one worker. Its batches are weighted by their share of the rows, so that the losses of
        all workers add up to the loss of the whole batch.
        """
        rows = torch.from_numpy(order.rows)
        for index in range(first, order.num_batches):
            start, stop = int(order.starts[index]), int(order.starts[index + 1])
            weight = 1.0 if order.nominal is None else min(1.0, (stop - start) / order.nominal)
            selected, share = (rows[start:stop], 1.0) if cut is None else cut(rows[start:stop])
            yield self.take(selected, weight=weight * share, share=share)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Yield all rows in their stored order, in slices."""
        for start in range(0, len(self), batch_size):
            yield self.slice(start, min(start + batch_size, len(self)))


@dataclass(frozen=True, kw_only=True)
class Window:
    """Rows that are shuffled together, and their position in the epoch."""

    data: SplitData
    generator: np.random.Generator
    """Random generator for their order."""
    before: float = 0.0
    """Share of the epoch's rows in earlier windows."""
    share: float = 1.0
    """Share of the epoch's rows."""


class RowSource(Protocol):
    """Interface of a split for training and scoring: `SplitData` in memory, or a `StreamedSplit`."""

    def __len__(self) -> int:
        """Number of rows of the split."""

    def windows(self, seed: Sequence[int], *, first: int = 0) -> Iterator[Window]:
        """Yield the windows of an epoch, beginning with window `first`; `seed` determines the order of rows."""

    def in_memory(self) -> SplitData | None:
        """Return all rows, or None if the split is streamed because memory may not hold it."""

    def pieces(self) -> Iterator[SplitData]:
        """Yield all rows in time order, in pieces."""

    def latest(self) -> SplitData:
        """Return the last rows in time order: all rows, or one piece of a streamed split."""


def subset(data: SplitData, rows: np.ndarray) -> SplitData:
    """Return a copy of some rows of a split on the CPU, in the given order."""
    batch = data.take(torch.from_numpy(rows))
    return SplitData(
        **batch.tensors(),
        row=data.row[rows],
        user=None if data.user is None else data.user[rows],
        probability=None if data.probability is None else data.probability[rows],
        ceiling=None if data.ceiling is None else data.ceiling[rows],
        user_key=None if data.user_key is None else data.user_key[rows],
        true_domain=None if data.true_domain is None else data.true_domain[rows],
    )


def split_of(tensors: Mapping[str, Any]) -> SplitData:
    """Return rows as a split, given their `Rows.tensors`; row numbers are those within the split."""
    return SplitData(**tensors, row=np.arange(len(tensors["label_B"])), user=None, probability=None)


def concatenated(parts: Sequence[SplitData]) -> SplitData:
    """Concatenate parts, which must be on the CPU."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    domain = torch.cat([part.domain_B for part in parts])
    is_same = first.indicator_B is first.domain_B
    return SplitData(
        ids_BF=torch.cat([part.ids_BF for part in parts]),
        bags=tuple(_concatenate_bags([part.bags[i] for part in parts]) for i in range(len(first.bags))),
        numeric_BK=torch.cat([part.numeric_BK for part in parts]),
        domain_B=domain,
        indicator_B=domain if is_same else torch.cat([part.indicator_B for part in parts]),
        label_B=torch.cat([part.label_B for part in parts]),
        row=np.concatenate([part.row for part in parts]),
        user=_concatenate([part.user for part in parts]),
        probability=_concatenate([part.probability for part in parts]),
        ceiling=_concatenate([part.ceiling for part in parts]),
        user_key=_concatenate([part.user_key for part in parts]),
        copies_BD=None if first.copies_BD is None else _concatenate_copies(parts),
        true_domain=_concatenate([part.true_domain for part in parts]),
    )


def _concatenate_copies(parts: Sequence[SplitData]) -> torch.Tensor:
    return torch.cat([part.copies_BD for part in parts if part.copies_BD is not None])


def _concatenate(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    arrays = [part for part in parts if part is not None]
    return np.concatenate(arrays) if arrays else None


def _concatenate_bags(bags: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.cat([offsets.diff() for _, offsets in bags])
    ends = torch.cumsum(lengths, 0)
    return torch.cat([values for values, _ in bags]), torch.cat([ends.new_zeros(1), ends])


def mixed_order(num_rows: int, batch_size: int, generator: np.random.Generator) -> Order:
    """Shuffle all rows and divide them into batches; the last one may be smaller."""
    rows = generator.permutation(num_rows)
    return Order(rows=rows, starts=np.append(np.arange(0, num_rows, batch_size), num_rows))


def domain_order(
    group_B: np.ndarray, batch_size: int, generator: np.random.Generator, *, smallest: int = 32
) -> Order:
    """Divide each domain's shuffled rows into blocks and shuffle the blocks of all domains (spec: star-2.3).

    Remainder blocks below `smallest` rows are merged into mixed blocks. Every row occurs once.
    """
    shuffled = generator.permutation(len(group_B))
    rows = shuffled[np.argsort(group_B[shuffled], kind="stable")]
    counts = np.unique(group_B, return_counts=True)[1]
    blocks: list[np.ndarray] = []
    remainders: list[np.ndarray] = []
    for part in np.split(rows, np.cumsum(counts)[:-1]):
        for block in np.split(part, range(batch_size, len(part), batch_size)):
            (blocks if len(block) >= min(smallest, batch_size) else remainders).append(block)
    if remainders:
        mixed = generator.permutation(np.concatenate(remainders))
        blocks += np.split(mixed, range(batch_size, len(mixed), batch_size))
    blocks = [blocks[i] for i in generator.permutation(len(blocks))]
    return Order.of(blocks, nominal=batch_size)


def _slice_bag(
    values: torch.Tensor, offsets: torch.Tensor, start: int, stop: int
) -> tuple[torch.Tensor, torch.Tensor]:
    part = offsets[start : stop + 1]
    return values[int(part[0]) : int(part[-1])], part - part[0]


def _take_bag(
    values: torch.Tensor, offsets: torch.Tensor, rows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    start_B = offsets.index_select(0, rows)
    length_B = offsets.index_select(0, rows + 1) - start_B
    ends = torch.cumsum(length_B, 0)
    batch_offsets = torch.cat([ends.new_zeros(1), ends])
    shift = torch.repeat_interleave(start_B - batch_offsets[:-1], length_B)
    index = shift + torch.arange(len(shift))
    return values.index_select(0, to_device(index, values.device)), batch_offsets
