"""The embedding of each composite domain beside the input of the tower."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ctrbench.data.batches import SplitData
from ctrbench.methods.domain_embedding import WithDomainModule
from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import AdamConfig, Optimizer
from ctrbench.train.learner import Learner


def part(model: CTRModel) -> WithDomainModule:
    (found,) = [module for module in model.modules() if isinstance(module, WithDomainModule)]
    return found


def test_the_logit_by_hand(build_model: Callable[..., CTRModel], unseen_data: SplitData) -> None:
    model, batch = build_model("domain_embedding"), unseen_data.slice(0, 30)
    assert 0 in batch.domain_B
    weights = {name: value.detach().numpy().astype(np.float64) for name, value in model.named_parameters()}
    expected = []
    for z, d in zip(model.context(batch).z_BN.detach().numpy(), batch.domain_B.tolist(), strict=True):
        h = np.concatenate([z, weights["net.tower.0.domain.weight"][d] if d else np.zeros(4)])
        for layer in ("tower.1", "tower.2"):
            h = np.tanh(h @ weights[f"net.{layer}.weight"] + weights[f"net.{layer}.bias"])
        expected.append(float(h @ weights["net.head.0.weight"][:, 0] + weights["net.head.0.bias"][0]))
    np.testing.assert_allclose(model(batch).detach(), expected, rtol=1e-5, atol=1e-6)


def test_interactions_read_only_z(build_model: Callable[..., CTRModel], data: SplitData) -> None:
    model = build_model("domain_embedding", "dcnv2[hidden=8-4,layers=1]")
    assert model.net.interactions[0].num_outputs == 17
    assert part(model).num_outputs == 17 + 4


def test_only_rows_of_present_domains_change(build_model: Callable[..., CTRModel], data: SplitData) -> None:
    model = build_model("domain_embedding")
    table, optimizer = part(model).domain.weight, Optimizer(model, AdamConfig(lr=0.01))
    start = table.detach().clone()
    assert table.shape == (19, 4)
    assert len(torch.unique(start, dim=0)) == 19
    batch = data.slice(0, 20)
    for _ in range(2):
        Learner().step(model, optimizer, batch)
    optimizer.flush()
    moved = torch.nonzero((table != start).any(1)).flatten().tolist()
    assert moved == sorted(set(batch.domain_B.tolist()))


@pytest.mark.parametrize("ids", [[0] * 20, [0] * 10 + [3] * 10])
def test_the_row_of_the_unseen_domain_stays_zero(
    build_model: Callable[..., CTRModel], data: SplitData, ids: list[int]
) -> None:
    model, batch = build_model("domain_embedding"), data.slice(0, 20)
    optimizer = Optimizer(model, AdamConfig(lr=0.01))
    for _ in range(2):
        Learner().step(model, optimizer, replace(batch, domain_B=torch.tensor(ids)))
    optimizer.flush()
    assert not part(model).domain.weight[0].any()


def test_rows_are_counted_as_parameters_per_domain(build_model: Callable[..., CTRModel]) -> None:
    counts = build_model("domain_embedding").num_parameters()
    assert counts["per_domain"] == 19 * 4
    assert counts["dense"] == build_model().num_parameters()["dense"] + 4 * 8
