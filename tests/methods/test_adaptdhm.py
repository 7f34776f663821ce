"""AdaptDHM against numpy row by row: the update of centers, the weights of a row, and the constant parts."""

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
from ctrbench.nn.context import Context
from ctrbench.nn.model import CTRModel
from ctrbench.nn.norms import LayerNorm
from ctrbench.nn.plan import Plan
from ctrbench.nn.schema import FieldShape, Schema
from ctrbench.plugins.registry import select

BACKBONES = ["dnn[hidden=8-4]", "dcnv2[hidden=8-4,layers=1]", "dcnv2[hidden=8-4,layers=1,structure=stacked]"]


def router(model: CTRModel) -> ClusterRoutingModule:
    (found,) = [module for module in model.modules() if isinstance(module, ClusterRoutingModule)]
    return found


def layers(model: CTRModel) -> list[ClusterDenseModule]:
    return [module for module in model.modules() if isinstance(module, ClusterDenseModule)]


def stir_embeddings_and_clusters(model: CTRModel) -> CTRModel:
    """Enlarge embeddings and set different weights per cluster."""
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


def inputs(model: CTRModel, batch: Batch) -> np.ndarray:
    return model.context(batch).z_BN.detach().numpy().astype(np.float64)


def embedded(model: CTRModel, batch: Batch) -> np.ndarray:
    """z without the price, the numeric field in its last column."""
    return inputs(model, batch)[:, :16]


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)


def moved(centers: np.ndarray, z_BN: np.ndarray, routing: str) -> np.ndarray:
    """Three iterations, row by row."""
    for _ in range(3):
        total = np.zeros_like(centers)
        for x in z_BN:
            e = np.exp([x @ c / (0.1 if routing == "spherical" else 1.0) for c in centers])
            total += np.outer(e / e.sum(), x)
        total /= len(z_BN) if routing == "spherical" else 1
        centers = np.array([unit(0.9 * c + 0.1 * t) for c, t in zip(centers, total, strict=True)])
    return centers


@pytest.mark.parametrize("routing", ["spherical", "published"])
def test_centers_follow_the_formula(
    build_model: Callable[..., CTRModel], data: SplitData, routing: str
) -> None:
    model, batch = (
        stir_embeddings_and_clusters(build_model(f"adaptdhm[routing={routing}]")),
        data.slice(0, 40),
    )
    start = router(model).center.numpy().astype(np.float64)
    x_BN = embedded(model, batch)
    if routing == "spherical":
        x_BN = np.array([unit(row - x_BN.mean(0)) for row in x_BN])
    expected = moved(start, x_BN, routing)
    clusters = found(model.train(), batch)
    assert np.abs(expected - start).max() > 0.02
    np.testing.assert_allclose(router(model).center, expected, atol=1e-5)
    nearest = [int(np.argmax(expected @ x)) for x in x_BN]
    assert clusters.tolist() == nearest
    assert len(set(nearest)) > 1


@pytest.mark.parametrize("is_training", [False, True])
def test_each_row_is_multiplied_by_the_weights_of_its_cluster(
    build_model: Callable[..., CTRModel], unseen_data: SplitData, is_training: bool
) -> None:
    model, batch = (
        stir_embeddings_and_clusters(build_model("adaptdhm")).train(is_training),
        unseen_data.slice(0, 30),
    )
    logits = model(batch).detach()
    centers = router(model).center.numpy().astype(np.float64)  # as they are after the step
    mean, expected = router(model).mean.numpy(), []
    for z in inputs(model, batch):
        k = int(np.argmax(centers @ (z[:16] - mean)))
        for place, layer in enumerate(layers(model)):
            own, bias = layer.own_weight[k].detach().numpy(), layer.own_bias[k].detach().numpy()
            shared = layer.weight.detach().numpy().astype(np.float64)
            z = z @ (shared * own) + layer.bias.detach().numpy() + bias
            z = np.tanh(z) if place < len(layers(model)) - 1 else z
        expected.append(z[0])
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_all_products_equal_the_grouped_products() -> None:
    # In full precision, like products by group, even under an autocast to bfloat16.
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator)
    x_BN, weight_KNM, bias_KM, grad = draw(40, 6), draw(4, 6, 3), draw(4, 3), draw(40, 3)
    cluster_B = torch.randint(3, (40,), generator=generator)  # no row in the fourth
    made = []
    for clusters in (Clusters.from_ids(cluster_B), Clusters(cluster_B=cluster_B, routing=None)):
        given = [one.clone().requires_grad_() for one in (x_BN, weight_KNM, bias_KM)]
        with torch.autocast("cpu", torch.bfloat16):
            product = clusters.linear(*given)
        assert product.dtype == torch.float32
        product.backward(grad)  # type: ignore[no-untyped-call]
        made.append([product.detach(), *(one.grad for one in given)])
    assert Clusters.from_ids(cluster_B).routing is not None
    for first, second in zip(*made, strict=True):
        torch.testing.assert_close(first, second)


def test_evaluation_changes_nothing_and_a_forward_pass_in_training_changes_buffers_only(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    model, batch = stir_embeddings_and_clusters(build_model("adaptdhm")), data.slice(0, 64)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    model.eval()(batch)
    assert all(torch.equal(value, start[name]) for name, value in model.state_dict().items())
    model.train()(batch).sum().backward()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, start[name])}
    buffers = {f"net.at_input.0.{name}" for name in ("center", "idle", "mean", "batches")}
    assert changed <= buffers
    assert changed >= buffers - {"net.at_input.0.idle"}
    torch.testing.assert_close(router(model).center.norm(dim=1), torch.ones(3))


def test_the_running_mean_averages_all_batches_and_then_moves_by_one_percent(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    model, expected = stir_embeddings_and_clusters(build_model("adaptdhm")).train(), np.zeros(16)
    for k in range(130):
        batch = data.slice(2 * k, 2 * k + 2 + k % 3)
        model(batch)
        expected += max(0.01, 1 / (k + 1)) * (embedded(model, batch).mean(0) - expected)
        if k == 2:
            each = [embedded(model, data.slice(2 * j, 2 * j + 2 + j)).mean(0) for j in range(3)]
            np.testing.assert_allclose(router(model).mean, np.mean(each, 0), atol=1e-6)
    np.testing.assert_allclose(router(model).mean, expected, atol=1e-5)
    assert np.abs(expected).max() > 0.1


@pytest.mark.parametrize("routing", ["spherical", "published"])
def test_numeric_fields_do_not_affect_clusters(
    build_model: Callable[..., CTRModel], data: SplitData, routing: str
) -> None:
    made = []
    for factor in (1.0, -7.0):
        model = build_model(f"adaptdhm[routing={routing}]").train()
        other = SplitData(**{**vars(data), "numeric_BK": factor * data.numeric_BK})
        made.append([found(model, other.slice(0, 100)), router(model).center])
    assert all(torch.equal(first, second) for first, second in zip(*made, strict=True))


def test_no_gradient_passes_through_the_routing(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    model, batch, grads = stir_embeddings_and_clusters(build_model("adaptdhm")).train(), data.slice(0, 64), []
    context = model.context(batch)
    model.net(context).sum().backward()
    grads.append(model.embedding.table.weight.grad.clone())
    assert not any(buffer.requires_grad for buffer in model.buffers())
    assert not any(figure.requires_grad for figure in context.logs.values())
    model.zero_grad()
    clusters = context.shared[KEY]

    def frozen(x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        context.shared[KEY] = clusters
        return x_BN

    router(model).forward = frozen  # type: ignore[method-assign]
    model(batch).sum().backward()
    assert torch.equal(model.embedding.table.weight.grad, grads[0])


def test_only_a_cluster_without_rows_for_long_is_reseeded(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    # Two rows, which are opposite after centering; the third center is orthogonal and has no row.
    model = stir_embeddings_and_clusters(build_model("adaptdhm[reseed_after=80]")).train()
    batch, module = data.take(torch.tensor([0, 1] * 20)), router(model)
    first, second = embedded(model, batch)[:2]
    row = torch.from_numpy(unit(first - second)).float()
    with torch.no_grad():
        across = torch.nn.functional.normalize(module.center - torch.outer(module.center @ row, row))
        module.center.copy_(across)
        module.center[:2] += torch.stack([row, -row])
        module.center.copy_(torch.nn.functional.normalize(module.center))
    assert found(model, batch).tolist() == [0, 1] * 20
    assert module.idle.tolist() == [0, 0, 40]
    assert (module.center @ row).abs()[2] < 0.01
    assert found(model, batch).tolist() == [0, 1] * 20
    assert module.idle.tolist() == [0, 0, 0]
    alike = (module.center @ row).abs()
    assert float(alike[2]) == pytest.approx(1.0, abs=1e-6)
    assert (alike[:2] < 0.999).all()


def test_batches_of_one_row_keep_the_centers_apart(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    model = stir_embeddings_and_clusters(build_model("adaptdhm")).train()
    for row in range(5):
        model(data.slice(row, row + 1))
    alike = (router(model).center @ router(model).center.T).fill_diagonal_(0.0)
    assert alike.max() < 0.9


def skewed_rows() -> tuple[Schema, SplitData]:
    """Twenty fields with skewed ids, so that all rows share a large mean."""
    ids = np.minimum(np.random.default_rng(0).zipf(1.5, (4000, 20)), 49).astype(np.int32)
    shapes = [
        FieldShape(name=f"field{place}", kind="categorical", role="user", size=50) for place in range(20)
    ]
    one = torch.ones(len(ids), dtype=torch.int32)
    schema = Schema(
        fields=tuple(shapes),
        embedding_size=8,
        domain_features=("field0",),
        num_domains=1,
        indicator_rows=(0, len(ids)),
        base_rate=0.3,
    )
    data = SplitData(
        ids_BF=torch.from_numpy(ids),
        bags=(),
        numeric_BK=torch.zeros(len(ids), 0),
        domain_B=one,
        indicator_B=one,
        label_B=torch.zeros(len(ids)),
        row=np.arange(len(ids)),
        user=None,
        probability=None,
    )
    return schema, data


@pytest.mark.parametrize("seed", [1, 2])
def test_published_centers_coincide_and_spherical_ones_stay_apart(seed: int) -> None:
    schema, data = skewed_rows()
    torch.manual_seed(seed)
    cosines: dict[str, list[float]] = {"published": [], "spherical": []}
    agreement = {}
    for routing, found_cosines in cosines.items():
        method = Adaptdhm(routing=routing)  # type: ignore[arg-type]
        model = CTRModel(method.apply(Dnn(hidden=(8, 4)).plan()), schema, seed=seed)
        module, agreement[routing] = router(model), 1.0
        for place in range(300):
            start = 100 * (place % 40)
            model.train()(data.slice(start, start + 100))
            if place % 20 == 19:  # rounding must not choose
                centers, z_BN = module.center.numpy().astype(np.float64), inputs(model, data.slice(0, 2000))
                exact = ((z_BN - module.mean.numpy()) @ centers.T).argmax(1)
                chosen = found(model.eval(), data.slice(0, 2000)).numpy()
                agreement[routing] = min(agreement[routing], float((chosen == exact).mean()))
                found_cosines.append(float((module.center @ module.center.T).fill_diagonal_(-1.0).max()))
    # A cluster that was just reseeded is distant for some batches; mostly none was.
    assert np.median(cosines["published"]) > 0.9999
    assert agreement["published"] < 0.9
    assert cosines["spherical"][-1] < 0.5
    assert agreement["spherical"] > 0.999


def test_the_log_holds_the_share_of_each_cluster(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    model, batch = stir_embeddings_and_clusters(build_model("adaptdhm")).train(), data.slice(0, 60)
    context = model.context(batch)
    model.net(context)
    clusters = context.shared[KEY].cluster_B
    shares = [float(context.logs[f"clusters.share{k}"]) for k in range(3)]
    assert shares == pytest.approx([(clusters == k).float().mean().item() for k in range(3)])
    assert len(context.logs) == 3


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_model_starts_as_its_backbone_and_clusters_then_differ(
    build_model: Callable[..., CTRModel],
    data: SplitData,
    unseen_data: SplitData,
    backbone: str,
    learn: Callable[..., None],
) -> None:
    model, plain = build_model("adaptdhm", backbone), build_model("plain", backbone)
    batch = unseen_data.slice(0, 30)
    apart = (model.eval()(batch) - plain.eval()(batch)).abs().max()
    assert apart <= Adaptdhm().starts_as_backbone
    learn(model.train(), data.slice(0, 64))
    for layer in layers(model):
        assert all(not torch.equal(layer.own_weight[k], layer.own_weight[0]) for k in (1, 2))
        assert (layer.own_bias != 0.0).all()


def test_clusters_depend_on_the_embeddings_not_on_the_input_of_the_tower(
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
    model, batch = stir_embeddings_and_clusters(build_model("adaptdhm")).eval(), data.slice(0, 200)
    near = router(model).center
    near[1:] = torch.nn.functional.normalize(near[0] + 1e-3 * near[1:])  # equal in bfloat16
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
