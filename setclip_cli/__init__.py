"""Align two modalities from unpaired data and few pairs, or none."""

from setclip_cli.version import __version__

__all__ = ["__version__"]
