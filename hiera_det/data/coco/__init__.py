"""COCO's JSON: reading, checking, completing."""
