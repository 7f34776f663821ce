"""The findings of `ctrbench check`, on a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ctrbench.cli.console import PlainConsole
from ctrbench.cli.show_contract import show_findings, show_matrix
from ctrbench.contract.check import SKIPPED, SUPPORTS, Finding

BACKBONES = tuple(f"backbone{i}[structure=stacked]" for i in range(12))


def failure(backbone: str, sentence: str) -> Finding:
    return Finding(backbone=backbone, rule="logits", ok=False, sentence=sentence, statement="One per row.")


def success(backbone: str, rule: str = "logits") -> Finding:
    return Finding(backbone=backbone, rule=rule, ok=True, sentence="")


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctrbench.cli.console.out", PlainConsole(width=80))


def shown(capfd: pytest.CaptureFixture[str], findings: Sequence[Finding]) -> str:
    show_findings(findings)
    return capfd.readouterr().out


def test_a_failure_on_all_backbones_is_printed_once(capfd: pytest.CaptureFixture[str]) -> None:
    text = shown(capfd, [failure(name, f"differs by -{i}.5e-0{i}") for i, name in enumerate(BACKBONES)])
    assert text.count("differs by") == 1
    assert "on all 12 backbones (numbers of backbone0[structure=stacked]): differs by" in " ".join(
        text.split()
    )
    assert "0 passed, 12 failed\n" in text


def test_different_failures_name_their_backbones(capfd: pytest.CaptureFixture[str]) -> None:
    text = shown(capfd, [failure("dnn", "too high"), failure("pnn", "too low"), success("deepfm")])
    assert text.count("logits: One per row.\n") == 1
    assert "  on dnn: too high\n  on pnn: too low\n1 passed, 2 failed\n" in text
    assert [word for word in text.split() if word in ("1", "2", "dnn,", "pnn")][:4] == [
        "1",
        "2",
        "dnn,",
        "pnn",
    ]


def test_skipped_backbones_share_one_reason(capfd: pytest.CaptureFixture[str]) -> None:
    skipped = [
        Finding(backbone=name, rule=SUPPORTS, ok=True, sentence=f"{SKIPPED}runs on dnn only")
        for name in ("pnn", "deepfm")
    ]
    text = shown(capfd, [*skipped, success("dnn")])
    assert "pnn, deepfm: skipped: runs on dnn only\n1 passed, 0 failed, 2 backbones skipped\n" in text


def test_findings_fit_80_columns(capfd: pytest.CaptureFixture[str]) -> None:
    long = "a sentence of many words that names the value and the remedy " * 3
    findings = [failure(name, f"{long}{'ab'[i % 2]}") for i, name in enumerate(BACKBONES)]
    show_findings(findings)
    show_matrix({"adasparse[form=fusion]": findings, "my_folder/my_method.py[hidden=128-64]": findings})
    assert max(map(len, capfd.readouterr().out.splitlines())) <= 80


def test_a_matrix_names_method_and_rule_of_each_failure_once(capfd: pytest.CaptureFixture[str]) -> None:
    show_matrix({"mine.py": [failure("dnn", "no"), failure("pnn", "no")], "plain": [success("dnn")]})
    text = capfd.readouterr().out
    assert "mine.py: logits: One per row.\n  on all 2 backbones: no\n1 passed, 2 failed\n" in text
