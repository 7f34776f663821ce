"""Finding methods and backbones: by file name, without importing any before it is chosen.

Built-in plug-ins are the files of `ctrbench/methods` and `ctrbench/backbones`; others are a path to a `.py` file or an
entry point in the groups `ctrbench.methods` and `ctrbench.backbones`. What the listings show is read from the syntax
tree, so `ctrbench list` does not wait for torch.

A selector is `name`, `name[setting=value,…]` or `path/to/file.py[…]`. A preset is a name that stands for several.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from ctrbench.errors import ContractError, SettingError, did_you_mean

if TYPE_CHECKING:
    from ctrbench.plugins.base import Backbone, Method

PlugKind = Literal["methods", "backbones"]
TAGS = ("Paper", "Year", "Conditions on", "Grows with domains")
"""Lines of a plug-in's docstring, `Name: text`, that listings show; the last two are methods'."""
_TAG = rf"(?:{'|'.join(TAGS)}): "
ALL = "all"
"""The preset of every built-in plug-in with its default settings."""
PRESETS: dict[PlugKind, dict[str, tuple[str, ...]]] = {
    "methods": {
        "adasparse-study": ("plain", "maml", "star", "apg", "adasparse"),
        "star-study": (
            "plain[norm=bn,aux=all]",
            "shared_bottom[norm=bn,aux=all]",
            "mulann[norm=bn,aux=all]",
            "mmoe[norm=bn,aux=all]",
            "cross_stitch[norm=bn,aux=all]",
            "star",
        ),
    },
    "backbones": {},
}
"""Names for the systems of a study, in its order: AdaSparse (METHODS 1.10) and STAR (METHODS 2.7 and 6)."""
_SELECTOR = re.compile(r"^(?P<name>[^\[\]]+?)(?:\[(?P<settings>.*)\])?$")


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """One plug-in file, not imported yet."""

    name: str
    kind: PlugKind
    file: Path
    is_builtin: bool

    @cached_property
    def docstring(self) -> str:
        """The file's docstring."""
        try:
            return ast.get_docstring(ast.parse(self.file.read_text(encoding="utf-8"))) or ""
        except SyntaxError as error:
            message = f"{self.file}, line {error.lineno}: {error.msg}"
            raise ContractError("a plug-in is a Python file", value=message) from None

    @property
    def summary(self) -> str:
        """The docstring's first line."""
        return self.docstring.partition("\n")[0]

    def tag(self, name: str) -> str:
        """Return the text of a docstring line `Name: text`, with the lines that go on with it, or nothing."""
        found = re.search(rf"^{name}: *(.+(?:\n(?!{_TAG}).+)*)", self.docstring, flags=re.MULTILINE)
        return " ".join(found[1].split()) if found else ""

    @property
    def sha256(self) -> str:
        """Digest of the file."""
        return hashlib.sha256(self.file.read_bytes()).hexdigest()

    def load(self) -> type[Method] | type[Backbone]:
        """Import the file and return its one plug-in class."""
        from ctrbench.plugins.base import Backbone, Method

        base = Method if self.kind == "methods" else Backbone
        module = self._module()
        own = [
            thing
            for thing in vars(module).values()
            if isinstance(thing, type) and issubclass(thing, base) and thing.__module__ == module.__name__
        ]
        leaves = [one for one in own if not any(other is not one and issubclass(other, one) for other in own)]
        if len(leaves) != 1:
            names = [one.__name__ for one in leaves]
            raise ContractError(
                f"a plug-in file defines exactly one subclass of {base.__name__}",
                value=f"{self.file} defines {names or 'none'}",
            )
        found: type[Method] | type[Backbone] = leaves[0]
        return found

    def _module(self) -> ModuleType:
        if self.is_builtin:
            return importlib.import_module(f"ctrbench.{self.kind}.{self.name}")
        name = f"ctrbench_plugin_{self.name}_{self.sha256[:12]}"
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, self.file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # whatever a stranger's file raises, the user hears which file and why
            del sys.modules[name]
            problem = f"{self.file}: {type(error).__name__}: {error}"
            raise ContractError("a plug-in must import", value=problem) from error
        return module


def plugins(kind: PlugKind) -> dict[str, Plugin]:
    """Return all plug-ins of a kind that can be named, built-in ones first; others never hide these, nor presets."""
    found = {plugin.name: plugin for plugin in _builtin(kind)}
    for point in entry_points(group=f"ctrbench.{kind}"):
        origin = _origin(point.module)
        if origin is not None and point.name not in {*found, *presets(kind)}:
            found[point.name] = Plugin(name=point.name, kind=kind, file=Path(origin), is_builtin=False)
    return found


def _origin(module: str) -> str | None:
    """Return a module's file; None for what a half-removed package left behind."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return None if spec is None else spec.origin


def _builtin(kind: PlugKind) -> Iterator[Plugin]:
    folder = Path(__file__).parents[1] / kind
    for file in sorted(folder.glob("*.py")):
        if not file.stem.startswith("_"):
            yield Plugin(name=file.stem, kind=kind, file=file, is_builtin=True)


def presets(kind: PlugKind) -> dict[str, tuple[str, ...]]:
    """Return the names that stand for several selectors, with these."""
    return {ALL: tuple(plugin.name for plugin in _builtin(kind)), **PRESETS[kind]}


def find(kind: PlugKind, name: str) -> Plugin:
    """Return the plug-in of that name, or of that path when it ends in `.py`."""
    if name.endswith(".py"):
        return _of_path(kind, Path(name))
    known, several = plugins(kind), presets(kind)
    if name in several:
        raise SettingError(
            "a preset stands for several, alone and without settings",
            value=name,
            remedy=f"{name} is {','.join(several[name])}",
        )
    if name not in known:
        remedy = did_you_mean(name, {*known, *several})
        raise SettingError(f"no such {kind.removesuffix('s')}", value=name, remedy=remedy)
    return known[name]


def _of_path(kind: PlugKind, file: Path) -> Plugin:
    if not file.is_file():
        raise SettingError("no such file", value=file, remedy="give the path of a plug-in, my_method.py")
    if file.stem in presets(kind):
        raise SettingError("there is a preset of that name", value=file, remedy="give the file another name")
    return Plugin(name=file.stem, kind=kind, file=file.resolve(), is_builtin=False)


@dataclass(frozen=True, kw_only=True)
class Selected:
    """A plug-in with its settings."""

    plugin: Plugin
    settings: dict[str, Any]

    @cached_property
    def value(self) -> Method | Backbone:
        """The plug-in's object, settings checked."""
        return _instantiate(self.plugin, self.settings)

    @property
    def label(self) -> str:
        """Name and settings as they were asked for: `star[norm=bn]`."""
        inside = ",".join(f"{name}={_shown(value)}" for name, value in self.settings.items())
        return f"{self.plugin.name}[{inside}]" if inside else self.plugin.name


def select(kind: PlugKind, selector: str) -> Selected:
    """Parse a selector; settings are checked when `value` is asked for."""
    match = _SELECTOR.match(selector.strip())
    if match is None:
        raise SettingError("a selector is name or name[setting=value,…]", value=selector)
    return Selected(plugin=find(kind, match["name"].strip()), settings=_settings(match["settings"], selector))


def selectors(kind: PlugKind, text: str) -> list[str]:
    """Split a list of selectors and presets and write presets out; each selector once, in order."""
    known = presets(kind)
    return list(dict.fromkeys(one for part in split_selectors(text) for one in known.get(part, (part,))))


def split_selectors(text: str) -> list[str]:
    """Split a list of selectors at the commas that stand outside brackets."""
    parts = re.split(r",(?![^\[]*\])", text)
    return [part.strip() for part in parts if part.strip()]


def _settings(text: str | None, selector: str) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        name, sign, value = part.partition("=")
        if not sign or not name.strip():
            raise SettingError("settings are written name=value", value=selector)
        if name.strip() in settings:
            raise SettingError("a setting is given once", value=selector)
        settings[name.strip()] = _parse(value.strip())
    return settings


def _parse(value: str) -> str | tuple[str, ...] | None:
    """`128-64` is a tuple, `none` is None; all else is text that the setting's own type reads."""
    if value.lower() == "none":
        return None
    return tuple(value.split("-")) if re.fullmatch(r"\d+(-\d+)+", value) else value


def _shown(value: object) -> str:
    if value is None:
        return "none"
    return "-".join(value) if isinstance(value, tuple) else str(value)


def _instantiate(plugin: Plugin, settings: dict[str, Any]) -> Method | Backbone:
    kind = plugin.load()
    fields = kind.model_fields
    for name, value in settings.items():
        if name not in fields:
            raise SettingError(
                f"{plugin.name} has no such setting", value=name, remedy=did_you_mean(name, fields)
            )
        if isinstance(value, str) and "tuple" in str(fields[name].annotation):
            settings = {**settings, name: (value,)}
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        problem = error.errors()[0]
        text = problem["msg"].removeprefix("Value error, ")
        if not problem["loc"]:
            shown = ", ".join(f"{name}={value}" for name, value in settings.items())
            raise SettingError(f"{plugin.name}: settings", value=shown, remedy=text) from None
        where = str(problem["loc"][0])
        raise SettingError(
            f"{plugin.name}: setting {where!r}", value=settings.get(where, problem["input"]), remedy=text
        ) from None
