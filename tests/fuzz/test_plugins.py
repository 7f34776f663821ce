"""Faulty plug-ins of every kind: they do not import, return something else, raise anything or leave the program."""

from __future__ import annotations

import textwrap
from pathlib import Path

from fuzz_judge import Judge
from fuzz_values import cases, to_toml
from fuzz_world import CARD, SMALL, STUDY, World
from hypothesis import given
from hypothesis import strategies as st

METHOD = """
from ctrbench.extend import Dense, DomainDense, Learner, Method, Plan


class MyLearner(Learner):
    refuses_workers = "it is faulty"

    def step(self, model, optimizer, batch):
        {step}
        return super().step(model, optimizer, batch)


class Mine(Method):
    width: int = 3

    def __init__(self, **values):
        {init}
        super().__init__(**values)

    def rewrite(self, plan):
        {rewrite}
        return plan

    def supports(self, plan):
        {supports}
        return None

    def learner(self):
        {learner}
        return MyLearner()
"""
BACKBONE = """
from ctrbench.extend import Backbone, Plan


class Mine(Backbone):
    def plan(self):
        {plan}
        return Plan(tower=self.tower(), head=self.output())

    def idle(self):
        {idle}
        return super().idle()
"""
READER = """
import polars as pl

from ctrbench.readers.base import RawData, Reader


class Mine(Reader):
    def read(self, request):
        {read}
        return RawData(frame=pl.scan_csv(request.paths[0]), files=request.paths)
"""
METRIC = """
from ctrbench.eval.metrics.base import RowMetric


class Mine(RowMetric):
    name = "mine"
    title = "Mine"

    def values(self, groups):
        {values}
        return groups.score
"""
CHART = """
from ctrbench.report.chart import Chart


class Mine(Chart):
    def draw(self, summary):
        {draw}
        return ()
"""
DRAWING = """
from ctrbench.studies.drawing import Drawing


class Mine(Drawing):
    def draw(self, parts, *, store):
        {draw}
        return None
"""
RUN = ("run", *SMALL, "--results", "others", "--methods", "mine.py")
USES: dict[str, tuple[tuple[str, ...], ...]] = {
    METHOD: (
        RUN,
        RUN,
        ("explain", "mine.py"),
        ("check", "mine.py", "--backbone", "dnn"),
        ("run", "--methods", "mine.py", "--dry-run"),
    ),
    BACKBONE: (
        ("explain", "plain", "--backbone", "mine.py"),
        (*RUN[:-2], "--backbone", "mine.py"),
        ("check", "plain", "--backbone", "mine.py"),
    ),
    READER: (("prepare", "new.toml"),),
    METRIC: (("report", "--bins", "2", "--metrics", "mine.py"),),
    CHART: (("report", "--bins", "2", "--charts", "mine.py"),),
    DRAWING: (("study", "new-study.toml"),),
}
"""Source of a kind → commands that use such a plug-in."""
HOOKS = {
    METHOD: ("step", "init", "rewrite", "supports", "learner"),
    BACKBONE: ("plan", "idle"),
    READER: ("read",),
    METRIC: ("values",),
    CHART: ("draw",),
    DRAWING: ("draw",),
}
RAISED = (
    "ValueError('wrong')", "KeyError('x')", "ValueError('[/bold] \\x1b[31m red')", "ValueError('a\\nb')",
    "ValueError('')", "ValueError('\\udce9')",
    "BaseException('base')", "KeyboardInterrupt", "SystemExit(0)", "SystemExit(3)", "SystemExit('bye')",
    "GeneratorExit", "StopIteration",
    "MemoryError", "RecursionError", "OSError(28, 'No space left on device')",
    "FileNotFoundError(2, 'No such file', 'x')", "AssertionError",
    "NotImplementedError", "UnicodeDecodeError('utf-8', b'x', 0, 1, 'bad')", "TimeoutError", "EOFError",
    "ImportError('x')",
    "type('Odd', (Exception,), {'__str__': lambda self: 1 / 0})('x')",
    "ExceptionGroup('several', [ValueError('x')])",
)  # fmt: skip
RETURNED = (
    "None",
    "3",
    "'text'",
    "[]",
    "{}",
    "object()",
    "self",
    "type(self)",
    "float('nan')",
    "(x for x in ())",
    "b''",
    "True",
    "print",
)
STATEMENTS = (
    "import sys; sys.exit(0)", "import sys; sys.exit('\\x1b[31m')",
 "1 / 0", "undefined",
    "def f(): return f()\n{indent}f()", "import no_such_module",
    "import torch; torch.zeros(2) @ torch.zeros(3)", "self.width = 4",
    "import os; os.chdir('/')", "[].pop()",
    "import numpy; numpy.zeros(3)[5]",
    "import torch; raise torch.cuda.OutOfMemoryError('x')", "import polars; polars.DataFrame({'a': [1]})['b']",
)  # fmt: skip
REWRITES = "from ctrbench.extend import Method\nclass A(Method):\n    def rewrite(self, plan): return plan"
FILES = (
    "", "x = 1", "def f(:", "raise SystemExit(0)", "import sys; sys.exit(2)", "raise KeyboardInterrupt",
    "raise BaseException('base')", "1 / 0",
    "while True:\n    break", "from ctrbench.extend import nothing", "import no_such_module", "\x00",
    "# -*- coding: nope -*-", "x = '\udce9'",
    "from ctrbench.extend import Method\nclass A(Method): pass",
    "from ctrbench.extend import Method\nclass A(Method):\n    x: object\n",
    f"{REWRITES}\nclass B(A): pass\nclass C(A): pass", f"{REWRITES}\n    def __init__(self): pass",
    "from ctrbench.extend import Method\nclass A(Method, int): pass",

    "(" * 300 + ")" * 300, "x = " + "-" * 5000 + "1", '"""\x1b[31m [/bold]"""', "f = lambda: f()\nf()",
    "import os; os.chdir('/nowhere')",
)  # fmt: skip
BODIES = st.one_of(
    st.sampled_from(RAISED).map(lambda text: f"raise {text}"),
    st.sampled_from(RETURNED).map(lambda text: f"return {text}"),
    st.sampled_from(STATEMENTS),
)


def use(world: World, judge: Judge, source: str, text: str, command: tuple[str, ...]) -> None:
    with world.case() as folder:
        Path("mine.py").write_bytes(text.encode("utf-8", "surrogateescape"))
        Path("new.toml").write_text(to_toml({**CARD, "name": "new", "reader": "mine.py"}), encoding="utf-8")
        Path("new-study.toml").write_text(to_toml({**STUDY, "draw": "mine.py"}), encoding="utf-8")
        # A run that fails leaves a record.
        legal = (0, 1, 2) if command[0] in ("run", "check", "study") else (0, 2)
        judge(folder, *command, legal=legal, case=text)


@cases(60)
@given(values=st.data(), source=st.sampled_from([METHOD, METHOD, *USES]), body=BODIES)
def test_bodies(world: World, judge: Judge, values: st.DataObject, source: str, body: str) -> None:
    hook = values.draw(st.sampled_from(HOOKS[source]))
    bodies = {name: body.replace("{indent}", " " * 8) if name == hook else "pass" for name in HOOKS[source]}
    use(world, judge, source, source.format(**bodies), values.draw(st.sampled_from(USES[source])))


@cases(24)
@given(values=st.data(), source=st.sampled_from(list(USES)), text=st.sampled_from(FILES))
def test_files(world: World, judge: Judge, values: st.DataObject, source: str, text: str) -> None:
    use(world, judge, source, textwrap.dedent(text), values.draw(st.sampled_from(USES[source])))
