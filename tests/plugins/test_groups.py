"""Groups are read from their file and name plug-ins that exist."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ctrbench.plugins.groups import Groups, groups, read_groups, table_order
from ctrbench.plugins.registry import PlugKind, select


def test_the_studies_are_groups() -> None:
    assert groups("methods")["adasparse-study"].members == ("plain", "maml", "star", "apg", "adasparse")
    assert groups("methods")["star-study"].members[-1] == "star"
    assert groups("backbones")["adasparse-study"].members == ("dnn", "dcnv2")


def test_tables_begin_with_the_adasparse_study() -> None:
    assert table_order() == ("dnn", "dcnv2", "plain", "maml", "star", "apg", "adasparse")


@pytest.mark.parametrize("kind", ["methods", "backbones"])
def test_members_of_groups_are_valid_selectors(kind: PlugKind) -> None:
    for group in groups(kind).values():
        assert all(select(kind, member).value for member in group.members)


def test_an_empty_group_is_refused() -> None:
    content = read_groups().model_dump()
    content["methods"]["adasparse-study"]["members"] = []
    with pytest.raises(ValidationError, match="at least 1 item"):
        Groups.model_validate(content)
