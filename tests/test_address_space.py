from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import altair as alt
import pytest

from ctrbench.address_space import CHARTS, check_address_space
from ctrbench.errors import SettingError
from ctrbench.report.plots import render_chart

SetLimit = Callable[[int], None]


@pytest.fixture
def set_limit(monkeypatch: pytest.MonkeyPatch) -> SetLimit:
    """Replace the limit on address space."""

    def set_to(limit: int) -> None:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, resource.RLIM_INFINITY))

    return set_to


@pytest.mark.parametrize("limit", [resource.RLIM_INFINITY, 1_000, 2_000])
def test_no_limit_and_one_of_enough_bytes_pass(set_limit: SetLimit, limit: int) -> None:
    set_limit(limit)
    check_address_space(1_000, "a chart")


def test_a_smaller_limit_is_refused_with_the_way_out(set_limit: SetLimit) -> None:
    set_limit(3_000_000_000)
    with pytest.raises(SettingError, match=r"200 GB of address space.*3\.0 GB.*ulimit -v unlimited"):
        check_address_space(CHARTS, "a chart")


def test_no_chart_is_rendered_under_a_limit(set_limit: SetLimit) -> None:
    set_limit(CHARTS - 1)
    with pytest.raises(SettingError, match="a chart must have 200 GB"):
        render_chart(alt.layer(), Path("chart"))


def test_commands_are_refused_and_help_is_not(
    ctrbench: Callable[..., int], capsys: pytest.CaptureFixture[str], set_limit: SetLimit
) -> None:
    set_limit(3_000_000_000)
    assert ctrbench("list", "methods") == 2
    assert "ctrbench must have 4 GB of address space" in capsys.readouterr().err
    assert ctrbench("--version") == 0
    assert ctrbench("run", "--help") == 0
