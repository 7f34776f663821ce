"""Checks of output locations, which a command makes before it does anything else."""

from __future__ import annotations

from pathlib import Path

from ctrbench.errors import SettingError, shorten
from ctrbench.storage.files import Location, folder_obstacle
from ctrbench.storage.obstacles import file_obstacle

REMEDY = "choose another location, or change its permissions"


def check_folder(folder: Location, option: str) -> None:
    """Raise `SettingError` unless files can be written to a folder, which need not exist, or to a URL."""
    obstacle = folder_obstacle(folder)
    if obstacle is not None:
        rule = f"{option} must be a folder to which files can be written"
        raise SettingError(rule, value=_describe(folder, obstacle), remedy=REMEDY)


def check_local_file(file: Path, option: str) -> None:
    """Raise `SettingError` unless a file of this machine can be created or replaced."""
    obstacle = file_obstacle(file)
    if obstacle is not None:
        rule = f"{option} must be a file that can be written"
        raise SettingError(rule, value=_describe(file, obstacle), remedy=REMEDY)


def _describe(path: Location, obstacle: str) -> str:
    text = shorten(str(path), 120)
    return obstacle if obstacle.startswith(text) else f"{text} ({shorten(obstacle, 200)})"
