"""Cross-Stitch against explicit loops over rows, layers and networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ctrbench.backbones.dnn import Dnn
from ctrbench.data.batches import Batch, SplitData
from ctrbench.errors import SettingError
from ctrbench.methods.cross_stitch import CrossStitch, Stitched, StitchedModule, start_stitch
from ctrbench.nn.model import CTRModel
from ctrbench.nn.norms import LayerNorm
from ctrbench.nn.optim import AdamConfig, Optimizer
from ctrbench.nn.plan import Plan
from ctrbench.nn.schema import Schema
from ctrbench.nn.stages import DomainDenseModule
from ctrbench.train.learner import Learner

DCN = "dcnv2[hidden=8-4,layers=1]"


def parts(model: CTRModel) -> tuple[StitchedModule, DomainDenseModule]:
    (stitched,), (head,) = (
        [module for module in model.modules() if isinstance(module, kind)]
        for kind in (StitchedModule, DomainDenseModule)
    )
    assert isinstance(stitched, StitchedModule)
    assert isinstance(head, DomainDenseModule)
    return stitched, head


def by_hand(model: CTRModel, batch: Batch) -> np.ndarray:
    """The logits, row by row, in float64, stitching all networks after every layer."""
    (stitched, head), context = parts(model), model.context(batch)
    crossed = [module(context.z_BN, context).detach().double().numpy() for module in model.net.interactions]
    stitches = [stitch.detach().double().numpy() for stitch in (*stitched.stitches, stitched.last.weight[1:])]
    own, logits = head.domain.weight.detach().double().numpy(), []
    for row, z in enumerate(context.z_BN.detach().double().numpy()):
        p = int(batch.indicator_B[row]) or 1  # city 1 is the largest
        hidden = [z for _ in stitches[0]]
        for bank, stitch in zip(stitched.networks, stitches, strict=True):
            weight, bias = bank.weight.detach().double().numpy(), bank.bias.detach().double().numpy()
            made = [np.tanh(one @ weight[q] + bias[q, 0]) for q, one in enumerate(hidden)]
            hidden = [sum(stitch[a, q] * made[q] for q in range(len(made))) for a in range(len(made))]
        joined = np.concatenate([*(one[row] for one in crossed), hidden[p - 1]])
        logits.append((joined @ own[p, :-1] + own[p, -1])[0])
    return np.array(logits)


@pytest.mark.parametrize("backbone", ["dnn[hidden=8-4]", "dnn[hidden=8]", "dnn[hidden=8-4-3]", DCN])
def test_each_row_gets_the_output_of_its_own_stitched_network(
    build_model: Callable[..., CTRModel],
    unseen_data: SplitData,
    backbone: str,
    stir: Callable[[CTRModel], CTRModel],
) -> None:
    model, batch = stir(build_model("cross_stitch", backbone)), unseen_data.slice(0, 30)
    assert 0 in batch.indicator_B
    np.testing.assert_allclose(model(batch).detach(), by_hand(model, batch), rtol=1e-4, atol=1e-5)


def test_stitches_start_at_nine_tenths_of_the_own(build_model: Callable[..., CTRModel]) -> None:
    stitched, _ = parts(build_model("cross_stitch"))
    expected = np.full((6, 6), 0.02) + 0.88 * np.eye(6)
    for stitch in (*stitched.stitches, stitched.last.weight[1:]):
        np.testing.assert_allclose(stitch.detach(), expected, rtol=1e-6)
    assert start_stitch(1).tolist() == [[1.0]]


def test_networks_start_at_different_weights(build_model: Callable[..., CTRModel]) -> None:
    stitched, _ = parts(build_model("cross_stitch"))
    for bank in stitched.networks:
        assert len(torch.unique(bank.weight.detach().flatten(1), dim=0)) == 6


def test_a_single_domain_has_one_network(schema: Schema, data: SplitData) -> None:
    one = replace(schema, indicator_rows=(0, 300))
    model = CTRModel(CrossStitch().apply(Dnn(hidden=(8, 4)).plan()), one, seed=1)
    everywhere = torch.ones_like(data.indicator_B)
    batch = replace(data, indicator_B=everywhere).slice(0, 40)
    np.testing.assert_allclose(model(batch).detach(), by_hand(model, batch), rtol=1e-4, atol=1e-5)
    start = model.state_dict()["net.tower.0.last.weight"].clone()
    Learner().step(model, Optimizer(model, AdamConfig(lr=0.01)), batch)
    assert (parts(model)[0].last.weight[1] != start[1]).all()


def test_too_many_domains_are_refused(schema: Schema) -> None:
    plan = CrossStitch().apply(Dnn().plan())
    wide = replace(schema, indicator_rows=(0, *([9] * 33)))
    with pytest.raises(SettingError, match=r"max_domains allows 32 domains: 33 domains.*--indicator"):
        CTRModel(plan, wide, seed=1)
    assert CTRModel(CrossStitch(max_domains=33).apply(Dnn().plan()), wide, seed=1)
    with pytest.raises(SettingError, match="5 domains: 6 domains"):
        CTRModel(CrossStitch(max_domains=5).apply(Dnn().plan()), schema, seed=1)


def test_rows_of_one_domain_train_the_networks_of_all(
    build_model: Callable[..., CTRModel],
    data: SplitData,
    of_city: Callable[..., torch.Tensor],
    learn: Callable[..., None],
) -> None:
    model = build_model("cross_stitch")
    stitched, _ = parts(model)
    shared = (*stitched.stitches, stitched.networks[0].weight)
    start = [weight.detach().clone() for weight in shared]
    learn(model, data.take(of_city(2)))
    for value, weight in zip(shared, start, strict=True):
        assert (value != weight).flatten(1).any(1).all()


def test_heads_start_at_the_training_click_rate(build_model: Callable[..., CTRModel]) -> None:
    _, head = parts(build_model("cross_stitch"))
    assert head.domain.weight[:, -1].flatten().tolist() == pytest.approx([np.log(0.3 / 0.7)] * 7)


def test_parameters_are_counted(build_model: Callable[..., CTRModel]) -> None:
    # z is 17 wide; a domain's are a network of (17 + 1) 8 + (8 + 1) 4 and a row of 6 between the layers; seven rows
    # of the last stitch, 6, and of a head of 4 + 1.
    counts = build_model("cross_stitch").num_parameters()
    assert (counts["dense"], counts["per_domain"]) == (0, 6 * (180 + 6) + 7 * (6 + 5))


def test_stages_before_the_dense_ones_stay() -> None:
    gate, base = LayerNorm(name="gate"), Dnn().plan()
    first, last = CrossStitch().apply(base.before_tower(gate)).tower
    assert first == gate
    assert isinstance(last, Stitched)
    assert last.tower == base.tower


def test_a_plan_without_a_tower_is_refused() -> None:
    assert "tower" in str(CrossStitch().supports(Plan(tower=(), head=())))
    assert CrossStitch().supports(Dnn().plan()) is None
