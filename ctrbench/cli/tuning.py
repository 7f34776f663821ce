"""The command that searches for the best settings of methods: tune. It resumes where an earlier call stopped."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING

from ctrbench.cli import console, options, progress, show_tuning
from ctrbench.cli.runs import check_store, latest_dataset
from ctrbench.plain_text import one_line

if TYPE_CHECKING:
    from ctrbench.runs.grid import Run


def tune(
    methods: options.Methods = "plain",
    backbone: options.Backbones = "dnn",
    dataset: options.Dataset = None,
    domains: options.Domains = None,
    trials: options.Trials = 20,
    seed: options.TuningSeed = 0,
    results: options.Results = "results",
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
    engine: options.Engine = "local",
    address: options.Address = None,
    checkpoint_seconds: options.CheckpointSeconds = 60.0,
) -> None:
    """Search for the best settings of methods on dev, with equally many trials each; resume interrupted searches."""
    from ctrbench.cost.forecast import forecasts
    from ctrbench.plugins.registry import selectors
    from ctrbench.runs.engines.engine import check_engine, make_engine
    from ctrbench.runs.experiment import plan_runs
    from ctrbench.runs.grid import make_config
    from ctrbench.runs.store import open_store
    from ctrbench.tuning.search import make_searches, replay

    store, dataset = open_store(results), latest_dataset() if dataset is None else dataset
    check_store(store, dataset)
    check_engine(engine, config=make_config(device=device), address=address, jobs=jobs)
    experiment = plan_runs(
        store,
        dataset=dataset,
        domains=domains,
        methods=methods,
        backbones=backbone,
        seeds=f"{seed},",
        preset=preset,
        window=window,
        settings={
            "epochs": epochs, "batch_size": batch_size, "embedding_size": embedding_size, "lr": lr,
            "evaluations": evaluations, "evaluation_rows": evaluation_rows, "patience": patience,
            "anneal_epochs": anneal_epochs, "optimizer": optimizer, "precision": precision, "device": device,
            "threads": threads,
        },
    )  # fmt: skip
    expected = list(forecasts(experiment))
    for forecast in expected:
        forecast.raise_refusal()
    features = experiment.grids[0].prepared.domain_set(experiment.runs[0].key.domain_set).features
    searches = make_searches(
        experiment.runs, selectors("methods", methods), num_trials=trials, features=features
    )
    executor = make_engine(
        engine, config=experiment.config, address=address, jobs=jobs, workers=1, gpus_per_run=None,
        memory_per_run=max((part.memory for part in expected), default=0),
        checkpoint_seconds=checkpoint_seconds, notify=console.print_note,
    )  # fmt: skip
    num_runs = sum(search.num_planned for search in searches)
    num_recorded = len(list(store.trials(dataset)))
    with progress.resumable(), progress.training(dataset, num_runs, num_runs, "trial") as watcher:

        def execute(missing: list[Run]) -> None:
            store.create()
            executor.run(missing, store, watcher)

        replay(searches, store, execute)
    show_tuning.show_searches(searches)
    num_new = len(list(store.trials(dataset))) - num_recorded
    console.print_line(f"{num_new} of {num_runs} trials were run, the others had records")
    console.print_line(
        f"next: ctrbench run --tuned --methods {one_line(quote(methods))} --backbone {one_line(quote(backbone))} "
        f"--dataset {one_line(dataset)} --seeds 1-10 --results {one_line(results)}"
    )
