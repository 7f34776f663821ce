from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctrbench.cost.explain import explain, pair_costs, sequence_lengths
from ctrbench.data.card import DatasetCard
from ctrbench.data.prepare import prepare
from ctrbench.data.prepared import Prepared
from ctrbench.errors import SettingError
from ctrbench.names import Split
from ctrbench.runs.grid import Run, make_config, make_grid
from ctrbench.runs.run_data import load
from ctrbench.runs.schema import make_schema

DIN_ROW, DIN_ELEMENT = 16 * 80, 2 * 16 * 80 + 80 * 40 + 40
"""Per target and per element (spec: pooling-6.1), with [e_j ; e_t ; e_j - e_t ; e_j * e_t]."""


def test_counting_does_not_import_the_compiler() -> None:
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


def test_each_pair_has_a_cost_or_a_reason(prepared: Prepared, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN, encoding="utf-8")
    methods = (
        "plain",
        "star[aux=none]",
        "cross_stitch[max_domains=2]",
        "gbdt",
        str(tmp_path / "broken.py"),
        "pcgrad",
    )
    plain, star, stitch, trees, broken, pcgrad = pair_costs(prepared, grid(prepared, *methods))
    assert (plain.times_plain, plain.indicator, plain.reason) == (1.0, "", "")
    assert (star.method, star.backbone, star.indicator) == ("star[aux=none]", "dnn[hidden=8-4]", "shop (5)")
    assert star.cost is not None
    assert star.cost.row == 13 * 8 + 8 * 4 + 4
    assert isinstance(stitch.refusal, SettingError)
    assert (trees.refusal, trees.reason) == (None, "no network; its size is known once it is fitted")
    assert broken.refusal is None
    assert re.fullmatch(r"broken\.py, line \d+, in rewrite: KeyError: 'no such stage'", broken.reason)
    assert pcgrad.indicator == "shop (5)"


def test_an_explanation_is_for_the_given_data(prepared: Prepared) -> None:
    config = make_config(embedding_size=4, batch_size=32)
    explanation = explain("star", "dnn[hidden=8-4]", prepared=prepared, indicator="all", config=config)
    assert explanation.indicator == f"all ({prepared.manifest.domain_sets['default'].num_domains})"
    assert explanation.data.startswith("tiny, domains by shop × age: 4 fields")
    assert (explanation.before.cost.per_domain, explanation.after.batch_rows) == (0, 32)


def test_without_data_the_synthetic_schema_is_explained() -> None:
    explanation = explain("plain", "dnn", config=make_config())
    assert explanation.data == "synthetic data, since no dataset is prepared: 23 fields, 300 domains"
    assert explanation.before == explanation.after


def test_plans_that_cannot_be_built_are_refused() -> None:
    with pytest.raises(SettingError, match="gbdt does not support dcnv2"):
        explain("gbdt", "dcnv2", config=make_config())
    with pytest.raises(SettingError, match="max_domains"):
        explain("cross_stitch", "dnn", config=make_config())


@pytest.fixture
def historic(tmp_path: Path, write_tiny: Callable[..., DatasetCard]) -> Prepared:
    """600 rows with lists of 0, 3 and 6 shops in turn."""
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


def test_sequences_are_counted_at_their_mean_length(historic: Prepared) -> None:
    explanation = explain(
        "plain", "dnn[pooling=din]", prepared=historic, config=make_config(embedding_size=16)
    )
    assert explanation.data.endswith(" domains; 3 elements in past (mean of the last shard)")
    pooling = explanation.after.sections[0].parts[1]
    assert pooling.cost.row == DIN_ROW + 3 * DIN_ELEMENT
    assert explain("plain", "dnn", prepared=historic, config=make_config()).after.sections[0].parts == ()


def test_sequences_of_rows_generated_on_reading_have_the_length_of_the_card(historic: Prepared) -> None:
    train = historic.manifest.splits[Split.TRAIN]
    unmade = tuple(shard.model_copy(update={"sha256": ""}) for shard in train.shards)
    splits = {**historic.manifest.splits, Split.TRAIN: train.model_copy(update={"shards": unmade})}
    generated = replace(historic, manifest=historic.manifest.model_copy(update={"splits": splits}))
    assert sequence_lengths(generated) == ({"past": 7}, "; 7 elements in past (max_length of the card)")


def test_pairs_count_sequences_at_their_mean_length(historic: Prepared) -> None:
    runs = make_grid(
        historic, methods=["plain"], backbones=["dnn[hidden=8-4,pooling=din]"], seeds=[1],
        domain_set="default", indicator=None, config=make_config(embedding_size=16),
    )  # fmt: skip
    (pair,) = pair_costs(historic, runs)
    assert pair.cost is not None
    assert pair.cost.row == DIN_ROW + 3 * DIN_ELEMENT + (4 * 16 + 1) * 8 + 8 * 4 + 4


def test_data_without_sequences_have_no_lengths(prepared: Prepared) -> None:
    assert sequence_lengths(prepared) == ({}, "")
