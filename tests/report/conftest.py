from __future__ import annotations

from collections.abc import Callable

import pytest

from ctrbench.runs.record import RunRecord

MakeRecord = Callable[..., RunRecord]


@pytest.fixture
def toy(record: MakeRecord) -> list[RunRecord]:
    """Plain 0.70 and 0.72, adasparse 0.73 and 0.77, on one backbone."""
    return [
        record("plain", 1, 0.70),
        record("plain", 2, 0.72),
        record("adasparse", 1, 0.73),
        record("adasparse", 2, 0.77),
    ]


@pytest.fixture
def six(record: MakeRecord) -> list[RunRecord]:
    """Plain 0.71 and adasparse 0.73 on average, six seeds: t = 0.56 on five degrees of freedom, p = 0.60."""
    plain, gains = (0.70, 0.72) * 3, (0.10, -0.06) * 3
    return [
        *(record("plain", seed, auc) for seed, auc in enumerate(plain, start=1)),
        *(
            record("adasparse", seed, auc + more)
            for seed, (auc, more) in enumerate(zip(plain, gains, strict=True), 1)
        ),
    ]
