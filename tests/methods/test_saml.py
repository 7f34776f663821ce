"""SAML against loops over rows and branches, and whom a row trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ctrbench.backbones.dcnv2 import Dcnv2
from ctrbench.backbones.dnn import Dnn
from ctrbench.data.batches import SplitData
from ctrbench.errors import SettingError
from ctrbench.methods.saml import Branches, Mutual, Saml
from ctrbench.nn.model import CTRModel
from ctrbench.nn.plan import Plan
from ctrbench.nn.schema import Schema
from ctrbench.plugins.registry import select

CITIES = range(1, 7)
LARGEST = 1
STAGE = "net.tower.0"
SELECTORS = ["saml", "saml[temperature=0.7]", "saml[mutual=false]"]


def transformed(x: np.ndarray, weight_FEE: np.ndarray) -> np.ndarray:
    """z is 17 wide: four fields of 4 and a number, to which three zeros are added."""
    pieces = np.split(np.concatenate([x, np.zeros(3)]), 5)
    return np.concatenate([piece @ weight for piece, weight in zip(pieces, weight_FEE, strict=True)])


class ByHand:
    """One row at a time, in float64."""

    def __init__(self, model: CTRModel, method: Saml) -> None:
        self.method = method
        self.state = {name: value.double().numpy() for name, value in model.state_dict().items()}

    def transform(self, x: np.ndarray, weight_FEE: np.ndarray) -> np.ndarray:
        return transformed(x, weight_FEE)

    def branch(self, x: np.ndarray, g: np.ndarray, p: int) -> np.ndarray:
        u = self.transform(x, self.state[f"{STAGE}.branches.tables.0.weight"][p])
        h = np.concatenate([g, u])
        for layer in (1, 2):
            table = self.state[f"{STAGE}.branches.tables.{layer}.weight"][p]
            h = np.tanh(h @ table[:-1] + table[-1])
        return h

    def informed(self, x: np.ndarray, g: np.ndarray, p: int) -> np.ndarray:
        own = self.branch(x, g, p)
        others = [self.branch(x, g, q) for q in CITIES if q != p]
        cosines = [own @ b / np.linalg.norm(own) / np.linalg.norm(b) for b in others]
        powers = np.exp(np.array(cosines) / self.method.temperature)
        mean = sum(w * b for w, b in zip(powers / powers.sum(), others, strict=True))
        weight, bias = self.state[f"{STAGE}.mutual.gate.weight"], self.state[f"{STAGE}.mutual.gate.bias"]
        gate = 1.0 / (1.0 + np.exp(-(np.concatenate([own, mean]) @ weight + bias)))
        return gate * own + (1.0 - gate) * mean

    def logit(self, x: np.ndarray, p: int) -> float:
        g = self.transform(x, self.state[f"{STAGE}.transform"])
        a = g
        for layer in range(2):
            weight, bias = (self.state[f"{STAGE}.shared.{layer}.{part}"] for part in ("weight", "bias"))
            a = np.tanh(a @ weight + bias)
        b = self.informed(x, g, p) if self.method.mutual else self.branch(x, g, p)
        head = self.state["net.head.0.weight"][:, 0]
        return float(np.concatenate([a, b]) @ head + self.state["net.head.0.bias"][0])


@pytest.mark.parametrize("selector", SELECTORS)
def test_branches_and_mutual_unit_agree_with_the_formula(
    build_model: Callable[..., CTRModel],
    unseen_data: SplitData,
    selector: str,
    stir: Callable[[CTRModel], CTRModel],
) -> None:
    model, batch = stir(build_model(selector)), unseen_data.slice(0, 30)
    by_hand = ByHand(model, select("methods", selector).value)  # type: ignore[arg-type]
    z_BN = model.context(batch).z_BN.detach().double().numpy()
    pairs = zip(z_BN, batch.indicator_B.tolist(), strict=True)
    expected = [by_hand.logit(z, p or LARGEST) for z, p in pairs]
    np.testing.assert_allclose(model(batch).detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("selector", SELECTORS)
def test_a_batch_of_one_domain_gives_what_a_mixed_batch_gives(
    build_model: Callable[..., CTRModel],
    data: SplitData,
    selector: str,
    stir: Callable[[CTRModel], CTRModel],
    of_city: Callable[..., torch.Tensor],
) -> None:
    model, rows = stir(build_model(selector)), of_city(2)
    torch.testing.assert_close(model(data.take(rows)), model(data.slice(0, len(data)))[rows])


@pytest.mark.parametrize("selector", SELECTORS)
def test_a_row_trains_its_own_branch_and_no_other(
    build_model: Callable[..., CTRModel],
    data: SplitData,
    selector: str,
    stir: Callable[[CTRModel], CTRModel],
    of_city: Callable[..., torch.Tensor],
) -> None:
    model = stir(build_model(selector))
    model(data.take(of_city(2, 4))).sum().backward()
    (branches,) = (module for module in model.modules() if isinstance(module, Branches))
    for table in branches.tables:
        grad = table.get_parameter("weight").grad
        assert grad is not None
        assert (grad.flatten(1).abs().amax(1) > 0.0).tolist() == [
            False,
            False,
            True,
            False,
            True,
            False,
            False,
        ]


def test_the_own_branchs_gradient_is_that_of_finite_differences(
    build_model: Callable[..., CTRModel],
    data: SplitData,
    stir: Callable[[CTRModel], CTRModel],
    of_city: Callable[..., torch.Tensor],
) -> None:
    # The other branches do not depend on these weights, so a stopped gradient changes nothing here.
    model, batch = stir(build_model("saml")).double(), data.take(of_city(2)[:5])
    batch = replace(batch, numeric_BK=batch.numeric_BK.double())
    model(batch).sum().backward()
    for layer, place in ((0, (2, 1, 0, 3)), (1, (2, 6, 1)), (1, (2, 30, 1)), (2, (2, 8, 0))):
        weight = model.get_parameter(f"{STAGE}.branches.tables.{layer}.weight")
        sums = []
        for step in (1e-5, -2e-5):
            with torch.no_grad():
                weight[place] += step
                sums.append(model(batch).sum().item())
        assert weight.grad is not None
        assert weight.grad[place].item() == pytest.approx((sums[0] - sums[1]) / 2e-5, rel=1e-5)
        with torch.no_grad():
            weight[place] += 1e-5


def test_the_shared_transform_learns_from_shared_tower_and_branch(
    build_model: Callable[..., CTRModel],
    data: SplitData,
    stir: Callable[[CTRModel], CTRModel],
    of_city: Callable[..., torch.Tensor],
) -> None:
    model, batch = stir(build_model("saml[mutual=false]")).double(), data.take(of_city(2)[:5])
    batch = replace(batch, numeric_BK=batch.numeric_BK.double())
    model(batch).sum().backward()
    weight, sums = model.get_parameter(f"{STAGE}.transform"), []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            weight[1, 0, 3] += step
            sums.append(model(batch).sum().item())
    assert weight.grad is not None
    assert weight.grad[1, 0, 3].item() == pytest.approx((sums[0] - sums[1]) / 2e-5, rel=1e-5)


def test_inputs_learn_from_other_branches_through_the_own_branch_only(
    build_model: Callable[..., CTRModel],
    data: SplitData,
    stir: Callable[[CTRModel], CTRModel],
    of_city: Callable[..., torch.Tensor],
) -> None:
    model, batch = stir(build_model("saml")), data.take(of_city(2))
    context = model.context(batch)
    (branches,) = (module for module in model.modules() if isinstance(module, Branches))
    both_BN = torch.randn(len(batch), 40, requires_grad=True)
    assert not branches.every(both_BN, context).requires_grad
    assert branches.own(both_BN, context).requires_grad
    torch.testing.assert_close(branches.every(both_BN, context)[1], branches.own(both_BN, context))


def test_the_unit_learns_as_soon_as_branches_differ(
    build_model: Callable[..., CTRModel], data: SplitData, learn: Callable[..., None]
) -> None:
    model = build_model("saml")
    start = {name: value.detach().clone() for name, value in model.net.named_parameters()}
    learn(model, data.take(torch.arange(len(data))))
    for name, value in model.net.named_parameters():
        moved = (value != start[name]).view(len(value), -1)
        assert moved[1:].any(1).all() if ".tables." in name else moved.any(1).all(), name


@pytest.mark.parametrize("backbone", ["dnn[hidden=8-4]", "dcnv2[hidden=8-4,structure=stacked]"])
def test_branches_start_alike_and_the_unit_then_changes_nothing(
    build_model: Callable[..., CTRModel], unseen_data: SplitData, backbone: str
) -> None:
    batch = unseen_data.slice(0, 30)
    with_unit, without = (build_model(one, backbone)(batch) for one in ("saml", "saml[mutual=false]"))
    torch.testing.assert_close(with_unit, without)


def test_a_single_domain_has_no_unit(
    schema: Schema, data: SplitData, learn: Callable[..., None], of_city: Callable[..., torch.Tensor]
) -> None:
    one, rows = replace(schema, indicator_rows=(0, 150)), of_city(1)
    scores = []
    for method in (Saml(), Saml(mutual=False)):
        model = CTRModel(method.apply(Dnn(hidden=(8, 4)).plan()), one, seed=1)
        assert not any(isinstance(module, Mutual) for module in model.modules())
        learn(model, data.take(rows))
        scores.append(model(data.take(rows)))
    assert torch.equal(*scores)


def test_two_domains_inform_each_other(
    schema: Schema,
    data: SplitData,
    stir: Callable[[CTRModel], CTRModel],
    of_city: Callable[..., torch.Tensor],
) -> None:
    two, rows = replace(schema, indicator_rows=(0, 150, 80)), of_city(1, 2)
    model = stir(CTRModel(Saml().apply(Dnn(hidden=(8, 4)).plan()), two, seed=1))
    before = model(data.take(rows))
    with torch.no_grad():
        model.get_parameter(f"{STAGE}.branches.tables.2.weight")[2] += 0.5
    assert (model(data.take(rows)) != before).all()


def test_a_branch_of_zeros_is_similar_to_none(
    schema: Schema, data: SplitData, stir: Callable[[CTRModel], CTRModel]
) -> None:
    plan = Saml().apply(Dnn(hidden=(8, 4), activation="relu").plan())
    model = stir(CTRModel(plan, schema, seed=1))
    with torch.no_grad():
        model.get_parameter(f"{STAGE}.branches.tables.2.weight")[2:4, -1] = -1e3
    batch = data.slice(0, len(data))
    model(batch).sum().backward()
    grads = [value.grad for value in model.parameters() if value.grad is not None]
    assert torch.isfinite(model(batch)).all()
    assert all(torch.isfinite(grad).all() for grad in grads)


def test_the_tower_occurs_twice_and_interactions_once() -> None:
    plan = Saml().apply(Dcnv2().plan())
    assert plan.interactions == Dcnv2().plan().interactions
    (stage,) = plan.tower
    assert stage.tower == Dcnv2().plan().tower  # type: ignore[attr-defined]


def test_parameters_are_counted_by_hand(build_model: Callable[..., CTRModel]) -> None:
    # z is 17 wide, in 5 groups of 4; a branch sees 40 numbers, the shared tower 20.
    counts = build_model("saml").num_parameters()
    assert counts["per_domain"] == 7 * (5 * 16 + 41 * 8 + 9 * 4)
    assert counts["dense"] == 5 * 16 + 21 * 8 + 9 * 4 + (8 + 1) * 4 + 9
    assert build_model("saml[mutual=false]").num_parameters()["dense"] == counts["dense"] - 36


def test_too_many_domains_are_refused(schema: Schema) -> None:
    many = replace(schema, indicator_rows=(0, *[10] * 33))
    with pytest.raises(SettingError, match="max_domains allows 32 domains: 33 domains"):
        CTRModel(Saml().apply(Dnn().plan()), many, seed=1)
    for method in (Saml(max_domains=33), Saml(mutual=False)):
        CTRModel(method.apply(Dnn(hidden=(8,)).plan()), many, seed=1)


@pytest.mark.parametrize(
    "settings", ["temperature=0", "mutual=false,temperature=0.2", "mutual=false,max_domains=9"]
)
def test_settings_without_effect_or_out_of_range_are_refused(settings: str) -> None:
    with pytest.raises(SettingError, match="no effect" if "mutual" in settings else "temperature"):
        _ = select("methods", f"saml[{settings}]").value


def test_a_plan_without_a_dense_tower_is_refused() -> None:
    assert "this plan has none" in str(Saml().supports(Plan(tower=(), head=())))
    assert Saml().supports(Dnn().plan()) is None


# The attention over behaviors.

ATTENDING = ["saml[attention=true]", "saml[attention=true,mutual=false]"]
Build, AddHistory = Callable[..., CTRModel], Callable[[SplitData], SplitData]


class AttendingByHand(ByHand):
    """z is 21 wide, in six groups; the seventh is that of the attention."""

    es: np.ndarray
    target: np.ndarray

    def transform(self, x: np.ndarray, weight_FEE: np.ndarray) -> np.ndarray:
        group = self.state[f"{STAGE}.histories.empty_HE"][0]
        if len(self.es):
            powers = np.exp([(e @ weight_FEE[6]) @ (self.target @ weight_FEE[6]) for e in self.es])
            group = powers @ self.es / powers.sum()
        pieces = [*np.split(np.concatenate([x, np.zeros(3)]), 6), group]
        return np.concatenate([piece @ weight for piece, weight in zip(pieces, weight_FEE, strict=True)])


@pytest.mark.parametrize("selector", ATTENDING)
def test_attention_of_each_transform_agrees_with_the_formula(
    build_with_history: Build,
    add_history: AddHistory,
    unseen_data: SplitData,
    selector: str,
    stir: Callable[[CTRModel], CTRModel],
) -> None:
    model, batch = stir(build_with_history(selector)).double(), add_history(unseen_data).slice(0, 30)
    with torch.no_grad():
        model.embedding.table.weight *= 10.0  # so that weights are far from equal
    batch = replace(batch, numeric_BK=batch.numeric_BK.double())
    by_hand = AttendingByHand(model, select("methods", selector).value)  # type: ignore[arg-type]
    z_BN, users = model.context(batch).z_BN.detach().numpy(), model.schema.slices["user"]
    users_RE = model.embedding.table.weight.detach().numpy()[-52:-11]  # before the tags' rows
    values, offsets = batch.bags[1]
    expected = []
    for row, (z, p) in enumerate(zip(z_BN, batch.indicator_B.tolist(), strict=True)):
        by_hand.es = users_RE[values[offsets[row] : offsets[row + 1]].numpy()]
        by_hand.target = z[users]
        expected.append(by_hand.logit(z, p or LARGEST))
    np.testing.assert_allclose(model(batch).detach(), expected, rtol=1e-9)


@pytest.mark.parametrize("selector", ATTENDING)
def test_all_parameters_of_the_attention_learn(
    build_with_history: Build,
    add_history: AddHistory,
    data: SplitData,
    selector: str,
    learn: Callable[..., None],
) -> None:
    model, names = build_with_history(selector), ("transform", "branches.tables.0.weight")
    learn(model, add_history(data).take(torch.arange(len(data))))
    assert (model.get_parameter(f"{STAGE}.histories.empty_HE") != 0.0).all()
    shared_EE, own_REE = (model.get_parameter(f"{STAGE}.{name}")[..., 6, :, :] for name in names)
    assert (shared_EE != torch.eye(4)).all()
    assert not (own_REE[1:] == torch.eye(4)).all(2).all(1).any()
    assert torch.equal(own_REE[0], torch.eye(4))


def test_a_transform_also_learns_through_the_weights_of_behaviors(
    build_with_history: Build,
    add_history: AddHistory,
    data: SplitData,
    stir: Callable[[CTRModel], CTRModel],
    of_city: Callable[..., torch.Tensor],
) -> None:
    # Only of the row's own branch: with the unit, the attention of other branches has no gradient.
    model, batch = stir(build_with_history(ATTENDING[1])).double(), add_history(data).take(of_city(2))
    batch = replace(batch, numeric_BK=batch.numeric_BK.double())
    model.embedding.table.weight.data *= 10.0
    model(batch).sum().backward()
    for name, place in (("transform", (6, 1, 2)), ("branches.tables.0.weight", (2, 6, 1, 2))):
        weight, sums = model.get_parameter(f"{STAGE}.{name}"), []
        for step in (1e-5, -2e-5, 1e-5):
            with torch.no_grad():
                weight[place] += step
                sums.append(model(batch).sum().item())
        assert weight.grad is not None
        assert weight.grad[place].item() == pytest.approx((sums[0] - sums[1]) / 2e-5, rel=1e-5), name


@pytest.mark.parametrize("selector", ATTENDING)
def test_a_row_trains_no_other_domains_attention(
    build_with_history: Build,
    add_history: AddHistory,
    data: SplitData,
    selector: str,
    stir: Callable[[CTRModel], CTRModel],
    of_city: Callable[..., torch.Tensor],
) -> None:
    model = stir(build_with_history(selector))
    model(add_history(data).take(of_city(2, 4))).sum().backward()
    grad = model.get_parameter(f"{STAGE}.branches.tables.0.weight").grad
    assert grad is not None
    assert (grad[:, 6] != 0.0).flatten(1).any(1).nonzero().flatten().tolist() == [2, 4]


@pytest.mark.parametrize("backbone", ["dnn[hidden=8-4,pooling=dien]", "dcnv2[hidden=8-4,structure=stacked]"])
def test_rows_without_any_behavior_are_scored_and_learned_from(
    build_with_history: Build,
    add_history: AddHistory,
    data: SplitData,
    backbone: str,
    learn: Callable[..., None],
) -> None:
    model, rows = build_with_history(ATTENDING[0], backbone), torch.arange(0, 300, 5)
    learn(model, add_history(data).take(rows))
    assert (model.get_parameter(f"{STAGE}.histories.empty_HE") != 0.0).all()
    assert torch.isfinite(model.eval()(add_history(data).take(rows))).all()


def test_parameters_of_the_attention_are_counted_by_hand(build_with_history: Build) -> None:
    # One more group of 4: a matrix, and four more inputs of each part of the first layers.
    with_attention, without = (build_with_history(one).num_parameters() for one in (ATTENDING[0], "saml"))
    assert with_attention["per_domain"] - without["per_domain"] == 7 * (16 + 8 * 8)
    assert with_attention["dense"] - without["dense"] == 16 + 4 * 8 + 4


def test_attention_without_sequences_is_refused(schema: Schema) -> None:
    with pytest.raises(SettingError, match=r"attention=true must have a sequence.*leave attention out"):
        CTRModel(Saml(attention=True).apply(Dnn().plan()), schema, seed=1)
    assert "attention" not in Saml().key()
