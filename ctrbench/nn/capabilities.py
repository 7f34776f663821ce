"""Capabilities that a module declares, so that builder, trainer and cost report need not guess them.

They are typed attributes of one base class: a misspelled name is a type error, and a module that declares one without
the base class is refused when the model is built.
"""

from __future__ import annotations

from torch import nn

from ctrbench.errors import ContractError
from ctrbench.nn.tables import RowTable

NAMES = ("not_matrices", "of_domains", "refuses_workers", "uses_team")


class Capabilities:
    """Base class of modules that declare a capability, beside `nn.Module`; every `StageModule` has it.

    A declaration speaks for all modules within, except `not_matrices`, which names the module's own parameters. Set
    it on the class, or on an instance in `__init__`.
    """

    of_domains: bool = False
    """Whether the parameters belong to single domains; those of a `RowTable` need no declaration."""
    refuses_workers: str | None = None
    """Why several workers cannot share a batch: the module looks at other rows without using `Context.team`."""
    not_matrices: tuple[str, ...] = ()
    """Names of own parameters that are no matrices despite two dimensions; the setting `weight_decay` spares them."""
    uses_team: bool = False
    """Whether `forward` exchanges values between workers through `Context.team`, which all of them must then run."""


def uses_team(model: nn.Module) -> bool:
    """Return whether any module within exchanges values between workers."""
    return any(module.uses_team for module in model.modules() if isinstance(module, Capabilities))


def refused_workers(model: nn.Module) -> str | None:
    """Return the first reason why several workers cannot train the model, or None."""
    reasons = (module.refuses_workers for module in model.modules() if isinstance(module, Capabilities))
    return next((reason for reason in reasons if reason), None)


def decayed_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the dense parameters to which weight decay applies: matrices, and stacks of matrices.

    A parameter of one dimension, or with a single row, is a bias, a scale or a vector. Tables are read by row and not
    among them; see `RowTable.num_decayed`.
    """
    decayed = []
    for module in model.modules():
        not_matrices = module.not_matrices if isinstance(module, Capabilities) else ()
        for name, parameter in module.named_parameters(recurse=False):
            is_matrix = parameter.dim() > 1 and parameter.shape[-2] > 1
            if is_matrix and name not in not_matrices and not isinstance(module, RowTable):
                decayed.append(parameter)
    return decayed


def check_declarations(model: nn.Module) -> None:
    """Raise a `ContractError` if a module has a capability's name but not the base class, which would be ignored."""
    for module in model.modules():
        names = [name for name in NAMES if name in vars(module) or hasattr(type(module), name)]
        if names and not isinstance(module, Capabilities):
            raise ContractError(
                f"a module that declares {names[0]} must have the base class Capabilities",
                value=type(module).__name__,
                remedy=f"class {type(module).__name__}({type(module).__bases__[0].__name__}, Capabilities)",
            )
