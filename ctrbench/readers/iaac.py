"""Reader of the IJCAI-18 Alimama search data (IAAC) from Tianchi, and of synthetic twins in the same format.

The raw files are space-separated text with a header line, plain or inside a .zip. The text is cut into blocks at line
ends, and each block becomes one parquet file in the scratch folder: memory does not grow with the rows, further passes
take seconds, and a broken line is located in the block that fails to parse. The generator of twins imports the
format's constants from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import polars as pl

from ctrbench.errors import DataError, did_you_mean
from ctrbench.names import Column
from ctrbench.readers.base import Progress, RawData, Reader, ReadRequest
from ctrbench.readers.text_files import (
    TextFile,
    check_unpacked_size,
    find_text_files,
    missing_file_error,
    path_exists,
)

ROUND1_FILE = "round1_ijcai_18_train_20180301.txt"
ROUND2_FILE = "round2_train.txt"
LABEL = "is_trade"
TIMESTAMP = "context_timestamp"
PREDICTED = "predict_category_property"
LISTS = ("item_category_list", "item_property_list", PREDICTED)
NUMBERS = (
    "shop_review_positive_rate",
    "shop_score_service",
    "shop_score_delivery",
    "shop_score_description",
)
COLUMNS = (
    "instance_id",
    "item_id",
    "item_category_list",
    "item_property_list",
    "item_brand_id",
    "item_city_id",
    "item_price_level",
    "item_sales_level",
    "item_collected_level",
    "item_pv_level",
    "user_id",
    "user_gender_id",
    "user_age_level",
    "user_occupation_id",
    "user_star_level",
    "context_id",
    TIMESTAMP,
    "context_page_id",
    PREDICTED,
    "shop_id",
    "shop_review_num_level",
    "shop_review_positive_rate",
    "shop_star_level",
    "shop_score_service",
    "shop_score_delivery",
    "shop_score_description",
    LABEL,
)
SEPARATOR = " "
BEIJING_SECONDS = 8 * 3600
"""Offset of Beijing time. The timestamps are UTC, shifted by whole days."""

TWIN_MODULUS = 1_000_003
TWIN_REMAINDER = 104_729
"""Remainder of all instance ids of a twin, and of about one in a million of a real file."""
TRUTH_SUFFIX = ".truth.parquet"
TWIN_SUFFIX = "-twin"

BLOCK_BYTES = 1 << 26
MAX_LINE_BYTES = 1 << 20


class IaacReader(Reader):
    """Reader of IAAC and of its synthetic twins."""

    def read(self, request: ReadRequest) -> RawData:
        """Return the labeled rows of text files, archives or folders with either.

        Columns: those of the raw format without instance_id, context_id and predict_category_property; from the
        latter, predicted_categories and predicted_properties as text with ";"; hour (Beijing time); for a twin with
        a truth file also `Column.PROBABILITY`. Missing numbers (-1) become null; -1 stays a value in other columns.
        """
        names = request.names or (ROUND1_FILE, ROUND2_FILE)
        files = find_text_files(request.paths, names)
        check_unpacked_size(files, request.scratch)
        progress = _ByteProgress(sum(file.num_bytes for file in files), request.progress)
        converted = [
            _convert_file(file, request.scratch / f"{index:02d}", progress)
            for index, file in enumerate(files)
        ]
        is_twin = _are_twins(converted)
        frames = [pl.scan_parquet(list(file.parts)) for file in converted]
        if not all(file.has_truth for file in converted):
            frames = [frame.drop(Column.PROBABILITY, strict=False) for frame in frames]
        return RawData(
            frame=pl.concat(frames),
            files=tuple(dict.fromkeys(file.path for file in files)),
            suffix=TWIN_SUFFIX if is_twin else "",
            note=_file_note(converted, names, is_twin=is_twin),
        )


@dataclass(frozen=True, kw_only=True)
class Converted:
    """The parquet parts of one text file."""

    file: TextFile
    parts: tuple[Path, ...]
    rows: int
    marked: int
    """Rows whose instance id has the remainder of a twin."""
    has_truth: bool

    @property
    def is_twin(self) -> bool:
        """Whether the generator of twins wrote the file."""
        return self.marked > self.rows // 1000


class _ByteProgress:
    """Progress in bytes, passed on as a fraction of the total."""

    def __init__(self, total: int, progress: Progress) -> None:
        self.done, self.total, self.progress = 0, max(1, total), progress

    def add(self, num_bytes: int) -> None:
        self.done += num_bytes
        self.progress(min(1.0, self.done / self.total))


def _convert_file(file: TextFile, folder: Path, progress: _ByteProgress) -> Converted:
    """Write the file's rows as parquet parts, one per block."""
    folder.mkdir()
    truth = _read_truth(file)
    rows = marked = 0
    parts: list[Path] = []
    with file.open() as stream:
        header = _header(file, stream)
        progress.add(len(SEPARATOR.join(header)) + 1)
        for block in _read_blocks(stream):
            frame = _parse_block(file, header, block, first_line=rows + 2)
            marked += _count_marked(frame)
            parts.append(folder / f"{len(parts):05d}.parquet")
            _with_truth(_derive_columns(frame), truth, rows).write_parquet(parts[-1])
            rows += frame.height
            progress.add(len(block))
    if not rows:
        raise DataError("the file has a header but no rows", value=file)
    if truth is not None and len(truth) != rows:
        value = f"{file}: {rows:,} rows, {len(truth):,} probabilities"
        raise DataError("a truth file must have one row per row of its data file", value=value)
    return Converted(file=file, parts=tuple(parts), rows=rows, marked=marked, has_truth=truth is not None)


def _header(file: TextFile, stream: BinaryIO) -> list[str]:
    """Return the column names in the file's order; raises `DataError` unless they are the 27 of a labeled file."""
    text = stream.readline(1 << 16).decode(errors="replace")
    header = text.rstrip("\r\n").split(SEPARATOR)
    if not text.strip():
        raise DataError("the file is empty", value=file)
    missing = [name for name in COLUMNS if name not in header]
    extra = [name for name in header if name not in COLUMNS]
    if len(missing) > len(COLUMNS) // 2:
        raise DataError(
            "not an IAAC file: the header has other columns", value=f"{file}, line 1: {text[:60]!r}"
        )
    if missing == [LABEL] and not extra:
        raise DataError(
            f"a test file without {LABEL}", value=f"{file}, line 1", remedy="pass the training files"
        )
    if missing:
        raise DataError("missing column", value=f"{file}, line 1: {', '.join(missing)}")
    if extra or len(header) != len(COLUMNS):
        names = ", ".join(extra) or "a duplicate name"
        raise DataError(
            "unexpected column", value=f"{file}, line 1: {names}", remedy=did_you_mean(names, missing)
        )
    return header


def _read_blocks(stream: BinaryIO) -> Iterator[bytes]:
    """Yield blocks of complete lines."""
    while block := stream.read(BLOCK_BYTES):
        yield block if block.endswith(b"\n") else block + stream.readline(MAX_LINE_BYTES)


def _parse_block(file: TextFile, header: list[str], block: bytes, *, first_line: int) -> pl.DataFrame:
    try:
        frame = pl.read_csv(
            block,
            has_header=False,
            schema={name: _dtype(name) for name in header},
            separator=SEPARATOR,
            quote_char=None,
        )
    except pl.exceptions.PolarsError:
        frame = None
    if frame is None or not _is_complete(frame):
        raise _line_error(file, header, block, first_line)
    return frame


def _dtype(name: str) -> pl.DataType:
    if name in LISTS:
        return pl.String()
    return pl.Float64() if name in NUMBERS else pl.Int64()


def _is_complete(frame: pl.DataFrame) -> bool:
    """Return whether no value is null and labels are 0 or 1; polars fills short lines with nulls without an error."""
    return sum(frame.null_count().row(0)) == 0 and frame[LABEL].is_between(0, 1).all()


def _line_error(file: TextFile, header: list[str], block: bytes, first_line: int) -> DataError:
    """Return the error of the first bad line of a block."""
    lines = block.decode(errors="replace").removesuffix("\n").split("\n")
    for number, line in enumerate(lines, start=first_line):
        problem = _problem_of_line(line.removesuffix("\r"), header)
        if problem is not None:
            is_cut = number == first_line + len(lines) - 1 and not block.endswith(b"\n")
            remedy = "the file seems truncated: download it again" if is_cut else None
            return DataError(problem, value=f"{file}, line {number}", remedy=remedy)
    return DataError("unreadable lines", value=f"{file}, from line {first_line}")


def _problem_of_line(line: str, header: list[str]) -> str | None:
    cells = line.split(SEPARATOR)
    if len(cells) != len(header):
        return f"a line has {len(header)} values, separated by single spaces; this one has {len(cells)}"
    if not all(cells):
        return f"{header[cells.index('')]} is empty"
    for name, cell in zip(header, cells, strict=True):
        if name == LABEL and cell not in ("0", "1"):
            return f"{LABEL} is 0 or 1, not {cell!r}"
        if not _is_number(name, cell):
            return f"{name} is a number, not {cell[:40]!r}"
    return None


def _is_number(name: str, cell: str) -> bool:
    try:
        return name in LISTS or (float(cell) == float(cell) if name in NUMBERS else abs(int(cell)) < 2**63)
    except ValueError:
        return False


def _derive_columns(frame: pl.DataFrame) -> pl.DataFrame:
    """Drop columns that are no features, replace missing numbers by null and add derived columns."""
    second_of_day = (pl.col(TIMESTAMP) + BEIJING_SECONDS) % 86_400
    return frame.join(
        _split_predicted(frame[PREDICTED]), on=PREDICTED, how="left", maintain_order="left"
    ).select(
        pl.exclude("instance_id", "context_id", PREDICTED, *NUMBERS),
        *(pl.when(pl.col(name) != -1).then(pl.col(name)).alias(name) for name in NUMBERS),
        (second_of_day // 3600).alias("hour"),
    )


def _split_predicted(column: pl.Series) -> pl.DataFrame:
    """Split "category:property,property;category:-1" once per distinct text of a block."""
    text = pl.col(PREDICTED)
    properties = text.str.replace_all(r"-1|[^;]*:", "").str.replace_all(r"[,;]+", ";")
    return (
        column.unique()
        .to_frame()
        .with_columns(
            text.str.replace_all(r":[^;]*", "").alias("predicted_categories"),
            properties.str.strip_chars(";").alias("predicted_properties"),
        )
    )


def _count_marked(frame: pl.DataFrame) -> int:
    return int((frame["instance_id"] % TWIN_MODULUS == TWIN_REMAINDER).sum())


def _are_twins(converted: Sequence[Converted]) -> bool:
    kinds = {file.is_twin for file in converted}
    if len(kinds) > 1:
        value = ", ".join(f"{file.file} ({'twin' if file.is_twin else 'real'})" for file in converted)
        raise DataError("real files must not be mixed with files of a twin", value=value)
    return kinds.pop()


def _read_truth(file: TextFile) -> pl.Series | None:
    """Return the true probabilities from the file beside a twin, 8 bytes per row; None without one."""
    path = file.path.with_name(file.name + TRUTH_SUFFIX)
    if not path_exists(path):
        return None
    if not path.is_file():
        raise missing_file_error(path)
    try:
        truth = pl.read_parquet(path, columns=[Column.PROBABILITY])[Column.PROBABILITY]
        probabilities = truth.cast(pl.Float64)
        is_valid = probabilities.is_between(0.0, 1.0).all() and not truth.null_count()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        is_valid = False
    if not is_valid:
        raise DataError(
            f"a truth file must be a parquet file with a column {Column.PROBABILITY!s} of numbers in [0, 1]",
            value=path,
            remedy="generate the twin again with ctrbench synth iaac, or remove the file",
        )
    return truth


def _with_truth(frame: pl.DataFrame, truth: pl.Series | None, start: int) -> pl.DataFrame:
    """Add the probabilities from row `start` on; nulls where the truth is too short, which `_convert_file` refuses."""
    if truth is None:
        return frame
    part = truth.slice(start, frame.height)
    return frame.with_columns(part.extend_constant(None, frame.height - len(part)))


def _file_note(converted: Sequence[Converted], names: Sequence[str], *, is_twin: bool) -> str:
    rows = ", ".join(f"{file.file.name}: {file.rows:,} rows" for file in converted)
    present = {file.file.name for file in converted}
    absent = [name for name in names if name not in present and not present.isdisjoint(names)]
    parts = [
        "a synthetic twin, not the real data" if is_twin else "",
        rows,
        f"without {' and '.join(absent)}" if absent else "",
    ]
    return "; ".join(part for part in parts if part)
