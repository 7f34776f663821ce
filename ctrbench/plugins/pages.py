"""Generator of the documentation of methods and backbones, docs/methods.md, from their docstrings and settings.

`python -m ctrbench.plugins.pages` writes it in the current folder.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable, Iterator
from itertools import groupby, pairwise
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from ctrbench.plugins.base import Backbone, Method, Settings
from ctrbench.plugins.finder import TAGS, Plugin
from ctrbench.plugins.registry import ALL, PlugKind, plugins, presets
from ctrbench.storage.files import write_text

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

METHODS_PAGE = Path("docs/methods.md")
HEAD = """# Methods and backbones

Written by `make docs` from the files in [ctrbench/methods](../ctrbench/methods) and
[ctrbench/backbones](../ctrbench/backbones). Every method runs on every backbone, or says why not. Settings are given in
brackets: `name[setting=value,…]`; lists as `128-64`, nothing as `none`. `spec: star-2.2` is a section of the
[specification](specification/index.md); e_d are the embeddings of the domain-aware features, and p is the
indicator that per-domain parameters go by, one feature by default (`--indicator`).
"""
TITLES: dict[PlugKind, str] = {"methods": "Methods", "backbones": "Backbones"}
SHARED: dict[PlugKind, str] = {
    "methods": "Settings of every method",
    "backbones": "Settings of every backbone",
}
BASES: dict[PlugKind, type[Settings]] = {"methods": Method, "backbones": Backbone}


def methods_page() -> str:
    """Return docs/methods.md."""
    parts = [HEAD, *_kind("methods"), *_kind("backbones")]
    return "\n".join(parts)


def _built_in(kind: PlugKind) -> Iterator[Plugin]:
    return (plugin for plugin in plugins(kind).values() if plugin.is_builtin)


def _kind(kind: PlugKind) -> Iterator[str]:
    yield f"## {TITLES[kind]}\n"
    named = {name: several for name, several in presets(kind).items() if name != ALL}
    yield f"`{ALL}` stands for all of them with their defaults.\n"
    for name, several in named.items():
        yield f"`{name}` stands for `{','.join(several)}`.\n"
    base = BASES[kind]
    yield f"### {SHARED[kind]}\n"
    yield from _settings(base, base.model_fields)
    for plugin in _built_in(kind):
        yield from _plugin(plugin, base)


def _plugin(plugin: Plugin, base: type[Settings]) -> Iterator[str]:
    yield f"### `{plugin.name}`\n"
    yield f"{_escaped(plugin.summary)}\n"
    tags = [(name, plugin.tag(name)) for name in TAGS]
    yield "\n".join(f"- {name}: {_escaped(text)}" for name, text in tags if text and text != "none") + "\n"
    yield from _body(plugin.docstring)
    chosen = plugin.load()
    own = {
        name: field
        for name, field in chosen.model_fields.items()
        if name not in base.model_fields or field.default != base.model_fields[name].default
    }
    yield from _settings(chosen, own)


def _body(docstring: str) -> Iterator[str]:
    """Yield what follows the first line and the tags: sentences as paragraphs, indented blocks as they stand."""
    _, _, text = docstring.partition("\n")
    tag = rf"(?:{'|'.join(TAGS)}): "
    text = re.sub(rf"^{tag}.+(?:\n(?!{tag}).+)*\n?", "", text, flags=re.MULTILINE)
    for block in filter(None, re.split(r"\n{2,}", text.strip("\n"))):
        for is_formula, found in groupby(block.splitlines(), lambda line: line.startswith("    ")):
            lines = list(found)
            yield "\n".join(lines) + "\n" if is_formula else f"{_escaped(' '.join(lines))}\n"


def _settings(chosen: type[Settings], fields: dict[str, FieldInfo]) -> Iterator[str]:
    meanings = _meanings(chosen)
    if not fields:
        yield "No settings of its own.\n"
        return
    lines = ["| setting | values | default | meaning |", "| :-- | :-- | :-- | :-- |"]
    for name, field in fields.items():
        cells = (f"`{name}`", _values(field), f"`{_shown(field.default)}`", _escaped(meanings.get(name, "")))
        lines.append(f"| {' | '.join(cells)} |")
    yield "\n".join(lines) + "\n"


def _meanings(chosen: type[Settings]) -> dict[str, str]:
    """Return the string beneath each setting of a class and of those it is made from."""
    found: dict[str, str] = {}
    for one in reversed(chosen.__mro__):
        if issubclass(one, Settings):
            (made,) = ast.parse(inspect.getsource(one)).body
            assert isinstance(made, ast.ClassDef)
            for field, below in pairwise(made.body):
                text = _text(below)
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and text:
                    found[field.target.id] = " ".join(text.split())
    return found


def _text(node: ast.stmt) -> str:
    """Return the text of a statement that is nothing but a string."""
    value = node.value if isinstance(node, ast.Expr) else None
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""


def _values(field: FieldInfo) -> str:
    return _of_type(field.annotation, field.metadata)


_NAMES = {int: "whole number", float: "number", str: "name", bool: "`true` or `false`"}
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def _of_type(kind: Any, metadata: Iterable[object]) -> str:  # noqa: ANN401  # an annotation
    """Say in words which values an annotation takes.

    >>> _of_type(int | None, ())
    'whole number, or `none`'
    """
    origin, inner = get_origin(kind), get_args(kind)
    if hasattr(kind, "__metadata__"):
        return _of_type(inner[0], (*_flat(kind.__metadata__), *metadata))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is tuple:
        return f"list: {_of_type(inner[0], ())}"
    if origin is Union or type(kind).__name__ == "UnionType":
        rest = [_of_type(one, metadata) for one in inner if one is not NoneType]
        return f"{', '.join(rest)}, or `none`" if NoneType in inner else ", ".join(rest)
    limits = ((one, name) for one in _flat(metadata) for name in _BOUNDS if hasattr(one, name))
    bounds = " and ".join(f"{_BOUNDS[name]} {getattr(one, name):g}" for one, name in limits)
    return f"{_NAMES.get(kind, 'value')} {bounds}".strip()


def _flat(metadata: Iterable[object]) -> Iterator[object]:
    """Yield constraints; a pydantic field holds its own in a list."""
    for one in metadata:
        yield from getattr(one, "metadata", (one,))


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return "-".join(map(_shown, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


_SIGNS = re.compile(r"[*<|]|\](?=\()|(?<!\w)_|_(?!\w)")


def _escaped(text: str) -> str:
    """Keep Markdown from reading signs in formulas; what stands in backticks is left alone."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else _SIGNS.sub(r"\\\g<0>", part) for part in parts)


if __name__ == "__main__":
    write_text(METHODS_PAGE, methods_page())
