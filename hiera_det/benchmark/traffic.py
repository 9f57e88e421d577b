"""What a trunk costs a GPU, by counting: its operations run on tensors without data, and nothing is computed or timed.

Every operation that is no view is a kernel that reads its inputs and writes its outputs once. Fused attention is one
kernel, as in FlashAttention (Dao 2023), and its backward pass another, with five products for the forward's two. A
simulation: it ranks designs, and says nothing of caches, of what a kernel reads twice, or of a real GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from hiera_det.benchmark.catalogue import GPUS, TRUNKS, Gpu
from hiera_det.benchmark.peers import build_trunk

__all__ = ["Traffic", "count_step", "count_traffic", "format_traffic"]

#: Operations that make or name memory and move none.
FREE = {"empty", "empty_strided", "new_empty", "empty_like", "detach", "_local_scalar_dense"}


@dataclass(frozen=True)
class Traffic:
    """Costs of one step.

    Attributes:
        model: its name.
        task: ``forward`` or ``train``.
        case: height, width and batch.
        kernels: operations that move memory.
        moved: bytes read and written.
        kept: bytes that the backward pass keeps, without the parameters; 0 for a forward.
        flop: operations in products, two for each multiply-add.
        parameters: numbers that are trained.
    """

    model: str
    task: str
    case: tuple[int, int, int]
    kernels: int
    moved: int
    kept: int
    flop: int
    parameters: int

    def seconds(self, gpu: Gpu) -> float:
        """The roofline's: products and memory one after the other, or the launches where they take longer."""
        return max(self.flop / gpu.rate + self.moved / gpu.bandwidth, self.kernels * gpu.launch)


@torch.library.custom_op("hiera_det::counted_attention", mutates_args=())
def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention as one operation, without data."""
    return q.new_empty(*q.shape[:-1], v.shape[-1])


@torch.library.custom_op("hiera_det::counted_attention_backward", mutates_args=())
def _attention_backward(grad: Tensor, out: Tensor, q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
    """Its gradients, likewise."""
    return [torch.empty_like(x) for x in (q, k, v)]


@_attention.register_fake
def _attention_shape(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return q.new_empty(*q.shape[:-1], v.shape[-1])


@_attention_backward.register_fake
def _attention_gradient_shapes(grad: Tensor, out: Tensor, q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
    return [torch.empty_like(x) for x in (q, k, v)]


_attention.register_autograd(
    lambda ctx, grad: tuple(_attention_backward(grad, ctx.saved_tensors[3], *ctx.saved_tensors[:3])),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs, output),
)
#: Products of the size of the scores in each.
ATTENTION_PRODUCTS = {"counted_attention": 2, "counted_attention_backward": 5}


class _FusedAttention(DeviceContext):  # type: ignore[no-untyped-call]
    """Takes calls that a GPU's fused kernel takes as one operation; others are spelled out by PyTorch.

    A default device, for which the trunk's own functions do not step aside.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        plain = func is F.scaled_dot_product_attention and len(args) == 3 and kwargs.get("attn_mask") is None
        if plain and args[0].ndim == 4:
            return _attention(*args)
        return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up what operations move."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels = self.moved = self.flop = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        read, written = (
            [x for x in tree_leaves(leaves) if isinstance(x, Tensor)] for leaves in ((args, kwargs or {}), out)
        )
        name = func._schema.name.split("::")[-1]
        if name not in FREE and not _is_view(func, read, written):
            self.kernels += 1
            self.moved += _moved(name, args, (*read, *written))
            self.flop += _products(func, name, args, kwargs or {}, out, read)
        return out


def _moved(name: str, args: Any, tensors: Sequence[Tensor]) -> int:
    """Bytes that an operation reads and writes: all of its tensors, but of filled rows those alone, written once."""
    if name == "index_fill_":
        x, axis, rows, _ = args
        return x.numel() // x.shape[axis] * rows.numel() * x.element_size()
    return sum(x.numel() * x.element_size() for x in tensors)


def _is_view(func: Any, read: Sequence[Tensor], written: Sequence[Tensor]) -> bool:
    """Whether an operation only names memory in another way."""
    aliases = [returned.alias_info for returned in func._schema.returns]
    if any(alias is not None and not alias.is_write for alias in aliases):
        return True
    held = {id(x.untyped_storage()) for x in read}
    return bool(written) and not func._schema.is_mutable and all(id(x.untyped_storage()) in held for x in written)


def _products(func: Any, name: str, args: Any, kwargs: Any, out: Any, read: Sequence[Tensor]) -> int:
    """Operations in an operation's matrix products."""
    if name in ATTENTION_PRODUCTS:
        q, k, _ = read[-3:]
        return ATTENTION_PRODUCTS[name] * 2 * q.numel() * k.shape[-2]
    counted = flop_registry.get(func._overloadpacket)
    return int(counted(*args, **kwargs, out_val=out)) if counted else 0


def count_traffic(model: str, size: str, case: tuple[int, int, int], task: str, dtype: str) -> Traffic:
    """Count a step of a trunk.

    Args:
        model: a name of `hiera_det.benchmark.catalogue.TRUNKS` whose package is installed.
        size: Hiera's.
        case: height, width and batch.
        task: ``forward`` without gradients, ``train`` with a backward pass from all maps.
        dtype: of weights and images, ``bfloat16`` or ``float32``.
    """
    height, width, batch = case
    trunk = build_trunk(model, size, (height, width))
    module = trunk.module.to("meta", getattr(torch, dtype))
    images = torch.empty(batch, 3, height, width, dtype=getattr(torch, dtype), device="meta")
    counted = count_step(module, partial(trunk.maps, module, images), task == "train")
    return Traffic(model, task, case, *counted, parameters=sum(p.numel() for p in module.parameters()))


def count_step(
    module: nn.Module, forward: Callable[[], Sequence[Tensor]], gradients: bool
) -> tuple[int, int, int, int]:
    """Kernels, bytes moved, bytes kept and operations in products of one step, after a first one that fills caches.

    Args:
        module: on the meta device; its parameters do not count as kept.
        forward: gives its maps.
        gradients: go back from all of them.
    """
    module.train(gradients)
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage()._cdata] = x.untyped_storage().nbytes()
        return x

    with torch.set_grad_enabled(gradients), _FusedAttention(torch.device("meta")):
        with saved_tensors_hooks(keep, lambda x: x):
            maps = forward()
        parameters = {p.untyped_storage()._cdata for p in module.parameters()}
        held = sum(size for storage, size in kept.items() if storage not in parameters)
        del maps
        module.zero_grad(set_to_none=False)
        with _Counter() as counter:
            maps = forward()
            if gradients:
                torch.autograd.backward(list(maps), [torch.empty_like(map_) for map_ in maps])
    return counter.kernels, counter.moved, held, counter.flop


def format_traffic(counts: Sequence[Traffic], dtype: str, gpu: str) -> str:
    """A Markdown table; bytes and what is kept also over the least of the peers with the same attention."""
    lines = [
        f"{dtype}; a simulation: operations counted on tensors without data, time by a roofline of {gpu}. "
        "Over peer: over the least of the others with the same attention.",
        "",
        "| image, batch | task | model | kernels | GB moved | over peer | GiB kept | over peer | TFLOP | roofline ms |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for count in counts:
        height, width, batch = count.case
        moved, kept = (_over_peer(count, counts, what) for what in ("moved", "kept"))
        lines.append(
            f"| {height}x{width}, {batch} | {count.task} | {count.model} | {count.kernels} | {count.moved / 1e9:.2f} "
            f"| {moved} | {count.kept / 2**30:.2f} | {kept} | {count.flop / 1e12:.2f} "
            f"| {1e3 * count.seconds(GPUS[gpu]):.1f} |"
        )
    return "\n".join(lines)


def _over_peer(count: Traffic, counts: Sequence[Traffic], what: str) -> str:
    """A cost of ours over the least of other projects' trunks that do the same work; "" for a peer itself."""
    peers = [
        getattr(other, what)
        for other in counts
        if (other.case, other.task) == (count.case, count.task)
        and other.model in TRUNKS
        and other.model != count.model
        and TRUNKS[other.model].reference == count.model
    ]
    return f"{getattr(count, what) / min(peers):.3f}" if peers and min(peers) else ""
