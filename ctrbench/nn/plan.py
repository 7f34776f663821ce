"""A model as a small frozen description, and the edits that methods make to it.

A backbone is a `Plan`, a method rewrites it, and `model.CTRModel` builds any plan. Plans have no weights, so they
compare, print and compose, and M methods on N backbones are M + N files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from ctrbench.nn.common import CommonSettings
from ctrbench.nn.pooling import Pooling
from ctrbench.nn.stages import Dense, Stage, dense_stages


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A CTR model as the stages between the input vector z and the logit.

    `at_input` changes z for interactions and tower. With `join="parallel"` the logit is
    head([interactions(z) ; tower(z)]), with `"stacked"` head(tower(interactions(z))), without interactions
    head(tower(z)). The outputs of `logits`, which take z as the embeddings return it, are added.
    """

    tower: tuple[Stage, ...]
    head: tuple[Stage, ...]
    at_input: tuple[Stage, ...] = ()
    interactions: tuple[Stage, ...] = ()
    join: Literal["parallel", "stacked"] = "parallel"
    logits: tuple[Stage, ...] = ()
    first_order: bool = False
    """Whether each id has a first-order weight beside its embedding, `Context.first_order_BF`."""
    hides_domain: bool = False
    """Whether the domain features are hidden from the model."""
    pooling: Pooling = field(default_factory=Pooling)
    attends: bool = False
    """Whether stages attend to the elements of sequences that have a target, `Context.behaviors`."""
    separate: int | None = None
    """Maximal number of models if each value of the indicator has its own; None: one model for all."""
    common: CommonSettings = field(default_factory=CommonSettings)
    """The settings of every method, for model and optimizer; `Method.apply` sets them."""

    @property
    def sections(self) -> dict[str, tuple[Stage, ...]]:
        """All stages by section, in the order in which the sections run; `Network.sections` has their modules."""
        return {
            "at_input": self.at_input,
            "interactions": self.interactions,
            "tower": self.tower,
            "head": self.head,
            "logits": self.logits,
        }

    @property
    def output_heads(self) -> int:
        """Number of equal parts into which the head cuts the tower's output, whose width must be a multiple of it."""
        return math.lcm(*(stage.num_parts for stage in self.head))

    @property
    def has_dense_tower(self) -> bool:
        """Whether the tower consists of dense stages, at least one."""
        return bool(self.tower) and all(stage.as_dense() is not None for stage in self.tower)

    @property
    def has_dense(self) -> bool:
        """Whether a stage of the tower or of the head is dense."""
        return bool(dense_stages((*self.tower, *self.head)))

    def map_dense(self, change: Callable[[Dense], Stage], *, head: bool = True) -> Plan:
        """Replace each dense stage of the tower, and of the head unless `head=False`."""
        return self._expand_stages(lambda dense, _stage: (change(dense),), head=head)

    def before_dense(self, make: Callable[[Dense], Stage], *, head: bool = True) -> Plan:
        """Add a stage at the input of each dense stage of the tower, and of the head unless `head=False`."""
        return self._expand_stages(lambda dense, stage: (make(dense), stage), head=head)

    def after_dense(self, make: Callable[[Dense], Stage], *, head: bool = False) -> Plan:
        """Add a stage at the output of each dense stage of the tower, and of the head if `head=True`."""
        return self._expand_stages(lambda dense, stage: (stage, make(dense)), head=head)

    def with_input(self, stage: Stage) -> Plan:
        """Add a stage between the embeddings and everything but `logits`."""
        return replace(self, at_input=(*self.at_input, stage))

    def before_tower(self, stage: Stage) -> Plan:
        """Add a stage at the input of the tower; interactions are not changed."""
        return replace(self, tower=(stage, *self.tower))

    def wrap_tower(self, make: Callable[[tuple[Stage, ...]], Stage]) -> Plan:
        """Replace the tower by one stage that contains it."""
        return replace(self, tower=(make(self.tower),))

    def with_head(self, *stages: Stage) -> Plan:
        """Replace the output stages."""
        return replace(self, head=stages)

    def add_logit(self, stage: Stage) -> Plan:
        """Add a branch to the logit, whose input is z as the embeddings return it."""
        return replace(self, logits=(*self.logits, stage))

    def _expand_stages(self, expand: Callable[[Dense, Stage], tuple[Stage, ...]], *, head: bool) -> Plan:
        """Replace each stage that is a dense layer by the stages that `expand` returns for both."""

        def expand_all(stages: tuple[Stage, ...]) -> Iterator[Stage]:
            for stage in stages:
                dense = stage.as_dense()
                yield from (stage,) if dense is None else expand(dense, stage)

        edited = tuple(expand_all(self.head)) if head else self.head
        return replace(self, tower=tuple(expand_all(self.tower)), head=edited)
