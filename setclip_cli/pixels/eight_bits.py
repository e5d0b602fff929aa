"""Pictures with more than 8 bits a sample become 8-bit pictures, never nearly black ones.

The scale is the one that keeps pictures comparable: white is the largest number of the sample's bits. But reflectance
in percent of a percent, thermal counts and 12-bit cameras use a small part of 16 bits. A picture that would be nearly
black on that scale is stretched between two of its own percentiles instead, each band for itself.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import ImageOps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from PIL import Image, ImageFile

PERCENTILES = (2.0, 98.0)  # of a band's samples: they become black and white
NEARLY_BLACK = 0.25  # of white: a picture whose 98th percentile is below
_LOOKED_AT = 1024  # samples along each side that the percentiles are taken from


class EightBits(NamedTuple):
    pixels: NDArray[np.uint8]
    stretched: bool  # between percentiles, since it would be nearly black otherwise


def grey_to_eight_bits(
    image: Image.Image, *, bits: int = 16, nodata: float | None = None, white_is_zero: bool = False
) -> EightBits:
    """Scales the samples of a 16-bit, 32-bit or float picture to 0..255.

    Unsigned samples of up to 16 bits keep their absolute scale; others are stretched from their own minimum to their
    own maximum; and either is stretched between its percentiles if it would be nearly black. Pixels that the file calls
    nodata and samples that are not a number are left out and black.

    Args:
        bits: How many bits of a sample the file uses.
    """
    samples = np.asarray(image, dtype=np.float64)
    valid = np.isfinite(samples)
    if image.mode.startswith("I;16") or (image.mode == "I" and 255 < samples.max() <= 65535 and samples.min() >= 0):
        low, high = 0.0, float(2 ** min(bits, 16) - 1)
    else:
        if nodata is not None:
            valid &= samples != np.float32(nodata)
        low, high = (float(samples[valid].min()), float(samples[valid].max())) if valid.any() else (0.0, 1.0)
    missing = ~valid & ~np.isinf(samples)
    if white_is_zero:
        samples = low + high - samples
    limits = limits_of_a_dark_picture([samples], [valid], low, high)
    pixels = eight_bits(samples, *(limits[0] if limits else (low, high)))
    pixels[missing] = 0
    return EightBits(pixels, limits is not None)


def limits_of_a_dark_picture(
    bands: Sequence[NDArray[Any]], valid: Sequence[NDArray[np.bool_]] | None, low: float, high: float
) -> list[tuple[float, float]] | None:
    """The samples of each band that become black and white, if a picture is nearly black on the scale from ``low`` to
    ``high``; None if it is not, or if it has one tone only."""
    limits = []
    for number, band in enumerate(bands):
        some = tuple(slice(None, None, -(-side // _LOOKED_AT)) for side in band.shape)
        looked_at = band[some] if valid is None else band[some][valid[number][some]]
        darkest, brightest = np.percentile(looked_at, PERCENTILES) if looked_at.size else (low, low)
        limits.append((float(darkest), float(brightest)))
    is_dark = max(brightest for _, brightest in limits) - low < NEARLY_BLACK * (high - low)
    if not is_dark or all(darkest == brightest for darkest, brightest in limits):
        return None
    return [each if each[0] < each[1] else (low, high) for each in limits]


def dark_colours_to_eight_bits(open_file: Callable[[], ImageFile.ImageFile]) -> NDArray[np.uint8] | None:
    """(h, w, 3 or 4): the upright 8-bit picture of a file with 16-bit colours that is nearly black without a stretch.

    Pillow reads only the high byte of such colours. The low byte is read with the other byte order.

    Args:
        open_file: Opens the picture, each time from its start.

    Returns:
        None if the file has no 16-bit colours that can be read so, or is not nearly black.
    """
    low_bytes = open_file()
    tiles = [_with_the_other_byte(tile) for tile in low_bytes.tile]
    if low_bytes.mode not in ("RGB", "RGBA") or not tiles or None in tiles:
        return None
    high = np.asarray(ImageOps.exif_transpose(open_file()))
    if np.percentile(high[:, :, :3], PERCENTILES[1]) > 2 * NEARLY_BLACK * 255:  # the low bytes cost a second reading
        return None
    low_bytes.tile = tiles
    samples = high.astype(np.uint16) << 8 | np.asarray(ImageOps.exif_transpose(low_bytes))
    bands = [samples[:, :, band] for band in range(3)]
    limits = limits_of_a_dark_picture(bands, None, 0.0, 65535.0)
    if limits is None:
        return None
    pixels = [eight_bits(band, *chosen) for band, chosen in zip(bands, limits, strict=True)]
    return np.stack([*pixels, *np.moveaxis(high[:, :, 3:], -1, 0)], axis=-1)


def _with_the_other_byte(tile: Any) -> Any:
    """Pillow's description of a part of a file, changed to read the other byte of each 16-bit sample; None if the
    samples have another size."""
    codec, extents, offset, arguments = tile
    mode = arguments if isinstance(arguments, str) else arguments[0] if arguments else ""
    form, _, order = str(mode).partition(";16")
    if order not in ("L", "B", "N"):
        return None
    big = order == "B" or (order == "N" and sys.byteorder == "big")
    other = f"{form};16{'L' if big else 'B'}"
    changed = (codec, extents, offset, other if isinstance(arguments, str) else (other, *arguments[1:]))
    return type(tile)(*changed) if hasattr(tile, "_fields") else changed  # a plain tuple before Pillow 11


def eight_bits(samples: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Samples from ``low`` to ``high`` as 0 to 255; what is not a number is 0."""
    with np.errstate(all="ignore"):
        scaled = np.nan_to_num((samples - low) / max(high - low, 1e-12), nan=0.0, posinf=1.0, neginf=0.0)
    pixels: NDArray[np.uint8] = np.rint(scaled.clip(0, 1) * 255).astype(np.uint8)
    return pixels
