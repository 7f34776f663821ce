from __future__ import annotations

import math

import pytest
import torch

from ctrbench.nn.kernels.gate import (
    GateCall,
    GateSettings,
    Number,
    backward_by_loops,
    backward_by_tensors,
    multiply_by_loops,
    multiply_by_tensors,
    train_gate,
)
from ctrbench.nn.routing import Routing

LN3 = math.log(3.0)
FUSION = {"ceiling": 2.0, "threshold": 0.25}
BINARY = {"ceiling": 1.0, "threshold": 0.25, "is_binary": True}
SETTINGS: list[dict[str, object]] = [
    FUSION,
    FUSION | {"gradient": "masked"},
    FUSION | {"gradient": "soft"},
    FUSION | {"ratio_mode": "l1"},
    FUSION | {"ratio_mode": "l1", "gradient": "masked"},
    FUSION | {"ratio_mode": "l1", "gradient": "soft"},
    {"ceiling": 4.0, "threshold": 1.5},
    {"ceiling": 2.0},
    BINARY,
    BINARY | {"gradient": "masked"},
    BINARY | {"gradient": "soft", "ratio_mode": "l1"},
]


def no_penalty(ratio: Number, /) -> tuple[Number, Number]:
    return ratio * 0.0, ratio * 0.0


@pytest.mark.parametrize("is_grouped", [True, False])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_loops_and_tensors_compute_the_same(settings: dict[str, object], is_grouped: bool) -> None:
    torch.manual_seed(3)
    call = GateCall(
        settings=GateSettings(**settings),  # type: ignore[arg-type]
        slope=torch.tensor(1.7) if "threshold" in settings else None,
        penalty=no_penalty,
        num_sites=2,
        takes_hidden=False,
        routing=Routing(torch.tensor([4, 9, 4, 4, 2, 9])) if is_grouped else None,
    )
    base = torch.rand(3 if is_grouped else 6, 5)
    h, grad, pull = torch.randn(6, 5), torch.randn(6, 5), torch.tensor(0.3)
    products = zip(multiply_by_loops(h, base, call), multiply_by_tensors(h, base, call), strict=True)
    for by_loops, by_tensors in list(products)[: 3 if "threshold" in settings else 1]:
        torch.testing.assert_close(torch.as_tensor(by_loops), by_tensors, check_dtype=False)
    gradients = backward_by_loops(grad, pull, h, base, call), backward_by_tensors(grad, pull, h, base, call)
    for by_loops, by_tensors in zip(*gradients, strict=True):
        torch.testing.assert_close(by_loops, by_tensors)


def factors_of(settings: dict[str, object], v_in: list[float], alpha: float | None) -> list[float]:
    gate, slope = GateSettings(**settings), None if alpha is None else torch.tensor(alpha)  # type: ignore[arg-type]
    return gate.factors(gate.v_out(torch.tensor(v_in), slope)).tolist()


# σ(ln 3) = 3/4.


def test_fusion_scales_by_the_sigmoid_of_alpha_times_v_in() -> None:
    assert factors_of(FUSION, [LN3 / 2, 0.0], alpha=2.0) == pytest.approx([1.5, 1.0])


def test_scaling_has_no_slope_and_no_threshold() -> None:
    factors = factors_of({"ceiling": 2.0}, [LN3, -LN3, -20.0], alpha=None)
    assert factors == pytest.approx([1.5, 0.5, 4.1223072e-9])


def test_binarization_is_zero_or_one() -> None:
    assert factors_of(BINARY, [LN3, -0.1, -LN3 - 0.001], alpha=1.0) == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("alpha", [0.1, 1.0, 5.0])
def test_binarization_prunes_below_minus_ln_3_over_alpha(alpha: float) -> None:
    pruned, kept = factors_of(BINARY, [-1.0987 / alpha, -1.0985 / alpha], alpha)
    assert (pruned, kept) == (0.0, 1.0)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 5.0])
def test_fusion_prunes_below_minus_ln_7_over_alpha(alpha: float) -> None:
    pruned, kept = factors_of(FUSION, [-1.9460 / alpha, -1.9458 / alpha], alpha)
    assert pruned == 0.0
    assert kept == pytest.approx(0.25, abs=1e-4)


def test_ceiling_and_threshold_move_the_pruned_range() -> None:
    # σ ≤ 1.5 / 4 = 0.375, v_in ≤ ln(0.6)
    settings = {"ceiling": 4.0, "threshold": 1.5}
    assert factors_of(settings, [-0.511, -0.510], alpha=1.0) == pytest.approx([0.0, 1.5], abs=1e-3)


def slopes_of(settings: dict[str, object], v_in: list[float]) -> tuple[list[float], list[float]]:
    """Return π in training at α = 1, and the gradient of their sum by v_in."""
    start, ones, width = torch.tensor([v_in], requires_grad=True), torch.ones(1, len(v_in)), len(v_in)
    call = GateCall(
        settings=GateSettings(**settings),  # type: ignore[arg-type]
        slope=torch.tensor(1.0) if "threshold" in settings else None,
        penalty=no_penalty,
        num_sites=1,
        takes_hidden=False,
    )
    factors = train_gate(ones, ones, start, torch.eye(width), torch.zeros(width), call)[0]
    (slope,) = torch.autograd.grad(factors.sum(), start, allow_unused=True)
    return factors[0].tolist(), [0.0] * width if slope is None else slope[0].tolist()


# Gradients by hand at v_in = ln 3 (kept) and -ln 15 (pruned): σ = 3/4 and 1/16, σ' = 3/16 and 15/256.


@pytest.mark.parametrize(
    ("settings", "gradient", "factors", "slopes"),
    [
        (FUSION, "ste", [1.5, 0.0], [0.375, 0.1171875]),
        (FUSION, "masked", [1.5, 0.0], [0.375, 0.0]),
        (FUSION, "soft", [1.5, 0.125], [0.375, 0.1171875]),
        (FUSION, "zero", [1.5, 0.0], [0.0, 0.0]),
        (BINARY, "ste", [1.0, 0.0], [0.1875, 0.05859375]),
        (BINARY, "masked", [1.0, 0.0], [0.1875, 0.0]),
        (BINARY, "soft", [0.75, 0.0625], [0.1875, 0.05859375]),
        (BINARY, "zero", [1.0, 0.0], [0.0, 0.0]),
    ],
)
def test_gradient_modes(
    settings: dict[str, object], gradient: str, factors: list[float], slopes: list[float]
) -> None:
    computed = slopes_of(settings | {"gradient": gradient}, [LN3, -math.log(15)])
    assert computed == (pytest.approx(factors), pytest.approx(slopes))


def test_scaling_is_fully_differentiable() -> None:
    assert slopes_of({"ceiling": 2.0}, [LN3])[1] == pytest.approx([0.375])
