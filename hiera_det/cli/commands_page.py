"""docs/commands.md: every command with its flags, as a page.

``python -m hiera_det.cli.commands_page > docs/commands.md`` writes it anew.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
from unittest import mock

from hiera_det.cli.main import COMMANDS

__all__ = ["commands_page"]

_HEAD = """\
# Commands and their flags

`hiera-det COMMAND`, or `python -m hiera_det COMMAND`; `--help` says the same. In a clone, `tools/*.py` are the same
commands under the names that users of detectron2 know.

<!-- Written by `python -m hiera_det.cli.commands_page`: change the parsers in hiera_det/cli/ instead. -->

"""
#: Scripts of tools/ that are not named as their command's module.
_SCRIPTS = {
    "check": "check_dataset",
    "train_detector": "train_net",
    "train_lazy": "lazyconfig_train_net",
    "predict": "demo",
    "make_shapes": "make_shapes_dataset",
}
#: What a command's flag turns it into: the words, and the module.
_TURNED = {"train": ("train --framework torchvision", "train_torchvision")}


def commands_page() -> str:
    """The page as Markdown."""
    parts = [_HEAD]
    parts += [f"- [`{word}`](#{word}): {what}\n" for word, (_, what) in COMMANDS.items()]
    for word, (name, _) in COMMANDS.items():
        script = "" if name == "doctor" else f"In a clone also `python tools/{_SCRIPTS.get(name, name)}.py`.\n\n"
        parts += _chapter(f"## {word}", name, script)
        if word in _TURNED:
            turned, other = _TURNED[word]
            parts += _chapter(f"### {turned}", other)
    return "".join(parts).rstrip() + "\n"


def _chapter(head: str, name: str, script: str = "") -> list[str]:
    """What a module's parser says."""
    module = importlib.import_module(f"hiera_det.cli.{name}")
    with mock.patch.object(sys, "argv", ["hiera-det"]):  # a parser speaks of itself as it was called
        parser = module.argument_parser()
    return [f"\n{head}\n\n", _description(parser.description), script, *_tables(parser)]


def _description(text: str) -> str:
    """A docstring: its paragraphs, and its examples as a block."""
    prose, _, examples = re.split(r"^(Examples?:)\n", inspect.cleandoc(text), maxsplit=1, flags=re.MULTILINE)
    block = inspect.cleandoc("\n" + examples)
    return f"{prose}<!-- not run: usage; the other pages' blocks are run -->\n```console\n{block}\n```\n\n"


def _tables(parser: argparse.ArgumentParser) -> list[str]:
    """A table per group of arguments; argparse has no public list of them."""
    parts = []
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.dest != "help"]
        if actions:
            title = {"options": "flags", "optional arguments": "flags"}.get(group.title or "", group.title)
            parts.append(f"| {title} | |\n|---|---|\n")
            parts += [f"| {_name(action)} | {_what(action)} |\n" for action in actions]
            parts.append("\n")
    return parts


def _name(action: argparse.Action) -> str:
    """How an argument is written, with its value."""
    value = action.metavar or ("" if action.nargs == 0 else action.dest.upper())
    if action.choices and not action.metavar:
        value = ", ".join(map(str, action.choices))
    shown = " ".join(value) if isinstance(value, tuple) else value
    return " ".join([*(f"`{option}`" for option in action.option_strings), *([f"`{shown}`"] if shown else [])])


def _what(action: argparse.Action) -> str:
    """An argument's help, safe in a cell of a table."""
    return ((action.help or "") % vars(action)).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    print(commands_page(), end="")
