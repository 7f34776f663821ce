"""The IJCAI-18 Alimama search data (IAAC) as Tianchi hands them out, and twins of them in the same form.

Space-separated text with a header line, plain or inside a .zip. The text is cut into blocks at line ends, and each
block becomes one parquet file in the scratch folder: memory stays flat at ten million rows, a later pass over the rows
costs seconds, and a broken line is found with its number in the block that refuses to parse. This module is the one
home of the raw form; the generator of twins writes what is said here.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import polars as pl

from ctrbench.errors import DataError, SourceError, did_you_mean
from ctrbench.names import Column
from ctrbench.readers.base import RawData

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
"""The timestamps are UTC, moved by whole days; the hour that matters is that of Beijing."""

TWIN_MODULUS = 1_000_003
TWIN_REMAINDER = 104_729
"""A twin's instance ids all leave this remainder; of a real file's about one in a million does."""
TRUTH_SUFFIX = ".truth.parquet"
TWIN_SUFFIX = "-twin"

BLOCK_BYTES = 1 << 26


@dataclass(frozen=True, kw_only=True)
class TextFile:
    """One text file with rows: on the disk, or a member of an archive on the disk."""

    path: Path
    member: str | None = None

    @property
    def name(self) -> str:
        """The text file's own name, wherever it lies."""
        return Path(self.member or self.path).name

    @property
    def num_bytes(self) -> int:
        """Bytes of text; 0 where a damaged archive does not say."""
        if self.member is None:
            return self.path.stat().st_size
        try:
            with zipfile.ZipFile(self.path) as archive:
                return archive.getinfo(self.member).file_size
        except zipfile.BadZipFile:
            return 0

    def __str__(self) -> str:
        """The place as an error names it."""
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open for reading; damage of an archive is a `DataError` whenever it is met."""
        if self.member is None:
            with self.path.open("rb") as file:
                yield file
            return
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as member:
                yield cast(BinaryIO, member)
        # RuntimeError: the member is encrypted.
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            value, remedy = f"{self}: {error}", "download it again"
            raise DataError("a damaged archive", value=value, remedy=remedy) from None


def read(
    paths: Sequence[Path],
    *,
    separator: str = SEPARATOR,
    scratch: Path,
    names: Sequence[str] = (ROUND1_FILE, ROUND2_FILE),
    report: Callable[[float], None] | None = None,
) -> RawData:
    """Return the labelled rows of text files, of archives, or of folders with either.

    `names` are the files that the card asks for: these are taken out of folders and archives, and a folder that lacks
    one is refused; a text file that is named itself is read whatever its name. Columns: those of the raw form without
    instance_id, context_id and predict_category_property; predicted_categories and predicted_properties instead of
    the latter, as text with ";"; hour (of Beijing); of a twin with its truth beside it also `Column.PROBABILITY`.
    Missing numbers (-1) become null; -1 stays a value in all other columns. `separator` is not used: the form has one.
    `report` hears the share of bytes that are read.
    """
    del separator
    files = _find(paths, names)
    scratch.mkdir(parents=True, exist_ok=True)
    heard = _Heard(sum(file.num_bytes for file in files), report)
    converted = [_convert(file, scratch / f"{place:02d}", heard) for place, file in enumerate(files)]
    is_twin = _are_twins(converted)
    frames = [pl.scan_parquet(list(file.parts)) for file in converted]
    if not all(file.has_truth for file in converted):
        frames = [frame.drop(Column.PROBABILITY, strict=False) for frame in frames]
    return RawData(
        frame=pl.concat(frames),
        files=tuple(dict.fromkeys(file.path for file in files)),
        suffix=TWIN_SUFFIX if is_twin else "",
        note=_note(converted, names, is_twin),
    )


# --- which files ---------------------------------------------------------------------------------------------------


def _find(paths: Sequence[Path], names: Sequence[str]) -> list[TextFile]:
    """The text files to read: the card's in the card's order, then others in the order given."""
    found: dict[str, TextFile] = {}
    for path in paths:
        if not path.exists():
            raise SourceError("no such file or folder", value=path)
        for file in _in_folder(path, names) if path.is_dir() else _in_file(path, names):
            if file.name in found:
                raise SourceError("the same file is given twice", value=f"{found[file.name]} and {file}")
            found[file.name] = file
    if not found:
        raise SourceError("no file is given", remedy=f"give {' and '.join(names)} with --source")
    return sorted(
        found.values(), key=lambda file: names.index(file.name) if file.name in names else len(names)
    )


def _in_folder(folder: Path, names: Sequence[str]) -> list[TextFile]:
    files = {name: TextFile(path=folder / name) for name in names if (folder / name).is_file()}
    for archive in sorted(folder.glob("*.zip")) if len(files) < len(names) else []:
        for file in _members(archive):
            if file.name in names:
                files.setdefault(file.name, file)
    missing = [name for name in names if name not in files]
    if missing:
        raise SourceError(
            "the folder lacks a file of the dataset, as text or in a .zip",
            value=f"{folder} has no {' and no '.join(missing)}",
            remedy="put it there, or name the files that are to be read one by one",
        )
    return list(files.values())


def _in_file(path: Path, names: Sequence[str]) -> list[TextFile]:
    if path.suffix.lower() != ".zip":
        return [TextFile(path=path)]
    members = _members(path)
    wanted = [file for file in members if file.name in names]
    if not wanted and len(members) != 1:
        inside = ", ".join(file.name for file in members[:5]) or "no text file"
        raise SourceError(
            f"the archive holds none of {', '.join(names)}",
            value=f"{path} with {inside}",
            remedy="is it another one?",
        )
    return wanted or members


def _members(archive: Path) -> list[TextFile]:
    if not zipfile.is_zipfile(archive):
        raise SourceError(
            "not a zip archive", value=archive, remedy="download it again, or give the .txt itself"
        )
    with zipfile.ZipFile(archive) as file:
        members = [name for name in file.namelist() if name.endswith(".txt") and "__MACOSX" not in name]
    return [TextFile(path=archive, member=name) for name in members]


# --- one file ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What became of one text file."""

    file: TextFile
    parts: tuple[Path, ...]
    rows: int
    marked: int
    """Rows whose instance id bears the mark of a twin."""
    has_truth: bool

    @property
    def is_twin(self) -> bool:
        """Whether a generator of ours wrote the file."""
        return self.marked > self.rows // 1000


class _Heard:
    """Adds up bytes and tells which share of all they are."""

    def __init__(self, total: int, report: Callable[[float], None] | None) -> None:
        self.done, self.total, self.report = 0, max(1, total), report

    def add(self, num_bytes: int) -> None:
        self.done += num_bytes
        if self.report is not None:
            self.report(min(1.0, self.done / self.total))


def _convert(file: TextFile, folder: Path, heard: _Heard) -> Converted:
    """Write the file's rows as parquet parts, one a block."""
    folder.mkdir()
    truth = _truth(file)
    rows = marked = 0
    parts: list[Path] = []
    with file.open() as stream:
        header = _header(file, stream)
        heard.add(len(SEPARATOR.join(header)) + 1)
        for block in _blocks(stream):
            frame = _parse(file, header, block, first_line=rows + 2)
            marked += _count_marked(frame)
            parts.append(folder / f"{len(parts):05d}.parquet")
            _with_truth(_shape(frame), truth, rows).write_parquet(parts[-1])
            rows += frame.height
            heard.add(len(block))
    if not rows:
        raise DataError("the file has a header but no rows", value=file)
    if truth is not None and len(truth) != rows:
        value = f"{file}: {rows:,} rows, {len(truth):,} probabilities"
        raise DataError("the truth beside a file has a row for each of its rows", value=value)
    return Converted(file=file, parts=tuple(parts), rows=rows, marked=marked, has_truth=truth is not None)


def _header(file: TextFile, stream: BinaryIO) -> list[str]:
    """The column names in the file's order; raise unless they are the 27 of a labelled file."""
    text = stream.readline(1 << 16).decode(errors="replace")
    header = text.rstrip("\r\n").split(SEPARATOR)
    if not text.strip():
        raise DataError("the file is empty", value=file)
    missing = [name for name in COLUMNS if name not in header]
    extra = [name for name in header if name not in COLUMNS]
    if len(missing) > len(COLUMNS) // 2:
        raise DataError(
            "not an IAAC file: its first line names other columns", value=f"{file}, line 1: {text[:60]!r}"
        )
    if missing == [LABEL] and not extra:
        raise DataError(
            f"a test file, it has no {LABEL}", value=f"{file}, line 1", remedy="give the train files"
        )
    if missing:
        raise DataError("a column is missing", value=f"{file}, line 1: {', '.join(missing)}")
    if extra or len(header) != len(COLUMNS):
        names = ", ".join(extra) or "a name twice"
        raise DataError(
            "a column too many", value=f"{file}, line 1: {names}", remedy=did_you_mean(names, missing)
        )
    return header


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    """Blocks of whole lines."""
    while block := stream.read(BLOCK_BYTES):
        yield block if block.endswith(b"\n") else block + stream.readline()


def _parse(file: TextFile, header: list[str], block: bytes, *, first_line: int) -> pl.DataFrame:
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
    if frame is None or not _is_sound(frame):
        raise _fault(file, header, block, first_line)
    return frame


def _dtype(name: str) -> pl.DataType:
    if name in LISTS:
        return pl.String()
    return pl.Float64() if name in NUMBERS else pl.Int64()


def _is_sound(frame: pl.DataFrame) -> bool:
    """A short line leaves nulls where its last columns should be; polars does not call it an error."""
    return sum(frame.null_count().row(0)) == 0 and frame[LABEL].is_between(0, 1).all()


def _fault(file: TextFile, header: list[str], block: bytes, first_line: int) -> DataError:
    """Name the first line that breaks the form, and how."""
    lines = block.decode(errors="replace").removesuffix("\n").split("\n")
    for number, line in enumerate(lines, start=first_line):
        fault = _fault_of_line(line.removesuffix("\r"), header)
        if fault is not None:
            is_cut = number == first_line + len(lines) - 1 and not block.endswith(b"\n")
            remedy = "the file seems cut off: get it again" if is_cut else None
            return DataError(fault, value=f"{file}, line {number}", remedy=remedy)
    return DataError("a block of lines cannot be read", value=f"{file}, from line {first_line}")


def _fault_of_line(line: str, header: list[str]) -> str | None:
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


# --- columns -------------------------------------------------------------------------------------------------------


def _shape(frame: pl.DataFrame) -> pl.DataFrame:
    """Drop what is no feature, derive what is one."""
    second_of_day = (pl.col(TIMESTAMP) + BEIJING_SECONDS) % 86_400
    return frame.join(_predicted(frame[PREDICTED]), on=PREDICTED, how="left", maintain_order="left").select(
        pl.exclude("instance_id", "context_id", PREDICTED, *NUMBERS),
        *(pl.when(pl.col(name) != -1).then(pl.col(name)).alias(name) for name in NUMBERS),
        (second_of_day // 3600).alias("hour"),
    )


def _predicted(column: pl.Series) -> pl.DataFrame:
    """Split "category:property,property;category:-1" once for each distinct text of a block."""
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


# --- twins ---------------------------------------------------------------------------------------------------------


def _count_marked(frame: pl.DataFrame) -> int:
    return int((frame["instance_id"] % TWIN_MODULUS == TWIN_REMAINDER).sum())


def _are_twins(converted: Sequence[Converted]) -> bool:
    kinds = {file.is_twin for file in converted}
    if len(kinds) > 1:
        value = ", ".join(f"{file.file} ({'twin' if file.is_twin else 'real'})" for file in converted)
        raise DataError("real files and files of a twin are never mixed", value=value)
    return kinds.pop()


def _truth(file: TextFile) -> pl.Series | None:
    """The true probabilities beside a twin, 8 bytes a row."""
    path = file.path.with_name(file.name + TRUTH_SUFFIX)
    if not path.exists():
        return None
    return pl.read_parquet(path, columns=[Column.PROBABILITY])[Column.PROBABILITY]


def _with_truth(frame: pl.DataFrame, truth: pl.Series | None, start: int) -> pl.DataFrame:
    """Add the probabilities from that row on; a truth that is too short leaves nulls and is refused later."""
    if truth is None:
        return frame
    part = truth.slice(start, frame.height)
    return frame.with_columns(part.extend_constant(None, frame.height - len(part)))


def _note(converted: Sequence[Converted], names: Sequence[str], is_twin: bool) -> str:
    rows = ", ".join(f"{file.file.name}: {file.rows:,} rows" for file in converted)
    read = {file.file.name for file in converted}
    absent = [name for name in names if name not in read and not read.isdisjoint(names)]
    parts = [
        "a synthetic twin, not the real data" if is_twin else "",
        rows,
        f"without {' and '.join(absent)}" if absent else "",
    ]
    return "; ".join(part for part in parts if part)
