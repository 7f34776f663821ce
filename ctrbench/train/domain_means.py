"""Means per domain of quantities that the modules of a trained model compute, for the inspection of a method."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import nn

from ctrbench.data.batches import SplitData
from ctrbench.nn.context import Context
from ctrbench.nn.model import CTRModel
from ctrbench.train.learner import EVAL_ROWS

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class DomainMeans(Generic[Module]):
    """Means of a measure of modules. Shapes: D domains with rows, N numbers of a measure."""

    domain_D: np.ndarray
    """Int64, (D,): ids of the domains with rows, ascending."""
    rows_D: np.ndarray
    """Int64, (D,): rows of each domain."""
    means: dict[Module, np.ndarray]
    """Float32, (D, N) per module, in the order in which the modules run."""


def domain_means(
    model: CTRModel,
    data: SplitData,
    modules: Iterable[Module],
    measure: Callable[[Module, torch.Tensor, Context], torch.Tensor],
) -> DomainMeans[Module]:
    """Score rows, and average a measure (B, N) of the inputs of stage modules over the rows of each domain.

    The model is left in eval mode.
    """
    totals: dict[Module, torch.Tensor] = {}
    rows_D = torch.zeros(model.schema.num_domains + 1, dtype=torch.float64)

    def add(module: Module, inputs: tuple[torch.Tensor, Context]) -> None:
        # In float64: a float32 count of ones stops at 16.7 million.
        values_BN = measure(module, *inputs).double()
        total_DN = totals.setdefault(module, values_BN.new_zeros(len(rows_D), values_BN.shape[1]))
        total_DN.index_add_(0, inputs[1].domain_B.long().to(values_BN.device), values_BN)

    handles = [module.register_forward_pre_hook(add) for module in modules]
    model.eval()
    with torch.no_grad():
        for batch in data.in_order(EVAL_ROWS):
            rows_D += torch.bincount(batch.domain_B.long(), minlength=len(rows_D))
            model(batch)
    for handle in handles:
        handle.remove()
    present = torch.nonzero(rows_D)[:, 0]
    means = {
        module: (total_DN[present.to(total_DN.device)].cpu() / rows_D[present, None]).float().numpy()
        for module, total_DN in totals.items()
    }
    return DomainMeans(domain_D=present.numpy(), rows_D=rows_D[present].numpy().astype(np.int64), means=means)
