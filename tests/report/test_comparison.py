from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ctrbench.errors import StoreError
from ctrbench.report.comparison import collect, compare, domain_gain, estimate, gain, labels, sentence
from ctrbench.runs.record import Choice, RunRecord
from ctrbench.runs.store import RunStore


def test_mean_and_deviation_over_seeds(toy: list[RunRecord]) -> None:
    (comparison,) = compare(toy)
    plain = comparison.rows[0].estimate("auc")
    assert plain.mean == pytest.approx(0.71)
    assert plain.std == pytest.approx(0.02 / 2**0.5)
    assert plain.num == 2


def test_one_seed_has_no_deviation() -> None:
    assert estimate([0.5]).std is None
    assert estimate([]) is None


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
    ("change", "apart"),
    [
        ({"data": "e" * 64}, "data eeeeeeeeeeee"),
        ({"domain_set": "small", "features": ("a",)}, "domain set small, domain features a"),
        ({"train": {"batch_size": 512, "lr": 0.001}}, "batch_size 512"),
    ],
)
def test_what_differs_is_never_mixed(
    record: Callable[..., RunRecord], change: dict[str, Any], apart: str
) -> None:
    comparisons = compare([record(), record(**change)])
    assert [len(one.records) for one in comparisons] == [1, 1]
    assert apart in [one.apart for one in comparisons]


def test_labels_show_only_settings_that_differ() -> None:
    choices = [
        Choice(name="adasparse", settings={"form": form, "r_min": 0.15}) for form in ("fusion", "scaling")
    ]
    shown = labels([*choices, Choice(name="plain"), Choice(name="maml", settings={"steps": 2})])
    assert list(shown.values()) == ["adasparse[form=fusion]", "adasparse[form=scaling]", "plain", "maml"]


def test_labels_write_settings_as_selectors_take_them() -> None:
    choices = [Choice(name="m", settings={"w": [8, 4], "x": None, "y": True}), Choice(name="m")]
    assert "m[w=8-4,x=none,y=true]" in labels(choices).values()


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
        StoreError, match=r"no records of toy .*records there: other.*ctrbench run --dataset toy"
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


def test_gain_over_resampled_domains(record: Callable[..., RunRecord]) -> None:
    domains = record().result.domains
    better = domains.model_copy(update={"metrics": {**domains.metrics, "auc": (None, 0.9, 0.7, None)}})
    (comparison,) = compare([record("plain"), record("apg", domains=better)])
    plain, apg = comparison.rows
    found = domain_gain(apg, plain)
    # Both domains with two classes gain 0.1, so every draw of domains does.
    assert (found.low, found.mean, found.high) == pytest.approx((0.1, 0.1, 0.1))


def test_datasets_are_not_set_apart_by_their_data(record: Callable[..., RunRecord]) -> None:
    first, second = compare([record(dataset="toy"), record(dataset="other", data="e" * 64)])
    assert (first.apart, second.apart) == ("", "")
