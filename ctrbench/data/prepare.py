"""Preparation of a dataset from its card: read or generated, split, encoded and stored.

A dataset that is read is built in a scratch folder and moved into place when it is complete, so a crash, Ctrl-C or a
full disk leaves the previous state. Unchanged data are not prepared again.
"""

from __future__ import annotations

import errno
import shlex
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from ctrbench.data.build import PhaseProgress, build
from ctrbench.data.card import DatasetCard, bundled_cards
from ctrbench.data.fetch import fetch
from ctrbench.data.generated.forecast import Forecast, forecast
from ctrbench.data.generated.options import GenerationOptions, check_domains
from ctrbench.data.generated.prepare import prepare_generated
from ctrbench.data.home import dataset_folder, home_folder, prepared_names
from ctrbench.data.manifest import Manifest, SourceInfo
from ctrbench.data.prepared import Prepared, open_prepared
from ctrbench.data.publish import WAITING, new_files_folder, publish
from ctrbench.data.raw_errors import READ_ERRORS, read_error
from ctrbench.data.raw_files import read_stats, stat_raw_files, write_stats
from ctrbench.errors import CardError, ContractError, DataError, SettingError, SourceError
from ctrbench.names import Column
from ctrbench.readers.base import READERS, RawData, Reader, ReadRequest
from ctrbench.readers.text_files import check_file_names, missing_file_error, path_exists
from ctrbench.storage.files import Location, is_disk_full, lock, remove_leftovers, scratch_parent, sha256_of
from ctrbench.storage.outputs import check_folder
from ctrbench.storage.scratch import scratch_folder


def prepare(
    card: DatasetCard,
    *,
    home: Location | None = None,
    sources: Sequence[Path] = (),
    domains: tuple[str, ...] = (),
    generation: GenerationOptions | None = None,
    force: bool = False,
    progress: PhaseProgress | None = None,
) -> Prepared:
    """Return the card's dataset, and prepare it unless it exists for the same card and files.

    `sources` are raw files or folders in place of the card's own, for cards with a reader; `generation` holds the
    options of cards with a generator. `domains` are the features of one more domain set. `force` prepares everything
    again. `progress` is called with the phase and the fraction of it that is done.

    Raises a `CtrbenchError` for faults of the card or the data, and for a prepared file that is missing or damaged.
    """
    if domains:
        card.check_domain_features(domains)
    home, progress = home or home_folder(), progress or _ignore_progress
    for folder in (home, home / "datasets"):
        remove_leftovers(folder)
    if card.generator is not None:
        prepared = _generate_dataset(card, home, sources, domains, generation, force=force, progress=progress)
    else:
        if generation is not None and generation.given_options:
            raise _not_generated(generation.given_options[0])
        prepared = _prepare_from_files(card, home, sources, force=force, progress=progress)
    return prepared.ensure_domains(domains)[0] if domains else prepared


def estimate(
    card: DatasetCard, *, domains: tuple[str, ...] = (), generation: GenerationOptions | None = None
) -> Forecast:
    """Return the disk space and time that preparing a generated dataset takes, from a sample of its rows.

    Raises `SettingError` for a card with a reader, and for options that `prepare` refuses.
    """
    if card.generator is None:
        raise _not_generated("--dry-run")
    options = generation or GenerationOptions()
    spec = options.spec
    check_domains(domains, spec)
    return forecast(spec, is_stored=options.is_stored, jobs=options.jobs)


def _not_generated(option: str) -> SettingError:
    remedy = "remove it, or prepare a generated dataset: production"
    return SettingError("this option must be used with a generated dataset", value=option, remedy=remedy)


def _generate_dataset(
    card: DatasetCard,
    home: Location,
    sources: Sequence[Path],
    domains: tuple[str, ...],
    options: GenerationOptions | None,
    *,
    force: bool,
    progress: PhaseProgress,
) -> Prepared:
    if sources:
        raise SettingError(
            "--source must not be used with generated data", value=sources[0], remedy="remove --source"
        )
    options = options or GenerationOptions()
    spec = options.spec
    check_domains(domains, spec)
    return prepare_generated(
        spec,
        home=home,
        is_stored=options.is_stored,
        jobs=options.jobs,
        dispatch=options.dispatch,
        force=force,
        progress=progress,
    )


def _prepare_from_files(
    card: DatasetCard, home: Location, sources: Sequence[Path], *, force: bool, progress: PhaseProgress
) -> Prepared:
    with _disk_errors(home):
        existing = None if force else _find_prepared(card, home, sources)
        if existing is None:
            check_folder(home / "datasets", "CTRBENCH_HOME")
            with lock(dataset_folder(card.name, home), lambda: progress(WAITING, 0.0)) as is_locked:
                # Another process may have prepared it meanwhile.
                existing = None if force else _find_prepared(card, home, sources)
                if existing is None:
                    return _read_and_build(
                        card, home, sources, force=force, is_locked=is_locked, progress=progress
                    )
        existing.verify()
        return existing


def _ignore_progress(_phase: str, _fraction: float) -> None:
    pass


@contextmanager
def _disk_errors(home: Location) -> Iterator[None]:
    """Turn errors of the file system into `DataError`."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            remedy = "free some space, or set CTRBENCH_HOME to a folder on another disk"
            raise DataError("no space left on the disk", value=home, remedy=remedy) from None
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EDQUOT):
            remedy = "correct its permissions, or set CTRBENCH_HOME to a writable folder"
            raise DataError("cannot read or write a file", value=error, remedy=remedy) from None
        raise


def _find_prepared(card: DatasetCard, home: Location, sources: Sequence[Path]) -> Prepared | None:
    """Return the dataset prepared from this card and these files, judged by their sizes and modification times."""
    paths = _local_sources(card, sources)
    if not paths:
        # Downloads are pinned by the checksums of the card.
        return _open_if_matching(card.name, card, home)
    current = stat_raw_files(paths)
    for name in prepared_names(home):
        prepared = _open_if_matching(name, card, home)
        stored = None if prepared is None else read_stats(prepared.folder)
        if stored is not None and stored.are_settled and stored.files == current.files:
            return prepared
    return None


def _open_if_matching(name: str, card: DatasetCard, home: Location) -> Prepared | None:
    """Return the prepared dataset of that name if it can be opened and was prepared from this card."""
    try:
        prepared = open_prepared(name, home)
    except DataError:
        return None
    return prepared if prepared.manifest.card_digest == card.digest else None


def _local_sources(card: DatasetCard, sources: Sequence[Path]) -> tuple[Path, ...]:
    """Return the raw files and folders that the user named; none if the card's sources must be downloaded."""
    return tuple(sources) or ((Path(card.path),) if card.path is not None else ())


def _read_and_build(
    card: DatasetCard,
    home: Location,
    sources: Sequence[Path],
    *,
    force: bool,
    is_locked: bool,
    progress: PhaseProgress,
) -> Prepared:
    local_sources = _local_sources(card, sources)
    stats = stat_raw_files(local_sources)
    parent = scratch_parent(home)
    paths = local_sources or _download(card, parent, progress)
    with scratch_folder(parent / "datasets", card.name) as scratch, ThreadPoolExecutor(1) as pool:
        progress("read", 0.0)
        raw = _read_raw_files(card, paths, scratch / "raw", progress)
        name = card.name + raw.suffix
        unchanged = None if force else _find_same_content(name, card, home, raw)
        if unchanged is not None:
            write_stats(unchanged.folder, stats)
            unchanged.verify()
            return unchanged
        if not force:
            _check_replaced(name, card, home)
        digests = pool.submit(_source_infos, raw.files)
        try:
            prepared = _build_dataset(
                card, raw, scratch, _Naming(name, _prepare_command(card, sources)), digests, progress
            )
        except READ_ERRORS as error:
            raise read_error(raw, error) from None
        if stat_raw_files(local_sources).files != stats.files:
            rule, value = "a source changed while it was read", ", ".join(map(str, local_sources))
            raise DataError(rule, value=value, remedy="prepare again when the file is complete")
        write_stats(prepared.folder, stats)
        return publish(
            prepared.manifest,
            scratch / prepared.manifest.files,
            dataset_folder(name, home),
            is_locked=is_locked,
        )


def _check_replaced(name: str, card: DatasetCard, home: Location) -> None:
    """Raise `SettingError` if a dataset of that name was prepared from another card file."""
    try:
        manifest = open_prepared(name, home).manifest
    except DataError:
        return
    replaced = "a generator" if manifest.generator is not None else manifest.card_file
    if None not in (replaced, card.file) and replaced != card.file:
        raise SettingError(
            "two cards must not prepare datasets of the same name",
            value=f"{name} of {card.file} is already the dataset of {replaced}",
            remedy="give the card another name, or replace the dataset with --force",
        )


@dataclass(frozen=True)
class _Naming:
    """Name of a prepared dataset and the command that prepares it."""

    name: str
    command: str


def _prepare_command(card: DatasetCard, sources: Sequence[Path]) -> str:
    """Return the command that prepares the dataset again."""
    is_bundled = card.name in (bundled_cards() if card.origin is None else (card.file,))
    argument = card.name if is_bundled else str(card.origin or f"{card.name}.toml")
    options = [part for source in sources for part in ("--source", str(source))]
    return shlex.join(["ctrbench", "prepare", argument, *options])


def _download(card: DatasetCard, home: Path, progress: PhaseProgress) -> tuple[Path, ...]:
    if not card.sources:
        remedy = 'set path = "DATA.csv" in the card, or pass --source PATH'
        raise CardError("the card must name its data", value=card.name, remedy=remedy)
    return fetch(
        card.sources,
        folder=home / "downloads",
        progress=lambda name, done, total: progress(f"fetch {name}", done / total if total else 0.0),
    )


def _read_raw_files(
    card: DatasetCard, paths: Sequence[Path], scratch: Path, progress: PhaseProgress
) -> RawData:
    missing = [path for path in paths if not path_exists(path)]
    if missing:
        raise missing_file_error(missing[0])
    scratch.mkdir()
    reader: Reader = READERS.load(card.reader)()
    raw = reader.read(
        ReadRequest(
            paths=tuple(paths),
            scratch=scratch,
            separator=card.separator,
            names=tuple(name for source in card.sources for name in source.local),
            columns={field.source_column: field.max_length for field in card.fields},
            progress=lambda done: progress("convert", done),
        )
    )
    _check_raw_data(raw, card.reader)
    return raw


def _check_raw_data(raw: object, reader: str) -> None:
    """Raise an error unless a reader returned a lazy frame and the files that it read."""
    if not isinstance(raw, RawData) or not isinstance(raw.frame, pl.LazyFrame):
        returned = raw.frame if isinstance(raw, RawData) else raw
        raise ContractError(
            "read() of a reader must return RawData with a polars LazyFrame",
            value=f"{reader} returned {type(returned).__name__}",
            remedy="return RawData(frame=pl.scan_…, files=request.paths)",
        )
    check_file_names(raw.files)
    folders = [file for file in raw.files if not file.is_file()]
    if folders:
        remedy = "list the files of a folder in the reader's RawData.files, or point the card to a file"
        raise SourceError("a reader must return files", value=folders[0], remedy=remedy)


def _find_same_content(name: str, card: DatasetCard, home: Location, raw: RawData) -> Prepared | None:
    """Return the dataset of that name if it was prepared from files with the same content."""
    prepared = _open_if_matching(name, card, home) if name in prepared_names(home) else None
    if prepared is None:
        return None
    sources = prepared.manifest.sources
    if sorted(source.size for source in sources) != sorted(file.stat().st_size for file in raw.files):
        return None
    digests = sorted(source.sha256 for source in _source_infos(raw.files))
    return prepared if digests == sorted(source.sha256 for source in sources) else None


def _source_infos(files: Sequence[Path]) -> tuple[SourceInfo, ...]:
    return tuple(
        SourceInfo(name=file.name, size=file.stat().st_size, sha256=sha256_of(file)) for file in files
    )


def _build_dataset(
    card: DatasetCard,
    raw: RawData,
    scratch: Path,
    naming: _Naming,
    digests: Future[tuple[SourceInfo, ...]],
    progress: PhaseProgress,
) -> Prepared:
    files = new_files_folder()
    folder = scratch / files
    folder.mkdir()
    built = build(card, raw, scratch=scratch, folder=folder, progress=progress)
    manifest = Manifest(
        files=files,
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
        has_user_key=Column.USER_KEY in built.columns,
        content_digest=built.content_digest,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        note=raw.note,
        command=naming.command,
        card_file=card.file,
    )
    return _with_domain_sets(Prepared(scratch, manifest))


def _with_domain_sets(prepared: Prepared) -> Prepared:
    """Write the card's domain sets."""
    sets = {
        name: prepared.write_domain_set(name, features)
        for name, features in prepared.manifest.card.domain_sets.items()
    }
    return Prepared(prepared.root, prepared.manifest.model_copy(update={"domain_sets": sets}))
