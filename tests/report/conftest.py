from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctrbench.runs.record import (
    BinMetrics,
    Choice,
    Code,
    DomainMetrics,
    Measured,
    Parameters,
    Result,
    RunKey,
    RunRecord,
)
from ctrbench.runs.store import RunStore

MakeRecord = Callable[..., RunRecord]
DOMAINS = DomainMetrics(
    domain=(0, 1, 2, 3),
    rows_train=(0, 50, 30, 20),
    rows=(5, 40, 30, 10),
    positives=(1, 20, 10, 0),
    auc=(None, 0.8, 0.6, None),
    logloss=(0.5, 0.5, 0.5, 0.5),
    pcoc=(1.0, 1.0, 1.0, None),
)


def make_bins(auc: float, num: int = 5) -> tuple[BinMetrics, ...]:
    return tuple(
        BinMetrics(
            bin=place, domains=place, rows_train=20, rows=10, positives=4,
            auc=auc + place / 100, gauc=auc, gauc_coverage=1.0,
        )
        for place in range(1, num + 1)
    )  # fmt: skip


@pytest.fixture
def record() -> MakeRecord:
    """Return a maker of records: two metrics by hand, the rest filled in."""

    def make(
        method: str = "plain",
        seed: int = 1,
        auc: float | None = 0.7,
        *,
        backbone: str = "dnn",
        status: str = "finished",
        error: str | None = None,
        dataset: str = "toy",
        domain_set: str = "default",
        features: tuple[str, ...] = ("a", "b"),
        settings: dict[str, Any] | None = None,
        source: str | None = None,
        train: dict[str, Any] | None = None,
        data: str = "d" * 64,
        indicator: str = "a",
        **result: object,
    ) -> RunRecord:
        key = RunKey(
            dataset=dataset, data_digest=data, domain_set=domain_set, domain_features=features,
            indicator=indicator,
            backbone=Choice(name=backbone, settings={"hidden": [8, 4]}),
            method=Choice(name=method, settings=settings or {}, source=source),
            train=train or {"batch_size": 256, "lr": 0.001}, seed=seed,
        )  # fmt: skip
        test = {
            "logloss": 0.5, "auc": auc, "gauc": None if auc is None else auc - 0.1, "gauc_coverage": 0.875,
            "pcoc": 1.25, "pcoc_error": 0.25,
        }  # fmt: skip
        filled = Result(**{
            "parameters": Parameters(embedding=2_500_000, dense=999, per_domain=0),
            "best_epoch": 1, "steps": 1, "rows_seen": 1, "dev": test, "test": test, "domains": DOMAINS,
            "bins": make_bins(auc or 0.5), "history": (), "predictions_sha256": key.digest, **result,
        })  # fmt: skip
        return RunRecord(
            run=key.run, digest=key.digest, key=key, status=status, error=error,
            code=Code(version="0.1.0", method_sha256="m", backbone_sha256="b"),
            measured=Measured(started="2026-01-01T00:00:00Z", seconds={"train": 12.0}, machine={"cores": 2}),
            result=filled if status == "finished" else None,
        )  # fmt: skip

    return make


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(results=tmp_path / "results", home=tmp_path / "home")


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
