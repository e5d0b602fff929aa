"""Images that are encoded again as PNG: formats that no tower reads, and samples of more than 8 bits.

Two different pictures can be equal afterwards: all pictures of one number are black if they are stretched from their
own minimum to their own maximum. So a digest of what the file held goes with a picture that was not kept without loss.
"""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from setclip_cli.pixels.eight_bits import PERCENTILES, grey_to_eight_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from setclip_cli.pixels.tiff_header import TiffPage

OVER_EIGHT_BITS = "samples over 8 bits scaled to 8"
STRETCHED = "samples over 8 bits stretched to 8: percentiles {:g},{:g} of each picture, nearly black otherwise".format(
    *PERCENTILES
)
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "La", "RGBa")
_WITHOUT_LOSS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX")


class CheckedImage(NamedTuple):
    content: bytes  # JPEG, PNG or WebP
    width: int
    height: int
    repairs: tuple[str, ...]
    original: str | None = None  # sha256 of the samples or bytes before a change that is not without loss


def re_encoded(
    image: Image.Image,
    repairs: tuple[str, ...],
    page: TiffPage | None = None,
    *,
    cut: bytes | None = None,
    stretched: NDArray[np.uint8] | None = None,
) -> CheckedImage:
    """The image as PNG.

    Args:
        cut: The bytes of the file, if Pillow decodes fewer bits of a sample than it holds.
        stretched: Its upright 8-bit pixels, if it would be nearly black as Pillow decodes it.
    """
    changed = [f"{image.format} re-encoded as PNG"] if image.format != "PNG" else []
    image.load()
    upright = found = ImageOps.exif_transpose(image)
    without_loss = cut is None and upright.mode in _WITHOUT_LOSS
    if stretched is not None:
        upright = Image.fromarray(stretched)
        changed.append(STRETCHED)
    elif upright.mode not in EIGHT_BIT_MODES:
        white_is_zero = page is not None and page.photometric == 0
        bits, nodata = (max(page.bits), page.nodata) if page else (16, None)
        grey = grey_to_eight_bits(upright, bits=bits, nodata=nodata, white_is_zero=white_is_zero)
        upright = Image.fromarray(grey.pixels)
        changed.append(STRETCHED if grey.stretched else OVER_EIGHT_BITS)
    elif upright.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        upright = upright.convert({"La": "LA", "PA": "RGBA", "RGBa": "RGBA"}.get(upright.mode, "RGB"))
    encoded = io.BytesIO()
    upright.save(encoded, "PNG")
    content = encoded.getvalue()
    original = None
    if not without_loss:
        original = sha256_of_samples(content, np.asarray(found)) if cut is None else hashlib.sha256(cut).hexdigest()
    return CheckedImage(content, upright.width, upright.height, (*changed, *repairs), original)


def sha256_of_samples(content: bytes, samples: NDArray[Any]) -> str:
    """The digest of an image whose samples were changed: the same for the same numbers, changed in the same way.

    Args:
        content: The bytes that the change has made of the samples.
        samples: (height, width) or with more axes, of any type of real numbers; missing ones are NaN.
    """
    digest = hashlib.sha256(content)
    for row in samples:
        digest.update(row.astype("<f8").tobytes())
    return digest.hexdigest()
