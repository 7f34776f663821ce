"""MAMDR: domains negotiate shared weights, and rows of other domains regularise the weights of each domain.

Paper: Luo et al., MAMDR, ICDE 2023
Year: 2023
Uses: the indicator p, which selects the weights that score a row
Parameters per domain: θ_p, a copy of all dense weights

A row of domain p is scored with Θ_p = θ + θ_p; θ are the dense weights, and θ_p = 0 at the start (spec: mamdr-7.11).

    negotiation      θ' ← θ; for the domains of a round, in random order, Adam steps on θ' with rows of p;
                     θ ← θ + β (θ' - θ)
    regularization   for each p of the round, and j = k other domains and p itself in random order: Θ' ← θ + θ_p; Adam
                     steps on Θ' with rows of j, then with rows of p; θ_p ← θ_p + γ (Θ' - θ - θ_p)

Plan: unchanged; the learner keeps θ_p and makes the steps.

Choices: inner steps use the run's Adam. For dense weights, first moments and their bias correction restart at each
visit; second moments continue. The k other domains are drawn uniformly, and the domain itself is among the j, as in the
authors' code. A round has `domains` domains, or all if there are fewer; rounds cover the domains evenly, across epochs;
a domain whose own loops did not fit into an epoch comes first in the next one. A visit is at most `batches` batches of
equal size, and short enough that an epoch holds a whole round. Without negotiation θ takes ordinary steps in mixed
batches, on as many rows as its visits would have; Adam treats them as one visit. Rows of the unseen domain, of domains
with a single training row and of domains that no round has drawn are scored with θ; the notes of the record count the
latter two.

Deviations: the authors' code runs through whole domains and keeps all moments. With ten batches per visit, kept
momentum would still point to the previous domain, and each θ_p of two opposed domains would move in the other's
direction. A row counts each time it is processed, so an epoch has as many rows as in ordinary training (spec: maml-4.3
and comparison-11.3), minus those of a loop that no longer fits. Only 1 in 3 + 2k of these rows moves θ, and θ moves
only the fraction β of the way; for equal rows, dense weights move much less than in ordinary training and embeddings as
much. Therefore β = γ = 0.5 instead of the 0.1 of the specification, which suits many short epochs: after one epoch on
60,000 synthetic rows in six domains, the test AUC is 0.684 for plain training, 0.51 (0.33 with θ alone) for 0.1, and
0.693 (0.665) for 0.5; 1.0 gives 0.694 (0.684). Embeddings and rows of per-domain tables belong to no copy, where the
specification has embeddings in the shared copy; an inner step treats them as an ordinary step does. Freezing embeddings
during regularization changed these AUCs by at most 0.001.

Limits: the θ_p of all domains may hold 2^28 numbers in total, and the copy of the best epoch holds as many.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
import torch
from torch import nn

from ctrbench.extend import (
    Batch,
    Choices,
    Column,
    CTRModel,
    Field,
    Learner,
    Method,
    Optimizer,
    Order,
    Plan,
    SettingError,
    ShuffledRows,
    SplitData,
    StepOutput,
    TowerNorm,
    Turns,
    added_field,
    dense_parameters,
    evaluating,
    holding,
    model_validator,
    rows_by_task,
    score_rows,
    score_with,
    split_vector,
    trainable_tasks,
)

SHARED = "shared"
"""Name of the scores with θ alone."""
MOST_NUMBERS = 1 << 28
"""Largest total of numbers in the θ_p of all domains: one GiB."""
SHARED_LOOP, PLAIN_STEPS = 0, -1
"""Owner of a loop that belongs to no domain: negotiation of θ, or ordinary steps, which need no copy."""


class Mamdr(Method):
    """The unchanged plan, with shared dense weights and a copy of them per domain."""

    indexed_by = "indicator"

    negotiation: bool = True
    """Whether θ moves toward a copy that visits domains; otherwise it takes ordinary steps."""
    regularisation: bool = True
    """Whether domains have their own weights θ_p."""
    domains: int = Field(default=10, ge=1, le=65_536)
    """Largest number of domains per round."""
    batches: int = Field(default=10, ge=1, le=1_000_000)
    """Largest number of batches per visit."""
    others: Annotated[int, Choices(1, 3, 5)] = Field(default=5, ge=0, le=65_536)
    """k, the number of other domains whose rows come before a domain's own; with 0 only its own."""
    outer_rate: Annotated[float, Choices(0.1, 0.3, 0.5, 0.8, 1.0)] = Field(default=0.5, gt=0.0, le=1.0)
    """β, the fraction of the way from θ to the copy; 0.1 in spec: mamdr-7.11."""
    own_rate: Annotated[float, Choices(0.1, 0.3, 0.5, 0.8, 1.0)] = Field(default=0.5, gt=0.0, le=1.0)
    """γ, the fraction of the way from θ_p to the copy."""
    tower_norm: Annotated[TowerNorm | None, Choices(None, "layer")] = added_field(None)

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        if not (self.negotiation or self.regularisation):
            raise ValueError("mamdr must have negotiation or regularisation, or it equals plain; use plain")
        if self.norm == "bn":
            raise ValueError(
                "norm=bn would train with moments of one domain and score with those of all; leave it out"
            )
        if self.tower_norm == "batch":
            raise ValueError(
                "tower_norm=batch would train with moments of one domain and score with those of all; "
                "set tower_norm=layer"
            )
        return self

    def idle(self) -> Iterator[str]:
        """Yield the settings of the loops that are switched off."""
        if not self.negotiation:
            yield "outer_rate"
        if not self.regularisation:
            yield from ("others", "own_rate")

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan unchanged."""
        return plan

    def learner(self) -> Learner:
        """Return the learner of negotiation and regularisation loops."""
        return MamdrLearner(self)

    @property
    def starts_as_backbone(self) -> float:
        """Return 0.0: initial logits equal the backbone's."""
        return 0.0


class MamdrLearner(Learner):
    """Makes the inner steps of loops, each an ordinary step while the model holds the loop's copy of its weights.

    Between steps the model holds θ. The schedule has one line per batch of an epoch: the owner of its loop, the number
    of its step within the visit, from 1 on, and whether it ends the loop. A batch beyond the schedule is an ordinary
    step. The state consists of schedule, position, copy, own weights and the domains that wait for their turn; moments
    belong to the optimizer.
    """

    selects = True
    refuses_workers = "MAMDR makes its own steps, which ignore the rows of other workers"

    def __init__(self, settings: Mamdr) -> None:
        super().__init__()
        self.settings = settings
        self.schedule = torch.zeros(0, 3, dtype=torch.int64)
        self.position = 0
        self.copy_P: torch.Tensor | None = None
        """θ' or Θ', within a loop."""
        self.own_MP: torch.Tensor | None = None
        """θ_p of all domains, (M + 1, P); row 0 belongs to the unseen domain."""
        self.waiting: tuple[list[int], list[int]] = ([], [])
        """Domains that wait for their turn in a pass over all, before and after the epoch."""
        self.drawn_from = ""
        """State of the generator before it drew the epoch."""
        self._is_restored = False

    def order(self, train: SplitData, *, batch_size: int, generator: np.random.Generator) -> Order:
        """Draw rounds until no further loop fits into `len(train)` rows."""
        batches: list[np.ndarray] = []
        schedule: list[list[int]] = []
        left = len(train)
        self._begin_epoch(generator)
        rounds = _Rounds(self.settings, train, batch_size, generator, self.waiting[0])
        for loop in rounds.loops():
            visits = loop.fitting(left)
            if not visits:
                break
            rounds.finish(loop, len(visits))
            for rows in visits:
                parts = np.array_split(rows, -(-len(rows) // batch_size))
                schedule += [[loop.owner, number, False] for number in range(1, len(parts) + 1)]
                batches += parts
                left -= len(rows)
            schedule[-1][-1] = True
        self.schedule = torch.tensor(schedule, dtype=torch.int64)
        self.waiting = self.waiting[0], rounds.turns.waiting
        return Order.of(batches)

    def _begin_epoch(self, generator: np.random.Generator) -> None:
        """Begin an epoch, or resume a restored one, whose order is drawn again."""
        drawn_from = str(generator.bit_generator.state)
        if not self._is_restored or drawn_from != self.drawn_from:
            self.position, self.copy_P, self.waiting = 0, None, (self.waiting[1], [])
        self.drawn_from, self._is_restored = drawn_from, False

    def step(self, model: CTRModel, optimizer: Optimizer, batch: Batch) -> StepOutput:
        """Make the next step of the loop; after its last step move θ or θ_p."""
        weights = dense_parameters(model)
        self._make_own_weights(model, weights)
        if self.position == len(self.schedule):
            return super().step(model, optimizer, batch)
        owner, number, is_last = self.schedule[self.position].tolist()
        self.position += 1
        if owner == PLAIN_STEPS:
            with optimizer.restarted(number):
                return super().step(model, optimizer, batch)
        if self.copy_P is None:
            self.copy_P = self._weights_of_owner(owner, weights)
        with optimizer.restarted(number), holding(weights, self.copy_P):
            output = super().step(model, optimizer, batch)
        if is_last:
            self._move_towards_copy(owner, weights, self.copy_P)
        return output

    def _make_own_weights(self, model: CTRModel, weights: list[nn.Parameter]) -> None:
        """Make θ_p when the first model determines their size; move restored tensors to its device."""
        if self.own_MP is None and self.settings.regularisation:
            num_rows, size = model.schema.num_indicators + 1, sum(weight.numel() for weight in weights)
            if num_rows * size > MOST_NUMBERS:
                raise SettingError(
                    f"mamdr keeps a copy of all dense weights per domain, at most {MOST_NUMBERS:,} numbers",
                    value=f"{num_rows - 1:,} domains of {size:,} weights",
                    remedy="choose an --indicator with fewer values, or set regularisation=false",
                )
            self.own_MP = weights[0].new_zeros(num_rows, size)
        device = weights[0].device
        self.own_MP = None if self.own_MP is None else self.own_MP.to(device)
        self.copy_P = None if self.copy_P is None else self.copy_P.to(device)

    @torch.no_grad()
    def _weights_of_owner(self, owner: int, weights: list[nn.Parameter]) -> torch.Tensor:
        """Return θ + θ_p of the owner, or a copy of θ, as a vector (P,)."""
        shared_P = nn.utils.parameters_to_vector(weights)
        return shared_P if self.own_MP is None else shared_P + self.own_MP[owner]

    @torch.no_grad()
    def _move_towards_copy(self, owner: int, weights: list[nn.Parameter], copy_P: torch.Tensor) -> None:
        """Move θ, or θ_p of the owner, part of the way to the copy."""
        self.copy_P = None
        if owner == SHARED_LOOP:
            for weight, target in zip(weights, split_vector(copy_P, weights), strict=True):
                weight.lerp_(target, self.settings.outer_rate)
        else:
            assert self.own_MP is not None
            target_P = copy_P - nn.utils.parameters_to_vector(weights)
            self.own_MP[owner].lerp_(target_P, self.settings.own_rate)

    def select(self, model: CTRModel, train: SplitData, dev: SplitData) -> dict[str, float | int | str]:
        """Return the number of domains without a loop of their own, which θ scores; nothing is chosen."""
        if not self.settings.regularisation:
            return {}
        self._make_own_weights(model, dense_parameters(model))
        assert self.own_MP is not None
        return {"domains_without_own_weights": int((~self.own_MP[1:].any(1)).sum())}

    def score(self, model: CTRModel, data: SplitData) -> dict[str, np.ndarray]:
        """Return the logits with each domain's weights, and those with θ alone as `shared`."""
        shared = score_rows(model, data)
        if not self.settings.regularisation:
            return {Column.SCORE: shared}
        return {Column.SCORE: self._scores_of_own_weights(model, data, shared.copy()), SHARED: shared}

    def _scores_of_own_weights(self, model: CTRModel, data: SplitData, scores: np.ndarray) -> np.ndarray:
        """Replace the scores of domains that have their own weights; the model is not changed."""
        weights = dense_parameters(model)
        self._make_own_weights(model, weights)
        assert self.own_MP is not None
        has_own = self.own_MP.any(1).tolist()
        own_rows = {
            domain: rows for domain, rows in rows_by_task(data.indicator_B).items() if has_own[domain]
        }
        with evaluating(model):
            for domain, rows in own_rows.items():
                with holding(weights, self._weights_of_owner(domain, weights)):
                    scores[rows] = score_with(model, {}, data, rows)
        return scores

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything that steps change."""
        return {
            "schedule": self.schedule,
            "position": self.position,
            "waiting": self.waiting,
            "drawn_from": self.drawn_from,
            "copy": None if self.copy_P is None else self.copy_P.clone(),
            "own": None if self.own_MP is None else self.own_MP.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state returned by `state_dict`."""
        self.schedule, self.position, self._is_restored = state["schedule"], state["position"], True
        self.waiting, self.drawn_from = state["waiting"], state["drawn_from"]
        self.copy_P = None if state["copy"] is None else state["copy"].clone()
        self.own_MP = None if state["own"] is None else state["own"].clone()


@dataclass(frozen=True)
class _Loop:
    """Visits between two copies of the weights, each an array of row indices."""

    owner: int
    """Domain of the loop, or `SHARED_LOOP` or `PLAIN_STEPS`."""
    visits: list[np.ndarray]

    def fitting(self, rows: int) -> list[np.ndarray]:
        """Return the visits cut to `rows` rows in total; of a domain's own loop, all of them or none.

        Ordinary steps are one visit. Visits of a single row are left out.
        """
        starts = np.cumsum([0, *(len(visit) for visit in self.visits)])
        if self.owner not in (SHARED_LOOP, PLAIN_STEPS):
            return self.visits if starts[-1] <= rows else []
        cut = [visit[: max(0, rows - start)] for visit, start in zip(self.visits, starts, strict=False)]
        visits = [np.concatenate(cut)] if self.owner == PLAIN_STEPS else cut
        return [visit for visit in visits if len(visit) > 1]


class _Rounds:
    """Draws an endless series of rounds of loops, beginning with the waiting domains."""

    def __init__(
        self,
        settings: Mamdr,
        train: SplitData,
        batch_size: int,
        generator: np.random.Generator,
        waiting: list[int],
    ) -> None:
        self.settings, self.generator = settings, generator
        tasks = trainable_tasks(train.indicator_B, with_unseen=False)
        self.rows = {domain: ShuffledRows(rows, generator) for domain, rows in tasks.items()}
        self.all_rows = ShuffledRows(np.arange(len(train)), generator)
        self.num_others = min(settings.others, len(self.rows) - 1)
        num_own = 2 * (self.num_others + 1) if settings.regularisation else 0
        num_drawn = min(settings.domains, len(self.rows))
        self.turns = Turns(list(self.rows), num_drawn, generator, waiting=waiting)
        num_visits = num_drawn * (1 + num_own)
        self.most = min(settings.batches * batch_size, max(2, len(train) // num_visits))

    def loops(self) -> Iterator[_Loop]:
        """Yield the loops of each round: that of θ, then those of each of its domains."""
        while True:
            # Where an epoch ends within the loop of θ, some domains of that round were not visited.
            domains = self.turns.deal()
            yield self._shared_loop(domains)
            for domain in domains if self.settings.regularisation else ():
                yield from self._own_loops(domain)

    def finish(self, loop: _Loop, num_visits: int) -> None:
        """Note the turn of the loop's domain; without own loops, those of the visited domains."""
        visited = self.turns.current[:num_visits]
        self.turns.finish([loop.owner] if self.settings.regularisation else visited)

    def _shared_loop(self, domains: list[int]) -> _Loop:
        if self.settings.negotiation:
            return _Loop(SHARED_LOOP, [self._draw_visit(domain) for domain in domains])
        return _Loop(PLAIN_STEPS, [self.all_rows.take(self._visit_size(domain)) for domain in domains])

    def _own_loops(self, domain: int) -> Iterator[_Loop]:
        others = [other for other in self.rows if other != domain]
        drawn = self.generator.permutation(others)[: self.num_others].tolist()
        for before in self.generator.permutation([*drawn, domain]).tolist():
            yield _Loop(domain, [self._draw_visit(before), self._draw_visit(domain)])

    def _draw_visit(self, domain: int) -> np.ndarray:
        return self.rows[domain].take(self._visit_size(domain))

    def _visit_size(self, domain: int) -> int:
        return min(self.most, len(self.rows[domain].rows))
