"""Commands about data: prepare, show, card and synth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import polars as pl
import pytest

Call = Callable[..., CompletedProcess[str]]


def test_prepare_shows_splits_domains_and_location(unprepared: Path, call: Call) -> None:
    done = call("prepare", "tiny.toml")
    assert done.returncode == 0
    assert "1,200" in done.stdout
    assert "domains by shop, age" in done.stdout
    assert "description: Clicks in three shops." in done.stdout
    assert "homepage: https://example.org/tiny" in done.stdout
    assert f"location: {unprepared / 'home' / 'datasets' / 'tiny'}" in done.stdout


def test_domains_may_be_any_features(unprepared: Path, call: Call) -> None:
    done = call("prepare", "tiny.toml", "--domains", "age,user")
    assert done.returncode == 0
    assert "domains by age, user" in done.stdout


def test_show_prints_and_plots_domains(prepared: Path, call: Call) -> None:
    done = call("show", "tiny", "--top", "2")
    assert done.returncode == 0
    assert "s1 · " in done.stdout
    assert "… and 4 more (show more with --top N)" in done.stdout
    assert (prepared / "report" / "domains-tiny-default.svg").is_file()


def dataset_folders(folder: Path) -> list[Path]:
    """Prepared datasets and remains of unfinished ones, which have a leading dot; files are locks."""
    return [path for path in (folder / "home" / "datasets").glob("*") if path.is_dir()]


@pytest.mark.parametrize(
    ("export", "message"),
    [
        ("full", "the export folder must be empty or new: {}"),
        ("tiny.csv", "--export must be a folder to which files can be written: {} is not a folder"),
    ],
)
def test_the_export_folder_is_checked_before_preparing(
    unprepared: Path, call: Call, export: str, message: str
) -> None:
    (unprepared / "full").mkdir()
    (unprepared / "full" / "file.txt").touch()
    done = call("prepare", "tiny.toml", "--export", export)
    assert done.returncode == 2
    assert f"error: {message.format(unprepared / export)}\n" in done.stderr
    assert dataset_folders(unprepared) == []


BAD_CARDS = {
    "key": ('color = "red"', "tiny.csv", "unknown key: color"),
    "column": ("", "no_price.csv", "price"),
    "label": ("", "label.csv", "0"),
    "split": ("split = { by = 'time', parts = [4000, 1, 1] }", "tiny.csv", "empty"),
}


@pytest.mark.parametrize(("extra", "data", "message"), BAD_CARDS.values(), ids=BAD_CARDS)
def test_a_bad_card_is_one_clear_error(
    unprepared: Path, call: Call, extra: str, data: str, message: str
) -> None:
    frame = pl.read_csv(unprepared / "tiny.csv")
    frame.drop("price").write_csv(unprepared / "no_price.csv")
    frame.with_columns(pl.col("click") * 2).write_csv(unprepared / "label.csv")
    text = (unprepared / "tiny.toml").read_text(encoding="utf-8").replace("tiny.csv", data)
    (unprepared / "bad.toml").write_text(f"{extra}\n{text}", encoding="utf-8")
    done = call("prepare", "bad.toml")
    assert done.returncode == 2
    assert message in done.stderr
    assert dataset_folders(unprepared) == []


BAD = {
    "unknown name": (("prepare", "movielens-1n"), "movielens-1m"),
    "no card": (("prepare", "missing.toml"), "no such card"),
    "source to bring": (("prepare", "iaac"), "Tianchi"),
    "not prepared": (("show", "tinny"), "no such prepared dataset: tinny"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_clear_error(
    folder: Path, call: Call, arguments: tuple[str, ...], message: str
) -> None:
    done = call(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_source_that_is_no_archive_is_one_clear_error(folder: Path, call: Call) -> None:
    (folder / "round2_train.zip").write_bytes(b"this is no archive")
    done = call("prepare", "iaac", "--source", "round2_train.zip")
    assert done.returncode == 2
    assert "round2_train.zip" in done.stderr


def test_a_card_is_drafted_and_prepares(unprepared: Path, call: Call) -> None:
    done = call("card", "tiny.csv", "--out", "draft.toml")
    assert done.returncode == 0
    assert "ctrbench prepare draft.toml" in done.stdout
    assert call("prepare", "draft.toml").returncode == 0


def test_a_card_is_printed_without_out(unprepared: Path, call: Call) -> None:
    assert 'name = "tiny"' in call("card", "tiny.csv").stdout


def test_a_card_is_never_overwritten(unprepared: Path, call: Call) -> None:
    before = (unprepared / "tiny.toml").read_text(encoding="utf-8")
    done = call("card", "tiny.csv", "--out", "tiny.toml")
    assert done.returncode == 2
    assert "must not overwrite a file: tiny.toml" in done.stderr
    assert (unprepared / "tiny.toml").read_text(encoding="utf-8") == before


def test_the_twin_of_iaac_is_generated_and_prepares(folder: Path, call: Call) -> None:
    done = call("synth", "iaac", "--rows", "5000", "--out", "raw")
    assert done.returncode == 0
    assert "ctrbench prepare iaac --source raw" in done.stdout
    assert call("prepare", "iaac", "--source", "raw").returncode == 0
