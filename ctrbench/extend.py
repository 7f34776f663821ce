"""The one import for whoever adds a method or a backbone, ours included.

A plug-in is one file with one subclass of `Method` or `Backbone`, found by the file's name. Its fields are its
settings: frozen, typed, with defaults; `name[setting=value]` on the command line sets them, and an unknown one is
refused. The first line of the file's docstring says what it is; lines `Paper: …` and `Year: …` feed the listings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ctrbench.data.batches import Batch, Order, SplitData
from ctrbench.errors import SettingError
from ctrbench.names import Column
from ctrbench.nn.embed import RowTable, rows_at
from ctrbench.nn.kernels import Array, compiled
from ctrbench.nn.model import Chain, Context, CTRModel
from ctrbench.nn.optim import Optimizer
from ctrbench.nn.plan import (
    Activation,
    Build,
    Dense,
    Plan,
    Schema,
    Stage,
    StageModule,
    activate,
    start_weight,
)
from ctrbench.nn.routing import Routing, full_precision
from ctrbench.nn.stages import Cross, CrossModule, PartitionedNorm, domain_table
from ctrbench.train.learner import EVAL_ROWS, Learner, StepOutput, bce, dev_auc, score_rows, total_loss

__all__ = [
    "EVAL_ROWS",
    "Activation",
    "Array",
    "Backbone",
    "Batch",
    "Build",
    "CTRModel",
    "Chain",
    "Column",
    "Context",
    "Cross",
    "CrossModule",
    "Dense",
    "Field",
    "Learner",
    "Method",
    "Optimizer",
    "Order",
    "PartitionedNorm",
    "Plan",
    "Routing",
    "RowTable",
    "Schema",
    "SettingError",
    "SplitData",
    "Stage",
    "StageModule",
    "StepOutput",
    "activate",
    "bce",
    "compiled",
    "dev_auc",
    "domain_table",
    "full_precision",
    "model_validator",
    "rows_at",
    "score_rows",
    "start_weight",
    "total_loss",
]


class Backbone(BaseModel, ABC):
    """A model family without any multi-domain part, as a plan."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: tuple[int, ...] = Field(default=(128, 64, 32), min_length=1)
    """Widths of the tower, the same for every backbone and method of a table."""
    activation: Activation = "tanh"

    @abstractmethod
    def plan(self) -> Plan:
        """Return the plan."""

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


class Method(BaseModel, ABC):
    """A rewrite of plans and, where training itself changes, a learner."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @abstractmethod
    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with the method's parts in it."""

    def learner(self) -> Learner:
        """Return how the model is trained; ordinary mini-batches unless the method says otherwise."""
        return Learner()

    def supports(self, plan: Plan) -> str | None:
        """Return why this plan makes no sense with the method, or None; tables show the reason."""
        return None

    @property
    def starts_as_backbone(self) -> float | None:
        """Largest difference of logits from the plain backbone's at the start, in eval mode; None: no such claim."""
        return None
