"""Base classes of plug-ins: `Backbone`, `Method`, `Estimator`, and the settings that they share.

Plug-in authors import them from `ctrbench.extend`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ctrbench.data.batches import SplitData
from ctrbench.errors import SettingError
from ctrbench.nn.model import CTRModel
from ctrbench.nn.plan import Activation, Dense, Plan, Pooling, Schema, Stage
from ctrbench.nn.stages import Auxiliary, BatchNorm, LayerNorm, PartitionedNorm
from ctrbench.train.learner import Learner


def later(default: Any) -> Any:  # noqa: ANN401  # as pydantic's own Field
    """Declare a setting that was added after records had been published; a run's key leaves out its default."""
    return Field(default=default, json_schema_extra={"later": True})


class Settings(BaseModel):
    """Frozen, typed settings with defaults; an unknown one is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def key(self) -> dict[str, Any]:
        """Return what a run's key says of the settings: all of them, but defaults of those that came later."""
        later_ones = {
            name
            for name, field in type(self).model_fields.items()
            if isinstance(field.json_schema_extra, dict)
            and field.json_schema_extra.get("later")
            and getattr(self, name) == field.default
        }
        return self.model_dump(mode="json", exclude=later_ones)


class Backbone(Settings, ABC):
    """A model family without any multi-domain part, as a plan."""

    hidden: tuple[int, ...] = Field(default=(128, 64, 32), min_length=1)
    """Widths of the tower, the same for every backbone and method of a table."""
    activation: Activation = "tanh"
    pooling: Literal["mean", "din", "dien"] = later("mean")
    """How a sequence is pooled that has a target: by its mean, or as DIN or DIEN does."""
    pooling_aux: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = later(1.0)
    """Weight of DIEN's auxiliary loss, the next behaviour against one drawn at random."""

    @model_validator(mode="after")
    def _check_pooling(self) -> Self:
        if self.pooling != "dien" and self.pooling_aux != type(self).model_fields["pooling_aux"].default:
            raise ValueError("pooling_aux has no effect without pooling=dien; leave it out")
        return self

    @abstractmethod
    def plan(self) -> Plan:
        """Return the plan behind the embeddings, which is all that a backbone writes."""

    def full_plan(self) -> Plan:
        """Return the plan with what is every backbone's, which is what models are built of."""
        return replace(self.plan(), pooling=Pooling(kind=self.pooling, aux_weight=self.pooling_aux))

    def tower(self) -> tuple[Dense, ...]:
        """Return the deep tower that all backbones share."""
        return tuple(
            Dense(name=f"tower{place}", width=width, activation=self.activation)
            for place, width in enumerate(self.hidden)
        )

    @staticmethod
    def output() -> tuple[Dense, ...]:
        """Return the linear output of one logit."""
        return (Dense(name="head", width=1),)


class Method(Settings, ABC):
    """A rewrite of plans and, where training itself changes, a learner.

    `norm` and `aux` are every method's: the normalisations and the auxiliary network of the STAR study.
    """

    indexed_by: ClassVar[Literal["indicator", "domain"] | None] = None
    """Value by which the method tells domains apart beyond their embeddings, such as by parameters per domain.

    `"indicator"`: the chosen feature p; `"domain"`: the composite domain d; None: neither.
    """

    norm: Literal["bn", "ln", "pn"] | None = later(None)
    """Normalise what the tower is given: by batch, of mixed rows, by layer (row), or partitioned by domain."""
    aux: Literal["all", "domain"] | None = later(None)
    """Add the logit of a small network of [emb(p) ; all embeddings], or of [emb(p) ; e_d]."""

    @abstractmethod
    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with the method's own parts in it."""

    def apply(self, plan: Plan) -> Plan:
        """Return the rewritten plan with normalisation and auxiliary network, where they are asked for."""
        plan, norm, aux = self.rewrite(plan), self.norm_stage(), self.aux_stage()
        plan = plan.before_tower(norm) if norm else plan
        return plan.add_logit(aux) if aux else plan

    def norm_stage(self) -> Stage | None:
        """Return the stage that `norm` means."""
        kinds: dict[str | None, type[Stage]] = {"bn": BatchNorm, "ln": LayerNorm, "pn": PartitionedNorm}
        return kinds[self.norm](name="norm") if self.norm else None

    def aux_stage(self) -> Stage | None:
        """Return the stage that `aux` means."""
        return Auxiliary(name="aux", sees=self.aux) if self.aux else None

    def learner(self) -> Learner:
        """Return how the model is trained; ordinary mini-batches unless the method says otherwise."""
        return Learner()

    def supports(self, plan: Plan) -> str | None:
        """Return why this plan makes no sense with the method, or None; tables show the reason."""
        return None

    def inspect(self, model: CTRModel, test: SplitData) -> dict[str, np.ndarray]:
        """Return arrays of the trained model for studies to plot, by name; none by default."""
        return {}

    @property
    def starts_as_backbone(self) -> float | None:
        """Largest difference of logits from the backbone's with the same `norm`, at the start, in eval mode.

        None: no such claim.
        """
        return None


@dataclass(frozen=True, kw_only=True)
class Fitted(ABC):
    """What an estimator found: what a record says of it, and how it scores rows."""

    steps: int
    """Rounds of fitting that scores are made of, such as trees."""
    num_parameters: int
    """Learned numbers."""
    loss: float
    """Mean training loss."""
    notes: Mapping[str, float | int | str]
    """What was chosen on dev, for the record."""

    @abstractmethod
    def logits(self, data: SplitData) -> np.ndarray:
        """Return the logits of all rows, float32; each from its row alone, and none from a label."""


class Estimator(Method, ABC):
    """A method without plan and gradient, fitted whole, such as trees; a run has it in place of model and training.

    It belongs to no backbone, so it is run beside `dnn` and tables show it once. An interrupted fit starts over.
    """

    @abstractmethod
    def fit(self, train: SplitData, dev: SplitData, *, schema: Schema, seed: int) -> Fitted:
        """Fit to the training rows, which lie in time order; dev decides what is left open."""

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        if self.norm or self.aux:
            raise ValueError("norm and aux are parts of a plan, which there is none of here; leave them out")
        return self

    def rewrite(self, plan: Plan) -> Plan:
        """Refuse: there is nothing to rewrite, and whoever asks for a plan would get the backbone's."""
        name = type(self).__name__.lower()
        raise SettingError("an estimator has no plan", value=name, remedy="only run and check know it")

    def supports(self, plan: Plan) -> str | None:
        """Refuse every plan that is more than dense layers, so that a table shows the estimator once."""
        extra = (*plan.at_input, *plan.interactions, *plan.logits)
        is_bare = not extra and all(type(stage) is Dense for stage in (*plan.tower, *plan.head))
        is_bare = is_bare and not plan.first_order and plan.pooling == Pooling()
        return None if is_bare else "has no backbone; it is run beside dnn alone"
