"""Align two modalities from unpaired data and few pairs, or none."""

__version__ = "0.1.0"
