"""A small dataset in a folder of its own, and the command line called as a shell would call it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import polars as pl
import pytest

from ctrbench.data.card import read_card
from ctrbench.data.prepare import prepare

CARD = """
name = "tiny"
title = "A tiny dataset"
description = "Clicks in three shops."
homepage = "https://example.org/tiny"
path = "tiny.csv"
timestamp = "time"
representative = "shop"
user = "user"
label = { column = "click" }

[domain_sets]
default = ["shop", "age"]
shop = ["shop"]

[[fields]]
name = "user"
role = "user"

[[fields]]
name = "shop"
role = "shop"

[[fields]]
name = "age"
role = "user"

[[fields]]
name = "tags"
kind = "multi_valued"

[[fields]]
name = "price"
kind = "numeric"
"""
BROKEN = """
from ctrbench.extend import Method, Plan


class Broken(Method):
    def rewrite(self, plan: Plan) -> Plan:
        raise KeyError("no such stage")
"""
SMALL = ("--epochs", "1", "--batch-size", "64", "--embedding-size", "4", "--backbone", "dnn[hidden=8-4]")


Call = Callable[..., CompletedProcess[str]]


@pytest.fixture
def call(ctrbench: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> Call:
    """Run a command and return its exit code and output."""

    def run(*arguments: str) -> CompletedProcess[str]:
        code = ctrbench(*arguments)
        return CompletedProcess(arguments, code, *capfd.readouterr())

    return run


@pytest.fixture
def train(call: Call) -> Call:
    """Run `ctrbench run` with a small backbone for one epoch."""
    return lambda *arguments: call("run", *SMALL, *arguments)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a home of its own, on a wide terminal."""
    monkeypatch.setenv("CTRBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table, its card, and a home in which it is prepared."""
    folder = tmp_path_factory.mktemp("tiny")
    generator = np.random.default_rng(0)
    rows = 1800
    shop = generator.choice(["s1", "s2", "s3"], rows, p=[0.6, 0.3, 0.1])
    tags = ["|".join(generator.choice(list("abcd"), size)) for size in generator.integers(0, 4, rows)]
    frame = pl.DataFrame(
        {
            "time": np.arange(rows),
            "user": generator.integers(0, 50, rows),
            "shop": shop,
            "age": generator.choice(["young", "old"], rows),
            "tags": tags,
            "price": generator.random(rows),
            "click": (generator.random(rows) < np.where(shop == "s1", 0.7, 0.3)).astype(int),
        }
    )
    frame.write_csv(folder / "tiny.csv")
    (folder / "tiny.toml").write_text(CARD, encoding="utf-8")
    (folder / "broken.py").write_text(BROKEN, encoding="utf-8")
    prepare(read_card(folder / "tiny.toml"), home=folder / "home")
    return folder


@pytest.fixture
def unprepared(tiny: Path, folder: Path) -> Path:
    """The working directory with the table and its card."""
    for name in ("tiny.csv", "tiny.toml"):
        shutil.copy(tiny / name, folder)
    return folder


@pytest.fixture
def prepared(tiny: Path, folder: Path) -> Path:
    """The working directory with the prepared dataset, and a method that fails."""
    shutil.copytree(tiny, folder, dirs_exist_ok=True)
    return folder
