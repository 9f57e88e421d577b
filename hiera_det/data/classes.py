"""Classes go by name: which class of a checkpoint is which class of a data set.

The index of a class is its place in one JSON and means nothing in another. Evaluation maps predictions, resuming
compares, and fine-tuning moves the heads' rows by what `match_classes` says.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from hiera_det.errors import InputError, printable

__all__ = ["ClassMatch", "listed", "match_classes", "same_classes_order", "told"]

#: Most names of a list that a message shows.
LISTED = 20


@dataclass(frozen=True)
class ClassMatch:
    """How the classes of a data set and of a checkpoint go together.

    Attributes:
        rows: for each class of the data, in its order, the index of the checkpoint's class of that name; None where
            the checkpoint has none.
        new: names of the data's classes that the checkpoint lacks.
        dropped: names of the checkpoint's classes that the data lack.
    """

    rows: tuple[int | None, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]

    @property
    def is_same_set(self) -> bool:
        """Whether both have the same names, in whatever order."""
        return not self.new and not self.dropped

    @property
    def is_same_order(self) -> bool:
        """Whether indices mean the same in both, so that nothing needs to be mapped."""
        return self.is_same_set and self.rows == tuple(range(len(self.rows)))


def match_classes(checkpoint_names: Sequence[str], data_names: Sequence[str]) -> ClassMatch:
    """Match the classes of a checkpoint and of a data set by their names.

    Names are equal letter by letter, after blanks at their ends are taken off and accents are written one way (NFC).
    Where a name occurs twice, the first goes with the first.

    Args:
        checkpoint_names: in the order of the checkpoint's indices, ``[c["name"] for c in saved["categories"]]``.
        data_names: in the order of the data set's indices.

    Returns:
        see `ClassMatch`; ``rows[data index]`` is the checkpoint's index or None.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(checkpoint_names):
        places[_plain(name)].append(index)
    rows = tuple(places[_plain(name)].pop(0) if places[_plain(name)] else None for name in data_names)
    new = tuple(name for name, row in zip(data_names, rows, strict=True) if row is None)
    dropped = tuple(name for index, name in enumerate(checkpoint_names) if index not in rows)
    return ClassMatch(rows, new, dropped)


def same_classes_order(
    checkpoint_names: Sequence[str], data_names: Sequence[str], checkpoint: str, data: str
) -> tuple[int, ...]:
    """The data's index of each class of a checkpoint, where both must have the same names.

    Args:
        checkpoint_names: see `match_classes`.
        data_names: see there.
        checkpoint: the checkpoint's file, for the message.
        data: the JSON or the data set's name, for the message.

    Returns:
        ``order[checkpoint index]`` is the index of the data's class of that name.

    Raises:
        InputError: a name of one is not a name of the other; the line has both lists.
    """
    match = match_classes(checkpoint_names, data_names)
    if not match.is_same_set:
        raise InputError(
            f"{data}: its classes are not those of {checkpoint}{_nearly(match)}: {listed(data_names)} in the data, "
            f"{listed(checkpoint_names)} in the checkpoint; rename them, or take the data that it was trained on"
        )
    order = {row: index for index, row in enumerate(match.rows)}
    return tuple(order[index] for index in range(len(order)))


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip())


def _nearly(match: ClassMatch) -> str:
    """What would make the names the same, where that is plain."""
    new, dropped = ({_plain(name).casefold() for name in names} for names in (match.new, match.dropped))
    return " (they differ only in upper and lower case)" if new == dropped else ""


def told(match: ClassMatch) -> str:
    """What becomes of a checkpoint's classes in another data set, in a line for the log."""
    kept = len(match.rows) - len(match.new)
    parts = [f"classes go by name: {kept} of {len(match.rows)} are the checkpoint's"]
    parts += [f"new and untrained: {listed(match.new)}"] if match.new else []
    parts += [f"left out: {listed(match.dropped)}"] if match.dropped else []
    return printable("; ".join(parts))


def listed(names: Sequence[str]) -> str:
    """Names in brackets, the first twenty."""
    more = f", ... ({len(names)} in all)" if len(names) > LISTED else ""
    return f"[{', '.join(map(repr, names[:LISTED]))}{more}]"
