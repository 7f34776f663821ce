"""AdaptDHM against numpy row by row: how centres move, which weights a row meets, and what stays put."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

from ctrbench.backbones.dcnv2 import Dcnv2
from ctrbench.backbones.dnn import Dnn
from ctrbench.data.batches import Batch, SplitData
from ctrbench.errors import SettingError
from ctrbench.methods.adaptdhm import (
    KEY,
    Adaptdhm,
    ClusterDense,
    ClusterDenseModule,
    ClusterRoutingModule,
    Clusters,
)
from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import AdamConfig, Optimizer
from ctrbench.nn.plan import Plan, Schema
from ctrbench.nn.stages import LayerNorm
from ctrbench.registry import select
from ctrbench.train.learner import Learner

BACKBONES = ["dnn[hidden=8-4]", "dcnv2[hidden=8-4,layers=1]", "dcnv2[hidden=8-4,layers=1,structure=stacked]"]


def router(model: CTRModel) -> ClusterRoutingModule:
    (found,) = [module for module in model.modules() if isinstance(module, ClusterRoutingModule)]
    return found


def layers(model: CTRModel) -> list[ClusterDenseModule]:
    return [module for module in model.modules() if isinstance(module, ClusterDenseModule)]


def stir(model: CTRModel) -> CTRModel:
    """Give rows some size and clusters weights of their own."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        table = model.embedding.table.weight
        table.copy_(torch.randn(table.shape, generator=generator))
        for layer in layers(model):
            for own in (layer.own_weight, layer.own_bias):
                own += 0.5 * torch.randn(own.shape, generator=generator)
    return model


def found(model: CTRModel, batch: Batch) -> torch.Tensor:
    context = model.context(batch)
    model.net(context)
    clusters = context.shared[KEY]
    assert isinstance(clusters, Clusters)
    return clusters.cluster_B


def embedded(model: CTRModel, batch: Batch) -> np.ndarray:
    return model.context(batch).z_BN.detach().numpy().astype(np.float64)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)


def moved(centres: np.ndarray, z_BN: np.ndarray, routing: str) -> np.ndarray:
    """Three iterations, row by row."""
    for _ in range(3):
        total = np.zeros_like(centres)
        for z in z_BN:
            x = unit(z) if routing == "spherical" else z
            e = np.exp([x @ c / (0.1 if routing == "spherical" else 1.0) for c in centres])
            total += np.outer(e / e.sum(), x)
        total /= len(z_BN) if routing == "spherical" else 1
        centres = np.array([unit(0.9 * c + 0.1 * t) for c, t in zip(centres, total, strict=True)])
    return centres


@pytest.mark.parametrize("routing", ["spherical", "published"])
def test_centres_move_as_the_formula_says(
    build_model: Callable[..., CTRModel], data: SplitData, routing: str
) -> None:
    model, batch = stir(build_model(f"adaptdhm[routing={routing}]")), data.slice(0, 40)
    start = router(model).centre.numpy().astype(np.float64)
    expected = moved(start, embedded(model, batch), routing)
    clusters = found(model.train(), batch)
    assert np.abs(expected - start).max() > 0.05
    np.testing.assert_allclose(router(model).centre, expected, atol=1e-5)
    nearest = [int(np.argmax(expected @ z)) for z in embedded(model, batch)]
    assert clusters.tolist() == nearest
    assert len(set(nearest)) > 1


@pytest.mark.parametrize("is_training", [False, True])
def test_each_row_meets_its_own_clusters_weights(
    build_model: Callable[..., CTRModel], unseen_data: SplitData, is_training: bool
) -> None:
    model, batch = stir(build_model("adaptdhm")).train(is_training), unseen_data.slice(0, 30)
    logits = model(batch).detach()
    centres = router(model).centre.numpy().astype(np.float64)  # as they are after the step
    expected = []
    for z in embedded(model, batch):
        k = int(np.argmax(centres @ z))
        for place, layer in enumerate(layers(model)):
            own, bias = layer.own_weight[k].detach().numpy(), layer.own_bias[k].detach().numpy()
            shared = layer.weight.detach().numpy().astype(np.float64)
            z = z @ (shared * own) + layer.bias.detach().numpy() + bias
            z = np.tanh(z) if place < len(layers(model)) - 1 else z
        expected.append(z[0])
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_where_ids_are_not_at_hand_all_products_give_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator)
    x_BN, weight_KNM, bias_KM, grad = draw(40, 6), draw(4, 6, 3), draw(4, 3), draw(40, 3)
    cluster_B = torch.randint(3, (40,), generator=generator)  # no row in the fourth
    made = []
    for clusters in (Clusters.of(cluster_B), Clusters(cluster_B=cluster_B, routing=None)):
        inputs = [one.clone().requires_grad_() for one in (x_BN, weight_KNM, bias_KM)]
        product = clusters.linear(*inputs)
        product.backward(grad)  # type: ignore[no-untyped-call]
        made.append([product.detach(), *(one.grad for one in inputs)])
    assert Clusters.of(cluster_B).routing is not None
    for first, second in zip(*made, strict=True):
        torch.testing.assert_close(first, second)


def test_evaluation_moves_nothing_and_training_moves_buffers_only(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    model, batch = stir(build_model("adaptdhm")), data.slice(0, 64)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    model.eval()(batch)
    assert all(torch.equal(value, start[name]) for name, value in model.state_dict().items())
    model.train()(batch).sum().backward()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, start[name])}
    assert changed <= {"net.at_input.0.centre", "net.at_input.0.idle"}
    assert "net.at_input.0.centre" in changed
    torch.testing.assert_close(router(model).centre.norm(dim=1), torch.ones(3))


def test_no_gradient_passes_through_the_routing(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    model, batch = build_model("adaptdhm"), data.slice(0, 64)
    plain = build_model()
    for one in (model, plain):  # all W_k alike: only the routing could make a difference
        one.train()(batch).sum().backward()
    torch.testing.assert_close(model.embedding.table.weight.grad, plain.embedding.table.weight.grad)


def test_only_a_cluster_that_nobody_chose_long_enough_starts_anew(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    model, batch = stir(build_model("adaptdhm[clusters=4,reseed_after=80]")).train(), data.slice(0, 40)
    module, rows = router(model), torch.from_numpy(embedded(model, batch)).float()
    rows = torch.nn.functional.normalize(rows)
    with torch.no_grad():  # a centre opposite to all rows is nobody's
        module.centre[2] = -torch.nn.functional.normalize(rows.mean(0), dim=0)
    clusters = found(model, batch)
    assert 2 not in clusters
    assert module.idle[2] == 40
    assert not torch.isclose(rows, module.centre[2]).all(1).any()
    assert 2 not in found(model, batch)
    assert torch.isclose(rows, module.centre[2], atol=1e-6).all(1).any()
    assert module.idle.tolist()[2] == 0
    others = [k for k in range(4) if k in clusters]
    assert not any(torch.isclose(rows, module.centre[k], atol=1e-6).all(1).any() for k in others)


def test_batches_of_one_row_leave_the_centres_apart(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    model = stir(build_model("adaptdhm")).train()
    for row in range(5):
        model(data.slice(row, row + 1))
    alike = (router(model).centre @ router(model).centre.T).fill_diagonal_(0.0)
    assert alike.max() < 0.9


def test_published_centres_fall_together_and_spherical_ones_do_not(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    # Without the plain number, which is not as small as embeddings are.
    small = SplitData(**{**vars(data), "numeric_BK": torch.zeros_like(data.numeric_BK)})
    nearest = {}
    for routing in ("published", "spherical"):
        model = build_model(f"adaptdhm[routing={routing}]").train()
        for start in range(0, 240, 4):
            model(small.slice(start, start + 60))
        nearest[routing] = (router(model).centre @ router(model).centre.T).fill_diagonal_(-1.0).max()
    assert nearest["published"] > 0.999
    assert nearest["spherical"] < 0.9


def test_the_log_has_each_clusters_share(build_model: Callable[..., CTRModel], data: SplitData) -> None:
    model, batch = stir(build_model("adaptdhm")).train(), data.slice(0, 60)
    context = model.context(batch)
    model.net(context)
    clusters = context.shared[KEY].cluster_B
    shares = [float(context.logs[f"clusters.share{k}"]) for k in range(3)]
    assert shares == pytest.approx([(clusters == k).float().mean().item() for k in range(3)])
    assert len(context.logs) == 3


@pytest.mark.parametrize("backbone", BACKBONES)
def test_it_starts_as_its_backbone_and_then_clusters_part(
    build_model: Callable[..., CTRModel], data: SplitData, unseen_data: SplitData, backbone: str
) -> None:
    model, plain = build_model("adaptdhm", backbone), build_model("plain", backbone)
    batch = unseen_data.slice(0, 30)
    apart = (model.eval()(batch) - plain.eval()(batch)).abs().max()
    assert apart <= Adaptdhm().starts_as_backbone
    optimizer = Optimizer(model.train(), AdamConfig(lr=0.01))
    for _ in range(3):
        Learner().step(model, optimizer, data.slice(0, 64))
    for layer in layers(model):
        assert all(not torch.equal(layer.own_weight[k], layer.own_weight[0]) for k in (1, 2))
        assert (layer.own_bias != 0.0).all()


def test_clusters_look_at_the_embeddings_whatever_the_tower_is_given(
    build_model: Callable[..., CTRModel], schema: Schema, data: SplitData
) -> None:
    batch = data.slice(0, 50)
    expected = found(build_model("adaptdhm").eval(), batch)
    assert torch.equal(found(build_model("adaptdhm", BACKBONES[2]).eval(), batch), expected)
    assert torch.equal(found(build_model("adaptdhm[norm=pn]").eval(), batch), expected)
    changed = Dnn(hidden=(8, 4)).plan().with_input(LayerNorm(name="changed"))
    assert torch.equal(found(CTRModel(Adaptdhm().apply(changed), schema, seed=1).eval(), batch), expected)


def test_clusters_do_not_depend_on_the_precision(
    schema: Schema, data: SplitData, build_model: Callable[..., CTRModel]
) -> None:
    model, batch = stir(build_model("adaptdhm")).eval(), data.slice(0, 200)
    near = router(model).centre
    near[1:] = torch.nn.functional.normalize(near[0] + 1e-3 * near[1:])  # bfloat16 could not tell them apart
    assert len(found(model, batch).unique()) == 3
    low = CTRModel(Adaptdhm().apply(Dnn(hidden=(8, 4)).plan()), schema, seed=1, precision="bf16").eval()
    low.load_state_dict(model.state_dict())
    assert torch.equal(found(model, batch), found(low, batch))
    torch.testing.assert_close(low(batch), model(batch), rtol=0.05, atol=0.05)


def test_tower_and_head_are_clustered_and_interactions_are_shared() -> None:
    plan = Adaptdhm().apply(Dcnv2().plan())
    assert all(isinstance(stage, ClusterDense) for stage in (*plan.tower, *plan.head))
    assert plan.interactions == Dcnv2().plan().interactions


def test_parameters_do_not_grow_with_domains(build_model: Callable[..., CTRModel]) -> None:
    # z is 17 wide; W, b and three of W_k, b_k for (17 + 1) 8 + (8 + 1) 4 + (4 + 1) 1.
    counts = build_model("adaptdhm").num_parameters()
    assert counts["per_domain"] == 0
    assert counts["dense"] == 4 * 185


@pytest.mark.parametrize(
    "settings", ["routing=published,temperature=0.5", "clusters=1", "momentum=1.0", "temperature=0"]
)
def test_impossible_settings_are_refused(settings: str) -> None:
    with pytest.raises(SettingError):
        _ = select("methods", f"adaptdhm[{settings}]").value


def test_a_plan_without_dense_stages_is_refused() -> None:
    assert Adaptdhm().supports(Dnn().plan()) is None
    assert "no" in str(Adaptdhm().supports(Plan(tower=(), head=())))
