"""Saying what a weight file is without building a model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from hiera_det.errors import printable
from hiera_det.weights.contents import Contents
from hiera_det.weights.tensors import not_finite

__all__ = ["describe"]


def describe(contents: Contents) -> str:
    """A few lines for people: model, layout, what it was made for, sizes, and what else is in the file."""
    tensors = [*contents.trunk.values(), *contents.heads.values(), *contents.others.values()]
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors)
    trunk = sum(tensor.numel() for tensor in contents.trunk.values())
    container = f', under "{contents.container}"' if contents.container else ""
    prefix = f', trunk behind "{contents.prefix}"' if contents.prefix else ""
    lines = {
        "file": contents.source,
        "model": f"{contents.model_name}{' (video)' if contents.is_video else ''}: {contents.kind}",
        "layout": f"{contents.layout.title}{container}{prefix}",
        "trunk": f"{len(contents.trunk)} tensors, {trunk / 1e6:.1f} M parameters, embed dim {contents.embed_dim}, "
        f"depths {contents.depths}, {contents.stem.shape[1]} input channels",
        "positions": _positions(contents),
        "heads": _counts(contents.heads),
        "other": _counts(contents.others),
        "dtypes": ", ".join(f"{dtype} {count}" for dtype, count in dtypes.items()),
    }
    if contents.unknown:
        lines["unknown"] = f"{len(contents.unknown)} tensors that no Hiera has: {', '.join(contents.unknown[:4])}"
    if damaged := not_finite(contents.trunk | contents.heads | contents.others):
        lines["NaN"] = f"{len(damaged)} tensors have NaN or infinite values: {', '.join(damaged[:4])}"
    return "\n".join(printable(f"{word + ':':11}{text}") for word, text in lines.items())


def _positions(contents: Contents) -> str:
    """The position embedding: its parts and their sizes in tokens."""
    sizes = []
    for name, table in contents.trunk.items():
        if name.startswith("pos_embed"):
            side = math.isqrt(table.shape[1])
            flat = f"{side}x{side}" if side * side == table.shape[1] else str(table.shape[1])
            grid = f"{table.shape[2]}x{table.shape[3]}" if table.ndim == 4 else flat
            sizes.append(f"{name} {table.shape[1] if name.endswith('temporal') else grid}")
    return ", ".join(sizes)


def _counts(names: Iterable[str]) -> str:
    """First words of names with how many tensors each has."""
    counts = Counter(name.split(".")[0] for name in names)
    return ", ".join(f"{word} {count}" for word, count in counts.items()) or "none"
