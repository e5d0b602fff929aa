"""GeoTIFF scenes through rasterio (the extra ``[geo]``): band choice, percentile stretch, nodata, tiles.

Each tile is one PNG whose id is ``<path>#<column>_<row>`` (pixels of the scene), or the path alone when the scene is
not cut. ``crs`` and ``transform`` (rasterio's a, b, c, d, e, f: the affine map from the tile's pixels to the ground)
go into columns of their own. The stretch is taken from the whole scene, read at low resolution, so that neighbouring
tiles can be compared; nodata pixels are left out of it and become black. A tile is not taken if more than half of it is
nodata, and a scene is not taken if it is smaller than a tile. What remains at the right and lower edge is cut off.
A palette becomes red, green and blue. Complex samples are rejects. Where a scene has more bands than are taken, the
summary says which ones were.
"""

from __future__ import annotations

import io
import logging
from mmap import ACCESS_READ, mmap
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from setclip_cli.errors import SetClipError, UsageError, argument
from setclip_cli.files.recognize import head_of, recognize
from setclip_cli.ingest.sources.base import ORIGINAL, Item, Record, Reject, Walk
from setclip_cli.ingest.sources.check_image import MAX_PIXELS, image_format, quiet
from setclip_cli.ingest.sources.image import ImageFolder, image_record
from setclip_cli.ingest.sources.re_encode import sha256_of_samples
from setclip_cli.ingest.sources.tiff_header import MAGICS, BadTiffError, read_tiff_header
from setclip_cli.pixels.eight_bits import PERCENTILES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

SCENE_SUFFIXES = (".tif", ".tiff", ".jp2")
_OVERVIEW_PX = 1024  # longest side of the reading that the stretch is taken from
logging.getLogger("rasterio").addHandler(logging.NullHandler())  # what it logs is in the reason of the reject


class GeoFolder(ImageFolder):
    """A folder of scenes, or one scene; other images in the folder are read as usual."""

    def __init__(
        self,
        path: Path,
        *,
        tile: int | None = None,
        stride: int | None = None,
        bands: str | None = None,
        stretch: str | None = None,
    ) -> None:
        super().__init__(path)
        try:
            import rasterio  # noqa: F401
        except ImportError as error:
            raise SetClipError(
                f"{path}: GeoTIFF scenes need the package rasterio", fix="pip install 'setclip[geo]'"
            ) from error
        self._tile = tile
        self._stride = stride or tile
        self._bands = _parse_bands(bands)
        self._stretch = _parse_stretch(stretch)

    def walk(self) -> Walk:
        # not in threads: GDAL has its own
        return super().walk()._replace(answers=self._tiles_or_image, one_each=False)

    def _tiles_or_image(self, item: Item) -> Iterator[Record | Reject]:
        name = item.location
        if isinstance(item.content, Reject) or not self._is_scene(name):
            yield self._answer(item)
            return
        split, label = self.folders.of(name)
        for record in self._scene(self._root / name, name):
            yield record._replace(label=label, split=split) if isinstance(record, Record) else record

    def _is_scene(self, name: str) -> bool:
        if name.lower().endswith(SCENE_SUFFIXES):
            return True
        try:
            return image_format(head_of(self._root / name)) in ("TIFF", "JPEG2000")
        except OSError:
            return False

    def _scene(self, path: Path, name: str) -> Iterator[Record | Reject]:
        import rasterio

        try:
            _check_header(path)
            with quiet():  # a scene without georeference warns, and is fine
                scene = rasterio.open(path)
            with scene:
                yield from self._tiles(scene, name)
        except BadTiffError as error:
            yield Reject(name, f"damaged TIFF: {error}")
        except MemoryError:
            yield Reject(name, "too large to decode")
        except Exception as error:  # GDAL's drivers, rasterio and numpy raise many kinds on damaged files
            yield Reject(name, f"{_reason(path)}: {type(error).__name__}")

    def _tiles(self, scene: Any, name: str) -> Iterator[Record | Reject]:
        from rasterio.windows import Window

        if self._bands and max(self._bands) > scene.count:
            yield Reject(name, f"too few bands: {scene.count}, {max(self._bands)} asked for")
            return
        bands = self._bands or ((1, 2, 3) if scene.count >= 3 else (1,))
        dtypes = {scene.dtypes[band - 1] for band in bands}
        if any("complex" in dtype or dtype == "cint16" for dtype in dtypes):
            layout = f"{scene.count} {'band' if scene.count == 1 else 'bands'} of {', '.join(sorted(dtypes))}"
            yield Reject(name, f"complex samples: {layout}")
            return
        width, height = self._tile or scene.width, self._tile or scene.height
        if width * height > MAX_PIXELS:
            yield Reject(name, f"over the cap of {MAX_PIXELS:,} pixels: {width:,} x {height:,}; cut it with --tile")
            return
        if width > scene.width or height > scene.height:
            yield Reject(name, f"smaller than a tile: {scene.width} x {scene.height}")
            return
        palette = _palette(scene, bands)
        with quiet():
            limits = np.zeros((0, 2)) if palette is not None else _stretch_limits(scene, bands, self._stretch)
        stretched = palette is None and (self._stretch is not None or dtypes != {"uint8"})
        repairs = _told(scene, bands, (self._stretch or PERCENTILES) if stretched else None)
        step = self._stride or max(width, height)
        for top in range(0, scene.height - height + 1, step):
            for left in range(0, scene.width - width + 1, step):
                window = Window(left, top, width, height)
                identifier = f"{name}#{left}_{top}" if self._tile else name
                with quiet():
                    samples = scene.read(bands, window=window, masked=True)
                    missing = np.logical_or.reduce(np.ma.getmaskarray(samples), axis=0)
                    if missing.mean() > 0.5:
                        encoded = None
                    else:
                        encoded = _png(samples, missing, limits) if palette is None else _in_colours(samples, palette)
                if encoded is None:
                    yield Reject(identifier, "more than half of the tile is nodata", bad=False)
                    continue
                record = image_record(identifier, encoded, identifier, made_up=True)
                if isinstance(record, Record):
                    crs = scene.crs.to_string() if scene.crs else None
                    record = record._replace(
                        repairs=(*record.repairs, *repairs),
                        extra={"crs": crs, "transform": _shifted(scene.get_transform(), left, top)}
                        | ({ORIGINAL: sha256_of_samples(encoded, np.ma.getdata(samples))} if stretched else {}),
                    )
                yield record


def _check_header(path: Path) -> None:
    """GDAL reads as black what a TIFF lacks, so its header is compared with its data first. Raises BadTiffError."""
    if head_of(path).startswith(MAGICS):
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            read_tiff_header(content, sparse=True)


def _told(scene: Any, bands: Sequence[int], stretch: tuple[float, float] | None) -> tuple[str, ...]:
    """What the summary says about the bands, if not all of them are taken as they are."""
    if len(bands) == scene.count and stretch is None:
        return ()
    which = f"{'band' if len(bands) == 1 else 'bands'} {','.join(map(str, bands))} of {scene.count} taken"
    if stretch is None:
        return (which,)
    low, high = stretch
    return (f"{which} and stretched to 8 bits: percentiles {low:g},{high:g} of each band of the scene",)


def _reason(path: Path) -> str:
    """What a file is that is not a readable scene."""
    try:
        found = recognize(head_of(path))
    except OSError:
        found = None
    return f"no readable scene, {found.what}" if found else "no readable scene"


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


def _in_colours(samples: Any, palette: NDArray[np.uint8]) -> bytes:
    """A PNG of the colours; nodata pixels are black."""
    pixels = palette[np.ma.getdata(samples)[0]]
    pixels[np.ma.getmaskarray(samples)[0]] = 0
    return _encoded(Image.fromarray(pixels))


def _shifted(geotransform: Sequence[float], left: int, top: int) -> list[float]:
    """GDAL's six numbers (c, a, b, f, d, e) as (a, b, c, d, e, f), for pixels counted from (left, top)."""
    c, a, b, f, d, e = map(float, geotransform)
    return [a, b, c + a * left + b * top, d, e, f + d * left + e * top]


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


def _png(samples: Any, missing: NDArray[np.bool_], limits: NDArray[np.float64]) -> bytes:
    low, high = limits[:, 0, None, None], limits[:, 1, None, None]
    scaled = (np.ma.getdata(samples).astype(np.float64) - low) / np.maximum(high - low, 1e-12)
    pixels = np.rint(np.nan_to_num(scaled, nan=0.0).clip(0, 1) * 255).astype(np.uint8)
    pixels[:, missing] = 0
    return _encoded(Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)))


def _encoded(image: Image.Image) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


def _parse_bands(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        bands = tuple(int(part) for part in text.split(","))
    except ValueError:
        bands = ()
    if len(bands) not in (1, 3) or min(bands) < 1:
        raise _usage("bands", text, "give one band, or three for red,green,blue; the first band is 1", "4,3,2")
    return bands


def _parse_stretch(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 1.0, 0.0
    if not 0 <= low < high <= 100:
        raise _usage("stretch", text, "give two percentiles, the lower one first", "2,98")
    return low, high


def _usage(name: str, text: str, fix: str, example: str) -> SetClipError:
    return UsageError(f"{argument(name)} {text}: cannot be read", fix=f"{fix}, such as {example}")
