"""M2M against its formulas, row by row in float64, and the sharing of generated matrices among rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ctrbench.backbones.dcnv2 import Dcnv2
from ctrbench.backbones.dnn import Dnn
from ctrbench.backbones.finalmlp import FinalMlp
from ctrbench.data.batches import Batch, SplitData
from ctrbench.errors import SettingError
from ctrbench.methods.m2m import M2M, Generator, Layer, MetaBlock, MetaBlockModule, scenario_routing
from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import AdamConfig, Optimizer
from ctrbench.nn.plan import Plan
from ctrbench.nn.schema import Schema
from ctrbench.plugins.registry import select
from ctrbench.train.learner import Learner

BACKBONES = ["dnn[hidden=8-4]", "dcnv2[hidden=8-4]", "dcnv2[hidden=8-4,structure=stacked]"]
SMALL = "m2m[hidden=5,experts=3]"
DEEP = "m2m[hidden=5,experts=2,meta_layers=2,tower_layers=2]"


def block(model: CTRModel) -> MetaBlockModule:
    (found,) = [module for module in model.modules() if isinstance(module, MetaBlockModule)]
    return found


def stir_embeddings_and_block(model: CTRModel) -> CTRModel:
    """Make matrices of domains differ, and give parameters that start at zero an effect."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        model.embedding.table.weight.normal_(generator=generator)
        for parameter in block(model).parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def numbers(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().double().numpy() for name, value in module.named_parameters()}


def embedded(model: CTRModel, batch: Batch) -> np.ndarray:
    return model.context(batch).z_BN.detach().double().numpy()


def by_hand(model: CTRModel, z_BN: np.ndarray, **moved: np.ndarray) -> np.ndarray:
    """The logits of a DNN with the block after its tower; `moved` replaces parameters of the block."""
    own, net = numbers(block(model)) | moved, numbers(model.net)
    width = len(own["task"])

    def meta(unit: str, h: np.ndarray, s: np.ndarray) -> np.ndarray:
        for place in range(sum(name.startswith(f"{unit}.generators") for name in own) // 2):
            name = f"{unit}.generators.{place}"
            flat = s @ own[f"{name}.weight"] + own[f"{name}.bias"]
            weight, bias = flat[:-width].reshape(len(h), width), flat[-width:]
            h = np.tanh(h @ weight + bias)
        return h

    logits = []
    for z in z_BN:
        s = np.tanh(z[:8] @ own["scenario.weight"] + own["scenario.bias"])
        f = np.tanh(z @ net["tower.0.weight"] + net["tower.0.bias"])
        f = np.tanh(f @ net["tower.1.weight"] + net["tower.1.bias"])
        weights = zip(own["experts.weight"], own["experts.bias"], strict=True)
        experts = [np.tanh(f @ weight + bias[0]) for weight, bias in weights]
        scores = [meta("attention", np.concatenate([e, own["task"]]), s) @ own["score"] for e in experts]
        alpha = np.exp(scores) / np.exp(scores).sum()
        x = sum(a * e for a, e in zip(alpha, experts, strict=True))
        for place in range(len(block(model).towers)):
            x = np.tanh(meta(f"towers.{place}", x, s) + x)
        logits.append((x @ net["head.0.weight"] + net["head.0.bias"])[0])
    return np.array(logits)


@pytest.mark.parametrize("method", [SMALL, DEEP])
def test_each_row_is_multiplied_by_the_matrices_of_its_domain(
    build_model: Callable[..., CTRModel], data: SplitData, unseen_data: SplitData, method: str
) -> None:
    model = stir_embeddings_and_block(build_model(method))
    for batch in (data.slice(0, 60), unseen_data.slice(0, 30), unseen_data.slice(3, 4), data.slice(0, 1)):
        expected = by_hand(model, embedded(model, batch))
        np.testing.assert_allclose(model(batch).detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [SMALL, DEEP])
def test_embeddings_and_experts_learn_through_all_of_their_outputs(
    build_model: Callable[..., CTRModel],
    slope: Callable[..., np.ndarray],
    method: str,
    input_gradient: Callable[[CTRModel], tuple[np.ndarray, np.ndarray]],
) -> None:
    model = stir_embeddings_and_block(build_model(method))
    z_BN, grad_BN = input_gradient(model)
    expected = slope(lambda moved_BN: float((by_hand(model, moved_BN) ** 2).sum()), z_BN)
    np.testing.assert_allclose(grad_BN, expected, rtol=1e-3, atol=1e-5)
    for name in ("experts.weight", "experts.bias", "task", "score"):
        start = numbers(block(model))[name]
        expected = slope(
            lambda moved, name=name: float((by_hand(model, z_BN, **{name: moved}) ** 2).sum()),  # type: ignore[misc]
            start,
        )
        found = block(model).get_parameter(name).grad
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_rows_of_known_domains_share_matrices_and_unseen_ones_do_not(
    build_model: Callable[..., CTRModel], data: SplitData, unseen_data: SplitData
) -> None:
    model = build_model(SMALL)
    known = model.context(data.slice(0, 200))
    assert scenario_routing(known) is known.domain_routing
    unseen = model.context(unseen_data.slice(0, 30))
    routing, domain_B = scenario_routing(unseen), unseen.domain_B
    num_unseen = int((domain_B == 0).sum())
    assert num_unseen > 1
    assert routing.num_groups == len(domain_B[domain_B > 0].unique()) + num_unseen
    assert torch.equal(unseen.domain_BE[routing.first_G][routing.index_B], unseen.domain_BE)


def test_unseen_domains_of_known_values_differ(build_model: Callable[..., CTRModel], data: SplitData) -> None:
    model, batch = stir_embeddings_and_block(build_model(SMALL)), data.slice(0, 40)
    known = model(batch)
    batch.domain_B.zero_()
    torch.testing.assert_close(model(batch), known)


def test_without_weights_on_e_d_the_block_does_not_depend_on_the_domain(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    module = block(stir_embeddings_and_block(build_model(SMALL)))
    context = build_model(SMALL).context(data.slice(0, 40))
    x_BN = torch.ones(40, 4)
    assert module(x_BN, context).std(0).min() > 1e-3
    torch.nn.init.zeros_(module.get_parameter("scenario.weight"))
    assert module(x_BN, context).std(0).max() < 1e-5


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_part_learns(build_model: Callable[..., CTRModel], data: SplitData, backbone: str) -> None:
    model, batch = build_model("m2m", backbone), data.slice(0, 50)
    start = {name: value.detach().clone() for name, value in block(model).named_parameters()}
    Learner().step(model, Optimizer(model, AdamConfig(lr=0.01)), batch)
    still = [name for name, value in block(model).named_parameters() if torch.equal(value, start[name])]
    assert still == []


def test_in_bf16_matrices_are_generated_in_full_precision(schema: Schema, data: SplitData) -> None:
    plan = M2M(hidden=5, experts=3).apply(Dnn(hidden=(8, 4)).plan())
    model = stir_embeddings_and_block(CTRModel(plan, schema, seed=1, precision="bf16").train())
    made: list[tuple[np.ndarray, torch.Tensor]] = []

    def compare(module: torch.nn.Module, given: tuple[torch.Tensor], layer: Layer) -> None:
        own = numbers(module)
        flat = given[0].detach().double().numpy() @ own["weight"] + own["bias"]
        made.append((flat, torch.cat([layer[0].flatten(1), layer[1]], dim=1).detach()))

    generators = [module for module in model.modules() if isinstance(module, Generator)]
    for generator in generators:
        generator.register_forward_hook(compare)
    start = [value.clone() for value in block(model).state_dict().values()]
    loss = Learner().step(model, Optimizer(model, AdamConfig(lr=0.01)), data.slice(0, 50)).loss
    assert loss.isfinite()
    assert len(made) == len(generators) == 2
    for expected, found in made:
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-5)
    moved = zip(block(model).state_dict().values(), start, strict=True)
    assert not any(torch.equal(after, before) for after, before in moved)


def test_generated_layers_start_near_different_static_ones(build_model: Callable[..., CTRModel]) -> None:
    module = block(build_model(DEEP))
    # The largest possible difference of two scenarios.
    scenario_GM = torch.tensor([[1.0], [-1.0]]).expand(2, 5)
    units = [module.attention, *module.towers]
    layers = [layer for unit in units for layer in unit.generate(scenario_GM)]  # type: ignore[operator]
    assert [tuple(weight.shape) for weight, _ in layers] == [(2, 10, 5), *[(2, 5, 5)] * 5]
    for weight, bias in layers:
        bound = (6.0 / sum(weight.shape[1:])) ** 0.5
        assert 0.4 * bound < weight.mean(0).std() < 0.8 * bound  # a uniform start has 0.58 of its bound
        # V is a tenth of Xavier's, and s adds up five of it: 0.18 of the bound in the attention, 0.14 elsewhere.
        assert 0.02 * bound < (weight[0] - weight[1]).std() < 0.25 * bound
        assert bias.abs().max() < 0.5
    assert len({round(weight[0, 0, 0].item(), 5) for weight, _ in layers}) == len(layers)


def test_a_fusion_whose_heads_do_not_divide_its_width_is_refused(
    build_model: Callable[..., CTRModel],
) -> None:
    plan = FinalMlp(hidden=(8, 6), heads=3).plan()
    assert str(M2M().supports(plan)).startswith("m2m's hidden=32 is not a multiple of the 3 heads")
    assert M2M(hidden=30).supports(plan) is None
    assert M2M().supports(FinalMlp().plan()) is None
    assert M2M(hidden=5).supports(Dnn().plan()) is None
    assert build_model("m2m[hidden=30]", "finalmlp[hidden=8-6,heads=3]").num_parameters()["dense"] > 0


def test_the_block_follows_the_tower_and_has_its_activation() -> None:
    plan = M2M().apply(Dcnv2(activation="relu").plan())
    assert plan.tower[:-1] == Dcnv2(activation="relu").plan().tower
    assert plan.tower[-1] == MetaBlock(name="m2m", settings=M2M(), activation="relu")
    (alone,) = M2M().apply(Plan(tower=(), head=Dnn().plan().head)).tower
    assert isinstance(alone, MetaBlock)
    assert alone.activation == "tanh"


def test_parameters_do_not_grow_with_domains(build_model: Callable[..., CTRModel]) -> None:
    plain, found = build_model("plain").num_parameters(), build_model("m2m").num_parameters()
    # Tower 4 wide, e_d 8: experts 4 (4 + 1) 32, s (8 + 1) 32, V_w and V_b (32 + 1) (64 + 1) 32 of the attention and
    # (32 + 1) (32 + 1) 32 of the tower, T and v 32 each; the head has 28 more inputs.
    added = 640 + 288 + 68640 + 34848 + 64 + 28
    assert found == {**plain, "dense": plain["dense"] + added}


@pytest.mark.parametrize("settings", ["experts=1", "hidden=0", "meta_layers=0", "tower_layers=0"])
def test_settings_that_leave_a_part_without_effect_are_refused(settings: str) -> None:
    with pytest.raises(SettingError, match=settings.split("=")[0]):
        _ = select("methods", f"m2m[{settings}]").value
