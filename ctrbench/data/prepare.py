"""Raw files to a prepared dataset, in one piece or not at all.

Everything is made in a scratch folder beside the result and renamed into place when the manifest is written, so that a
crash, Ctrl-C or a full disk leaves what was there before. What is known to be unchanged is not made again.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ctrbench.data.build import PhaseProgress, build
from ctrbench.data.card import DatasetCard, bundled_cards
from ctrbench.data.fetch import fetch
from ctrbench.data.home import dataset_folder, home_folder, prepared_names
from ctrbench.data.manifest import MANIFEST, Manifest, SourceInfo, write_manifest
from ctrbench.data.prepared import Prepared, open_prepared
from ctrbench.errors import CardError, CtrbenchError, DataError
from ctrbench.names import Column, DomainColumn, Split
from ctrbench.readers.base import READERS, RawData, Reader, ReadRequest
from ctrbench.storage.files import (
    Location,
    is_disk_full,
    move_folder,
    read_text,
    scratch_parent,
    sha256_of,
    write_text,
)

INPUTS = "inputs.json"
"""Beside the manifest: sizes and times of the raw files, which spare reading them again."""
SETTLED_NS = 2_000_000_000
"""A file changed so shortly before it was recorded may change again without its time showing it."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a table about a prepared dataset says; domains are counted in training rows."""

    name: str
    title: str
    rows: dict[Split, int]
    positives: dict[Split, int]
    num_fields: int
    num_ids: int
    domain_set: str
    domain_features: tuple[str, ...]
    num_domains: int
    largest: int
    median: float
    smallest: int
    unseen_share: dict[Split, float]
    """Share of a split's rows whose domain training never had."""


def prepare(
    card: DatasetCard,
    *,
    home: Location | None = None,
    sources: Sequence[Path] = (),
    domains: tuple[str, ...] = (),
    force: bool = False,
    progress: PhaseProgress | None = None,
) -> Prepared:
    """Return the card's dataset, prepared now unless it already is from the same card and files.

    `sources` are raw files or folders, which take the place of the card's own; `domains` is a feature set to
    partition by beside the card's. Raises a `CtrbenchError` for whatever is wrong with card or data, also for a
    prepared file that was damaged since; `force` makes everything again.
    """
    if domains:
        card.check_domain_features(domains)
    home = home or home_folder()
    with _plain_disk_errors(home):
        known = None if force else _known(card, home, sources)
        if known is not None:
            known.verify()
        prepared = known or _make(card, home, sources, force=force, progress=progress or _silent)
        return prepared.ensure_domains(domains)[0] if domains else prepared


def summary(prepared: Prepared, set_name: str = "default") -> Summary:
    """Return what the closing table of `prepare` shows."""
    manifest, table = prepared.manifest, prepared.domain_table(set_name)
    sizes = table[DomainColumn.ROWS.format(split=Split.TRAIN)].to_numpy()[1:]
    info = prepared.domain_set(set_name)
    return Summary(
        name=manifest.name,
        title=manifest.title,
        rows={split: part.rows for split, part in manifest.splits.items()},
        positives={split: part.positives for split, part in manifest.splits.items()},
        num_fields=len(manifest.fields),
        # A sequence with a target has that field's ids.
        num_ids=sum(field.size for field in manifest.fields if not manifest.card.field(field.name).target),
        domain_set=set_name,
        domain_features=info.features,
        num_domains=info.num_domains,
        largest=int(sizes.max(initial=0)),
        median=float(np.median(sizes)) if len(sizes) else 0.0,
        smallest=int(sizes.min()) if len(sizes) else 0,
        unseen_share={split: info.rows_unseen[split] / part.rows for split, part in manifest.splits.items()},
    )


def _silent(_phase: str, _fraction: float) -> None:
    pass


@contextmanager
def _plain_disk_errors(home: Location) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            remedy = "make room, or set CTRBENCH_HOME to a folder elsewhere"
            raise DataError("no space left on the disk", value=home, remedy=remedy) from None
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EDQUOT):
            remedy = "correct its permissions, or set CTRBENCH_HOME to a folder that you may write to"
            raise DataError("a file cannot be read or written", value=error, remedy=remedy) from None
        raise


# What is there already ------------------------------------------------------------------------------------------


def _known(card: DatasetCard, home: Location, sources: Sequence[Path]) -> Prepared | None:
    """Return the dataset that was prepared from this card and these files, told by their sizes and times alone."""
    given = _given(card, sources)
    if not given:
        # Nothing to compare with: fetched files have the card's own checksums.
        return _matching(card.name, card, home)
    now = _inputs(given)
    for name in prepared_names(home):
        prepared = _matching(name, card, home)
        recorded = None if prepared is None else _recorded_inputs(prepared)
        if recorded is not None and recorded.are_settled and recorded.files == now.files:
            return prepared
    return None


def _matching(name: str, card: DatasetCard, home: Location) -> Prepared | None:
    """The prepared dataset of that name, if it can be read and is of this card."""
    try:
        prepared = open_prepared(name, home)
    except DataError:
        return None
    return prepared if prepared.manifest.card_digest == card.digest else None


def _given(card: DatasetCard, sources: Sequence[Path]) -> tuple[Path, ...]:
    """The raw files and folders that the user names; none when the card's sources are to be fetched."""
    return tuple(sources) or ((Path(card.path),) if card.path is not None else ())


@dataclass(frozen=True)
class _Inputs:
    """Sizes and times of the raw files, and when they were looked at."""

    at: int
    files: dict[str, list[int]]

    @property
    def are_settled(self) -> bool:
        return all(changed <= self.at - SETTLED_NS for _, changed in self.files.values())


def _inputs(paths: Sequence[Path]) -> _Inputs:
    now = time.time_ns()
    # Readers look at a folder's own files; folders below may be anything, even our home.
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    stats = {str(file.resolve()): file.stat() for file in files if file.is_file()}
    return _Inputs(now, {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()})


def _recorded_inputs(prepared: Prepared) -> _Inputs | None:
    try:
        recorded: dict[str, Any] = json.loads(read_text(prepared.folder / INPUTS))
        return _Inputs(**recorded)
    except (OSError, ValueError, TypeError):
        return None


def _record_inputs(folder: Location, inputs: _Inputs) -> None:
    write_text(folder / INPUTS, json.dumps({"at": inputs.at, "files": inputs.files}))


# Making it ------------------------------------------------------------------------------------------------------


def _make(
    card: DatasetCard, home: Location, sources: Sequence[Path], *, force: bool, progress: PhaseProgress
) -> Prepared:
    given = _given(card, sources)
    inputs = _inputs(given)
    here = scratch_parent(home)
    paths = given or _fetched(card, here, progress)
    with _scratch(here, card.name) as scratch, ThreadPoolExecutor(1) as pool:
        progress("read", 0.0)
        raw = _read(card, paths, scratch / "raw", progress)
        name = card.name + raw.suffix
        unchanged = None if force else _same_content(name, card, home, raw)
        if unchanged is not None:
            _record_inputs(unchanged.folder, inputs)
            unchanged.verify()
            return unchanged
        digests = pool.submit(_sources, raw.files)
        try:
            prepared = _build(card, raw, scratch, _Naming(name, _command(card, sources)), digests, progress)
        except pl.exceptions.PolarsError as error:
            raise _unreadable(raw, error) from None
        if _inputs(given).files != inputs.files:
            rule = "a source changed while it was read"
            raise DataError(
                rule, value=", ".join(map(str, given)), remedy="prepare again when it is complete"
            )
        _record_inputs(prepared.folder, inputs)
        target = move_folder(scratch / "data", dataset_folder(name, home), last=MANIFEST)
        return Prepared(target, prepared.manifest)


@dataclass(frozen=True)
class _Naming:
    name: str
    command: str


def _command(card: DatasetCard, sources: Sequence[Path]) -> str:
    """The command that makes the dataset again."""
    named = card.name if card.name in bundled_cards() else str(card.origin or f"{card.name}.toml")
    options = [part for source in sources for part in ("--source", str(source))]
    return shlex.join(["ctrbench", "prepare", named, *options])


def _fetched(card: DatasetCard, home: Path, progress: PhaseProgress) -> tuple[Path, ...]:
    if card.generator is not None:
        remedy = "ctrbench prepare production --rows 20e6"
        raise CardError("these data are generated, not read", value=card.name, remedy=remedy)
    if not card.sources:
        remedy = 'give the card a path = "DATA.csv", or --source PATH'
        raise CardError("the card names no data", value=card.name, remedy=remedy)
    return fetch(
        card.sources,
        folder=home / "downloads",
        progress=lambda name, done, total: progress(f"fetch {name}", done / total if total else 0.0),
    )


def _read(card: DatasetCard, paths: Sequence[Path], scratch: Path, progress: PhaseProgress) -> RawData:
    scratch.mkdir()
    reader: Reader = READERS.load(card.reader)()
    return reader.read(
        ReadRequest(
            paths=tuple(paths),
            scratch=scratch,
            separator=card.separator,
            names=tuple(name for source in card.sources for name in source.local),
            columns={field.source_column: field.max_length for field in card.fields},
            progress=lambda done: progress("convert", done),
        )
    )


def _unreadable(raw: RawData, error: pl.exceptions.PolarsError) -> CtrbenchError:
    explained = raw.explain() if raw.explain is not None else None
    files = ", ".join(file.name for file in raw.files)
    value = explained or f"{files}: {str(error).strip().splitlines()[0]}"
    return DataError("the raw data cannot be read", value=value)


def _same_content(name: str, card: DatasetCard, home: Location, raw: RawData) -> Prepared | None:
    prepared = _matching(name, card, home) if name in prepared_names(home) else None
    if prepared is None:
        return None
    known = sorted(source.size for source in prepared.manifest.sources)
    if known != sorted(file.stat().st_size for file in raw.files):
        return None
    known_digests = sorted(source.sha256 for source in prepared.manifest.sources)
    return prepared if known_digests == sorted(source.sha256 for source in _sources(raw.files)) else None


def _sources(files: Sequence[Path]) -> tuple[SourceInfo, ...]:
    return tuple(
        SourceInfo(name=file.name, size=file.stat().st_size, sha256=sha256_of(file)) for file in files
    )


@contextmanager
def _scratch(home: Path, name: str) -> Iterator[Path]:
    """A folder that is gone afterwards, whatever happens; those of processes that were killed go too."""
    folder = home / "datasets"
    folder.mkdir(parents=True, exist_ok=True)
    # In a shared folder, processes of other machines have the same numbers.
    machine = platform.node().replace(".", "-")
    for left in folder.glob(f".*.{machine}.*.part"):
        if not _is_running(left.name.split(".")[-2]):
            shutil.rmtree(left, ignore_errors=True)
    scratch = folder / f".{name}.{machine}.{os.getpid()}.part"
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _is_running(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (ValueError, PermissionError):
        return True
    return True


def _build(
    card: DatasetCard,
    raw: RawData,
    scratch: Path,
    naming: _Naming,
    digests: Future[tuple[SourceInfo, ...]],
    progress: PhaseProgress,
) -> Prepared:
    folder = scratch / "data"
    folder.mkdir()
    built = build(card, raw, scratch=scratch, folder=folder, progress=progress)
    manifest = Manifest(
        name=naming.name,
        title=f"{card.title}: {raw.suffix.strip('-')}, not the real data" if raw.suffix else card.title,
        card=card,
        card_digest=card.digest,
        sources=digests.result(),
        fields=built.fields,
        splits=built.splits,
        domain_sets={},
        vocabularies=built.vocabularies,
        has_time=Column.TIME in built.columns,
        has_probability=Column.PROBABILITY in built.columns,
        content_digest=built.content_digest,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        note=raw.note,
        command=naming.command,
    )
    return _with_domain_sets(Prepared(folder, manifest))


def _with_domain_sets(prepared: Prepared) -> Prepared:
    """Make the card's domain sets and write the manifest, the last of all files."""
    sets = {
        name: prepared.write_domain_set(name, features)
        for name, features in prepared.manifest.card.domain_sets.items()
    }
    manifest = prepared.manifest.model_copy(update={"domain_sets": sets})
    write_manifest(prepared.folder, manifest)
    return Prepared(prepared.folder, manifest)
