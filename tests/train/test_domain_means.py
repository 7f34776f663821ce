from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ctrbench.data.batches import SplitData
from ctrbench.nn.context import Context
from ctrbench.nn.model import CTRModel
from ctrbench.nn.stages import StageModule
from ctrbench.train.domain_means import domain_means


def is_positive(module: StageModule, x_BN: torch.Tensor, context: Context) -> torch.Tensor:
    return x_BN > 0.0


def test_means_are_those_of_the_rows_of_each_domain(
    build_model: Callable[..., CTRModel], data: SplitData
) -> None:
    model = build_model(backbone="dnn[hidden=5-3]")
    layers = [*model.net.tower]
    shares = domain_means(model, data, layers, is_positive)
    assert list(shares.means) == layers
    z_BN = model.context(data.slice(0, len(data))).z_BN
    for row, domain in enumerate(shares.domain_D):
        own = data.domain_B == int(domain)
        assert shares.rows_D[row] == own.sum()
        np.testing.assert_allclose(shares.means[layers[0]][row], (z_BN[own] > 0.0).float().mean(0), rtol=1e-6)
    assert shares.rows_D.sum() == len(data)
    assert [mean.shape[1] for mean in shares.means.values()] == [z_BN.shape[1], 5]


def test_no_hook_remains(build_model: Callable[..., CTRModel], data: SplitData) -> None:
    model = build_model()
    domain_means(model, data, [*model.net.tower], is_positive)
    assert not any(module._forward_pre_hooks for module in model.modules())
