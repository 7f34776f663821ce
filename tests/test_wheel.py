"""The wheel works outside the repository: built, installed into a fresh environment, used from another folder."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, whose dependencies are those of the environment of the tests."""
    folder = tmp_path_factory.mktemp("installed") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # The wheel comes first; a path file adds packages of the environment of the tests, without its `.pth` files.
    (own,) = {Path(path) for path in sys.path if path.endswith("site-packages")}
    (site / "dependencies.pth").write_text(f"{own}\n", encoding="utf-8")
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `clicks.csv`."""
    folder = tmp_path_factory.mktemp("place")
    generator = np.random.default_rng(0)
    with (folder / "clicks.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["time", "scenario", "item", "click"])
        for i in range(900):
            click = int(generator.random() < 0.4)
            writer.writerow(
                [1_700_000_000 + i, f"s{generator.integers(3)}", f"i{generator.integers(20)}", click]
            )
    return folder


PROGRAM = """
import json, sys
import ctrbench
from ctrbench.cli.app import main

print(ctrbench.__file__, file=sys.stderr)
for command in json.loads(sys.argv[1]):
    sys.argv = ["ctrbench", *command]
    try:
        main()
    except SystemExit as leave:
        if leave.code:
            sys.exit(f"{command}: exit code {leave.code}")
"""


def run(python: Path, place: Path, *commands: str) -> str:
    """Run commands with the installed wheel, in one process, and return their output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["CTRBENCH_HOME"] = str(place / "home")
    words = json.dumps([command.split() for command in commands])
    done = subprocess.run(
        [str(python), "-c", PROGRAM, words], cwd=place, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert str(ROOT) not in done.stderr.splitlines()[0]
    return done.stdout


def test_every_command_works_outside_the_repository(installed: Path, place: Path) -> None:
    assert "adasparse/table1" in run(installed, place, "list studies")
    assert "movielens-1m" in run(installed, place, "list datasets")
    assert "adasparse" in run(installed, place, "list methods")
    small = "--epochs 1 --jobs 1 --embedding-size 4 --batch-size 128"
    run(
        installed,
        place,
        "card clicks.csv --out clicks.toml",
        "prepare clicks.toml",
        f"run --dataset clicks --methods plain,adasparse {small}",
        "report --dataset clicks --bins 2",
        "explain star --dataset clicks",
        "check plain --backbone dnn",
        "study star/table2 --dataset clicks --seeds 1 --jobs 1 --dry-run",
    )
    assert (place / "report" / "index.html").is_file()


def test_the_wheel_has_data_files_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "ctrbench/datasets/movielens-1m.toml" in names
    assert "ctrbench/studies/papers/star/table2.toml" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "results/"))]
