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
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from ctrbench.extend import (
    EVAL_ROWS,
    Array,
    Build,
    Chain,
    Context,
    Cross,
    CrossModule,
    CTRModel,
    Dense,
    Field,
    GateSite,
    Inspection,
    Method,
    Plan,
    Routing,
    Schema,
    SettingError,
    SplitData,
    Stage,
    StageModule,
    Team,
    compiled,
    full_precision,
    model_validator,
    start_weight,
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
    def _check(self) -> Self:
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
        entry = _first_fed_dense(plan)

        def gate(dense: Dense) -> Gate:
            return self._gate(dense.name, num_sites, takes_embeddings=dense is entry)

        # Stages before the first gated site stay as they are.
        ungated = plan.tower[: plan.tower.index(entry) + 1] if entry and self.prune_input is None else ()
        edited = replace(plan, tower=plan.tower[len(ungated) :]).before_dense(gate)
        edited = replace(edited, tower=(*ungated, *edited.tower))
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
        return Gate(
            name=f"{site}.gate", stage=site, settings=self, num_sites=num_sites, is_partial=is_partial
        )

    def _num_sites(self, plan: Plan) -> int:
        dense = sum(isinstance(stage, Dense) for stage in (*plan.tower, *plan.head))
        crosses = [
            stage.layers for stage in plan.interactions if isinstance(stage, Cross) and self.prune_cross
        ]
        entries = len(crosses) + (_first_fed_dense(plan) is not None)
        return dense + sum(crosses) - (entries if self.prune_input is None else 0)

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
        has_cross = any(isinstance(stage, Cross) for stage in plan.interactions)
        if self.prune_cross and not has_cross:
            return "prune_cross needs cross matrices, and this plan has none"
        if self.prune_input != "all" and _first_fed_dense(plan) is None and not self.prune_cross:
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


def _first_fed_dense(plan: Plan) -> Dense | None:
    """Return the first dense stage of a tower that reads the embeddings; None for a stacked tower."""
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


def band_penalty(ratio: Number, lambda_hat: Number, settings: AdaSparse) -> tuple[Number, Number]:
    """Return λ^l |r^l - r|, and its slope by r^l with λ^l held constant."""
    gap = ratio - 0.5 * (settings.r_min + settings.r_max)
    # Rounding at the edge of the band is not outside it.
    is_outside = abs(gap) > 0.5 * (settings.r_max - settings.r_min) + 1e-6
    return lambda_hat * gap * gap * is_outside, lambda_hat * gap * is_outside


@dataclass(frozen=True, kw_only=True)
class Site:
    """What a gate's forward pass hands to its backward pass beside tensors."""

    settings: AdaSparse
    alpha: torch.Tensor
    lambda_hat: torch.Tensor
    num_sites: int
    routing: Routing | None
    """Set where factors are those of a row's domain, and so e_d and factors are given by domain."""
    takes_hidden: bool
    team: Team | None = None
    """The workers that have the batch's other rows: r^l is the mean over all."""

    def over_workers(self, pruned: Number, ratio: Number) -> tuple[Number, Number]:
        """Return the means over the rows of all workers of the pruned share and r^l."""
        if self.team is None or self.settings.form == "scaling":
            return pruned, ratio
        if isinstance(pruned, torch.Tensor) and isinstance(ratio, torch.Tensor):
            pruned, ratio = self.team.mean(torch.stack([pruned, ratio])).unbind()
        else:
            pruned, ratio = self.team.mean(torch.tensor([pruned, ratio], dtype=torch.float64)).tolist()
        return pruned, ratio

    @property
    def steepness(self) -> torch.Tensor | float:
        """Return the factor of σ' in dv_out / dv_in."""
        ceiling = self.settings.ceiling
        return ceiling if self.settings.form == "scaling" else ceiling * self.alpha

    @property
    def is_cut(self) -> bool:
        """Whether training multiplies by 0 where v_out ≤ ε."""
        return self.settings.form != "scaling" and self.settings.gradient != "soft"

    @property
    def is_hard(self) -> bool:
        """Whether training multiplies by 1 elsewhere."""
        return self.is_cut and self.settings.form == "binarization"

    @property
    def is_masked(self) -> bool:
        """Whether the gradient of π stops where v_out ≤ ε."""
        return self.settings.form != "scaling" and self.settings.gradient == "masked"

    def base(self, v_in: torch.Tensor) -> torch.Tensor:
        """Return v_out over its ceiling; overwrites v_in."""
        return (v_in if self.settings.form == "scaling" else v_in.mul_(self.alpha)).sigmoid_()

    def index(self, num_rows: int) -> Array:
        """Return the row of the factors that each of the batch's rows takes."""
        return np.arange(num_rows) if self.routing is None else self.routing.index


class _TrainGate(torch.autograd.Function):
    """h ⊙ π and λ^l |r^l - r| / S in training, the gradients by hand (METHODS 1.3-1.4): few operations and passes."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        gated_BN: torch.Tensor,
        hidden_BN: torch.Tensor,
        domain_GE: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        site: Site,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        width = domain_GE.shape[1]
        v_in = torch.addmm(bias, domain_GE, weight[:width])
        if site.takes_hidden:
            v_in.addmm_(hidden_BN, weight[width:])
        base = site.base(v_in)
        if base.device.type == "cpu":
            product, share, ratio = multiply_by_loops(gated_BN, base, site)
            share, ratio = site.over_workers(share, ratio)
            band = (share, *band_penalty(ratio, float(site.lambda_hat), site.settings))
            pruned, penalty, slope = torch.tensor(band, dtype=base.dtype).unbind()
        else:
            product, pruned, r = multiply_by_tensors(gated_BN, base, site)
            pruned, r = site.over_workers(pruned, r)
            penalty, slope = band_penalty(r, site.lambda_hat, site.settings)
        ctx.save_for_backward(gated_BN, hidden_BN, domain_GE, weight, base, slope / site.num_sites)
        ctx.site = site  # type: ignore[attr-defined]
        ctx.mark_non_differentiable(pruned)
        return product, penalty / site.num_sites, pruned

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gated_BN, hidden_BN, domain_GE, weight, base, slope = ctx.saved_tensors  # type: ignore[attr-defined]
        site: Site = ctx.site  # type: ignore[attr-defined]
        back = back_by_loops if base.device.type == "cpu" else back_by_tensors
        # A worker's share of the gradient of r^l is that of its own rows.
        pull = grads[1] * slope if site.team is None else grads[1] * slope * site.team.share
        by_gated, by_v = back(grads[0], pull, gated_BN, base, site)
        if site.settings.form != "scaling" and site.settings.gradient == "zero":
            return by_gated, None, None, None, None, None
        width, by_weight, by_hidden, by_domain = domain_GE.shape[1], torch.empty_like(weight), None, None
        torch.mm(domain_GE.t(), by_v, out=by_weight[:width])
        if site.takes_hidden:
            torch.mm(hidden_BN.t(), by_v, out=by_weight[width:])
        if not site.settings.detach_pruner_input:
            by_domain = by_v @ weight[:width].t()
            if site.takes_hidden and hidden_BN is gated_BN:
                by_gated.addmm_(by_v, weight[width:].t())
            elif site.takes_hidden:
                by_hidden = by_v @ weight[width:].t()
        return by_gated, by_hidden, by_domain, by_weight, by_v.sum(0), None


def train_gate(
    gated_BN: torch.Tensor,
    hidden_BN: torch.Tensor,
    domain_GE: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    site: Site,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return h ⊙ π, λ^l |r^l - r| / S and the pruned share, with the gradients that the settings ask for.

    As the pruned share, r^l has the gradient -1/(B N) for each v_out. Where domains share factors, v_out stands for
    as many rows as the domain has.
    """
    found: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    is_all = hidden_BN is gated_BN
    gated_BN, domain_GE = gated_BN.to(weight.dtype), domain_GE.to(weight.dtype)
    hidden_BN = gated_BN if is_all else hidden_BN.to(weight.dtype)
    with full_precision(weight.device):
        found = _TrainGate.apply(gated_BN, hidden_BN, domain_GE, weight, bias, site)  # type: ignore[no-untyped-call]
    return found


def multiply_by_tensors(
    gated_BN: torch.Tensor, base: torch.Tensor, site: Site
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return h ⊙ π, the pruned share and r^l, on any device."""
    settings, routing = site.settings, site.routing
    v_out = base * settings.ceiling
    exact = exact_factors(v_out, settings)
    factors = exact if site.is_cut else v_out
    if routing is not None:
        exact, factors = exact.index_select(0, routing.index_B), factors.index_select(0, routing.index_B)
    pruned = 1.0 - exact.sign().mean()
    return gated_BN * factors, pruned, 1.0 - factors.mean() if settings.ratio_mode == "l1" else pruned


def back_by_tensors(
    grad_BN: torch.Tensor, of_ratio: torch.Tensor, gated_BN: torch.Tensor, base: torch.Tensor, site: Site
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients by h and by v_in, on any device."""
    settings, routing = site.settings, site.routing
    v_out = base * settings.ceiling
    factors = exact_factors(v_out, settings) if site.is_cut else v_out
    by_factors, pull = grad_BN * gated_BN, of_ratio / grad_BN.numel()
    if routing is not None:
        factors = factors.index_select(0, routing.index_B)
        by_factors = torch.zeros_like(base).index_add_(0, routing.index_B, by_factors)
        pull = pull * routing.counts_G[:, None]
    by_v_out = by_factors if settings.form == "scaling" else by_factors - pull
    if site.is_masked:
        # The pruned share pulls at every v_out, a mean factor at those that are let through.
        elsewhere = torch.zeros_like(pull) if settings.ratio_mode == "l1" else -pull
        by_v_out = torch.where(v_out > settings.epsilon, by_v_out, elsewhere)
    return grad_BN * factors, by_v_out * base * (1.0 - base) * site.steepness


def multiply_by_loops(
    gated_BN: torch.Tensor, base: torch.Tensor, site: Site
) -> tuple[torch.Tensor, float, float]:
    """Return h ⊙ π, the pruned share and r^l, on the CPU."""
    settings, product = site.settings, torch.empty_like(gated_BN)
    num_kept = _multiply(
        gated_BN.numpy(), base.numpy(), site.index(len(gated_BN)),
        settings.ceiling, settings.epsilon, site.is_cut, site.is_hard, product.numpy(),
    )  # fmt: skip
    pruned = 1.0 - num_kept / gated_BN.numel()
    return product, pruned, 1.0 - _mean_factor(base, site) if settings.ratio_mode == "l1" else pruned


def _mean_factor(base: torch.Tensor, site: Site) -> float:
    v_out = base * site.settings.ceiling
    factors = exact_factors(v_out, site.settings) if site.is_cut else v_out
    row_means = factors.mean(1)
    return float(row_means.mean() if site.routing is None else row_means @ site.routing.share_G)


def back_by_loops(
    grad_BN: torch.Tensor, of_ratio: torch.Tensor, gated_BN: torch.Tensor, base: torch.Tensor, site: Site
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients by h and by v_in, on the CPU."""
    settings = site.settings
    by_gated, by_v = torch.empty_like(gated_BN), torch.zeros_like(base)
    pull = 0.0 if settings.form == "scaling" else float(of_ratio) / grad_BN.numel()
    _back(
        grad_BN.contiguous().numpy(), gated_BN.numpy(), base.numpy(), site.index(len(gated_BN)),
        settings.ceiling, settings.epsilon, pull, float(site.steepness),
        (site.is_cut, site.is_hard, site.is_masked, settings.ratio_mode == "l1"),
        by_gated.numpy(), by_v.numpy(),
    )  # fmt: skip
    return by_gated, by_v


@compiled
def _multiply(
    x_BN: Array,
    base: Array,
    index_B: Array,
    ceiling: float,
    epsilon: float,
    is_cut: bool,
    is_hard: bool,
    product_BN: Array,
) -> int:
    """Write h ⊙ π; return how many v_out are above ε."""
    top, low, zero, one = np.float32(ceiling), np.float32(epsilon), np.float32(0.0), np.float32(1.0)
    num_kept = 0
    for i in range(len(x_BN)):
        x, share, product = x_BN[i], base[index_B[i]], product_BN[i]
        kept = np.int32(0)
        for j in range(len(x)):
            v_out = top * share[j]
            is_kept = v_out > low
            factor = one if is_hard else v_out
            product[j] = x[j] * (factor if is_kept or not is_cut else zero)
            # As wide as the numbers beside it, or the loop is not vectorised.
            kept += np.int32(is_kept)
        num_kept += int(kept)
    return num_kept


@compiled
def _back(
    grad_BN: Array,
    x_BN: Array,
    base: Array,
    index_B: Array,
    ceiling: float,
    epsilon: float,
    pull: float,
    steepness: float,
    flags: tuple[bool, bool, bool, bool],
    by_x_BN: Array,
    by_v: Array,
) -> None:
    """Write the gradient by h, and add up that by v_in in `by_v`, which comes as zeros."""
    is_cut, is_hard, is_masked, is_mean = flags
    top, low, zero, one = np.float32(ceiling), np.float32(epsilon), np.float32(0.0), np.float32(1.0)
    pull32, steep = np.float32(pull), np.float32(steepness)
    elsewhere = zero if is_mean else -pull32
    for i in range(len(x_BN)):
        grad, x, share, by_x, total = grad_BN[i], x_BN[i], base[index_B[i]], by_x_BN[i], by_v[index_B[i]]
        for j in range(len(x)):
            v_out = top * share[j]
            is_kept = v_out > low
            factor = one if is_hard else v_out
            by_x[j] = grad[j] * (factor if is_kept or not is_cut else zero)
            total[j] += grad[j] * x[j] - pull32 if is_kept or not is_masked else elsewhere
    for r in range(len(base)):
        share, total = base[r], by_v[r]
        for j in range(len(share)):
            total[j] *= share[j] * (one - share[j]) * steep


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

    alpha: torch.Tensor
    lambda_hat: torch.Tensor
    columns: torch.Tensor | None
    """Gated columns, where not all are."""

    def __init__(self, stage: Gate, num_inputs: int, build: Build) -> None:
        super().__init__()
        self.name, self.stage = stage.name, stage.stage
        self.settings, self.num_sites = stage.settings, stage.num_sites
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
        # As in training, whatever the precision around it: a threshold must fall alike.
        with full_precision(x_BN.device):
            v_in = torch.addmm(self.bias, inputs.to(self.weight.dtype), self.weight)
            return exact_factors(base_factors(v_in, self.alpha, self.settings), self.settings)

    def _train(self, gated_BN: torch.Tensor, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        settings = self.settings
        takes_hidden = settings.pruner_input == "domain_and_hidden"
        # Factors of e_d alone are those of the row's domain; only unseen domains share an id.
        is_grouped = not takes_hidden and not context.domain_routing.has(0)
        site = Site(
            settings=settings,
            alpha=self.alpha,
            lambda_hat=self.lambda_hat,
            num_sites=self.num_sites,
            routing=context.domain_routing if is_grouped else None,
            takes_hidden=takes_hidden,
            team=context.team,
        )
        domain_GE = context.domain_GE if is_grouped else context.domain_BE
        product, penalty, pruned = train_gate(gated_BN, x_BN, domain_GE, self.weight, self.bias, site)
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


@dataclass(frozen=True, kw_only=True)
class GatedCross(Cross):
    """x_{l+1} = x_0 ⊙ (W_l (π_l ⊙ x_l) + b_l) + x_l, with gates for the last layers or all."""

    gates: tuple[Gate, ...]

    def build(self, num_inputs: int, build: Build) -> GatedCrossModule:
        """Build the module; its kernels start as those of the cross network without gates."""
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
