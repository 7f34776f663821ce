"""Pooling of behavior sequences given the row's target: DIN and DIEN (spec: pooling-6.1).

A sequence holds earlier values of a one-id field, its target t, and shares its embeddings e. With an MLP of 80-40-1,

    DIN    a_j = MLP([e_j ; e_t ; e_j − e_t ; e_j ⊙ e_t]),  v = Σ_j a_j e_j
    DIEN   g_1..g_T = GRU(e_1..e_T),  a_j = softmax_j(g_j^T W e_t)
           u'_j = a_j u_j,  h_j = (1 − u'_j) ⊙ h_{j−1} + u'_j ⊙ h̃_j  over the g_j,  v = h_T
           L_aux = mean_j −[log σ(<g_j, e_{j+1}>) + log(1 − σ(<g_j, ẽ_{j+1}>))]

where a GRU has u = σ(x W_u + h U_u + b_u), likewise r, and h̃ = tanh(x W_h + r ⊙ (h U_h) + b_h). An empty sequence is
pooled to a learned vector, which starts at zero.

Readings: v has the width of an embedding, as every field of z has; DIEN's own input layer has t, the sum of the e_j
and their product beside h_T. DIN's activation is PReLU, since Dice uses moments of the batch. The GRUs are as wide as
an embedding, as the inner products of L_aux require. ẽ is a random element of the other rows' sequences, so values are
drawn as often as they occur; it may equal the positive one. If no other row has a sequence, there are no negatives and
no L_aux, whose mean is over all steps of the batch that have a next one.

Lists are never padded: DIN reads their concatenated elements, a GRU those of one time after the other.

Shapes in names: B rows, E embedding size, H gates or hidden, n elements of all lists, S steps with a next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from ctrbench.nn.build import Activation, Build, start_weight
from ctrbench.nn.capabilities import Capabilities
from ctrbench.nn.lists import Lists

WIDTHS = (80, 40)
"""Widths of the hidden layers of DIN's attention."""
SLOPE = 0.25
"""Slope of PReLU at the start."""


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """Pooling of sequences with a target; all other lists are pooled by their mean."""

    kind: Literal["mean", "din", "dien"] = "mean"
    aux_weight: float = 1.0
    """Weight of DIEN's auxiliary loss; 0: no auxiliary loss."""


@dataclass(frozen=True, kw_only=True)
class RowLoss:
    """A loss over the steps of sequences, as sums per row; its mean over all steps is minimized.

    Sums per row can be split and reordered with the rows.
    """

    name: str
    weight: float
    sum_B: torch.Tensor
    steps_B: torch.Tensor
    """Number of steps per row, on the CPU."""

    def part(self, rows: slice | torch.Tensor, on_device: slice | torch.Tensor) -> RowLoss:
        """Return the loss of some rows, whose numbers are given on the CPU and on the device."""
        return replace(self, sum_B=self.sum_B[on_device], steps_B=self.steps_B[rows])

    def mean(self) -> torch.Tensor | None:
        """Return the mean over all steps; None if there are none."""
        steps = int(self.steps_B.sum())
        return self.sum_B.sum() / steps if steps else None


def join_losses(
    parts: Sequence[RowLoss | None], order_B: torch.Tensor, on_device_B: torch.Tensor
) -> RowLoss | None:
    """Concatenate losses, then reorder their rows by indices given on the CPU and on the device."""
    losses = [part for part in parts if part is not None]
    if not losses:
        return None
    joined = replace(
        losses[0],
        sum_B=torch.cat([loss.sum_B for loss in losses]),
        steps_B=torch.cat([loss.steps_B for loss in losses]),
    )
    return joined.part(order_B, on_device_B)


class SequencePooling(nn.Module, Capabilities):
    """Pools each sequence to one vector, given the embedding of the row's target."""

    def __init__(self, field: str, build: Build) -> None:
        super().__init__()
        self.empty_E = nn.Parameter(torch.zeros(build.schema.embedding_size))
        self.label = f"pooling.{field}"

    def forward(
        self, rows_nE: torch.Tensor, offsets: torch.Tensor, target_BE: torch.Tensor
    ) -> tuple[torch.Tensor, RowLoss | None]:
        """Return the pooled sequences (B, E), and in training the auxiliary loss, if there is one."""
        lists = Lists(offsets, rows_nE.device)
        pooled_BE, loss = self.pool(rows_nE, lists, target_BE)
        return pooled_BE + lists.is_empty_B1 * self.empty_E, loss

    def pool(
        self, rows_nE: torch.Tensor, lists: Lists, target_BE: torch.Tensor
    ) -> tuple[torch.Tensor, RowLoss | None]:
        """Return the pooled sequences (B, E), zero for empty ones, and the auxiliary loss."""
        raise NotImplementedError


class Din(SequencePooling):
    """DIN: the sum of embeddings, weighted by attention to the target."""

    def __init__(self, field: str, build: Build) -> None:
        super().__init__(field, build)
        widths = (4 * build.schema.embedding_size, *WIDTHS, 1)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for index, (num_inputs, width) in enumerate(pairwise(widths)):
            generator = build.generator(f"{self.label}.weight{index}")
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
        # The part of the first layer that depends on the target alone is computed once per list.
        of_row, of_target, of_difference, of_product = self.weights[0].chunk(4)
        own_BM = torch.addmm(self.biases[0], target_BE, of_target - of_difference)
        both_nE = rows_nE * target_BE.index_select(0, lists.owner_n)
        x_nM = torch.addmm(own_BM.index_select(0, lists.owner_n), rows_nE, of_row + of_difference)
        x_nM = functional.prelu(torch.addmm(x_nM, both_nE, of_product), self.slopes[0])
        x_nM = functional.prelu(torch.addmm(self.biases[1], x_nM, self.weights[1]), self.slopes[1])
        return torch.addmm(self.biases[2], x_nM, self.weights[2])


class Recurrence(nn.Module):
    """A GRU over lists, whose update gate can be weighted at every step; columns are in the order u, r, h̃."""

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
        """Return per time the states of the lists that have an element then; inputs are in the order of `order_n`."""
        given_nH = torch.addmm(self.bias, x_nE, self.input)
        shares = None if share_n1 is None else torch.split(share_n1, lists.sizes)
        size = x_nE.shape[1]
        h_BE = x_nE.new_zeros(lists.sizes[0] if lists.sizes else 0, size)
        states = []
        for time, given_BH in enumerate(torch.split(given_nH, lists.sizes)):
            h_BE = h_BE[: len(given_BH)]
            recurrent_BH = h_BE @ self.state
            gates_BH = torch.sigmoid(given_BH[:, : 2 * size] + recurrent_BH[:, : 2 * size])
            update_BE, reset_BE = gates_BH[:, :size], gates_BH[:, size:]
            new_BE = torch.tanh(torch.addcmul(given_BH[:, 2 * size :], reset_BE, recurrent_BH[:, 2 * size :]))
            h_BE = torch.lerp(h_BE, new_BE, update_BE if shares is None else update_BE * shares[time])
            states.append(h_BE)
        return states


class Dien(SequencePooling):
    """DIEN: the last state of a GRU whose updates attention weights, and in training the auxiliary loss."""

    def __init__(self, field: str, build: Build, *, weight: float) -> None:
        super().__init__(field, build)
        size = build.schema.embedding_size
        self.weight = weight
        if weight > 0.0:
            self.refuses_workers = "pooling=dien draws negatives from the other rows of the batch"
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
            zeros_BE = rows_nE.new_zeros(target_BE.shape)
            return zeros_BE, self.auxiliary(rows_nE, rows_nE, lists) if is_aux else None
        order_n = lists.order_n
        g_nE = torch.cat(self.extractor(rows_nE.index_select(0, order_n), lists))
        query_nE = (target_BE @ self.attention.T).index_select(0, lists.owner_n)
        own_nE = g_nE.index_select(0, lists.time_rank_n)
        share_n1 = lists.softmax((own_nE * query_nE).sum(1, keepdim=True))
        states = self.evolution(g_nE, lists, share_n1.index_select(0, order_n))
        loss = self.auxiliary(rows_nE, own_nE, lists) if is_aux else None
        return _last_states(states, lists).index_select(0, lists.rank_B), loss

    def auxiliary(self, rows_nE: torch.Tensor, g_nE: torch.Tensor, lists: Lists) -> RowLoss:
        """Return L_aux as sums per row."""
        step_S, other_S = lists.steps()
        owner_S = torch.repeat_interleave(lists.length_B)[step_S]
        on_device_S = lists.to_device(step_S)
        g_SE = g_nE.index_select(0, on_device_S)
        positive_S = (g_SE * rows_nE.index_select(0, on_device_S + 1)).sum(1)
        negative_S = (g_SE * rows_nE.index_select(0, lists.to_device(other_S))).sum(1)
        loss_S = functional.softplus(-positive_S) + functional.softplus(negative_S)
        num_rows = len(lists.length_B)
        return RowLoss(
            name=f"{self.label}.aux",
            weight=self.weight,
            sum_B=loss_S.new_zeros(num_rows).index_add(0, lists.to_device(owner_S), loss_S),
            steps_B=torch.bincount(owner_S, minlength=num_rows),
        )


def _last_states(states: list[torch.Tensor], lists: Lists) -> torch.Tensor:
    """Return the last state of each list in the order of `rank_B`; zero for empty lists."""
    num_continued = [*lists.sizes[1:], 0]
    ended = [state[rows:] for state, rows in zip(states, num_continued, strict=True)]
    empty = states[0].new_zeros(len(lists.length_B) - lists.sizes[0], states[0].shape[1])
    return torch.cat([*reversed(ended), empty])


def make_pooling(pooling: Pooling, field: str, build: Build) -> SequencePooling | None:
    """Return the module that pools the sequence of a field; None for the mean."""
    if pooling.kind == "mean":
        return None
    return Din(field, build) if pooling.kind == "din" else Dien(field, build, weight=pooling.aux_weight)
