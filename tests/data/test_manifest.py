from __future__ import annotations

import json
from pathlib import Path

import pytest

from ctrbench.data.card import DatasetCard
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
    path = prepared.folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99, "novelty": 1}))
    with pytest.raises(DataError, match=r"unsupported schema version 99 .*expected 1.*update ctrbench"):
        open_prepared("shop", home)


def test_a_truncated_manifest_is_refused(prepared: Prepared, home: Path) -> None:
    path = prepared.folder / "manifest.json"
    path.write_text(path.read_text()[:200])
    with pytest.raises(DataError, match=r"damaged manifest: .*prepare shop --force"):
        open_prepared("shop", home)
