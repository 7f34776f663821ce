"""A small share of cases in processes of their own: streams, exit codes and runs in further processes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from fuzz_judge import Judge
from fuzz_values import cases, mutated_bytes, mutated_trees, to_toml
from fuzz_world import CARD, SMALL, World, call_process
from hypothesis import given
from hypothesis import strategies as st

METHOD = """
from ctrbench.extend import Method

{top}


class Mine(Method):
    def rewrite(self, plan):
        return plan

    def learner(self):
        {learner}
"""
ENDS = (
    "import sys; sys.exit(0)",
    "raise KeyboardInterrupt",
    "raise BaseException('x')",
    "1 / 0",
    "import os; os._exit(3)",
)
VARIABLES = (
    ("PYTHONIOENCODING", "ascii"), ("PYTHONIOENCODING", "latin-1"), ("LC_ALL", "C"),
    ("CTRBENCH_HOME", "~nosuch/x"),
    ("CTRBENCH_HOME", "/proc/x"), ("NUMBA_CACHE_DIR", "/proc/x"), ("TERM", "dumb"), ("COLUMNS", "1"),
    ("CTRBENCH_DEBUG", ""),
    ("CTRBENCH_CHECKPOINT_SECONDS", "x"), ("CTRBENCH_CHECKPOINT_SECONDS", "-1"), ("TMPDIR", "/nowhere"),
)  # fmt: skip


def test_methods_that_leave_the_process_of_their_run(world: World, judge: Judge) -> None:
    with world.case() as folder:
        files = [f"mine{index}.py" for index in range(len(ENDS))]
        for file, end in zip(files, ENDS, strict=True):
            Path(file).write_text(METHOD.format(top="", learner=end), encoding="utf-8")
        command = ("run", *SMALL, "--methods", ",".join(files), "--jobs", "1", "--results", "others")
        judge(folder, *command, legal=(1,), caller=call_process)
        records = [json.loads(file.read_bytes()) for file in Path("others/tiny").glob("*.json")]
        assert [record["status"] for record in records] == ["failed"] * len(ENDS)


@pytest.mark.parametrize("end", ENDS)
def test_files_that_leave(world: World, judge: Judge, end: str) -> None:
    # Nothing can intervene where a file ends the main process itself.
    end = "import sys; sys.exit(2)" if "_exit" in end else end
    with world.case() as folder:
        text = METHOD.format(top=end, learner="pass")
        Path("mine.py").write_text(text, encoding="utf-8")
        judge(folder, "run", *SMALL, "--methods", "mine.py", "--results", "others", legal=(2,), case=text)


@cases(1)
@given(
    card=mutated_trees({**CARD, "name": "new"}),
    content=mutated_bytes(b"time,user\n1,2\n"),
    is_card=st.booleans(),
)
def test_files(world: World, judge: Judge, card: dict[str, object], content: bytes, is_card: bool) -> None:
    with world.case() as folder:
        Path("new.toml").write_text(to_toml(card), encoding="utf-8", errors="replace")
        Path("new.csv").write_bytes(content)
        arguments = ("prepare", "new.toml") if is_card else ("card", "new.csv")
        judge(folder, *arguments, case=(card, content), caller=call_process)


@cases(2)
@given(
    variable=st.sampled_from(VARIABLES),
    command=st.sampled_from(
        (
            ("list", "methods"),
            ("show", "tiny"),
            ("report",),
            ("run", *SMALL, "--seeds", "2"),
            ("card", "tiny.csv"),
        )
    ),
)
def test_surroundings(
    world: World, judge: Judge, variable: tuple[str, str], command: tuple[str, ...]
) -> None:
    with world.case() as folder:
        os.environ[variable[0]] = variable[1]
        judge(folder, *command, case=variable, caller=call_process)
