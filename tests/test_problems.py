from __future__ import annotations

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from ctrbench.errors import SettingError
from ctrbench.problems import Problem, combine, describe_problem, first_problem, raise_all, shown_problems


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


def test_a_problem_names_its_location_and_value() -> None:
    problem = problem_of({"size": 1, "names": ["a", 2]})
    assert (problem.path, problem.value, problem.is_unknown_key) == ("names.1", 2, False)
    assert str(problem).startswith("names.1: ")


def test_the_message_of_a_validator_has_no_prefix() -> None:
    assert str(problem_of({"size": 0})) == "size: a size is positive"


def test_an_unknown_key_is_marked() -> None:
    assert problem_of({"size": 1, "sise": 2}).is_unknown_key


class Range(BaseModel):
    model_config = ConfigDict(extra="forbid")
    start: int
    stop: int

    @model_validator(mode="after")
    def _check(self) -> Range:
        rules = {"a start is positive": self.start > 0, "a stop is positive": self.stop > 0}
        raise_all(
            SettingError(rule, value=str(self), remedy="raise it") for rule, ok in rules.items() if not ok
        )
        return self


def errors_in(content: dict[str, object]) -> list[str]:
    with pytest.raises(ValidationError) as error:
        Range.model_validate(content)
    return [str(describe_problem(problem, ["start", "stop"])) for problem in shown_problems(error.value)]


def test_misspelled_keys_come_first_and_explain_missing_ones() -> None:
    assert errors_in({"strat": 1}) == ["unknown key: strat. did you mean 'start'?", "missing key: stop"]


def test_an_unknown_key_without_a_similar_one_lists_all() -> None:
    assert errors_in({"start": 1, "stop": 2, "color": 3}) == ["unknown key: color. known: start, stop"]


def test_a_wrong_value_is_a_rule_about_its_key() -> None:
    assert errors_in({"start": "x", "stop": 2}) == ["start must be a valid integer: 'x'"]


def test_all_rules_of_a_validator_are_reported() -> None:
    assert errors_in({"start": 0, "stop": 0}) == [
        "a start is positive: start=0 stop=0. raise it",
        "a stop is positive: start=0 stop=0. raise it",
    ]


def test_one_problem_of_a_file_is_its_own_error() -> None:
    error = combine(
        "a file must be valid", "a.toml", [SettingError("missing key", value="size")], remedy="see x"
    )
    assert (error.rule, error.value, error.remedy) == ("missing key", "size in a.toml", "see x")


def test_several_problems_of_a_file_are_a_list() -> None:
    errors = [SettingError("missing key", value="size"), SettingError("missing key", value="name")]
    error = combine("a file must be valid", "a.toml", errors, remedy="see x")
    assert error.value == "a.toml has 2 problems\n  - missing key: size\n  - missing key: name"
    assert error.remedy == "see x"
