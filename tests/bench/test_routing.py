"""A layer with a matrix a domain, forward and backward, against one matrix that all rows share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from ctrbench.nn.routing import Routing
from ctrbench.synthetic.click_log import synthetic_ids

ROWS, INPUTS, OUTPUTS = 4096, 128, 64
GROUP = f"a layer of {INPUTS} × {OUTPUTS}, {ROWS} rows, forward and backward"


def layer(multiply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], *weight: int) -> Callable[[], None]:
    """Return one pass through a layer, with the gradients of rows and weights."""
    generator = torch.Generator().manual_seed(0)
    x_BN = torch.randn(ROWS, INPUTS, generator=generator, requires_grad=True)
    weight_GNM = torch.randn(*weight, generator=generator, requires_grad=True)
    grad_BM = torch.randn(ROWS, OUTPUTS, generator=generator)

    def once() -> None:
        x_BN.grad = weight_GNM.grad = None
        torch.autograd.backward(multiply(x_BN, weight_GNM), grad_BM)

    return once


@pytest.mark.benchmark(group=GROUP)
def test_shared_by_all(benchmark: BenchmarkFixture) -> None:
    benchmark.pedantic(layer(torch.mm, INPUTS, OUTPUTS), rounds=30, warmup_rounds=3)


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("domains", [5, 50, 500, 5_000])
def test_one_a_domain(benchmark: BenchmarkFixture, domains: int) -> None:
    """Grouping the rows is part of it; domains are as many as there are, of which a batch holds some."""
    domain_B = torch.from_numpy(synthetic_ids(ROWS, (domains,), seed=0)[:, 0])
    present = Routing(domain_B).num_groups
    benchmark.extra_info["domains in the batch"] = present
    once = layer(lambda x, weight: Routing(domain_B).linear(x, weight), present, INPUTS, OUTPUTS)
    benchmark.pedantic(once, rounds=30, warmup_rounds=3)
