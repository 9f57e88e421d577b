"""Which kernel, and why: the one place that asks for device, dtype, gradient mode, compiler and processor.

A path is chosen by `TABLE`: on these processors it was measured to win 5% or more (docs/performance.md). What the table
does not hold takes PyTorch's own operation. The choice is the same in every run on one machine. Set the environment
variable ``HIERA_DET_PATHS`` to ``plain`` to switch all paths off.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils._device import DeviceContext

__all__ = [
    "Kernel",
    "Path",
    "choose",
    "differentiates_forward",
    "forced",
    "has_choice",
    "is_eager",
    "is_exported",
    "is_placeholder",
    "is_symbolic",
    "own",
    "processor",
    "records_gradients",
    "reusable",
    "to_compute_dtype",
    "untouched",
    "without_half",
]

SWITCH = "HIERA_DET_PATHS"
if os.environ.get(SWITCH, "") not in ("", "plain"):
    logging.getLogger(__name__).warning(
        "%s %s: only plain is known; paths are as without it", SWITCH, os.environ[SWITCH]
    )
PLAIN = os.environ.get(SWITCH) == "plain"

Class = TypeVar("Class", bound=type)


class Path(Enum):
    """What can be done in another way than PyTorch's."""

    PRODUCT = "linear layers as 1x1 convolutions, which oneDNN computes"
    ATTENTION = "attention by products in blocks that stay in the cache"
    RESAMPLING = "positions resampled as one operation of a compiled graph"
    SLABS = "local blocks on some rows of mask units at a time"


class Kernel(Enum):
    """How it is done: by PyTorch's own operation, by ours, or by ours as one operation that a compiler leaves alone."""

    PLAIN = 0
    FAST = 1
    OPAQUE = 2


class Case(NamedTuple):
    """A path, the type computed in, and whether gradients are recorded."""

    path: Path
    dtype: torch.dtype
    gradients: bool = False


class Processor(NamedTuple):
    """A line of processors: vendor, family, and the widest vectors that PyTorch uses of it."""

    vendor: str
    family: int
    vectors: str


TABLE: dict[Processor, frozenset[Case]] = {
    # Zen 5
    Processor("AuthenticAMD", 26, "AVX512"): frozenset(
        [Case(path, dtype) for path in Path for dtype in (torch.float32, torch.bfloat16)]
        + [Case(Path.PRODUCT, torch.float32, gradients=True)]
    ),
    # Zen 4; with gradients convolutions save 4%, on a quiet machine and at two sizes alike
    Processor("AuthenticAMD", 25, "AVX512"): frozenset(
        [
            *(Case(path, torch.float32) for path in (Path.PRODUCT, Path.SLABS)),
            Case(Path.ATTENTION, torch.bfloat16),
            Case(Path.PRODUCT, torch.float32, gradients=True),
        ]
    ),
    # Zen 3
    Processor("AuthenticAMD", 25, "AVX2"): frozenset([Case(Path.SLABS, torch.float32)]),
}


def processor() -> Processor:
    """This machine's; of another system than Linux nothing is known."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            text = file.read(2048)  # the first core's entry: some machines have hundreds
    except OSError:
        text = ""
    vendor = re.search(r"^vendor_id\s*:\s*(\S+)", text, re.MULTILINE)
    family = re.search(r"^cpu family\s*:\s*(\d+)", text, re.MULTILINE)
    return Processor(
        vendor[1] if vendor else "", int(family[1]) if family else 0, torch.backends.cpu.get_cpu_capability()
    )


#: Numbers in a buffer from which on it is worth asking whether it can be used again: 128 KiB of float32, from where on
#: malloc asks the system.
LARGE = 2**15
#: What wins here.
WINS: frozenset[Case] = frozenset() if PLAIN else TABLE.get(processor(), frozenset())


@contextmanager
def forced(cases: Iterable[Case]) -> Iterator[None]:
    """Take these paths where they can be taken, and no other, whatever the table says: to measure and to test."""
    global PLAIN, WINS
    before = PLAIN, WINS
    PLAIN, WINS = False, frozenset(cases)
    try:
        yield
    finally:
        PLAIN, WINS = before


#: Classes whose instances a path may look into, PyTorch's layers that the trunk consists of and the trunk's own, with
#: the ``forward`` that each has of its own module.
OWN: dict[type, object] = {}
#: PyTorch's functions that a path takes the place of.
FUNCTIONS = ("linear", "gelu", "scaled_dot_product_attention")


def own(cls: Class) -> Class:
    """Mark a class as one that a path may look into."""
    forward = vars(cls).get("forward")
    is_its_own = getattr(forward, "__globals__", None) is vars(sys.modules[cls.__module__])
    OWN[cls] = forward if is_its_own else "exchanged before"
    return cls


for _layer in (nn.Linear, nn.LayerNorm, nn.Identity):
    own(_layer)


def choose(path: Path, *tensors: Tensor | None) -> Kernel:
    """How to compute something from these tensors, of which the first says in which type.

    A graph that is made to run anywhere holds PyTorch's operations, and so do tensors that are more than numbers:
    subclasses (quantised, fake), and those inside a transform of ``torch.func`` or forward-mode differentiation.
    """
    x = tensors[0]
    if x is None or not has_choice(x):
        return Kernel.PLAIN
    gradients = torch.is_grad_enabled()
    if not _wins(path, _compute_dtype(x), gradients) or is_exported():
        return Kernel.PLAIN
    if any(t is not None and t.device.type != "cpu" for t in tensors):
        return Kernel.PLAIN
    if torch.compiler.is_compiling():  # an operation of our own has no gradient, and no form for quantised weights
        return Kernel.PLAIN if gradients or not _are_plain(tensors) else Kernel.OPAQUE
    return Kernel.FAST if _are_numbers(tensors) else Kernel.PLAIN


def has_choice(x: Tensor) -> bool:
    """Whether there is anything to choose; answered at once, for on a GPU the time between two kernels counts."""
    return _wins_anything() and not is_placeholder(x) and x.device.type == "cpu"


def reusable(x: Tensor, makers: Iterable[nn.Module]) -> bool:
    """Whether ``x`` may be overwritten: no gradient needs it, and its makers made it for nobody else.

    Asked of large buffers of a CPU only, which the system gives page by page: others are at hand, and every question
    takes time in which a GPU waits.
    """
    if torch.is_grad_enabled() or x.device.type != "cpu" or not is_eager(x) or x.numel() < LARGE:
        return False
    return untouched(*(m for maker in makers for m in (maker, *maker._modules.values()) if m is not None))


def untouched(*modules: nn.Module) -> bool:
    """Whether modules are what the trunk was built with: their very classes, with nothing hooked or put in place."""
    for module in modules:
        if type(module) not in OWN or module._forward_hooks or module._forward_pre_hooks:
            return False
        if module._backward_hooks or module._backward_pre_hooks or module._compiled_call_impl is not None:
            return False
        if "forward" in module.__dict__:
            return False
    # PyTorch's own question for all of these came with 2.6.
    of_all = (hooks._global_forward_hooks, hooks._global_forward_pre_hooks)
    return not any((*of_all, hooks._global_backward_hooks, hooks._global_backward_pre_hooks)) and _is_unpatched()


def differentiates_forward() -> bool:
    """Whether forward-mode differentiation is on (``jvp``), for which PyTorch's fused attention has no formula."""
    return not torch.compiler.is_compiling() and torch.autograd.forward_ad._current_level >= 0


def records_gradients(x: Tensor) -> bool:
    """Whether a backward pass may follow, in which something can be computed anew."""
    return torch.is_grad_enabled() and not is_placeholder(x)


def is_eager(x: Tensor) -> bool:
    """Whether operations of our own may follow: on plain numbers, not in a graph, nor inside a transform."""
    return not (PLAIN or torch.compiler.is_compiling() or is_exported()) and _are_numbers((x,))


def records_eagerly(x: Tensor) -> bool:
    """Whether a backward pass may follow through a function of our own."""
    return is_eager(x) and x.requires_grad and torch.is_grad_enabled()


def is_symbolic(*values: Any) -> bool:
    """Whether a graph is being made in which sizes are symbols: nothing may be decided by them."""
    if torch.compiler.is_compiling():
        # The compiler shows symbols as numbers, `torch.export` as what they are.
        return torch.compiler.is_dynamo_compiling() or any(isinstance(value, torch.SymInt) for value in values)
    return _is_tracing() or any(map(is_placeholder, values))


def is_placeholder(value: Any) -> bool:
    """Whether this stands for a value in a graph of ``torch.fx``."""
    return isinstance(value, torch.fx.Proxy)


def is_exported(value: Any = None) -> bool:
    """Whether a graph is being made that may run anywhere, by ``torch.export``, ``torch.jit.trace`` or ``torch.fx``."""
    exporting = getattr(torch.compiler, "is_exporting", None)  # PyTorch has it from 2.7 on
    return _is_tracing() or is_placeholder(value) or (exporting is not None and bool(exporting()))


def _is_tracing() -> bool:
    """Whether ``torch.jit.trace`` watches."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def to_compute_dtype(*tensors: Tensor) -> list[Tensor]:
    """Tensors in the type to compute in: what is inside one operation is out of autocast's sight."""
    return [tensor.to(_compute_dtype(tensors[0])) for tensor in tensors]


def without_half(x: Tensor) -> Tensor:
    """The same numbers in float32 where their type has fewer bits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _compute_dtype(x: Tensor) -> torch.dtype:
    """The type that a product of ``x`` is computed in on a CPU."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def _are_numbers(tensors: Iterable[Tensor | None]) -> bool:
    """Whether these are plain tensors outside every transform."""
    if torch._C._functorch.peek_interpreter_stack() is not None or differentiates_forward():
        return False
    return not (torch._C._len_torch_function_stack() and _are_operations_seen()) and _are_plain(tensors)


def _are_operations_seen() -> bool:
    """Whether a mode of ``torch.overrides`` sees operations; a default device only says where tensors are made."""
    modes = range(torch._C._len_torch_function_stack())
    return not all(isinstance(torch._C._get_function_stack_at(mode), DeviceContext) for mode in modes)


def _are_plain(tensors: Iterable[Tensor | None]) -> bool:
    """Whether these are of PyTorch's own classes, and not sparse."""
    return all(t is None or (type(t) in (Tensor, nn.Parameter) and t.layout is torch.strided) for t in tensors)


def _wins_anything() -> bool:
    return bool(WINS)


def _wins(path: Path, dtype: torch.dtype, gradients: bool) -> bool:
    """Whether the table holds it; a convolution runs in oneDNN only where that is there and has several threads."""
    return (Case(path, dtype, gradients) in WINS and _is_unpatched()) and (
        path is not Path.PRODUCT
        or (
            torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
            and bool(torch.backends.mkldnn.enabled)
            and torch.get_num_threads() > 1
        )
    )


def _is_unpatched() -> bool:
    """Whether nobody has exchanged a function for all at once, as some set ``nn.Linear.forward`` to add their LoRA."""
    if any(getattr(F, name) is not getattr(torch._C._nn, name) for name in FUNCTIONS):
        return False
    return all(
        cls.__dict__["forward"] is forward and cls.__call__ is nn.Module._wrapped_call_impl
        for cls, forward in OWN.items()
    )


# Asked while compiling, not in the graph, which it would break. `torch.compiler.assume_constant_result` sets the same,
# but imports the compiler for it: a second in every process.
_wins_anything._dynamo_marked_constant = True  # type: ignore[attr-defined]
_wins._dynamo_marked_constant = True  # type: ignore[attr-defined]
_is_unpatched._dynamo_marked_constant = True  # type: ignore[attr-defined]
