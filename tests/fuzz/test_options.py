"""Options and arguments of every command, taken from the application itself, so that new ones take part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fuzz_judge import Judge
from fuzz_values import arguments, cases
from fuzz_world import SMALL, World
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command

from ctrbench.cli.app import app

BASES: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "prepare": (("tiny.toml",), {}),
    "show": (("tiny",), {}),
    "card": (("tiny.csv",), {}),
    "run": ((), dict(zip(SMALL[::2], SMALL[1::2], strict=True))),
    "tune": ((), {**dict(zip(SMALL[::2], SMALL[1::2], strict=True)), "--trials": "1"}),
    "report": ((), {"--bins": "2"}),
    "study": (("small.toml",), {}),
    "list": (("methods",), {}),
    "explain": (("plain",), {"--embedding-size": "2"}),
    "new-method": (("fresh",), {}),
    "check": (("plain",), {"--backbone": "dnn"}),
    "bench": ((), {"--seconds": "0.01", "--rows": "64", "--domains": "3", "--batch-sizes": "16"}),
    "synth iaac": ((), {"--rows": "100", "--out": "new"}),
}
"""Arguments and options with which each command passes."""
AMOUNTS = {
    "--rows",
    "--seconds",
    "--epochs",
    "--batch-sizes",
    "--embedding-rows",
    "--evaluations",
    "--evaluation-rows",
    "--patience",
    "--top",
    "--trials",
    "--domains",
}
"""Options that may legally take long: only small values and impossible ones are drawn."""
NUMBERS = (
    "0",
    "1",
    "2",
    "3",
    "-1",
    "1.5",
    "nan",
    "inf",
    "1e3",
    "x",
    "",
    "1,2",
    "9" * 30,
    "-" + "9" * 30,
    "-inf",
    "٣",
    "0x1",
    "1_0",
)
TEXTS = (
    "tiny", "plain", "plain,star", "dnn", "shop", "user", "shop,age", "age,shop,user", "price", "tags",
    "all", "default", "1-2", "2,1",
    "adam", "lazy_adam", "bf16", "float32", "cuda", "cpu", "local", "public", "production", "4e6", "0",
    "null", "long-tail,null",
    "tiny.csv", "tiny.toml", "tiny.parquet", "raw", "results", "out", "stops.py", "datasets", "metrics",
    "movielens-1m",
)  # fmt: skip


@dataclass(frozen=True)
class Parameter:
    """One option or argument of a command."""

    command: str
    option: str
    """Name with dashes; empty for an argument."""
    is_flag: bool

    @property
    def values(self) -> st.SearchStrategy[str]:
        if self.option in AMOUNTS:
            return st.sampled_from(NUMBERS)
        # Other engines are clusters, which take a minute to start.
        return (st.sampled_from(NUMBERS + TEXTS) | arguments()).filter(lambda text: text != "ray")


def _parameters(command: Any, name: str = "") -> Iterator[Parameter]:  # noqa: ANN401  # a command of the library
    for child, value in getattr(command, "commands", {}).items():
        yield from _parameters(value, f"{name} {child}".strip())
    if not hasattr(command, "commands"):
        for parameter in command.params:
            is_option = parameter.param_type_name == "option"
            yield Parameter(
                name, parameter.opts[0] if is_option else "", getattr(parameter, "is_flag", False)
            )


PARAMETERS = list(_parameters(get_command(app)))
COMMANDS = {
    command: [parameter for parameter in PARAMETERS if parameter.command == command] for command in BASES
}


def test_every_command_takes_part() -> None:
    assert {parameter.command for parameter in PARAMETERS} == set(BASES)


@st.composite
def lines(draw: st.DrawFn) -> tuple[str, ...]:
    """Draw a command line: the base of a command with one or two options changed."""
    first = draw(st.sampled_from(PARAMETERS))
    others = draw(st.lists(st.sampled_from(COMMANDS[first.command]), max_size=1))
    words, options = BASES[first.command][0], dict(BASES[first.command][1])
    flags = []
    for parameter in (first, *others):
        if parameter.is_flag:
            flags.append(parameter.option)
        elif parameter.option:
            options[parameter.option] = draw(parameter.values)
        else:
            words = (draw(parameter.values),)
    pairs = [f"{name}={value}" for name, value in options.items()]
    # After --, an argument may begin with a dash.
    return (*first.command.split(), *pairs, *flags, *(("--", *words) if words else ()))


@cases(68)
@given(line=lines())
def test_options(world: World, judge: Judge, line: tuple[str, ...]) -> None:
    with world.case() as folder:
        judge(
            folder,
            *line,
            legal=(0, 1, 2) if line[0] in ("run", "tune", "study", "check", "bench") else (0, 2),
        )


@cases(8)
@given(command=st.sampled_from(list(BASES)), words=st.lists(arguments(), max_size=3), is_first=st.booleans())
def test_words(world: World, judge: Judge, command: str, words: list[str], is_first: bool) -> None:
    """Words that no command expects, and arguments that are missing."""
    safe = [word for word in words if word != "--help"]
    with world.case() as folder:
        judge(
            folder,
            *(*safe, command) if is_first and safe else (*command.split(), "--unknown", *safe),
            legal=(0, 2),
        )
