"""Selectors of methods and backbones: names, settings and values of every plug-in, and texts near them."""

from __future__ import annotations

from fuzz_judge import Judge
from fuzz_values import arguments, cases, numbers
from fuzz_world import SMALL, World
from hypothesis import given
from hypothesis import strategies as st

from ctrbench.plugins.registry import group_members, plugins

KINDS = {"methods": "plain", "backbones": "dnn"}
SETTINGS = {
    kind: {name: list(plugin.load().model_fields) for name, plugin in plugins(kind).items()} for kind in KINDS
}
VALUES = st.one_of(
    numbers.map(str),
    arguments(),
    st.sampled_from(
        (
            "none",
            "bn",
            "true",
            "false",
            "shop",
            "sum",
            "8-4",
            "0-0",
            "8--4",
            "65536",
            "65537-1",
            "1e9",
            "1-2-3-4-5-6-7-8-9",
        )
    ),
)


@st.composite
def selectors(draw: st.DrawFn, kind: str) -> str:
    """Draw a name with settings, mostly of that plug-in, sometimes of another or of a group."""
    settings = SETTINGS[kind]
    name = draw(st.sampled_from(sorted(settings)))
    if draw(st.integers(0, 9)) == 0:
        return draw(arguments())
    if draw(st.integers(0, 9)) == 0:
        name = draw(st.sampled_from(sorted(group_members(kind))))
    names = settings.get(name) or ["x"]
    pairs = draw(st.lists(st.tuples(st.sampled_from(names) | arguments(), VALUES), max_size=2))
    text = f"{name}[{','.join(f'{key}={value}' for key, value in pairs)}]" if pairs else name
    position = draw(st.integers(0, len(text)))
    return (
        text if draw(st.integers(0, 4)) else text[:position] + draw(st.sampled_from("[],=")) + text[position:]
    )


def has_output(outcome: object) -> None:
    assert outcome.out.strip()


@cases(44)
@given(method=selectors("methods"), is_run=st.booleans())
def test_methods(world: World, judge: Judge, method: str, is_run: bool) -> None:
    with world.case() as folder:
        arguments = (
            ("run", *SMALL, f"--methods={method}", "--dry-run")
            if is_run
            else ("explain", "--dataset", "tiny", "--", method)
        )
        judge(folder, *arguments, verify=has_output)


@cases(20)
@given(backbone=selectors("backbones"), is_run=st.booleans())
def test_backbones(world: World, judge: Judge, backbone: str, is_run: bool) -> None:
    with world.case() as folder:
        arguments = ("run", *SMALL, "--dry-run") if is_run else ("explain", "plain")
        judge(folder, *arguments, f"--backbone={backbone}", verify=has_output)


@cases(5)
@given(method=selectors("methods"), backbone=selectors("backbones"))
def test_runs(world: World, judge: Judge, method: str, backbone: str) -> None:
    with world.case() as folder:
        arguments = ("run", *SMALL, f"--methods={method}", f"--backbone={backbone}", "--results", "others")
        judge(folder, *arguments, legal=(0, 1, 2), verify=has_output)
