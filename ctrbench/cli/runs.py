"""Commands that train: run and study. Both resume where an earlier call stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ctrbench.cli import console, options, progress, show_results, show_runs
from ctrbench.plain_text import one_line

if TYPE_CHECKING:
    from ctrbench.runs.experiment import Experiment
    from ctrbench.runs.record import RunRecord
    from ctrbench.runs.store import RunStore


def run(
    methods: options.Methods = "plain",
    backbone: options.Backbones = "dnn",
    dataset: options.Dataset = None,
    domains: options.Domains = None,
    seeds: options.Seeds = "1",
    indicator: options.Indicator = None,
    controls: options.Controls = False,
    tuned: options.Tuned = False,
    results: options.Results = "results",
    dry_run: options.DryRun = False,
    preset: options.Preset = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    embedding_size: options.EmbeddingSize = 16,
    lr: options.LearningRate = 1e-3,
    evaluations: options.Evaluations = 5,
    evaluation_rows: options.EvaluationRows = 50_000,
    patience: options.Patience = 5,
    anneal_epochs: options.AnnealEpochs = 1.0,
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
    from ctrbench.data.selection import has_domains
    from ctrbench.runs.engines.engine import check_engine
    from ctrbench.runs.experiment import plan_runs
    from ctrbench.runs.grid import make_config
    from ctrbench.runs.store import open_store

    store, dataset = open_store(results), latest_dataset() if dataset is None else dataset
    if not dry_run:
        check_engine(
            engine, config=make_config(device=device), address=address, jobs=jobs, workers=workers,
            gpus_per_run=gpus_per_run,
        )  # fmt: skip
        # A new domain set is written before the runs are known, and none of them can have a record.
        check_store(store, dataset, is_needed=not has_domains(dataset, domains))
    experiment = plan_runs(
        store,
        dataset=dataset,
        domains=domains,
        methods=methods,
        backbones=backbone,
        seeds=seeds,
        indicator=indicator,
        preset=preset,
        window=window,
        settings={
            "epochs": epochs, "batch_size": batch_size, "embedding_size": embedding_size, "lr": lr,
            "evaluations": evaluations, "evaluation_rows": evaluation_rows, "patience": patience,
            "anneal_epochs": anneal_epochs, "optimizer": optimizer, "precision": precision, "device": device,
            "threads": threads,
        },
    )  # fmt: skip
    if experiment.num_repeated:
        console.print_note(f"runs that are named again are left out: {experiment.num_repeated}")
    if tuned:
        from ctrbench.tuning.tuned import with_tuned_settings

        experiment = with_tuned_settings(experiment)
    experiment, memory = _with_costs(
        experiment,
        controls=controls,
        workers=workers,
        is_executed=not dry_run,
        limits_memory=not dry_run and engine == "local" and device == "cpu",
    )
    if dry_run:
        show_runs.show_dry_run(experiment.runs, experiment.missing)
        return
    records = _train(
        experiment, engine, address=address, jobs=jobs, workers=workers, gpus_per_run=gpus_per_run,
        memory_per_run=memory, checkpoint_seconds=checkpoint_seconds,
    )  # fmt: skip
    show_runs.show_runs(experiment.records())
    _exit_if_failed(records)
    console.print_line(
        f"next: ctrbench report --dataset {experiment.dataset} --bins 5 --results {one_line(results)}"
    )


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
    from ctrbench.runs.engines.engine import check_engine
    from ctrbench.runs.store import open_store
    from ctrbench.storage.outputs import check_folder
    from ctrbench.studies.draw import draw_runs
    from ctrbench.studies.plan import make_experiment, plan_study, study_config
    from ctrbench.studies.study import load_study

    chosen = load_study(name)
    # A study from a file of one's own is named after the file, not after its folder.
    out = out / (Path(name).stem if name.endswith(".toml") else name)
    store, dataset = open_store(results), latest_dataset() if dataset is None else dataset
    if not dry_run:
        check_folder(out, "--out")
        check_engine(engine, config=study_config(chosen), address=address, jobs=jobs)
        check_store(store, dataset, is_needed=False)
    parts = plan_study(chosen, open_prepared(dataset), seeds=seeds)
    experiment = make_experiment(chosen, parts, store)
    experiment, memory = _with_costs(
        experiment,
        controls=chosen.controls,
        is_executed=not dry_run,
        limits_memory=not dry_run and engine == "local",
    )
    if dry_run:
        show_runs.show_dry_run(experiment.runs, experiment.missing)
        return
    records = _train(
        experiment,
        engine,
        address=address,
        jobs=jobs,
        memory_per_run=memory,
        checkpoint_seconds=checkpoint_seconds,
    )
    if not any(record is not None and record.status != "failed" for _, record in experiment.records()):
        _exit_if_failed(records)
    files = draw_runs(chosen, parts, store=experiment.store, out=out)
    show_results.show_files(files.terminal, files.paths)
    _exit_if_failed(records)


def latest_dataset() -> str:
    """Return the name of the most recently prepared dataset, and print it."""
    from ctrbench.data.home import latest_prepared

    name = latest_prepared()
    console.print_note(f"dataset: {name} ({options.LATEST})")
    return name


def _check_missing(experiment: Experiment) -> None:
    """Raise an error if runs are missing whose files cannot be written; without any, nothing is written."""
    if experiment.missing:
        check_store(experiment.store, experiment.dataset, is_needed=True)


def check_store(store: RunStore, dataset: str, *, is_needed: bool = True) -> None:
    """Raise an error unless the records of the dataset and all other files of runs can be written.

    Where that may not be needed, since the folder may hold the records of all runs, it must exist at least.
    """
    from ctrbench.storage.files import is_folder
    from ctrbench.storage.outputs import check_folder

    folder = store.results / dataset
    if is_needed or not is_folder(folder):
        check_folder(folder, "--results")
    if is_needed:
        check_folder(store.home / "runs", "CTRBENCH_HOME")


def _with_costs(
    experiment: Experiment, *, controls: bool, workers: int = 1, is_executed: bool, limits_memory: bool
) -> tuple[Experiment, int]:
    """Add controls if wanted, and show the cost of the missing runs.

    Returns the experiment and the memory of the largest missing run, in bytes. Raises an error for runs to execute
    whose files cannot be written, for runs that methods refuse and, with `limits_memory`, for those that the machine
    cannot hold.
    """
    from ctrbench.controls.runs import with_controls, with_costs
    from ctrbench.cost.forecast import forecasts
    from ctrbench.runs.engines.capacity import total_memory

    experiment = with_controls(experiment) if controls else experiment
    if is_executed:
        _check_missing(experiment)
    costs = list(forecasts(experiment, workers=workers))
    for expected in costs:
        expected.raise_refusal()
        if limits_memory:
            expected.check_memory(total_memory(), workers=workers)
    for expected in costs:
        show_runs.show_forecast(expected)
    pairs = [pair for expected in costs for pair in expected.pairs]
    return with_costs(experiment, pairs), max((expected.memory for expected in costs), default=0)


def _train(
    experiment: Experiment,
    engine: str,
    *,
    address: str | None,
    jobs: int | None,
    workers: int = 1,
    gpus_per_run: float | None = None,
    memory_per_run: int,
    checkpoint_seconds: float,
) -> list[RunRecord]:
    """Execute the missing runs and show their progress."""
    from ctrbench.runs.engines.engine import make_engine

    executor = make_engine(
        engine, config=experiment.config, address=address, jobs=jobs, workers=workers, gpus_per_run=gpus_per_run,
        memory_per_run=memory_per_run, checkpoint_seconds=checkpoint_seconds, notify=console.print_note,
    )  # fmt: skip
    with (
        progress.resumable(),
        progress.training(experiment.dataset, len(experiment.runs), len(experiment.missing)) as watcher,
    ):
        return experiment.execute(executor, watcher)


def _exit_if_failed(records: Sequence[RunRecord]) -> None:
    num_failed = sum(record.status == "failed" for record in records)
    if num_failed:
        console.print_note(f"{num_failed} of {len(records)} runs failed; the same command repeats only these")
        raise typer.Exit(1)
