from __future__ import annotations

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
)
from ctrbench.nn.routing import Routing

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
