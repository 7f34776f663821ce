"""AdaSparse: gates conditioned on the domain and on a layer's input scale and prune the neurons that enter it.

Paper: Yang et al., AdaSparse, CIKM 2022
Year: 2022
Uses: e_d and the input of each gated layer
Parameters per domain: none

At each site the input h of a weight matrix is multiplied by factors π, h(d) = h ⊙ π (spec: adasparse-1.2), with

    v_in  = P [e_d ; h] + c
    v_out = σ(α v_in) (Binarization), β σ(v_in) (Scaling), β σ(α v_in) (Fusion)
    π     = 1[v_out > ε] (Binarization), v_out (Scaling), v_out · 1[v_out > ε] (Fusion)
    R_s   = (1/S) Σ_l λ^l |r^l - r|,  λ^l = sg(λ̂ |r^l - r|) outside [r_min, r_max], else 0

r^l is the pruned share of the batch's neurons at site l, r the middle of the band [r_min, r_max]. The slope α and the
weight λ̂ grow with the number of optimiser steps only. Sites are the inputs of all dense stages, those of the
embeddings and of the head included, and optionally those of DCNv2's cross matrices.

Plan: one gate before each dense stage of tower and head; with `prune_cross` gates within the cross network.

Choices: `sign` is a step function with a straight-through gradient (spec: adasparse-1.3); r^l counts zeros
(spec: adasparse-1.4); v_in has a bias, and pruners start at 0.1 times Xavier's range (spec: adasparse-1.7). r^l of a
site with columns that are not gated counts the gated columns only. `prune_input` also applies to the first cross layer
under `prune_cross`; it is refused where no embeddings enter a site, as in stacked DCNv2 without `prune_cross`.
`gradient=zero` also keeps the gradient of R_s from the pruners, as automatic differentiation would. With several
workers, r^l is the mean over the rows of all workers, so each row contributes as in one process. The log holds the mean
of r^l over an epoch's batches; `inspect` returns the kept share per gate and domain on the test rows.

Not implemented: weight matrices compacted for serving (spec: adasparse-1.5); factors are computed per row.

Limits: with Scaling, or with a slope near 1, the initial logits are within 2e-2 of the backbone's, not within 1e-2,
where the input is wide (measured: 1.2e-2 at 337 inputs). Most of the default form's gain on MovieLens-1M remains with
domains that carry no information; `pruner_input=domain` does use the domains (docs/reports/controls.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self, TypeVar

import numpy as np
import torch
from torch import nn

from ctrbench.extend import (
    EVAL_ROWS,
    Build,
    Context,
    CTRModel,
    Dense,
    Field,
    GateCall,
    GateSettings,
    GateSite,
    Inspection,
    Method,
    Plan,
    Schema,
    SettingError,
    SplitData,
    Stage,
    StageModule,
    dense_stages,
    full_precision,
    model_validator,
    start_weight,
    train_gate,
)

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Number = TypeVar("Number", float, torch.Tensor)
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]

_STEP_SETTINGS = ("epsilon", "alpha_start", "alpha_limit", "alpha_rho", "gradient")
_BAND_SETTINGS = ("r_min", "r_max", "ratio_mode", "lambda_start", "lambda_max", "lambda_shape")


class AdaSparse(Method):
    """A gate before each weight matrix, conditioned on e_d and the matrix's input."""

    inspects = True

    form: Literal["fusion", "scaling", "binarization"] = "fusion"
    """Effect of the factors: Fusion scales and prunes, Scaling scales, Binarization prunes."""
    prune_input: Literal["all", "agnostic_only"] | None = "all"
    """Gated columns where the embeddings enter a matrix: all, all but e_d (`agnostic_only`), or none."""
    prune_cross: bool = False
    """Whether the input of each cross matrix is gated too; x_0 and the residual are not (spec: adasparse-1.6)."""
    pruner_input: Literal["domain_and_hidden", "domain"] = "domain_and_hidden"
    """Input of the pruners: [e_d ; h], or e_d only, with which factors are a function of the domain."""
    detach_pruner_input: bool = False
    """Whether the gradient stops where e_d and h enter the pruners."""
    pruner_init: Annotated[float, Field(gt=0.0, le=1.0)] | Literal["zero"] = 0.1
    """Initial range of pruner weights, as a share of Xavier's; `zero`: they start at zero."""
    beta: Positive = 2.0
    """β, the largest factor of Scaling and Fusion."""
    epsilon: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.25
    """ε, the threshold; a neuron is pruned where v_out ≤ ε."""
    alpha_start: Positive = 0.1
    """Initial slope α of the sigmoid."""
    alpha_limit: Positive = 5.0
    """Final slope α of the sigmoid."""
    alpha_rho: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Share of the planned steps during which α grows."""
    gradient: Literal["ste", "masked", "soft", "zero"] = "ste"
    """dL/dv_out: dL/dπ everywhere (`ste`) or for neurons that are not pruned (`masked`); exact, without a threshold in
    training (`soft`); or zero (spec: adasparse-1.3)."""
    regularise: bool = True
    """Whether R_s is added to the loss; Scaling, which does not prune, never adds it."""
    r_min: Share = 0.15
    """Lower end of the band in which the pruned share has no penalty."""
    r_max: Share = 0.25
    """Upper end of the band."""
    ratio_mode: Literal["mask", "l1"] = "mask"
    """r^l: the pruned share (`mask`), or 1 - mean π (`l1`) as in the paper."""
    lambda_start: Positive = 0.01
    """Initial weight λ̂ of R_s."""
    lambda_max: Positive = 1.0
    """Final weight λ̂."""
    lambda_shape: Literal["linear", "exponential"] = "linear"
    """Growth of λ̂ from its initial to its final value."""

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        if self.r_min > self.r_max:
            raise ValueError("r_min must not exceed r_max")
        if self.alpha_start > self.alpha_limit:
            raise ValueError("alpha_start must not exceed alpha_limit")
        if self.lambda_start > self.lambda_max:
            raise ValueError("lambda_start must not exceed lambda_max")
        if self.form != "scaling" and self.epsilon >= self.ceiling:
            raise ValueError(
                f"epsilon must be below the largest v_out, {self.ceiling:g}; otherwise all neurons are pruned"
            )
        return self

    def idle(self) -> Iterator[str]:
        """Yield the settings that have no effect under the others."""
        if self.form == "scaling":
            yield from (*_STEP_SETTINGS, *_BAND_SETTINGS, "regularise")
            return
        if self.gradient == "zero":
            yield from (*_BAND_SETTINGS, "regularise", "detach_pruner_input")
        if not self.regularise:
            yield from _BAND_SETTINGS
        if self.form == "binarization":
            yield "beta"
            # π is the mask itself, so both definitions of r^l agree.
            yield from ("ratio_mode",) if self.gradient == "ste" else ()
        if self.alpha_start == self.alpha_limit:
            yield "alpha_rho"
        if self.lambda_start == self.lambda_max:
            yield "lambda_shape"

    @property
    def ceiling(self) -> float:
        """Least upper bound of v_out: 1 for Binarization, β otherwise."""
        return 1.0 if self.form == "binarization" else self.beta

    def gate_settings(self) -> GateSettings:
        """Return how v_out and π follow from v_in in this form: its ceiling, threshold and gradients."""
        return GateSettings(
            ceiling=self.ceiling,
            threshold=None if self.form == "scaling" else self.epsilon,
            is_binary=self.form == "binarization",
            gradient=self.gradient,
            ratio_mode=self.ratio_mode,
            is_detached=self.detach_pruner_input,
        )

    def alpha(self, progress: float) -> float:
        """Return α for the share of planned steps done."""
        grown = min(1.0, progress / self.alpha_rho)
        return self.alpha_start + (self.alpha_limit - self.alpha_start) * grown

    def lambda_hat(self, progress: float) -> float:
        """Return λ̂ for the share of planned steps done."""
        if self.lambda_shape == "linear":
            return self.lambda_start + (self.lambda_max - self.lambda_start) * progress
        return float(self.lambda_start * (self.lambda_max / self.lambda_start) ** progress)

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with a gate before each site."""
        num_sites = self._num_sites(plan)
        entry = _entry_index(plan)

        def gate(dense: Dense) -> Gate:
            takes_embeddings = entry is not None and dense.name == plan.tower[entry].name
            return self._gate(dense.name, num_sites, takes_embeddings=takes_embeddings)

        # Stages before the first gated site stay as they are.
        ungated = plan.tower[: entry + 1] if entry is not None and self.prune_input is None else ()
        edited = replace(plan, tower=plan.tower[len(ungated) :]).before_dense(gate)
        edited = replace(edited, tower=(*ungated, *edited.tower))
        return self._with_cross(edited, num_sites) if self.prune_cross else edited

    def _with_cross(self, plan: Plan, num_sites: int) -> Plan:
        stages = (
            self._with_gated_matrices(stage, num_sites) if stage.num_matrices else stage
            for stage in plan.interactions
        )
        return replace(plan, interactions=tuple(stages))

    def _with_gated_matrices(self, stage: Stage, num_sites: int) -> Stage:
        gates: list[Stage | None] = [
            self._gate(f"{stage.name}.{index}", num_sites, takes_embeddings=index == 0)
            for index in range(stage.num_matrices)
        ]
        return stage.before_matrices([None, *gates[1:]] if self.prune_input is None else gates)

    def _gate(self, site: str, num_sites: int, *, takes_embeddings: bool) -> Gate:
        is_partial = takes_embeddings and self.prune_input == "agnostic_only"
        return Gate(
            name=f"{site}.gate", stage=site, settings=self, num_sites=num_sites, is_partial=is_partial
        )

    def _num_sites(self, plan: Plan) -> int:
        num_dense = len(dense_stages((*plan.tower, *plan.head)))
        matrices = [
            stage.num_matrices for stage in plan.interactions if stage.num_matrices and self.prune_cross
        ]
        entries = len(matrices) + (_entry_index(plan) is not None)
        return num_dense + sum(matrices) - (entries if self.prune_input is None else 0)

    def inspect(self, model: CTRModel, test: SplitData) -> Inspection:
        """Return the share of each domain's test rows that keep a neuron, per gate."""
        kept: dict[str, torch.Tensor] = {}
        rows_D = torch.zeros(model.schema.num_domains + 1, dtype=torch.float64)

        def count_kept(gate: GateModule, inputs: tuple[torch.Tensor, Context]) -> None:
            x_BN, context = inputs
            # In float64: a float32 count of ones stops at 16.7 million.
            kept_BN = (gate.factors(x_BN, context) > 0.0).double()
            total_DN = kept.setdefault(gate.stage, kept_BN.new_zeros(len(rows_D), kept_BN.shape[1]))
            total_DN.index_add_(0, context.domain_B.long().to(kept_BN.device), kept_BN)

        gates = [module for module in model.modules() if isinstance(module, GateModule)]
        handles = [gate.register_forward_pre_hook(count_kept) for gate in gates]
        model.eval()
        with torch.no_grad():
            for batch in test.in_order(EVAL_ROWS):
                rows_D += torch.bincount(batch.domain_B.long(), minlength=len(rows_D))
                model(batch)
        for handle in handles:
            handle.remove()
        present = torch.nonzero(rows_D)[:, 0]
        sites = tuple(
            GateSite(
                stage=stage,
                kept_DN=(total_DN[present.to(total_DN.device)].cpu() / rows_D[present, None]).float().numpy(),
            )
            for stage, total_DN in kept.items()
        )
        rows = rows_D[present].numpy().astype(np.int64)
        return Inspection(domain_D=present.numpy(), rows_D=rows, sites=sites)

    def supports(self, plan: Plan) -> str | None:
        """Refuse plans without a site, and settings without effect on this plan."""
        if self.prune_cross and not any(stage.num_matrices for stage in plan.interactions):
            return "prune_cross needs cross matrices, and this plan has none"
        if self.prune_input != "all" and _entry_index(plan) is None and not self.prune_cross:
            return f"prune_input={self.prune_input or 'none'} needs embeddings as the tower's input"
        if self._num_sites(plan) == 0:
            return "no gated weight matrix is left"
        return None

    @property
    def starts_as_backbone(self) -> float | None:
        """Return 0.0 with pruner_init=zero, 1e-2 or 2e-2 with small pruners, None where σ(0) is not a factor of 1."""
        if self.form != "binarization" and self.beta != 2.0:
            return None
        middle = 0.5 * self.ceiling
        if self.form != "scaling" and self.epsilon >= middle:
            return None
        if self.pruner_init == "zero":
            return 0.0
        slope = 1.0 if self.form == "scaling" else self.alpha_start
        is_far = self.form == "scaling" or self.epsilon <= 0.5 * middle
        is_small = self.pruner_init <= 0.1 and slope <= 1.0 and is_far
        return (1e-2 if slope <= 0.5 else 2e-2) if is_small else None


def _entry_index(plan: Plan) -> int | None:
    """Return the index of the tower's first dense stage, where it reads the embeddings; None for a stacked tower."""
    is_fed = plan.join == "parallel" or not plan.interactions
    dense = (index for index, stage in enumerate(plan.tower) if stage.as_dense() is not None)
    return next(dense, None) if is_fed else None


def band_penalty(ratio: Number, lambda_hat: Number, settings: AdaSparse) -> tuple[Number, Number]:
    """Return λ^l |r^l - r|, and its slope by r^l with λ^l held constant."""
    gap = ratio - 0.5 * (settings.r_min + settings.r_max)
    # Rounding at the edge of the band is not outside it.
    is_outside = abs(gap) > 0.5 * (settings.r_max - settings.r_min) + 1e-6
    return lambda_hat * gap * gap * is_outside, lambda_hat * gap * is_outside


@dataclass(frozen=True, kw_only=True)
class Gate(Stage):
    """h ⊙ π at one site of `num_sites`; `is_partial` leaves the embeddings e_d as they are."""

    stage: str
    """Name of the stage whose input the gate weighs."""
    settings: AdaSparse
    num_sites: int
    is_partial: bool = False

    def build(self, num_inputs: int, build: Build) -> GateModule:
        """Build the module; pruner weights start scaled Xavier uniform, biases at zero."""
        return GateModule(self, num_inputs, build)


class GateModule(StageModule):
    """Computes `Gate`."""

    uses_team = True
    alpha: torch.Tensor
    lambda_hat: torch.Tensor
    columns: torch.Tensor | None
    """Gated columns, where not all are."""

    def __init__(self, stage: Gate, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.name, self.stage = stage.name, stage.stage
        self.settings, self.num_sites = stage.settings, stage.num_sites
        self.num_outputs, self.gate = num_inputs, stage.settings.gate_settings()
        columns = _agnostic_columns(build.schema, num_inputs) if stage.is_partial else None
        self.register_buffer("columns", columns, persistent=False)
        self.register_buffer("alpha", torch.tensor(self.settings.alpha(0.0)))
        self.register_buffer("lambda_hat", torch.tensor(self.settings.lambda_hat(0.0)))
        num_gated = num_inputs if columns is None else len(columns)
        hidden = num_inputs if self.settings.pruner_input == "domain_and_hidden" else 0
        scale = 0.0 if self.settings.pruner_init == "zero" else self.settings.pruner_init
        generator = build.generator(f"{stage.name}.weight")
        start = start_weight(build.schema.domain_width + hidden, num_gated, None, generator)
        self.weight = nn.Parameter(scale * start)
        self.bias = nn.Parameter(torch.zeros(num_gated))

    def advance(self, progress: float) -> None:
        """Anneal α and λ̂; Scaling has neither."""
        if self.settings.form == "scaling":
            return
        self.alpha.fill_(self.settings.alpha(progress))
        self.lambda_hat.fill_(self.settings.lambda_hat(progress))

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """(B, N) to (B, N)."""
        gated_BN = x_BN if self.columns is None else x_BN.index_select(1, self.columns)
        if self.training:
            gated_BN = self._train(gated_BN, x_BN, context)
        else:
            gated_BN = gated_BN * self.factors(x_BN, context)
        return gated_BN if self.columns is None else x_BN.index_copy(1, self.columns, gated_BN)

    def factors(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """Return π of each row's gated neurons as at inference; 0 means pruned."""
        inputs = context.domain_BE
        if self.settings.pruner_input == "domain_and_hidden":
            inputs = torch.cat([inputs, x_BN], dim=1)
        # As in training, at any precision around it: a threshold must fall alike.
        with full_precision(x_BN.device):
            v_in = torch.addmm(self.bias, inputs.to(self.weight.dtype), self.weight)
            return self.gate.factors(self.gate.v_out(v_in, self.slope))

    @property
    def slope(self) -> torch.Tensor | None:
        """α; None for Scaling, which has none."""
        return None if self.settings.form == "scaling" else self.alpha

    def penalty(self, ratio: Number) -> tuple[Number, Number]:
        """Return λ^l |r^l - r| and its slope by r^l."""
        if isinstance(ratio, torch.Tensor):
            return band_penalty(ratio, self.lambda_hat, self.settings)
        return band_penalty(ratio, float(self.lambda_hat), self.settings)

    def _train(self, gated_BN: torch.Tensor, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        settings = self.settings
        takes_hidden = settings.pruner_input == "domain_and_hidden"
        # Factors of e_d alone are those of the row's domain; only unseen domains share an id.
        is_grouped = not takes_hidden and not context.domain_routing.has(0)
        call = GateCall(
            settings=self.gate,
            slope=self.slope,
            penalty=self.penalty,
            num_sites=self.num_sites,
            takes_hidden=takes_hidden,
            routing=context.domain_routing if is_grouped else None,
            team=context.team,
        )
        domain_GE = context.domain_GE if is_grouped else context.domain_BE
        product, penalty, pruned = train_gate(gated_BN, x_BN, domain_GE, self.weight, self.bias, call)
        if settings.form != "scaling":
            context.logs[f"{self.name}.pruned"] = pruned
            if settings.regularise:
                context.penalties.append(penalty)
        return product


def _agnostic_columns(schema: Schema, num_inputs: int) -> torch.Tensor:
    if num_inputs != schema.num_inputs:
        raise SettingError(
            "prune_input=agnostic_only needs a tower that takes the embeddings as they are",
            value=f"{num_inputs} inputs, not {schema.num_inputs}",
            remedy="choose prune_input=all or none",
        )
    is_agnostic = torch.ones(num_inputs, dtype=torch.bool)
    for name in schema.domain_features:
        is_agnostic[schema.slices[name]] = False
    if not is_agnostic.any():
        raise SettingError(
            "prune_input=agnostic_only needs a field that is no domain feature",
            remedy="choose prune_input=none",
        )
    return torch.nonzero(is_agnostic)[:, 0]
