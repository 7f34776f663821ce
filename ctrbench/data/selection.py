"""Datasets and domain sets by the names that a user gives: their listing, and the choice of one."""

from __future__ import annotations

from dataclasses import dataclass

from ctrbench.data.card import DatasetCard, bundled_cards, read_card
from ctrbench.data.home import prepared_names
from ctrbench.data.prepared import Prepared, open_prepared
from ctrbench.errors import DataError, SettingError, shorten


@dataclass(frozen=True, kw_only=True)
class ListedDataset:
    """A dataset that has a bundled card or is prepared."""

    name: str
    title: str
    homepage: str
    is_prepared: bool


def list_datasets() -> tuple[ListedDataset, ...]:
    """Return the datasets with a bundled card, then other prepared ones."""
    listed = {
        name: ListedDataset(name=name, title=card.title, homepage=card.homepage, is_prepared=False)
        for name, card in ((name, read_card(file)) for name, file in bundled_cards().items())
    }
    for name in prepared_names():
        listed[name] = _list_prepared(name)
    return tuple(listed.values())


def _list_prepared(name: str) -> ListedDataset:
    """Return the entry of a prepared dataset; a damaged one does not hide the others."""
    try:
        manifest = open_prepared(name).manifest
    except DataError as error:
        return ListedDataset(
            name=name, title=f"{error.rule}; prepare it again", homepage="", is_prepared=False
        )
    return ListedDataset(name=name, title=manifest.title, homepage=manifest.card.homepage, is_prepared=True)


def open_dataset(name: str, domains: str | None = None) -> tuple[Prepared, str]:
    """Open a prepared dataset by name; return it with the name of the domain set that `domains` selects."""
    return choose_domains(open_prepared(name), domains)


def choose_domains(prepared: Prepared, domains: str | None) -> tuple[Prepared, str]:
    """Return the dataset with a domain set, and the name of the set.

    `domains` is the name of a set or a list of features (`a,b,c`), whose set is computed if it is new; None selects
    the default set. Raises `SettingError` for unknown features.
    """
    if domains is None:
        return prepared, "default"
    if domains in prepared.manifest.domain_sets:
        return prepared, domains
    return prepared.ensure_domains(domain_features(prepared.manifest.card, domains))


def has_domains(name: str, domains: str | None) -> bool:
    """Return whether a prepared dataset has the domain set that `domains` selects, so that none has to be made."""
    manifest = open_prepared(name).manifest
    features = domain_features(manifest.card, domains)
    return not features or any(info.features == features for info in manifest.domain_sets.values())


def domain_features(card: DatasetCard, domains: str | None) -> tuple[str, ...]:
    """Return the features of a domain set that is given as a list (`a,b,c`); none for a named set.

    Raises `SettingError` for a list without a name.
    """
    if domains is None or domains in card.domain_sets:
        return ()
    features = tuple(part.strip() for part in domains.split(",") if part.strip())
    if not features:
        remedy = f"name a domain set or features; domain sets: {', '.join(card.domain_sets)}"
        raise SettingError("no domain feature is named", value=repr(shorten(domains)), remedy=remedy)
    return features
