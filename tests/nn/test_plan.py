from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, replace

import pytest
import torch

from ctrbench.nn.plan import Build, Dense, Plan, Schema, Stage, StageModule, activate, start_weight
from ctrbench.nn.stages import Cross


@dataclass(frozen=True, kw_only=True)
class Gate(Stage):
    """A stage of no consequence."""

    def build(self, num_inputs: int, build: Build) -> StageModule:
        raise AssertionError


@dataclass(frozen=True, kw_only=True)
class Inner(Gate):
    """A stage that holds others."""

    stages: tuple[Stage, ...]


FIRST, SECOND = Dense(name="t0", width=8, activation="tanh"), Dense(name="t1", width=4, activation="tanh")
HEAD = Dense(name="head", width=1)
PLAN = Plan(tower=(FIRST, SECOND), head=(HEAD,), interactions=(Cross(name="cross", layers=1),))


def gate(dense: Dense) -> Gate:
    return Gate(name=f"{dense.name}.gate")


def names(stages: tuple[Stage, ...]) -> list[str]:
    return [stage.name for stage in stages]


def test_map_dense_replaces_tower_and_head() -> None:
    plan = PLAN.map_dense(gate)
    assert plan == replace(PLAN, tower=(gate(FIRST), gate(SECOND)), head=(gate(HEAD),))


def test_map_dense_can_spare_the_head() -> None:
    assert PLAN.map_dense(gate, head=False).head == (HEAD,)


def test_before_dense() -> None:
    plan = PLAN.before_dense(gate)
    assert names(plan.tower) == ["t0.gate", "t0", "t1.gate", "t1"]
    assert names(plan.head) == ["head.gate", "head"]


def test_after_dense_spares_the_head_unless_told() -> None:
    assert names(PLAN.after_dense(gate).tower) == ["t0", "t0.gate", "t1", "t1.gate"]
    assert PLAN.after_dense(gate).head == (HEAD,)
    assert names(PLAN.after_dense(gate, head=True).head) == ["head", "head.gate"]


def test_edits_of_dense_stages_leave_other_stages_alone() -> None:
    plan = PLAN.before_dense(gate).map_dense(lambda dense: replace(dense, width=3))
    assert plan.tower[0] == gate(FIRST)
    assert plan.interactions == PLAN.interactions


def test_subclasses_of_dense_are_dense_stages() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Star(Dense):
        """Another dense stage."""

    plan = PLAN.map_dense(lambda dense: Star(name=dense.name, width=dense.width))
    assert names(plan.before_dense(gate).tower) == ["t0.gate", "t0", "t1.gate", "t1"]


def test_with_input_appends() -> None:
    plan = PLAN.with_input(Gate(name="a")).with_input(Gate(name="b"))
    assert names(plan.at_input) == ["a", "b"]


def test_before_tower_stands_first() -> None:
    assert names(PLAN.before_tower(Gate(name="norm")).tower) == ["norm", "t0", "t1"]


def test_wrap_tower_makes_one_stage_of_it() -> None:
    plan = PLAN.wrap_tower(lambda tower: Inner(name="experts", stages=tower))
    assert plan.tower == (Inner(name="experts", stages=(FIRST, SECOND)),)


def test_with_head_replaces() -> None:
    assert names(PLAN.with_head(Gate(name="a"), Gate(name="b")).head) == ["a", "b"]


def test_add_logit_appends() -> None:
    assert names(PLAN.add_logit(Gate(name="a")).add_logit(Gate(name="b")).logits) == ["a", "b"]


def test_edits_compose_in_the_order_of_call() -> None:
    plan = PLAN.before_dense(gate).map_dense(lambda dense: Gate(name=dense.name.upper()))
    assert names(plan.tower) == ["t0.gate", "T0", "t1.gate", "T1"]
    plan = PLAN.map_dense(lambda dense: Gate(name=dense.name.upper())).before_dense(gate)
    assert names(plan.tower) == ["T0", "T1"]


def test_edits_make_new_plans() -> None:
    kept = replace(PLAN)
    for edited in (PLAN.map_dense(gate), PLAN.with_head(), PLAN.add_logit(HEAD), PLAN.before_tower(HEAD)):
        assert edited != PLAN
    assert kept == PLAN


def test_plans_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        PLAN.join = "stacked"  # type: ignore[misc]


def test_random_starts_hang_on_seed_and_label_alone(schema: Schema) -> None:
    def draw(seed: int, label: str) -> list[float]:
        return torch.rand(3, generator=Build(schema=schema, seed=seed).generator(label)).tolist()

    assert draw(1, "a") == draw(1, "a")
    assert draw(1, "a") != draw(1, "b")
    assert draw(1, "a") != draw(2, "a")


def test_activations() -> None:
    x = torch.tensor([-1.0, 2.0])
    assert activate(x, None) is x
    assert activate(x, "relu").tolist() == [0.0, 2.0]
    assert torch.equal(activate(x, "tanh"), torch.tanh(x))


@pytest.mark.parametrize(("activation", "bound"), [("relu", (6 / 300) ** 0.5), ("tanh", (6 / 500) ** 0.5)])
def test_weights_start_within_their_bound(activation: str, bound: float) -> None:
    weight = start_weight(300, 200, activation, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    assert weight.shape == (300, 200)
    assert bound * 0.999 < float(weight.abs().max()) <= bound


def test_dense_is_the_activated_affine_map(schema: Schema) -> None:
    module = FIRST.build(5, Build(schema=schema, seed=1))
    torch.nn.init.normal_(module.bias, generator=torch.Generator().manual_seed(1))  # type: ignore[arg-type]
    x_BN = torch.randn(3, 5, generator=torch.Generator().manual_seed(2))
    expected = torch.tanh(x_BN @ module.weight + module.bias)  # type: ignore[operator]
    torch.testing.assert_close(module(x_BN, None), expected)


def test_bucketed_numbers_are_ids_and_plain_ones_are_not(schema: Schema) -> None:
    price = schema.fields[1]
    assert schema.numeric_fields == (price,)
    bucketed = replace(schema, fields=(replace(price, size=9),))
    assert bucketed.numeric_fields == ()
    assert bucketed.num_inputs == schema.embedding_size


@pytest.mark.parametrize(
    ("tower", "is_dense"), [((FIRST, SECOND), True), ((), False), ((FIRST, Gate(name="gate")), False)]
)
def test_a_dense_tower_is_dense_stages_and_nothing_else(tower: tuple[Stage, ...], is_dense: bool) -> None:
    assert replace(PLAN, tower=tower).has_dense_tower == is_dense
