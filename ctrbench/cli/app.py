"""The command line: one short function a command, whatever is heavy imported inside.

A `CtrbenchError` becomes one clear message and exit code 2. Progress is a live display on a terminal and plain lines
elsewhere.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctrbench.errors import CtrbenchError, SettingError, did_you_mean
from ctrbench.storage.files import parse_location, write_text

if TYPE_CHECKING:
    from ctrbench.data.card import DatasetCard
    from ctrbench.data.prepared import Prepared
    from ctrbench.runs.grid import Run
    from ctrbench.synthetic.production.spec import ProductionSpec

app = typer.Typer(
    name="ctrbench",
    help="The benchmark for multi-domain click-through-rate models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
synth_app = typer.Typer(help="Make raw data with a known true probability.", no_args_is_help=True)
app.add_typer(synth_app, name="synth")

Domains = Annotated[str | None, typer.Option(help="A named domain set, or features: a,b,c.")]
Methods = Annotated[
    str, typer.Option(help="Methods: name, name[setting=value], path/to/file.py, or a preset: all.")
]
Backbones = Annotated[str, typer.Option(help="Backbones, separated by commas, or all.")]
Indicator = Annotated[str | None, typer.Option(help="Feature that per-domain parameters go by, or all.")]
Rows = Annotated[str | None, typer.Option(help="Generated data: rows, such as 20e6.")]
Size = Annotated[
    str | None, typer.Option("--size", help="Generated data: unit, small, medium or full, in place of rows.")
]
Variant = Annotated[
    str | None,
    typer.Option(help="Generated data: null, null=strict, long-tail, sequences, interaction=mlp, seed=1, …"),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes that generate; as many as there are cores.")
]
EngineName = Annotated[
    str, typer.Option("--engine", help="local: processes of this machine; ray: a Ray cluster.")
]
Address = Annotated[str | None, typer.Option(help="Ray only: where the cluster is; auto when not given.")]
Results = Annotated[str, typer.Option(help="Folder of the run records, a URL too: s3://bucket/results.")]


def main() -> None:
    """Run the command line; user errors end with exit code 2."""
    try:
        app()
    except CtrbenchError as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        sys.exit(2)


@contextmanager
def _resumable() -> Iterator[None]:
    """Turn Ctrl-C into one line and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        typer.secho("stopped; the same command goes on where it was", err=True)
        raise typer.Exit(130) from None


@app.command()
def prepare(
    dataset: Annotated[str, typer.Argument(help="A dataset's name, or the path of a card, my.toml.")],
    source: Annotated[
        list[Path] | None, typer.Option(help="Raw file, archive or folder; may be repeated.")
    ] = None,
    domains: Domains = None,
    force: Annotated[bool, typer.Option(help="Prepare again even if nothing changed.")] = False,
    rows: Rows = None,
    size: Size = None,
    variant: Variant = None,
    workers: Workers = None,
    on_the_fly: Annotated[
        bool, typer.Option(help="Generated data: store nothing, generate rows when they are read.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Generated data: say what they would take, and make nothing.")
    ] = False,
    engine: EngineName = "local",
    address: Address = None,
) -> None:
    """Prepare a dataset: split, encode, find domains."""
    from ctrbench.cli import display
    from ctrbench.data.card import load_card
    from ctrbench.data.generated import check_domains
    from ctrbench.data.prepare import prepare as prepare_data

    if dataset == "production":
        if source:
            raise SettingError("these data are generated, not read", value=f"--source {source[0]}")
        _one_kind_of_workers(engine, workers)
        spec = _spec(rows, size, variant)
        check_domains(_features(load_card("production"), domains), spec)
        if plan:
            _show_outlook(spec, workers, is_stored=not on_the_fly)
            return
        _prepare_production(spec, domains, workers, (engine, address), force=force, on_the_fly=on_the_fly)
        return
    _only_generated(
        rows=rows, size=size, variant=variant, workers=workers, on_the_fly=on_the_fly, plan=plan,
        engine=engine != "local", address=address,
    )  # fmt: skip
    card = load_card(dataset)
    with _resumable(), display.phases() as report:
        prepared = prepare_data(
            card, sources=source or (), domains=_features(card, domains), force=force, progress=report
        )
    prepared, domain_set = _domain_set(prepared, domains)
    display.show_prepared(prepared, domain_set)


def _show_outlook(spec: ProductionSpec, workers: int | None, *, is_stored: bool) -> None:
    from ctrbench.cli import display
    from ctrbench.data.generated import outlook

    display.show_outlook(outlook(spec, is_stored=is_stored, workers=workers))


def _prepare_production(
    spec: ProductionSpec,
    domains: str | None,
    workers: int | None,
    engine: tuple[str, str | None],
    *,
    force: bool,
    on_the_fly: bool,
) -> None:
    from ctrbench.cli import display
    from ctrbench.data.generated import prepare_generated
    from ctrbench.runs.engines.engine import make_dispatcher

    with _resumable(), display.phases() as report:
        prepared = prepare_generated(
            spec,
            is_stored=not on_the_fly,
            workers=workers,
            spread=make_dispatcher(*engine),
            force=force,
            report=report,
        )
    display.show_prepared(*_domain_set(prepared, domains))


def _one_kind_of_workers(engine: str, workers: int | None) -> None:
    if engine == "ray" and workers is not None:
        remedy = "leave it out: as many shards are made at a time as the cluster has cores"
        raise SettingError("processes of this machine", value=f"--workers {workers}", remedy=remedy)


def _only_generated(**options: object) -> None:
    """Refuse options that mean nothing to data that are read."""
    for name, value in options.items():
        if value:
            option = f"--{name}".replace("_", "-")
            remedy = "leave it out, or prepare production"
            raise SettingError("an option of generated data", value=option, remedy=remedy)


@app.command()
def show(
    dataset: Annotated[str, typer.Argument(help="A prepared dataset.")],
    domains: Domains = None,
    out: Annotated[Path, typer.Option(help="Folder for the picture.")] = Path("report"),
    top: Annotated[int, typer.Option(min=1, help="Rows of the table shown.")] = 20,
) -> None:
    """Print and draw the domains of a dataset."""
    from ctrbench.cli import display
    from ctrbench.data.prepared import open_prepared
    from ctrbench.report.domain_chart import domain_chart
    from ctrbench.report.plots import save_chart

    prepared, domain_set = _domain_set(open_prepared(dataset), domains)
    table = prepared.domain_table(domain_set)
    display.show_domains(prepared, domain_set, table, top)
    files = save_chart(domain_chart(table), out / f"domains-{prepared.manifest.name}-{domain_set}")
    typer.echo(f"picture: {', '.join(str(file) for file in files)}")


@app.command()
def card(
    data: Annotated[Path, typer.Argument(help="A CSV (.gz too) or parquet file.")],
    out: Annotated[Path | None, typer.Option(help="Where to write the card; printed when not given.")] = None,
    name: Annotated[str | None, typer.Option(help="The dataset's name; the file's when not given.")] = None,
) -> None:
    """Draft a card for your own data by looking at it."""
    from ctrbench.data.draft import draft_card

    text = draft_card(data, name=name)
    if out is None:
        typer.echo(text, nl=False)
        return
    if out.exists():
        raise SettingError("a card is never overwritten", value=out, remedy="give another --out")
    write_text(out, text)
    typer.echo(f"{out}: read it through, then: ctrbench prepare {out}")


@app.command()
def run(
    methods: Methods = "plain",
    backbone: Backbones = "dnn",
    dataset: Annotated[str | None, typer.Option(help="A prepared dataset; the one prepared last.")] = None,
    domains: Domains = None,
    seeds: Annotated[str, typer.Option(help="A count (5), a list (1,2,7) or a range (3-8).")] = "1",
    indicator: Indicator = None,
    preset: Annotated[
        str | None, typer.Option(help="A paper's set-up: public (128-64-32) or production (512-256-128).")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training rows at most.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1)] = None,
    embedding_size: Annotated[int | None, typer.Option(min=1)] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of Adam.")] = None,
    patience: Annotated[int | None, typer.Option(min=1, help="Epochs without a better dev AUC.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adam or lazy_adam, for embedding rows.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32, or bf16 for matrix products.")] = None,
    window: Annotated[
        str | None,
        typer.Option(help="Rows held for shuffling, such as 4e6; 0: all. Streams beyond 8 million."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of one run.")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs side by side; as many as there are cores.")
    ] = None,
    engine: EngineName = "local",
    address: Address = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that make each run together, on parts of every batch.")
    ] = 1,
    gpus_a_run: Annotated[
        float | None, typer.Option(min=0.0, help="Share of a GPU that a run takes; 1 with --device cuda.")
    ] = None,
    results: Results = "results",
    checkpoint_seconds: Annotated[float, typer.Option(min=0.0, help="Seconds between checkpoints.")] = 60.0,
) -> None:
    """Train methods on backbones; go on where stopped."""
    from ctrbench.cli import display
    from ctrbench.data.home import home_folder
    from ctrbench.data.prepared import open_prepared
    from ctrbench.plugins.registry import selectors
    from ctrbench.runs.engines.engine import make_engine
    from ctrbench.runs.grid import find_preset, make_config, make_grid, parse_seeds, with_tower
    from ctrbench.runs.store import RunStore

    seed_list, setup = parse_seeds(seeds), find_preset(preset)
    prepared, domain_set = _domain_set(open_prepared(dataset or _latest()), domains)
    settings = setup.under(
        epochs=epochs, batch_size=batch_size, embedding_size=embedding_size, lr=lr, patience=patience,
        optimizer=optimizer, precision=precision, device=device, threads=threads,
        window=_window(window, prepared),
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
    store = RunStore(results=parse_location(results), home=home_folder())
    waiting = store.unfinished(grid)
    maker = make_engine(
        engine, config=config, address=address, jobs=jobs, workers=workers, gpus_per_run=gpus_a_run,
        memory_per_run=_announce(prepared, waiting), checkpoint_seconds=checkpoint_seconds,
        say=partial(typer.echo, err=True),
    )  # fmt: skip
    with _resumable(), display.training(prepared, grid, waiting) as watcher:
        records = maker.run(waiting, store, watcher)
    failed = [record for record in records if record.status == "failed"]
    display.show_runs(grid, store)
    if failed:
        raise typer.Exit(1)
    typer.echo(f"next: ctrbench report --dataset {prepared.manifest.name} --bins 5 --results {results}")


@app.command()
def report(
    dataset: Annotated[
        str | None, typer.Option(help="A dataset with records; the one prepared last.")
    ] = None,
    domains: Annotated[str | None, typer.Option(help="Only records of this domain set.")] = None,
    bins: Annotated[int, typer.Option(min=1, help="Bins of domains by equal share of rows.")] = 5,
    results: Results = "results",
    out: Annotated[Path, typer.Option(help="Folder for tables and pictures.")] = Path("report"),
    benchmarks: Annotated[
        Path | None, typer.Option(help="File with the leaderboard block; ./BENCHMARKS.md, if there is one.")
    ] = None,
) -> None:
    """Write tables, pictures and the leaderboard."""
    from ctrbench.cli import display
    from ctrbench.data.home import home_folder
    from ctrbench.report.write import report as write_report
    from ctrbench.runs.store import RunStore

    store = RunStore(results=parse_location(results), home=home_folder())
    board = benchmarks or next(Path().glob("BENCHMARKS.md"), None)
    files = write_report(
        store, dataset=dataset or _latest(), domain_set=domains, bins=bins, out=out, benchmarks=board
    )
    display.show_report(files)


@app.command()
def study(
    name: Annotated[
        str, typer.Argument(help="A study (ctrbench list studies), or a file of yours, my.toml.")
    ],
    dataset: Annotated[str | None, typer.Option(help="A prepared dataset; the one prepared last.")] = None,
    seeds: Annotated[str | None, typer.Option(help="In place of the study's: 5, 1,2,7 or 3-8.")] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs side by side; as many as there are cores.")
    ] = None,
    engine: EngineName = "local",
    address: Address = None,
    results: Results = "results",
    out: Annotated[Path, typer.Option(help="Folder for the study's folder.")] = Path("study"),
    checkpoint_seconds: Annotated[float, typer.Option(min=0.0, help="Seconds between checkpoints.")] = 60.0,
) -> None:
    """Make the runs of a paper's table or figure, and draw it."""
    from ctrbench.cli import display
    from ctrbench.data.home import home_folder
    from ctrbench.data.prepared import open_prepared
    from ctrbench.runs.engines.engine import make_engine
    from ctrbench.runs.store import RunStore
    from ctrbench.studies.plan import plan_study, study_config, to_make
    from ctrbench.studies.study import load_study

    chosen = load_study(name)
    parts = plan_study(chosen, open_prepared(dataset or _latest()), seeds=seeds)
    store = RunStore(results=parse_location(results), home=home_folder())
    waiting = to_make(chosen, parts, store)
    grid = [run for part in parts for run in part.runs]
    memory = 0
    for part in parts:
        mine = {run.key.digest for run in part.runs}
        memory = max(memory, _announce(part.prepared, [run for run in waiting if run.key.digest in mine]))
    maker = make_engine(
        engine, config=study_config(chosen), address=address, jobs=jobs,
        memory_per_run=memory, checkpoint_seconds=checkpoint_seconds, say=partial(typer.echo, err=True),
    )  # fmt: skip
    with _resumable(), display.training(parts[-1].prepared, grid, waiting) as watcher:
        records = maker.run(waiting, store, watcher)
    display.show_study(chosen, parts, store, out / name.removesuffix(".toml"))
    if any(record.status == "failed" for record in records):
        raise typer.Exit(1)


@app.command(name="list")
def list_(
    what: Annotated[str, typer.Argument(help="datasets, methods, backbones or studies.")],
) -> None:
    """List datasets, methods, backbones or studies."""
    from ctrbench.cli import display

    kinds = {
        "datasets": display.show_datasets,
        "methods": display.show_plugins,
        "backbones": display.show_plugins,
        "studies": display.show_studies,
    }
    if what not in kinds:
        raise SettingError("nothing of that kind to list", value=what, remedy=did_you_mean(what, kinds))
    kinds[what](what)


@app.command()
def new_method(
    name: Annotated[str, typer.Argument(help="The method's name, a Python identifier.")],
    folder: Annotated[Path, typer.Option(help="Where to write the file.")] = Path(),
) -> None:
    """Write a small working method to start from."""
    from ctrbench.plugins.scaffold import new_method as write

    file = write(name, folder)
    typer.echo(f"{file}: now try\n  ctrbench check {file}\n  ctrbench run --methods plain,{file}")


@app.command()
def check(
    method: Annotated[str, typer.Argument(help="A method's file or selector; several, or a preset: all.")],
) -> None:
    """Hold a method against the contract."""
    from ctrbench.cli import display
    from ctrbench.contract.check import check as run_check
    from ctrbench.plugins.registry import select, selectors

    chosen = selectors("methods", method)
    if len(chosen) > 1:
        # A wrong setting is told before the first minute has passed.
        _ = [select("methods", one).value for one in chosen]
        is_well = display.show_matrix(chosen, run_check)
    else:
        is_well = display.show_findings(run_check(chosen[0] if chosen else method))
    if not is_well:
        raise typer.Exit(1)


@app.command()
def explain(
    method: Annotated[str, typer.Argument(help="A method: name, name[setting=value] or path/to/file.py.")],
    backbone: Annotated[str, typer.Option(help="A backbone.")] = "dnn",
    dataset: Annotated[
        str | None, typer.Option(help="A prepared dataset; the one prepared last, or made-up data.")
    ] = None,
    domains: Domains = None,
    indicator: Indicator = None,
    embedding_size: Annotated[int | None, typer.Option(min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(min=1)] = None,
) -> None:
    """Show what a method makes of a backbone, and its cost."""
    from ctrbench.cli import display
    from ctrbench.cost.explain import explain as explain_plan
    from ctrbench.data.home import prepared_names
    from ctrbench.data.prepared import open_prepared
    from ctrbench.runs.grid import make_config

    config = make_config(embedding_size=embedding_size, batch_size=batch_size)
    if dataset is None and domains is None and indicator is None and not prepared_names():
        display.show_explanation(explain_plan(method, backbone, config=config))
        return
    prepared, domain_set = _domain_set(open_prepared(dataset or _latest()), domains)
    found = explain_plan(
        method, backbone, prepared=prepared, domain_set=domain_set, indicator=indicator, config=config
    )
    display.show_explanation(found)


@app.command()
def bench(
    methods: Methods = "plain",
    backbone: Backbones = "dnn",
    domains: Annotated[
        str | None, typer.Option(help="Numbers of domains of made-up rows, separated by commas; 300.")
    ] = None,
    batch_sizes: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "256,4096",
    dataset: Annotated[str | None, typer.Option(help="A prepared dataset in place of made-up rows.")] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Made-up rows; 200,000.")] = None,
    embedding_rows: Annotated[
        int | None, typer.Option(min=1, help="Ids of all fields of made-up rows; 200,508 and the domains.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="Seconds of timed steps a case.")] = 3.0,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of a step; 1.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="Write all figures to this file too.")
    ] = None,
) -> None:
    """Measure training: speed, where time goes, memory, bounds."""
    from ctrbench.cli import display
    from ctrbench.plugins.registry import selectors
    from ctrbench.runs.grid import make_config
    from ctrbench.speed.bench import Request, parse_counts, write_report
    from ctrbench.speed.bench import bench as run_bench

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
    with display.measuring() as started:
        measured = run_bench(request, started=started)
    display.show_speed(measured)
    if json_file is not None:
        typer.echo(f"all figures: {write_report(measured, json_file)}")
    if any(line.has_failed for line in measured.lines):
        raise typer.Exit(1)


@synth_app.command(name="iaac")
def synth_iaac(
    out: Annotated[Path, typer.Option(help="Folder for the raw files.")],
    rows: Annotated[int, typer.Option(min=1, help="Rows of both files together.")] = 500_000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Make the twin of IAAC: raw files of exactly the real form, the truth kept beside them."""
    from ctrbench.cli import display
    from ctrbench.synthetic.iaac.twin import make_twin

    with _resumable(), display.phases() as report:
        make_twin(rows, out, seed=seed, report=lambda done, total: report("write", done / total))
    typer.echo(f"{out}: now try\n  ctrbench prepare iaac --source {out}")


@synth_app.command(name="production")
def synth_production(
    out: Annotated[str, typer.Option(help="Folder for the shards, on this machine or shared.")],
    rows: Rows = None,
    size: Size = None,
    variant: Variant = None,
    workers: Workers = None,
    engine: EngineName = "local",
    address: Address = None,
) -> None:
    """Make Production-scale data as parquet shards, the truth in them."""
    from ctrbench.cli import display
    from ctrbench.data.generated import command_of
    from ctrbench.runs.engines.engine import make_dispatcher
    from ctrbench.synthetic.production.raw_files import make_production

    spec, folder = _spec(rows, size, variant), parse_location(out)
    if not isinstance(folder, Path):
        remedy = "prepare production writes to URLs: CTRBENCH_HOME=s3://…"
        raise SettingError("raw shards are written to a folder", value=out, remedy=remedy)
    _one_kind_of_workers(engine, workers)
    with _resumable(), display.phases() as report:
        make_production(
            spec,
            folder,
            workers=workers or os.cpu_count() or 1,
            map=make_dispatcher(engine, address),
            report=lambda done, total: report("generate", done / total),
        )
    typer.echo(f"{out}: {spec.rows:,} rows; to train on the same ones\n  {command_of(spec)}")


def _spec(rows: str | None, size: str | None, variant: str | None) -> ProductionSpec:
    from ctrbench.data.generated import parse_spec

    return parse_spec(rows=rows, preset_name=size, variant=variant)


def _window(text: str | None, prepared: Prepared) -> int | None:
    """Return the rows held for shuffling; None where all are."""
    from ctrbench.runs.grid import usual_window, whole_number

    if text is None:
        return usual_window(prepared)
    return whole_number(text, "--window") or None


def _announce(prepared: Prepared, runs: Sequence[Run]) -> int:
    """Say what each method costs on each backbone before any is trained; raise what a method refuses.

    Returns the bytes of memory that the largest run takes, about.
    """
    if not runs:
        return 0
    from ctrbench.cli import display
    from ctrbench.cost.explain import pair_costs
    from ctrbench.runs.engines.capacity import run_memory
    from ctrbench.train.config import TrainConfig

    found = tuple(pair_costs(prepared, runs))
    config = TrainConfig.model_validate(runs[0].key.train)
    costs = [pair.cost for pair in found if pair.cost is not None]
    sizes = [run_memory(prepared, config, cost.embedding + cost.shared + cost.per_domain) for cost in costs]
    display.show_costs(found, memory=max(sizes, default=0))
    for pair in found:
        if pair.refusal is not None:
            raise pair.refusal
    return max(sizes, default=0)


def _latest() -> str:
    from ctrbench.data.home import latest_prepared

    name = latest_prepared()
    typer.echo(f"dataset: {name}, the one prepared last", err=True)
    return name


def _features(card: DatasetCard, domains: str | None) -> tuple[str, ...]:
    """Return the features of an ad-hoc domain set; none for a named one."""
    if domains is None or domains in card.domain_sets:
        return ()
    return tuple(part.strip() for part in domains.split(",") if part.strip())


def _domain_set(prepared: Prepared, domains: str | None) -> tuple[Prepared, str]:
    """Return the named set, or the set of these features, which is computed when it is new."""
    if domains is None:
        return prepared, "default"
    if domains in prepared.manifest.domain_sets:
        return prepared, domains
    return prepared.ensure_domains(_features(prepared.manifest.card, domains))
