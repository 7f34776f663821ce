"""PLE against loops over rows, domains and experts, and which rows reach which experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax

from ctrbench.backbones.dcnv2 import Dcnv2
from ctrbench.backbones.dnn import Dnn
from ctrbench.data.batches import SplitData
from ctrbench.errors import SettingError
from ctrbench.methods.ple import Extraction, Ple
from ctrbench.nn.interactions import Cross
from ctrbench.nn.model import CTRModel
from ctrbench.nn.plan import Plan
from ctrbench.nn.schema import Schema
from ctrbench.plugins.registry import select

CITIES = range(1, 7)
LARGEST = 1
SELECTORS = [
    "ple[tower=3]",
    "ple[specific=2,shared=1,expert=6-5-3,tower=3-2]",
    "ple[levels=2,tower=3]",
    "ple[levels=3,specific=2,shared=3,tower=3]",
]


class ByHand:
    """The levels, one row at a time, with every domain's stream at every level."""

    def __init__(self, model: CTRModel, method: Ple) -> None:
        self.method = method
        self.state = {name: value.double().numpy() for name, value in model.net.state_dict().items()}

    def own_layers(self, prefix: str, p: int, x: np.ndarray) -> np.ndarray:
        place = 0
        while (name := f"{prefix}.{place}.domain.weight") in self.state:
            x = np.tanh(x @ self.state[name][p, :-1] + self.state[name][p, -1])
            place += 1
        return x

    def bank(self, prefix: str, expert: int, x: np.ndarray) -> np.ndarray:
        place = 0
        while (name := f"{prefix}.{place}.weight") in self.state:
            bias = self.state[f"{prefix}.{place}.bias"][expert, 0]
            x = np.tanh(x @ self.state[name][expert] + bias)
            place += 1
        return x

    def crossed(self, z: np.ndarray) -> np.ndarray:
        """DCN-V2's cross layers of full rank, where the plan has them, as input of the head."""
        x, layer = z, 0
        while (name := f"interactions.0.kernels.{layer}.0") in self.state:
            x = z * (x @ self.state[name] + self.state[f"interactions.0.biases.{layer}"]) + x
            layer += 1
        return x[: len(x) if layer else 0]

    def logit(self, z: np.ndarray, p: int) -> float:
        streams, shared = dict.fromkeys(CITIES, z), z
        for level in range(self.method.levels - 1):
            streams, shared = self.earlier(level, streams, shared)
        prefix, own = "tower.0.last", streams[p]
        experts = [self.own_layers(f"{prefix}.specific.{k}", p, own) for k in range(self.method.specific)] + [
            self.bank(f"{prefix}.shared", k, shared) for k in range(self.method.shared)
        ]
        weights = softmax(own @ self.state[f"{prefix}.gate.domain.weight"][p])
        mixture = sum(weight * expert for weight, expert in zip(weights, experts, strict=True))
        head, last = self.state["head.0.domain.weight"][p], self.own_layers("tower.0.tower", p, mixture)
        return float(np.concatenate([self.crossed(z), last]) @ head[:-1, 0] + head[-1, 0])

    def earlier(
        self, level: int, streams: dict[int, np.ndarray], shared: np.ndarray
    ) -> tuple[dict[int, np.ndarray], np.ndarray]:
        prefix, n_p = f"tower.0.earlier.{level}", self.method.specific
        own = {
            q: [self.bank(f"{prefix}.specific", (q - 1) * n_p + k, streams[q]) for k in range(n_p)]
            for q in CITIES
        }
        common = [self.bank(f"{prefix}.shared", k, shared) for k in range(self.method.shared)]
        behind = {}
        for q in CITIES:
            if f"{prefix}.gate.weight" in self.state:
                gate = self.state[f"{prefix}.gate.weight"][q - 1]
            else:
                gate = self.state[f"{prefix}.gate.domain.weight"][q]
            weights = softmax(streams[q] @ gate)
            behind[q] = sum(w * f for w, f in zip(weights, own[q] + common, strict=True))
        everything = [expert for q in CITIES for expert in own[q]] + common
        weights = softmax(shared @ self.state[f"{prefix}.shared_gate"])
        return behind, sum(w * f for w, f in zip(weights, everything, strict=True))


@pytest.mark.parametrize("backbone", ["dnn[hidden=8-4]", "dcnv2[hidden=8-4,layers=2]"])
@pytest.mark.parametrize("selector", SELECTORS)
def test_levels_agree_with_the_formula(
    build_model: Callable[..., CTRModel],
    unseen_data: SplitData,
    selector: str,
    backbone: str,
    stir: Callable[[CTRModel], CTRModel],
) -> None:
    model, batch = stir(build_model(selector, backbone)), unseen_data.slice(0, 30)
    assert len(model.net.interactions) == backbone.startswith("dcnv2")
    by_hand = ByHand(model, select("methods", selector).value)  # type: ignore[arg-type]
    z_BN = model.context(batch).z_BN.detach().double().numpy()
    rows = zip(z_BN, batch.indicator_B.tolist(), strict=True)
    expected = [by_hand.logit(z, p or LARGEST) for z, p in rows]
    np.testing.assert_allclose(model(batch).detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("selector", SELECTORS)
def test_a_batch_of_one_domain_gives_what_a_mixed_batch_gives(
    build_model: Callable[..., CTRModel],
    data: SplitData,
    selector: str,
    of_city: Callable[..., torch.Tensor],
    stir: Callable[[CTRModel], CTRModel],
) -> None:
    model, rows = stir(build_model(selector)), of_city(2)
    torch.testing.assert_close(model(data.take(rows)), model(data.slice(0, len(data)))[rows])


def test_with_one_level_only_rows_of_a_domain_use_its_parts(
    build_model: Callable[..., CTRModel], data: SplitData, stir: Callable[[CTRModel], CTRModel]
) -> None:
    model, batch = stir(build_model("ple")), data.slice(0, len(data))
    before = model(batch)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "domain.weight" in name:
                value[3] += 0.5
    is_third = batch.indicator_B == 3
    after = model(batch)
    assert torch.equal(after[~is_third], before[~is_third])
    assert (after[is_third] != before[is_third]).all()


def test_with_more_levels_all_rows_train_earlier_experts(
    build_model: Callable[..., CTRModel], data: SplitData, stir: Callable[[CTRModel], CTRModel]
) -> None:
    model, batch = stir(build_model("ple[levels=2]")), data.slice(0, len(data))
    before = model(batch)
    with torch.no_grad():
        model.get_parameter("net.tower.0.earlier.0.specific.0.weight")[2] += 0.5
    assert (model(batch) != before).all()


@pytest.mark.parametrize("selector", SELECTORS)
def test_every_expert_gate_and_tower_learns(
    build_model: Callable[..., CTRModel], data: SplitData, selector: str, learn: Callable[..., None]
) -> None:
    model = build_model(selector)
    start = {name: value.detach().clone() for name, value in model.net.named_parameters()}
    learn(model, data.slice(0, len(data)), steps=4)
    for name, value in model.net.named_parameters():
        moved = (value != start[name]).flatten(1)
        assert moved[1:].any(1).all() if name.endswith("domain.weight") else moved.any(1).all(), name


def test_experts_start_at_different_weights_and_domains_at_equal_ones(
    build_model: Callable[..., CTRModel],
) -> None:
    state = build_model("ple[specific=2]").state_dict()
    first = [state[f"net.tower.0.last.specific.{k}.0.domain.weight"] for k in range(2)]
    shared = state["net.tower.0.last.shared.0.weight"]
    assert all((one == one[:1]).all() for one in first)
    assert len(torch.unique(torch.stack([first[0][1, :-1], first[1][1, :-1], *shared]), dim=0)) == 4
    assert state["net.tower.0.last.gate.domain.weight"].abs().max() == 0.0


def test_heads_of_domains_start_at_the_base_rate(build_model: Callable[..., CTRModel]) -> None:
    bias = build_model("ple").state_dict()["net.head.0.domain.weight"][:, -1, 0]
    np.testing.assert_allclose(bias, np.log(0.3 / 0.7), rtol=1e-5)


def test_experts_have_the_widths_of_the_tower_by_default() -> None:
    (stage,) = Ple().rewrite(Dnn(hidden=(8, 4), activation="relu").plan()).tower
    assert isinstance(stage, Extraction)
    assert [(dense.width, dense.activation) for dense in stage.expert] == [(8, "relu"), (4, "relu")]
    assert [(dense.width, dense.activation) for dense in stage.tower] == [(64, "relu")]
    (stage,) = Ple(expert=(256, 128)).rewrite(Dnn().plan()).tower
    assert isinstance(stage, Extraction)
    assert [dense.width for dense in stage.expert] == [256, 128]


def test_interactions_stay_beside_the_experts() -> None:
    plan = Ple().apply(Dcnv2().plan())
    assert plan.interactions == Dcnv2().plan().interactions
    assert len(plan.tower) == 1


def test_parameters_are_counted_by_hand(build_model: Callable[..., CTRModel]) -> None:
    # z is 17 wide; an expert has (17 + 1) 8 + (8 + 1) 4, a gate 17 x 3, a tower (4 + 1) 64, a head 64 + 1.
    counts = build_model("ple").num_parameters()
    assert counts["per_domain"] == 7 * (180 + 51 + 320 + 65)
    assert counts["dense"] == 2 * 180


@pytest.mark.parametrize("levels", [2, 3])
def test_experts_and_gates_of_earlier_levels_are_counted_as_the_domains(
    build_model: Callable[..., CTRModel], levels: int
) -> None:
    # A level after another has inputs of width 4: an expert has (4 + 1) 8 + (8 + 1) 4 there, a gate 4 x 3.
    counts = build_model(f"ple[levels={levels}]").num_parameters()
    first, later = 180, 76
    if levels == 2:
        earlier, shared_gates = 6 * first + 7 * 51, 17 * (6 + 2)
    else:
        earlier, shared_gates = 6 * (first + 51) + 6 * later + 7 * 12, (17 + 4) * (6 + 2)
    assert counts["per_domain"] == earlier + 7 * (later + 12 + 320 + 65)
    assert counts["dense"] == 2 * (first + (levels - 1) * later) + shared_gates


def test_too_many_domains_are_refused(schema: Schema) -> None:
    many = replace(schema, indicator_rows=(0, *[10] * 33))
    with pytest.raises(SettingError, match="max_domains allows 32 domains: 33 domains"):
        CTRModel(Ple(levels=2).apply(Dnn().plan()), many, seed=1)
    CTRModel(Ple(levels=2, max_domains=33).apply(Dnn(hidden=(8,)).plan()), many, seed=1)
    CTRModel(Ple().apply(Dnn(hidden=(8,)).plan()), many, seed=1)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_single_domain_is_supported(
    schema: Schema,
    data: SplitData,
    levels: int,
    of_city: Callable[..., torch.Tensor],
    learn: Callable[..., None],
) -> None:
    one = replace(schema, indicator_rows=(0, 150))
    model = CTRModel(Ple(levels=levels).apply(Dnn(hidden=(8, 4)).plan()), one, seed=1)
    rows = of_city(1)
    learn(model, data.take(rows))
    assert torch.isfinite(model(data.take(rows))).all()


@pytest.mark.parametrize("settings", ["max_domains=30", "shared=0", "specific=0", "tower=0", "levels=0"])
def test_settings_without_effect_or_out_of_range_are_refused(settings: str) -> None:
    with pytest.raises(SettingError, match=settings.partition("=")[0]):
        _ = select("methods", f"ple[{settings}]").value


def test_a_plan_without_a_dense_tower_is_refused() -> None:
    assert "this plan has none" in str(Ple().supports(Plan(tower=(), head=())))
    assert Ple().supports(Plan(tower=(Cross(name="cross", layers=1),), head=())) is not None
    assert Ple().supports(Dnn().plan()) is None
