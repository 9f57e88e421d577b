"""What a check finds, and the list of all it can find.

A `Finding` is one kind of oddity in one file, with the first culprits and how many there are. ``KINDS`` says of each
kind how grave it is, what it means and what to do; docs/errors.md is written from it.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from shlex import quote
from typing import Any

from hiera_det.data.coco.kinds import KINDS, Severity
from hiera_det.errors import InputError, printable

__all__ = ["Finding", "Findings", "fix_command", "kind_of", "listed", "short"]

#: How many culprits a message lists before it only counts.
LISTED = 3

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 200  # a file name in full
_REPR.maxlong = 40

_KIND = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", int: "a number", float: "a number"}


@dataclass(frozen=True)
class Finding:
    """One kind of oddity in one file.

    Attributes:
        severity: "error" (training refuses), "warning" (the result may not be what you want) or "note" (a fact).
        kind: a word of ``KINDS``.
        text: what is the matter, in one line; names the first culprits.
        remedy: what to do, in one line.
        file: the JSON, image or folder that it is about.
        image_id: of the first culprit, where it is or belongs to an image.
        annotation_id: of the first culprit, where it is an annotation.
        count: how many culprits there are.
    """

    severity: Severity
    kind: str
    text: str
    remedy: str
    file: str
    image_id: int | str | None = None
    annotation_id: int | None = None
    count: int = 1

    def __str__(self) -> str:
        """File, text and remedy in one line that a terminal shows as it is."""
        return printable(f"{self.file}: {self.text}" + (f"; {self.remedy}" if self.remedy else ""))


class Findings:
    """Collects the findings on one JSON; those of one kind become one.

    Args:
        file: the JSON.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self._first: dict[str, Finding] = {}
        self._culprits: dict[str, list[Any]] = {}

    def add(
        self,
        kind: str,
        text: str,
        *,
        remedy: str | None = None,
        file: str | None = None,
        image_id: int | str | None = None,
        annotation_id: int | None = None,
        count: int = 1,
    ) -> None:
        """Add an oddity; of a kind that is there already only the count grows, and its culprits are listed."""
        # One finding per kind: a JSON with one mistake in each of a million annotations has one line to read.
        culprit = image_id if annotation_id is None else annotation_id
        if kind in self._first:
            self._first[kind] = replace(self._first[kind], count=self._first[kind].count + count)
            if len(self._culprits[kind]) < LISTED:
                self._culprits[kind].append(culprit)
            return
        fixed = KINDS[kind].remedy if remedy is None else remedy
        self._culprits[kind] = []
        self._first[kind] = Finding(
            KINDS[kind].severity, kind, text, fixed, file or self.file, image_id, annotation_id, count
        )

    def __contains__(self, kind: str) -> bool:
        """Whether something of this kind was found."""
        return kind in self._first

    @property
    def has_errors(self) -> bool:
        """Whether training would refuse."""
        return any(finding.severity == "error" for finding in self._first.values())

    def as_list(self) -> list[Finding]:
        """What was found: errors, then warnings, then notes, each in the order in which they came up."""
        found = [self._with_others(finding) for finding in self._first.values()]
        order = ("error", "warning", "note")
        return sorted(found, key=lambda finding: order.index(finding.severity))

    def raise_first_error(self, *, except_for: str = "") -> None:
        """Refuse the JSON if there is an error.

        Args:
            except_for: a kind of error that one can live with.

        Raises:
            InputError: the first error found.
        """
        for finding in self.as_list():
            if finding.severity == "error" and finding.kind != except_for:
                raise InputError(str(finding))

    def _with_others(self, finding: Finding) -> Finding:
        others = [culprit for culprit in self._culprits[finding.kind] if culprit is not None]
        if not others:
            return finding
        more = finding.count - 1
        names = ", ".join(map(short, others)) + (", ..." if more > len(others) else "")
        return replace(finding, text=f"{finding.text} (and {more} more: {names})")


def fix_command(json: str, images: str) -> str:
    """The command that mends a JSON, to be pasted into a shell."""
    return f"`hiera-det check {quote(json)} {quote(images)} --fix OUT.json`"


def kind_of(value: Any) -> str:
    """What JSON calls a value of this type."""
    return "null" if value is None else _KIND.get(type(value), type(value).__name__)


def short(value: Any) -> str:
    """A value as a message shows it: long ones are cut."""
    if type(value) is int and abs(value) > 10**40:  # its digits are not worked out: Python refuses more than 4300
        return f"an integer of {value.bit_length()} bits"
    try:
        return _REPR.repr(value)
    except ValueError:  # such an integer within a list
        return f"{kind_of(value)} with an integer of thousands of digits"


def listed(values: Sequence[Any]) -> str:
    """The first few values, and how many there are."""
    more = f", ... ({len(values)} in all)" if len(values) > LISTED else ""
    return ", ".join(short(value) for value in values[:LISTED]) + more
