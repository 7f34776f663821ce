from __future__ import annotations

import numpy as np

from ctrbench.speed.workload import FIELD_SIZES, field_sizes, synthetic, synthetic_ids


def test_the_known_shape_has_its_known_size() -> None:
    assert sum(field_sizes()) == 200_808
    assert len(field_sizes()) == 23


def test_more_embedding_rows_leave_the_domains_alone() -> None:
    sizes = field_sizes(2_000_000, 300)
    assert sizes[0] == 300
    assert abs(sum(sizes) - 2_000_000) <= len(FIELD_SIZES)


def test_ids_fit_their_fields_and_none_is_unseen() -> None:
    ids_BF = synthetic_ids(5_000, (7, 3), seed=0)
    assert ids_BF.min(axis=0).tolist() == [1, 1]
    assert ids_BF.max(axis=0).tolist() == [7, 3]


def test_rows_follow_from_the_seed() -> None:
    first, again, other = (synthetic_ids(50, (7, 30), seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_schema_counts_the_rows_of_each_domain() -> None:
    made = synthetic(rows=1_000, num_domains=5, embedding_rows=500)
    counts = np.bincount(made.data.indicator_B.numpy(), minlength=6)
    assert made.schema.indicator_rows == tuple(counts.tolist())
    assert sum(made.schema.indicator_rows) == len(made.data) == 1_000
