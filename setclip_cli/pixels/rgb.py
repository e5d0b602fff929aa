"""Image files as 8-bit RGB pictures."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from setclip_cli.pixels.bands import shown_bands
from setclip_cli.pixels.eight_bits import dark_colours_to_eight_bits, grey_to_eight_bits
from setclip_cli.pixels.tiff_header import MAGICS, BadTiffError, read_tiff_header

if TYPE_CHECKING:
    from collections.abc import Sequence

FRAMES_SHOWN = 4  # of a video
FRAME_PX = 360  # the longer side of each


def open_rgb(content: bytes) -> Image.Image:
    """Decodes to 8-bit RGB, upright as its EXIF orientation says; samples of more bits as `eight_bits` says.

    Raises:
        UnidentifiedImageError: a TIFF of more bands than Pillow reads of it.
        OSError, ValueError, SyntaxError, Image.DecompressionBombError: not decodable, or over Pillow's pixel cap.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            opened = Image.open(io.BytesIO(content))
            _require_all_bands(opened, content)
            if has_deep_colours(opened):
                pixels = dark_colours_to_eight_bits(lambda: Image.open(io.BytesIO(content)))
                if pixels is not None:
                    return Image.fromarray(pixels).convert("RGB")
            image = ImageOps.exif_transpose(opened)
        except Image.DecompressionBombWarning as error:
            raise ValueError(str(error)) from error
    if image.mode.startswith(("I", "F")):  # 16 and 32 bit: convert() would clip, not scale
        image = Image.fromarray(grey_to_eight_bits(image).pixels)
    return image.convert("RGB")


def open_shown(content: bytes | Sequence[bytes]) -> Image.Image:
    """The RGB picture that a person sees of a row: `open_rgb`, of an image of bands `shown_bands`, and of the frames of
    a video up to four of them, evenly chosen, in two lines.

    Raises:
        UnreadableBandsError, SetClipError: as `shown_bands` does.
        OSError, ValueError, SyntaxError, Image.DecompressionBombError: as `open_rgb` does.
    """
    if isinstance(content, bytes):
        return shown_bands(content) if content.startswith(MAGICS) else open_rgb(content)
    if len(content) < FRAMES_SHOWN:
        return open_rgb(content[len(content) // 2])
    chosen = [content[place * (len(content) - 1) // (FRAMES_SHOWN - 1)] for place in range(FRAMES_SHOWN)]
    frames = [open_rgb(each) for each in chosen]
    frames[0].thumbnail((FRAME_PX, FRAME_PX))
    width, height = frames[0].size
    sheet = Image.new("RGB", (2 * width, 2 * height))
    for place, frame in enumerate(frames):
        sheet.paste(frame.resize((width, height)), (place % 2 * width, place // 2 * height))
    return sheet


def _require_all_bands(image: ImageFile.ImageFile, content: bytes) -> None:
    """Pillow reads the first band of a TIFF that has its bands in planes, and says nothing about the others."""
    if content.startswith(MAGICS):
        try:
            page = read_tiff_header(content, sparse=True).page
        except BadTiffError as error:
            raise OSError(f"damaged TIFF: {error}") from error
        if page.lacks_bands(len(image.getbands())):
            raise UnidentifiedImageError(f"{page.layout}, of which {len(image.getbands())} can be read")
        if max(page.bits) > 8 and image.mode in ("RGB", "RGBA") and not has_deep_colours(image):
            raise OSError("16-bit colours in planes, which are read as 8 bits")


def has_deep_colours(image: ImageFile.ImageFile) -> bool:
    """Whether a colour picture has 16-bit samples, of which Pillow reads 8 bits."""
    return image.mode in ("RGB", "RGBA") and ";16" in str(image.tile)
