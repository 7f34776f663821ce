from __future__ import annotations

from hashlib import blake2b

import numpy as np
import pytest

from ctrbench.data.split import hash_rows, hash_texts, split_by_hash, split_by_time, time_order
from ctrbench.errors import DataError
from ctrbench.names import Split


def test_a_split_by_time_is_four_to_one_to_one_in_any_order_of_rows() -> None:
    time = np.random.default_rng(0).permutation(600).astype(np.int64)
    codes = split_by_time(time, (4, 1, 1))
    assert [set(time[codes == code]) for code in range(3)] == [
        set(range(400)),
        set(range(400, 500)),
        set(range(500, 600)),
    ]


def test_rows_of_one_time_are_in_one_split() -> None:
    time = np.array([1, 2, 3, 4, 4, 4, 4, 5, 6, 6, 7, 8])
    # Rank 8 of 12 is time 6, rank 10 is time 7.
    assert split_by_time(time, (4, 1, 1)).tolist() == [0] * 8 + [1, 1] + [2, 2]


def test_rows_at_the_time_of_a_cut_follow_the_cut() -> None:
    assert split_by_time(np.array([1, 2, 3, 3, 3, 4]), (4, 1, 1)).tolist() == [0, 0, 1, 1, 1, 2]


def test_parts_set_the_proportions() -> None:
    assert np.bincount(split_by_time(np.arange(10), (8, 1, 1))).tolist() == [8, 1, 1]


def test_one_time_for_all_rows_is_refused() -> None:
    with pytest.raises(DataError, match=r"empty split.*1 distinct times.*train, dev.*finer timestamp"):
        split_by_time(np.full(30, 7), (4, 1, 1))


def test_two_rows_are_refused() -> None:
    with pytest.raises(DataError, match="empty split"):
        split_by_time(np.array([1, 2]), (4, 1, 1))


def test_row_hashes_equal_splitmix64() -> None:
    # The first outputs of the published generator from seed 0.
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert hash_rows(3).tolist() == expected


def test_text_hashes_equal_blake2b() -> None:
    expected = int.from_bytes(blake2b("käse".encode(), digest_size=8).digest(), "little")
    assert hash_texts(["käse"]).tolist() == [expected]


def test_a_split_by_hash_divides_the_range_of_hashes() -> None:
    sixth = (1 << 64) // 6
    hashes = np.array(
        [0, 4 * sixth - 9, 4 * sixth + 9, 5 * sixth - 9, 5 * sixth + 9, (1 << 64) - 1], np.uint64
    )
    assert split_by_hash(hashes, (4, 1, 1)).tolist() == [0, 0, 1, 1, 2, 2]


def test_a_split_by_hash_is_about_four_to_one_to_one() -> None:
    counts = np.bincount(split_by_hash(hash_rows(60_000), (4, 1, 1)))
    # Three standard deviations of a binomial count.
    assert np.all(np.abs(counts - [40_000, 10_000, 10_000]) < 350)


def test_too_few_keys_are_refused() -> None:
    with pytest.raises(DataError, match=r"5 rows with 1 distinct keys are too few"):
        split_by_hash(np.zeros(5, dtype=np.uint64), (4, 1, 1))


def test_rows_of_shards_are_ordered_by_split_time_and_row() -> None:
    order, counts = time_order(np.array([1, 0, 0, 2, 0], np.int8), np.array([5, 3, 1, 9, 1]))
    assert order.tolist() == [2, 4, 1, 0, 3]
    assert counts == {Split.TRAIN: 3, Split.DEV: 1, Split.TEST: 1}


def test_rows_without_time_keep_their_order() -> None:
    assert time_order(np.array([1, 0, 2, 0], np.int8), None)[0].tolist() == [1, 3, 0, 2]
