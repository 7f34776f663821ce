"""Shuffled copies of domains: the control in which a method's domains mean nothing.

The tuples of domain features of a split are permuted among its rows, each tuple as a whole, so that the number of rows
of every composite domain stays the same. The permutation depends on the content of the data and on the split alone: a
row keeps its shuffled domain over epochs, seeds and methods, in memory and streamed.

The split's tuples, sorted and repeated by their counts, are never stored: row i receives the tuple at index π(i) of
that sequence, where π is a keyed permutation that is computed per row.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ctrbench.data.batches import SplitData
from ctrbench.data.domains import ROWS
from ctrbench.data.prepared import Prepared
from ctrbench.names import Split

ROUNDS = 8
"""Rounds of the Feistel network; four suffice for a permutation without visible structure."""
_WORD = (1 << 64) - 1


@dataclass(frozen=True, kw_only=True)
class ShuffledRows:
    """Shuffled domains of consecutive rows. Shapes: B rows, D domain features."""

    features_BD: NDArray[np.int32]
    domain_B: NDArray[np.int64]
    indicator_B: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ShuffledDomains:
    """The shuffled domains of all rows of a split. Shapes: T distinct tuples, D domain features."""

    features_TD: NDArray[np.int32]
    domain_T: NDArray[np.int64]
    indicator_T: NDArray[np.int64]
    end_T: NDArray[np.int64]
    """Number of rows with this tuple or an earlier one."""
    key: bytes
    """Key of the permutation."""

    @classmethod
    def of(cls, prepared: Prepared, split: Split, *, domain_set: str, indicator: str) -> ShuffledDomains:
        """Count the tuples of a split and return its shuffled domains.

        `indicator` is the feature that indexes per-domain parameters, which is shuffled with the domain features, or
        `all` for the composite domain.
        """
        features = prepared.domain_set(domain_set).features
        columns = tuple(dict.fromkeys((*features, *(() if indicator == "all" else (indicator,)))))
        counts = prepared.count_tuples(split, columns).sort(columns)
        domain_T = prepared.domain_ids(counts.to_arrow(), domain_set).astype(np.int64)
        return cls(
            features_TD=np.stack([counts[name].to_numpy() for name in features], axis=1).astype(np.int32),
            domain_T=domain_T,
            indicator_T=domain_T if indicator == "all" else counts[indicator].to_numpy().astype(np.int64),
            end_T=np.cumsum(counts[ROWS].to_numpy()),
            key=f"{prepared.manifest.content_digest}/{split}".encode(),
        )

    @property
    def num_rows(self) -> int:
        """Number of rows of the split."""
        return int(self.end_T[-1]) if len(self.end_T) else 0

    def rows(self, start: int, stop: int) -> ShuffledRows:
        """Return the shuffled domains of rows start..stop-1 of the split, in time order."""
        index_B = permuted(np.arange(start, stop), size=self.num_rows, key=self.key)
        tuple_B = np.searchsorted(self.end_T, index_B, side="right")
        return ShuffledRows(
            features_BD=self.features_TD[tuple_B],
            domain_B=self.domain_T[tuple_B],
            indicator_B=self.indicator_T[tuple_B],
        )


def with_shuffled_domains(data: SplitData, shuffle: ShuffledDomains, *, first: int = 0) -> SplitData:
    """Return rows whose domains are shuffled for the model and true for metrics.

    `first` is the number of the first row within the split; the rows must be consecutive and on the CPU.
    """
    shuffled = shuffle.rows(first, first + len(data))
    domain = torch.from_numpy(shuffled.domain_B)
    is_same = data.indicator_B is data.domain_B
    return replace(
        data,
        domain_B=domain,
        indicator_B=domain if is_same else torch.from_numpy(shuffled.indicator_B),
        copies_BD=torch.from_numpy(shuffled.features_BD),
        true_domain=data.domain_B.numpy(),
    )


def permuted(indices: NDArray[np.int64], *, size: int, key: bytes) -> NDArray[np.int64]:
    """Map indices below `size` by the permutation of 0..size-1 that `key` selects.

    A Feistel network permutes the smallest square of a power of two that is not below `size`; a value outside is
    permuted again until it is inside (cycle walking), at most a few times on average.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    values = _permuted_in_square(indices.astype(np.uint64), half, key)
    outside = np.flatnonzero(values >= size)
    while len(outside):
        values[outside] = _permuted_in_square(values[outside], half, key)
        outside = outside[values[outside] >= size]
    return values.astype(np.int64)


def _permuted_in_square(values: NDArray[np.uint64], half: int, key: bytes) -> NDArray[np.uint64]:
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    left, right = values >> shift, values & mask
    for i in range(ROUNDS):
        digest = hashlib.blake2b(key, digest_size=8, salt=bytes([i])).digest()
        left, right = right, left ^ (_mixed(right, int.from_bytes(digest, "big")) & mask)
    return (left << shift) | right


def _mixed(values: NDArray[np.uint64], key: int) -> NDArray[np.uint64]:
    """Return pseudo-random words for the values: the finalizer of SplitMix64 after adding the key."""
    words = values + np.uint64(key & _WORD)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
