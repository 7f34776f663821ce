"""Pooling of behaviour sequences by what the row is about: DIN and DIEN (METHODS 6.1).

A sequence holds earlier values of a one-id field, the target t, and shares its embeddings e. With MLP of 80-40-1,

    DIN    a_j = MLP([e_j ; e_t ; e_j − e_t ; e_j ⊙ e_t]),  v = Σ_j a_j e_j
    DIEN   g_1..g_T = GRU(e_1..e_T),  a_j = softmax_j(g_j^T W e_t)
           u'_j = a_j u_j,  h_j = (1 − u'_j) ⊙ h_{j−1} + u'_j ⊙ h̃_j  over the g_j,  v = h_T
           L_aux = mean_j −[log σ(<g_j, e_{j+1}>) + log(1 − σ(<g_j, ẽ_{j+1}>))]

where a GRU has u = σ(x W_u + h U_u + b_u), r likewise, and h̃ = tanh(x W_h + r ⊙ (h U_h) + b_h). An empty sequence is
zero plus a learned vector, which starts at zero.

Readings: v has the width of an embedding, so every field of z does; DIEN's own input layer has t, the sum of the e_j
and their product beside h_T. DIN's activation is PReLU; Dice takes moments of the batch. The GRUs are as wide as an
embedding, as the inner products of L_aux ask. ẽ is a behaviour drawn from the other rows of the batch, so values are
drawn as often as they occur in sequences; it may happen to be the positive one. A batch in which no other row has a
sequence has no negatives, hence no L_aux, whose mean is over all steps of the batch that have a next one.

Lists are never padded: DIN sees their elements on end, a GRU the elements of one time after the other, longest lists
first. Order and sizes are worked out on the CPU, so no step waits for a device.

Shapes in names: B rows, E embedding size, H gates or hidden, n elements of all lists, S steps with a next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from ctrbench.nn.plan import Activation, Build, Pooling, start_weight

WIDTHS = (80, 40)
"""Hidden layers of DIN's attention."""
SLOPE = 0.25
"""Where the slopes of PReLU start."""


class Lists:
    """Where the lists of a batch lie in their elements on end; offsets (B + 1) are on the CPU."""

    def __init__(self, offsets: torch.Tensor, device: torch.device) -> None:
        self.offsets, self.device = offsets, device
        self.length_B = offsets.diff()

    @cached_property
    def owner_n(self) -> torch.Tensor:
        """The list of each element."""
        return self.moved(self._owner_n)

    @cached_property
    def is_empty_B1(self) -> torch.Tensor:
        """Whether a list is empty."""
        return self.moved((self.length_B == 0)[:, None])

    @cached_property
    def order_n(self) -> torch.Tensor:
        """The elements time after time, within one in the order of `rank_B`."""
        order_n = torch.empty_like(self._place_n)
        order_n[self._place_n] = torch.arange(len(order_n))
        return self.moved(order_n)

    @cached_property
    def place_n(self) -> torch.Tensor:
        """The place of each element in `order_n`."""
        return self.moved(self._place_n)

    @cached_property
    def rank_B(self) -> torch.Tensor:
        """The place of each list among all, the longest first."""
        return self.moved(self._rank_B)

    @cached_property
    def sizes(self) -> list[int]:
        """How many lists have an element of each time; these come first among all."""
        longest = int(self.length_B.max()) if len(self.length_B) else 0
        ended = torch.bincount(self.length_B, minlength=longest + 1).cumsum(0)
        sizes: list[int] = (len(self.length_B) - ended[:longest]).tolist()
        return sizes

    def steps(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the elements that another follows, and for each an element of another list, drawn at random.

        Both on the CPU; elements whose list is the only one that holds any are left out.
        """
        is_last_n = torch.zeros(len(self._owner_n), dtype=torch.bool)
        is_last_n[self.offsets[1:][self.length_B > 0] - 1] = True
        step_S = torch.nonzero(~is_last_n)[:, 0]
        owner_S = self._owner_n[step_S]
        others_S = len(self._owner_n) - self.length_B[owner_S]
        step_S, owner_S, others_S = (one[others_S > 0] for one in (step_S, owner_S, others_S))
        # Those of other lists, counted on from the end of one's own, round the end.
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
    def _place_n(self) -> torch.Tensor:
        sizes = torch.tensor(self.sizes, dtype=torch.int64)
        time_n = torch.arange(len(self._owner_n)) - self.offsets[self._owner_n]
        return (sizes.cumsum(0) - sizes)[time_n] + self._rank_B[self._owner_n]

    def moved(self, values: torch.Tensor) -> torch.Tensor:
        """Return what was worked out on the CPU on the device, without waiting for it."""
        if self.device.type == "cpu":
            return values
        return values.pin_memory().to(self.device, non_blocking=True)

    def sum(self, values_nE: torch.Tensor) -> torch.Tensor:
        """Sum each list's elements, (n, E) to (B, E)."""
        zeros_BE = values_nE.new_zeros(len(self.length_B), values_nE.shape[1])
        return zeros_BE.index_add(0, self.owner_n, values_nE)

    def softmax(self, score_nK: torch.Tensor) -> torch.Tensor:
        """Return shares that add up to one in each list, column by column."""
        lowest_BK = score_nK.detach().new_zeros(len(self.length_B), score_nK.shape[1])
        owner_nK = self.owner_n[:, None].expand_as(score_nK)
        highest_BK = lowest_BK.scatter_reduce(0, owner_nK, score_nK.detach(), "amax", include_self=False)
        power_nK = (score_nK - highest_BK.index_select(0, self.owner_n)).exp()
        return power_nK / self.sum(power_nK).index_select(0, self.owner_n)


@dataclass(frozen=True, kw_only=True)
class Behaviours:
    """A sequence as the embeddings found it, for stages that attend to its elements."""

    rows_nE: torch.Tensor
    lists: Lists
    target_BE: torch.Tensor
    """Of each row the embedding of the sequence's target."""

    def part(self, rows: slice | torch.Tensor, there: slice | torch.Tensor) -> Behaviours:
        """Return that of some rows, whose numbers are given on the CPU and on the device."""
        index = torch.arange(len(self.lists.length_B))[rows]
        places, offsets = take_lists(self.lists.offsets, index)
        return Behaviours(
            rows_nE=self.rows_nE.index_select(0, self.lists.moved(places)),
            lists=Lists(offsets, self.lists.device),
            target_BE=self.target_BE[there],
        )

    def detached(self) -> Behaviours:
        """Return the same cut off from the gradient."""
        return replace(self, rows_nE=self.rows_nE.detach(), target_BE=self.target_BE.detach())


@dataclass(frozen=True, kw_only=True)
class RowLoss:
    """A loss that each row has a sum of, over its steps; what is minimised is the mean of all steps.

    In this form it can follow rows wherever a learner takes them.
    """

    name: str
    weight: float
    sum_B: torch.Tensor
    steps_B: torch.Tensor
    """On the CPU."""

    def part(self, rows: slice | torch.Tensor, there: slice | torch.Tensor) -> RowLoss:
        """Return that of some rows, whose numbers are given on the CPU and on the device."""
        return replace(self, sum_B=self.sum_B[there], steps_B=self.steps_B[rows])

    def mean(self) -> torch.Tensor | None:
        """Return the mean of all steps; None where there are none."""
        steps = int(self.steps_B.sum())
        return self.sum_B.sum() / steps if steps else None


def together(parts: Sequence[RowLoss | None], order_B: torch.Tensor, there_B: torch.Tensor) -> RowLoss | None:
    """Join the losses of parts of the rows, then put the rows into an order, given on the CPU and on the device."""
    known = [part for part in parts if part is not None]
    if not known:
        return None
    joined = replace(
        known[0],
        sum_B=torch.cat([part.sum_B for part in known]),
        steps_B=torch.cat([part.steps_B for part in known]),
    )
    return joined.part(order_B, there_B)


class SequencePooling(nn.Module):
    """Makes one vector of each sequence, given the embedding of the row's target."""

    def __init__(self, field: str, build: Build) -> None:
        super().__init__()
        self.empty_E = nn.Parameter(torch.zeros(build.schema.embedding_size))
        self.label = f"pooling.{field}"

    def forward(
        self, rows_nE: torch.Tensor, offsets: torch.Tensor, target_BE: torch.Tensor
    ) -> tuple[torch.Tensor, RowLoss | None]:
        """Return (B, E), and in training the auxiliary loss where there is one."""
        lists = Lists(offsets, rows_nE.device)
        pooled_BE, loss = self.pool(rows_nE, lists, target_BE)
        return pooled_BE + lists.is_empty_B1 * self.empty_E, loss

    def pool(
        self, rows_nE: torch.Tensor, lists: Lists, target_BE: torch.Tensor
    ) -> tuple[torch.Tensor, RowLoss | None]:
        """Return (B, E), zero for empty lists, and the auxiliary loss."""
        raise NotImplementedError


class Din(SequencePooling):
    """Computes DIN's sum."""

    def __init__(self, field: str, build: Build) -> None:
        super().__init__(field, build)
        widths = (4 * build.schema.embedding_size, *WIDTHS, 1)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for place, (num_inputs, width) in enumerate(pairwise(widths)):
            generator = build.generator(f"{self.label}.weight{place}")
            activation: Activation | None = "relu" if width > 1 else None
            self.weights.append(nn.Parameter(start_weight(num_inputs, width, activation, generator)))
            self.biases.append(nn.Parameter(torch.zeros(width)))
        self.slopes = nn.ParameterList(nn.Parameter(torch.full((width,), SLOPE)) for width in WIDTHS)

    def pool(
        self, rows_nE: torch.Tensor, lists: Lists, target_BE: torch.Tensor
    ) -> tuple[torch.Tensor, RowLoss | None]:
        """Return Σ_j a_j e_j."""
        return lists.sum(self.attention(rows_nE, lists, target_BE) * rows_nE), None

    def attention(self, rows_nE: torch.Tensor, lists: Lists, target_BE: torch.Tensor) -> torch.Tensor:
        """Return a_j, (n, 1)."""
        # What the first layer makes of the target is the same for a whole list.
        of_row, of_target, of_difference, of_product = self.weights[0].chunk(4)
        own_BM = torch.addmm(self.biases[0], target_BE, of_target - of_difference)
        both_nE = rows_nE * target_BE.index_select(0, lists.owner_n)
        x_nM = torch.addmm(own_BM.index_select(0, lists.owner_n), rows_nE, of_row + of_difference)
        x_nM = functional.prelu(torch.addmm(x_nM, both_nE, of_product), self.slopes[0])
        x_nM = functional.prelu(torch.addmm(self.biases[1], x_nM, self.weights[1]), self.slopes[1])
        return torch.addmm(self.biases[2], x_nM, self.weights[2])


class Recurrence(nn.Module):
    """A GRU over lists, whose update gate may be weighed at every step; the gates lie in the order u, r, h̃."""

    def __init__(self, label: str, build: Build) -> None:
        super().__init__()
        size = build.schema.embedding_size
        for name in ("input", "state"):
            generator = build.generator(f"{label}.{name}")
            parts = [start_weight(size, size, "tanh", generator) for _ in range(3)]
            self.register_parameter(name, nn.Parameter(torch.cat(parts, dim=1)))
        self.bias = nn.Parameter(torch.zeros(3 * size))

    input: nn.Parameter
    state: nn.Parameter

    def forward(
        self, x_nE: torch.Tensor, lists: Lists, share_n1: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Return the states of each time, of the lists that last so long; elements are in `order_n`."""
        given_nH = torch.addmm(self.bias, x_nE, self.input)
        shares = None if share_n1 is None else torch.split(share_n1, lists.sizes)
        size = x_nE.shape[1]
        h_BE = x_nE.new_zeros(lists.sizes[0] if lists.sizes else 0, size)
        states = []
        for time, given_BH in enumerate(torch.split(given_nH, lists.sizes)):
            h_BE = h_BE[: len(given_BH)]
            moved_BH = h_BE @ self.state
            gates_BH = torch.sigmoid(given_BH[:, : 2 * size] + moved_BH[:, : 2 * size])
            update_BE, reset_BE = gates_BH[:, :size], gates_BH[:, size:]
            new_BE = torch.tanh(torch.addcmul(given_BH[:, 2 * size :], reset_BE, moved_BH[:, 2 * size :]))
            h_BE = torch.lerp(h_BE, new_BE, update_BE if shares is None else update_BE * shares[time])
            states.append(h_BE)
        return states


class Dien(SequencePooling):
    """Computes DIEN's h_T, and in training its auxiliary loss."""

    @property
    def refuses_workers(self) -> str | None:
        """Why a batch can't be cut by workers: negatives are other rows'."""
        return "pooling=dien draws behaviours from the batch's other rows" if self.weight > 0.0 else None

    def __init__(self, field: str, build: Build, *, weight: float) -> None:
        super().__init__(field, build)
        size = build.schema.embedding_size
        self.weight = weight
        self.extractor = Recurrence(f"{self.label}.extractor", build)
        self.evolution = Recurrence(f"{self.label}.evolution", build)
        generator = build.generator(f"{self.label}.attention")
        self.attention = nn.Parameter(start_weight(size, size, None, generator))

    def pool(
        self, rows_nE: torch.Tensor, lists: Lists, target_BE: torch.Tensor
    ) -> tuple[torch.Tensor, RowLoss | None]:
        """Return h_T."""
        is_aux = self.training and self.weight > 0.0
        if not len(rows_nE):
            nothing_BE = rows_nE.new_zeros(target_BE.shape)
            return nothing_BE, self.auxiliary(rows_nE, rows_nE, lists) if is_aux else None
        order_n = lists.order_n
        g_nE = torch.cat(self.extractor(rows_nE.index_select(0, order_n), lists))
        asked_nE = (target_BE @ self.attention.T).index_select(0, lists.owner_n)
        own_nE = g_nE.index_select(0, lists.place_n)
        share_n1 = lists.softmax((own_nE * asked_nE).sum(1, keepdim=True))
        states = self.evolution(g_nE, lists, share_n1.index_select(0, order_n))
        loss = self.auxiliary(rows_nE, own_nE, lists) if is_aux else None
        return _last_states(states, lists).index_select(0, lists.rank_B), loss

    def auxiliary(self, rows_nE: torch.Tensor, g_nE: torch.Tensor, lists: Lists) -> RowLoss:
        """Return L_aux, the sums of each row."""
        step_S, other_S = lists.steps()
        owner_S = torch.repeat_interleave(lists.length_B)[step_S]
        there_S = lists.moved(step_S)
        g_SE = g_nE.index_select(0, there_S)
        hit_S = (g_SE * rows_nE.index_select(0, there_S + 1)).sum(1)
        miss_S = (g_SE * rows_nE.index_select(0, lists.moved(other_S))).sum(1)
        loss_S = functional.softplus(-hit_S) + functional.softplus(miss_S)
        num_rows = len(lists.length_B)
        return RowLoss(
            name=f"{self.label}.aux",
            weight=self.weight,
            sum_B=loss_S.new_zeros(num_rows).index_add(0, lists.moved(owner_S), loss_S),
            steps_B=torch.bincount(owner_S, minlength=num_rows),
        )


def _last_states(states: list[torch.Tensor], lists: Lists) -> torch.Tensor:
    """Return each list's last state, the longest list's first; zero for empty lists."""
    going_on = [*lists.sizes[1:], 0]
    ended = [state[rows:] for state, rows in zip(states, going_on, strict=True)]
    empty = states[0].new_zeros(len(lists.length_B) - lists.sizes[0], states[0].shape[1])
    return torch.cat([*reversed(ended), empty])


def make_pooling(pooling: Pooling, field: str, build: Build) -> SequencePooling | None:
    """Return the module that pools a sequence; None for the mean."""
    if pooling.kind == "mean":
        return None
    return Din(field, build) if pooling.kind == "din" else Dien(field, build, weight=pooling.aux_weight)


def take_lists(offsets: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the places of the elements of some lists, and these lists' own offsets; all on the CPU."""
    start_B, length_B = offsets[rows], offsets.diff()[rows]
    own = torch.cat([length_B.new_zeros(1), length_B.cumsum(0)])
    shift_n = torch.repeat_interleave(start_B - own[:-1], length_B)
    return shift_n + torch.arange(len(shift_n)), own
