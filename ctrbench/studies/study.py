"""Studies: the experiment behind one table or figure of a paper, described by a TOML file that users may copy.

It names methods (a label and a selector each), backbones, domain sets and seeds, and a drawing with its options.
`load_study` finds the studies that come with ctrbench by name, such as `adasparse/table1`, and a user's own by path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ctrbench.discovery import PluginKind
from ctrbench.errors import CtrbenchError, SettingError, did_you_mean
from ctrbench.problems import Problem, Problems, combine, describe_problem, shown_problems
from ctrbench.storage.documents import read_toml

if TYPE_CHECKING:
    from ctrbench.studies.drawing import Drawing

REPRESENTATIVE = "representative"
"""In place of a domain set: the dataset's representative feature as the only domain feature."""
NESTED = "nested"
"""In place of domain sets: the longest chain of the dataset's sets in which each contains the previous one."""
DRAWINGS: PluginKind[Drawing] = PluginKind(
    name="drawings", package="ctrbench.studies.drawings", base="ctrbench.studies.drawing:Drawing"
)


class Study(BaseModel):
    """The runs of a study, and the drawing of their results."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    source: str = ""
    """The table or figure of the paper that the study follows."""
    note: str = ""
    """Differences from the paper, printed below the tables."""
    draw: str
    """Name of a drawing, such as `table` or `masks`, or the path of a `.py` file, relative to the study."""
    options: Mapping[str, Any] = {}
    """Options of the drawing: all keys of the file that are not fields of a study."""
    methods: dict[str, str] = Field(min_length=1)
    """Selector per label, in order: name, name[setting=value] or path."""
    backbones: tuple[str, ...] = Field(default=("dnn",), min_length=1)
    domain_sets: tuple[str, ...] = Field(default=("default",), min_length=1)
    """Named sets of the dataset, `representative`, or `nested` alone."""
    seeds: int | str = 3
    """As `ctrbench run --seeds`."""
    controls: bool = False
    """Whether the controls of the methods are run too, as with `ctrbench run --controls`."""
    train: dict[str, str | int | float] = {}
    """Training settings by the names of `ctrbench run`'s options, such as batch_size."""

    @model_validator(mode="before")
    @classmethod
    def _collect_options(cls, content: Any) -> Any:  # noqa: ANN401  # the raw input of pydantic
        if not isinstance(content, dict) or "options" in content:
            return content
        fields = {name: value for name, value in content.items() if name in cls.model_fields}
        return {**fields, "options": {name: content[name] for name in content if name not in fields}}

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if NESTED in self.domain_sets and len(self.domain_sets) > 1:
            rule = "nested cannot be combined with other domain_sets"
            raise SettingError(rule, value=", ".join(self.domain_sets), remedy="remove the others, or nested")
        if self.drawing.needs_plain and "plain" not in self.methods.values():
            rule = "the methods must include plain, since the drawing shows gains over plain"
            raise SettingError(rule, value=f"draw = {self.draw!r}", remedy='add plain = "plain" to methods')
        return self

    @property
    def drawing(self) -> Drawing:
        """The drawing with its options; raises `Problems` for an unknown drawing, option or value."""
        drawing = DRAWINGS.load(self.draw)
        try:
            return drawing.model_validate(self.options)
        except ValidationError as error:
            keys = [*drawing.model_fields, *type(self).model_fields]
            raise Problems(
                [self._describe_option(problem, keys) for problem in shown_problems(error)]
            ) from None

    def _describe_option(self, problem: Problem, keys: Sequence[str]) -> CtrbenchError:
        error = describe_problem(problem, keys)
        if not problem.is_unknown_key:
            return error
        rule = f"no such key of a study, and no option of draw = {self.draw!r}"
        return SettingError(rule, value=error.value, remedy=error.remedy)


def bundled_studies() -> dict[str, Path]:
    """Return the studies that come with ctrbench, by name; no file is read."""
    papers = Path(__file__).parent / "papers"
    return {f"{path.parent.name}/{path.stem}": path for path in sorted(papers.glob("*/*.toml"))}


def load_study(name_or_path: str) -> Study:
    """Load a study by name, or a user's own by its path; raise `SettingError` if it does not exist."""
    if name_or_path.endswith(".toml"):
        return read_study(Path(name_or_path))
    studies = bundled_studies()
    if name_or_path not in studies:
        remedy = f"{did_you_mean(name_or_path, studies)}; or give the path of a study, my.toml"
        raise SettingError("no such study", value=name_or_path, remedy=remedy)
    return read_study(studies[name_or_path])


def read_study(file: Path) -> Study:
    """Read and check one study file."""
    try:
        content = read_toml(file, "study", SettingError)
        draw = content.get("draw")
        if isinstance(draw, str) and draw.endswith(".py"):
            content["draw"] = str(file.parent / draw)
        return Study.model_validate(content)
    except FileNotFoundError:
        remedy = "see ctrbench list studies, or correct the path"
        raise SettingError("no such study", value=file, remedy=remedy) from None
    except ValidationError as error:
        errors = [describe_problem(problem, list(Study.model_fields)) for problem in shown_problems(error)]
        remedy = "the guide docs/guide/own-drawing.md lists the keys"
        combined = combine("a study must be complete and consistent", file, errors, remedy=remedy)
        raise SettingError(combined.rule, value=combined.value, remedy=combined.remedy) from None


def nested_sets(sets: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the longest chain of domain sets in which each contains all features of the previous one, and more.

    The first of equal sets is used; of equally long chains, the one that ends with the fewest features.
    """
    name_of: dict[frozenset[str], str] = {}
    for name, features in sets.items():
        name_of.setdefault(frozenset(features), name)
    longest: dict[frozenset[str], tuple[frozenset[str], ...]] = {}
    for features_set in sorted(name_of, key=len):
        shorter = [chain for end, chain in longest.items() if end < features_set]
        longest[features_set] = (*max(shorter, key=len, default=()), features_set)
    return tuple(name_of[features_set] for features_set in max(longest.values(), key=len))
