"""Images of any number of bands with their own numbers, as GeoTIFF bytes: written, read and shown.

GeoTIFF, because it is what rasterio, GDAL, QGIS and tifffile read: it holds every sample type, nodata, names of bands
and the place on the ground. Deflate with a predictor is lossless, and the same samples give the same bytes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from setclip_cli.errors import SetClipError
from setclip_cli.pixels.eight_bits import PERCENTILES, eight_bits
from setclip_cli.pixels.quiet import quiet
from setclip_cli.pixels.tiff_header import MAGICS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

MAX_PIXELS = 100_000_000
MAX_IMAGE_BYTES = 256 << 20  # of a file, and of the samples of all bands
_JPEG2000 = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
_COLOURS = tuple(
    re.compile(rf"(b0?{number}|{name})\b.*", re.IGNORECASE) for number, name in ((4, "red"), (3, "green"), (2, "blue"))
)


class UnreadableBandsError(ValueError):
    """Why bytes are not an image of bands."""


class BandScale(NamedTuple):
    """What a backbone sees of band b is (value - mean[b]) / std[b]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def in_words(self) -> str:
        if not any(self.mean) and len(set(self.std)) == 1:
            return f"{len(self.mean)} bands, whose numbers are divided by {self.std[0]:g}"
        means, deviations = (", ".join(f"{value:.4g}" for value in values) for values in self)
        return f"{len(self.mean)} bands, each as (value - mean) / deviation: means {means}; deviations {deviations}"

    @staticmethod
    def of_preprocessing(preprocessing: Mapping[str, Any]) -> BandScale | None:
        """The scale that a backbone states in its preprocessing; None if it reads no images of bands."""
        if "in_chans" not in preprocessing:
            return None
        return BandScale(tuple(preprocessing["mean"]), tuple(preprocessing["std"]))


class Bands(NamedTuple):
    """An image of bands.

    Attributes:
        samples: (bands, height, width), of the type that the file has.
        missing: (bands, height, width): where the file says that there is no value, or the value is not finite.
        shown: Places of red, green and blue, or of one band for grey.
    """

    samples: NDArray[Any]
    missing: NDArray[np.bool_]
    shown: tuple[int, ...]


def has_bands(content: bytes) -> bool:
    """Whether bytes can be an image of bands: a TIFF or a JPEG 2000."""
    return content.startswith((*MAGICS, *_JPEG2000))


def driver_of(head: bytes) -> str:
    """GDAL's driver for a TIFF or a JPEG 2000. Others, such as VRT, open files and addresses that a file names.

    Raises:
        ValueError: the bytes begin neither of them.
    """
    if not has_bands(head):
        raise ValueError("is not a TIFF or JPEG 2000")
    return "GTiff" if head.startswith(MAGICS) else "JP2OpenJPEG"


def rasterio_needed(what: str) -> Any:
    """The package rasterio. Raises SetClipError if it is not installed."""
    try:
        import rasterio
    except ImportError as error:
        raise SetClipError(f"{what} need the package rasterio", fix="pip install 'setclip[geo]'") from error
    return rasterio


def over_a_cap(width: int, height: int, dtypes: Sequence[str]) -> str | None:
    """Why an image is too large to be read at once, or None."""
    if width * height > MAX_PIXELS:
        return f"over the cap of {MAX_PIXELS:,} pixels: {width:,} x {height:,}"
    if width * height * sum(np.dtype(dtype).itemsize for dtype in dtypes) > MAX_IMAGE_BYTES:
        size = f"{width:,} x {height:,} x {len(dtypes)} bands of {dtypes[0]}"
        return f"over the cap of {MAX_IMAGE_BYTES:,} bytes of samples: {size}"
    return None


def write_bands(samples: NDArray[Any], scene: Any, bands: Sequence[int], transform: Sequence[float]) -> bytes:
    """A GeoTIFF of samples, with what its scene says about them.

    Args:
        samples: (bands, height, width).
        scene: The open scene that they are from.
        bands: Their numbers in the scene, from 1.
        transform: a, b, c, d, e, f of the affine map from their pixels to the ground.
    """
    rasterio = rasterio_needed("images of bands")
    from rasterio.dtypes import in_dtype_range

    count, height, width = samples.shape
    nodata = scene.nodatavals[bands[0] - 1]
    profile = {
        "driver": "GTiff",
        "width": width,
        "height": height,
        "count": count,
        "dtype": samples.dtype,
        "crs": scene.crs,
        "transform": rasterio.Affine(*transform),
        "nodata": nodata if nodata is not None and in_dtype_range(nodata, samples.dtype.name) else None,
        "photometric": "MINISBLACK",
        "interleave": "band",  # a reader can take three bands of many
        "compress": "deflate",
        "predictor": 3 if samples.dtype.kind == "f" else 2,
    }
    with quiet(), rasterio.MemoryFile() as file:
        with file.open(**profile) as out:
            out.write(samples)
            out.descriptions = [scene.descriptions[band - 1] for band in bands]
            scales = [(scene.scales[band - 1], scene.offsets[band - 1]) for band in bands]
            if any(each != (1.0, 0.0) for each in scales):
                out.scales, out.offsets = zip(*scales, strict=True)
        content: bytes = file.read()
    return content


def read_bands(content: bytes) -> Bands:
    """Reads all bands.

    Raises:
        UnreadableBandsError: the bytes are not a TIFF or JPEG 2000 that can be read, or are over a cap.
        SetClipError: rasterio is not installed.
    """
    rasterio = rasterio_needed("images of bands")
    if not has_bands(content):
        raise UnreadableBandsError("is not a TIFF or JPEG 2000")
    try:
        with quiet(), rasterio.MemoryFile(content) as file, file.open(driver=driver_of(content)) as scene:
            if reason := over_a_cap(scene.width, scene.height, scene.dtypes):
                raise UnreadableBandsError(reason)
            read = scene.read(masked=True)
            shown = bands_to_show(scene.descriptions, [each.name for each in scene.colorinterp])
    except rasterio.errors.RasterioError as error:
        raise UnreadableBandsError("is damaged, or not a TIFF or JPEG 2000") from error
    return Bands(np.ma.getdata(read), missing_samples(read), shown)


def missing_samples(read: Any) -> NDArray[np.bool_]:
    """Where a masked array has no value: masked, NaN or infinite."""
    missing: NDArray[np.bool_] = np.ma.getmaskarray(read)
    samples = np.ma.getdata(read)
    return missing | ~np.isfinite(samples) if samples.dtype.kind == "f" else missing


def bands_to_show(names: Sequence[str | None], colours: Sequence[str]) -> tuple[int, ...]:
    """Places of the bands that a person sees: those that the file calls red, green and blue by their colour or name
    (``B04`` or ``Red``), else the first three, or the first of fewer."""
    if len(names) < 3:
        return (0,)
    by_colour = [colours.index(colour) for colour in ("red", "green", "blue") if colour in colours]
    by_name = [
        next((place for place, name in enumerate(names) if name and form.fullmatch(name.strip())), None)
        for form in _COLOURS
    ]
    chosen = by_colour if len(by_colour) == 3 else [place for place in by_name if place is not None]
    return (chosen[0], chosen[1], chosen[2]) if len(chosen) == 3 else (0, 1, 2)


def shown_bands(content: bytes) -> Image.Image:
    """An RGB picture of three bands, or of one in grey, each stretched between its own percentiles; no value is black.

    Raises:
        UnreadableBandsError, SetClipError: as `read_bands` does.
    """
    bands = read_bands(content)
    pixels = []
    for place in bands.shown:
        samples, missing = bands.samples[place], bands.missing[place]
        valid = samples[~missing]
        low, high = np.percentile(valid, PERCENTILES) if valid.size else (0.0, 1.0)
        pixels.append(np.where(missing, np.uint8(0), eight_bits(samples, float(low), float(high))))
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else np.stack(pixels, axis=-1))
    return picture.convert("RGB")
