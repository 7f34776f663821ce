"""AdaSparse: the domain and a layer's own input weigh, and prune, each neuron that enters a weight matrix.

Paper: Yang et al., AdaSparse, CIKM 2022
Year: 2022

Conditions on: e_d and the layer's own input
Grows with domains: nothing

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
`inspect` gives studies r^l of each domain's test rows; the log holds its mean over an epoch's batches (1.4). Where
several workers train, r^l is the mean over all their rows, each of which pulls as in one process (1.4). Not here:
weight matrices compacted for serving (1.5; factors are computed for each row). Scaling and slopes near 1 start within
2e-2 of the backbone, not 1e-2, where the input is wide (measured: 1.2e-2 at 337 inputs). Most of the default form's
gain on MovieLens-1M remains with domains that carry no information; `pruner_input=domain` does use the domains
(docs/reports/controls.md).
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

    def inspect(self, model: CTRModel, test: SplitData) -> dict[str, np.ndarray]:
        """Return the share of each domain's test rows that keep a neuron, (domains, neurons) by site.

        `domain` holds the ids of the domains with test rows, `rows` their numbers of rows.
        """
        kept: dict[str, torch.Tensor] = {}
        rows_D = torch.zeros(model.schema.num_domains + 1, dtype=torch.float64)

        def look(gate: GateModule, given: tuple[torch.Tensor, Context]) -> None:
            x_BN, context = given
            # In float64: a float32 count of ones stops at 16.7 million.
            kept_BN = (gate.factors(x_BN, context) > 0.0).double()
            total_DN = kept.setdefault(gate.name, kept_BN.new_zeros(len(rows_D), kept_BN.shape[1]))
            total_DN.index_add_(0, context.domain_B.long().to(kept_BN.device), kept_BN)

        gates = [module for module in model.modules() if isinstance(module, GateModule)]
        handles = [gate.register_forward_pre_hook(look) for gate in gates]
        model.eval()
        with torch.no_grad():
            for batch in test.in_order(EVAL_ROWS):
                rows_D += torch.bincount(batch.domain_B.long(), minlength=len(rows_D))
                model(batch)
        for handle in handles:
            handle.remove()
        present = torch.nonzero(rows_D)[:, 0]
        shares = {name: total[present.to(total.device)].cpu() for name, total in kept.items()}
        return {
            "domain": present.numpy(),
            "rows": rows_D[present].numpy().astype(np.int64),
            **{name: (total / rows_D[present, None]).float().numpy() for name, total in shares.items()},
        }

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
        # Of r^l's gradient a worker has what its own rows have.
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
