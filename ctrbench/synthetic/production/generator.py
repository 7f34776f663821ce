"""Production-scale data: any range of rows of a dataset of any size, with the true click probability (spec:
production-9.1).

A spec and its constants settle every row; rows are computed, never stored, so a shard can be made alone, in any
order, by any worker, and is the same to the last bit. Only what the asked columns need is computed. Ids are put out
from 1 on, 0 is left for what is unseen. Here are the columns; who sees what is in `production_rows`, what moves
clicks in `production_truth`.

Example:
    >>> from ctrbench.synthetic.production.spec import preset
    >>> from ctrbench.synthetic.production.calibration import calibrate
    >>> spec = preset("unit")
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
    NUM_AGES,
    NUM_GENDERS,
    NUM_LEVELS,
    NUM_POSITIONS,
    NUM_PROFILES,
    NUM_SCENARIOS,
    ProductionSpec,
)
from ctrbench.synthetic.production.world import (
    NOISE_SIZES,
    NUM_BRANDS,
    NUM_CITIES,
    NUM_CREATIVES,
    NUM_DEVICES,
    NUM_NETWORKS,
    NUM_PAGES,
    NUM_PRICES,
    World,
    make_world,
)

Values = NDArray[Any]
Kind = Literal["categorical", "numeric", "sequence"]
Role = Literal["user", "item", "context", "shop"]

DOMAIN_FEATURES = ("scenario", "ad_position", "user_profile")
USER, ITEM, CATEGORY = "user_id", "item_id", "category"
ITEM_SEQUENCE, CATEGORY_SEQUENCE = "item_history", "category_history"
DOMAIN_INDEX = "domain_place"
"""On request: the row's place among `Production.domains`."""
ITEM_NEGATIVES = "item_history_negatives"
"""On request: for each place of the item sequence an item drawn from all alike, for DIEN's auxiliary loss."""
BID, PRICE, COST = "bid", "price", "cost"


Maker = Callable[[ClickBlock], Values]


@dataclass(frozen=True, kw_only=True)
class ProductionField:
    """One field: its ids go from 1 to `num_ids`; a sequence shares those of its target."""

    name: str
    kind: Kind
    role: Role
    num_ids: int = 0
    """0 for numeric fields."""
    target: str | None = None


@dataclass(frozen=True, kw_only=True)
class ProductionDomains:
    """The tuples of domain features as put out, by traffic; the reserved ones, which appear late, stand last."""

    features: dict[str, NDArray[np.int32]]
    share: Floats
    """Of the traffic, the reserved tuples left out: theirs is 0."""
    is_reserved: NDArray[np.bool_]


@dataclass(frozen=True)
class Production:
    """The dataset of a spec and its constants; both are small, and every worker may make its own."""

    spec: ProductionSpec
    constants: Constants

    @property
    def cuts(self) -> tuple[int, int]:
        """Rows where dev and test begin."""
        return self.spec.cuts

    @property
    def num_shards(self) -> int:
        """Shards of 2^20 rows, or as many as the spec says; the last one may be smaller."""
        return self.spec.num_shards

    @property
    def fields(self) -> tuple[ProductionField, ...]:
        """The fields that models see, in their order."""
        return production_fields(self.spec)

    @property
    def domains(self) -> ProductionDomains:
        """The tuples that make domains, with their shares of the traffic."""
        domains, ids = self._world.domains, self._world.ids
        values = (
            ids.scenario[domains.scenario],
            ids.position[domains.position],
            ids.profile[domains.profile],
        )
        features = {name: one.astype(np.int32) for name, one in zip(DOMAIN_FEATURES, values, strict=True)}
        return ProductionDomains(features=features, share=domains.share, is_reserved=domains.is_reserved)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that rows have when none are asked for."""
        fields = tuple(field.name for field in self.fields)
        known = (Column.ROW, Column.TIME, Column.LABEL, Column.PROBABILITY, Column.CEILING)
        return (*known, *fields, BID, PRICE, COST)

    def rows(self, start: int, stop: int, columns: Sequence[str] | None = None) -> dict[str, Values]:
        """Return columns of the rows from `start` to `stop`, by name.

        Ids are int32, from 1 on; sequences (rows, length), the oldest first, 0 after the last; row and time (seconds
        from the beginning of day 0) int64; label int8; numeric fields float32; probabilities, prices and components
        float64. `Component`s, negatives, and sequences that are no fields of this dataset are generated on request.
        """
        if not 0 <= start <= stop <= self.spec.rows:
            value = f"{start:,} to {stop:,} of {self.spec.rows:,}"
            raise SettingError("rows lie within the dataset", value=value)
        makers = {name: self._maker(name) for name in (self.columns if columns is None else columns)}
        found: dict[str, Values] = {}
        for begin in range(start, max(stop, start + 1), BLOCK_ROWS):
            block = self.block(begin, min(begin + BLOCK_ROWS, stop))
            for name, make in makers.items():
                values = make(block)
                if name not in found:
                    found[name] = np.empty((stop - start, *values.shape[1:]), dtype=values.dtype)
                found[name][begin - start : begin - start + len(values)] = values
        return found

    def shard(self, number: int) -> tuple[int, int]:
        """Return the first row of a shard, and the first after it."""
        if not 0 <= number < self.num_shards:
            raise SettingError("shards lie within the dataset", value=f"{number} of {self.num_shards}")
        size = self.spec.shard_rows
        return number * size, min((number + 1) * size, self.spec.rows)

    @cached_property
    def _world(self) -> World:
        return make_world(self.spec)

    def block(self, start: int, stop: int) -> ClickBlock:
        """Return rows with everything behind them, before ids are put out."""
        return ClickBlock(self._world, start, stop, self.spec.rows, constants=self.constants)

    def _maker(self, name: str) -> Maker:
        if name not in MAKERS:
            rule = "the Production-scale data have no such column"
            raise SettingError(rule, value=name, remedy=did_you_mean(name, MAKERS))
        return MAKERS[name]


def production_fields(spec: ProductionSpec) -> tuple[ProductionField, ...]:
    """Return the fields of a dataset in their order."""
    fields = _fields(spec)
    return fields if spec.sequences else tuple(one for one in fields if one.kind != "sequence")


def _fields(spec: ProductionSpec) -> tuple[ProductionField, ...]:
    """Return all fields in their order, sequences included."""

    def one(name: str, role: Role, num_ids: int) -> ProductionField:
        return ProductionField(name=name, kind="categorical", role=role, num_ids=num_ids)

    def sequence(name: str, target: str, num_ids: int) -> ProductionField:
        return ProductionField(name=name, kind="sequence", role="user", num_ids=num_ids, target=target)

    return (
        one(USER, "user", spec.num_users),
        one("gender", "user", NUM_GENDERS),
        one("age", "user", NUM_AGES),
        one("level", "user", NUM_LEVELS),
        one("user_profile", "user", NUM_PROFILES),
        one("city", "user", NUM_CITIES),
        one("device", "user", NUM_DEVICES),
        *(one(f"noise_{place + 1}", "user", size) for place, size in enumerate(NOISE_SIZES)),
        one(ITEM, "item", spec.num_items),
        one(CATEGORY, "item", spec.num_categories),
        one("brand", "item", spec.num_categories * NUM_BRANDS),
        one("shop", "shop", spec.num_shops),
        one("price_level", "item", NUM_PRICES),
        one("creative_type", "item", NUM_CREATIVES),
        one("scenario", "context", NUM_SCENARIOS),
        one("ad_position", "context", NUM_POSITIONS),
        one("hour", "context", 24),
        one("weekday", "context", 7),
        one("page_index", "context", NUM_PAGES),
        one("network_type", "context", NUM_NETWORKS),
        ProductionField(name="item_ctr", kind="numeric", role="item"),
        ProductionField(name="user_activity", kind="numeric", role="user"),
        sequence(ITEM_SEQUENCE, ITEM, spec.num_items),
        sequence(CATEGORY_SEQUENCE, CATEGORY, spec.num_categories),
    )


# --- columns -------------------------------------------------------------------------------------------------------


def _ids(values: Integers) -> Values:
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
    # Place -1, which stands for no behaviour, is the last one of the table.
    ids = np.append(block.world.ids.category, 0)
    return _ids(ids[block.sequences[0]])


def _brand(block: ClickBlock) -> Values:
    own = block.item_features[0] % NUM_BRANDS
    return _ids((block.world.ids.category[block.category] - 1) * NUM_BRANDS + own + 1)


def _noise(place: int, block: ClickBlock) -> Values:
    return _ids(block.noise[place] + 1)


def _component(part: Component, block: ClickBlock) -> Values:
    return block.components[part]


def _time(block: ClickBlock) -> Values:
    day, second = block.times
    return day * DAY_SECONDS + second.astype(np.int64)


def _weekday(block: ClickBlock) -> Values:
    """Return the day of the week; 0 for days that training does not contain."""
    weekday, train_days = block.times[0] % 7, 4 * block.world.spec.days // 6
    return _ids(np.where(weekday < train_days, weekday + 1, 0))


MAKERS: dict[str, Maker] = {
    Column.ROW: lambda block: np.arange(block.start, block.stop),
    Column.TIME: _time,
    Column.LABEL: lambda block: block.outcome[0],
    Column.PROBABILITY: lambda block: block.probability,
    Column.CEILING: lambda block: block.ceiling,
    USER: _user,
    "gender": lambda block: _ids(block.profile // (NUM_AGES * NUM_LEVELS) + 1),
    "age": lambda block: _ids(block.profile // NUM_LEVELS % NUM_AGES + 1),
    "level": lambda block: _ids(block.profile % NUM_LEVELS + 1),
    "user_profile": lambda block: _ids(block.world.ids.profile[block.profile]),
    "city": lambda block: _ids(block.world.ids.city[block.place[0]]),
    "device": lambda block: _ids(block.world.ids.device[block.place[1]]),
    **{f"noise_{place + 1}": partial(_noise, place) for place in range(len(NOISE_SIZES))},
    ITEM: _item,
    CATEGORY: lambda block: _ids(block.world.ids.category[block.category]),
    "brand": _brand,
    "shop": _shop,
    "price_level": lambda block: _ids(block.item_features[2] + 1),
    "creative_type": lambda block: _ids(block.item_features[3] + 1),
    "scenario": lambda block: _ids(block.world.ids.scenario[block.scenario]),
    "ad_position": lambda block: _ids(block.world.ids.position[block.position]),
    "hour": lambda block: _ids(block.times[1].astype(np.int64) // 3600 + 1),
    "weekday": _weekday,
    "page_index": lambda block: _ids(block.context[0] + 1),
    "network_type": lambda block: _ids(block.context[1] + 1),
    "item_ctr": lambda block: block.item_ctr.astype(np.float32),
    "user_activity": lambda block: block.user_activity.astype(np.float32),
    ITEM_SEQUENCE: _item_history,
    CATEGORY_SEQUENCE: _category_history,
    ITEM_NEGATIVES: _item_negatives,
    DOMAIN_INDEX: lambda block: block.domain,
    BID: lambda block: block.bid,
    PRICE: lambda block: block.price,
    COST: lambda block: block.cost,
    **{str(part): partial(_component, part) for part in Component},
}
"""How each column is made of a block."""


FEW_IDS = 2_000
"""Most ids of a field whose training rows are counted per id, and which can be a domain feature."""


def is_countable(field: ProductionField) -> bool:
    """Return whether training rows are counted per id of a field, which can then be a domain feature."""
    return field.kind == "categorical" and field.num_ids <= FEW_IDS
