"""Discovery of plug-ins of every kind: methods, backbones, readers, metrics, charts, drawings.

One file is one plug-in: a file in the kind's own package, a path to a `.py` file, or a module that an installed package
registers under the kind's entry point group, `ctrbench.<kind>`. A plug-in is listed from its file's docstring and is
imported only when it is loaded, so that listings stay fast. A module of the top level that imports errors only,
so that every package can define a kind.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from ctrbench.errors import PLUGIN_MODULE, ContractError, SettingError, describe_exception, did_you_mean
from ctrbench.failures import is_failure

TAGS = ("Paper", "Year", "Uses", "Parameters per domain")
"""Lines of a plug-in's docstring, `Name: text`, that listings show; the last two belong to methods."""
_TAG = rf"(?:{'|'.join(TAGS)}): "
PACKAGE_ROOT = Path(__file__).parent

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class PluginKind(Generic[T]):
    """A kind of plug-in: where its files are found and which class each of them subclasses.

    >>> METRICS: PluginKind[Metric] = PluginKind(
    ...     name="metrics", package="ctrbench.eval.metrics", base="ctrbench.eval.metrics.base:Metric", helpers=("base",)
    ... )  # doctest: +SKIP
    """

    name: str
    """Plural noun, used in messages and in the entry point group."""
    package: str
    """Package whose files are the built-in plug-ins, as a dotted name."""
    base: str
    """Base class as `module:Class`; imported when a plug-in is loaded."""
    helpers: tuple[str, ...] = ()
    """Modules of the package that are not plug-ins; names that start with `_` never are."""

    @property
    def group(self) -> str:
        """The entry point group of plug-ins from other packages."""
        return f"ctrbench.{self.name}"

    @property
    def noun(self) -> str:
        """The kind in the singular, for messages."""
        return self.name.removesuffix("s")

    def base_class(self) -> type[T]:
        """Import and return the base class."""
        module, _, name = self.base.partition(":")
        base: type[T] = getattr(importlib.import_module(module), name)
        return base

    def load(self, name: str) -> type[T]:
        """Find the plug-in with this name or path, import it and return its class."""
        return find(self, name).load()


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A plug-in file that is not imported yet."""

    name: str
    kind: PluginKind[Any]
    file: Path
    is_builtin: bool

    @cached_property
    def docstring(self) -> str:
        """The file's docstring."""
        try:
            return ast.get_docstring(ast.parse(self.file.read_text(encoding="utf-8"))) or ""
        except SyntaxError as error:
            message = f"{self.file}, line {error.lineno}: {error.msg}"
            raise ContractError("a plug-in has a syntax error", value=message) from None

    @property
    def summary(self) -> str:
        """The docstring's first line."""
        return self.docstring.partition("\n")[0]

    def tag(self, name: str) -> str:
        """Return the text of the docstring's line `Name: text` and its continuation lines; empty without one."""
        match = re.search(rf"^{name}: *(.+(?:\n(?!{_TAG}).+)*)", self.docstring, flags=re.MULTILINE)
        return " ".join(match[1].split()) if match else ""

    @property
    def sha256(self) -> str:
        """Digest of the file."""
        return hashlib.sha256(self.file.read_bytes()).hexdigest()

    def load(self) -> type[Any]:
        """Import the file and return its plug-in class.

        The file may define other classes too: the plug-in is the subclass of the base whose name does not start with
        `_` and from which no other class of the file derives. Raises `ContractError` where the file does not import or
        does not define exactly one such class.
        """
        base, module = self.kind.base_class(), self._import_module()
        classes = [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
        ]
        leaves = [
            leaf
            for leaf in classes
            if not leaf.__name__.startswith("_")
            and not any(other is not leaf and issubclass(other, leaf) for other in classes)
        ]
        if len(leaves) != 1:
            names = ", ".join(leaf.__name__ for leaf in leaves)
            raise ContractError(
                f"a {self.kind.noun} file must define exactly one subclass of {base.__name__}",
                value=f"{self.file} defines {names or 'none'}",
                remedy="put each of them in its own file, or start the names of helpers with _"
                if leaves
                else f"subclass {base.__module__}.{base.__name__}",
            )
        _check_complete(leaves[0], base, self.file)
        return leaves[0]

    def _import_module(self) -> ModuleType:
        if self.is_builtin:
            return importlib.import_module(f"{self.kind.package}.{self.name}")
        name = f"{PLUGIN_MODULE}{self.name}_{self.sha256[:12]}"
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, self.file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException as error:  # a third party's file may raise anything; the message names the file
            del sys.modules[name]
            if not is_failure(error):
                raise
            problem = f"{describe_exception(error)} ({self.file})"
            raise ContractError(
                "a plug-in cannot be imported", value=problem, remedy="correct this line"
            ) from error
        return module


def _check_complete(plugin: type[Any], base: type[Any], file: Path) -> None:
    """Raise `ContractError` unless a plug-in defines all methods that its base class requires."""
    missing = sorted(getattr(plugin, "__abstractmethods__", ()))
    if missing:
        raise ContractError(
            f"a subclass of {base.__name__} must define all of its abstract methods",
            value=f"{plugin.__name__} in {file} lacks {', '.join(missing)}",
            remedy=f"define {missing[0]}(); help({base.__module__}.{base.__name__}) has an example",
        )


def builtin_plugins(kind: PluginKind[Any]) -> dict[str, Plugin]:
    """Return the plug-ins of the kind's own package by name, sorted."""
    folder = PACKAGE_ROOT.joinpath(*kind.package.split(".")[1:])
    return {
        file.stem: Plugin(name=file.stem, kind=kind, file=file, is_builtin=True)
        for file in sorted(folder.glob("*.py"))
        if not file.stem.startswith("_") and file.stem not in kind.helpers
    }


@cache
def entry_points(group: str) -> tuple[metadata.EntryPoint, ...]:
    """Return the entry points of a group; cached, since the search reads files of every installed distribution."""
    return tuple(metadata.entry_points(group=group))


def available_plugins(kind: PluginKind[Any], *, reserved: Collection[str] = ()) -> dict[str, Plugin]:
    """Return built-in and installed plug-ins by name; an installed one never takes a built-in or reserved name."""
    plugins = builtin_plugins(kind)
    for point in entry_points(group=kind.group):
        origin = _module_file(point.module)
        if origin is not None and point.name not in plugins and point.name not in reserved:
            plugins[point.name] = Plugin(name=point.name, kind=kind, file=Path(origin), is_builtin=False)
    return plugins


def find(kind: PluginKind[Any], name: str) -> Plugin:
    """Return the plug-in with this name, or the one in this file where the name ends in `.py`.

    Raises `SettingError` for a name that no plug-in has and for a file that does not exist.
    """
    if name.endswith(".py"):
        return plugin_file(kind, Path(name))
    plugins = available_plugins(kind)
    if name not in plugins:
        raise SettingError(f"no such {kind.noun}", value=name, remedy=did_you_mean(name, plugins))
    return plugins[name]


def plugin_file(kind: PluginKind[Any], file: Path) -> Plugin:
    """Return the plug-in in a file, named after the file."""
    if not file.is_file():
        raise SettingError(
            "no such file", value=file, remedy=f"give the path of a plug-in, my_{kind.noun}.py"
        )
    return Plugin(name=file.stem, kind=kind, file=file.resolve(), is_builtin=False)


def _module_file(module: str) -> str | None:
    """Return a module's file; None for an entry point whose package is gone."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return None if spec is None else spec.origin
