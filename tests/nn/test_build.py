from __future__ import annotations

import pytest
import torch

from ctrbench.nn.build import Build, start_weight
from ctrbench.nn.schema import Schema


def test_random_starts_depend_only_on_seed_and_label(schema: Schema) -> None:
    def draw(seed: int, label: str) -> list[float]:
        return torch.rand(3, generator=Build(schema=schema, seed=seed).generator(label)).tolist()

    assert draw(1, "a") == draw(1, "a")
    assert draw(1, "a") != draw(1, "b")
    assert draw(1, "a") != draw(2, "a")


@pytest.mark.parametrize(("activation", "bound"), [("relu", (6 / 300) ** 0.5), ("tanh", (6 / 500) ** 0.5)])
def test_weights_start_within_their_bound(activation: str, bound: float) -> None:
    weight = start_weight(300, 200, activation, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    assert weight.shape == (300, 200)
    assert bound * 0.999 < float(weight.abs().max()) <= bound
