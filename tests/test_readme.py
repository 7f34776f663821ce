"""What the README shows is what there is."""

from __future__ import annotations

import re
from pathlib import Path

from ctrbench.cli.app import app
from ctrbench.data.card import DatasetCard
from ctrbench.plugins.registry import plugins
from ctrbench.plugins.scaffold import new_method

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_method_shown_is_the_one_that_is_written(tmp_path: Path) -> None:
    written = new_method("domain_gate", tmp_path).read_text(encoding="utf-8")
    shown = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert shown is not None
    assert re.sub(r"Year: \d+", "", shown[1]) == re.sub(r"Year: \d+", "", written)


def test_every_method_is_named() -> None:
    assert all(f"`{name}`" in README for name in plugins("methods"))


def test_every_command_shown_exists() -> None:
    known = {
        str(command.name or command.callback.__name__)
        for command in app.registered_commands
        if command.callback
    }
    shown = set(re.findall(r"^ {4}ctrbench ([a-z-]+)", README, flags=re.MULTILINE))
    assert shown <= known | {"synth"}


def test_the_card_shown_is_a_card() -> None:
    import tomllib

    block = re.search(r"( {4}name = \"clicks\".*?\n {4}\])", README, flags=re.DOTALL)
    assert block is not None
    text = "\n".join(line.removeprefix("    ") for line in block[1].splitlines())
    card = DatasetCard.model_validate(tomllib.loads(text))
    assert card.domain_sets["default"] == ("scenario", "gender")
