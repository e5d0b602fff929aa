"""Pictures that strangers send: what they claim to be is checked before they are decoded."""

from __future__ import annotations

import base64
import binascii
import io
import warnings

from PIL import Image

from setclip_cli.errors import UsageError
from setclip_cli.pixels.bands import over_a_cap
from setclip_cli.pixels.tiff_header import MAGICS, BadTiffError, read_tiff_header

PIXELS = 25_000_000  # of a picture: 75 MB when decoded
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000")  # none runs a program
_FIX = f"send a JPEG, PNG or WebP file of at most {PIXELS:,} pixels in base64"


def picture_of(text: str, *, bands: bool) -> bytes:
    """The file that a request holds as base64.

    Args:
        bands: Whether the tower reads images of bands, which Pillow does not know.

    Raises:
        UsageError: it is not base64, not a picture, or has more than ``PIXELS`` pixels.
    """
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError("image: is not base64", fix=_FIX) from error
    width, height = _tiff_size(content) if bands and content.startswith(MAGICS) else _size(content)
    if width * height > PIXELS:
        raise UsageError(f"image: has {width:,} x {height:,} pixels, more than {PIXELS:,}", fix=_FIX)
    return content


def _size(content: bytes) -> tuple[int, int]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
                return opened.size
    except Image.DecompressionBombError as error:
        raise UsageError(f"image: has more than {PIXELS:,} pixels", fix=_FIX) from error
    except Exception as error:  # Pillow's readers raise whatever they meet in a broken file
        raise UsageError("image: is not a picture that can be read", fix=_FIX) from error


def _tiff_size(content: bytes) -> tuple[int, int]:
    try:
        page = read_tiff_header(content, sparse=True).page
        over = over_a_cap(page.width, page.height, [page.dtype] * page.bands)
    except (BadTiffError, TypeError, KeyError) as error:
        raise UsageError(
            "image: is not a TIFF file that can be read", fix="send a whole TIFF file in base64"
        ) from error
    if over:
        raise UsageError(f"image: {over}", fix="send a smaller part of it")
    return page.width, page.height
