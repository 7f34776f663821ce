"""Generated data as a prepared dataset: every shard straight from the generator, nothing written twice.

Ids are known beforehand, so there is nothing to stage or to encode; what training rows alone may tell (domains and the
rows of domain features) is counted while shards are made. A shard is written with a note of its digest and counts, and
one that is there and whole is not made again. With `stored=False` only the notes are kept, and rows are generated
whenever they are read. The manifest comes last.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import ValidationError

from ctrbench.data.card import DatasetCard, FieldCard, load_card
from ctrbench.data.domains import POSITIVES, count_tuples, make_domain_table, merge_counts
from ctrbench.data.home import dataset_folder, home_folder, prepared_names
from ctrbench.data.manifest import (
    MANIFEST,
    DomainSetInfo,
    FieldInfo,
    Manifest,
    ShardInfo,
    SplitInfo,
    write_manifest,
)
from ctrbench.data.prepared import Prepared, open_prepared
from ctrbench.data.shards import vocabulary_file, write_domain_table, write_table
from ctrbench.data.synthesis import as_text, generator_of, made_rows, stored_columns
from ctrbench.errors import DataError, SettingError, did_you_mean
from ctrbench.names import Column, Split
from ctrbench.storage.files import (
    Location,
    is_file,
    is_local,
    local_copy,
    read_text,
    remove_file,
    sha256_of,
    write_text,
)
from ctrbench.synthetic.production.calibration import Constants, calibrate
from ctrbench.synthetic.production.generator import (
    DOMAIN_FEATURES,
    Production,
    ProductionField,
    production_fields,
)
from ctrbench.synthetic.production.raw_files import BYTES_PER_ROW, BYTES_PER_SLOT, in_processes
from ctrbench.synthetic.production.spec import PRESETS, ProductionSpec, spec_for

GENERATOR = "generator.json"
"""In the dataset's folder: spec and constants, which every worker reads."""
NOTED = ("sha256", "positives", "counts", "rows")
FEW_IDS = 2_000
"""Fields with at most so many are counted, and can be domain features."""
SAMPLE_ROWS = 1 << 17
"""Generated to tell what all rows will take."""

Report = Callable[[str, float], None]
Spread = Callable[[Callable[["Piece"], "Made"], Sequence["Piece"]], Iterator["Made"]]
"""Calls a function on all pieces and yields the results in any order."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Rows of one split that become one shard."""

    folder: Location
    split: Split
    place: int
    start: int
    stop: int
    is_stored: bool

    @property
    def file(self) -> str:
        """The shard's file, relative to the dataset's folder."""
        return f"shards/{self.split}-{self.place:05d}.parquet"

    @property
    def note(self) -> Location:
        """Where digest and counts stand."""
        return self.folder / "notes" / f"{self.split}-{self.place:05d}.json"


@dataclass(frozen=True, kw_only=True)
class Made:
    """A piece that is made."""

    piece: Piece
    sha256: str
    positives: int
    counts: dict[str, list[int]]
    """Each tuple of domain features, with rows and positives, as columns."""
    rows: dict[str, list[int]]
    """Rows of each id of the fields that have few."""


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """Options of a dataset that is generated, as a user gives them; see `parse_spec` for the first two."""

    rows: str | None = None
    variant: str | None = None
    is_stored: bool = True
    """Whether rows are written to disk; otherwise they are generated on every read."""
    jobs: int | None = None
    """Number of generator processes (default: number of cores)."""
    spread: Spread | None = None
    """Distributes the work elsewhere, such as on a cluster, in place of `jobs`."""

    @property
    def spec(self) -> ProductionSpec:
        """The spec of the dataset; raises `SettingError` for invalid options."""
        if self.spread is not None and self.jobs is not None:
            remedy = "remove it: a Ray cluster uses all of its cores"
            raise SettingError(
                "--jobs applies to --engine local only", value=f"--jobs {self.jobs}", remedy=remedy
            )
        return parse_spec(rows=self.rows, variant=self.variant)

    @property
    def given(self) -> list[str]:
        """Command-line options that differ from their default."""
        values = {
            "--rows": self.rows,
            "--variant": self.variant,
            "--on-the-fly": not self.is_stored,
            "--jobs": self.jobs,
            "--engine": self.spread,
        }
        return [option for option, value in values.items() if value]


def prepare_generated(
    spec: ProductionSpec,
    *,
    home: Location | None = None,
    is_stored: bool = True,
    workers: int | None = None,
    spread: Spread | None = None,
    force: bool = False,
    report: Report = lambda _phase, _done: None,
) -> Prepared:
    """Return the dataset of that spec, generated now as far as it is not there.

    `workers` processes make shards, one a core when not given; `spread` gives the work to others instead.
    """
    home, name = home or home_folder(), dataset_name(spec)
    if name in prepared_names(home) and not force:
        known = open_prepared(name, home)
        if _is_of(known, spec, is_stored=is_stored):
            known.verify()
            return known
    folder = dataset_folder(name, home)
    pieces = _pieces(folder, spec, is_stored=is_stored)
    if is_stored and is_local(folder):
        _check_room(folder, spec)
    if force:
        for left in (folder / MANIFEST, *(piece.note for piece in pieces), folder / GENERATOR):
            remove_file(left)
    constants = _constants(folder, spec, report)
    remove_file(folder / MANIFEST)
    tally = _Tally()
    report("generate", 0.0)
    for done, made in enumerate(
        (spread or in_processes(workers or os.cpu_count() or 1))(make_piece, pieces), start=1
    ):
        tally.add(made)
        report("generate", done / len(pieces))
    manifest = _manifest(name, folder, spec, constants, tally)
    write_manifest(folder, manifest)
    if not is_stored:
        for piece in pieces:
            remove_file(folder / piece.file)
    return Prepared(folder, manifest)


def parse_spec(*, rows: str | None, variant: str | None) -> ProductionSpec:
    """Return the spec that the command line describes.

    `rows` is a number (20e6) or the name of a size (small), `unit` by default. `variant` is a list of settings of the
    spec (null,interaction=mlp,seed=1), where a name without a value means true.
    """
    settings, size = _settings(variant or ""), rows or "unit"
    spec = PRESETS[size] if size in PRESETS else spec_for(_count(size))
    content = spec.model_dump() | settings
    try:
        return ProductionSpec.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0]) if problem["loc"] else ""
        known = [field for field in ProductionSpec.model_fields if field not in ("rows", "data_version")]
        told = " or: ".join(one["msg"] for one in error.errors() if one["loc"][:1] == problem["loc"][:1])
        remedy = did_you_mean(name, known) if problem["type"] == "extra_forbidden" else told
        raise SettingError("a setting of generated data", value=name or variant, remedy=remedy) from None


def _count(text: str) -> int:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (1 <= number < math.inf and number == int(number)):
        rule = "rows are a whole number, such as 20e6, or the name of a size"
        raise SettingError(rule, value=text, remedy=did_you_mean(text, PRESETS))
    return int(number)


def _settings(variant: str) -> dict[str, object]:
    """Split settings; their names may be written with hyphens."""
    pairs = (part.strip().partition("=") for part in variant.split(",") if part.strip())
    found: dict[str, object] = {
        name.strip().replace("-", "_"): value.strip() if equal else True for name, equal, value in pairs
    }
    for name in found:
        if name in ("rows", "data_version"):
            raise SettingError("a setting of generated data", value=name, remedy="rows are given by --rows")
    return found


def has_few(field: ProductionField) -> bool:
    """Return whether a field can be a domain feature."""
    return field.kind == "categorical" and field.num_ids <= FEW_IDS


def check_domains(features: Sequence[str], spec: ProductionSpec) -> None:
    """Raise `SettingError` unless each can be a domain feature."""
    known = [field.name for field in production_fields(spec) if has_few(field)]
    for name in features:
        if name not in known:
            rule = f"a domain feature of generated data is a field of at most {FEW_IDS:,} values"
            raise SettingError(rule, value=name, remedy=did_you_mean(name, known))


def recipe_digest(content: str) -> str:
    """Return the sha256 of all that determines every row."""
    return hashlib.sha256(content.encode()).hexdigest()


def command_of(spec: ProductionSpec) -> str:
    """The command that makes the dataset again."""
    differs = [name if value is True else f"{name}={value}" for name, value in _unusual(spec).items()]
    variant = f" --variant {','.join(differs)}" if differs else ""
    return f"ctrbench prepare production --rows {spec.rows}{variant}"


def _unusual(spec: ProductionSpec) -> dict[str, object]:
    """Return the settings that are not those of the spec's number of rows."""
    usual = spec_for(spec.rows)
    names = [name for name in type(spec).model_fields if getattr(spec, name) != getattr(usual, name)]
    return {name: getattr(spec, name) for name in names}


def dataset_name(spec: ProductionSpec) -> str:
    """Return the name under which a spec is prepared: its rows, and each setting that differs from its default."""
    marks = [name if value is True else f"{name}-{value}" for name, value in _unusual(spec).items()]
    marks = [mark.replace("_", "-").removeprefix("interaction-") for mark in marks]
    return "-".join(["production", _short(spec.rows), *marks])


def _short(rows: int) -> str:
    for unit, size in (("g", 10**9), ("m", 10**6), ("k", 10**3)):
        if rows >= size and (rows * 10) % size == 0:
            whole, tenths = divmod(rows * 10 // size, 10)
            return f"{whole}.{tenths}{unit}" if tenths else f"{whole}{unit}"
    return str(rows)


def card_of(name: str, fields: Sequence[ProductionField], max_length: int) -> DatasetCard:
    """Return the card of generated data: the bundled one, named, with behaviours where they are put out."""
    card = load_card("production")
    sequences = tuple(
        FieldCard(name=one.name, kind="sequence", role=one.role, target=one.target, max_length=max_length)
        for one in fields
        if one.kind == "sequence"
    )
    return card.model_copy(update={"name": name, "fields": (*card.fields, *sequences)})


def make_piece(piece: Piece) -> Made:
    """Make one shard unless it is there and whole, and return what the manifest needs of it."""
    content, features = read_text(piece.folder / GENERATOR), list(DOMAIN_FEATURES)
    known = _noted(piece, content)
    if known is not None:
        return known
    few = _few(content)
    table = made_rows(content, piece.start, piece.stop, _columns(content, is_stored=piece.is_stored))
    written = write_table(piece.folder, piece.file, table) if piece.is_stored else None
    counts = count_tuples(table, features).sort(features)
    made = Made(
        piece=piece,
        sha256=written.sha256 if written else "",
        positives=int(counts[POSITIVES].sum()),
        counts={name: counts[name].to_list() for name in counts.columns},
        rows={
            name: np.bincount(table[name].to_numpy(), minlength=size).tolist() for name, size in few.items()
        },
    )
    note = {"recipe": recipe_digest(content), **{name: getattr(made, name) for name in NOTED}}
    write_text(piece.note, json.dumps(note))
    return made


def _few(content: str) -> dict[str, int]:
    """Return the number of ids, the unseen one included, of the fields that have few values."""
    return {field.name: field.num_ids + 1 for field in generator_of(content).fields if has_few(field)}


def _columns(content: str, *, is_stored: bool) -> list[str]:
    """Return what is made of each row: what is stored of it, or else what is counted."""
    return stored_columns(content) if is_stored else [Column.LABEL, *_few(content)]


# What is there already ------------------------------------------------------------------------------------------


def _is_of(prepared: Prepared, spec: ProductionSpec, *, is_stored: bool) -> bool:
    generator = prepared.manifest.generator
    shards = prepared.manifest.splits[Split.TRAIN].shards
    return (
        generator is not None
        and generator["spec"] == spec.model_dump(mode="json")
        and bool(shards[0].sha256) == is_stored
    )


def _constants(folder: Location, spec: ProductionSpec, report: Report) -> Constants:
    """Return the constants of an interrupted preparation of the same spec, or calibrate."""
    file = folder / GENERATOR
    if is_file(file):
        try:
            known = json.loads(read_text(file))
            constants = Constants.model_validate(known["constants"])
        except (ValueError, KeyError, TypeError):
            raise DataError("a recipe is damaged", value=file, remedy="--force generates it again") from None
        if known["spec"] == spec.model_dump(mode="json"):
            return constants
        raise SettingError(
            "the folder holds the beginning of other data", value=folder, remedy="--force generates it again"
        )
    report("calibrate", 0.0)
    constants = calibrate(spec)
    write_text(
        file,
        json.dumps({"spec": spec.model_dump(mode="json"), "constants": constants.model_dump(mode="json")}),
    )
    return constants


def _check_room(folder: Path, spec: ProductionSpec) -> None:
    """Raise `DataError` where the disk lacks space for all shards; existing shards count as free space."""
    needed = spec.rows * (
        BYTES_PER_ROW + (2 * BYTES_PER_SLOT * spec.sequence_length if spec.sequences else 0)
    )
    near = next(path for path in (folder, *folder.parents) if path.exists())
    there = sum(file.stat().st_size for file in folder.glob("shards/*"))
    free = shutil.disk_usage(near).free + there
    if free < needed:
        remedy = "free disk space, set CTRBENCH_HOME to a folder elsewhere, or store nothing: --on-the-fly"
        raise DataError(
            "no space for all rows",
            value=f"{needed / 1e6:,.1f} MB needed, {free / 1e6:,.1f} MB free at {near}",
            remedy=remedy,
        )


def _noted(piece: Piece, content: str) -> Made | None:
    """Return what the note of a piece says, if its shard is of this spec and as it was written."""
    if not is_file(piece.note):
        return None
    try:
        note: dict[str, Any] = json.loads(read_text(piece.note))
    except ValueError:
        return None
    file = piece.folder / piece.file
    if note.pop("recipe", None) != recipe_digest(content) or set(note) != set(NOTED):
        return None
    if bool(note["sha256"]) != piece.is_stored:
        return None
    if piece.is_stored and not (is_file(file) and _digest(file) == note["sha256"]):
        return None
    return Made(piece=piece, **note)


def _digest(file: Location) -> str:
    with local_copy(file) as path:
        return sha256_of(path)


# Making it ------------------------------------------------------------------------------------------------------


def _pieces(folder: Location, spec: ProductionSpec, *, is_stored: bool) -> list[Piece]:
    ends = (*spec.cuts, spec.rows)
    pieces = []
    for split, stop in zip(Split, ends, strict=True):
        for place, start in enumerate(range(_first_row(spec, split), stop, spec.shard_rows)):
            last = min(start + spec.shard_rows, stop)
            pieces.append(
                Piece(folder=folder, split=split, place=place, start=start, stop=last, is_stored=is_stored)
            )
    return pieces


def _first_row(spec: ProductionSpec, split: Split) -> int:
    return {Split.TRAIN: 0, Split.DEV: spec.cuts[0], Split.TEST: spec.cuts[1]}[split]


def _manifest(
    name: str, folder: Location, spec: ProductionSpec, constants: Constants, tally: _Tally
) -> Manifest:
    made_of = Production(spec, constants).fields
    card = card_of(name, made_of, spec.sequence_length)
    generator = json.loads(as_text(spec, constants))
    vocabularies = _vocabularies(tally.rows)
    return Manifest(
        name=name,
        title=card.title,
        card=card,
        card_digest=card.digest,
        sources=(),
        fields=tuple(_info(one) for one in made_of),
        splits={split: tally.split(split) for split in Split},
        domain_sets=_domain_sets(folder, card, tally.counts, vocabularies),
        vocabularies=tuple(
            write_table(folder, vocabulary_file(name), table) for name, table in vocabularies.items()
        ),
        has_time=True,
        has_probability=True,
        content_digest=recipe_digest(as_text(spec, constants)),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        note="generated; results test implementations and are no evidence for a method",
        command=command_of(spec),
        generator=generator,
    )


class _Tally:
    """Adds up what is known of pieces as they come, in any order."""

    def __init__(self) -> None:
        self.shards: dict[Split, dict[int, ShardInfo]] = {split: {} for split in Split}
        self.positives = dict.fromkeys(Split, 0)
        self.counts = {split: merge_counts([], DOMAIN_FEATURES) for split in Split}
        self.rows: dict[str, np.ndarray] = {}
        """Training rows of each id."""

    def add(self, made: Made) -> None:
        """Record a piece."""
        piece, split = made.piece, made.piece.split
        rows = piece.stop - piece.start
        self.shards[split][piece.place] = ShardInfo(file=piece.file, rows=rows, sha256=made.sha256)
        self.positives[split] += made.positives
        found = pl.DataFrame(made.counts, schema=self.counts[split].schema)
        self.counts[split] = merge_counts([self.counts[split], found], DOMAIN_FEATURES)
        if split == Split.TRAIN:
            for name, count in made.rows.items():
                self.rows[name] = self.rows.get(name, 0) + np.array(count)

    def split(self, split: Split) -> SplitInfo:
        """Return what the manifest keeps of a split."""
        shards = tuple(info for _, info in sorted(self.shards[split].items()))
        return SplitInfo(
            rows=sum(info.rows for info in shards), positives=self.positives[split], shards=shards
        )


def _info(field: ProductionField) -> FieldInfo:
    size = field.num_ids + 1 if field.num_ids else 0
    return FieldInfo(name=field.name, kind=field.kind, role=field.role, size=size)


def _vocabularies(rows: Mapping[str, np.ndarray]) -> dict[str, pa.Table]:
    """Return the vocabularies of the fields that may be domain features."""
    return {name: _vocabulary(name, counts[1:]) for name, counts in rows.items()}


def _vocabulary(name: str, counts: np.ndarray) -> pa.Table:
    ids = np.arange(1, len(counts) + 1, dtype=np.int32)
    return pa.table({"id": ids, "value": [f"{name} {one}" for one in ids], "rows": counts.astype(np.int64)})


def _domain_sets(
    folder: Location,
    card: DatasetCard,
    counts: Mapping[Split, pl.DataFrame],
    vocabularies: Mapping[str, pa.Table],
) -> dict[str, DomainSetInfo]:
    values = {name: pl.Series(table["value"].to_pylist()) for name, table in vocabularies.items()}
    sets = {}
    for name, features in card.domain_sets.items():
        own = {split: merge_counts([found], features) for split, found in counts.items()}
        table = make_domain_table(own, {feature: values[feature] for feature in features})
        sets[name] = write_domain_table(folder, name, features, table)
    return sets


# What it would take ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What a dataset of a spec takes to make, by a sample of its rows made here."""

    rows: int
    domains: int
    users: int
    items: int
    bytes_a_row: float
    """On disk; 0 if nothing is stored."""
    rows_per_second: float
    """Of one process here, writing included; without storing, of the columns alone that preparing looks at."""
    processes: int
    """On one machine."""
    sample: int
    """Rows that were made to tell."""

    @property
    def bytes(self) -> float:
        """On disk, in all."""
        return self.rows * self.bytes_a_row

    def hours(self, processes: int) -> float:
        """Hours of so many processes side by side, each as fast as here."""
        return self.rows / self.rows_per_second / processes / 3600


def outlook(spec: ProductionSpec, *, is_stored: bool = True, workers: int | None = None) -> Outlook:
    """Make a sample of the rows, write it if they are to be stored, and tell from it what all of them take.

    `workers` is the number of processes a machine, as many as cores here when not given.
    """
    constants = calibrate(spec.model_copy(update={"calibration_rows": 1 << 16}))
    content = as_text(spec, constants)
    columns, count = _columns(content, is_stored=is_stored), min(SAMPLE_ROWS, spec.rows)
    made_rows(content, 0, 1024, columns)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        table = made_rows(content, 0, count, columns)
        written = write_table(Path(folder), "sample.parquet", table) if is_stored else None
        seconds = time.perf_counter() - started
        size = (Path(folder) / written.file).stat().st_size if written else 0
    return Outlook(
        rows=spec.rows,
        domains=spec.domains,
        users=spec.num_users,
        items=spec.num_items,
        bytes_a_row=size / count,
        rows_per_second=count / seconds,
        processes=workers or os.cpu_count() or 1,
        sample=count,
    )
