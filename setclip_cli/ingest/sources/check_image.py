"""Image bytes: their headers are checked; they are decoded only if they must be encoded again.

JPEG, PNG and WebP bytes are not changed. TIFF, BMP, GIF and others are encoded again as PNG without loss, and so are
images that no tower can read: 16-bit and 32-bit samples are scaled to 8 bits. Both are counted.
Palette, grey and CMYK images in the three formats stay as they are: the towers read them as RGB.
EXIF orientation is applied when an image is read: ``width`` and ``height`` are those of the upright image.

These are rejects: an empty file, a file that is not an image, one that is cut short (no JPEG end marker, no PNG end
chunk, a WebP shorter than it says), one over ``MAX_PIXELS``, and one whose header cannot be read.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import NamedTuple

from PIL import ExifTags, Image

MAX_PIXELS = 100_000_000
MAX_IMAGE_BYTES = 256 << 20
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")  # none that starts a program, as EPS does
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "La", "RGBa")


class UnusableImageError(ValueError):
    """Why some bytes are not an image that can be used."""


class CheckedImage(NamedTuple):
    content: bytes  # JPEG, PNG or WebP
    width: int
    height: int
    repairs: tuple[str, ...]


def check_image(content: bytes) -> CheckedImage:
    """Checks the header and the end of image bytes, and encodes again what no tower can read.

    Raises:
        UnusableImageError: the bytes are not an image that can be used; the message is the reason.
    """
    if not content:
        raise UnusableImageError("empty file")
    if len(content) > MAX_IMAGE_BYTES:
        raise UnusableImageError(f"image file over {MAX_IMAGE_BYTES:,} bytes")
    if content.startswith(b"\xff\xd8\xff"):
        header = _jpeg_size(content)
        if header is not None:
            return CheckedImage(content, *header, ())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow warns of odd metadata and of image bombs
            warnings.filterwarnings("ignore", category=UserWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            return _check_with_pillow(content)
    except UnusableImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnusableImageError(f"over the cap of {MAX_PIXELS:,} pixels") from error
    except MemoryError as error:
        raise UnusableImageError("too large to decode") from error
    except Exception as error:  # Pillow's plug-ins raise anything: struct.error, KeyError, ...
        raise UnusableImageError(f"no readable image: {type(error).__name__}") from error


def _check_with_pillow(content: bytes) -> CheckedImage:
    with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise UnusableImageError(f"over the cap of {MAX_PIXELS:,} pixels: {width:,} x {height:,}")
        if width < 1 or height < 1:
            raise UnusableImageError("no pixels")
        if image.format in ("JPEG", "MPO"):
            _jpeg_end(content, max(content.find(b"\xff\xda"), 0))
        elif image.format == "PNG":
            _png_chunks(content)
        elif image.format == "WEBP":
            _webp_end(content)
        if image.format in ("JPEG", "MPO", "PNG", "WEBP") and image.mode in _EIGHT_BIT_MODES:
            if image.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS:
                width, height = height, width
            return CheckedImage(content, width, height, ())
        return _re_encoded(image)


def _re_encoded(image: Image.Image) -> CheckedImage:
    from PIL import ImageOps

    repairs = [f"{image.format} re-encoded as PNG"] if image.format != "PNG" else []
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode not in _EIGHT_BIT_MODES:
        upright = _eight_bit(upright)
        repairs.append("samples over 8 bits scaled to 8")
    elif upright.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        upright = upright.convert("RGB")
    encoded = io.BytesIO()
    upright.save(encoded, "PNG")
    return CheckedImage(encoded.getvalue(), upright.width, upright.height, tuple(repairs))


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scales 16-bit, 32-bit and float samples to 0..255.

    Unsigned 16-bit samples keep their absolute scale (65,535 is white); others are stretched from their own
    minimum to their own maximum.
    """
    import numpy as np

    samples = np.asarray(image, dtype=np.float64)
    if image.mode.startswith("I;16") or (image.mode == "I" and 255 < samples.max() <= 65535 and samples.min() >= 0):
        low, high = 0.0, 65535.0
    else:
        finite = samples[np.isfinite(samples)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    scaled = np.nan_to_num((samples - low) / max(high - low, 1e-12), nan=0.0, posinf=1.0, neginf=0.0)
    return Image.fromarray(np.rint(scaled.clip(0, 1) * 255).astype(np.uint8))


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Width and height of a plain JPEG from its markers, or None if Pillow must look (EXIF, unusual markers).

    Pillow's own header parse costs more than hashing the file; this one reads a handful of bytes.

    Raises:
        UnusableImageError: over the pixel cap, or cut short.
    """
    position, end = 2, len(content)
    size: tuple[int, int] | None = None
    turned = False  # an EXIF block may say that the image lies on its side
    while position + 10 <= end and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        length = (content[position + 2] << 8) | content[position + 3]
        if length < 2:
            return None
        if marker == 0xDA:
            if size is None or 0 in size:
                return None
            if size[0] * size[1] > MAX_PIXELS:
                raise UnusableImageError(f"over the cap of {MAX_PIXELS:,} pixels: {size[0]:,} x {size[1]:,}")
            _jpeg_end(content, position)
            return None if turned else size
        if marker == 0xE1:
            turned = turned or content.startswith(b"Exif", position + 4)
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if length < 8 or content[position + 4] != 8:
                return None
            height, width = struct.unpack_from(">HH", content, position + 5)
            size = (width, height)
        position += 2 + length
    return None


def _jpeg_end(content: bytes, scan: int) -> None:
    """A JPEG that was cut short has no end marker after the start of its scan, where FF D9 cannot occur as data."""
    if content.rfind(b"\xff\xd9", scan) < 0:  # from the end, where it nearly always is
        raise UnusableImageError("JPEG cut short: no end marker")


def _png_chunks(content: bytes) -> None:
    """Walks the chunks and their checksums to the end chunk."""
    position = 8
    while position + 12 <= len(content):
        length = int.from_bytes(content[position : position + 4])
        kind = content[position + 4 : position + 8]
        stop = position + 12 + length
        if stop > len(content):
            break
        if zlib.crc32(content[position + 4 : stop - 4]) != int.from_bytes(content[stop - 4 : stop]):
            raise UnusableImageError(f"PNG damaged: checksum of {kind.decode('latin-1')!r}")
        if kind == b"IEND":
            return
        position = stop
    raise UnusableImageError("PNG cut short: no end chunk")


def _webp_end(content: bytes) -> None:
    if len(content) < 8 + int.from_bytes(content[4:8], "little"):
        raise UnusableImageError("WebP cut short")
