from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ctrbench.data.card import DatasetCard
from ctrbench.data.home import home_folder, latest_prepared, prepared_names
from ctrbench.data.prepare import prepare
from ctrbench.data.prepared import Prepared
from ctrbench.errors import DataError


@pytest.fixture
def prepared(card: DatasetCard, home: Path) -> Prepared:
    return prepare(card, home=home)


def test_a_home_without_datasets_has_no_latest_one(home: Path) -> None:
    assert prepared_names(home) == []
    with pytest.raises(DataError, match=r"no dataset is prepared.*ctrbench prepare movielens-1m"):
        latest_prepared(home)


def test_the_latest_dataset_is_the_one_prepared_last(
    prepared: Prepared, card: DatasetCard, home: Path
) -> None:
    other = prepare(card.model_copy(update={"name": "alike"}), home=home)
    os.utime(prepared.root / "manifest.json", ns=(0, 0))
    assert prepared_names(home) == ["alike", "shop"]
    assert latest_prepared(home) == other.manifest.name == "alike"


def test_the_home_folder_is_set_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CTRBENCH_HOME", str(tmp_path))
    assert home_folder() == tmp_path
    monkeypatch.delenv("CTRBENCH_HOME")
    assert home_folder().name == "ctrbench"


def test_unfinished_datasets_are_not_listed(prepared: Prepared, home: Path) -> None:
    shutil.copytree(str(prepared.folder), home / "datasets" / ".other.machine.1.part")
    assert prepared_names(home) == ["shop"]
