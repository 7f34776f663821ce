from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ctrbench.errors import StoreError
from ctrbench.names import Metric
from ctrbench.report.comparison import collect, compare, gain, sentence
from ctrbench.runs.record import Parameters, RunRecord
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
def test_what_differs_is_never_mixed(
    record: Callable[..., RunRecord], change: dict[str, Any], difference: str
) -> None:
    comparisons = compare([record(), record(**change)])
    assert [len(one.records) for one in comparisons] == [1, 1]
    assert difference in [one.difference for one in comparisons]


def test_two_versions_of_an_outside_file_stay_apart(record: Callable[..., RunRecord]) -> None:
    (comparison,) = compare([record("mine", source="a" * 64), record("mine", source="b" * 64)])
    assert comparison.methods == ("mine[source=aaaaaaaa]", "mine[source=bbbbbbbb]")


def test_undefined_metrics_are_left_out_not_zero(record: Callable[..., RunRecord]) -> None:
    (comparison,) = compare([record(seed=1, auc=None), record(seed=2, auc=0.8)])
    assert comparison.rows[0].values("auc") == {2: 0.8}


def test_failures_are_gathered_by_error(toy: list[RunRecord], record: Callable[..., RunRecord]) -> None:
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


def test_unknown_domain_set_names_the_known(store: RunStore, record: Callable[..., RunRecord]) -> None:
    store.write(record(domain_set="default"))
    with pytest.raises(StoreError, match="did you mean 'default'"):
        collect(store, dataset="toy", domain_set="defualt")


def test_the_twin_is_another_dataset(store: RunStore, record: Callable[..., RunRecord]) -> None:
    store.write(record(dataset="iaac-twin"))
    with pytest.raises(StoreError, match="no records of iaac "):
        collect(store, dataset="iaac")


def test_datasets_are_not_set_apart_by_their_data(record: Callable[..., RunRecord]) -> None:
    first, second = compare([record(dataset="toy"), record(dataset="other", data="e" * 64)])
    assert (first.difference, second.difference) == ("", "")


OWN = Parameters(embedding=1, dense=1, per_domain=5)


def test_a_run_by_another_indicator_is_an_extra_row(record: Callable[..., RunRecord]) -> None:
    runs = [
        record("plain", 1, 0.70),
        record("plain", 2, 0.71, indicator="all"),
        record("plain", 1, 0.70, indicator="all"),
        record("apg", 1, 0.71),
        *(record("star", seed, 0.72, parameters=OWN) for seed in (1, 2)),
        *(record("star", seed, 0.75, indicator="all", parameters=OWN) for seed in (1, 2, 3)),
    ]
    (comparison,) = compare(runs)
    assert [row.method for row in comparison.rows] == ["plain", "star", "star, by all", "apg"]
    # More rows have indicator a, though more runs have all; plain is one row for any indicator.
    assert comparison.indicator == "a"
    plain, extra = comparison.plain("dnn"), comparison.rows[2]
    assert plain is not None
    assert [one.key.indicator for one in plain.finished] == ["a", "all"]
    assert gain(extra, plain, Metric.AUC) == {1: pytest.approx(0.05), 2: pytest.approx(0.04)}


def test_what_does_not_heed_the_indicator_is_one_row(record: Callable[..., RunRecord]) -> None:
    runs = [
        record("star", 1),
        *(record("adasparse", 1, indicator=by, predictions_sha256="same") for by in ("a", "all")),
        record("adasparse", 2, indicator="all"),
        *(record("apg", 1, indicator=by) for by in ("a", "all")),
    ]
    (comparison,) = compare(runs)
    assert [row.method for row in comparison.rows] == ["star", "apg", "apg, by all", "adasparse"]
    assert [one.key.indicator for one in comparison.rows[-1].finished] == ["a", "all"]


@pytest.mark.parametrize("differs", ["a", "b", "all"])
def test_where_one_indicator_makes_a_difference_all_are_rows(
    record: Callable[..., RunRecord], differs: str
) -> None:
    runs = [
        record("star", 1, indicator=by, predictions_sha256="other" if by == differs else "same")
        for by in ("a", "b", "all")
    ]
    (comparison,) = compare(runs)
    assert len(comparison.rows) == 3


def test_runs_of_other_seeds_or_without_result_do_not_prove_a_method_indifferent(
    record: Callable[..., RunRecord],
) -> None:
    runs = [
        record("plain"),
        *(
            record("star", seed, indicator=by, predictions_sha256="same")
            for seed, by in ((1, "a"), (2, "all"))
        ),
        record("apg"),
        record("apg", indicator="all", status="failed", error="no"),
    ]
    (comparison,) = compare(runs)
    names = [row.method for row in comparison.rows]
    assert names == ["plain", "star", "star, by all", "apg", "apg, by all"]


def test_of_runs_of_plain_one_that_ended_is_kept(record: Callable[..., RunRecord]) -> None:
    runs = [
        record("star"),
        record("plain", status="failed", error="no"),
        record("plain", indicator="all"),
        record("plain", indicator="b"),
        record("plain", 2, indicator="b"),
        record("plain", 2),
    ]
    (comparison,) = compare(runs)
    assert [row.method for row in comparison.rows] == ["plain", "star"]
    assert {one.key.seed for one in comparison.rows[0].finished} == {1, 2}
    assert comparison.rows[0].finished[-1].key.indicator == "a"


def test_of_two_indicators_of_as_many_rows_a_feature_goes_first(record: Callable[..., RunRecord]) -> None:
    # Plain has no say.
    runs = [record("star", indicator=by) for by in ("all", "z")]
    plain = [record("plain", indicator="all")]
    (comparison,) = compare([*runs, *plain])
    assert comparison.indicator == "z"


def test_plain_with_normalisation_is_a_row_of_its_own(record: Callable[..., RunRecord]) -> None:
    normed = {"norm": "pn", "aux": "all"}
    runs = [
        record("plain"),
        record("plain", settings=normed, parameters=OWN),
        record("plain", settings=normed, parameters=OWN, indicator="all"),
    ]
    (comparison,) = compare(runs)
    own = "plain[aux=all,norm=pn]"
    assert [row.method for row in comparison.rows] == ["plain", own, f"{own}, by all"]


def test_failed_runs_do_not_choose_the_indicator(record: Callable[..., RunRecord]) -> None:
    failed = [record("star", seed, indicator="all", status="failed", error="no") for seed in (1, 2, 3)]
    (comparison,) = compare([record("plain"), record("apg"), *failed])
    assert [row.method for row in comparison.rows] == ["plain", "star, by all", "apg"]
