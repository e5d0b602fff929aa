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
FORMATS = {  # Pillow's name of each format, and ours; none runs a program
    "JPEG": "JPEG",
    "PNG": "PNG",
    "WEBP": "WebP",
    "GIF": "GIF",
    "BMP": "BMP",
    "TIFF": "TIFF",
    "AVIF": "AVIF",
    "JPEG2000": "JPEG 2000",
}
*_FIRST, _LAST = FORMATS.values()
FORMATS_TOLD = f"{', '.join(_FIRST)} or {_LAST}"
_UNREADABLE = f"send a whole file in one of these formats: {FORMATS_TOLD}"
_TOO_LARGE = f"send a picture of at most {PIXELS:,} pixels"


def bytes_of(text: str, field: str, what: str) -> bytes:
    """The bytes of a file that a field of a request holds. Raises UsageError if it is not base64."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError(f"{field}: is not base64", fix=f"send the bytes of a {what} file in base64") from error


def picture_of(text: str, *, bands: bool, field: str = "image") -> bytes:
    """The file that a request holds as base64.

    Args:
        bands: Whether the tower reads images of bands, which Pillow does not know.
        field: Of the request.

    Raises:
        UsageError: it is not base64, not a picture, or has more than ``PIXELS`` pixels.
    """
    content = bytes_of(text, field, "picture")
    width, height = _tiff_size(content) if bands and content.startswith(MAGICS) else _size(content, field)
    if width * height > PIXELS:
        raise UsageError(f"{field}: has {width:,} x {height:,} pixels, more than {PIXELS:,}", fix=_TOO_LARGE)
    return content


def _size(content: bytes, field: str) -> tuple[int, int]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=list(FORMATS)) as opened:
                return opened.size
    except Image.DecompressionBombError as error:
        raise UsageError(f"{field}: has more than {PIXELS:,} pixels", fix=_TOO_LARGE) from error
    except Exception as error:  # Pillow's readers raise whatever they meet in a broken file
        raise UsageError(f"{field}: is not a picture that can be read", fix=_UNREADABLE) from error


def _tiff_size(content: bytes) -> tuple[int, int]:
    try:
        page = read_tiff_header(content, sparse=True).page
        over = over_a_cap(page.width, page.height, [page.dtype] * page.bands)
    except (BadTiffError, TypeError, KeyError) as error:
        raise UsageError("image: is not a TIFF file that can be read", fix="send a whole TIFF file") from error
    if over:
        raise UsageError(f"image: {over}", fix="send a smaller part of it")
    return page.width, page.height
