from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import distributed, nn

from ctrbench.data.batches import Batch, SplitData
from ctrbench.errors import PLUGIN_MODULE, CtrbenchError, SettingError
from ctrbench.nn import optim
from ctrbench.nn.exchange import Workers
from ctrbench.nn.kernels.adam import TensorRowAdam
from ctrbench.nn.model import CTRModel
from ctrbench.nn.optim import AdamConfig, Optimizer
from ctrbench.nn.schema import FieldShape, Schema
from ctrbench.nn.tables import RowTable
from ctrbench.plugins.registry import group_members, select
from ctrbench.train.checkpoint import Checkpoint
from ctrbench.train.config import TrainConfig
from ctrbench.train.distributed import (
    WorkerDied,
    WorkerFailed,
    check_replicas,
    check_start,
    check_supported,
    start_local,
    start_ray,
    unsupported,
)
from ctrbench.train.learner import Learner, StepOutput
from ctrbench.train.loop import Fit, Trainer
from ctrbench.train.stepper import Stepper

CITIES, AGES, USERS, TAGS = 6, 3, 60, 10


def make_rows(num_rows: int) -> SplitData:
    generator = np.random.default_rng(0)
    city = generator.choice(np.arange(1, CITIES + 1), num_rows, p=[0.5, 0.2, 0.15, 0.1, 0.03, 0.02])
    age, user = generator.integers(1, AGES + 1, num_rows), generator.integers(1, USERS + 1, num_rows)
    offsets = np.concatenate([[0], np.cumsum(generator.integers(0, 4, num_rows))])
    tags = generator.integers(1, TAGS + 1, offsets[-1]).astype(np.int32)
    label = generator.random(num_rows) < np.where(city + age > 4, 0.6, 0.2)
    return SplitData(
        ids_BF=torch.from_numpy(np.stack([city, age, user], axis=1).astype(np.int32)),
        bags=((torch.from_numpy(tags), torch.from_numpy(offsets)),),
        numeric_BK=torch.from_numpy(generator.standard_normal((num_rows, 1)).astype(np.float32)),
        domain_B=torch.from_numpy(((city - 1) * AGES + age).astype(np.int32)),
        indicator_B=torch.from_numpy(city.astype(np.int32)),
        label_B=torch.from_numpy(label.astype(np.float32)),
        row=np.arange(num_rows),
        user=user.astype(np.int32),
        probability=None,
    )


SCHEMA = Schema(
    fields=(
        FieldShape(name="city", kind="categorical", role="context", size=CITIES + 1),
        FieldShape(name="price", kind="numeric", role="item", size=0),
        FieldShape(name="tags", kind="multi_valued", role="item", size=TAGS + 1),
        FieldShape(name="age", kind="categorical", role="user", size=AGES + 1),
        FieldShape(name="user", kind="categorical", role="user", size=USERS + 1),
    ),
    embedding_size=4,
    domain_features=("city", "age"),
    num_domains=CITIES * AGES,
    indicator_rows=(0, 150, 60, 45, 30, 9, 6),
    base_rate=0.4,
)


USUAL = AdamConfig()
# After PN, a column that is constant within a domain has a gradient of rounding errors only, which Adam's usual ε turns
# into steps of the full rate. Results of one worker then differ as much once its rows are in another order.
CALM = AdamConfig(eps=1e-3)


@dataclass(frozen=True)
class Case:
    """A training; 300 rows in batches of 23 end with a single row, so that one worker has no row in that step."""

    method: str
    backbone: str = "dnn"
    steps: int = 4
    batch_size: int = 23
    adam: AdamConfig = USUAL
    by_tensors: bool = False
    """Whether table rows are updated by the tensor form, as on a GPU."""

    def __str__(self) -> str:
        return f"{self.method} {self.backbone} {self.adam.embedding_rule}"


@dataclass(frozen=True)
class Trained:
    """Result of training."""

    outputs: list[StepOutput]
    state: dict[str, torch.Tensor]


def batches(learner: Learner, case: Case, workers: Workers | None) -> Iterator[Batch]:
    data, cut = make_rows(300), None if workers is None else workers.cut
    for epoch in count():
        order = learner.order(data, batch_size=case.batch_size, generator=np.random.default_rng(epoch))
        yield from data.batches(order, cut=cut)


def build(case: Case) -> tuple[CTRModel, Learner]:
    method, backbone = select("methods", case.method).value, select("backbones", case.backbone).value
    small = backbone.model_copy(update={"hidden": (8, 4)})
    return CTRModel(method.apply(small.full_plan()), SCHEMA, seed=1), method.learner()


def train(workers: Workers | None, case: Case) -> Trained:
    torch.set_num_threads(1)
    model, learner = build(case)
    stepper = Stepper(model, learner, TrainConfig(), workers=workers, planned_steps=case.steps)
    with pytest.MonkeyPatch.context() as patch:
        if case.by_tensors:
            patch.setattr(optim, "row_adam", TensorRowAdam)
        stepper.optimizer = Optimizer(model, case.adam, workers)
    outputs = [stepper.step(batch) for batch in islice(batches(learner, case, workers), case.steps)]
    stepper.optimizer.flush()
    if workers is not None:
        check_replicas(stepper.optimizer, model, workers)
    return Trained(outputs, model.state_dict())


REFUSED = {
    "adaptdhm": "random ones",
    "maml": "its own steps",
    "mamdr": "its own steps",
    "pcgrad": "its own steps",
}
SIX = ("plain", "star", "apg", "adasparse", "ple", "epnet")
PRUNING = Case("adasparse[epsilon=0.999]", steps=1)
"""About half of the neurons are pruned from the start, and the share differs between the workers' rows."""
CASES = [
    *(Case(method, backbone, steps=20) for method in SIX for backbone in ("dnn", "dcnv2")),
    Case("plain", steps=20, adam=AdamConfig(embedding_rule="lazy_adam")),
    Case("star", steps=20, by_tensors=True),
    Case("plain[norm=bn]", steps=20),
    Case("plain[weight_decay=0.01,embedding_l2=1e-3]", steps=20),
    Case("mmoe[tower_norm=batch]", steps=20, batch_size=100, adam=CALM),
    Case("plain[norm=pn]", steps=20, batch_size=100, adam=CALM),
    Case("star", steps=20, batch_size=64, adam=CALM),
    Case("star[batching=mixed]", steps=20, batch_size=100, adam=CALM),
    Case("hamur", steps=20, batch_size=100, adam=CALM),
    Case("adasparse[gradient=soft,ratio_mode=l1,lambda_start=1]", steps=20),
    Case("adasparse[pruner_input=domain]", steps=20),
    PRUNING,
    Case("separate[batching=mixed]", steps=20),
    Case("ple[levels=2]"),
    *(Case(method) for method in group_members("methods")["all"] if method not in {*SIX, *REFUSED, "gbdt"}),
    *(Case("plain", backbone) for backbone in group_members("backbones")["all"]),
]


class OneTable(nn.Module):
    """A table with rows of three numbers, and a bias."""

    def __init__(self, num_rows: int) -> None:
        super().__init__()
        self.table = RowTable(torch.zeros(num_rows, 3), "embedding")
        self.bias = nn.Parameter(torch.zeros(1))


def sent(workers: Workers, *, num_rows: int, num_read: int) -> int:
    """Return the bytes that a worker sends in a step that reads `num_read` rows, different ones on each worker."""
    model = OneTable(num_rows)
    optimizer, total = Optimizer(model, AdamConfig(), workers), 0

    def counting(exchange: Callable[..., object], index: int) -> Callable[..., object]:
        def exchanged(*tensors: object, **options: object) -> object:
            nonlocal total
            given = tensors[index]
            assert isinstance(given, torch.Tensor)
            total += given.numel() * given.element_size()
            return exchange(*tensors, **options)

        return exchanged

    with pytest.MonkeyPatch.context() as patch:
        for name, index in (("all_reduce", 0), ("all_gather", 1)):
            patch.setattr(distributed, name, counting(getattr(distributed, name), index))
        optimizer.begin(1.0 / workers.size)
        rows_UW = optimizer.read(model.table, torch.arange(num_read) + workers.rank * num_read)
        torch.autograd.backward(((rows_UW + model.bias - 1.0) ** 2).sum())
        optimizer.step()
    return total


def drift_error(workers: Workers) -> str:
    """Return the error about models of which one worker's has changed."""
    model, _ = build(Case("plain"))
    with torch.no_grad():
        model.get_parameter("net.head.0.bias").add_(1e-7 * workers.rank)
    try:
        check_replicas(Optimizer(model, AdamConfig()), model, workers)
    except CtrbenchError as error:
        return str(error)
    return "no error"


def checkpoint_error(workers: Workers) -> str:
    """Return the error about workers that resume from different checkpoints."""
    with pytest.raises(SettingError) as raised:
        check_start(500 * workers.rank, workers)
    return str(raised.value)


class Killed(Exception):
    """Replaces a kill signal."""


def trainer(workers: Workers | None) -> Trainer:
    torch.set_num_threads(1)
    model, learner = build(Case("adasparse"))
    config = TrainConfig(embedding_size=4, batch_size=23, epochs=2, patience=9)
    return Trainer(
        model=model,
        learner=learner,
        train=make_rows(300),
        dev=make_rows(101),
        config=config,
        seed=3,
        workers=workers,
    )


def fit(workers: Workers | None) -> tuple[Fit, dict[str, torch.Tensor]]:
    whole = trainer(workers)
    return whole.fit(), whole.model.state_dict()


def fit_interrupted(workers: Workers, folder: Path) -> tuple[Fit, dict[str, torch.Tensor]]:
    """Fit, with all workers killed in the middle of the second epoch and then resumed."""
    killed = trainer(workers)
    step = killed.learner.step

    def stop(*given: object) -> StepOutput:
        if killed.optimizer.steps == 20:
            raise Killed
        return step(*given)  # type: ignore[arg-type]

    killed.learner.step = stop  # type: ignore[method-assign]
    with pytest.raises(Killed):
        killed.fit(checkpoint=Checkpoint(folder / "checkpoint.pt"), checkpoint_seconds=0.0)
    workers.from_first(0.0)
    resumed = trainer(workers)
    return resumed.fit(checkpoint=Checkpoint(folder / "checkpoint.pt")), resumed.model.state_dict()


@dataclass(frozen=True)
class Results:
    """Results of two workers, from the first of them."""

    trained: dict[Case, Trained]
    sent: dict[tuple[int, int], int]
    drift_error: str
    checkpoint_error: str
    fit: tuple[Fit, dict[str, torch.Tensor]]
    interrupted: tuple[Fit, dict[str, torch.Tensor]]
    agreed: float
    scores: list[float]


def work(workers: Workers, cases: list[Case], folder: Path) -> Results:
    return Results(
        trained={case: train(workers, case) for case in cases},
        sent={
            (rows, read): sent(workers, num_rows=rows, num_read=read)
            for rows, read in ((100, 10), (10_000, 10), (100, 20))
        },
        drift_error=drift_error(workers),
        checkpoint_error=checkpoint_error(workers),
        fit=fit(workers),
        interrupted=fit_interrupted(workers, folder),
        agreed=workers.from_first(workers.rank + 0.5),
        scores=workers.concatenate(torch.arange(7.0)[workers.slice(7)]).tolist(),
    )


def break_down(workers: Workers) -> None:
    if workers.rank == 1:
        raise RuntimeError("boom")
    workers.sum(torch.zeros(1))


def leave_first(workers: Workers) -> str:
    if workers.rank == 1:
        workers.sum(torch.zeros(1))
    return "gone"


def refuse(workers: Workers) -> None:
    raise SettingError("a rule", value="a value", remedy="a remedy")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Results of everything that needs two processes, since starting them takes seconds."""
    return start_local(work, 2, CASES, tmp_path_factory.mktemp("workers"))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_workers_give_the_results_of_one(results: Results, case: Case) -> None:
    one, two = train(None, case), results.trained[case]
    assert two.state.keys() == one.state.keys()
    for name, value in one.state.items():
        torch.testing.assert_close(two.state[name], value, rtol=1e-5, atol=1e-5, msg=name)
    losses = [[float(output.loss) for output in run.outputs] for run in (one, two)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_workers_report_the_rows_of_all(results: Results) -> None:
    rows = [output.rows for output in results.trained[CASES[0]].outputs]
    assert rows == [23] * 13 + [1] + [23] * 6


def test_the_share_of_pruned_neurons_is_that_of_all_rows(results: Results) -> None:
    alone, together = ((run.outputs[0].logs) for run in (train(None, PRUNING), results.trained[PRUNING]))
    assert 0.1 < float(alone["tower0.gate.pruned"]) < 0.9
    for name, share in alone.items():
        assert float(together[name]) == pytest.approx(float(share), abs=1e-6)


def test_sent_bytes_grow_with_the_rows_read_and_not_with_the_table(results: Results) -> None:
    assert results.sent[10_000, 10] == results.sent[100, 10]
    # Ten more rows per worker: twenty more of three floats in the sum, and ten more ids.
    assert results.sent[100, 20] - results.sent[100, 10] == 20 * 3 * 4 + 10 * 8


def test_models_that_differ_are_detected(results: Results) -> None:
    assert "1 of" in results.drift_error
    assert "net.head.0.bias" in results.drift_error


def test_workers_with_different_checkpoints_are_stopped(results: Results) -> None:
    assert "steps made: 0, 500" in results.checkpoint_error


def test_training_with_two_workers_gives_the_results_of_one(results: Results) -> None:
    (one, weights), (two, two_weights) = fit(None), results.fit
    assert two.history.rows == one.history.rows == 600
    for mine, theirs in zip(one.history.evaluations, two.history.evaluations, strict=True):
        assert theirs["loss"] == pytest.approx(mine["loss"], abs=1e-5)
        assert theirs["dev"] == pytest.approx(mine["dev"], abs=1e-5)
    torch.testing.assert_close(two_weights, weights, rtol=1e-5, atol=1e-5)


def test_workers_resume_from_a_checkpoint_bit_for_bit(results: Results) -> None:
    (whole, weights), (resumed, resumed_weights) = results.fit, results.interrupted
    assert resumed.resumed == 1
    assert resumed.history.evaluations == whole.history.evaluations
    assert all(torch.equal(resumed_weights[name], weight) for name, weight in weights.items())


def test_all_workers_adopt_the_decision_of_the_first(results: Results) -> None:
    assert results.agreed == 0.5


def test_scores_of_parts_are_joined_in_order(results: Results) -> None:
    assert results.scores == list(range(7))


@pytest.mark.parametrize("method", REFUSED)
def test_methods_that_need_the_whole_batch_are_refused_with_a_reason(method: str) -> None:
    with pytest.raises(SettingError, match=REFUSED[method]):
        check_supported(*build(Case(method)))


def test_moments_within_models_of_single_domains_are_refused() -> None:
    with pytest.raises(SettingError, match="norm=bn"):
        check_supported(*build(Case("separate[norm=bn]")))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_all_other_methods_are_supported(case: Case) -> None:
    assert unsupported(*build(case)) is None


def interrupt(_workers: Workers) -> None:
    """Raise what a plug-in must not."""
    exec(compile("raise KeyboardInterrupt", "mine.py", "exec"), {"__name__": f"{PLUGIN_MODULE}mine"})


def test_an_interrupt_that_a_plugin_raises_is_its_failure() -> None:
    with pytest.raises(WorkerFailed, match=r"^mine\.py, line 1, in <module>: KeyboardInterrupt$"):
        start_local(interrupt, 1)


def test_a_user_error_of_a_worker_reaches_the_caller() -> None:
    with pytest.raises(SettingError, match=r"a rule: a value\. a remedy"):
        start_local(refuse, 1)


def test_without_ray_train_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.train", None)
    with pytest.raises(SettingError, match=r"pip install .*ray\[train\]"):
        start_ray(refuse, 2)


def test_the_first_error_is_raised_and_not_its_consequences() -> None:
    with pytest.raises(WorkerFailed, match=r"^RuntimeError: boom$"):
        start_local(break_down, 2)


def test_the_result_of_a_first_worker_that_ends_early_is_returned() -> None:
    assert start_local(leave_first, 2) == "gone"


class FailingTrainer:
    """Replaces Ray Train and raises the given failures."""

    failures: ClassVar[list[Exception]] = []
    tries = 0

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def fit(self) -> None:
        from ray.train import WorkerGroupError

        FailingTrainer.tries += 1
        raise WorkerGroupError("of two", dict(enumerate(self.failures)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray", "ignore::FutureWarning:ray")
@pytest.mark.parametrize(
    ("failures", "raised", "tries"),
    [
        ([WorkerDied("node"), WorkerFailed("RuntimeError: boom")], WorkerFailed, 1),
        ([WorkerDied("node"), SettingError("a rule")], SettingError, 1),
        ([OSError("a line\nnode")], WorkerDied, 3),
        ([], WorkerDied, 3),
    ],
)
def test_deaths_on_a_cluster_are_retried_and_errors_are_not(
    monkeypatch: pytest.MonkeyPatch, failures: list[Exception], raised: type[Exception], tries: int
) -> None:
    pytest.importorskip("ray.train", reason="needs ray[train]", exc_type=ImportError)
    monkeypatch.setattr("ray.train.torch.TorchTrainer", FailingTrainer)
    monkeypatch.setattr(FailingTrainer, "failures", failures)
    monkeypatch.setattr(FailingTrainer, "tries", 0)
    with pytest.raises(raised, match=r"node|boom|a rule|of two"):
        start_ray(refuse, 2, retries=2)
    assert FailingTrainer.tries == tries
