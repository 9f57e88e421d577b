"""Limits that are known before anything is imported, as for a command's help."""

__all__ = ["MAX_PIXELS"]

#: Largest image in pixels, see `hiera_det.data.images`: 300 MB as RGB, a third of a second to decode.
MAX_PIXELS = 100_000_000
