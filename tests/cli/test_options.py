"""Every option and argument of every command: its help, its words and its default."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.core import TyperCommand

from ctrbench.cli.app import app
from ctrbench.runs.grid import PRESETS
from ctrbench.train.config import TrainConfig

FORBIDDEN = (
    "anew", "as many as there are", "at hand", "at most", "beyond its", "go by", "goes by",
    "hold against", "made-up", "place", "side by side", "together", "what", "whoever", "wish",
)  # fmt: skip
"""Words of help that the glossary replaces."""


def commands() -> Iterator[tuple[str, Any]]:
    """Yield every command, with those of groups, by its full name."""

    def walk(name: str, command: TyperCommand) -> Iterator[tuple[str, Any]]:
        yield name, command
        for inner, child in getattr(command, "commands", {}).items():
            yield from walk(f"{name} {inner}", child)

    yield from walk("ctrbench", typer.main.get_command(app))


COMMANDS = dict(commands())
PARAMETERS = {
    f"{name} {option}": parameter
    for name, command in COMMANDS.items()
    for parameter in command.params
    for option in parameter.opts
}


def is_sentence(text: str | None) -> bool:
    return text is not None and re.match(r"[A-Z].*[.…]$", text, flags=re.DOTALL) is not None


def test_all_commands_are_found() -> None:
    assert {"ctrbench run", "ctrbench prepare", "ctrbench synth iaac", "ctrbench new-method"} <= set(COMMANDS)
    assert "ctrbench run --seeds" in PARAMETERS


def test_every_command_has_help_that_is_a_sentence() -> None:
    wrong = [name for name, command in COMMANDS.items() if not is_sentence(command.help)]
    assert wrong == []


def test_every_option_has_help_that_is_a_sentence() -> None:
    assert [name for name, parameter in PARAMETERS.items() if not is_sentence(parameter.help)] == []


def test_help_holds_no_word_that_the_glossary_replaces() -> None:
    texts = {name: item.help for name, item in {**COMMANDS, **PARAMETERS}.items()}
    wrong = [
        f"{name}: {word}"
        for name, text in texts.items()
        for word in FORBIDDEN
        if re.search(rf"\b{word}\b", text, flags=re.IGNORECASE)
    ]
    assert wrong == []


def test_defaults_are_shown_and_not_told_in_prose() -> None:
    assert [name for name, parameter in PARAMETERS.items() if "default" in parameter.help] == []
    values = [
        (name, parameter)
        for name, parameter in PARAMETERS.items()
        if not (parameter.required or parameter.hidden or getattr(parameter, "is_flag", False))
    ]
    silent = [
        name for name, value in values if value.default is None and not isinstance(value.show_default, str)
    ]
    assert silent == []


@pytest.mark.parametrize("command", ["run", "explain", "bench"])
def test_defaults_of_training_are_those_of_the_configuration(command: str) -> None:
    config = TrainConfig().model_dump()
    options = [
        parameter
        for name, parameter in PARAMETERS.items()
        if name.startswith(f"ctrbench {command} --") and parameter.name in config
    ]
    assert options
    for parameter in options:
        if parameter.default is None:
            shown = str(parameter.show_default)
            assert shown.startswith(str(config[parameter.name])) or config[parameter.name] is None
        else:
            assert parameter.default == config[parameter.name]


def test_options_that_a_preset_sets_have_no_default_of_their_own() -> None:
    for preset in PRESETS.values():
        for setting in preset.train:
            assert PARAMETERS[f"ctrbench run --{setting.replace('_', '-')}"].default is None


def test_the_help_of_the_preset_option_names_all_presets() -> None:
    parameter = PARAMETERS["ctrbench run --preset"]
    assert parameter.metavar == "|".join(PRESETS)
    assert all(f"({name})" in parameter.help for name in PRESETS)


ROOT = Path(__file__).parents[2]


def shown_commands() -> Iterator[tuple[str, str]]:
    """Yield each command line that a document shows, with the file and the number of its line."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
            for command in re.findall(r"(?:^|`|\$ |^ +)ctrbench ([^`#|]*)", line):
                yield f"{page.relative_to(ROOT)}:{number}", command


def test_options_that_documents_show_exist() -> None:
    wrong = []
    for position, line in shown_commands():
        words = line.split()
        name = f"ctrbench {' '.join(words[:2] if words[:1] == ['synth'] else words[:1])}"
        options = re.findall(r"(?<![\w-])--[a-z][a-z-]*", line)
        if f"ctrbench {' '.join(words[:1])}" in COMMANDS:
            wrong += [
                f"{position}: {name} {option}" for option in options if f"{name} {option}" not in PARAMETERS
            ]
    assert wrong == []


REALS = sorted(
    name
    for name, parameter in PARAMETERS.items()
    if parameter.type_descriptor.annotation is float and parameter.name != "lr"
)


def test_every_number_of_an_option_has_two_bounds() -> None:
    """Numbers that the training configuration checks have their bounds there."""
    unbounded = [
        name
        for name, parameter in PARAMETERS.items()
        if parameter.name not in TrainConfig.model_fields
        and parameter.type_descriptor.annotation in (int, float)
        and None in (parameter.min, parameter.max)
    ]
    assert unbounded == []


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("name", REALS)
def test_numbers_of_options_are_finite(name: str, value: str, ctrbench: Callable[..., int]) -> None:
    command, option = name.removeprefix("ctrbench ").split(" ")
    assert ctrbench(command, option, value) == 2
