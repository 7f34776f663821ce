"""Checks of a loaded state against that of the objects that it is loaded into.

torch copies a tensor of another type and broadcasts one of another shape without an error, so a checkpoint of another
model, or one that was written wrongly, would be trained further.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

import torch

from ctrbench.nn.optim import Optimizer
from ctrbench.train.checkpoint import CheckpointMismatchError


def check_matches(state: object, like: object, name: str) -> None:
    """Raise `CheckpointMismatchError` unless a state has the keys, types, shapes and lengths of `like`.

    Values are not compared, but a float must not be NaN.
    """
    is_dictionary = isinstance(state, dict) and isinstance(like, dict)
    if type(state) is not type(like) and not is_dictionary:
        raise _mismatch(name, f"{type(state).__name__} in place of {type(like).__name__}")
    if isinstance(state, torch.Tensor) and isinstance(like, torch.Tensor):
        if (state.shape, state.dtype) != (like.shape, like.dtype):
            raise _mismatch(name, f"{_describe(state)} in place of {_describe(like)}")
    elif isinstance(state, float) and math.isnan(state):
        raise _mismatch(name, "not a number")
    else:
        values, expected = _children(state), _children(like)
        if values.keys() != expected.keys():
            differing = ", ".join(sorted(map(str, values.keys() ^ expected.keys())))
            raise _mismatch(name, f"only one of both has {differing}")
        for key, value in values.items():
            check_matches(value, expected[key], f"{name}.{key}")


def check_dictionaries(state: dict[str, Any], names: Iterable[str]) -> None:
    """Raise `CheckpointMismatchError` unless these parts of a state are dictionaries."""
    for name in names:
        if not isinstance(state[name], dict):
            raise _mismatch(name, f"{type(state[name]).__name__} in place of a dictionary")


def check_keys(state: object, keys: Collection[str], name: str) -> None:
    """Raise `CheckpointMismatchError` unless a state is a dictionary with these keys."""
    if not isinstance(state, dict) or state.keys() != set(keys):
        raise _mismatch(name, f"not a dictionary of {', '.join(keys) or 'nothing'}")


def check_finite(state: object, name: str) -> None:
    """Raise `CheckpointMismatchError` if a tensor of a state holds a number that is not finite."""
    if isinstance(state, torch.Tensor) and not bool(torch.isfinite(state).all()):
        raise _mismatch(name, "numbers that are not finite")
    for key, value in _children(state).items():
        check_finite(value, f"{name}.{key}")


def check_count(value: int | torch.Tensor, name: str, *, most: float = math.inf) -> None:
    """Raise `CheckpointMismatchError` unless all values are whole numbers from 0 to `most`."""
    values = torch.as_tensor(value)
    if values.numel() and not (
        float(values.min()) >= 0 and float(values.max()) <= most and bool((values == values.round()).all())
    ):
        raise _mismatch(name, f"not a whole number between 0 and {most:,.0f}")


def check_optimizer(state: dict[str, Any], optimizer: Optimizer) -> None:
    """Raise `CheckpointMismatchError` unless an optimizer could have this state, with finite moments."""
    steps = state["steps"]
    check_matches(steps, 0, "optimizer.steps")
    check_count(steps, "optimizer.steps")
    check_matches(state, _with_steps(optimizer.state_dict(), state), "optimizer")
    check_finite(state, "optimizer")
    for counts in state["dense"]["counts"]:
        check_count(counts, "optimizer.dense.counts", most=steps)
    for name, table in state["tables"].items():
        own_steps = int(table.get("steps", steps))
        check_count(own_steps, f"optimizer.tables.{name}.steps", most=steps)
        check_count(table["last"], f"optimizer.tables.{name}.last", most=own_steps)


def _with_steps(state: dict[str, Any], loaded: dict[str, Any]) -> dict[str, Any]:
    """Return a new optimizer's state in the shapes after the loaded number of steps.

    The sums of a learning rate schedule have an entry per step, also those of tables that count their own steps.
    """
    grown = dict(state)
    if "missed" in state:
        grown["missed"] = {"sums": _with_entries(state["missed"]["sums"], loaded["steps"] + 1)}
    for name, table in state["tables"].items():
        if "sums" in table:
            sums = _with_entries(table["sums"], int(loaded["tables"][name]["steps"]) + 1)
            grown["tables"] = {**grown["tables"], name: {**table, "sums": sums}}
    return grown


def _with_entries(sums: torch.Tensor, num_entries: int) -> torch.Tensor:
    return sums.new_zeros(len(sums), num_entries)


def check_history(history: dict[str, Any], start: dict[str, Any]) -> None:
    """Raise `CheckpointMismatchError` unless training that begins with the history `start` could reach this one."""
    evaluations, log_sums = history["evaluations"], history["log_sums"]
    check_matches({**history, "evaluations": [], "log_sums": {}}, start, "history")
    for name in (name for name, value in start.items() if type(value) is int):
        check_count(history[name], f"history.{name}")
    check_matches(log_sums, dict.fromkeys(log_sums, 0.0), "history.log_sums")
    check_count(history["best_evaluation"], "history.best_evaluation", most=len(evaluations))
    for evaluation in evaluations:
        check_count(evaluation["rows"], "history.evaluations.rows", most=history["rows"])
    if bool(evaluations) != bool(history["best_evaluation"]):
        raise _mismatch("history.best_evaluation", f"{history['best_evaluation']} of {len(evaluations)}")


def _children(state: object) -> dict[Any, Any]:
    """Return the values of a dictionary, list or tuple by key or index; none of any other value."""
    if isinstance(state, dict):
        return dict(state)
    return dict(enumerate(state)) if isinstance(state, list | tuple) else {}


def _mismatch(name: str, problem: str) -> CheckpointMismatchError:
    return CheckpointMismatchError(f"{name}: {problem}")


def _describe(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
