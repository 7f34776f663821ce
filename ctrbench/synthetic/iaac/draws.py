"""Random draws that the entities of the twin share: named streams, ids, levels, ranks and owners."""

from __future__ import annotations

import zlib

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ctrbench.synthetic.iaac import marginals
from ctrbench.synthetic.iaac.marginals import Floats, Levels

Integers = NDArray[np.int64]


def draw(seed: int, stream: str, part: int = 0) -> np.random.Generator:
    """Return the random generator of a named stream; streams are independent of each other and of the call order."""
    entropy = np.random.SeedSequence([seed, zlib.crc32(stream.encode()), part])
    return np.random.Generator(np.random.Philox(entropy))


def scramble(index: NDArray[np.int64], seed: int, stream: str, bits: int = 63) -> Integers:
    """Map indices one-to-one to numbers of `bits` bits, in an order that looks random."""
    mask = np.uint64(2**bits - 1)
    offset, first, second = draw(seed, f"ids of {stream}").integers(0, 2**bits, 3, dtype=np.uint64)
    value = (index.astype(np.uint64) + offset) & mask
    for factor in (first | np.uint64(1), second | np.uint64(1)):
        value ^= value >> np.uint64(bits // 2 + 1)
        value = (value * factor) & mask
    value ^= value >> np.uint64(bits // 2 + 1)
    return np.asarray(value, dtype=np.int64)


def assign_levels(levels: Levels, score: Floats, weights: Floats) -> Integers:
    """Return one level per entity, increasing with the score, such that the weights of each level sum to its share."""
    order = np.argsort(score, kind="stable")
    middle = np.empty_like(score)
    middle[order] = np.cumsum(weights[order]) - weights[order] / 2
    indices = np.searchsorted(np.cumsum(marginals.shares(levels)), middle / weights.sum(), side="right")
    values = np.array(list(levels), dtype=np.int64)
    return np.asarray(values[np.minimum(indices, len(levels) - 1)], dtype=np.int64)


def draw_ranks(uniform: Floats, size: NDArray[np.int64] | int, exponent: float) -> Integers:
    """Draw ranks 0, 1, … below `size`, with probability approximately proportional to (rank + 1) ** -exponent."""
    power = 1 - exponent
    ranks = np.power((np.power(size + 1.0, power) - 1) * uniform + 1, 1 / power) - 1
    return np.asarray(np.minimum(ranks, size - 1.0), dtype=np.int64)


def select(uniform: Floats, cumulative: Floats) -> Integers:
    """Return the indices that uniforms select from cumulative shares."""
    indices = np.searchsorted(cumulative, uniform, side="right")
    return np.asarray(np.minimum(indices, len(cumulative) - 1), dtype=np.int64)


def assign_owners(weights: Floats, shares: Floats, rng: np.random.Generator) -> Integers:
    """Return one owner per entity, such that the weights of an owner's entities sum to approximately its share.

    If there are enough entities, every owner gets one, small owners mostly a light one, and the others are drawn in
    proportion to the shares still missing. Otherwise some owners have none.
    """
    owner = select(rng.random(len(weights)), np.cumsum(shares))
    if len(shares) > 0.7 * len(weights):
        return owner
    order = np.argsort(-weights * np.exp(0.5 * rng.standard_normal(len(weights))), kind="stable")
    first = order[np.sort(rng.permutation(len(weights))[: len(shares)])]
    missing_shares = marginals.normalized(np.maximum(shares - weights[first], 0.0))
    owner = select(rng.random(len(weights)), np.cumsum(missing_shares))
    owner[first] = np.arange(len(shares))
    return owner


def join_columns(columns: dict[str, Integers | pl.Series]) -> pl.Series:
    """Return the columns joined by spaces, as in the raw file."""
    series = [pl.Series(name, values) for name, values in columns.items()]
    return pl.select(pl.concat_str(series, separator=" ")).to_series()
