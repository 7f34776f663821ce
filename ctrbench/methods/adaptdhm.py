"""AdaptDHM (ADL): rows fall into clusters that the model finds; each cluster has shared weights times its own.

Paper: Li et al., AdaptDHM: Adaptive Distribution Hierarchical Model for Multi-Domain CTR Prediction, arXiv 2211.12105
Year: 2022

Conditions on: the cluster of all the row's embeddings
Grows with domains: nothing

METHODS 7.8. K centres c_k of length one stand among the embeddings e of a row, whatever the tower is given. In
training, three times a batch of B rows, and without gradient,

    r_i = softmax_k(x_i c_k / τ)        c_k ← normalise(β c_k + (1 - β) / B Σ_i r_ik x_i)

with x = (e - m) / |e - m|. The batch has first moved m, the running mean of e, by max(0.01, 1 / (k + 1)) at the k-th
batch from 0 on. Then, and alone in evaluation, a row's cluster is k = argmax x c_k, and at every dense stage of tower
and head

    W_k* = W ⊙ W_k,  b_k* = b + b_k

W_k = 1 and b_k = 0 at the start, so the model starts as its backbone. A cluster that none of the last `reseed_after`
training rows chose takes the place of a random row of the batch. The log has each cluster's share of the batch.

Departures: METHODS has x = e, no τ and no B; `routing=published` is that. With embeddings as small as ours all r are
then 1/K and the centres fall together. Rows of length one alone do not keep them apart: that takes λ / τ above the
length of x's mean, with λ the largest eigenvalue of x's covariance. Measured on the made-up IAAC data (K = 3, E = 16,
batches of 256) from step 380 to 1160, λ / τ was 0.3 to 0.5 and the length 0.4 to 0.5 without m, 0.4 to 0.8 and
0.1 to 0.2 with it:

                          1 - largest cosine    rows that change cluster in 20 steps    float32 chooses as float64
    published                     0                            46 %                            32 to 81 %
    length one, without m         0                            29 %                            45 to 100 %
    length one, with m       0.7 to 1.2                        2 %                               100 %

Readings: e holds all embeddings but no plain number, which of size one beside 0.05 would choose the clusters alone;
interactions stay shared, as in STAR; W_k are dense parameters under ordinary Adam, which moves those of a cluster that
a batch lacks by their momentum. In the runs above each of three clusters had 18 % of the rows or more with m; with
`published` clusters come and go, and one was started anew every nine batches.

On the CPU rows are grouped by cluster and a row meets its own matrix only. On other devices cluster ids are not at hand
without waiting, so all K products are made and a row takes its own: K times the multiplications of a tower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import nn
from torch.nn import functional

from ctrbench.extend import (
    Build,
    Context,
    Dense,
    Field,
    Method,
    Plan,
    Routing,
    Stage,
    StageModule,
    activate,
    full_precision,
    model_validator,
    start_weight,
)

ITERATIONS = 3
"""Routing iterations a training batch."""
MEAN_MOMENTUM = 0.01
"""Least weight η of a batch's mean in the running one."""
KEY = "adaptdhm.clusters"


class Adaptdhm(Method):
    """Dense stages of clusters' own, and the routing that finds the clusters."""

    clusters: int = Field(default=3, ge=2)
    """K."""
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    """β, how much of a centre is kept."""
    routing: Literal["spherical", "published"] = "spherical"
    """How centres move: among centred rows of length one by their mean, or by the published formula."""
    temperature: float = Field(default=0.1, gt=0.0)
    """τ, the smaller the sharper."""
    reseed_after: int = Field(default=1024, ge=1)
    """Training rows after which a cluster that none of them chose starts anew."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.routing == "published" and self.temperature != type(self).model_fields["temperature"].default:
            raise ValueError("temperature has no effect with routing=published; leave it out")
        return self

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with the routing at the input and clusters' own weights at each dense stage."""

        def clustered(dense: Dense) -> Stage:
            return ClusterDense(
                name=dense.name, width=dense.width, activation=dense.activation, clusters=self.clusters
            )

        return plan.with_input(ClusterRouting(name="clusters", settings=self)).map_dense(clustered)

    def supports(self, plan: Plan) -> str | None:
        """Refuse plans without dense stages."""
        has_dense = any(isinstance(stage, Dense) for stage in (*plan.tower, *plan.head))
        return None if has_dense else "clusters own weights of dense stages, and this plan has none"

    @property
    def starts_as_backbone(self) -> float:
        """Up to rounding: with W_k = 1 and b_k = 0, W ⊙ W_k is W."""
        return 1e-5


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """Which rows of a batch belong to which cluster."""

    cluster_B: torch.Tensor
    routing: Routing | None
    """The rows grouped by cluster, where ids are at hand without waiting for a device."""

    @classmethod
    def of(cls, cluster_B: torch.Tensor) -> Clusters:
        """Group the rows, on the CPU."""
        return cls(
            cluster_B=cluster_B, routing=Routing(cluster_B) if cluster_B.device.type == "cpu" else None
        )

    def linear(self, x_BN: torch.Tensor, weight_KNM: torch.Tensor, bias_KM: torch.Tensor) -> torch.Tensor:
        """Return x W_k + b_k with each row's own k."""
        if self.routing is not None:
            present_G = self.routing.present_G
            product_BM = self.routing.linear(x_BN, weight_KNM.index_select(0, present_G))
            return product_BM + self.routing.spread(bias_KM.index_select(0, present_G))
        # In full precision, as the products of rows grouped by cluster are.
        with full_precision(x_BN.device):
            x_KBN = x_BN.to(weight_KNM.dtype).expand(len(weight_KNM), *x_BN.shape)
            all_KBM = torch.baddbmm(bias_KM[:, None], x_KBN, weight_KNM)
        return all_KBM.gather(0, self.cluster_B[None, :, None].expand(1, *all_KBM.shape[1:])).squeeze(0)


@dataclass(frozen=True, kw_only=True)
class ClusterRouting(Stage):
    """Finds each row's cluster and leaves the rows as they are."""

    settings: Adaptdhm

    def build(self, num_inputs: int, build: Build) -> ClusterRoutingModule:
        """Make the module; centres in random directions."""
        return ClusterRoutingModule(self, num_inputs, build)


class ClusterRoutingModule(StageModule):
    """Computes `ClusterRouting`; centres are buffers, moved in training mode only."""

    refuses_workers = "its clusters move with a batch's rows and start anew at random ones"
    centre: torch.Tensor
    mean: torch.Tensor
    """Running mean of the embedding vectors; stays at zero with `published`."""
    batches: torch.Tensor
    idle: torch.Tensor
    """Training rows seen since one chose the cluster."""

    def __init__(self, stage: ClusterRouting, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.name, self.settings, self.num_outputs = stage.name, stage.settings, num_inputs
        self.is_spherical = self.settings.routing == "spherical"
        # Plain numbers stand last in z.
        self.num_embedded = build.schema.num_inputs - len(build.schema.numeric_fields)
        centre_KN = torch.empty(self.settings.clusters, self.num_embedded)
        centre_KN.normal_(generator=build.generator(f"{stage.name}.centre"))
        self.register_buffer("centre", functional.normalize(centre_KN))
        self.register_buffer("mean", torch.zeros(self.num_embedded))
        self.register_buffer("batches", torch.zeros(()))
        self.register_buffer("idle", torch.zeros(self.settings.clusters, dtype=torch.int64))

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to the same."""
        # In full precision and not by autocast: a row's cluster must not depend on it.
        with torch.no_grad(), full_precision(x_BN.device):
            rows_BN = self._rows(context.z_BN[:, : self.num_embedded])
            if self.training:
                self._move(rows_BN)
            cluster_B = (rows_BN @ self.centre.T).argmax(1)
            if self.training:
                self._count(cluster_B, rows_BN, context)
        # A context has no field for what one method's stages share about a batch, and its copies shall not have it.
        context.shared[KEY] = Clusters.of(cluster_B)
        return x_BN

    def _rows(self, embedded_BN: torch.Tensor) -> torch.Tensor:
        """Return x of each row; in training the mean moves first, or the first batch would know none."""
        if not self.is_spherical:
            return embedded_BN
        if self.training:
            self.mean.lerp_(embedded_BN.mean(0), (1.0 / (self.batches + 1.0)).clamp_min(MEAN_MOMENTUM))
            self.batches.add_(1.0)
        return functional.normalize(embedded_BN - self.mean)

    def _move(self, rows_BN: torch.Tensor) -> None:
        beta, sharpness, weight = self.settings.momentum, 1.0, 1.0
        if self.is_spherical:
            sharpness, weight = 1.0 / self.settings.temperature, 1.0 / len(rows_BN)
        for _ in range(ITERATIONS):
            share_BK = (sharpness * rows_BN @ self.centre.T).softmax(1)
            moved_KN = beta * self.centre + (1.0 - beta) * weight * (share_BK.T @ rows_BN)
            self.centre.copy_(functional.normalize(moved_KN))

    def _count(self, cluster_B: torch.Tensor, rows_BN: torch.Tensor, context: Context) -> None:
        places_K = torch.arange(self.settings.clusters, device=cluster_B.device)
        rows_K = (cluster_B[:, None] == places_K).sum(0)
        for place, share in enumerate((rows_K / len(cluster_B)).unbind()):
            context.logs[f"{self.name}.share{place}"] = share
        idle_K = torch.where(rows_K > 0, 0, self.idle + len(cluster_B))
        is_idle_K = idle_K >= self.settings.reseed_after
        seed_KN = functional.normalize(rows_BN.index_select(0, _random_rows(len(rows_BN), places_K)))
        self.centre.copy_(torch.where(is_idle_K[:, None], seed_KN, self.centre))
        self.idle.copy_(torch.where(is_idle_K, 0, idle_K))


def _random_rows(num_rows: int, places_K: torch.Tensor) -> torch.Tensor:
    """Draw a row for each place; on the CPU, so that all devices draw the same, and without waiting for one."""
    rows_K = torch.randint(num_rows, places_K.shape)
    return rows_K if places_K.is_cpu else rows_K.pin_memory().to(places_K.device, non_blocking=True)


@dataclass(frozen=True, kw_only=True)
class ClusterDense(Dense):
    """φ(x (W ⊙ W_k) + b + b_k); W starts as the dense stage's of the same name."""

    clusters: int

    def build(self, num_inputs: int, build: Build) -> ClusterDenseModule:
        """Make the module; W_k = 1, b_k = 0."""
        return ClusterDenseModule(self, num_inputs, build)


class ClusterDenseModule(StageModule):
    """Computes `ClusterDense`, with the clusters that `ClusterRouting` found."""

    def __init__(self, stage: ClusterDense, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.num_outputs, self.activation = stage.width, stage.activation
        generator = build.generator(f"{stage.name}.weight")
        self.weight = nn.Parameter(start_weight(num_inputs, stage.width, stage.activation, generator))
        self.bias = nn.Parameter(torch.zeros(stage.width))
        self.own_weight = nn.Parameter(torch.ones(stage.clusters, num_inputs, stage.width))
        self.own_bias = nn.Parameter(torch.zeros(stage.clusters, stage.width))

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, M)."""
        clusters = context.shared[KEY]
        assert isinstance(clusters, Clusters)
        product_BM = clusters.linear(x_BN, self.weight * self.own_weight, self.bias + self.own_bias)
        return activate(product_BM, self.activation)
