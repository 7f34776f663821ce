"""Train, dev and test: by time, or by a hash where there is none.

By time, the cut times stand at row ranks (4 : 1 : 1), and all rows of one time lie on one side of a cut, so that no
row of a session is trained on while its neighbour is tested. The hash is our own arithmetic over row numbers or over
the text of a key, not a library's that may change between versions; no split depends on a training seed.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from ctrbench.errors import DataError
from ctrbench.names import Split

SPLITS = tuple(Split)
Codes = NDArray[np.int8]
"""For each row the place of its split in `SPLITS`."""


def split_by_time(time: NDArray[np.int64], parts: tuple[int, int, int]) -> Codes:
    """Cut at the times of the rows whose rank divides the rows in `parts`; a cut's own time is after the cut.

    >>> split_by_time(np.array([10, 20, 30, 30, 40, 50]), (4, 1, 1)).tolist()
    [0, 0, 0, 0, 1, 2]
    """
    ranks = [len(time) * share // sum(parts) for share in (parts[0], parts[0] + parts[1])]
    cuts = np.partition(time, ranks)[ranks] if len(time) else np.zeros(2, dtype=np.int64)
    codes = (time >= cuts[0]).astype(np.int8) + (time >= cuts[1]).astype(np.int8)
    times = np.unique(time)
    reason = f"the times of {len(time)} rows take {len(times)} values and rows of one time stay together"
    return _none_empty(codes, reason, "name a finer timestamp, or split by = 'hash'")


def split_by_hash(hashes: NDArray[np.uint64], parts: tuple[int, int, int]) -> Codes:
    """Divide the range of 64-bit hashes in `parts`."""
    shares = (parts[0], parts[0] + parts[1])
    bounds = np.array([(share << 64) // sum(parts) for share in shares], dtype=np.uint64)
    codes = np.searchsorted(bounds, hashes, side="right").astype(np.int8)
    reason = f"{len(hashes)} rows with {len(np.unique(hashes))} distinct keys are too few"
    return _none_empty(codes, reason, "bring more rows, or name a key with more values")


def hash_rows(count: int) -> NDArray[np.uint64]:
    """Return the splitmix64 hash of each row number."""
    mixed = (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def hash_texts(texts: Iterable[str]) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each text."""
    digests = b"".join(blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def time_order(codes: Codes, time: NDArray[np.int64] | None) -> tuple[NDArray[np.int64], dict[Split, int]]:
    """Return the rows in the order of shards (split, time, raw order) and the number of rows a split."""
    rows = [np.flatnonzero(codes == place) for place in range(len(SPLITS))]
    if time is not None:
        rows = [part[np.argsort(time[part], kind="stable")] for part in rows]
    return np.concatenate(rows), {split: len(part) for split, part in zip(SPLITS, rows, strict=True)}


def _none_empty(codes: Codes, reason: str, remedy: str) -> Codes:
    counts = np.bincount(codes, minlength=len(SPLITS))
    empty = [split.value for split, count in zip(SPLITS, counts, strict=True) if count == 0]
    if empty:
        raise DataError(f"empty split, {reason}", value=", ".join(empty), remedy=remedy)
    return codes
