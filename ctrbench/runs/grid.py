"""The grid of runs of a command: methods × backbones × seeds, as keys.

A pair that makes no sense is no run: it comes with the reason, which tables show.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from ctrbench.discovery import Plugin
from ctrbench.errors import SettingError, did_you_mean, shorten
from ctrbench.names import Split
from ctrbench.plugins.registry import Selected, select
from ctrbench.problems import first_problem
from ctrbench.runs.record import NUMERICS, Choice, RunKey
from ctrbench.train.config import MOST_HELD, WINDOW, TrainConfig

if TYPE_CHECKING:
    from ctrbench.data.card import DatasetCard
    from ctrbench.data.prepared import Prepared
    from ctrbench.plugins.base import Backbone, Method

MAX_SEEDS = 1_000
"""Largest number of seeds of a command."""
MAX_SEED = (1 << 32) - 1


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run to execute: its key, and the files of its plug-ins."""

    key: RunKey
    method: Plugin
    backbone: Plugin
    unsupported: str | None = None
    """Why the method does not support the backbone."""
    requested: tuple[str, str] | None = None
    """Method and backbone with the settings that the user gave."""
    note: str = ""
    """End of the method's name for the user, which says what a control is."""
    multiply_adds: int | None = None
    """Multiply-adds per row of a forward pass, which the record will hold; None: not counted."""

    @property
    def labels(self) -> tuple[str, str]:
        """Names of method and backbone for the user, as short as the command line had them."""
        method, backbone = self.requested or (self.key.method.name, self.key.backbone.name)
        return f"{method}{self.note}", backbone

    @property
    def group(self) -> str:
        """Digest of the key without the seed, which all runs of a row share."""
        return self.key.model_copy(update={"seed": 0}).digest

    @property
    def label(self) -> str:
        """Name of the run for the user."""
        return f"{' × '.join(self.labels)}, seed {self.key.seed}"

    def chosen(self) -> tuple[Method, Backbone]:
        """Return method and backbone with the settings of the key."""
        method: Method = self.method.load().model_validate(self.key.method.settings)
        backbone: Backbone = self.backbone.load().model_validate(self.key.backbone.settings)
        return method, backbone


def parse_seeds(text: str) -> tuple[int, ...]:
    """Parse seeds: `5` (seeds 1 to 5), `1,2,7` or `3-8`; at most `MAX_SEEDS` of them."""
    rule = f"seeds must be a count from 1 to {MAX_SEEDS:,} (5), a list (1,2,7) or a range (3-8)"
    if not re.fullmatch(r"\d+|\d+-\d+|\d+(,\d+)+,?|\d+,", text, flags=re.ASCII):
        raise SettingError(rule, value=shorten(text))
    if "," in text:
        seeds: Sequence[int] = tuple(dict.fromkeys(_parse_seed(part) for part in text.split(",") if part))
    else:
        low, _, high = text.rpartition("-")
        seeds = range(_parse_seed(low) if low else 1, _parse_seed(high) + 1)
    if not seeds:
        raise SettingError(rule, value=text, remedy="give at least one; a range begins with its smaller end")
    if len(seeds) > MAX_SEEDS:
        remedy = f"ask for at most {MAX_SEEDS:,} seeds"
        raise SettingError(
            f"the number of seeds must be between 1 and {MAX_SEEDS:,}", value=text, remedy=remedy
        )
    return tuple(seeds)


def _parse_seed(text: str) -> int:
    # Python does not convert texts of more than a few thousand digits.
    if len(text) > len(str(MAX_SEED)) or int(text) > MAX_SEED:
        raise SettingError(f"a seed must be between 0 and {MAX_SEED:,}", value=shorten(text))
    return int(text)


@dataclass(frozen=True)
class Preset:
    """Settings of a paper's experiment, each of which the command line may replace."""

    hidden: str
    train: Mapping[str, object]

    def under(self, **settings: object) -> dict[str, object]:
        """Return the settings, with the preset's in place of those that are None."""
        return {**self.train, **{name: value for name, value in settings.items() if value is not None}}


NO_PRESET = Preset("", {})
PRESETS = {
    "public": Preset("128-64-32", {"batch_size": 256}),
    "production": Preset("512-256-128", {"batch_size": 1024, "epochs": 1}),
}
"""The two set-ups of the AdaSparse study (spec: conventions-0.3); one epoch suffices for billions of rows."""


def find_preset(name: str | None) -> Preset:
    """Return the preset of that name; without a name, the preset that sets nothing."""
    if name is None:
        return NO_PRESET
    if name not in PRESETS:
        raise SettingError("no such preset", value=name, remedy=did_you_mean(name, PRESETS))
    return PRESETS[name]


def with_tower(selectors: Sequence[str], hidden: str) -> list[str]:
    """Add the widths `hidden` to the selectors of backbones that do not set their widths."""

    def with_width(selector: str) -> str:
        name, _, settings = selector.removesuffix("]").partition("[")
        if not hidden or "hidden=" in settings:
            return selector
        return f"{name}[{settings},hidden={hidden}]" if settings else f"{name}[hidden={hidden}]"

    return [with_width(selector) for selector in selectors]


def whole_number(text: str, option: str) -> int:
    """Parse a whole number, which may be written as 4e6."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < math.inf or number != int(number):
        raise SettingError(f"{option} must be a whole number, such as 4e6", value=shorten(text))
    return int(number)


def usual_window(prepared: Prepared) -> int | None:
    """Return the default number of rows held for shuffling: None (all), or fewer for datasets of many rows."""
    return WINDOW if prepared.manifest.splits[Split.TRAIN].rows > MOST_HELD else None


def parse_window(text: str | None, prepared: Prepared) -> int | None:
    """Parse the number of rows held for shuffling: 0 means all (None), None means the default of the dataset."""
    return usual_window(prepared) if text is None else whole_number(text, "--window") or None


def make_config(**settings: object) -> TrainConfig:
    """Return the training configuration; settings that are None keep their default."""
    given_settings = {name: value for name, value in settings.items() if value is not None}
    try:
        return TrainConfig.model_validate(given_settings)
    except ValidationError as error:
        problem = first_problem(error)
        name = str(problem.location[0])
        option = f"--{name}".replace("_", "-")
        raise SettingError(f"{option} {problem.message}", value=shorten(str(given_settings[name]))) from None


def check_choices(
    card: DatasetCard, *, methods: Sequence[str], backbones: Sequence[str], indicator: str | None
) -> None:
    """Raise `SettingError` for an unknown method, backbone or setting, and for an impossible indicator."""
    for selector in methods:
        _ = select("methods", selector).value
    for selector in backbones:
        _ = select("backbones", selector).value
    if indicator is not None and indicator != "all":
        card.check_domain_features((indicator,))


def check_pairs(methods: Sequence[str], backbones: Sequence[str]) -> None:
    """Raise `SettingError` if no method supports any of the backbones, so that there is nothing to run."""
    chosen = [select("methods", selector) for selector in methods]
    bases = [select("backbones", selector) for selector in backbones]
    reasons = {(method.label, base.label): _unsupported(method, base) for base in bases for method in chosen}
    if all(reasons.values()):
        (method_label, base_label), reason = next(iter(reasons.items()))
        raise SettingError(
            "a method must support one of the backbones, or there is nothing to run",
            value=f"{method_label} × {base_label}: {reason}",
            remedy="choose another --backbone; ctrbench check lists those that a method supports",
        )


def make_grid(
    prepared: Prepared,
    *,
    methods: Sequence[str],
    backbones: Sequence[str],
    seeds: Sequence[int],
    domain_set: str,
    indicator: str | None,
    config: TrainConfig,
) -> tuple[Run, ...]:
    """Return all runs, ordered by seed, so that all rows of a table have equally many results at any time."""
    check_choices(prepared.manifest.card, methods=methods, backbones=backbones, indicator=indicator)
    chosen = [select("methods", selector) for selector in methods]
    bases = [select("backbones", selector) for selector in backbones]
    indexed_by = _default_indicator(prepared, domain_set) if indicator is None else indicator

    def runs() -> Iterator[Run]:
        for seed in seeds:
            for backbone in bases:
                for method in chosen:
                    key = RunKey(
                        dataset=prepared.manifest.name,
                        data_digest=prepared.manifest.content_digest,
                        domain_set=domain_set,
                        domain_features=prepared.manifest.domain_sets[domain_set].features,
                        indicator=indexed_by,
                        backbone=to_choice(backbone),
                        method=to_choice(method),
                        train=config.key,
                        seed=seed,
                        numerics=NUMERICS,
                    )
                    reason = _unsupported(method, backbone)
                    yield Run(
                        key=key,
                        method=method.plugin,
                        backbone=backbone.plugin,
                        unsupported=reason,
                        requested=(method.label, backbone.label),
                    )

    unique = {run.key.digest: run for run in runs()}
    return tuple(unique.values())


def to_choice(selected: Selected[Method] | Selected[Backbone]) -> Choice:
    """Return a plug-in with its settings as run keys hold it."""
    source = None if selected.plugin.is_builtin else selected.plugin.sha256
    return Choice(name=selected.plugin.name, settings=selected.value.key(), source=source)


def _unsupported(method: Selected[Method], backbone: Selected[Backbone]) -> str | None:
    return method.value.unsupported_reason(backbone.value.full_plan())


def _default_indicator(prepared: Prepared, domain_set: str) -> str:
    features = prepared.manifest.domain_sets[domain_set].features
    representative = prepared.manifest.card.representative
    return representative if representative in features else features[0]
