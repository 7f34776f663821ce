"""Adam at the cost of the batch's rows.

What Adam does to a table row that a batch does not touch moves results, so it is named in every record (METHODS 12).
`adam` is what the papers mean: an untouched row has gradient zero, its moments decay and it still moves. Here that
movement is deferred: a row catches up in closed form when it is next read. `lazy_adam` leaves untouched rows alone.
Per-domain parameters never move with other domains' rows and count their own steps (METHODS 2.4).

A table's weights and both moments lie side by side, so one gather and one scatter serve a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import nn

from ctrbench.nn.embed import RowTable

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


class RowAdam:
    """Adam on the rows of one table that a step touches."""

    def __init__(self, table: RowTable, config: AdamConfig, missed: MissedSteps) -> None:
        self.config, self.missed = config, missed
        self.rule: str = "domain" if table.rule == "domain" else config.embedding_rule
        weight = table.weight
        self.shape = weight.shape[1:]
        self.packed = weight.new_zeros(weight.shape[0], 3, max(1, self.shape.numel()))
        self.packed[:, _WEIGHT] = weight.detach().flatten(1)
        # The model reads the very memory that is updated here.
        weight.data = self.packed[:, _WEIGHT].view(weight.shape)
        self.last = torch.zeros(weight.shape[0], dtype=torch.int64, device=weight.device)
        """`adam`: the step of a row's last touch. `domain`: how often the row was touched."""

    def gather(self, rows_U: torch.Tensor, step: int) -> torch.Tensor:
        """Return weights and moments (U, 3, W) of rows as they stand before step number `step`."""
        gathered = self.packed.index_select(0, rows_U)
        if self.rule == "adam":
            self._catch_up(gathered, self.last[rows_U], step - 1)
        return gathered

    def _catch_up(self, gathered: torch.Tensor, last_U: torch.Tensor, step: int) -> None:
        missed_U = (step - last_U).clamp_min(0)
        g1, g2 = (g.float()[:, None] for g in self.missed.sums(last_U, missed_U))
        weight, mean, square = gathered.unbind(1)
        root = square.sqrt()
        has_moved = root > 0
        safe = torch.where(has_moved, root, 1.0)
        damping = 1.0 + self.config.eps / safe * (g2 / g1.clamp_min(1e-30))
        weight -= torch.where(has_moved, self.config.lr * (mean / safe) * g1 / damping, 0.0)
        mean *= (self.config.beta1 ** missed_U.double()).float()[:, None]
        square *= (self.config.beta2 ** missed_U.double()).float()[:, None]

    def step(self, rows_U: torch.Tensor, gathered: torch.Tensor, grad: torch.Tensor, step: int) -> None:
        """Update gathered rows with their gradient and write them back."""
        config = self.config
        weight, mean, square = gathered.unbind(1)
        grad = grad.flatten(1)
        mean.lerp_(grad, 1.0 - config.beta1)
        square.mul_(config.beta2).addcmul_(grad, grad, value=1.0 - config.beta2)
        if self.rule == "domain":
            count_U = self.last[rows_U] + 1
            self.last[rows_U] = count_U
            # w -= lr / c1 · m / (√(v / c2) + ε), in as few passes over the rows as can be.
            c1_U1 = (1.0 - config.beta1 ** count_U.double())[:, None] / config.lr
            root_U1 = (1.0 - config.beta2 ** count_U.double()).sqrt()[:, None]
            divisor = square.sqrt().mul_((c1_U1 / root_U1).float()).add_((config.eps * c1_U1).float())
            weight.addcdiv_(mean, divisor, value=-1.0)
        else:
            c1, c2 = 1.0 - config.beta1**step, 1.0 - config.beta2**step
            # SparseAdam adds ε before the bias correction of the root, dense Adam after it.
            eps = config.eps if self.rule == "lazy_adam" else config.eps * c2**0.5
            weight.addcdiv_(mean, square.sqrt().add_(eps), value=-config.lr * c2**0.5 / c1)
            if self.rule == "adam":
                self.last[rows_U] = step
        self.packed.index_copy_(0, rows_U, gathered)

    def flush(self, step: int, rows: int = 1 << 18) -> None:
        """Bring every row up to date with step number `step`, some rows at a time."""
        if self.rule != "adam":
            return
        for start in range(0, len(self.packed), rows):
            part = slice(start, start + rows)
            self._catch_up(self.packed[part], self.last[part], step)
        self.last.clamp_(min=step)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return weights, moments and step counts."""
        return {"packed": self.packed, "last": self.last}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restore them in place."""
        self.packed.copy_(state["packed"])
        self.last.copy_(state["last"])


@dataclass(frozen=True)
class Read:
    """Rows of a table that a step has read."""

    rule: RowAdam
    rows_U: torch.Tensor
    gathered: torch.Tensor
    leaf: torch.Tensor


class Optimizer:
    """Adam for a whole model: dense weights by torch's fused Adam, table rows by `RowAdam`.

    One step: `begin()`, forward with this object as the reader, `loss.backward()`, `step()`.
    """

    def __init__(self, model: nn.Module, config: AdamConfig) -> None:
        missed = MissedSteps(config, next(model.parameters()).device)
        tables = {name: module for name, module in model.named_modules() if isinstance(module, RowTable)}
        self.tables = {name: RowAdam(table, config, missed) for name, table in tables.items()}
        self._of = {table: self.tables[name] for name, table in tables.items()}
        in_tables = {id(table.weight) for table in tables.values()}
        dense = [p for p in model.parameters() if id(p) not in in_tables]
        self.dense = torch.optim.Adam(
            dense, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True
        )
        self.steps = 0
        self._reads: list[Read] = []

    def begin(self) -> None:
        """Forget gradients and what was read before."""
        self.dense.zero_grad(set_to_none=True)
        self._reads.clear()

    def read(self, table: RowTable, rows_U: torch.Tensor) -> torch.Tensor:
        """Return distinct rows of a table, current as of this step, as a leaf with a gradient of its own."""
        rule = self._of[table]
        assert all(read.rule is not rule for read in self._reads), "a table is read once a step"
        gathered = rule.gather(rows_U, self.steps + 1)
        leaf = gathered[:, _WEIGHT].detach().view(len(rows_U), *rule.shape).requires_grad_()
        self._reads.append(Read(rule, rows_U, gathered, leaf))
        return leaf

    def step(self) -> None:
        """Make one Adam step with the gradients at hand."""
        self.steps += 1
        self.dense.step()
        for read in self._reads:
            if read.leaf.grad is not None:
                read.rule.step(read.rows_U, read.gathered, read.leaf.grad, self.steps)
        self._reads.clear()

    def flush(self) -> None:
        """Bring every table row up to date, before weights are evaluated or exported."""
        for rule in self.tables.values():
            rule.flush(self.steps)

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
