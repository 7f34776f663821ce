"""HAMUR against numpy row by row, and cells that start at exactly zero."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ctrbench.backbones.dnn import Dnn
from ctrbench.data.batches import Batch, SplitData
from ctrbench.errors import SettingError
from ctrbench.methods.hamur import AdaptedTower, AdaptedTowerModule, Cell, Hamur
from ctrbench.nn.model import CTRModel
from ctrbench.nn.norms import PartitionedNormModule
from ctrbench.nn.optim import AdamConfig, Optimizer
from ctrbench.nn.plan import Plan
from ctrbench.nn.stages import DomainDense
from ctrbench.nn.tables import RowTable
from ctrbench.plugins.registry import select
from ctrbench.train.learner import Learner

SMALL = "bottleneck=3,rank=5,hidden=6"
BACKBONES = ["dnn[hidden=8-4]", "dcnv2[hidden=8-4,layers=1]", "dcnv2[hidden=8-4,layers=1,structure=stacked]"]


def tower(model: CTRModel) -> AdaptedTowerModule:
    (found,) = [module for module in model.modules() if isinstance(module, AdaptedTowerModule)]
    return found


def cells(model: CTRModel) -> list[Cell]:
    return [module for module in model.modules() if isinstance(module, Cell)]


def stir_everything(model: CTRModel) -> CTRModel:
    """Set every parameter to random values, different per domain."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def numbers(tensor: torch.Tensor | torch.nn.Module) -> np.ndarray:
    assert isinstance(tensor, torch.Tensor)
    return tensor.detach().numpy().astype(np.float64)


def core(model: CTRModel, z: np.ndarray) -> np.ndarray:
    hidden, output = tower(model).hyper
    h = np.maximum(z @ numbers(hidden.weight) + numbers(hidden.bias), 0.0)
    return (h @ numbers(output.weight) + numbers(output.bias)).reshape(5, 5)


def dense(layer: torch.nn.Module, x: np.ndarray, p: int) -> np.ndarray:
    own = getattr(layer, "domain", None)
    if isinstance(own, RowTable):
        table = numbers(own.weight[p])
        return x @ table[:-1] + table[-1]
    return x @ numbers(layer.weight) + numbers(layer.bias)


def stir_moments(model: CTRModel) -> CTRModel:
    """Set different running moments per domain, as after some rows; those of the unseen domain stay."""
    generator = torch.Generator().manual_seed(6)
    for cell in cells(model):
        norm = cell.norm
        assert isinstance(norm, PartitionedNormModule)
        for moment in (norm.mean, norm.global_mean):
            moment.copy_(torch.randn(moment.shape, generator=generator))
        for moment in (norm.variance, norm.global_variance):
            moment.copy_(0.5 + torch.rand(moment.shape, generator=generator))
        norm.seen.copy_(torch.randint(300, 3000, norm.seen.shape, generator=generator))
        norm.seen[0] = 0
    return model


def running(norm: torch.nn.Module, p: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of a domain, shrunk towards those of all as by 1000 rows."""
    assert isinstance(norm, PartitionedNormModule)
    (of_mean, of_variance), whole = numbers(norm.seen[p]), numbers(norm.global_mean)
    w, v = of_mean / (of_mean + 1000), of_variance / (of_variance + 1000)
    own_mean = numbers(norm.mean[p])
    between = w * (1 - w) * (own_mean - whole) ** 2
    variance = v * numbers(norm.variance[p]) + (1 - v) * numbers(norm.global_variance) + between
    return w * own_mean + (1 - w) * whole, variance


def by_hand(model: CTRModel, batch: Batch, *, is_training: bool, largest: int = 1) -> np.ndarray:
    """All rows, layer by layer; in training the batch is of one domain, whose moments are its own."""
    z_BN = numbers(model.context(batch).z_BN)
    places, x = batch.indicator_B.tolist(), z_BN
    for place, stage in enumerate(tower(model).stages):
        x = np.tanh([dense(stage, row, p or largest) for row, p in zip(x, places, strict=True)])
        if str(place) not in tower(model).cells:
            continue
        cell = tower(model).cells[str(place)]
        assert isinstance(cell, Cell)
        change = []
        for row, z in zip(x, z_BN, strict=True):
            down = numbers(cell.down_left) @ core(model, z) @ numbers(cell.down_right)
            up = numbers(cell.up_left) @ core(model, z) @ numbers(cell.up_right)
            change.append((1.0 / (1.0 + np.exp(-(row @ down + numbers(cell.bias))))) @ up)
        c = np.array(change)
        norm = cell.norm
        of_rows = [(c.mean(0), c.var(0)) if is_training else running(norm, p) for p in places]
        mean, variance = (np.array(moment) for moment in zip(*of_rows, strict=True))
        affine = numbers(norm.domain_affine.weight)[places]  # type: ignore[union-attr, index]
        scale, shift = numbers(norm.scale) * affine[:, 0], numbers(norm.shift) + affine[:, 1]
        x = x + scale * (c - mean) / np.sqrt(variance + 1e-5) + shift
    (head,) = model.net.head
    return np.array([dense(head, row, p or largest)[0] for row, p in zip(x, places, strict=True)])


@pytest.mark.parametrize("settings", ["cells=1", "cells=2", "cells=2,tower=shared"])
def test_cells_generate_their_matrices_from_the_row(
    build_model: Callable[..., CTRModel], unseen_data: SplitData, settings: str
) -> None:
    model = stir_moments(stir_everything(build_model(f"hamur[{SMALL},{settings}]"))).eval()
    batch = unseen_data.slice(5, 30)  # groups of different sizes, so that they are not in the order of ids
    assert model.context(batch).routing.present_G.tolist() == [0, 1, 5, 6, 2, 3, 4]
    expected = by_hand(model, batch, is_training=False)
    np.testing.assert_allclose(model(batch).detach(), expected, rtol=1e-3, atol=1e-4)


def test_in_training_a_cell_is_normalized_by_its_domains_rows(
    build_model: Callable[..., CTRModel], data: SplitData, of_city: Callable[..., torch.Tensor]
) -> None:
    model, batch = stir_everything(build_model(f"hamur[{SMALL}]")).train(), data.take(of_city(1))
    expected = by_hand(model, batch, is_training=True)
    np.testing.assert_allclose(model(batch).detach(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "last"), [("cells=1", ["1"]), ("cells=2", ["0", "1"]), ("cells=9", ["0", "1"])]
)
def test_cells_follow_the_last_hidden_layers(
    build_model: Callable[..., CTRModel], settings: str, last: list[str]
) -> None:
    assert list(tower(build_model(f"hamur[{settings}]")).cells) == last


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("settings", ["tower=own", "tower=shared"])
@pytest.mark.parametrize("is_training", [False, True])
def test_the_model_starts_as_its_backbone_in_training_too(
    build_model: Callable[..., CTRModel], data: SplitData, backbone: str, settings: str, is_training: bool
) -> None:
    batch = data.slice(0, 300)
    plain = build_model("plain", backbone).train(is_training)(batch)
    model = build_model(f"hamur[{settings}]", backbone).train(is_training)
    for _ in range(2):  # also after running moments of zeros
        assert (model(batch) - plain).abs().max() <= Hamur().starts_as_backbone
    assert (model.eval()(batch) - plain).abs().max() <= Hamur().starts_as_backbone


def test_an_initial_cell_adds_zero_and_has_finite_gradients(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    model, batch = build_model("hamur").train(), data.slice(0, 300)
    context = model.context(batch)
    for cell in cells(model):
        width = len(cell.down_left)
        x_BN, core_BRR = torch.randn(300, width), torch.randn(300, 35 * 35)
        assert torch.equal(cell(x_BN, core_BRR, context), x_BN)
        assert torch.equal(cell.eval()(x_BN, core_BRR, context), x_BN)
        cell.train()
    model.zero_grad()
    (model(batch) * torch.linspace(-1.0, 1.0, 300)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    for cell in cells(model):
        assert isinstance(cell.norm, PartitionedNormModule)
        assert bool((cell.norm.scale == 0).all())
        assert cell.norm.scale.grad is not None
        assert bool((cell.norm.scale.grad != 0).all())
        assert all(bool((factor != 0).any()) for factor in cell.parameters(recurse=False) if factor.dim() > 1)


def test_the_first_step_adds_little(build_model: Callable[..., CTRModel], data: SplitData) -> None:
    plain, model = (build_model(name).train() for name in ("plain", "hamur[tower=shared]"))
    for one in (plain, model):
        Learner().step(one, Optimizer(one, AdamConfig(lr=0.001)), data.slice(0, 300))
    batch = data.slice(0, 300)
    assert (model.eval()(batch) - plain.eval()(batch)).std() < 0.1


def test_cells_and_hyper_network_learn(
    build_model: Callable[..., CTRModel], data: SplitData, learn: Callable[..., None]
) -> None:
    model = build_model("hamur").train()
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    learn(model, data.slice(0, 200), steps=4)
    assert [name for name, value in model.named_parameters() if torch.equal(value, start[name])] == []


def test_the_hyper_network_reads_and_trains_the_embeddings_not_the_input_of_the_tower(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    for backbone in BACKBONES:
        model = build_model("hamur[norm=pn]", backbone)
        given: list[torch.Tensor] = []
        tower(model).hyper[0].register_forward_hook(lambda _, seen, made, given=given: given.append(seen[0]))
        context = model.context(data.slice(0, 20))
        model.net(context)
        assert torch.equal(given[0], context.z_BN)
        assert given[0].requires_grad


@pytest.mark.parametrize("settings", ["tower=own", "tower=shared"])
def test_moments_of_absent_domains_are_bit_equal(
    build_model: Callable[..., CTRModel], data: SplitData, settings: str, of_city: Callable[..., torch.Tensor]
) -> None:
    model = build_model(f"hamur[{settings}]").train()
    optimizer = Optimizer(model, AdamConfig(lr=0.01))
    for _ in range(2):
        Learner().step(model, optimizer, data.slice(0, 200))
    moments = [(cell.norm.mean.clone(), cell.norm.variance.clone()) for cell in cells(model)]  # type: ignore[operator, union-attr]
    for _ in range(2):
        Learner().step(model, optimizer, data.take(of_city(1, 2)))
    for cell, (mean, variance) in zip(cells(model), moments, strict=True):
        assert torch.equal(cell.norm.mean[3:], mean[3:])  # type: ignore[index]
        assert torch.equal(cell.norm.variance[3:], variance[3:])  # type: ignore[index]


def test_towers_and_heads_belong_to_domains_unless_shared() -> None:
    plan = Dnn().plan()
    own, shared = Hamur().apply(plan), Hamur(tower="shared").apply(plan)
    (adapted,) = own.tower
    assert isinstance(adapted, AdaptedTower)
    assert all(isinstance(stage, DomainDense) for stage in (*adapted.tower, *own.head))
    (adapted,) = shared.tower
    assert isinstance(adapted, AdaptedTower)
    assert (adapted.tower, shared.head) == (plan.tower, plan.head)


def test_parameters_are_counted_by_hand(build_model: Callable[..., CTRModel]) -> None:
    # z is 17 wide. Towers (17 + 1) 8 + (8 + 1) 4 + (4 + 1); γ and β of PN for cells on 8 and on 4 neurons.
    counts, norm = build_model(f"hamur[{SMALL}]").num_parameters(), 2 * (8 + 4)
    hyper = (17 + 1) * 6 + (6 + 1) * 25
    of_cells = sum(width * 5 + 5 * 3 + 3 + 3 * 5 + 5 * width for width in (8, 4))
    assert counts["per_domain"] == 7 * (185 + norm)
    assert counts["dense"] == hyper + of_cells + norm
    counts = build_model(f"hamur[{SMALL},tower=shared]").num_parameters()
    assert counts["per_domain"] == 7 * norm
    assert counts["dense"] == 185 + hyper + of_cells + norm


@pytest.mark.parametrize("settings", ["cells=0", "rank=0", "tower=none", "bottleneck=0"])
def test_impossible_settings_are_refused(settings: str) -> None:
    with pytest.raises(SettingError):
        _ = select("methods", f"hamur[{settings}]").value


def test_a_plan_without_hidden_layers_is_refused() -> None:
    assert Hamur().supports(Dnn().plan()) is None
    assert "hidden" in str(Hamur().supports(Plan(tower=(), head=Dnn().plan().head)))
