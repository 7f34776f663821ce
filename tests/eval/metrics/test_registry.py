"""Metrics are found like other plug-ins, and one definition serves every way of evaluating predictions."""

from __future__ import annotations

import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.special import expit

from ctrbench.errors import ContractError, SettingError
from ctrbench.eval.evaluate import measure_bins, measure_file, measure_frame
from ctrbench.eval.external import Limits
from ctrbench.eval.measures import DomainTable
from ctrbench.eval.metrics.base import Metric
from ctrbench.eval.metrics.registry import MetricSet, builtin_metrics, load_metrics

TABLE = DomainTable(domain=range(10), rows_train=[0, *range(1, 10)], num_bins=3)
USER_BRIER = '''
from ctrbench.eval.metrics.base import Floats, GroupMean, Groups, RowMetric, ScoredRows, ratio
from ctrbench.names import Column


def miss(rows: ScoredRows) -> Floats:
    return abs(rows.probability - rows.is_positive)


class _Miss(RowMetric):
    name, title, needs, terms = "miss", "miss", (Column.PROBABILITY,), (miss,)

    def values(self, groups: Groups) -> Floats:
        return ratio(groups.sum(miss), groups.rows)


class UserMiss(GroupMean):
    """Mean over users of the distance of the true probability from the label."""

    name, title, of, group_by = "user_miss", "miss per user", _Miss(), Column.USER
'''


@pytest.fixture
def brier_file(tmp_path: Path) -> Path:
    """The example in the docstring of `Metric`, as a file."""
    docstring = textwrap.dedent((Metric.__doc__ or "").partition("`my_brier.py`:\n")[2])
    file = tmp_path / "my_brier.py"
    file.write_text(docstring, encoding="utf-8")
    return file


def predictions(num_rows: int = 1_000) -> pl.DataFrame:
    rng = np.random.default_rng(5)
    logit = rng.normal(-1, 1, num_rows)
    return pl.DataFrame(
        {
            "domain": rng.integers(0, 10, num_rows).astype(np.int32),
            "user": rng.integers(0, 30, num_rows).astype(np.int32),
            "label": (rng.random(num_rows) < expit(logit)).astype(np.int8),
            "score": logit.astype(np.float32),
            "adapted": rng.normal(size=num_rows).astype(np.float32),
            "probability": expit(logit),
        }
    )


def brier(rows: pl.DataFrame, score: str = "score") -> float:
    return float(np.mean((expit(rows[score].to_numpy().astype(np.float64)) - rows["label"].to_numpy()) ** 2))


def test_built_in_metrics_are_the_files_of_the_folder() -> None:
    files = Path(__file__).parents[3].joinpath("ctrbench/eval/metrics").glob("[!_]*.py")
    expected = {file.stem for file in files} - {"base", "registry"}
    assert builtin_metrics().by_name.keys() == expected


def test_a_metric_from_a_file_is_computed_overall_per_domain_and_per_bin(brier_file: Path) -> None:
    rows, metrics = predictions(), load_metrics([str(brier_file)])
    measures = measure_frame(rows, table=TABLE, metrics=metrics)
    assert measures.overall == {"my_brier": pytest.approx(brier(rows))}
    assert measures.variants["adapted"] == {"my_brier": pytest.approx(brier(rows, "adapted"))}
    by_domain = [brier(rows.filter(pl.col("domain") == id_)) for id_ in range(10)]
    assert measures.domains.values["my_brier"].tolist() == pytest.approx(by_domain)
    # Training rows 9, 8, 7, ... of 45: the largest two domains have a midpoint in the first third.
    first = rows.filter(pl.col("domain").is_in([9, 8]))
    assert measures.bins[0].metrics == {"my_brier": pytest.approx(brier(first))}


def test_a_metric_from_a_file_is_the_same_for_files_larger_than_memory(
    brier_file: Path, tmp_path: Path
) -> None:
    rows, metrics = predictions(), builtin_metrics() | load_metrics([str(brier_file)])
    rows.write_parquet(tmp_path / "p.parquet")
    small = Limits(held=0, piece=100, chunk=70)
    held = measure_frame(rows, table=TABLE, metrics=metrics)
    external = measure_file(tmp_path / "p.parquet", table=TABLE, limits=small, metrics=metrics)
    assert external.overall == pytest.approx(held.overall)
    assert external.oracle == pytest.approx(held.oracle)
    assert external.domains.values["my_brier"] == pytest.approx(held.domains.values["my_brier"])
    for part, expected in zip(external.bins, held.bins, strict=True):
        assert part.metrics == pytest.approx(expected.metrics)
    assert measure_bins(tmp_path / "p.parquet", table=TABLE, limits=small, metrics=metrics) == tuple(
        external.bins
    )


@pytest.mark.parametrize("piece", [10, 500])
def test_a_mean_over_users_may_average_any_metric(tmp_path: Path, piece: int) -> None:
    (tmp_path / "user_miss.py").write_text(USER_BRIER, encoding="utf-8")
    rows, metrics = predictions(), load_metrics([str(tmp_path / "user_miss.py")])
    seen = rows.filter(pl.col("user") != 0)
    expected = float((seen["probability"] - seen["label"]).abs().mean())  # type: ignore[arg-type]
    rows.write_parquet(tmp_path / "p.parquet")
    limits = Limits(held=0, piece=piece, chunk=7)
    external = measure_file(tmp_path / "p.parquet", table=TABLE, limits=limits, metrics=metrics)
    assert measure_frame(rows, table=TABLE, metrics=metrics).overall == {"user_miss": pytest.approx(expected)}
    assert external.overall == {"user_miss": pytest.approx(expected)}


def test_an_entry_point_names_a_metric(brier_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(brier_file.parent)
    point = EntryPoint(name="brier-score", value="my_brier", group="ctrbench.metrics")
    monkeypatch.setattr(
        "ctrbench.discovery.entry_points", lambda group: [point] if group == "ctrbench.metrics" else []
    )
    assert load_metrics(["brier-score"]).by_name.keys() == {"my_brier"}
    assert "my_brier" not in builtin_metrics().by_name


def test_names_of_metrics_are_unique(brier_file: Path) -> None:
    with pytest.raises(
        SettingError, match=r"names of metrics must be unique: my_brier of .*my_brier\.py is also of"
    ):
        load_metrics([str(brier_file), str(brier_file)])
    brier_file.write_text(brier_file.read_text().replace('"my_brier"', '"auc"'), encoding="utf-8")
    with pytest.raises(SettingError, match=r"auc of .*brier\.py is a built-in metric"):
        load_metrics([str(brier_file)])


def test_a_metric_without_a_title_is_refused(brier_file: Path) -> None:
    brier_file.write_text(brier_file.read_text().replace('title = "My Brier"', ""), encoding="utf-8")
    with pytest.raises(ContractError, match=r"a metric must have a name and a title: .*lacks \['title'\]"):
        load_metrics([str(brier_file)])


def test_metrics_are_sorted_by_order_and_name() -> None:
    names = [metric.name for metric in builtin_metrics().metrics]
    assert names[:4] == ["logloss", "ne", "auc", "gauc"]
    shuffled = MetricSet.of(reversed(builtin_metrics().metrics))
    assert [metric.name for metric in shuffled.metrics] == names
