import math

import numpy as np
import pytest
from scipy.special import ndtri

from ctrbench.synthetic.philox import (
    below,
    feistel_keys,
    normal,
    normal_table,
    normals,
    permutation,
    philox,
    uniform,
    uniforms,
    words,
)

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "block"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((ONES,) * 4, (ONES, ONES), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_matches_the_reference_vectors(
    counter: tuple[int, ...], key: tuple[int, ...], block: str
) -> None:
    output = philox(*(np.uint64(word) for word in (*counter, *key)))
    assert " ".join(f"{word:08x}" for word in output) == block


def test_words_of_a_seed_stream_and_counter() -> None:
    block = words(20_240_601, 5, 12_345, 7, 3)
    assert [f"{word:08x}" for word in block] == ["9c6a1e2b", "5c392f1a", "df9d0136", "4096d5c9"]
    assert uniforms(20_240_601, 5, 12_345, 7, 3)[0] == 0.6109942299146023


def test_row_index_has_64_bits() -> None:
    high, low = 3, 7
    assert words(1, 2, (high << 32) + low) == philox(*(np.uint64(word) for word in (low, high, 0, 0, 1, 2)))


def test_uniforms_are_never_0_or_1() -> None:
    assert uniform(np.uint64(0), np.uint64(0)) == 2.0**-54
    assert uniform(np.uint64(ONES), np.uint64(ONES)) < 1.0


def test_below_divides_the_range_of_a_word_evenly() -> None:
    quarters = [np.uint64(i << 30) for i in range(4)]
    assert [below(word, 4) for word in quarters] == [0, 1, 2, 3]
    assert below(np.uint64(ONES), 7) == 6


def test_normal_is_the_quantile_function_of_the_normal_distribution() -> None:
    probability = np.concatenate(
        [np.logspace(-300, -2, 500), np.linspace(0.001, 0.999, 500), 1 - np.logspace(-15, -2)]
    )
    quantiles = np.array([normal(p) for p in probability])
    np.testing.assert_allclose(quantiles, ndtri(probability), rtol=1e-13, atol=1e-15)


def test_normal_table_contains_both_normals_of_each_block() -> None:
    table = normal_table(3, 9, 2, 4)
    assert tuple(table[1]) == (*normals(3, 9, 1, 0, 0), *normals(3, 9, 1, 0, 1))


def test_normal_table_has_standard_moments_and_independent_columns() -> None:
    values = normal_table(0, 1, 20_000, 2)
    assert abs(values.mean()) < 4 / math.sqrt(values.size)
    assert abs(values.var() - 1) < 4 * math.sqrt(2 / values.size)
    assert abs(np.corrcoef(values.T)[0, 1]) < 4 / math.sqrt(len(values))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 96, 1_000, 4_097])
def test_permutation_is_one_to_one(size: int) -> None:
    assert sorted(permutation(size, feistel_keys(1, 2))) == list(range(size))


def test_permuted_ids_are_independent_of_the_rank() -> None:
    size = 20_000
    ids, others = permutation(size, feistel_keys(1, 2)), permutation(size, feistel_keys(2, 2))
    for permuted in (ids, others):
        assert abs(np.corrcoef(np.arange(size), permuted)[0, 1]) < 4 / math.sqrt(size)
        # The mean distance of two uniform random indices is one third of the size.
        assert np.abs(np.diff(permuted)).mean() / size == pytest.approx(1 / 3, abs=0.02)
    assert (ids == others).mean() < 0.01
