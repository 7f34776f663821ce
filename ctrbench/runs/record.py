"""Keys and records of runs.

A `RunKey` holds everything that influences the result; its digest identifies the run. A `RunRecord` holds the result.
Measurements (seconds, memory, machine) are in the field `measured` alone, so that records of the same run, made by the
same commit on the same type of processor, can be compared bit for bit without them. This module does not import torch,
since reports read records without training.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ctrbench.added_fields import added_field, unchanged_added_fields
from ctrbench.eval.stored import BinMetrics, ClusterInfluence, DomainMetrics
from ctrbench.plain_text import file_name
from ctrbench.storage.checksummed import canonical_json, digest_of

SCHEMA_VERSION = 4
"""Schema of new records. Up to schema 3, the history has one entry per epoch. Records of schemas 1 and 2 have no sha256
of their content; in schema 1, metrics of domains and bins are fields instead of mappings."""
NUMERICS = 2
"""Version of the numerics: raised by every change after which a run of the same key gives other numbers."""
SHUFFLED_DOMAINS: Literal["shuffled domains"] = "shuffled domains"
"""Control in which the domains that a method reads are shuffled among the rows."""
EQUAL_COST: Literal["equal cost"] = "equal cost"
"""Control that is plain on a backbone whose tower is so wide that a row costs as much as with a method."""
_OTHER_FIELDS = {
    "domains": ("domain", "rows_train", "rows", "positives"),
    "bins": ("bin", "domains", "rows_train", "rows", "positives"),
}
"""Fields of domains and bins in schema 1 that are not metrics."""


NO_DOMAINS = DomainMetrics(domain=(), rows_train=(), rows=(), positives=())


class Model(BaseModel):
    """A frozen description; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Choice(Model):
    """A backbone or method by name, with the value of every setting, defaults included."""

    name: str
    settings: dict[str, Any] = {}
    source: str | None = None
    """sha256 of the file of an external plug-in; None for built-in ones, which the version identifies."""

    @property
    def digest(self) -> str:
        """The sha256 of name, settings and source."""
        return digest_of(self.model_dump(mode="json"))


class RunKey(Model):
    """Everything that influences the result of a run."""

    dataset: str
    data_digest: str
    """Content digest of the prepared data."""
    domain_set: str
    domain_features: tuple[str, ...]
    indicator: str
    """Feature whose values index per-domain parameters, or `all` for the full domain."""
    backbone: Choice
    method: Choice
    train: dict[str, Any]
    """Every value of the training configuration."""
    seed: int
    numerics: int = added_field(1, ge=1)
    """Version of the numerics (`NUMERICS`) of the code that executes the run."""
    control: Literal["shuffled domains", "equal cost"] | None = added_field(None)
    """Control that the run is, `SHUFFLED_DOMAINS` or `EQUAL_COST`; None: none."""

    is_trial: bool = added_field(False)
    """Whether the run is a trial of tuning, which never reads the test split."""

    @property
    def digest(self) -> str:
        """The sha256 of the key; equal digests mean the same run."""
        return digest_of(self.model_dump(mode="json", exclude=unchanged_added_fields(self)))

    @property
    def run(self) -> str:
        """Name of the run in file names: readable, and unique within a dataset."""
        return file_name(f"{self.method.name}-{self.backbone.name}-s{self.seed}-{self.digest[:12]}")


class Parameters(Model):
    """Numbers of trainable parameters."""

    embedding: int
    dense: int
    """Shared by all domains, without embeddings."""
    per_domain: int


class Code(Model):
    """The code that the run was executed with."""

    version: str
    commit: str | None = None
    method_sha256: str
    backbone_sha256: str


class Measured(Model):
    """Measurements, which differ between repetitions: machine, time and memory."""

    started: str
    """UTC, ISO 8601."""
    seconds: dict[str, float] = {}
    """Per phase: load, train, dev, test."""
    rows_per_second: float | None = None
    """Training rows per second of training time."""
    peak_memory_bytes: int = 0
    machine: dict[str, str | int] = {}
    resumed: int = 0
    """Number of times the run was resumed from a checkpoint."""
    multiply_adds: int | None = None
    """Multiply-adds per row of a forward pass, counted before the run; None: not counted."""


class Evaluation(Model):
    """One evaluation on dev during training."""

    epoch: float
    """Number of epochs trained so far; 0.2 after a fifth of the first one."""
    step: int
    """Number of optimizer steps made."""
    rows: int | None = None
    """Number of training rows seen; None in records up to schema 3."""
    loss: float
    """Mean training loss since the last evaluation, without regularizers."""
    dev: dict[str, float | None] = {}
    """Metrics on the dev rows that evaluations score, at most `evaluation_rows`."""
    logs: dict[str, float] = {}
    """Means since the last evaluation of values that the method logs, such as sparsity."""


class Result(Model):
    """Result of a finished run; bit-identical when repeated by the same commit on the same type of processor."""

    parameters: Parameters
    best_evaluation: int
    """Number of the evaluation whose weights were scored, from 1."""
    steps: int
    """Number of optimizer steps made until training stopped."""
    rows_seen: int
    """Number of training rows seen until training stopped."""
    base_logloss: float | None = None
    """LogLoss on dev of the training click rate as the prediction of every row; None in records up to schema 3."""
    dev: dict[str, float | None]
    """Metrics of the best weights on all dev rows."""
    test: dict[str, float | None] = {}
    """Empty for a trial of tuning, as are all fields about the test split."""
    variants: dict[str, dict[str, float | None]] = {}
    """Test metrics of further scores of the same run, such as MAML without adaptation, by name."""
    oracle: dict[str, float | None] = {}
    """Test metrics of the true click probability; empty where it is unknown."""
    domains: DomainMetrics = NO_DOMAINS
    bins: tuple[BinMetrics, ...] = ()
    """Metrics of five bins of domains; other numbers of bins are computed from the predictions."""
    history: tuple[Evaluation, ...]
    notes: dict[str, float | int | str] = {}
    """Choices that the method made on dev, such as MAML's number of adaptation steps."""
    predictions_sha256: str = ""
    influence: ClusterInfluence | None = None
    """None in records of earlier versions, and for test splits that do not fit into memory."""


class RunRecord(Model):
    """The record of one run, finished or failed."""

    schema_version: int = Field(default=SCHEMA_VERSION)
    run: str
    digest: str
    key: RunKey
    status: Literal["finished", "failed", "unsupported"]
    error: str | None = None
    """Reason why the run failed or why the method does not support the backbone."""
    code: Code
    measured: Measured
    result: Result | None = None

    @model_validator(mode="before")
    @classmethod
    def _upgrade_schema(cls, content: object) -> object:
        return upgraded(content) if isinstance(content, dict) else content

    def reproducible(self) -> str:
        """Return the canonical JSON that a repetition reproduces: same commit, same type of processor."""
        return canonical_json(self.model_dump(mode="json", exclude={"measured", "code"}))


def upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a record of an earlier schema in the present one; any other content unchanged."""
    version = content.get("schema_version")
    if version not in (1, 2, 3):
        return content
    result = content.get("result")
    if isinstance(result, dict):
        result = _upgraded_history(result if version > 1 else _upgraded_metrics(result))
    return {**content, "schema_version": SCHEMA_VERSION, "result": result}


def _upgraded_metrics(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result of schema 1 with the metrics of domains and bins in mappings."""
    bins = [_with_mapping(part, _OTHER_FIELDS["bins"]) for part in result.get("bins", ())]
    return {
        **result,
        "domains": _with_mapping(result.get("domains", {}), _OTHER_FIELDS["domains"]),
        "bins": bins,
    }


def _upgraded_history(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result up to schema 3 with its best epoch under the present name."""
    names = {"best_epoch": "best_evaluation"}
    return {names.get(name, name): value for name, value in result.items()}


def _with_mapping(fields: dict[str, Any], other: tuple[str, ...]) -> dict[str, Any]:
    """Return fields with the metrics among them in one mapping."""
    metrics = {name: value for name, value in fields.items() if name not in other}
    return {**{name: fields[name] for name in other if name in fields}, "metrics": metrics}
