from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ctrbench.errors import StoreError
from ctrbench.report.comparison import collect, compare, gain, sentence
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore


def test_gain_is_paired_over_common_seeds(toy: list[RunRecord], record: Callable[..., RunRecord]) -> None:
    (comparison,) = compare([*toy, record("adasparse", 3, 0.99)])
    plain, adasparse = comparison.rows
    assert gain(adasparse, plain, "auc") == pytest.approx({1: 0.03, 2: 0.05})


def test_rows_follow_the_paper_then_the_alphabet(record: Callable[..., RunRecord]) -> None:
    names = ["zebra", "apg", "aardvark", "plain", "adasparse", "maml", "star"]
    (comparison,) = compare([record(name, backbone=base) for name in names for base in ("dcnv2", "dnn")])
    assert comparison.backbones == ("dnn", "dcnv2")
    assert comparison.methods == ("plain", "maml", "star", "apg", "adasparse", "aardvark", "zebra")


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"data": "e" * 64}, "data eeeeeeeeeeee"),
        ({"domain_set": "small", "features": ("a",)}, "domain set small, domain features a"),
        ({"train": {"batch_size": 512, "lr": 0.001}}, "batch_size 512"),
    ],
)
def test_records_with_different_conditions_are_never_in_one_table(
    record: Callable[..., RunRecord], change: dict[str, Any], difference: str
) -> None:
    comparisons = compare([record(), record(**change)])
    assert [len(comparison.records) for comparison in comparisons] == [1, 1]
    assert difference in [comparison.difference for comparison in comparisons]


def test_two_versions_of_an_external_file_are_two_rows(record: Callable[..., RunRecord]) -> None:
    (comparison,) = compare([record("mine", source="a" * 64), record("mine", source="b" * 64)])
    assert comparison.methods == ("mine[source=aaaaaaaa]", "mine[source=bbbbbbbb]")


def test_undefined_metrics_are_left_out_not_zero(record: Callable[..., RunRecord]) -> None:
    (comparison,) = compare([record(seed=1, auc=None), record(seed=2, auc=0.8)])
    assert comparison.rows[0].values("auc") == {2: 0.8}


def test_failures_are_grouped_by_error(toy: list[RunRecord], record: Callable[..., RunRecord]) -> None:
    failed = [record("plain", seed, status="failed", error="out of memory\nmore") for seed in (3, 4)]
    (comparison,) = compare([*toy, *failed])
    assert comparison.failures == ("Failed: plain on dnn, seed 3, 4: out of memory.",)


def test_an_error_becomes_one_sentence() -> None:
    assert sentence("boom\n  at line 3") == "boom."
    assert sentence(None) == "no reason recorded."
    assert len(sentence("x" * 500)) == 240


def test_no_records_name_the_command(store: RunStore, record: Callable[..., RunRecord]) -> None:
    store.write(record(dataset="other"))
    with pytest.raises(
        StoreError, match=r"no records of toy .*datasets with records: other.*ctrbench run --dataset toy"
    ):
        collect(store, dataset="toy")


def test_the_error_for_an_unknown_domain_set_suggests_one(
    store: RunStore, record: Callable[..., RunRecord]
) -> None:
    store.write(record(domain_set="default"))
    with pytest.raises(StoreError, match="did you mean 'default'"):
        collect(store, dataset="toy", domain_set="defualt")


def test_the_twin_is_another_dataset(store: RunStore, record: Callable[..., RunRecord]) -> None:
    store.write(record(dataset="iaac-twin"))
    with pytest.raises(StoreError, match="no records of iaac "):
        collect(store, dataset="iaac")


def test_datasets_are_not_distinguished_by_their_data(record: Callable[..., RunRecord]) -> None:
    first, second = compare([record(dataset="toy"), record(dataset="other", data="e" * 64)])
    assert (first.difference, second.difference) == ("", "")
