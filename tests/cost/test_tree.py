from __future__ import annotations

import resource
from dataclasses import replace

import pytest
import torch

from ctrbench.cost.model import mixed_batch
from ctrbench.cost.parameters import Cost
from ctrbench.cost.products import counted_flops
from ctrbench.cost.tree import Part, plan_cost, total_cost
from ctrbench.extend import Estimator, Plan
from ctrbench.nn.model import CTRModel
from ctrbench.nn.schema import FieldShape, Schema
from ctrbench.plugins.registry import plugins, select, selectors

HIDDEN = "hidden=512-256-128"
BACKBONE = 320 * 512 + 512 * 256 + 256 * 128 + 128
"""spec: adasparse-1.5: 327,808."""


def wide(num_indicators: int = 6) -> Schema:
    """The input of spec: adasparse-1.5: 320 numbers, of which e_d are 48."""
    return Schema(
        fields=tuple(FieldShape(name=f"f{i}", kind="categorical", role="user", size=11) for i in range(20)),
        embedding_size=16,
        domain_features=("f0", "f1", "f2"),
        num_domains=50,
        indicator_rows=(0, *range(num_indicators, 0, -1)),
        base_rate=0.3,
    )


def plan_of(method: str, backbone: str = f"dnn[{HIDDEN}]") -> Plan:
    rewriter, base = select("methods", method).value, select("backbones", backbone).value
    return rewriter.apply(base.plan())


def cost_of(method: str, backbone: str = f"dnn[{HIDDEN}]", schema: Schema | None = None) -> Cost:
    return total_cost(plan_of(method, backbone), schema or wide())


def test_the_backbone_of_the_specification() -> None:
    assert BACKBONE == 327_808
    assert cost_of("plain") == Cost(
        embedding=20 * 11 * 16, shared=BACKBONE + 512 + 256 + 128 + 1, per_domain=0, row=327_808, once=0
    )


def test_the_pruner_of_the_specification() -> None:
    cost = cost_of("adasparse")
    assert cost.row - BACKBONE == sum(n * (n + 48) for n in (320, 512, 256, 128)) == 504_832
    own = sum(n * (n + 48 + 1) for n in (320, 512, 256, 128))
    assert cost.shared - cost_of("plain").shared == own


def test_a_pruner_of_the_domain_alone() -> None:
    """Scoring computes its factors for each row."""
    cost = cost_of("adasparse[pruner_input=domain]")
    assert cost.row - BACKBONE == 48 * (320 + 512 + 256 + 128) == 58_368


def test_dcnv2_by_hand() -> None:
    cost = cost_of("plain", f"dcnv2[{HIDDEN}]")
    assert cost.row == 3 * 320 * 320 + (BACKBONE - 128) + (320 + 128)


def test_star_by_hand() -> None:
    """spec: star-2.6: 328,705 parameters per domain; a row is multiplied by one matrix, as in the backbone."""
    bare = cost_of("star[norm=none,aux=none]")
    assert (bare.row, bare.once, bare.per_domain) == (BACKBONE, 0, 328_705 * 7)
    full = cost_of("star")
    assert full.row == BACKBONE + 320 * 32 + 32
    assert full.once == 16 * 32
    assert full.per_domain == bare.per_domain + 7 * (2 * 320 + 16)


def test_thousands_of_domains_take_neither_multiply_adds_per_row_nor_memory_to_count() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cost = cost_of("star", schema=wide(5_000))
    assert (cost.row, cost.once) == (cost_of("star").row, cost_of("star").once)
    assert cost.per_domain == 5_001 * (328_705 + 2 * 320 + 16)
    # In kB: the weights counted are 6.6 GB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


def test_experts_by_hand() -> None:
    """Each row runs through every expert, and through the gate of its domain."""
    cost = cost_of("mmoe[experts=4]")
    assert cost.row == 4 * (BACKBONE - 128) + 4 * 320 + 128


def test_a_batch_of_many_domains_includes_padding_and_the_work_per_domain() -> None:
    schema = wide()
    cost = plan_cost(plan_of("star[norm=none,aux=none]"), schema, batch_rows=64)
    assert cost.batch_domains == len(set(mixed_batch(schema, 64).indicator_B.tolist())) > 1
    assert 64 * BACKBONE <= cost.batch < 128 * BACKBONE
    assert plan_cost(plan_of("plain"), schema, batch_rows=64).batch == 64 * BACKBONE


def by_name(parts: tuple[Part, ...]) -> dict[str, Part]:
    return {part.name: part for part in parts}


def test_a_tree_has_shapes_kinds_and_costs() -> None:
    cost = plan_cost(plan_of("star"), wide())
    sections = by_name(cost.sections)
    assert list(sections) == ["embeddings", "tower", "head", "logits"]
    tower = by_name(sections["tower"].parts)
    assert list(tower) == ["star_pn", "tower0", "tower1", "tower2"]
    first = tower["tower0"]
    assert (first.kind, first.num_inputs, first.num_outputs) == ("StarDense", 320, 512)
    assert first.cost == Cost(shared=320 * 512 + 512, per_domain=7 * (320 * 512 + 512), row=320 * 512)
    assert (sections["embeddings"].num_outputs, sections["embeddings"].cost.embedding) == (320, 20 * 11 * 16)


def test_parts_within_a_stage_are_shown() -> None:
    (mixture,) = by_name(plan_cost(plan_of("mmoe[experts=4]"), wide()).sections)["tower"].parts
    (experts,) = mixture.parts
    assert [part.kind for part in experts.parts] == ["DenseBank"] * 3
    assert sum(part.cost.row for part in experts.parts) == experts.cost.row == 4 * (BACKBONE - 128)


def test_separate_networks_are_counted_once_per_domain() -> None:
    cost = plan_cost(plan_of("separate"), wide())
    plain = cost_of("plain")
    assert cost.cost == Cost(embedding=6 * plain.embedding, per_domain=6 * plain.shared, row=plain.row)
    assert sum((section.cost for section in cost.sections), Cost()) == cost.cost


def with_sequences(schema: Schema) -> Schema:
    """The same fields and two sequences, with targets f5 and f7, whose embeddings they share."""
    made = (
        FieldShape(name=f"past_f{index}", kind="sequence", role="user", size=11, target=f"f{index}")
        for index in (5, 7)
    )
    return replace(schema, fields=(*schema.fields, *made))


DIN_ROW, DIN_ELEMENT = 16 * 80, 2 * 16 * 80 + 80 * 40 + 40
"""Products of the target, once, and of each element: spec: pooling-6.1, with [e_j ; e_t ; e_j - e_t ; e_j * e_t]."""
DIN = (64 * 80 + 80) + (80 * 40 + 40) + (40 + 1) + (80 + 40) + 16
"""Three layers, the slopes, and the vector of an empty list."""
DIEN_ROW, DIEN_ELEMENT = 16 * 16, 2 * 6 * 16 * 16
"""W e_t; and two recurrences of three gates, each of input and state."""
DIEN = 2 * (6 * 16 * 16 + 3 * 16) + 16 * 16 + 16
LENGTHS = {"past_f5": 9, "past_f7": 4}


def pooled(kind: str, method: str = "plain") -> Plan:
    rewriter, base = select("methods", method).value, select("backbones", f"dnn[pooling={kind}]").value
    return rewriter.apply(base.full_plan())


@pytest.mark.parametrize(
    ("kind", "of_row", "of_element", "parameters"),
    [("din", DIN_ROW, DIN_ELEMENT, DIN), ("dien", DIEN_ROW, DIEN_ELEMENT, DIEN)],
)
def test_each_pooling_is_a_part(kind: str, of_row: int, of_element: int, parameters: int) -> None:
    cost = plan_cost(pooled(kind), with_sequences(wide()), lengths=LENGTHS)
    ids, *poolings = by_name(cost.sections)["embeddings"].parts
    assert ids.cost == Cost(embedding=20 * 11 * 16)
    assert [part.name for part in poolings] == ["pooling of past_f5", "pooling of past_f7"]
    for part, length in zip(poolings, (9, 4), strict=True):
        assert part.cost == Cost(shared=parameters, row=of_row + length * of_element)
    assert cost.cost == sum((section.cost for section in cost.sections), Cost())


def test_separate_poolings_are_counted_once_per_domain() -> None:
    cost = plan_cost(pooled("din", "separate"), with_sequences(wide()), lengths=LENGTHS)
    (_, first, second) = by_name(cost.sections)["embeddings"].parts
    assert first.cost == Cost(per_domain=6 * DIN, row=DIN_ROW + 9 * DIN_ELEMENT)
    assert second.cost == Cost(per_domain=6 * DIN, row=DIN_ROW + 4 * DIN_ELEMENT)
    assert cost.cost == sum((section.cost for section in cost.sections), Cost())


def test_lists_without_a_length_have_one_element() -> None:
    cost = total_cost(pooled("din"), with_sequences(wide()))
    assert cost.row - total_cost(pooled("mean"), with_sequences(wide())).row == 2 * (DIN_ROW + DIN_ELEMENT)


NEURAL = [
    name
    for name, plugin in plugins("methods").items()
    if plugin.is_builtin and not issubclass(plugin.load(), Estimator)
]


@pytest.mark.parametrize("backbone", selectors("backbones", "all"))
@pytest.mark.parametrize("method", NEURAL)
def test_the_tree_adds_up_to_the_real_model(method: str, backbone: str, schema: Schema) -> None:
    schema = replace(schema, embedding_size=8)
    if select("methods", method).value.supports(select("backbones", backbone).value.plan()):
        pytest.skip("not supported")
    plan = plan_of(method, backbone)
    cost, model = plan_cost(plan, schema, batch_rows=64), CTRModel(plan, schema, seed=1).eval()
    counts = model.num_parameters()
    assert cost.cost == sum((section.cost for section in cost.sections), Cost())
    assert (cost.cost.embedding, cost.cost.shared, cost.cost.per_domain) == tuple(counts.values())
    with torch.no_grad(), counted_flops() as counter:
        model(mixed_batch(schema, 64))
    assert 2 * cost.batch == counter.get_total_flops()
