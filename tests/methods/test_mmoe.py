"""MMoE against explicit loops over rows and experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ctrbench.backbones.dnn import Dnn
from ctrbench.data.batches import Batch, SplitData
from ctrbench.errors import SettingError
from ctrbench.methods.mmoe import Mixture, MixtureModule, Mmoe
from ctrbench.nn.interactions import Cross
from ctrbench.nn.model import CTRModel
from ctrbench.nn.norms import LayerNorm
from ctrbench.nn.plan import Plan
from ctrbench.nn.schema import Schema
from ctrbench.nn.stages import DomainDenseModule
from ctrbench.plugins.registry import select

DCN = "dcnv2[hidden=8-4,layers=1]"


def parts(model: CTRModel) -> tuple[MixtureModule, DomainDenseModule]:
    (mixture,), (head,) = (
        [module for module in model.modules() if isinstance(module, kind)]
        for kind in (MixtureModule, DomainDenseModule)
    )
    assert isinstance(mixture, MixtureModule)
    assert isinstance(head, DomainDenseModule)
    return mixture, head


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum()


def by_hand(model: CTRModel, batch: Batch) -> np.ndarray:
    """The logits, row by row, in float64; outputs of interactions precede those of the mixture."""
    (mixture, head), context = parts(model), model.context(batch)
    crossed = [module(context.z_BN, context).detach().double().numpy() for module in model.net.interactions]
    banks = [(bank.weight.detach().double(), bank.bias.detach().double()) for bank in mixture.experts]
    gate, own = (table.weight.detach().double().numpy() for table in (mixture.gate, head.domain))
    logits = []
    for row, z in enumerate(context.z_BN.detach().double().numpy()):
        p = int(batch.indicator_B[row]) or 1  # city 1 is the largest
        mix = np.zeros(mixture.num_outputs)
        for k, share in enumerate(softmax(z @ gate[p])):
            hidden = z
            for weight, bias in banks:
                hidden = np.tanh(hidden @ weight[k].numpy() + bias[k, 0].numpy())
            mix += share * hidden
        joined = np.concatenate([*(one[row] for one in crossed), mix])
        logits.append((joined @ own[p, :-1] + own[p, -1])[0])
    return np.array(logits)


@pytest.mark.parametrize("method", ["mmoe", "mmoe[experts=3]"])
@pytest.mark.parametrize("backbone", ["dnn[hidden=8-4]", DCN])
def test_each_row_gets_its_domains_mixture_of_all_experts(
    build_model: Callable[..., CTRModel],
    unseen_data: SplitData,
    method: str,
    backbone: str,
    stir: Callable[[CTRModel], CTRModel],
) -> None:
    model, batch = stir(build_model(method, backbone)), unseen_data.slice(0, 30)
    assert 0 in batch.indicator_B
    np.testing.assert_allclose(model(batch).detach(), by_hand(model, batch), rtol=1e-4, atol=1e-5)


def test_the_mixture_starts_as_the_mean_of_different_experts(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    model, batch = build_model("mmoe"), data.slice(0, 9)
    mixture, _ = parts(model)
    context = model.context(batch)
    experts_KBM = mixture.experts(context.z_BN, context)
    torch.testing.assert_close(mixture(context.z_BN, context), experts_KBM.mean(0))
    assert experts_KBM.std(0).min() > 1e-4


@pytest.mark.parametrize(("num_domains", "expected"), [(1, 2), (2, 2), (6, 6), (20, 20), (21, 8), (5000, 8)])
def test_experts_are_as_many_as_domains_up_to_twenty(schema: Schema, num_domains: int, expected: int) -> None:
    wide = replace(schema, indicator_rows=(0, *([9] * num_domains)))
    assert Mixture(name="mmoe", tower=Dnn().tower(), experts=None).num_experts(wide) == expected
    assert Mixture(name="mmoe", tower=Dnn().tower(), experts=5).num_experts(wide) == 5


@pytest.mark.parametrize(("method", "expected"), [("mmoe", 6), ("mmoe[experts=3]", 3)])
def test_the_record_notes_the_number_of_experts(
    build_model: Callable[..., CTRModel], data: SplitData, method: str, expected: int
) -> None:
    learner = select("methods", method).value.learner()
    assert learner.select(build_model(method), data, data) == {"experts": expected}


def test_rows_of_one_domain_train_all_experts(
    build_model: Callable[..., CTRModel],
    data: SplitData,
    of_city: Callable[..., torch.Tensor],
    learn: Callable[..., None],
) -> None:
    model = build_model("mmoe")
    mixture, _ = parts(model)
    start = [bank.weight.detach().clone() for bank in mixture.experts]
    learn(model, data.take(of_city(2)))
    for bank, weight in zip(mixture.experts, start, strict=True):
        assert (bank.weight != weight).flatten(1).any(1).all()


def test_heads_start_at_the_training_click_rate(build_model: Callable[..., CTRModel]) -> None:
    _, head = parts(build_model("mmoe"))
    assert head.domain.weight[:, -1].flatten().tolist() == pytest.approx([np.log(0.3 / 0.7)] * 7)


def test_parameters_are_counted(build_model: Callable[..., CTRModel]) -> None:
    # z is 17 wide; six experts of (17 + 1) 8 + (8 + 1) 4; seven rows of a gate 17 x 6 and a head of 4 + 1.
    counts = build_model("mmoe").num_parameters()
    assert (counts["dense"], counts["per_domain"]) == (6 * 180, 7 * (17 * 6 + 5))


def test_one_expert_is_refused() -> None:
    with pytest.raises(SettingError, match="experts"):
        _ = select("methods", "mmoe[experts=1]").value


def test_stages_before_the_dense_ones_stay_and_feed_gate_and_experts() -> None:
    gate, base = LayerNorm(name="gate"), Dnn().plan()
    first, last = Mmoe().apply(base.before_tower(gate)).tower
    assert first == gate
    assert isinstance(last, Mixture)
    assert last.tower == base.tower


def test_a_plan_without_a_tower_of_dense_stages_is_refused() -> None:
    between = replace(Dnn().plan(), tower=(*Dnn().tower(), LayerNorm(name="last")))
    assert "tower" in str(Mmoe().supports(between))
    assert "tower" in str(Mmoe().supports(Plan(tower=(), head=())))
    assert "tower" in str(Mmoe().supports(Plan(tower=(Cross(name="cross", layers=1),), head=())))
    assert Mmoe().supports(Dnn().plan()) is None
