"""The application: its commands, exit codes, and what it shows without being asked to work."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

import ctrbench as package
from ctrbench.cli.app import COMMANDS

Call = Callable[..., CompletedProcess[str]]


def test_the_version_is_that_of_the_package(call: Call) -> None:
    assert call("--version").stdout == f"ctrbench {package.__version__}\n"


def test_help_groups_the_commands(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    shown = call("--help").stdout
    panels = re.findall(r"╭─ ([\w-]+) ─", shown)
    assert panels == ["Options", *COMMANDS]
    assert all(re.search(rf"│ {name} ", shown) for commands in COMMANDS.values() for name in commands)


def test_an_error_of_the_user_ends_with_2(call: Call, folder: Path) -> None:
    outcome = call("show", "nothing")
    assert outcome.returncode == 2
    problem, hint = outcome.stderr.splitlines()
    assert problem == "error: no such prepared dataset: nothing"
    assert hint.startswith("hint: prepare it with")


def test_a_location_that_cannot_be_written_ends_with_2(call: Call, prepared: Path) -> None:
    outcome = call("show", "tiny", "--out", "tiny.csv/charts")
    assert outcome.returncode == 2
    assert "tiny.csv is not a folder" in outcome.stderr.splitlines()[0]


def test_an_interrupted_command_ends_with_130_and_says_how_to_resume(
    call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ctrbench.synthetic.iaac.twin.make_twin", interrupt)
    outcome = call("synth", "iaac", "--out", "raw")
    assert outcome.returncode == 130
    assert outcome.stderr == "Interrupted. Run the same command again to resume.\n"


def test_listing_methods_does_not_import_torch() -> None:
    code = "import sys; from ctrbench.cli.plugins import list_; list_('methods'); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
