"""Public API for authors of methods and backbones; the built-in ones import nothing else of ctrbench.

A plug-in is one file with one subclass of `Method`, `Estimator` or `Backbone`, found by the file's name. The first line
of the file's docstring is its summary; the lines `Paper:`, `Year:` and, for methods, `Uses:` and `Parameters per
domain:` feed the listings. The docstrings of the base classes list what to implement.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from ctrbench.data.batches import Batch, Order, SplitData, domain_order
from ctrbench.errors import SettingError
from ctrbench.later import later
from ctrbench.names import Column
from ctrbench.nn.exchange import Team
from ctrbench.nn.gates import EmbeddingGate, GateUnit, PriorGate
from ctrbench.nn.interactions import (
    AsEmbedded,
    BilinearFusion,
    Branch,
    CompressedInteraction,
    CrossMix,
    FactorizationMachine,
    FeatureGate,
    FieldAttention,
    FieldProducts,
    FieldVectors,
    FirstOrder,
    ScaledCross,
)
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
from ctrbench.nn.pooling import Behaviours
from ctrbench.nn.routing import Routing, full_precision
from ctrbench.nn.stages import (
    Auxiliary,
    BatchNorm,
    Cross,
    CrossModule,
    DenseBank,
    DomainDense,
    LayerNorm,
    PartitionedNorm,
    StarDense,
    StarDenseModule,
    TowerBank,
    dense_part,
    domain_table,
    mixed,
    named,
    own_rows,
    refuse_many_domains,
)
from ctrbench.nn.tables import EMBEDDING_STD, RowTable, rows_at
from ctrbench.plugins.base import Backbone, Estimator, Fitted, Method, Settings
from ctrbench.plugins.inspection import GateSite, Inspection
from ctrbench.train.learner import EVAL_ROWS, Learner, StepOutput, bce, dev_auc, score_rows, total_loss

__all__ = [
    "EMBEDDING_STD",
    "EVAL_ROWS",
    "Activation",
    "Array",
    "AsEmbedded",
    "Auxiliary",
    "Backbone",
    "Batch",
    "BatchNorm",
    "Behaviours",
    "BilinearFusion",
    "Branch",
    "Build",
    "CTRModel",
    "Chain",
    "Column",
    "CompressedInteraction",
    "Context",
    "Cross",
    "CrossMix",
    "CrossModule",
    "Dense",
    "DenseBank",
    "DomainDense",
    "EmbeddingGate",
    "Estimator",
    "FactorizationMachine",
    "FeatureGate",
    "Field",
    "FieldAttention",
    "FieldProducts",
    "FieldVectors",
    "FirstOrder",
    "Fitted",
    "GateSite",
    "GateUnit",
    "Inspection",
    "LayerNorm",
    "Learner",
    "Method",
    "Optimizer",
    "Order",
    "PartitionedNorm",
    "Plan",
    "PriorGate",
    "Routing",
    "RowTable",
    "ScaledCross",
    "Schema",
    "SettingError",
    "Settings",
    "SplitData",
    "Stage",
    "StageModule",
    "StarDense",
    "StarDenseModule",
    "StepOutput",
    "Team",
    "TowerBank",
    "activate",
    "bce",
    "compiled",
    "dense_part",
    "dev_auc",
    "domain_order",
    "domain_table",
    "full_precision",
    "later",
    "mixed",
    "model_validator",
    "named",
    "own_rows",
    "refuse_many_domains",
    "rows_at",
    "score_rows",
    "start_weight",
    "total_loss",
]
