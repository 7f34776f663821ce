"""Fields that were added to a settings model after results had been published.

A digest of the model leaves such a field out while it holds its default, so that digests computed before the field
existed stay valid. Run keys (`Settings.key`, `TrainConfig.key`) and dataset cards (`DatasetCard.digest`) use it.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


def added_field(default: Any, **constraints: Any) -> Any:  # noqa: ANN401  # as pydantic's own Field
    """Declare a field that was added after results had been published.

    `constraints` are those of `pydantic.Field`, such as `ge=1`.

    >>> class Example(BaseModel):
    ...     width: int = 32
    ...     depth: int = added_field(1, ge=1)
    >>> Example().model_dump(exclude=unchanged_added_fields(Example()))
    {'width': 32}
    >>> Example(depth=2).model_dump(exclude=unchanged_added_fields(Example(depth=2)))
    {'width': 32, 'depth': 2}
    """
    return Field(default=default, json_schema_extra={"is_added": True}, **constraints)


def unchanged_added_fields(model: BaseModel) -> set[str]:
    """Return the names of the model's added fields that hold their default, which digests leave out."""
    return {
        name
        for name, field in type(model).model_fields.items()
        if isinstance(field.json_schema_extra, dict)
        and field.json_schema_extra.get("is_added")
        and getattr(model, name) == field.default
    }
