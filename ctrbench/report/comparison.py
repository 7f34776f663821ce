"""Run records as comparisons: what may stand in one table, and how it is called there.

Two records stand in one table only when everything but backbone, method and seed is the same: data, domain set,
training configuration. Everything that a report shows is computed from a `Comparison`, so that tables, pictures, page
and leaderboard can't disagree about what was compared.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from ctrbench.errors import StoreError, did_you_mean
from ctrbench.eval.grouped import average
from ctrbench.eval.measures import grouped_columns
from ctrbench.eval.metrics.registry import builtin_metrics
from ctrbench.eval.protocol import MIN_SEEDS, is_collapsed
from ctrbench.eval.significance import Interval, Standing, bootstrap_domains, standings
from ctrbench.names import Metric
from ctrbench.runs.record import Choice, Parameters, Result, RunKey, RunRecord
from ctrbench.runs.store import RunStore
from ctrbench.storage.files import find_files

PLAIN = "plain"
PAPER_ORDER = ("dnn", "dcnv2", PLAIN, "maml", "star", "apg", "adasparse")
"""Backbones and methods in the order of the AdaSparse paper; others follow by name."""
SYNTHETIC_NOTICE = (
    "Synthetic data: clicks are drawn from a known probability. These results test implementations and are no evidence "
    "for a method on real data."
)
NULL_NOTICE = (
    "Null data: synthetic data generated without the interaction terms of domain and content. They are a control: a "
    "gain over plain here is no evidence for a method."
)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Mean and sample standard deviation over seeds; no deviation for a single seed."""

    mean: float
    std: float | None
    num: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """All runs of one method on one backbone by one indicator; by any where that makes no difference."""

    backbone: str
    method: str
    finished: tuple[RunRecord, ...]
    unfinished: tuple[RunRecord, ...]
    """Failed, or not supported by the method."""
    by: str = ""
    """The end of its label that names its indicator, where that is not the comparison's."""

    @property
    def key(self) -> RunKey:
        """The key of the first run; others differ in the seed, and in the indicator where it makes no difference."""
        return (self.finished or self.unfinished)[0].key

    @property
    def is_plain(self) -> bool:
        """Whether this is the backbone itself."""
        return self.key.method.name == PLAIN

    @property
    def results(self) -> dict[int, Result]:
        """The results by seed."""
        return {record.key.seed: record.result for record in self.finished if record.result is not None}

    @property
    def collapsed(self) -> dict[int, float]:
        """Dev AUC of the collapsed runs, by seed; they have results and count as failed."""
        dev = {seed: result.dev for seed, result in self.results.items() if is_collapsed(result.dev)}
        return {seed: float(metrics[Metric.AUC] or 0.0) for seed, metrics in dev.items()}

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
        """Numbers of parameters; the seed does not move them."""
        return next((result.parameters for result in self.results.values()), None)

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of further scores of the same runs."""
        return tuple(sorted({name for result in self.results.values() for name in result.variants}))

    def values(self, metric: str, *, variant: str | None = None) -> dict[int, float]:
        """Test metric by seed; a seed with an undefined value is left out."""
        found = {
            seed: (result.test if variant is None else result.variants.get(variant, {})).get(metric)
            for seed, result in self.results.items()
        }
        return {seed: value for seed, value in found.items() if value is not None}

    def estimate(self, metric: str, *, variant: str | None = None) -> Estimate | None:
        """Mean and deviation of a test metric over seeds; None where it is undefined for all."""
        return estimate(self.values(metric, variant=variant).values())

    def seconds(self, phase: str = "train") -> Estimate | None:
        """Mean and deviation of the seconds of a phase."""
        return estimate(
            record.measured.seconds[phase] for record in self.finished if phase in record.measured.seconds
        )

    @property
    def reason(self) -> str:
        """Why there is no result, in a sentence; empty when there is one."""
        return "" if self.finished else sentence(self.unfinished[0].error)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Rows that may be compared with one another: the same data, domains and training configuration."""

    rows: tuple[Row, ...]
    apart: str = ""
    """What sets it apart from the other comparisons of the same report; empty when it is the only one."""

    @property
    def key(self) -> RunKey:
        """The key of the first run: data, domain set and training configuration hold for all."""
        return self.rows[0].key

    @property
    def indicator(self) -> str:
        """What parameters of single domains go by, in rows that name no other."""
        return main_indicator(record for row in self.rows for record in (*row.finished, *row.unfinished))

    @property
    def other_indicators(self) -> tuple[str, ...]:
        """The indicators that rows name."""
        return tuple(sorted({row.key.indicator for row in self.rows if row.by}))

    @property
    def title(self) -> str:
        """Dataset and what the domains are made of, and what sets this comparison apart."""
        parts = [self.key.dataset, f"domains {' × '.join(self.key.domain_features)}", self.apart]
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
        """The rows of one backbone."""
        return tuple(row for row in self.rows if row.backbone == backbone)

    def plain(self, backbone: str) -> Row | None:
        """The row of the backbone itself, which gains are measured from."""
        return next((row for row in self.of_backbone(backbone) if row.is_plain and row.finished), None)

    @property
    def records(self) -> tuple[RunRecord, ...]:
        """Every finished record."""
        return tuple(record for row in self.rows for record in row.finished)

    @property
    def kind(self) -> Literal["", "synthetic data", "null data"]:
        """Kind of data, where they are not real: generated with a known click probability, and null by their name."""
        if not self.oracle:
            return ""
        return "null data" if "null" in self.key.dataset.split("-") else "synthetic data"

    @property
    def notice(self) -> str:
        """Warning that stands right under every title; empty for real data."""
        return {"": "", "synthetic data": SYNTHETIC_NOTICE, "null data": NULL_NOTICE}[self.kind]

    @property
    def collapses(self) -> tuple[str, ...]:
        """One sentence per row with collapsed runs, with the mean of its other runs."""
        return tuple(_collapse_note(row) for row in self.rows if row.collapsed)

    @property
    def failures(self) -> tuple[str, ...]:
        """One sentence per row and error that says which seeds failed, for rows with other runs."""
        seeds: dict[tuple[str, str, str], list[int]] = defaultdict(list)
        for row in (row for row in self.rows if row.finished):
            for record in row.unfinished:
                if record.status == "failed":
                    seeds[row.method, row.backbone, sentence(record.error)].append(record.key.seed)
        return tuple(
            f"Failed: {method} on {backbone}, seed {', '.join(map(str, found))}: {error}"
            for (method, backbone, error), found in seeds.items()
        )

    @property
    def num_seeds(self) -> int:
        """The largest number of seeds that a row has."""
        return max(len(row.finished) for row in self.rows)

    @cached_property
    def oracle(self) -> Mapping[str, float | None]:
        """Test metrics of the true click probability; the same for every run, empty where it is unknown."""
        return next((r.result.oracle for r in self.records if r.result and r.result.oracle), {})


def collect(store: RunStore, *, dataset: str, domain_set: str | None = None) -> tuple[Comparison, ...]:
    """Return the comparisons of a dataset (and domain set); raises `StoreError` when it has no records."""
    records = [record for record in store.records(dataset) if record.key.dataset == dataset]
    if not records:
        raise _no_records(store, dataset)
    chosen = [record for record in records if domain_set in (None, record.key.domain_set)]
    if not chosen:
        known = {record.key.domain_set for record in records}
        raise StoreError(
            f"no records of {dataset} for this domain set",
            value=domain_set,
            remedy=did_you_mean(str(domain_set), known),
        )
    return compare(chosen)


def compare(records: Iterable[RunRecord]) -> tuple[Comparison, ...]:
    """Part records into comparisons, never mixing what must not be compared; the order is fixed."""
    ordered = sorted(records, key=lambda record: (record.key.seed, record.digest))
    names = {
        "backbone": labels(record.key.backbone for record in ordered),
        "method": labels(record.key.method for record in ordered),
    }
    groups: dict[str, list[RunRecord]] = defaultdict(list)
    for record in ordered:
        groups[_text(conditions(record.key))].append(record)
    apart = _apart([conditions(group[0].key) for group in groups.values()])
    made = [
        Comparison(rows=_rows(group, names["backbone"], names["method"]), apart=text)
        for group, text in zip(groups.values(), apart, strict=True)
    ]
    return tuple(sorted(made, key=_comparison_order))


def conditions(key: RunKey) -> dict[str, object]:
    """Everything in a key that must be equal within one table, flat, by readable name.

    Not the indicator: it is each method's own affair what its parameters of single domains go by.
    """
    train = {name: value for name, value in key.train.items() if name != "seed"}
    return {
        "dataset": key.dataset,
        "data": key.data_digest[:12],
        "domain set": key.domain_set,
        "domain features": list(key.domain_features),
        **train,
    }


def main_indicator(records: Iterable[RunRecord]) -> str:
    """Return the indicator of the most rows, whatever their seeds; of equally many a single feature goes before all.

    Plain has no say, as indicators are nothing to it, and failed runs have none where others ended well.
    """
    found = list(records)
    telling = [one for one in found if not _is_bare(one)] or found
    ended = [one for one in telling if one.status == "finished"] or telling
    rows = {(one.key.backbone.digest, one.key.method.digest, one.key.indicator) for one in ended}
    counts = Counter(indicator for _, _, indicator in rows)
    return min(counts, key=lambda name: (-counts[name], name == "all", name))


def labels(choices: Iterable[Choice]) -> dict[str, str]:
    """Name each choice by digest: its name, with the settings in which choices of that name differ."""
    by_name: dict[str, dict[str, Choice]] = defaultdict(dict)
    for choice in choices:
        by_name[choice.name][choice.digest] = choice
    return {
        digest: selector(choice, only=_differing([_settings(other) for other in group.values()]))
        for group in by_name.values()
        for digest, choice in group.items()
    }


def selector(choice: Choice, *, only: Iterable[str] | None = None) -> str:
    """Write a choice as it is selected on the command line: `adasparse[form=fusion,r_min=0.15]`."""
    settings = _settings(choice)
    shown = sorted(settings) if only is None else [name for name in sorted(only) if name in settings]
    inside = ",".join(f"{name}={show_value(settings[name])}" for name in shown)
    return f"{choice.name}[{inside}]" if inside else choice.name


def show_value(value: object) -> str:
    """Write a setting as a selector takes it: bare text, `128-64` for a list, `none` for none."""
    if isinstance(value, (list, tuple)):
        return "-".join(show_value(part) for part in value)
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def estimate(values: Iterable[float]) -> Estimate | None:
    """Mean and sample standard deviation; None for no values."""
    found = list(values)
    if not found:
        return None
    std = statistics.stdev(found) if len(found) > 1 else None
    return Estimate(mean=statistics.fmean(found), std=std, num=len(found))


def gain(row: Row, plain: Row, metric: str) -> dict[int, float]:
    """Metric of a row minus that of the plain backbone, by seed, over the seeds that both have."""
    base = plain.values(metric)
    return {seed: value - base[seed] for seed, value in row.values(metric).items() if seed in base}


def domain_gain(row: Row, plain: Row) -> Interval | None:
    """Return the gain in GAUC over the plain backbone with an interval over resampled domains, means over seeds."""
    seeds = sorted(row.results.keys() & plain.results.keys())
    if not seeds:
        return None
    ours, theirs = (
        average([grouped_columns(one.results[seed].domains) for seed in seeds]) for one in (row, plain)
    )
    return bootstrap_domains(ours, theirs)


def stand(rows: Sequence[Row], metric: str) -> dict[tuple[str, str], Standing]:
    """Return where each row stands by a metric, by (backbone, method); rows without a value are left out.

    Only pairs with `MIN_SEEDS` common seeds are tested. The best row has enough seeds and no failed run, if there is
    such a row. A row with failed runs has no test of its own: its std holds the failures.
    """
    by_name = {f"{row.backbone}/{row.method}": row for row in rows if row.values(metric)}
    found = standings(
        {name: row.values(metric) for name, row in by_name.items()},
        higher_is_better=higher_is_better(metric) is not False,
        min_seeds=MIN_SEEDS,
        candidates=_candidates(by_name, metric),
    )
    placed = {(by_name[one.name].backbone, by_name[one.name].method): one for one in found}
    failing = {(row.backbone, row.method) for row in by_name.values() if row.num_failed}
    return {
        name: replace(one, is_tied=False, p_holm=None) if name in failing else one
        for name, one in placed.items()
    }


def _candidates(rows: Mapping[str, Row], metric: str) -> set[str]:
    """Return the names of the rows that may be the best: enough seeds first, then no failed run."""
    full = {name: row for name, row in rows.items() if len(row.values(metric)) >= MIN_SEEDS} or rows
    return {name for name, row in full.items() if not row.num_failed} or set(full)


def _collapse_note(row: Row) -> str:
    """Return which runs of a row collapsed, and the AUC of its other runs."""
    seeds = ", ".join(map(str, row.collapsed))
    dev = ", ".join(f"{auc:.3f}" for auc in row.collapsed.values())
    others = estimate(value for seed, value in row.values(Metric.AUC).items() if seed not in row.collapsed)
    spread = f" ± {others.std:.4f}" if others and others.std is not None else ""
    rest = f"; AUC of the others {others.mean:.4f}{spread}" if others else ""
    return f"Failed: {row.method} on {row.backbone}, seed {seeds}: training collapsed (dev AUC {dev}){rest}."


def higher_is_better(metric: str) -> bool | None:
    """Return whether higher values of a metric are better; None where neither end is, or the metric is unknown."""
    known = builtin_metrics().by_name.get(metric)
    return known.higher_is_better if known else None


def sentence(error: str | None) -> str:
    """Make one sentence of an error: its first line, not overlong, with a full stop."""
    line = (error or "no reason recorded").strip().splitlines()[0].strip()
    short = line if len(line) <= 240 else f"{line[:239].rstrip()}…"
    return short if short.endswith((".", "…", "!", "?")) else f"{short}."


def _rows(records: list[RunRecord], backbones: dict[str, str], methods: dict[str, str]) -> tuple[Row, ...]:
    groups: dict[tuple[str, str, str], list[RunRecord]] = defaultdict(list)
    main, same = main_indicator(records), _indifferent(records)
    for record in _once(records, main, same):
        key = record.key
        by = "" if key.indicator == main or _pair(record) in same else f", by {key.indicator}"
        groups[backbones[key.backbone.digest], methods[key.method.digest], by].append(record)
    rows = [
        Row(
            backbone=backbone,
            method=f"{method}{by}",
            finished=tuple(record for record in group if record.status == "finished"),
            unfinished=tuple(record for record in group if record.status != "finished"),
            by=by,
        )
        for (backbone, method, by), group in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: (_order(row.backbone), _order(row.method))))


Pair = tuple[str, str]
"""Digests of a backbone and a method."""


def _pair(record: RunRecord) -> Pair:
    return record.key.backbone.digest, record.key.method.digest


def _indifferent(records: Iterable[RunRecord]) -> set[Pair]:
    """Return what does not heed the indicator: the backbones themselves, and what predicts the same by all that it met.

    That is known where a seed has runs by several indicators, and in every such seed all predict the same.
    """
    same = set[Pair]()
    made: dict[Pair, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if _is_bare(record):
            same.add(_pair(record))
        if record.result is not None:
            made[_pair(record)][record.key.seed].append(record.result.predictions_sha256)
    for pair, seeds in made.items():
        several = [found for found in seeds.values() if len(found) > 1]
        if several and all(len(set(found)) == 1 for found in several):
            same.add(pair)
    return same


def _once(records: list[RunRecord], main: str, same: set[Pair]) -> list[RunRecord]:
    """Leave out runs that do not heed the indicator and were made again by another."""
    known: dict[tuple[Pair, int], RunRecord] = {}
    for record in records:
        place = _pair(record), record.key.seed
        if place[0] in same:
            known[place] = min(
                (record, known.get(place, record)),
                key=lambda one: (one.status != "finished", one.key.indicator != main),
            )
    kept = {record.digest for record in known.values()}
    return [one for one in records if _pair(one) not in same or one.digest in kept]


def _is_bare(record: RunRecord) -> bool:
    """Whether this is the backbone and nothing else: normalisation or an auxiliary network may go by the indicator."""
    method = record.key.method
    return method.name == PLAIN and not any(value not in (None, "none") for value in method.settings.values())


def _order(label: str) -> tuple[int, str]:
    name = label.split("[")[0].split(",")[0]
    place = PAPER_ORDER.index(name) if name in PAPER_ORDER else len(PAPER_ORDER)
    return place, label


def _comparison_order(comparison: Comparison) -> tuple[str, bool, str, str]:
    key = comparison.key
    return key.dataset, key.domain_set != "default", key.domain_set, _text(conditions(key))


def _apart(all_conditions: Sequence[dict[str, object]]) -> list[str]:
    """Say of each what sets it apart from others of the same dataset, in the order of the conditions."""
    return [
        ", ".join(
            f"{name} {show_value(found[name])}"
            for name in found
            if name in _differing([other for other in all_conditions if other["dataset"] == found["dataset"]])
        )
        for found in all_conditions
    ]


def _differing(mappings: Sequence[Mapping[str, object]]) -> set[str]:
    names = {name for mapping in mappings for name in mapping}
    return {name for name in names if len({_text(mapping.get(name, "<absent>")) for mapping in mappings}) > 1}


def _settings(choice: Choice) -> dict[str, object]:
    source = {"source": choice.source[:8]} if choice.source else {}
    return {**choice.settings, **source}


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _no_records(store: RunStore, dataset: str) -> StoreError:
    known = sorted({file.parent.name for file in find_files(store.results, "*/*.json")})
    there = f" (records there: {', '.join(known)})" if known else ""
    return StoreError(
        f"no records of {dataset} in {store.results}{there}",
        remedy=f"make some with: ctrbench run --dataset {dataset} --methods plain,adasparse "
        f"--backbone dnn --results {store.results}",
    )
