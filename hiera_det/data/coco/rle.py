"""Run lengths of masks: COCO's RLE, as a list of counts or in its text form."""

from __future__ import annotations

from typing import Any

import numpy as np

from hiera_det.data.coco.schema import Ints

__all__ = ["rle_area", "rle_extent", "run_lengths"]

#: Characters of the longest number in the text form: 5 bits each, for 32 bits and the sign.
MAX_CHARACTERS = 7
_OFFSETS: Ints = 5 * np.arange(MAX_CHARACTERS, dtype=np.int64)


def run_lengths(counts: Any) -> Ints | None:
    """Run lengths of an RLE, alternating background and object; None where they cannot be read.

    Args:
        counts: a list of integers, or COCO's text form. Takes time in proportion to its length.
    """
    if isinstance(counts, str):
        found = _from_text(counts)
    elif isinstance(counts, list) and all(type(count) is int and 0 <= count < 2**32 for count in counts):
        found = np.array(counts, np.int64)
    else:
        return None
    return None if found is None or (found < 0).any() else found


def rle_area(runs: Ints) -> int:
    """Pixels of the object."""
    return int(runs[1::2].sum())


def rle_extent(runs: Ints, height: int) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 of what runs down columns of a height cover; NaN where they cover nothing."""
    ends = np.cumsum(runs)[1::2]
    lengths = runs[1::2]
    ends, lengths = ends[lengths > 0], lengths[lengths > 0]
    if not ends.size:
        return (np.nan,) * 4
    first, last = ends - lengths, ends - 1
    wraps = bool((first // height < last // height).any())  # from one column into the next: from top to bottom
    top, bottom = (0, height) if wraps else (int((first % height).min()), int((last % height).max()) + 1)
    return int(first[0]) // height, top, int(last[-1]) // height + 1, bottom


def _from_text(text: str) -> Ints | None:
    """The numbers of the text form (pycocotools ``rleFrString``).

    A character holds 5 bits, the lowest first, bit 0x20 says that more follow, the last one's 0x10 is the sign; from
    the fourth number on, the difference to the number two before is stored.
    """
    if not text.isascii():
        return None
    characters = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    if not characters.size:
        return characters
    last = (characters & 0x20) == 0
    if ((characters < 0) | (characters >= 64)).any() or not last[-1]:
        return None
    ends = np.flatnonzero(last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if (lengths > MAX_CHARACTERS).any():
        return None
    places = np.arange(characters.size) - np.repeat(starts, lengths)
    values = np.add.reduceat((characters & 0x1F) << _OFFSETS[places], starts)
    values -= ((characters[ends] & 0x10) != 0).astype(np.int64) << (5 * lengths)
    # Differences to the number two before, from the fourth on: sums along the odd places, and along the even ones.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
