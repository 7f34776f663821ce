"""Stages and parts that backbones and several methods share; the dense layer itself stands with the plan.

What a single method needs stands in that method's file.

Shapes in names: B rows, N inputs, M outputs, G groups present in the batch, K layers side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import nn
from torch.nn import functional

from ctrbench.errors import SettingError
from ctrbench.nn.exchange import Groups, Team
from ctrbench.nn.kernels import Array, compiled
from ctrbench.nn.plan import Build, Dense, Schema, Stage, StageModule, activate, start_weight
from ctrbench.nn.routing import Routing
from ctrbench.nn.tables import EMBEDDING_STD, RowTable

if TYPE_CHECKING:
    from ctrbench.nn.model import Context

Moments = tuple[torch.Tensor, torch.Tensor]
"""Mean and variance."""
CONSTANT = 1e-3
"""Share of ε below which a variance is rounding: the column is constant, among all rows or within the domain."""


def domain_table(num_indicators: int, start: torch.Tensor) -> RowTable:
    """Make per-domain parameters that all start alike: rows 0..num_indicators of the shape of `start`.

    Row 0, the unseen domain's, meets no training row and so stays what it is at the start.
    """
    rows = start.unsqueeze(0).expand(num_indicators + 1, *start.shape).clone()
    return RowTable(rows, "domain")


@dataclass(frozen=True, kw_only=True)
class DomainDense(Dense):
    """φ(x W_p + b_p), nothing shared; an unseen domain takes the largest domain's (METHODS 0.4).

    All domains start at the weights of the dense stage of the same name.
    """

    @classmethod
    def like(cls, dense: Dense) -> Self:
        """Return the stage that stands in for a dense one."""
        return cls(name=dense.name, width=dense.width, activation=dense.activation)

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; as `Dense`, for every domain alike."""
        return DomainDenseModule(self, num_inputs, build)


class DomainDenseModule(StageModule):
    """Computes `DomainDense`; a row meets its own domain's matrix only."""

    def __init__(self, stage: DomainDense, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.num_outputs, self.activation = stage.width, stage.activation
        generator = build.generator(f"{stage.name}.weight")
        weight = start_weight(num_inputs, stage.width, stage.activation, generator)
        # One table for both, the bias as the last row: a table costs a gather and a scatter a step.
        start = torch.cat([weight, torch.zeros(1, stage.width)])
        self.domain = domain_table(build.schema.num_indicators, start)

    @property
    def bias(self) -> nn.Parameter:
        """The biases of all domains, where the table holds them: a model sets how its output starts."""
        return nn.Parameter(self.domain.weight.detach()[:, -1], requires_grad=False)

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, M)."""
        routing = context.known_routing
        own_GNM = context.read(self.domain, routing)
        product_BM = routing.linear(x_BN, own_GNM[:, :-1])
        return activate(product_BM + routing.spread(own_GNM[:, -1]), self.activation)


@dataclass(frozen=True, kw_only=True)
class StarDense(Dense):
    """φ(x (W ⊙ W_p) + b + b_p); W starts as the dense stage's of the same name (STAR, METHODS 2.4).

    W_p starts at one and b_p at zero, and there they stay for the unseen domain. With `is_double` each W_p but that one
    is drawn at random, as W is.
    """

    is_double: bool = False

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module."""
        return StarDenseModule(self, num_inputs, build)


class StarDenseModule(StageModule):
    """Computes `StarDense`; a row meets its own domain's matrix only."""

    def __init__(self, stage: StarDense, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.num_outputs, self.activation = stage.width, stage.activation
        generator = build.generator(f"{stage.name}.weight")
        self.weight = nn.Parameter(start_weight(num_inputs, stage.width, stage.activation, generator))
        self.bias = nn.Parameter(torch.zeros(stage.width))
        # One table for both, the bias as the last row: a table costs a gather and a scatter a step.
        start = torch.cat([torch.ones(num_inputs, stage.width), torch.zeros(1, stage.width)])
        self.domain = domain_table(build.schema.num_indicators, start)
        generator = build.generator(f"{stage.name}.domain")
        for row in self.domain.weight.detach()[1:] if stage.is_double else ():
            row[:-1] = start_weight(num_inputs, stage.width, stage.activation, generator)

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, M)."""
        weight_GNM, bias_G1M = torch.split(context.read(self.domain), [len(self.weight), 1], dim=1)
        routing, bias_GM = context.routing, self.bias + bias_G1M[:, 0]
        bias_BM = bias_GM if routing.num_groups == 1 else bias_GM.index_select(0, routing.index_B)
        return activate(routing.linear(x_BN, self.weight * weight_GNM) + bias_BM, self.activation)


class DenseBank(nn.Module):
    """K dense layers side by side, each with a start of its own."""

    def __init__(self, dense: Dense, num_layers: int, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.num_outputs, self.activation = dense.width, dense.activation
        starts = [
            start_weight(
                num_inputs, dense.width, dense.activation, build.generator(f"{dense.name}.{place}.weight")
            )
            for place in range(num_layers)
        ]
        self.weight = nn.Parameter(torch.stack(starts))
        self.bias = nn.Parameter(torch.zeros(num_layers, 1, dense.width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same rows (B, N), or each layer's own (K, B, N), to (K, B, M)."""
        if x.dim() == 2:
            x = x.expand(len(self.weight), *x.shape)
        return activate(torch.baddbmm(self.bias, x, self.weight), self.activation)


class TowerBank(nn.Sequential):
    """K towers side by side, layer by layer; the experts of mixtures."""

    of_domains = False
    """Whether each tower belongs to a domain."""

    def __init__(self, tower: tuple[Dense, ...], num_towers: int, num_inputs: int, build: Build) -> None:
        widths = [num_inputs, *(dense.width for dense in tower)]
        super().__init__(
            *(DenseBank(dense, num_towers, width, build) for dense, width in zip(tower, widths, strict=False))
        )
        self.num_outputs = widths[-1]


def mixed(weight_BK: torch.Tensor, x_KBM: torch.Tensor) -> torch.Tensor:
    """Return Σ_k weight_k x_k of each row, (B, K) or (1, K) and (K, B, M) to (B, M)."""
    return (weight_BK.T[:, :, None] * x_KBM).sum(0)


def own_rows(x_PBM: torch.Tensor, routing: Routing) -> torch.Tensor:
    """Return of what was computed for every domain what is a row's own: (P, B, M), domain 1 first, to (B, M)."""
    place_B = routing.present_G.index_select(0, routing.index_B) - 1
    return x_PBM.gather(0, place_B[None, :, None].expand(1, *x_PBM.shape[1:])).squeeze(0)


def dense_part(tower: tuple[Stage, ...]) -> tuple[tuple[Stage, ...], tuple[Dense, ...]]:
    """Split a tower into what stands before its dense stages, such as a gate, and these.

    There are none where the tower does not end in them, or has something between them.
    """
    first = next((place for place, stage in enumerate(tower) if isinstance(stage, Dense)), len(tower))
    dense = tuple(stage for stage in tower[first:] if isinstance(stage, Dense))
    return (tower[:first], dense) if len(dense) == len(tower) - first else (tower, ())


def named(tower: tuple[Dense, ...], prefix: str) -> tuple[Dense, ...]:
    """Return the tower under names of its own, so that it starts apart from others of the same widths."""
    return tuple(replace(dense, name=f"{prefix}.{dense.name}") for dense in tower)


def refuse_many_domains(schema: Schema, most: int) -> None:
    """Refuse more domains than the setting `max_domains` lets every row run through."""
    if schema.num_indicators > most:
        raise SettingError(
            f"every row runs through a part of each domain, so max_domains allows {most} domains",
            value=f"{schema.num_indicators} domains",
            remedy="name a domain feature of fewer values by --indicator, or raise max_domains",
        )


@dataclass(frozen=True, kw_only=True)
class BatchNorm(Stage):
    """Batch normalisation: γ ⊙ (x - μ) / √(s² + ε) + β, with moments of the batch in training, running ones after.

    Running moments move by max(η, 1 / (k + 1)) at the k-th batch from 0 on, as in `PartitionedNorm`. A batch of one row
    has no variance; it is normalised with running moments. Where these say that a column is constant, it is zero after
    normalisation, as it is within a batch: its mean lags behind an embedding that still moves, and would be divided by
    next to nothing.
    """

    momentum: float = 0.01
    eps: float = 1e-5

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; γ = 1, β = 0, running moments 0 and 1."""
        return BatchNormModule(self, num_inputs)


class BatchNormModule(StageModule):
    """Computes `BatchNorm`; moments are buffers, updated in training mode only."""

    mean: torch.Tensor
    variance: torch.Tensor
    batches: torch.Tensor

    def __init__(self, stage: BatchNorm, num_inputs: int) -> None:
        super().__init__()
        self.num_outputs, self.stage = num_inputs, stage
        self.scale, self.shift = nn.Parameter(torch.ones(num_inputs)), nn.Parameter(torch.zeros(num_inputs))
        self.register_buffer("mean", torch.zeros(num_inputs))
        self.register_buffer("variance", torch.ones(num_inputs))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, N)."""
        if self.training and context.team is not None:
            return self._over_workers(x_BN, context.team)
        eps = self.stage.eps
        if not self.training or len(x_BN) == 1:
            return self._by_running(x_BN)
        found: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = torch.native_batch_norm(
            x_BN, self.scale, self.shift, None, None, True, 0.0, eps
        )
        self._update(found[1].detach(), found[2].detach(), len(x_BN))
        return found[0]

    def _by_running(self, x_BN: torch.Tensor) -> torch.Tensor:
        eps = self.stage.eps
        is_constant = self.variance < CONSTANT * eps
        variance = self.variance.masked_fill(is_constant, float("inf"))
        return functional.batch_norm(x_BN, self.mean, variance, self.scale, self.shift, eps=eps)

    def _over_workers(self, x_BN: torch.Tensor, team: Team) -> torch.Tensor:
        """Normalise by the moments of all workers' rows."""
        sums = team.total(torch.cat([x_BN.sum(0), x_BN.new_full((1,), len(x_BN))]))
        num_rows = round(float(sums[-1].detach()))
        if num_rows == 1:
            return self._by_running(x_BN)
        mean_N = sums[:-1] / num_rows
        # The sum of squares does not change with the mean to first order, so its gradient need not pass there.
        squares_N = team.total((x_BN - mean_N.detach()).square().sum(0))
        root_N = torch.rsqrt(squares_N / num_rows + self.stage.eps)
        self._update(mean_N.detach(), root_N.detach(), num_rows)
        scale_N = self.scale * root_N
        return torch.addcmul(self.shift - mean_N * scale_N, x_BN, scale_N)

    @torch.no_grad()
    def _update(self, mean_N: torch.Tensor, root_N: torch.Tensor, num_rows: int) -> None:
        share = (1.0 / (self.batches + 1.0)).clamp_min(self.stage.momentum)
        variance_N = (root_N**-2.0 - self.stage.eps).clamp_min(0.0) * (num_rows / (num_rows - 1))
        self.mean.lerp_(mean_N, share)
        self.variance.lerp_(variance_N, share)
        self.batches.add_(1.0)


@dataclass(frozen=True, kw_only=True)
class LayerNorm(Stage):
    """Layer normalisation of each row: γ ⊙ (x - μ) / √(s² + ε) + β, moments over the row's numbers."""

    eps: float = 1e-5

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; γ = 1, β = 0."""
        return LayerNormModule(self, num_inputs)


class LayerNormModule(StageModule):
    """Computes `LayerNorm`."""

    def __init__(self, stage: LayerNorm, num_inputs: int) -> None:
        super().__init__()
        self.num_outputs, self.stage = num_inputs, stage
        self.scale, self.shift = nn.Parameter(torch.ones(num_inputs)), nn.Parameter(torch.zeros(num_inputs))

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, N)."""
        return functional.layer_norm(x_BN, [self.num_outputs], self.scale, self.shift, self.stage.eps)


@dataclass(frozen=True, kw_only=True)
class Auxiliary(Stage):
    """The logit of a small network that the domains share, all but their row of emb(p) (STAR, METHODS 2.5).

    It sees [emb(p) ; z], or [emb(p) ; e_d], as the embeddings made them. The unseen domain's emb(p) stays at zero.
    """

    hidden: int = 32
    embedding: int = 16
    sees: Literal["all", "domain"] = "all"

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; its output starts at zero."""
        return AuxiliaryModule(self, num_inputs, build)


class AuxiliaryModule(StageModule):
    """Computes `Auxiliary` on the embeddings as they are, not normalised."""

    num_outputs = 1

    def __init__(self, stage: Auxiliary, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.sees = stage.sees
        rows = torch.zeros(build.schema.num_indicators + 1, stage.embedding)
        rows[1:].normal_(std=EMBEDDING_STD, generator=build.generator(f"{stage.name}.embedding"))
        self.embedding = RowTable(rows, "domain")
        seen = num_inputs if stage.sees == "all" else build.schema.domain_width
        hidden = Dense(name=f"{stage.name}.hidden", width=stage.hidden, activation="relu")
        output = Dense(name=f"{stage.name}.output", width=1)
        self.hidden = hidden.build(stage.embedding + seen, build)
        self.output = output.build(stage.hidden, build)
        nn.init.zeros_(self.output.get_parameter("weight"))

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, 1)."""
        own_GE, seen_BN = context.read(self.embedding), x_BN if self.sees == "all" else context.domain_BE
        # [emb(p) ; z] W + b, of which the part of emb(p) is computed once a domain.
        sizes = [own_GE.shape[1], seen_BN.shape[1]]
        weight_EM, weight_NM = torch.split(self.hidden.get_parameter("weight"), sizes)
        own_GM = torch.addmm(self.hidden.get_parameter("bias"), own_GE, weight_EM)
        hidden_BM = torch.relu(seen_BN @ weight_NM + context.routing.spread(own_GM))
        logit_B1: torch.Tensor = self.output(hidden_BM, context)
        return logit_B1


FULL_RANK_INPUTS = 1024


@dataclass(frozen=True, kw_only=True)
class Cross(Stage):
    """DCNv2's cross network, x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l; with `rank`, W_l = U_l V_l^T.

    Wang et al., DCN V2, WWW 2021 (METHODS 5). The bias stands inside the Hadamard product. Without a rank, kernels are
    full up to 1,024 inputs and have a quarter of the inputs as rank above.
    """

    layers: int
    rank: int | None = None

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; Xavier normal kernels, zero biases."""
        return CrossModule(self, num_inputs, build)


class CrossModule(StageModule):
    """Computes `Cross`; the width stays what it is."""

    def __init__(self, stage: Cross, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.num_outputs = num_inputs
        rank = stage.rank or (num_inputs // 4 if num_inputs > FULL_RANK_INPUTS else None)
        shapes = [(num_inputs, rank), (rank, num_inputs)] if rank else [(num_inputs, num_inputs)]
        self.kernels = nn.ModuleList()
        for layer in range(stage.layers):
            factors = nn.ParameterList()
            for place, shape in enumerate(shapes):
                weight = torch.empty(shape)
                generator = build.generator(f"{stage.name}.{layer}.{place}")
                nn.init.xavier_normal_(weight, generator=generator)
                factors.append(nn.Parameter(weight))
            self.kernels.append(factors)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(num_inputs)) for _ in range(stage.layers))

    def enter(self, layer: int, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """Return what enters the matrix of a layer; a method may gate it."""
        return x_BN

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, N)."""
        x0_BN = x_BN
        for layer in range(len(self.kernels)):
            x_BN = torch.addcmul(x_BN, x0_BN, self.product(layer, self.enter(layer, x_BN, context)))
        return x_BN

    def product(self, layer: int, x_BN: torch.Tensor) -> torch.Tensor:
        """Return W_l x + b_l."""
        factors = self.kernels[layer]
        assert isinstance(factors, nn.ParameterList)
        *weights, last = factors
        for weight in weights:
            x_BN = x_BN @ weight
        return torch.addmm(self.biases[layer], x_BN, last)


@dataclass(frozen=True, kw_only=True)
class PartitionedNorm(Stage):
    """Batch normalisation with moments and affine parameters of each domain's own.

    Sheng et al., STAR, CIKM 2021, equations 3-4 (METHODS 2.2-2.3):

        z' = (γ ⊙ γ_p) ⊙ (z - μ) / √(s² + ε) + (β + β_p)

    In training μ and s² are the moments of the domain's rows in the batch. Domains with fewer than `smallest` rows
    there, and all domains in eval mode, take running moments, shrunk towards those of all rows as if `shrinkage` rows
    of the whole had been seen beside the domain's own. The unseen domain has seen none, so it takes the global ones.

    A running moment moves by max(η, n / (n_p + n)), n rows of the batch and n_p seen before: 1/(k+1) at the k-th full
    batch, η later. A domain below `smallest` moves by max(η n/B, n / (n_p + n)): a plain η n/B would leave what is
    nearly the made-up start, variance one, for the whole training. For variances, read n - 1 for n,
    here and in the shrinkage. Rows of a domain below `smallest` are normalised after the update, and so enter their own
    moments.

    A column that is constant within a domain, such as the domain's own embedding, is zero after normalisation in
    training. Its running mean lags behind a weight that still moves, divided by next to nothing, so running moments
    would make noise of it; there it is zero as well.
    """

    momentum: float = 0.01
    eps: float = 1e-5
    shrinkage: float = 1000.0
    smallest: int = 32
    scale: float = 1.0
    """γ at the start; with zero, what follows the stage starts as if it were not there."""

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; γ_p = 1, β = β_p = 0, E_p = 0, Var_p = 1."""
        return PartitionedNormModule(self, num_inputs, build)


class PartitionedNormModule(StageModule):
    """Computes `PartitionedNorm`; moments are buffers, updated in training mode only."""

    mean: torch.Tensor
    variance: torch.Tensor
    seen: torch.Tensor
    """Rows seen of each domain, and the degrees of freedom of its variance: rows less batches."""
    global_mean: torch.Tensor
    global_variance: torch.Tensor

    def __init__(self, stage: PartitionedNorm, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.num_outputs, self.stage = num_inputs, stage
        num_indicators = build.schema.num_indicators
        one, zero = torch.ones(num_inputs), torch.zeros(num_inputs)
        self.scale, self.shift = nn.Parameter(stage.scale * one), nn.Parameter(zero.clone())
        self.domain_affine = domain_table(num_indicators, torch.stack([one, zero]))
        self.register_buffer("mean", torch.zeros(num_indicators + 1, num_inputs))
        self.register_buffer("variance", torch.ones(num_indicators + 1, num_inputs))
        self.register_buffer("seen", torch.zeros(num_indicators + 1, 2, dtype=torch.int64))
        self.register_buffer("global_mean", zero)
        self.register_buffer("global_variance", one)

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, N)."""
        routing = context.routing
        scale_p, shift_p = context.read(self.domain_affine).unbind(1)
        scale_GN, shift_GN = self.scale * scale_p, self.shift + shift_p
        team = context.team
        is_full = routing.smallest >= self.stage.smallest
        if self.training and is_full and routing.num_groups == 1 and team is None:
            return self._batch_norm(x_BN, scale_GN[0], shift_GN[0], routing)
        moments = self._of_batch(x_BN, routing, team) if self.training else self.running(routing.present_G)
        mean_GN, variance_GN = moments
        scale_GN = scale_GN * torch.rsqrt(variance_GN + self.stage.eps)
        return torch.addcmul(routing.spread(shift_GN - mean_GN * scale_GN), x_BN, routing.spread(scale_GN))

    def _batch_norm(
        self, x_BN: torch.Tensor, scale_N: torch.Tensor, shift_N: torch.Tensor, routing: Routing
    ) -> torch.Tensor:
        """Normalise the rows of one domain: torch's batch normalisation, in few passes."""
        eps = self.stage.eps
        x_BN, mean_N, root_N = torch.native_batch_norm(x_BN, scale_N, shift_N, None, None, True, 0.0, eps)
        variance_N = (root_N.detach() ** -2.0 - eps).clamp_min(0.0)
        self._update(mean_N.detach()[None], len(x_BN) * variance_N[None], Groups.of(routing, None))
        return x_BN

    def running(self, present_G: torch.Tensor) -> Moments:
        """Return the shrunk running moments (G, N) of some domains; infinite variance where a column is constant."""
        seen_G2 = self.seen[present_G].to(self.mean.dtype)
        weight_G1, weight_of_variance_G1 = _columns(seen_G2 / (seen_G2 + self.stage.shrinkage))
        own_mean, own_variance = self.mean[present_G], self.variance[present_G]
        between = weight_G1 * (1.0 - weight_G1) * (own_mean - self.global_mean).square()
        variance_GN = torch.lerp(self.global_variance, own_variance, weight_of_variance_G1) + between
        is_constant = (own_variance < CONSTANT * self.stage.eps) & (weight_of_variance_G1 >= 0.5)
        mean_GN = torch.lerp(self.global_mean, own_mean, weight_G1)
        return mean_GN, variance_GN.masked_fill(is_constant, float("inf"))

    def _of_batch(self, x_BN: torch.Tensor, routing: Routing, team: Team | None) -> Moments:
        groups = Groups.of(routing, team)
        rows_G1 = groups.counts_G[:, None]
        mean_GN = groups.total(routing.sum(x_BN)) / rows_G1
        # The sum of squares does not change with the mean to first order, so its gradient need not pass there.
        apart_BN = x_BN - routing.spread(groups.own(mean_GN.detach()))
        squares_GN = groups.total(routing.sum(apart_BN.square()))
        variance_GN = squares_GN / rows_G1
        self._update(mean_GN.detach(), squares_GN.detach(), groups)
        mean_GN, variance_GN, rows_G1 = (groups.own(one) for one in (mean_GN, variance_GN, rows_G1))
        if team is None and routing.smallest >= self.stage.smallest:
            return mean_GN, variance_GN
        # Read after the update: before the first one, nothing but a made-up start is known.
        running, is_full = self.running(routing.present_G), rows_G1 >= self.stage.smallest
        return torch.where(is_full, mean_GN, running[0]), torch.where(is_full, variance_GN, running[1])

    @torch.no_grad()
    def _update(self, mean_GN: torch.Tensor, squares_GN: torch.Tensor, groups: Groups) -> None:
        """Take note of the batch's means and sums of squares around them."""
        if mean_GN.device.type != "cpu":
            self.update_by_tensors(mean_GN, squares_GN, groups)
            return
        _update_moments(
            self.mean.numpy(), self.variance.numpy(), self.seen.numpy(),
            self.global_mean.numpy(), self.global_variance.numpy(),
            mean_GN.numpy(), squares_GN.numpy(), groups.counts_G.numpy(), groups.present_G.numpy(),
            self.stage.momentum, self.stage.smallest,
        )  # fmt: skip

    def update_by_tensors(self, mean_GN: torch.Tensor, squares_GN: torch.Tensor, groups: Groups) -> None:
        """Do the same by operations that any device has."""
        rows_G, present_G = groups.counts_G, groups.present_G
        # Rows inform the mean, rows less one the variance, which is taken around each batch's own mean.
        counts_G2 = torch.stack([rows_G, rows_G - 1], dim=1)
        new_G2 = counts_G2.to(mean_GN.dtype)
        self._update_global(mean_GN, squares_GN, new_G2[:, :1])
        self.seen[present_G] += counts_G2
        weight_G1, weight_of_variance_G1 = _columns(self._weights(new_G2, self.seen[present_G]))
        variance_GN = squares_GN / new_G2[:, 1:].clamp_min(1.0)
        self.mean[present_G] = torch.lerp(self.mean[present_G], mean_GN, weight_G1)
        self.variance[present_G] = torch.lerp(self.variance[present_G], variance_GN, weight_of_variance_G1)

    def _weights(self, new_G2: torch.Tensor, seen_G2: torch.Tensor) -> torch.Tensor:
        """Weigh the batch's moments against the running ones; a single row says nothing of a variance."""
        rows_G1 = new_G2[:, :1]
        floor_G1 = torch.where(rows_G1 < self.stage.smallest, rows_G1 / rows_G1.sum(), 1.0)
        return (new_G2 / seen_G2.clamp_min(1)).maximum(self.stage.momentum * floor_G1) * (new_G2 > 0)

    def _update_global(self, mean_GN: torch.Tensor, squares_GN: torch.Tensor, rows_G1: torch.Tensor) -> None:
        rows = rows_G1.sum()
        mean = (rows_G1 * mean_GN).sum(0) / rows
        variance = (squares_GN + rows_G1 * (mean_GN - mean).square()).sum(0) / rows
        weight = (rows / (self.seen[:, 0].sum() + rows)).clamp_min(self.stage.momentum)
        between = weight * (1.0 - weight) * (mean - self.global_mean).square()
        self.global_mean.lerp_(mean, weight)
        self.global_variance.lerp_(variance, weight).add_(between)


def _columns(pairs_G2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return pairs_G2[:, :1], pairs_G2[:, 1:]


@compiled
def _update_moments(
    mean_RN: Array,
    variance_RN: Array,
    seen_R2: Array,
    global_mean_N: Array,
    global_variance_N: Array,
    batch_mean_GN: Array,
    squares_GN: Array,
    rows_G: Array,
    present_G: Array,
    momentum: float,
    smallest: int,
) -> None:
    """Move the running moments of all rows, then those of each domain present, as `PartitionedNorm` says."""
    rows = rows_G.sum()
    weight = max(rows / (seen_R2[:, 0].sum() + rows), momentum)
    for j in range(len(global_mean_N)):
        mean, squares = 0.0, 0.0
        for g in range(len(rows_G)):
            mean += rows_G[g] * batch_mean_GN[g, j] / rows
        for g in range(len(rows_G)):
            squares += squares_GN[g, j] + rows_G[g] * (batch_mean_GN[g, j] - mean) ** 2
        apart = mean - global_mean_N[j]
        global_mean_N[j] += weight * apart
        global_variance_N[j] += weight * (squares / rows - global_variance_N[j])
        global_variance_N[j] += weight * (1.0 - weight) * apart * apart
    for g in range(len(rows_G)):
        row, new = present_G[g], rows_G[g]
        seen_R2[row, 0] += new
        seen_R2[row, 1] += new - 1
        least = momentum * (new / rows if new < smallest else 1.0)
        of_mean = max(new / seen_R2[row, 0], least)
        of_variance = max((new - 1) / max(seen_R2[row, 1], 1), least) if new > 1 else 0.0
        scale = 1.0 / max(new - 1, 1)
        for j in range(len(global_mean_N)):
            mean_RN[row, j] += of_mean * (batch_mean_GN[g, j] - mean_RN[row, j])
            variance_RN[row, j] += of_variance * (squares_GN[g, j] * scale - variance_RN[row, j])
