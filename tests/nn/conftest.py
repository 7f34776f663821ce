"""Fixtures of the tests of `nn`: rows with a sequence of earlier users, and models of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ctrbench.data.batches import SplitData
from ctrbench.nn.model import CTRModel
from ctrbench.nn.schema import FieldShape, Schema
from ctrbench.plugins.registry import select


@pytest.fixture
def history_schema(schema: Schema) -> Schema:
    """The shared fields, and a sequence of users whose target is the user."""
    history = FieldShape(name="history", kind="sequence", role="user", size=41, target="user")
    return replace(schema, fields=(*schema.fields, history))


@pytest.fixture
def history_data(data: SplitData) -> SplitData:
    """The shared rows with up to five earlier users each."""
    generator = np.random.default_rng(5)
    offsets = np.concatenate([[0], np.cumsum(generator.integers(0, 6, len(data)))])
    values = generator.integers(1, 41, offsets[-1]).astype(np.int32)
    return replace(data, bags=(*data.bags, (torch.from_numpy(values), torch.from_numpy(offsets))))


@pytest.fixture
def build_with_history(history_schema: Schema) -> Callable[..., CTRModel]:
    """Build a method on a backbone, by default with DIEN, for rows with histories."""

    def build(method: str = "plain", backbone: str = "dnn[hidden=8-4,pooling=dien]") -> CTRModel:
        rewriter, base = select("methods", method).value, select("backbones", backbone).value
        return CTRModel(rewriter.apply(base.full_plan()), history_schema, seed=1)

    return build
