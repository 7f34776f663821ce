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


@pytest.mark.parametrize("text", ["x", "", "0", "5-3", "1,x", "-1", "1.5"])
def test_bad_seeds(text: str) -> None:
    with pytest.raises(SettingError, match="seeds must be"):
        parse_seeds(text)


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
