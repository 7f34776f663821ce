"""What several tests share: the command line, a tiny dataset in files, and seeded data with every kind of field."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Thread

import numpy as np
import polars as pl
import pytest
import torch

from ctrbench.cli.app import main
from ctrbench.data.batches import SplitData
from ctrbench.data.card import DatasetCard, read_card
from ctrbench.nn.model import CTRModel
from ctrbench.nn.plan import FieldShape, Schema
from ctrbench.plugins.registry import select

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
    items.sort(key=lambda item: item.path.name != "test_check.py")


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
        return CTRModel(rewriter.apply(base.plan()), schema, seed=seed)  # type: ignore[union-attr]

    return build


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    """A server on this machine that speaks S3's protocol."""
    pytest.importorskip("s3fs", reason="needs the extra cloud")
    pytest.importorskip("upath", reason="needs the extra cloud")
    moto = pytest.importorskip("moto.server", reason="needs moto[s3] and flask-cors")
    from werkzeug.serving import make_server

    # One request after another: a bucket's promises hold, whatever the server does in between.
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
        "AWS_ACCESS_KEY_ID": "made-up",
        "AWS_SECRET_ACCESS_KEY": "made-up",
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
    GCSFileSystem(project="made-up").mkdir(name)
    return f"gs://{name}"


@pytest.fixture(params=["s3_bucket", "gs_bucket"])
def bucket(request: pytest.FixtureRequest) -> str:
    """The URL of a new bucket, of either cloud."""
    url: str = request.getfixturevalue(request.param)
    return url
