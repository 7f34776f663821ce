"""APG: a small core matrix, generated for each row from its domain, stands between shared low-rank factors.

Paper: Yan et al., APG: Adaptive Parameter Generation Network for Click-Through Rate Prediction, NeurIPS 2022
Year: 2022
Uses: e_d, or the input named by `condition`
Parameters per domain: none

A hidden layer φ(h W_z + b) has a weight that a generator G, an MLP, makes from a condition z (spec: apg-3.1):

    v1  W_z = reshape(G(z))              v4  ((h U) S_z) V, the same without forming W_z
    v2  W_z = U_z S_z V_z                v5  v4 with U = U_l U_r and V = V_l V_r, merged once per step
    v3  W_z = U S_z V, formed            S_z = I + G(z), or G(z) without `core_residual`

U is N x K, S_z is K x K, V is K x M. Only hidden layers are generated; head, cross networks and further logits stay.

Plan: replaces each dense stage of the tower.

Choices: z = e_d and a linear G (spec: apg-3.1); S_z = I + G(z) (spec: apg-3.2). A rank K above N or M is reduced to
their minimum, the largest rank of the layer. In v1 and v2, which have no shared factors, the last bias of G starts at
the static weight, or at U and V, so they also start near a static layer. A hidden layer of G is ReLU. With
`generate_bias` the last bias of G replaces b. Factors are merged at each forward pass, after training too
(spec: apg-3.5).

Not implemented: attention over features and aggregation of outputs; with a linear G the latter equals `concatenate`.

Limits: the factors of v5 multiply each other's steps; at a learning rate of 1e-2 its tanh layers saturate, and at the
study's 1e-3 training collapsed in 2 of 6 seeds (DNN, twin of IAAC). v1 and v3 form a matrix per row and are meant for
comparison.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import torch
from torch import nn

from ctrbench.extend import (
    Activation,
    Build,
    Choices,
    Context,
    Dense,
    Field,
    Method,
    Plan,
    Schema,
    SettingError,
    StageModule,
    dense_stages,
    model_validator,
    start_weight,
)

Size = Annotated[int, Field(ge=1, le=65_536)]

GENERATOR_SCALE = 0.1
"""Initial range of G's last layer, as a share of Xavier's."""


class Apg(Method):
    """Hidden layers whose weights are generated from a condition."""

    version: Annotated[Literal["v1", "v2", "v3", "v4", "v5"], Choices("v4", "v5")] = "v5"
    """Version of the paper: v5 is the full model; v1 and v3 form a matrix per row; v1 and v2 share no factors."""
    rank: Annotated[tuple[Size, ...], Choices("4", "8", "16", "32")] = Field(
        default=(16,), min_length=1, max_length=64
    )
    """K, one for all hidden layers or one per layer; at most the width of a layer."""
    over: Annotated[tuple[Size, ...], Choices("64", "128", "256")] = Field(
        default=(128,), min_length=1, max_length=64
    )
    """P, the inner width of v5, one for all hidden layers or one per layer; at least K."""
    condition: Annotated[Literal["mix", "self", "group"], Choices("mix", "self")] = "mix"
    """Condition z: e_d (`mix`), the layer's input (`self`) or the embedding of one domain feature (`group`)."""
    aggregation: Literal["concatenate", "average"] = "concatenate"
    """Combination of the domain features' embeddings for `mix`."""
    group_feature: str | None = None
    """Domain feature of `group`; none: the first."""
    generator_hidden: Size | None = None
    """Width of a hidden layer of G; none: G is linear."""
    core_residual: bool = True
    """Whether S_z is I + G(z), not G(z)."""
    generate_bias: bool = False
    """Whether the bias of a layer is generated too."""
    detach_condition: bool = False
    """Whether the gradient stops where z enters G."""

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        if self.version == "v5" and len({len(self.rank), len(self.over), 1}) > 2:
            raise ValueError("rank and over must have equal lengths, or one number for all layers")
        layers = range(max(len(self.rank), len(self.over)))
        if self.version == "v5" and any(self.sizes(i)[0] > self.sizes(i)[1] for i in layers):
            raise ValueError("over must not be below rank")
        return self

    def idle(self) -> tuple[str, ...]:
        """Return the settings that other versions or conditions read."""
        idle = {"v1": ("rank", "over", "core_residual"), "v5": ()}.get(self.version, ("over",))
        by_condition = {"mix": ("group_feature",), "group": ("aggregation",)}
        return (*idle, *by_condition.get(self.condition, ("group_feature", "aggregation")))

    def sizes(self, layer: int) -> tuple[int, int]:
        """Return K and P of the hidden layer with this index, before the limit of its width."""
        rank, over = (size[layer if len(size) > 1 else 0] for size in (self.rank, self.over))
        return rank, over

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with generated hidden layers."""
        layers = {dense.name: i for i, dense in enumerate(dense_stages(plan.tower))}

        def generated(dense: Dense) -> Dense:
            rank, over = self.sizes(layers[dense.name])
            return Generated.like(dense, settings=self, rank=rank, over=over)

        return plan.map_dense(generated, head=False)

    def supports(self, plan: Plan) -> str | None:
        """Refuse plans without hidden layers, or with another number of them than `rank` and `over` list."""
        num_layers = len(dense_stages(plan.tower))
        if not num_layers:
            return "hidden dense layers are generated, and this plan has none"
        if any(len(size) not in (1, num_layers) for size in (self.rank, self.over)):
            return f"rank and over need one number, or one for each of the {num_layers} hidden layers"
        return None


@dataclass(frozen=True, kw_only=True)
class Generated(Dense):
    """A dense stage with a generated weight."""

    settings: Apg
    rank: int
    over: int

    def build(self, num_inputs: int, build: Build) -> GeneratedModule:
        """Build the module of the version (spec: apg-3.2)."""
        kinds: dict[str, type[GeneratedModule]] = {"v1": FullModule, "v2": LowRankModule, "v5": MergedModule}
        return kinds.get(self.settings.version, SharedModule)(self, num_inputs, build)


class Condition(nn.Module):
    """Selects the condition z of a layer, (B, `width`)."""

    def __init__(self, settings: Apg, num_inputs: int, schema: Schema) -> None:
        super().__init__()
        self.settings = settings
        self.group = _group_feature(settings, schema) if settings.condition == "group" else ""
        widths = {"self": num_inputs, "group": schema.embedding_size, "mix": schema.domain_width}
        self.is_average = settings.condition == "mix" and settings.aggregation == "average"
        self.width = schema.embedding_size if self.is_average else widths[settings.condition]

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to z of (B, `width`)."""
        z = self._condition_input(x_BN, context)
        return z.detach() if self.settings.detach_condition else z

    def _condition_input(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        if self.settings.condition == "self":
            return x_BN
        if self.settings.condition == "group":
            return context.embedding_of(self.group)
        if self.is_average:
            return context.domain_BE.view(len(x_BN), -1, self.width).mean(1)
        return context.domain_BE


def _group_feature(settings: Apg, schema: Schema) -> str:
    name = settings.group_feature or schema.domain_features[0]
    if name not in schema.domain_features:
        known_features = ", ".join(schema.domain_features)
        raise SettingError(
            "group_feature must be a domain feature", value=name, remedy=f"known: {known_features}"
        )
    return name


class Generator(nn.Module):
    """G: an MLP with linear output, whose last bias starts at `start`."""

    def __init__(
        self, num_inputs: int, hidden: int | None, start: torch.Tensor, build: Build, label: str
    ) -> None:
        super().__init__()
        self.has_hidden = hidden is not None
        if hidden is not None:
            first = start_weight(num_inputs, hidden, "relu", build.generator(f"{label}.hidden"))
            self.hidden_weight, self.hidden_bias = nn.Parameter(first), nn.Parameter(torch.zeros(hidden))
            num_inputs = hidden
        last = start_weight(num_inputs, len(start), None, build.generator(f"{label}.weight"))
        self.weight, self.bias = nn.Parameter(GENERATOR_SCALE * last), nn.Parameter(start)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return the generated entries of each row."""
        if self.has_hidden:
            z = torch.relu(torch.addmm(self.hidden_bias, z, self.hidden_weight))
        return torch.addmm(self.bias, z, self.weight)


class GeneratedModule(StageModule):
    """φ(h W_z + b); subclasses define the generated entries and their product with h."""

    bias: nn.Parameter | None

    def __init__(self, stage: Generated, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.num_inputs, self.num_outputs = num_inputs, stage.width
        self.rank = min(stage.rank, num_inputs, stage.width)
        self.output, self.settings = stage.make_output(), stage.settings
        self.condition = Condition(stage.settings, num_inputs, build.schema)
        start = self.start(stage, build)
        self.num_generated = len(start)
        bias = torch.zeros(stage.width)
        if stage.settings.generate_bias:
            start = torch.cat([start, bias])
        self.register_parameter("bias", None if stage.settings.generate_bias else nn.Parameter(bias))
        label = f"{stage.name}.generator"
        self.generator = Generator(self.condition.width, stage.settings.generator_hidden, start, build, label)

    @abstractmethod
    def start(self, stage: Generated, build: Build) -> torch.Tensor:
        """Make the version's own parameters; return the initial last bias of G, one number per generated entry."""

    @abstractmethod
    def multiply(self, x_BN: torch.Tensor, generated: torch.Tensor) -> torch.Tensor:
        """Return h W_z of (B, M), from the generated entries of each row."""

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, M)."""
        generated = self.generator(self.condition(x_BN, context))
        bias: torch.Tensor | None = self.bias
        if bias is None:
            generated, bias = torch.split(generated, [self.num_generated, self.num_outputs], dim=1)
        output_BM: torch.Tensor = self.output(self.multiply(x_BN, generated) + bias, context)
        return output_BM

    def apply_core(self, a_BK: torch.Tensor, core: torch.Tensor) -> torch.Tensor:
        """Return a S_z, as a sum of products: on a CPU several times as fast as small matrix products."""
        product = (a_BK[:, :, None] * core.view(-1, self.rank, self.rank)).sum(1)
        return a_BK + product if self.settings.core_residual else product


def _draw_factor(num_rows: int, num_columns: int, variance: float, build: Build, label: str) -> torch.Tensor:
    return torch.empty(num_rows, num_columns).normal_(std=variance**0.5, generator=build.generator(label))


def _squared_gain(activation: Activation | None) -> float:
    """Return the squared gain of an activation (spec: apg-3.2)."""
    return 2.0 if activation == "relu" else 1.0


def _multiply_per_row(x_BN: torch.Tensor, weight: torch.Tensor, num_outputs: int) -> torch.Tensor:
    """Multiply each row by its own matrix, given flat."""
    return torch.bmm(x_BN[:, None], weight.view(*x_BN.shape, num_outputs))[:, 0]


class FullModule(GeneratedModule):
    """Version v1: all N x M entries are generated."""

    def start(self, stage: Generated, build: Build) -> torch.Tensor:
        """Return the static layer's initial weight."""
        generator = build.generator(f"{stage.name}.weight")
        return start_weight(self.num_inputs, stage.width, stage.activation, generator).flatten()

    def multiply(self, x_BN: torch.Tensor, generated: torch.Tensor) -> torch.Tensor:
        """Multiply by a full matrix per row."""
        return _multiply_per_row(x_BN, generated, self.num_outputs)


class LowRankModule(GeneratedModule):
    """Version v2: U_z, S_z and V_z are all generated."""

    def start(self, stage: Generated, build: Build) -> torch.Tensor:
        """Return static U and V and a core of zero."""
        left, right = _draw_factors(self, stage, build)
        return torch.cat([left.flatten(), torch.zeros(self.rank**2), right.flatten()])

    def multiply(self, x_BN: torch.Tensor, generated: torch.Tensor) -> torch.Tensor:
        """Multiply by three matrices per row."""
        sizes = [self.num_inputs * self.rank, self.rank**2, self.rank * self.num_outputs]
        left, core, right = torch.split(generated, sizes, dim=1)
        a_BK = self.apply_core(_multiply_per_row(x_BN, left, self.rank), core)
        return _multiply_per_row(a_BK, right, self.num_outputs)


def _draw_factors(
    module: GeneratedModule, stage: Generated, build: Build
) -> tuple[torch.Tensor, torch.Tensor]:
    num_inputs, rank, num_outputs = module.num_inputs, module.rank, module.num_outputs
    left = _draw_factor(num_inputs, rank, 1 / num_inputs, build, f"{stage.name}.left")
    right = _draw_factor(
        rank, num_outputs, _squared_gain(stage.activation) / rank, build, f"{stage.name}.right"
    )
    return left, right


class SharedModule(GeneratedModule):
    """Versions v3 and v4: U and V are shared, S_z is generated."""

    def start(self, stage: Generated, build: Build) -> torch.Tensor:
        """Make U and V; return a core of zero."""
        left, right = _draw_factors(self, stage, build)
        self.left, self.right = nn.Parameter(left), nn.Parameter(right)
        return torch.zeros(self.rank**2)

    def merged(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return U (N, K) and V (K, M)."""
        return self.left, self.right

    def multiply(self, x_BN: torch.Tensor, generated: torch.Tensor) -> torch.Tensor:
        """Multiply by U, S_z and V in turn; v3 by their product."""
        left, right = self.merged()
        if self.settings.version == "v3":
            eye = torch.eye(self.rank, dtype=x_BN.dtype, device=x_BN.device)
            core = generated.view(-1, self.rank, self.rank)
            core = core + eye if self.settings.core_residual else core
            return _multiply_per_row(x_BN, (left @ core @ right).flatten(1), self.num_outputs)
        return self.apply_core(x_BN @ left, generated) @ right


class MergedModule(SharedModule):
    """Version v5: U and V are products of larger factors, merged at each forward pass."""

    def start(self, stage: Generated, build: Build) -> torch.Tensor:
        """Make U_l, U_r, V_l and V_r; return a core of zero."""
        over, name = stage.over, stage.name
        gain2 = _squared_gain(stage.activation)
        self.left = nn.Parameter(
            _draw_factor(self.num_inputs, over, 1 / self.num_inputs, build, f"{name}.left")
        )
        self.left_inner = nn.Parameter(_draw_factor(over, self.rank, 1 / over, build, f"{name}.left_inner"))
        self.right_inner = nn.Parameter(
            _draw_factor(self.rank, over, 1 / self.rank, build, f"{name}.right_inner")
        )
        self.right = nn.Parameter(_draw_factor(over, self.num_outputs, gain2 / over, build, f"{name}.right"))
        return torch.zeros(self.rank**2)

    def merged(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return U = U_l U_r and V = V_l V_r."""
        return self.left @ self.left_inner, self.right_inner @ self.right
