"""Production-scale data: rows of a dataset of any size, with true click probabilities (spec: production-9.1).

A spec and its constants determine every row. Rows are computed on request, so any worker can generate any shard, in any
order, with bit-identical values. Only the quantities that the requested columns depend on are computed. Ids start at 1;
0 is reserved for unseen values. This module defines the columns; `rows` draws users, items and behaviors, `truth`
computes click probabilities.

Example:
    >>> from ctrbench.synthetic.production.spec import spec_of_size
    >>> from ctrbench.synthetic.production.calibration import calibrate
    >>> spec = spec_of_size("200k")
    >>> Production(spec, calibrate(spec)).rows(0, 4, ["row", "time"])["time"].tolist()
    [0, 2, 3, 4]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ctrbench.errors import SettingError, did_you_mean
from ctrbench.names import Column
from ctrbench.synthetic.philox import Floats, Integers
from ctrbench.synthetic.production import rows as loops
from ctrbench.synthetic.production.block import BLOCK_ROWS
from ctrbench.synthetic.production.calibration import Constants
from ctrbench.synthetic.production.clicks import ClickBlock, Component
from ctrbench.synthetic.production.distributions import DAY_SECONDS
from ctrbench.synthetic.production.spec import (
    NOISE_SIZES,
    NUM_AGES,
    NUM_BRANDS,
    NUM_CITIES,
    NUM_CREATIVES,
    NUM_DEVICES,
    NUM_GENDERS,
    NUM_LEVELS,
    NUM_NETWORKS,
    NUM_PAGES,
    NUM_POSITIONS,
    NUM_PRICES,
    NUM_PROFILES,
    NUM_SCENARIOS,
    ProductionSpec,
)
from ctrbench.synthetic.production.true_parameters import LATENT
from ctrbench.synthetic.production.world import World, make_world

Values = NDArray[Any]
Kind = Literal["categorical", "numeric", "sequence"]
Role = Literal["user", "item", "context", "shop"]

DOMAIN_FEATURES = ("scenario", "ad_position", "user_profile")
USER, ITEM, CATEGORY = "user_id", "item_id", "category"
ITEM_SEQUENCE, CATEGORY_SEQUENCE = "item_history", "category_history"
DOMAIN_INDEX = "domain_place"
"""On request: index of the row's domain in `Production.domains`."""
ITEM_NEGATIVES = "item_history_negatives"
"""On request: one uniformly drawn item per element of the item sequence, for the auxiliary loss of DIEN."""
BID, PRICE, COST = "bid", "price", "cost"
LEVELS = "levels"
"""On request: the logit of the main effects alone, without interactions."""


ColumnFunction = Callable[[ClickBlock], Values]


@dataclass(frozen=True, kw_only=True)
class ProductionField:
    """Field of a dataset; ids run from 1 to `num_ids`, a sequence shares the ids of its target."""

    name: str
    kind: Kind
    role: Role
    num_ids: int = 0
    """0 for numeric fields."""
    target: str | None = None


@dataclass(frozen=True, kw_only=True)
class ProductionDomains:
    """Encoded tuples of domain features in descending order of traffic; reserved tuples are last."""

    features: dict[str, NDArray[np.int32]]
    share: Floats
    """Share of the traffic without reserved tuples; 0 for reserved tuples."""
    is_reserved: NDArray[np.bool_]


@dataclass(frozen=True)
class Production:
    """Dataset of a spec and its constants; cheap to construct in every worker."""

    spec: ProductionSpec
    constants: Constants

    @property
    def cuts(self) -> tuple[int, int]:
        """First rows of dev and of test."""
        return self.spec.cuts

    @property
    def num_shards(self) -> int:
        """Number of shards of `spec.shard_rows` rows; the last one may be smaller."""
        return self.spec.num_shards

    @property
    def fields(self) -> tuple[ProductionField, ...]:
        """Fields that models read, in order."""
        return production_fields(self.spec)

    @property
    def domains(self) -> ProductionDomains:
        """Domain tuples with their shares of the traffic."""
        domains, encoding = self._world.domains, self._world.ids
        values = (
            encoding.scenario[domains.scenario],
            encoding.position[domains.position],
            encoding.profile[domains.profile],
        )
        features = {name: ids.astype(np.int32) for name, ids in zip(DOMAIN_FEATURES, values, strict=True)}
        return ProductionDomains(features=features, share=domains.share, is_reserved=domains.is_reserved)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that `rows` returns by default."""
        fields = tuple(field.name for field in self.fields)
        row_columns = (Column.ROW, Column.TIME, Column.LABEL, Column.PROBABILITY, Column.CEILING)
        return (*row_columns, *fields, BID, PRICE, COST)

    def rows(self, start: int, stop: int, columns: Sequence[str] | None = None) -> dict[str, Values]:
        """Return columns of the rows from `start` to `stop`, by name.

        Ids are int32 and start at 1; sequences (rows, length) are ordered from oldest to latest and padded with 0; row
        and time (seconds since the start of day 0) are int64, the label int8, numeric fields float32, probabilities,
        prices and components float64. `Component`s, levels, negatives and sequences that are no fields of this dataset
        are returned only if `columns` names them. Rows outside the dataset and unknown columns raise `SettingError`.
        """
        if not 0 <= start <= stop <= self.spec.rows:
            value = f"{start:,} to {stop:,} of {self.spec.rows:,}"
            raise SettingError("rows must lie within the dataset", value=value)
        functions = {name: _column_function(name) for name in (self.columns if columns is None else columns)}
        arrays: dict[str, Values] = {}
        for begin in range(start, max(stop, start + 1), BLOCK_ROWS):
            block = self.block(begin, min(begin + BLOCK_ROWS, stop))
            for name, function in functions.items():
                values = function(block)
                if name not in arrays:
                    arrays[name] = np.empty((stop - start, *values.shape[1:]), dtype=values.dtype)
                arrays[name][begin - start : begin - start + len(values)] = values
        return arrays

    def shard(self, number: int) -> tuple[int, int]:
        """Return the first row of a shard, and the end (exclusive)."""
        if not 0 <= number < self.num_shards:
            raise SettingError("shards must lie within the dataset", value=f"{number} of {self.num_shards}")
        size = self.spec.shard_rows
        return number * size, min((number + 1) * size, self.spec.rows)

    @cached_property
    def _world(self) -> World:
        return make_world(self.spec)

    def block(self, start: int, stop: int) -> ClickBlock:
        """Return a block of rows with all quantities, before ids are encoded."""
        return ClickBlock(self._world, start, stop, self.spec.rows, constants=self.constants)


def _column_function(name: str) -> ColumnFunction:
    if name not in COLUMN_FUNCTIONS:
        rule = "unknown column of the Production-scale data"
        raise SettingError(rule, value=name, remedy=did_you_mean(name, COLUMN_FUNCTIONS))
    return COLUMN_FUNCTIONS[name]


def production_fields(spec: ProductionSpec) -> tuple[ProductionField, ...]:
    """Return the fields of a dataset, in order."""
    fields = _fields(spec)
    return fields if spec.sequences else tuple(field for field in fields if field.kind != "sequence")


def _fields(spec: ProductionSpec) -> tuple[ProductionField, ...]:
    """Return all fields in order, including sequences."""

    def categorical(name: str, role: Role, num_ids: int) -> ProductionField:
        return ProductionField(name=name, kind="categorical", role=role, num_ids=num_ids)

    def sequence(name: str, target: str, num_ids: int) -> ProductionField:
        return ProductionField(name=name, kind="sequence", role="user", num_ids=num_ids, target=target)

    return (
        categorical(USER, "user", spec.num_users),
        categorical("gender", "user", NUM_GENDERS),
        categorical("age", "user", NUM_AGES),
        categorical("level", "user", NUM_LEVELS),
        categorical("user_profile", "user", NUM_PROFILES),
        categorical("city", "user", NUM_CITIES),
        categorical("device", "user", NUM_DEVICES),
        *(categorical(f"noise_{i}", "user", size) for i, size in enumerate(NOISE_SIZES, start=1)),
        categorical(ITEM, "item", spec.num_items),
        categorical(CATEGORY, "item", spec.num_categories),
        categorical("brand", "item", spec.num_categories * NUM_BRANDS),
        categorical("shop", "shop", spec.num_shops),
        categorical("price_level", "item", NUM_PRICES),
        categorical("creative_type", "item", NUM_CREATIVES),
        categorical("scenario", "context", NUM_SCENARIOS),
        categorical("ad_position", "context", NUM_POSITIONS),
        categorical("hour", "context", 24),
        categorical("weekday", "context", 7),
        categorical("page_index", "context", NUM_PAGES),
        categorical("network_type", "context", NUM_NETWORKS),
        ProductionField(name="item_ctr", kind="numeric", role="item"),
        *(ProductionField(name=f"content_{k}", kind="numeric", role="item") for k in range(1, LATENT + 1)),
        ProductionField(name="user_activity", kind="numeric", role="user"),
        sequence(ITEM_SEQUENCE, ITEM, spec.num_items),
        sequence(CATEGORY_SEQUENCE, CATEGORY, spec.num_categories),
    )


# --- columns -------------------------------------------------------------------------------------------------------


def _as_ids(values: Integers) -> Values:
    return values.astype(np.int32)


def _permuted(values: Values, size: int, keys: NDArray[np.uint64]) -> Values:
    ids = np.empty(values.shape, dtype=np.int32)
    loops.permuted_ids(values.reshape(-1), size, keys, ids.reshape(-1))
    return ids


def _shop(block: ClickBlock) -> Values:
    return _permuted(block.item_features[1], block.world.spec.num_shops, block.world.ids.shop_keys)


def _user(block: ClickBlock) -> Values:
    return _permuted(block.user, block.world.spec.num_users, block.world.ids.user_keys)


def _item(block: ClickBlock) -> Values:
    return _permuted(block.item, block.world.spec.num_items, block.world.ids.item_keys)


def _item_history(block: ClickBlock) -> Values:
    return _permuted(block.sequences[1], block.world.spec.num_items, block.world.ids.item_keys)


def _item_negatives(block: ClickBlock) -> Values:
    return _permuted(block.negatives, block.world.spec.num_items, block.world.ids.item_keys)


def _category_history(block: ClickBlock) -> Values:
    # Index -1, which means no behavior, selects the appended 0.
    ids = np.append(block.world.ids.category, 0)
    return _as_ids(ids[block.sequences[0]])


def _brand(block: ClickBlock) -> Values:
    brand_of_category = block.item_features[0] % NUM_BRANDS
    return _as_ids((block.world.ids.category[block.category] - 1) * NUM_BRANDS + brand_of_category + 1)


def _noise(index: int, block: ClickBlock) -> Values:
    return _as_ids(block.noise[index] + 1)


def _content(index: int, block: ClickBlock) -> Values:
    values: Values = block.content[index].astype(np.float32)
    return values


def _component(part: Component, block: ClickBlock) -> Values:
    return block.components[part]


def _time(block: ClickBlock) -> Values:
    day, second = block.times
    return day * DAY_SECONDS + second.astype(np.int64)


def _weekday(block: ClickBlock) -> Values:
    """Return the day of the week; 0 for weekdays that do not occur in training."""
    weekday, train_days = block.times[0] % 7, 4 * block.world.spec.days // 6
    return _as_ids(np.where(weekday < train_days, weekday + 1, 0))


COLUMN_FUNCTIONS: dict[str, ColumnFunction] = {
    Column.ROW: lambda block: np.arange(block.start, block.stop),
    Column.TIME: _time,
    Column.LABEL: lambda block: block.outcome[0],
    Column.PROBABILITY: lambda block: block.probability,
    Column.CEILING: lambda block: block.ceiling,
    USER: _user,
    "gender": lambda block: _as_ids(block.profile // (NUM_AGES * NUM_LEVELS) + 1),
    "age": lambda block: _as_ids(block.profile // NUM_LEVELS % NUM_AGES + 1),
    "level": lambda block: _as_ids(block.profile % NUM_LEVELS + 1),
    "user_profile": lambda block: _as_ids(block.world.ids.profile[block.profile]),
    "city": lambda block: _as_ids(block.world.ids.city[block.city_and_device[0]]),
    "device": lambda block: _as_ids(block.world.ids.device[block.city_and_device[1]]),
    **{f"noise_{i + 1}": partial(_noise, i) for i in range(len(NOISE_SIZES))},
    ITEM: _item,
    CATEGORY: lambda block: _as_ids(block.world.ids.category[block.category]),
    "brand": _brand,
    "shop": _shop,
    "price_level": lambda block: _as_ids(block.item_features[2] + 1),
    "creative_type": lambda block: _as_ids(block.item_features[3] + 1),
    "scenario": lambda block: _as_ids(block.world.ids.scenario[block.scenario]),
    "ad_position": lambda block: _as_ids(block.world.ids.position[block.position]),
    "hour": lambda block: _as_ids(block.times[1].astype(np.int64) // 3600 + 1),
    "weekday": _weekday,
    "page_index": lambda block: _as_ids(block.context[0] + 1),
    "network_type": lambda block: _as_ids(block.context[1] + 1),
    "item_ctr": lambda block: block.item_ctr.astype(np.float32),
    **{f"content_{k + 1}": partial(_content, k) for k in range(LATENT)},
    "user_activity": lambda block: block.user_activity.astype(np.float32),
    ITEM_SEQUENCE: _item_history,
    CATEGORY_SEQUENCE: _category_history,
    ITEM_NEGATIVES: _item_negatives,
    DOMAIN_INDEX: lambda block: block.domain,
    BID: lambda block: block.bid,
    PRICE: lambda block: block.price,
    COST: lambda block: block.cost,
    LEVELS: lambda block: block.levels,
    **{str(part): partial(_component, part) for part in Component},
}
"""Function per column that computes its values from a block."""


FEW_IDS = 2_000
"""Most ids of a field whose training rows are counted per id, and which can be a domain feature."""


def is_countable(field: ProductionField) -> bool:
    """Return whether training rows are counted per id of a field, which can then be a domain feature."""
    return field.kind == "categorical" and field.num_ids <= FEW_IDS
