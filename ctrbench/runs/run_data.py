"""The inputs of a run: its prepared data, its splits, held in memory or streamed, and its domains."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from ctrbench.data.batches import RowSource, SplitData
from ctrbench.data.load import load_split
from ctrbench.data.prepared import Prepared, open_prepared
from ctrbench.data.shuffle import ShuffledDomains, with_shuffled_domains
from ctrbench.data.stream import StreamedSplit
from ctrbench.errors import SettingError
from ctrbench.eval.measures import DomainTable
from ctrbench.names import Column, DomainColumn, Split
from ctrbench.runs.record import SHUFFLED_DOMAINS, RunKey
from ctrbench.storage.files import Location
from ctrbench.train.config import TrainConfig

NUM_BINS = 5


@dataclass(frozen=True, kw_only=True)
class RunData:
    """The data of a run, on its device."""

    prepared: Prepared
    key: RunKey
    config: TrainConfig
    device: torch.device

    def rows(self, split: Split) -> RowSource:
        """Return a split: held in memory, or streamed if the configuration has a window."""
        if self.config.window is None:
            return load(self.prepared, split, self.key).to(self.device)
        return StreamedSplit(
            prepared=self.prepared,
            split=split,
            domain_set=self.key.domain_set,
            indicator=self.key.indicator,
            window=self.config.window,
            device=self.device,
            shuffle=_shuffle(self.prepared, split, self.key),
        )


@lru_cache(maxsize=3)
def _load_cached(folder: Path, digest: str, split: Split, domain_set: str, indicator: str) -> SplitData:
    prepared = open_prepared(folder.name, folder.parent.parent)
    return load_split(prepared, split, domain_set=domain_set, indicator=indicator)


@lru_cache(maxsize=3)
def _shuffle_cached(
    folder: Path, digest: str, split: Split, domain_set: str, indicator: str
) -> ShuffledDomains:
    prepared = open_prepared(folder.name, folder.parent.parent)
    return ShuffledDomains.of(prepared, split, domain_set=domain_set, indicator=indicator)


@lru_cache(maxsize=3)
def _load_shuffled(folder: Path, digest: str, split: Split, domain_set: str, indicator: str) -> SplitData:
    data = _load_cached(folder, digest, split, domain_set, indicator)
    return with_shuffled_domains(data, _shuffle_cached(folder, digest, split, domain_set, indicator))


def load(prepared: Prepared, split: Split, key: RunKey) -> SplitData:
    """Load a split for a run; a process that executes several runs on the same data reads it once."""
    read = _load_shuffled if key.control == SHUFFLED_DOMAINS else _load_cached
    return read(prepared.root, prepared.manifest.content_digest, split, key.domain_set, key.indicator)


def _shuffle(prepared: Prepared, split: Split, key: RunKey) -> ShuffledDomains | None:
    """Return the shuffled domains of a split if the run is that control."""
    if key.control != SHUFFLED_DOMAINS:
        return None
    digest = prepared.manifest.content_digest
    return _shuffle_cached(prepared.root, digest, split, key.domain_set, key.indicator)


def domain_table(prepared: Prepared, key: RunKey) -> DomainTable:
    """Return domain ids and training rows per domain, which metrics and bins need."""
    table = prepared.domain_table(key.domain_set)
    rows_train = table[DomainColumn.ROWS.format(split=Split.TRAIN)]
    return DomainTable(
        domain=table[Column.DOMAIN].to_numpy(), rows_train=rows_train.to_numpy(), num_bins=NUM_BINS
    )


def base_logloss(prepared: Prepared) -> float | None:
    """Return the log-loss on dev of the training click rate as the prediction of every row; None without dev rows."""
    train, dev = (prepared.manifest.splits[split] for split in (Split.TRAIN, Split.DEV))
    rate = train.positives / train.rows
    if not dev.rows or not 0 < rate < 1:
        return None
    dev_rate = dev.positives / dev.rows
    return -dev_rate * math.log(rate) - (1 - dev_rate) * math.log1p(-rate)


def open_data(key: RunKey, home: Location) -> Prepared:
    """Open the prepared data of a run; raise `SettingError` if they changed since the run was planned."""
    prepared = open_prepared(key.dataset, home)
    if prepared.manifest.content_digest != key.data_digest:
        raise SettingError("the prepared data changed since the run was planned", value=key.dataset)
    return prepared
