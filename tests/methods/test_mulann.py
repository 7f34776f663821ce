"""MulANN: its loss and the direction of its gradients, computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ctrbench.backbones.dcnv2 import Dcnv2
from ctrbench.backbones.dnn import Dnn
from ctrbench.data.batches import Batch, SplitData
from ctrbench.errors import SettingError
from ctrbench.methods.mulann import DiscriminatorModule, Mulann
from ctrbench.nn.context import Context
from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import AdamConfig, Optimizer
from ctrbench.nn.plan import Plan
from ctrbench.nn.schema import Schema
from ctrbench.plugins.registry import select
from ctrbench.train.learner import Learner

DCN = "dcnv2[hidden=8-4,layers=1]"
STACKED = "dcnv2[hidden=8-4,layers=1,structure=stacked]"
ROWS = np.array([150, 80, 40, 20, 9, 1])
"""Training rows of each city."""


def discriminator(model: CTRModel) -> DiscriminatorModule:
    (found,) = [module for module in model.modules() if isinstance(module, DiscriminatorModule)]
    return found


def loss_of(module: DiscriminatorModule, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
    context.penalties.clear()
    module.train()(x_BN, context)
    (loss,) = context.penalties
    return loss


def by_hand(module: DiscriminatorModule, x: np.ndarray, city: np.ndarray) -> float:
    """The discriminator's loss in float64, row by row."""
    weight = [value.detach().double().numpy() for value in module.parameters()]
    balance = ROWS**-0.5 * ROWS.sum() / (ROWS**0.5).sum()
    losses = []
    for row, p in zip(x, city, strict=True):
        told = np.maximum(row @ weight[0] + weight[1], 0.0) @ weight[2] + weight[3]
        losses.append(balance[p - 1] * (np.log(np.exp(told).sum()) - told[p - 1]) if p else 0.0)
    return float(np.mean(losses))


@pytest.fixture
def hidden(build_model: Callable[..., CTRModel], unseen_data: SplitData) -> tuple[CTRModel, Context]:
    """A model, and the context of a batch of all cities and the unseen one."""
    model = build_model("mulann[hidden=7]")
    return model, model.context(unseen_data.slice(0, 30))


def test_the_loss_is_balanced_cross_entropy_of_the_domain(hidden: tuple[CTRModel, Context]) -> None:
    module, x_BN = discriminator(hidden[0]), torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    city = hidden[1].indicator_B.numpy()
    assert 0 in city
    expected = by_hand(module, x_BN.double().numpy(), city)
    assert loss_of(module, x_BN, hidden[1]).item() == pytest.approx(expected, rel=1e-5)


def test_weights_average_one_over_training_rows(hidden: tuple[CTRModel, Context]) -> None:
    balance = discriminator(hidden[0]).balance.double().numpy()
    assert (balance * ROWS).sum() / ROWS.sum() == pytest.approx(1.0)
    assert balance[2] / balance[0] == pytest.approx((150 / 40) ** 0.5)


def gradients(
    module: DiscriminatorModule, context: Context, x: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    x_BN = torch.from_numpy(x).float().requires_grad_()
    names, values = zip(*module.named_parameters(), strict=True)
    found = torch.autograd.grad(loss_of(module, x_BN, context), [x_BN, *values])
    arrays = [one.double().numpy() for one in found]
    return arrays[0], dict(zip(names, arrays[1:], strict=True))


@pytest.mark.parametrize(("progress", "factor"), [(0.0, 0.0), (0.1, 0.04621172), (1.0, 0.09999092)])
def test_the_gradient_of_features_is_reversed(
    hidden: tuple[CTRModel, Context], slope: Callable[..., np.ndarray], progress: float, factor: float
) -> None:
    module, context = discriminator(hidden[0]), hidden[1]
    module.advance(progress)
    x, city = np.random.default_rng(1).standard_normal((30, 4)), context.indicator_B.numpy()
    found, _ = gradients(module, context, x)
    expected = slope(lambda moved: by_hand(module, moved, city), x)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, -factor * expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_the_gradient_of_the_discriminator_is_neither_reversed_nor_scaled(
    hidden: tuple[CTRModel, Context], progress: float
) -> None:
    module, context = discriminator(hidden[0]), hidden[1]
    module.advance(progress)
    x, city = np.random.default_rng(1).standard_normal((30, 4)), context.indicator_B.numpy()
    _, found = gradients(module, context, x)
    step = 1e-3
    for name, value in module.named_parameters():
        place = np.unravel_index(np.abs(found[name]).argmax(), value.shape)
        with torch.no_grad():
            value[place] += step
            up = by_hand(module, x, city)
            value[place] -= 2 * step
            down = by_hand(module, x, city)
            value[place] += step
        assert found[name][place] == pytest.approx((up - down) / (2 * step), rel=1e-2)


def test_a_step_improves_the_discriminator_and_makes_features_less_informative(
    hidden: tuple[CTRModel, Context],
) -> None:
    module, context = discriminator(hidden[0]), hidden[1]
    module.advance(1.0)
    x, city = np.random.default_rng(1).standard_normal((30, 4)), context.indicator_B.numpy()
    before = by_hand(module, x, city)
    of_features, own = gradients(module, context, x)
    assert by_hand(module, x - 1.0 * of_features, city) > before
    with torch.no_grad():
        for name, value in module.named_parameters():
            value -= 0.1 * torch.from_numpy(own[name])
    assert by_hand(module, x, city) < before


def domain_loss(model: CTRModel, batch: Batch) -> float:
    context = model.train().context(batch)
    model.net(context)
    return context.logs["mulann.domain_loss"].item()


def test_the_discriminator_learns_domains_unless_features_hide_them(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    batch, losses = data.slice(0, len(data)), []
    for progress in (0.0, 1.0):
        model = build_model("mulann[weight=10.0]")
        optimizer = Optimizer(model, AdamConfig(lr=0.01))
        for _ in range(100):
            model.advance(progress)
            Learner().step(model, optimizer, batch)
        losses.append(domain_loss(model, batch))
    share = ROWS**0.5 / (ROWS**0.5).sum()
    of_sizes_alone = -(share * np.log(share)).sum()
    assert losses[0] < 0.75 * of_sizes_alone
    assert losses[1] == pytest.approx(of_sizes_alone, rel=0.02)


@pytest.mark.parametrize("backbone", ["dnn[hidden=8-4]", DCN, STACKED])
def test_logits_are_the_backbones(
    build_model: Callable[..., CTRModel], unseen_data: SplitData, backbone: str
) -> None:
    batch, plain = unseen_data.slice(0, 30), build_model("plain", backbone)
    model = build_model("mulann", backbone)
    assert torch.equal(model.train()(batch), plain(batch))
    assert torch.equal(model.eval()(batch), plain(batch))


def test_only_training_adds_to_the_loss(hidden: tuple[CTRModel, Context]) -> None:
    model, context = hidden
    model.eval().net(context)
    assert context.penalties == []
    model.train().net(context)
    assert context.penalties[0].requires_grad
    assert context.logs == {"mulann.domain_loss": context.penalties[0].detach()}


def test_a_batch_of_unseen_domains_adds_nothing(
    build_model: Callable[..., CTRModel], unseen_data: SplitData
) -> None:
    model = build_model("mulann")
    context = model.context(unseen_data.take(torch.nonzero(unseen_data.indicator_B == 0)[:, 0]))
    model.train().net(context)
    assert context.penalties[0].item() == 0.0


def test_a_single_domain_gives_no_loss(schema: Schema, data: SplitData) -> None:
    one = replace(schema, indicator_rows=(0, 300))
    model = CTRModel(Mulann().apply(Dnn(hidden=(8, 4)).plan()), one, seed=1).train()
    context = model.context(replace(data, indicator_B=torch.ones_like(data.indicator_B)).slice(0, 20))
    model.net(context)
    assert context.penalties[0].item() == 0.0


def test_the_schedule_is_part_of_the_state(build_model: Callable[..., CTRModel]) -> None:
    model, other = build_model("mulann[weight=1.0]"), build_model("mulann[weight=1.0]")
    model.advance(0.5)
    other.load_state_dict(model.state_dict())
    assert discriminator(other).reversal.item() == pytest.approx(2.0 / (1.0 + np.exp(-5.0)) - 1.0)


def test_the_discriminator_stands_after_the_last_dense_stage() -> None:
    for plan in (Dnn().plan(), Dcnv2().plan(), Dcnv2(structure="stacked").plan()):
        applied = Mulann(norm="bn").apply(plan)
        assert applied.tower[1:-1] == plan.tower
        assert applied.tower[-1].name == "mulann"
        assert (applied.head, applied.interactions) == (plan.head, plan.interactions)


def test_parameters_of_the_discriminator(build_model: Callable[..., CTRModel]) -> None:
    more, less = (build_model(method).num_parameters() for method in ("mulann", "plain"))
    # The last hidden layer is 4 wide, and there are six cities.
    assert more["dense"] - less["dense"] == (4 + 1) * 100 + (100 + 1) * 6
    assert more["per_domain"] == 0


@pytest.mark.parametrize("setting", ["weight=0", "weight=inf", "weight=nan", "hidden=0"])
def test_a_discriminator_without_effect_or_bounds_is_refused(setting: str) -> None:
    with pytest.raises(SettingError, match=setting.partition("=")[0]):
        _ = select("methods", f"mulann[{setting}]").value


def test_a_plan_without_a_tower_is_refused() -> None:
    assert "hidden layer" in str(Mulann().supports(Plan(tower=(), head=())))
    assert Mulann().supports(Dnn().plan()) is None
