from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from ctrbench.errors import (
    CtrbenchError,
    Problem,
    describe_exception,
    did_you_mean,
    first_problem,
    plugin_error,
)


class Example(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int
    names: tuple[str, ...] = ()

    @field_validator("size")
    @classmethod
    def _check_size(cls, size: int) -> int:
        if size < 1:
            raise ValueError("a size is positive")
        return size


def problem_of(content: dict[str, object]) -> Problem:
    with pytest.raises(ValidationError) as error:
        Example.model_validate(content)
    return first_problem(error.value)


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


def test_a_problem_names_its_location_and_value() -> None:
    problem = problem_of({"size": 1, "names": ["a", 2]})
    assert (problem.path, problem.value, problem.is_unknown_key) == ("names.1", 2, False)
    assert str(problem).startswith("names.1: ")


def test_the_message_of_a_validator_has_no_prefix() -> None:
    assert str(problem_of({"size": 0})) == "size: a size is positive"


def test_an_unknown_key_is_marked() -> None:
    assert problem_of({"size": 1, "sise": 2}).is_unknown_key


def test_an_exception_of_ctrbench_is_no_error_of_a_plugin() -> None:
    with pytest.raises(KeyError) as raised:
        raise KeyError("age")
    assert plugin_error(raised.value) is None
    assert describe_exception(raised.value) == "KeyError: 'age'"
