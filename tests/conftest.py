"""What several tests share: the command line, a tiny dataset in files, and seeded data with every kind of field."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from ctrbench.cli.app import main
from ctrbench.data.batches import SplitData
from ctrbench.data.card import DatasetCard, read_card
from ctrbench.data.prepare import prepare
from ctrbench.eval.stored import BinMetrics, DomainMetrics
from ctrbench.nn.model import CTRModel
from ctrbench.nn.schema import FieldShape, Schema
from ctrbench.plugins.registry import select
from ctrbench.runs.engines.local_backend import LocalBackend, record_death
from ctrbench.runs.engines.protocol import ExecuteShared, Watcher
from ctrbench.runs.execute import execute
from ctrbench.runs.grid import Run
from ctrbench.runs.record import (
    Choice,
    Code,
    Evaluation,
    Measured,
    Parameters,
    Result,
    RunKey,
    RunRecord,
)
from ctrbench.runs.store import RunStore

CITY_ROWS = (150, 80, 40, 20, 9, 1)
AGES = 3
USERS, TAGS = 40, 10
TINY = """
name = "tiny"
title = "A tiny dataset"
path = "tiny.csv"
timestamp = "time"
representative = "shop"
label = {{ column = "click" }}
domain_sets = {{ {domain_sets} }}
fields = [{fields}]
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest file: it goes to one process, and the others fill up beside it."""
    items.sort(key=lambda item: item.path.name != "test_every_method.py")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """At these sizes more threads only wait for one another."""
    torch.set_num_threads(1)


@pytest.fixture
def ctrbench(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the command line as a shell would, and return its exit code."""

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["ctrbench", *arguments])
        try:
            main()
        except SystemExit as leave:
            return leave.code if isinstance(leave.code, int) else 0 if leave.code is None else 1
        return 0

    return run


@contextmanager
def _train_here() -> Iterator[None]:
    def run_parallel(
        self: LocalBackend, runs: Iterable[Run], store: RunStore, watcher: Watcher
    ) -> list[RunRecord]:
        records = []
        for run in runs:
            watcher.started(run)
            records.append(_execute_here(run, watcher, store, self.checkpoint_seconds))
            watcher.finished(run, records[-1])
        return records

    @contextmanager
    def open_shared(self: LocalBackend, store: RunStore, workers: int) -> Iterator[ExecuteShared]:
        yield partial(_execute_here, store=store, checkpoint_seconds=self.checkpoint_seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalBackend, "run_parallel", run_parallel)
        patch.setattr(LocalBackend, "open_shared", open_shared)
        yield


def _execute_here(run: Run, watcher: Watcher, store: RunStore, checkpoint_seconds: float) -> RunRecord:
    """Execute a run; an exit from within is recorded as the death of its process, as the backend does."""
    try:
        return execute(
            run, store, progress=partial(watcher.ticked, run), checkpoint_seconds=checkpoint_seconds
        )
    except SystemExit as leave:
        return record_death(run, store, leave.code if isinstance(leave.code, int) else 1)


@pytest.fixture(scope="session")
def train_here() -> Callable[[], AbstractContextManager[None]]:
    """A context in which the local backend executes runs in this process, which saves the start of another one."""
    return _train_here


@pytest.fixture
def trained_here() -> Iterator[None]:
    """Train the runs of a test in this process."""
    with _train_here():
        yield


@pytest.fixture(scope="session")
def write_tiny() -> Callable[..., DatasetCard]:
    """Write a table and its card into a folder as tiny.csv and tiny.toml.

    Columns other than `time` and `click` are fields: of one id, unless more is said of one by its name.
    """

    def write(
        folder: Path,
        columns: Mapping[str, object] | pl.DataFrame,
        domain_sets: str = 'default = ["shop"]',
        **more: str,
    ) -> DatasetCard:
        frame = pl.DataFrame(columns)
        frame.write_csv(folder / "tiny.csv")
        said = {name: f'name = "{name}"' for name in frame.columns if name not in ("time", "click")}
        said |= {name: f"{said[name]}, {text}" for name, text in more.items()}
        fields = ", ".join(f"{{ {text} }}" for text in said.values())
        card = folder / "tiny.toml"
        card.write_text(TINY.format(domain_sets=domain_sets, fields=fields), encoding="utf-8")
        return read_card(card)

    return write


@pytest.fixture
def schema() -> Schema:
    """One-id fields, a bag and a number; domains are city x age, the indicator is the city."""
    return Schema(
        fields=(
            FieldShape(name="city", kind="categorical", role="context", size=len(CITY_ROWS) + 1),
            FieldShape(name="price", kind="numeric", role="item", size=0),
            FieldShape(name="tags", kind="multi_valued", role="item", size=TAGS + 1),
            FieldShape(name="age", kind="categorical", role="user", size=AGES + 1),
            FieldShape(name="user", kind="categorical", role="user", size=USERS + 1),
        ),
        embedding_size=4,
        domain_features=("city", "age"),
        num_domains=len(CITY_ROWS) * AGES,
        indicator_rows=(0, *CITY_ROWS),
        base_rate=0.3,
    )


def _made_up(city: np.ndarray, generator: np.random.Generator) -> SplitData:
    rows = len(city)
    age, user = generator.integers(1, AGES + 1, rows), generator.integers(1, USERS + 1, rows)
    offsets = np.concatenate([[0], np.cumsum(generator.integers(0, 4, rows))])
    domain = np.where(city > 0, (city - 1) * AGES + age, 0)
    return SplitData(
        ids_BF=torch.from_numpy(np.stack([city, age, user], axis=1).astype(np.int32)),
        bags=(
            (
                torch.from_numpy(generator.integers(1, TAGS + 1, offsets[-1]).astype(np.int32)),
                torch.from_numpy(offsets),
            ),
        ),
        numeric_BK=torch.from_numpy(generator.standard_normal((rows, 1)).astype(np.float32)),
        domain_B=torch.from_numpy(domain.astype(np.int32)),
        indicator_B=torch.from_numpy(city.astype(np.int32)),
        label_B=torch.from_numpy((generator.random(rows) < 0.3).astype(np.float32)),
        row=np.arange(rows),
        user=user.astype(np.int32),
        probability=None,
    )


@pytest.fixture
def data() -> SplitData:
    """300 training rows, shuffled; cities from 150 rows down to a single one."""
    generator = np.random.default_rng(0)
    return _made_up(generator.permutation(np.repeat(np.arange(1, len(CITY_ROWS) + 1), CITY_ROWS)), generator)


@pytest.fixture
def unseen_data() -> SplitData:
    """30 rows over all cities and the unseen one, 0."""
    return _made_up(np.arange(30) % (len(CITY_ROWS) + 1), np.random.default_rng(1))


@pytest.fixture
def build_model(schema: Schema) -> Callable[..., CTRModel]:
    """Build a method on a backbone, by selectors."""

    def build(method: str = "plain", backbone: str = "dnn[hidden=8-4]", seed: int = 1) -> CTRModel:
        rewriter, base = select("methods", method).value, select("backbones", backbone).value
        return CTRModel(rewriter.apply(base.plan()), schema, seed=seed)

    return build


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    """A server on this machine that speaks S3's protocol."""
    pytest.importorskip("s3fs", reason="needs the extra cloud")
    pytest.importorskip("upath", reason="needs the extra cloud")
    moto = pytest.importorskip("moto.server", reason="needs moto[s3] and flask-cors")
    from werkzeug.serving import make_server

    # One request after another: a bucket's promises hold, regardless of what the server does in between.
    app = moto.DomainDispatcherApplication(moto.create_backend_app)
    server = make_server("127.0.0.1", 0, app, threaded=False)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def gs_address() -> Iterator[str]:
    """A server on this machine that speaks Google's protocol, but for conditions on a put."""
    pytest.importorskip("gcsfs", reason="needs the extra cloud")
    pytest.importorskip("upath", reason="needs the extra cloud")
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="needs gcp-storage-emulator")
    server = emulator.create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    yield f"http://127.0.0.1:{server._api._httpd.server_port}"
    server.stop()


@pytest.fixture
def s3_bucket(s3_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a new bucket on the one server."""
    from s3fs import S3FileSystem

    for name, value in {
        "AWS_ENDPOINT_URL": s3_address,
        "AWS_ACCESS_KEY_ID": "synthetic",
        "AWS_SECRET_ACCESS_KEY": "synthetic",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "CTRBENCH_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{secrets.token_hex(6)}"
    S3FileSystem().mkdir(name)
    return f"s3://{name}"


@pytest.fixture
def gs_bucket(gs_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a new bucket on the other server."""
    from gcsfs import GCSFileSystem

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gs_address)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CTRBENCH_CACHE", str(tmp_path / "cache"))
    name = f"bucket-{secrets.token_hex(6)}"
    GCSFileSystem(project="synthetic").mkdir(name)
    return f"gs://{name}"


@pytest.fixture(params=["s3_bucket", "gs_bucket"])
def bucket(request: pytest.FixtureRequest) -> str:
    """The URL of a new bucket, of either cloud."""
    url: str = request.getfixturevalue(request.param)
    return url


STOPPING = '''
"""AdaSparse that waits after 30 steps while a file is there, so that what kills it comes in its midst."""

import time
from pathlib import Path

from ctrbench.extend import Learner
from ctrbench.methods.adasparse import AdaSparse


class Waiting(Learner):
    refuses_workers = "it waits for a file"

    def step(self, model, optimizer, batch):
        while optimizer.steps == 30 and Path({file!r}).exists():
            time.sleep(0.01)
        return super().step(model, optimizer, batch)


class Stopping(AdaSparse):
    def learner(self):
        return Waiting()
'''


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, write_tiny: Callable[..., DatasetCard]) -> Path:
    """A folder with a small dataset, prepared in its folder `home`, and the file of a method, `stopping.py`."""
    folder = tmp_path_factory.mktemp("engine")
    generator = np.random.default_rng(0)
    rows = 36_000
    columns = {
        "time": np.arange(rows),
        "shop": generator.integers(0, 5, rows),
        "item": generator.integers(0, 300, rows),
        "click": generator.integers(0, 2, rows),
    }
    prepare(write_tiny(folder, columns), home=folder / "home")
    (folder / "stopping.py").write_text(STOPPING.format(file=str(folder / "stop")), encoding="utf-8")
    return folder


MakeRecord = Callable[..., RunRecord]
DOMAINS = DomainMetrics(
    domain=(0, 1, 2, 3),
    rows_train=(0, 50, 30, 20),
    rows=(5, 40, 30, 10),
    positives=(1, 20, 10, 0),
    metrics={
        "auc": (None, 0.8, 0.6, None),
        "logloss": (0.5, 0.5, 0.5, 0.5),
        "pcoc": (1.0, 1.0, 1.0, None),
    },
)


def make_bins(auc: float, num: int = 5) -> tuple[BinMetrics, ...]:
    return tuple(
        BinMetrics(
            bin=place, domains=place, rows_train=20, rows=10, positives=4,
            metrics={"auc": auc + place / 100, "gauc": auc, "gauc_coverage": 1.0},
        )
        for place in range(1, num + 1)
    )  # fmt: skip


@pytest.fixture
def record() -> MakeRecord:
    """Return a maker of records: two metrics by hand, the rest filled in."""

    def make(
        method: str = "plain",
        seed: int = 1,
        auc: float | None = 0.7,
        *,
        backbone: str = "dnn",
        status: str = "finished",
        error: str | None = None,
        dataset: str = "toy",
        domain_set: str = "default",
        features: tuple[str, ...] = ("a", "b"),
        settings: dict[str, Any] | None = None,
        source: str | None = None,
        train: dict[str, Any] | None = None,
        data: str = "d" * 64,
        indicator: str = "a",
        **result: object,
    ) -> RunRecord:
        key = RunKey(
            dataset=dataset, data_digest=data, domain_set=domain_set, domain_features=features,
            indicator=indicator,
            backbone=Choice(name=backbone, settings={"hidden": [8, 4]}),
            method=Choice(name=method, settings=settings or {}, source=source),
            train=train or {"batch_size": 256, "lr": 0.001}, seed=seed,
        )  # fmt: skip
        test = {
            "logloss": 0.5, "auc": auc, "gauc": None if auc is None else auc - 0.1, "gauc_coverage": 0.875,
            "pcoc": 1.25, "pcoc_error": 0.25,
        }  # fmt: skip
        filled = Result(**{
            "parameters": Parameters(embedding=2_500_000, dense=999, per_domain=0),
            "best_evaluation": 1, "steps": 1, "rows_seen": 1, "dev": test, "test": test, "domains": DOMAINS,
            "bins": make_bins(auc or 0.5), "predictions_sha256": key.digest,
            "history": (Evaluation(epoch=1, step=1, loss=0.5, dev=result.get("dev", test)),), **result,
        })  # fmt: skip
        return RunRecord(
            run=key.run, digest=key.digest, key=key, status=status, error=error,
            code=Code(version="0.1.0", method_sha256="m", backbone_sha256="b"),
            measured=Measured(started="2026-01-01T00:00:00Z", seconds={"train": 12.0}, machine={"cores": 2}),
            result=filled if status == "finished" else None,
        )  # fmt: skip

    return make


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """A store of its own, next to the dataset."""
    return RunStore(results=tmp_path / "results", home=tmp_path / "home")
