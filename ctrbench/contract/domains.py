"""Rule about parameters of single domains: a step must not change those of domains without rows in the batch.

Tables of rows show their owner by themselves. Of dense parameters the owner is found by gradients: a parameter, or a
part of it along one axis, belongs to a domain if only rows of that domain give it a gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy

import numpy as np
import torch

from ctrbench.contract.case import Case, Training, copy_tensors
from ctrbench.contract.rows import BATCH_ROWS, NUM_SHOPS, SHOP_ROWS, take_rows
from ctrbench.contract.rule import list_names, rule
from ctrbench.contract.scoring import batch_loss
from ctrbench.data.batches import SplitData
from ctrbench.nn.model import CTRModel
from ctrbench.nn.tables import RowTable

PRESENT = (1, 2)
"""Shops that have rows in the steps of the rule."""

Tensors = Mapping[str, torch.Tensor]


@rule(
    "absent domains", "A training step does not change the parameters of domains without rows in its batch."
)
def absent_domains(case: Case) -> str | None:
    """Train on all shops, then one epoch on two of them; find changed parameters of the other shops."""
    training = Training(case)
    training.load(case.trained.save())
    before = copy_tensors(training.model.state_dict())
    is_present = np.isin(case.train.indicator_B.numpy(), PRESENT)
    rows = take_rows(case.train, np.flatnonzero(is_present))
    training.run(training.batches(rows, 1))
    training.optimizer.flush()
    after = training.model.state_dict()
    return _changed_rows(training.model, rows, before, after) or _changed_dense(case, before, after)


def domain_tables(model: CTRModel) -> dict[str, RowTable]:
    """Return the tables with one row per domain, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, RowTable) and module.rule == "domain"
    }


def _changed_rows(model: CTRModel, rows: SplitData, before: Tensors, after: Tensors) -> str | None:
    """Find rows of per-domain tables that changed although no batch had their domain."""
    for name, table in domain_tables(model).items():
        ids_B = rows.indicator_B if len(table.weight) == NUM_SHOPS + 1 else rows.domain_B
        key = f"{name}.weight"
        changed = (before[key] != after[key]).flatten(1).any(1)
        absent = sorted(set(torch.nonzero(changed).flatten().tolist()) - set(ids_B.tolist()))
        if absent:
            return (
                f"expected the rows of absent domains in {name} not to change, but those of domains "
                f"{list_names([str(domain) for domain in absent])} did; read a table by context.read, once per step"
            )
    return None


def _changed_dense(case: Case, before: Tensors, after: Tensors) -> str | None:
    """Find dense parameters that changed without a row of the only domain that gives them a gradient."""
    model = case.trained.model
    table_weights = {id(module.weight) for module in model.modules() if isinstance(module, RowTable)}
    dense = [name for name, value in model.named_parameters() if id(value) not in table_weights]
    # Initial weights may block gradients, and so may units that training has saturated; hardly both.
    initial = _touched_elements(model, case.trained.start, case.train)
    trained = _touched_elements(model, model.state_dict(), case.train)
    touched = {shop: _union_of_masks(mask, trained[shop]) for shop, mask in initial.items()}
    for name in dense:
        changed = before[name] != after[name]
        for parts in _owned_parts({shop: by_name[name] for shop, by_name in touched.items()}):
            if any(bool((changed & part).any()) for shop, part in parts.items() if shop not in PRESENT):
                return (
                    f"expected parameters of absent domains not to change, but {name} holds parameters that one "
                    "domain alone uses and changes them in every step; keep them in a domain_table and read them by "
                    "context.read, since dense Adam changes parameters with momentum even where the gradient is zero"
                )
    return None


def _touched_elements(model: CTRModel, state: Tensors, train: SplitData) -> dict[int, Tensors]:
    """Return where each parameter gets a gradient from the rows of each shop, as boolean tensors."""
    copy = deepcopy(model).train()
    touched: dict[int, Tensors] = {}
    for shop in (shop for shop, num_rows in enumerate(SHOP_ROWS, start=1) if num_rows > 1):
        # The batch of another shop changes buffers, such as moving averages.
        copy.load_state_dict(state)
        copy.zero_grad()
        rows = torch.nonzero(train.indicator_B == shop)[:BATCH_ROWS, 0]
        batch_loss(copy, train.take(rows)).backward()  # type: ignore[no-untyped-call]
        touched[shop] = {
            name: torch.zeros_like(value, dtype=torch.bool) if value.grad is None else value.grad != 0
            for name, value in copy.named_parameters()
        }
    return touched


def _union_of_masks(first: Tensors, second: Tensors) -> dict[str, torch.Tensor]:
    return {name: mask | second[name] for name, mask in first.items()}


def _owned_parts(touched: dict[int, torch.Tensor]) -> Iterator[dict[int, torch.Tensor]]:
    """Yield the divisions of a parameter into parts of one shop each: all of it, or slices along an axis."""
    users = [shop for shop, mask in touched.items() if mask.any()]
    if len(users) == 1:
        yield {users[0]: torch.ones_like(touched[users[0]])}
    sample = next(iter(touched.values()))
    for axis in range(sample.dim()):
        other_axes = [other for other in range(sample.dim()) if other != axis]
        used = {shop: mask.any(dim=other_axes) if other_axes else mask for shop, mask in touched.items()}
        num_users = torch.stack(list(used.values())).sum(0)
        owners = [shop for shop, mask in used.items() if mask.any()]
        if bool((num_users <= 1).all()) and len(owners) > 1:
            shape = [-1 if index == axis else 1 for index in range(sample.dim())]
            yield {shop: used[shop].view(shape).expand_as(sample) for shop in owners}
