import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ctrbench.errors import DataError, SettingError
from ctrbench.names import Column
from ctrbench.readers.base import ReadRequest
from ctrbench.readers.iaac import COLUMNS, ROUND1_FILE, ROUND2_FILE, TRUTH_SUFFIX, TWIN_MODULUS, IaacReader
from ctrbench.synthetic.iaac import marginals
from ctrbench.synthetic.iaac import twin as iaac
from ctrbench.synthetic.iaac.items import make_items
from ctrbench.synthetic.iaac.rows import Round
from ctrbench.synthetic.iaac.shops import make_shops
from ctrbench.synthetic.iaac.twin import SIDECAR, make_twin, marked_ids

ROWS = 40_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("twin")
    make_twin(ROWS, folder)
    return folder


@pytest.fixture(scope="module")
def frame(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    return (
        IaacReader()
        .read(ReadRequest(paths=(folder,), scratch=tmp_path_factory.mktemp("scratch")))
        .frame.collect()
    )


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use small blocks, which suffice to test format and determinism, though not the calibration."""
    monkeypatch.setattr(iaac, "BLOCK_ROWS", 1000)


def shares(frame: pl.DataFrame, column: str) -> dict[int, float]:
    return {value: count / frame.height for value, count in frame[column].value_counts().iter_rows()}


# --- format --------------------------------------------------------------------------------------------------------


def test_file_names_match_the_real_data(folder: Path) -> None:
    texts = {ROUND1_FILE, ROUND2_FILE}
    assert {path.name for path in folder.iterdir()} == {
        *texts,
        *(name + TRUTH_SUFFIX for name in texts),
        SIDECAR,
    }


def test_rounds_have_the_real_shares_of_rows(folder: Path) -> None:
    counts = [(folder / name).read_bytes().count(b"\n") - 1 for name in (ROUND1_FILE, ROUND2_FILE)]
    assert sum(counts) == ROWS
    assert counts[0] == round(ROWS * 478_138 / 10_910_174)


def test_lines_have_the_format_of_the_real_data(folder: Path) -> None:
    number, optional, score = r"[1-9]\d{0,18}", r"(-1|[1-9]\d{0,18})", r"(-1|1|0|0\.\d{1,18}|\de-\d+)"
    level, listed = r"(-1|\d{1,4})", rf"{number}(;{number})+"
    predicted = rf"{number}:(-1|{number}(,{number}){{0,4}})"
    levels, prediction = " ".join([level] * 4), rf"{predicted}(;{predicted})*"
    item, user = f"{number} {listed} {listed} {optional} {optional} {levels}", f"{number} {levels}"
    context = rf"{number} \d{{10}} 4\d{{3}} {prediction}"
    shop = rf"{number} \d\d? {score} \d{{4}} {score} {score} {score}"
    pattern = re.compile(f"{number} {item} {user} {context} {shop} [01]")
    lines = (folder / ROUND1_FILE).read_text().splitlines()
    assert lines[0] == " ".join(COLUMNS)
    assert [line for line in lines[1:] if not pattern.fullmatch(line)] == []


def test_marked_ids_are_distinct_64_bit_integers() -> None:
    ids = marked_ids(np.arange(200_000), seed=3)
    assert len(set(ids.tolist())) == 200_000
    assert ids.min() >= 0
    assert np.all(ids % TWIN_MODULUS == ids[0] % TWIN_MODULUS)
    assert iaac.marked_ids(np.array([2**42 - 1]), seed=3)[0] > 0


def test_reader_recognizes_the_twin_without_its_sidecar(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "round.txt"
    copy.write_bytes((folder / ROUND1_FILE).read_bytes())
    request = ReadRequest(paths=(copy,), scratch=tmp_path)
    assert IaacReader().read(request).suffix == "-twin"


def test_items_and_users_determine_their_columns(frame: pl.DataFrame) -> None:
    item_columns = [
        "item_category_list",
        "item_property_list",
        "item_brand_id",
        "item_city_id",
        "item_price_level",
    ]
    item_columns += ["item_sales_level", "item_collected_level", "item_pv_level", "shop_id"]
    user_columns = ["user_gender_id", "user_age_level", "user_occupation_id", "user_star_level"]
    assert frame.select("item_id", *item_columns).n_unique() == frame["item_id"].n_unique()
    assert frame.select("user_id", *user_columns).n_unique() == frame["user_id"].n_unique()


# --- marginals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "real"),
    [
        ("user_gender_id", {0: 0.7546, 1: 0.1967, 2: 0.0216, -1: 0.0270}),
        ("user_age_level", {1003: 0.3544, 1004: 0.2638, 1002: 0.1468, -1: 0.0020}),
        ("user_occupation_id", {2005: 0.6275, 2002: 0.3073, 2004: 0.0498}),
        ("user_star_level", {3006: 0.1715, 3003: 0.1560, 3009: 0.0086}),
        ("context_page_id", {4001: 0.5594, 4002: 0.0915, 4020: 0.0041}),
        ("item_price_level", {7: 0.4377, 8: 0.2417, 6: 0.1863}),
        ("item_sales_level", {12: 0.1819, 11: 0.1682, 15: 0.0464}),
        ("item_collected_level", {12: 0.1769, 10: 0.0880}),
        ("item_pv_level", {18: 0.2135, 16: 0.1306}),
        ("shop_star_level", {5013: 0.1728, 5012: 0.1540, 5009: 0.0380}),
        ("shop_review_num_level", {17: 0.1703, 14: 0.1061}),
        ("hour", {21: 0.0894, 4: 0.0033}),
    ],
)
def test_levels_have_the_real_shares(frame: pl.DataFrame, column: str, real: dict[int, float]) -> None:
    # Shares are less accurate where fewer entities hold the rows.
    measured = shares(frame, column)
    tolerance = {"context": 0.01, "hour": 0.01, "user": 0.02}.get(column.split("_")[0], 0.03)
    assert {level: measured[level] for level in real} == pytest.approx(real, abs=tolerance)


def test_age_occupation_and_star_are_missing_together(frame: pl.DataFrame) -> None:
    missing = frame.select(pl.col("user_age_level", "user_occupation_id", "user_star_level") == -1)
    assert (
        missing.filter(pl.any_horizontal(pl.all())).height
        == missing.filter(pl.all_horizontal(pl.all())).height
        > 0
    )


def test_days_have_the_real_rows_and_label_rates(frame: pl.DataFrame) -> None:
    day = (pl.col("context_timestamp") - marginals.FIRST_DAY) // 86_400
    by_day = frame.group_by(day.alias("day")).agg(pl.len(), pl.col("is_trade").mean(), pl.col("hour").max())
    days = {row["day"]: row for row in by_day.iter_rows(named=True)}
    assert set(days) == {*range(8), *range(18, 25)}
    assert days[7]["hour"] == 11
    assert days[6]["len"] / ROWS == pytest.approx(1_934_443 / 10_910_174, abs=0.006)
    for number, rate in ((0, 0.012838), (6, 0.005498), (7, 0.046089)):
        error = np.sqrt(rate * (1 - rate) / days[number]["len"])
        assert abs(days[number]["is_trade"] - rate) < 4 * error


def test_numbers_of_distinct_ids_match_round_1() -> None:
    distributions = (marginals.ITEMS, marginals.SHOPS, marginals.USERS)
    for distribution, distinct in zip(distributions, (10_075, 3_959, 197_694), strict=True):
        expected = -np.expm1(-478_138 * distribution.shares(distribution.size(478_138))).sum()
        assert expected == pytest.approx(distinct, rel=0.02)


# --- truth ---------------------------------------------------------------------------------------------------------


def test_labels_follow_the_true_probabilities(frame: pl.DataFrame) -> None:
    label, probability = frame["is_trade"].to_numpy(), frame[Column.PROBABILITY].to_numpy()
    error = np.sqrt((probability * (1 - probability)).sum()) / ROWS
    assert abs(label.mean() - probability.mean()) < 4 * error
    top = probability > np.quantile(probability, 0.9)
    error = np.sqrt((probability[top] * (1 - probability[top])).sum()) / top.sum()
    assert abs(label[top].mean() - probability[top].mean()) < 4 * error


def test_ladder_increases_with_each_component(folder: Path) -> None:
    ladder = json.loads((folder / SIDECAR).read_text())["auc"]
    auc = [step["features, all rows"] for step in ladder.values()]
    names = [
        "day",
        "+ item",
        "+ user",
        "+ context",
        "+ taste",
        "+ structured",
        "+ idiosyncratic",
        "+ residual",
    ]
    assert list(ladder) == names
    assert auc[5] - auc[4] > 0.02
    assert 0.68 < auc[-1] < 0.73


def test_sidecar_names_version_levels_and_ceiling(folder: Path) -> None:
    content = json.loads((folder / SIDECAR).read_text())
    assert content["version"] == 2
    levels, ceiling = content["auc"][content["levels"]], content["auc"][content["ceiling"]]
    assert set(levels) == {
        f"{score}, {part}"
        for score in ("features", "level")
        for part in ("all rows", "fifth sixth", "last sixth")
    }
    for part in ("all rows", "fifth sixth", "last sixth"):
        assert ceiling[f"features, {part}"] - levels[f"features, {part}"] > 0.05


def test_most_of_the_item_effect_belongs_to_values_with_many_rows() -> None:
    """A regression on category and levels explains the effect of items, weighted by their rows."""
    items = make_items(marginals.ITEMS.size(ROWS), make_shops(marginals.SHOPS.size(ROWS), ROWS, 0), ROWS, 0)
    columns = items.text.str.split(" ").list
    values = [items.category, *(columns.get(i).cast(pl.Int64).to_numpy() for i in (5, 6, 7, 8))]
    design = np.concatenate(
        [np.eye(code.max() + 1)[code] for code in (np.unique(v, return_inverse=True)[1] for v in values)],
        axis=1,
    )
    weight = np.sqrt(items.shares)
    for effect in (items.quality, *items.content.T):
        centered = effect - items.shares @ effect
        fitted = design @ np.linalg.lstsq(design * weight[:, None], centered * weight)[0]
        assert items.shares @ (centered - fitted) ** 2 < 0.2 * (items.shares @ centered**2)


# --- determinism and files -----------------------------------------------------------------------------------------


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.usefixtures("small_blocks")
def test_seed_and_rows_determine_every_byte(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_twin(3000, tmp_path / name, seed=seed)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert content(tmp_path / "a")[ROUND2_FILE] != content(tmp_path / "c")[ROUND2_FILE]


@pytest.mark.usefixtures("small_blocks")
def test_instance_ids_are_unique(tmp_path: Path) -> None:
    make_twin(5000, tmp_path)
    lines = [
        line for name in (ROUND1_FILE, ROUND2_FILE) for line in (tmp_path / name).read_text().splitlines()
    ]
    ids = [line.split(" ")[0] for line in lines]
    assert len(set(ids)) == 5001


@pytest.mark.usefixtures("small_blocks")
def test_single_round_with_progress(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    make_twin(2500, tmp_path, rounds=[1], progress=lambda *call: calls.append(call))
    assert not (tmp_path / ROUND2_FILE).exists()
    assert (tmp_path / ROUND1_FILE).read_bytes().count(b"\n") == 2501
    assert calls == [(1000, 2500), (2000, 2500), (2500, 2500)]


@pytest.mark.usefixtures("small_blocks")
def test_a_twin_overwrites_another_twin(tmp_path: Path) -> None:
    make_twin(500, tmp_path)
    make_twin(600, tmp_path)
    assert json.loads((tmp_path / SIDECAR).read_text())["rows"] == 600


def test_files_without_a_sidecar_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / ROUND2_FILE).write_text("precious")
    with pytest.raises(SettingError, match="must not overwrite files that may be the real data"):
        make_twin(500, tmp_path)
    assert (tmp_path / ROUND2_FILE).read_text() == "precious"


@pytest.mark.parametrize(("rows", "rounds"), [(99, [1, 2]), (500, []), (500, [3]), (500, [1, 1])])
def test_invalid_rows_and_rounds_are_refused(tmp_path: Path, rows: int, rounds: list[Round]) -> None:
    with pytest.raises(SettingError):
        make_twin(rows, tmp_path / "out", rounds=rounds)
    assert not (tmp_path / "out").exists()


def test_output_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(SettingError, match="written to a folder"):
        make_twin(500, tmp_path / "out")


def test_insufficient_disk_space_is_detected_in_advance(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no space left on the disk"):
        make_twin(10**12, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small_blocks")
def test_no_files_remain_after_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("polars.DataFrame.write_csv", full)
    with pytest.raises(DataError, match="no space left on the disk"):
        make_twin(500, tmp_path)
    assert list(tmp_path.iterdir()) == []
