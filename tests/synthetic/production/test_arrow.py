from __future__ import annotations

import numpy as np
import pyarrow as pa

from ctrbench.synthetic.production.arrow import to_table


def test_floats_have_32_bits_and_other_columns_keep_their_type() -> None:
    table = to_table({"id": np.array([1, 2], dtype=np.int32), "p": np.array([0.1, 0.2])})
    assert table.schema == pa.schema([("id", pa.int32()), ("p", pa.float32())])
    assert table["p"].to_numpy().tolist() == np.array([0.1, 0.2], dtype=np.float32).tolist()


def test_sequences_are_lists_without_their_padding() -> None:
    padded = np.array([[3, 0, 0], [0, 0, 0], [5, 4, 9]], dtype=np.int32)
    assert to_table({"items": padded})["items"].to_pylist() == [[3], [], [5, 4, 9]]
