"""The gate h ⊙ π in training: factors made by a sigmoid, pruned by a threshold, with gradients written by hand.

    v_in  = P [e ; h] + c,   v_out = ceiling · σ(slope · v_in)
    π     = v_out, or 1 if `is_binary`, where v_out > threshold; 0 elsewhere

Automatic differentiation would keep a dozen tensors of the size of the batch per gate. Here one pass over the rows
computes the product and one its gradients: by compiled loops on the CPU, by tensor operations on any device.

Shapes in names: B rows, N gated neurons, M all neurons, G rows of e (the batch's rows, or its groups), E width of e.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import numpy as np
import torch
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional

from ctrbench.compiled import compiled
from ctrbench.nn.exchange import Team
from ctrbench.nn.kernels.loops import Array
from ctrbench.nn.routing import Routing, full_precision

Number = TypeVar("Number", float, torch.Tensor)
Trained = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""h ⊙ π, the penalty and the pruned share."""


class RatioPenalty(Protocol):
    """A penalty on the pruned share r of a gate."""

    def __call__(self, ratio: Number, /) -> tuple[Number, Number]:
        """Return the penalty and its slope by r; a float on the CPU, a tensor of one number on other devices."""


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """How the factors π follow from v_in, and which gradients they have in training."""

    ceiling: float
    """Least upper bound of v_out."""
    threshold: float | None = None
    """A neuron is pruned where v_out does not exceed it; None: nothing is pruned."""
    is_binary: bool = False
    """Whether neurons that are kept are multiplied by 1, not by v_out."""
    gradient: Literal["ste", "masked", "soft", "zero"] = "ste"
    """dL/dv_out: dL/dπ everywhere, or of kept neurons only; exact, without a threshold in training; or 0."""
    ratio_mode: Literal["mask", "l1"] = "mask"
    """r is the pruned share, or 1 - mean π."""
    is_detached: bool = False
    """Whether the gradient stops where e and h enter v_in."""

    def sigmoid(self, v_in: torch.Tensor, slope: torch.Tensor | None) -> torch.Tensor:
        """Return v_out / ceiling; overwrites v_in. Without a slope it is 1."""
        return (v_in if slope is None else v_in.mul_(slope)).sigmoid_()

    def v_out(self, v_in: torch.Tensor, slope: torch.Tensor | None) -> torch.Tensor:
        """Return v_out; overwrites v_in."""
        base = self.sigmoid(v_in, slope)
        return base if self.ceiling == 1.0 else base * self.ceiling

    def factors(self, v_out: torch.Tensor) -> torch.Tensor:
        """Return π as at inference; a neuron is pruned where it is 0."""
        if self.threshold is None:
            return v_out
        if self.is_binary:
            return (v_out > self.threshold).to(v_out.dtype)
        return functional.threshold(v_out, self.threshold, 0.0)

    @property
    def is_cut(self) -> bool:
        """Whether training multiplies pruned neurons by 0."""
        return self.threshold is not None and self.gradient != "soft"

    @property
    def is_hard(self) -> bool:
        """Whether training multiplies kept neurons by 1."""
        return self.is_cut and self.is_binary

    @property
    def is_masked(self) -> bool:
        """Whether the gradient of π stops at pruned neurons."""
        return self.threshold is not None and self.gradient == "masked"


@dataclass(frozen=True, kw_only=True)
class GateCall:
    """The inputs of one gate's training step beside its tensors."""

    settings: GateSettings
    slope: torch.Tensor | None
    penalty: RatioPenalty
    num_sites: int
    """Gates of the model; each penalty is divided by their number."""
    takes_hidden: bool
    """Whether h enters v_in, beside e."""
    routing: Routing | None = None
    """Set where all rows of a group share their factors; e and v_in then have one row per group."""
    team: Team | None = None
    """The workers that have the batch's other rows; r is the mean over all rows."""

    @property
    def steepness(self) -> torch.Tensor | float:
        """The factor of σ' in dv_out / dv_in."""
        ceiling = self.settings.ceiling
        return ceiling if self.slope is None else ceiling * self.slope

    def index(self, num_rows: int) -> Array:
        """Return the row of v_in that each of the batch's rows uses."""
        return np.arange(num_rows) if self.routing is None else self.routing.index

    def mean_over_workers(self, pruned: Number, ratio: Number) -> tuple[Number, Number]:
        """Return the means over the rows of all workers of the pruned share and r."""
        if self.team is None or self.settings.threshold is None:
            return pruned, ratio
        if isinstance(pruned, torch.Tensor) and isinstance(ratio, torch.Tensor):
            pruned, ratio = self.team.mean(torch.stack([pruned, ratio])).unbind()
        else:
            pruned, ratio = self.team.mean(torch.tensor([pruned, ratio], dtype=torch.float64)).tolist()
        return pruned, ratio


def train_gate(
    gated_BN: torch.Tensor,
    hidden_BM: torch.Tensor,
    domain_GE: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    call: GateCall,
) -> Trained:
    """Return h ⊙ π, the penalty divided by the number of gates, and the pruned share.

    `gated_BN` holds the gated neurons of `hidden_BM`, and is the same tensor where all are gated. `weight` has a row
    per number of [e ; h] and a column per gated neuron. As a pruned share, r has the gradient -1/(B N) for each v_out;
    where the rows of a group share factors, a v_out counts as often as its group has rows.
    """
    trained: Trained
    is_all = hidden_BM is gated_BN
    gated_BN, domain_GE = gated_BN.to(weight.dtype), domain_GE.to(weight.dtype)
    hidden_BM = gated_BN if is_all else hidden_BM.to(weight.dtype)
    with full_precision(weight.device):
        trained = _TrainGate.apply(gated_BN, hidden_BM, domain_GE, weight, bias, call)  # type: ignore[no-untyped-call]
    return trained


class _TrainGate(torch.autograd.Function):
    """`train_gate` with gradients written by hand."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        gated_BN: torch.Tensor,
        hidden_BM: torch.Tensor,
        domain_GE: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        call: GateCall,
    ) -> Trained:
        width = domain_GE.shape[1]
        v_in = torch.addmm(bias, domain_GE, weight[:width])
        if call.takes_hidden:
            v_in.addmm_(hidden_BM, weight[width:])
        base = call.settings.sigmoid(v_in, call.slope)
        product, pruned, penalty, slope = _multiply(gated_BN, base, call)
        ctx.save_for_backward(gated_BN, hidden_BM, domain_GE, weight, base, slope / call.num_sites)
        ctx.call = call  # type: ignore[attr-defined]
        ctx.mark_non_differentiable(pruned)
        return product, penalty / call.num_sites, pruned

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gated_BN, hidden_BM, domain_GE, weight, base, slope = ctx.saved_tensors  # type: ignore[attr-defined]
        call: GateCall = ctx.call  # type: ignore[attr-defined]
        settings = call.settings
        # Of the gradient of r a worker has the part that its own rows have.
        pull = grads[1] * slope if call.team is None else grads[1] * slope * call.team.share
        by_gated, by_v = _backward(grads[0], pull, gated_BN, base, call)
        if settings.threshold is not None and settings.gradient == "zero":
            return by_gated, None, None, None, None, None
        width, by_weight, by_hidden, by_domain = domain_GE.shape[1], torch.empty_like(weight), None, None
        torch.mm(domain_GE.t(), by_v, out=by_weight[:width])
        if call.takes_hidden:
            torch.mm(hidden_BM.t(), by_v, out=by_weight[width:])
        if not settings.is_detached:
            by_domain = by_v @ weight[:width].t()
            if call.takes_hidden and hidden_BM is gated_BN:
                by_gated.addmm_(by_v, weight[width:].t())
            elif call.takes_hidden:
                by_hidden = by_v @ weight[width:].t()
        return by_gated, by_hidden, by_domain, by_weight, by_v.sum(0), None


def _multiply(gated_BN: torch.Tensor, base: torch.Tensor, call: GateCall) -> tuple[torch.Tensor, ...]:
    """Return h ⊙ π, the pruned share, the penalty and its slope by r, in the form that suits the device."""
    if base.device.type == "cpu":
        product, share, ratio = multiply_by_loops(gated_BN, base, call)
        share, ratio = call.mean_over_workers(share, ratio)
        return product, *torch.tensor((share, *call.penalty(ratio)), dtype=base.dtype).unbind()
    product, pruned, r = multiply_by_tensors(gated_BN, base, call)
    pruned, r = call.mean_over_workers(pruned, r)
    return product, pruned, *call.penalty(r)


def _backward(
    grad_BN: torch.Tensor, pull: torch.Tensor, gated_BN: torch.Tensor, base: torch.Tensor, call: GateCall
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients by h and by v_in, in the form that suits the device."""
    back = backward_by_loops if base.device.type == "cpu" else backward_by_tensors
    return back(grad_BN, pull, gated_BN, base, call)


def multiply_by_tensors(
    gated_BN: torch.Tensor, base: torch.Tensor, call: GateCall
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return h ⊙ π, the pruned share and r, from v_out / ceiling; on any device."""
    settings, routing = call.settings, call.routing
    v_out = base * settings.ceiling
    exact = settings.factors(v_out)
    factors = exact if settings.is_cut else v_out
    if routing is not None:
        exact, factors = exact.index_select(0, routing.index_B), factors.index_select(0, routing.index_B)
    pruned = 1.0 - exact.sign().mean()
    return gated_BN * factors, pruned, 1.0 - factors.mean() if settings.ratio_mode == "l1" else pruned


def multiply_by_loops(
    gated_BN: torch.Tensor, base: torch.Tensor, call: GateCall
) -> tuple[torch.Tensor, float, float]:
    """Return h ⊙ π, the pruned share and r, from v_out / ceiling; on the CPU."""
    settings, product = call.settings, torch.empty_like(gated_BN)
    num_kept = _multiply_loop(
        gated_BN.numpy(), base.numpy(), call.index(len(gated_BN)),
        settings.ceiling, settings.threshold or 0.0, settings.is_cut, settings.is_hard, product.numpy(),
    )  # fmt: skip
    pruned = 1.0 - num_kept / gated_BN.numel()
    return product, pruned, 1.0 - _mean_factor(base, call) if settings.ratio_mode == "l1" else pruned


def _mean_factor(base: torch.Tensor, call: GateCall) -> float:
    v_out = base * call.settings.ceiling
    factors = call.settings.factors(v_out) if call.settings.is_cut else v_out
    row_means = factors.mean(1)
    return float(row_means.mean() if call.routing is None else row_means @ call.routing.share_G)


def backward_by_tensors(
    grad_BN: torch.Tensor, pull: torch.Tensor, gated_BN: torch.Tensor, base: torch.Tensor, call: GateCall
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients by h and by v_in, given those by h ⊙ π and by r; on any device."""
    settings, routing = call.settings, call.routing
    v_out = base * settings.ceiling
    factors = settings.factors(v_out) if settings.is_cut else v_out
    by_factors, pull = grad_BN * gated_BN, pull / grad_BN.numel()
    if routing is not None:
        factors = factors.index_select(0, routing.index_B)
        by_factors = torch.zeros_like(base).index_add_(0, routing.index_B, by_factors)
        pull = pull * routing.counts_G[:, None]
    by_v_out = by_factors if settings.threshold is None else by_factors - pull
    if settings.threshold is not None and settings.is_masked:
        # A pruned share pulls at every v_out, a mean factor at those of kept neurons.
        elsewhere = torch.zeros_like(pull) if settings.ratio_mode == "l1" else -pull
        by_v_out = torch.where(v_out > settings.threshold, by_v_out, elsewhere)
    return grad_BN * factors, by_v_out * base * (1.0 - base) * call.steepness


def backward_by_loops(
    grad_BN: torch.Tensor, pull: torch.Tensor, gated_BN: torch.Tensor, base: torch.Tensor, call: GateCall
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients by h and by v_in, given those by h ⊙ π and by r; on the CPU."""
    settings = call.settings
    by_gated, by_v = torch.empty_like(gated_BN), torch.zeros_like(base)
    _backward_loop(
        grad_BN.contiguous().numpy(), gated_BN.numpy(), base.numpy(), call.index(len(gated_BN)),
        settings.ceiling, settings.threshold or 0.0,
        0.0 if settings.threshold is None else float(pull) / grad_BN.numel(), float(call.steepness),
        (settings.is_cut, settings.is_hard, settings.is_masked, settings.ratio_mode == "l1"),
        by_gated.numpy(), by_v.numpy(),
    )  # fmt: skip
    return by_gated, by_v


@compiled
def _multiply_loop(
    x_BN: Array,
    base: Array,
    index_B: Array,
    ceiling: float,
    threshold: float,
    is_cut: bool,
    is_hard: bool,
    product_BN: Array,
) -> int:
    """Write h ⊙ π; return how many v_out exceed the threshold."""
    top, low, zero32, one32 = np.float32(ceiling), np.float32(threshold), np.float32(0.0), np.float32(1.0)
    num_kept = 0
    for i in range(len(x_BN)):
        x, share, product = x_BN[i], base[index_B[i]], product_BN[i]
        num_kept_of_row = np.int32(0)
        for j in range(len(x)):
            v_out = top * share[j]
            is_kept = v_out > low
            factor = one32 if is_hard else v_out
            product[j] = x[j] * (factor if is_kept or not is_cut else zero32)
            # As wide as the numbers beside it, or the loop is not vectorized.
            num_kept_of_row += np.int32(is_kept)
        num_kept += int(num_kept_of_row)
    return num_kept


@compiled
def _backward_loop(
    grad_BN: Array,
    x_BN: Array,
    base: Array,
    index_B: Array,
    ceiling: float,
    threshold: float,
    pull: float,
    steepness: float,
    flags: tuple[bool, bool, bool, bool],
    by_x_BN: Array,
    by_v: Array,
) -> None:
    """Write the gradient by h, and add that by v_in to `by_v`, which holds zeros."""
    is_cut, is_hard, is_masked, is_mean = flags
    top, low, zero32, one32 = np.float32(ceiling), np.float32(threshold), np.float32(0.0), np.float32(1.0)
    pull32, steep = np.float32(pull), np.float32(steepness)
    elsewhere = zero32 if is_mean else -pull32
    for i in range(len(x_BN)):
        grad, x, share, by_x, total = grad_BN[i], x_BN[i], base[index_B[i]], by_x_BN[i], by_v[index_B[i]]
        for j in range(len(x)):
            v_out = top * share[j]
            is_kept = v_out > low
            factor = one32 if is_hard else v_out
            by_x[j] = grad[j] * (factor if is_kept or not is_cut else zero32)
            total[j] += grad[j] * x[j] - pull32 if is_kept or not is_masked else elsewhere
    for r in range(len(base)):
        share, total = base[r], by_v[r]
        for j in range(len(share)):
            total[j] *= share[j] * (one32 - share[j]) * steep
