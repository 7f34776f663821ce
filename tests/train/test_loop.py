from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctrbench.data.batches import SplitData
from ctrbench.nn.model import CTRModel
from ctrbench.nn.schema import FieldShape, Schema
from ctrbench.plugins.registry import select
from ctrbench.train.checkpoint import Checkpoint, CheckpointMismatchError
from ctrbench.train.config import TrainConfig
from ctrbench.train.loop import Fit, Tick, Trainer


def make_rows(num_rows: int, seed: int) -> SplitData:
    generator = np.random.default_rng(seed)
    ids = generator.integers(1, 9, (num_rows, 3)).astype(np.int32)
    label = (generator.random(num_rows) < np.where(ids[:, 0] > 4, 0.7, 0.2)).astype(np.float32)
    return SplitData(
        ids_BF=torch.from_numpy(ids),
        bags=(),
        numeric_BK=torch.zeros(num_rows, 0),
        domain_B=torch.from_numpy(ids[:, 0].copy()),
        indicator_B=torch.from_numpy(ids[:, 0].copy()),
        label_B=torch.from_numpy(label),
        row=np.arange(num_rows),
        user=None,
        probability=None,
    )


SCHEMA = Schema(
    fields=tuple(FieldShape(name=name, kind="categorical", role="other", size=9) for name in "abc"),
    embedding_size=4,
    domain_features=("a",),
    num_domains=8,
    indicator_rows=(0, *[100] * 8),
    base_rate=0.45,
)


def trainer(method: str = "plain", **settings: object) -> Trainer:
    config = TrainConfig.model_validate({"embedding_size": 4, "batch_size": 32, "epochs": 2, **settings})
    rewriter, backbone = select("methods", method).value, select("backbones", "dnn[hidden=8-4]").value
    plan = rewriter.apply(backbone.plan())
    return Trainer(
        model=CTRModel(plan, SCHEMA, seed=3),
        learner=rewriter.learner(),
        train=make_rows(800, 0),
        dev=make_rows(300, 1),
        config=config,
        seed=3,
    )


class Killed(Exception):
    """Replaces a kill signal."""


def kill_at(step: int) -> object:
    def progress(tick: Tick) -> None:
        if tick.step >= step:
            raise Killed

    return progress


@cache
def fit_uninterrupted(method: str) -> tuple[Fit, dict[str, torch.Tensor]]:
    """Train without interruption; return the result and the state of the model."""
    uninterrupted = trainer(method, patience=9)
    return uninterrupted.fit(), uninterrupted.model.state_dict()


@pytest.mark.parametrize(
    "method",
    [
        "plain",
        "adasparse",
        "star",
        "apg",
        "mamdr",
        "pcgrad",
        "adaptdhm",
        "separate",
        "plain[dropout=0.3,weight_decay=0.01,embedding_l2=1e-4]",
        "star[dropout=0.3,weight_decay=0.01]",
        "plain[tower_norm=batch,lr_schedule=warmup_cosine]",
        "separate[lr_schedule=cosine]",
        "maml[tasks=2,support=16,query=16]",
        "maml[tasks=2,support=16,query=16,paml_lr=true]",
    ],
)
@pytest.mark.parametrize("step", [7, 20])
def test_killed_and_resumed_equals_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, step: int
) -> None:
    fit, weights = fit_uninterrupted(method)
    monkeypatch.setattr("ctrbench.train.loop.PROGRESS_SECONDS", 0.0)
    first = trainer(method, patience=9)
    with pytest.raises(Killed):
        first.fit(checkpoint=Checkpoint(tmp_path / "c.pt"), progress=kill_at(step), checkpoint_seconds=0.0)  # type: ignore[arg-type]
    second = trainer(method, patience=9)
    again = second.fit(checkpoint=Checkpoint(tmp_path / "c.pt"), checkpoint_seconds=0.0)
    assert again.resumed == 1
    assert again.steps == fit.steps
    assert again.history.evaluations == fit.history.evaluations
    for name, value in weights.items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_best_weights_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, scores = trainer(epochs=4, evaluations=1, patience=2), iter([0.6, 0.8, 0.7, 0.75, 0.8])
    head = tried.model.get_parameter("net.head.0.weight")
    weights: list[torch.Tensor] = []

    def evaluate(label: np.ndarray, score: np.ndarray) -> dict[str, float]:
        weights.append(head.detach().clone())
        return {"auc": next(scores), "logloss": 0.5}

    monkeypatch.setattr("ctrbench.train.dev.dev_metrics", evaluate)
    fit = tried.fit()
    assert fit.history.best_evaluation == 2
    assert torch.equal(head, weights[1])
    assert not torch.equal(weights[1], weights[3])
    assert fit.dev == {"auc": 0.8, "logloss": 0.5}


def test_training_stops_after_evaluations_without_improvement(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.8, 0.7, 0.6, 0.9])
    monkeypatch.setattr(
        "ctrbench.train.dev.dev_metrics", lambda label, score: {"auc": next(scores), "logloss": 0.5}
    )
    fit = trainer(epochs=4, evaluations=1, patience=1).fit()
    assert (fit.history.epoch, fit.history.best_evaluation) == (2, 1)


def test_training_may_stop_within_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.8, 0.7, 0.9, 0.6, 0.5, 0.9])
    monkeypatch.setattr(
        "ctrbench.train.dev.dev_metrics", lambda label, score: {"auc": next(scores), "logloss": 0.5}
    )
    fit = trainer(epochs=4, evaluations=5, patience=2).fit()
    assert (fit.history.epoch, fit.history.best_evaluation, fit.steps) == (1, 3, 25)
    assert [part["step"] for part in fit.history.evaluations] == [5, 10, 15, 20, 25]


def test_training_may_stop_before_the_end_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.8, 0.7, 0.8])
    monkeypatch.setattr(
        "ctrbench.train.dev.dev_metrics", lambda label, score: {"auc": next(scores), "logloss": 0.5}
    )
    fit = trainer(evaluations=5, patience=1).fit()
    assert (fit.history.epoch, fit.history.best_evaluation, fit.steps, fit.history.rows) == (0, 1, 10, 320)


def test_evaluations_follow_equal_parts_of_an_epoch() -> None:
    # 25 batches per epoch do not divide into 4 equal parts.
    fit = trainer(epochs=2, evaluations=4, patience=99).fit()
    evaluations = fit.history.evaluations
    assert [part["epoch"] for part in evaluations] == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]
    assert [part["step"] for part in evaluations] == [7, 13, 19, 25, 32, 38, 44, 50]
    assert [part["rows"] for part in evaluations][3::4] == [800, 1600]


def test_more_evaluations_than_batches_are_one_per_batch() -> None:
    fit = trainer(epochs=1, batch_size=400, evaluations=100, patience=99).fit()
    assert [part["step"] for part in fit.history.evaluations] == [1, 2]


def test_evaluations_do_not_change_training() -> None:
    once, often = trainer(epochs=1, evaluations=1), trainer(epochs=1, evaluations=25, patience=99)
    often.fit()
    # The optimizer makes up for missed steps at each evaluation, which rounds differently.
    once.fit()
    last = often.history.evaluations[-1]
    assert last["dev"]["auc"] == pytest.approx(once.history.evaluations[0]["dev"]["auc"], abs=1e-5)


def test_the_loss_of_an_evaluation_is_the_mean_over_rows() -> None:
    tried = trainer(epochs=1, evaluations=1, lr=1e-12)
    fit = tried.fit()
    with torch.no_grad():
        logit = tried.model(tried.train.slice(0, len(tried.train)))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logit, tried.train.label_B)
    assert fit.history.evaluations[0]["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_a_checkpoint_of_another_format_starts_over(tmp_path: Path) -> None:
    file = tmp_path / "c.pt"
    torch.save({"optimizer": {"dense": {"param_groups": []}}}, file)
    assert trainer().fit(checkpoint=Checkpoint(file)).resumed == 0


def test_a_damaged_checkpoint_starts_over(tmp_path: Path) -> None:
    (tmp_path / "c.pt").write_bytes(b"no checkpoint")
    assert trainer().fit(checkpoint=Checkpoint(tmp_path / "c.pt")).resumed == 0


def test_an_intact_checkpoint_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c.pt")
    checkpoint.save({"history": {}})
    with pytest.raises(CheckpointMismatchError, match="KeyError"):
        trainer().fit(checkpoint=checkpoint)


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Checkpoint, dict[str, Any]]:
    """A checkpoint of a later epoch, and its state."""
    monkeypatch.setattr("ctrbench.train.loop.PROGRESS_SECONDS", 0.0)
    checkpoint = Checkpoint(tmp_path / "c.pt")
    with pytest.raises(Killed):
        trainer("star", patience=9).fit(checkpoint=checkpoint, progress=kill_at(30), checkpoint_seconds=0.0)  # type: ignore[arg-type]
    state = checkpoint.load()
    assert state is not None
    assert state["history"]["epoch"] > 0
    return checkpoint, state


WRONG: dict[str, Callable[[dict[str, Any]], object]] = {
    "moments of another shape": lambda state: state["optimizer"]["dense"]["means"].__setitem__(
        0, torch.zeros(1)
    ),
    "one moment too few": lambda state: state["optimizer"]["dense"]["squares"].pop(),
    "moments of another type": lambda state: state["optimizer"]["dense"].update(
        means=[mean.double() for mean in state["optimizer"]["dense"]["means"]]
    ),
    "a moment that is NaN": lambda state: state["optimizer"]["dense"]["means"][0].fill_(torch.nan),
    "table rows that are infinite": lambda state: _any_table(state)["packed"].fill_(torch.inf),
    "no optimizer": lambda state: state.pop("optimizer"),
    "no moments": lambda state: state["optimizer"]["dense"].pop("means"),
    "an unknown key": lambda state: state["optimizer"].update(lr=1.0),
    "no table": lambda state: state["optimizer"]["tables"].popitem(),
    "a count that is a float": lambda state: state["optimizer"].update(steps=3.0),
    "a negative count": lambda state: state["optimizer"].update(steps=-1),
    "too few steps": lambda state: state["optimizer"].update(steps=0),
    "a fraction of a step": lambda state: state["optimizer"]["dense"]["counts"][0].fill_(0.5),
    "a row that is ahead": lambda state: _any_table(state)["last"].fill_(10_000),
    "weights of another type": lambda state: state["model"].update(
        {name: value.double() for name, value in state["model"].items()}
    ),
    "an epoch that is a text": lambda state: state["history"].update(epoch="1"),
    "a best evaluation of none": lambda state: state["history"].update(evaluations=[]),
    "a loss that is NaN": lambda state: state["history"].update(loss_sum=float("nan")),
    "a negative batch": lambda state: state["history"].update(batch=-1),
    "a random state of another length": lambda state: state.update(rng=torch.zeros(3, dtype=torch.uint8)),
    "a history in a tensor": lambda state: state.update(history=torch.zeros(3)),
    "tables in a tensor": lambda state: state["optimizer"].update(tables=torch.zeros(3)),
    "best weights in a tensor": lambda state: state.update(best=torch.zeros(3)),
    "no notes of the best weights": lambda state: state["best"].pop("notes"),
    "best weights of another shape": lambda state: state["best"].update(model={}),
}


def _any_table(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    table: dict[str, torch.Tensor] = next(iter(state["optimizer"]["tables"].values()))
    return table


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_an_intact_checkpoint_of_an_impossible_state_is_refused(
    saved: tuple[Checkpoint, dict[str, Any]], change: Callable[[dict[str, Any]], object]
) -> None:
    checkpoint, state = saved
    change(state)
    checkpoint.save(state)
    with pytest.raises(CheckpointMismatchError):
        trainer("star", patience=9).fit(checkpoint=checkpoint)
