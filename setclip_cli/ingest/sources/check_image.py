"""Image bytes: their headers are checked; they are decoded only if they must be encoded again.

JPEG, PNG and WebP bytes are not changed. TIFF, BMP, GIF, AVIF and others are encoded again as PNG without loss, and so
are images that no tower can read: 16-bit and 32-bit samples are scaled to 8 bits, and 16-bit colours that would be
nearly black are stretched. All are counted (see `re_encode`).
Palette, grey and CMYK images in the three formats stay as they are: the towers read them as RGB.
EXIF orientation is applied when an image is read: ``width`` and ``height`` are those of the upright image.

What Pillow decodes is compared with what the header says. Bands that a picture cannot have are rejects that name
``--bands``, or are counted where the file itself says which of its bands are the colours. Later frames of an animation,
later pages of a TIFF and further pictures of one file are counted.

These are rejects: an empty file, a file that is not an image, one that is cut short (no JPEG end marker, no PNG end
chunk, a WebP shorter than it says), one over ``MAX_PIXELS``, and one that cannot be decoded.
"""

from __future__ import annotations

import io
import logging
import struct
import zlib
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from setclip_cli.files.recognize import HEAD_BYTES, is_text, recognize, starts_with
from setclip_cli.ingest.sources.re_encode import EIGHT_BIT_MODES, OVER_EIGHT_BITS, CheckedImage, re_encoded
from setclip_cli.pixels import tiff_header
from setclip_cli.pixels.bands import MAX_IMAGE_BYTES, MAX_PIXELS
from setclip_cli.pixels.eight_bits import dark_colours_to_eight_bits, limits_of_a_dark_picture
from setclip_cli.pixels.quiet import quiet
from setclip_cli.pixels.rgb import has_deep_colours

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

MORE_BANDS = "bands after the colours of the picture not taken"
# Pillow's names; none that starts a program, as EPS does, and none that only describes a file, as HDF5 does.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "QOI", "SGI")
_BY_SUFFIX = {
    ".dib": "DIB",
    ".tga": "TGA",
    ".icb": "TGA",
    ".vda": "TGA",
    ".vst": "TGA",
    ".pcx": "PCX",
}  # their first bytes say little
_UNREAD = (
    (b"8BPS", "PSD"),
    (b"%!PS", "EPS"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"II\xbc", "JPEG XR"),
    (b"SIMPLE  =", "FITS"),
    (b"CDF\x01", "NetCDF"),
    (b"CDF\x02", "NetCDF"),
    (b"GRIB", "GRIB"),
)
_TGA_FOOTER = b"TRUEVISION-XFILE.\0"
_KEPT = ("JPEG", "MPO", "PNG", "WEBP")
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_SEVERAL = {
    "TIFF": "only the first page of several used",
    "MPO": "only the first picture of several used",
    "PPM": "only the first picture of several used",
    "ICO": "only the largest picture of several used",
}
logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it logs is in the reason of the reject


class UnusableImageError(ValueError):
    """Why some bytes are not an image that can be used."""


def check_image(content: bytes, name: str = "") -> CheckedImage:
    """Checks the header and the end of image bytes, and encodes again what no tower can read.

    Args:
        content: The bytes of the file.
        name: Its name: its suffix says whether bytes without a mark of their own are TGA or PCX.

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
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        _webp_end(content)
    try:
        with quiet():
            if content.startswith(tiff_header.MAGICS):
                return _check_tiff(content)
            return _check_with_pillow(content, name)
    except UnusableImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnusableImageError(f"over the cap of {MAX_PIXELS:,} pixels") from error
    except MemoryError as error:
        raise UnusableImageError("too large to decode") from error
    except UnidentifiedImageError as error:
        raise UnusableImageError(_not_an_image(content)) from error
    except Exception as error:  # Pillow's plug-ins raise anything: struct.error, KeyError, ...
        raise UnusableImageError(f"damaged image: {type(error).__name__}") from error


def image_format(head: bytes, name: str = "") -> str | None:
    """Pillow's name of the image format that the first bytes of a file say, without decoding; None for others."""
    suffix = name[name.rfind(".") :].lower() if "." in name else ""
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    for known in _formats():
        accept = Image.OPEN[known][1]
        if accept is not None and accept(head[:16]) is True:
            return known
    return None


@cache
def _formats() -> tuple[str, ...]:
    """Those of ``_FORMATS`` that this Pillow can read."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _formats_of(content: bytes, name: str) -> tuple[str, ...]:
    suffix = name[name.rfind(".") :].lower() if "." in name else ""
    if content.endswith(_TGA_FOOTER):
        return (*_formats(), "TGA")
    return (*_formats(), _BY_SUFFIX[suffix]) if suffix in _BY_SUFFIX else _formats()


def unread_format(head: bytes) -> str | None:
    """The name of an image format that is not read here, from the first bytes of a file; None for anything else."""
    if head[4:8] == b"ftyp":
        brand = head[8:12].decode("latin-1").strip()
        return "HEIC" if brand in ("heic", "heix", "hevc", "mif1", "msf1", "heim", "heis") else f"video or {brand}"
    if head[128:132] == b"DICM":
        return "DICOM"
    if b"<svg" in head and is_text(head):
        return "SVG"
    return next((name for magic, name in _UNREAD if head.startswith(magic)), None)


def _not_an_image(content: bytes) -> str:
    head = content[:HEAD_BYTES]
    if found := recognize(head):
        return found.what
    if known := image_format(head):
        return f"damaged image: a {known} header that cannot be read"
    if unread := unread_format(head):
        return f"a format that is not read: {unread}"
    return f"no readable image: starts with {starts_with(head)}"


def _check_with_pillow(content: bytes, name: str) -> CheckedImage:
    with Image.open(io.BytesIO(content), formats=_formats_of(content, name)) as image:
        width, height = _checked_size(image.size)
        if image.format in ("JPEG", "MPO"):
            _jpeg_end(content, max(content.find(b"\xff\xda"), 0))
        elif image.format == "PNG":
            _png_chunks(content)
        several = (_SEVERAL.get(image.format or "", "only the first frame of an animation used"),)
        repairs = several if _has_more(image, content) else ()
        formats = _formats_of(content, name)
        dark = _dark_colours(image, lambda: Image.open(io.BytesIO(content), formats=formats))
        if image.format in _KEPT and image.mode in EIGHT_BIT_MODES and dark is None:
            if image.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS:
                width, height = height, width
            return CheckedImage(content, width, height, repairs)
        bands, bits = _said_by_header(image, content)
        if bands > len(image.getbands()):
            raise UnusableImageError(_choose_bands(bands, f"uint{8 if bits <= 8 else 16}"))
        if image.format == "JPEG2000" and bits > 8 and bands >= 3 and not _shows_something(image):
            raise UnusableImageError(_choose_bands(bands, "uint16"))
        return _re_encoded(image, repairs, content, cut=bits > 8, dark=dark)


def _check_tiff(content: bytes) -> CheckedImage:
    """Reads the page that the header names, if Pillow takes all of its bands."""
    try:
        header = tiff_header.read_tiff_header(content)
    except tiff_header.BadTiffError as error:
        raise UnusableImageError(f"damaged TIFF: {error}") from error
    page = header.page
    _checked_size((page.width, page.height))
    if header.thumbnail_only:
        raise UnusableImageError(
            "only a thumbnail can be read: the picture is in a sub-directory, as in camera raw files"
        )
    if page.is_complex:
        raise UnusableImageError(f"complex samples: {page.layout}")
    try:
        image = _tiff_page(content, header.number)
    except (UnidentifiedImageError, SyntaxError, KeyError) as error:  # a layout that Pillow does not know
        raise UnusableImageError(_choose_bands(page.bands, page.dtype)) from error
    with image:
        if image.size != (page.width, page.height) and image.size != (page.height, page.width):
            raise UnusableImageError(f"damaged TIFF: {image.size} pixels, not {(page.width, page.height)}")
        taken = len(image.getbands())
        if page.lacks_bands(taken):
            raise UnusableImageError(_choose_bands(page.bands, page.dtype))
        repairs: tuple[str, ...] = (_SEVERAL["TIFF"],) if header.others else ()
        if taken < page.bands:
            repairs = (*repairs, MORE_BANDS)
        cut = max(page.bits) > 8
        if cut and image.mode in EIGHT_BIT_MODES and ";16" not in str(image.tile):
            raise UnusableImageError(_choose_bands(page.bands, page.dtype))  # planes of 16 bits, read as 8
        dark = _dark_colours(image, lambda: _tiff_page(content, header.number))
        return _re_encoded(image, repairs, content, page, cut=cut, dark=dark)


def _tiff_page(content: bytes, number: int) -> ImageFile.ImageFile:
    image = Image.open(io.BytesIO(content), formats=("TIFF",))
    image.seek(number)
    return image


def _shows_something(image: ImageFile.ImageFile) -> bool:
    """Whether Pillow decodes 16-bit colours, and their high bytes alone are not nearly black."""
    try:
        samples = np.asarray(image)
    except OSError:
        return False
    return limits_of_a_dark_picture([samples[:, :, band] for band in range(3)], None, 0.0, 255.0) is None


def _dark_colours(image: ImageFile.ImageFile, open_file: Callable[[], ImageFile.ImageFile]) -> NDArray[np.uint8] | None:
    return dark_colours_to_eight_bits(open_file) if has_deep_colours(image) else None


def _re_encoded(
    image: ImageFile.ImageFile,
    repairs: tuple[str, ...],
    content: bytes,
    page: tiff_header.TiffPage | None = None,
    *,
    cut: bool,
    dark: NDArray[np.uint8] | None,
) -> CheckedImage:
    """As PNG; ``cut`` if a sample has over 8 bits, of which Pillow may decode 8."""
    if dark is not None:
        return re_encoded(image, repairs, page, cut=content, stretched=dark)
    if cut and image.mode in EIGHT_BIT_MODES:
        return re_encoded(image, (*repairs, OVER_EIGHT_BITS), page, cut=content)
    return re_encoded(image, repairs, page)


def _choose_bands(bands: int, dtype: str) -> str:
    one = "1 band" if bands == 1 else f"{bands} bands"
    chosen = "1" if bands < 3 else "R,G,B"
    return f"holds {one} of {dtype}: pass --bands {chosen}, or --bands all to keep all (with --tile for a large scene)"


def _checked_size(size: tuple[int, int]) -> tuple[int, int]:
    width, height = size
    if width * height > MAX_PIXELS:
        raise UnusableImageError(f"over the cap of {MAX_PIXELS:,} pixels: {width:,} x {height:,}")
    if width < 1 or height < 1:
        raise UnusableImageError("no pixels")
    return width, height


def _has_more(image: ImageFile.ImageFile, content: bytes) -> bool:
    """Whether a file holds frames or pictures after the one that Pillow shows first."""
    if image.format == "ICO":
        return len(image.info.get("sizes", ())) > 1
    if image.format == "PPM":
        decoder, _, offset = image.tile[0][:3]
        size = -(-image.width * (1 if image.mode == "1" else 8 * len(image.getbands())) // 8) * image.height
        return decoder == "raw" and content[offset + size :].lstrip()[:1] == b"P"
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # the first frame may be sound all the same
        return True


def _said_by_header(image: ImageFile.ImageFile, content: bytes) -> tuple[int, int]:
    """Bands and bits of formats whose samples Pillow may reduce; for others what Pillow says."""
    bands = len(image.getbands())
    if image.format == "JPEG2000":
        at = content.find(b"\xff\x4f\xff\x51")  # start of the code stream, with its SIZ segment
        if at >= 0 and at + 43 <= len(content):
            return struct.unpack_from(">H", content, at + 40)[0], (content[at + 42] & 0x7F) + 1
    if image.format == "AVIF":
        at = content.find(b"av1C")
        if at >= 0 and at + 7 <= len(content):
            return bands, 10 if content[at + 6] & 0x40 else 8
    if image.format == "PPM" and image.tile and isinstance(arguments := image.tile[0][3], tuple):
        return bands, int(arguments[-1]).bit_length()  # the largest number of a sample
    if image.format == "SGI":
        return bands, 8 * content[3]
    return bands, 8


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Width and height of a plain JPEG from its markers, or None if Pillow must look (EXIF, several pictures, unusual
    markers).

    Pillow's own header parse costs more than hashing the file; this one reads a handful of bytes.

    Raises:
        UnusableImageError: over the pixel cap, or cut short.
    """
    position, end = 2, len(content)
    size: tuple[int, int] | None = None
    must_look = False  # by an EXIF block, which may say that the image lies on its side
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
            return None if must_look else size
        if marker == 0xE1:
            must_look = must_look or content.startswith(b"Exif", position + 4)
        elif marker == 0xE2:  # an index of several pictures in one file
            must_look = must_look or content.startswith(b"MPF\0", position + 4)
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
