import random
import zipfile
from pathlib import Path

import polars as pl
import pytest

from ctrbench.errors import CardError, DataError, SourceError
from ctrbench.readers.base import RawData, ReadRequest
from ctrbench.readers.movielens import MovieLensReader

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


def read(*paths: Path, **columns: int | None) -> RawData:
    return MovieLensReader().read(ReadRequest(paths=paths, scratch=paths[0].parent, columns=columns))


def table(path: Path) -> pl.DataFrame:
    return read(path).frame.collect()


def test_both_sources_give_the_same_table(tmp_path: Path) -> None:
    wheel = archive(tmp_path / "data-1.0-py3-none-any.whl", ATOMIC, "utf-8")
    first, second = table(official(tmp_path)), table(wheel)
    assert first.equals(second.select(first.columns))
    assert first.schema == second.select(first.columns).schema


def test_rows_are_sorted_by_time_user_and_title(tmp_path: Path) -> None:
    frame = table(official(tmp_path))
    assert frame["timestamp"].to_list() == [956703932, 978300760, 978300760, 1046454590]
    assert frame["user_id"].to_list() == ["2", "1", "2", "1"]


def test_codes_are_decoded(tmp_path: Path) -> None:
    row = table(official(tmp_path)).row(0, named=True)
    assert row["item"] == "Toy Story (1995)"
    assert (row["gender"], row["age"], row["occupation"]) == ("M", "56+", "self-employed")
    assert row["rating"] == 1


RATINGS = (
    "1::10::5::100\n1::20::4::200\n1::30::3::300\n1::40::5::300\n1::50::4::300\n1::10::4::400\n"
    "1::20::1::500\n2::10::1::150\n2::20::5::250\n2::30::2::350\n"
)
FILMS = "".join(f"{index}0::{name} (1995)::Drama\n" for index, name in enumerate("ABCDE", start=1))


def histories(tmp_path: Path, length: int) -> dict[tuple[str, int, str], list[str]]:
    path = official(tmp_path, ratings_dat=RATINGS, movies_dat=FILMS)
    frame = read(path, history=length).frame.collect()
    names = frame["history"].cast(pl.List(pl.String)).to_list()
    keys = zip(frame["user_id"], frame["timestamp"], frame["item"].str.head(1), strict=True)
    return {key: [title[0] for title in titles] for key, titles in zip(keys, names, strict=True)}


def test_a_history_holds_the_films_liked_in_earlier_seconds(tmp_path: Path) -> None:
    assert histories(tmp_path, 10) == {
        ("1", 100, "A"): [],
        ("2", 150, "A"): [],
        ("1", 200, "B"): ["A"],
        ("2", 250, "B"): [],
        ("1", 300, "C"): ["A", "B"],
        ("1", 300, "D"): ["A", "B"],
        ("1", 300, "E"): ["A", "B"],
        ("2", 350, "C"): ["B"],
        ("1", 400, "A"): ["A", "B", "D", "E"],
        ("1", 500, "B"): ["A", "B", "D", "E", "A"],
    }


def test_a_long_history_keeps_the_newest_films(tmp_path: Path) -> None:
    complete, short = histories(tmp_path, 10), histories(tmp_path, 2)
    assert short == {key: films[-2:] for key, films in complete.items()}


def test_random_histories_equal_a_row_by_row_search(tmp_path: Path) -> None:
    draw = random.Random(3)
    rows = [
        (draw.randrange(1, 3), 10 * draw.randrange(1, 6), draw.randrange(1, 6), draw.randrange(40))
        for _ in range(150)
    ]
    text = "".join("::".join(map(str, row)) + "\n" for row in rows)
    path = official(tmp_path, ratings_dat=text, movies_dat=FILMS)
    frame = read(path, history=4).frame.collect()
    ordered = list(frame.select("user_id", "timestamp", "item", "rating").iter_rows())
    for (user, time, _, _), history in zip(ordered, frame["history"].to_list(), strict=True):
        liked = [item for u, t, item, rating in ordered if u == user and t < time and rating >= 4]
        assert history == liked[-4:]


def test_a_history_changes_neither_rows_nor_their_order(tmp_path: Path) -> None:
    path = official(tmp_path, ratings_dat=RATINGS, movies_dat=FILMS)
    frame = read(path, history=3).frame.collect()
    assert "history" not in table(path).columns
    assert frame.drop("history").equals(table(path))


def test_a_history_without_maximum_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CardError, match=r"maximum length of a history must be set, at most 1,000: history.*max_length"
    ):
        read(official(tmp_path), history=None)


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
def test_a_folder_gives_the_same_rows_as_an_archive(
    tmp_path: Path, files: dict[str, str], encoding: str
) -> None:
    folder = tmp_path / "unpacked"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_bytes(text.encode(encoding))
    assert table(folder).equals(table(official(tmp_path)).select(table(folder).columns))
    assert read(folder).files == tuple(sorted(folder.iterdir()))


def test_a_line_with_a_wrong_number_of_values_is_named(tmp_path: Path) -> None:
    path = official(tmp_path, users_dat="1::F::1::10::48067\n2::M::56::16\n")
    with pytest.raises(DataError, match=r"a line must have 5 values: users.dat, line 2"):
        table(path)


def test_the_line_number_counts_the_header(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.whl", ATOMIC | {"ml-1m.user": ATOMIC["ml-1m.user"] + "1m_3\t1\r\n"}, "utf-8")
    with pytest.raises(DataError, match=r"ml-1m.user, line 4"):
        table(path)


def test_a_rating_of_an_unknown_user_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must refer to a known user and film"):
        table(official(tmp_path, users_dat="1::F::1::10::48067\n"))


def test_an_unknown_code_is_refused(tmp_path: Path) -> None:
    path = official(tmp_path, users_dat="1::F::2::10::48067\n2::M::56::16::02460\n")
    with pytest.raises(DataError, match="ages and occupations codes of MovieLens-1M"):
        table(path)


def test_an_archive_of_another_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"ratings.dat, users.dat and movies.dat, or"):
        table(archive(tmp_path / "a.zip", {"u.data": "1"}, "utf-8"))


def test_a_file_that_is_not_an_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ml-1m.zip").write_bytes(b"<html>")
    with pytest.raises(SourceError, match="neither a zip archive nor a wheel"):
        table(tmp_path / "ml-1m.zip")


def test_several_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="one archive or one folder"):
        read(tmp_path, tmp_path)
