"""What a TIFF says about itself: bands, sample type and pages, read from its directories without decoding anything.

Pillow and rasterio each read a part of what TIFF can hold, so their result is compared with this. Classic TIFF and
BigTIFF in both byte orders. Tags: TIFF 6.0 (Adobe 1992); 42113 is GDAL's.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from mmap import mmap

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MAX_PAGES = 10_000
_MAX_VALUES = 65535  # of one tag: one value for each band ...
_OF_PARTS = (273, 279, 324, 325)  # ... but these have one for each strip or tile
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 6: 1, 7: 1, 8: 2, 9: 4, 13: 4, 16: 8, 17: 8, 18: 8}
_CODES = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_NAMES = {1: "uint", 2: "int", 3: "float", 4: "uint", 5: "complex_int", 6: "complex"}
_COLOUR_BANDS = {2: 3, 5: 4, 6: 3, 8: 3}  # RGB, CMYK, YCbCr, CIELab; grey and palette have one
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_ALPHA = (1, 2, 999)  # of ExtraSamples; Corel Draw writes 999


class BadTiffError(ValueError):
    """The directories of a TIFF cannot be read."""


class TiffPage(NamedTuple):
    """One image of a TIFF."""

    width: int
    height: int
    bits: tuple[int, ...]  # of the samples of each band
    sample_format: int
    photometric: int
    extra: tuple[int, ...]  # what the bands after the colours are: 0 unknown, 1 and 2 alpha
    nodata: float | None

    @property
    def bands(self) -> int:
        return len(self.bits)

    @property
    def dtype(self) -> str:
        """The sample type as numpy writes it."""
        return f"{_NAMES[self.sample_format]}{max(self.bits)}"

    @property
    def is_complex(self) -> bool:
        return self.sample_format in (5, 6)

    @property
    def visible_bands(self) -> int:
        """How many bands a picture of this page has: its colours, and alpha if the page has it."""
        colours = _COLOUR_BANDS.get(self.photometric, 1)
        if self.photometric == 2 and self.bands == 4 and not self.extra:
            return 4  # many programs leave ExtraSamples out for RGBA
        return colours + (self.bands > colours and bool(self.extra) and self.extra[0] in _ALPHA)

    def lacks_bands(self, taken: int) -> bool:
        """Whether the first ``taken`` bands are not the whole picture."""
        return taken < self.visible_bands or (taken < self.bands and self.photometric in (0, 1))

    @property
    def layout(self) -> str:
        """Such as ``13 bands of uint16``."""
        return f"{self.bands} {'band' if self.bands == 1 else 'bands'} of {self.dtype}"


class TiffHeader(NamedTuple):
    page: TiffPage  # the one to read
    number: int  # its place in the file, from 0
    others: int  # pages beside it that are neither a smaller copy nor a mask
    thumbnail_only: bool  # no page has the full size: the picture is in a sub-directory


def read_tiff_header(content: bytes | mmap, *, sparse: bool = False) -> TiffHeader:
    """Reads all directories.

    Args:
        content: The whole file.
        sparse: Whether strips and tiles may be left out, as GDAL does for those that hold nothing but nodata.

    Raises:
        BadTiffError: a directory lies outside the file or lacks a size, or the file has less data than it says.
    """
    order = "<" if content[:2] == b"II" else ">"
    big = content[2:4] in (b"+\0", b"\0+")
    try:
        offset = struct.unpack_from(f"{order}{'Q' if big else 'I'}", content, 8 if big else 4)[0]
        pages: list[tuple[int, dict[int, tuple[int, ...]]]] = []
        seen: set[int] = set()
        while offset and offset not in seen and len(seen) < _MAX_PAGES:
            seen.add(offset)
            try:
                tags, offset = _directory(content, offset, order, big)
            except (struct.error, BadTiffError):
                if not pages:
                    raise
                break  # the first page can be read; what follows cannot
            if not tags.get(254, (0,))[0] & _MASK:
                pages.append((len(seen) - 1, tags))
    except struct.error as error:
        raise BadTiffError("a directory outside the file") from error
    if not pages:
        raise BadTiffError("no page")
    full = [(number, tags) for number, tags in pages if not _is_reduced(tags)]
    number, tags = (full or pages)[0]
    _check_data(tags, len(content), sparse=sparse)
    return TiffHeader(_page(tags), number, max(len(full) - 1, 0), not full and 330 in tags)


def _is_reduced(tags: dict[int, tuple[int, ...]]) -> bool:
    return bool(tags.get(254, (0,))[0] & _REDUCED) or tags.get(255, (0,))[0] == 2


def _page(tags: dict[int, tuple[int, ...]]) -> TiffPage:
    if 256 not in tags or 257 not in tags:
        raise BadTiffError("no width or height")
    bands = tags.get(277, (1,))[0]
    bits = tags.get(258, (1,))
    if not 1 <= bands <= 65535:
        raise BadTiffError(f"{bands} bands")
    kind = max(tags.get(339, (1,)))
    if kind not in _NAMES or not 1 <= max(bits) <= 128:
        raise BadTiffError(f"samples of format {kind} with {max(bits)} bits")
    return TiffPage(
        tags[256][0],
        tags[257][0],
        bits if len(bits) == bands else (bits[0],) * bands,
        kind,
        tags.get(262, (1,))[0],
        tags.get(338, ()),
        _number(bytes(byte & 255 for byte in tags.get(42113, ()))),
    )


def _check_data(tags: dict[int, tuple[int, ...]], size: int, *, sparse: bool) -> None:
    """Pillow leaves black what a file with too few strips or tiles lacks, so they are counted here."""
    width, height, bands = tags.get(256, (0,))[0], tags.get(257, (0,))[0], tags.get(277, (1,))[0]
    planes = bands if tags.get(284, (1,))[0] == 2 else 1
    across, rows = 1, min(tags.get(278, (height,))[0], height)
    offsets, counts = tags.get(273, ()), tags.get(279, ())
    if 322 in tags and 323 in tags:
        across, rows = -(-width // max(tags[322][0], 1)), tags[323][0]
        offsets, counts = tags.get(324, offsets), tags.get(325, counts)
    wanted = across * -(-height // max(rows, 1)) * planes
    if len(offsets) < wanted:
        raise BadTiffError(f"{len(offsets):,} of {wanted:,} parts are there")
    if 0 in offsets or 0 in counts:
        if sparse:
            return
        raise BadTiffError("some of its parts are left out (a sparse file)")
    if counts and any(offset + count > size for offset, count in zip(offsets, counts, strict=False)):
        raise BadTiffError("cut short")
    needed = -(-width * max(tags.get(258, (1,))) * (bands if planes == 1 else 1) // 8) * height * planes
    if tags.get(259, (1,))[0] == 1 and counts and sum(counts) < needed:
        raise BadTiffError(f"{sum(counts):,} of {needed:,} bytes are there")


def _number(text: bytes) -> float | None:
    try:
        return float(text.split(b"\0")[0])
    except ValueError:
        return None


def _directory(content: bytes | mmap, offset: int, order: str, big: bool) -> tuple[dict[int, tuple[int, ...]], int]:
    """The whole-number tags of a directory, and where the next one is (0 after the last)."""
    count = struct.unpack_from(f"{order}{'Q' if big else 'H'}", content, offset)[0]
    start, width, inline = offset + (8 if big else 2), (20 if big else 12), (8 if big else 4)
    if start + count * width > len(content):
        raise BadTiffError("a directory outside the file")
    tags: dict[int, tuple[int, ...]] = {}
    for place in range(start, start + count * width, width):
        tag, kind = struct.unpack_from(f"{order}HH", content, place)
        number = struct.unpack_from(f"{order}{'Q' if big else 'I'}", content, place + 4)[0]
        if kind not in _CODES or not 1 <= number <= (len(content) if tag in _OF_PARTS else _MAX_VALUES):
            continue
        at = place + width - inline
        if number * _SIZES[kind] > inline:
            at = struct.unpack_from(f"{order}{'Q' if big else 'I'}", content, at)[0]
        if at + number * _SIZES[kind] <= len(content):
            tags[tag] = struct.unpack_from(f"{order}{number}{_CODES[kind]}", content, at)
    after = start + count * width
    following = struct.unpack_from(f"{order}{'Q' if big else 'I'}", content, after)[0] if after < len(content) else 0
    return tags, following
