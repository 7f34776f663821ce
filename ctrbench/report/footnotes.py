"""Footnotes that several tables share: meaning of the marks, failed runs, indicators, provenance of records."""

from __future__ import annotations

from collections.abc import Iterable

from ctrbench.eval.protocol import MIN_SEEDS
from ctrbench.report.comparison import Comparison, Row
from ctrbench.report.estimate import Estimate
from ctrbench.report.summary import Summary
from ctrbench.report.table import DASH

BEST_NOTE = "Bold: the best mean of its backbone."
FEW_SEEDS_NOTE = f"Too few seeds for a test (fewer than {MIN_SEEDS})."
USERS_NOTE = (
    "GAUC over users: AUC within each user, weighted by rows, over users of the training rows with both classes among "
    f"the test rows; {DASH}: there is no such user, or the data have no users."
)


def mark_notes(summary: Summary) -> Iterable[str]:
    """Yield the notes of Table 1: marks, provenance of the records, failed runs."""
    yield best_note(summary.comparison)
    yield seeds_note(summary.comparison)
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


def seeds_note(comparison: Comparison, family: str = "the methods of the backbone") -> str:
    """Return a sentence on the meaning of ± and †, or on too few seeds for a test."""
    if comparison.num_seeds < 2:
        return f"One seed: no deviation. {FEW_SEEDS_NOTE}"
    deviation = f"±: standard deviation over {_seed_counts(comparison)} seeds."
    if comparison.num_seeds < MIN_SEEDS:
        return f"{deviation} {FEW_SEEDS_NOTE}"
    return (
        f"{deviation} †: difference from the best not significant (two-sided paired t-test over the common seeds, "
        f"Holm-adjusted over {family}, 5 %; it applies to other seeds, not to other test users). Rows with fewer than "
        f"{MIN_SEEDS} seeds or with failed runs are not tested."
    )


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
