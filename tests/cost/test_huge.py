"""Models that are larger than the memory: their costs are those that formulas give, and nothing is allocated."""

from __future__ import annotations

import pytest
import torch

from ctrbench.cost.huge import HUGE, SkippedHuge, shared_zeros
from ctrbench.cost.tree import total_cost
from ctrbench.nn.schema import Schema
from ctrbench.plugins.registry import select

WIDTH = 60_000


def test_a_model_beyond_the_memory_of_any_machine_has_a_cost(schema: Schema) -> None:
    plan = select("backbones", f"dnn[hidden={'-'.join([str(WIDTH)] * 64)}]").value.full_plan()
    cost, num_inputs = total_cost(plan, schema), schema.num_inputs
    products = num_inputs * WIDTH + 63 * WIDTH**2 + WIDTH
    assert cost.row == products
    assert cost.shared - products == 64 * WIDTH + 1


@pytest.mark.parametrize("method", ["star", "separate", "mmoe", "hamur", "m2m", "epnet", "ppnet"])
def test_methods_on_huge_towers_have_a_cost(schema: Schema, method: str) -> None:
    plan = select("backbones", f"dnn[hidden={WIDTH}-{WIDTH}]").value.full_plan()
    cost = total_cost(select("methods", method).value.apply(plan), schema)
    assert cost.num_parameters > HUGE
    assert cost.row > 0


@pytest.mark.parametrize("method", ["star", "mmoe", "ple", "hamur"])
@pytest.mark.parametrize("backbone", ["dnn", "dcnv2", "xdeepfm"])
def test_skipping_operations_leaves_costs_unchanged(
    schema: Schema, method: str, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = select("backbones", f"{backbone}[hidden=32-16]").value
    plan = select("methods", method).value.apply(base.full_plan())
    expected = total_cost(plan, schema)
    for module in ("huge", "products"):
        monkeypatch.setattr(f"ctrbench.cost.{module}.HUGE", 64)
    assert total_cost(plan, schema) == expected


def test_huge_zeros_take_no_memory() -> None:
    zeros = shared_zeros((1 << 22, 1 << 22), torch.float32)
    assert zeros.shape == (1 << 22, 1 << 22)
    assert float(zeros[-1, -1]) == 0.0


def test_values_of_small_tensors_are_computed() -> None:
    with SkippedHuge():
        assert float(torch.ones(4, 4).sum()) == 16.0
        assert torch.ones(HUGE).sum().shape == ()
