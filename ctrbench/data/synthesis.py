"""Rows of generated data as a table: what stored shards hold, and what is read where nothing is stored.

Spec and constants are passed as the text of a dataset's folder and manifest, so that a process that makes many
shards builds its tables of the synthetic world once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache

import pyarrow as pa

from ctrbench.names import Column
from ctrbench.synthetic.production.calibration import Constants
from ctrbench.synthetic.production.generator import BID, COST, PRICE, Production
from ctrbench.synthetic.production.raw_files import as_table
from ctrbench.synthetic.production.spec import ProductionSpec

OWN_COLUMNS = (Column.ROW, Column.LABEL, Column.TIME, Column.PROBABILITY, Column.CEILING)
LOG_COLUMNS = (BID, PRICE, COST)


def as_text(spec: ProductionSpec, constants: Constants) -> str:
    """Return all that determines every row, as JSON."""
    content = {"spec": spec.model_dump(mode="json"), "constants": constants.model_dump(mode="json")}
    return json.dumps(content, sort_keys=True)


def stored_columns(content: str) -> list[str]:
    """Return the columns of stored shards."""
    return [*OWN_COLUMNS, *LOG_COLUMNS, *(field.name for field in generator_of(content).fields)]


def made_rows(content: str, start: int, stop: int, columns: Sequence[str]) -> pa.Table:
    """Return columns of the rows from `start` to `stop`."""
    return as_table(generator_of(content).rows(start, stop, list(columns)))


def first_row(content: str, place: int) -> int:
    """Return the first row of the split of that place: train, dev, test."""
    return (0, *generator_of(content).cuts)[place]


@lru_cache(maxsize=2)
def generator_of(content: str) -> Production:
    """Return the generator; its tables are made when they are first asked for."""
    read = json.loads(content)
    spec, constants = ProductionSpec.model_validate(read["spec"]), Constants.model_validate(read["constants"])
    return Production(spec, constants)
