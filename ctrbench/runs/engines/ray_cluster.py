"""The connection to a Ray cluster, and its capacity. Ray is imported when it is needed, and kept quiet."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ctrbench.errors import SettingError

CONNECT_SECONDS = 5.0
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
}
"""Disable Ray's telemetry and log deduplication; settings of the user win."""


@contextmanager
def connect(address: str | None = None) -> Iterator[Any]:
    """Yield the module `ray`, connected to a cluster; an existing connection is used and left open."""
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    cluster_address = address or os.environ.get("RAY_ADDRESS") or "auto"
    _check_reachable(cluster_address)
    try:
        ray.init(address=cluster_address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        hint = "if it requires a token, set RAY_AUTH_MODE=token here too"
        raise _unreachable(cluster_address, reason, hint) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def import_ray() -> Any:  # noqa: ANN401  # the module, which may not be installed
    """Return the module `ray`; raise `SettingError` if it is not installed."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        remedy = "pip install 'ctrbench[ray]' on every node"
        raise SettingError("Ray must be installed for the Ray engine", remedy=remedy) from None
    return ray


def _check_reachable(address: str) -> None:
    """Fail fast if nothing listens at host:port; Ray itself retries for minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise _unreachable(address, str(error)) from None


def _unreachable(address: str, reason: str, hint: str = "") -> SettingError:
    remedies = ("start one with: ray start --head", "name one with --address host:6379", hint)
    remedy = "; ".join(text for text in remedies if text)
    return SettingError("no Ray cluster answers", value=f"{address} ({reason.rstrip('.')})", remedy=remedy)


def num_slots(ray: Any, needs: dict[str, float]) -> int:  # noqa: ANN401
    """Return how many tasks with these needs the live nodes can hold."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(
        min(int(node.get(name, 0) / amount) for name, amount in needs.items() if amount) for node in nodes
    )


def check_capacity(ray: Any, needs: dict[str, float], workers: int) -> None:  # noqa: ANN401
    """Raise `SettingError` if the cluster cannot hold the workers of a run; Ray would wait forever."""
    slots = num_slots(ray, needs)
    if slots < workers:
        raise SettingError(
            "the cluster must have a slot for each worker of a run",
            value=f"--workers {workers}, capacity {slots}",
            remedy="add nodes, or use fewer workers",
        )


def check_node_capacity(ray: Any, needs: dict[str, float]) -> None:  # noqa: ANN401
    """Raise `SettingError` if no node can hold one task with these needs."""
    if num_slots(ray, needs) == 0:
        units = {"CPU": f"{needs['CPU']:g} cores", "GPU": f"{needs.get('GPU', 0):g} GPUs"}
        units["memory"] = f"{needs.get('memory', 0) / 1e9:.1f} GB"
        required = ", ".join(units[name] for name, amount in needs.items() if amount)
        remedy = "start a larger node, or use fewer threads"
        raise SettingError(
            "a node of the cluster must have the capacity for one run", value=required, remedy=remedy
        )


def task_options(needs: dict[str, float]) -> dict[str, Any]:
    """Return Ray's options of a task with these needs; Ray itself never retries it."""
    return {
        "num_cpus": needs["CPU"],
        "num_gpus": needs.get("GPU") or None,
        "memory": needs.get("memory") or None,
        "max_retries": 0,
    }
