"""STAR against explicit loops over rows, and the parameters that must never change."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch

from ctrbench.backbones.dcnv2 import Dcnv2
from ctrbench.backbones.dnn import Dnn
from ctrbench.contract.domains import domain_tables
from ctrbench.data.batches import Batch, SplitData
from ctrbench.errors import SettingError
from ctrbench.methods.star import Star
from ctrbench.nn.auxiliary import AuxiliaryModule
from ctrbench.nn.model import CTRModel
from ctrbench.nn.norms import LayerNorm, PartitionedNorm
from ctrbench.nn.optim import AdamConfig, Optimizer
from ctrbench.nn.stages import StarDense, StarDenseModule
from ctrbench.plugins.registry import select
from ctrbench.train.learner import Learner

PRODUCTS_ONLY = "star[norm=none,aux=none]"
DCN = "dcnv2[hidden=8-4,layers=1]"


def stars(model: CTRModel) -> list[StarDenseModule]:
    return [module for module in model.modules() if isinstance(module, StarDenseModule)]


def auxiliary(model: CTRModel) -> AuxiliaryModule:
    (found,) = [module for module in model.modules() if isinstance(module, AuxiliaryModule)]
    return found


def stir_domains(model: CTRModel) -> CTRModel:
    """Set different parameters per known domain."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for table in domain_tables(model).values():
            table.weight[1:] += 0.3 * torch.randn(table.weight[1:].shape, generator=generator)
    return model


def train(model: CTRModel, data: SplitData, rows: torch.Tensor, steps: int, optimizer: Optimizer) -> None:
    for _ in range(steps):
        Learner().step(model, optimizer, data.take(rows))


def by_hand(model: CTRModel, batch: Batch) -> np.ndarray:
    """The logits of star layers, row by row, in float64."""
    z_BN = model.context(batch).z_BN.detach().numpy().astype(np.float64)
    logits = []
    for z, p in zip(z_BN, batch.indicator_B.tolist(), strict=True):
        for place, layer in enumerate(stars(model)):
            weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
            own = layer.domain.weight[p].detach().numpy()
            z = z @ (weight.astype(np.float64) * own[:-1]) + bias + own[-1]
            z = np.tanh(z) if place < len(stars(model)) - 1 else z
        logits.append(z[0])
    return np.array(logits)


def test_each_row_is_multiplied_by_shared_times_own_weights(
    build_model: Callable[..., CTRModel], unseen_data: SplitData
) -> None:
    model, batch = stir_domains(build_model(PRODUCTS_ONLY)), unseen_data.slice(0, 30)
    np.testing.assert_allclose(model(batch).detach(), by_hand(model, batch), rtol=1e-4, atol=1e-5)


def test_a_batch_of_one_domain_gives_what_a_mixed_batch_gives(
    build_model: Callable[..., CTRModel], data: SplitData, of_city: Callable[..., torch.Tensor]
) -> None:
    model, rows = stir_domains(build_model(PRODUCTS_ONLY)), of_city(2)
    mixed = model(data.slice(0, len(data)))[rows]
    torch.testing.assert_close(model(data.take(rows)), mixed)


@pytest.mark.parametrize("backbone", ["dnn[hidden=8-4]", DCN])
def test_the_unseen_domain_has_shared_parameters_only(
    build_model: Callable[..., CTRModel], unseen_data: SplitData, backbone: str
) -> None:
    star, plain = stir_domains(build_model("star", backbone)).eval(), build_model("plain", backbone).eval()
    batch = unseen_data.slice(0, 30)
    differs = (star(batch) - plain(batch)).abs() > 1e-3
    assert not differs[batch.indicator_B == 0].any()
    assert differs[batch.indicator_B > 0].all()


def test_the_model_starts_in_training_as_the_backbone_with_batch_normalization(
    build_model: Callable[..., CTRModel], data: SplitData, of_city: Callable[..., torch.Tensor]
) -> None:
    batch = data.take(of_city(1))
    plain = build_model()
    context = plain.context(batch)
    context.z_BN = torch.nn.functional.batch_norm(context.z_BN, None, None, training=True)
    torch.testing.assert_close(build_model("star").train()(batch), plain.net(context))


def test_normalization_precedes_the_tower_and_not_the_cross_network() -> None:
    plan = Star().apply(Dcnv2().plan())
    assert plan.at_input == ()
    assert plan.interactions == Dcnv2().plan().interactions
    assert isinstance(plan.tower[0], PartitionedNorm)


def test_every_dense_stage_has_star_weights() -> None:
    plan = Star().apply(Dnn().plan())
    assert all(isinstance(stage, StarDense) for stage in (*plan.tower[1:], *plan.head))
    assert [stage.name for stage in plan.tower[1:]] == [stage.name for stage in Dnn().plan().tower]


def test_the_auxiliary_logit_starts_at_zero_and_then_changes(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    model, batch = build_model("star"), data.slice(0, 50)
    context = model.context(batch)
    assert auxiliary(model)(context.z_BN, context).abs().max() == 0.0
    train(model, data, torch.arange(50), 1, Optimizer(model, AdamConfig(lr=0.01)))
    assert (auxiliary(model)(context.z_BN, context) != 0.0).all()


@pytest.mark.parametrize(("sees", "columns"), [("all", slice(None)), ("domain", [0, 1, 2, 3, 4, 5, 6, 7])])
def test_the_auxiliary_network_reads_its_domain_and_the_original_embeddings(
    build_model: Callable[..., CTRModel], data: SplitData, sees: str, columns: slice | list[int]
) -> None:
    model = stir_domains(build_model(f"star[aux={sees}]")).train()
    module, batch = auxiliary(model), data.slice(0, 9)
    hidden, output = (dict(layer.named_parameters()) for layer in (module.hidden, module.output))
    torch.nn.init.normal_(output["weight"])
    context = model.context(batch)
    own = module.embedding.weight[batch.indicator_B.long()]
    seen = torch.cat([own, context.z_BN[:, columns]], dim=1)  # city and age are the first two fields of z
    expected = torch.relu(seen @ hidden["weight"] + hidden["bias"]) @ output["weight"] + output["bias"]
    torch.testing.assert_close(module(context.z_BN, context), expected)


def test_domain_rows_start_equal_and_indicator_embeddings_different(
    build_model: Callable[..., CTRModel],
) -> None:
    model = build_model("star")
    table = auxiliary(model).embedding.weight
    assert table.shape == (7, 16)
    assert table[0].abs().max() == 0.0
    assert len(torch.unique(table[1:], dim=0)) == 6
    for layer in stars(model):
        assert (layer.domain.weight[:, :-1] == 1.0).all()
        assert (layer.domain.weight[:, -1] == 0.0).all()


def test_batches_hold_one_domain_unless_mixed() -> None:
    assert Star().learner().batching == "domain"
    assert Star(batching="mixed").learner().batching == "mixed"


@pytest.mark.parametrize("settings", ["norm=none,momentum=0.1", "aux=none,aux_hidden=8"])
def test_a_setting_without_effect_is_refused(settings: str) -> None:
    with pytest.raises(SettingError, match="no effect"):
        _ = select("methods", f"star[{settings}]").value


def test_batch_normalization_with_batches_of_one_domain_is_refused() -> None:
    with pytest.raises(SettingError, match=r"moments of one domain.*batching=mixed"):
        _ = select("methods", "star[norm=bn]").value


def test_running_moments_score_like_those_of_a_large_batch(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    model, generator = build_model("star[norm=bn,batching=mixed]").train(), np.random.default_rng(0)
    learner: Learner = select("methods", "star[norm=bn,batching=mixed]").value.learner()
    optimizer = Optimizer(model, AdamConfig(lr=0.001))
    for _ in range(10):
        for batch in data.batches(learner.order(data, batch_size=50, generator=generator)):
            learner.step(model, optimizer, batch)
    optimizer.flush()
    whole = data.slice(0, len(data))
    apart = model.eval()(whole) - deepcopy(model).train()(whole)
    assert apart.abs().mean() < 0.05  # 0.02; from batches of one domain 0.16
    assert model(whole).std() > 0.3


def test_parameters_per_domain_are_counted_separately(build_model: Callable[..., CTRModel]) -> None:
    # z is 17 wide; seven rows of (17 + 1) 8 + (8 + 1) 4 + (4 + 1) 1, of γ_p and β_p, and of emb(p).
    assert build_model(PRODUCTS_ONLY).num_parameters()["per_domain"] == 7 * 185
    assert build_model("star").num_parameters()["per_domain"] == 7 * (185 + 34 + 16)


def test_with_a_double_start_each_known_domain_draws_its_own_factor(
    build_model: Callable[..., CTRModel],
) -> None:
    double, single = (
        build_model("star[start=double]", "dnn[hidden=64-4]"),
        build_model("star", "dnn[hidden=64-4]"),
    )
    for layer, other in zip(stars(double), stars(single), strict=True):
        factors = layer.domain.weight.detach()[:, :-1].flatten(1)
        bound = (6.0 / sum(layer.weight.shape)) ** 0.5  # Xavier uniform, for tanh and for the linear output
        assert (factors[0] == 1.0).all()
        assert bool((factors[1:].abs() <= bound).all())
        assert factors[1:].std() == pytest.approx(bound / 3**0.5, rel=0.35)
        assert len(torch.unique(factors, dim=0)) == 7
        assert (layer.domain.weight[:, -1] == 0.0).all()
        assert torch.equal(layer.weight, other.weight)


def test_layer_normalization_follows_each_hidden_layer_and_keeps_a_double_start_trainable(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    tower = Star(layer_norm=True).apply(Dnn(hidden=(8, 4)).plan()).tower
    assert [type(stage) for stage in tower] == [PartitionedNorm, StarDense, LayerNorm, StarDense, LayerNorm]
    batch, wide = data.slice(0, 100), "dnn[hidden=128-128-128]"
    spread = [
        build_model(f"star[start=double,layer_norm={on}]", wide).eval()(batch).std().item()
        for on in ("true", "false")
    ]
    assert spread[0] > 20 * spread[1]


@pytest.mark.parametrize("settings", ["start=double", "layer_norm=true", "start=double,layer_norm=true"])
def test_random_factors_and_normalized_layers_make_no_claim_about_the_start(settings: str) -> None:
    assert select("methods", f"star[{settings}]").value.starts_as_backbone is None


def test_later_settings_do_not_change_the_key_of_a_run() -> None:
    assert not {"start", "layer_norm"} & set(Star().key())
    assert Star(start="double").key()["start"] == "double"
