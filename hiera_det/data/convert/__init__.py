"""Data sets of other formats as COCO JSONs."""
