from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ctrbench.data.card import DatasetCard
from ctrbench.data.manifest import write_checksummed
from ctrbench.data.prepare import prepare
from ctrbench.data.prepared import Prepared, open_prepared
from ctrbench.errors import DataError, SettingError


@pytest.fixture
def prepared(card: DatasetCard, home: Path) -> Prepared:
    return prepare(card, home=home)


def test_an_unknown_field_is_refused_with_the_nearest_one(prepared: Prepared) -> None:
    with pytest.raises(SettingError, match=r"no such field: devices.*did you mean 'device'"):
        prepared.manifest.field("devices")


def test_a_manifest_with_a_newer_schema_is_refused(prepared: Prepared, home: Path) -> None:
    path = prepared.root / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99, "novelty": 1}))
    with pytest.raises(DataError, match=r"unsupported schema version 99 .*expected 3.*update ctrbench"):
        open_prepared("shop", home)


def test_a_truncated_manifest_is_refused(prepared: Prepared, home: Path) -> None:
    path = prepared.root / "manifest.json"
    path.write_text(path.read_text()[:200])
    with pytest.raises(DataError, match=r"damaged manifest: .*prepare shop --force"):
        open_prepared("shop", home)


def edit(content: dict[str, Any], path: str, value: object) -> None:
    """Set a value in nested dictionaries and lists."""
    *parents, last = path.split(".")
    for key in parents:
        content = content[int(key)] if isinstance(content, list) else content[key]
    content[last] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("splits.train.positives", 1),
        ("splits.train.rows", 2),
        ("fields.0.size", 9),
        ("content_digest", "0" * 64),
        ("sha256", "0" * 64),
        ("name", "other"),
        ("card.label.column", "clicked"),
        ("splits.test.shards.0.sha256", "0" * 64),
    ],
)
def test_a_changed_manifest_is_refused(prepared: Prepared, home: Path, path: str, value: object) -> None:
    file = prepared.root / "manifest.json"
    content = json.loads(file.read_text())
    edit(content, path, value)
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"damaged manifest: .*prepare shop --force"):
        open_prepared("shop", home)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff",
        b"[" * 100_000,
        b"9" * 10_000,
        b'{"schema_version": "x"}',
        b'{"schema_version": Infinity}',
        b'{"schema_version": NaN}',
        b"[]",
        b"null",
        b"",
    ],
)
def test_a_file_that_is_no_manifest_is_refused(prepared: Prepared, home: Path, content: bytes) -> None:
    (prepared.root / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match=r"(damaged manifest|schema version).*prepare shop --force"):
        open_prepared("shop", home)


def test_a_split_without_shards_is_refused(prepared: Prepared, home: Path) -> None:
    content = prepared.manifest.model_dump(mode="json")
    content["splits"]["test"]["shards"] = []
    write_checksummed(prepared.root / "manifest.json", content)
    with pytest.raises(DataError, match="damaged manifest"):
        open_prepared("shop", home)
