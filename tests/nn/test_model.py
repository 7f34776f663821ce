from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from ctrbench.data.batches import SplitData
from ctrbench.errors import SettingError
from ctrbench.nn.auxiliary import Auxiliary
from ctrbench.nn.build import Build
from ctrbench.nn.context import Context
from ctrbench.nn.interactions import Cross
from ctrbench.nn.model import CTRModel
from ctrbench.nn.plan import Plan
from ctrbench.nn.pooling import Pooling
from ctrbench.nn.schema import Schema
from ctrbench.nn.stages import Chain, Dense, Stage, StageModule, domain_table
from ctrbench.plugins.registry import select

Builder = Callable[..., CTRModel]
BACKBONES = ("dnn[hidden=8-4]", "dcnv2[hidden=8-4]", "dcnv2[hidden=8-4,structure=stacked]")
NUM_INPUTS = 17


@dataclass(frozen=True, kw_only=True)
class Counted(Stage):
    """Records the calls of `advance` and its inputs."""

    def build(self, num_inputs: int, build: Build) -> StageModule:
        return CountedModule(num_inputs)


class CountedModule(StageModule):
    def __init__(self, num_inputs: int) -> None:
        super().__init__()
        self.num_outputs = num_inputs
        self.progress: list[float] = []
        self.inputs: list[torch.Tensor] = []

    def forward(self, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
        self.inputs.append(x_BN)
        return x_BN

    def advance(self, progress: float) -> None:
        self.progress.append(progress)


DEEP = (Dense(name="t0", width=8, activation="tanh"),)
HEAD = (Dense(name="head", width=1),)
CROSS = Cross(name="cross", layers=2)


def module_of(model: CTRModel, kind: type[nn.Module]) -> nn.Module:
    (actual,) = (module for module in model.modules() if type(module) is kind)
    return actual


@pytest.mark.parametrize("backbone", BACKBONES)
def test_there_is_one_logit_per_row(build_model: Builder, data: SplitData, backbone: str) -> None:
    assert build_model(backbone=backbone)(data.slice(0, 11)).shape == (11,)


def test_parallel_interactions_join_the_tower_before_the_head(schema: Schema, data: SplitData) -> None:
    plan = Plan(tower=DEEP, head=HEAD, interactions=(CROSS,), join="parallel")
    net, batch = CTRModel(plan, schema, seed=1).net, data.slice(0, 5)
    assert net.tower[0].weight.shape == (NUM_INPUTS, 8)
    assert net.head[0].weight.shape == (NUM_INPUTS + 8, 1)
    context = CTRModel(plan, schema, seed=1).context(batch)
    joined = torch.cat([net.interactions[0](context.z_BN, context), net.tower(context.z_BN, context)], 1)
    assert torch.equal(net(context), net.head(joined, context)[:, 0])


def test_stacked_interactions_are_inputs_of_the_tower(schema: Schema, data: SplitData) -> None:
    plan = Plan(tower=DEEP, head=HEAD, interactions=(CROSS, replace(CROSS, name="two")), join="stacked")
    model = CTRModel(plan, schema, seed=1)
    assert model.net.tower[0].weight.shape == (2 * NUM_INPUTS, 8)
    assert model.net.head[0].weight.shape == (8, 1)
    context = model.context(data.slice(0, 5))
    crossed = torch.cat([stage(context.z_BN, context) for stage in model.net.interactions], 1)
    expected = model.net.head(model.net.tower(crossed, context), context)[:, 0]
    assert torch.equal(model.net(context), expected)


def test_stacked_without_interactions_equals_parallel(schema: Schema, data: SplitData) -> None:
    stacked, parallel = (
        CTRModel(Plan(tower=DEEP, head=HEAD, join=join), schema, seed=1) for join in ("stacked", "parallel")
    )
    assert torch.equal(stacked(data.slice(0, 5)), parallel(data.slice(0, 5)))


def test_stages_at_the_input_reach_tower_and_interactions_but_not_logits(
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
        assert torch.equal(module.inputs[0], 2.0 * context.z_BN)  # type: ignore[union-attr]
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


def test_a_head_that_ends_without_a_bias_starts_from_zero_biases(schema: Schema) -> None:
    model = CTRModel(Plan(tower=DEEP, head=(Dense(name="h", width=1), Counted(name="c"))), schema, seed=1)
    assert model.net.head[0].bias.tolist() == [0.0]


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


def test_a_stage_starts_from_the_same_weights_in_every_plan(schema: Schema) -> None:
    plain = CTRModel(Plan(tower=DEEP, head=HEAD), schema, seed=1)
    more = CTRModel(
        Plan(tower=(Counted(name="new"), *DEEP), head=HEAD).add_logit(Dense(name="x", width=1)),
        schema,
        seed=1,
    )
    assert torch.equal(plain.net.tower[0].weight, more.net.tower[1].weight)
    assert torch.equal(plain.net.head[0].weight, more.net.head[0].weight)
    assert torch.equal(plain.embedding.table.weight, more.embedding.table.weight)


def test_advance_reaches_stages(schema: Schema) -> None:
    plan = Plan(tower=(*DEEP, Counted(name="c")), head=HEAD)
    model = CTRModel(plan, schema, seed=1)
    model.advance(0.25)
    model.advance(0.5)
    assert module_of(model, CountedModule).progress == [0.25, 0.5]


def test_advance_reaches_nested_stages(schema: Schema) -> None:
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
    assert module_of(model, CountedModule).progress == [1.0]


def test_parameters_are_counted_by_owner(build_model: Builder, schema: Schema) -> None:
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

    plan = select("backbones", "dnn[hidden=8-4]").value.plan().with_input(OwnStage(name="own"))
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


def test_hidden_fields_have_no_parameters(schema: Schema) -> None:
    counts = CTRModel(HIDING, schema, seed=1).num_parameters()
    assert counts == {"embedding": (41 + 11) * 4, "dense": (9 * 8 + 8) + (8 + 1), "per_domain": 0}


def test_without_domain_features_scores_do_not_depend_on_the_domain(schema: Schema, data: SplitData) -> None:
    model, batch = CTRModel(HIDING, schema, seed=1), data.slice(0, 40)
    ids_BF = batch.ids_BF.clone()
    ids_BF[:, :2] = 1
    other = replace(batch, ids_BF=ids_BF, domain_B=torch.ones(40), indicator_B=torch.ones(40))
    assert torch.equal(model(other), model(batch))
    shown = CTRModel(replace(HIDING, hides_domain=False), schema, seed=1)
    assert not torch.equal(shown(other), shown(batch))


def test_e_d_of_hidden_features_is_refused(schema: Schema, data: SplitData) -> None:
    model = CTRModel(HIDING, schema, seed=1)
    with pytest.raises(SettingError, match="hidden from this model: city, age"):
        _ = model.context(data.slice(0, 4)).domain_BE
    with pytest.raises(SettingError, match="hidden from this model: city, age"):
        CTRModel(HIDING.add_logit(Auxiliary(name="aux", sees="domain")), schema, seed=1)


def test_hiding_all_fields_is_refused(schema: Schema) -> None:
    domain_only = replace(schema, fields=(schema.fields[0], schema.fields[3]))
    with pytest.raises(SettingError, match="all fields are domain features: city, age"):
        CTRModel(HIDING, domain_only, seed=1)


def test_a_pooling_needs_a_sequence_with_a_target(history_schema: Schema) -> None:
    plain = replace(
        history_schema, fields=tuple(replace(field, target=None) for field in history_schema.fields)
    )
    plan = select("backbones", "dnn[pooling=din]").value.full_plan()  # type: ignore[union-attr]
    with pytest.raises(SettingError, match="pooling=din must have a sequence with a target"):
        CTRModel(plan, plain, seed=1)
    CTRModel(replace(plan, pooling=Pooling()), plain, seed=1)


def test_a_sequence_whose_target_is_hidden_counts_as_one_without(history_schema: Schema) -> None:
    hidden = replace(history_schema, hidden=("user",))
    assert hidden.targets == {}
    assert [field.name for field in hidden.table_fields] == ["city", "age", "tags", "history"]
    plan = select("backbones", "dnn[pooling=dien]").value.full_plan()  # type: ignore[union-attr]
    with pytest.raises(SettingError, match="a field that the model uses"):
        CTRModel(plan, hidden, seed=1)
