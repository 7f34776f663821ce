"""The model's view of its data: fields, domains and the layout of the input vector z."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from functools import cached_property
from typing import Literal

import numpy as np
import torch

from ctrbench.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class FieldShape:
    """One input field: `size` ids (0 = unseen included), or a plain number where `size` is 0."""

    name: str
    kind: Literal["categorical", "multi_valued", "sequence", "numeric"]
    role: str
    size: int
    target: str | None = None
    """For a sequence: the one-id field whose earlier values it holds, and whose embeddings it shares."""

    @property
    def is_single_id(self) -> bool:
        """Whether a row has exactly one id; true of bucketed numeric fields."""
        return self.size > 0 and self.kind in ("categorical", "numeric")


@dataclass(frozen=True, kw_only=True)
class Schema:
    """Fields, domains and training click rate of a dataset: all that building a model requires.

    The input vector z concatenates the embeddings of one-id fields, then the pooled embeddings of multi-valued and
    sequence fields, then plain numbers, each group in the order of `fields`.
    """

    fields: tuple[FieldShape, ...]
    embedding_size: int
    domain_features: tuple[str, ...]
    num_domains: int
    """Composite domains seen in training; their ids are 1..num_domains."""
    indicator_rows: tuple[int, ...]
    """Training rows of each value of the indicator p; index 0 is the unseen value."""
    base_rate: float
    """Share of positives in training, strictly between 0 and 1."""
    hidden: tuple[str, ...] = ()
    """Fields of the data that the model does not use."""
    min_count: int = 1
    """Training rows below which `rare_ids` are counted as unseen."""
    rare_ids: Mapping[str, np.ndarray] = dataclass_field(default_factory=dict, compare=False, repr=False)
    """By field: whether each id has fewer than `min_count` training rows, bool of shape (size,)."""
    has_copies: bool = False
    """Whether e_d consists of embeddings of `copies`, not of the domain features in z."""

    def with_rare_ids(self, min_count: int, rows_per_id: Mapping[str, np.ndarray]) -> Schema:
        """Return the schema whose models read ids of fewer than `min_count` training rows as unseen.

        `rows_per_id` holds the training rows of each id, 0 included, by field; ids of other fields stay.
        """
        rare_ids = {name: rows < min_count for name, rows in rows_per_id.items()}
        return replace(self, min_count=min_count, rare_ids=rare_ids)

    @property
    def copies(self) -> tuple[FieldShape, ...]:
        """Copies of the domain features that e_d reads in place of them, with embeddings of their own; none by default.

        They have the domain features' sizes. z does not contain them.
        """
        fields = {field.name: field for field in self.fields}
        return tuple(fields[name] for name in self.domain_features) if self.has_copies else ()

    @property
    def largest_indicator(self) -> int:
        """The indicator with the most training rows, which replaces an unseen one."""
        return max(range(1, len(self.indicator_rows)), key=self.indicator_rows.__getitem__, default=0)

    def replace_unseen(self, indicator_B: torch.Tensor) -> torch.Tensor:
        """Return the indicator of each row; unseen ones become `largest_indicator` (spec: conventions-0.4)."""
        return torch.where(indicator_B > 0, indicator_B, self.largest_indicator)

    @property
    def num_indicators(self) -> int:
        """Values of the indicator p seen in training; their ids are 1..num_indicators."""
        return len(self.indicator_rows) - 1

    @cached_property
    def single_fields(self) -> tuple[FieldShape, ...]:
        """Fields with one id per row."""
        return tuple(field for field in self._visible_fields if field.is_single_id)

    @cached_property
    def bag_fields(self) -> tuple[FieldShape, ...]:
        """Multi-valued and sequence fields, which are pooled."""
        return tuple(field for field in self._visible_fields if field.kind in ("multi_valued", "sequence"))

    @cached_property
    def targets(self) -> dict[str, int]:
        """For each sequence with a target, the target's index in `single_fields`.

        A sequence whose target is hidden counts as one without a target.
        """
        indices = {field.name: index for index, field in enumerate(self.single_fields)}
        return {
            field.name: indices[field.target]
            for field in self.bag_fields
            if field.target is not None and field.target in indices
        }

    @cached_property
    def table_fields(self) -> tuple[FieldShape, ...]:
        """Fields with embeddings of their own, in the order of the table's rows."""
        return tuple(
            field for field in (*self.single_fields, *self.bag_fields) if field.name not in self.targets
        )

    @cached_property
    def numeric_fields(self) -> tuple[FieldShape, ...]:
        """Fields that enter as a number."""
        return tuple(
            field for field in self._visible_fields if field.kind == "numeric" and not field.is_single_id
        )

    @property
    def _visible_fields(self) -> tuple[FieldShape, ...]:
        return tuple(field for field in self.fields if field.name not in self.hidden)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Columns of each field in the input vector z."""
        slices, start = {}, 0
        for field in (*self.single_fields, *self.bag_fields, *self.numeric_fields):
            width = 1 if field in self.numeric_fields else self.embedding_size
            slices[field.name] = slice(start, start + width)
            start += width
        return slices

    @property
    def num_inputs(self) -> int:
        """Width of the input vector z."""
        bags_and_ids = len(self.single_fields) + len(self.bag_fields)
        return bags_and_ids * self.embedding_size + len(self.numeric_fields)

    @property
    def domain_width(self) -> int:
        """Width of e_d, the concatenated embeddings of the domain-aware features."""
        return len(self.domain_slices) * self.embedding_size

    @property
    def domain_slices(self) -> tuple[slice, ...]:
        """Columns of the domain-aware features in the input vector z; a `SettingError` if they are hidden.

        Stages read e_d as `Context.domain_BE` and single features by `Context.embedding_of`, which shuffled domains
        replace; these columns they do not.
        """
        hidden = [name for name in self.domain_features if name in self.hidden]
        if hidden:
            raise SettingError(
                "e_d consists of the embeddings of the domain features, which are hidden from this model",
                value=", ".join(hidden),
                remedy="leave out the part that uses e_d, or choose a method that shows the domain features",
            )
        return tuple(self.slices[name] for name in self.domain_features)
