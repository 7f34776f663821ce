"""Base classes of plug-ins: `Settings`, `Backbone`, `Method`, `Estimator` and `Fitted`.

The docstring of each class lists what a plug-in implements, what it may override and what it inherits. Plug-in authors
import the classes from `ctrbench.extend`.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from ctrbench.added_fields import added_field
from ctrbench.data.batches import SplitData
from ctrbench.errors import ContractError, SettingError
from ctrbench.nn.build import Activation
from ctrbench.nn.model import CTRModel
from ctrbench.nn.plan import Plan
from ctrbench.nn.pooling import Pooling
from ctrbench.nn.schema import Schema
from ctrbench.nn.stages import Dense
from ctrbench.plugins.common import CommonFields
from ctrbench.plugins.inspection import Inspection
from ctrbench.plugins.settings import Settings
from ctrbench.train.learner import Learner

__all__ = ["Backbone", "Estimator", "Fitted", "Method", "Settings"]


def _check_plan(plan: object, plugin: Settings, function: str) -> Plan:
    """Return the plan that a plug-in returned; raise `ContractError` for anything else."""
    if isinstance(plan, Plan):
        return plan
    name, file = type(plugin).__name__, inspect.getsourcefile(type(plugin))
    raise ContractError(
        f"{function}() of a plug-in must return a Plan",
        value=f"{name}.{function}() in {file} returned {type(plan).__name__}",
        remedy="return a changed copy of the plan, such as dataclasses.replace(plan, tower=…)",
    )


class Backbone(Settings, ABC):
    """A model family without any multi-domain part, described by a plan.

    Required:
        plan(): the plan from the input vector z to the logit.

    Inherited settings: `hidden` and `activation`, which `tower()` uses, and `pooling` and `pooling_aux`, which
    `full_plan()` adds to the plan. They are the same for every backbone, so that tables compare equal towers.

    Inherited helpers: `tower()`, the dense stages; `output()`, the linear layer of one logit.

    Shapes: z is (B, N), with N = `Schema.num_inputs`; the tower maps it to (B, `hidden[-1]`), the head to (B, 1).

    >>> class Mlp(Backbone):
    ...     '''Embeddings, tower, logit.'''
    ...
    ...     def plan(self) -> Plan:
    ...         return Plan(tower=self.tower(), head=self.output())
    >>> [(stage.name, stage.width) for stage in Mlp(hidden=(8, 4)).plan().tower]
    [('tower0', 8), ('tower1', 4)]
    """

    hidden: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = Field(
        default=(128, 64, 32), min_length=1, max_length=64
    )
    """Widths of the tower, the same for every backbone and method of a table."""
    activation: Activation = "tanh"
    """Activation of the tower's layers."""
    pooling: Literal["mean", "din", "dien"] = added_field("mean")
    """Pooling of a sequence that has a target: its mean, DIN's attention or DIEN's interest evolution."""
    pooling_aux: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = added_field(1.0)
    """Weight of DIEN's auxiliary loss, which distinguishes the next behavior from a random item."""

    def idle(self) -> Iterable[str]:
        """Yield `pooling_aux` unless DIEN pools."""
        if self.pooling != "dien":
            yield "pooling_aux"

    @abstractmethod
    def plan(self) -> Plan:
        """Return the plan behind the embeddings, without the inherited pooling."""

    def full_plan(self) -> Plan:
        """Return the plan with the inherited pooling; models are built from it."""
        return replace(
            _check_plan(self.plan(), self, "plan"),
            pooling=Pooling(kind=self.pooling, aux_weight=self.pooling_aux),
        )

    def tower(self) -> tuple[Dense, ...]:
        """Return the deep tower, dense stages `tower0`, `tower1`, … of the `hidden` widths."""
        return tuple(
            Dense(name=f"tower{i}", width=width, activation=self.activation)
            for i, width in enumerate(self.hidden)
        )

    @staticmethod
    def output() -> tuple[Dense, ...]:
        """Return the linear output layer of one logit, the dense stage `head`."""
        return (Dense(name="head", width=1),)


class Method(CommonFields, ABC):
    """A multi-domain method: a function from plan to plan and, where it changes training, a learner.

    Required:
        rewrite(plan): the plan with the method's own parts.

    Optional to override:
        supports(plan): why the method makes no sense on a plan, shown in tables; None by default.
        learner(): the training procedure; ordinary mini-batches by default.
        starts_as_backbone: how close the initial logits are to the backbone's, which the contract checks; no claim by
            default.
        inspect(model, test): arrays for study drawings, together with `inspects = True`.
        norm_stage(), aux_stage(): the stages of the inherited settings `norm` and `aux`.

    Inherited settings: those of every method, such as `lr`, `dropout` and `weight_decay`, which model and optimizer
    apply. Nothing has to be done for them, except by a method that makes towers of its own: it makes their hidden
    layers from the plan's dense stages (`Dense.like`, `dataclasses.replace`), so that they keep `Dense.regularization`.

    Class attributes:
        indexed_by: "indicator" or "domain" for a method that distinguishes domains by more than their embeddings, such
            as by parameters per domain; None by default.
        inspects: whether `inspect` returns an `Inspection`; False by default.

    `rewrite` must not change its argument (plans are frozen) and must keep the names of the stages that it keeps: a
    stage draws its initial weights from its name and the run's seed, so equal names give equal initial weights.
    `ctrbench check FILE` tests a method against the contract on every backbone.

    >>> class HalfTower(Method):
    ...     '''A tower without its last layer, if there is more than one.'''
    ...
    ...     def rewrite(self, plan: Plan) -> Plan:
    ...         return replace(plan, tower=plan.tower[:-1] or plan.tower)
    >>> tower = (Dense(name="tower0", width=8), Dense(name="tower1", width=4))
    >>> plan = HalfTower().apply(Plan(tower=tower, head=(Dense(name="head", width=1),)))
    >>> [stage.name for stage in plan.tower]
    ['tower0']
    """

    indexed_by: ClassVar[Literal["indicator", "domain"] | None] = None
    """Value by which the method distinguishes domains beyond their embeddings, such as by parameters per domain.

    `"indicator"`: the chosen feature p; `"domain"`: the composite domain d; None: neither.
    """
    inspects: ClassVar[bool] = False
    """Whether `inspect` returns an `Inspection`, which a run then stores."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401  # as pydantic declares it
        """Refuse a class that overrides `inspect` and does not declare it."""
        super().__pydantic_init_subclass__(**kwargs)
        if cls.inspect is not Method.inspect and not cls.inspects:
            raise TypeError(f"{cls.__name__} overrides inspect and must set inspects = True")

    @abstractmethod
    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with the method's own parts in it."""

    def apply(self, plan: Plan) -> Plan:
        """Return the rewritten plan with everything that the inherited settings select."""
        plan = _check_plan(self.rewrite(self.add_regularization(plan)), self, "rewrite")
        norm, aux = self.norm_stage(), self.aux_stage()
        plan = plan.before_tower(norm) if norm else plan
        plan = plan.add_logit(aux) if aux else plan
        return replace(plan, common=self.common_settings())

    def learner(self) -> Learner:
        """Return a new learner for one run; ordinary mini-batch training by default."""
        return Learner()

    def supports(self, plan: Plan) -> str | None:
        """Return the reason why the method does not support this plan, as a clause for tables; None if it does."""
        return None

    def unsupported_reason(self, plan: Plan) -> str | None:
        """Return the reason of `supports`; raises `ContractError` for a value that is neither None nor a text."""
        reason: object = self.supports(plan)
        if reason is None or (isinstance(reason, str) and reason.strip()):
            return reason
        raise ContractError(
            "supports() of a plug-in must return None or a reason",
            value=f"{type(self).__name__}.supports() returned {reason!r:.80}",
            remedy="return a clause such as 'needs a tower'",
        )

    def as_estimator(self) -> Estimator | None:
        """Return the estimator that a run fits in place of building and training a model; None: there is none."""
        return None

    def inspect(self, model: CTRModel, test: SplitData) -> Inspection:
        """Return arrays of the trained model for study drawings; called once per run where `inspects` is True.

        `test` holds the test rows, for data that are read in pieces the latest of them.
        """
        raise NotImplementedError(f"{type(self).__name__} does not inspect models")

    @property
    def starts_as_backbone(self) -> float | None:
        """Largest difference of initial logits, in eval mode, from the backbone's with the same `norm`.

        0.0 means bit-equal, 1e-5 equal up to rounding, None no claim.
        """
        return None


@dataclass(frozen=True, kw_only=True)
class Fitted(ABC):
    """Result of `Estimator.fit`: its entries in the record, and its scores of rows.

    Required:
        logits(data): the logits of all rows, float32 of shape (B,).

    Subclass it as a frozen dataclass whose further fields hold what scoring needs.
    """

    steps: int
    """Rounds of fitting that scores are made of, such as trees."""
    num_parameters: int
    """Number of learned parameters."""
    loss: float
    """Mean cross-entropy of the training rows."""
    notes: Mapping[str, float | int | str]
    """Choices made on dev, for the record."""

    @abstractmethod
    def logits(self, data: SplitData) -> np.ndarray:
        """Return the logits of all rows, float32 of shape (B,).

        A logit depends on its own row only, and never on a label.
        """


class Estimator(Method, ABC):
    """A method without plan and gradients, such as trees; a run fits it in place of building and training a model.

    Required:
        fit(train, dev, *, schema, seed): the fitted estimator.

    It has no backbone, so it runs on `dnn` only and tables show it once. An interrupted fit starts over. The settings
    of every method, such as `norm` and `lr`, do not apply. `rewrite`, `learner` and `inspect` are never called.

    >>> @dataclass(frozen=True, kw_only=True)
    ... class Constant(Fitted):
    ...     '''The same logit for all rows.'''
    ...
    ...     logit: float
    ...
    ...     def logits(self, data: SplitData) -> np.ndarray:
    ...         return np.full(len(data), self.logit, dtype=np.float32)
    >>> class ClickRate(Estimator):
    ...     '''The training click rate.'''
    ...
    ...     def fit(self, train: SplitData, dev: SplitData, *, schema: Schema, seed: int) -> Fitted:
    ...         rate = float(train.label_B.mean())
    ...         loss = -rate * np.log(rate) - (1 - rate) * np.log(1 - rate)
    ...         logit = float(np.log(rate / (1 - rate)))
    ...         return Constant(steps=1, num_parameters=1, loss=float(loss), notes={}, logit=logit)
    >>> ClickRate().supports(Plan(tower=(), head=(Dense(name="head", width=1),))) is None
    True
    """

    @abstractmethod
    def fit(self, train: SplitData, dev: SplitData, *, schema: Schema, seed: int) -> Fitted:
        """Fit to the training rows, which are in time order, and make open choices on the dev rows.

        Equal seeds must give equal results.
        """

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        changed = [
            name for name, field in Method.model_fields.items() if getattr(self, name) != field.default
        ]
        if changed:
            raise ValueError(f"{changed[0]} does not apply: an estimator has no plan; leave it out")
        return self

    def as_estimator(self) -> Estimator:
        """Return the estimator itself."""
        return self

    def rewrite(self, plan: Plan) -> Plan:
        """Raise `SettingError`: there is no plan to rewrite."""
        name = type(self).__name__.lower()
        raise SettingError(
            "a method must have a plan to be explained", value=name, remedy="use it with run or check"
        )

    def supports(self, plan: Plan) -> str | None:
        """Return None for a plan of dense layers only, so that tables list the estimator under a single backbone."""
        extra = (*plan.at_input, *plan.interactions, *plan.logits)
        is_bare = not extra and all(stage.as_dense() is not None for stage in (*plan.tower, *plan.head))
        is_bare = is_bare and not plan.first_order and plan.pooling == Pooling()
        return None if is_bare else "has no backbone and runs on dnn only"
