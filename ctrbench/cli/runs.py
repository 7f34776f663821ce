"""Commands that train: run and study. Both resume where an earlier call stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ctrbench.cli import console, options, progress, show_results, show_runs

if TYPE_CHECKING:
    from ctrbench.data.prepared import Prepared
    from ctrbench.runs.engines.protocol import Engine
    from ctrbench.runs.grid import Run
    from ctrbench.runs.record import RunRecord
    from ctrbench.runs.store import RunStore


def run(
    methods: options.Methods = "plain",
    backbone: options.Backbones = "dnn",
    dataset: options.Dataset = None,
    domains: options.Domains = None,
    seeds: options.Seeds = "1",
    indicator: options.Indicator = None,
    results: options.Results = "results",
    dry_run: options.DryRun = False,
    preset: options.Preset = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    embedding_size: options.EmbeddingSize = 16,
    lr: options.LearningRate = 1e-3,
    patience: options.Patience = 1,
    optimizer: options.Optimizer = "adam",
    precision: options.Precision = "float32",
    window: options.Window = None,
    device: options.Device = "cpu",
    threads: options.Threads = 1,
    jobs: options.Jobs = None,
    workers: options.Workers = 1,
    gpus_per_run: options.GpusPerRun = None,
    engine: options.Engine = "local",
    address: options.Address = None,
    checkpoint_seconds: options.CheckpointSeconds = 60.0,
) -> None:
    """Train methods on backbones, resuming interrupted runs."""
    from ctrbench.data.selection import open_dataset
    from ctrbench.plugins.registry import selectors
    from ctrbench.runs.engines.engine import make_engine
    from ctrbench.runs.grid import (
        find_preset,
        make_config,
        make_grid,
        parse_seeds,
        parse_window,
        with_tower,
    )

    seed_list, setup = parse_seeds(seeds), find_preset(preset)
    prepared, domain_set = open_dataset(dataset or latest_dataset(), domains)
    settings = setup.under(
        epochs=epochs, batch_size=batch_size, embedding_size=embedding_size, lr=lr, patience=patience,
        optimizer=optimizer, precision=precision, device=device, threads=threads,
        window=parse_window(window, prepared),
    )  # fmt: skip
    config = make_config(**settings)
    grid = make_grid(
        prepared,
        methods=selectors("methods", methods),
        backbones=with_tower(selectors("backbones", backbone), setup.hidden),
        seeds=seed_list,
        domain_set=domain_set,
        indicator=indicator,
        config=config,
    )
    store = open_store(results)
    unfinished = store.unfinished(grid)
    memory = _forecast_memory(prepared, unfinished)
    if dry_run:
        show_runs.show_dry_run(grid, unfinished)
        return
    executor = make_engine(
        engine, config=config, address=address, jobs=jobs, workers=workers, gpus_per_run=gpus_per_run,
        memory_per_run=memory, checkpoint_seconds=checkpoint_seconds, say=console.print_note,
    )  # fmt: skip
    records = _execute(executor, store, grid, unfinished)
    show_runs.show_runs([(member, store.find(member.key)) for member in grid])
    _exit_if_failed(records)
    typer.echo(f"next: ctrbench report --dataset {prepared.manifest.name} --bins 5 --results {results}")


def study(
    name: options.Study,
    dataset: options.Dataset = None,
    seeds: options.StudySeeds = None,
    results: options.Results = "results",
    out: options.StudyFolder = Path("study"),
    dry_run: options.DryRun = False,
    jobs: options.Jobs = None,
    engine: options.Engine = "local",
    address: options.Address = None,
    checkpoint_seconds: options.CheckpointSeconds = 60.0,
) -> None:
    """Run the experiments behind a paper's table or figure and plot it."""
    from ctrbench.data.prepared import open_prepared
    from ctrbench.runs.engines.engine import make_engine
    from ctrbench.studies.draw import draw_runs
    from ctrbench.studies.plan import missing_runs, plan_study, study_config
    from ctrbench.studies.study import load_study

    chosen = load_study(name)
    parts = plan_study(chosen, open_prepared(dataset or latest_dataset()), seeds=seeds)
    store = open_store(results)
    unfinished = missing_runs(chosen, parts, store)
    grid = [member for part in parts for member in part.runs]
    digests = {member.key.digest for member in unfinished}
    memory = max(
        _forecast_memory(part.prepared, [member for member in part.runs if member.key.digest in digests])
        for part in parts
    )
    if dry_run:
        show_runs.show_dry_run(grid, unfinished)
        return
    executor = make_engine(
        engine, config=study_config(chosen), address=address, jobs=jobs,
        memory_per_run=memory, checkpoint_seconds=checkpoint_seconds, say=console.print_note,
    )  # fmt: skip
    records = _execute(executor, store, grid, unfinished)
    files = draw_runs(chosen, parts, store=store, out=out / name.removesuffix(".toml"))
    show_results.show_files(files.terminal, files.paths)
    _exit_if_failed(records)


def open_store(results: str) -> RunStore:
    """Return the store with records at a location, and all other files of runs in the home folder."""
    from ctrbench.data.home import home_folder
    from ctrbench.runs.store import RunStore
    from ctrbench.storage.files import parse_location

    return RunStore(results=parse_location(results), home=home_folder())


def _execute(
    executor: Engine, store: RunStore, grid: Sequence[Run], unfinished: Sequence[Run]
) -> list[RunRecord]:
    """Execute the unfinished runs of a grid and show their progress."""
    store.create()
    with progress.resumable(), progress.training(grid[0].key.dataset, grid, unfinished) as watcher:
        return executor.run(unfinished, store, watcher)


def latest_dataset() -> str:
    """Return the name of the most recently prepared dataset, and print it."""
    from ctrbench.data.home import latest_prepared

    name = latest_prepared()
    console.print_note(f"dataset: {name} ({options.LATEST})")
    return name


def _forecast_memory(prepared: Prepared, runs: Sequence[Run]) -> int:
    """Show the cost of runs before they start; return the memory of the largest one, in bytes."""
    from ctrbench.cost.forecast import forecast

    if not runs:
        return 0
    expected = forecast(prepared, runs)
    show_runs.show_forecast(expected)
    expected.raise_refusal()
    return expected.memory


def _exit_if_failed(records: Sequence[RunRecord]) -> None:
    num_failed = sum(record.status == "failed" for record in records)
    if num_failed:
        console.print_note(f"{num_failed} of {len(records)} runs failed; the same command repeats only these")
        raise typer.Exit(1)
