"""Runs on the small dataset of `home`, also for a test that starts a process of its own."""

from __future__ import annotations

from pathlib import Path

from ctrbench.data.prepared import open_prepared
from ctrbench.runs.grid import Run, make_config, make_grid


def grid(
    home: Path,
    methods: tuple[str, ...] = ("adasparse",),
    seeds: tuple[int, ...] = (1, 2),
    batch_size: int = 400,
) -> tuple[Run, ...]:
    """Return runs of one epoch of a small tower."""
    return make_grid(
        open_prepared("tiny", home / "home"),
        methods=methods,
        backbones=["dnn[hidden=8-4]"],
        seeds=seeds,
        domain_set="default",
        indicator=None,
        config=make_config(epochs=1, batch_size=batch_size),
    )
