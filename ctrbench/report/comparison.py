"""Run records as comparisons: which records may appear in one table, and as which row.

Two records appear in one table only if everything but backbone, method and seed is the same: data, domain set and
training configuration. The numbers of a comparison are computed in `summary`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from ctrbench.errors import StoreError, did_you_mean
from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.protocol import is_collapsed
from ctrbench.plugins.groups import table_order
from ctrbench.report.indicators import PLAIN, ignoring_indicator, main_indicator, pair, without_repetitions
from ctrbench.report.labels import canonical_text, differing, labels, show_value
from ctrbench.runs.record import Choice, Parameters, Result, RunKey, RunRecord
from ctrbench.runs.store import RunStore
from ctrbench.runs.trials import best_of, by_search, is_run_of, search_of
from ctrbench.storage.files import find_files

SYNTHETIC_NOTICE = (
    "Synthetic data: clicks are drawn from a known probability. These results test implementations and are no evidence "
    "for a method on real data."
)
NULL_NOTICE = (
    "Null data: synthetic data generated without the interaction terms of domain and content. They are a control: a "
    "gain over plain here is no evidence for a method."
)
MAX_ERROR_LENGTH = 240
"""Number of characters to which error messages are shortened."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """All runs of one method on one backbone with one indicator, or with any if the method ignores the indicator."""

    backbone: str
    """Label of the backbone."""
    method: str
    """Label of the method, `indicator_suffix` included."""
    finished: tuple[RunRecord, ...]
    unfinished: tuple[RunRecord, ...]
    """Failed runs, and runs that the method does not support."""
    indicator_suffix: str = ""
    """End of the label that names the row's indicator, if it is not that of the comparison."""

    @property
    def name(self) -> tuple[str, str]:
        """Labels of backbone and method, unique within a comparison."""
        return self.backbone, self.method

    @property
    def key(self) -> RunKey:
        """The key of the first run; the others differ in the seed, and in an indicator that the method ignores."""
        return (self.finished or self.unfinished)[0].key

    @property
    def is_plain(self) -> bool:
        """Whether the method is plain, which leaves the backbone unchanged."""
        return self.key.method.name == PLAIN

    @property
    def multiply_adds(self) -> int | None:
        """Multiply-adds per row of a forward pass; None if no record holds them."""
        costs = (record.measured.multiply_adds for record in (*self.finished, *self.unfinished))
        return next((cost for cost in costs if cost is not None), None)

    @property
    def results(self) -> dict[int, Result]:
        """The results by seed."""
        return {record.key.seed: record.result for record in self.finished if record.result is not None}

    @property
    def collapsed(self) -> dict[int, float]:
        """Dev AUC of the collapsed runs, by seed; they have results and count as failed."""
        dev = {
            seed: result.dev
            for seed, result in self.results.items()
            if is_collapsed(result.dev, result.base_logloss)
        }
        return {seed: float(metrics[Auc.name] or 0.0) for seed, metrics in dev.items()}

    @property
    def num_failed(self) -> int:
        """Number of runs that failed: without a result, or collapsed."""
        return sum(record.status == "failed" for record in self.unfinished) + len(self.collapsed)

    @property
    def failed_share(self) -> str:
        """Failed runs in words, such as `2 of 6 failed`; empty without failures."""
        num_runs = len(self.finished) + sum(record.status == "failed" for record in self.unfinished)
        return f"{self.num_failed} of {num_runs} failed" if self.num_failed else ""

    @property
    def parameters(self) -> Parameters | None:
        """Numbers of parameters, equal for all seeds; None without a result."""
        return next((result.parameters for result in self.results.values()), None)

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of further scores of the same runs, such as MAML without adaptation."""
        return tuple(sorted({name for result in self.results.values() for name in result.variants}))

    def values(self, metric: str, *, variant: str | None = None) -> dict[int, float]:
        """Return a test metric by seed; seeds with an undefined value are left out."""
        by_seed = {
            seed: (result.test if variant is None else result.variants.get(variant, {})).get(metric)
            for seed, result in self.results.items()
        }
        return {seed: value for seed, value in by_seed.items() if value is not None}

    @property
    def reason(self) -> str:
        """Sentence that says why there is no result; empty if there is one."""
        return "" if self.finished else sentence(self.unfinished[0].error)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Rows that may be compared with one another: the same data, domains and training configuration."""

    rows: tuple[Row, ...]
    controls: tuple[Row, ...] = ()
    """Rows of controls, which are not among `rows`: they do not rank and no row is compared with them as the best."""
    searches: Mapping[str, Sequence[RunRecord]] = field(default_factory=dict)
    """Trials of tuning of the dataset, by search."""
    difference: str = ""
    """Conditions that differ between this comparison and others of the same dataset; empty for the only one."""

    @property
    def key(self) -> RunKey:
        """The key of the first run: data, domain set and training configuration are those of all runs."""
        return self.rows[0].key

    @property
    def indicator(self) -> str:
        """Indicator of the rows whose labels do not name one."""
        return main_indicator(record for row in self.rows for record in (*row.finished, *row.unfinished))

    @property
    def other_indicators(self) -> tuple[str, ...]:
        """The indicators that labels of rows name."""
        return tuple(sorted({row.key.indicator for row in self.rows if row.indicator_suffix}))

    @property
    def title(self) -> str:
        """Dataset, domain features, and `difference`."""
        parts = [self.key.dataset, f"domains {' × '.join(self.key.domain_features)}", self.difference]
        return " · ".join(part for part in parts if part)

    @property
    def backbones(self) -> tuple[str, ...]:
        """Labels of the backbones, in order."""
        return tuple(dict.fromkeys(row.backbone for row in self.rows))

    @property
    def methods(self) -> tuple[str, ...]:
        """Labels of the methods, in order."""
        return tuple(dict.fromkeys(row.method for row in self.rows))

    def of_backbone(self, backbone: str) -> tuple[Row, ...]:
        """Return the rows of one backbone."""
        return tuple(row for row in self.rows if row.backbone == backbone)

    def plain(self, backbone: str) -> Row | None:
        """Return the row over which gains are measured: the first plain row with a finished run."""
        return next((row for row in self.of_backbone(backbone) if row.is_plain and row.finished), None)

    @property
    def records(self) -> tuple[RunRecord, ...]:
        """The finished records."""
        return tuple(record for row in self.rows for record in row.finished)

    @property
    def kind(self) -> Literal["", "synthetic data", "null data"]:
        """Kind of data that are not real: generated with a known click probability, null according to their name."""
        if not self.oracle:
            return ""
        return "null data" if "null" in self.key.dataset.split("-") else "synthetic data"

    @property
    def notice(self) -> str:
        """Warning right under every title; empty for real data."""
        return {"": "", "synthetic data": SYNTHETIC_NOTICE, "null data": NULL_NOTICE}[self.kind]

    @property
    def failures(self) -> tuple[str, ...]:
        """One sentence per row and error that says which seeds failed, for rows with other runs."""
        seeds: dict[tuple[str, str, str], list[int]] = defaultdict(list)
        for row in (row for row in self.rows if row.finished):
            for record in row.unfinished:
                if record.status == "failed":
                    seeds[row.method, row.backbone, sentence(record.error)].append(record.key.seed)
        return tuple(
            f"Failed: {method} on {backbone}, seed {', '.join(map(str, failed))}: {error}"
            for (method, backbone, error), failed in seeds.items()
        )

    @property
    def num_seeds(self) -> int:
        """The largest number of finished runs of a row."""
        return max(len(row.finished) for row in self.rows)

    @cached_property
    def oracle(self) -> Mapping[str, float | None]:
        """Test metrics of the true click probability, equal for all runs; empty if it is unknown."""
        return next((r.result.oracle for r in self.records if r.result and r.result.oracle), {})


def collect(
    store: RunStore,
    *,
    dataset: str,
    domain_set: str | None = None,
    complete: Callable[[RunRecord], RunRecord] | None = None,
) -> tuple[Comparison, ...]:
    """Return the comparisons of a dataset (and domain set); raises `StoreError` if it has no records.

    `complete` is applied to each record, for instance to add metrics.
    """
    records = [record for record in store.records(dataset) if record.key.dataset == dataset]
    if not records:
        raise _no_records(store, dataset)
    selected = [record for record in records if domain_set in (None, record.key.domain_set)]
    if not selected:
        domain_sets = {record.key.domain_set for record in records}
        raise StoreError(
            f"no records of {dataset} for this domain set",
            value=domain_set,
            remedy=did_you_mean(str(domain_set), domain_sets),
        )
    completed = selected if complete is None else map(complete, selected)
    comparisons = compare(completed, store.trials(dataset))
    if not comparisons:
        remedy = "run the methods themselves with the same settings, without --controls or with it"
        raise StoreError("a report must have records that are no controls", value=dataset, remedy=remedy)
    return comparisons


def compare(records: Iterable[RunRecord], trials: Iterable[RunRecord] = ()) -> tuple[Comparison, ...]:
    """Group records into comparisons, in an order that does not depend on that of the records.

    Runs with the settings of the best of the `trials` form rows that are labeled as tuned. Controls without any other
    record of the same conditions are left out.
    """
    ordered = sorted(records, key=lambda record: (record.key.seed, record.digest))
    own = [record for record in ordered if record.key.control is None]
    searches = by_search(trials)
    tuned = tuned_choices([record.key for record in own], searches)
    backbones, methods = _labels(
        [record.key for record in own if record.key.method.digest not in tuned],
        [record.key for record in ordered],
    )
    methods |= {digest: f"{name}, tuned" for digest, name in tuned.items()}
    groups: dict[str, list[RunRecord]] = defaultdict(list)
    for record in own:
        groups[canonical_text(conditions(record.key))].append(record)
    controls: dict[str, list[RunRecord]] = defaultdict(list)
    for record in ordered:
        if record.key.control is not None:
            controls[canonical_text(conditions(record.key))].append(record)
    differences = _differing_conditions([conditions(group[0].key) for group in groups.values()])
    comparisons = [
        Comparison(
            rows=_group_rows(groups[name], backbones, methods),
            controls=_group_rows(controls[name], backbones, methods, indicator=main_indicator(groups[name])),
            difference=difference,
            searches=searches,
        )
        for name, difference in zip(groups, differences, strict=True)
    ]
    return tuple(sorted(comparisons, key=_comparison_order))


def tuned_choices(keys: Sequence[RunKey], searches: Mapping[str, Sequence[RunRecord]]) -> dict[str, str]:
    """Return the names of methods that stand for the best trial of a search, by digest of the choice.

    Choices are left out where no other choice of the method is compared with them, such as where the default is best.
    """
    tuned = {
        key.method.digest: key.method.name
        for key in keys
        if (best := best_of(searches.get(search_of(key), ()))) is not None and is_run_of(best, key)
    }
    others = {key.method.name for key in keys if key.method.digest not in tuned}
    return {digest: name for digest, name in tuned.items() if name in others}


def conditions(key: RunKey) -> dict[str, object]:
    """Return everything in a key that is equal within one comparison, by readable name.

    The indicator is not part of it: methods on the same domains may index their per-domain parameters differently.
    """
    train = {name: value for name, value in key.train.items() if name != "seed"}
    return {
        "dataset": key.dataset,
        "data": key.data_digest[:12],
        "domain set": key.domain_set,
        "domain features": list(key.domain_features),
        "numerics": key.numerics,
        **train,
    }


def gain(row: Row, plain: Row, metric: str) -> dict[int, float]:
    """Return a metric of a row minus that of plain, by seed, for the seeds that both have."""
    return difference_by_seed(row.values(metric), plain.values(metric))


def difference_by_seed(values: Mapping[int, float], base: Mapping[int, float]) -> dict[int, float]:
    """Return values minus base values, for the seeds that both have."""
    return {seed: value - base[seed] for seed, value in values.items() if seed in base}


def sentence(error: str | None) -> str:
    """Return the first line of an error message, shortened, as a sentence with a full stop."""
    line = (error or "no reason recorded").strip().splitlines()[0].strip()
    is_short = len(line) <= MAX_ERROR_LENGTH
    text = line if is_short else f"{line[: MAX_ERROR_LENGTH - 1].rstrip()}…"
    return text if text.endswith((".", "…", "!", "?")) else f"{text}."


def _labels(own: Sequence[RunKey], every: Sequence[RunKey]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the labels of backbones and methods by digest; widths of controls do not lengthen the others' labels."""

    def labels_of(choices: Iterable[Choice], all_choices: Iterable[Choice]) -> dict[str, str]:
        return labels(all_choices) | labels(choices)

    return (
        labels_of((key.backbone for key in own), (key.backbone for key in every)),
        labels_of((key.method for key in own), (key.method for key in every)),
    )


def _group_rows(
    records: list[RunRecord],
    backbones: Mapping[str, str],
    methods: Mapping[str, str],
    *,
    indicator: str | None = None,
) -> tuple[Row, ...]:
    """Return the rows of records that are all controls or all none; `indicator` is that of unlabeled rows."""
    groups: dict[tuple[str, str, str, str | None], list[RunRecord]] = defaultdict(list)
    main, ignoring = indicator or main_indicator(records), ignoring_indicator(records)
    for record in without_repetitions(records, main, ignoring):
        key = record.key
        is_main = key.indicator == main or pair(record) in ignoring
        suffix = "" if is_main else f", by {key.indicator}"
        label = backbones[key.backbone.digest], methods[key.method.digest]
        groups[*label, suffix, key.control].append(record)
    rows = [
        Row(
            backbone=backbone,
            method=f"{method}{suffix}",
            finished=tuple(record for record in group if record.status == "finished"),
            unfinished=tuple(record for record in group if record.status != "finished"),
            indicator_suffix=suffix,
        )
        for (backbone, method, suffix, _), group in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: (_order_by_group(row.backbone), _order_by_group(row.method))))


def _order_by_group(label: str) -> tuple[int, str]:
    name = label.split("[")[0].split(",")[0]
    order = table_order()
    return order.index(name) if name in order else len(order), label


def _comparison_order(comparison: Comparison) -> tuple[str, bool, str, str]:
    key = comparison.key
    return key.dataset, key.domain_set != "default", key.domain_set, canonical_text(conditions(key))


def _differing_conditions(all_conditions: Sequence[dict[str, object]]) -> list[str]:
    """Return, for each comparison, the conditions that differ between comparisons of its dataset."""
    return [
        ", ".join(
            f"{name} {show_value(own[name])}"
            for name in own
            if name in differing([other for other in all_conditions if other["dataset"] == own["dataset"]])
        )
        for own in all_conditions
    ]


def _no_records(store: RunStore, dataset: str) -> StoreError:
    datasets = sorted({file.parent.name for file in find_files(store.results, "*/*.json")})
    available = f" (datasets with records: {', '.join(datasets)})" if datasets else ""
    return StoreError(
        f"no records of {dataset} in {store.results}{available}",
        remedy=f"run: ctrbench run --dataset {dataset} --methods plain,adasparse "
        f"--backbone dnn --results {store.results}",
    )
