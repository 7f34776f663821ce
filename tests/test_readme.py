"""The README: its length, and the examples that it shows."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from typer.main import get_command

from ctrbench.cli.app import app
from ctrbench.cli.show_contract import show_findings
from ctrbench.contract.check import Finding, builtin_backbones
from ctrbench.contract.rules import RULES
from ctrbench.data.card import DatasetCard
from ctrbench.eval.metrics.registry import builtin_metrics

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^ {4}(?:\$ )?ctrbench ([a-z][a-z-]*)(.*)$", README, flags=re.MULTILINE)


def test_the_readme_has_at_most_a_thousand_words() -> None:
    assert len(README.split()) <= 1000


def test_every_command_and_option_exists() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert len(COMMANDS) > 8
    for name, arguments in COMMANDS:
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", arguments.partition("#")[0])) <= options, name


def test_the_card_is_valid() -> None:
    block = re.search(r"( {4}name = \"clicks\".*?\n {4}\])", README, flags=re.DOTALL)
    assert block is not None
    text = "\n".join(line.removeprefix("    ") for line in block[1].splitlines())
    card = DatasetCard.model_validate(tomllib.loads(text))
    assert card.domain_sets["default"] == ("scenario", "gender")


def test_the_method_satisfies_the_contract(tmp_path: Path, ctrbench: Callable[..., int]) -> None:
    code = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert code is not None
    assert len(code[1].strip().splitlines()) <= 15
    file = tmp_path / "own_last_layer.py"
    file.write_text(code[1], encoding="utf-8")
    assert ctrbench("check", str(file)) == 0


def excerpt(command: str) -> list[str]:
    """Return the lines of output that the README shows for a command."""
    block = README.partition(f"    $ ctrbench {command}\n")[2].partition("\n\n")[0]
    return [line.removeprefix("    ") for line in block.splitlines()]


def test_the_output_of_check_is_that_of_the_command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    heading, *lines = excerpt("check star")
    rules = [" ".join(line.split()[:-1]) for line in lines if line.strip() != "…"]
    backbones = list(builtin_backbones())
    monkeypatch.setattr("ctrbench.cli.console.out", Console(width=80))
    show_findings([Finding(backbone=b, rule=rule, ok=True, sentence="") for rule in rules for b in backbones])
    shown = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert set(rules) <= {rule.name for rule in RULES}
    assert heading.split() in shown
    assert all(line.split() in shown for line in lines if line.strip() != "…")


def test_the_columns_of_run_and_report_are_those_of_the_commands() -> None:
    titles = {metric.title for metric in builtin_metrics().metrics if metric.in_table}
    ranked = [metric.title for metric in builtin_metrics().metrics if metric.in_table == "ranked"]
    run, report = (
        excerpt("run --methods plain,adasparse --backbone dnn --seeds 2"),
        excerpt("report --bins 5"),
    )
    assert run[0].split() == ["method", "backbone", "seed", *ranked, "epochs", "steps", "s"]
    assert set(report[0].split()) - {"↑", "↓"} <= titles
    assert not any("•" in line for line in report), "two seeds are too few for a mark"


def test_linked_files_exist() -> None:
    root = Path(__file__).parents[1]
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) > 10
    assert [link for link in links if not (root / link).exists()] == []
