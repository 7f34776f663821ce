"""Adam at the cost of the batch's rows.

What Adam does to a table row that a batch does not touch moves results, so it is named in every record (METHODS 12).
`adam` is what the papers mean: an untouched row has gradient zero, its moments decay and it still moves. Here that
movement is deferred: a row catches up in closed form when it is next read. `lazy_adam` leaves untouched rows alone.
Per-domain parameters never move with other domains' rows and count their own steps (METHODS 2.4).

A table's weights and both moments lie side by side, so one pass reads and one pass updates the rows of a step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import nn

from ctrbench.nn import kernels
from ctrbench.nn.exchange import RowGrads, Team, Workers, sum_gradients
from ctrbench.nn.tables import RowTable, rows_at

EmbeddingRule = Literal["adam", "lazy_adam"]
_WEIGHT, _MEAN, _SQUARE = 0, 1, 2
_HORIZON = 1 << 15
"""Steps after which the bias corrections of Adam are one to float precision, at β2 ≤ 0.9995."""


@dataclass(frozen=True, kw_only=True)
class AdamConfig:
    """Adam's settings, for dense weights and rows alike."""

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    embedding_rule: EmbeddingRule = "adam"


class MissedSteps:
    """Tabulated sums that let a row make up for steps without a gradient; METHODS 12.

    With s(t) = c2(t)^a / c1(t) and ci(t) = 1 - βi^t, H(t) = Σ_{j≥1} ρ^j s(t + j) is tabulated backwards in float64;
    the sum over k missed steps is then H(t0) - ρ^k H(t0 + k).
    """

    def __init__(self, config: AdamConfig, device: torch.device | None = None) -> None:
        self.config = config
        self.rho1 = config.beta1 / config.beta2**0.5
        self.rho2 = config.beta1 / config.beta2
        self.table1 = _tabulate(config.beta1, config.beta2, self.rho1, 0.5).to(device)
        self.table2 = _tabulate(config.beta1, config.beta2, self.rho2, 1.0).to(device)
        self.sums_2H, self.powers_4H = _for_loops(config)

    def sums(self, last_U: torch.Tensor, missed_U: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return g1 and g2 of METHODS 12 for rows last touched at step `last` that missed `missed` steps."""
        g1 = self._difference(self.table1, self.rho1, last_U, missed_U)
        return g1, self._difference(self.table2, self.rho2, last_U, missed_U)

    @staticmethod
    def _difference(
        table: torch.Tensor, rho: float, last_U: torch.Tensor, missed_U: torch.Tensor
    ) -> torch.Tensor:
        end_U = (last_U + missed_U).clamp_max(_HORIZON)
        return table[last_U.clamp_max(_HORIZON)] - rho ** missed_U.double() * table[end_U]


@lru_cache(maxsize=8)
def _tabulate(beta1: float, beta2: float, rho: float, power: float) -> torch.Tensor:
    step = torch.arange(_HORIZON + 1, dtype=torch.float64)
    factor = (1.0 - beta2**step) ** power / (1.0 - beta1**step)
    total, sums = rho / (1.0 - rho), []
    for one in reversed(factor.tolist()):
        sums.append(total)
        total = rho * (one + total)
    return torch.tensor(sums[::-1], dtype=torch.float64)


@lru_cache(maxsize=8)
def _for_loops(config: AdamConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return both sums, and the powers of ρ1, ρ2, β1 and β2, as the loops read them."""
    beta1, beta2 = config.beta1, config.beta2
    rhos = (beta1 / beta2**0.5, beta1 / beta2)
    sums = [_tabulate(beta1, beta2, rho, power).numpy() for rho, power in zip(rhos, (0.5, 1.0), strict=True)]
    steps = np.arange(_HORIZON + 1, dtype=np.float64)
    return np.stack(sums), np.stack([base**steps for base in (*rhos, beta1, beta2)])


class RowAdam(ABC):
    """Adam on the rows of one table that a step touches.

    `LoopRowAdam` computes on the CPU, `TensorRowAdam` on any device, without ever waiting for it.
    """

    def __init__(self, table: RowTable, config: AdamConfig, missed: MissedSteps, spare: int = 0) -> None:
        self.config, self.missed = config, missed
        self.rule: str = "domain" if table.rule == "domain" else config.embedding_rule
        self.steps = 0 if table.own_steps else None
        """Steps of the table; None: those of the model."""
        weight = table.weight
        self.num_rows, self.shape = len(weight), weight.shape[1:]
        self.width, self.spare = max(1, self.shape.numel()), spare
        self.packed = _zeros((self.num_rows + spare, 3, self.width), weight)
        self.packed[: self.num_rows, _WEIGHT] = weight.detach().flatten(1)
        # The model reads the very memory that is updated here.
        weight.data = self.packed[: self.num_rows, _WEIGHT].view(weight.shape)
        self.last = torch.zeros(len(self.packed), dtype=torch.int64, device=weight.device)
        """`adam`: the step of a row's last touch. `domain`: how often the row was touched."""

    @abstractmethod
    def distinct(self, ids_n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the distinct ids, int64, and the place of each id among them."""

    @abstractmethod
    def read(self, rows_U: torch.Tensor, step: int) -> torch.Tensor:
        """Return the weights (U, W) of distinct rows as they stand before step number `step`."""

    @abstractmethod
    def update(self, rows_U: torch.Tensor, weight_UW: torch.Tensor, grad_UW: torch.Tensor, step: int) -> None:
        """Make step number `step` on rows whose weights were read for it."""

    @abstractmethod
    def flush(self, step: int) -> None:
        """Bring every row up to date with step number `step`."""

    def scales(self, step: int) -> tuple[float, float]:
        """Return rate and ε of w -= rate m / (√v + ε) at a step, for rows that count the run's steps."""
        config = self.config
        c1, root2 = 1.0 - config.beta1**step, (1.0 - config.beta2**step) ** 0.5
        # SparseAdam adds ε before the bias correction of the root, dense Adam after it.
        return config.lr * root2 / c1, config.eps if self.rule == "lazy_adam" else config.eps * root2

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return weights, moments and step counts."""
        steps = {} if self.steps is None else {"steps": torch.tensor(self.steps)}
        return {"packed": self.packed[: self.num_rows], "last": self.last[: self.num_rows], **steps}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restore them in place."""
        self.packed[: self.num_rows].copy_(state["packed"])
        self.last[: self.num_rows].copy_(state["last"])
        self.steps = None if self.steps is None else int(state["steps"])


def _zeros(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    # numpy asks the system for huge pages, without which every other access to a large table misses the TLB.
    block: np.ndarray = np.empty(shape, dtype=np.float32)
    block.fill(0.0)
    return torch.from_numpy(block)


class LoopRowAdam(RowAdam):
    """Adam on rows by compiled loops, one pass to read them and one to update them."""

    def __init__(self, table: RowTable, config: AdamConfig, missed: MissedSteps) -> None:
        super().__init__(table, config, missed)
        self.packed_R3W, self.last_R = self.packed.numpy(), self.last.numpy()
        self.place_R = np.full(self.num_rows, -1, dtype=np.int32)

    def distinct(self, ids_n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the distinct ids in order of first sight, and the place of each id among them."""
        rows, inverse = np.empty(len(ids_n), dtype=np.int64), np.empty(len(ids_n), dtype=np.int64)
        count = kernels.distinct(ids_n.numpy(), self.place_R, rows, inverse)
        if count < 0:
            raise IndexError(f"an id beyond the {self.num_rows} rows of its table")
        return torch.from_numpy(rows[:count]), torch.from_numpy(inverse)

    def read(self, rows_U: torch.Tensor, step: int) -> torch.Tensor:
        """Return caught-up copies; of a single row that needs no catching up, the row itself."""
        if self.rule != "adam":
            if len(rows_U) == 1:
                row = int(rows_U)
                return self.packed[row : row + 1, _WEIGHT]
            return self.packed[:, _WEIGHT].index_select(0, rows_U)
        out_UW = self.packed.new_empty(len(rows_U), self.packed.shape[2])
        kernels.in_parts(
            kernels.caught_up, len(rows_U), self.packed.shape[2],
            self.packed_R3W, self.last_R, rows_U.numpy(), step - 1, self.config.lr, self.config.eps,
            self.missed.sums_2H, self.missed.powers_4H, out_UW.numpy(),
        )  # fmt: skip
        return out_UW

    def update(self, rows_U: torch.Tensor, weight_UW: torch.Tensor, grad_UW: torch.Tensor, step: int) -> None:
        """Update weights and moments where they stand."""
        config, grad = self.config, grad_UW.contiguous().numpy()
        betas, table = (config.beta1, config.beta2), (self.packed_R3W, self.last_R, rows_U.numpy())
        size = self.packed.shape[2]
        if self.rule == "domain":
            kernels.in_parts(kernels.own_adam, len(rows_U), size, *table, grad, config.lr, config.eps, betas)
            return
        kernels.in_parts(
            kernels.adam, len(rows_U), size, *table, weight_UW.numpy(), grad, step, *self.scales(step), betas,
            self.missed.powers_4H, self.rule == "adam",
        )  # fmt: skip

    def flush(self, step: int) -> None:
        """Bring every row up to date."""
        if self.rule != "adam":
            return
        config = self.config
        kernels.in_parts(
            kernels.flush, self.num_rows, self.packed.shape[2],
            self.packed_R3W, self.last_R, step, config.lr, config.eps, config.beta2,
            self.missed.sums_2H, self.missed.powers_4H,
        )  # fmt: skip


class TensorRowAdam(RowAdam):
    """Adam on rows by tensor operations whose shapes do not depend on values, so no step waits for the device.

    The distinct rows of n ids are n places, of which those that are left over hold a spare row at the table's end.
    """

    def __init__(self, table: RowTable, config: AdamConfig, missed: MissedSteps) -> None:
        super().__init__(table, config, missed, spare=1)
        self.gathered: torch.Tensor | None = None

    def distinct(self, ids_n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the distinct ids in ascending order, then the spare row; and the place of each id among them."""
        sorted_n, order_n = torch.sort(ids_n.long())
        is_new_n = torch.ones_like(sorted_n)
        is_new_n[1:] = sorted_n[1:] != sorted_n[:-1]
        place_n = torch.cumsum(is_new_n, 0) - 1
        rows_n = torch.full_like(sorted_n, self.num_rows).scatter_(0, place_n, sorted_n)
        return rows_n, torch.empty_like(place_n).scatter_(0, order_n, place_n)

    def read(self, rows_U: torch.Tensor, step: int) -> torch.Tensor:
        """Gather weights and moments, and keep them for the update."""
        self.gathered = self.packed.index_select(0, rows_U)
        if self.rule == "adam":
            self._catch_up(self.gathered, self.last[rows_U], step - 1)
        return self.gathered[:, _WEIGHT]

    def _catch_up(self, gathered: torch.Tensor, last_U: torch.Tensor, step: int) -> None:
        missed_U = (step - last_U).clamp_min(0)
        g1, g2 = (g.float()[:, None] for g in self.missed.sums(last_U, missed_U))
        weight, mean, square = gathered.unbind(1)
        # A row never touched has no moments, and so does not move.
        damping = (self.config.eps * g2 / g1.clamp_min(1e-30)).clamp_min(1e-30)
        weight -= self.config.lr * g1 * mean / (square.sqrt() + damping)
        mean *= (self.config.beta1 ** missed_U.double()).float()[:, None]
        square *= (self.config.beta2 ** missed_U.double()).float()[:, None]

    def update(self, rows_U: torch.Tensor, weight_UW: torch.Tensor, grad_UW: torch.Tensor, step: int) -> None:
        """Update what was gathered and write it back."""
        assert self.gathered is not None, "rows are read before they are updated"
        config = self.config
        weight, mean, square = self.gathered.unbind(1)
        mean.lerp_(grad_UW, 1.0 - config.beta1)
        square.mul_(config.beta2).addcmul_(grad_UW, grad_UW, value=1.0 - config.beta2)
        if self.rule == "domain":
            count_U = self.last[rows_U] + 1
            self.last[rows_U] = count_U
            # w -= lr / c1 · m / (√(v / c2) + ε), in as few passes over the rows as can be.
            c1_U1 = (1.0 - config.beta1 ** count_U.double())[:, None] / config.lr
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

    def flush(self, step: int, rows: int = 1 << 18) -> None:
        """Bring every row up to date, some rows at a time."""
        if self.rule != "adam":
            return
        for start in range(0, len(self.packed), rows):
            part = slice(start, start + rows)
            self._catch_up(self.packed[part], self.last[part], step)
        self.last.clamp_(min=step)


class DenseAdam:
    """Adam on parameters that take part in every step, by torch's fused kernel; those without a gradient rest.

    `torch.optim.Adam` computes the same; at batch 256 its bookkeeping costs four times what its arithmetic does.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], config: AdamConfig) -> None:
        self.parameters = list(parameters)
        self.config, self.lr = config, config.lr
        self.means = [torch.zeros_like(one) for one in self.parameters]
        self.squares = [torch.zeros_like(one) for one in self.parameters]
        self.counts = [torch.zeros((), device=one.device) for one in self.parameters]

    def begin(self) -> None:
        """Forget gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Make one step."""
        in_use = [place for place, one in enumerate(self.parameters) if one.grad is not None]
        if not in_use:
            return
        weights, means, squares, counts = (
            [values[place] for place in in_use]
            for values in (self.parameters, self.means, self.squares, self.counts)
        )
        grads = [one.grad for one in weights if one.grad is not None]
        torch._foreach_add_(counts, 1.0)
        torch._fused_adam_(
            weights, grads, means, squares, [], counts,
            lr=self.lr, beta1=self.config.beta1, beta2=self.config.beta2, eps=self.config.eps,
            weight_decay=0.0, amsgrad=False, maximize=False,
        )  # fmt: skip

    def state_dict(self) -> dict[str, list[torch.Tensor]]:
        """Return moments and step counts, in the order of the parameters."""
        return {"means": self.means, "squares": self.squares, "counts": self.counts}

    def load_state_dict(self, state: dict[str, list[torch.Tensor]]) -> None:
        """Restore them in place."""
        for name, own in self.state_dict().items():
            for one, restored in zip(own, state[name], strict=True):
                one.copy_(restored)


@dataclass(frozen=True)
class Read:
    """Rows of a table that a step has read."""

    rule: RowAdam
    rows_U: torch.Tensor
    leaf: torch.Tensor

    @property
    def grads(self) -> RowGrads | None:
        """The rows' gradient, those that only fill up left out; None where there is none."""
        if self.leaf.grad is None:
            return None
        grad_UW = self.leaf.grad.flatten(1)
        if not self.rule.spare:
            return RowGrads(self.rows_U, grad_UW)
        is_real_U = self.rows_U < self.rule.num_rows
        return RowGrads(self.rows_U[is_real_U], grad_UW[is_real_U])


Touched = tuple[RowAdam, torch.Tensor, torch.Tensor, torch.Tensor]
"""A table, rows of it, their weights and their gradient."""


class Optimizer:
    """Adam for a whole model: dense weights by `DenseAdam`, table rows by `RowAdam`.

    One step: `begin()`, forward with this object as the reader, `loss.backward()`, `step()`. With `workers`, gradients
    are summed over all of them, and a step is everywhere the same.
    """

    def __init__(self, model: nn.Module, config: AdamConfig, workers: Workers | None = None) -> None:
        self.config, self.workers = config, workers
        self.team: Team | None = None
        missed = MissedSteps(config, next(model.parameters()).device)
        tables = {name: module for name, module in model.named_modules() if isinstance(module, RowTable)}
        self.tables = {name: _row_adam(table, config, missed) for name, table in tables.items()}
        self._of = {table: self.tables[name] for name, table in tables.items()}
        in_tables = {id(table.weight) for table in tables.values()}
        self.dense = DenseAdam((p for p in model.parameters() if id(p) not in in_tables), config)
        self.steps = 0
        self._reads: list[Read] = []

    def begin(self, share: float = 1.0) -> None:
        """Forget gradients and what was read before; `share` of the step's rows are this worker's."""
        self.team = None if self.workers is None else Team(self.workers, share)
        self.dense.begin()
        self._reads.clear()

    def read(self, table: RowTable, rows_U: torch.Tensor) -> torch.Tensor:
        """Return distinct rows of a table, current as of this step, as a leaf with a gradient of its own."""
        rule = self._of[table]
        assert all(read.rule is not rule for read in self._reads), "a table is read once a step"
        weight_UW = rule.read(rows_U, self._made(rule) + 1)
        leaf = weight_UW.detach().view(len(rows_U), *rule.shape).requires_grad_()
        self._reads.append(Read(rule, rows_U, leaf))
        return leaf

    def lookup(self, table: RowTable, ids_n: torch.Tensor) -> torch.Tensor:
        """Return the row of each id; ids may repeat, and the gradients of those that do are summed."""
        rows_U, inverse_n = self._of[table].distinct(ids_n)
        return rows_at(self.read(table, rows_U), inverse_n)

    def step(self) -> None:
        """Make one Adam step with the gradients at hand."""
        touched = self._touched() if self.team is None else self._touched_by_all(self.team)
        self.steps += 1
        self.dense.step()
        for rule, rows_U, weight_UW, grad_UW in touched:
            if rule.steps is not None:
                rule.steps += 1
            rule.update(rows_U, weight_UW, grad_UW, self._made(rule))
        self._reads.clear()

    def _touched(self) -> list[Touched]:
        return [
            (read.rule, read.rows_U, read.leaf.detach().flatten(1), read.leaf.grad.flatten(1))
            for read in self._reads
            if read.leaf.grad is not None
        ]

    def _touched_by_all(self, team: Team) -> list[Touched]:
        """Sum gradients over workers; rows are read again, for another worker's were not read here."""
        found: dict[RowAdam, RowGrads | None] = dict.fromkeys(self.tables.values())
        found |= {read.rule: read.grads for read in self._reads}
        summed = sum_gradients(self.dense.parameters, found, team)
        return [
            (rule, one.rows_U, rule.read(one.rows_U, self._made(rule) + 1), one.grad_UW)
            for rule, one in summed.items()
        ]

    def _made(self, rule: RowAdam) -> int:
        """Return the steps made so far, as a table counts them."""
        return self.steps if rule.steps is None else rule.steps

    def flush(self) -> None:
        """Bring every table row up to date, before weights are evaluated or exported."""
        for rule in self.tables.values():
            rule.flush(self._made(rule))

    def state_dict(self) -> dict[str, object]:
        """Return all state; table weights are part of it."""
        return {
            "steps": self.steps,
            "dense": self.dense.state_dict(),
            "tables": {name: rule.state_dict() for name, rule in self.tables.items()},
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restore the state in place."""
        tables, steps, dense = state["tables"], state["steps"], state["dense"]
        assert isinstance(tables, dict)
        assert isinstance(steps, int)
        assert isinstance(dense, dict)
        self.steps = steps
        self.dense.load_state_dict(dense)
        for name, rule in self.tables.items():
            rule.load_state_dict(tables[name])


def _row_adam(table: RowTable, config: AdamConfig, missed: MissedSteps) -> RowAdam:
    kind = LoopRowAdam if table.weight.device.type == "cpu" else TensorRowAdam
    return kind(table, config, missed)
