import re
import zipfile
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from ctrbench.errors import DataError, SourceError
from ctrbench.names import Column
from ctrbench.readers import iaac
from ctrbench.readers.base import RawData, ReadRequest
from ctrbench.readers.iaac import COLUMNS, ROUND1_FILE, ROUND2_FILE, TWIN_MODULUS, TWIN_REMAINDER, IaacReader

ROW = {
    "instance_id": "4000000000000000123",
    "item_id": "5000000000000000077",
    "item_category_list": "79;57",
    "item_property_list": "20;51;26",
    "item_brand_id": "-1",
    "item_city_id": "394",
    "item_price_level": "3",
    "item_sales_level": "-1",
    "item_collected_level": "4",
    "item_pv_level": "14",
    "user_id": "9223372036854775807",
    "user_gender_id": "-1",
    "user_age_level": "1003",
    "user_occupation_id": "2005",
    "user_star_level": "3003",
    "context_id": "600000000000000042",
    "context_timestamp": "1537236123",
    "context_page_id": "4006",
    "predict_category_property": "57:-1;50:91,20;79:51",
    "shop_id": "676",
    "shop_review_num_level": "4",
    "shop_review_positive_rate": "0.9876543210123457",
    "shop_star_level": "5002",
    "shop_score_service": "1",
    "shop_score_delivery": "-1",
    "shop_score_description": "0.5",
    "is_trade": "0",
}
HEADER = " ".join(COLUMNS)


def line(**changes: str | int) -> str:
    return " ".join({**ROW, **{name: str(value) for name, value in changes.items()}}.values())


def write(path: Path, *lines: str, end: str = "\n") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([HEADER, *lines]) + end)
    return path


def request_for(tmp_path: Path, *paths: Path, names: tuple[str, ...] = ()) -> ReadRequest:
    (tmp_path / "scratch").mkdir()
    return ReadRequest(paths=paths, scratch=tmp_path / "scratch", names=names)


def rows_of(tmp_path: Path, *paths: Path, names: tuple[str, ...] = ()) -> tuple[RawData, pl.DataFrame]:
    raw = IaacReader().read(request_for(tmp_path, *paths, names=names))
    return raw, raw.frame.collect()


def refusal(tmp_path: Path, *paths: Path) -> str:
    with pytest.raises((DataError, SourceError)) as caught:
        rows_of(tmp_path, *paths)
    return str(caught.value)


def test_a_row_keeps_all_values_except_useless_ids(tmp_path: Path) -> None:
    raw, frame = rows_of(tmp_path, write(tmp_path / "a.txt", line()))
    derived = {"hour", "predicted_categories", "predicted_properties"}
    assert set(frame.columns) == set(COLUMNS) - {"instance_id", "context_id", iaac.PREDICTED} | derived
    assert frame["user_id"].item() == 2**63 - 1
    assert frame["item_property_list"].item() == "20;51;26"
    assert frame["user_gender_id"].item() == frame["item_sales_level"].item() == -1
    assert (raw.suffix, raw.files) == ("", (tmp_path / "a.txt",))


def test_the_hour_is_that_of_beijing(tmp_path: Path) -> None:
    # 1537200000 is 18 September 2018, 00:00 in Beijing and 16:00 UTC of the day before.
    times = (1_537_200_000, 1_537_200_000 - 1, 1_537_236_544)
    _, frame = rows_of(tmp_path, write(tmp_path / "a.txt", *(line(context_timestamp=time) for time in times)))
    assert frame["hour"].to_list() == [0, 23, 10]


def test_a_missing_score_is_null_and_others_are_numbers(tmp_path: Path) -> None:
    _, frame = rows_of(tmp_path, write(tmp_path / "a.txt", line()))
    assert frame.select(iaac.NUMBERS).row(0) == (0.9876543210123457, 1.0, None, 0.5)


@pytest.mark.parametrize(
    ("text", "categories", "properties"),
    [
        ("57:-1;50:91,20;79:51", "57;50;79", "91;20;51"),
        ("57:-1;79:-1", "57;79", ""),
        ("57:1", "57", "1"),
        ("57:1;79:-1", "57;79", "1"),
        ("57:-1;79:12", "57;79", "12"),
        ("-1", "-1", ""),
    ],
)
def test_predictions_become_categories_and_properties(
    tmp_path: Path, text: str, categories: str, properties: str
) -> None:
    path = write(tmp_path / "a.txt", line(predict_category_property=text))
    _, frame = rows_of(tmp_path, path)
    assert frame.select("predicted_categories", "predicted_properties").row(0) == (categories, properties)


def test_blocks_keep_the_order_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iaac, "BLOCK_BYTES", 600)
    path = write(tmp_path / "a.txt", *(line(user_id=number, is_trade=number % 2) for number in range(50)))
    _, frame = rows_of(tmp_path, path)
    assert frame["user_id"].to_list() == list(range(50))
    assert len(list((tmp_path / "scratch").rglob("*.parquet"))) > 10


@pytest.mark.parametrize("end", ["", "\n"])
def test_the_last_line_may_lack_a_line_end(tmp_path: Path, end: str) -> None:
    _, frame = rows_of(tmp_path, write(tmp_path / "a.txt", line(), line(is_trade=1), end=end))
    assert frame["is_trade"].to_list() == [0, 1]


def test_columns_may_have_another_order(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(" ".join(reversed(COLUMNS)) + "\n" + " ".join(reversed(line().split())) + "\n")
    assert rows_of(tmp_path, path)[1]["user_age_level"].item() == 1003


def folder_with_both(tmp_path: Path) -> Path:
    write(tmp_path / "raw" / ROUND1_FILE, line(user_id=1))
    write(tmp_path / "raw" / ROUND2_FILE, line(user_id=2), line(user_id=3))
    return tmp_path / "raw"


def zipped(path: Path, *files: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, f"inner/{file.name}")
    return path


def test_a_folder_contributes_the_files_of_the_card(tmp_path: Path) -> None:
    folder = folder_with_both(tmp_path)
    raw, frame = rows_of(tmp_path, folder)
    assert frame["user_id"].to_list() == [1, 2, 3]
    assert raw.files == (folder / ROUND1_FILE, folder / ROUND2_FILE)
    assert raw.note == f"{ROUND1_FILE}: 1 rows, {ROUND2_FILE}: 2 rows"


def test_round_1_alone_is_selected_from_a_folder_with_both(tmp_path: Path) -> None:
    raw, frame = rows_of(tmp_path, folder_with_both(tmp_path), names=(ROUND1_FILE,))
    assert frame["user_id"].to_list() == [1]
    assert len(raw.files) == 1


def test_a_folder_may_contain_text_and_archive(tmp_path: Path) -> None:
    folder = folder_with_both(tmp_path)
    zipped(folder / "round2.zip", folder / ROUND2_FILE)
    (folder / ROUND2_FILE).unlink()
    raw, frame = rows_of(tmp_path, folder)
    assert frame["user_id"].to_list() == [1, 2, 3]
    assert raw.files[1] == folder / "round2.zip"


def test_one_archive_may_contain_both(tmp_path: Path) -> None:
    folder = folder_with_both(tmp_path)
    archive = zipped(tmp_path / "all.zip", folder / ROUND2_FILE, folder / ROUND1_FILE)
    raw, frame = rows_of(tmp_path, archive)
    assert frame["user_id"].to_list() == [1, 2, 3]
    assert raw.files == (archive,)


def test_a_text_file_is_read_under_any_name(tmp_path: Path) -> None:
    raw, frame = rows_of(tmp_path, write(tmp_path / ROUND2_FILE, line()))
    assert frame.height == 1
    assert raw.note.endswith(f"without {ROUND1_FILE}")


def test_an_incomplete_folder_is_refused(tmp_path: Path) -> None:
    folder = folder_with_both(tmp_path)
    (folder / ROUND2_FILE).unlink()
    assert f"raw has no {ROUND2_FILE}" in refusal(tmp_path, folder)


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    assert "no such data file" in refusal(tmp_path, tmp_path / "gone")


def test_the_same_file_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", line())
    assert "given twice" in refusal(tmp_path, path, path)


def test_an_archive_without_the_files_is_refused_with_its_content(tmp_path: Path) -> None:
    files = [write(tmp_path / name, line()) for name in ("x.txt", "y.txt")]
    message = refusal(tmp_path, zipped(tmp_path / "a.zip", *files))
    assert "contains none of" in message
    assert "x.txt, y.txt" in message


def test_a_file_that_is_not_an_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"<html>please log in</html>")
    assert "not a zip archive" in refusal(tmp_path, tmp_path / "a.zip")


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    text = write(tmp_path / "a.txt", *(line(user_id=number) for number in range(200)))
    archive = zipped(tmp_path / "a.zip", text)
    content = bytearray(archive.read_bytes())
    content[200:260] = bytes(60)
    archive.write_bytes(content)
    assert f"damaged archive: {archive}" in refusal(tmp_path, archive)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (line().rsplit(" ", 3)[0], "a line has 27 values, separated by single spaces; this one has 24"),
        (line() + " 7", "this one has 28"),
        (line(is_trade="2"), "is_trade is 0 or 1, not '2'"),
        (line(is_trade="yes"), "is_trade is 0 or 1, not 'yes'"),
        (line(user_age_level="old"), "user_age_level is a number, not 'old'"),
        (line(shop_score_service="high"), "shop_score_service is a number, not 'high'"),
        (line(user_id=2**63), "user_id is a number"),
        (line(item_city_id=""), "item_city_id is empty"),
        ("", "this one has 1"),
    ],
)
def test_a_broken_line_is_named_by_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str, message: str
) -> None:
    monkeypatch.setattr(iaac, "BLOCK_BYTES", 1500)
    path = write(tmp_path / "a.txt", *[line()] * 10, bad, *[line()] * 10)
    error = refusal(tmp_path, path)
    assert message in error
    assert f"{path}, line 12" in error


def test_a_truncated_file_is_distinguished_from_a_broken_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", line(), line()[:-40], end="")
    assert f"{path}, line 3. the file seems truncated" in refusal(tmp_path, path)


def header_only(tmp_path: Path, text: str) -> Path:
    (tmp_path / "a.txt").write_text(text)
    return tmp_path / "a.txt"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        (HEADER + "\n", "a header but no rows"),
        (HEADER.removesuffix(" is_trade") + "\n" + line()[:-2], "a test file without is_trade"),
        (HEADER.replace(" item_city_id", "") + "\n", "missing column: "),
        (HEADER + " more\n", "unexpected column: "),
        ("user,item,label\n1,2,0\n", "not an IAAC file"),
        (line() + "\n", "not an IAAC file"),
    ],
)
def test_a_wrong_file_is_recognized_by_its_first_line(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(tmp_path, header_only(tmp_path, text))


def test_binary_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(bytes(range(256)))
    assert "not an IAAC file" in refusal(tmp_path, tmp_path / "a.txt")


def twin_line(number: int) -> str:
    return line(instance_id=number * TWIN_MODULUS + TWIN_REMAINDER, user_id=number)


def twin(path: Path, rows: int, probabilities: list[float] | None = None) -> Path:
    write(path, *map(twin_line, range(rows)))
    if probabilities is not None:
        truth = pl.DataFrame({Column.PROBABILITY: probabilities})
        truth.write_parquet(path.with_name(path.name + iaac.TRUTH_SUFFIX))
    return path


def test_a_twin_is_recognized_by_its_ids(tmp_path: Path) -> None:
    raw, frame = rows_of(tmp_path, twin(tmp_path / "real.txt", 5))
    assert raw.suffix == "-twin"
    assert raw.note.startswith("a synthetic twin")
    assert Column.PROBABILITY not in frame.columns


def test_a_twins_truth_is_read_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iaac, "BLOCK_BYTES", 1200)
    _, frame = rows_of(tmp_path, twin(tmp_path / "a.txt", 6, [0.0, 0.125, 0.25, 0.375, 0.5, 0.625]))
    assert frame[Column.PROBABILITY].to_list() == (frame["user_id"] / 8).to_list()


def test_a_twins_truth_is_read_beside_an_archive(tmp_path: Path) -> None:
    text = twin(tmp_path / "a.txt", 2, [0.25, 0.75])
    archive = zipped(tmp_path / "a.zip", text)
    text.unlink()
    assert rows_of(tmp_path, archive)[1][Column.PROBABILITY].to_list() == [0.25, 0.75]


def test_the_truth_is_used_only_if_all_files_have_it(tmp_path: Path) -> None:
    paths = twin(tmp_path / "a.txt", 2, [0.25, 0.75]), twin(tmp_path / "b.txt", 2)
    assert Column.PROBABILITY not in rows_of(tmp_path, *paths)[1].columns


def test_a_truth_with_another_number_of_rows_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, twin(tmp_path / "a.txt", 3, [0.25, 0.75]))
    assert "one row per row of its data file" in message


def test_real_and_twin_files_cannot_be_mixed(tmp_path: Path) -> None:
    real = write(tmp_path / "a.txt", line())
    message = refusal(tmp_path, real, twin(tmp_path / "b.txt", 2))
    assert re.search(r"must not be mixed with files of a twin: .*a.txt \(real\), .*b.txt \(twin\)", message)


def test_one_matching_id_among_thousands_makes_no_twin(tmp_path: Path) -> None:
    lines = [line(instance_id=7)] * 2000
    raw, _ = rows_of(tmp_path, write(tmp_path / "a.txt", twin_line(0), *lines))
    assert raw.suffix == ""


def test_progress_is_the_fraction_of_bytes_read(tmp_path: Path) -> None:
    fractions: list[float] = []
    request = request_for(tmp_path, write(tmp_path / ROUND1_FILE, line()))
    IaacReader().read(replace(request, progress=fractions.append))
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)
