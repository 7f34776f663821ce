"""Counter-based random numbers: Philox4x32-10, normals by AS 241, and permutations of ids (spec: production-9.2).

Every random quantity is a function of (seed, stream, a, b, lane), so any process can generate any row in any order. A
block has four words of 32 bits: two uniforms in (0, 1), or four small integers where one word is enough. Words are
stored in numpy's uint64, because numba promotes a signed and an unsigned integer to float. Normals use the quantile
function of Wichura (1988), Applied Statistics 37, algorithm AS 241, routine PPND16.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ctrbench.compiled import compiled

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

WORD = 1 << 32
_MASK, _SHIFT = np.uint64(WORD - 1), np.uint64(32)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_HALF, _LARGEST = 2.0**-54, 1.0 - 2.0**-53
_FEISTEL_ROUNDS = 4
_MIX = np.uint64(0x9E3779B97F4A7C15)


@compiled
def philox(
    c0: np.uint64, c1: np.uint64, c2: np.uint64, c3: np.uint64, k0: np.uint64, k1: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """Return the four words of a block; counter and key are words as well, each in a uint64."""
    for _ in range(10):
        low, high = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (high >> _SHIFT) ^ c1 ^ k0, high & _MASK, (low >> _SHIFT) ^ c3 ^ k1, low & _MASK
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return c0, c1, c2, c3


@compiled
def words(
    seed: int, stream: int, a: int, b: int = 0, lane: int = 0
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """Return the block of (seed, stream, a, b, lane); `a` has 64 bits, the others 32."""
    wide = np.uint64(a)
    return philox(
        wide & _MASK, wide >> _SHIFT, np.uint64(b), np.uint64(lane), np.uint64(seed), np.uint64(stream)
    )


@compiled
def uniform(first: np.uint64, second: np.uint64) -> float:
    """Return a number in (0, 1) with 53 random bits from two words."""
    bits = ((first >> np.uint64(5)) << np.uint64(26)) + (second >> np.uint64(6))
    # The largest of the 2^53 values would be rounded to 1.
    return min(np.float64(bits) * 2.0**-53 + _HALF, _LARGEST)


@compiled
def uniforms(seed: int, stream: int, a: int, b: int = 0, lane: int = 0) -> tuple[float, float]:
    """Return the two uniforms of a block."""
    w0, w1, w2, w3 = words(seed, stream, a, b, lane)
    return uniform(w0, w1), uniform(w2, w3)


@compiled
def below(word: np.uint64, size: int) -> int:
    """Return an integer in [0, size) from one word; probabilities are equal up to 2^-32."""
    return np.int64((word * np.uint64(size)) >> _SHIFT)  # type: ignore[return-value]


@compiled
def normal(probability: float) -> float:
    """Return the quantile of the standard normal distribution, accurate to about 16 digits."""
    q = probability - 0.5
    if abs(q) <= 0.425:
        return q * _central_quantile(0.180625 - q * q)
    tail = probability if q < 0 else 1.0 - probability
    r = math.sqrt(-math.log(tail))
    value = _intermediate_quantile(r - 1.6) if r <= 5.0 else _tail_quantile(r - 5.0)
    return -value if q < 0 else value


@compiled
def _central_quantile(r: float) -> float:
    top = 2.5090809287301226727e3
    top = top * r + 3.3430575583588128105e4
    top = top * r + 6.7265770927008700853e4
    top = top * r + 4.5921953931549871457e4
    top = top * r + 1.3731693765509461125e4
    top = top * r + 1.9715909503065514427e3
    top = top * r + 1.3314166789178437745e2
    top = top * r + 3.3871328727963666080e0
    low = 5.2264952788528545610e3
    low = low * r + 2.8729085735721942674e4
    low = low * r + 3.9307895800092710610e4
    low = low * r + 2.1213794301586595867e4
    low = low * r + 5.3941960214247511077e3
    low = low * r + 6.8718700749205790830e2
    low = low * r + 4.2313330701600911252e1
    return top / (low * r + 1.0)


@compiled
def _intermediate_quantile(r: float) -> float:
    top = 7.74545014278341407640e-4
    top = top * r + 2.27238449892691845833e-2
    top = top * r + 2.41780725177450611770e-1
    top = top * r + 1.27045825245236838258e0
    top = top * r + 3.64784832476320460504e0
    top = top * r + 5.76949722146069140550e0
    top = top * r + 4.63033784615654529590e0
    top = top * r + 1.42343711074968357734e0
    low = 1.05075007164441684324e-9
    low = low * r + 5.47593808499534494600e-4
    low = low * r + 1.51986665636164571966e-2
    low = low * r + 1.48103976427480074590e-1
    low = low * r + 6.89767334985100004550e-1
    low = low * r + 1.67638483018380384940e0
    low = low * r + 2.05319162663775882187e0
    return top / (low * r + 1.0)


@compiled
def _tail_quantile(r: float) -> float:
    top = 2.01033439929228813265e-7
    top = top * r + 2.71155556874348757815e-5
    top = top * r + 1.24266094738807843860e-3
    top = top * r + 2.65321895265761230930e-2
    top = top * r + 2.96560571828504891230e-1
    top = top * r + 1.78482653991729133580e0
    top = top * r + 5.46378491116411436990e0
    top = top * r + 6.65790464350110377720e0
    low = 2.04426310338993978564e-15
    low = low * r + 1.42151175831644588870e-7
    low = low * r + 1.84631831751005468180e-5
    low = low * r + 7.86869131145613259100e-4
    low = low * r + 1.48753612908506148525e-2
    low = low * r + 1.36929880922735805310e-1
    low = low * r + 5.99832206555887937690e-1
    return top / (low * r + 1.0)


@compiled
def normals(seed: int, stream: int, a: int, b: int = 0, lane: int = 0) -> tuple[float, float]:
    """Return the two normals of a block."""
    first, second = uniforms(seed, stream, a, b, lane)
    return normal(first), normal(second)


@compiled
def normal_table(seed: int, stream: int, num_rows: int, num_columns: int) -> Floats:
    """Return independent standard normals (num_rows, num_columns).

    Element (a, c) is normal c % 2 of the block with index a and lane c // 2.
    """
    table = np.empty((num_rows, num_columns))
    for a in range(num_rows):
        for column in range(num_columns):
            pair = normals(seed, stream, a, 0, column // 2)
            table[a, column] = pair[column % 2]
    return table


@compiled
def uniform_table(seed: int, stream: int, size: int) -> Floats:
    """Return `size` independent uniforms, the first of each block."""
    table = np.empty(size)
    for a in range(size):
        table[a] = uniforms(seed, stream, a)[0]
    return table


@compiled
def feistel_keys(seed: int, stream: int) -> NDArray[np.uint64]:
    """Return the keys of a permutation, one per round."""
    keys = np.empty(_FEISTEL_ROUNDS, dtype=np.uint64)
    for i in range(_FEISTEL_ROUNDS):
        high, low = words(seed, stream, i)[:2]
        keys[i] = (high << _SHIFT) | low
    return keys


@compiled
def half_bits(size: int) -> int:
    """Return the bit widths of both halves of a number below `size`, as lower + 1000 * upper.

    The upper half has as many bits as the lower one, or one more.
    """
    bits = 2
    while (1 << bits) < size:
        bits += 1
    return bits // 2 + 1000 * (bits - bits // 2)


@compiled
def permuted(index: int, size: int, keys: NDArray[np.uint64]) -> int:
    """Return the image of an index under a permutation of [0, size).

    A Feistel network on the smallest sufficient number of bits is applied until the value is below `size`.
    """
    widths = half_bits(size)
    low_bits, high_bits = np.uint64(widths % 1000), np.uint64(widths // 1000)
    low_mask = (np.uint64(1) << low_bits) - np.uint64(1)
    high_mask = (np.uint64(1) << high_bits) - np.uint64(1)
    value = np.uint64(index)
    while True:
        low, high = value & low_mask, value >> low_bits
        for i in range(0, len(keys), 2):
            high ^= _round_function(low, keys[i]) & high_mask
            low ^= _round_function(high, keys[i + 1]) & low_mask
        value = (high << low_bits) | low
        if value < np.uint64(size):
            return np.int64(value)  # type: ignore[return-value]


@compiled
def _round_function(half: np.uint64, key: np.uint64) -> np.uint64:
    value = (half ^ key) * _MIX
    value ^= value >> _SHIFT
    value *= _MIX
    return value >> _SHIFT


def permutation(size: int, keys: NDArray[np.uint64]) -> Integers:
    """Return the permutation of [0, size) as an array."""
    return np.array([permuted(index, size, keys) for index in range(size)], dtype=np.int64)
