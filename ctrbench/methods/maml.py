"""MAML: dense weights are trained as a start for a few gradient steps on each domain's own rows.

Paper: Finn et al., MAML, ICML 2017; as compared in AdaSparse, CIKM 2022
Year: 2017
Uses: the indicator p, on whose training rows the weights are adapted before scoring
Parameters per domain: none in the model; scoring adapts a copy of the dense weights to each domain

A domain is a task. A step draws T distinct tasks with probability π_p ∝ n_p^τ, at most 1. Each task's rows are cut at a
random time; the support S_p is drawn at random from the rows before the cut, the query Q_p from those after it. With θ
the dense weights, θ_emb the embeddings and N = Σ n_p (spec: maml-4.2),

    φ_p   = θ after k steps φ ← φ - α ∇_φ L(S_p; θ_emb, φ)
    θ     ← Adam(Σ_p w_p ∇_φ L(Q_p; θ_emb, φ_p)),  w_p = n_p / (N π_p)
    θ_emb ← Adam(Σ_p w_p ∇_emb [L(Q_p; θ_emb, φ_p) + L(S_p; θ_emb, θ)])

so that over steps tasks count by their rows and Σ w_p is 1 on average. `second_order` differentiates through the inner
steps instead of adding the support's loss. `reptile` moves θ by ε Σ w_p (φ_p - θ), has no query, and gives the
embeddings the gradient of the support at φ_p. `anil` adapts the head only. With `paml_lr` each task has a learned rate
α_p = softplus(a_0 + MLP(e_p)), trained by the query loss with an Adam of the run's settings.

Before scoring, each task is adapted on its last training rows, with the number of steps that dev prefers. A task with
fewer than `min_support` training rows is scored without adaptation.

Plan: unchanged; the learner adapts the weights.

Choices: an epoch ends when it has drawn as many query rows as there are training rows (for Reptile: support rows). The
support comes on top: with s support and q query rows an epoch reads 1 + s/q times as many rows as ordinary training,
and those of the support are processed k + 1 times (spec: maml-4.3). The run's batch size plays no part. The later a row
of a task, the more often it is a query row, the last rows ln(n_p / q) times as often as on average; the first s rows
never are. A task with fewer than s + q rows is divided in proportion, always at the same row. Of streamed rows, tasks
are drawn by their rows in the window and weighted by all their training rows. Under `lazy_adam`, embedding rows that
only a support holds count as touched, even with gradient zero. e_p is the mean of e_d over the support without its
gradient, so rates move no embedding.

Not implemented: PAML's search for reference users and its memory.

Limits: the authors of MAML and PAML would object that tasks here are few, large and all seen in training, where
adaptation adds little to shared weights, that the inner loop leaves the embeddings alone, and that first-order
gradients are an approximation. Tasks are domains because AdaSparse compares so; `second_order`, `paml_lr` and `anil`
are settings, and the scores `unadapted` of each run show how much adaptation adds. On MovieLens-1M the dev AUC is
0.7416, plain's 0.7436 (DNN, seed 1, two epochs; docs/decisions.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ctrbench.extend import (
    Batch,
    Build,
    Choices,
    Column,
    Context,
    CTRModel,
    Field,
    Learner,
    LogRange,
    Method,
    Optimizer,
    Order,
    Plan,
    Schema,
    SideNetwork,
    SplitData,
    StepOutput,
    TaskDraws,
    TowerNorm,
    Weights,
    adapt,
    added_field,
    descend,
    dev_auc,
    evaluating,
    gradient_with,
    last_rows,
    loss_with,
    model_validator,
    num_earlier,
    rows_by_task,
    score_rows,
    score_with,
    split_of,
    start_weight,
    task_runs,
    task_weights,
)

Rate = float | torch.Tensor
"""Rate α of a task; a tensor where it is learned."""
UNADAPTED = "unadapted"
"""Name of the scores of the meta-learned start, without adaptation."""
RATE_WIDTH = 16
"""Hidden units of the network of learned rates; the specification leaves the number open."""


class Maml(Method):
    """The unchanged plan, meta-learned over domains and adapted to each before scoring."""

    indexed_by = "indicator"

    variant: Literal["fomaml", "second_order", "reptile", "anil"] = "fomaml"
    """First-order MAML, second-order MAML, Reptile, or first-order MAML that adapts the head only."""
    tasks: int = Field(default=4, ge=1, le=65_536)
    """Tasks per step."""
    support: Annotated[int, Choices(32, 64, 128, 256)] = Field(default=256, ge=1, le=1_000_000)
    """Rows on which a task is adapted, in training and before scoring."""
    query: Annotated[int, Choices(32, 64, 128, 256)] = Field(default=256, ge=1, le=1_000_000)
    """Later rows whose loss at the adapted weights is minimized."""
    inner_steps: Annotated[int, Choices(1, 2, 5)] = Field(default=1, ge=1, le=100)
    """Adaptation steps in training."""
    inner_lr: Annotated[float, LogRange(1e-3, 1e-1)] = Field(default=0.01, gt=0.0, allow_inf_nan=False)
    """α, the adaptation rate; its initial value if it is learned."""
    support_trains_embeddings: bool = True
    """Whether the embeddings of the support also learn from its loss at θ."""
    paml_lr: bool = False
    """Whether α is learned per task from its domain features, as in PAML."""
    outer_rate: float = Field(default=0.1, gt=0.0, le=1.0)
    """ε of Reptile, the fraction of the way from θ to the adapted weights."""
    tau: float = Field(default=0.5, ge=0.0, le=1.0)
    """τ; tasks are drawn with probability ∝ rows^τ."""
    eval_steps: tuple[Annotated[int, Field(ge=0, le=100)], ...] = Field(
        default=(0, 1, 5, 20), min_length=1, max_length=64
    )
    """Candidate numbers of adaptation steps before scoring; dev selects one."""
    min_support: int = Field(default=64, ge=1, le=1_000_000)
    """Smallest number of training rows of a task that is adapted before scoring."""
    tower_norm: Annotated[TowerNorm | None, Choices(None, "layer")] = added_field(None)

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        if self.norm or self.aux:
            raise ValueError(
                "norm and aux hold parameters per domain, which inner steps would share; leave them out"
            )
        if self.tower_norm == "batch":
            raise ValueError(
                "tower_norm=batch would train with moments of one domain and score with those of all; "
                "set tower_norm=layer"
            )
        if self.variant == "reptile" and self.support < 2:
            raise ValueError("the support of reptile must have at least 2 rows; set support")
        return self

    def idle(self) -> Iterator[str]:
        """Yield the settings of the other variants, and of an adaptation of zero steps."""
        if self.variant == "reptile":
            # Reptile has no query, whose loss would train the learned rates.
            yield from ("query", "paml_lr", "support_trains_embeddings")
            # Its steps move dense weights without the optimizer.
            yield "weight_decay"
        else:
            yield "outer_rate"
        if self.variant == "second_order":
            # The query's gradient reaches the support's embeddings through the inner steps.
            yield "support_trains_embeddings"
        if set(self.eval_steps) == {0}:
            yield "min_support"

    @property
    def query_rows(self) -> int:
        """Rows of a full query; 0 for Reptile, which has none."""
        return 0 if self.variant == "reptile" else self.query

    @property
    def adds_support_loss(self) -> bool:
        """Whether the embeddings get the gradient of the support's loss at θ."""
        return self.support_trains_embeddings and self.variant in {"fomaml", "anil"}

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan unchanged."""
        return plan

    def learner(self) -> Learner:
        """Return the meta-learner."""
        return MamlLearner(self)

    @property
    def starts_as_backbone(self) -> float:
        """Return 0.0: initial logits equal the backbone's."""
        return 0.0


class MamlLearner(Learner):
    """Draws tasks, makes meta-steps, and adapts to each domain before scoring.

    A batch holds one run of rows per task, its support first. The state holds all that adaptation needs (its number of
    steps, the rows and the learned rates), so a model restored from a checkpoint gives the same scores.
    """

    selects = True
    refuses_workers = "MAML makes its own steps, which ignore the rows of other workers"

    def __init__(self, settings: Maml) -> None:
        super().__init__()
        self.settings = settings
        self.adaptation_steps = 0
        self.support: SplitData | None = None
        """Rows on which tasks are adapted before scoring, one run per task."""
        make = partial(RateNetwork, start=settings.inner_lr)
        self.rates = SideNetwork(make) if settings.paml_lr else None

    def order(self, train: SplitData, *, batch_size: int, generator: np.random.Generator) -> Order:
        """Draw tasks and rows until the queries hold `len(train)` rows; `batch_size` has no effect."""
        settings = self.settings
        draws = TaskDraws(
            train.indicator_B,
            generator,
            num_tasks=settings.tasks,
            earlier=settings.support,
            later=settings.query_rows,
            tau=settings.tau,
        )
        batches: list[np.ndarray] = []
        drawn = 0
        while drawn < len(train):
            tasks = draws.draw()
            batches.append(np.concatenate([rows for task in tasks for rows in task]))
            # Reptile has no query, so its supports count.
            drawn += sum(len(query if settings.query_rows else support) for support, query in tasks)
        return Order.of(batches)

    def _support_and_query(self, run: slice) -> tuple[slice, slice]:
        """Split a task's rows into support and query, as they were drawn."""
        settings = self.settings
        if not settings.query_rows:
            return run, run
        end = run.start + num_earlier(run.stop - run.start, settings.support, settings.query)
        return slice(run.start, end), slice(end, run.stop)

    def step(self, model: CTRModel, optimizer: Optimizer, batch: Batch) -> StepOutput:
        """Make one meta-step; the returned loss is the weighted query loss of the tasks after adaptation."""
        optimizer.begin()
        if self.rates is not None:
            self.rates.begin()
        context = model.context(batch, optimizer)
        runs = [(task, run) for task, run in task_runs(batch.indicator_B) if run.stop - run.start > 1]
        weights = self._task_weights(model, [task for task, _ in runs])
        adapted, losses, support_losses = [], [], []
        for weight, (_, run) in zip(weights, runs, strict=True):
            support, query = self._support_and_query(run)
            weights_p = self._meta_adapt(model, context.part(support), batch.label_B[support])
            adapted.append(weights_p)
            losses.append(weight * loss_with(model, weights_p, context.part(query), batch.label_B[query]))
            if self.settings.adds_support_loss:
                loss = loss_with(model, _constants(model), context.part(support), batch.label_B[support])
                support_losses.append(weight * loss)
        loss = torch.stack(losses).sum()
        torch.autograd.backward([loss, *support_losses])
        self._set_gradients(model, adapted, weights)
        optimizer.step()
        if self.rates is not None:
            self.rates.step(optimizer)
        return StepOutput(loss=loss.detach(), rows=len(batch))

    def _task_weights(self, model: CTRModel, tasks: list[int]) -> list[float]:
        """Return the tasks' weights, which by their rows of the whole training sum to 1 on average over steps."""
        rows_M = np.array(model.schema.indicator_rows)
        weights_M = task_weights(rows_M, num_tasks=self.settings.tasks, tau=self.settings.tau)
        weights: list[float] = weights_M[tasks].tolist()
        return weights

    def _meta_adapt(self, model: CTRModel, context: Context, label_B: torch.Tensor) -> Weights:
        """Return φ_p: for second-order MAML a function of θ, else detached weights that retain gradients."""
        start, rate = self._weights_to_adapt(model), self._inner_rate(model, context)
        if self.settings.variant == "second_order":
            for _ in range(self.settings.inner_steps):
                grads = gradient_with(model, start, context, label_B, create_graph=True)
                start = descend(start, grads, rate)
            return start
        steps = self.settings.inner_steps
        start = adapt(model, start, context.detached(), label_B, steps=steps, rate=rate)
        for value in start.values():
            # With a learned rate these are not leaves but functions of the rate.
            value.requires_grad_().retain_grad()
        return start

    def _inner_rate(self, model: CTRModel, context: Context) -> Rate:
        if self.rates is None:
            return self.settings.inner_lr
        rate: torch.Tensor = self.rates.of(model, context.z_BN.device)(context.domain_BE.detach().mean(0))
        return rate

    def _weights_to_adapt(self, model: CTRModel) -> Weights:
        """Return the adapted weights by name: all dense ones, or the head's for ANIL."""
        only = "head." if self.settings.variant == "anil" else ""
        return {name: value for name, value in model.net.named_parameters() if name.startswith(only)}

    def _set_gradients(self, model: CTRModel, adapted: list[Weights], weights: list[float]) -> None:
        """Set the gradient of θ from the gradients at φ_p; for Reptile, move θ. Second-order MAML has it already."""
        if self.settings.variant == "second_order":
            return
        for name, theta in self._weights_to_adapt(model).items():
            if self.settings.variant == "reptile":
                tasks = zip(weights, adapted, strict=True)
                step = sum((w * (phi[name].detach() - theta.detach()) for w, phi in tasks), torch.zeros(()))
                theta.data.add_(step, alpha=self.settings.outer_rate)
            else:
                grads = [grad for phi in adapted if (grad := phi[name].grad) is not None]
                theta.grad = torch.stack(grads).sum(0) if grads else None

    def select(self, model: CTRModel, train: SplitData, dev: SplitData) -> dict[str, float | int | str]:
        """Choose the number of steps with the highest dev AUC, the smallest in a tie."""
        if self.support is None:
            settings = self.settings
            last = last_rows(train.indicator_B, count=settings.support, smallest=settings.min_support)
            self.support = split_of(train.take(torch.from_numpy(last)).tensors()) if len(last) else None
        choices = tuple(sorted(set(self.settings.eval_steps)))
        scores = self._scores_by_steps(model, dev, choices)
        areas = {steps: dev_auc(dev, scores[steps]) or 0.0 for steps in choices}
        self.adaptation_steps = max(choices, key=lambda steps: (areas[steps], -steps))
        return {"adaptation_steps": self.adaptation_steps}

    def score(self, model: CTRModel, data: SplitData) -> dict[str, np.ndarray]:
        """Return the logits after adaptation, and those of the meta-learned start as `unadapted`."""
        scores = self._scores_by_steps(model, data, (0, self.adaptation_steps))
        return {Column.SCORE: scores[self.adaptation_steps], UNADAPTED: scores[0]}

    def _scores_by_steps(
        self, model: CTRModel, data: SplitData, choices: tuple[int, ...]
    ) -> dict[int, np.ndarray]:
        """Return the logits of all rows after each number of steps, ascending; the model is not changed."""
        plain = score_rows(model, data)
        scores = {steps: plain.copy() for steps in choices}
        if self.support is None or not any(choices):
            return scores
        by_task = rows_by_task(data.indicator_B)
        # Rows restored from a checkpoint are on the CPU.
        all_support = self.support.to(data.label_B.device)
        runs = [(task, run) for task, run in task_runs(all_support.indicator_B) if task in by_task]
        with evaluating(model):
            for task, run in runs:
                support, rows = all_support.slice(run.start, run.stop), by_task[task]
                for steps, weights in self._adaptation_path(model, support, choices):
                    scores[steps][rows] = score_with(model, weights, data, rows)
        return scores

    def _adaptation_path(
        self, model: CTRModel, support: Batch, choices: tuple[int, ...]
    ) -> Iterator[tuple[int, Weights]]:
        """Yield the weights after each number of steps except 0."""
        with torch.no_grad():
            context = model.context(support)
            rate = self._inner_rate(model, context)
        weights, done = self._weights_to_adapt(model), 0
        for steps in choices:
            if steps:
                weights = adapt(model, weights, context, support.label_B, steps=steps - done, rate=rate)
                done = steps
                yield steps, weights

    def state_dict(self) -> dict[str, Any]:
        """Return the chosen number of steps, the rows to adapt on and, where they are learned, the rates."""
        support = None if self.support is None else self.support.tensors()
        rates = {} if self.rates is None else {"rates": self.rates.state_dict()}
        return {"adaptation_steps": self.adaptation_steps, "support": support, **rates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state returned by `state_dict`."""
        self.adaptation_steps = state["adaptation_steps"]
        support = state["support"]
        self.support = None if support is None else split_of(support)
        if self.rates is not None:
            self.rates.load_state_dict(state["rates"])


def _constants(model: CTRModel) -> Weights:
    """Return θ without its gradient, so that a loss trains the embeddings alone."""
    return {name: value.detach() for name, value in model.net.named_parameters()}


class RateNetwork(nn.Module):
    """α_p = softplus(a_0 + MLP(e_p)) with one hidden layer; equal for all tasks at the start."""

    def __init__(self, schema: Schema, start: float) -> None:
        super().__init__()
        # A learner does not know the run's seed, so all runs draw the same hidden layer.
        generator = Build(schema=schema, seed=0).generator("maml.rates")
        self.weight_EH = nn.Parameter(start_weight(schema.domain_width, RATE_WIDTH, "tanh", generator))
        self.bias_H = nn.Parameter(torch.zeros(RATE_WIDTH))
        self.output_H = nn.Parameter(torch.zeros(RATE_WIDTH))
        # The inverse of softplus, in a form that does not overflow for large rates.
        self.base = nn.Parameter(torch.tensor(start + math.log(-math.expm1(-start))))

    def forward(self, e_E: torch.Tensor) -> torch.Tensor:
        """(E,) to a scalar."""
        hidden_H = torch.tanh(e_E @ self.weight_EH + self.bias_H)
        return functional.softplus(self.base + hidden_H @ self.output_H)
