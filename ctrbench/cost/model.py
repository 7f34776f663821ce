"""Models and batches on which costs are counted: models without contents, and batches of synthetic rows.

Large tensors of a model share the same memory and are never filled, so building one takes milliseconds and hardly any
memory, however many ids and domains there are. Costs depend on the domains of the rows, not on their ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from ctrbench.cost.huge import SkippedHuge, shared_zeros
from ctrbench.data.batches import Batch
from ctrbench.nn.model import CTRModel
from ctrbench.nn.plan import Plan
from ctrbench.nn.schema import Schema

SEED = 1
LARGE = 1 << 16
"""Number of elements from which on a tensor is not filled."""

Lengths = Mapping[str, int]
"""Number of elements per list, by field (default: 1)."""
NO_LENGTHS: Lengths = MappingProxyType({})


def build_unfilled(plan: Plan, schema: Schema) -> CTRModel:
    """Build the model of a plan without initializing its large tensors; raises the errors of building."""
    with _unfilled_mode(), SkippedHuge():
        # Costs do not depend on which ids are rare.
        plan = replace(plan, common=replace(plan.common, min_count=1))
        return CTRModel(plan, schema, seed=SEED).eval()


class _Unfilled(TorchFunctionMode):
    """Gives all large tensors the same memory and skips their initialization."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: Sequence[Any] = (),
        kwargs: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401  # any result of the function
        kwargs = kwargs or {}
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_) and args[0].numel() >= LARGE:
            return args[0]
        if func is torch.Tensor.clone and args[0].numel() >= LARGE:
            return shared_zeros(args[0].shape, args[0].dtype)
        if func is torch.cat and sum(part.numel() for part in args[0]) >= LARGE:
            return self._fake_concatenate(*args, **kwargs)
        return func(*args, **kwargs)

    def _fake_concatenate(self, parts: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
        shape = list(parts[0].shape)
        shape[dim] = sum(part.shape[dim] for part in parts)
        return shared_zeros(shape, parts[0].dtype)


@cache
def _unfilled_mode() -> _Unfilled:
    return _Unfilled()


def single_domain_batch(schema: Schema, rows: int, lengths: Lengths = NO_LENGTHS) -> Batch:
    """Return rows of the first domain and of the largest indicator value."""
    domain_B, indicator_B = (
        np.full(rows, value) for value in (min(1, schema.num_domains), schema.largest_indicator)
    )
    return _make_batch(schema, domain_B, indicator_B, lengths)


def mixed_batch(schema: Schema, rows: int, lengths: Lengths = NO_LENGTHS) -> Batch:
    """Return rows whose indicators are drawn in proportion to their training rows."""
    generator = np.random.default_rng(SEED)
    share = np.asarray(schema.indicator_rows, dtype=np.float64)
    share = share / share.sum() if share.sum() else np.full(len(share), 1.0 / len(share))
    indicator_B = generator.choice(len(share), rows, p=share)
    is_composite = schema.num_indicators == schema.num_domains
    domain_B = indicator_B if is_composite else generator.integers(1, schema.num_domains + 1, rows)
    return _make_batch(schema, domain_B, indicator_B, lengths)


def _make_batch(schema: Schema, domain_B: np.ndarray, indicator_B: np.ndarray, lengths: Lengths) -> Batch:
    rows, visible = len(domain_B), replace(schema, hidden=())
    ids_F = torch.tensor([min(1, field.size - 1) for field in visible.single_fields], dtype=torch.int32)
    return Batch(
        ids_BF=ids_F.expand(rows, -1).contiguous(),
        bags=tuple(
            _make_bag(min(1, field.size - 1), rows, lengths.get(field.name, 1))
            for field in visible.bag_fields
        ),
        numeric_BK=torch.zeros(rows, len(visible.numeric_fields)),
        domain_B=torch.from_numpy(domain_B.astype(np.int64)),
        indicator_B=torch.from_numpy(indicator_B.astype(np.int64)),
        label_B=torch.zeros(rows),
        copies_BD=torch.ones(rows, len(schema.copies), dtype=torch.int32) if schema.has_copies else None,
    )


def _make_bag(value: int, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((rows * length,), value, dtype=torch.int32), length * torch.arange(rows + 1)
