"""Synthetic rows on which the contract tries a method, and their schema.

The domain features are `shop`, the indicator, and `age`. There is a field of every kind. Domains of very different
sizes, one with a single row, and ids unseen in training (0) are among the rows, since plug-ins tend to miss these.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from ctrbench.data.batches import SplitData, subset
from ctrbench.nn.schema import FieldShape, Schema

SEED = 7
BATCH_ROWS = 32
SHOP_ROWS = (150, 90, 60, 40, 30, 14, 1)
"""Training rows per shop; one more in all than a multiple of `BATCH_ROWS`, so that an epoch can end in one row."""
NUM_SHOPS = len(SHOP_ROWS)
NUM_AGES = 3
EMBEDDING_SIZE = 4


def make_schema(base_rate: float = 0.4) -> Schema:
    """Return the schema of the synthetic rows."""
    sizes = {"shop": NUM_SHOPS + 1, "age": NUM_AGES + 1, "user": 50, "item": 40}
    roles = {"shop": "shop", "age": "user", "user": "user", "item": "item"}
    singles = [
        FieldShape(name=name, kind="categorical", role=roles[name], size=size) for name, size in sizes.items()
    ]
    tags = FieldShape(name="tags", kind="multi_valued", role="item", size=12)
    seen = FieldShape(name="seen", kind="sequence", role="user", size=40, target="item")
    price = FieldShape(name="price", kind="numeric", role="item", size=0)
    return Schema(
        fields=(*singles, tags, seen, price),
        embedding_size=EMBEDDING_SIZE,
        domain_features=("shop", "age"),
        num_domains=NUM_SHOPS * NUM_AGES,
        indicator_rows=(0, *SHOP_ROWS),
        base_rate=base_rate,
    )


def make_training_rows() -> SplitData:
    """Return the rows to train on, all of seen domains, in random order."""
    shop_B = np.repeat(np.arange(1, NUM_SHOPS + 1), SHOP_ROWS)
    return _make_rows(np.random.default_rng(SEED).permutation(shop_B), seed=1)


def make_test_rows() -> SplitData:
    """Return test rows, with unseen domains and values; rows alternate between all shops, the unseen one included."""
    return _make_rows(np.arange(40) % (NUM_SHOPS + 1), seed=2)


def take_rows(data: SplitData, rows: Iterable[int] | np.ndarray) -> SplitData:
    """Return a copy of some rows of a split, by number."""
    return subset(data, np.fromiter(rows, dtype=np.int64))


def changed_columns(data: SplitData, original: SplitData) -> list[str]:
    """Return the names of the columns in which two splits differ."""
    names = ("ids_BF", "numeric_BK", "domain_B", "indicator_B", "label_B")
    changed = [name for name in names if not torch.equal(getattr(data, name), getattr(original, name))]
    parts = zip(
        (part for bag in data.bags for part in bag),
        (part for bag in original.bags for part in bag),
        strict=True,
    )
    return changed if all(torch.equal(*pair) for pair in parts) else [*changed, "bags"]


def _make_rows(shop_B: np.ndarray, seed: int) -> SplitData:
    """Generate rows of these shops; if any is unseen (0), every seventh age and every fifth user and item are too."""
    generator, num_rows = np.random.default_rng(seed), len(shop_B)
    others = [generator.integers(1, size, num_rows) for size in (NUM_AGES + 1, 50, 40)]
    ids_BF = np.stack([shop_B, *others], axis=1).astype(np.int32)
    if 0 in shop_B:
        ids_BF[::7, 1] = 0
        ids_BF[::5, 2:] = 0
    bags = tuple(_make_bag(np.random.default_rng([seed, size]), size, num_rows) for size in (12, 40))
    is_seen_B = (ids_BF[:, :2] > 0).all(1)
    domain_B = np.where(is_seen_B, (ids_BF[:, 0] - 1) * NUM_AGES + ids_BF[:, 1], 0).astype(np.int32)
    price_B1 = generator.standard_normal((num_rows, 1)).astype(np.float32)
    probability_B = 1.0 / (1.0 + np.exp(-price_B1[:, 0] * np.where(ids_BF[:, 0] % 2, 1.5, -1.5)))
    return SplitData(
        ids_BF=torch.from_numpy(ids_BF),
        bags=bags,
        numeric_BK=torch.from_numpy(price_B1),
        domain_B=torch.from_numpy(domain_B),
        indicator_B=torch.from_numpy(ids_BF[:, 0].copy()),
        label_B=torch.from_numpy((generator.random(num_rows) < probability_B).astype(np.float32)),
        row=np.arange(num_rows),
        user=None,
        probability=None,
    )


def _make_bag(generator: np.random.Generator, size: int, num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Generate lists of up to three ids, as values and offsets."""
    offsets = np.concatenate([[0], np.cumsum(generator.integers(0, 4, num_rows))])
    values = generator.integers(1, size, offsets[-1]).astype(np.int32)
    return torch.from_numpy(values), torch.from_numpy(offsets)
