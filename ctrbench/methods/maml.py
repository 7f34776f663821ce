"""MAML: train the dense weights to be a good start for a few gradient steps on each domain's own rows.

Paper: Finn et al., MAML, ICML 2017; as AdaSparse (CIKM 2022) compares it
Year: 2017

METHODS 4. A domain is a task. A step draws T tasks ∝ n_p^τ and for each a window of consecutive training rows, the
support S_p before the query Q_p; with θ the dense weights and θ_emb the embeddings,

    φ_p   = θ after k steps φ ← φ - α ∇_φ L(S_p; θ_emb, φ)
    θ     ← Adam(Σ_p w_p ∇_φ L(Q_p; θ_emb, φ_p)),  w_p ∝ n_p^{1-τ},  and the embeddings with ∇_emb at φ_p

`second_order` differentiates through the inner steps, support embeddings included; `reptile` moves θ by
ε Σ w_p (φ_p - θ), has no query, and gives the embeddings the support's own gradient at φ_p; `anil` adapts the head
alone. Before scoring, each task is adapted anew on the last of its training rows, as many steps as dev prefers; one
with fewer than `min_support` training rows is scored unadapted. Left out: PAML's learned inner rates (4.2). Readings:
rows processed count k times in the support, and an epoch processes as many as ordinary training (4.3); the run's batch
size plays no part. Under `lazy_adam` embedding rows that only a support holds count as touched, with gradient zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch

from ctrbench.extend import (
    EVAL_ROWS,
    Batch,
    Column,
    Context,
    CTRModel,
    Field,
    Learner,
    Method,
    Optimizer,
    Order,
    Plan,
    SplitData,
    StepOutput,
    bce,
    dev_auc,
    model_validator,
    score_rows,
    total_loss,
)

Parameters = dict[str, torch.Tensor]
UNADAPTED = "unadapted"
"""Scores of the meta-learned start itself."""


class Maml(Method):
    """The plan as it is, meta-learned over domains and adapted to each before scoring."""

    variant: Literal["fomaml", "second_order", "reptile", "anil"] = "fomaml"
    """First-order MAML; true MAML; Reptile; or first-order MAML that adapts the head alone."""
    tasks: int = Field(default=4, ge=1)
    """Tasks a step."""
    support: int = Field(default=256, ge=1)
    """Rows a task is adapted on, in training and before scoring."""
    query: int = Field(default=256, ge=1)
    """Later rows that judge the adapted weights."""
    inner_steps: int = Field(default=1, ge=1)
    inner_lr: float = Field(default=0.01, gt=0.0, allow_inf_nan=False)
    outer_rate: float = Field(default=0.1, gt=0.0, le=1.0)
    """Reptile's ε, the share of the way from θ to the adapted weights."""
    tau: float = Field(default=0.5, ge=0.0, le=1.0)
    """Tasks are drawn with probability ∝ rows^τ."""
    eval_steps: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0, 1, 5, 20), min_length=1)
    """Numbers of steps before scoring that dev chooses from."""
    min_support: int = Field(default=64, ge=1)
    """Tasks with fewer training rows are scored unadapted."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.variant == "reptile" and self.support < 2:
            raise ValueError("reptile's support holds at least 2 rows")
        idle = ["query"] if self.variant == "reptile" else ["outer_rate"]
        if set(self.eval_steps) == {0}:
            idle.append("min_support")
        for name in idle:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with these settings; leave it out")
        return self

    @property
    def query_rows(self) -> int:
        """Rows of a full task's query; Reptile has none."""
        return 0 if self.variant == "reptile" else self.query

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan unchanged."""
        return plan

    def learner(self) -> Learner:
        """Return the meta-learner."""
        return MamlLearner(self)

    @property
    def starts_as_backbone(self) -> float:
        """Exactly."""
        return 0.0


class MamlLearner(Learner):
    """Draws tasks, makes meta-steps, and adapts to each domain before scoring.

    A batch holds one run of rows a task, its support first. What adaptation needs (its number of steps and the rows) is
    part of the state, so a model read from a checkpoint scores as it did.
    """

    def __init__(self, settings: Maml) -> None:
        super().__init__()
        self.settings = settings
        self.adaptation_steps = 0
        self.support: SplitData | None = None
        """The rows that tasks are adapted on before scoring, a run a task."""

    def order(self, train: SplitData, *, batch_size: int, generator: np.random.Generator) -> Order:
        """Draw tasks and windows until as many rows are processed as there are; `batch_size` plays no part."""
        windows = _Windows(self.settings, train, generator)
        batches: list[np.ndarray] = []
        processed = 0
        while processed < len(train):
            drawn = windows.draw()
            batches.append(np.concatenate(drawn))
            processed += sum(self._passes(len(rows)) for rows in drawn)
        starts = np.concatenate([[0], np.cumsum([len(rows) for rows in batches])])
        return Order(rows=np.concatenate(batches), starts=starts)

    def _passes(self, rows: int) -> int:
        support, query = self._parts(slice(0, rows))
        passes: int = self.settings.inner_steps * support.stop + query.stop - query.start
        return passes

    def _parts(self, run: slice) -> tuple[slice, slice]:
        """Cut a task's rows into support and query, in proportion where the task is small."""
        settings, rows = self.settings, run.stop - run.start
        if not settings.query_rows:
            return run, run
        num_support = max(1, rows * settings.support // (settings.support + settings.query))
        return slice(run.start, run.start + num_support), slice(run.start + num_support, run.stop)

    def step(self, model: CTRModel, optimizer: Optimizer, batch: Batch) -> StepOutput:
        """Make one meta-step; the loss reported is the tasks' weighted query loss after adaptation."""
        optimizer.begin()
        context = model.context(batch, optimizer)
        runs = [(task, run) for task, run in _runs(batch.indicator_B) if run.stop - run.start > 1]
        weights = self._weights(model, [task for task, _ in runs])
        adapted, losses = [], []
        for weight, (_, run) in zip(weights, runs, strict=True):
            support, query = self._parts(run)
            weights_p = self._meta_adapt(model, context.part(support), batch.label_B[support])
            adapted.append(weights_p)
            losses.append(weight * _loss(model, weights_p, context.part(query), batch.label_B[query]))
        loss = torch.stack(losses).sum()
        torch.autograd.backward(loss)
        self._hand_over(model, adapted, weights)
        optimizer.step()
        return StepOutput(loss=loss.detach(), rows=len(batch))

    def _weights(self, model: CTRModel, tasks: list[int]) -> list[float]:
        rows = np.array([model.schema.indicator_rows[task] for task in tasks], dtype=np.float64)
        weights = rows.clip(min=1.0) ** (1.0 - self.settings.tau)
        shares: list[float] = (weights / weights.sum()).tolist()
        return shares

    def _meta_adapt(self, model: CTRModel, context: Context, label_B: torch.Tensor) -> Parameters:
        """Return φ_p: for true MAML as a function of θ, else as leaves whose gradient is handed to θ."""
        start = self._start(model)
        if self.settings.variant == "second_order":
            for _ in range(self.settings.inner_steps):
                start = self._descend(model, start, context, label_B, create_graph=True)
            return start
        start = self._adapt(model, start, context.detached(), label_B, self.settings.inner_steps)
        return {name: value.requires_grad_() for name, value in start.items()}

    def _start(self, model: CTRModel) -> Parameters:
        """Return the weights that are adapted."""
        only = "head." if self.settings.variant == "anil" else ""
        return {name: value for name, value in model.net.named_parameters() if name.startswith(only)}

    def _adapt(
        self, model: CTRModel, start: Parameters, context: Context, label_B: torch.Tensor, steps: int
    ) -> Parameters:
        """Make gradient steps of first order; what is returned has no graph."""
        for _ in range(steps):
            leaves = {name: value.detach().requires_grad_() for name, value in start.items()}
            start = self._descend(model, leaves, context, label_B)
        return {name: value.detach() for name, value in start.items()}

    def _descend(
        self,
        model: CTRModel,
        start: Parameters,
        context: Context,
        label_B: torch.Tensor,
        *,
        create_graph: bool = False,
    ) -> Parameters:
        with torch.enable_grad():
            loss = _loss(model, start, context.part(slice(None)), label_B)
            grads = torch.autograd.grad(
                loss,
                list(start.values()),
                create_graph=create_graph,
                allow_unused=True,
                materialize_grads=True,
            )
        with torch.set_grad_enabled(create_graph):
            pairs = zip(start.items(), grads, strict=True)
            return {name: value - self.settings.inner_lr * grad for (name, value), grad in pairs}

    def _hand_over(self, model: CTRModel, adapted: list[Parameters], weights: list[float]) -> None:
        """Turn what was found at φ_p into θ's gradient; for Reptile, move θ itself. True MAML's is there already."""
        if self.settings.variant == "second_order":
            return
        for name, theta in self._start(model).items():
            if self.settings.variant == "reptile":
                found = zip(weights, adapted, strict=True)
                step = sum((w * (phi[name].detach() - theta.detach()) for w, phi in found), torch.zeros(()))
                theta.data.add_(step, alpha=self.settings.outer_rate)
            else:
                grads = [phi[name].grad for phi in adapted]
                known = [grad for grad in grads if grad is not None]
                theta.grad = torch.stack(known).sum(0) if known else None

    def select(self, model: CTRModel, train: SplitData, dev: SplitData) -> dict[str, float | int | str]:
        """Choose the number of steps whose scores have the highest AUC on dev; the smallest of equals."""
        if self.support is None:
            self.support = self._last_rows(train)
        choices = tuple(sorted(set(self.settings.eval_steps)))
        scores = self._scores(model, dev, choices)
        areas = {steps: dev_auc(dev, scores[steps]) or 0.0 for steps in choices}
        self.adaptation_steps = max(choices, key=lambda steps: (areas[steps], -steps))
        return {"adaptation_steps": self.adaptation_steps}

    def _last_rows(self, train: SplitData) -> SplitData | None:
        by_task = _rows_by_task(train.indicator_B)
        enough = [rows for rows in by_task.values() if len(rows) >= self.settings.min_support]
        if not enough:
            return None
        last = np.concatenate([rows[-self.settings.support :] for rows in enough])
        return _as_split(train.take(torch.from_numpy(last).to(train.label_B.device)))

    def score(self, model: CTRModel, data: SplitData) -> dict[str, np.ndarray]:
        """Return the scores after adaptation, and those of the meta-learned start as `unadapted`."""
        scores = self._scores(model, data, (0, self.adaptation_steps))
        return {Column.SCORE: scores[self.adaptation_steps], UNADAPTED: scores[0]}

    def _scores(self, model: CTRModel, data: SplitData, choices: tuple[int, ...]) -> dict[int, np.ndarray]:
        """Return the logits of all rows after each number of steps, ascending; the model stays as it is."""
        plain = score_rows(model, data)
        scores = {steps: plain.copy() for steps in choices}
        if self.support is None or not any(choices):
            return scores
        was_training = model.training
        model.eval()
        by_task = _rows_by_task(data.indicator_B)
        # Rows restored from a checkpoint lie on the CPU.
        all_support = self.support.to(data.label_B.device)
        for task, run in _runs(all_support.indicator_B):
            rows = by_task.get(task, np.empty(0, dtype=np.int64))
            support = all_support.slice(run.start, run.stop)
            for steps, weights in self._path(model, support, choices) if len(rows) else ():
                scores[steps][rows] = _score_with(model, weights, data, rows)
        model.train(was_training)
        return scores

    def _path(
        self, model: CTRModel, support: Batch, choices: tuple[int, ...]
    ) -> Iterator[tuple[int, Parameters]]:
        """Yield the weights after each number of steps but 0."""
        with torch.no_grad():
            context = model.context(support)
        weights, done = self._start(model), 0
        for steps in choices:
            if steps:
                weights = self._adapt(model, weights, context, support.label_B, steps - done)
                done = steps
                yield steps, weights

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps chosen and the rows to adapt on."""
        support = None if self.support is None else _tensors(self.support)
        return {"adaptation_steps": self.adaptation_steps, "support": support}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self.adaptation_steps = state["adaptation_steps"]
        support = state["support"]
        self.support = None if support is None else _as_split(Batch(**support))


class _Windows:
    """Draws windows of consecutive rows of tasks, in time order."""

    def __init__(self, settings: Maml, train: SplitData, generator: np.random.Generator) -> None:
        by_task = _rows_by_task(train.indicator_B)
        self.rows = [rows for task, rows in by_task.items() if len(rows) > 1]
        if not self.rows:
            raise ValueError("meta-learning needs a domain with at least two training rows")
        chance = np.array([len(rows) for rows in self.rows], dtype=np.float64) ** settings.tau
        self.chance = chance / chance.sum()
        self.num_tasks = min(settings.tasks, len(self.rows))
        self.width = settings.support + settings.query_rows
        self.generator = generator

    def draw(self) -> list[np.ndarray]:
        """Return one window for each of some distinct tasks."""
        drawn = self.generator.choice(len(self.rows), self.num_tasks, replace=False, p=self.chance)
        return [self._window(self.rows[task]) for task in drawn]

    def _window(self, rows: np.ndarray) -> np.ndarray:
        start = int(self.generator.integers(max(0, len(rows) - self.width) + 1))
        return rows[start : start + self.width]


def _loss(model: CTRModel, weights: Parameters, context: Context, label_B: torch.Tensor) -> torch.Tensor:
    logit_B = torch.func.functional_call(model.net, weights, (context,))
    return total_loss(bce(logit_B, label_B), context)


@torch.no_grad()
def _score_with(model: CTRModel, weights: Parameters, data: SplitData, rows: np.ndarray) -> np.ndarray:
    parts = []
    for part in torch.split(torch.from_numpy(rows).to(data.label_B.device), EVAL_ROWS):
        context = model.context(data.take(part))
        parts.append(torch.func.functional_call(model.net, weights, (context,)))
    scores: np.ndarray = torch.cat(parts).float().cpu().numpy()
    return scores


def _runs(indicator_B: torch.Tensor) -> list[tuple[int, slice]]:
    """Return the runs of equal ids: the id and the rows."""
    tasks, counts = torch.unique_consecutive(indicator_B, return_counts=True)
    ends = torch.cumsum(counts, 0)
    places = zip(tasks.tolist(), (ends - counts).tolist(), ends.tolist(), strict=True)
    return [(task, slice(start, end)) for task, start, end in places]


def _rows_by_task(indicator_B: torch.Tensor) -> dict[int, np.ndarray]:
    """Return the rows of each task, as they lie."""
    indicator = indicator_B.cpu().numpy()
    rows = np.argsort(indicator, kind="stable")
    tasks, starts = np.unique(indicator[rows], return_index=True)
    return dict(zip(tasks.tolist(), np.split(rows, starts[1:]), strict=True))


def _tensors(split: SplitData) -> dict[str, Any]:
    names = ("ids_BF", "bags", "numeric_BK", "domain_B", "indicator_B", "label_B")
    return {name: getattr(split, name) for name in names}


def _as_split(batch: Batch) -> SplitData:
    """Return rows of a split as a split of their own."""
    tensors = {name: value for name, value in vars(batch).items() if name != "weight"}
    return SplitData(**tensors, row=np.arange(len(batch)), user=None, probability=None)
