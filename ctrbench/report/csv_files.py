"""The numbers of a report as tidy CSV: one number per line, unrounded, with everything that identifies it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence

from ctrbench.eval.metrics.auc import Auc
from ctrbench.eval.stored import BinMetrics
from ctrbench.eval.verdicts import RankRange
from ctrbench.report.comparison import Comparison, Row
from ctrbench.report.control_gains import ControlGains
from ctrbench.report.differences import Gain
from ctrbench.report.estimate import Estimate
from ctrbench.report.summary import RowSummary, Summary

OVERALL_COLUMNS = (
    "comparison",
    "dataset",
    "data_digest",
    "domain_set",
    "domain_features",
    "indicator",
    "backbone",
    "method",
    "variant",
    "metric",
    "mean",
    "std",
    "seeds",
    "failed",
    "is_best",
    "gain_mean",
    "gain_std",
    "gain_seeds",
    "gain_domains_low",
    "gain_domains_high",
    "gain_low",
    "gain_high",
    "gain_se_seeds",
    "gain_se_users",
    "gain_p",
    "verdict",
    "rank_first",
    "rank_last",
    "backbone_settings",
    "method_settings",
)
BIN_COLUMNS = (
    *OVERALL_COLUMNS[:8],
    "bin",
    "domains",
    "rows_train",
    "rows",
    "metric",
    "mean",
    "std",
    "seeds",
    "gain_mean",
    "gain_std",
    "gain_seeds",
)

GAINS = ("over_plain", "beyond_domains", "beyond_cost")
"""Gains of `ControlGains`, which begin the names of their columns."""
CONTROL_COLUMNS = (
    *OVERALL_COLUMNS[:8],
    "metric",
    "mean",
    "std",
    "seeds",
    "multiply_adds",
    "equal_cost_backbone",
    "equal_cost_multiply_adds",
    "equal_cost_mean",
    *(f"{gain}_{part}" for gain in GAINS for part in ("mean", "std", "seeds", "low", "high", "verdict")),
)


def overall_csv(summaries: Sequence[Summary]) -> str:
    """Return every metric of every row and variant, and of the oracle, one number per line."""
    lines = [
        {**_row_columns(number, summary.comparison, row.row), **line}
        for number, summary in enumerate(summaries, start=1)
        for row in summary.rows
        for line in _metric_lines(row)
    ]
    oracles = [
        {
            **_comparison_columns(number, summary.comparison),
            "method": "oracle",
            "metric": metric,
            "mean": value,
        }
        for number, summary in enumerate(summaries, start=1)
        for metric, value in sorted(summary.comparison.oracle.items())
    ]
    return _csv_text(OVERALL_COLUMNS, [*lines, *oracles])


def bins_csv(summaries: Sequence[Summary]) -> str:
    """Return every metric of every bin and row, with the gain over plain, one number per line."""
    lines = [
        {**_row_columns(number, summary.comparison, row.row), **line}
        for number, summary in enumerate(summaries, start=1)
        for row in summary.rows
        for line in _bin_lines(summary.bins.bins, row)
    ]
    return _csv_text(BIN_COLUMNS, lines)


def controls_csv(summaries: Sequence[Summary]) -> str:
    """Return the gain of every row over plain, shuffled domains and plain at equal cost, by metric."""
    lines = [
        {**_row_columns(number, summary.comparison, gains.row), **_control_columns(gains, metric)}
        for number, summary in enumerate(summaries, start=1)
        for metric, of_metric in summary.controls.items()
        for gains in of_metric
    ]
    return _csv_text(CONTROL_COLUMNS, lines)


def _control_columns(gains: ControlGains, metric: str) -> dict[str, object]:
    costs = {"multiply_adds": gains.row, "equal_cost_multiply_adds": gains.equal_cost}
    columns: dict[str, object] = {"metric": metric, **_estimate_columns(gains.score)}
    columns |= {name: None if row is None else row.multiply_adds for name, row in costs.items()}
    columns |= {
        "equal_cost_backbone": None if gains.equal_cost is None else gains.equal_cost.backbone,
        "equal_cost_mean": None if gains.equal_cost_score is None else gains.equal_cost_score.mean,
    }
    for prefix in GAINS:
        gain: Gain | None = getattr(gains, prefix)
        columns |= _estimate_columns(gain.estimate if gain else None, prefix=f"{prefix}_")
        differences = _difference_columns(gain) if gain else {}
        columns |= {f"{prefix}_{name}": differences.get(name) for name in ("low", "high", "verdict")}
    return columns


def tidy_csv(lines: Sequence[Mapping[str, object]]) -> str:
    """Return lines that all have the columns of the first."""
    return _csv_text(tuple(lines[0]), lines)


def _metric_lines(row: RowSummary) -> Iterable[dict[str, object]]:
    settings = {
        "failed": row.row.num_failed,
        "backbone_settings": json.dumps(row.row.key.backbone.settings, sort_keys=True),
        "method_settings": json.dumps(row.row.key.method.settings, sort_keys=True),
    }
    for metric, score in row.scores.items():
        columns = {
            **_estimate_columns(score.estimate),
            "is_best": score.is_best,
            **_gain_columns(score.gain),
            **(_rank_columns(row.rank) if metric == Auc.name else {}),
        }
        yield {"metric": metric, **columns, **settings}
    for name, value in row.costs.items():
        yield {"metric": name, **_estimate_columns(value), **settings}
    for variant, estimates in row.variants.items():
        for metric, value in estimates.items():
            yield {"variant": variant, "metric": metric, **_estimate_columns(value), **settings}


def _bin_lines(bins: Sequence[BinMetrics], row: RowSummary) -> Iterable[dict[str, object]]:
    for index, bin_ in enumerate(bins):
        facts = {"bin": bin_.bin, "domains": bin_.domains, "rows_train": bin_.rows_train, "rows": bin_.rows}
        for metric, scores in row.bins.items():
            score = scores[index]
            columns = {**_estimate_columns(score.estimate), **_estimate_columns(score.gain, prefix="gain_")}
            yield {**facts, "metric": metric, **columns}


def _comparison_columns(number: int, comparison: Comparison) -> dict[str, object]:
    key = comparison.key
    return {
        "comparison": number,
        "dataset": key.dataset,
        "data_digest": key.data_digest,
        "domain_set": key.domain_set,
        "domain_features": ",".join(key.domain_features),
        "indicator": comparison.indicator,
    }


def _row_columns(number: int, comparison: Comparison, row: Row) -> dict[str, object]:
    own = {"indicator": row.key.indicator, "backbone": row.backbone, "method": row.method}
    return {**_comparison_columns(number, comparison), **own}


def _estimate_columns(value: Estimate | None, *, prefix: str = "") -> dict[str, object]:
    mean, std, num = (None, None, 0) if value is None else (value.mean, value.std, value.num)
    return {f"{prefix}mean": mean, f"{prefix}std": std, f"{prefix}seeds": num}


def _gain_columns(gain: Gain | None) -> dict[str, object]:
    """Return the gain over plain, paired by seed, with its intervals: over seeds and users, and over domains."""
    if gain is None:
        return {}
    interval = gain.over_domains
    bounds = {"gain_domains_low": interval.low, "gain_domains_high": interval.high} if interval else {}
    differences = _difference_columns(gain)
    verdict = {"verdict": differences.pop("verdict")} if differences else {}
    named = {f"gain_{name}": value for name, value in differences.items()}
    return {**_estimate_columns(gain.estimate, prefix="gain_"), **bounds, **named, **verdict}


def _difference_columns(gain: Gain) -> dict[str, object]:
    """Return the verdict on a gain with its interval over seeds and users, where that is known."""
    if gain.difference is None:
        return {}
    uncertainty = gain.difference.contrast.uncertainty
    verdict = str(gain.difference.verdict)
    if uncertainty is None:
        return {"verdict": verdict}
    return {
        "low": uncertainty.low,
        "high": uncertainty.high,
        "se_seeds": uncertainty.seeds,
        "se_users": uncertainty.users,
        "p": uncertainty.p,
        "verdict": verdict,
    }


def _rank_columns(rank: RankRange | None) -> dict[str, object]:
    return {} if rank is None else {"rank_first": rank.first, "rank_last": rank.last}


def _csv_text(columns: Sequence[str], lines: Iterable[Mapping[str, object]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({name: _csv_value(value) for name, value in line.items()} for line in lines)
    return out.getvalue()


def _csv_value(value: object) -> object:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else value
