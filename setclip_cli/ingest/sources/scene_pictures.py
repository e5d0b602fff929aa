"""Tiles of a scene as 8-bit pictures: band choice, percentile stretch, palettes.

The stretch is taken from the whole scene, read at low resolution, so that neighbouring tiles can be compared. Missing
pixels are left out of it and become black. A palette becomes red, green and blue.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from setclip_cli.ingest.sources.base import ORIGINAL, Record, Reject
from setclip_cli.ingest.sources.image import image_record
from setclip_cli.ingest.sources.re_encode import sha256_of_samples
from setclip_cli.pixels.eight_bits import PERCENTILES
from setclip_cli.pixels.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_OVERVIEW_PX = 1024  # longest side of the reading that the stretch is taken from


class ScenePictures:
    """Makes PNG records of the tiles of one open scene.

    Args:
        bands: One band, or three for red, green and blue.
        stretch: Percentiles that become black and white; None for those of `PERCENTILES`, and for 8-bit scenes none.
    """

    def __init__(self, scene: Any, bands: Sequence[int], stretch: tuple[float, float] | None) -> None:
        self._palette = _palette(scene, bands)
        with quiet():
            self._limits = np.zeros((0, 2)) if self._palette is not None else _stretch_limits(scene, bands, stretch)
        dtypes = {scene.dtypes[band - 1] for band in bands}
        self._stretched = self._palette is None and (stretch is not None or dtypes != {"uint8"})
        self._repairs = _told(scene, bands, (stretch or PERCENTILES) if self._stretched else None)

    def record(
        self, identifier: str, samples: NDArray[Any], missing: NDArray[np.bool_], place: dict[str, Any]
    ) -> Record | Reject:
        """A record of a tile.

        Args:
            samples, missing: (bands, height, width).
            place: Its columns ``crs`` and ``transform``.
        """
        gone = np.logical_or.reduce(missing, axis=0)
        encoded = (
            _png(samples, gone, self._limits) if self._palette is None else _in_colours(samples[0], gone, self._palette)
        )
        record = image_record(identifier, encoded, identifier, made_up=True)
        if isinstance(record, Reject):
            return record
        original = {ORIGINAL: sha256_of_samples(encoded, samples)} if self._stretched else {}
        return record._replace(repairs=(*record.repairs, *self._repairs), extra={**place, **original})


def _told(scene: Any, bands: Sequence[int], stretch: tuple[float, float] | None) -> tuple[str, ...]:
    """What the summary says about the bands, if not all of them are taken as they are."""
    if len(bands) == scene.count and stretch is None:
        return ()
    which = f"{'band' if len(bands) == 1 else 'bands'} {','.join(map(str, bands))} of {scene.count} taken"
    if stretch is None:
        return (which,)
    low, high = stretch
    return (f"{which} and stretched to 8 bits: percentiles {low:g},{high:g} of each band of the scene",)


def _palette(scene: Any, bands: Sequence[int]) -> NDArray[np.uint8] | None:
    """(256, 3): the colours of the numbers in the only band of a scene with a palette, else None."""
    if len(bands) != 1 or scene.dtypes[bands[0] - 1] != "uint8":
        return None
    try:
        colours = scene.colormap(bands[0])
    except ValueError:  # how rasterio says that there is none
        return None
    table = np.zeros((256, 3), dtype=np.uint8)
    for number, colour in colours.items():
        table[number] = colour[:3]
    return table


def _in_colours(numbers: NDArray[np.uint8], missing: NDArray[np.bool_], palette: NDArray[np.uint8]) -> bytes:
    """A PNG of the colours; missing pixels are black."""
    pixels = palette[numbers]
    pixels[missing] = 0
    return _encoded(Image.fromarray(pixels))


def _stretch_limits(scene: Any, bands: Sequence[int], percentiles: tuple[float, float] | None) -> NDArray[np.float64]:
    """(bands, 2): the sample values that become black and white. 8-bit scenes are left as they are unless asked."""
    if percentiles is None and all(scene.dtypes[band - 1] == "uint8" for band in bands):
        return np.array([[0.0, 255.0]] * len(bands))
    shrink = max(1.0, max(scene.width, scene.height) / _OVERVIEW_PX)
    shape = (len(bands), max(1, round(scene.height / shrink)), max(1, round(scene.width / shrink)))
    overview = scene.read(bands, out_shape=shape, masked=True).astype(np.float64)
    limits = []
    for band in overview:
        valid = band.compressed()
        valid = valid[np.isfinite(valid)]
        limits.append(np.percentile(valid, percentiles or PERCENTILES) if valid.size else (0.0, 1.0))
    return np.array(limits, dtype=np.float64)


def _png(samples: NDArray[Any], missing: NDArray[np.bool_], limits: NDArray[np.float64]) -> bytes:
    low, high = limits[:, 0, None, None], limits[:, 1, None, None]
    scaled = (samples.astype(np.float64) - low) / np.maximum(high - low, 1e-12)
    pixels = np.rint(np.nan_to_num(scaled, nan=0.0).clip(0, 1) * 255).astype(np.uint8)
    pixels[:, missing] = 0
    return _encoded(Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)))


def _encoded(image: Image.Image) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()
