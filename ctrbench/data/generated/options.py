"""Options of generated data: from the command line to a spec, and from a spec to a name and a command."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from ctrbench.data.card_values import MAX_DATASET_NAME
from ctrbench.data.generated.shards import Dispatch
from ctrbench.errors import SettingError, did_you_mean
from ctrbench.problems import all_problems
from ctrbench.synthetic.production.generator import FEW_IDS, is_countable, production_fields
from ctrbench.synthetic.production.spec import SIZES, ProductionSpec, spec_for

HIDDEN = ("rows", "data_version")
"""Fields of the spec that are no settings of `--variant`."""


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """Options of a dataset that is generated, as a user gives them; see `parse_spec` for the first two."""

    rows: str | None = None
    variant: str | None = None
    is_stored: bool = True
    """Whether rows are written to disk; otherwise they are generated on every read."""
    jobs: int | None = None
    """Number of generator processes (default: number of cores)."""
    dispatch: Dispatch | None = None
    """Dispatches the work elsewhere, such as to a cluster, in place of `jobs`."""

    @property
    def spec(self) -> ProductionSpec:
        """The spec of the dataset; raises `SettingError` for invalid options."""
        if self.dispatch is not None and self.jobs is not None:
            remedy = "remove it: a Ray cluster uses all of its cores"
            raise SettingError(
                "--jobs must be used with --engine local", value=f"--jobs {self.jobs}", remedy=remedy
            )
        return parse_spec(rows=self.rows, variant=self.variant)

    @property
    def given_options(self) -> list[str]:
        """Command-line options that differ from their default."""
        values = {
            "--rows": self.rows,
            "--variant": self.variant,
            "--on-the-fly": not self.is_stored,
            "--jobs": self.jobs,
            "--engine": self.dispatch,
        }
        return [option for option, value in values.items() if value]


def parse_spec(*, rows: str | None, variant: str | None) -> ProductionSpec:
    """Return the spec that the command line describes.

    `rows` is a number (20e6) or the name of a size (20m), `200k` by default. `variant` is a list of settings of the
    spec (null,interaction=mlp,seed=1), where a name without a value means true.
    """
    settings, size = _parse_variant(variant or ""), rows or "200k"
    spec = SIZES[size] if size in SIZES else spec_for(_parse_rows(size))
    content = spec.model_dump() | settings
    try:
        return ProductionSpec.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0]) if problem["loc"] else ""
        if problem["type"] == "extra_forbidden":
            fields = [_option(field) for field in ProductionSpec.model_fields if field not in HIDDEN]
            remedy = did_you_mean(_option(name), fields)
            raise SettingError("unknown setting of --variant", value=_option(name), remedy=remedy) from None
        rules = [other.message for other in all_problems(error) if other.location[:1] == problem["loc"][:1]]
        raise SettingError(
            f"{_option(name) or '--variant'} {' or '.join(rules).replace(' or must ', ' or ')}",
            value=settings.get(name, variant),
        ) from None


def _option(name: str) -> str:
    """Return the name of a setting as it is written on the command line."""
    return name.replace("_", "-")


def _parse_rows(text: str) -> int:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (1 <= number < math.inf and number == int(number)):
        rule = "rows must be a whole number, such as 20e6, or the name of a size"
        raise SettingError(rule, value=text, remedy=did_you_mean(text, SIZES))
    return int(number)


def _parse_variant(variant: str) -> dict[str, object]:
    """Return the settings of a variant; names may be written with hyphens."""
    pairs = (part.strip().partition("=") for part in variant.split(",") if part.strip())
    settings: dict[str, object] = {
        name.strip().replace("-", "_"): value.strip() if equal else True for name, equal, value in pairs
    }
    for name in settings:
        if name == "rows":
            remedy = "set the number of rows with --rows"
            raise SettingError("this setting must not be part of --variant", value=name, remedy=remedy)
        if name in HIDDEN:
            raise SettingError("unknown setting of --variant", value=_option(name), remedy="remove it")
    return settings


def check_domains(features: Sequence[str], spec: ProductionSpec) -> None:
    """Raise `SettingError` unless each can be a domain feature."""
    names = [field.name for field in production_fields(spec) if is_countable(field)]
    for name in features:
        if name not in names:
            rule = f"a domain feature of generated data must be a field of at most {FEW_IDS:,} values"
            raise SettingError(rule, value=name, remedy=did_you_mean(name, names))


def command_of(spec: ProductionSpec) -> str:
    """Return the command that prepares the dataset of a spec."""
    settings = [
        name if value is True else f"{name}={value}" for name, value in _changed_settings(spec).items()
    ]
    variant = f" --variant {','.join(settings)}" if settings else ""
    return f"ctrbench prepare production --rows {spec.rows}{variant}"


def _changed_settings(spec: ProductionSpec) -> dict[str, object]:
    """Return the settings that differ from the defaults for the spec's number of rows."""
    default = spec_for(spec.rows)
    names = [name for name in type(spec).model_fields if getattr(spec, name) != getattr(default, name)]
    return {name: getattr(spec, name) for name in names}


def dataset_name(spec: ProductionSpec) -> str:
    """Return the name of the dataset of a spec: its rows, and the settings that differ from the default."""
    parts = [name if value is True else f"{name}-{value}" for name, value in _changed_settings(spec).items()]
    parts = [part.replace("_", "-").removeprefix("interaction-") for part in parts]
    name = "-".join(["production", _short_number(spec.rows), *parts])
    if len(name) > MAX_DATASET_NAME:
        rule = f"the name of a dataset must have at most {MAX_DATASET_NAME} characters"
        raise SettingError(rule, value=name, remedy="change fewer settings of --variant")
    return name


def _short_number(rows: int) -> str:
    for unit, size in (("g", 10**9), ("m", 10**6), ("k", 10**3)):
        if rows >= size and (rows * 10) % size == 0:
            units, tenths = divmod(rows * 10 // size, 10)
            return f"{units}.{tenths}{unit}" if tenths else f"{units}{unit}"
    return str(rows)
