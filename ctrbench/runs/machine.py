"""The machine and the code that a run was executed with: device, processor, peak memory, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import lru_cache
from pathlib import Path

import torch

import ctrbench
from ctrbench.errors import SettingError
from ctrbench.train.config import TrainConfig


def device_of(config: TrainConfig) -> torch.device:
    """Return the device that the configuration names; raise `SettingError` if the machine lacks it."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise SettingError("no CUDA device here", value="--device cuda", remedy="use --device cpu")
    return torch.device(config.device)


@lru_cache(maxsize=1)
def commit() -> str | None:
    """Return the commit of the checkout that the package is imported from, with `+` appended if it has changes."""
    folder = Path(ctrbench.__file__).parent
    if not (folder.parent / ".git").exists():
        return None
    try:
        git = ["git", "-C", str(folder)]
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "--", str(folder)],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}+" if changes.strip() else head


def machine(threads: int, device: str) -> dict[str, str | int]:
    """Describe the machine as far as it affects speed or the last bits of results."""
    info: dict[str, str | int] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.system(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 0,
        "threads": threads,
        "device": device,
    }
    if device == "cuda" and torch.cuda.is_available():
        info["gpu"] = torch.cuda.get_device_name()
    return info


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def reset_peak_memory() -> None:
    """Reset the peak memory of this process, where the system supports it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def peak_memory() -> int:
    """Return the peak resident memory of this process in bytes."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
