"""Images that look the same though their bytes differ: re-saved, resized or brightened copies."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from setclip_cli.pixels.bands import shown_bands
from setclip_cli.pixels.tiff_header import MAGICS

MAX_DISTANCE = 4  # bits of 64 in which two images that look the same may differ
_SIDE = 8
_BANDS = 5  # one more than MAX_DISTANCE: then at least one band of two near hashes is equal


class SeenImage(NamedTuple):
    order: int
    id: str
    split: str


def perceptual_hash(content: bytes) -> int | None:
    """64 bits that say where an image becomes brighter from left to right (difference hash, Krawetz 2013).

    Returns:
        The hash of the upright image in grey at 9 x 8 pixels; None for bytes that cannot be decoded, and for an image
        that changes so little from left to right that its hash is near to those of others that do: a flat one, bands of
        one tone each, a slope from bright to dark.
    """
    try:
        with shown_bands(content) if content.startswith(MAGICS) else Image.open(io.BytesIO(content)) as image:
            image.draft("L", (_SIDE * 8, _SIDE * 8))
            grey = ImageOps.exif_transpose(image).convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX)
    except Exception:  # Pillow raises anything on damaged data; only the header was checked
        return None
    samples = np.asarray(grey, dtype=np.int16)
    brighter = samples[:, 1:] > samples[:, :-1]
    changes = int(brighter.sum())
    if np.ptp(samples, axis=1).max() < _SIDE or min(changes, brighter.size - changes) <= MAX_DISTANCE // 2:
        return None
    return int.from_bytes(np.packbits(brighter).tobytes())


class LookAlikes:
    """The hashes of the images so far, found within ``MAX_DISTANCE`` bits (Manku, Jain and Das Sarma 2007)."""

    def __init__(self) -> None:
        self._bands: list[dict[int, list[int]]] = [{} for _ in range(_BANDS)]
        self._seen: dict[int, SeenImage] = {}

    def find(self, value: int) -> SeenImage | None:
        """The image whose hash is nearest, the first of equally near ones; None if no hash is near."""
        candidates = {near for band, key in enumerate(_keys(value)) for near in self._bands[band].get(key, ())}
        best = min(candidates, key=lambda near: ((near ^ value).bit_count(), self._seen[near].order), default=None)
        return None if best is None or (best ^ value).bit_count() > MAX_DISTANCE else self._seen[best]

    def add(self, value: int, identifier: str, split: str) -> None:
        if value not in self._seen:
            self._seen[value] = SeenImage(len(self._seen), identifier, split)
            for band, key in enumerate(_keys(value)):
                self._bands[band].setdefault(key, []).append(value)


def _keys(value: int) -> list[int]:
    width = -(-64 // _BANDS)
    return [(value >> (band * width)) & ((1 << width) - 1) for band in range(_BANDS)]
