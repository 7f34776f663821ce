"""A study: the experiment behind one table or picture of a paper, as a TOML file to copy and change.

It names methods (a label and a selector each), backbones, domain sets and seeds, and what to draw. `load_study` finds
those that come with ctrbench by name, `adasparse/table1`, and a user's own by path.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ctrbench.errors import SettingError, did_you_mean, first_problem

Drawing = Literal["table", "bins", "domains", "pcoc", "domain_sets", "sparsity", "masks"]

REPRESENTATIVE = "representative"
"""In place of a domain set: the dataset's representative feature alone, as the one domain feature."""
NESTED = "nested"
"""In place of domain sets: the longest chain of the dataset's sets in which each holds the one before."""


class Study(BaseModel):
    """What is run, and what is drawn of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    source: str = ""
    """The table or figure of the paper that this is after."""
    note: str = ""
    """What differs from the paper, printed below."""
    draw: Drawing
    """`table`: methods × backbones; `bins`: gains by size of domain; `domains` and `pcoc`: AUC and PCOC of each domain;
    `domain_sets`: gain against the number of domains; `sparsity`: AUC against the pruned share reached; `masks`: the
    pruned neurons of three domains."""
    methods: dict[str, str] = Field(min_length=1)
    """Labels, in order, and what stands behind them: a name, name[setting=value] or a path."""
    backbones: tuple[str, ...] = Field(default=("dnn",), min_length=1)
    domain_sets: tuple[str, ...] = Field(default=("default",), min_length=1)
    """Named sets of the dataset, `representative`, or `nested` alone."""
    seeds: int | str = 3
    """As `ctrbench run` takes them."""
    train: dict[str, str | int | float] = {}
    """Training settings by the names of `ctrbench run`'s options, such as batch_size."""
    bins: int = Field(default=5, ge=1)
    by_user: bool = False
    """`table` and `domains`: show AUC within each user too, weighted by rows, which STAR's paper measures."""
    site: str = "head"
    """`masks`: the dense stage whose input is looked at."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if NESTED in self.domain_sets and len(self.domain_sets) > 1:
            raise ValueError("nested stands alone in domain_sets")
        if self.by_user and self.draw not in ("table", "domains"):
            raise ValueError(f"by_user goes with draw = 'table' or 'domains', not {self.draw!r}")
        if self.draw in ("domain_sets", "bins") and "plain" not in self.methods.values():
            raise ValueError(f"draw = {self.draw!r} shows gains over plain, which methods must name")
        return self


def bundled_studies() -> dict[str, Path]:
    """Return the studies that come with ctrbench, by name; nothing is parsed."""
    papers = Path(__file__).parent / "papers"
    return {f"{path.parent.name}/{path.stem}": path for path in sorted(papers.glob("*/*.toml"))}


def load_study(name_or_path: str) -> Study:
    """Load a study by name, or a user's own by its path; raises `SettingError` for what is none."""
    if name_or_path.endswith(".toml"):
        return read_study(Path(name_or_path))
    known = bundled_studies()
    if name_or_path not in known:
        remedy = f"{did_you_mean(name_or_path, known)}; or give the path of a study, my.toml"
        raise SettingError("no such study", value=name_or_path, remedy=remedy)
    return read_study(known[name_or_path])


def read_study(file: Path) -> Study:
    """Read and check one study file."""
    try:
        return Study.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise SettingError("no such study", value=file) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError("a study is a TOML file", value=f"{file}: {error}") from None
    except ValidationError as error:
        raise SettingError("invalid study", value=f"{file}: {first_problem(error)}") from None


def nested_sets(sets: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the longest chain of domain sets in which each holds all features of the one before, and more.

    Of equal sets the first counts; of equally long chains the one that ends with the fewest features.
    """
    distinct: dict[frozenset[str], str] = {}
    for name, features in sets.items():
        distinct.setdefault(frozenset(features), name)
    best: dict[frozenset[str], tuple[frozenset[str], ...]] = {}
    for one in sorted(distinct, key=len):
        before = [chain for end, chain in best.items() if end < one]
        best[one] = (*max(before, key=len, default=()), one)
    return tuple(distinct[one] for one in max(best.values(), key=len))
