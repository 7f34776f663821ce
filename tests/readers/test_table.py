from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest

from ctrbench.errors import DataError, SourceError
from ctrbench.readers.base import RawData, ReadRequest
from ctrbench.readers.table import TableReader

ROWS = [("1", "x"), ("02", "y")]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def table(*paths: Path, separator: str = ",", names: tuple[str, ...] = ()) -> RawData:
    scratch = paths[0].parent / "scratch"
    scratch.mkdir(exist_ok=True)
    return TableReader().read(ReadRequest(paths=paths, separator=separator, scratch=scratch, names=names))


def rows(*paths: Path, separator: str = ",") -> list[tuple[str, ...]]:
    return table(*paths, separator=separator).frame.collect().rows()


def test_csv_values_stay_text(tmp_path: Path) -> None:
    assert rows(write(tmp_path / "a.csv", "a,b\n1,x\n02,y\n")) == ROWS


@pytest.mark.parametrize("content", ["a\tb\n1\tx\n02\ty", "\ufeffa\tb\r\n1\tx\r\n02\ty\r\n"])
def test_separators_line_ends_and_byte_order_marks(tmp_path: Path, content: str) -> None:
    raw = table(write(tmp_path / "a.tsv", content), separator="\t").frame.collect()
    assert raw.columns == ["a", "b"]
    assert raw.rows() == ROWS


def test_quoted_values_may_contain_separators_and_line_ends(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'a,"b"\n1,"x, ""y""\nz"\n2,\n')
    assert rows(path) == [("1", 'x, "y"\nz'), ("2", None)]


def test_gz_files_are_decompressed_and_listed_under_their_own_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv.gz", gzip.compress(b"a,b\n1,x\n02,y\n"))
    raw = table(path)
    assert raw.frame.collect().rows() == ROWS
    assert raw.files == (path,)


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": [1, 2], "b": [["x"], []]})
    frame.write_parquet(tmp_path / "a.parquet")
    assert table(tmp_path / "a.parquet").frame.collect().equals(frame)


def test_parquet_categories_become_text(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"a": ["1", "0"], "b": ["x", "y"]}, schema={"a": pl.Categorical, "b": pl.Enum(["y", "x"])}
    )
    frame.write_parquet(tmp_path / "a.parquet")
    assert rows(tmp_path / "a.parquet") == [("1", "x"), ("0", "y")]
    assert table(tmp_path / "a.parquet").frame.collect_schema().dtypes() == [pl.String, pl.String]


def test_files_of_a_folder_are_concatenated_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path / "2.csv", "b,a\ny,02\n")
    write(tmp_path / "1.csv.gz", gzip.compress(b"a,b\n1,x\n"))
    write(tmp_path / "README.md", "not a table")
    assert rows(tmp_path) == ROWS


def test_names_select_files_of_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "2.csv", "a,b\n02,y\n")
    write(tmp_path / "1.csv", "a,b\n1,x\n")
    assert table(tmp_path, names=("2.csv",)).frame.collect().rows() == ROWS[1:]


def test_lines_with_too_few_or_too_many_fields_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a.csv: line 3 has 1 fields, the header has 2"):
        table(write(tmp_path / "a.csv", "a,b\n1,x\n02\n"))
    with pytest.raises(DataError, match=r"b.csv: line 2 has 3 fields, the header has 2"):
        table(write(tmp_path / "b.csv", "a,b\n1,x,z\n02,y\n"))


def test_a_truncated_last_line_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 3 has 1 fields"):
        table(write(tmp_path / "a.csv", "a,b\n1,x\n0"))


def test_a_short_line_among_quoted_values_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 4 has 1 fields"):
        table(write(tmp_path / "a.csv", 'a,b\n1,"x\ny"\n02\n'))


def test_an_unclosed_quote_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a.csv: line 3 cannot be parsed: unexpected end of data"):
        table(write(tmp_path / "a.csv", 'a,b\n1,"x\n02,y\n'))


def test_short_and_long_lines_with_the_right_total_are_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a.csv: line 2 has 1 fields, the header has 2"):
        table(write(tmp_path / "a.csv", "a,b\n1\n2,y,z\n"))


def test_invalid_utf8_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a.csv: line 3 is not UTF-8"):
        table(write(tmp_path / "a.csv", b"a,b\n1,x\n2,\xff\n"))


def test_an_invalid_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must have distinct names: .*a.csv: a twice"):
        table(write(tmp_path / "a.csv", "a,a\n1,2\n"))
    with pytest.raises(DataError, match=r"must start with a header.*b.csv: the file is empty"):
        table(write(tmp_path / "b.csv", ""))


def test_an_invalid_parquet_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not a parquet file: .*a.parquet"):
        table(write(tmp_path / "a.parquet", "a,b\n1,x\n"))


def test_a_damaged_gzip_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"damaged gzip file: .*a.csv.gz"):
        table(write(tmp_path / "a.csv.gz", "a,b\n1,x\n"))
    with pytest.raises(DataError, match=r"damaged gzip file: .*b.csv.gz"):
        table(write(tmp_path / "b.csv.gz", gzip.compress(b"a,b\n" * 1000)[:-9]))


def test_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"a table must be a text or parquet file: .*a.xlsx.*\.csv"):
        table(write(tmp_path / "a.xlsx", "PK"))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such data file"):
        table(tmp_path / "none.csv")


def test_a_folder_without_tables_or_with_two_formats_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="have the same format: no file"):
        table(tmp_path)
    write(tmp_path / "a.csv", "a\n1\n")
    pl.DataFrame({"a": ["2"]}).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(SourceError, match=r"have the same format: .parquet, text"):
        table(tmp_path)


def test_tables_with_different_columns_are_refused(tmp_path: Path) -> None:
    first, second = write(tmp_path / "1.csv", "a,b\n1,x\n"), write(tmp_path / "2.csv", "a,c\n1,x\n")
    with pytest.raises(DataError, match=r"the columns of 1.csv: 2.csv differs in b, c"):
        table(first, second)


def test_a_text_that_does_not_fit_the_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1 << 27

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage)
    with pytest.raises(DataError, match=r"decompressed text must fit the disk: .*a.csv.gz"):
        table(write(tmp_path / "a.csv.gz", gzip.compress(b"a,b\n1,x\n" * 1000)))


def test_an_unused_line_is_checked_like_the_others(tmp_path: Path) -> None:
    lines = [b"a,b\n", *(b"%d,x\n" % number for number in range(300_000))]
    lines[290_000] = b"1\n"
    lines[290_001] = b"2,y,z\n"
    with pytest.raises(DataError, match=r"line 290001 has 1 fields"):
        table(write(tmp_path / "a.csv", b"".join(lines)))


def test_a_line_without_an_end_is_not_read_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctrbench.readers.csv_text.MAX_LINE_BYTES", 1000)
    for start in (b"a,b\n1,", b"a,b\n1,x\n", b"a,"):
        with pytest.raises(DataError, match=r"line \d is longer than 1,000 bytes"):
            table(write(tmp_path / "a.csv", start + b"x" * 3_000_000))
