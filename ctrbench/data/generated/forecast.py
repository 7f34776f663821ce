"""Disk space and time that a generated dataset needs, estimated from a sample of its rows."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ctrbench.data.generated.rows import as_text, generate_rows
from ctrbench.data.generated.shards import generated_columns
from ctrbench.data.shards import write_table
from ctrbench.synthetic.production.calibration import calibrate
from ctrbench.synthetic.production.spec import ProductionSpec

SAMPLE_ROWS = 1 << 17


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Estimated disk space and time of a generated dataset."""

    rows: int
    domains: int
    users: int
    items: int
    bytes_per_row: float
    """Bytes on disk per row; 0 if no rows are stored."""
    rows_per_second: float
    """Rows per second of one process, with writing; without stored rows, of the counted columns only."""
    processes: int
    """Processes per machine."""
    sample: int
    """Rows that were generated for the estimate."""

    @property
    def bytes(self) -> float:
        """Bytes on disk of all rows."""
        return self.rows * self.bytes_per_row

    def hours(self, processes: int) -> float:
        """Return the hours for `processes` processes, each as fast as the one that was measured."""
        return self.rows / self.rows_per_second / processes / 3600


def forecast(spec: ProductionSpec, *, is_stored: bool = True, jobs: int | None = None) -> Forecast:
    """Generate a sample of the rows, write it if rows are stored, and extrapolate to all rows.

    `jobs` is the number of processes per machine, the number of cores by default.
    """
    constants = calibrate(spec.model_copy(update={"calibration_rows": 1 << 16}))
    content = as_text(spec, constants)
    columns, count = generated_columns(content, is_stored=is_stored), min(SAMPLE_ROWS, spec.rows)
    generate_rows(content, 0, 1024, columns)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        table = generate_rows(content, 0, count, columns)
        written = write_table(Path(folder), "sample.parquet", table) if is_stored else None
        seconds = time.perf_counter() - started
        size = (Path(folder) / written.file).stat().st_size if written else 0
    return Forecast(
        rows=spec.rows,
        domains=spec.domains,
        users=spec.num_users,
        items=spec.num_items,
        bytes_per_row=size / count,
        rows_per_second=count / seconds,
        processes=jobs or os.cpu_count() or 1,
        sample=count,
    )
