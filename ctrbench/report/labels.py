"""Labels of backbones and methods in tables and charts, and the selectors that choose them on the command line.

A label is the name of a choice followed by the settings in which choices of that name differ, so that labels stay short
and two rows never share one.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from ctrbench.runs.record import Choice


def labels(choices: Iterable[Choice]) -> dict[str, str]:
    """Return the label of each choice by digest: its name, with the settings in which choices of that name differ."""
    by_name: dict[str, dict[str, Choice]] = defaultdict(dict)
    for choice in choices:
        by_name[choice.name][choice.digest] = choice
    return {
        digest: selector(choice, names=differing([_settings_and_source(other) for other in group.values()]))
        for group in by_name.values()
        for digest, choice in group.items()
    }


def selector(choice: Choice, *, names: Iterable[str] | None = None) -> str:
    """Return the selector of a choice, such as `adasparse[form=fusion,r_min=0.15]`; `names` limits the settings."""
    settings = _settings_and_source(choice)
    shown = settings if names is None else settings.keys() & set(names)
    inside = ",".join(f"{name}={show_value(settings[name])}" for name in sorted(shown))
    return f"{choice.name}[{inside}]" if inside else choice.name


def show_value(value: object) -> str:
    """Return a setting as a selector accepts it: bare text, `128-64` for a list, `none` for None.

    >>> show_value([128, 64]), show_value(None), show_value(True), show_value("pn")
    ('128-64', 'none', 'true', 'pn')
    """
    if isinstance(value, (list, tuple)):
        return "-".join(show_value(part) for part in value)
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def differing(mappings: Sequence[Mapping[str, object]]) -> set[str]:
    """Return the names whose values are not equal in all mappings; a missing name is a value of its own."""
    names = {name for mapping in mappings for name in mapping}
    return {
        name
        for name in names
        if len({canonical_text(mapping.get(name, "<absent>")) for mapping in mappings}) > 1
    }


def canonical_text(value: object) -> str:
    """Return JSON with sorted keys: equal values have equal texts."""
    return json.dumps(value, sort_keys=True)


def _settings_and_source(choice: Choice) -> dict[str, object]:
    source = {"source": choice.source[:8]} if choice.source else {}
    return {**choice.settings, **source}
