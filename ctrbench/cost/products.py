"""Multiply-adds of matrix products, counted per module while a model runs.

Products are counted by their shapes, as torch's `FlopCounterMode` does. Element-wise operations and compiled loops are
not counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry, shape_wrapper

from ctrbench.cost.huge import HUGE, DispatchMode, without_huge_tensors
from ctrbench.data.batches import Batch
from ctrbench.nn.model import CTRModel
from ctrbench.nn.tables import RowTable

Shape = tuple[int, ...]


def _product_flops(left: Shape, right: Shape, *_: object, **__: object) -> int:
    return 2 * math.prod(left) * (right[-1] if len(right) > 1 else 1)


def _added_product(_: Shape, left: Shape, right: Shape, *__: object, **___: object) -> int:
    return _product_flops(left, right)


_aten = torch.ops.aten
_MORE_PRODUCTS = {
    **dict.fromkeys((_aten.mv, _aten.dot, _aten.vdot), _product_flops),
    **dict.fromkeys(
        (_aten.addmm_, _aten.baddbmm_, _aten.addbmm, _aten.addbmm_, _aten.addmv, _aten.addmv_), _added_product
    ),
}
"""Functions from shapes to floating-point operations, for products that torch's counter ignores."""
_FLOPS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    **{operation: shape_wrapper(count) for operation, count in _MORE_PRODUCTS.items()},  # type: ignore[no-untyped-call]
}
"""Functions from the arguments of an operation to its floating-point operations."""


def counted_flops() -> FlopCounterMode:
    """Return a context manager that counts the floating-point operations of all matrix products within."""
    return FlopCounterMode(display=False, custom_mapping=_MORE_PRODUCTS)


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Multiply-adds and widths of each module in one forward pass."""

    rows: int
    """Number of rows of the batch."""
    macs: Counter[nn.Module]
    """Multiply-adds of a module, those of its children included."""
    widths: dict[nn.Module, tuple[int, int]]
    """Widths of input and output of each module that ran."""


@dataclass(frozen=True)
class TracePair:
    """Forward passes of two batches of different sizes, with rows of one domain only."""

    small: Trace
    large: Trace

    def macs(self, module: nn.Module) -> tuple[int, int]:
        """Return the multiply-adds per row, and those per batch in addition to its rows."""
        row = (self.large.macs[module] - self.small.macs[module]) // (self.large.rows - self.small.rows)
        return row, self.small.macs[module] - self.small.rows * row


def trace(model: CTRModel, batch: Batch, modules: Iterable[nn.Module] | None = None) -> Trace:
    """Run a batch and count the multiply-adds of `modules` (default: all modules of the model)."""
    result = Trace(rows=len(batch), macs=Counter(), widths={})
    with (
        torch.no_grad(),
        _ProductCounter(skips_huge=_has_huge_products(model)) as counter,
        _trace_modules(modules or model.modules(), counter, result),
    ):
        model(batch)
    return result


def _has_huge_products(model: CTRModel) -> bool:
    """Return whether a product reads a huge tensor; of tables, which may have many rows, a batch reads few.

    In all other models every operation is executed, since computing shapes first needs torch's compiler.
    """
    tables = {module.weight for module in model.modules() if isinstance(module, RowTable)}
    return any(weight.numel() >= HUGE for weight in model.parameters() if weight not in tables) or any(
        weight[:1].numel() >= HUGE for weight in tables
    )


class _ProductCounter(DispatchMode):  # type: ignore[no-untyped-call]
    """Counts multiply-adds like torch's `FlopCounterMode`, whose first use costs about one second."""

    def __init__(self, *, skips_huge: bool) -> None:
        super().__init__()
        self.macs, self.skips_huge = 0, skips_huge

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: object,
        args: Sequence[Any] = (),
        kwargs: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401  # any result of an operation
        kwargs = kwargs or {}
        output = without_huge_tensors(func, args, kwargs) if self.skips_huge else func(*args, **kwargs)
        flops = _FLOPS.get(func.overloadpacket)
        if flops is not None:
            self.macs += flops(*args, **kwargs, out_val=output) // 2
        return output


@contextmanager
def _trace_modules(modules: Iterable[nn.Module], counter: _ProductCounter, result: Trace) -> Iterator[None]:
    def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        result.macs[module] -= counter.macs

    def leave(module: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
        result.macs[module] += counter.macs
        if (
            inputs
            and isinstance(inputs[0], torch.Tensor)
            and isinstance(output, torch.Tensor)
            and output.dim()
        ):
            result.widths[module] = (inputs[0].shape[-1], output.shape[-1])

    handles = []
    for module in modules:
        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
