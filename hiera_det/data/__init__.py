"""Data sets: checks of COCO JSONs, the built-in shapes, finding images; no framework."""
