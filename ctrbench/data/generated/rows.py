"""Rows of generated data as tables, for stored shards and for data that are generated when they are read.

Spec and constants are passed as text, as they are stored in folder and manifest, so that a process that generates many
shards builds the tables of its generator once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache

import pyarrow as pa

from ctrbench.names import Column
from ctrbench.synthetic.production.arrow import to_table
from ctrbench.synthetic.production.calibration import Constants
from ctrbench.synthetic.production.generator import BID, COST, PRICE, Production
from ctrbench.synthetic.production.spec import ProductionSpec

OWN_COLUMNS = (Column.ROW, Column.LABEL, Column.TIME, Column.PROBABILITY, Column.CEILING)
LOG_COLUMNS = (BID, PRICE, COST)


def as_text(spec: ProductionSpec, constants: Constants) -> str:
    """Return spec and constants, which determine every row, as JSON."""
    content = {"spec": spec.model_dump(mode="json"), "constants": constants.model_dump(mode="json")}
    return json.dumps(content, sort_keys=True)


def stored_columns(content: str) -> list[str]:
    """Return the columns of stored shards."""
    return [*OWN_COLUMNS, *LOG_COLUMNS, *(field.name for field in generator_of(content).fields)]


def generate_rows(content: str, start: int, stop: int, columns: Sequence[str]) -> pa.Table:
    """Return columns of the rows from `start` up to `stop`."""
    return to_table(generator_of(content).rows(start, stop, list(columns)))


def first_row(content: str, index: int) -> int:
    """Return the first row of a split: 0 is train, 1 dev, 2 test."""
    return (0, *generator_of(content).cuts)[index]


@lru_cache(maxsize=2)
def generator_of(content: str) -> Production:
    """Return the generator; its tables are computed on first use."""
    parsed = json.loads(content)
    spec, constants = (
        ProductionSpec.model_validate(parsed["spec"]),
        Constants.model_validate(parsed["constants"]),
    )
    return Production(spec, constants)
