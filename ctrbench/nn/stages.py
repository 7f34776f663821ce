"""The stages that plans consist of: the abstract `Stage`, the dense layer, and the parts that several methods share.

A `Stage` is a frozen description; its `build` makes the `StageModule` that computes. Stages that only one method or
backbone uses are defined in its file.

Shapes in names: B rows, N inputs, M outputs, G groups present in the batch, K layers side by side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, cast

import torch
from torch import nn

from ctrbench.errors import SettingError
from ctrbench.nn.build import Activation, Build, start_weight
from ctrbench.nn.capabilities import Capabilities
from ctrbench.nn.context import Context
from ctrbench.nn.layer_output import LayerOutput, Regularization
from ctrbench.nn.routing import Routing
from ctrbench.nn.schema import Schema
from ctrbench.nn.tables import RowTable


class StageModule(nn.Module, Capabilities, ABC):
    """The computing part of a stage: maps rows (B, N) and the context of their batch to (B, `num_outputs`)."""

    num_outputs: int
    """Width M of the output."""

    @abstractmethod
    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """Map the rows of a batch; in eval mode a row's output must not depend on other rows."""

    @property
    def output_bias(self) -> torch.Tensor | None:
        """The output bias, which is set in place to the log odds of the click rate if this is the head's last stage.

        The parameter `bias` by default, or None if there is none.
        """
        return self._parameters.get("bias")

    def advance(self, progress: float) -> None:
        """Update schedules; called after every optimizer step with the share of planned steps done, in (0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Stage(ABC):
    """One step of a plan: a frozen description whose `build` makes the module that computes.

    A method or backbone adds a stage as a pair of classes in its file:

        @dataclass(frozen=True, kw_only=True)
        class Scale(Stage):
            start: float = 1.0

            def build(self, num_inputs: int, build: Build) -> StageModule:
                return ScaleModule(self, num_inputs)

        class ScaleModule(StageModule):
            def __init__(self, stage: Scale, num_inputs: int) -> None:
                super().__init__()
                self.num_outputs = num_inputs
                self.factor = nn.Parameter(torch.full((num_inputs,), stage.start))

            def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
                return self.factor * x_BN
    """

    name: str
    """Unique in the plan; labels the random start, so equal names start from equal weights."""

    @property
    def num_parts(self) -> int:
        """Number of equal parts into which a stage of the head cuts the tower's output; 1: none."""
        return 1

    def as_dense(self) -> Dense | None:
        """Return the dense layer that methods put in place of this stage, or gate; None if it is no such layer.

        It has the name of the stage. A backbone's own kind of dense layer overrides this to take part in the methods.
        """
        return None

    @property
    def num_matrices(self) -> int:
        """Number of weight matrices in the stage, in order, whose inputs `before_matrices` can change; 0: none."""
        return 0

    def before_matrices(self, stages: Sequence[Stage | None]) -> Stage:
        """Return this stage with a stage at the input of each of its `num_matrices` matrices; None: no change."""
        raise NotImplementedError(f"{type(self).__name__} declares no matrices")

    @abstractmethod
    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module for inputs of width `num_inputs`; a `SettingError` if it cannot take them."""


@dataclass(frozen=True, kw_only=True)
class Dense(Stage):
    """A dense layer φ(x W + b), the stage that most methods replace or gate."""

    width: int
    activation: Activation | None = None
    """φ; None: the identity."""
    regularization: Regularization = field(default_factory=Regularization)
    """Normalization and dropout of the output; set for the hidden layers of a backbone's tower (`Method.apply`)."""

    @classmethod
    def like(cls, dense: Dense, **others: Any) -> Self:  # noqa: ANN401  # the fields of the subclass
        """Return a stage of this class in place of a dense one: equal name, width, activation and regularization.

        `others` are the further fields of this class.
        """
        return cls(
            name=dense.name,
            width=dense.width,
            activation=dense.activation,
            regularization=dense.regularization,
            **others,
        )

    def as_dense(self) -> Dense:
        """Return the layer itself."""
        return self

    def make_output(self, num_layers: int = 1) -> LayerOutput:
        """Return the module from products x W + b to outputs, for `num_layers` such layers side by side."""
        return LayerOutput(self.activation, self.regularization, self.width, num_layers=num_layers)

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; weights start Xavier uniform, before a ReLU He uniform, biases at zero."""
        return DenseModule(self, num_inputs, build)


class DenseModule(StageModule):
    """Computes `Dense`."""

    def __init__(self, stage: Dense, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.num_outputs = stage.width
        generator = build.generator(f"{stage.name}.weight")
        self.weight = nn.Parameter(start_weight(num_inputs, stage.width, stage.activation, generator))
        self.bias = nn.Parameter(torch.zeros(stage.width))
        self.output = stage.make_output()

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, M)."""
        output_BM: torch.Tensor = self.output(torch.addmm(self.bias, x_BN, self.weight), context)
        return output_BM


class Chain(nn.ModuleList):
    """Stage modules in sequence, (B, N) to (B, `num_outputs`)."""

    def __init__(self, stages: tuple[Stage, ...], num_inputs: int, build: Build) -> None:
        super().__init__()
        for stage in stages:
            module = stage.build(num_inputs, build)
            _check_regularization(stage, module)
            num_inputs = module.num_outputs
            self.append(module)
        self.num_outputs = num_inputs

    @property
    def last(self) -> StageModule | None:
        """The module of the last stage; None without stages."""
        return cast("StageModule", self[-1]) if len(self) else None

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """Run the rows through all stages."""
        for module in self:
            x_BN = module(x_BN, context)
        return x_BN


def domain_table(num_indicators: int, start: torch.Tensor, *, num_decayed: int | None = None) -> RowTable:
    """Return a table of per-domain parameters: rows 0..num_indicators, each of which starts as `start`.

    Row 0 belongs to the unseen domain: no training row uses it, so it keeps its start. A module creates the table in
    `__init__` and reads the rows of the domains present in `forward`, here to multiply each row by a vector:

        self.factor = domain_table(build.schema.num_indicators, torch.ones(num_inputs))

        factor_GN = context.read(self.factor)
        return x_BN * context.routing.broadcast(factor_GN)

    `num_decayed` is the number of leading numbers of a domain's parameters, flattened, that the setting `weight_decay`
    decays (default: all of a matrix, none of a vector). State it where a matrix holds a bias as its last row.
    """
    if num_decayed is None:
        num_decayed = start.numel() if start.dim() > 1 else 0
    rows = start.unsqueeze(0).expand(num_indicators + 1, *start.shape).clone()
    return RowTable(rows, "domain", num_decayed=num_decayed)


@dataclass(frozen=True, kw_only=True)
class DomainDense(Dense):
    """φ(x W_p + b_p), a dense layer per domain; rows of an unseen domain use the largest (spec: conventions-0.4).

    All domains start from the weights of the dense stage of the same name. A normalization of its output is shared.
    """

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; every domain starts as `Dense` does."""
        return DomainDenseModule(self, num_inputs, build)


class DomainDenseModule(StageModule):
    """Computes `DomainDense`; a row is multiplied by its own domain's matrix only."""

    def __init__(self, stage: DomainDense, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.num_outputs, self.output = stage.width, stage.make_output()
        generator = build.generator(f"{stage.name}.weight")
        weight = start_weight(num_inputs, stage.width, stage.activation, generator)
        # One table for both, the bias as the last row: each table costs a gather and a scatter per step.
        start = torch.cat([weight, torch.zeros(1, stage.width)])
        self.domain = domain_table(build.schema.num_indicators, start, num_decayed=weight.numel())

    @property
    def output_bias(self) -> torch.Tensor:
        """The biases of all domains: a view of the table's last row per domain."""
        return self.domain.weight.detach()[:, -1]

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, M)."""
        routing = context.seen_routing
        own_GNM = context.read(self.domain, routing)
        product_BM = routing.linear(x_BN, own_GNM[:, :-1])
        output_BM: torch.Tensor = self.output(product_BM + routing.broadcast(own_GNM[:, -1]), context)
        return output_BM


@dataclass(frozen=True, kw_only=True)
class StarDense(Dense):
    """φ(x (W ⊙ W_p) + b + b_p), STAR's dense layer; W starts as that of `Dense` (spec: star-2.4).

    W_p starts at one and b_p at zero; the unseen domain keeps these values. With `is_double`, each other W_p is drawn
    at random, as W is.
    """

    is_double: bool = False

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; without `is_double` it starts as `Dense` does."""
        return StarDenseModule(self, num_inputs, build)


class StarDenseModule(StageModule):
    """Computes `StarDense`; a row is multiplied by its own domain's matrix only."""

    def __init__(self, stage: StarDense, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.num_outputs, self.output = stage.width, stage.make_output()
        generator = build.generator(f"{stage.name}.weight")
        self.weight = nn.Parameter(start_weight(num_inputs, stage.width, stage.activation, generator))
        self.bias = nn.Parameter(torch.zeros(stage.width))
        # One table for both, the bias as the last row: each table costs a gather and a scatter per step.
        start = torch.cat([torch.ones(num_inputs, stage.width), torch.zeros(1, stage.width)])
        self.domain = domain_table(build.schema.num_indicators, start, num_decayed=self.weight.numel())
        generator = build.generator(f"{stage.name}.domain")
        for row in self.domain.weight.detach()[1:] if stage.is_double else ():
            row[:-1] = start_weight(num_inputs, stage.width, stage.activation, generator)

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, M)."""
        weight_GNM, bias_G1M = torch.split(context.read(self.domain), [len(self.weight), 1], dim=1)
        routing, bias_GM = context.routing, self.bias + bias_G1M[:, 0]
        bias_BM = bias_GM if routing.num_groups == 1 else bias_GM.index_select(0, routing.index_B)
        product_BM = routing.linear(x_BN, self.weight * weight_GNM)
        output_BM: torch.Tensor = self.output(product_BM + bias_BM, context)
        return output_BM


class DenseBank(nn.Module):
    """K dense layers in parallel, each with its own random start."""

    def __init__(self, dense: Dense, num_layers: int, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.num_outputs = dense.width
        starts = [
            start_weight(
                num_inputs, dense.width, dense.activation, build.generator(f"{dense.name}.{index}.weight")
            )
            for index in range(num_layers)
        ]
        self.weight = nn.Parameter(torch.stack(starts))
        self.bias = nn.Parameter(torch.zeros(num_layers, 1, dense.width))
        self.output = dense.make_output(num_layers)

    def forward(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N), the same rows for all layers, or (K, B, N), rows per layer, to (K, B, M)."""
        if x.dim() == 2:
            x = x.expand(len(self.weight), *x.shape)
        output_KBM: torch.Tensor = self.output(torch.baddbmm(self.bias, x, self.weight), context)
        return output_KBM


class TowerBank(nn.ModuleList, Capabilities):
    """K towers in parallel, such as the experts of a mixture; (B, N) to (K, B, `num_outputs`)."""

    def __init__(self, tower: tuple[Dense, ...], num_towers: int, num_inputs: int, build: Build) -> None:
        widths = [num_inputs, *(dense.width for dense in tower)]
        super().__init__(
            DenseBank(dense, num_towers, width, build) for dense, width in zip(tower, widths, strict=False)
        )
        self.num_outputs = widths[-1]

    def forward(self, x: torch.Tensor, context: Context) -> torch.Tensor:
        """Run (B, N), the same rows for all towers, or (K, B, N), rows per tower, through all layers."""
        for bank in self:
            x = bank(x, context)
        return x


def _check_regularization(stage: Stage, module: StageModule) -> None:
    """Raise `SettingError` for a dense stage whose module ignores the regularization of its output."""
    requested = stage.regularization if isinstance(stage, Dense) else Regularization()
    layers = (layer.regularization for layer in module.modules() if isinstance(layer, LayerOutput))
    if requested.is_active and requested not in layers:
        raise SettingError(
            "the module of a dense stage must apply dropout and tower_norm",
            value=f"{type(module).__name__} of the stage {stage.name} does not",
            remedy="end its forward in the module that Dense.make_output() returns, or leave the setting out",
        )


def weighted_sum(weight_BK: torch.Tensor, x_KBM: torch.Tensor) -> torch.Tensor:
    """Return Σ_k weight_k x_k per row: (B, K) or (1, K), and (K, B, M), to (B, M)."""
    return (weight_BK.T[:, :, None] * x_KBM).sum(0)


def select_own(x_PBM: torch.Tensor, routing: Routing) -> torch.Tensor:
    """Select each row's own domain from per-domain results: (P, B, M), domain 1 first, to (B, M)."""
    index_B = routing.present_G.index_select(0, routing.index_B) - 1
    return x_PBM.gather(0, index_B[None, :, None].expand(1, *x_PBM.shape[1:])).squeeze(0)


def dense_stages(stages: Iterable[Stage]) -> tuple[Dense, ...]:
    """Return the dense layers among stages, as the stages declare them."""
    return tuple(dense for stage in stages if (dense := stage.as_dense()) is not None)


def split_tower(tower: tuple[Stage, ...]) -> tuple[tuple[Stage, ...], tuple[Dense, ...]]:
    """Split a tower into the stages before its dense ones, such as a gate, and its dense stages.

    There are no dense stages if the tower does not end in them, or has other stages between them.
    """
    first = next((index for index, stage in enumerate(tower) if stage.as_dense() is not None), len(tower))
    dense = dense_stages(tower[first:])
    return (tower[:first], dense) if len(dense) == len(tower) - first else (tower, ())


def with_prefix(tower: tuple[Dense, ...], prefix: str) -> tuple[Dense, ...]:
    """Return the tower with prefixed names, so that it starts from other weights than the original."""
    return tuple(replace(dense, name=f"{prefix}.{dense.name}") for dense in tower)


def refuse_many_domains(schema: Schema, max_domains: int) -> None:
    """Raise `SettingError` if there are more domains than the setting `max_domains`, where rows pass through all."""
    if schema.num_indicators > max_domains:
        raise SettingError(
            f"every row passes through a part of each domain, so max_domains allows {max_domains} domains",
            value=f"{schema.num_indicators} domains",
            remedy="choose an indicator with fewer values (--indicator), or raise max_domains",
        )
