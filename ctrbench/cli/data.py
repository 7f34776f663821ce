"""Commands about data: prepare, show, card and synth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ctrbench.cli import console, options, options_data, progress, show_data
from ctrbench.plain_text import one_line

if TYPE_CHECKING:
    from ctrbench.data.prepared import Prepared


def prepare(
    dataset: options_data.Card,
    source: options_data.Sources = None,
    domains: options.Domains = None,
    force: options_data.Force = False,
    export: options_data.ExportFolder = None,
    rows: options_data.Rows = None,
    variant: options_data.Variant = None,
    on_the_fly: options_data.OnTheFly = False,
    jobs: options_data.GeneratorJobs = None,
    engine: options_data.GeneratorEngine = "local",
    address: options_data.GeneratorAddress = None,
    dry_run: options_data.DryPreparation = False,
) -> None:
    """Prepare a dataset: split it, encode it and find its domains."""
    from ctrbench.data.card import load_card
    from ctrbench.data.export import check_export_folder
    from ctrbench.data.generated.options import GenerationOptions
    from ctrbench.data.prepare import estimate
    from ctrbench.data.prepare import prepare as prepare_data
    from ctrbench.data.selection import domain_features
    from ctrbench.runs.engines.engine import make_dispatcher
    from ctrbench.storage.files import parse_location
    from ctrbench.storage.outputs import check_folder

    card = load_card(dataset)
    features = domain_features(card, domains)
    generation = GenerationOptions(
        rows=rows,
        variant=variant,
        is_stored=not on_the_fly,
        jobs=jobs,
        dispatch=make_dispatcher(engine, address),
    )
    if export is not None:
        check_folder(parse_location(export), "--export")
        check_export_folder(parse_location(export))
    if dry_run:
        show_data.show_forecast(estimate(card, domains=features, generation=generation))
        return
    with progress.resumable(), progress.phases() as phases:
        prepared = prepare_data(
            card,
            sources=source or (),
            domains=features,
            generation=generation,
            force=force,
            progress=phases,
        )
    _show_prepared(prepared, domains)
    if export is not None:
        _export(prepared, domains, export)
    console.print_line(f"next: ctrbench run --dataset {prepared.manifest.name} --methods plain,adasparse")


def _show_prepared(prepared: Prepared, domains: str | None) -> None:
    from ctrbench.data.selection import choose_domains
    from ctrbench.data.summary import summarize

    prepared, domain_set = choose_domains(prepared, domains)
    show_data.show_prepared(prepared, summarize(prepared, domain_set))


def _export(prepared: Prepared, domains: str | None, location: str) -> None:
    from ctrbench.data.export import export
    from ctrbench.data.selection import choose_domains
    from ctrbench.storage.files import parse_location

    prepared, domain_set = choose_domains(prepared, domains)
    with progress.phases() as phases:
        folder = export(prepared, parse_location(location), domain_set=domain_set, progress=phases)
    console.print_line(f"exported: {one_line(folder)}")


def show(
    dataset: options_data.PreparedArgument,
    domains: options.Domains = None,
    out: options_data.ChartFolder = Path("report"),
    top: options_data.Top = 20,
) -> None:
    """Print and plot the domains of a prepared dataset."""
    from ctrbench.data.selection import open_dataset
    from ctrbench.report.domain_chart import write_domain_chart
    from ctrbench.storage.outputs import check_folder

    check_folder(out, "--out")
    prepared, domain_set = open_dataset(dataset, domains)
    table = prepared.domain_table(domain_set)
    show_data.show_domains(prepared, domain_set, table, top)
    files = write_domain_chart(table, out, dataset=prepared.manifest.name, domain_set=domain_set)
    console.print_line(f"chart: {', '.join(map(one_line, files))}")


def card(
    data: options_data.Table, out: options_data.CardFile = None, name: options_data.DatasetName = None
) -> None:
    """Draft a card for your own data from a sample of its rows."""
    from ctrbench.data.draft import draft_card, write_card
    from ctrbench.storage.outputs import check_local_file

    if out is None:
        console.print_line(draft_card(data, name=name).rstrip("\n"))
        return
    check_local_file(out, "--out")
    write_card(data, out, name=name)
    shown = one_line(out)
    console.print_line(f"{shown}: review it, then run\n  ctrbench prepare {shown}")


def synth_iaac(
    out: options_data.RawFolder, rows: options_data.RawRows = 500_000, seed: options_data.GeneratorSeed = 0
) -> None:
    """Generate raw files in the format of IAAC, with the true click probability beside them."""
    from ctrbench.storage.outputs import check_folder
    from ctrbench.synthetic.iaac.twin import make_twin

    check_folder(out, "--out")
    with progress.resumable(), progress.phases() as phases:
        make_twin(rows, out, seed=seed, progress=lambda done, total: phases("write", done / total))
    shown = one_line(out)
    console.print_line(f"{shown}: {rows:,} rows; next, run\n  ctrbench prepare iaac --source {shown}")
