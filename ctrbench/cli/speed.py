"""The command that measures training: bench."""

from __future__ import annotations

import typer

from ctrbench.cli import console, options, options_plugins, progress, show_speed
from ctrbench.plain_text import one_line


def bench(
    methods: options.Methods = "plain",
    backbone: options.Backbones = "dnn",
    domains: options_plugins.DomainCounts = None,
    batch_sizes: options_plugins.BatchSizes = "256,4096",
    dataset: options_plugins.MeasuredDataset = None,
    rows: options_plugins.MeasuredRows = None,
    embedding_rows: options_plugins.EmbeddingRows = None,
    seconds: options_plugins.Seconds = 3.0,
    device: options.Device = "cpu",
    threads: options.Threads = 1,
    json_file: options_plugins.JsonFile = None,
) -> None:
    """Measure training: speed, time per phase, memory and lower bounds."""
    from ctrbench.plugins.registry import selectors
    from ctrbench.runs.grid import make_config
    from ctrbench.speed.bench import Request, parse_counts, write_json
    from ctrbench.speed.bench import bench as run_bench
    from ctrbench.storage.outputs import check_local_file

    if json_file is not None:
        check_local_file(json_file, "--json")
    request = Request(
        methods=tuple(selectors("methods", methods)),
        backbones=tuple(selectors("backbones", backbone)),
        batch_sizes=parse_counts(batch_sizes, "--batch-sizes"),
        domains=None if domains is None else parse_counts(domains, "--domains"),
        dataset=dataset,
        rows=rows,
        embedding_rows=embedding_rows,
        seconds=seconds,
        config=make_config(device=device, threads=threads),
    )
    with progress.measuring() as show_case:
        result = run_bench(request, progress=show_case)
    show_speed.show_speed(result)
    if json_file is not None:
        console.print_line(f"all figures: {one_line(write_json(result, json_file))}")
    if any(case.has_failed for case in result.cases):
        raise typer.Exit(1)
