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
weight λ̂ grow with the number of optimizer steps only. Sites are the inputs of all dense stages, those of the
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

import torch

from ctrbench.extend import (
    Build,
    Choices,
    Context,
    CTRModel,
    Dense,
    Field,
    GateSettings,
    GateSite,
    Inspection,
    Method,
    Plan,
    PruningGateModule,
    Schema,
    SettingError,
    SplitData,
    Stage,
    dense_stages,
    domain_means,
    model_validator,
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
    pruner_input: Annotated[
        Literal["domain_and_hidden", "domain"], Choices("domain_and_hidden", "domain")
    ] = "domain_and_hidden"
    """Input of the pruners: [e_d ; h], or e_d only, with which factors are a function of the domain."""
    detach_pruner_input: bool = False
    """Whether the gradient stops where e_d and h enter the pruners."""
    pruner_init: Annotated[float, Field(gt=0.0, le=1.0)] | Literal["zero"] = 0.1
    """Initial range of pruner weights, as a share of Xavier's; `zero`: they start at zero."""
    beta: Annotated[Positive, Choices(1.0, 1.5, 2.0, 3.0, 4.0)] = 2.0
    """β, the largest factor of Scaling and Fusion."""
    epsilon: Annotated[
        Annotated[float, Field(ge=0.0, allow_inf_nan=False)], Choices(0.05, 0.1, 0.25, 0.35, 0.5)
    ] = 0.25
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
    r_max: Annotated[Share, Choices(0.15, 0.25, 0.35, 0.5)] = 0.25
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
        gates = [module for module in model.modules() if isinstance(module, GateModule)]
        kept = domain_means(model, test, gates, lambda gate, x_BN, context: gate.factors(x_BN, context) > 0.0)
        sites = tuple(GateSite(stage=gate.stage, kept_DN=kept_DN) for gate, kept_DN in kept.means.items())
        return Inspection(domain_D=kept.domain_D, rows_D=kept.rows_D, sites=sites)

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


class GateModule(PruningGateModule):
    """Computes `Gate`."""

    alpha: torch.Tensor
    lambda_hat: torch.Tensor

    def __init__(self, stage: Gate, num_inputs: int, build: Build) -> None:
        settings = stage.settings
        super().__init__(
            stage.name,
            settings.gate_settings(),
            num_inputs,
            build,
            num_sites=stage.num_sites,
            takes_hidden=settings.pruner_input == "domain_and_hidden",
            scale=0.0 if settings.pruner_init == "zero" else settings.pruner_init,
            columns=_agnostic_columns(build.schema, num_inputs) if stage.is_partial else None,
        )
        self.stage, self.settings = stage.stage, settings
        self.register_buffer("alpha", torch.tensor(self.settings.alpha(0.0)))
        self.register_buffer("lambda_hat", torch.tensor(self.settings.lambda_hat(0.0)))

    def advance(self, progress: float) -> None:
        """Anneal α and λ̂; Scaling has neither."""
        if self.settings.form == "scaling":
            return
        self.alpha.fill_(self.settings.alpha(progress))
        self.lambda_hat.fill_(self.settings.lambda_hat(progress))

    @property
    def slope(self) -> torch.Tensor | None:
        """α; None for Scaling, which has none."""
        return None if self.settings.form == "scaling" else self.alpha

    def penalty(self, ratio: Number) -> tuple[Number, Number]:
        """Return λ^l |r^l - r| and its slope by r^l."""
        if isinstance(ratio, torch.Tensor):
            return band_penalty(ratio, self.lambda_hat, self.settings)
        return band_penalty(ratio, float(self.lambda_hat), self.settings)

    def record(self, penalty: torch.Tensor, pruned: torch.Tensor, context: Context) -> None:
        """Log the pruned share and add R_s to the loss; Scaling, which does not prune, has neither."""
        if self.settings.form != "scaling":
            context.logs[f"{self.name}.pruned"] = pruned
            if self.settings.regularise:
                context.penalties.append(penalty)


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
