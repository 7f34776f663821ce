"""MAMDR: shared weights that domains negotiate, and each domain's own beside them, which others' rows regularise.

Paper: Luo et al., MAMDR, ICDE 2023
Year: 2023

Conditions on: the indicator p, which chooses the weights a row is scored with
Grows with domains: θ_p, all dense weights once a domain

METHODS 7.11. A row of domain p is scored with Θ_p = θ + θ_p, θ_p = 0 at the start; θ are the dense weights.

    negotiation      θ' ← θ; for the domains of a round, in random order, Adam steps on θ' with p's rows;
                     θ ← θ + β (θ' - θ)
    regularisation   for each p of the round, and j = k other domains and p itself in random order: Θ' ← θ + θ_p; Adam
                     steps on Θ' with j's rows, then with p's; θ_p ← θ_p + γ (Θ' - θ - θ_p)

Readings. Inner steps are the run's Adam; for dense weights first moments, and their correction, start anew with each
visit, second moments go on. The others are drawn evenly; the domain itself is among the j as in shipped code. A round
has `domains` domains, or all there are if those are fewer, and rounds go over domains evenly, from one epoch into the
next; a domain whose own loops an epoch had no room for begins the next one. A visit is at most `batches` batches, of
equal size, and so few rows that an epoch holds a whole round. Without negotiation θ takes ordinary steps, in mixed
batches, on as many rows as its visits would have had; to Adam they are one visit. The unseen domain, domains of a
single training row and those that no round has drawn are scored with θ; the record's notes count the latter two.

Departures from shipped code: it passes through whole domains and keeps all moments. In ten batches kept momentum is
what the domain before has left, and of two opposed domains each θ_p then goes the other's way. A row counts each time
it is processed, so an epoch has as many as ordinary training's (4.3, 11.3), less what a loop that no longer fits would
have had. Only 1 in 3 + 2k of them moves θ, which then goes but β of the way: under equal rows dense weights move far
less than in ordinary training, and embeddings as much. So β = γ = 0.5 where 7.11 has 0.1, which suits many short
epochs: after one epoch of 60,000 made-up rows in six domains, of test AUC 0.684 by plain training, 0.1 leaves 0.51, θ
alone 0.33, and 0.5 gives 0.693 and 0.665 (1.0 gives 0.694 and 0.684). 7.11 has embeddings in θ_S; here they, and rows
of per-domain tables, belong to no copy, and an inner step of either kind is an ordinary one to them. Keeping embeddings
still in regularisation changed these AUCs by 0.0002, within 0.001 in all trials. Memory: θ_p of all domains, 2^28
numbers at most, and as many in the copy of the best epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from ctrbench.extend import (
    EVAL_ROWS,
    Batch,
    Column,
    CTRModel,
    Field,
    Learner,
    Method,
    Optimizer,
    Order,
    Plan,
    Routing,
    RowTable,
    SettingError,
    SplitData,
    StepOutput,
    model_validator,
    score_rows,
)

SHARED = "shared"
"""Scores of θ alone."""
MOST_NUMBERS = 1 << 28
"""Numbers that the θ_p of all domains may come to: a GiB."""
EVERYBODY, NOBODY = 0, -1
"""Whose a loop is, where it is no domain's: θ's, or of ordinary steps, which need no copy."""


class Mamdr(Method):
    """The plan as it is, its dense weights shared and once more for each domain."""

    indexed_by = "indicator"

    negotiation: bool = True
    """Whether θ goes part of the way of a copy that visits domains; else it takes ordinary steps."""
    regularisation: bool = True
    """Whether domains have weights of their own."""
    domains: int = Field(default=10, ge=1)
    """Domains of a round, at most."""
    batches: int = Field(default=10, ge=1)
    """Batches of a visit, at most."""
    others: int = Field(default=5, ge=0)
    """k, the other domains whose rows come before a domain's own; none leaves its own."""
    outer_rate: float = Field(default=0.5, gt=0.0, le=1.0)
    """β, the share of the way from θ to the copy; METHODS 7.11 has 0.1."""
    own_rate: float = Field(default=0.5, gt=0.0, le=1.0)
    """γ, the same for θ_p."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (self.negotiation or self.regularisation):
            raise ValueError("without negotiation and regularisation nothing is left; use plain")
        if self.norm == "bn":
            raise ValueError("norm=bn takes one domain's moments in a visit and all domains' when scoring")
        idle = [] if self.negotiation else ["outer_rate"]
        idle += [] if self.regularisation else ["others", "own_rate"]
        for name in idle:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with these settings; leave it out")
        return self

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan unchanged."""
        return plan

    def learner(self) -> Learner:
        """Return the learner that goes through loops."""
        return MamdrLearner(self)

    @property
    def starts_as_backbone(self) -> float:
        """Exactly."""
        return 0.0


class MamdrLearner(Learner):
    """Makes the inner steps of loops, each an ordinary step while the model holds the loop's copy of its weights.

    Between steps the model holds θ. A programme says of each batch of an epoch whose loop it is in, which of its
    visit's steps it makes, from 1 on, and whether it is the loop's last; a batch beyond it is an ordinary step.
    Programme, place, copy, own weights and the domains whose turn is next are the state; the moments are the
    optimiser's.
    """

    selects = True
    refuses_workers = "MAMDR makes its own steps, which ignore the rows of other workers"

    def __init__(self, settings: Mamdr) -> None:
        super().__init__()
        self.settings = settings
        self.programme = torch.zeros(0, 3, dtype=torch.int64)
        self.place = 0
        self.copy_P: torch.Tensor | None = None
        """θ' or Θ', within a loop."""
        self.own_MP: torch.Tensor | None = None
        """θ_p of all domains, row 0 the unseen one's."""
        self.waiting: tuple[list[int], list[int]] = ([], [])
        """Domains of a pass over all that have not had their turn, before the epoch and behind it."""
        self.drawn_from = ""
        """State of the generator that drew the epoch."""
        self._is_restored = False

    def order(self, train: SplitData, *, batch_size: int, generator: np.random.Generator) -> Order:
        """Draw rounds until no further loop fits into as many rows as there are."""
        batches: list[np.ndarray] = []
        programme: list[list[int]] = []
        left = len(train)
        self._begin(generator)
        rounds = _Rounds(self.settings, train, batch_size, generator, self.waiting[0])
        for loop in rounds.loops():
            visits = loop.fitting(left)
            if not visits:
                break
            rounds.note(loop, len(visits))
            for rows in visits:
                parts = np.array_split(rows, -(-len(rows) // batch_size))
                programme += [[loop.whose, number, False] for number in range(1, len(parts) + 1)]
                batches += parts
                left -= len(rows)
            programme[-1][-1] = True
        self.programme = torch.tensor(programme, dtype=torch.int64)
        self.waiting = self.waiting[0], [*rounds.turn, *rounds.queue]
        starts = np.concatenate([[0], np.cumsum([len(rows) for rows in batches])])
        return Order(rows=np.concatenate(batches), starts=starts)

    def _begin(self, generator: np.random.Generator) -> None:
        """Begin an epoch, or go on with a restored one, whose order is drawn once more."""
        drawn_from = str(generator.bit_generator.state)
        if not self._is_restored or drawn_from != self.drawn_from:
            self.place, self.copy_P, self.waiting = 0, None, (self.waiting[1], [])
        self.drawn_from, self._is_restored = drawn_from, False

    def step(self, model: CTRModel, optimizer: Optimizer, batch: Batch) -> StepOutput:
        """Make the loop's next step, and end the loop if it is the last."""
        weights = _dense(model)
        self._make_own(model, weights)
        if self.place == len(self.programme):
            return super().step(model, optimizer, batch)
        whose, number, is_last = self.programme[self.place].tolist()
        self.place += 1
        if whose == NOBODY:
            with _restarted(optimizer, number):
                return super().step(model, optimizer, batch)
        if self.copy_P is None:
            self.copy_P = self._weights_of(whose, weights)
        with _restarted(optimizer, number), _holding(weights, self.copy_P):
            output = super().step(model, optimizer, batch)
        if is_last:
            self._end(whose, weights, self.copy_P)
        return output

    def _make_own(self, model: CTRModel, weights: list[nn.Parameter]) -> None:
        """Make θ_p, which wait for a model to tell their size; what is restored waits for its device."""
        if self.own_MP is None and self.settings.regularisation:
            num_rows, size = model.schema.num_indicators + 1, sum(one.numel() for one in weights)
            if num_rows * size > MOST_NUMBERS:
                raise SettingError(
                    f"mamdr keeps all dense weights for each domain, {MOST_NUMBERS:,} numbers at most",
                    value=f"{num_rows - 1:,} domains of {size:,} weights",
                    remedy="name a domain feature of fewer values by --indicator, or set regularisation=false",
                )
            self.own_MP = weights[0].new_zeros(num_rows, size)
        device = weights[0].device
        self.own_MP = None if self.own_MP is None else self.own_MP.to(device)
        self.copy_P = None if self.copy_P is None else self.copy_P.to(device)

    @torch.no_grad()
    def _weights_of(self, whose: int, weights: list[nn.Parameter]) -> torch.Tensor:
        """Return θ + θ_p, or a copy of θ."""
        shared_P = nn.utils.parameters_to_vector(weights)
        return shared_P if self.own_MP is None else shared_P + self.own_MP[whose]

    @torch.no_grad()
    def _end(self, whose: int, weights: list[nn.Parameter], copy_P: torch.Tensor) -> None:
        """Go part of the way to the copy."""
        self.copy_P = None
        if whose == EVERYBODY:
            for weight, goal in zip(weights, _views(copy_P, weights), strict=True):
                weight.lerp_(goal, self.settings.outer_rate)
        else:
            assert self.own_MP is not None
            goal_P = copy_P - nn.utils.parameters_to_vector(weights)
            self.own_MP[whose].lerp_(goal_P, self.settings.own_rate)

    def select(self, model: CTRModel, train: SplitData, dev: SplitData) -> dict[str, float | int | str]:
        """Choose nothing; count the domains that are scored with θ, having had no loop of their own."""
        if not self.settings.regularisation:
            return {}
        self._make_own(model, _dense(model))
        assert self.own_MP is not None
        return {"domains_without_own_weights": int((~self.own_MP[1:].any(1)).sum())}

    def score(self, model: CTRModel, data: SplitData) -> dict[str, np.ndarray]:
        """Return the scores with each domain's weights, and those with θ alone as `shared`."""
        shared = score_rows(model, data)
        if not self.settings.regularisation:
            return {Column.SCORE: shared}
        return {Column.SCORE: self._own_scores(model, data, shared.copy()), SHARED: shared}

    def _own_scores(self, model: CTRModel, data: SplitData, scores: np.ndarray) -> np.ndarray:
        """Replace the scores of domains that have weights of their own; the model stays as it is."""
        weights, was_training = _dense(model), model.training
        self._make_own(model, weights)
        assert self.own_MP is not None
        has_own = self.own_MP.any(1).tolist()
        model.eval()
        for domain, rows in Routing(data.indicator_B).members:
            if has_own[domain]:
                with _holding(weights, self._weights_of(domain, weights)), torch.no_grad():
                    parts = [model(data.take(part)).float() for part in torch.split(rows, EVAL_ROWS)]
                scores[rows.numpy()] = torch.cat(parts).cpu().numpy()
        model.train(was_training)
        return scores

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of all that steps change."""
        return {
            "programme": self.programme,
            "place": self.place,
            "waiting": self.waiting,
            "drawn_from": self.drawn_from,
            "copy": None if self.copy_P is None else self.copy_P.clone(),
            "own": None if self.own_MP is None else self.own_MP.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        self.programme, self.place, self._is_restored = state["programme"], state["place"], True
        self.waiting, self.drawn_from = state["waiting"], state["drawn_from"]
        self.copy_P = None if state["copy"] is None else state["copy"].clone()
        self.own_MP = None if state["own"] is None else state["own"].clone()


@dataclass(frozen=True)
class _Loop:
    """Visits, each the rows of a domain, between two copies of the weights."""

    whose: int
    visits: list[np.ndarray]

    def fitting(self, rows: int) -> list[np.ndarray]:
        """Return the visits cut to so many rows in all; of a domain's own loop, all of them or none.

        Ordinary steps are one visit. One of a single row is left out.
        """
        starts = np.cumsum([0, *(len(visit) for visit in self.visits)])
        if self.whose not in (EVERYBODY, NOBODY):
            return self.visits if starts[-1] <= rows else []
        cut = [visit[: max(0, rows - start)] for visit, start in zip(self.visits, starts, strict=False)]
        visits = [np.concatenate(cut)] if self.whose == NOBODY else cut
        return [visit for visit in visits if len(visit) > 1]


class _Rounds:
    """Draws rounds of loops without end, going on with the domains that wait."""

    def __init__(
        self,
        settings: Mamdr,
        train: SplitData,
        batch_size: int,
        generator: np.random.Generator,
        waiting: list[int],
    ) -> None:
        self.settings, self.generator = settings, generator
        by_domain = {domain: rows.numpy() for domain, rows in Routing(train.indicator_B).members if domain}
        self.rows = {p: _Stream(rows, generator) for p, rows in sorted(by_domain.items()) if len(rows) > 1}
        self.turn: list[int] = []
        """Domains of the round that have not had their turn."""
        self.queue = [domain for domain in waiting if domain in self.rows]
        """Those of later rounds, as far as they are drawn."""
        if not self.rows:
            raise ValueError("MAMDR needs a domain with at least two training rows")
        self.all_rows = _Stream(np.arange(len(train)), generator)
        self.num_others = min(settings.others, len(self.rows) - 1)
        num_own = 2 * (self.num_others + 1) if settings.regularisation else 0
        self.num_drawn = min(settings.domains, len(self.rows))
        num_visits = self.num_drawn * (1 + num_own)
        self.most = min(settings.batches * batch_size, max(2, len(train) // num_visits))

    def loops(self) -> Iterator[_Loop]:
        """Yield the loops of a round: θ's, then those of each of its domains."""
        while True:
            domains = self._round()
            yield self._shared(domains)
            for domain in domains if self.settings.regularisation else ():
                yield from self._own(domain)

    def _round(self) -> list[int]:
        """Return the domains of a round, beginning with what is left of a pass over all; none is among them twice."""
        # Where the rows end within θ's loop, some of the round before have not been visited.
        self.queue = [*self.turn, *self.queue]
        if len(self.queue) < self.num_drawn:
            drawn = self.generator.permutation(list(self.rows)).tolist()
            self.queue += sorted(drawn, key=self.queue.__contains__)
        self.turn, self.queue = self.queue[: self.num_drawn], self.queue[self.num_drawn :]
        return self.turn

    def note(self, loop: _Loop, num_visits: int) -> None:
        """Take note that a loop is made: its domain has had its turn; without own loops, the domains visited have."""
        if self.settings.regularisation:
            self.turn = [domain for domain in self.turn if domain != loop.whose]
        else:
            self.turn = self.turn[num_visits:]

    def _shared(self, domains: list[int]) -> _Loop:
        if self.settings.negotiation:
            return _Loop(EVERYBODY, [self._visit(domain) for domain in domains])
        return _Loop(NOBODY, [self.all_rows.take(self._size(domain)) for domain in domains])

    def _own(self, domain: int) -> Iterator[_Loop]:
        others = [one for one in self.rows if one != domain]
        drawn = self.generator.permutation(others)[: self.num_others].tolist()
        for before in self.generator.permutation([*drawn, domain]).tolist():
            yield _Loop(domain, [self._visit(before), self._visit(domain)])

    def _visit(self, domain: int) -> np.ndarray:
        return self.rows[domain].take(self._size(domain))

    def _size(self, domain: int) -> int:
        return min(self.most, len(self.rows[domain].rows))


class _Stream:
    """Rows in shuffled order, shuffled anew when fewer are left than asked for."""

    def __init__(self, rows: np.ndarray, generator: np.random.Generator) -> None:
        self.rows, self.generator = rows, generator
        self.place = len(rows)

    def take(self, count: int) -> np.ndarray:
        """Return the next rows, distinct ones."""
        if self.place + count > len(self.rows):
            self.rows, self.place = self.generator.permutation(self.rows), 0
        self.place += count
        return self.rows[self.place - count : self.place]


def _dense(model: CTRModel) -> list[nn.Parameter]:
    tables = {id(module.weight) for module in model.modules() if isinstance(module, RowTable)}
    return [one for one in model.parameters() if id(one) not in tables]


def _views(vector_P: torch.Tensor, weights: list[nn.Parameter]) -> list[torch.Tensor]:
    parts = torch.split(vector_P, [one.numel() for one in weights])
    return [part.view_as(one) for part, one in zip(parts, weights, strict=True)]


@contextmanager
def _holding(weights: list[nn.Parameter], vector_P: torch.Tensor) -> Iterator[None]:
    """Let the model compute with these numbers, and an optimiser change them, until the end."""
    kept = [one.data for one in weights]
    for weight, view in zip(weights, _views(vector_P, weights), strict=True):
        weight.data = view
    try:
        yield
    finally:
        for weight, data in zip(weights, kept, strict=True):
            weight.data = data


@contextmanager
def _restarted(optimizer: Optimizer, number: int) -> Iterator[None]:
    """Let Adam's first moments begin, and their correction count, with the first step of a visit."""
    dense, config = optimizer.dense, optimizer.config
    if number == 1:
        for mean in dense.means:
            mean.zero_()
    # The optimiser corrects by all its steps.
    dense.lr = config.lr * ((1.0 - config.beta1 ** (optimizer.steps + 1)) / (1.0 - config.beta1**number))
    try:
        yield
    finally:
        dense.lr = config.lr
