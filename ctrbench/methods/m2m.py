"""M2M: matrices generated from the domain attend over experts and make the tower behind them.

Paper: Zhang et al., M2M, WSDM 2022
Year: 2022
Conditions on: e_d
Grows with domains: nothing

METHODS 7.5. Scenario vector s = φ(e_d A + a). A meta unit is `meta_layers` layers whose weights are generated,

    Meta(h): h ← φ(h W + b) for each layer, with W = reshape(s V_w + v_w) and b = s V_b + v_b

Behind the backbone's tower, with F its output, experts E_i = φ(F U_i + u_i) and a learned task vector T:

    a_i = Meta([E_i ; T]) v,  α = softmax(a),  R = Σ_i α_i E_i
    L_0 = R,  L_j = φ(Meta_j(L_{j-1}) + L_{j-1}) for each of `tower_layers`,  and the last L goes to the head

Readings: the backbone's own tower is the shared bottom, so the block fits behind any; each expert is one dense layer;
φ is the last tower layer's activation (tanh where there is none), s as wide as the experts; the scenario vector's
network is one layer, V the next; there is one task, so T is one vector, free to learn; no advertisers here, so s is of
e_d alone. v_w starts as a dense layer's weight would and V at a tenth of Xavier's range: every meta layer starts near a
static one. Since s depends on e_d alone, matrices are generated once for each domain in a batch. A row of an unseen
domain has matrices of its own, since which such rows share e_d is known on the device only: with the defaults 3,136
numbers a row, so 100 MB where 8,192 rows are scored and all are such; training rows have none. Departures: no
transformer. It belongs on behaviour sequences, and here they are pooled with the embeddings; over the rows of a batch
it would make rows see each other. Cross-entropy in place of Poisson regression.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from ctrbench.extend import (
    Activation,
    BilinearFusion,
    Build,
    Context,
    Dense,
    DenseBank,
    Field,
    Method,
    Plan,
    Routing,
    Stage,
    StageModule,
    activate,
    full_precision,
    mixed,
    start_weight,
)

GENERATOR_SCALE = 0.1
"""Share of Xavier's range that V starts in."""

Layer = tuple[torch.Tensor, torch.Tensor]
"""A generated weight (G, N, M) and bias (G, M)."""


class M2M(Method):
    """Experts, meta attention and a meta tower behind the backbone's tower."""

    experts: int = Field(default=4, ge=2)
    hidden: int = Field(default=32, ge=1)
    """Width of experts, scenario vector and meta layers."""
    meta_layers: int = Field(default=1, ge=1)
    """Generated layers of each meta unit."""
    tower_layers: int = Field(default=1, ge=1)
    """Layers of the meta tower, a meta unit each."""

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with the block behind the tower."""
        dense = [stage for stage in plan.tower if isinstance(stage, Dense)]
        activation = dense[-1].activation if dense else None
        block = MetaBlock(name="m2m", settings=self, activation=activation or "tanh")
        return replace(plan, tower=(*plan.tower, block))

    def supports(self, plan: Plan) -> str | None:
        """Refuse a fusion that cannot cut the block's output into equal parts."""
        heads = next((stage.heads for stage in plan.head if isinstance(stage, BilinearFusion)), 1)
        is_even = self.hidden % heads == 0
        return (
            None
            if is_even
            else f"m2m's hidden={self.hidden} cannot be cut into {heads} heads, as the fusion does"
        )


@dataclass(frozen=True, kw_only=True)
class MetaBlock(Stage):
    """Experts, meta attention and meta tower."""

    settings: M2M
    activation: Activation

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; its generated layers start near static ones."""
        return MetaBlockModule(self, num_inputs, build)


class MetaBlockModule(StageModule):
    """Computes `MetaBlock`."""

    def __init__(self, stage: MetaBlock, num_inputs: int, build: Build) -> None:
        super().__init__()
        settings, name, activation = stage.settings, stage.name, stage.activation
        width = self.num_outputs = settings.hidden
        expert = Dense(name=f"{name}.expert", width=width, activation=activation)
        self.experts = DenseBank(expert, settings.experts, num_inputs, build)
        scenario = Dense(name=f"{name}.scenario", width=width, activation=activation)
        self.scenario = scenario.build(build.schema.domain_width, build)
        self.attention = MetaUnit(stage, 2 * width, build, f"{name}.attention")
        self.towers = nn.ModuleList(
            MetaUnit(stage, width, build, f"{name}.tower{place}") for place in range(settings.tower_layers)
        )
        self.activation = activation
        self.task = nn.Parameter(start_weight(1, width, None, build.generator(f"{name}.task"))[0])
        self.score = nn.Parameter(start_weight(width, 1, None, build.generator(f"{name}.score"))[:, 0])

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, M)."""
        routing = scenario_routing(context)
        scenario_GM = self.scenario(context.domain_BE.index_select(0, routing.first_G), context)
        expert_KBM = self.experts(x_BN)
        x_BM = mixed(self.attend(expert_KBM, scenario_GM, routing), expert_KBM)
        for unit in self.towers:
            assert isinstance(unit, MetaUnit)
            x_BM = activate(unit(x_BM, unit.generate(scenario_GM), routing) + x_BM, self.activation)
        return x_BM

    def attend(self, expert_KBM: torch.Tensor, scenario_GM: torch.Tensor, routing: Routing) -> torch.Tensor:
        """Return α, (B, K): the weight of each expert for each row."""
        (weight_GNM, bias_GM), *others = self.attention.generate(scenario_GM)
        # [E_i ; T] W + b, of which the part of T is computed once a domain.
        by_expert, by_task = weight_GNM.chunk(2, dim=1)
        layers = [(by_expert, bias_GM + (self.task[:, None] * by_task).sum(1)), *others]
        scores = [self.attention(one_BM, layers, routing) @ self.score for one_BM in expert_KBM]
        return torch.softmax(torch.stack(scores, dim=1), dim=1)


def scenario_routing(context: Context) -> Routing:
    """Group rows that share e_d: those of one domain; each row of an unseen one is a group of its own."""
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
            Generator(size, width, stage.activation, build, f"{label}.{place}")
            for place, size in enumerate(sizes)
        )

    def generate(self, scenario_GM: torch.Tensor) -> list[Layer]:
        """Return the layers of each group."""
        return [generator(scenario_GM) for generator in self.generators]

    def forward(self, x_BN: torch.Tensor, layers: list[Layer], routing: Routing) -> torch.Tensor:
        """Run the rows through their groups' layers."""
        for weight_GNM, bias_GM in layers:
            product_BM = routing.linear(x_BN, weight_GNM) + routing.spread(bias_GM)
            x_BN = activate(product_BM, self.activation)
        return x_BN


class Generator(nn.Module):
    """W = reshape(s V_w + v_w) and b = s V_b + v_b, one matrix for both with the bias as the last row of W."""

    def __init__(self, num_inputs: int, width: int, activation: Activation, build: Build, label: str) -> None:
        super().__init__()
        self.shape = (num_inputs + 1, width)
        static = start_weight(num_inputs, width, activation, build.generator(f"{label}.static"))
        start = torch.cat([static, torch.zeros(1, width)]).flatten()
        weight = start_weight(width, len(start), None, build.generator(f"{label}.weight"))
        self.weight, self.bias = nn.Parameter(GENERATOR_SCALE * weight), nn.Parameter(start)

    def forward(self, scenario_GM: torch.Tensor) -> Layer:
        """Return the weight and the bias of each group."""
        # In the parameters' precision: rounding a generated matrix would round away what is particular to a domain.
        with full_precision(self.weight.device):
            flat = torch.addmm(self.bias, scenario_GM.to(self.weight.dtype), self.weight)
        weight_GNM = flat.view(-1, *self.shape)
        return weight_GNM[:, :-1], weight_GNM[:, -1]
