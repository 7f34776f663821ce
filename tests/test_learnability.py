"""Methods that condition on the domain learn what a model for all domains, so small and so briefly trained, cannot.

The planted signal: each item has hidden tastes, and each domain likes or dislikes each of them, so that what raises the
click probability in one domain lowers it in another. The true probability is known, so models are compared by their
expected log-loss, without label noise.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from ctrbench.data.batches import SplitData
from ctrbench.nn.model import CTRModel
from ctrbench.nn.schema import FieldShape, Schema
from ctrbench.plugins.registry import plugins, select
from ctrbench.plugins.scaffold import new_method
from ctrbench.train.config import TrainConfig
from ctrbench.train.learner import score_rows
from ctrbench.train.stepper import Stepper

DOMAINS, ITEMS, TASTES = 8, 20, 2
TRAIN_ROWS, TEST_ROWS, BATCH = 20_000, 5_000, 64
SEEDS = range(4)
CONDITIONED = tuple(name for name in ("adasparse", "apg", "star") if name in plugins("methods"))


def made_up(num_rows: int, seed: int) -> SplitData:
    world, generator = np.random.default_rng(0), np.random.default_rng(seed)
    liking_DT = world.choice([-1.0, 1.0], (DOMAINS + 1, TASTES))
    tastes_IT, appeal_I = world.standard_normal((2, ITEMS + 1, TASTES)), world.standard_normal(ITEMS + 1)
    domain, items = (
        generator.integers(1, DOMAINS + 1, num_rows),
        generator.integers(1, ITEMS + 1, (num_rows, 2)),
    )
    wanted = sum((liking_DT[domain] * tastes_IT[place, items[:, place]]).sum(1) for place in (0, 1))
    logit = 0.5 * appeal_I[items[:, 0]] + 1.25 * wanted
    probability = 1.0 / (1.0 + np.exp(-logit))
    ids = torch.from_numpy(domain.astype(np.int32))
    return SplitData(
        ids_BF=torch.from_numpy(np.column_stack([domain, items]).astype(np.int32)),
        bags=(),
        numeric_BK=torch.zeros(num_rows, 0),
        domain_B=ids,
        indicator_B=ids,
        label_B=torch.from_numpy((generator.random(num_rows) < probability).astype(np.float32)),
        row=np.arange(num_rows),
        user=None,
        probability=probability,
    )


TRAIN, TEST = made_up(TRAIN_ROWS, 1), made_up(TEST_ROWS, 2)
SCHEMA = Schema(
    fields=(
        FieldShape(name="domain", kind="categorical", role="context", size=DOMAINS + 1),
        FieldShape(name="item", kind="categorical", role="item", size=ITEMS + 1),
        FieldShape(name="other", kind="categorical", role="item", size=ITEMS + 1),
    ),
    embedding_size=8,
    domain_features=("domain",),
    num_domains=DOMAINS,
    indicator_rows=tuple(np.bincount(TRAIN.indicator_B.numpy(), minlength=DOMAINS + 1).tolist()),
    base_rate=float(TRAIN.label_B.mean()),
)


def expected_logloss(logit: np.ndarray) -> float:
    assert TEST.probability is not None
    return float(np.mean(np.logaddexp(0.0, logit) - TEST.probability * logit))


def oracle() -> float:
    assert TEST.probability is not None
    return expected_logloss(np.log(TEST.probability / (1.0 - TEST.probability)))


@cache
def losses(selector: str) -> np.ndarray:
    """Expected log-loss on test after one epoch, for each seed."""
    return np.array([trained_loss(selector, seed) for seed in SEEDS])


def trained_loss(selector: str, seed: int) -> float:
    method, backbone = select("methods", selector).value, select("backbones", "dnn[hidden=32-16]").value
    model = CTRModel(method.apply(backbone.plan()), SCHEMA, seed=seed)
    stepper = Stepper(model, method.learner(), TrainConfig(batch_size=BATCH, epochs=1))
    torch.manual_seed(seed)
    order = stepper.order(TRAIN, np.random.default_rng(seed))
    for batch in TRAIN.batches(order):
        stepper.step(batch)
    stepper.optimizer.flush()
    return expected_logloss(score_rows(model, TEST))


def assert_closer_to_the_oracle(selector: str) -> None:
    """Paired over seeds, the gain over plain is more than twice its standard error."""
    gains = losses("plain") - losses(selector)
    error = gains.std(ddof=1) / np.sqrt(len(gains))
    assert gains.mean() > 2.0 * error, gains
    assert oracle() < losses(selector).min()


def test_plain_learns_the_appeal_of_items_but_not_all() -> None:
    rate = SCHEMA.base_rate
    constant = expected_logloss(np.full(TEST_ROWS, np.log(rate / (1.0 - rate))))
    assert losses("plain").max() < constant - 0.01
    assert losses("plain").min() > oracle() + 0.05


@pytest.mark.parametrize("method", CONDITIONED)
def test_conditioning_on_the_domain_gets_closer_to_the_oracle(method: str) -> None:
    assert_closer_to_the_oracle(method)


def test_so_does_the_template_of_new_method(tmp_path: Path) -> None:
    assert_closer_to_the_oracle(str(new_method("my_gate", tmp_path)))
