"""Stages of feature interactions, from which backbones are put together.

Most work on fields: the vectors (B, F, E) that the input vector z is made of. They may stand behind stages at the input
that keep z's width; another width is refused. All is made of batched products over fields or pairs of fields, and has
second derivatives.

Shapes in names: B rows, N inputs, M outputs, F fields, E embedding size, K plain numbers, H heads, feature maps or
experts, A width of a head, R rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from ctrbench.errors import SettingError
from ctrbench.nn.model import Chain
from ctrbench.nn.plan import Build, Dense, Schema, Stage, StageModule, start_weight
from ctrbench.nn.stages import Cross, CrossModule
from ctrbench.nn.tables import EMBEDDING_STD

if TYPE_CHECKING:
    from ctrbench.nn.model import Context


def check_layout(name: str, num_inputs: int, schema: Schema) -> None:
    """Refuse inputs that do not have the width of z, whose layout a stage is about to rely on."""
    if num_inputs != schema.num_inputs:
        raise SettingError(
            f"{name} reads the fields of the input vector, so its inputs must have that width",
            value=f"{num_inputs} inputs, not {schema.num_inputs}",
            remedy="a stage at the input keeps the width; what changes it stands before the tower",
        )


class FieldVectors(nn.Module):
    """One vector a field, (B, N) to (B, F, E); a plain number x_k is the field v_k x_k, with v_k learned."""

    numbers: nn.Parameter | None

    def __init__(self, name: str, num_inputs: int, build: Build) -> None:
        super().__init__()
        schema = build.schema
        check_layout(name, num_inputs, schema)
        self.size, num_numbers = schema.embedding_size, len(schema.numeric_fields)
        self.num_embedded = len(schema.single_fields) + len(schema.bag_fields)
        self.num_fields = self.num_embedded + num_numbers
        start = torch.empty(num_numbers, self.size)
        start.normal_(std=EMBEDDING_STD, generator=build.generator(f"{name}.numbers"))
        self.register_parameter("numbers", nn.Parameter(start) if num_numbers else None)

    def forward(self, x_BN: torch.Tensor) -> torch.Tensor:
        """Return the fields in the order of z."""
        width = self.num_embedded * self.size
        embedded_BFE = x_BN[:, :width].reshape(len(x_BN), self.num_embedded, self.size)
        if self.numbers is None:
            return embedded_BFE
        return torch.cat([embedded_BFE, x_BN[:, width:, None] * self.numbers], dim=1)


@dataclass(frozen=True, kw_only=True)
class FirstOrder(Stage):
    """The linear logit: the weights of a row's ids, a list's averaged, and w_k x_k for each plain number.

    For plans with `first_order`, and for their `logits`.
    """

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; all weights start at zero."""
        return FirstOrderModule(self, num_inputs, build)


class FirstOrderModule(StageModule):
    """Computes `FirstOrder`; the ids' weights stand with their embeddings."""

    num_outputs = 1
    weight: nn.Parameter | None

    def __init__(self, stage: FirstOrder, num_inputs: int, build: Build) -> None:
        super().__init__()
        check_layout(stage.name, num_inputs, build.schema)
        self.num_numbers = len(build.schema.numeric_fields)
        start = torch.zeros(self.num_numbers, 1)
        self.register_parameter("weight", nn.Parameter(start) if self.num_numbers else None)

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, 1)."""
        weights_BF = context.first_order_BF
        assert weights_BF is not None, "a plan with FirstOrder says first_order=True"
        logit_B1 = weights_BF.sum(1, keepdim=True)
        return logit_B1 if self.weight is None else logit_B1 + x_BN[:, -self.num_numbers :] @ self.weight


@dataclass(frozen=True, kw_only=True)
class FactorizationMachine(Stage):
    """Σ_{i<j} <v_i, v_j> over fields, as ½ Σ_e ((Σ_i v_ie)² - Σ_i v_ie²) (Rendle, FM, ICDM 2010).

    A logit beside the network, but of the embeddings as the network is given them.
    """

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module, of one output."""
        return FactorizationMachineModule(self, num_inputs, build)


class FactorizationMachineModule(StageModule):
    """Computes `FactorizationMachine`."""

    num_outputs = 1

    def __init__(self, stage: FactorizationMachine, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.fields = FieldVectors(stage.name, num_inputs, build)

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, 1)."""
        fields_BFE: torch.Tensor = self.fields(context.embeddings_BN)
        square_BE = fields_BFE.sum(1).square() - fields_BFE.square().sum(1)
        return 0.5 * square_BE.sum(1, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class FieldProducts(Stage):
    """[z ; products of fields]: <v_i, v_j> for i < j, the entries a ≤ b of s s^T with s = Σ_i v_i, or both."""

    products: Literal["inner", "outer", "both"] = "inner"

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module."""
        return FieldProductsModule(self, num_inputs, build)


class FieldProductsModule(StageModule):
    """Computes `FieldProducts`."""

    inner: torch.Tensor
    outer: torch.Tensor

    def __init__(self, stage: FieldProducts, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.fields, self.products = FieldVectors(stage.name, num_inputs, build), stage.products
        inner, outer = _pairs(self.fields.num_fields, 1), _pairs(self.fields.size, 0)
        self.register_buffer("inner", inner, persistent=False)
        self.register_buffer("outer", outer, persistent=False)
        widths = {"inner": len(inner), "outer": len(outer), "both": len(inner) + len(outer)}
        self.num_outputs = num_inputs + widths[stage.products]

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, N and products)."""
        fields_BFE, parts = self.fields(x_BN), [x_BN]
        if self.products != "outer":
            products_BFF = torch.bmm(fields_BFE, fields_BFE.mT)
            parts.append(products_BFF.flatten(1).index_select(1, self.inner))
        if self.products != "inner":
            sum_BE = fields_BFE.sum(1)
            products_BEE = sum_BE[:, :, None] * sum_BE[:, None]
            parts.append(products_BEE.flatten(1).index_select(1, self.outer))
        return torch.cat(parts, dim=1)


def _pairs(size: int, offset: int) -> torch.Tensor:
    """Return the places of the upper triangle in a flat (size, size) matrix."""
    rows, columns = torch.triu_indices(size, size, offset)
    places: torch.Tensor = rows * size + columns
    return places


@dataclass(frozen=True, kw_only=True)
class FieldAttention(Stage):
    """AutoInt's interacting layers: multi-head self-attention over fields, with residual and ReLU.

    Of each head h, with fields e_m, over the fields k of the same row:

        α_mk = softmax_k <W_Q e_m, W_K e_k>,   e'_m = Σ_k α_mk W_V e_k

    and of the layer e_m ← ReLU([e'_m of head 1 ; … ; of head H] + W_R e_m). The output is all fields of the last layer.
    """

    layers: int
    heads: int
    head_size: int

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; Xavier uniform weights."""
        return FieldAttentionModule(self, num_inputs, build)


class FieldAttentionModule(StageModule):
    """Computes `FieldAttention`; a layer holds W_Q, W_K, W_V and W_R side by side, each head by head."""

    def __init__(self, stage: FieldAttention, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.heads, self.head_size = stage.heads, stage.head_size
        self.fields = FieldVectors(stage.name, num_inputs, build)
        width, made = self.fields.size, stage.heads * stage.head_size
        self.weights = nn.ParameterList()
        for layer in range(stage.layers):
            generators = (build.generator(f"{stage.name}.{layer}.{part}") for part in ("q", "k", "v", "r"))
            start = torch.cat([start_weight(width, made, None, one) for one in generators], dim=1)
            self.weights.append(nn.Parameter(start))
            width = made
        self.num_outputs = self.fields.num_fields * made

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, fields times heads times their size)."""
        fields_BFE: torch.Tensor = self.fields(x_BN)
        for weight in self.weights:
            projected = (fields_BFE @ weight).view(*fields_BFE.shape[:2], 4, self.heads, self.head_size)
            query_BHFA, key_BHFA, value_BHFA, rest_BHFA = projected.permute(2, 0, 3, 1, 4)
            share_BHFF = torch.softmax(query_BHFA @ key_BHFA.mT, dim=-1)
            made_BHFA = torch.relu(share_BHFF @ value_BHFA + rest_BHFA)
            fields_BFE = made_BHFA.transpose(1, 2).flatten(2)
        return fields_BFE.flatten(1)


@dataclass(frozen=True, kw_only=True)
class CompressedInteraction(Stage):
    """xDeepFM's compressed interaction network (CIN), of feature maps of E numbers each.

        x^k_h = Σ_i Σ_j W^k_hij (x^{k-1}_i ⊙ x^0_j),   output: Σ_e x^k_he of all maps of all layers

    x^0 are the fields. With `split_half`, the first half of a layer's maps goes to the next layer and the second half
    to the output; the last layer's go to the output whole.
    """

    widths: tuple[int, ...]
    split_half: bool = False

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; Xavier uniform weights."""
        return CompressedInteractionModule(self, num_inputs, build)


class CompressedInteractionModule(StageModule):
    """Computes `CompressedInteraction`, with rows and places of E on the last axis.

    Of the first layer's products x_i ⊙ x_j and x_j ⊙ x_i one is made. Of maps that go to the output alone just the sum
    over E is needed, Σ_ij W_hij <x^{k-1}_i, x^0_j>: E times cheaper.
    """

    pairs: torch.Tensor

    def __init__(self, stage: CompressedInteraction, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.fields = FieldVectors(stage.name, num_inputs, build)
        num_fields = num_maps = self.fields.num_fields
        self.register_buffer("pairs", torch.triu_indices(num_fields, num_fields), persistent=False)
        self.weights, self.num_next, self.num_outputs = nn.ParameterList(), [], 0
        for layer, width in enumerate(stage.widths):
            generator = build.generator(f"{stage.name}.{layer}")
            start = start_weight(num_maps * num_fields, width, None, generator)
            self.weights.append(nn.Parameter(start.view(num_maps, num_fields, width)))
            is_last = layer == len(stage.widths) - 1
            num_maps = 0 if is_last else width // 2 if stage.split_half else width
            self.num_next.append(num_maps)
            self.num_outputs += width - num_maps if stage.split_half else width

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, maps that go to the output)."""
        first_FBE = maps_HBE = self.fields(x_BN).transpose(0, 1).contiguous()
        sums = []
        for weight_HFM, num_next in zip(self.weights, self.num_next, strict=True):
            before_HBE = maps_HBE
            if num_next:
                maps_HBE = self._maps(before_HBE, first_FBE, weight_HFM[:, :, :num_next])
            if num_next < weight_HFM.shape[2]:
                products_BHF = torch.bmm(before_HBE.transpose(0, 1), first_FBE.permute(1, 2, 0))
                sums.append(products_BHF.flatten(1) @ weight_HFM[:, :, num_next:].flatten(0, 1))
            else:
                sums.append(maps_HBE.sum(2).T)
        return torch.cat(sums, dim=1)

    def _maps(
        self, before_HBE: torch.Tensor, first_FBE: torch.Tensor, weight_HFM: torch.Tensor
    ) -> torch.Tensor:
        """Return the maps that a layer makes of those before it."""
        if before_HBE is first_FBE:
            i, j = self.pairs
            products = first_FBE.index_select(0, i) * first_FBE.index_select(0, j)
            weight = weight_HFM[i, j] + weight_HFM[j, i] * (i != j)[:, None]
        else:
            products, weight = (before_HBE[:, None] * first_FBE).flatten(0, 1), weight_HFM.flatten(0, 1)
        maps_HBE: torch.Tensor = (weight.T @ products.flatten(1)).view(-1, *first_FBE.shape[1:])
        return maps_HBE


@dataclass(frozen=True, kw_only=True)
class FeatureGate(Stage):
    """2 σ(MLP(x_s)) ⊙ z, FinalMLP's feature selection: x_s are the fields of a role.

    Without a role, or where no field has it, x_s is a learned vector, the same for all rows.
    """

    role: str | None
    hidden: int

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; one ReLU layer, weights as of a dense stage."""
        return FeatureGateModule(self, num_inputs, build)


class FeatureGateModule(StageModule):
    """Computes `FeatureGate`."""

    columns: torch.Tensor
    learned: nn.Parameter | None

    def __init__(self, stage: FeatureGate, num_inputs: int, build: Build) -> None:
        super().__init__()
        check_layout(stage.name, num_inputs, build.schema)
        self.num_outputs = num_inputs
        columns = _columns_of(stage.role, build.schema)
        self.register_buffer("columns", columns, persistent=False)
        start = torch.empty(1, build.schema.embedding_size)
        start.normal_(std=EMBEDDING_STD, generator=build.generator(f"{stage.name}.learned"))
        self.register_parameter("learned", None if len(columns) else nn.Parameter(start))
        hidden = Dense(name=f"{stage.name}.hidden", width=stage.hidden, activation="relu")
        output = Dense(name=f"{stage.name}.output", width=num_inputs)
        self.mlp = Chain((hidden, output), len(columns) or start.shape[1], build)

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, N)."""
        seen = x_BN.index_select(1, self.columns) if self.learned is None else self.learned
        gate: torch.Tensor = self.mlp(seen, context)
        return x_BN * (2.0 * torch.sigmoid(gate))


@dataclass(frozen=True, kw_only=True)
class AsEmbedded(Stage):
    """The embeddings as the network is given them, whatever a backbone's own stage at the input made of them."""

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module."""
        return AsEmbeddedModule(build.schema.num_inputs)


class AsEmbeddedModule(StageModule):
    """Computes `AsEmbedded`."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.num_outputs = num_outputs

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, width of z)."""
        return context.embeddings_BN


def _columns_of(role: str | None, schema: Schema) -> torch.Tensor:
    """Return the columns of z that the fields of a role have."""
    has_role = {field.name for field in schema.fields if role is not None and field.role == role}
    places = [
        torch.arange(place.start, place.stop) for name, place in schema.slices.items() if name in has_role
    ]
    return torch.cat(places) if places else torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True, kw_only=True)
class Branch(Stage):
    """Stages one after the other, as one stage."""

    stages: tuple[Stage, ...]

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module of the stages' modules."""
        return BranchModule(self, num_inputs, build)


class BranchModule(StageModule):
    """Computes `Branch`."""

    def __init__(self, stage: Branch, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.stages = Chain(stage.stages, num_inputs, build)
        self.num_outputs = self.stages.num_outputs

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, M)."""
        made_BM: torch.Tensor = self.stages(x_BN, context)
        return made_BM


@dataclass(frozen=True, kw_only=True)
class BilinearFusion(Stage):
    """[x ; Σ_h u_h^T W_h v_h]: the first `width` inputs u and all others v, both cut into as many parts as heads."""

    width: int
    heads: int

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; Xavier uniform W_h."""
        return BilinearFusionModule(self, num_inputs, build)


class BilinearFusionModule(StageModule):
    """Computes `BilinearFusion`."""

    def __init__(self, stage: BilinearFusion, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.width, self.num_outputs = stage.width, num_inputs + 1
        left, right = (width // stage.heads for width in (stage.width, num_inputs - stage.width))
        if (left * stage.heads, right * stage.heads) != (stage.width, num_inputs - stage.width):
            raise SettingError(
                "both streams must be wide enough to be cut into as many equal parts as heads",
                value=f"widths {stage.width} and {num_inputs - stage.width}, {stage.heads} heads",
                remedy="choose heads that divide both",
            )
        labels = (f"{stage.name}.{head}" for head in range(stage.heads))
        starts = [start_weight(left, right, None, build.generator(label)) for label in labels]
        self.weight = nn.Parameter(torch.stack(starts))

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, N + 1)."""
        shape, parts = (len(x_BN), len(self.weight), -1), (x_BN[:, : self.width], x_BN[:, self.width :])
        left_HBA, right_HBA = (part.reshape(shape).transpose(0, 1) for part in parts)
        term_B = (torch.bmm(left_HBA, self.weight) * right_HBA).sum((0, 2))
        return torch.cat([x_BN, term_B[:, None]], dim=1)


@dataclass(frozen=True, kw_only=True)
class ScaledCross(Stage):
    """A cross network of kernels W_l + s I, with s = `diag_scale` fixed and W_l as in `Cross`."""

    layers: int
    rank: int | None = None
    diag_scale: float

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; W_l start as those of the `Cross` of the same name."""
        cross = Cross(name=self.name, layers=self.layers, rank=self.rank)
        return ScaledCrossModule(cross, num_inputs, build, self.diag_scale)


class ScaledCrossModule(CrossModule):
    """Computes `ScaledCross`."""

    def __init__(self, stage: Cross, num_inputs: int, build: Build, diag_scale: float) -> None:
        super().__init__(stage, num_inputs, build)
        self.diag_scale = diag_scale

    def product(self, layer: int, x_BN: torch.Tensor) -> torch.Tensor:
        """Return W_l x + s x + b_l."""
        return torch.add(super().product(layer, x_BN), x_BN, alpha=self.diag_scale)


@dataclass(frozen=True, kw_only=True)
class CrossMix(Stage):
    """DCN-Mix: cross layers of low-rank experts that a gate mixes (Wang et al., DCN V2, WWW 2021; METHODS 5.1).

        x_{l+1} = x_0 ⊙ (Σ_k G_k(x_l) U_k g(C_k g(V_k^T x_l)) + b_l) + x_l,   g = tanh

    G = softmax over experts of a linear map of x_l, one a layer. The gates add up to one, so the bias, which the
    experts of a layer share, leaves the sum. Without a rank it is a quarter of the inputs.
    """

    layers: int
    experts: int
    rank: int | None = None

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; Xavier normal U_k, C_k and V_k, Xavier uniform gates, zero biases."""
        return CrossMixModule(self, num_inputs, build)


class CrossMixModule(StageModule):
    """Computes `CrossMix`; the experts' V_k, and their U_k, stand side by side in one matrix a layer."""

    def __init__(self, stage: CrossMix, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.num_outputs, self.experts = num_inputs, stage.experts
        self.rank = stage.rank or max(1, num_inputs // 4)
        shapes = {"down": (num_inputs, self.rank), "core": (self.rank,) * 2, "up": (self.rank, num_inputs)}
        self.layers = nn.ModuleList()
        for layer in range(stage.layers):
            label, places = f"{stage.name}.{layer}", range(stage.experts)
            down, core, up = (
                [_xavier_normal(shape, build, f"{label}.{part}.{place}") for place in places]
                for part, shape in shapes.items()
            )
            gate = start_weight(num_inputs, stage.experts, None, build.generator(f"{label}.gate"))
            parts = {"down": torch.cat(down, 1), "core": torch.stack(core), "up": torch.cat(up), "gate": gate}
            parts["bias"] = torch.zeros(num_inputs)
            self.layers.append(nn.ParameterDict({key: nn.Parameter(value) for key, value in parts.items()}))

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, N)."""
        x0_BN = x_BN
        for part in self.layers:
            assert isinstance(part, nn.ParameterDict)
            gate_BH1 = torch.softmax(x_BN @ part["gate"], dim=1)[:, :, None]
            inner_BHR = torch.tanh(x_BN @ part["down"]).view(-1, self.experts, self.rank)
            core_BHR = torch.tanh(torch.bmm(inner_BHR.transpose(0, 1), part["core"])).transpose(0, 1)
            product_BN = torch.addmm(part["bias"], (gate_BH1 * core_BHR).flatten(1), part["up"])
            x_BN = torch.addcmul(x_BN, x0_BN, product_BN)
        return x_BN


def _xavier_normal(shape: tuple[int, ...], build: Build, label: str) -> torch.Tensor:
    weight = torch.empty(shape)
    nn.init.xavier_normal_(weight, generator=build.generator(label))
    return weight
