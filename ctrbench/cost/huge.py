"""Models that are larger than the memory: operations on their tensors return zeros without being executed.

The cost of a model depends on shapes only. Tensors of more than `HUGE` elements are therefore neither allocated nor
multiplied: torch computes the shape of the result on its device "meta", and the result shares the memory of all others.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

HUGE = 1 << 24
"""Number of elements from which on a tensor is not allocated."""


def shared_zeros(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return zeros that share their memory with all others of the type; they must not be written to.

    Memory is reserved but not taken, so the zeros may be larger than the memory of the machine.
    """
    num_bytes = math.prod(shape) * dtype.itemsize
    memory = _reserved_memory(1 << max(20, (num_bytes - 1).bit_length()))
    if memory is None:
        return torch.zeros((), dtype=dtype).expand(tuple(shape))
    return memory[:num_bytes].view(dtype).view(tuple(shape))


@cache
def _reserved_memory(num_bytes: int) -> torch.Tensor | None:
    """Return bytes that are all zero; None where the system or a limit (`ulimit -v`) does not reserve as many."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    try:
        memory = mmap.mmap(-1, num_bytes, flags=flags)
    except (OSError, OverflowError):
        return None
    return torch.frombuffer(memory, dtype=torch.uint8)


class DispatchMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Base class of modes that see each operation of torch."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing is compiled here, and importing torch's compiler takes more than a second.
        return False


class SkippedHuge(DispatchMode):  # type: ignore[no-untyped-call]
    """Skips the operations that read or make huge tensors while a model is built."""

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: object,
        args: Sequence[Any] = (),
        kwargs: Any = None,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401  # any result of an operation
        kwargs = kwargs or {}
        if _is_any_huge((args, kwargs)) or _is_huge_shape(args):
            return without_huge_tensors(func, args, kwargs)
        return func(*args, **kwargs)


def without_huge_tensors(
    func: Any,  # noqa: ANN401
    args: Sequence[Any],
    kwargs: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401  # any result of an operation
    """Execute an operation, or return zeros of the right shapes where it reads or makes huge tensors."""
    if _is_huge_shape(args):
        return shared_zeros(args[0], kwargs.get("dtype") or torch.get_default_dtype())
    returns = func._schema.returns
    if any(value.alias_info is not None for value in returns):
        # A view costs nothing. A change in place of tensors without contents changes nothing.
        is_change = any(value.alias_info is not None and value.alias_info.is_write for value in returns)
        return args[0] if is_change and _is_huge(args[0]) else func(*args, **kwargs)
    try:
        shapes = func(
            *tree_map_only(torch.Tensor, _shape_of, args), **tree_map_only(torch.Tensor, _shape_of, kwargs)
        )
    except (NotImplementedError, RuntimeError):
        # The shape depends on the values.
        return func(*args, **kwargs)
    if not _is_any_huge((args, kwargs, shapes)):
        return func(*args, **kwargs)
    return tree_map_only(torch.Tensor, lambda shape: shared_zeros(shape.shape, shape.dtype), shapes)


def _shapes_of_result(func: Any, args: Sequence[Any], kwargs: Any) -> Any:  # noqa: ANN401
    """Return the result of an operation as tensors without memory."""
    args, kwargs = tree_map_only(torch.Tensor, _shape_of, (tuple(args), kwargs))
    return func(*args, **kwargs)


def _is_any_huge(values: object) -> bool:
    return any(_is_huge(value) for value in tree_leaves(values))


def _is_huge_shape(args: Sequence[Any]) -> bool:
    """Return whether the first argument is the shape of a huge tensor, as for `torch.empty`."""
    shape = args[0] if args else None
    if not isinstance(shape, list | tuple) or not all(type(size) is int for size in shape):
        return False
    return math.prod(shape) >= HUGE


def _is_huge(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.numel() >= HUGE


def _shape_of(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of the same shape and type without memory."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
