"""Commands about plug-ins: list, explain, new-method and check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import typer

from ctrbench.cli import console, options, options_plugins, show_contract, show_data, show_plan, show_plugins
from ctrbench.cli.runs import latest_dataset
from ctrbench.errors import SettingError, did_you_mean
from ctrbench.plain_text import one_line


def list_(kind: options_plugins.Kind, name: options_plugins.ListedMethod = None) -> None:
    """List datasets, methods, backbones, studies or other plug-ins, or the settings of a method."""
    if kind not in LISTINGS:
        raise SettingError("no such kind", value=kind, remedy=did_you_mean(kind, LISTINGS))
    if name is None:
        LISTINGS[kind]()
    elif kind == "methods":
        _list_settings(name)
    else:
        remedy = f"ctrbench list {kind} shows all"
        raise SettingError("only methods are listed by name", value=f"list {kind} {name}", remedy=remedy)


def _list_settings(name: str) -> None:
    from ctrbench.plugins.base import Method
    from ctrbench.plugins.registry import find
    from ctrbench.plugins.search_space import search_space

    plugin = find("methods", name)
    method = plugin.load()
    show_plugins.show_settings(
        plugin.name, method.model_fields, search_space(method), inherited=Method.model_fields
    )
    if method.indexed_by == "indicator":
        console.print_line("Tuning also chooses the indicator among the domain features.")


def _list_datasets() -> None:
    from ctrbench.data.selection import list_datasets

    show_data.show_datasets(list_datasets())


def _list_studies() -> None:
    from ctrbench.studies.study import bundled_studies, read_study

    show_plugins.show_studies({name: read_study(file) for name, file in bundled_studies().items()})


def _list_methods() -> None:
    from ctrbench.plugins.registry import ALL, group_members, plugins

    show_plugins.show_methods(plugins("methods").values(), group_members("methods"), all_name=ALL)


def _list_backbones() -> None:
    from ctrbench.plugins.registry import ALL, group_members, plugins

    show_plugins.show_backbones(plugins("backbones").values(), group_members("backbones"), all_name=ALL)


def _list_readers() -> None:
    from ctrbench.discovery import available_plugins
    from ctrbench.readers.base import READERS

    show_plugins.show_summaries("readers", available_plugins(READERS).values())


def _list_metrics() -> None:
    from ctrbench.discovery import available_plugins
    from ctrbench.eval.metrics.registry import METRICS

    show_plugins.show_summaries("metrics", available_plugins(METRICS).values())


def _list_charts() -> None:
    from ctrbench.discovery import available_plugins
    from ctrbench.report.chart import CHARTS

    show_plugins.show_summaries("charts", available_plugins(CHARTS).values())


def _list_drawings() -> None:
    from ctrbench.discovery import available_plugins
    from ctrbench.studies.study import DRAWINGS

    show_plugins.show_summaries("drawings", available_plugins(DRAWINGS).values())


LISTINGS: dict[str, Callable[[], None]] = {
    "datasets": _list_datasets,
    "methods": _list_methods,
    "backbones": _list_backbones,
    "studies": _list_studies,
    "readers": _list_readers,
    "metrics": _list_metrics,
    "charts": _list_charts,
    "drawings": _list_drawings,
}
"""Kind → function that lists it."""


def new_method(name: options_plugins.NewName, folder: options_plugins.PluginFolder = Path()) -> None:
    """Write a small working method to start from."""
    from ctrbench.plugins.scaffold import new_method as write
    from ctrbench.storage.outputs import check_folder, check_local_file

    check_folder(folder, "--folder")
    check_local_file(folder / f"{name}.py", "NAME")
    file = write(name, folder)
    shown = one_line(file)
    console.print_line(
        f"{shown}: edit it, then run\n  ctrbench check {shown}\n  ctrbench run --methods plain,{shown}"
    )


def check(methods: options_plugins.CheckedMethods, backbone: options_plugins.CheckedBackbones = None) -> None:
    """Check that a method satisfies the contract."""
    from ctrbench.contract.matrix import all_pass, check_methods
    from ctrbench.plugins.registry import selectors

    findings = check_methods(
        selectors("methods", methods),
        backbones=None if backbone is None else selectors("backbones", backbone),
        progress=_announce_check,
    )
    if len(findings) > 1:
        show_contract.show_matrix(findings)
    else:
        show_contract.show_findings(next(iter(findings.values())))
    if not all_pass(findings):
        raise typer.Exit(1)


def _announce_check(method: str, number: int, total: int) -> None:
    if total > 1:
        console.print_note(f"[{number}/{total}] {method}")


def explain(
    method: options_plugins.Method,
    backbone: options_plugins.Backbone = "dnn",
    dataset: options_plugins.DatasetOrSynthetic = None,
    domains: options.Domains = None,
    indicator: options.Indicator = None,
    embedding_size: options_plugins.ExplainedEmbeddingSize = 16,
    batch_size: options_plugins.ExplainedBatchSize = 256,
) -> None:
    """Show how a method changes a backbone, and the cost of each stage."""
    from ctrbench.cost.explain import explain as explain_plan
    from ctrbench.data.home import prepared_names
    from ctrbench.data.selection import open_dataset
    from ctrbench.runs.grid import make_config

    config = make_config(embedding_size=embedding_size, batch_size=batch_size)
    if dataset is None and domains is None and indicator is None and not prepared_names():
        show_plan.show_explanation(explain_plan(method, backbone, config=config))
        return
    prepared, domain_set = open_dataset(latest_dataset() if dataset is None else dataset, domains)
    explanation = explain_plan(
        method, backbone, prepared=prepared, domain_set=domain_set, indicator=indicator, config=config
    )
    show_plan.show_explanation(explanation)
