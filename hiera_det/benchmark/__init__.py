"""Measuring trunks and detectors against their peers; `hiera_det.cli.benchmark` is in front."""
