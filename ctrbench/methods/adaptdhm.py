"""AdaptDHM (ADL): rows are assigned to learned clusters; each cluster has shared weights times its own.

Paper: Li et al., AdaptDHM: Adaptive Distribution Hierarchical Model for Multi-Domain CTR Prediction, arXiv 2211.12105
Year: 2022
Uses: the cluster of all embeddings of the row
Parameters per domain: none

K centers c_k of length one lie in the space of a row's embeddings e, for every input of the tower. In training, three
times per batch of B rows and without gradient (spec: adaptdhm-7.8),

    r_i = softmax_k(x_i c_k / τ)        c_k ← normalize(β c_k + (1 - β) / B Σ_i r_ik x_i)

with x = (e - m) / |e - m|. Before that the batch moves m, the running mean of e, by max(0.01, 1 / (k + 1)) at the k-th
batch, counted from 0. Then, and in evaluation without the update, the cluster of a row is k = argmax x c_k, and at
every dense stage of tower and head

    W_k* = W ⊙ W_k,  b_k* = b + b_k

W_k = 1 and b_k = 0 at the start, so the model starts as its backbone. A cluster that none of the last `reseed_after`
training rows chose takes the position of a random row of the batch. The log holds each cluster's share of the batch.

Plan: one stage at the input, which finds the clusters, and a replacement of each dense stage of tower and head.

Choices: e holds all embeddings and no numeric field, which at size one beside 0.05 would determine the clusters alone.
Interactions stay shared, as in STAR. W_k are dense parameters under ordinary Adam, whose momentum also moves those of a
cluster without rows in the batch. On the CPU rows are grouped by cluster and multiplied by their own matrix only. On
other devices cluster ids are not available without waiting, so all K products are computed and each row selects its
own, at K times the multiplications of a tower.

Deviations: the specification has x = e, no τ and no B; `routing=published` gives these formulas. With embeddings as
small as here, all r are then 1/K and the centers coincide. Rows of length one alone do not keep centers apart: that
takes λ / τ above the length of the mean of x, with λ the largest eigenvalue of the covariance of x. Measured on the
synthetic IAAC data (K = 3, E = 16, batches of 256) from step 380 to 1160, λ / τ was 0.3 to 0.5 and the length 0.4 to
0.5 without m, and 0.4 to 0.8 and 0.1 to 0.2 with m:

                          1 - largest cosine    rows that change cluster in 20 steps    float32 chooses as float64
    published                     0                            46 %                            32 to 81 %
    length one, without m         0                            29 %                            45 to 100 %
    length one, with m       0.7 to 1.2                        2 %                               100 %

In these runs each of three clusters had at least 18 % of the rows with m. With `published`, clusters vanish and
reappear, and one was reseeded every nine batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import nn
from torch.nn import functional

from ctrbench.extend import (
    Build,
    Choices,
    Context,
    Dense,
    Field,
    LogRange,
    Method,
    Plan,
    Routing,
    Stage,
    StageModule,
    full_precision,
    start_weight,
)

ITERATIONS = 3
"""Routing iterations per training batch."""
MEAN_MOMENTUM = 0.01
"""η, the smallest weight of a batch's mean in the running mean."""
KEY = "adaptdhm.clusters"
"""Key of the batch's `Clusters` in `Context.shared`."""


class Adaptdhm(Method):
    """Dense stages with weights per cluster, and the routing that finds clusters."""

    clusters: Annotated[int, Choices(2, 3, 5, 10)] = Field(default=3, ge=2, le=256)
    """K, the number of clusters."""
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    """β, the weight of a center's previous value."""
    routing: Literal["spherical", "published"] = "spherical"
    """Update of the centers: the mean of centered rows of length one, or the published formula."""
    temperature: Annotated[float, LogRange(0.03, 1.0)] = Field(default=0.1, gt=0.0)
    """τ, the temperature of the responsibilities r; smaller is sharper."""
    reseed_after: int = Field(default=1024, ge=1, le=1_000_000)
    """Number of consecutive training rows outside a cluster after which the cluster is reseeded."""

    def idle(self) -> tuple[str, ...]:
        """Return `temperature` for the published routing, which has none."""
        return ("temperature",) if self.routing == "published" else ()

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with the routing at the input and weights per cluster at each dense stage."""

        def clustered(dense: Dense) -> Stage:
            return ClusterDense.like(dense, clusters=self.clusters)

        return plan.with_input(ClusterRouting(name="clusters", settings=self)).map_dense(clustered)

    def supports(self, plan: Plan) -> str | None:
        """Refuse plans without dense stages."""
        return None if plan.has_dense else "clusters have weights of dense stages, and this plan has none"

    @property
    def starts_as_backbone(self) -> float:
        """Return 1e-5: with W_k = 1 and b_k = 0, W ⊙ W_k is W up to rounding."""
        return 1e-5


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """Assignment of a batch's rows to clusters."""

    cluster_B: torch.Tensor
    routing: Routing | None
    """The rows grouped by cluster, on the CPU, where ids are available without waiting for a device."""

    @classmethod
    def from_ids(cls, cluster_B: torch.Tensor) -> Clusters:
        """Return the assignment, with grouped rows on the CPU."""
        return cls(
            cluster_B=cluster_B, routing=Routing(cluster_B) if cluster_B.device.type == "cpu" else None
        )

    def linear(self, x_BN: torch.Tensor, weight_KNM: torch.Tensor, bias_KM: torch.Tensor) -> torch.Tensor:
        """Return x W_k + b_k for each row's k, (B, N) to (B, M)."""
        if self.routing is not None:
            present_G = self.routing.present_G
            product_BM = self.routing.linear(x_BN, weight_KNM.index_select(0, present_G))
            return product_BM + self.routing.broadcast(bias_KM.index_select(0, present_G))
        # In full precision, as the products of rows grouped by cluster are.
        with full_precision(x_BN.device):
            x_KBN = x_BN.to(weight_KNM.dtype).expand(len(weight_KNM), *x_BN.shape)
            all_KBM = torch.baddbmm(bias_KM[:, None], x_KBN, weight_KNM)
        return all_KBM.gather(0, self.cluster_B[None, :, None].expand(1, *all_KBM.shape[1:])).squeeze(0)


@dataclass(frozen=True, kw_only=True)
class ClusterRouting(Stage):
    """Finds each row's cluster and passes the rows on."""

    settings: Adaptdhm

    def build(self, num_inputs: int, build: Build) -> ClusterRoutingModule:
        """Build the module; centers start in random directions."""
        return ClusterRoutingModule(self, num_inputs, build)


class ClusterRoutingModule(StageModule):
    """Computes `ClusterRouting`; centers are buffers that change in training mode only."""

    refuses_workers = "its clusters follow the rows of a batch and are reseeded at random ones"
    center: torch.Tensor
    mean: torch.Tensor
    """Running mean of the embedding vectors; stays at zero with `published`."""
    batches: torch.Tensor
    idle: torch.Tensor
    """Training rows since the last one of the cluster."""

    def __init__(self, stage: ClusterRouting, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.name, self.settings, self.num_outputs = stage.name, stage.settings, num_inputs
        self.is_spherical = self.settings.routing == "spherical"
        # Numeric fields are the last columns of z.
        self.num_embedded = build.schema.num_inputs - len(build.schema.numeric_fields)
        center_KN = torch.empty(self.settings.clusters, self.num_embedded)
        center_KN.normal_(generator=build.generator(f"{stage.name}.centre"))  # the label determines the draw
        self.register_buffer("center", functional.normalize(center_KN))
        self.register_buffer("mean", torch.zeros(self.num_embedded))
        self.register_buffer("batches", torch.zeros(()))
        self.register_buffer("idle", torch.zeros(self.settings.clusters, dtype=torch.int64))

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N), passed on unchanged."""
        # Without autocast: a row's cluster must not depend on the precision.
        with torch.no_grad(), full_precision(x_BN.device):
            rows_BN = self._project_to_sphere(context.z_BN[:, : self.num_embedded])
            if self.training:
                self._update_centers(rows_BN)
            cluster_B = (rows_BN @ self.center.T).argmax(1)
            if self.training:
                self._reseed_idle(cluster_B, rows_BN, context)
        context.shared[KEY] = Clusters.from_ids(cluster_B)
        return x_BN

    def _project_to_sphere(self, embedded_BN: torch.Tensor) -> torch.Tensor:
        """Return x of each row; in training after the update of the mean, which the first batch needs."""
        if not self.is_spherical:
            return embedded_BN
        if self.training:
            self.mean.lerp_(embedded_BN.mean(0), (1.0 / (self.batches + 1.0)).clamp_min(MEAN_MOMENTUM))
            self.batches.add_(1.0)
        return functional.normalize(embedded_BN - self.mean)

    def _update_centers(self, rows_BN: torch.Tensor) -> None:
        beta, sharpness, weight = self.settings.momentum, 1.0, 1.0
        if self.is_spherical:
            sharpness, weight = 1.0 / self.settings.temperature, 1.0 / len(rows_BN)
        for _ in range(ITERATIONS):
            share_BK = (sharpness * rows_BN @ self.center.T).softmax(1)
            moved_KN = beta * self.center + (1.0 - beta) * weight * (share_BK.T @ rows_BN)
            self.center.copy_(functional.normalize(moved_KN))

    def _reseed_idle(self, cluster_B: torch.Tensor, rows_BN: torch.Tensor, context: Context) -> None:
        """Log each cluster's share of the batch, and move idle centers to random rows."""
        clusters_K = torch.arange(self.settings.clusters, device=cluster_B.device)
        rows_K = (cluster_B[:, None] == clusters_K).sum(0)
        for i, share in enumerate((rows_K / len(cluster_B)).unbind()):
            context.logs[f"{self.name}.share{i}"] = share
        idle_K = torch.where(rows_K > 0, 0, self.idle + len(cluster_B))
        is_idle_K = idle_K >= self.settings.reseed_after
        seed_KN = functional.normalize(rows_BN.index_select(0, _random_rows(len(rows_BN), clusters_K)))
        self.center.copy_(torch.where(is_idle_K[:, None], seed_KN, self.center))
        self.idle.copy_(torch.where(is_idle_K, 0, idle_K))


def _random_rows(num_rows: int, clusters_K: torch.Tensor) -> torch.Tensor:
    """Draw a row index per cluster: on the CPU, so that all devices draw equal ones, without waiting for a device."""
    rows_K = torch.randint(num_rows, clusters_K.shape)
    return rows_K if clusters_K.is_cpu else rows_K.pin_memory().to(clusters_K.device, non_blocking=True)


@dataclass(frozen=True, kw_only=True)
class ClusterDense(Dense):
    """φ(x (W ⊙ W_k) + b + b_k); W starts as that of the dense stage of the same name."""

    clusters: int

    def build(self, num_inputs: int, build: Build) -> ClusterDenseModule:
        """Build the module; W_k = 1, b_k = 0."""
        return ClusterDenseModule(self, num_inputs, build)


class ClusterDenseModule(StageModule):
    """Computes `ClusterDense` with the clusters of `ClusterRouting`."""

    not_matrices = ("own_bias",)

    def __init__(self, stage: ClusterDense, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.num_outputs, self.output = stage.width, stage.make_output()
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
        output_BM: torch.Tensor = self.output(product_BM, context)
        return output_BM
