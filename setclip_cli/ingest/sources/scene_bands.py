"""Tiles of a scene with all of their bands: the numbers stay as they are (see `pixels.bands`).

How the numbers become what a backbone sees is decided in training: see `dataset.band_scale`. What it needs are the mean
and the standard deviation of each band; those of a tile are two of its columns.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from setclip_cli.dataset.band_scale import BAND_DEVIATIONS, BAND_MEANS
from setclip_cli.ingest.sources.base import Record, Reject, usable_id
from setclip_cli.pixels.bands import over_a_cap, write_bands
from setclip_cli.pixels.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

NOT_APPLIED = "the scale and offset that the file gives its bands kept beside them and not applied"


class SceneBands:
    """Makes GeoTIFF records of the tiles of one open scene."""

    def __init__(self, scene: Any, bands: Sequence[int]) -> None:
        self._scene, self._bands = scene, bands
        self._repairs: tuple[str, ...] = ()
        if len(bands) < scene.count:
            which = f"{'band' if len(bands) == 1 else 'bands'} {','.join(map(str, bands))} of {scene.count} taken"
            self._repairs = (f"{which}, as they are",)
        if any(scene.scales[band - 1] != 1.0 or scene.offsets[band - 1] != 0.0 for band in bands):
            self._repairs += (NOT_APPLIED,)

    def unusable(self, width: int, height: int) -> str | None:
        """Why tiles of this size cannot be taken, or None."""
        dtypes = [self._scene.dtypes[band - 1] for band in self._bands]
        if len(set(dtypes)) > 1:
            counted = ", ".join(f"{count} of {dtype}" for dtype, count in Counter(dtypes).items())
            return f"bands of several sample types: {counted}; choose bands of one type with --bands"
        cap = over_a_cap(width, height, dtypes)
        return cap and f"{cap}; cut it with --tile"

    def record(
        self, identifier: str, samples: NDArray[Any], missing: NDArray[np.bool_], place: dict[str, Any]
    ) -> Record | Reject:
        """A record of a tile.

        Args:
            samples, missing: (bands, height, width).
            place: Its columns ``crs`` and ``transform``.
        """
        if unusable := usable_id(identifier):
            return Reject(identifier, unusable)
        means, deviations, is_empty = [], [], True
        for band, gone in zip(samples, missing, strict=True):
            values = band[~gone] if gone.any() else band
            is_empty = is_empty and bool(values.min() == values.max())
            means.append(float(values.mean(dtype=np.float64)))
            deviations.append(float(values.std(dtype=np.float64)))
        if is_empty:
            return Reject(identifier, "empty tile: each band holds one value only", bad=False)
        with quiet():
            content = write_bands(samples, self._scene, self._bands, place["transform"])
        _, height, width = samples.shape
        return Record(
            "image",
            identifier,
            content,
            hashlib.sha256(content).hexdigest(),
            columns=(width, height),
            repairs=self._repairs,
            extra={**place, BAND_MEANS: means, BAND_DEVIATIONS: deviations},
            made_up=True,
        )
