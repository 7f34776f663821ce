"""AdaSparse: the domain and a layer's own input weigh, and prune, each neuron that enters a weight matrix.

Paper: Yang et al., AdaSparse, CIKM 2022
Year: 2022

METHODS 1. At each site, the input h of a weight matrix, h(d) = h ⊙ π with

    v_in  = P [e_d ; h] + c
    v_out = σ(α v_in) (Binarization), β σ(v_in) (Scaling), β σ(α v_in) (Fusion)
    π     = 1[v_out > ε] (Binarization), v_out (Scaling), v_out · 1[v_out > ε] (Fusion)
    R_s   = (1/S) Σ_l λ^l |r^l - r|,  λ^l = sg(λ̂ |r^l - r|) outside [r_min, r_max], else 0

r^l is the pruned share of the batch's neurons and r the middle of the band. α and λ̂ grow with the optimiser's steps
alone. Sites are the inputs of all dense stages, embeddings and head included; DCNv2's cross matrices by option.

Readings: `sign` is a step, its gradient is straight-through (1.3), r^l counts zeros (1.4), v_in has a bias, and pruners
start at 0.1 x Xavier (1.7). Where METHODS is silent: r^l of a site with ungated columns counts its gated columns only;
`prune_input` also rules the first cross layer under `prune_cross`, and is refused where no embeddings enter a site, as
in stacked DCNv2 without it; `gradient=zero` keeps R_s from the pruners too, as automatic differentiation would.
Not here: r^l per bin of domains (1.4; the log holds its mean over an epoch's batches), and weight matrices compacted
for serving (1.5; factors are computed for each row). Scaling and slopes near 1 start within 2e-2 of the backbone, not
1e-2, where the input is wide (measured: 1.2e-2 at 337 inputs).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

import torch
from torch import nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional

from ctrbench.extend import (
    Build,
    Chain,
    Context,
    Cross,
    CrossModule,
    Dense,
    Field,
    Method,
    Plan,
    Schema,
    SettingError,
    Stage,
    StageModule,
    model_validator,
    start_weight,
)

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]

_STEP_SETTINGS = ("epsilon", "alpha_start", "alpha_limit", "alpha_rho", "gradient")
_BAND_SETTINGS = ("r_min", "r_max", "ratio_mode", "lambda_start", "lambda_max", "lambda_shape")


class AdaSparse(Method):
    """A pruner of its own before each weight matrix; nothing is particular to a domain but its embeddings."""

    form: Literal["fusion", "scaling", "binarization"] = "fusion"
    """Fusion scales and prunes, Scaling only scales, Binarization only prunes."""
    prune_input: Literal["all", "agnostic_only"] | None = "all"
    """What is gated where the embeddings themselves enter: all of them, all but e_d, or (`none`) nothing."""
    prune_cross: bool = False
    """Gate what enters each cross matrix too, not x_0 and not the residual (METHODS 1.6)."""
    pruner_input: Literal["domain_and_hidden", "domain"] = "domain_and_hidden"
    """[e_d ; h], or e_d alone, which makes the factors a function of the domain."""
    detach_pruner_input: bool = False
    """Stop the gradient where e_d and h enter the pruners."""
    pruner_init: Annotated[float, Field(gt=0.0, le=1.0)] | Literal["zero"] = 0.1
    """Share of Xavier's range that pruner weights start in."""
    beta: Positive = 2.0
    """Largest factor of Scaling and Fusion."""
    epsilon: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.25
    """A neuron is pruned where v_out ≤ ε."""
    alpha_start: Positive = 0.1
    alpha_limit: Positive = 5.0
    """Slope α of the sigmoid at the end of its growth."""
    alpha_rho: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Share of the planned steps over which α grows."""
    gradient: Literal["ste", "masked", "soft", "zero"] = "ste"
    """dL/dv_out: dL/dπ everywhere, or un-pruned only; exact, without a threshold in training; or 0 (METHODS 1.3)."""
    regularise: bool = True
    """Add R_s; Scaling, which prunes nothing, never does."""
    r_min: Share = 0.15
    r_max: Share = 0.25
    """Upper end of the band that the pruned share is left alone in."""
    ratio_mode: Literal["mask", "l1"] = "mask"
    """r^l is the pruned share, or 1 - mean π as the paper writes it."""
    lambda_start: Positive = 0.01
    lambda_max: Positive = 1.0
    """λ̂ at the end of training."""
    lambda_shape: Literal["linear", "exponential"] = "linear"
    """How λ̂ grows from its start to its end."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.r_min > self.r_max:
            raise ValueError("r_min must not exceed r_max")
        if self.alpha_start > self.alpha_limit:
            raise ValueError("alpha_start must not exceed alpha_limit")
        if self.lambda_start > self.lambda_max:
            raise ValueError("lambda_start must not exceed lambda_max")
        if self.form != "scaling" and self.epsilon >= self.ceiling:
            raise ValueError(
                f"epsilon must be below v_out's largest value, {self.ceiling:g}, or all is pruned"
            )
        for name in self._idle_settings():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect with these settings; leave it out")
        return self

    def _idle_settings(self) -> Iterator[str]:
        """Name the settings that change nothing under the others."""
        if self.form == "scaling":
            yield from (*_STEP_SETTINGS, *_BAND_SETTINGS, "regularise")
            return
        if self.gradient == "zero":
            yield from (*_BAND_SETTINGS, "regularise", "detach_pruner_input")
        if not self.regularise:
            yield from _BAND_SETTINGS
        if self.form == "binarization":
            yield "beta"
            # There π is the mask itself, and so is its gradient.
            yield from ("ratio_mode",) if self.gradient == "ste" else ()
        if self.alpha_start == self.alpha_limit:
            yield "alpha_rho"
        if self.lambda_start == self.lambda_max:
            yield "lambda_shape"

    @property
    def ceiling(self) -> float:
        """Least upper bound of v_out."""
        return 1.0 if self.form == "binarization" else self.beta

    def alpha(self, progress: float) -> float:
        """Return α when that share of the planned steps is done."""
        grown = min(1.0, progress / self.alpha_rho)
        return self.alpha_start + (self.alpha_limit - self.alpha_start) * grown

    def lambda_hat(self, progress: float) -> float:
        """Return λ̂ when that share of the planned steps is done."""
        if self.lambda_shape == "linear":
            return self.lambda_start + (self.lambda_max - self.lambda_start) * progress
        return float(self.lambda_start * (self.lambda_max / self.lambda_start) ** progress)

    def rewrite(self, plan: Plan) -> Plan:
        """Return the plan with a gate before each site."""
        num_sites = self._num_sites(plan)
        entry = _entry(plan)

        def gate(dense: Dense) -> Gate:
            return self._gate(dense.name, num_sites, takes_embeddings=dense is entry)

        # What stands before the first gated site is put back as it was.
        kept = plan.tower[: plan.tower.index(entry) + 1] if entry and self.prune_input is None else ()
        edited = replace(plan, tower=plan.tower[len(kept) :]).before_dense(gate)
        edited = replace(edited, tower=(*kept, *edited.tower))
        return self._with_cross(edited, num_sites) if self.prune_cross else edited

    def _with_cross(self, plan: Plan, num_sites: int) -> Plan:
        stages = (
            self._gated_cross(stage, num_sites) if isinstance(stage, Cross) else stage
            for stage in plan.interactions
        )
        return replace(plan, interactions=tuple(stages))

    def _gated_cross(self, cross: Cross, num_sites: int) -> GatedCross:
        first = 1 if self.prune_input is None else 0
        gates = tuple(
            self._gate(f"{cross.name}.{layer}", num_sites, takes_embeddings=layer == 0)
            for layer in range(first, cross.layers)
        )
        return GatedCross(name=cross.name, layers=cross.layers, rank=cross.rank, gates=gates)

    def _gate(self, site: str, num_sites: int, *, takes_embeddings: bool) -> Gate:
        is_partial = takes_embeddings and self.prune_input == "agnostic_only"
        return Gate(name=f"{site}.gate", settings=self, num_sites=num_sites, is_partial=is_partial)

    def _num_sites(self, plan: Plan) -> int:
        dense = sum(isinstance(stage, Dense) for stage in (*plan.tower, *plan.head))
        crosses = [
            stage.layers for stage in plan.interactions if isinstance(stage, Cross) and self.prune_cross
        ]
        entries = len(crosses) + (_entry(plan) is not None)
        return dense + sum(crosses) - (entries if self.prune_input is None else 0)

    def supports(self, plan: Plan) -> str | None:
        """Refuse plans without a site, and settings that would change nothing in this plan."""
        has_cross = any(isinstance(stage, Cross) for stage in plan.interactions)
        if self.prune_cross and not has_cross:
            return "prune_cross gates the inputs of cross matrices, and this plan has none"
        if self.prune_input != "all" and _entry(plan) is None and not self.prune_cross:
            return f"prune_input={self.prune_input or 'none'} concerns embeddings that enter a tower; here none do"
        if self._num_sites(plan) == 0:
            return "no weight matrix is left whose input could be gated"
        return None

    @property
    def starts_as_backbone(self) -> float | None:
        """Exactly with pruner_init=zero, nearly with small pruners; None where σ(0) does not mean a factor of 1."""
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


def _entry(plan: Plan) -> Dense | None:
    """Return the tower's dense stage that the embeddings enter, if there is one."""
    is_fed = plan.join == "parallel" or not plan.interactions
    dense = (stage for stage in plan.tower if isinstance(stage, Dense))
    return next(dense, None) if is_fed else None


def base_factors(v_in: torch.Tensor, alpha: torch.Tensor, settings: AdaSparse) -> torch.Tensor:
    """Return v_out; overwrites v_in."""
    if settings.form != "scaling":
        v_in = v_in.mul_(alpha)
    v_out = v_in.sigmoid_()
    return v_out if settings.ceiling == 1.0 else v_out * settings.ceiling


def exact_factors(v_out: torch.Tensor, settings: AdaSparse) -> torch.Tensor:
    """Return π as the paper's formulas have it, for inference; a neuron is pruned where it is 0."""
    if settings.form == "scaling":
        return v_out
    if settings.form == "fusion":
        return functional.threshold(v_out, settings.epsilon, 0.0)
    return (v_out > settings.epsilon).to(v_out.dtype)


def training_factors(v_out: torch.Tensor, exact: torch.Tensor, settings: AdaSparse) -> torch.Tensor:
    """Return π with the gradient that the settings ask for (METHODS 1.3)."""
    if settings.form == "scaling" or settings.gradient == "soft":
        return v_out
    if settings.gradient == "zero":
        return exact.detach()
    if settings.gradient == "masked":
        return straight_through(functional.threshold(v_out, settings.epsilon, 0.0), exact)
    return straight_through(v_out, exact)


def pruned_share(exact: torch.Tensor) -> torch.Tensor:
    """Return the share of factors that are 0."""
    return (exact.numel() - torch.count_nonzero(exact)) / exact.numel()


def controlled_ratio(
    v_out: torch.Tensor, pruned: torch.Tensor, factors: torch.Tensor, settings: AdaSparse
) -> torch.Tensor:
    """Return r^l; as the pruned share its gradient is -1/(B N) for each v_out (METHODS 1.4), or 0 as settings say."""
    if settings.ratio_mode == "l1":
        return 1.0 - factors.mean()
    return pruned if settings.gradient == "zero" else straight_through(1.0 - v_out.mean(), pruned)


def band_penalty(ratio: torch.Tensor, lambda_hat: torch.Tensor, settings: AdaSparse) -> torch.Tensor:
    """Return λ^l |r^l - r|."""
    gap = (ratio - 0.5 * (settings.r_min + settings.r_max)).abs()
    is_outside = ratio != ratio.clamp(settings.r_min, settings.r_max)
    return (lambda_hat * gap * is_outside).detach() * gap


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, surrogate: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
        return exact.view_as(exact)

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grads[0], None


def straight_through(surrogate: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """Return surrogate + sg(exact - surrogate), without its rounding and its two passes over memory."""
    result: torch.Tensor = _StraightThrough.apply(surrogate, exact.detach())  # type: ignore[no-untyped-call]
    return result


@dataclass(frozen=True, kw_only=True)
class Gate(Stage):
    """h ⊙ π at one site of `num_sites`; `is_partial` leaves the embeddings e_d as they are."""

    settings: AdaSparse
    num_sites: int
    is_partial: bool = False

    def build(self, num_inputs: int, build: Build) -> GateModule:
        """Make the module; scaled Xavier uniform pruner weights, zero bias."""
        return GateModule(self, num_inputs, build)


class GateModule(StageModule):
    """Computes `Gate`."""

    alpha: torch.Tensor
    lambda_hat: torch.Tensor
    columns: torch.Tensor | None
    """Gated columns, where not all are."""

    def __init__(self, stage: Gate, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.name, self.settings, self.num_sites = stage.name, stage.settings, stage.num_sites
        self.num_outputs = num_inputs
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
        factors = self._train(x_BN, context) if self.training else self.factors(x_BN, context)
        if self.columns is None:
            return x_BN * factors
        return x_BN.index_copy(1, self.columns, x_BN.index_select(1, self.columns) * factors)

    def factors(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """Return π of each row's gated neurons as at inference; 0 means pruned."""
        return exact_factors(self._base(x_BN, context), self.settings)

    def _train(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        settings = self.settings
        v_out = self._base(x_BN, context)
        exact = exact_factors(v_out.detach(), settings)
        factors = training_factors(v_out, exact, settings)
        if settings.form == "scaling":
            return factors
        pruned = context.logs[f"{self.name}.pruned"] = pruned_share(exact)
        if settings.regularise:
            ratio = controlled_ratio(v_out, pruned, factors, settings)
            context.penalties.append(band_penalty(ratio, self.lambda_hat, settings) / self.num_sites)
        return factors

    def _base(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        inputs = context.domain_BE
        if self.settings.pruner_input == "domain_and_hidden":
            inputs = torch.cat([inputs, x_BN], dim=1)
        if self.settings.detach_pruner_input:
            inputs = inputs.detach()
        v_in = torch.addmm(self.bias, inputs, self.weight)
        return base_factors(v_in, self.alpha, self.settings)


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


@dataclass(frozen=True, kw_only=True)
class GatedCross(Cross):
    """x_{l+1} = x_0 ⊙ (W_l (π_l ⊙ x_l) + b_l) + x_l, with gates for the last layers or all."""

    gates: tuple[Gate, ...]

    def build(self, num_inputs: int, build: Build) -> GatedCrossModule:
        """Make the module; its kernels start as those of the cross network without gates."""
        return GatedCrossModule(self, num_inputs, build)


class GatedCrossModule(CrossModule):
    """Computes `GatedCross`."""

    def __init__(self, stage: GatedCross, num_inputs: int, build: Build) -> None:
        super().__init__(stage, num_inputs, build)
        ungated: list[tuple[Gate, ...]] = [()] * (stage.layers - len(stage.gates))
        sites = [*ungated, *((gate,) for gate in stage.gates)]
        self.gates = nn.ModuleList(Chain(site, num_inputs, build) for site in sites)

    def enter(self, layer: int, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        """Return π_l ⊙ x_l."""
        gated: torch.Tensor = self.gates[layer](x_BN, context)
        return gated
