"""One shard of generated data: its rows, its file, and a note with its digest and counts.

A shard that exists with a valid note is not generated again. Counts of domains and of ids are taken while rows are
generated, so that the training rows alone define them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ctrbench.data.domains import POSITIVES, count_tuples
from ctrbench.data.generated.rows import generate_rows, generator_of, stored_columns
from ctrbench.data.shards import write_table
from ctrbench.names import Column, Split
from ctrbench.storage.documents import read_json
from ctrbench.storage.files import Location, is_file, local_copy, read_text, sha256_of, write_text
from ctrbench.synthetic.production.generator import DOMAIN_FEATURES, is_countable
from ctrbench.synthetic.production.spec import ProductionSpec

GENERATOR = "generator.json"
"""File in the dataset's folder: spec and constants, which every process reads."""
NOTED = ("sha256", "positives", "counts", "rows")
Dispatch = Callable[[Callable[["Piece"], "GeneratedShard"], Sequence["Piece"]], Iterator["GeneratedShard"]]
"""Applies a function to all pieces and yields the results in any order."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A range of rows of one split that becomes one shard."""

    folder: Location
    split: Split
    index: int
    start: int
    stop: int
    is_stored: bool

    @property
    def file(self) -> str:
        """The shard's file, relative to the dataset's folder."""
        return f"shards/{self.split}-{self.index:05d}.parquet"

    @property
    def note(self) -> Location:
        """Location of the note with digest and counts."""
        return self.folder / "notes" / f"{self.split}-{self.index:05d}.json"


@dataclass(frozen=True, kw_only=True)
class GeneratedShard:
    """The digest and the counts of one generated shard."""

    piece: Piece
    sha256: str
    positives: int
    counts: dict[str, list[int]]
    """Rows and positives per tuple of domain features, as columns."""
    rows: dict[str, list[int]]
    """Rows per id, for the fields that are counted."""


def recipe_digest(content: str) -> str:
    """Return the sha256 of spec and constants, which determine every row."""
    return hashlib.sha256(content.encode()).hexdigest()


def generate_shard(piece: Piece) -> GeneratedShard:
    """Generate one shard, unless it exists and is intact; return its digest and counts."""
    content, features = read_text(piece.folder / GENERATOR), list(DOMAIN_FEATURES)
    existing = read_note(piece, content)
    if existing is not None:
        return existing
    sizes = few_ids(content)
    table = generate_rows(
        content, piece.start, piece.stop, generated_columns(content, is_stored=piece.is_stored)
    )
    written = write_table(piece.folder, piece.file, table) if piece.is_stored else None
    counts = count_tuples(table, features).sort(features)
    shard = GeneratedShard(
        piece=piece,
        sha256=written.sha256 if written else "",
        positives=int(counts[POSITIVES].sum()),
        counts={name: counts[name].to_list() for name in counts.columns},
        rows={
            name: np.bincount(table[name].to_numpy(), minlength=size).tolist() for name, size in sizes.items()
        },
    )
    note = {"recipe": recipe_digest(content), **{name: getattr(shard, name) for name in NOTED}}
    write_text(piece.note, json.dumps(note))
    return shard


def few_ids(content: str) -> dict[str, int]:
    """Return the number of ids, with the unseen one, of the fields that are counted."""
    return {field.name: field.num_ids + 1 for field in generator_of(content).fields if is_countable(field)}


def generated_columns(content: str, *, is_stored: bool) -> list[str]:
    """Return the columns to generate: those that are stored, or only those that are counted."""
    return stored_columns(content) if is_stored else [Column.LABEL, *few_ids(content)]


def read_note(piece: Piece, content: str) -> GeneratedShard | None:
    """Return the content of a piece's note if its shard has this recipe and is intact, otherwise None."""
    if not is_file(piece.note):
        return None
    try:
        note: dict[str, Any] = read_json(piece.note)
    except ValueError:
        return None
    file = piece.folder / piece.file
    if note.pop("recipe", None) != recipe_digest(content) or set(note) != set(NOTED):
        return None
    if bool(note["sha256"]) != piece.is_stored:
        return None
    if piece.is_stored and not (is_file(file) and _file_digest(file) == note["sha256"]):
        return None
    return GeneratedShard(piece=piece, **note)


def _file_digest(file: Location) -> str:
    with local_copy(file) as path:
        return sha256_of(path)


def plan_pieces(folder: Location, spec: ProductionSpec, *, is_stored: bool) -> list[Piece]:
    """Return the pieces of all splits, in order."""
    ends = (*spec.cuts, spec.rows)
    pieces = []
    for split, stop in zip(Split, ends, strict=True):
        for i, start in enumerate(range(_first_row(spec, split), stop, spec.shard_rows)):
            last = min(start + spec.shard_rows, stop)
            pieces.append(
                Piece(folder=folder, split=split, index=i, start=start, stop=last, is_stored=is_stored)
            )
    return pieces


def _first_row(spec: ProductionSpec, split: Split) -> int:
    return {Split.TRAIN: 0, Split.DEV: spec.cuts[0], Split.TEST: spec.cuts[1]}[split]
