"""The part of run execution that happens on a node of a Ray cluster: checks, plug-in files, the run itself."""

from __future__ import annotations

import atexit
import pickle
import shutil
import socket
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import ctrbench
from ctrbench.data.home import dataset_folder
from ctrbench.data.manifest import MANIFEST
from ctrbench.discovery import Plugin, find
from ctrbench.errors import CtrbenchError, DataError, SettingError
from ctrbench.runs.grid import Run
from ctrbench.runs.record import RunRecord
from ctrbench.runs.store import RunStore
from ctrbench.storage.files import replacing

PluginSources = tuple[bytes | None, bytes | None]
"""Contents of the files of method and backbone; None for built-in ones."""


def with_absolute_paths(store: RunStore) -> RunStore:
    """Return the store with absolute paths, since a worker on a node starts in another folder."""
    return RunStore(results=store.results.absolute(), home=store.home.absolute())


def plugin_sources(run: Run) -> PluginSources:
    """Return the plug-in files that are sent to a node with a run."""
    return plugin_source(run.method), plugin_source(run.backbone)


def plugin_source(plugin: Plugin) -> bytes | None:
    """Return the contents of a plug-in's file, or None for a built-in one, which nodes have."""
    return None if plugin.is_builtin else plugin.file.read_bytes()


def execute_on_node(
    run: Run,
    sources: PluginSources,
    store: RunStore,
    checkpoint_seconds: float,
    mailbox: Any,  # noqa: ANN401  # the handle of a sweep.ProgressMailbox
    attempt: int,
    version: str,
) -> RunRecord | CtrbenchError:
    """Execute one run; an error that is not the run's own, such as a full disk, is returned as a value."""
    from ctrbench.runs.execute import execute

    def progress(tick: object) -> None:
        # As bytes, so that the mailbox need not import torch.
        mailbox.put.remote(run.key.digest, attempt, pickle.dumps(tick))

    progress(None)
    try:
        run_on_node = prepare_on_node(run, sources, store, version)
        return execute(run_on_node, store, progress=progress, checkpoint_seconds=checkpoint_seconds)
    except CtrbenchError as error:
        # A worker that was taken for dead may have finished the run before.
        existing = store.find(run.key)
        return existing if existing is not None and existing.status == "finished" else error


def prepare_on_node(run: Run, sources: PluginSources, store: RunStore, version: str) -> Run:
    """Return the run with the plug-ins of this node; raise an error if the node cannot execute it."""
    check_node(run, store, version)
    method, backbone = sources
    return replace(
        run, method=install_plugin(run.method, method), backbone=install_plugin(run.backbone, backbone)
    )


def check_node(run: Run, store: RunStore, version: str) -> None:
    """Raise an error if this node has another version of ctrbench or does not see the prepared data."""
    node = socket.gethostname()
    if ctrbench.__version__ != version:
        raise SettingError(
            "all nodes must have the same version of ctrbench",
            value=f"{ctrbench.__version__} on {node}, {version} here",
            remedy=f"install ctrbench {version} on {node}",
        )
    folder = dataset_folder(run.key.dataset, store.home)
    if not (folder / MANIFEST).exists():
        remedy = "set CTRBENCH_HOME to a folder that all nodes share, or to a URL"
        raise DataError("all nodes must see the prepared data", value=f"{folder} on {node}", remedy=remedy)


def install_plugin(plugin: Plugin, source: bytes | None) -> Plugin:
    """Return the plug-in with its file on this node."""
    if source is None:
        return find(plugin.kind, plugin.name)
    file = _plugin_folder() / plugin.kind.name / f"{plugin.name}.py"
    with replacing(file) as part:
        part.write_bytes(source)
    return replace(plugin, file=file)


@cache
def _plugin_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="ctrbench-plugins-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
