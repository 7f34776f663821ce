from __future__ import annotations

import pytest

from ctrbench.contract.check import Finding
from ctrbench.contract.matrix import all_pass, check_methods
from ctrbench.errors import SettingError


def finding(*, ok: bool) -> Finding:
    return Finding(backbone="dnn", rule="trains", ok=ok, sentence="" if ok else "it does not")


@pytest.fixture(autouse=True)
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Methods that were checked; every check passes at once."""
    methods: list[str] = []

    def check(method: str, *, backbones: list[str] | None) -> tuple[Finding, ...]:
        methods.append(method)
        return (finding(ok=True),)

    monkeypatch.setattr("ctrbench.contract.matrix.check", check)
    return methods


def test_methods_are_checked_in_order_and_announced() -> None:
    announced: list[tuple[str, int, int]] = []
    findings = check_methods(["star", "plain"], progress=lambda *case: announced.append(case))
    assert list(findings) == ["star", "plain"]
    assert announced == [("star", 1, 2), ("plain", 2, 2)]


def test_an_unknown_method_is_refused_before_the_first_check(checked: list[str]) -> None:
    with pytest.raises(SettingError, match="did you mean 'star'"):
        check_methods(["plain", "starr"])
    assert checked == []


def test_one_failure_of_one_method_is_a_failure() -> None:
    passing, failing = finding(ok=True), finding(ok=False)
    assert all_pass({"plain": [passing], "star": [passing]})
    assert not all_pass({"plain": [passing], "star": [passing, failing]})
