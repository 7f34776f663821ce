from __future__ import annotations

import numpy as np

from ctrbench.synthetic.click_log import FIELD_SIZES, field_sizes, synthetic_ids


def test_the_default_shape_has_200808_ids_in_23_fields() -> None:
    assert sum(field_sizes()) == 200_808
    assert len(field_sizes()) == 23


def test_more_embedding_rows_do_not_change_the_number_of_domains() -> None:
    sizes = field_sizes(2_000_000, 300)
    assert sizes[0] == 300
    assert abs(sum(sizes) - 2_000_000) <= len(FIELD_SIZES)


def test_ids_fit_their_fields_and_none_is_unseen() -> None:
    ids_BF = synthetic_ids(5_000, (7, 3), seed=0)
    assert ids_BF.min(axis=0).tolist() == [1, 1]
    assert ids_BF.max(axis=0).tolist() == [7, 3]


def test_ids_depend_on_the_seed_only() -> None:
    first, again, other = (synthetic_ids(50, (7, 30), seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
