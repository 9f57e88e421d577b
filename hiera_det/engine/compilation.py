"""Models under torch.compile."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sys
import sysconfig

import torch
from torch import nn
from torch.torch_version import TorchVersion

from hiera_det.errors import InputError

__all__ = ["compile_in_place"]

logger = logging.getLogger("hiera_det.training")

#: Before it one graph for all sizes did not come to an end: 2.5.0 in half an hour, 2.6.0 in minutes (tests/matrix.py).
OLDEST = "2.7"


def compile_in_place(module: nn.Module, device: str, word: str) -> None:
    """Let a module compile itself at its first call, for any image size, in training and evaluation.

    It stays the module that it was, with the same names of parameters: checkpoints fit compiled and plain alike. Its
    ``forward`` called directly is the plain one.

    Args:
        module: a trunk.
        device: ``cpu`` or ``cuda``; on a CPU the generated code is C++.
        word: the flag or key that asks for it, for the message.

    Raises:
        InputError: something that it needs is found missing now; the rest would show at the first call.
    """
    if TorchVersion(torch.__version__) < OLDEST:
        told = f"PyTorch {torch.__version__} comes to no end of compiling for all sizes"
        raise InputError(f"{word} True: {told}; take {OLDEST} or newer, or set it to False")
    if device == "cpu":
        if missing := _missing_on_cpu():
            raise InputError(f"{word} True: {missing}; install it or set it to False")
        # Hiera-B, windowed: 1.02 times at 224, 1.08 to 1.19 from 512 on (docs/performance.md).
        logger.warning("%s True: on a CPU the first steps take minutes, and no later one was found to be faster", word)
    try:
        module.compile(dynamic=True)
    except RuntimeError as error:  # this Python or system is not one that PyTorch compiles on
        raise InputError(f"{word} True: {str(error).splitlines()[0]}; set it to False") from None


def _missing_on_cpu() -> str:
    """What PyTorch's C++ code on a CPU needs and does not find, in words; "" for nothing."""
    default = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    compiler = (shlex.split(os.environ.get("CXX", "")) or [default])[0]
    if shutil.which(compiler) is None:
        return f"there is no C++ compiler {compiler} (the variable CXX names another)"
    headers = sysconfig.get_path("include")
    if not os.path.isfile(os.path.join(headers, "Python.h")):
        return f"there is no Python.h in {headers} (the package python3-dev or its like)"
    return ""
