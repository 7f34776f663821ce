"""Synthetic twins of the IAAC raw files: same format, days, rates and marginals, with known click probabilities.

The real data are not freely available, and their true probabilities are unknown. A twin passes through the same reader
at the same size, and its true probabilities give the best score that a model can reach. Rows are drawn in blocks from
entities that depend on the seed and the number of rows, so memory use is constant. Instance ids are marked, so that the
reader recognizes a twin under any file name.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctrbench.errors import DataError, SettingError
from ctrbench.names import Column
from ctrbench.readers.iaac import (
    COLUMNS,
    ROUND1_FILE,
    ROUND2_FILE,
    SEPARATOR,
    TRUTH_SUFFIX,
    TWIN_MODULUS,
    TWIN_REMAINDER,
)
from ctrbench.synthetic.iaac import marginals
from ctrbench.synthetic.iaac.draws import Integers, draw, draw_ranks, scramble, select
from ctrbench.synthetic.iaac.marginals import DAYS, Day, Floats
from ctrbench.synthetic.iaac.world import VARIANCES, World, make_world

VERSION = 1
"""Version of the generator; increased when the same seed and rows generate different files."""
Round = Literal[1, 2]
FILES: dict[Round, str] = {1: ROUND1_FILE, 2: ROUND2_FILE}
SIDECAR = "twin.json"
BLOCK_ROWS = 1 << 17
MIN_ROWS = 100
BYTES_PER_ROW = 1_250
"""Upper estimate of the bytes per row, for checking the free disk space in advance."""
ID_BITS = 42
"""2 ** 42 marked ids are below 2 ** 63."""

Progress = Callable[[int, int], None]
"""Callback that receives the rows written so far, and the total number of rows."""


def make_twin(
    rows: int, out: Path, *, seed: int = 0, rounds: Sequence[Round] = (1, 2), progress: Progress | None = None
) -> None:
    """Write the raw files of a twin to the folder `out`, with their true probabilities and a description.

    Rows are distributed over the rounds in the proportions of the real data. The same rows, seed and rounds give the
    same files. Files get their final names when all of them are complete. Existing files of the same names are
    overwritten only if they belong to a twin.

    Raises:
        SettingError: if rows, rounds or the folder are invalid.
        DataError: if the disk is full.
    """
    counts = _rows_by_round(rows, rounds)
    _check_folder(out, counts, rows)
    world = make_world(rows, seed)
    truth = _calibrate(world, seed)
    done = 0
    with _atomic_files(out, _file_names(counts)) as parts:
        for number, count in counts.items():
            target = _Target(text=parts[FILES[number]], truth=parts[FILES[number] + TRUTH_SUFFIX])
            for written in _write_round(number, count, world, truth, target, seed):
                done += written
                if progress is not None:
                    progress(done, rows)
        description = _description(rows, counts, seed, truth, _ladder(world, truth, seed))
        parts[SIDECAR].write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


# --- the folder ----------------------------------------------------------------------------------------------------


def _rows_by_round(rows: int, rounds: Sequence[Round]) -> dict[Round, int]:
    if rows < MIN_ROWS:
        raise SettingError(f"a twin has at least {MIN_ROWS} rows", value=rows)
    if not rounds or len(set(rounds)) != len(rounds) or not set(rounds) <= set(FILES):
        raise SettingError("rounds must be 1, 2 or both", value=list(rounds))
    share = (
        marginals.ROUND_ROWS[1] / sum(marginals.ROUND_ROWS[number] for number in rounds)
        if 1 in rounds
        else 0.0
    )
    first = round(rows * share)
    counts: dict[Round, int] = {1: first, 2: rows - first}
    return {number: counts[number] for number in sorted(rounds)}


def _file_names(counts: dict[Round, int]) -> list[str]:
    texts = [FILES[number] for number in counts]
    return [*(text + TRUTH_SUFFIX for text in texts), *texts, SIDECAR]


def _check_folder(out: Path, counts: dict[Round, int], rows: int) -> None:
    if out.exists() and not out.is_dir():
        raise SettingError("a twin is written to a folder, not to a file", value=out)
    existing = [FILES[number] for number in FILES if (out / FILES[number]).exists()]
    if existing and not (out / SIDECAR).exists():
        raise SettingError(
            "files that may be the real data are never overwritten",
            value=", ".join(str(out / name) for name in existing),
            remedy="choose another folder",
        )
    others = [name for name in existing if name not in _file_names(counts)]
    if others:
        raise SettingError(
            "a folder holds one twin", value=f"{out / others[0]} is of a different one", remedy="remove it"
        )
    out.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(out).free < rows * BYTES_PER_ROW:
        raise _no_space(out, rows * BYTES_PER_ROW)


def _no_space(out: Path, needed: int | None = None) -> DataError:
    size = "" if needed is None else f" (about {needed / 1e9:.1f} GB)"
    return DataError(
        "no space left on the disk", value=out, remedy=f"free disk space{size}, or ask for fewer rows"
    )


@contextmanager
def _atomic_files(out: Path, names: Sequence[str]) -> Iterator[dict[str, Path]]:
    """Yield one temporary path per name; rename the files on success, remove them on failure."""
    parts = {name: out / f".{name}.part" for name in names}
    try:
        yield parts
        for name, part in parts.items():
            part.replace(out / name)
    except OSError as error:
        if error.errno == errno.ENOSPC or "os error 28" in str(error):
            raise _no_space(out) from None
        raise
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


# --- rows ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Drawn rows: time, user, item, query and page; entities as indices into the tables of the world."""

    day: Integers
    second: Integers
    """Second of the day."""
    user: Integers
    item: Integers
    query: Integers
    is_match: NDArray[np.bool_]
    """Whether the main category of the query is the category of the item."""
    page: Integers
    residual: Floats

    def __len__(self) -> int:
        return len(self.day)


def _draw_rows(world: World, number: int, days: Floats, rng: np.random.Generator) -> _Rows:
    """Draw rows; `days` holds the cumulative shares of the days."""
    day = select(rng.random(number), days)
    item = select(rng.random(number), np.cumsum(world.items.shares))
    is_match = rng.random(number) < 0.85
    other = rng.integers(0, len(world.queries.first), number)
    topic = np.where(is_match, world.items.category[item], other)
    rank = draw_ranks(rng.random(number), world.queries.number[topic], marginals.QUERIES.exponent)
    return _Rows(
        day=day,
        second=_seconds(day, rng),
        user=draw_ranks(rng.random(number), len(world.users.ids), marginals.USERS.exponent),
        item=item,
        query=world.queries.first[topic] + rank,
        is_match=is_match,
        page=select(rng.random(number), np.cumsum(marginals.shares(marginals.PAGES))),
        residual=rng.standard_normal(number),
    )


def _seconds(day: Integers, rng: np.random.Generator) -> Integers:
    """Draw the second of the day from the distribution of hours; the last day of round 2 has morning hours only."""
    cumulative = np.cumsum(marginals.shares(marginals.HOURS))
    hours_share = np.array([cumulative[day.hours - 1] for day in DAYS])
    hour = select(rng.random(len(day)) * hours_share[day], cumulative)
    return hour * 3600 + rng.integers(0, 3600, len(day))


# --- truth ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Truth:
    """Calibration: means and scales of the components of the logit, and the level of each day."""

    means: dict[str, float]
    scales: dict[str, float]
    days: Floats


def _raw_components(world: World, rows: _Rows) -> dict[str, Floats]:
    """Return the raw components of the logit, in the order of `VARIANCES`."""
    users, items = world.users, world.items
    flat = users.cell[rows.user] * len(items.shares) + rows.item
    context = world.pages[rows.page] + world.hours[rows.second // 3600] + 0.5 * rows.is_match
    return {
        "item": items.quality[rows.item],
        "user": users.level[rows.user],
        "context": context,
        "taste": np.einsum("ij,ij->i", users.taste[rows.user], items.taste[rows.item]),
        "structured": np.take(world.structured, flat).astype(np.float64),
        "idiosyncratic": np.take(world.idiosyncratic, flat).astype(np.float64),
        "residual": rows.residual,
    }


def _components(world: World, truth: _Truth, rows: _Rows) -> dict[str, Floats]:
    raw = _raw_components(world, rows)
    return {name: (part - truth.means[name]) * truth.scales[name] for name, part in raw.items()}


def _true_logit(world: World, truth: _Truth, rows: _Rows) -> Floats:
    return sum(_components(world, truth, rows).values(), truth.days[rows.day])


def _calibrate(world: World, seed: int) -> _Truth:
    """Estimate means and scales on a sample of rows, then solve for the level that gives each day its label rate."""
    rows = _draw_rows(world, BLOCK_ROWS, _cumulative(DAYS), draw(seed, "calibration"))
    raw = _raw_components(world, rows)
    truth = _Truth(
        means={name: float(part.mean()) for name, part in raw.items()},
        scales={name: float(np.sqrt(VARIANCES[name]) / part.std()) for name, part in raw.items()},
        days=np.zeros(len(DAYS)),
    )
    levels = [_day_level(world, truth, rows, day) for day in DAYS]
    return _Truth(means=truth.means, scales=truth.scales, days=np.array(levels))


def _day_level(world: World, truth: _Truth, rows: _Rows, day: Day) -> float:
    """Solve mean(sigmoid(level + logit)) = rate by Newton's method, over rows within the hours of the day."""
    logit = _true_logit(world, truth, rows)[rows.second < day.hours * 3600]
    level = float(np.log(day.rate / (1 - day.rate)))
    for _ in range(12):
        probability = _sigmoid(level + logit)
        level -= float((probability.mean() - day.rate) / (probability * (1 - probability)).mean())
    return level


def _sigmoid(logit: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-logit))


def _cumulative(days: Sequence[Day], number: Round | None = None) -> Floats:
    weights = [float(day.rows) if number in (None, day.round) else 0.0 for day in days]
    return np.cumsum(marginals.normalized(np.array(weights)))


def _ladder(world: World, truth: _Truth, seed: int) -> dict[str, dict[str, float]]:
    """Return the expected AUC after each component is added to the score, over all rows and over the last sixth.

    "level" scores include the level of the day, which no feature contains; "features" scores do not.
    """
    rows = _draw_rows(world, 2 * BLOCK_ROWS, _cumulative(DAYS), draw(seed, "ladder"))
    parts = _components(world, truth, rows)
    level = truth.days[rows.day]
    score = np.zeros(len(rows))
    probability = _sigmoid(sum(parts.values(), level))
    time = np.array([day.start for day in DAYS])[rows.day] + rows.second
    is_last = time >= np.quantile(time, 5 / 6)
    ladder = {"day": _ladder_step(level, level, probability, is_last)}
    for name, part in parts.items():
        score = score + part
        ladder[f"+ {name}"] = _ladder_step(score, score + level, probability, is_last)
    return ladder


def _ladder_step(
    features: Floats, level: Floats, probability: Floats, is_last: NDArray[np.bool_]
) -> dict[str, float]:
    scores = {"features": features, "level": level}
    return {
        f"{name}, {part}": round(expected_auc(score[mask], probability[mask]), 4)
        for name, score in scores.items()
        for part, mask in (("all rows", np.ones_like(is_last)), ("last sixth", is_last))
    }


def expected_auc(score: Floats, probability: Floats) -> float:
    """Return the expected AUC of a score when labels are drawn from the probabilities; ties count half."""
    values, index = np.unique(score, return_inverse=True)
    positive = np.bincount(index, probability, minlength=len(values))
    negative = np.bincount(index, 1 - probability, minlength=len(values))
    below = np.cumsum(negative) - negative / 2
    return float(positive @ below / (positive.sum() * negative.sum()))


# --- files ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Target:
    text: Path
    truth: Path


def _write_round(
    number: Round, count: int, world: World, truth: _Truth, target: _Target, seed: int
) -> Iterator[int]:
    """Write text and truth of one round; yield the number of rows after each block."""
    days = _cumulative(DAYS, number)
    probabilities = np.empty(count)
    with target.text.open("wb") as file:
        file.write((SEPARATOR.join(COLUMNS) + "\n").encode())
        for block, start in enumerate(range(0, count, BLOCK_ROWS)):
            rng = draw(seed, f"rows of round {number}", block)
            rows = _draw_rows(world, min(BLOCK_ROWS, count - start), days, rng)
            probability = _sigmoid(_true_logit(world, truth, rows))
            probabilities[start : start + len(rows)] = probability
            label = rng.random(len(rows)) < probability
            first = start + (marginals.ROUND_ROWS[1] + count) * (number - 1)
            _write_block(file, world, rows, label, np.arange(first, first + len(rows)), seed)
            yield len(rows)
    pl.DataFrame({Column.PROBABILITY: probabilities}).write_parquet(target.truth)


def _write_block(
    file: BinaryIO, world: World, rows: _Rows, label: NDArray[np.bool_], index: Integers, seed: int
) -> None:
    """Write rows as text; entities hold the text of several columns each."""
    users = world.users
    start = np.array([day.start for day in DAYS])
    frame = pl.DataFrame(
        {
            "instance": marked_ids(index, seed),
            "item": world.items.text.gather(rows.item),
            "user": users.ids[rows.user],
            "gender": users.gender[rows.user],
            "age": users.age[rows.user],
            "occupation": users.occupation[rows.user],
            "star": users.star[rows.user],
            "context": scramble(index, seed, "contexts"),
            "timestamp": start[rows.day] + rows.second,
            "page": 4001 + rows.page,
            "query": world.queries.text.gather(rows.query),
            "shop": world.shop_days.gather(world.items.shop[rows.item] * len(DAYS) + rows.day),
            "label": label.astype(np.int8),
        }
    )
    frame.write_csv(file, include_header=False, separator=SEPARATOR, quote_style="never")


def marked_ids(index: Integers, seed: int) -> Integers:
    """Return instance ids with the mark of a twin, distinct for distinct indices below 2 ** 42."""
    return scramble(index, seed, "instances", ID_BITS) * TWIN_MODULUS + TWIN_REMAINDER


def _description(
    rows: int, counts: dict[Round, int], seed: int, truth: _Truth, ladder: dict[str, dict[str, float]]
) -> dict[str, Any]:
    return {
        "what": "a synthetic twin of the IAAC raw files; not the real data",
        "version": VERSION,
        "seed": seed,
        "rows": rows,
        "files": {FILES[number]: count for number, count in counts.items()},
        "variances": VARIANCES,
        "day_levels": [round(float(level), 6) for level in truth.days],
        "auc": ladder,
    }
