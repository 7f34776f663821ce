from __future__ import annotations

import numpy as np
from production_acceptance import content_digest


def test_content_digest_rounds_floats_to_1e_9() -> None:
    columns = {"p": np.array([0.1, 0.2]), "id": np.array([1, 2])}
    digest = content_digest(columns)
    assert content_digest({"p": columns["p"] + 1e-17, "id": columns["id"]}) == digest
    assert content_digest({**columns, "p": columns["p"] + 2e-9}) != digest
    assert content_digest({**columns, "id": np.array([1, 3])}) != digest
