"""Generated data as a prepared dataset: each shard comes straight from the generator.

Ids are known beforehand, so nothing is staged or encoded. Without stored rows, only the notes of shards are kept and
rows are generated when they are read. The manifest is written last.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from ctrbench.data.generated.manifest import Tally, make_manifest
from ctrbench.data.generated.options import dataset_name
from ctrbench.data.generated.processes import map_in_processes
from ctrbench.data.generated.shards import GENERATOR, Dispatch, generate_shard, plan_pieces
from ctrbench.data.home import dataset_folder, home_folder
from ctrbench.data.manifest import Manifest, read_manifest
from ctrbench.data.prepared import Prepared
from ctrbench.data.publish import WAITING, resumable_files_folder, switch
from ctrbench.errors import DataError, SettingError
from ctrbench.names import Split
from ctrbench.storage.documents import read_json
from ctrbench.storage.files import (
    Location,
    find_files,
    free_bytes,
    is_file,
    lock,
    remove_file,
    write_text,
)
from ctrbench.storage.outputs import check_folder
from ctrbench.synthetic.production.arrow import BYTES_PER_ROW, BYTES_PER_SLOT
from ctrbench.synthetic.production.calibration import Constants, calibrate
from ctrbench.synthetic.production.spec import ProductionSpec

Progress = Callable[[str, float], None]
"""Receives the phase and the fraction of it that is done."""


def prepare_generated(
    spec: ProductionSpec,
    *,
    home: Location | None = None,
    is_stored: bool = True,
    jobs: int | None = None,
    dispatch: Dispatch | None = None,
    force: bool = False,
    progress: Progress = lambda _phase, _done: None,
) -> Prepared:
    """Return the dataset of a spec; generate the shards that do not exist.

    `jobs` processes generate shards, one per core by default; `dispatch` sends the work elsewhere instead.
    """
    root = dataset_folder(dataset_name(spec), home or home_folder())
    existing = None if force else _find_existing(root, spec, is_stored=is_stored)
    if existing is None:
        check_folder(root.parent, "CTRBENCH_HOME")
        with lock(root, lambda: progress(WAITING, 0.0)) as is_locked:
            # Another process may have generated it meanwhile.
            existing = None if force else _find_existing(root, spec, is_stored=is_stored)
            if existing is None:
                run = dispatch or map_in_processes(jobs or os.cpu_count() or 1)
                manifest = _generate(root, spec, run, is_stored=is_stored, force=force, progress=progress)
                switch(root, manifest, is_locked=is_locked)
                return Prepared(root, manifest)
    existing.verify()
    return existing


def _generate(
    root: Location,
    spec: ProductionSpec,
    dispatch: Dispatch,
    *,
    is_stored: bool,
    force: bool,
    progress: Progress,
) -> Manifest:
    folder = root / resumable_files_folder(root)
    pieces = plan_pieces(folder, spec, is_stored=is_stored)
    if is_stored:
        _check_disk_space(folder, spec)
    if force:
        for file in (*(piece.note for piece in pieces), folder / GENERATOR):
            remove_file(file)
    constants = _load_constants(folder, spec, progress)
    tally = Tally()
    progress("generate", 0.0)
    for done, shard in enumerate(dispatch(generate_shard, pieces), start=1):
        tally.add(shard)
        progress("generate", done / len(pieces))
    manifest = make_manifest(root.name, folder, spec, constants, tally)
    if not is_stored:
        for piece in pieces:
            remove_file(folder / piece.file)
    return manifest


def _find_existing(root: Location, spec: ProductionSpec, *, is_stored: bool) -> Prepared | None:
    """Return the dataset in a folder if it was generated from this spec."""
    try:
        existing = Prepared(root, read_manifest(root))
    except DataError:
        return None
    return existing if _is_current(existing, spec, is_stored=is_stored) else None


def _is_current(prepared: Prepared, spec: ProductionSpec, *, is_stored: bool) -> bool:
    generator = prepared.manifest.generator
    shards = prepared.manifest.splits[Split.TRAIN].shards
    return (
        generator is not None
        and generator["spec"] == spec.model_dump(mode="json")
        and bool(shards[0].sha256) == is_stored
    )


def _load_constants(folder: Location, spec: ProductionSpec, progress: Progress) -> Constants:
    """Return the constants of an interrupted preparation of the same spec, or calibrate them."""
    file = folder / GENERATOR
    if is_file(file):
        try:
            content = read_json(file)
            constants = Constants.model_validate(content["constants"])
        except (ValueError, KeyError, TypeError):
            remedy = "run with --force to generate the data again"
            raise DataError(
                "the file of the generator's constants is damaged", value=file, remedy=remedy
            ) from None
        if content["spec"] == spec.model_dump(mode="json"):
            return constants
        raise SettingError(
            "the folder contains an unfinished dataset with other settings",
            value=folder,
            remedy="run with --force to overwrite it",
        )
    progress("calibrate", 0.0)
    constants = calibrate(spec)
    write_text(
        file,
        json.dumps({"spec": spec.model_dump(mode="json"), "constants": constants.model_dump(mode="json")}),
    )
    return constants


def _check_disk_space(folder: Location, spec: ProductionSpec) -> None:
    """Raise `DataError` if the disk is too small for all shards; existing shards count as free space."""
    free = free_bytes(folder)
    if free is None:
        return
    needed = spec.rows * (
        BYTES_PER_ROW + (2 * BYTES_PER_SLOT * spec.sequence_length if spec.sequences else 0)
    )
    free += sum(file.stat().st_size for file in find_files(folder, "shards/*"))
    if free < needed:
        remedy = "free some space, set CTRBENCH_HOME to another disk, or store no rows with --on-the-fly"
        raise DataError(
            "not enough disk space for all rows",
            value=f"{needed / 1e6:,.1f} MB needed, {free / 1e6:,.1f} MB free at {folder}",
            remedy=remedy,
        )
