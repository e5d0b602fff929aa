"""GeoTIFF scenes through rasterio (the extra ``[geo]``): tiles as pictures or with all of their bands, nodata.

One band or three become an 8-bit picture (`scene_pictures`); all, or another number of them, keep their numbers
(`scene_bands`). The id of a tile is ``<path>#<column>_<row>`` (pixels of the scene), or the path alone when the scene
is not cut. ``crs`` and ``transform`` (rasterio's a, b, c, d, e, f: the affine map from the tile's pixels to the ground)
go into columns of their own. A sample that is NaN or infinite is missing, as nodata is. A tile is not taken if more
than half of it is missing, and a scene is not taken if it is smaller than a tile. What remains at the right and lower
edge is cut off. Complex samples are rejects. Where a scene has more bands than are taken, the summary says which ones
were.
"""

from __future__ import annotations

import logging
from mmap import ACCESS_READ, mmap
from typing import TYPE_CHECKING, Any

import numpy as np

from setclip_cli.errors import UsageError, argument
from setclip_cli.files.recognize import head_of, recognize
from setclip_cli.ingest.sources.base import Item, Record, Reject, Walk
from setclip_cli.ingest.sources.check_image import image_format
from setclip_cli.ingest.sources.image import ImageFolder
from setclip_cli.ingest.sources.scene_bands import SceneBands
from setclip_cli.ingest.sources.scene_pictures import ScenePictures
from setclip_cli.pixels.bands import MAX_PIXELS, driver_of, missing_samples, rasterio_needed
from setclip_cli.pixels.quiet import quiet
from setclip_cli.pixels.tiff_header import MAGICS, BadTiffError, read_tiff_header

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


SCENE_SUFFIXES = (".tif", ".tiff", ".jp2")
ALL_BANDS = "all"
GDAL_CACHE_MB = 128
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
        rasterio_needed(f"{path}: GeoTIFF scenes")
        self._tile = tile
        self._stride = stride or tile
        self._bands = _parse_bands(bands)
        self._keeps = bands is not None and (self._bands is None or len(self._bands) not in (1, 3))
        self._stretch = _parse_stretch(stretch)
        if self._keeps and self._stretch is not None:
            raise UsageError(
                f"{argument('stretch')} {stretch}: is for 8-bit pictures, and {argument('bands')} {bands} keeps the "
                "numbers as they are",
                fix=f"leave {argument('stretch')} out",
            )

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
                scene = rasterio.open(path, driver=driver_of(head_of(path)))
            # of GDAL's own cache of decoded blocks, whose default is a part of the machine's memory
            with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_MB), scene:
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
        default = tuple(range(1, scene.count + 1)) if self._keeps else (1, 2, 3) if scene.count >= 3 else (1,)
        bands = self._bands or default
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
        step = self._stride or max(width, height)
        maker = SceneBands(scene, bands) if self._keeps else ScenePictures(scene, bands, self._stretch)
        if isinstance(maker, SceneBands) and (unusable := maker.unusable(width, height)):
            yield Reject(name, unusable)
            return
        for top in range(0, scene.height - height + 1, step):
            for left in range(0, scene.width - width + 1, step):
                identifier = f"{name}#{left}_{top}" if self._tile else name
                window = Window(left, top, width, height)
                with quiet():
                    read = scene.read(bands, window=window, masked=True)
                samples, missing = np.ma.getdata(read), missing_samples(read)
                if np.logical_or.reduce(missing, axis=0).mean() > 0.5:
                    yield Reject(identifier, "more than half of the tile is nodata", bad=False)
                    continue
                crs = scene.crs.to_string() if scene.crs else None
                place = {"crs": crs, "transform": _shifted(scene.get_transform(), left, top)}
                record = maker.record(identifier, samples, missing, place)
                del read, samples, missing  # a batch is written while this waits
                yield record


def _check_header(path: Path) -> None:
    """GDAL reads as black what a TIFF lacks, so its header is compared with its data first. Raises BadTiffError."""
    if head_of(path).startswith(MAGICS):
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            read_tiff_header(content, sparse=True)


def _reason(path: Path) -> str:
    """What a file is that is not a readable scene."""
    try:
        found = recognize(head_of(path))
    except OSError:
        found = None
    return f"no readable scene, {found.what}" if found else "no readable scene"


def _shifted(geotransform: Sequence[float], left: int, top: int) -> list[float]:
    """GDAL's six numbers (c, a, b, f, d, e) as (a, b, c, d, e, f), for pixels counted from (left, top)."""
    c, a, b, f, d, e = map(float, geotransform)
    return [a, b, c + a * left + b * top, d, e, f + d * left + e * top]


def _parse_bands(text: str | None) -> tuple[int, ...] | None:
    """The numbers of the bands; None for all, and if nothing is said."""
    if text is None or text.strip().lower() == ALL_BANDS:
        return None
    try:
        bands = tuple(int(part) for part in text.split(","))
    except ValueError:
        bands = (0,)
    if min(bands) < 1:
        raise _usage("bands", text, "give the numbers of bands, the first of which is 1, or all", "4,3,2")
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


def _usage(name: str, text: str, fix: str, example: str) -> UsageError:
    return UsageError(f"{argument(name)} {text}: cannot be read", fix=f"{fix}, such as {example}")
