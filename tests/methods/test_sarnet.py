"""SAR-Net against loops over rows, in training and in eval mode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ctrbench.backbones.dnn import Dnn
from ctrbench.data.batches import Batch, SplitData
from ctrbench.errors import SettingError
from ctrbench.methods.sarnet import Sarnet
from ctrbench.nn.model import CTRModel
from ctrbench.nn.plan import Plan
from ctrbench.nn.schema import Schema
from ctrbench.nn.tables import RowTable
from ctrbench.plugins.registry import select

SMALL = "sarnet[shared=3,specific=2,expert=5-3]"
STAGE = "net.tower.0"


@pytest.fixture
def stir(stir: Callable[[CTRModel], CTRModel]) -> Callable[[CTRModel], CTRModel]:
    """Change all weights except embeddings, and all running moments."""

    def move(model: CTRModel) -> CTRModel:
        generator = torch.Generator().manual_seed(5)
        for name, buffer in stir(model).net.named_buffers():
            if name.endswith(("mean", "variance")):
                buffer += torch.rand(buffer.shape, generator=generator)
        return model

    return move


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def by_hand(
    model: CTRModel, data: SplitData, *, is_training: bool, num_shared: int = 3, num_specific: int = 2
) -> list[float]:
    state = {name: value.double().numpy() for name, value in model.state_dict().items()}
    batch = data.slice(0, len(data))
    z_BN = model.context(batch).z_BN.detach().double().numpy()
    cities = batch.indicator_B.tolist()
    affine = state[f"{STAGE}.domain_affine.weight"]
    own_BN = np.stack([affine[p, 0] * z + affine[p, 1] for z, p in zip(z_BN, cities, strict=True)])
    mean, variance = state[f"{STAGE}.norm.mean"], state[f"{STAGE}.norm.variance"]
    if is_training:
        mean, variance = own_BN.mean(0), own_BN.var(0)
    logits = []
    for x, p in zip(own_BN, cities, strict=True):
        normed = (x - mean) / np.sqrt(variance + 1e-5)
        normed = normed * state[f"{STAGE}.norm.scale"] + state[f"{STAGE}.norm.shift"]
        experts = []
        for k in range(num_shared):
            h = normed
            for layer in range(2):
                weight, bias = (state[f"{STAGE}.shared.{layer}.{part}"][k] for part in ("weight", "bias"))
                h = np.tanh(h @ weight + bias[0])
            experts.append(h)
        for k in range(num_specific if p else 0):
            h = normed
            for layer in range(2):
                table = state[f"{STAGE}.specific.{k}.{layer}.domain.weight"][p]
                h = np.tanh(h @ table[:-1] + table[-1])
            experts.append(h)
        weights = softmax((x @ state[f"{STAGE}.gate"])[: len(experts)])
        h = sum(weight * expert for weight, expert in zip(weights, experts, strict=True))
        for layer in range(2):
            h = np.tanh(h @ state[f"{STAGE}.tower.{layer}.weight"] + state[f"{STAGE}.tower.{layer}.bias"])
        logits.append(float(h @ state["net.head.0.weight"][:, 0] + state["net.head.0.bias"][0]))
    return logits


def test_outputs_agree_with_the_formula_and_running_moments(
    build_model: Callable[..., CTRModel], unseen_data: SplitData, stir: Callable[[CTRModel], CTRModel]
) -> None:
    model = stir(build_model(SMALL)).eval()
    expected = by_hand(model, unseen_data, is_training=False)
    np.testing.assert_allclose(model(unseen_data.slice(0, 30)).detach(), expected, rtol=1e-4, atol=1e-5)


def test_in_training_moments_are_those_of_all_rows_of_the_batch(
    build_model: Callable[..., CTRModel], data: SplitData, stir: Callable[[CTRModel], CTRModel]
) -> None:
    model = stir(build_model(SMALL)).train()
    expected = by_hand(model, data, is_training=True)
    np.testing.assert_allclose(model(data.slice(0, len(data))).detach(), expected, rtol=1e-3, atol=1e-4)


def test_moments_are_kept_for_eval_mode(
    build_model: Callable[..., CTRModel], data: SplitData, learn: Callable[..., None]
) -> None:
    model, rows = build_model(SMALL), torch.arange(len(data))
    learn(model, data.take(rows), steps=1)
    z_BN = build_model(SMALL).context(data.take(rows)).z_BN
    np.testing.assert_allclose(model.state_dict()[f"{STAGE}.norm.mean"], z_BN.detach().mean(0), atol=1e-5)


def test_scale_and_shift_start_at_one_and_zero_and_the_gate_at_zero(
    build_model: Callable[..., CTRModel],
) -> None:
    state = build_model("sarnet").state_dict()
    assert (state[f"{STAGE}.domain_affine.weight"][:, 0] == 1.0).all()
    assert (state[f"{STAGE}.domain_affine.weight"][:, 1] == 0.0).all()
    assert (state[f"{STAGE}.gate"] == 0.0).all()
    own = [state[f"{STAGE}.specific.{k}.0.domain.weight"][1, :-1] for k in range(2)]
    assert len(torch.unique(torch.stack([*state[f"{STAGE}.shared.0.weight"], *own]), dim=0)) == 10


def test_only_rows_of_a_domain_use_its_parts(
    build_model: Callable[..., CTRModel], data: SplitData, stir: Callable[[CTRModel], CTRModel]
) -> None:
    model, batch = stir(build_model(SMALL)).eval(), data.slice(0, len(data))
    before = model(batch)
    with torch.no_grad():
        for table in model.modules():
            if isinstance(table, RowTable) and table.rule == "domain":
                table.weight[1] += 0.5
    is_first = batch.indicator_B == 1
    assert torch.equal(model(batch)[~is_first], before[~is_first])
    assert (model(batch)[is_first] != before[is_first]).all()


def test_the_unseen_domain_uses_only_shared_parts(
    build_model: Callable[..., CTRModel],
    unseen_data: SplitData,
    stir: Callable[[CTRModel], CTRModel],
    of_city: Callable[..., torch.Tensor],
) -> None:
    model, batch = (
        stir(build_model(SMALL)).eval(),
        unseen_data.take(torch.nonzero(unseen_data.indicator_B == 0)[:, 0]),
    )
    before = model(batch)
    with torch.no_grad():
        for table in model.modules():
            if isinstance(table, RowTable) and table.rule == "domain":
                table.weight[1:] += 0.5
    assert torch.equal(model(batch), before)


def test_a_batch_of_one_domain_gives_what_a_mixed_batch_gives(
    build_model: Callable[..., CTRModel],
    data: SplitData,
    stir: Callable[[CTRModel], CTRModel],
    of_city: Callable[..., torch.Tensor],
) -> None:
    model, rows = stir(build_model(SMALL)).eval(), of_city(2)
    torch.testing.assert_close(model(data.take(rows)), model(data.slice(0, len(data)))[rows])


def test_every_expert_and_the_gate_learn(
    build_model: Callable[..., CTRModel], data: SplitData, learn: Callable[..., None]
) -> None:
    model = build_model(SMALL)
    start = {name: value.detach().clone() for name, value in model.net.named_parameters()}
    learn(model, data.take(torch.arange(len(data))))
    for name, value in model.net.named_parameters():
        moved = (value != start[name]).view(len(value), -1)
        is_own = name.endswith(("domain.weight", "affine.weight"))
        assert moved[1:].any(1).all() if is_own else moved.any(1).all(), name


def test_the_tower_is_the_backbones(build_model: Callable[..., CTRModel]) -> None:
    (stage,) = Sarnet().rewrite(Dnn().plan()).tower
    assert stage.tower == Dnn().plan().tower  # type: ignore[attr-defined]
    assert [dense.width for dense in stage.expert] == [16]  # type: ignore[attr-defined]
    own, plain = (build_model(one, "dnn[hidden=8-4]") for one in ("sarnet", "plain"))
    assert torch.equal(own.state_dict()[f"{STAGE}.tower.1.weight"], plain.state_dict()["net.tower.1.weight"])


def test_parameters_are_counted_by_hand(build_model: Callable[..., CTRModel]) -> None:
    # z is 17 wide; scale and shift 34, an expert (17 + 1) 16; normalization 34, gate 17 x 10, tower 17 8 + 9 4.
    counts = build_model("sarnet").num_parameters()
    assert counts["per_domain"] == 7 * (34 + 2 * 288)
    assert counts["dense"] == 34 + 170 + 8 * 288 + 172 + 5


def test_a_single_domain_is_supported(
    schema: Schema, data: SplitData, learn: Callable[..., None], of_city: Callable[..., torch.Tensor]
) -> None:
    one = replace(schema, indicator_rows=(0, 150))
    model = CTRModel(Sarnet().apply(Dnn(hidden=(8, 4)).plan()), one, seed=1)
    rows = of_city(1)
    learn(model, data.take(rows))
    assert torch.isfinite(model(data.take(rows))).all()


@pytest.mark.parametrize("settings", ["shared=0", "specific=0", "expert=0"])
def test_values_out_of_range_are_refused(settings: str) -> None:
    with pytest.raises(SettingError, match=settings.partition("=")[0]):
        _ = select("methods", f"sarnet[{settings}]").value


def test_a_plan_without_a_dense_tower_is_refused() -> None:
    assert "this plan has none" in str(Sarnet().supports(Plan(tower=(), head=())))
    assert Sarnet().supports(Dnn().plan()) is None


# The attention over behaviors.

ATTENDING = "sarnet[shared=3,specific=2,expert=5-3,attention=true]"
Build, AddHistory = Callable[..., CTRModel], Callable[[SplitData], SplitData]


def doubled(model: CTRModel, batch: Batch) -> tuple[CTRModel, Batch]:
    return model.double(), replace(batch, numeric_BK=batch.numeric_BK.double())


def score(state: dict[str, np.ndarray], x: np.ndarray) -> float:
    for layer in range(2):
        x = np.maximum(x @ state[f"hidden.{layer}.weight"] + state[f"hidden.{layer}.bias"], 0.0)
    return float((x @ state["output"])[0])


def attended(model: CTRModel, batch: Batch) -> np.ndarray:
    """u of each row, from the ids of its list, its user and its domain."""
    part = model.net.at_input[0].attentions[0]
    item, scenario = (
        {name: value.detach().numpy() for name, value in one.named_parameters()}
        for one in (part.item, part.scenario)
    )
    z_BN, slices = model.context(batch).z_BN.detach().numpy(), model.schema.slices
    table = model.embedding.table.weight.detach().numpy()
    first = len(table) - 41 - 11  # the users' rows precede the tags'
    values, offsets = batch.bags[1]
    found = []
    for z, start, stop in zip(z_BN, offsets[:-1], offsets[1:], strict=True):
        t, d = z[slices["user"]], np.concatenate([z[slices["city"]], z[slices["age"]]])
        es = table[first + values[start:stop].numpy()]
        weights = np.exp([score(item, np.concatenate([e, t, e - t, e * t])) for e in es]) * np.exp(
            [score(scenario, np.concatenate([e, d])) for e in es]
        )
        empty = part.empty_E.detach().numpy()
        found.append(weights @ es / weights.sum() if len(es) else empty)
    return np.array(found)


def test_a_sequence_is_pooled_by_the_product_of_two_weights(
    build_with_history: Build,
    add_history: AddHistory,
    unseen_data: SplitData,
    stir: Callable[[CTRModel], CTRModel],
) -> None:
    model, batch = doubled(stir(build_with_history(ATTENDING)), add_history(unseen_data).slice(0, 30))
    context, place = model.context(batch), model.schema.slices["history"]
    given = model.net.at_input[0](context.z_BN, context).detach().numpy()
    np.testing.assert_allclose(given[:, place], attended(model, batch), rtol=1e-10)
    others = np.delete(np.arange(given.shape[1]), place)
    np.testing.assert_array_equal(given[:, others], context.z_BN.detach().numpy()[:, others])


@pytest.mark.parametrize("backbone", ["dnn[hidden=8-4]", "deepfm[hidden=8-4]", "pnn[hidden=8-4]"])
def test_at_the_start_a_sequence_is_its_mean(
    build_with_history: Build, add_history: AddHistory, unseen_data: SplitData, backbone: str
) -> None:
    batch = add_history(unseen_data).slice(0, 30)
    with_attention, without = (build_with_history(one, backbone) for one in (ATTENDING, SMALL))
    torch.testing.assert_close(with_attention.eval()(batch), without.eval()(batch))


def test_readers_of_embeddings_read_the_pooled_sequence(
    build_with_history: Build,
    add_history: AddHistory,
    unseen_data: SplitData,
    stir: Callable[[CTRModel], CTRModel],
) -> None:
    model, batch = stir(build_with_history(ATTENDING, "deepfm[hidden=8-4]")), add_history(unseen_data)
    context = model.context(batch.slice(0, 30))
    model.net(context)
    assert (context.embeddings_BN != context.z_BN).any(0).nonzero().flatten().tolist() == [16, 17, 18, 19]


def test_all_parameters_of_the_attention_learn(
    build_with_history: Build, add_history: AddHistory, data: SplitData, learn: Callable[..., None]
) -> None:
    model = build_with_history(ATTENDING)
    start = {name: value.detach().clone() for name, value in model.net.at_input.named_parameters()}
    assert len(start) == 11
    learn(model, add_history(data).take(torch.arange(len(data))))
    for name, value in model.net.at_input.named_parameters():
        assert not torch.equal(value, start[name]), name


def test_behaviors_also_learn_through_their_weights(
    build_with_history: Build,
    add_history: AddHistory,
    unseen_data: SplitData,
    stir: Callable[[CTRModel], CTRModel],
) -> None:
    model, batch = doubled(stir(build_with_history(ATTENDING)).eval(), add_history(unseen_data).slice(0, 30))
    place = (len(model.embedding.table.weight) - 52 + int(batch.bags[1][0][0]), 2)
    model(batch).sum().backward()
    weight, sums = model.embedding.table.weight, []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            weight[place] += step
            sums.append(model(batch).sum().item())
    assert weight.grad[place].item() == pytest.approx((sums[0] - sums[1]) / 2e-5, rel=1e-5)


def test_rows_without_any_behavior_have_the_learned_vector(
    build_with_history: Build, add_history: AddHistory, data: SplitData, learn: Callable[..., None]
) -> None:
    model, rows = build_with_history(ATTENDING), torch.arange(0, 300, 5)
    batch = add_history(data).take(rows)
    assert not len(batch.bags[1][0])
    learn(model, add_history(data).take(rows))
    context = model.context(batch)
    given = model.net.at_input[0](context.z_BN, context)[:, model.schema.slices["history"]]
    empty = model.net.at_input[0].attentions[0].empty_E
    assert empty.abs().min() > 0.0
    assert torch.equal(given, empty.expand(60, -1))


def test_attention_without_sequences_or_with_another_pooling_is_refused(schema: Schema) -> None:
    method = Sarnet(attention=True)
    with pytest.raises(SettingError, match=r"attention=true must have a sequence.*leave attention out"):
        CTRModel(method.apply(Dnn().plan()), schema, seed=1)
    assert method.supports(Dnn().full_plan()) is None
    reason = method.supports(Dnn(pooling="din").full_plan())
    assert reason == "attention replaces the pooling of sequences, here din"
    assert Sarnet().supports(Dnn(pooling="din").full_plan()) is None
    assert "attention" not in Sarnet().key()
