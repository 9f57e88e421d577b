"""What the commands have in common: a parser that speaks of itself as it was called."""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import NoReturn

from hiera_det.errors import EXIT_BAD_INPUT

__all__ = ["command_parser"]


class _Parser(argparse.ArgumentParser):
    """argparse's, whose refusals are one line like all others."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the flags and exit."""
        self.exit(EXIT_BAD_INPUT, f"error: {message}; {self.prog} --help lists the flags\n")


def command_parser(
    command: str, doc: str | None, allow_abbrev: bool = True, add_help: bool = True
) -> argparse.ArgumentParser:
    """A parser whose help shows ``doc``.

    Args:
        command: the word after ``hiera-det``, by which ``doc`` calls the command in its examples; from a script of
            ``tools/`` they name the script.
        doc: the docstring of the command's module.
        allow_abbrev: take flags that are cut short, too.
        add_help: know ``--help``.
    """
    program, script = f"hiera-det {command}", os.path.basename(sys.argv[0])
    if script.endswith(".py"):
        doc = re.sub(rf"{program}(?=\s)", f"python tools/{script}", doc or "")
        program = script
    return _Parser(
        prog=program,
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=allow_abbrev,
        add_help=add_help,
    )
