"""Rules of the architecture that the syntax tree shows: which module imports which, and what is defined once."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import ctrbench
from ctrbench.eval.metrics.registry import builtin_metrics

ROOT = Path(ctrbench.__file__).parent
GROUND = (
    "errors",
    "problems",
    "failures",
    "plain_text",
    "names",
    "added_fields",
    "address_space",
    "discovery",
    "compiled",
    "storage",
)
BUILDS = (*GROUND, "data", "nn", "plugins", "runs", "synthetic.click_log", "train")
"""Imports of packages that build models of given data: `cost` and `speed`."""

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "errors": (),
    "problems": ("errors",),
    "failures": ("errors",),
    "plain_text": (),
    "names": (),
    "compiled": (),
    "added_fields": (),
    "address_space": ("errors",),
    "discovery": ("errors", "failures"),
    "storage": ("errors", "storage"),
    "readers": (*GROUND, "readers"),
    "synthetic": (*GROUND, "readers", "synthetic"),
    "data": (*GROUND, "data", "readers", "synthetic"),
    "data.batches": (*GROUND, "nn.gather"),
    "data.load": (*GROUND, "data.batches", "data.prepared"),
    "data.stream": (*GROUND, "data.batches", "data.load", "data.prepared", "data.shuffle"),
    "nn": (*GROUND, "nn"),
    "backbones": ("extend",),
    "methods": ("extend",),
    "extend": (
        *GROUND,
        "nn",
        "plugins.base",
        "plugins.inspection",
        "plugins.ranges",
        "train.domain_means",
        "train.functional",
        "train.learner",
        "train.side_network",
        "train.tasks",
        "data.batches",
    ),
    "plugins": (*GROUND, "plugins"),
    "plugins.base": (
        *GROUND,
        "nn",
        "plugins.common",
        "plugins.inspection",
        "plugins.settings",
        "train.learner",
        "data.batches",
    ),
    "plugins.common": (*GROUND, "nn", "plugins.ranges", "plugins.settings"),
    "plugins.settings": ("added_fields",),
    "plugins.inspection": (),
    "plugins.groups": (),
    "plugins.ranges": (),
    "eval": (*GROUND, "eval"),
    "train": (*GROUND, "nn", "data.batches", "eval", "train"),
    "runs": (*GROUND, "data", "eval", "nn", "plugins", "runs", "train", "ctrbench"),
    "runs.schema": (*GROUND, "data.prepared", "nn.schema", "runs.record", "synthetic.click_log"),
    "runs.record": (*GROUND, "eval.stored"),
    "runs.record_rules": ("eval.metrics", "runs.record"),
    "runs.trials": ("eval.metrics.auc", "runs.record"),
    "runs.store": (*GROUND, "data.home", "plugins.inspection", "runs.record", "runs.record_rules"),
    "speed": (
        *GROUND,
        "cost.products",
        "data",
        "nn",
        "plugins",
        "runs",
        "speed",
        "synthetic.click_log",
        "train",
        "ctrbench",
    ),
    "report": (*GROUND, "runs.record", "runs.store", "runs.trials", "eval", "plugins.groups", "report"),
    "tuning": (*GROUND, "plugins", "runs", "tuning"),
    "studies": (*GROUND, "data", "eval", "plugins", "runs", "report", "studies", "train.config"),
    "studies.study": GROUND,
    "contract": (*GROUND, "contract", "nn", "plugins", "data.batches", "train"),
    "cost": (*BUILDS, "cost"),
    "controls": (*BUILDS, "controls", "cost"),
    "cli": ("",),
}
"""Folder or module: what it may import, by the start of the name; the longest entry counts."""

THIRD_PARTY = {
    "torch": (
        "nn",
        "backbones",
        "methods",
        "extend",
        "plugins.base",
        "train",
        "runs.execute",
        "runs.run_data",
        "runs.machine",
        "runs.engines.capacity",
        "data.batches",
        "data.load",
        "data.shuffle",
        "data.stream",
        "contract",
        "controls",
        "cost",
        "speed",
    ),
    "ray": ("runs.engines.ray_cluster", "runs.engines.ray_sweep", "train.distributed"),
    "typer": ("cli",),
    "rich": ("cli", "report", "studies"),
    "altair": ("report", "studies"),
    "pandas": (),
}
"""Packages that only some parts may import."""

WITHOUT_TORCH = (
    "cli",
    "discovery",
    "plugins.groups",
    "plugins.inspection",
    "plugins.registry",
    "plugins.scaffold",
    "studies.study",
    "eval",
    "report",
    "readers",
    "synthetic",
    "data",
)
"""Folders and modules that are imported without waiting for torch, with the exceptions in the test."""


@dataclass(frozen=True)
class Import:
    """One import: its module, its target, and whether it is inside a function."""

    module: str
    target: str
    line: int
    is_late: bool


@cache
def modules() -> dict[str, Path]:
    """Names of all modules within the package, folders' own left out."""
    files = (file for file in sorted(ROOT.rglob("*.py")) if file.stem != "__init__")
    return {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files}


def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def statements(
    node: ast.AST, *, is_late: bool = False, with_types: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Yield the import statements below a node; those for type checkers only `with_types`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test) and not with_types:
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, is_late
        else:
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from statements(child, is_late=is_late or is_function, with_types=with_types)


def targets(statement: ast.Import | ast.ImportFrom) -> list[str]:
    """Return the modules that a statement imports; `from folder import name` may mean folder.name."""
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    assert statement.level == 0, "imports are absolute"
    assert statement.module is not None
    inside = [f"{statement.module}.{alias.name}" for alias in statement.names]
    known = {f"ctrbench.{name}" for name in modules()}
    return [name for name in inside if name in known] or [statement.module]


@cache
def imports() -> list[Import]:
    return [
        Import(module, target, statement.lineno, is_late)
        for module, file in modules().items()
        for statement, is_late in statements(parsed(file))
        for target in targets(statement)
    ]


def within(name: str, folder: str) -> bool:
    return folder == "" or name == folder or name.startswith(f"{folder}.")


def rule_of(module: str) -> tuple[str, ...]:
    found = [folder for folder in MAY_IMPORT if within(module, folder)]
    assert found, f"ctrbench/{module.replace('.', '/')}.py has no line in MAY_IMPORT"
    return MAY_IMPORT[max(found, key=len)]


def test_imports_are_seen_at_every_level_of_nesting() -> None:
    code = """
import one
if TYPE_CHECKING:
    import two
def f():
    from three import four
class C:
    import five
"""
    found = [(targets(statement), is_late) for statement, is_late in statements(ast.parse(code))]
    assert found == [(["one"], False), (["three"], True), (["five"], False)]


def test_modules_import_what_their_folder_may() -> None:
    wrong = []
    for entry in imports():
        inner = entry.target.removeprefix("ctrbench.")
        if within(entry.target, "ctrbench") and not any(within(inner, may) for may in rule_of(entry.module)):
            wrong.append(f"{entry.module}, line {entry.line}: {entry.target}")
    assert wrong == []


def test_only_some_know_some_packages() -> None:
    wrong = [
        f"{entry.module}, line {entry.line}: {entry.target}"
        for entry in imports()
        for package, folders in THIRD_PARTY.items()
        if within(entry.target, package) and not any(within(entry.module, folder) for folder in folders)
    ]
    assert wrong == []


@cache
def graph_of_modules() -> dict[str, set[str]]:
    """Return the imports of each module; late ones and those that only type checkers see count too."""
    return {
        module: {
            target.removeprefix("ctrbench.")
            for statement, _ in statements(parsed(file), with_types=True)
            for target in targets(statement)
        }
        for module, file in {"ctrbench": ROOT / "__init__.py", **modules()}.items()
    }


def graph_of_packages() -> dict[str, set[str]]:
    """Return the imports between the top-level packages and modules of ctrbench."""
    graph: dict[str, set[str]] = {}
    for module, imported in graph_of_modules().items():
        package = module.partition(".")[0]
        graph.setdefault(package, set()).update(target.partition(".")[0] for target in imported)
        graph[package].discard(package)
    return graph


def test_there_are_no_cycles_between_modules() -> None:
    order = list(TopologicalSorter(graph_of_modules()).static_order())
    assert order.index("errors") < order.index("data.card") < order.index("cli.app")


def test_there_are_no_cycles_between_packages() -> None:
    graph = graph_of_packages()
    assert graph["cli"] > {"ctrbench", "runs", "report"}
    TopologicalSorter(graph).prepare()


def test_plugins_import_what_outsiders_import() -> None:
    ours = {entry.target for entry in imports() if entry.module.split(".")[0] in ("methods", "backbones")}
    assert {target for target in ours if within(target, "ctrbench")} == {"ctrbench.extend"}


LIGHT = (
    "ctrbench",
    "ctrbench.address_space",
    "ctrbench.errors",
    "ctrbench.failures",
    "ctrbench.plain_text",
    "ctrbench.names",
)
"""Modules that the command line may import at once."""


def test_modules_of_the_command_line_import_other_packages_late() -> None:
    wrong = [
        f"{entry.module}, line {entry.line}: {entry.target}"
        for entry in imports()
        if within(entry.module, "cli") and not entry.is_late and within(entry.target, "ctrbench")
        if entry.target not in LIGHT
        if not within(entry.target, "ctrbench.cli")
    ]
    assert wrong == []


SHOWS = ("errors", "names", "plain_text", "cli.console", "cli.formats", "eval.metrics.registry")
"""Modules of ctrbench that a module that shows may import, other than for type hints."""
WRITES = {
    "open",
    "write_text",
    "write_bytes",
    "replacing",
    "mkdir",
    "touch",
    "rename",
    "replace",
    "unlink",
    "save",
}
"""Calls that create or change a file."""


def showing_modules() -> list[str]:
    return [name for name in modules() if name.startswith("cli.show_")]


def test_modules_that_show_do_no_work() -> None:
    wrong = [
        f"{entry.module}, line {entry.line}: {entry.target}"
        for entry in imports()
        if entry.module in showing_modules() and entry.target.split(".")[0] not in ("__future__", "rich")
        if entry.target.split(".")[0] not in sys.stdlib_module_names
        if entry.target.removeprefix("ctrbench.") not in SHOWS
    ]
    assert len(showing_modules()) >= 5
    assert wrong == []


def test_the_command_line_writes_no_files() -> None:
    wrong = [
        f"{module}, line {node.lineno}: {ast.unparse(node.func)}"
        for module in modules()
        if within(module, "cli")
        for node in ast.walk(parsed(modules()[module]))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in WRITES
    ]
    assert wrong == []


def light_modules() -> list[str]:
    light = [name for name in modules() if any(within(name, folder) for folder in WITHOUT_TORCH)]
    return [
        *(name for name in light if name not in ("data.batches", "data.load", "data.shuffle", "data.stream")),
        "runs.record",
        "runs.store",
    ]


def test_light_modules_are_imported_without_torch() -> None:
    lines = "\n".join(
        f"importlib.import_module('ctrbench.{name}')\n"
        f"assert 'torch' not in sys.modules, 'torch came with ctrbench.{name}'"
        for name in light_modules()
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import importlib, sys\n{lines}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "package", ["torch", "polars", "pyarrow", "altair", "sklearn", "scipy", "numpy", "fsspec"]
)
def test_help_waits_for_nothing_heavy(package: str) -> None:
    code = f"import ctrbench.cli.app, sys; sys.exit({package!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_reports_compute_statistics_in_two_modules_only() -> None:
    rules = ("significance", "contrasts", "crossed", "simultaneous")
    targets_of_rules = {f"ctrbench.eval.{name}" for name in rules}
    users = {entry.module for entry in imports() if entry.target in targets_of_rules}
    assert {user for user in users if within(user, "report")} == {
        "report.differences",
        "report.estimate",
    }


def test_names_of_metrics_are_spelled_in_the_file_of_the_metric_alone() -> None:
    spelled = {name for name in builtin_metrics().by_name if "_" in name}
    assert "gauc_coverage" in spelled
    wrong = [
        f"{module}, line {node.lineno}: {node.value!r}"
        for module, file in modules().items()
        if module != f"eval.metrics.{module.split('.')[-1]}"
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.Constant) and node.value in spelled
    ]
    assert wrong == []


def test_every_module_says_what_lives_there() -> None:
    silent = [name for name, file in modules().items() if not ast.get_docstring(parsed(file))]
    assert silent == []


def test_folders_hold_no_code_of_their_own() -> None:
    files = [file for file in ROOT.rglob("__init__.py") if file.parent != ROOT]
    assert [file for file in files if len(parsed(file).body) != 1] == []


def test_no_mutable_defaults_and_no_star_imports() -> None:
    wrong = []
    for module, file in modules().items():
        for node in ast.walk(parsed(file)):
            if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
                wrong.append(f"{module}, line {node.lineno}: star import")
            if isinstance(node, ast.FunctionDef | ast.Lambda):
                defaults = [*node.args.defaults, *(one for one in node.args.kw_defaults if one)]
                if any(isinstance(one, ast.List | ast.Dict | ast.Set) for one in defaults):
                    wrong.append(f"{module}, line {node.lineno}: mutable default")
    assert wrong == []


MAX_LINES = 400


def test_modules_are_not_long() -> None:
    lengths = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in modules().items()}
    long = {name: length for name, length in lengths.items() if length > MAX_LINES}
    assert long == {}, "split these modules by topic"
