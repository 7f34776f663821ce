"""Synthetic twins of the IAAC raw files: same format, days, rates and marginals, with known click probabilities.

The real data are not freely available, and their true probabilities are unknown. A twin passes through the same reader
at the same size, and its true probabilities give the best score that a model can reach. Rows are drawn in blocks from
entities that depend on the seed and the number of rows, so memory use is constant. Instance ids are marked, so that the
reader recognizes a twin under any file name.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

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
from ctrbench.storage.files import free_bytes
from ctrbench.synthetic.iaac import marginals
from ctrbench.synthetic.iaac.draws import Integers, draw, scramble
from ctrbench.synthetic.iaac.marginals import DAYS
from ctrbench.synthetic.iaac.rows import Round, Rows, cumulative_days, draw_rows
from ctrbench.synthetic.iaac.truth import Truth, auc_ladder, calibrate, sigmoid, true_logit
from ctrbench.synthetic.iaac.world import CEILING, LEVELS, VARIANCES, World, make_world

VERSION = 2
"""Version of the generator; increased when the same seed and rows generate different files."""
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
    truth = calibrate(world, seed)
    done = 0
    with _atomic_files(out, _file_names(counts)) as parts:
        for number, count in counts.items():
            target = _Target(text=parts[FILES[number]], truth=parts[FILES[number] + TRUTH_SUFFIX])
            for written in _write_round(number, count, world, truth, target, seed):
                done += written
                if progress is not None:
                    progress(done, rows)
        description = _description(rows, counts, seed, truth, auc_ladder(world, truth, seed))
        parts[SIDECAR].write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def _rows_by_round(rows: int, rounds: Sequence[Round]) -> dict[Round, int]:
    if rows < MIN_ROWS:
        raise SettingError(f"a twin must have at least {MIN_ROWS} rows", value=rows)
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
        raise SettingError("a twin must be written to a folder", value=out)
    existing = [FILES[number] for number in FILES if (out / FILES[number]).exists()]
    if existing and not (out / SIDECAR).exists():
        raise SettingError(
            "a twin must not overwrite files that may be the real data",
            value=", ".join(str(out / name) for name in existing),
            remedy="choose another folder",
        )
    others = [name for name in existing if name not in _file_names(counts)]
    if others:
        raise SettingError(
            "a folder must contain one twin",
            value=f"{out / others[0]} belongs to another twin",
            remedy="remove it",
        )
    free = free_bytes(out)
    if free is not None and free < rows * BYTES_PER_ROW:
        raise _no_space(out, rows * BYTES_PER_ROW)
    out.mkdir(parents=True, exist_ok=True)


def _no_space(out: Path, needed: int | None = None) -> DataError:
    size = "" if needed is None else f" (about {needed / 1e9:.1f} GB)"
    return DataError(
        "no space left on the disk", value=out, remedy=f"free disk space{size}, or choose fewer rows"
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


@dataclass(frozen=True, kw_only=True)
class _Target:
    text: Path
    truth: Path


def _write_round(
    number: Round, count: int, world: World, truth: Truth, target: _Target, seed: int
) -> Iterator[int]:
    """Write text and truth of one round; yield the number of rows after each block."""
    days = cumulative_days(DAYS, number)
    probabilities = np.empty(count)
    with target.text.open("wb") as file:
        file.write((SEPARATOR.join(COLUMNS) + "\n").encode())
        for block, start in enumerate(range(0, count, BLOCK_ROWS)):
            rng = draw(seed, f"rows of round {number}", block)
            rows = draw_rows(world, min(BLOCK_ROWS, count - start), days, rng)
            probability = sigmoid(true_logit(world, truth, rows))
            probabilities[start : start + len(rows)] = probability
            label = rng.random(len(rows)) < probability
            first = start + (marginals.ROUND_ROWS[1] + count) * (number - 1)
            _write_block(file, world, rows, label, np.arange(first, first + len(rows)), seed)
            yield len(rows)
    pl.DataFrame({Column.PROBABILITY: probabilities}).write_parquet(target.truth)


def _write_block(
    file: BinaryIO, world: World, rows: Rows, label: NDArray[np.bool_], index: Integers, seed: int
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
    rows: int, counts: dict[Round, int], seed: int, truth: Truth, ladder: dict[str, dict[str, float]]
) -> dict[str, Any]:
    return {
        "what": "a synthetic twin of the IAAC raw files; not the real data",
        "version": VERSION,
        "seed": seed,
        "rows": rows,
        "files": {FILES[number]: count for number, count in counts.items()},
        "variances": VARIANCES,
        "day_levels": [round(float(level), 6) for level in truth.days],
        "levels": f"+ {LEVELS}",
        "ceiling": f"+ {CEILING}",
        "auc": ladder,
    }
