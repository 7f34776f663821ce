"""Checks and plug-ins of a node, without a cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import ctrbench
from ctrbench.errors import DataError, SettingError
from ctrbench.runs.engines.ray_node import check_node, install_plugin, plugin_source
from ctrbench.runs.grid import Run
from ctrbench.runs.store import RunStore


def test_all_nodes_need_the_same_version(run: Run, home: Path, tmp_path: Path) -> None:
    check_node(run, RunStore(results=tmp_path, home=home / "home"), ctrbench.__version__)
    with pytest.raises(
        SettingError, match=r"all nodes must have the same version of ctrbench.*install ctrbench 9\.9 on"
    ):
        check_node(run, RunStore(results=tmp_path, home=home / "home"), "9.9")


def test_a_node_must_see_the_data(run: Run, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="all nodes must see the prepared data"):
        check_node(run, RunStore(results=tmp_path, home=tmp_path), ctrbench.__version__)


def test_built_in_plugins_are_taken_from_the_node(run: Run) -> None:
    method = run.method
    there = replace(method, file=Path("/another/machine/adasparse.py"))
    assert install_plugin(there, plugin_source(there)) == method
