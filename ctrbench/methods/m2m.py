"""M2M: matrices generated from the domain weigh experts and form the tower behind them.

Paper: Zhang et al., M2M, WSDM 2022
Year: 2022
Uses: e_d
Parameters per domain: none

The scenario vector is s = φ(e_d A + a). A meta unit has `meta_layers` layers with generated weights (spec: m2m-7.5),

    Meta(h): h ← φ(h W + b) for each layer, with W = reshape(s V_w + v_w) and b = s V_b + v_b

With F the output of the backbone's tower, experts E_i = φ(F U_i + u_i) and a learned task vector T:

    a_i = Meta([E_i ; T]) v,  α = softmax(a),  R = Σ_i α_i E_i
    L_0 = R,  L_j = φ(Meta_j(L_{j-1}) + L_{j-1}) for each of `tower_layers`,  and the last L goes to the head

Plan: one stage at the end of the tower.

Choices: the backbone's own tower is the shared bottom, so the block fits behind any tower. Each expert is one dense
layer. φ is the activation of the last tower layer (tanh where there is none), and s is as wide as the experts. The
network of the scenario vector is one layer, V the next. There is one task, so T is one free vector. The data have no
advertisers, so s depends on e_d only. v_w starts as the weight of a dense layer and V at a tenth of Xavier's range, so
every meta layer starts near a static one. Since s depends on e_d only, matrices are generated once per domain of a
batch.

Deviations: there is no transformer. In the paper it reads behavior sequences, which are pooled with the embeddings
here; over the rows of a batch it would make a prediction depend on other rows. The loss is cross-entropy instead of
Poisson regression.

Limits: a row of an unseen domain has its own matrices, since only the device knows which such rows share e_d. With the
default settings these are 3,136 numbers per row, 100 MB when 8,192 such rows are scored at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from torch import nn

from ctrbench.extend import (
    Activation,
    Build,
    Choices,
    Context,
    Dense,
    DenseBank,
    Field,
    LayerOutput,
    Method,
    Plan,
    Regularization,
    Routing,
    Stage,
    StageModule,
    activate,
    dense_stages,
    full_precision,
    start_weight,
    weighted_sum,
)

GENERATOR_SCALE = 0.1
"""Initial range of V, as a share of Xavier's."""

Layer = tuple[torch.Tensor, torch.Tensor]
"""A generated weight (G, N, M) and bias (G, M)."""


class M2M(Method):
    """Experts, meta attention and meta tower after the backbone's tower."""

    experts: Annotated[int, Choices(2, 4, 8)] = Field(default=4, ge=2, le=256)
    """Number of experts."""
    hidden: Annotated[int, Choices(16, 32, 64)] = Field(default=32, ge=1, le=65_536)
    """Width of experts, scenario vector and meta layers."""
    meta_layers: int = Field(default=1, ge=1, le=64)
    """Generated layers per meta unit."""
    tower_layers: int = Field(default=1, ge=1, le=64)
    """Layers of the meta tower; each is a meta unit with a residual connection."""

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with the block after the tower."""
        dense = dense_stages(plan.tower)
        activation = dense[-1].activation if dense else None
        block = MetaBlock(
            name="m2m",
            settings=self,
            activation=activation or "tanh",
            regularization=dense[-1].regularization if dense else Regularization(),
        )
        return replace(plan, tower=(*plan.tower, block))

    def supports(self, plan: Plan) -> str | None:
        """Refuse a head that cannot split the block's output into equal parts."""
        heads = plan.output_heads
        if self.hidden % heads == 0:
            return None
        return f"m2m's hidden={self.hidden} is not a multiple of the {heads} heads of the fusion"


@dataclass(frozen=True, kw_only=True)
class MetaBlock(Stage):
    """Experts, meta attention and meta tower."""

    settings: M2M
    activation: Activation
    regularization: Regularization = field(default_factory=Regularization)
    """That of the experts and of the layers of the meta tower."""

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Build the module; its generated layers start near static ones."""
        return MetaBlockModule(self, num_inputs, build)


class MetaBlockModule(StageModule):
    """Computes `MetaBlock`."""

    def __init__(self, stage: MetaBlock, num_inputs: int, build: Build) -> None:
        super().__init__()
        settings, name, activation = stage.settings, stage.name, stage.activation
        width = self.num_outputs = settings.hidden
        expert = Dense(
            name=f"{name}.expert",
            width=width,
            activation=activation,
            regularization=stage.regularization,
        )
        self.experts = DenseBank(expert, settings.experts, num_inputs, build)
        scenario = Dense(name=f"{name}.scenario", width=width, activation=activation)
        self.scenario = scenario.build(build.schema.domain_width, build)
        self.attention = MetaUnit(stage, 2 * width, build, f"{name}.attention")
        self.towers = nn.ModuleList(
            MetaUnit(stage, width, build, f"{name}.tower{i}") for i in range(settings.tower_layers)
        )
        self.outputs = nn.ModuleList(
            LayerOutput(activation, stage.regularization, width) for _ in range(settings.tower_layers)
        )
        self.task = nn.Parameter(start_weight(1, width, None, build.generator(f"{name}.task"))[0])
        self.score = nn.Parameter(start_weight(width, 1, None, build.generator(f"{name}.score"))[:, 0])

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, M)."""
        routing = scenario_routing(context)
        scenario_GM = self.scenario(context.domain_BE.index_select(0, routing.first_G), context)
        expert_KBM = self.experts(x_BN, context)
        x_BM = weighted_sum(self.attend(expert_KBM, scenario_GM, routing), expert_KBM)
        for unit, output in zip(self.towers, self.outputs, strict=True):
            assert isinstance(unit, MetaUnit)
            x_BM = output(unit(x_BM, unit.generate(scenario_GM), routing) + x_BM, context)
        return x_BM

    def attend(self, expert_KBM: torch.Tensor, scenario_GM: torch.Tensor, routing: Routing) -> torch.Tensor:
        """Return α, (B, K): the weight of each expert per row."""
        (weight_GNM, bias_GM), *others = self.attention.generate(scenario_GM)
        # [E_i ; T] W + b, with the part of T computed once per domain.
        by_expert, by_task = weight_GNM.chunk(2, dim=1)
        layers = [(by_expert, bias_GM + (self.task[:, None] * by_task).sum(1)), *others]
        scores = [self.attention(expert_BM, layers, routing) @ self.score for expert_BM in expert_KBM]
        return torch.softmax(torch.stack(scores, dim=1), dim=1)


def scenario_routing(context: Context) -> Routing:
    """Group the rows that share e_d: those of one domain; each row of an unseen domain is its own group."""
    if not context.domain_routing.has(0):
        return context.domain_routing
    domain_B = context.domain_B
    alone_B = context.schema.num_domains + 1 + torch.arange(len(domain_B), dtype=domain_B.dtype)
    return Routing(torch.where(domain_B > 0, domain_B, alone_B), context.z_BN.device)


class MetaUnit(nn.Module):
    """Layers φ(h W + b) whose W and b are generated from the scenario vector."""

    def __init__(self, stage: MetaBlock, num_inputs: int, build: Build, label: str) -> None:
        super().__init__()
        self.activation, width = stage.activation, stage.settings.hidden
        sizes = [num_inputs, *(width for _ in range(stage.settings.meta_layers - 1))]
        self.generators = nn.ModuleList(
            Generator(size, width, stage.activation, build, f"{label}.{i}") for i, size in enumerate(sizes)
        )

    def generate(self, scenario_GM: torch.Tensor) -> list[Layer]:
        """Return the unit's layers, generated per group from (G, M)."""
        return [generator(scenario_GM) for generator in self.generators]

    def forward(self, x_BN: torch.Tensor, layers: list[Layer], routing: Routing) -> torch.Tensor:
        """Run each row through its group's layers, (B, N) to (B, M)."""
        for weight_GNM, bias_GM in layers:
            product_BM = routing.linear(x_BN, weight_GNM) + routing.broadcast(bias_GM)
            x_BN = activate(product_BM, self.activation)
        return x_BN


class Generator(nn.Module):
    """W = reshape(s V_w + v_w) and b = s V_b + v_b, with one matrix for both; the bias is the last row of W."""

    def __init__(self, num_inputs: int, width: int, activation: Activation, build: Build, label: str) -> None:
        super().__init__()
        self.shape = (num_inputs + 1, width)
        static = start_weight(num_inputs, width, activation, build.generator(f"{label}.static"))
        start = torch.cat([static, torch.zeros(1, width)]).flatten()
        weight = start_weight(width, len(start), None, build.generator(f"{label}.weight"))
        self.weight, self.bias = nn.Parameter(GENERATOR_SCALE * weight), nn.Parameter(start)

    def forward(self, scenario_GM: torch.Tensor) -> Layer:
        """Return weight and bias per group."""
        # In the parameters' precision: rounding a generated matrix would remove the differences between domains.
        with full_precision(self.weight.device):
            flat = torch.addmm(self.bias, scenario_GM.to(self.weight.dtype), self.weight)
        weight_GNM = flat.view(-1, *self.shape)
        return weight_GNM[:, :-1], weight_GNM[:, -1]
