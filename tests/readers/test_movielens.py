import zipfile
from pathlib import Path

import polars as pl
import pytest

from ctrbench.errors import DataError, SourceError
from ctrbench.readers.movielens import read

OFFICIAL = {
    "ratings.dat": "2::10::4::978300760\n1::20::5::978300760\n1::10::3::1046454590\n2::20::1::956703932\n",
    "users.dat": "1::F::1::10::48067\n2::M::56::16::02460-1234\n",
    "movies.dat": "10::Misérables, Les (1995)::Drama|Musical\n20::Toy Story (1995)::Animation|Children's|Comedy\n",
}
ATOMIC = {
    "ml-1m.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\r\n"
    "1m_1\tToy Story (1995)\t5\t978300760\r\n"
    "1m_1\tMisérables, Les (1995)\t3\t1046454590\r\n"
    "1m_2\tMisérables, Les (1995)\t4\t978300760\r\n"
    "1m_2\tToy Story (1995)\t1\t956703932\r\n",
    "ml-1m.user": "user_id:token\tage:float\tgender:token\toccupation:float\tzip_code:token\r\n"
    "1m_1\t1\tF\t10\t48067\r\n1m_2\t56\tM\t16\t02460-1234\r\n",
    "ml-1m.item": "item_id:token\tmovie_title:token\trelease_year:float\tgenre:token\r\n"
    "Misérables, Les (1995)\tMisérables, Les\t1995\tDrama Musical\r\n"
    "Toy Story (1995)\tToy Story\t1995\tAnimation Children's Comedy\r\n",
}


def archive(path: Path, files: dict[str, str], encoding: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, text in files.items():
            file.writestr(f"some/folder/{name}", text.encode(encoding))
    return path


def official(tmp_path: Path, **changes: str) -> Path:
    files = OFFICIAL | {name.replace("_", "."): text for name, text in changes.items()}
    return archive(tmp_path / "ml-1m.zip", files, "latin-1")


def table(path: Path) -> pl.DataFrame:
    return read([path]).frame.collect()


def test_both_sources_give_the_same_table(tmp_path: Path) -> None:
    wheel = archive(tmp_path / "data-1.0-py3-none-any.whl", ATOMIC, "utf-8")
    first, second = table(official(tmp_path)), table(wheel)
    assert first.equals(second.select(first.columns))
    assert first.schema == second.select(first.columns).schema


def test_rows_come_by_time_then_user_then_title(tmp_path: Path) -> None:
    frame = table(official(tmp_path))
    assert frame["timestamp"].to_list() == [956703932, 978300760, 978300760, 1046454590]
    assert frame["user_id"].to_list() == ["2", "1", "2", "1"]


def test_codes_become_words(tmp_path: Path) -> None:
    row = table(official(tmp_path)).row(0, named=True)
    assert row["item"] == "Toy Story (1995)"
    assert (row["gender"], row["age"], row["occupation"]) == ("M", "56+", "self-employed")
    assert row["rating"] == 1


def test_columns_are_derived_from_title_zip_code_and_time(tmp_path: Path) -> None:
    # 956703932 is Tuesday, 25 April 2000, 23:05:32 UTC.
    row = table(official(tmp_path)).row(0, named=True)
    assert (row["release_year"], row["zip_region"], row["hour"], row["weekday"]) == (
        "1995",
        "0",
        23,
        "Tuesday",
    )
    assert row["genres"] == "Animation|Children's|Comedy"


@pytest.mark.parametrize(("files", "encoding"), [(OFFICIAL, "latin-1"), (ATOMIC, "utf-8")])
def test_a_folder_is_as_good_as_an_archive(tmp_path: Path, files: dict[str, str], encoding: str) -> None:
    folder = tmp_path / "unpacked"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_bytes(text.encode(encoding))
    assert table(folder).equals(table(official(tmp_path)).select(table(folder).columns))
    assert read([folder]).files == tuple(sorted(folder.iterdir()))


def test_a_line_with_another_number_of_values_is_named(tmp_path: Path) -> None:
    path = official(tmp_path, users_dat="1::F::1::10::48067\n2::M::56::16\n")
    with pytest.raises(DataError, match=r"a line has 5 values: users.dat, line 2"):
        table(path)


def test_the_line_number_counts_the_header(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.whl", ATOMIC | {"ml-1m.user": ATOMIC["ml-1m.user"] + "1m_3\t1\r\n"}, "utf-8")
    with pytest.raises(DataError, match=r"ml-1m.user, line 4"):
        table(path)


def test_a_rating_of_an_unknown_user_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="names a user or a film that its own table lacks"):
        table(official(tmp_path, users_dat="1::F::1::10::48067\n"))


def test_an_unknown_code_is_refused(tmp_path: Path) -> None:
    path = official(tmp_path, users_dat="1::F::2::10::48067\n2::M::56::16::02460\n")
    with pytest.raises(DataError, match="is not one of MovieLens-1M"):
        table(path)


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"ratings.dat, users.dat and movies.dat, or"):
        table(archive(tmp_path / "a.zip", {"u.data": "1"}, "utf-8"))


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ml-1m.zip").write_bytes(b"<html>")
    with pytest.raises(SourceError, match="neither a zip archive nor a wheel"):
        table(tmp_path / "ml-1m.zip")


def test_there_is_one_source(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="one archive or one folder"):
        read([tmp_path, tmp_path])
