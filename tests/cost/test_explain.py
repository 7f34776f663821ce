from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ctrbench.cost.explain import Cost, Part, _mixed, account, explain, pairs, sequence_lengths, total
from ctrbench.data.card import DatasetCard
from ctrbench.data.prepare import prepare
from ctrbench.data.shards import Prepared
from ctrbench.errors import SettingError
from ctrbench.extend import Estimator, Plan
from ctrbench.names import Split
from ctrbench.nn.model import CTRModel
from ctrbench.nn.plan import FieldShape, Schema
from ctrbench.plugins.registry import plugins, select, selectors
from ctrbench.runs.grid import Run, make_config, make_grid
from ctrbench.runs.inputs import load, make_schema
from ctrbench.speed.bounds import counted_flops

HIDDEN = "hidden=512-256-128"
BACKBONE = 320 * 512 + 512 * 256 + 256 * 128 + 128
"""METHODS 1.5: 327,808."""


def wide(num_indicators: int = 6) -> Schema:
    """The input of METHODS 1.5: 320 numbers, of which e_d are 48."""
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
    return rewriter.apply(base.plan())  # type: ignore[union-attr]


def cost_of(method: str, backbone: str = f"dnn[{HIDDEN}]", schema: Schema | None = None) -> Cost:
    return total(plan_of(method, backbone), schema or wide())


def test_the_backbone_of_the_specification() -> None:
    assert BACKBONE == 327_808
    assert cost_of("plain") == Cost(
        embedding=20 * 11 * 16, shared=BACKBONE + 512 + 256 + 128 + 1, per_domain=0, row=327_808, once=0
    )


def test_the_pruner_of_the_specification() -> None:
    found = cost_of("adasparse")
    assert found.row - BACKBONE == sum(n * (n + 48) for n in (320, 512, 256, 128)) == 504_832
    own = sum(n * (n + 48 + 1) for n in (320, 512, 256, 128))
    assert found.shared - cost_of("plain").shared == own


def test_a_pruner_of_the_domain_alone() -> None:
    """Scoring computes its factors for each row."""
    found = cost_of("adasparse[pruner_input=domain]")
    assert found.row - BACKBONE == 48 * (320 + 512 + 256 + 128) == 58_368


def test_dcnv2_by_hand() -> None:
    found = cost_of("plain", f"dcnv2[{HIDDEN}]")
    assert found.row == 3 * 320 * 320 + (BACKBONE - 128) + (320 + 128)


def test_star_by_hand() -> None:
    """METHODS 2.6: 328,705 parameters a domain; a row meets one matrix, so it costs what the backbone does."""
    bare = cost_of("star[norm=none,aux=none]")
    assert (bare.row, bare.once, bare.per_domain) == (BACKBONE, 0, 328_705 * 7)
    full = cost_of("star")
    assert full.row == BACKBONE + 320 * 32 + 32
    assert full.once == 16 * 32
    assert full.per_domain == bare.per_domain + 7 * (2 * 320 + 16)


def test_thousands_of_domains_cost_a_row_nothing_and_counting_them_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = cost_of("star", schema=wide(5_000))
    assert (found.row, found.once) == (cost_of("star").row, cost_of("star").once)
    assert found.per_domain == 5_001 * (328_705 + 2 * 320 + 16)
    # In kB: the weights counted are 6.6 GB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


def test_experts_by_hand() -> None:
    """Each row runs through every expert; its gate is its own domain's."""
    found = cost_of("mmoe[experts=4]")
    assert found.row == 4 * (BACKBONE - 128) + 4 * 320 + 128


def test_a_batch_of_many_domains_has_its_padding_and_what_is_made_for_each() -> None:
    schema = wide()
    found = account(plan_of("star[norm=none,aux=none]"), schema, batch_rows=64)
    assert found.batch_domains == len(set(_mixed(schema, 64).indicator_B.tolist())) > 1
    assert 64 * BACKBONE <= found.batch < 128 * BACKBONE
    assert account(plan_of("plain"), schema, batch_rows=64).batch == 64 * BACKBONE


def named(parts: tuple[Part, ...]) -> dict[str, Part]:
    return {part.name: part for part in parts}


def test_a_tree_has_shapes_kinds_and_costs() -> None:
    found = account(plan_of("star"), wide())
    places = named(found.places)
    assert list(places) == ["embeddings", "tower", "head", "logits"]
    tower = named(places["tower"].parts)
    assert list(tower) == ["star_pn", "tower0", "tower1", "tower2"]
    first = tower["tower0"]
    assert (first.kind, first.num_inputs, first.num_outputs) == ("StarDense", 320, 512)
    assert first.cost == Cost(shared=320 * 512 + 512, per_domain=7 * (320 * 512 + 512), row=320 * 512)
    assert (places["embeddings"].num_outputs, places["embeddings"].cost.embedding) == (320, 20 * 11 * 16)


def test_parts_within_a_stage_are_shown() -> None:
    (mixture,) = named(account(plan_of("mmoe[experts=4]"), wide()).places)["tower"].parts
    (experts,) = mixture.parts
    assert [part.kind for part in experts.parts] == ["DenseBank"] * 3
    assert sum(part.cost.row for part in experts.parts) == experts.cost.row == 4 * (BACKBONE - 128)


def test_networks_of_the_domains_own_count_as_often_as_there_are_domains() -> None:
    found = account(plan_of("separate"), wide())
    plain = cost_of("plain")
    assert found.cost == Cost(embedding=6 * plain.embedding, per_domain=6 * plain.shared, row=plain.row)
    assert sum((place.cost for place in found.places), Cost()) == found.cost


def historied(schema: Schema) -> Schema:
    """The same with two sequences, of f5 and of f7, whose embeddings they share."""
    made = (
        FieldShape(name=f"past_f{one}", kind="sequence", role="user", size=11, target=f"f{one}")
        for one in (5, 7)
    )
    return replace(schema, fields=(*schema.fields, *made))


DIN_ROW, DIN_ELEMENT = 16 * 80, 2 * 16 * 80 + 80 * 40 + 40
"""What is made of the target, once, and of each element: METHODS 6.1, with [e_j ; e_t ; e_j - e_t ; e_j * e_t]."""
DIN = (64 * 80 + 80) + (80 * 40 + 40) + (40 + 1) + (80 + 40) + 16
"""Three layers, the slopes, and the vector of an empty list."""
DIEN_ROW, DIEN_ELEMENT = 16 * 16, 2 * 6 * 16 * 16
"""W e_t; and two recurrences of three gates, each of input and state."""
DIEN = 2 * (6 * 16 * 16 + 3 * 16) + 16 * 16 + 16
LENGTHS = {"past_f5": 9, "past_f7": 4}


def pooled(kind: str, method: str = "plain") -> Plan:
    rewriter, base = select("methods", method).value, select("backbones", f"dnn[pooling={kind}]").value
    return rewriter.apply(base.full_plan())  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("kind", "of_row", "of_element", "parameters"),
    [("din", DIN_ROW, DIN_ELEMENT, DIN), ("dien", DIEN_ROW, DIEN_ELEMENT, DIEN)],
)
def test_poolings_have_lines_of_their_own(kind: str, of_row: int, of_element: int, parameters: int) -> None:
    found = account(pooled(kind), historied(wide()), lengths=LENGTHS)
    ids, *poolings = named(found.places)["embeddings"].parts
    assert ids.cost == Cost(embedding=20 * 11 * 16)
    assert [part.name for part in poolings] == ["pooling of past_f5", "pooling of past_f7"]
    for part, length in zip(poolings, (9, 4), strict=True):
        assert part.cost == Cost(shared=parameters, row=of_row + length * of_element)
    assert found.cost == sum((place.cost for place in found.places), Cost())


def test_a_domains_own_poolings_count_as_often_as_there_are_domains() -> None:
    found = account(pooled("din", "separate"), historied(wide()), lengths=LENGTHS)
    (_, first, second) = named(found.places)["embeddings"].parts
    assert first.cost == Cost(per_domain=6 * DIN, row=DIN_ROW + 9 * DIN_ELEMENT)
    assert second.cost == Cost(per_domain=6 * DIN, row=DIN_ROW + 4 * DIN_ELEMENT)
    assert found.cost == sum((place.cost for place in found.places), Cost())


def test_lists_have_one_element_where_nothing_is_said_of_them() -> None:
    found = total(pooled("din"), historied(wide()))
    assert found.row - total(pooled("mean"), historied(wide())).row == 2 * (DIN_ROW + DIN_ELEMENT)


NEURAL = [
    name
    for name, plugin in plugins("methods").items()
    if plugin.is_builtin and not issubclass(plugin.load(), Estimator)
]


@pytest.mark.parametrize("backbone", selectors("backbones", "all"))
@pytest.mark.parametrize("method", NEURAL)
def test_the_tree_adds_up_to_what_the_real_model_has_and_does(
    method: str, backbone: str, schema: Schema
) -> None:
    schema = replace(schema, embedding_size=8)
    if select("methods", method).value.supports(select("backbones", backbone).value.plan()):  # type: ignore[union-attr]
        pytest.skip("not supported")
    plan = plan_of(method, backbone)
    found, model = account(plan, schema, batch_rows=64), CTRModel(plan, schema, seed=1).eval()
    counts = model.num_parameters()
    assert found.cost == sum((place.cost for place in found.places), Cost())
    assert (found.cost.embedding, found.cost.shared, found.cost.per_domain) == tuple(counts.values())
    with torch.no_grad(), counted_flops() as counter:
        model(_mixed(schema, 64))
    assert 2 * found.batch == counter.get_total_flops()


def test_counting_does_not_wait_for_the_compiler() -> None:
    code = (
        "import sys; from ctrbench.cost.explain import explain; from ctrbench.runs.grid import make_config; "
        "explain('star', 'dcnv2', config=make_config()); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


KINDS = {
    "domain_sets": 'default = ["shop", "age"]',
    "price": 'kind = "numeric", buckets = 4',
    "x": 'kind = "numeric"',
}


@pytest.fixture
def prepared(tmp_path: Path, write_tiny: Callable[..., DatasetCard]) -> Prepared:
    generator, rows = np.random.default_rng(0), 600
    columns = {
        "time": np.arange(rows),
        "shop": generator.choice(5, rows, p=[0.5, 0.2, 0.2, 0.09, 0.01]),
        "age": generator.integers(0, 3, rows),
        "price": generator.random(rows),
        "x": generator.random(rows),
        "click": generator.integers(0, 2, rows),
    }
    return prepare(write_tiny(tmp_path, columns, **KINDS), home=tmp_path / "home")


def grid(prepared: Prepared, *methods: str, indicator: str | None = None) -> tuple[Run, ...]:
    return make_grid(
        prepared, methods=methods, backbones=["dnn[hidden=8-4]"], seeds=[1, 2],
        domain_set="default", indicator=indicator, config=make_config(embedding_size=4),
    )  # fmt: skip


@pytest.mark.parametrize("indicator", [None, "age", "price", "all"])
def test_the_schema_counts_training_rows(prepared: Prepared, indicator: str | None) -> None:
    key = grid(prepared, "plain", indicator=indicator)[0].key
    schema, train = make_schema(prepared, key), load(prepared, Split.TRAIN, key)
    rows = np.bincount(train.indicator_B.numpy(), minlength=schema.num_indicators + 1)
    assert schema.indicator_rows == tuple(rows.tolist())
    assert schema.base_rate == float(train.label_B.double().mean())


BROKEN = """
from ctrbench.extend import Method, Plan


class Broken(Method):
    def rewrite(self, plan: Plan) -> Plan:
        raise KeyError("no such stage")
"""


def test_each_pair_has_a_line_with_what_it_costs_or_why_not(prepared: Prepared, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN, encoding="utf-8")
    asked = (
        "plain",
        "star[aux=none]",
        "cross_stitch[max_domains=2]",
        "gbdt",
        str(tmp_path / "broken.py"),
        "pcgrad",
    )
    plain, star, stitch, trees, broken, pcgrad = pairs(prepared, grid(prepared, *asked))
    assert (plain.times_plain, plain.indicator, plain.reason) == (1.0, "", "")
    assert (star.method, star.backbone, star.indicator) == ("star[aux=none]", "dnn[hidden=8-4]", "shop (5)")
    assert star.cost is not None
    assert star.cost.row == 13 * 8 + 8 * 4 + 4
    assert isinstance(stitch.refusal, SettingError)
    assert (trees.refusal, trees.reason) == (None, "no network; its size is known once it is fitted")
    assert (broken.refusal, broken.reason) == (None, "KeyError: 'no such stage'")
    assert pcgrad.indicator == "shop (5)"


def test_an_explanation_is_for_the_data_at_hand(prepared: Prepared) -> None:
    config = make_config(embedding_size=4, batch_size=32)
    found = explain("star", "dnn[hidden=8-4]", prepared=prepared, indicator="all", config=config)
    assert found.indicator == f"all ({prepared.manifest.domain_sets['default'].num_domains})"
    assert found.data.startswith("tiny, domains by shop × age: 4 fields")
    assert (found.before.cost.per_domain, found.after.batch_rows) == (0, 32)


def test_without_data_the_made_up_schema_is_explained() -> None:
    found = explain("plain", "dnn", config=make_config())
    assert found.data == "made-up data, since nothing is prepared: 23 fields, 300 domains"
    assert found.before == found.after


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(SettingError, match="gbdt does not go with dcnv2"):
        explain("gbdt", "dcnv2", config=make_config())
    with pytest.raises(SettingError, match="max_domains"):
        explain("cross_stitch", "dnn", config=make_config())


@pytest.fixture
def historic(tmp_path: Path, write_tiny: Callable[..., DatasetCard]) -> Prepared:
    """500 training rows and more, with lists of 0, 3 and 6 shops in turn."""
    rows = 600
    columns = {
        "time": np.arange(rows),
        "shop": np.arange(rows) % 5,
        "age": np.arange(rows) % 3,
        "price": np.arange(rows) / rows,
        "x": np.arange(rows) / rows,
        "click": np.arange(rows) % 2,
        "past": [",".join(["1"] * (3 * (row % 3))) for row in range(rows)],
    }
    past = 'kind = "sequence", target = "shop", separator = ",", max_length = 7'
    return prepare(write_tiny(tmp_path, columns, past=past, **KINDS), home=tmp_path / "home")


def test_sequences_are_as_long_as_they_are_on_average(historic: Prepared) -> None:
    found = explain("plain", "dnn[pooling=din]", prepared=historic, config=make_config(embedding_size=16))
    assert found.data.endswith(" domains; 3 elements in past (the last rows' mean)")
    pooling = found.after.places[0].parts[1]
    assert pooling.cost.row == DIN_ROW + 3 * DIN_ELEMENT
    assert explain("plain", "dnn", prepared=historic, config=make_config()).after.places[0].parts == ()


def test_of_rows_not_made_yet_the_card_says_how_long_sequences_are(historic: Prepared) -> None:
    train = historic.manifest.splits[Split.TRAIN]
    unmade = tuple(shard.model_copy(update={"sha256": ""}) for shard in train.shards)
    splits = {**historic.manifest.splits, Split.TRAIN: train.model_copy(update={"shards": unmade})}
    generated = replace(historic, manifest=historic.manifest.model_copy(update={"splits": splits}))
    assert sequence_lengths(generated) == ({"past": 7}, "; 7 elements in past (the card's max_length)")


def test_pairs_count_sequences_at_that_length(historic: Prepared) -> None:
    runs = make_grid(
        historic, methods=["plain"], backbones=["dnn[hidden=8-4,pooling=din]"], seeds=[1],
        domain_set="default", indicator=None, config=make_config(embedding_size=16),
    )  # fmt: skip
    (pair,) = pairs(historic, runs)
    assert pair.cost is not None
    assert pair.cost.row == DIN_ROW + 3 * DIN_ELEMENT + (4 * 16 + 1) * 8 + 8 * 4 + 4


def test_data_without_such_sequences_say_nothing_of_lengths(prepared: Prepared) -> None:
    assert sequence_lengths(prepared) == ({}, "")
