"""What a file may hold: plain tensors that have all their values in it, in dicts and lists of ordinary depth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from hiera_det.errors import InputError

__all__ = ["FLOATS", "check_plain", "named_tensors", "not_finite", "shown"]

#: What a network's numbers may be; a quantised file's are none of these.
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_DEPTH = 32
_SHOWN = 60


def named_tensors(content: object, source: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors anywhere in what a file holds, each with its path such as ``optimizer.state.3.exp_avg``.

    Args:
        content: tensors and plain values in dicts, lists and tuples; they may contain each other.
        source: the file, for the message.

    Raises:
        InputError: they lie deeper than any training's state.
    """
    stack: list[tuple[str, object, int]] = [("", content, 0)]
    seen: set[int] = set()
    while stack:
        name, value, depth = stack.pop()
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            if depth == _DEPTH:
                raise InputError(f"weight file {source} has more than {_DEPTH} dicts or lists inside each other")
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            inside = [(f"{name}.{_word(key)}" if name else _word(key), item, depth + 1) for key, item in items]
            stack.extend(reversed(inside))


def check_plain(content: object, source: str) -> None:
    """Refuse tensors that are no array of numbers in the file, before anything works with them.

    Args:
        content: what was read.
        source: the file, for the message.

    Raises:
        InputError: one is sparse, quantised, of no values, or larger than what the file has of it.
    """
    for name, tensor in named_tensors(content, source):
        if fault := _fault(tensor):
            raise InputError(f"weight file {source}: tensor {shown(name)} {fault}; save it as a plain tensor")


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors with NaN or infinite values; tensors on the meta device have none."""
    return [name for name, tensor in tensors.items() if not _is_finite(tensor)]


def _is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite."""
    if tensor.is_meta or tensor.dtype not in FLOATS:
        return True
    # One pass without a copy, which only a sum beyond float32 or 64 leaves open.
    total = tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32))
    return bool(torch.isfinite(total)) or bool(torch.isfinite(tensor).all())


def shown(value: object) -> str:
    """A value from a file for a message: short, whatever it is."""
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number beyond 64 bits"
    if isinstance(value, str | bytes):
        return repr(value[:_SHOWN]) + ("..." if len(value) > _SHOWN else "")
    if value is None or isinstance(value, int | float):
        return repr(value)
    return f"a {type(value).__name__}"


def _word(key: object) -> str:
    """A key as part of a path."""
    return key if isinstance(key, str) else shown(key)


def _fault(tensor: Tensor) -> str:
    """What makes a tensor no plain one, or nothing."""
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.is_nested:
        return f"is a {type(tensor).__name__} of an unknown kind"
    if tensor.is_meta:
        return "has a shape and no values (device meta)"
    if tensor.layout is not torch.strided:
        return f"is sparse ({str(tensor.layout).removeprefix('torch.')})"
    if tensor.is_quantized:
        return "is quantised"
    has = tensor.untyped_storage().nbytes()
    needs = math.prod(tensor.shape) * tensor.element_size()
    if needs > has:
        return f"repeats {has} bytes of the file up to {needs} (it is an expanded view)"
    return ""
