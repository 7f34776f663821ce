"""Split of rows into train, dev and test, by time or by a hash.

By time, cuts are placed at row ranks (4 : 1 : 1), and all rows of one time are on the same side of a cut, so no session
is divided between training and test. The hash is defined here, over row numbers or the text of a key, since a library
may change its own between versions. No split depends on a training seed.
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
"""Per row, the index of its split in `SPLITS`."""


def split_by_time(time: NDArray[np.int64], parts: tuple[int, int, int]) -> Codes:
    """Split at the times of the rows whose ranks divide the rows into `parts`; rows at a cut's time follow the cut.

    >>> split_by_time(np.array([10, 20, 30, 30, 40, 50]), (4, 1, 1)).tolist()
    [0, 0, 0, 0, 1, 2]
    """
    ranks = [len(time) * share // sum(parts) for share in (parts[0], parts[0] + parts[1])]
    cuts = np.partition(time, ranks)[ranks] if len(time) else np.zeros(2, dtype=np.int64)
    codes = (time >= cuts[0]).astype(np.int8) + (time >= cuts[1]).astype(np.int8)
    times = np.unique(time)
    reason = f"{len(time)} rows have {len(times)} distinct times, and rows of one time stay together"
    return _check_not_empty(codes, reason, "use a finer timestamp, or split by = 'hash'")


def split_by_hash(hashes: NDArray[np.uint64], parts: tuple[int, int, int]) -> Codes:
    """Split by dividing the range of 64-bit hashes into `parts`."""
    shares = (parts[0], parts[0] + parts[1])
    bounds = np.array([(share << 64) // sum(parts) for share in shares], dtype=np.uint64)
    codes = np.searchsorted(bounds, hashes, side="right").astype(np.int8)
    reason = f"{len(hashes)} rows with {len(np.unique(hashes))} distinct keys are too few"
    return _check_not_empty(codes, reason, "add rows, or use a key with more values")


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
    """Return the row numbers in the order of shards (split, time, raw order) and the number of rows per split."""
    rows = [np.flatnonzero(codes == code) for code in range(len(SPLITS))]
    if time is not None:
        rows = [part[np.argsort(time[part], kind="stable")] for part in rows]
    return np.concatenate(rows), {split: len(part) for split, part in zip(SPLITS, rows, strict=True)}


def _check_not_empty(codes: Codes, reason: str, remedy: str) -> Codes:
    """Return the codes; raises `DataError` if a split has no rows."""
    counts = np.bincount(codes, minlength=len(SPLITS))
    empty = [split.value for split, count in zip(SPLITS, counts, strict=True) if count == 0]
    if empty:
        raise DataError(f"empty split, {reason}", value=", ".join(empty), remedy=remedy)
    return codes
