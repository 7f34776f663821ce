"""The contract that every method keeps, ours and theirs, on every backbone.

A method is trained for a moment on a made-up schema, through the same parts that a real run uses, and each rule of the
contract is then a function from that case to a sentence that says what is wrong, or None. A rule that raises is a
broken rule, told with the line of the plug-in at fault; nothing that a plug-in does ends a check.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch

from ctrbench.data.batches import Batch, Order, SplitData, subset
from ctrbench.names import Column
from ctrbench.nn.model import Context, CTRModel
from ctrbench.nn.plan import FieldShape, Plan, Schema, StageModule
from ctrbench.nn.separate import SeparateEmbedding
from ctrbench.nn.tables import RowTable
from ctrbench.plugins.base import Estimator
from ctrbench.plugins.registry import plugins, select
from ctrbench.train.config import TrainConfig
from ctrbench.train.learner import bce, total_loss
from ctrbench.train.stepper import Stepper

if TYPE_CHECKING:
    from ctrbench.plugins.base import Backbone, Fitted, Method

SEED = 7
BATCH = 32
EPOCHS = 3
LR = 0.01
TOLERANCE = 1e-5
"""Of a logit, relative to itself or to one: float noise of differently shaped products."""
SHOP_ROWS = (150, 90, 60, 40, 30, 14, 1)
"""Training rows of each indicator; one more than a multiple of `BATCH`, so that an epoch can end in one row."""
AGES = 3
EMBEDDING_SIZE = 4
PLANNED_STEPS = EPOCHS * sum(SHOP_ROWS) // BATCH
POOLED = {"dnn": ("dnn[pooling=din]", "dnn[pooling=dien]")}
"""Pooling ends where a backbone begins, so one of them is enough to try it."""
LEAST_ROWS = 8
"""Rows of a domain from which on its parameters must have moved."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one rule says of the method on one backbone; `sentence` explains a failure, or why all was skipped."""

    backbone: str
    rule: str
    ok: bool
    sentence: str


def check(selector_or_file: str, *, backbones: Sequence[str] | None = None) -> tuple[Finding, ...]:
    """Return what the contract says of a method on each backbone, all built-in ones in all structures by default."""
    selected = select("methods", selector_or_file)
    method: Method = selected.value  # type: ignore[assignment]
    findings: list[Finding] = []
    with _undisturbed():
        for name in backbones or tuple(_backbones()):
            backbone: Backbone = select("backbones", name).value  # type: ignore[assignment]
            case = Case(backbone=name, method=method, plan=backbone.full_plan, file=selected.plugin.file)
            findings.extend(_check(case))
    return tuple(findings)


def _backbones() -> Iterator[str]:
    for name, plugin in plugins("backbones").items():
        if plugin.is_builtin:
            yield name
            yield from POOLED.get(name, ())
            structure = plugin.load().model_fields.get("structure")
            others = get_args(structure.annotation) if structure else ()
            yield from (
                f"{name}[structure={one}]" for one in others if structure and one != structure.default
            )


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Leave random state and threads as they were; one thread is fastest at this size."""
    threads, drawn = torch.get_num_threads(), np.random.get_state()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
        np.random.set_state(drawn)


def _check(case: Case) -> Iterator[Finding]:
    skipped = _sentence(_unsupported, case)
    if skipped is not None:
        is_refusal = skipped.startswith(_SKIPPED)
        yield Finding(backbone=case.backbone, rule="supports", ok=is_refusal, sentence=skipped)
        return
    rules = FITTED_RULES if isinstance(case.method, Estimator) else RULES
    for rule, find in rules.items():
        sentence = _sentence(find, case)
        yield Finding(backbone=case.backbone, rule=rule, ok=sentence is None, sentence=sentence or "")
        if sentence is not None and find in (_trains, _fits):
            return


_SKIPPED = "skipped: "


def _unsupported(case: Case) -> str | None:
    reason = case.method.supports(case.plan())
    return None if reason is None else f"{_SKIPPED}{reason}"


def _sentence(find: Rule, case: Case) -> str | None:
    torch.manual_seed(SEED)
    try:
        return find(case)
    except Exception as error:  # noqa: BLE001  # whatever a plug-in raises is a finding about it
        return _raised(error, case.file)


def _raised(error: Exception, file: Path) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename) == file] or frames
    where = f"{Path(own[-1].filename).name}, line {own[-1].lineno}, in {own[-1].name}"
    message = str(error).strip().partition("\n")[0]
    return f"expected no exception, but {where} raised {type(error).__name__}: {message}"


# The made-up data: shop and age are the domain features, shop the indicator; ids beyond the training split are 0.


def _schema(base_rate: float = 0.4) -> Schema:
    sizes = {"shop": len(SHOP_ROWS) + 1, "age": AGES + 1, "user": 50, "item": 40}
    roles = {"shop": "shop", "age": "user", "user": "user", "item": "item"}
    singles = [
        FieldShape(name=name, kind="categorical", role=roles[name], size=size) for name, size in sizes.items()
    ]
    tags = FieldShape(name="tags", kind="multi_valued", role="item", size=12)
    seen = FieldShape(name="seen", kind="sequence", role="user", size=40, target="item")
    price = FieldShape(name="price", kind="numeric", role="item", size=0)
    return Schema(
        fields=(*singles, tags, seen, price),
        embedding_size=EMBEDDING_SIZE,
        domain_features=("shop", "age"),
        num_domains=len(SHOP_ROWS) * AGES,
        indicator_rows=(0, *SHOP_ROWS),
        base_rate=base_rate,
    )


def _data(shop: np.ndarray, seed: int) -> SplitData:
    """Make up rows of these shops; a shop of 0, or every seventh age beside it, was never seen in training."""
    generator, num_rows = np.random.default_rng(seed), len(shop)
    others = [generator.integers(1, size, num_rows) for size in (AGES + 1, 50, 40)]
    ids = np.stack([shop, *others], axis=1).astype(np.int32)
    if 0 in shop:
        ids[::7, 1] = 0
        ids[::5, 2:] = 0
    bags = tuple(_bag(np.random.default_rng([seed, size]), size, num_rows) for size in (12, 40))
    domain = np.where((ids[:, :2] > 0).all(1), (ids[:, 0] - 1) * AGES + ids[:, 1], 0).astype(np.int32)
    price = generator.standard_normal((num_rows, 1)).astype(np.float32)
    chance = 1.0 / (1.0 + np.exp(-price[:, 0] * np.where(ids[:, 0] % 2, 1.5, -1.5)))
    return SplitData(
        ids_BF=torch.from_numpy(ids),
        bags=bags,
        numeric_BK=torch.from_numpy(price),
        domain_B=torch.from_numpy(domain),
        indicator_B=torch.from_numpy(ids[:, 0].copy()),
        label_B=torch.from_numpy((generator.random(num_rows) < chance).astype(np.float32)),
        row=np.arange(num_rows),
        user=None,
        probability=None,
    )


def _bag(generator: np.random.Generator, size: int, num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Make up lists of up to three ids."""
    offsets = np.concatenate([[0], np.cumsum(generator.integers(0, 4, num_rows))])
    values = generator.integers(1, size, offsets[-1]).astype(np.int32)
    return torch.from_numpy(values), torch.from_numpy(offsets)


def _train_rows() -> SplitData:
    shop = np.repeat(np.arange(1, len(SHOP_ROWS) + 1), SHOP_ROWS)
    return _data(np.random.default_rng(SEED).permutation(shop), seed=1)


def _test_rows() -> SplitData:
    return _data(np.arange(40) % (len(SHOP_ROWS) + 1), seed=2)


def _some(data: SplitData, rows: Iterable[int] | np.ndarray) -> SplitData:
    """Return some rows of a split, copied."""
    return subset(data, np.fromiter(rows, dtype=np.int64))


# A case and its training.


@dataclass(frozen=True, kw_only=True)
class Case:
    """A method, the backbone it rewrites, and the data both are tried on."""

    backbone: str
    method: Method
    plan: Callable[[], Plan]
    """Makes the backbone's plan anew, whatever was done to an earlier one."""
    file: Path

    def model(self, *, base_rate: float = 0.4) -> CTRModel:
        """Build the rewritten plan anew."""
        return CTRModel(self.method.apply(self.plan()), _schema(base_rate), seed=SEED)

    @cached_property
    def train(self) -> SplitData:
        """Rows to train on; all their domains are known."""
        return _train_rows()

    @cached_property
    def test(self) -> SplitData:
        """Rows to score, unseen domains and values among them."""
        return _test_rows()

    @cached_property
    def trained(self) -> Training:
        """The method after some epochs; for looking only."""
        training = Training(self)
        for epoch in range(EPOCHS):
            training.run(training.batches(self.train, epoch))
        training.settle(self.train, self.test)
        return training

    def fit(self, train: SplitData) -> Fitted:
        """Fit the method, an estimator, anew; the rows to score are its dev rows too."""
        assert isinstance(self.method, Estimator)
        return self.method.fit(train, self.test, schema=_schema(), seed=SEED)

    @cached_property
    def fitted(self) -> Fitted:
        """The estimator, fitted; for looking only."""
        return self.fit(self.train)

    def score(self, data: SplitData) -> np.ndarray:
        """Return the scores of rows by what was trained or fitted."""
        is_fitted = isinstance(self.method, Estimator)
        return self.fitted.logits(data) if is_fitted else self.trained.score(data)


class Training:
    """A model under training on the synthetic rows."""

    def __init__(self, case: Case, *, base_rate: float = 0.4, lr: float = LR) -> None:
        self.model = case.model(base_rate=base_rate)
        self.start = _copied(self.model.state_dict())
        config = TrainConfig(embedding_size=EMBEDDING_SIZE, batch_size=BATCH, epochs=EPOCHS, lr=lr)
        self.stepper = Stepper(self.model, case.method.learner(), config, planned_steps=PLANNED_STEPS)
        self.learner, self.optimizer = self.stepper.learner, self.stepper.optimizer
        self.losses: list[float] = []

    def order(self, data: SplitData, epoch: int = 0) -> Order:
        """Return the learner's order of an epoch."""
        return self.stepper.order(data, np.random.default_rng([SEED, epoch]))

    def batches(self, data: SplitData, epoch: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch except those of a single row, which have their own rule."""
        return (batch for batch in data.batches(self.order(data, epoch)) if len(batch) > 1)

    def run(self, batches: Iterable[Batch]) -> list[float]:
        """Make one step per batch and return the losses."""
        losses = [float(self.stepper.step(batch).loss) for batch in batches]
        self.losses += losses
        return losses

    def settle(self, train: SplitData, dev: SplitData) -> None:
        """Apply deferred updates and select on dev, as before every scoring."""
        self.optimizer.flush()
        self.learner.select(self.model, train, dev)

    def score(self, data: SplitData) -> np.ndarray:
        """Return the scores that a run would record."""
        return np.asarray(self.learner.score(self.model, data)[Column.SCORE])

    def logits(self, batch: Batch) -> torch.Tensor:
        """Return the logits of the model itself, in eval mode."""
        self.model.eval()
        with torch.no_grad():
            logits: torch.Tensor = self.model(batch)
        self.model.train()
        return logits

    def save(self) -> BytesIO:
        """Return a checkpoint."""
        file = BytesIO()
        torch.save(self.stepper.state_dict(), file)
        file.seek(0)
        return file

    def load(self, file: BytesIO) -> None:
        """Resume from a checkpoint."""
        self.stepper.load_state_dict(torch.load(file, weights_only=True))


def _copied(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in state.items()}


def _changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> list[str]:
    return [name for name, value in before.items() if not torch.equal(value, after[name])]


def _listed(names: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _apart(first: np.ndarray, second: np.ndarray) -> float:
    """Largest difference, relative to the value or to one; endless where either is not finite."""
    apart = np.abs(first - second) / np.maximum(1.0, np.abs(second))
    return float(np.nan_to_num(apart, nan=math.inf).max(initial=0.0))


# The rules, each a sentence about what is wrong, or None.

Rule = Callable[[Case], str | None]


def _trains(case: Case) -> str | None:
    training = case.trained
    for step, loss in enumerate(training.losses, start=1):
        if not math.isfinite(loss):
            return (
                f"expected a finite loss at every training step, but step {step} gave {loss}; "
                "look for a logarithm, a root or a division that can meet zero"
            )
    endless = [name for name, value in training.model.named_parameters() if not torch.isfinite(value).all()]
    if endless:
        return f"expected finite weights after {len(training.losses)} steps, but {_listed(endless)} are not"
    return None


def _logits(case: Case) -> str | None:
    training, num_rows = case.trained, len(case.test)
    with _shapes_watched(training.model) as wrong:
        logits = training.logits(case.test.slice(0, num_rows))
    if wrong:
        return wrong[0]
    if logits.shape != (num_rows,) or not torch.isfinite(logits).all():
        seen = f"shape {tuple(logits.shape)}" if logits.shape != (num_rows,) else "some that are not finite"
        return f"expected finite logits of shape ({num_rows},), but got {seen}"
    for name, scores in training.learner.score(training.model, case.test).items():
        if scores.shape != (num_rows,) or not np.isfinite(scores).all():
            return f"expected the learner's score() to give one finite number a row, but {name!r} does not"
    return None


@contextmanager
def _shapes_watched(model: CTRModel) -> Iterator[list[str]]:
    wrong: list[str] = []

    def watch(module: torch.nn.Module, given: tuple[Any, ...], made: torch.Tensor) -> None:
        expected = [len(given[0]), module.num_outputs]
        if list(made.shape) != expected:
            kind = type(module).__name__
            seen = f"shape {list(made.shape)}, and its num_outputs says {expected}"
            wrong.append(f"expected {kind} to return what it says, but it returned {seen}")

    stages = [module for module in model.modules() if isinstance(module, StageModule)]
    handles = [stage.register_forward_hook(watch) for stage in stages]
    try:
        yield wrong
    finally:
        for handle in handles:
            handle.remove()


def _batch_of_one(case: Case) -> str | None:
    for row in range(len(SHOP_ROWS) + 1):
        shape = tuple(case.trained.logits(case.test.slice(row, row + 1)).shape)
        if shape != (1,):
            return (
                f"expected one row to give logits of shape (1,), but got {shape}; look for a bare squeeze()"
            )
    training = Training(case)
    training.run(islice(training.batches(case.train), 2))
    order = training.order(case.train)
    losses = training.run(batch for batch in case.train.batches(order) if len(batch) == 1)
    if any(not math.isfinite(loss) for loss in losses):
        return (
            f"expected a training step on a single row to work, but its loss was {losses[0]}; "
            "the last batch of an epoch may hold one row, whose variance is zero or undefined"
        )
    return None


def _row_order(case: Case) -> str | None:
    return _scoring_order(case) or _training_order(case)


def _scoring_order(case: Case) -> str | None:
    rows = np.random.default_rng(SEED).permutation(len(case.test))
    apart = _apart(case.score(_some(case.test, rows)), case.score(case.test)[rows])
    if apart > TOLERANCE:
        return (
            f"expected the same logits for the same rows in another order, but they differ by {apart:.1e}; "
            "look for an operation along the batch axis"
        )
    return None


def _training_order(case: Case) -> str | None:
    rows = torch.randperm(BATCH)
    straight, shuffled = case.train.take(torch.arange(BATCH)), case.train.take(rows)
    model = case.trained.model
    first, again, other = (_training_loss(model, batch).item() for batch in (straight, straight, shuffled))
    if first == again and abs(first - other) > TOLERANCE * max(1.0, abs(first)):
        return (
            "expected the training loss of a batch not to depend on the order of its rows, but it went from "
            f"{first:.6f} to {other:.6f}; look for an operation along the batch axis"
        )
    return None


def _training_loss(model: CTRModel, batch: Batch) -> torch.Tensor:
    """Loss of a batch in training mode, by a copy of the model; its gradients are with the copy's parameters."""
    return _loss(deepcopy(model).train(), batch)


def _loss(model: CTRModel, batch: Batch) -> torch.Tensor:
    context = model.context(batch)
    return total_loss(bce(model.net(context), batch.label_B), context)


def _company(case: Case) -> str | None:
    together = case.score(case.test)
    for row in range(0, len(case.test), 3):
        alone = case.score(_some(case.test, [row]))
        apart = _apart(alone, together[row : row + 1])
        if apart > TOLERANCE:
            return (
                f"expected a row to get the same logit alone as among others, but it got {alone[0]:.6f} alone and "
                f"{together[row]:.6f} among {len(together)} in eval mode; look for moments of the batch, or rows "
                "that see each other"
            )
    return None


def _repeatable(case: Case) -> str | None:
    training = case.trained
    before = _copied(training.model.state_dict())
    sentence = _scores_again(case)
    if sentence is not None:
        return sentence
    moved = _changed(before, training.model.state_dict())
    if moved:
        return f"expected evaluating to change nothing, but it changed {_listed(moved)}; change it in training only"
    return None


def _scores_again(case: Case) -> str | None:
    first, again = case.score(case.test), case.score(case.test)
    if not np.array_equal(first, again):
        return (
            f"expected two evaluations to agree, but logits moved by {_apart(first, again):.1e}; look for "
            "randomness, or something that changes with every forward pass, in eval mode"
        )
    return None


def _unseen(case: Case) -> str | None:
    unseen = _some(case.test, np.flatnonzero(case.test.indicator_B.numpy() == 0))
    ids_BF = torch.zeros_like(unseen.ids_BF)
    for data in (unseen, replace(unseen, ids_BF=ids_BF, domain_B=torch.zeros_like(unseen.domain_B))):
        if not np.isfinite(case.score(data)).all():
            return (
                "expected finite logits for rows of a domain not seen in training (domain and indicator 0), but "
                "some are not; row 0 of a domain table is theirs, and nothing was ever counted for it"
            )
    return None


def _absent(case: Case) -> str | None:
    training = Training(case)
    training.run(training.batches(case.train))
    training.optimizer.flush()
    before = _copied(training.model.state_dict())
    present = (1, 2)
    few = _some(case.train, np.flatnonzero(np.isin(case.train.indicator_B.numpy(), present)))
    training.run(training.batches(few, 1))
    training.optimizer.flush()
    after = training.model.state_dict()
    return _moved_rows(training.model, few, before, after) or _moved_dense(case, present, before, after)


def _moved_rows(
    model: CTRModel, few: SplitData, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]
) -> str | None:
    for name, table in _domain_tables(model).items():
        ids_B = few.indicator_B if len(table.weight) == len(SHOP_ROWS) + 1 else few.domain_B
        key = f"{name}.weight"
        moved = (before[key] != after[key]).flatten(1).any(1)
        strangers = sorted(set(torch.nonzero(moved).flatten().tolist()) - set(ids_B.tolist()))
        if strangers:
            return (
                f"expected the rows of absent domains in {name} not to move, but those of domains "
                f"{_listed([str(one) for one in strangers])} did; read a table by context.read, once a step"
            )
    return None


def _domain_tables(model: CTRModel) -> dict[str, RowTable]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, RowTable) and module.rule == "domain"
    }


def _moved_dense(
    case: Case, present: tuple[int, ...], before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]
) -> str | None:
    """Find dense parameters that one domain alone gives a gradient, and that moved without a row of it."""
    model, fresh = case.trained.model, deepcopy(case.trained.model)
    fresh.load_state_dict(case.trained.start)
    in_tables = {id(module.weight) for module in model.modules() if isinstance(module, RowTable)}
    dense = [name for name, value in model.named_parameters() if id(value) not in in_tables]
    shops = [shop for shop, n in enumerate(SHOP_ROWS, start=1) if n > 1]
    # A start may hold gradients back, and so may units that training has saturated; hardly both.
    touched = {shop: _either(*(_touched(one, case.train, shop) for one in (fresh, model))) for shop in shops}
    for name in dense:
        moved = before[name] != after[name]
        for owned in _owned({shop: by_name[name] for shop, by_name in touched.items()}):
            if any(bool((moved & part).any()) for shop, part in owned.items() if shop not in present):
                return (
                    f"expected parameters of absent domains not to move, but {name} holds parameters that one "
                    "domain alone uses and moves them with every step; keep them in a domain_table and read them "
                    "by context.read, since dense Adam moves what has momentum even where the gradient is zero"
                )
    return None


def _touched(model: CTRModel, train: SplitData, shop: int) -> dict[str, torch.Tensor]:
    """Return where each parameter gets a gradient from the rows of a shop."""
    copy = deepcopy(model).train()
    rows = torch.nonzero(train.indicator_B == shop)[:BATCH, 0]
    _loss(copy, train.take(rows)).backward()  # type: ignore[no-untyped-call]
    return {
        name: torch.zeros_like(value, dtype=torch.bool) if value.grad is None else value.grad != 0
        for name, value in copy.named_parameters()
    }


def _either(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: where | second[name] for name, where in first.items()}


def _owned(touched: dict[int, torch.Tensor]) -> Iterator[dict[int, torch.Tensor]]:
    """Yield ways to see a parameter as parts that belong to one domain each: whole, or by places of an axis."""
    users = [shop for shop, where in touched.items() if where.any()]
    if len(users) == 1:
        whole = torch.ones_like(touched[users[0]])
        yield {users[0]: whole}
    sample = next(iter(touched.values()))
    for axis in range(sample.dim()):
        others = [one for one in range(sample.dim()) if one != axis]
        used = {shop: where.any(dim=others) if others else where for shop, where in touched.items()}
        shared = torch.stack(list(used.values())).sum(0)
        owners = [shop for shop, where in used.items() if where.any()]
        if bool((shared <= 1).all()) and len(owners) > 1:
            shape = [-1 if one == axis else 1 for one in range(sample.dim())]
            yield {shop: used[shop].view(shape).expand_as(sample) for shop in owners}


def _learned(case: Case) -> str | None:
    training = case.trained
    now = training.model.state_dict()
    still = [
        name
        for name, value in training.model.named_parameters()
        if value.requires_grad
        and torch.equal(training.start[name], now[name])
        and not name.startswith(_of_few_rows(training.model))
    ]
    still += [f"the embedding of {name}" for name in _still_fields(training)]
    still += list(_still_domains(training))
    if not still:
        return None
    return (
        f"expected every parameter to learn, but {_listed(still)} never moved in {len(training.losses)} steps: "
        "unused, detached, behind a step function, or in a table that is read without context.read"
    )


def _of_few_rows(model: CTRModel) -> tuple[str, ...]:
    """Return how names begin of parts that see a small domain alone, whose rows may not have what it takes.

    A model of a single row's own takes steps of one row only, which are left out here.
    """
    if not isinstance(model.embedding, SeparateEmbedding):
        return ()
    places = range(len(SHOP_ROWS))
    pooling = [f"embedding.poolings.{place}." for place in places if SHOP_ROWS[place] < LEAST_ROWS]
    single = [place for place in places if SHOP_ROWS[place] == 1]
    whole = [f"{part}.{place}." for place in single for part in ("embedding.tables", "net.networks")]
    return (*pooling, *whole)


def _still_fields(training: Training) -> Iterator[str]:
    names = [name for name, one in training.model.embedding.named_modules() if isinstance(one, RowTable)]
    now = training.model.state_dict()
    keys = [f"embedding.{name}.weight" for name in names]
    moved = torch.stack([(training.start[key] != now[key]).any(1) for key in keys]).any(0)
    schema, first = training.model.schema, 0
    for field in schema.table_fields:
        if not moved[first : first + field.size].any():
            yield field.name
        first += field.size


def _still_domains(training: Training) -> Iterator[str]:
    for name, table in _domain_tables(training.model).items():
        if len(table.weight) != len(SHOP_ROWS) + 1:
            continue
        moved = (training.start[f"{name}.weight"] != table.weight).flatten(1).any(1).tolist()
        for shop, rows in enumerate(SHOP_ROWS, start=1):
            if rows >= LEAST_ROWS and not moved[shop]:
                yield f"row {shop} of {name}"


def _inputs(case: Case) -> str | None:
    training, train, test = Training(case), _train_rows(), _test_rows()
    batch = train.slice(0, BATCH)
    training.run([batch])
    training.logits(test.slice(0, len(test)))
    changed = [*_unlike(train, _train_rows()), *_unlike(test, _test_rows())]
    context = training.model.eval().context(test.slice(0, len(test)))
    kept = replace(context, z_BN=context.z_BN.detach().clone())
    with torch.no_grad():
        training.model.net(context)
    if not torch.equal(context.z_BN, kept.z_BN):
        changed.append("z_BN")
    if changed:
        return (
            f"expected what a model is given to stay as it is, but {_listed(changed)} changed; look for an "
            "in-place operation (add_, +=, clamp_)"
        )
    return None


def _unlike(data: SplitData, fresh: SplitData) -> list[str]:
    names = ("ids_BF", "numeric_BK", "domain_B", "indicator_B", "label_B")
    changed = [name for name in names if not torch.equal(getattr(data, name), getattr(fresh, name))]
    bags = zip(data.bags, fresh.bags, strict=True)
    is_same = all(torch.equal(a, b) for one, other in bags for a, b in zip(one, other, strict=True))
    return changed if is_same else [*changed, "bags"]


def _plans(case: Case) -> str | None:
    settings, base = case.method.model_dump(), case.plan()
    plan = case.method.apply(base)
    kept = deepcopy(plan)
    model = CTRModel(plan, _schema(), seed=SEED)
    model(case.test.slice(0, len(case.test)))
    seen = {
        "the plan given to rewrite()": base == case.plan(),
        "the rewritten plan": plan == kept,
        "the method's settings": case.method.model_dump() == settings,
    }
    changed = [name for name, is_same in seen.items() if not is_same]
    if changed:
        return f"expected {_listed(changed)} to stay as it is; a plan describes, and its modules hold what changes"
    return None


def _state(case: Case) -> str | None:
    first, second = Training(case), Training(case)
    batches = list(first.batches(case.train))
    half = len(batches) // 2
    first.run(batches[:half])
    first.settle(case.train, case.test)
    second.load(first.save())
    apart = _apart(second.score(case.test), first.score(case.test))
    if apart > 0.0:
        return (
            f"expected a restored model to score as the saved one does, but logits differ by {apart:.1e}; "
            "something that eval mode uses is neither parameter nor registered buffer"
        )
    return _next_steps(first, second, batches[half:])


def _next_steps(first: Training, second: Training, batches: list[Batch]) -> str | None:
    losses = []
    for training in (first, second):
        torch.manual_seed(SEED)
        losses.append(training.run(batches))
    moved = _changed(first.model.state_dict(), second.model.state_dict())
    if losses[0] != losses[1] or moved:
        what = _listed(moved) if moved else "the loss"
        return (
            f"expected training to go on bit for bit after a restart, but {what} came out differently; "
            "keep all state in registered buffers, or in the learner's state_dict"
        )
    return None


def _seeded(case: Case) -> str | None:
    trainings = []
    for unrelated in (1, 2):
        torch.manual_seed(unrelated)
        trainings.append(Training(case))
    first, second = trainings
    differing = _changed(first.start, second.start)
    if differing:
        return (
            f"expected the same start from the same seed, but {_listed(differing)} started differently; draw "
            "random starts from build.generator(label), not from torch's global state"
        )
    losses = []
    for training in trainings:
        torch.manual_seed(SEED)
        losses.append(training.run(training.batches(case.train)))
    if losses[0] != losses[1]:
        return (
            "expected the same losses from the same seed, but two trainings went apart; draw random numbers from "
            "build.generator, the learner's generator or torch's global state"
        )
    return None


def _starts(case: Case) -> str | None:
    claim = case.method.starts_as_backbone
    if claim is None:
        return None
    batch, base, norm = case.test.slice(0, len(case.test)), case.plan(), case.method.norm_stage()
    base = base.before_tower(norm) if norm else base
    with torch.no_grad():
        plain = CTRModel(base, _schema(), seed=SEED).eval()(batch)
        apart = float((case.model().eval()(batch) - plain).abs().max())
    if not apart <= claim:
        return (
            f"expected logits within {claim:g} of the backbone's at the start, as starts_as_backbone says, but "
            f"they differ by {apart:.1e}; start what multiplies at 1 and what adds at 0"
        )
    return None


def _both_signs(case: Case) -> str | None:
    for label, sign, word in ((0.0, -1.0, "negative"), (1.0, 1.0, "positive")):
        training = Training(case, base_rate=0.5, lr=0.05)
        data = replace(case.train, label_B=torch.full_like(case.train.label_B, label))
        for epoch in range(EPOCHS):
            training.run(training.batches(data, epoch))
        training.optimizer.flush()
        if not bool((sign * training.logits(data.slice(0, len(data))) > 0).any()):
            return (
                f"expected a {word} logit after training on labels {label:g} alone, but there is none; the output "
                "must be linear, without an activation"
            )
    return None


def _orders(case: Case) -> str | None:
    order, again = (Training(case).order(case.train) for _ in range(2))
    rows, starts, num_rows = order.rows, order.starts, len(case.train)
    is_valid = rows.ndim == 1 and np.issubdtype(rows.dtype, np.integer) and len(rows) > 0
    if not is_valid or rows.min() < 0 or rows.max() >= num_rows:
        return f"expected learner.order to visit rows 0 to {num_rows - 1}, but it goes beyond, or visits none"
    if starts[0] != 0 or starts[-1] != len(rows) or (np.diff(starts) <= 0).any():
        return (
            f"expected the starts of batches to rise from 0 to {len(rows)}, the number of visits; they do not"
        )
    if not np.array_equal(rows, again.rows) or not np.array_equal(starts, again.starts):
        return "expected the order of an epoch to follow from the generator it is given alone; it does not"
    return None


def _penalties(case: Case) -> str | None:
    model = deepcopy(case.trained.model)
    for is_training in (True, False):
        context = model.train(is_training).context(case.train.slice(0, BATCH))
        model.net(context)
        sentence = _wrong_penalty(context)
        if sentence is not None:
            return sentence
    return None


def _wrong_penalty(context: Context) -> str | None:
    for penalty in context.penalties:
        if penalty.dim() != 0 or not bool(torch.isfinite(penalty)):
            return f"expected a penalty to be a finite scalar, but got shape {tuple(penalty.shape)}, {penalty.tolist()}"
    for name, figure in context.logs.items():
        if figure.dim() != 0 or figure.requires_grad:
            return f"expected the figure {name!r} for the log to be a detached scalar; it is not"
    return None


RULES: dict[str, Rule] = {
    "trains": _trains,
    "logits": _logits,
    "batch of one": _batch_of_one,
    "row order": _row_order,
    "company": _company,
    "evaluating twice": _repeatable,
    "unseen domain": _unseen,
    "absent domains": _absent,
    "gradients": _learned,
    "inputs untouched": _inputs,
    "plan untouched": _plans,
    "state": _state,
    "seed": _seeded,
    "start": _starts,
    "both signs": _both_signs,
    "order": _orders,
    "penalties": _penalties,
}
"""The contract, in the order in which it is told."""


# The part of it that concerns estimators, which have neither plan nor steps.


def _fits(case: Case) -> str | None:
    fitted, num_rows = case.fitted, len(case.test)
    logits = fitted.logits(case.test)
    if logits.shape != (num_rows,) or not np.isfinite(logits).all():
        return f"expected finite logits of shape ({num_rows},), but got shape {logits.shape}, or some that are not"
    if not math.isfinite(fitted.loss):
        return f"expected a finite training loss, but it is {fitted.loss}"
    return None


def _scores_one(case: Case) -> str | None:
    for row in range(len(SHOP_ROWS) + 1):
        shape = case.score(_some(case.test, [row])).shape
        if shape != (1,):
            return f"expected one row to give logits of shape (1,), but got {shape}"
    return None


def _given(case: Case) -> str | None:
    train, test = _train_rows(), _test_rows()
    case.fit(train).logits(test)
    changed = [*_unlike(train, _train_rows()), *_unlike(test, _test_rows())]
    return f"expected what is given to stay as it is, but {_listed(changed)} changed" if changed else None


def _labels_unread(case: Case) -> str | None:
    flipped = replace(case.test, label_B=1.0 - case.test.label_B)
    if not np.array_equal(case.fitted.logits(flipped), case.fitted.logits(case.test)):
        return "expected logits not to depend on the labels of the rows to be scored, but they do"
    return None


def _fits_again(case: Case) -> str | None:
    logits = []
    for unrelated in (1, 2):
        torch.manual_seed(unrelated)
        np.random.seed(unrelated)
        logits.append(case.fit(case.train).logits(case.test))
    apart = _apart(*logits)
    return f"expected the same fit from the same seed, but logits differ by {apart:.1e}" if apart else None


def _takes_sides(case: Case) -> str | None:
    for label, sign, word in ((0.0, -1.0, "negative"), (1.0, 1.0, "positive")):
        data = replace(case.train, label_B=torch.full_like(case.train.label_B, label))
        if not (sign * case.fit(data).logits(data) > 0).any():
            return f"expected a {word} logit after fitting to labels {label:g} alone, but there is none"
    return None


FITTED_RULES: dict[str, Rule] = {
    "trains": _fits,
    "batch of one": _scores_one,
    "row order": _scoring_order,
    "company": _company,
    "evaluating twice": _scores_again,
    "unseen domain": _unseen,
    "inputs untouched": _given,
    "labels unread": _labels_unread,
    "seed": _fits_again,
    "both signs": _takes_sides,
}
"""What is checked of an estimator."""
