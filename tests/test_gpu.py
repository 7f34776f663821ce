"""Every method trains on a CUDA device as it does on the CPU."""

from __future__ import annotations

import pytest
import torch

from ctrbench.data.batches import SplitData
from ctrbench.extend import Backbone, Estimator, Method
from ctrbench.nn.model import CTRModel
from ctrbench.nn.schema import Schema
from ctrbench.plugins.registry import plugins, select
from ctrbench.train.config import TrainConfig
from ctrbench.train.loop import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

TRAINED = sorted(name for name, one in plugins("methods").items() if not issubclass(one.load(), Estimator))


def losses(method: str, backbone: str, schema: Schema, data: SplitData, device: str) -> list[float]:
    rewriter, base = select("methods", method).value, select("backbones", backbone).value
    assert isinstance(rewriter, Method)
    assert isinstance(base, Backbone)
    model = CTRModel(rewriter.apply(base.full_plan()), schema, seed=1).to(device)
    rows = data.to(torch.device(device))
    config = TrainConfig(batch_size=32, epochs=2, patience=2, embedding_size=schema.embedding_size)
    trainer = Trainer(model=model, learner=rewriter.learner(), train=rows, dev=rows, config=config, seed=1)
    return [epoch["loss"] for epoch in trainer.fit().history.evaluations]


PAIRS = [
    *((method, backbone) for method in TRAINED for backbone in ("dnn", "dcnv2")),
    *(("adasparse", backbone) for backbone in plugins("backbones")),
]


@pytest.mark.parametrize(("method", "backbone"), PAIRS)
def test_cuda_trains_as_the_cpu_does(method: str, backbone: str, schema: Schema, data: SplitData) -> None:
    expected = losses(method, backbone, schema, data, "cpu")
    assert losses(method, backbone, schema, data, "cuda") == pytest.approx(expected, rel=1e-3)
