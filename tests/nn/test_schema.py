from __future__ import annotations

from dataclasses import replace

from ctrbench.nn.schema import Schema


def test_bucketed_numbers_are_ids_and_plain_ones_are_not(schema: Schema) -> None:
    price = schema.fields[1]
    assert schema.numeric_fields == (price,)
    bucketed = replace(schema, fields=(replace(price, size=9),))
    assert bucketed.numeric_fields == ()
    assert bucketed.num_inputs == schema.embedding_size


def test_the_schema_defines_the_layout_of_z(schema: Schema) -> None:
    assert schema.slices == {
        "city": slice(0, 4),
        "age": slice(4, 8),
        "user": slice(8, 12),
        "tags": slice(12, 16),
        "price": slice(16, 17),
    }
    assert schema.num_inputs == 17


def test_the_largest_indicator_is_not_the_unseen_one(schema: Schema) -> None:
    assert replace(schema, indicator_rows=(500, 3, 9, 2)).largest_indicator == 2
