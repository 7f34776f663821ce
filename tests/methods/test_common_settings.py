"""The settings of every method, on every method."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ctrbench.contract.rows import EMBEDDING_SIZE, make_schema, make_training_rows
from ctrbench.errors import SettingError
from ctrbench.nn.model import CTRModel
from ctrbench.plugins.base import Method
from ctrbench.plugins.registry import plugins, select
from ctrbench.train.config import TrainConfig
from ctrbench.train.stepper import Stepper

SETTINGS = "lr=0.002,lr_schedule=warmup_cosine,lr_warmup=0.5,dropout=0.3,weight_decay=0.01,embedding_l2=1e-4"
SETTINGS += ",embedding_std=0.01,min_count=3,id_dropout=0.1"
ONE_DOMAIN_PER_BATCH = ("maml", "mamdr", "star")
"""Methods whose batches hold one domain each, so that moments of batches are refused."""
TRAINED = sorted(name for name in plugins("methods") if name != "gbdt")


def make_steps(method: Method, num_steps: int = 2) -> tuple[CTRModel, list[float]]:
    """Train a method on the rows of the contract; return the model and the losses."""
    plan, rows = method.apply(select("backbones", "dnn[hidden=8-4]").value.full_plan()), make_training_rows()
    schema, users = make_schema(), np.arange(121)
    fields = tuple(replace(field, size=121) if field.name == "user" else field for field in schema.fields)
    schema = replace(schema, fields=fields).with_rare_ids(method.min_count, {"user": users})
    stepper = Stepper(
        CTRModel(plan, schema, seed=1),
        method.learner(),
        TrainConfig(embedding_size=EMBEDDING_SIZE, batch_size=32, epochs=1),
    )
    batches = rows.batches(stepper.order(rows, np.random.default_rng(0)))
    steps = (stepper.step(batch) for batch, _ in zip(batches, range(num_steps), strict=False))
    losses = [float(output.loss) for output in steps]
    stepper.optimizer.flush()
    return stepper.model, losses


@pytest.mark.parametrize("name", TRAINED)
def test_every_method_trains_with_all_settings(name: str) -> None:
    norm = "layer" if name in ONE_DOMAIN_PER_BATCH else "batch"
    model, losses = make_steps(select("methods", f"{name}[{SETTINGS},tower_norm={norm}]").value)
    plain, _ = make_steps(select("methods", name).value)
    assert np.isfinite(losses).all()
    changed = [
        key for key, value in plain.state_dict().items() if not torch.equal(value, model.state_dict()[key])
    ]
    assert any(key.startswith("embedding") for key in changed)
    # MAMDR moves its dense weights at the end of a loop, which takes more steps.
    assert any(key.startswith("net") for key in changed) or name == "mamdr"


@pytest.mark.parametrize("setting", ["lr=0.01", "dropout=0.1", "weight_decay=0.1", "embedding_l2=0.1"])
def test_trees_refuse_them(setting: str) -> None:
    with pytest.raises(SettingError, match=f"{setting.partition('=')[0]} does not apply"):
        _ = select("methods", f"gbdt[{setting}]").value


@pytest.mark.parametrize("name", ONE_DOMAIN_PER_BATCH)
def test_moments_of_batches_of_one_domain_are_refused(name: str) -> None:
    with pytest.raises(SettingError, match="moments of one domain"):
        _ = select("methods", f"{name}[tower_norm=batch]").value


def test_a_warmup_must_be_scheduled() -> None:
    with pytest.raises(SettingError, match="lr_warmup has no effect"):
        _ = select("methods", "plain[lr_schedule=cosine,lr_warmup=0.5]").value


def test_reptile_refuses_weight_decay_which_its_steps_ignore() -> None:
    with pytest.raises(SettingError, match="weight_decay has no effect"):
        _ = select("methods", "maml[variant=reptile,weight_decay=0.1]").value


def test_a_tower_without_hidden_layers_refuses_dropout() -> None:
    method = select("methods", "plain[dropout=0.1]").value
    plan = select("backbones", "dnn[hidden=8-4]").value.full_plan()
    bare = method.apply(plan)
    with pytest.raises(SettingError, match="dropout and tower_norm must have an effect"):
        CTRModel(type(bare)(tower=(), head=bare.head, common=bare.common), make_schema(), seed=1)
