"""Rule about declared capabilities: they have known names, and they agree with the model.

A capability is a class attribute that other parts of the package read. A misspelled one would be ignored silently, and
a missing one would give wrong tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

from torch import nn

from ctrbench.contract.case import Case
from ctrbench.contract.domains import domain_tables
from ctrbench.contract.rows import NUM_SHOPS, SEED, make_schema
from ctrbench.contract.rule import rule
from ctrbench.nn.capabilities import NAMES
from ctrbench.nn.model import CTRModel

CAPABILITIES = (*NAMES, "indexed_by", "inspects", "selects", "starts_as_backbone")
"""Attributes that declare abilities of a method, a learner or a module."""
SIMILARITY = 0.85
"""Similarity (`difflib`) from which on an attribute is taken for a misspelled capability."""
FRAMEWORK = ("ctrbench.nn.", "ctrbench.plugins.", "ctrbench.train.", "pydantic.", "torch.")
"""Modules of base classes, whose attributes are spelled correctly."""


@rule("declarations", "Declared capabilities have known names and agree with the model.")
def declarations(case: Case) -> str | None:
    """Look for misspelled capabilities, and compare `indexed_by` with the per-domain parameters of a model."""
    owners = (case.method, case.trained.learner, *_own_modules(case.trained.model))
    misspelled = (sentence for owner in owners for sentence in _misspelled(owner))
    return next(misspelled, None) or _wrong_index(case)


def _own_modules(model: CTRModel) -> Iterator[nn.Module]:
    """Yield the modules of a model whose class is not torch's."""
    return (module for module in model.modules() if not type(module).__module__.startswith("torch."))


def _misspelled(owner: object) -> Iterator[str]:
    """Describe public attributes that only the plug-in's own classes have, with a name close to a capability's."""
    own, inherited = set(vars(owner)), set(CAPABILITIES)
    for base in type(owner).__mro__:
        (inherited if base.__module__.startswith(FRAMEWORK) else own).update(vars(base))
    for name in sorted(name for name in own - inherited if not name.startswith("_")):
        for capability in get_close_matches(name, CAPABILITIES, n=1, cutoff=SIMILARITY):
            yield f"expected {type(owner).__name__}.{name} to be a known attribute; did you mean {capability!r}?"


def _wrong_index(case: Case) -> str | None:
    """Compare `indexed_by` with a model of the rewrite alone; every method may add `norm` and `aux` by a setting."""
    declared = case.method.indexed_by
    model = CTRModel(case.method.rewrite(case.plan()), make_schema(), seed=SEED)
    if declared is None and model.num_parameters()["per_domain"]:
        return (
            "expected a method with per-domain parameters to declare indexed_by, 'indicator' or 'domain', but it is "
            "None"
        )
    num_rows = NUM_SHOPS + 1 if declared == "indicator" else make_schema().num_domains + 1
    for name, table in domain_tables(model).items():
        if len(table.weight) != num_rows:
            return (
                f"expected indexed_by = {declared!r} to agree with all domain tables, but {name} has "
                f"{len(table.weight)} rows in place of {num_rows}"
            )
    return None
