"""Lists of varying length, stored one after the other without padding.

Order and sizes are computed on the CPU, so no step waits for a device.

Shapes in names: B rows, E embedding size, K columns, n elements of all lists, S steps with a next one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch

from ctrbench.nn.gather import to_device


class Lists:
    """The layout of a batch's lists within their concatenated elements.

    `offsets` (B + 1) are on the CPU; other tensors are moved to the device when they are first used.
    """

    def __init__(self, offsets: torch.Tensor, device: torch.device) -> None:
        self.offsets, self.device = offsets, device
        self.length_B = offsets.diff()

    @cached_property
    def owner_n(self) -> torch.Tensor:
        """The index of each element's list."""
        return self.to_device(self._owner_n)

    @cached_property
    def is_empty_B1(self) -> torch.Tensor:
        """Whether each list is empty."""
        return self.to_device((self.length_B == 0)[:, None])

    @cached_property
    def order_n(self) -> torch.Tensor:
        """The elements sorted by their time in the list; those of one time in the order of `rank_B`."""
        order_n = torch.empty_like(self._time_rank_n)
        order_n[self._time_rank_n] = torch.arange(len(order_n))
        return self.to_device(order_n)

    @cached_property
    def time_rank_n(self) -> torch.Tensor:
        """The index of each element in `order_n`."""
        return self.to_device(self._time_rank_n)

    @cached_property
    def rank_B(self) -> torch.Tensor:
        """The rank of each list by length, the longest first."""
        return self.to_device(self._rank_B)

    @cached_property
    def sizes(self) -> list[int]:
        """Per time, the number of lists that have an element; these are the first by `rank_B`."""
        longest = int(self.length_B.max()) if len(self.length_B) else 0
        ended = torch.bincount(self.length_B, minlength=longest + 1).cumsum(0)
        sizes: list[int] = (len(self.length_B) - ended[:longest]).tolist()
        return sizes

    def steps(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the elements that have a next one, and per such element a random element of another list.

        Both are indices on the CPU. Elements are left out if no other list has any.
        """
        is_last_n = torch.zeros(len(self._owner_n), dtype=torch.bool)
        is_last_n[self.offsets[1:][self.length_B > 0] - 1] = True
        step_S = torch.nonzero(~is_last_n)[:, 0]
        owner_S = self._owner_n[step_S]
        others_S = len(self._owner_n) - self.length_B[owner_S]
        step_S, owner_S, others_S = (values[others_S > 0] for values in (step_S, owner_S, others_S))
        # An offset from the end of the own list, which wraps around, hits other lists only.
        drawn_S = (torch.rand(len(step_S), dtype=torch.float64) * others_S).long()
        return step_S, (self.offsets[owner_S + 1] + drawn_S) % max(1, len(self._owner_n))

    @cached_property
    def _owner_n(self) -> torch.Tensor:
        return torch.repeat_interleave(self.length_B)

    @cached_property
    def _rank_B(self) -> torch.Tensor:
        order_B = torch.argsort(self.length_B, descending=True, stable=True)
        rank_B = torch.empty_like(order_B)
        rank_B[order_B] = torch.arange(len(order_B))
        return rank_B

    @cached_property
    def _time_rank_n(self) -> torch.Tensor:
        sizes = torch.tensor(self.sizes, dtype=torch.int64)
        time_n = torch.arange(len(self._owner_n)) - self.offsets[self._owner_n]
        return (sizes.cumsum(0) - sizes)[time_n] + self._rank_B[self._owner_n]

    def to_device(self, values: torch.Tensor) -> torch.Tensor:
        """Copy values from the CPU to the device, without waiting for it."""
        return to_device(values, self.device)

    def sum(self, values_nE: torch.Tensor) -> torch.Tensor:
        """Sum each list's elements, (n, E) to (B, E)."""
        zeros_BE = values_nE.new_zeros(len(self.length_B), values_nE.shape[1])
        return zeros_BE.index_add(0, self.owner_n, values_nE)

    def softmax(self, score_nK: torch.Tensor) -> torch.Tensor:
        """Return the softmax over each list's elements, column by column."""
        lowest_BK = score_nK.detach().new_zeros(len(self.length_B), score_nK.shape[1])
        owner_nK = self.owner_n[:, None].expand_as(score_nK)
        highest_BK = lowest_BK.scatter_reduce(0, owner_nK, score_nK.detach(), "amax", include_self=False)
        power_nK = (score_nK - highest_BK.index_select(0, self.owner_n)).exp()
        return power_nK / self.sum(power_nK).index_select(0, self.owner_n)


def take_lists(offsets: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the indices of the elements of some lists, and the offsets of these lists; all on the CPU."""
    start_B, length_B = offsets[rows], offsets.diff()[rows]
    taken_offsets = torch.cat([length_B.new_zeros(1), length_B.cumsum(0)])
    shift_n = torch.repeat_interleave(start_B - taken_offsets[:-1], length_B)
    return shift_n + torch.arange(len(shift_n)), taken_offsets


@dataclass(frozen=True, kw_only=True)
class Behaviors:
    """The elements of a sequence with a target, for stages that attend to them."""

    rows_nE: torch.Tensor
    """Embeddings of the elements of all lists."""
    lists: Lists
    target_BE: torch.Tensor
    """Embedding of the sequence's target in each row."""

    def part(self, rows: slice | torch.Tensor, on_device: slice | torch.Tensor) -> Behaviors:
        """Return the sequences of some rows; `rows` and `on_device` are their indices on the CPU and the device."""
        index = torch.arange(len(self.lists.length_B))[rows]
        elements_n, offsets = take_lists(self.lists.offsets, index)
        return Behaviors(
            rows_nE=self.rows_nE.index_select(0, self.lists.to_device(elements_n)),
            lists=Lists(offsets, self.lists.device),
            target_BE=self.target_BE[on_device],
        )

    def detached(self) -> Behaviors:
        """Return the sequences with embeddings that pass no gradient on."""
        return replace(self, rows_nE=self.rows_nE.detach(), target_BE=self.target_BE.detach())
