"""Locations: every option and argument that names one, and everything that may be at a location."""

from __future__ import annotations

import os
from pathlib import Path

from fuzz_judge import Judge
from fuzz_values import arguments, cases
from fuzz_world import SMALL, World
from hypothesis import given
from hypothesis import strategies as st

LOCATIONS = (
    ("prepare", "{}"),
    ("prepare", "movielens-1m", "--source={}"),
    ("prepare", "iaac", "--source={}"),
    ("prepare", "tiny.toml", "--export={}"),
    ("show", "tiny", "--out={}"),
    ("card", "{}"),
    ("card", "tiny.csv", "--out={}"),
    ("run", *SMALL, "--results={}"),
    ("run", *SMALL, "--methods={}", "--dry-run"),
    ("run", *SMALL, "--backbone={}", "--dry-run"),
    ("report", "--results={}"),
    ("report", "--bins=2", "--out={}"),
    ("report", "--bins=2", "--leaderboard={}"),
    ("report", "--metrics={}"),
    ("report", "--charts={}"),
    ("study", "{}"),
    ("study", "small.toml", "--out={}"),
    ("study", "small.toml", "--results={}"),
    ("explain", "{}"),
    ("new-method", "fresh", "--folder={}"),
    ("check", "{}"),
    ("bench", "--json={}", "--seconds=0.01", "--rows=64", "--domains=3", "--batch-sizes=16"),
    ("synth", "iaac", "--rows=100", "--out={}"),
)
SUFFIXES = ("", "", ".toml", ".csv", ".parquet", ".py", ".json", ".md", ".zip", ".csv.gz")
OUTSIDE = (
    "/proc/x", "/proc/self/mem", "/dev/null", "/dev/null/x", "/dev/full", "/dev/full/x", "/sys/x",
    "nope://bucket/x", "://", "file://",
    "http://127.0.0.1:9/x", "https://", "s3://", "tiny.csv/", "tiny.csv/x", "home", ".", "..",
    "results/tiny", "raw", "stops.py/x.toml",
)  # fmt: skip


def make(kind: str, suffix: str) -> str:
    """Put something at a path in the working directory and return the path."""
    path = Path(f"here{suffix}")
    if kind in LINKS:
        path.symlink_to(LINKS[kind] or path.name)
    elif kind in CONTENTS:
        path.write_bytes(CONTENTS[kind])
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind in ("folder", "full folder"):
        path.mkdir()
        for name in ("x.txt",) if kind == "full folder" else ():
            (path / name).write_text("x", encoding="utf-8")
    return NAMES.get(kind, "here") + suffix


LINKS = {"loop": "", "dangling link": "nowhere/x", "link to a folder": "raw"}
CONTENTS = {"empty file": b"", "file of bytes": bytes(range(256))}
NAMES = {
    "below a file": "tiny.csv/x",
    "long name": "x" * 300,
    "name at the limit": "x" * 242,
    "long path": "/".join(["x" * 200] * 30),
    "deep path": "/".join(["d"] * 400),
}
KINDS = ("nothing", "folder", "full folder", "pipe", *LINKS, *CONTENTS, *NAMES)


def use(world: World, judge: Judge, command: tuple[str, ...], path: str, folder: Path) -> None:
    words = tuple(word.replace("{}", path) for word in command)
    if "{}" in command:
        words = (*(word for word in words if word != path), "--", path)
    legal = (0, 1, 2) if command[0] in ("run", "study", "check") else (0, 2)
    judge(folder, *words, legal=legal)


@cases(44)
@given(command=st.sampled_from(LOCATIONS), kind=st.sampled_from(KINDS), suffix=st.sampled_from(SUFFIXES))
def test_things_at_a_location(
    world: World, judge: Judge, command: tuple[str, ...], kind: str, suffix: str
) -> None:
    with world.case() as folder:
        use(world, judge, command, make(kind, suffix), folder)


@cases(24)
@given(command=st.sampled_from(LOCATIONS), path=st.sampled_from(OUTSIDE) | arguments())
def test_locations(world: World, judge: Judge, command: tuple[str, ...], path: str) -> None:
    with world.case() as folder:
        use(world, judge, command, path, folder)


@cases(12)
@given(
    command=st.sampled_from(
        (("prepare", "tiny.toml"), ("run", *SMALL), ("report",), ("list", "datasets"), ("explain", "plain"))
    ),
    kind=st.sampled_from(KINDS),
    other=st.none() | st.sampled_from(OUTSIDE) | arguments().filter(lambda text: "\x00" not in text),
)
def test_homes(world: World, judge: Judge, command: tuple[str, ...], kind: str, other: str | None) -> None:
    with world.case() as folder:
        os.environ["CTRBENCH_HOME"] = make(kind, "") if other is None else other
        judge(folder, *command, legal=(0, 1, 2), case=os.environ["CTRBENCH_HOME"])
