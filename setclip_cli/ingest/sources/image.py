"""Images: their headers are checked; they are decoded only if they must be encoded again.

JPEG, PNG and WebP bytes are not changed. TIFF, BMP, GIF and others are encoded again as PNG without loss, and so are
images that no tower can read: 16-bit and 32-bit samples are scaled to 8 bits. Both are counted.
Palette, grey and CMYK images in the three formats stay as they are: the towers read them as RGB.
EXIF orientation is applied when an image is read: ``width`` and ``height`` are those of the upright image.

These are rejects: an empty file, a file that is not an image, one that is cut short (no JPEG end marker, no PNG end
chunk, a WebP shorter than it says), one over ``MAX_PIXELS``, and one whose header cannot be read.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from PIL import ExifTags, Image

from setclip_cli.errors import SetClipError
from setclip_cli.ingest.sources.base import FileStamp, Record, Reject, usable_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

T = TypeVar("T")
R = TypeVar("R")

MAX_PIXELS = 100_000_000
MAX_IMAGE_BYTES = 256 << 20
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")
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


def image_record(identifier: str, content: bytes, location: str, label: str | None = None) -> Record | Reject:
    """Makes a record from the bytes of an image file, or says why it cannot."""
    if unusable := usable_id(identifier):
        return Reject(location, unusable)
    try:
        checked = check_image(content)
    except UnusableImageError as error:
        return Reject(location, str(error))
    return Record(
        "image",
        identifier,
        checked.content,
        hashlib.sha256(checked.content).hexdigest(),
        label=label,
        columns=(checked.width, checked.height),
        repairs=checked.repairs,
    )


def folder_label(name: str) -> str | None:
    """The name of the folder that a path's file lies in."""
    return name.rpartition("/")[0].rpartition("/")[2] or None


class ImageFolder:
    """A folder of image files, read recursively; or one image file.

    The id is the path below the folder. If the images are in two folders or more, the name of its folder is the
    label of an image. Hidden files and folders are left out. Files without an image suffix are listed as not taken.
    Links to folders are not followed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: list[FileStamp] | None = None

    def files(self) -> Sequence[FileStamp]:
        if self._files is None:
            self._files = sorted(_walk(self.path)) if self.path.is_dir() else [_single(self.path)]
        return self._files

    def records(self, start: int, workers: int) -> Iterator[Record | Reject]:
        root = self.path if self.path.is_dir() else self.path.parent
        labelled = self._labelled()
        names = (file.name for file in islice(self.files(), start, None))
        yield from ordered_map(lambda name: self._read(root, name, labelled), names, workers)

    def _labelled(self) -> bool:
        names = (file.name for file in self.files())
        return len({name.rpartition("/")[0] for name in names if name.lower().endswith(IMAGE_SUFFIXES)}) > 1

    def _read(self, root: Path, name: str, labelled: bool) -> Record | Reject:
        if not name.lower().endswith(IMAGE_SUFFIXES):
            return Reject(name, f"no image suffix: {Path(name).suffix or 'none'}", bad=False)
        try:
            content = _read_capped(f"{root}/{name}")
        except OSError as error:
            return Reject(name, error.strerror or "cannot be read")
        return image_record(name, content, name, folder_label(name) if labelled else None)


def _read_capped(path: str) -> bytes:
    """Reads a file; one byte more than the limit if it is longer."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        left = min(os.fstat(descriptor).st_size, MAX_IMAGE_BYTES) + 1
        parts = []
        while part := os.read(descriptor, left):
            parts.append(part)
            if len(part) in (left, left - 1):  # the limit, or the size that fstat gave
                break
            left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        os.close(descriptor)


def _single(path: Path) -> FileStamp:
    status = path.stat()
    return FileStamp(path.name, status.st_size, status.st_mtime_ns)


def _walk(root: Path) -> Iterator[FileStamp]:
    stack = [(str(root), "")]
    while stack:
        folder, prefix = stack.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        stack.append((entry.path, f"{prefix}{entry.name}/"))
                    elif entry.is_file():
                        status = entry.stat()
                        yield FileStamp(f"{prefix}{entry.name}", status.st_size, status.st_mtime_ns)
        except OSError as error:
            raise SetClipError(
                f"{folder}: {error.strerror}", fix="make the folder readable, or leave it out"
            ) from error


def ordered_map(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """Maps in threads; yields results in the order of the items, with a limited number in work.

    A task is 16 items, because one small file is too little work for a task.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    chunk, window = 16, workers * 4
    remaining = iter(items)

    def run(batch: list[T]) -> list[R]:
        return [function(item) for item in batch]

    with ThreadPoolExecutor(workers) as pool:
        pending = [pool.submit(run, batch) for _ in range(window) if (batch := list(islice(remaining, chunk)))]
        try:
            while pending:
                yield from pending.pop(0).result()
                if batch := list(islice(remaining, chunk)):
                    pending.append(pool.submit(run, batch))
        finally:
            for future in pending:
                future.cancel()
