from __future__ import annotations

import pytest

from ctrbench.errors import SettingError
from ctrbench.runs.grid import make_config, parse_seeds
from ctrbench.train.config import TrainConfig


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("1", (1,)),
        ("3", (1, 2, 3)),
        ("1,2,7", (1, 2, 7)),
        ("3-5", (3, 4, 5)),
        ("7,", (7,)),
        ("2,2,1", (2, 1)),
    ],
)
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["x", "", "0", "5-3", "1,x", "-1", "1.5", "1-2-3", "٣", "1,-2"])
def test_bad_seeds(text: str) -> None:
    with pytest.raises(SettingError, match="seeds must be"):
        parse_seeds(text)


@pytest.mark.parametrize("text", ["1001", "1000000000", "1-1000000000", "0-1000", "5-2000"])
def test_more_seeds_than_the_bound_are_refused_and_never_listed(text: str) -> None:
    with pytest.raises(SettingError, match="number of seeds must be between 1 and 1,000"):
        parse_seeds(text)


@pytest.mark.parametrize(
    "text", ["9" * 30, "9" * 5_000, f"1-{'9' * 5_000}", "1,4294967296", "4294967296-4294967297"]
)
def test_a_seed_beyond_32_bits_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match="a seed must be between 0 and 4,294,967,295") as error:
        parse_seeds(text)
    assert len(str(error.value)) < 200


def test_the_largest_number_of_seeds() -> None:
    assert parse_seeds("1000") == tuple(range(1, 1001))
    assert parse_seeds("4294967295,0") == (4294967295, 0)


def test_settings_that_are_not_given_keep_their_defaults() -> None:
    config = make_config(lr=0.01, batch_size=None)
    assert (config.lr, config.batch_size) == (0.01, 256)


def test_a_bad_option_is_named() -> None:
    with pytest.raises(SettingError, match=r"--optimizer must be 'adam' or 'lazy_adam': sgd"):
        make_config(optimizer="sgd")


def test_a_setting_younger_than_the_records_is_in_the_key_only_where_it_is_on() -> None:
    assert "precision" not in make_config().key
    assert make_config(precision="bf16").key == make_config().key | {"precision": "bf16"}
    assert TrainConfig.model_validate(make_config(precision="bf16").key).precision == "bf16"
