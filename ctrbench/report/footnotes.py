"""Footnotes that several tables share: bold type, verdicts, failed runs, indicators, provenance of records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ctrbench.eval.protocol import MARGIN, MIN_SEEDS, POWER
from ctrbench.report.comparison import Comparison, Row
from ctrbench.report.differences import Power
from ctrbench.report.estimate import Estimate
from ctrbench.report.summary import Summary
from ctrbench.report.table import DASH

BEST_NOTE = "Bold: the best mean of its backbone."
FEW_SEEDS_NOTE = f"Too few seeds for verdicts and ranks (fewer than {MIN_SEEDS})."
VERDICT_NOTE = (
    "Verdict: AUC against plain of the backbone. Better, worse: the interval over seeds and test users, simultaneous "
    f"over the methods of the backbone (95 %), excludes 0. Equivalent: it lies within ±{MARGIN}. Undecided: neither, "
    "or a run failed."
)
RANK_NOTE = "Rank: the ranks by AUC that the simultaneous intervals of all pairs of rows leave possible."
UNKNOWN_USERS_NOTE = (
    "Some of these records do not hold the influence of test users. Their differences are known over seeds only, so "
    "their verdicts are undecided."
)
USERS_NOTE = (
    "GAUC over users: AUC within each user, weighted by rows, over users of the training rows with both classes among "
    f"the test rows; {DASH}: there is no such user, or the data have no users."
)


def mark_notes(summary: Summary) -> Iterable[str]:
    """Yield the notes of Table 1: marks, provenance of the records, failed runs."""
    yield best_note(summary.comparison)
    yield from verdict_notes(summary)
    yield from _provenance_notes(summary.comparison)
    yield from _missing_notes(summary)
    yield from summary.comparison.failures
    yield from collapse_notes(summary)


def _missing_notes(summary: Summary) -> Iterable[str]:
    """Yield the metrics that some records lack, since they were added after the run and predictions are missing."""
    tests = [record.result.test for record in summary.comparison.records if record.result]
    for metric in summary.metrics.metrics:
        num_missing = sum(metric.name not in test for test in tests)
        if metric.in_table and num_missing:
            yield (
                f"{metric.title} is not known for {num_missing} of {len(tests)} runs: their predictions, from which it "
                "is computed, are not available."
            )


def best_note(comparison: Comparison) -> str:
    """Return the meaning of bold type."""
    rows = [row for row in comparison.rows if row.finished]
    is_mixed = comparison.num_seeds >= MIN_SEEDS and any(len(row.finished) < MIN_SEEDS for row in rows)
    if is_mixed or any(row.num_failed for row in rows):
        return f"{BEST_NOTE[:-1]}, of the rows with enough seeds and without failed runs if there are any."
    return BEST_NOTE


def std_note(comparison: Comparison) -> str:
    """Return the meaning of ±."""
    if comparison.num_seeds < 2:
        return "One seed: no deviation."
    return f"±: standard deviation over {_seed_counts(comparison)} seeds."


def verdict_notes(summary: Summary) -> Iterable[str]:
    """Yield the meaning of verdicts and ranks, and the power of the table; or the reason why there are no verdicts."""
    yield std_note(summary.comparison)
    if summary.comparison.num_seeds < MIN_SEEDS:
        yield FEW_SEEDS_NOTE
        return
    yield VERDICT_NOTE
    yield RANK_NOTE
    if summary.powers:
        yield _power_note(summary.powers)
    if any(record.result and record.result.influence is None for record in summary.comparison.records):
        yield UNKNOWN_USERS_NOTE


def _power_note(powers: Mapping[str, Power]) -> str:
    """Return a sentence such as `With 6 seeds and 1,605 test users a gap of 0.0019 is found in 80 %.`."""
    smallest = min(powers.values(), key=lambda power: power.num_seeds)
    gaps = ", ".join(f"{power.gap:.4f} ({backbone})" for backbone, power in powers.items())
    gaps = f"{smallest.gap:.4f}" if len(powers) == 1 else gaps
    return (
        f"With {smallest.num_seeds} seeds and {smallest.num_clusters:,} test {smallest.clusters}, a gap of {gaps} AUC "
        f"from plain is found in {POWER:.0%} of tables."
    ).replace("%", " %")


def _seed_counts(comparison: Comparison) -> str:
    counts = sorted({len(row.finished) for row in comparison.rows if row.finished})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def collapse_notes(summary: Summary) -> tuple[str, ...]:
    """Return one sentence per row with collapsed runs, with the mean AUC of its other runs."""
    return tuple(_collapse_note(row.row, row.auc_of_trained) for row in summary.rows if row.row.collapsed)


def _collapse_note(row: Row, others: Estimate | None) -> str:
    seeds = ", ".join(map(str, row.collapsed))
    dev = ", ".join(f"{auc:.3f}" for auc in row.collapsed.values())
    std = f" ± {others.std:.4f}" if others and others.std is not None else ""
    others_text = f"; AUC of the others {others.mean:.4f}{std}" if others else ""
    return f"Failed: {row.method} on {row.backbone}, seed {seeds}: training collapsed (dev AUC {dev}){others_text}."


def indicator_note(comparison: Comparison) -> Iterable[str]:
    """Yield the indicator that indexes per-domain parameters, if any method has some."""
    has_own = any(row.parameters is not None and row.parameters.per_domain for row in comparison.rows)
    others = comparison.other_indicators
    if has_own or others:
        others_text = "".join(
            f"; in rows labeled “by {other}”, by {_indicator_text(other)}" for other in others
        )
        yield f"Per-domain parameters are indexed by {_indicator_text(comparison.indicator)}{others_text}."


def _indicator_text(indicator: str) -> str:
    return "all domain features together" if indicator == "all" else indicator


def _provenance_notes(comparison: Comparison) -> Iterable[str]:
    versions = sorted({record.code.version for record in comparison.records})
    if len(versions) > 1:
        yield f"Records of several versions of ctrbench: {', '.join(versions)}."
    machines = {tuple(sorted(map(str, record.measured.machine.items()))) for record in comparison.records}
    if len(machines) > 1:
        yield f"Records of {len(machines)} different machines: seconds are not comparable."
