"""Data sets, augmentation and batches for detectron2."""
