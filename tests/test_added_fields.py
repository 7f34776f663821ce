"""Fields that were added later do not change digests of models that keep their defaults."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from ctrbench.added_fields import added_field, unchanged_added_fields


class Example(BaseModel):
    """A model with a field of the first version and two later ones."""

    old: int = 1
    new: int = added_field(2, ge=0)
    newest: str | None = added_field(None)


def test_unchanged_later_fields_are_named() -> None:
    assert unchanged_added_fields(Example()) == {"new", "newest"}
    assert unchanged_added_fields(Example(new=3)) == {"newest"}
    assert unchanged_added_fields(Example(old=5, new=3, newest="x")) == set()


def test_constraints_of_a_later_field_apply() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Example(new=-1)
