"""The home folder: where prepared datasets, downloads and run states are stored."""

from __future__ import annotations

import os

import platformdirs

from ctrbench.data.manifest import MANIFEST
from ctrbench.errors import DataError
from ctrbench.problems import check_utf8
from ctrbench.storage.files import Location, find_files, parse_location


def home_folder() -> Location:
    """Return the location named by CTRBENCH_HOME (a path or URL), or the user's cache folder."""
    home = os.environ.get("CTRBENCH_HOME") or platformdirs.user_cache_dir("ctrbench")
    check_utf8(home, "CTRBENCH_HOME")
    return parse_location(home)


def dataset_folder(name: str, home: Location | None = None) -> Location:
    """Return the folder of a prepared dataset, whether or not it exists."""
    return (home or home_folder()) / "datasets" / name


def prepared_names(home: Location | None = None) -> list[str]:
    """Return the sorted names of all prepared datasets."""
    folder = (home or home_folder()) / "datasets"
    names = sorted(file.parent.name for file in find_files(folder, f"*/{MANIFEST}"))
    # Folders of unfinished datasets have a leading dot.
    return [name for name in names if name[0] != "."]


def latest_prepared(home: Location | None = None) -> str:
    """Return the name of the most recently prepared dataset; raises `DataError` if there is none."""
    names = prepared_names(home)
    if not names:
        raise DataError("no dataset is prepared", remedy="prepare one with: ctrbench prepare movielens-1m")
    return max(names, key=lambda name: (dataset_folder(name, home) / MANIFEST).stat().st_mtime_ns)
