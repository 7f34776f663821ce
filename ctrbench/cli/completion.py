"""Shell completion: names of datasets, methods, backbones and studies.

Completion runs each time a user presses Tab, so nothing here imports torch, and an error yields no names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ctrbench.errors import CtrbenchError

if TYPE_CHECKING:
    from ctrbench.plugins.registry import PlugKind

Names = dict[str, str]
"""Name → one line of help, which some shells show."""
Completer = Callable[[str], list[tuple[str, str]]]


def cards(incomplete: str) -> list[tuple[str, str]]:
    """Complete the name of a dataset that `prepare` knows."""
    return _matching_names(incomplete, _card_names)


def prepared(incomplete: str) -> list[tuple[str, str]]:
    """Complete the name of a prepared dataset."""
    return _matching_names(incomplete, _prepared_names)


def methods(incomplete: str) -> list[tuple[str, str]]:
    """Complete the last of several method selectors."""
    return _last_of_list(incomplete, lambda: _plugin_names("methods"))


def backbones(incomplete: str) -> list[tuple[str, str]]:
    """Complete the last of several backbone selectors."""
    return _last_of_list(incomplete, lambda: _plugin_names("backbones"))


def studies(incomplete: str) -> list[tuple[str, str]]:
    """Complete the name of a bundled study."""
    return _matching_names(incomplete, _study_names)


def choices(*values: str) -> Completer:
    """Return a completer for a fixed list of values."""
    return lambda incomplete: _matching_names(incomplete, lambda: dict.fromkeys(values, ""))


def _matching_names(incomplete: str, names: Callable[[], Names]) -> list[tuple[str, str]]:
    try:
        return [(name, text) for name, text in names().items() if name.startswith(incomplete)]
    except (CtrbenchError, OSError):
        return []


def _last_of_list(incomplete: str, names: Callable[[], Names]) -> list[tuple[str, str]]:
    """Complete what follows the last comma outside brackets, and keep what precedes it."""
    start = re.split(r",(?![^\[]*\])", incomplete)[-1]
    before = incomplete.removesuffix(start)
    return [(before + name, text) for name, text in _matching_names(start, names)]


def _card_names() -> Names:
    from ctrbench.data.card import bundled_cards

    return dict.fromkeys(bundled_cards(), "")


def _prepared_names() -> Names:
    from ctrbench.data.home import prepared_names

    return dict.fromkeys(prepared_names(), "prepared")


def _plugin_names(kind: PlugKind) -> Names:
    from ctrbench.plugins.registry import group_members, plugins

    return dict(_plugin_summaries(kind)) | {
        name: "" for name in group_members(kind) if name not in plugins(kind)
    }


def _plugin_summaries(kind: PlugKind) -> Iterator[tuple[str, str]]:
    from ctrbench.plugins.registry import plugins

    for name, plugin in plugins(kind).items():
        yield name, plugin.summary.partition(": ")[2] or plugin.summary


def _study_names() -> Names:
    from ctrbench.studies.study import bundled_studies

    return dict.fromkeys(bundled_studies(), "")
