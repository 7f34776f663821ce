from __future__ import annotations

import pytest

from ctrbench.errors import CtrbenchError, describe_exception, did_you_mean, plugin_error


def test_an_error_states_rule_value_and_remedy() -> None:
    error = CtrbenchError("a size is positive.", value=0, remedy="raise it")
    assert str(error) == "a size is positive.: 0. raise it"
    assert str(CtrbenchError("no dataset is prepared")) == "no dataset is prepared"


def test_the_nearest_name_is_proposed() -> None:
    assert did_you_mean("gendr", ["age", "gender"]) == "did you mean 'gender'? known: age, gender"
    assert did_you_mean("xyz", ["age", "gender"]) == "known: age, gender"


def test_long_lists_of_names_are_not_shown() -> None:
    names = [f"name_{i}" for i in range(100)]
    assert did_you_mean("name_7x", names) == "did you mean 'name_7'?"


def test_an_exception_of_ctrbench_is_no_error_of_a_plugin() -> None:
    with pytest.raises(KeyError) as raised:
        raise KeyError("age")
    assert plugin_error(raised.value) is None
    assert describe_exception(raised.value) == "KeyError: 'age'"


class Odd(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


def test_an_exception_whose_message_raises_is_described() -> None:
    assert describe_exception(Odd()) == "Odd: (its message raises an exception)"


def test_a_description_can_be_written_as_utf_8() -> None:
    assert describe_exception(ValueError("caf\udce9")) == r"ValueError: caf\udce9"
