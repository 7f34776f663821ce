from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from ctrbench.data.batches import SplitData
from ctrbench.errors import SettingError
from ctrbench.nn.model import Chain, Context, CTRModel
from ctrbench.nn.plan import Build, Dense, Plan, Schema, Stage, StageModule
from ctrbench.nn.stages import Auxiliary, Cross, domain_table
from ctrbench.plugins.registry import select

Builder = Callable[..., CTRModel]
BACKBONES = ("dnn[hidden=8-4]", "dcnv2[hidden=8-4]", "dcnv2[hidden=8-4,structure=stacked]")
NUM_INPUTS = 17


@dataclass(frozen=True, kw_only=True)
class Counted(Stage):
    """Multiplies by what was last heard from `advance`."""

    def build(self, num_inputs: int, build: Build) -> StageModule:
        return CountedModule(num_inputs)


class CountedModule(StageModule):
    def __init__(self, num_inputs: int) -> None:
        super().__init__()
        self.num_outputs = num_inputs
        self.heard: list[float] = []
        self.given: list[torch.Tensor] = []

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        self.given.append(x_BN)
        return x_BN

    def advance(self, progress: float) -> None:
        self.heard.append(progress)


DEEP = (Dense(name="t0", width=8, activation="tanh"),)
HEAD = (Dense(name="head", width=1),)
CROSS = Cross(name="cross", layers=2)


def module_of(model: CTRModel, kind: type[nn.Module]) -> nn.Module:
    (found,) = (module for module in model.modules() if type(module) is kind)
    return found


@pytest.mark.parametrize("backbone", BACKBONES)
def test_logits_one_a_row(build_model: Builder, data: SplitData, backbone: str) -> None:
    assert build_model(backbone=backbone)(data.slice(0, 11)).shape == (11,)


def test_parallel_joins_before_the_head(schema: Schema, data: SplitData) -> None:
    plan = Plan(tower=DEEP, head=HEAD, interactions=(CROSS,), join="parallel")
    net, batch = CTRModel(plan, schema, seed=1).net, data.slice(0, 5)
    assert net.tower[0].weight.shape == (NUM_INPUTS, 8)
    assert net.head[0].weight.shape == (NUM_INPUTS + 8, 1)
    context = CTRModel(plan, schema, seed=1).context(batch)
    joined = torch.cat([net.interactions[0](context.z_BN, context), net.tower(context.z_BN, context)], 1)
    assert torch.equal(net(context), net.head(joined, context)[:, 0])


def test_stacked_feeds_the_tower(schema: Schema, data: SplitData) -> None:
    plan = Plan(tower=DEEP, head=HEAD, interactions=(CROSS, replace(CROSS, name="two")), join="stacked")
    model = CTRModel(plan, schema, seed=1)
    assert model.net.tower[0].weight.shape == (2 * NUM_INPUTS, 8)
    assert model.net.head[0].weight.shape == (8, 1)
    context = model.context(data.slice(0, 5))
    crossed = torch.cat([one(context.z_BN, context) for one in model.net.interactions], 1)
    expected = model.net.head(model.net.tower(crossed, context), context)[:, 0]
    assert torch.equal(model.net(context), expected)


def test_stacked_without_interactions_is_the_tower_on_z(schema: Schema, data: SplitData) -> None:
    stacked, parallel = (
        CTRModel(Plan(tower=DEEP, head=HEAD, join=join), schema, seed=1)  # type: ignore[arg-type]
        for join in ("stacked", "parallel")
    )
    assert torch.equal(stacked(data.slice(0, 5)), parallel(data.slice(0, 5)))


def test_stages_at_the_input_are_seen_by_tower_and_interactions_not_by_logits(
    schema: Schema, data: SplitData
) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Doubled(Counted):
        def build(self, num_inputs: int, build: Build) -> StageModule:
            module = CountedModule(num_inputs)
            module.register_forward_hook(lambda _module, _given, made: 2.0 * made)
            return module

    spies = [Counted(name=name) for name in ("tower", "cross")]
    plan = Plan(tower=(spies[0],), head=HEAD, interactions=(spies[1],)).with_input(Doubled(name="two"))
    plan = plan.add_logit(Dense(name="wide", width=1))
    model = CTRModel(plan, schema, seed=1)
    seen: list[torch.Tensor] = []
    model.net.logits[0].register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    context = model.context(data.slice(0, 4))
    model.net(context)
    for module in (model.net.tower[0], model.net.interactions[0]):
        assert torch.equal(module.given[0], 2.0 * context.z_BN)  # type: ignore[union-attr, index]
    assert torch.equal(seen[0], context.z_BN)


def test_further_logits_are_added(schema: Schema, data: SplitData) -> None:
    plan, batch = Plan(tower=DEEP, head=HEAD), data.slice(0, 6)
    model = CTRModel(plan.add_logit(Dense(name="wide", width=1)), schema, seed=1)
    context = model.context(batch)
    wide = model.net.logits[0](context.z_BN, context)[:, 0]
    torch.testing.assert_close(model(batch), CTRModel(plan, schema, seed=1)(batch) + wide)


def test_output_bias_starts_at_the_base_rate(build_model: Builder) -> None:
    bias = build_model().net.head[-1].bias
    assert torch.sigmoid(bias).tolist() == pytest.approx([0.3])


def test_base_rate_needs_no_bias(schema: Schema) -> None:
    CTRModel(Plan(tower=DEEP, head=(Dense(name="h", width=1), Counted(name="c"))), schema, seed=1)


@pytest.mark.parametrize("where", ["head", "logits"])
def test_a_logit_has_width_one(schema: Schema, where: str) -> None:
    plan = replace(Plan(tower=DEEP, head=HEAD), **{where: (Dense(name="wide", width=2),)})
    with pytest.raises(ValueError, match="end in width 1"):
        CTRModel(plan, schema, seed=1)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_same_seed_same_weights(build_model: Builder, backbone: str) -> None:
    first = build_model(backbone=backbone, seed=4).state_dict()
    torch.rand(7)
    again = build_model(backbone=backbone, seed=4).state_dict()
    other = build_model(backbone=backbone, seed=5).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["net.tower.0.weight"], other["net.tower.0.weight"])


def test_a_stage_starts_alike_whatever_stands_beside_it(schema: Schema) -> None:
    plain = CTRModel(Plan(tower=DEEP, head=HEAD), schema, seed=1)
    more = CTRModel(
        Plan(tower=(Counted(name="new"), *DEEP), head=HEAD).add_logit(Dense(name="x", width=1)),
        schema,
        seed=1,
    )
    assert torch.equal(plain.net.tower[0].weight, more.net.tower[1].weight)
    assert torch.equal(plain.net.head[0].weight, more.net.head[0].weight)
    assert torch.equal(plain.embedding.table.weight, more.embedding.table.weight)


def test_stages_hear_of_progress(schema: Schema) -> None:
    plan = Plan(tower=(*DEEP, Counted(name="c")), head=HEAD)
    model = CTRModel(plan, schema, seed=1)
    model.advance(0.25)
    model.advance(0.5)
    assert module_of(model, CountedModule).heard == [0.25, 0.5]


def test_nested_stages_hear_of_progress(schema: Schema) -> None:
    class Wrapper(StageModule):
        def __init__(self, stages: tuple[Stage, ...], num_inputs: int, build: Build) -> None:
            super().__init__()
            self.inner = Chain(stages, num_inputs, build)
            self.num_outputs = self.inner.num_outputs

        def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
            return self.inner(x_BN, context)  # type: ignore[no-any-return]

    @dataclass(frozen=True, kw_only=True)
    class Wrapped(Stage):
        stages: tuple[Stage, ...]

        def build(self, num_inputs: int, build: Build) -> StageModule:
            return Wrapper(self.stages, num_inputs, build)

    plan = Plan(tower=(*DEEP, Counted(name="c")), head=HEAD)
    plan = plan.wrap_tower(lambda tower: Wrapped(name="w", stages=tower))
    model = CTRModel(plan, schema, seed=1)
    model.advance(1.0)
    assert module_of(model, CountedModule).heard == [1.0]


def test_e_d_is_the_embeddings_of_the_domain_features(build_model: Builder, data: SplitData) -> None:
    context = build_model().context(data.slice(0, 9))
    assert torch.equal(context.domain_BE, context.z_BN[:, :8])


def test_domain_tables_give_the_rows_present_in_order(build_model: Builder, data: SplitData) -> None:
    table = domain_table(6, torch.zeros(2))
    table.weight.data += torch.arange(7.0)[:, None]
    context = build_model().context(data.take(torch.argsort(data.indicator_B, descending=True)[:30]))
    rows = context.read(table)
    assert rows[:, 0].tolist() == context.routing.present_G.tolist()
    assert torch.equal(rows[context.routing.index_B][:, 0], context.indicator_B.float())


def test_domain_tables_start_alike_with_a_row_for_the_unseen() -> None:
    table = domain_table(3, torch.tensor([1.0, 2.0]))
    assert table.weight.tolist() == [[1.0, 2.0]] * 4
    assert table.rule == "domain"


def test_part_of_a_context_is_the_context_of_those_rows(build_model: Builder, data: SplitData) -> None:
    model = build_model()
    whole = model.context(data.slice(0, 20))
    part = whole.part(slice(5, 12))
    alone = model.context(data.slice(5, 12))
    assert torch.equal(part.z_BN, alone.z_BN)
    assert torch.equal(part.routing.present_G, alone.routing.present_G)
    part.penalties.append(torch.zeros(()))
    assert whole.penalties == []


def test_a_detached_context_passes_no_gradient_to_embeddings(build_model: Builder, data: SplitData) -> None:
    model = build_model()
    torch.autograd.backward(model.net(model.context(data.slice(0, 20)).detached()).sum())
    assert model.embedding.table.weight.grad is None
    assert model.net.head[0].weight.grad is not None


def test_parameters_are_counted_by_kind(build_model: Builder, schema: Schema) -> None:
    embedding = (7 + 4 + 41 + 11) * 4
    dense = (NUM_INPUTS * 8 + 8) + (8 * 4 + 4) + (4 + 1)
    assert build_model().num_parameters() == {"embedding": embedding, "dense": dense, "per_domain": 0}

    class Own(StageModule):
        def __init__(self, num_inputs: int) -> None:
            super().__init__()
            self.num_outputs = num_inputs
            self.table = domain_table(schema.num_indicators, torch.zeros(num_inputs))

        def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
            return x_BN

    @dataclass(frozen=True, kw_only=True)
    class OwnStage(Stage):
        def build(self, num_inputs: int, build: Build) -> StageModule:
            return Own(num_inputs)

    plan = select("backbones", "dnn[hidden=8-4]").value.plan().with_input(OwnStage(name="own"))  # type: ignore[union-attr]
    assert CTRModel(plan, schema, seed=1).num_parameters() == {
        "embedding": embedding,
        "dense": dense,
        "per_domain": 7 * NUM_INPUTS,
    }


def test_base_rate_is_the_logit_at_zero_embeddings(schema: Schema) -> None:
    rare = replace(schema, base_rate=0.013)
    model = CTRModel(Plan(tower=DEEP, head=HEAD), rare, seed=1)
    assert model.net.head[0].bias.item() == pytest.approx(math.log(0.013 / 0.987))


HIDING = replace(Plan(tower=DEEP, head=HEAD), hides_domain=True)


def test_what_is_hidden_is_not_counted(schema: Schema) -> None:
    counts = CTRModel(HIDING, schema, seed=1).num_parameters()
    assert counts == {"embedding": (41 + 11) * 4, "dense": (9 * 8 + 8) + (8 + 1), "per_domain": 0}


def test_a_model_that_sees_no_domain_scores_all_domains_alike(schema: Schema, data: SplitData) -> None:
    model, batch = CTRModel(HIDING, schema, seed=1), data.slice(0, 40)
    ids_BF = batch.ids_BF.clone()
    ids_BF[:, :2] = 1
    other = replace(batch, ids_BF=ids_BF, domain_B=torch.ones(40), indicator_B=torch.ones(40))  # type: ignore[arg-type]
    assert torch.equal(model(other), model(batch))
    shown = CTRModel(replace(HIDING, hides_domain=False), schema, seed=1)
    assert not torch.equal(shown(other), shown(batch))


def test_e_d_of_hidden_features_is_refused(schema: Schema, data: SplitData) -> None:
    model = CTRModel(HIDING, schema, seed=1)
    with pytest.raises(SettingError, match="does not see: city, age"):
        _ = model.context(data.slice(0, 4)).domain_BE
    with pytest.raises(SettingError, match="does not see: city, age"):
        CTRModel(HIDING.add_logit(Auxiliary(name="aux", sees="domain")), schema, seed=1)


def test_nothing_left_to_see_is_refused(schema: Schema) -> None:
    domain_only = replace(schema, fields=(schema.fields[0], schema.fields[3]))
    with pytest.raises(SettingError, match="all fields are domain features: city, age"):
        CTRModel(HIDING, domain_only, seed=1)


def test_the_largest_indicator_is_one_that_was_seen(schema: Schema) -> None:
    assert replace(schema, indicator_rows=(500, 3, 9, 2)).largest_indicator == 2


def test_part_by_row_numbers_is_the_context_of_those_rows(schema: Schema, data: SplitData) -> None:
    model = CTRModel(replace(HIDING, hides_domain=False, first_order=True), schema, seed=1)
    rows = torch.tensor([9, 2, 17])
    part, alone = model.context(data.slice(0, 20)).part(rows), model.context(data.take(rows))
    for name in ("z_BN", "domain_B", "indicator_B", "first_order_BF"):
        assert torch.equal(getattr(part, name), getattr(alone, name))
