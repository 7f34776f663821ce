"""Selection of methods and backbones by name, settings or group.

`ctrbench.discovery` finds their files; this module parses selectors, checks settings and expands groups.

A selector is `name`, `name[setting=value,…]` or `path/to/file.py[…]`. A group is a name that stands for several
(`ctrbench.plugins.groups`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from pydantic import ValidationError

from ctrbench.discovery import Plugin, PluginKind, available_plugins, builtin_plugins, plugin_file
from ctrbench.errors import (
    ContractError,
    CtrbenchError,
    SettingError,
    describe_exception,
    did_you_mean,
    plugin_frame,
    shorten,
)
from ctrbench.plugins import groups
from ctrbench.problems import Problem, first_problem

if TYPE_CHECKING:
    from ctrbench.plugins.base import Backbone, Method

PlugKind = Literal["methods", "backbones"]
T = TypeVar("T")
"""`Method` or `Backbone`."""
METHODS: PluginKind[Method] = PluginKind(
    name="methods", package="ctrbench.methods", base="ctrbench.plugins.base:Method"
)
BACKBONES: PluginKind[Backbone] = PluginKind(
    name="backbones", package="ctrbench.backbones", base="ctrbench.plugins.base:Backbone"
)
KINDS: dict[PlugKind, PluginKind[Any]] = {"methods": METHODS, "backbones": BACKBONES}
ALL = "all"
"""The group of every built-in plug-in with its default settings."""
_SELECTOR = re.compile(r"^(?P<name>[^\[\]]+?)(?:\[(?P<settings>.*)\])?$")


def plugins(kind: PlugKind) -> dict[str, Plugin]:
    """Return built-in and installed plug-ins of a kind by name; none has the name of a group."""
    return available_plugins(KINDS[kind], reserved=group_members(kind))


def group_members(kind: PlugKind) -> dict[str, tuple[str, ...]]:
    """Return the selectors of each group of a kind, the group `all` first."""
    members = {name: group.members for name, group in groups.groups(kind).items()}
    return {ALL: tuple(builtin_plugins(KINDS[kind])), **members}


def find(kind: PlugKind, name: str) -> Plugin:
    """Return the plug-in with this name, or the one in this file where the name ends in `.py`.

    Raises `SettingError` for a group and for an unknown name.
    """
    members = group_members(kind)
    if name.endswith(".py"):
        plugin = plugin_file(KINDS[kind], Path(name))
        if plugin.name in members:
            remedy = "give the file another name"
            raise SettingError("a plug-in file must not have the name of a group", value=name, remedy=remedy)
        return plugin
    available = plugins(kind)
    if name in members:
        raise SettingError(
            "one method or backbone must be named here, not a group",
            value=name,
            remedy=f"{name} is {','.join(members[name])}",
        )
    if name not in available:
        remedy = did_you_mean(name, {*available, *members})
        raise SettingError(f"no such {KINDS[kind].noun}", value=name, remedy=remedy)
    return available[name]


@dataclass(frozen=True, kw_only=True)
class Selected(Generic[T]):
    """A plug-in with its settings."""

    plugin: Plugin
    settings: dict[str, Any]

    @cached_property
    def value(self) -> T:
        """The method or backbone with these settings; raises `SettingError` for settings that it refuses."""
        value: T = _instantiate(self.plugin, self.settings)
        return value

    @property
    def label(self) -> str:
        """Name and settings as given: `star[norm=bn]`."""
        inside = ",".join(f"{name}={_value_text(value)}" for name, value in self.settings.items())
        return f"{self.plugin.name}[{inside}]" if inside else self.plugin.name


@overload
def select(kind: Literal["methods"], selector: str) -> Selected[Method]: ...
@overload
def select(kind: Literal["backbones"], selector: str) -> Selected[Backbone]: ...
@overload
def select(kind: PlugKind, selector: str) -> Selected[Any]: ...
def select(kind: PlugKind, selector: str) -> Selected[Any]:
    """Parse a selector; `value` of the result checks the settings."""
    match = _SELECTOR.match(selector.strip())
    if match is None:
        raise SettingError("a selector must be name or name[setting=value,…]", value=selector)
    return Selected(
        plugin=find(kind, match["name"].strip()), settings=_parse_settings(match["settings"], selector)
    )


def selectors(kind: PlugKind, text: str) -> list[str]:
    """Split a list of selectors and groups, and expand groups; each selector occurs once, in order.

    Raises `SettingError` for a list without a name.
    """
    return list(dict.fromkeys(expand(kind, text)))


def expand(kind: PlugKind, text: str) -> list[str]:
    """Split a list of selectors and groups, and expand groups; a selector occurs as often as it is named."""
    members = group_members(kind)
    parts = split_selectors(text)
    if not parts:
        remedy = f"give at least one name; ctrbench list {kind} shows all"
        raise SettingError(f"no {KINDS[kind].noun} is named", value=repr(shorten(text)), remedy=remedy)
    return [selector for part in parts for selector in members.get(part, (part,))]


def split_selectors(text: str) -> list[str]:
    """Split a list of selectors at the commas outside brackets."""
    parts = re.split(r",(?![^\[]*\])", text)
    return [part.strip() for part in parts if part.strip()]


def _parse_settings(text: str | None, selector: str) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        name, sign, value = part.partition("=")
        if not sign or not name.strip():
            raise SettingError("a setting must have the form name=value", value=selector)
        if name.strip() in settings:
            raise SettingError("each setting must be given once", value=selector)
        settings[name.strip()] = _parse_value(value.strip())
    return settings


def _parse_value(value: str) -> str | tuple[str, ...] | None:
    """Parse `128-64` as a tuple and `none` as None; other text is parsed by the setting's type."""
    if value.lower() == "none":
        return None
    return tuple(value.split("-")) if re.fullmatch(r"\d+(-\d+)+", value) else value


def _value_text(value: object) -> str:
    if value is None:
        return "none"
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _instantiate(plugin: Plugin, settings: dict[str, Any]) -> Any:  # noqa: ANN401  # a method or a backbone
    plugin_class: type[Method] | type[Backbone] = plugin.load()
    fields = plugin_class.model_fields
    for name, value in settings.items():
        if name not in fields:
            raise SettingError(
                f"{plugin.name} has no such setting", value=name, remedy=did_you_mean(name, fields)
            )
        if isinstance(value, str) and "tuple" in str(fields[name].annotation):
            settings = {**settings, name: (value,)}
    try:
        return plugin_class.model_validate(settings)
    except ValidationError as error:
        raise _setting_error(plugin.name, plugin_class, settings, first_problem(error)) from None
    except Exception as error:
        if plugin.is_builtin or isinstance(error, CtrbenchError) or plugin_frame(error) is not None:
            raise
        raise ContractError(
            "a plug-in must be made from its settings",
            value=f"{describe_exception(error)} ({plugin.file})",
            remedy="call super().__init__(**settings), return None from __init__() and names of settings from idle()",
        ) from error


def _setting_error(
    plugin: str, plugin_class: type[Method] | type[Backbone], settings: dict[str, Any], problem: Problem
) -> SettingError:
    rule, _, remedy = problem.message.partition("; ")
    if not problem.location:
        shown = ", ".join(f"{name}={value}" for name, value in settings.items())
        return SettingError(f"{plugin}: {rule}", value=shown or "defaults", remedy=remedy or None)
    name = str(problem.location[0])
    text = rule if rule.startswith("must ") else f"is invalid: {rule}"
    value = shorten(_value_text(settings.get(name, problem.value)))
    return SettingError(
        f"the setting {name} of {plugin} {text}",
        value=value,
        remedy=remedy or _default_hint(plugin_class, name),
    )


def _default_hint(plugin_class: type[Method] | type[Backbone], name: str) -> str | None:
    field = plugin_class.model_fields.get(name)
    if field is None or field.is_required():
        return None
    return f"correct it, or leave it out for the default: {_value_text(field.default)}"
