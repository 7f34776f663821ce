"""Normalization stages: of batches, of rows, and of domains.

Shapes in names: B rows, N inputs, G groups present in the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ctrbench.nn.build import Build
from ctrbench.nn.context import Context
from ctrbench.nn.exchange import Groups, Team
from ctrbench.nn.kernels.moments import BatchMoments, RunningMoments, update_moments
from ctrbench.nn.normalization import CONSTANT, BatchNormalization, LayerNormalization
from ctrbench.nn.routing import Routing
from ctrbench.nn.stages import Stage, StageModule, domain_table

Moments = tuple[torch.Tensor, torch.Tensor]
"""Mean and variance."""


@dataclass(frozen=True, kw_only=True)
class BatchNorm(Stage):
    """Batch normalization γ ⊙ (x - μ) / √(s² + ε) + β, with the batch's moments in training, else running ones.

    Running moments move by max(η, 1 / (k + 1)) at the k-th batch, counted from 0, as in `PartitionedNorm`. A batch of
    one row has no variance and is normalized with running moments. A column that is constant by its running variance is
    zero after normalization, as within a batch: its running mean lags behind an embedding that still moves, and would
    be divided by almost zero.
    """

    momentum: float = 0.01
    eps: float = 1e-5

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; γ = 1, β = 0, running moments 0 and 1."""
        return BatchNormModule(self, num_inputs)


class BatchNormModule(BatchNormalization, StageModule):
    """Computes `BatchNorm`."""

    def __init__(self, stage: BatchNorm, num_inputs: int) -> None:
        super().__init__(num_inputs, momentum=stage.momentum, eps=stage.eps)
        self.num_outputs = num_inputs


@dataclass(frozen=True, kw_only=True)
class LayerNorm(Stage):
    """Layer normalization γ ⊙ (x - μ) / √(s² + ε) + β, with moments over each row's numbers."""

    eps: float = 1e-5

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; γ = 1, β = 0."""
        return LayerNormModule(self, num_inputs)


class LayerNormModule(LayerNormalization, StageModule):
    """Computes `LayerNorm`."""

    def __init__(self, stage: LayerNorm, num_inputs: int) -> None:
        super().__init__(num_inputs, eps=stage.eps)
        self.num_outputs = num_inputs


@dataclass(frozen=True, kw_only=True)
class PartitionedNorm(Stage):
    """Batch normalization with moments and affine parameters per domain.

    Sheng et al., STAR, CIKM 2021, equations 3-4 (spec: star-2.2, star-2.3):

        z' = (γ ⊙ γ_p) ⊙ (z - μ) / √(s² + ε) + (β + β_p)

    In training, μ and s² are the moments of the domain's rows in the batch. Domains with fewer than `smallest` rows
    there, and all domains in eval mode, use running moments, shrunk towards those of all rows as if `shrinkage` more
    rows with the global moments had been seen. The unseen domain has no rows, so it uses the global moments.

    A running moment moves by max(η, n / (n_p + n)), with n rows in the batch and n_p seen before: 1/(k+1) at the k-th
    full batch, η later. For a domain below `smallest` it is max(η n/B, n / (n_p + n)); η n/B alone would leave a
    variance near its start, one, for the whole training. For variances, n - 1 replaces n, here and in the shrinkage.
    Rows of a domain below `smallest` are normalized after the update, so they contribute to their own moments.

    A column that is constant within a domain, such as the domain's own embedding, is zero after normalization in
    training. With running moments it is set to zero as well: its running mean lags behind an embedding that still
    moves, and the difference would be divided by almost zero.
    """

    momentum: float = 0.01
    eps: float = 1e-5
    shrinkage: float = 1000.0
    smallest: int = 32
    scale: float = 1.0
    """γ at the start; with 0 the stage starts by returning zeros."""

    def build(self, num_inputs: int, build: Build) -> StageModule:
        """Make the module; γ_p = 1, β = β_p = 0, E_p = 0, Var_p = 1."""
        return PartitionedNormModule(self, num_inputs, build)


class PartitionedNormModule(StageModule):
    """Computes `PartitionedNorm`; running moments are buffers, updated in training mode only."""

    uses_team = True
    mean: torch.Tensor
    variance: torch.Tensor
    seen: torch.Tensor
    """Per domain the rows seen, and the degrees of freedom of its variance: rows less batches."""
    global_mean: torch.Tensor
    global_variance: torch.Tensor

    def __init__(self, stage: PartitionedNorm, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.num_outputs, self.stage = num_inputs, stage
        num_indicators = build.schema.num_indicators
        ones, zeros = torch.ones(num_inputs), torch.zeros(num_inputs)
        self.scale, self.shift = nn.Parameter(stage.scale * ones), nn.Parameter(zeros.clone())
        self.domain_affine = domain_table(num_indicators, torch.stack([ones, zeros]), num_decayed=0)
        self.register_buffer("mean", torch.zeros(num_indicators + 1, num_inputs))
        self.register_buffer("variance", torch.ones(num_indicators + 1, num_inputs))
        self.register_buffer("seen", torch.zeros(num_indicators + 1, 2, dtype=torch.int64))
        self.register_buffer("global_mean", zeros)
        self.register_buffer("global_variance", ones)

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, N)."""
        routing = context.routing
        scale_p, shift_p = context.read(self.domain_affine).unbind(1)
        scale_GN, shift_GN = self.scale * scale_p, self.shift + shift_p
        team = context.team
        is_full = routing.smallest >= self.stage.smallest
        if self.training and is_full and routing.num_groups == 1 and team is None:
            return self._batch_norm(x_BN, scale_GN[0], shift_GN[0], routing)
        moments = (
            self._batch_moments(x_BN, routing, team) if self.training else self.running(routing.present_G)
        )
        mean_GN, variance_GN = moments
        scale_GN = scale_GN * torch.rsqrt(variance_GN + self.stage.eps)
        return torch.addcmul(
            routing.broadcast(shift_GN - mean_GN * scale_GN), x_BN, routing.broadcast(scale_GN)
        )

    def _batch_norm(
        self, x_BN: torch.Tensor, scale_N: torch.Tensor, shift_N: torch.Tensor, routing: Routing
    ) -> torch.Tensor:
        """Normalize a batch of one domain by torch's batch normalization, which takes few passes over the rows."""
        eps = self.stage.eps
        x_BN, mean_N, root_N = torch.native_batch_norm(x_BN, scale_N, shift_N, None, None, True, 0.0, eps)
        variance_N = (root_N.detach() ** -2.0 - eps).clamp_min(0.0)
        self._update(mean_N.detach()[None], len(x_BN) * variance_N[None], Groups.of(routing, None))
        return x_BN

    def running(self, present_G: torch.Tensor) -> Moments:
        """Return the shrunk running moments (G, N) of domains; the variance of constant columns is infinite."""
        seen_G2 = self.seen[present_G].to(self.mean.dtype)
        weight_G1, weight_of_variance_G1 = _split_columns(seen_G2 / (seen_G2 + self.stage.shrinkage))
        own_mean, own_variance = self.mean[present_G], self.variance[present_G]
        between = weight_G1 * (1.0 - weight_G1) * (own_mean - self.global_mean).square()
        variance_GN = torch.lerp(self.global_variance, own_variance, weight_of_variance_G1) + between
        is_constant = (own_variance < CONSTANT * self.stage.eps) & (weight_of_variance_G1 >= 0.5)
        mean_GN = torch.lerp(self.global_mean, own_mean, weight_G1)
        return mean_GN, variance_GN.masked_fill(is_constant, float("inf"))

    def _batch_moments(self, x_BN: torch.Tensor, routing: Routing, team: Team | None) -> Moments:
        groups = Groups.of(routing, team)
        rows_G1 = groups.counts_G[:, None]
        mean_GN = groups.sum(routing.sum(x_BN)) / rows_G1
        # To first order the sum of squares does not depend on the mean, so no gradient is needed there.
        apart_BN = x_BN - routing.broadcast(groups.own(mean_GN.detach()))
        squares_GN = groups.sum(routing.sum(apart_BN.square()))
        variance_GN = squares_GN / rows_G1
        self._update(mean_GN.detach(), squares_GN.detach(), groups)
        mean_GN, variance_GN, rows_G1 = (groups.own(values) for values in (mean_GN, variance_GN, rows_G1))
        if team is None and routing.smallest >= self.stage.smallest:
            return mean_GN, variance_GN
        # Read after the update: before the first one, running moments are only their start.
        running, is_full = self.running(routing.present_G), rows_G1 >= self.stage.smallest
        return torch.where(is_full, mean_GN, running[0]), torch.where(is_full, variance_GN, running[1])

    def _update(self, mean_GN: torch.Tensor, squares_GN: torch.Tensor, groups: Groups) -> None:
        """Update the running moments by the batch's means and sums of squares around them."""
        running = RunningMoments(
            mean_RN=self.mean,
            variance_RN=self.variance,
            seen_R2=self.seen,
            global_mean_N=self.global_mean,
            global_variance_N=self.global_variance,
        )
        batch = BatchMoments(
            mean_GN=mean_GN, squares_GN=squares_GN, counts_G=groups.counts_G, present_G=groups.present_G
        )
        update_moments(running, batch, momentum=self.stage.momentum, smallest=self.stage.smallest)


def _split_columns(pairs_G2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return pairs_G2[:, :1], pairs_G2[:, 1:]
