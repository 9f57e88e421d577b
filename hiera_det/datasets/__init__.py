"""Data sets: checks of COCO JSONs and the built-in shapes; no framework."""
