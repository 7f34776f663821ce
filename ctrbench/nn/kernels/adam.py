"""Adam on the rows of a table that a step touches, by compiled loops or by tensor operations.

A table's weights and both moments are stored side by side, so one pass reads and one pass updates the rows of a step.

Shapes in names: n ids of a batch, U distinct rows, W numbers per row, R rows of the table, H steps tabulated.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch

from ctrbench.compiled import compiled
from ctrbench.nn.kernels.loops import Array, in_parts
from ctrbench.nn.kernels.missed_steps import AdamConfig, MissedSteps
from ctrbench.nn.kernels.rows import distinct_by_loops, distinct_by_tensors
from ctrbench.nn.tables import RowTable

_WEIGHT, _MEAN, _SQUARE = 0, 1, 2


def row_adam(table: RowTable, config: AdamConfig, missed: MissedSteps) -> RowAdam:
    """Return the form of Adam that suits the table's device."""
    form = LoopRowAdam if table.weight.device.type == "cpu" else TensorRowAdam
    return form(table, config, missed)


class RowAdam(ABC):
    """Adam on the rows of one table that a step touches; see `LoopRowAdam` and `TensorRowAdam`.

    A step calls `distinct`, `read` and `update` once, in this order.
    """

    def __init__(
        self, table: RowTable, config: AdamConfig, missed: MissedSteps, num_spare_rows: int = 0
    ) -> None:
        self.config, self.missed, self.lr = config, missed, config.lr
        self.rule: str = "domain" if table.rule == "domain" else config.embedding_rule
        self.steps = 0 if table.own_steps else None
        """Steps that read the table; None: the model's steps count."""
        weight = table.weight
        self.num_rows, self.shape = len(weight), weight.shape[1:]
        self.width, self.num_spare_rows = max(1, self.shape.numel()), num_spare_rows
        self.num_decayed = table.num_decayed
        self.packed = _zeros((self.num_rows + num_spare_rows, 3, self.width), weight)
        self.packed[: self.num_rows, _WEIGHT] = weight.detach().flatten(1)
        # The model reads the very memory that is updated here.
        weight.data = self.packed[: self.num_rows, _WEIGHT].view(weight.shape)
        self.last = torch.zeros(len(self.packed), dtype=torch.int64, device=weight.device)
        """`adam`: the step of a row's last touch. `domain`: how often the row was touched."""

    @abstractmethod
    def distinct(self, ids_n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the distinct ids, int64, and the index of each id among them."""

    @abstractmethod
    def read(self, rows_U: torch.Tensor, step: int) -> torch.Tensor:
        """Return the weights (U, W) that distinct rows have before step number `step`."""

    @abstractmethod
    def update(self, rows_U: torch.Tensor, weight_UW: torch.Tensor, grad_UW: torch.Tensor, step: int) -> None:
        """Make step number `step` on rows whose weights `read` returned."""

    @abstractmethod
    def decay(self, rows_U: torch.Tensor, factor: float) -> None:
        """Multiply the decayed numbers of rows that `read` returned and `update` will update."""

    @abstractmethod
    def flush(self, step: int) -> None:
        """Apply the missed steps of every row, up to step number `step`."""

    def scales(self, step: int) -> tuple[float, float]:
        """Return (rate, ε) of the update w -= rate · m / (√v + ε) at step number `step`, counted from 1."""
        config = self.config
        c1, root2 = 1.0 - config.beta1**step, (1.0 - config.beta2**step) ** 0.5
        # SparseAdam adds ε before the bias correction of the root, dense Adam after it.
        return self.lr * root2 / c1, config.eps if self.rule == "lazy_adam" else config.eps * root2

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return weights, moments and step counts."""
        steps = {} if self.steps is None else {"steps": torch.tensor(self.steps), **self.missed.state_dict()}
        return {"packed": self.packed[: self.num_rows], "last": self.last[: self.num_rows], **steps}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Load the state returned by `state_dict`, in place."""
        self.packed[: self.num_rows].copy_(state["packed"])
        self.last[: self.num_rows].copy_(state["last"])
        if self.steps is not None:
            self.steps = int(state["steps"])
            self.missed.load_state_dict(state)


def _zeros(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    # numpy asks the system for huge pages, without which every other access to a large table misses the TLB.
    block: np.ndarray = np.empty(shape, dtype=np.float32)
    block.fill(0.0)
    return torch.from_numpy(block)


class LoopRowAdam(RowAdam):
    """Adam on rows by compiled loops on the CPU: one pass reads the rows and one updates them."""

    def __init__(self, table: RowTable, config: AdamConfig, missed: MissedSteps) -> None:
        super().__init__(table, config, missed)
        self.packed_R3W, self.last_R = self.packed.numpy(), self.last.numpy()
        self.slot_R = np.full(self.num_rows, -1, dtype=np.int32)

    def distinct(self, ids_n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the distinct ids in order of first occurrence, and the index of each id among them."""
        return distinct_by_loops(ids_n, self.slot_R)

    def read(self, rows_U: torch.Tensor, step: int) -> torch.Tensor:
        """Return copies that have caught up with missed steps; of a single row without missed steps, a view."""
        if self.rule != "adam":
            if len(rows_U) == 1:
                row = int(rows_U)
                return self.packed[row : row + 1, _WEIGHT]
            return self.packed[:, _WEIGHT].index_select(0, rows_U)
        out_UW = self.packed.new_empty(len(rows_U), self.packed.shape[2])
        in_parts(
            _catch_up_loop, len(rows_U), self.packed.shape[2],
            self.packed_R3W, self.last_R, rows_U.numpy(), step - 1, self.missed.lr, self.config.eps,
            self.missed.sums_2H, self.missed.powers_4H, out_UW.numpy(),
        )  # fmt: skip
        return out_UW

    def update(self, rows_U: torch.Tensor, weight_UW: torch.Tensor, grad_UW: torch.Tensor, step: int) -> None:
        """Update weights and moments in place."""
        config, grad = self.config, grad_UW.contiguous().numpy()
        betas, table = (config.beta1, config.beta2), (self.packed_R3W, self.last_R, rows_U.numpy())
        size = self.packed.shape[2]
        if self.rule == "domain":
            in_parts(_own_adam_loop, len(rows_U), size, *table, grad, self.lr, config.eps, betas)
            return
        in_parts(
            _adam_loop, len(rows_U), size, *table, weight_UW.numpy(), grad, step, *self.scales(step), betas,
            self.missed.powers_4H, self.rule == "adam",
        )  # fmt: skip

    def decay(self, rows_U: torch.Tensor, factor: float) -> None:
        """Change the table in place."""
        decayed_RW = self.packed[:, _WEIGHT, : self.num_decayed]
        decayed_RW.index_copy_(0, rows_U, decayed_RW.index_select(0, rows_U).mul_(factor))

    def flush(self, step: int) -> None:
        """Make up for the missed steps of every row."""
        if self.rule != "adam":
            return
        config = self.config
        in_parts(
            _flush_loop, self.num_rows, self.packed.shape[2],
            self.packed_R3W, self.last_R, step, self.missed.lr, config.eps, config.beta2,
            self.missed.sums_2H, self.missed.powers_4H,
        )  # fmt: skip


class TensorRowAdam(RowAdam):
    """Adam on rows by tensor operations on any device.

    Shapes do not depend on values, so no step waits for the device: n ids have n distinct rows, and those left over are
    a spare row at the end of the table.
    """

    def __init__(self, table: RowTable, config: AdamConfig, missed: MissedSteps) -> None:
        super().__init__(table, config, missed, num_spare_rows=1)
        self.gathered: torch.Tensor | None = None

    def distinct(self, ids_n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the distinct ids in ascending order, then the spare row; and the index of each id among them."""
        return distinct_by_tensors(ids_n, spare_row=self.num_rows)

    def read(self, rows_U: torch.Tensor, step: int) -> torch.Tensor:
        """Gather weights and moments, and store them for the update."""
        self.gathered = self.packed.index_select(0, rows_U)
        if self.rule == "adam":
            self._catch_up(self.gathered, self.last[rows_U], step - 1)
        return self.gathered[:, _WEIGHT]

    def _catch_up(self, gathered: torch.Tensor, last_U: torch.Tensor, step: int) -> None:
        missed_U = (step - last_U).clamp_min(0)
        g1, g2 = (g.float()[:, None] for g in self.missed.sums(last_U, missed_U))
        weight, mean, square = gathered.unbind(1)
        # A row never touched has zero moments and does not move.
        damping = (self.config.eps * g2 / g1.clamp_min(1e-30)).clamp_min(1e-30)
        weight -= self.missed.lr * g1 * mean / (square.sqrt() + damping)
        mean *= (self.config.beta1 ** missed_U.double()).float()[:, None]
        square *= (self.config.beta2 ** missed_U.double()).float()[:, None]

    def update(self, rows_U: torch.Tensor, weight_UW: torch.Tensor, grad_UW: torch.Tensor, step: int) -> None:
        """Update the gathered rows and write them back."""
        assert self.gathered is not None, "rows are read before they are updated"
        config = self.config
        weight, mean, square = self.gathered.unbind(1)
        mean.lerp_(grad_UW, 1.0 - config.beta1)
        square.mul_(config.beta2).addcmul_(grad_UW, grad_UW, value=1.0 - config.beta2)
        if self.rule == "domain":
            count_U = self.last[rows_U] + 1
            self.last[rows_U] = count_U
            # w -= lr / c1 · m / (√(v / c2) + ε), in few passes over the rows.
            c1_U1 = (1.0 - config.beta1 ** count_U.double())[:, None] / max(self.lr, 1e-30)
            root_U1 = (1.0 - config.beta2 ** count_U.double()).sqrt()[:, None]
            divisor = square.sqrt().mul_((c1_U1 / root_U1).float()).add_((config.eps * c1_U1).float())
            weight.addcdiv_(mean, divisor, value=-1.0)
        else:
            rate, eps = self.scales(step)
            weight.addcdiv_(mean, square.sqrt().add_(eps), value=-rate)
            if self.rule == "adam":
                self.last[rows_U] = step
        self.packed.index_copy_(0, rows_U, self.gathered)
        self.gathered = None

    def decay(self, rows_U: torch.Tensor, factor: float) -> None:
        """Change the gathered rows."""
        assert self.gathered is not None, "rows are read before they decay"
        self.gathered[:, _WEIGHT, : self.num_decayed] *= factor

    def flush(self, step: int, rows: int = 1 << 18) -> None:
        """Make up for the missed steps of every row, `rows` rows at a time."""
        if self.rule != "adam":
            return
        for start in range(0, len(self.packed), rows):
            part = slice(start, start + rows)
            self._catch_up(self.packed[part], self.last[part], step)
        self.last.clamp_(min=step)


@compiled
def _catch_up_loop(
    start: int,
    stop: int,
    packed_R3W: Array,
    last_R: Array,
    rows_U: Array,
    step: int,
    lr: float,
    eps: float,
    sums_2H: Array,
    powers_4H: Array,
    out_UW: Array,
) -> None:
    """Write the weights that rows have after `step` steps; the table does not change."""
    for u in range(start, stop):
        row = rows_U[u]
        weight, mean, square, out = packed_R3W[row, 0], packed_R3W[row, 1], packed_R3W[row, 2], out_UW[u]
        last = last_R[row]
        missed = step - last
        if last == 0 or missed <= 0:
            out[:] = weight
            continue
        rate, damping = _movement(last, missed, lr, eps, sums_2H, powers_4H)
        for j in range(len(out)):
            out[j] = weight[j] - rate * mean[j] / (np.sqrt(square[j]) + damping)


@compiled
def _movement(
    last: int, missed: int, lr: float, eps: float, sums_2H: Array, powers_4H: Array
) -> tuple[np.float32, np.float32]:
    """Return rate = lr g1 and damping = ε g2 / g1: the missed steps add up to -rate m / (√v + damping)."""
    horizon = sums_2H.shape[1] - 1
    start, end, power = min(last, horizon), min(last + missed, horizon), min(missed, powers_4H.shape[1] - 1)
    g1 = sums_2H[0, start] - powers_4H[0, power] * sums_2H[0, end]
    g2 = sums_2H[1, start] - powers_4H[1, power] * sums_2H[1, end]
    # A schedule may end at a rate of zero, and a row without a gradient has v = 0.
    return np.float32(lr * g1), np.float32(max(eps * g2 / max(g1, 1e-30), 1e-30))


@compiled
def _flush_loop(
    start: int,
    stop: int,
    packed_R3W: Array,
    last_R: Array,
    step: int,
    lr: float,
    eps: float,
    beta2: float,
    sums_2H: Array,
    powers_4H: Array,
) -> None:
    """Bring the weights and moments of all rows to `step` steps."""
    for row in range(start, stop):
        weight, mean, square = packed_R3W[row, 0], packed_R3W[row, 1], packed_R3W[row, 2]
        last = last_R[row]
        missed = step - last
        if last > 0 and missed > 0:
            rate, damping = _movement(last, missed, lr, eps, sums_2H, powers_4H)
            decay1, decay2 = _decays(missed, beta2, powers_4H)
            for j in range(len(weight)):
                weight[j] -= rate * mean[j] / (np.sqrt(square[j]) + damping)
                mean[j] *= decay1
                square[j] *= decay2
        last_R[row] = max(last, step)


@compiled
def _decays(missed: int, beta2: float, powers_4H: Array) -> tuple[np.float32, np.float32]:
    # β1^k is zero to float precision beyond the table, β2^k need not be.
    horizon = powers_4H.shape[1] - 1
    far = beta2**missed if missed > horizon else powers_4H[3, min(missed, horizon)]
    return np.float32(powers_4H[2, min(missed, horizon)]), np.float32(far)


@compiled
def _adam_loop(
    start: int,
    stop: int,
    packed_R3W: Array,
    last_R: Array,
    rows_U: Array,
    weight_UW: Array,
    grad_UW: Array,
    step: int,
    rate: float,
    eps: float,
    betas: tuple[float, float],
    powers_4H: Array,
    is_deferred: bool,
) -> None:
    """Make one Adam step on rows, given their current weights: w -= rate m / (√v + ε)."""
    keep1, keep2 = np.float32(betas[0]), np.float32(betas[1])
    new1, new2 = np.float32(1.0 - betas[0]), np.float32(1.0 - betas[1])
    rate32, eps32 = np.float32(rate), np.float32(eps)
    for u in range(start, stop):
        row = rows_U[u]
        weight, mean, square = packed_R3W[row, 0], packed_R3W[row, 1], packed_R3W[row, 2]
        current, grad = weight_UW[u], grad_UW[u]
        decay1, decay2 = keep1, keep2
        if is_deferred:
            missed1, missed2 = _decays(max(step - 1 - last_R[row], 0), betas[1], powers_4H)
            decay1, decay2 = keep1 * missed1, keep2 * missed2
            last_R[row] = step
        for j in range(len(weight)):
            mean[j] = decay1 * mean[j] + new1 * grad[j]
            square[j] = decay2 * square[j] + new2 * grad[j] * grad[j]
            weight[j] = current[j] - rate32 * mean[j] / (np.sqrt(square[j]) + eps32)


@compiled
def _own_adam_loop(
    start: int,
    stop: int,
    packed_R3W: Array,
    count_R: Array,
    rows_U: Array,
    grad_UW: Array,
    lr: float,
    eps: float,
    betas: tuple[float, float],
) -> None:
    """Make one Adam step on rows that count their own steps."""
    keep1, keep2 = np.float32(betas[0]), np.float32(betas[1])
    new1, new2 = np.float32(1.0 - betas[0]), np.float32(1.0 - betas[1])
    for u in range(start, stop):
        row = rows_U[u]
        weight, mean, square, grad = packed_R3W[row, 0], packed_R3W[row, 1], packed_R3W[row, 2], grad_UW[u]
        count_R[row] += 1
        root2 = math.sqrt(1.0 - betas[1] ** count_R[row])
        rate = np.float32(lr * root2 / (1.0 - betas[0] ** count_R[row]))
        own_eps = np.float32(eps * root2)
        for j in range(len(weight)):
            mean[j] = keep1 * mean[j] + new1 * grad[j]
            square[j] = keep2 * square[j] + new2 * grad[j] * grad[j]
            weight[j] -= rate * mean[j] / (np.sqrt(square[j]) + own_eps)
