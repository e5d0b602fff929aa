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

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from setclip_cli.ingest.sources.tiff_header import TiffPage

OVER_EIGHT_BITS = "samples over 8 bits scaled to 8"
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
) -> CheckedImage:
    """The image as PNG.

    Args:
        cut: The bytes of the file, if Pillow decodes fewer bits of a sample than it holds.
    """
    changed = [f"{image.format} re-encoded as PNG"] if image.format != "PNG" else []
    image.load()
    upright = found = ImageOps.exif_transpose(image)
    without_loss = cut is None and upright.mode in _WITHOUT_LOSS
    if upright.mode not in EIGHT_BIT_MODES:
        upright = _eight_bit(upright, page)
        changed.append(OVER_EIGHT_BITS)
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


def _eight_bit(image: Image.Image, page: TiffPage | None) -> Image.Image:
    """Scales 16-bit, 32-bit and float samples to 0..255.

    Unsigned samples of up to 16 bits keep their absolute scale (white is the largest number of their bits); others are
    stretched from their own minimum to their own maximum. Pixels that the file calls nodata are left out and black.
    """
    samples = np.asarray(image, dtype=np.float64)
    valid = np.isfinite(samples)
    if image.mode.startswith("I;16") or (image.mode == "I" and 255 < samples.max() <= 65535 and samples.min() >= 0):
        low, high = 0.0, float(2 ** min(max(page.bits), 16) - 1) if page else 65535.0
    else:
        if page is not None and page.nodata is not None:
            valid &= samples != np.float32(page.nodata)
        low, high = (float(samples[valid].min()), float(samples[valid].max())) if valid.any() else (0.0, 1.0)
    with np.errstate(all="ignore"):
        scaled = np.nan_to_num((samples - low) / max(high - low, 1e-12), nan=0.0, posinf=1.0, neginf=0.0)
    if page is not None and page.photometric == 0:  # the smallest number is white
        scaled = 1.0 - scaled
    scaled[~valid & ~np.isinf(samples)] = 0.0
    return Image.fromarray(np.rint(scaled.clip(0, 1) * 255).astype(np.uint8))
