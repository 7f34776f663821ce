"""The settings of every method, which the base class `Method` inherits: added parts, regularizers, learning rate.

All are off by default, and a run's key leaves them out while they are, so that keys of older records stay valid. A
user's own method has them without a line of its own.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ctrbench.added_fields import added_field
from ctrbench.errors import SettingError
from ctrbench.nn.auxiliary import Auxiliary
from ctrbench.nn.common import CommonSettings, LrSchedule
from ctrbench.nn.layer_output import Regularization, TowerNorm
from ctrbench.nn.norms import BatchNorm, LayerNorm, PartitionedNorm
from ctrbench.nn.plan import Plan
from ctrbench.nn.stages import Dense, Stage
from ctrbench.plugins.ranges import Choices, LogRange
from ctrbench.plugins.settings import Settings


class CommonFields(Settings):
    """Settings of every method, and the edits of a plan that they stand for."""

    norm: Literal["bn", "ln", "pn"] | None = added_field(None)
    """Normalization of the tower's input: per batch (`bn`), per row (`ln`) or per domain (`pn`, partitioned)."""
    aux: Literal["all", "domain"] | None = added_field(None)
    """Input of an auxiliary network that adds a logit: [emb(p) ; all embeddings], or [emb(p) ; e_d]."""
    lr: Annotated[
        Annotated[float, Field(gt=0.0, le=10.0, allow_inf_nan=False)] | None, LogRange(3e-4, 1e-2)
    ] = added_field(None)
    """Learning rate; none: that of the run, `--lr`."""
    lr_schedule: LrSchedule = added_field("constant")
    """Learning rate over all planned steps: constant, falling to zero as a half cosine, rising linearly at the start,
    or both."""
    lr_warmup: Annotated[float, Field(gt=0.0, le=10_000.0)] = added_field(0.1)
    """Epochs, such as 0.1 of one, during which a warm-up raises the learning rate."""
    dropout: Annotated[float, Choices(0.0, 0.1, 0.2, 0.3, 0.5)] = added_field(0.0, ge=0.0, lt=1.0)
    """Share of the outputs of each hidden layer of a tower, experts included, that are zero in a training step."""
    tower_norm: Annotated[TowerNorm | None, Choices(None, "batch", "layer")] = added_field(None)
    """Normalization of each hidden layer of a tower, experts included, before its activation: per batch or per row."""
    weight_decay: Annotated[float, Choices(0.0, 1e-4, 1e-3, 1e-2, 1e-1)] = added_field(0.0, ge=0.0, le=10.0)
    """Decoupled weight decay λ, as in AdamW: matrices shrink by 1 - lr λ per step; biases, normalization and embeddings
    do not."""
    embedding_l2: Annotated[float, Choices(0.0, 1e-6, 1e-5, 1e-4, 1e-3)] = added_field(0.0, ge=0.0, le=10.0)
    """λ of a penalty λ/2 Σ ‖e‖² over the distinct embedding rows of each batch; not part of the reported loss."""

    embedding_std: Annotated[
        Annotated[float, Field(gt=0.0, le=10.0)] | None, Choices(None, 1e-4, 1e-2, 1e-1)
    ] = added_field(None)
    """Standard deviation of embeddings at the start; none: 0.05."""

    min_count: int = added_field(1, ge=1, le=1_000_000)
    """Training rows below which a model reads an id as the unseen one, whose embedding then learns; domains of metrics
    and the indicator do not change, nor do bucketed numbers."""
    id_dropout: float = added_field(0.0, ge=0.0, lt=1.0)
    """Chance with which a training row's id is read as the unseen one: in each one-id field of 100 or more ids that has
    a role of user, item, shop or ad and is no domain feature, independently."""

    @model_validator(mode="after")
    def _check_common(self) -> Self:
        if (
            "warmup" not in self.lr_schedule
            and self.lr_warmup != type(self).model_fields["lr_warmup"].default
        ):
            raise ValueError(
                "lr_warmup has no effect without a warm-up; set lr_schedule=warmup or leave it out"
            )
        return self

    def norm_stage(self) -> Stage | None:
        """Return the stage of the setting `norm`, placed before the tower; None without one."""
        kinds: dict[str | None, type[Stage]] = {"bn": BatchNorm, "ln": LayerNorm, "pn": PartitionedNorm}
        return kinds[self.norm](name="norm") if self.norm else None

    def aux_stage(self) -> Stage | None:
        """Return the stage of the setting `aux`, one more logit; None without one."""
        return Auxiliary(name="aux", sees=self.aux) if self.aux else None

    def common_settings(self) -> CommonSettings:
        """Return the settings of every method that model and optimizer apply."""
        return CommonSettings(**{field.name: getattr(self, field.name) for field in fields(CommonSettings)})

    def add_regularization(self, plan: Plan) -> Plan:
        """Return the plan with the regularization of hidden layers at the dense stages of its tower."""
        regularization = self.common_settings().regularization
        if not regularization.is_active:
            return plan
        return replace(plan, tower=tuple(_with_regularization(stage, regularization) for stage in plan.tower))


def _with_regularization(stage: Stage, regularization: Regularization) -> Stage:
    if isinstance(stage, Dense):
        return replace(stage, regularization=regularization)
    if stage.as_dense() is not None:
        raise SettingError(
            "dropout and tower_norm must apply to all hidden layers of the tower",
            value=f"the stage {stage.name} stands for one and is no subclass of Dense",
            remedy="leave the setting out, or make the stage a subclass of Dense whose module ends in make_output()",
        )
    return stage
