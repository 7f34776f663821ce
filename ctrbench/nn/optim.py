"""Adam whose cost per step depends on the batch's rows, not on the size of tables.

The treatment of table rows that a batch does not touch changes results, so every record names it (spec: adam-12.1).
`adam` is the rule of the papers: an untouched row has a zero gradient, its moments decay and it still moves. Here this
movement is deferred: a row makes up for it in closed form when it is next read. `lazy_adam` leaves untouched rows
unchanged. Per-domain parameters do not move with other domains' rows, and count their own steps (spec: star-2.4).

Two regularizers act here, and so under every learner. Weight decay is decoupled, as in AdamW: a matrix that a step
moves first shrinks by the factor 1 - lr λ; so do the matrices of the domains in the batch, but neither biases,
normalization nor embeddings. The L2 penalty of embeddings, λ/2 Σ_u ‖e_u‖² over the distinct rows u of the step's batch,
first-order weights included, adds λ e_u to the gradient of each row once, however often it occurs; rows that the step
does not read cost and change nothing. Neither is part of the loss that is reported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from ctrbench.nn.capabilities import decayed_parameters
from ctrbench.nn.exchange import RowGrads, Team, Workers, sum_gradients
from ctrbench.nn.gather import rows_at
from ctrbench.nn.kernels.adam import RowAdam, row_adam
from ctrbench.nn.kernels.missed_steps import AdamConfig, EmbeddingRule, missed_steps
from ctrbench.nn.tables import RowTable

__all__ = ["AdamConfig", "DenseAdam", "DenseView", "EmbeddingRule", "Optimizer"]


class DenseAdam:
    """Adam on dense parameters, by torch's fused kernel; parameters without a gradient do not move.

    `torch.optim.Adam` computes the same, but at a batch of 256 rows its bookkeeping takes four times as long as its
    arithmetic.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], config: AdamConfig, decayed: Iterable[nn.Parameter] = ()
    ) -> None:
        """Weight decay applies to the parameters that are among `decayed`."""
        self.parameters = list(parameters)
        of_matrices = {id(parameter) for parameter in decayed}
        self.is_decayed = [id(parameter) in of_matrices for parameter in self.parameters]
        self.config, self.lr, self.decay_lr = config, config.lr, config.lr
        """Learning rates of gradients, which a learner may change, and of weight decay."""
        self.means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.counts = [torch.zeros((), device=parameter.device) for parameter in self.parameters]

    def begin(self) -> None:
        """Discard gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Make one step."""
        in_use = [index for index, weight in enumerate(self.parameters) if weight.grad is not None]
        if not in_use:
            return
        weights, means, squares, counts = (
            [values[index] for index in in_use]
            for values in (self.parameters, self.means, self.squares, self.counts)
        )
        grads = [weight.grad for weight in weights if weight.grad is not None]
        matrices: list[torch.Tensor] = [self.parameters[index] for index in in_use if self.is_decayed[index]]
        if self.config.weight_decay and matrices:
            torch._foreach_mul_(matrices, 1.0 - self.decay_lr * self.config.weight_decay)
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
        """Load the state returned by `state_dict`, in place."""
        for name, tensors in self.state_dict().items():
            for tensor, loaded in zip(tensors, state[name], strict=True):
                tensor.copy_(loaded)


class DenseView:
    """The part of `DenseAdam` that a learner may read and change."""

    def __init__(self, adam: DenseAdam) -> None:
        self._adam = adam

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """The dense weights, in the order of the model's parameters."""
        return self._adam.parameters

    def reset_first_moments(self) -> None:
        """Set the running means of gradients to zero."""
        for mean in self._adam.means:
            mean.zero_()

    @contextmanager
    def learning_rate(self, lr: float) -> Iterator[None]:
        """Use another learning rate for dense weights within a `with` statement."""
        before, self._adam.lr = self._adam.lr, lr
        try:
            yield
        finally:
            self._adam.lr = before


@dataclass(frozen=True)
class Read:
    """Table rows that a step has read, and the leaf that receives their gradient."""

    adam: RowAdam
    """The optimizer of the table."""
    rows_U: torch.Tensor
    leaf: torch.Tensor

    @property
    def grads(self) -> RowGrads | None:
        """The gradient of the rows, without padding; None if there is none."""
        if self.leaf.grad is None:
            return None
        grad_UW = self.leaf.grad.flatten(1)
        if not self.adam.num_spare_rows:
            return RowGrads(self.rows_U, grad_UW)
        is_real_U = self.rows_U < self.adam.num_rows
        return RowGrads(self.rows_U[is_real_U], grad_UW[is_real_U])


Touched = tuple[RowAdam, torch.Tensor, torch.Tensor, torch.Tensor]
"""A table, some of its rows, their weights and their gradient."""


class Optimizer:
    """Adam for a whole model: dense weights by `DenseAdam`, table rows by `RowAdam`.

    One step is `begin()`, a forward pass with this object as the reader, `loss.backward()` and `step()`. With
    `workers`, gradients are summed over all of them, so all make the same step.
    """

    def __init__(
        self, model: nn.Module, config: AdamConfig, workers: Workers | None = None, *, seed: int = 0
    ) -> None:
        """`seed` determines the random numbers of each step."""
        self.config, self.workers, self.seed = config, workers, seed
        self.team: Team | None = None
        self.device = next(model.parameters()).device
        self._generator: torch.Generator | None = None
        self.missed = missed_steps(config, self.device)
        tables = {name: module for name, module in model.named_modules() if isinstance(module, RowTable)}
        self.tables = {
            name: row_adam(
                table, config, missed_steps(config, self.device) if table.own_steps else self.missed
            )
            for name, table in tables.items()
        }
        self._adam_of = {table: self.tables[name] for name, table in tables.items()}
        in_tables = {id(table.weight) for table in tables.values()}
        dense = (parameter for parameter in model.parameters() if id(parameter) not in in_tables)
        self.dense = DenseAdam(dense, config, decayed_parameters(model) if config.weight_decay else ())
        self.steps = 0
        self.reads: list[Read] = []
        """Rows read since `begin`."""

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return self.dense.decay_lr

    @lr.setter
    def lr(self, lr: float) -> None:
        self.dense.lr = self.dense.decay_lr = lr
        for adam in self.tables.values():
            adam.lr = lr

    def dense_view(self) -> DenseView:
        """Return access to the dense weights and their optimizer state."""
        return DenseView(self.dense)

    def restarted(self, number: int) -> AbstractContextManager[None]:
        """Let the first moments of dense weights begin with step 1 of a visit, for its step `number`, from 1 on.

        Their bias correction then counts the steps of the visit; second moments continue.
        """
        dense, config = self.dense_view(), self.config
        if number == 1:
            dense.reset_first_moments()
        # The optimizer corrects by all its steps.
        correction = (1.0 - config.beta1 ** (self.steps + 1)) / (1.0 - config.beta1**number)
        return dense.learning_rate(self.lr * correction)

    @property
    def generator(self) -> torch.Generator:
        """Random numbers of the step: a function of the seed, the number of steps made, and the worker."""
        if self._generator is None:
            rank = 0 if self.workers is None else self.workers.rank
            digest = hashlib.blake2b(f"{self.seed}/{self.steps}/{rank}".encode(), digest_size=7).digest()
            self._generator = torch.Generator(self.device).manual_seed(int.from_bytes(digest, "big"))
        return self._generator

    def begin(self, share: float = 1.0) -> None:
        """Discard gradients and rows read before; `share` is this worker's share of the step's rows."""
        self._generator = None
        self.team = None if self.workers is None else Team(self.workers, share)
        self.dense.begin()
        self.reads.clear()

    def read(self, table: RowTable, rows_U: torch.Tensor) -> torch.Tensor:
        """Return distinct rows as a leaf tensor, with missed steps applied; its gradient updates the table."""
        adam = self._adam_of[table]
        assert all(read.adam is not adam for read in self.reads), "a table is read once per step"
        weight_UW = adam.read(rows_U, self._steps_of(adam) + 1)
        leaf = weight_UW.detach().view(len(rows_U), *adam.shape).requires_grad_()
        self.reads.append(Read(adam, rows_U, leaf))
        return leaf

    def lookup(self, table: RowTable, ids_n: torch.Tensor) -> torch.Tensor:
        """Return the row of each id; ids may repeat, and the gradients of equal ids are summed."""
        rows_U, inverse_n = self._adam_of[table].distinct(ids_n)
        return rows_at(self.read(table, rows_U), inverse_n)

    def step(self) -> None:
        """Make one Adam step with the gradients computed since `begin`."""
        touched = self._touched_rows() if self.team is None else self._touched_by_all(self.team)
        config = self.config
        self.steps += 1
        self.missed.count(self.steps, self.lr)
        self.dense.step()
        for adam, rows_U, weight_UW, grad_UW in touched:
            if adam.steps is not None:
                adam.steps += 1
                adam.missed.count(adam.steps, self.lr)
            if config.weight_decay and adam.num_decayed:
                adam.decay(rows_U, 1.0 - self.lr * config.weight_decay)
            if config.embedding_l2 and adam.rule != "domain":
                grad_UW = grad_UW + config.embedding_l2 * weight_UW
            adam.update(rows_U, weight_UW, grad_UW, self._steps_of(adam))
        self.reads.clear()

    def _touched_rows(self) -> list[Touched]:
        return [
            (read.adam, read.rows_U, read.leaf.detach().flatten(1), read.leaf.grad.flatten(1))
            for read in self.reads
            if read.leaf.grad is not None
        ]

    def _touched_by_all(self, team: Team) -> list[Touched]:
        """Sum gradients over workers; rows are read again, since other workers' rows were not read here."""
        own: dict[RowAdam, RowGrads | None] = dict.fromkeys(self.tables.values())
        own |= {read.adam: read.grads for read in self.reads}
        summed = sum_gradients(self.dense.parameters, own, team)
        return [
            (adam, grads.rows_U, adam.read(grads.rows_U, self._steps_of(adam) + 1), grads.grad_UW)
            for adam, grads in summed.items()
        ]

    def _steps_of(self, adam: RowAdam) -> int:
        """Return the number of steps made, as the table counts them."""
        return self.steps if adam.steps is None else adam.steps

    def flush(self) -> None:
        """Make up for the missed steps of every table row; required before weights are evaluated or exported."""
        for adam in self.tables.values():
            adam.flush(self._steps_of(adam))

    def state_dict(self) -> dict[str, object]:
        """Return the whole state, table weights included."""
        return {
            "steps": self.steps,
            "dense": self.dense.state_dict(),
            "tables": {name: adam.state_dict() for name, adam in self.tables.items()},
            **({"missed": self.missed.state_dict()} if self.config.is_scheduled else {}),
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Load the state returned by `state_dict`, in place."""
        tables, steps, dense = state["tables"], state["steps"], state["dense"]
        assert isinstance(tables, dict)
        assert isinstance(steps, int)
        assert isinstance(dense, dict)
        self.steps = steps
        self.dense.load_state_dict(dense)
        for name, adam in self.tables.items():
            adam.load_state_dict(tables[name])
        missed = state.get("missed")
        if isinstance(missed, dict):
            self.missed.load_state_dict(missed)
