"""Public API for authors of methods and backbones; the built-in ones import nothing else of ctrbench.

A plug-in is one file with one subclass of `Method`, `Estimator` or `Backbone`, found by the file's name. The first line
of the file's docstring is its summary; the lines `Paper:`, `Year:` and, for methods, `Uses:` and `Parameters per
domain:` feed the listings. The docstrings of the base classes list what to implement.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from ctrbench.added_fields import added_field
from ctrbench.data.batches import Batch, Order, SplitData, domain_order, split_of
from ctrbench.errors import SettingError
from ctrbench.names import Column
from ctrbench.nn.auxiliary import Auxiliary
from ctrbench.nn.build import Activation, Build, start_weight
from ctrbench.nn.capabilities import Capabilities
from ctrbench.nn.context import Context
from ctrbench.nn.exchange import Team
from ctrbench.nn.gates import EmbeddingGate, PriorGate
from ctrbench.nn.interactions import (
    Cross,
    CrossModule,
    FieldVectors,
    FirstOrder,
    check_layout,
)
from ctrbench.nn.kernels.gate import GateCall, GateSettings, train_gate
from ctrbench.nn.layer_output import LayerOutput, Regularization, TowerNorm, activate
from ctrbench.nn.lists import Behaviors
from ctrbench.nn.model import CTRModel
from ctrbench.nn.norms import BatchNorm, LayerNorm, PartitionedNorm
from ctrbench.nn.optim import Optimizer
from ctrbench.nn.plan import Plan
from ctrbench.nn.pruning import PruningGateModule
from ctrbench.nn.routing import Routing, full_precision
from ctrbench.nn.schema import Schema
from ctrbench.nn.stages import (
    Chain,
    Dense,
    DenseBank,
    DomainDense,
    Stage,
    StageModule,
    StarDense,
    TowerBank,
    dense_stages,
    domain_table,
    refuse_many_domains,
    select_own,
    split_tower,
    weighted_sum,
    with_prefix,
)
from ctrbench.nn.tables import EMBEDDING_STD, RowTable
from ctrbench.plugins.base import Backbone, Estimator, Fitted, Method, Settings
from ctrbench.plugins.inspection import GateSite, Inspection
from ctrbench.plugins.ranges import Choices, LogRange
from ctrbench.train.domain_means import domain_means
from ctrbench.train.functional import (
    Weights,
    adapt,
    dense_parameters,
    descend,
    gradient_with,
    holding,
    loss_with,
    score_with,
    split_vector,
)
from ctrbench.train.learner import (
    EVAL_ROWS,
    Learner,
    StepOutput,
    bce,
    dev_auc,
    evaluating,
    score_rows,
    total_loss,
)
from ctrbench.train.side_network import SideNetwork
from ctrbench.train.tasks import (
    ShuffledRows,
    TaskDraws,
    Turns,
    last_rows,
    num_earlier,
    rows_by_task,
    task_runs,
    task_weights,
    trainable_tasks,
)

__all__ = [
    "EMBEDDING_STD",
    "EVAL_ROWS",
    "Activation",
    "Auxiliary",
    "Backbone",
    "Batch",
    "BatchNorm",
    "Behaviors",
    "Build",
    "CTRModel",
    "Capabilities",
    "Chain",
    "Choices",
    "Column",
    "Context",
    "Cross",
    "CrossModule",
    "Dense",
    "DenseBank",
    "DomainDense",
    "EmbeddingGate",
    "Estimator",
    "Field",
    "FieldVectors",
    "FirstOrder",
    "Fitted",
    "GateCall",
    "GateSettings",
    "GateSite",
    "Inspection",
    "LayerNorm",
    "LayerOutput",
    "Learner",
    "LogRange",
    "Method",
    "Optimizer",
    "Order",
    "PartitionedNorm",
    "Plan",
    "PriorGate",
    "PruningGateModule",
    "Regularization",
    "Routing",
    "RowTable",
    "Schema",
    "SettingError",
    "Settings",
    "ShuffledRows",
    "SideNetwork",
    "SplitData",
    "Stage",
    "StageModule",
    "StarDense",
    "StepOutput",
    "TaskDraws",
    "Team",
    "TowerBank",
    "TowerNorm",
    "Turns",
    "Weights",
    "activate",
    "adapt",
    "added_field",
    "bce",
    "check_layout",
    "dense_parameters",
    "dense_stages",
    "descend",
    "dev_auc",
    "domain_means",
    "domain_order",
    "domain_table",
    "evaluating",
    "full_precision",
    "gradient_with",
    "holding",
    "last_rows",
    "loss_with",
    "model_validator",
    "num_earlier",
    "refuse_many_domains",
    "rows_by_task",
    "score_rows",
    "score_with",
    "select_own",
    "split_of",
    "split_tower",
    "split_vector",
    "start_weight",
    "task_runs",
    "task_weights",
    "total_loss",
    "train_gate",
    "trainable_tasks",
    "weighted_sum",
    "with_prefix",
]
