from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, replace

import pytest

from ctrbench.nn.build import Build
from ctrbench.nn.interactions import Cross
from ctrbench.nn.plan import Plan
from ctrbench.nn.stages import Dense, Stage, StageModule


@dataclass(frozen=True, kw_only=True)
class Gate(Stage):
    """A stage that is never built."""

    def build(self, num_inputs: int, build: Build) -> StageModule:
        raise AssertionError


@dataclass(frozen=True, kw_only=True)
class Inner(Gate):
    """A stage that contains others."""

    stages: tuple[Stage, ...]


FIRST, SECOND = Dense(name="t0", width=8, activation="tanh"), Dense(name="t1", width=4, activation="tanh")
HEAD = Dense(name="head", width=1)
PLAN = Plan(tower=(FIRST, SECOND), head=(HEAD,), interactions=(Cross(name="cross", layers=1),))


def gate(dense: Dense) -> Gate:
    return Gate(name=f"{dense.name}.gate")


def names(stages: tuple[Stage, ...]) -> list[str]:
    return [stage.name for stage in stages]


def test_map_dense_replaces_dense_stages_of_tower_and_head() -> None:
    plan = PLAN.map_dense(gate)
    assert plan == replace(PLAN, tower=(gate(FIRST), gate(SECOND)), head=(gate(HEAD),))


def test_map_dense_can_leave_the_head() -> None:
    assert PLAN.map_dense(gate, head=False).head == (HEAD,)


def test_before_dense_adds_a_stage_at_each_input() -> None:
    plan = PLAN.before_dense(gate)
    assert names(plan.tower) == ["t0.gate", "t0", "t1.gate", "t1"]
    assert names(plan.head) == ["head.gate", "head"]


def test_after_dense_leaves_the_head_by_default() -> None:
    assert names(PLAN.after_dense(gate).tower) == ["t0", "t0.gate", "t1", "t1.gate"]
    assert PLAN.after_dense(gate).head == (HEAD,)
    assert names(PLAN.after_dense(gate, head=True).head) == ["head", "head.gate"]


def test_edits_of_dense_stages_do_not_change_other_stages() -> None:
    plan = PLAN.before_dense(gate).map_dense(lambda dense: replace(dense, width=3))
    assert plan.tower[0] == gate(FIRST)
    assert plan.interactions == PLAN.interactions


def test_subclasses_of_dense_are_dense_stages() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Star(Dense):
        """Another dense stage."""

    plan = PLAN.map_dense(lambda dense: Star(name=dense.name, width=dense.width))
    assert names(plan.before_dense(gate).tower) == ["t0.gate", "t0", "t1.gate", "t1"]


@dataclass(frozen=True, kw_only=True)
class Residual(Gate):
    """A stage that is no subclass of `Dense` and stands for a dense layer."""

    def as_dense(self) -> Dense:
        return Dense(name=self.name, width=5)


def test_a_stage_that_declares_a_dense_layer_takes_part_in_edits() -> None:
    stage = Residual(name="r")
    plan = Plan(tower=(Gate(name="g"), stage), head=(HEAD,))
    assert plan.before_dense(gate).tower == (plan.tower[0], gate(stage.as_dense()), stage)
    assert plan.after_dense(gate).tower == (*plan.tower, gate(stage.as_dense()))
    assert plan.map_dense(lambda dense: replace(dense, width=3)).tower[1] == Dense(name="r", width=3)
    assert replace(plan, tower=(stage,)).has_dense_tower


@pytest.mark.parametrize(("stages", "has_dense"), [((HEAD,), True), ((Gate(name="gate"),), False)])
def test_a_plan_has_dense_stages_in_tower_or_head(stages: tuple[Stage, ...], has_dense: bool) -> None:
    assert Plan(tower=stages, head=()).has_dense is has_dense
    assert Plan(tower=(), head=stages).has_dense is has_dense


def test_with_input_appends() -> None:
    plan = PLAN.with_input(Gate(name="a")).with_input(Gate(name="b"))
    assert names(plan.at_input) == ["a", "b"]


def test_before_tower_adds_the_first_stage() -> None:
    assert names(PLAN.before_tower(Gate(name="norm")).tower) == ["norm", "t0", "t1"]


def test_wrap_tower_replaces_it_by_one_stage() -> None:
    plan = PLAN.wrap_tower(lambda tower: Inner(name="experts", stages=tower))
    assert plan.tower == (Inner(name="experts", stages=(FIRST, SECOND)),)


def test_with_head_replaces_the_output_stages() -> None:
    assert names(PLAN.with_head(Gate(name="a"), Gate(name="b")).head) == ["a", "b"]


def test_add_logit_appends() -> None:
    assert names(PLAN.add_logit(Gate(name="a")).add_logit(Gate(name="b")).logits) == ["a", "b"]


def test_edits_compose_in_the_order_of_call() -> None:
    plan = PLAN.before_dense(gate).map_dense(lambda dense: Gate(name=dense.name.upper()))
    assert names(plan.tower) == ["t0.gate", "T0", "t1.gate", "T1"]
    plan = PLAN.map_dense(lambda dense: Gate(name=dense.name.upper())).before_dense(gate)
    assert names(plan.tower) == ["T0", "T1"]


def test_edits_return_new_plans() -> None:
    kept = replace(PLAN)
    for edited in (PLAN.map_dense(gate), PLAN.with_head(), PLAN.add_logit(HEAD), PLAN.before_tower(HEAD)):
        assert edited != PLAN
    assert kept == PLAN


def test_plans_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        PLAN.join = "stacked"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("tower", "is_dense"), [((FIRST, SECOND), True), ((), False), ((FIRST, Gate(name="gate")), False)]
)
def test_a_dense_tower_has_only_dense_stages(tower: tuple[Stage, ...], is_dense: bool) -> None:
    assert replace(PLAN, tower=tower).has_dense_tower == is_dense


@dataclass(frozen=True, kw_only=True)
class Parted(Gate):
    """A stage that cuts the tower's output into equal parts."""

    parts: int

    @property
    def num_parts(self) -> int:
        return self.parts


def test_output_heads_are_the_least_common_multiple_of_parts() -> None:
    assert PLAN.output_heads == 1
    assert PLAN.with_head(Parted(name="a", parts=4), Parted(name="b", parts=6), HEAD).output_heads == 12
