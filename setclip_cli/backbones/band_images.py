"""Images of any number of bands as tensors: missing values filled, another view of them, strips cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from setclip_cli.backbones.augment import augment_bands
from setclip_cli.errors import UsageError
from setclip_cli.pixels.bands import has_bands, read_bands
from setclip_cli.pixels.tiff_header import MAGICS, BadTiffError, read_tiff_header

if TYPE_CHECKING:
    from torch import Tensor

    from setclip_cli.pixels.bands import BandScale


def open_bands(content: bytes, scale: BandScale, *, spec: str, view: int | None = None) -> Tensor:
    """(bands, h, w) float32 with the numbers of the file; a missing value is the mean of its band.

    Args:
        scale: Of the tower; it says how many bands there have to be.
        spec: The backbone's name, for errors.
        view: A seed, to get another view of the image.

    Raises:
        SetClipError: the image has another number of bands, or rasterio is not installed.
        UnreadableBandsError: the bytes cannot be read.
    """
    wanted = len(scale.mean)
    if not has_bands(content):
        raise _other_bands(spec, wanted, "a picture, not an image of bands")
    bands = read_bands(content)
    if len(bands.samples) != wanted:
        raise _other_bands(spec, wanted, f"an image of {_count(len(bands.samples))}", len(bands.samples))
    samples = bands.samples.astype(np.float32)
    for band, missing, mean in zip(samples, bands.missing, scale.mean, strict=True):
        band[missing] = mean
    if view is not None:
        samples = augment_bands(samples, scale.std, view)
    return torch.from_numpy(np.ascontiguousarray(samples))


def refuse_bands(content: bytes, spec: str) -> None:
    """Raises SetClipError if an image has more bands than a picture, and the backbone reads pictures."""
    if not content.startswith(MAGICS):
        return
    try:
        bands = read_tiff_header(content, sparse=True).page.bands
    except BadTiffError:
        return
    raise UsageError(
        f"{spec} reads pictures of three colours, and this is an image of {_count(bands)}",
        fix=f"train a tower with in_chans = {bands}, or choose bands with --bands R,G,B when the scenes are ingested",
    )


def _other_bands(spec: str, wanted: int, found: str, bands: int | None = None) -> UsageError:
    again = "" if bands is None else f", or train a tower with in_chans = {bands}"
    return UsageError(
        f"{spec} was loaded for images of {_count(wanted)}, and this is {found}",
        fix=f"give it a TIFF of {_count(wanted)}{again}",
    )


def _count(bands: int) -> str:
    return "1 band" if bands == 1 else f"{bands} bands"
