"""A font that has the letters of a text: the plain one, else another that is installed, else a line in the log."""

from __future__ import annotations

import logging
import string
from functools import cache, lru_cache
from typing import TypeAlias

from PIL import ImageFont

__all__ = ["font_for"]

logger = logging.getLogger("hiera_det.pictures")

Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

#: What any font must have that is taken: scores stand beside names.
PLAIN_LETTERS = frozenset(string.ascii_letters + string.digits + " .()")


def font_for(text: str, size: int) -> Font:
    """A font for a text, in pixels of height: DejaVu, or the installed one that has most of its letters."""
    letters = frozenset(letter for letter in text if ord(letter) > 127)  # scores come and go, the rest is the class
    path = best_font(letters)
    return _load(path, max(size, 6))


@lru_cache(maxsize=64)
def _load(path: str, size: int) -> Font:
    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size)


@lru_cache(maxsize=512)
def best_font(letters: frozenset[str]) -> str:
    """The font file for some letters; says in the log, once for each set, which of them no font has."""
    plain = plain_font()
    if not plain or letters <= letters_of(plain):
        return plain
    from matplotlib import font_manager

    wanted = letters | PLAIN_LETTERS
    fonts = [plain, *sorted(font_manager.findSystemFonts())]
    best = max(fonts, key=lambda path: len(letters_of(path) & wanted))  # of equal ones the first
    if missing := letters - letters_of(best):
        logger.warning(
            "no installed font has the letters %s: pictures show squares; install one that does, such as Noto Sans",
            "".join(sorted(missing)),
        )
    return best


@cache
def plain_font() -> str:
    """DejaVu, which comes with matplotlib; without that Pillow's own, ""."""
    try:
        from matplotlib import font_manager
    except ImportError:
        return ""
    return str(font_manager.findfont("DejaVu Sans"))


@lru_cache(maxsize=512)
def letters_of(path: str) -> frozenset[str]:
    """The letters that a font file has; none where it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(map(chr, FT2Font(path).get_charmap()))
    except (OSError, RuntimeError, ValueError):
        return frozenset()
