"""The manifest of generated data: counts of all shards, vocabularies and domain sets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pyarrow as pa

from ctrbench.data.card import DatasetCard, FieldCard, load_card
from ctrbench.data.domains import make_domain_table, merge_counts
from ctrbench.data.generated.options import command_of
from ctrbench.data.generated.rows import as_text
from ctrbench.data.generated.shards import GeneratedShard, recipe_digest
from ctrbench.data.manifest import DomainSetInfo, FieldInfo, Manifest, ShardInfo, SplitInfo
from ctrbench.data.shards import vocabulary_file, write_domain_table, write_table
from ctrbench.names import Split
from ctrbench.storage.files import Location
from ctrbench.synthetic.production.calibration import Constants
from ctrbench.synthetic.production.generator import DOMAIN_FEATURES, Production, ProductionField
from ctrbench.synthetic.production.spec import ProductionSpec


class Tally:
    """Sums of the counts of shards, which are added in any order."""

    def __init__(self) -> None:
        self.shards: dict[Split, dict[int, ShardInfo]] = {split: {} for split in Split}
        self.positives = dict.fromkeys(Split, 0)
        self.counts = {split: merge_counts([], DOMAIN_FEATURES) for split in Split}
        self.rows: dict[str, np.ndarray] = {}
        """Training rows per id, by field."""

    def add(self, shard: GeneratedShard) -> None:
        """Add the counts of a shard."""
        piece, split = shard.piece, shard.piece.split
        rows = piece.stop - piece.start
        self.shards[split][piece.index] = ShardInfo(file=piece.file, rows=rows, sha256=shard.sha256)
        self.positives[split] += shard.positives
        counts = pl.DataFrame(shard.counts, schema=self.counts[split].schema)
        self.counts[split] = merge_counts([self.counts[split], counts], DOMAIN_FEATURES)
        if split == Split.TRAIN:
            for name, count in shard.rows.items():
                self.rows[name] = self.rows.get(name, 0) + np.array(count)

    def split(self, split: Split) -> SplitInfo:
        """Return the description of a split for the manifest."""
        shards = tuple(info for _, info in sorted(self.shards[split].items()))
        return SplitInfo(
            rows=sum(info.rows for info in shards), positives=self.positives[split], shards=shards
        )


def card_of(name: str, fields: Sequence[ProductionField], max_length: int) -> DatasetCard:
    """Return the bundled card under another name, with the fields of behaviors if they are generated."""
    card = load_card("production")
    sequences = tuple(
        FieldCard(
            name=field.name, kind="sequence", role=field.role, target=field.target, max_length=max_length
        )
        for field in fields
        if field.kind == "sequence"
    )
    return card.model_copy(update={"name": name, "fields": (*card.fields, *sequences)})


def make_manifest(
    name: str, folder: Location, spec: ProductionSpec, constants: Constants, tally: Tally
) -> Manifest:
    """Return the manifest of a generated dataset, and write its vocabularies and domain tables."""
    fields = Production(spec, constants).fields
    card = card_of(name, fields, spec.sequence_length)
    generator = json.loads(as_text(spec, constants))
    vocabularies = _vocabularies(tally.rows)
    return Manifest(
        files=folder.name,
        name=name,
        title=card.title,
        card=card,
        card_digest=card.digest,
        sources=(),
        fields=tuple(_field_info(field) for field in fields),
        splits={split: tally.split(split) for split in Split},
        domain_sets=_domain_sets(folder, card, tally.counts, vocabularies),
        vocabularies=tuple(
            write_table(folder, vocabulary_file(name), table) for name, table in vocabularies.items()
        ),
        has_time=True,
        has_probability=True,
        has_user_key=False,
        content_digest=recipe_digest(as_text(spec, constants)),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        note="generated; results test implementations and are no evidence for a method",
        command=command_of(spec),
        generator=generator,
    )


def _field_info(field: ProductionField) -> FieldInfo:
    size = field.num_ids + 1 if field.num_ids else 0
    return FieldInfo(name=field.name, kind=field.kind, role=field.role, size=size)


def _vocabularies(rows: Mapping[str, np.ndarray]) -> dict[str, pa.Table]:
    """Return the vocabularies of the fields that can be domain features."""
    return {name: _vocabulary(name, counts[1:]) for name, counts in rows.items()}


def _vocabulary(name: str, counts: np.ndarray) -> pa.Table:
    ids = np.arange(1, len(counts) + 1, dtype=np.int32)
    return pa.table({"id": ids, "value": [f"{name} {i}" for i in ids], "rows": counts.astype(np.int64)})


def _domain_sets(
    folder: Location,
    card: DatasetCard,
    counts: Mapping[Split, pl.DataFrame],
    vocabularies: Mapping[str, pa.Table],
) -> dict[str, DomainSetInfo]:
    values = {name: pl.Series(table["value"].to_pylist()) for name, table in vocabularies.items()}
    sets = {}
    for name, features in card.domain_sets.items():
        own = {split: merge_counts([tuples], features) for split, tuples in counts.items()}
        table = make_domain_table(own, {feature: values[feature] for feature in features})
        sets[name] = write_domain_table(folder, name, features, table)
    return sets
