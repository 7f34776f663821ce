"""A model as a small frozen description, and the edits that methods make to it.

A backbone is a `Plan`; a method rewrites the plan; `model.build` turns any plan into a `CTRModel`. Nothing here holds
a weight, so plans compare, print and compose, and M methods on N backbones are M + N files. A `Stage` says what it
is; only its `build` makes the module that computes.

Shapes in names: B rows, N inputs, M outputs, F fields, E embedding size, G groups in a batch, U table rows read.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from ctrbench.errors import SettingError

if TYPE_CHECKING:
    from ctrbench.nn.model import Context

Activation = Literal["tanh", "relu"]


@dataclass(frozen=True, kw_only=True)
class FieldShape:
    """One input field: `size` ids (0 = unseen included), or a plain number where `size` is 0."""

    name: str
    kind: Literal["categorical", "multi_valued", "sequence", "numeric"]
    role: str
    size: int
    target: str | None = None
    """Of a sequence: the one-id field of whose values it holds earlier ones, and whose embeddings it shares."""

    @property
    def is_single_id(self) -> bool:
        """Whether a row holds exactly one id; bucketed numeric fields do."""
        return self.size > 0 and self.kind in ("categorical", "numeric")


@dataclass(frozen=True, kw_only=True)
class Schema:
    """What a model must know about its data: fields, domains and the training click rate.

    The input vector z concatenates the embeddings of one-id fields, then the pooled embeddings of multi-valued and
    sequence fields, then plain numbers, each group in the order of `fields`.
    """

    fields: tuple[FieldShape, ...]
    embedding_size: int
    domain_features: tuple[str, ...]
    num_domains: int
    """Composite domains seen in training; their ids are 1..num_domains."""
    indicator_rows: tuple[int, ...]
    """Training rows of each value of the indicator p; place 0 is the unseen one."""
    base_rate: float
    """Share of positives in training, strictly between 0 and 1."""
    hidden: tuple[str, ...] = ()
    """Fields that are in the data and that the model does not see."""

    @property
    def largest_indicator(self) -> int:
        """The indicator with the most training rows; it stands in where a domain was never seen."""
        return max(range(1, len(self.indicator_rows)), key=self.indicator_rows.__getitem__, default=0)

    def known(self, indicator_B: torch.Tensor) -> torch.Tensor:
        """Return the indicator of each row, the largest for rows of an unseen one (METHODS 0.4)."""
        return torch.where(indicator_B > 0, indicator_B, self.largest_indicator)

    @property
    def num_indicators(self) -> int:
        """Values of the indicator p seen in training; their ids are 1..num_indicators."""
        return len(self.indicator_rows) - 1

    @cached_property
    def single_fields(self) -> tuple[FieldShape, ...]:
        """Fields with one id a row."""
        return tuple(field for field in self._seen if field.is_single_id)

    @cached_property
    def bag_fields(self) -> tuple[FieldShape, ...]:
        """Multi-valued and sequence fields, which are pooled."""
        return tuple(field for field in self._seen if field.kind in ("multi_valued", "sequence"))

    @cached_property
    def targets(self) -> dict[str, int]:
        """For each sequence with a target the target's place among `single_fields`.

        Where the model does not see the target, the sequence is as one without.
        """
        places = {field.name: place for place, field in enumerate(self.single_fields)}
        return {
            field.name: places[field.target]
            for field in self.bag_fields
            if field.target is not None and field.target in places
        }

    @cached_property
    def table_fields(self) -> tuple[FieldShape, ...]:
        """Fields with embeddings of their own, in the order of the table's rows."""
        return tuple(
            field for field in (*self.single_fields, *self.bag_fields) if field.name not in self.targets
        )

    @cached_property
    def numeric_fields(self) -> tuple[FieldShape, ...]:
        """Fields that enter as a number."""
        return tuple(field for field in self._seen if field.kind == "numeric" and not field.is_single_id)

    @property
    def _seen(self) -> tuple[FieldShape, ...]:
        return tuple(field for field in self.fields if field.name not in self.hidden)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where each field stands in the input vector z."""
        places, start = {}, 0
        for field in (*self.single_fields, *self.bag_fields, *self.numeric_fields):
            width = 1 if field in self.numeric_fields else self.embedding_size
            places[field.name] = slice(start, start + width)
            start += width
        return places

    @property
    def num_inputs(self) -> int:
        """Width of the input vector z."""
        bags_and_ids = len(self.single_fields) + len(self.bag_fields)
        return bags_and_ids * self.embedding_size + len(self.numeric_fields)

    @property
    def domain_width(self) -> int:
        """Width of e_d, the concatenated embeddings of the domain-aware features."""
        return len(self.domain_slices) * self.embedding_size

    @property
    def domain_slices(self) -> tuple[slice, ...]:
        """Where the domain-aware features stand in the input vector z; an error where they are hidden."""
        hidden = [name for name in self.domain_features if name in self.hidden]
        if hidden:
            raise SettingError(
                "e_d is made of the domain features, which this model does not see",
                value=", ".join(hidden),
                remedy="leave out what conditions on e_d, or take a method that shows the domain features",
            )
        return tuple(self.slices[name] for name in self.domain_features)


@dataclass(frozen=True, kw_only=True)
class Build:
    """What `Stage.build` is given: the data's schema and a source of reproducible randomness."""

    schema: Schema
    seed: int

    def generator(self, label: str) -> torch.Generator:
        """Return a generator that depends on the run's seed and the label alone.

        A stage that keeps its name starts from the same weights whatever stands beside it, so a method can be
        compared with its backbone from the same start.
        """
        digest = hashlib.blake2b(f"{self.seed}/{label}".encode(), digest_size=7).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


class StageModule(nn.Module, ABC):
    """The computing part of a stage: (B, N) and the context of the batch to (B, `num_outputs`)."""

    num_outputs: int

    @abstractmethod
    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """Map the rows of a batch; must treat each row by itself in eval mode."""

    def advance(self, progress: float) -> None:
        """Hear that an optimiser step was made; `progress` in (0, 1] is the share of planned steps done."""


@dataclass(frozen=True, kw_only=True)
class Stage(ABC):
    """One step of a plan. `name` is unique in its plan and labels the stage's random start."""

    name: str

    @abstractmethod
    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module for inputs of that width."""


@dataclass(frozen=True, kw_only=True)
class Dense(Stage):
    """h W + b and an activation; the stage that most methods replace or gate."""

    width: int
    activation: Activation | None = None

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; Xavier uniform for tanh and linear outputs, He for ReLU, zero bias."""
        return DenseModule(self, num_inputs, build)


def activate(x: torch.Tensor, activation: Activation | None) -> torch.Tensor:
    """Apply the named activation, or none."""
    if activation is None:
        return x
    return torch.tanh(x) if activation == "tanh" else torch.relu(x)


def start_weight(
    num_inputs: int, num_outputs: int, activation: Activation | None, generator: torch.Generator
) -> torch.Tensor:
    """Draw a (N, M) weight: He uniform before a ReLU, Xavier uniform before anything else."""
    weight_NM = torch.empty(num_inputs, num_outputs)
    if activation == "relu":
        bound = (6.0 / num_inputs) ** 0.5
    else:
        bound = (6.0 / (num_inputs + num_outputs)) ** 0.5
    return weight_NM.uniform_(-bound, bound, generator=generator)


class DenseModule(StageModule):
    """The dense layer φ(x W + b)."""

    def __init__(self, stage: Dense, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.num_outputs, self.activation = stage.width, stage.activation
        generator = build.generator(f"{stage.name}.weight")
        self.weight = nn.Parameter(start_weight(num_inputs, stage.width, stage.activation, generator))
        self.bias = nn.Parameter(torch.zeros(stage.width))

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, M)."""
        return activate(torch.addmm(self.bias, x_BN, self.weight), self.activation)


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """What is made of sequences that have a target; all other lists are pooled by their mean."""

    kind: Literal["mean", "din", "dien"] = "mean"
    aux_weight: float = 1.0
    """Weight of DIEN's auxiliary loss; 0 leaves it out."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A CTR model: what stands where, from the input vector z to the logit.

    at_input → interactions and tower → head, plus further logits. `parallel`: head([interactions; tower(z)]).
    `stacked`: head(tower([interactions])), or tower(z) where there are none.
    """

    tower: tuple[Stage, ...]
    head: tuple[Stage, ...]
    at_input: tuple[Stage, ...] = ()
    interactions: tuple[Stage, ...] = ()
    join: Literal["parallel", "stacked"] = "parallel"
    logits: tuple[Stage, ...] = ()
    first_order: bool = False
    """Whether each id has a weight of its own beside its embedding, `Context.first_order_BF`."""
    hides_domain: bool = False
    """Whether the model is kept from seeing the domain features."""
    pooling: Pooling = Pooling()
    attends: bool = False
    """Whether stages attend to the elements of sequences that have a target, `Context.behaviours`."""
    separate: int | None = None
    """Where each value of the indicator has a whole model of its own: how many there may be at most."""

    @property
    def has_dense_tower(self) -> bool:
        """Whether the tower is dense stages and nothing else, and there is one."""
        return bool(self.tower) and all(isinstance(stage, Dense) for stage in self.tower)

    def map_dense(self, change: Callable[[Dense], Stage], *, head: bool = True) -> Plan:
        """Replace each dense stage of the tower, and of the head unless told otherwise."""
        return self._expand(lambda dense: (change(dense),), head=head)

    def before_dense(self, make: Callable[[Dense], Stage], *, head: bool = True) -> Plan:
        """Put a stage at the input of each dense stage."""
        return self._expand(lambda dense: (make(dense), dense), head=head)

    def after_dense(self, make: Callable[[Dense], Stage], *, head: bool = False) -> Plan:
        """Put a stage at the output of each dense stage; not after the head unless told so."""
        return self._expand(lambda dense: (dense, make(dense)), head=head)

    def with_input(self, stage: Stage) -> Plan:
        """Put a stage between the embeddings and all else."""
        return replace(self, at_input=(*self.at_input, stage))

    def before_tower(self, stage: Stage) -> Plan:
        """Put a stage between what the tower is given and its first stage; interactions do not see it."""
        return replace(self, tower=(stage, *self.tower))

    def wrap_tower(self, make: Callable[[tuple[Stage, ...]], Stage]) -> Plan:
        """Make the tower the inner part of one stage."""
        return replace(self, tower=(make(self.tower),))

    def with_head(self, *stages: Stage) -> Plan:
        """Replace the output stages."""
        return replace(self, head=stages)

    def add_logit(self, stage: Stage) -> Plan:
        """Add one more branch to the logit; it is given the input vector z as the embeddings made it."""
        return replace(self, logits=(*self.logits, stage))

    def _expand(self, expand: Callable[[Dense], tuple[Stage, ...]], *, head: bool) -> Plan:
        def all_of(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
            return tuple(new for old in stages for new in (expand(old) if isinstance(old, Dense) else (old,)))

        return replace(self, tower=all_of(self.tower), head=all_of(self.head) if head else self.head)
