from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ctrbench.data.batches import Batch, SplitData, domain_order, mixed_order
from ctrbench.data.card import DatasetCard
from ctrbench.data.load import load_split
from ctrbench.data.prepare import prepare
from ctrbench.names import Split


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def same(batch: Batch, other: Batch) -> bool:
    names = ("ids_BF", "numeric_BK", "domain_B", "indicator_B", "label_B")
    bags = [pair for both in zip(batch.bags, other.bags, strict=True) for pair in zip(*both, strict=True)]
    pairs = [(getattr(batch, name), getattr(other, name)) for name in names] + bags
    return all(torch.equal(first, second) for first, second in pairs)


def blocks(order) -> list[np.ndarray]:  # type: ignore[no-untyped-def]  # noqa: ANN001
    return np.split(order.rows, order.starts[1:-1])


GROUPS = np.repeat([1, 2, 3, 4, 5], [300, 130, 64, 20, 5])[generator(3).permutation(519)]


@pytest.mark.parametrize("num_rows", [1, 31, 32, 33, 100])
def test_mixed_order_visits_each_row_once(num_rows: int) -> None:
    order = mixed_order(num_rows, 32, generator())
    assert sorted(order.rows.tolist()) == list(range(num_rows))
    assert order.starts.tolist() == [*range(0, num_rows, 32), num_rows]


def test_mixed_order_is_a_function_of_the_generator() -> None:
    first, again, other = (mixed_order(50, 8, generator(seed)).rows for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_domain_order_visits_each_row_once() -> None:
    order = domain_order(GROUPS, 64, generator())
    assert sorted(order.rows.tolist()) == list(range(len(GROUPS)))
    assert (np.diff(order.starts) > 0).all()


def test_blocks_are_pure_except_for_merged_remainders() -> None:
    kinds = [set(GROUPS[block].tolist()) for block in blocks(domain_order(GROUPS, 64, generator()))]
    mixed = [kind for kind in kinds if len(kind) > 1]
    # 300 = 4 x 64 + 44 and 64 = 1 x 64 make pure blocks; 130 leaves 2, which join the 20 and the 5.
    assert mixed == [{2, 4, 5}]
    assert sorted(kind.pop() for kind in kinds if len(kind) == 1) == [1, 1, 1, 1, 1, 2, 2, 3]


def test_no_mixed_block_is_larger_than_a_batch() -> None:
    order = domain_order(np.arange(100), 32, generator())
    assert sorted(np.diff(order.starts).tolist()) == [4, 32, 32, 32]


def test_blocks_of_domains_are_shuffled() -> None:
    firsts = [GROUPS[block[0]] for block in blocks(domain_order(GROUPS, 32, generator()))]
    assert firsts != sorted(firsts)


def test_smaller_blocks_have_a_lower_weight(data: SplitData) -> None:
    order = domain_order(data.indicator_B.numpy(), 64, generator())
    weights = {len(batch): batch.weight for batch in data.batches(order)}
    # 150 = 2 x 64 + 22 and 80 = 64 + 16, so the remainders are 22 + 16 + 20 + 9 + 1 = 68 = 64 + 4, and 40 stays pure.
    assert weights == {64: 1.0, 40: 40 / 64, 4: 4 / 64}


def test_mixed_batches_have_weight_one(data: SplitData) -> None:
    batches = list(data.batches(mixed_order(len(data), 64, generator())))
    assert [len(batch) for batch in batches] == [64, 64, 64, 64, 44]
    assert {batch.weight for batch in batches} == {1.0}


def test_taking_rows_in_order_equals_slicing(data: SplitData) -> None:
    assert same(data.take(torch.arange(20, 55)), data.slice(20, 55))


def test_bags_of_taken_rows_are_their_lists(data: SplitData) -> None:
    rows = [7, 3, 3, 250, 0]
    values, offsets = data.take(torch.tensor(rows)).bags[0]
    taken = [values[offsets[row] : offsets[row + 1]].tolist() for row in range(len(rows))]
    complete, ends = data.bags[0]
    assert taken == [complete[ends[row] : ends[row + 1]].tolist() for row in rows]
    assert offsets[-1] == len(values)


def test_a_row_with_an_empty_list_can_be_taken_alone(data: SplitData) -> None:
    empty = int(torch.nonzero(data.bags[0][1].diff() == 0)[0])
    values, offsets = data.take(torch.tensor([empty])).bags[0]
    assert (values.tolist(), offsets.tolist()) == ([], [0, 0])


def test_in_order_yields_all_rows_in_stored_order(data: SplitData) -> None:
    batches = list(data.in_order(128))
    assert [len(batch) for batch in batches] == [128, 128, 44]
    assert torch.equal(torch.cat([batch.ids_BF for batch in batches]), data.ids_BF)
    assert same(batches[2], data.slice(256, 300))


def test_slices_share_memory_and_taken_rows_do_not(data: SplitData) -> None:
    assert data.slice(0, 5).ids_BF.data_ptr() == data.ids_BF.data_ptr()
    assert data.take(torch.arange(5)).ids_BF.data_ptr() != data.ids_BF.data_ptr()


def test_batches_resume_at_any_index(data: SplitData) -> None:
    order = mixed_order(len(data), 64, generator())
    complete, rest = list(data.batches(order)), list(data.batches(order, first=3))
    assert len(rest) == 2
    assert all(same(batch, other) for batch, other in zip(complete[3:], rest, strict=True))


@pytest.fixture
def loaded(card: DatasetCard, home: Path) -> dict[str, SplitData]:
    prepared = prepare(card, home=home)
    return {split: load_split(prepared, split, domain_set="default", indicator="city") for split in Split}


def test_load_split_reads_ids_in_time_order(loaded: dict[str, SplitData]) -> None:
    # city: A 5 rows, B 2, C 1; device: m 5 rows, w 3.
    assert loaded[Split.TRAIN].ids_BF.tolist() == [
        [1, 1], [1, 2], [2, 1], [1, 1], [2, 2], [3, 1], [1, 2], [1, 1]
    ]  # fmt: skip
    assert loaded[Split.TEST].ids_BF.tolist() == [[3, 2], [0, 1]]
    assert loaded[Split.TRAIN].ids_BF.dtype == torch.int32


def test_load_split_reads_domains_and_indicators(loaded: dict[str, SplitData]) -> None:
    train = loaded[Split.TRAIN]
    # (A, m) 3 rows, (A, w) 2, then (B, m), (B, w), (C, m) with one each, by ids.
    assert train.domain_B.tolist() == [1, 2, 3, 1, 4, 5, 2, 1]
    assert train.indicator_B.tolist() == [1, 1, 2, 1, 2, 3, 1, 1]
    assert loaded[Split.TEST].domain_B.tolist() == [0, 0]
    assert loaded[Split.TEST].indicator_B.tolist() == [3, 0]


def test_load_split_with_the_composite_indicator(card: DatasetCard, home: Path) -> None:
    train = load_split(prepare(card, home=home), Split.TRAIN, domain_set="default", indicator="all")
    assert torch.equal(train.indicator_B, train.domain_B)


def test_load_split_reads_bags(loaded: dict[str, SplitData]) -> None:
    values, offsets = loaded[Split.TRAIN].bags[0]
    # Elements: x 5 times, y 3, z 2; the third row has none.
    assert offsets.tolist() == [0, 2, 3, 3, 4, 6, 7, 9, 10]
    assert values.tolist() == [1, 2, 1, 2, 1, 1, 3, 1, 3, 2]


def test_load_split_standardizes_numbers_by_training_rows(loaded: dict[str, SplitData]) -> None:
    price = loaded[Split.TRAIN].numeric_BK[:, 0].tolist()
    # 1..7 without the missing one: mean 4, standard deviation 2; the missing one is the mean.
    assert price == pytest.approx([-1.5, -1.0, -0.5, 0.0, 0.0, 0.5, 1.0, 1.5])
    assert loaded[Split.TEST].numeric_BK[:, 0].tolist() == pytest.approx([3.0, 3.5])


def test_load_split_reads_labels_and_rows(loaded: dict[str, SplitData]) -> None:
    train = loaded[Split.TRAIN]
    assert train.label_B.tolist() == [1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]
    assert sorted(np.concatenate([split.row for split in loaded.values()]).tolist()) == list(range(12))
    assert (train.user, train.probability) == (None, None)


def test_loaded_rows_can_be_batched(loaded: dict[str, SplitData]) -> None:
    train = loaded[Split.TRAIN]
    assert same(train.take(torch.arange(2, 6)), train.slice(2, 6))


def test_blocks_of_small_batches_are_pure() -> None:
    order = domain_order(np.repeat([1, 2], 160), 16, generator())
    kinds = [set(np.repeat([1, 2], 160)[block].tolist()) for block in blocks(order)]
    assert len(kinds) == 20
    assert all(len(kind) == 1 for kind in kinds)
