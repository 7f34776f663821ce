"""Names that the shell completes, without waiting for torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ctrbench.cli import completion

Call = Callable[..., subprocess.CompletedProcess[str]]


def names(pairs: list[tuple[str, str]]) -> list[str]:
    return [name for name, _ in pairs]


def test_datasets_of_cards_are_completed() -> None:
    assert "movielens-1m" in names(completion.cards("movielens-1"))


def test_prepared_datasets_are_completed(prepared: Path) -> None:
    assert names(completion.prepared("")) == ["tiny"]


def test_studies_are_completed() -> None:
    assert "adasparse/table1" in names(completion.studies("adasparse/"))


def test_the_last_method_of_a_list_is_completed() -> None:
    assert names(completion.methods("plain,adasp")) == ["plain,adasparse", "plain,adasparse-study"]
    assert names(completion.methods("star[norm=bn,aux=none],hin")) == ["star[norm=bn,aux=none],hinet"]


def test_methods_come_with_their_summary() -> None:
    ((name, summary),) = completion.methods("adaspars")[:1]
    assert name == "adasparse"
    assert summary


def test_backbones_are_completed() -> None:
    assert names(completion.backbones("dcn")) == ["dcnv2"]


def test_a_fixed_list_is_completed() -> None:
    assert names(completion.choices("cpu", "cuda")("c")) == ["cpu", "cuda"]


def test_a_home_that_cannot_be_read_yields_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTRBENCH_HOME", "nosuch://bucket")
    assert completion.prepared("") == []


def test_completion_does_not_import_torch(prepared: Path) -> None:
    calls = "; ".join(f"c.{name}('')" for name in ("cards", "prepared", "methods", "backbones", "studies"))
    code = f"import sys; from ctrbench.cli import completion as c; {calls}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("run --methods plain,adaspars", "plain,adasparse"),
        ("run --dataset t", "tiny"),
        ("show t", "tiny"),
        ("prepare production", "production"),
        ("study star/table2", "star/table2"),
        ("explain adaspars", "adasparse"),
        ("bench --backbone dcnv", "dcnv2"),
        ("list meth", "methods"),
    ],
)
def test_bash_completes_arguments_of_commands(
    prepared: Path, call: Call, monkeypatch: pytest.MonkeyPatch, words: str, expected: str
) -> None:
    line = f"ctrbench {words}"
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    monkeypatch.setenv("_CTRBENCH_COMPLETE", "complete_bash")
    assert expected in call().stdout.split()
