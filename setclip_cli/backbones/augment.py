"""Another view of a raw item: a change that keeps its meaning. The seed alone decides which."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageEnhance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

CROP_AREA = (0.5, 1.0)  # share of the image that a crop keeps
CROP_ASPECT = (3 / 4, 4 / 3)
COLOUR = 0.2  # brightness, contrast and saturation change by up to this share
MASKED_WORDS = 0.15
MASKED_RESIDUES = 0.15
KEPT_RESIDUES = 0.7  # least share of a sequence that a crop keeps
MASK = "X"  # the alphabet's unknown residue
_TURNS = (None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)


def augment_image(image: Image.Image, seed: int) -> Image.Image:
    """Quarter turns, flips, a crop and mild colour changes; for images from above, which have no upright side.

    Args:
        image: RGB; the crop is not resized, which the backbone's own preprocessing does.
    """
    draw = random.Random(seed)
    turn = draw.choice(_TURNS)
    if turn is not None:
        image = image.transpose(turn)
    if draw.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.crop(_crop(draw, *image.size))
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(draw.uniform(1 - COLOUR, 1 + COLOUR))
    return image


def augment_bands(samples: NDArray[np.float32], deviations: Sequence[float], seed: int) -> NDArray[np.float32]:
    """The same for an image of bands: its contrast changes by a factor, and each band moves by a part of its deviation.

    Args:
        samples: (bands, h, w).
        deviations: Of each band in the data.
    """
    draw = random.Random(seed)
    samples = np.rot90(samples, _TURNS.index(draw.choice(_TURNS)), axes=(1, 2))
    if draw.random() < 0.5:
        samples = samples[:, :, ::-1]
    left, top, right, bottom = _crop(draw, samples.shape[2], samples.shape[1])
    samples = samples[:, top:bottom, left:right]
    factor = draw.uniform(1 - COLOUR, 1 + COLOUR)
    moves = np.array([draw.uniform(-COLOUR, COLOUR) * deviation for deviation in deviations], np.float32)
    means = samples.mean(axis=(1, 2), keepdims=True)
    changed: NDArray[np.float32] = means + np.float32(factor) * (samples - means) + moves[:, None, None]
    return changed


def _crop(draw: random.Random, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part that stays."""
    area, aspect = draw.uniform(*CROP_AREA), draw.uniform(*CROP_ASPECT)
    w = max(1, min(width, round((area * width * height * aspect) ** 0.5)))
    h = max(1, min(height, round((area * width * height / aspect) ** 0.5)))
    left, top = draw.randint(0, width - w), draw.randint(0, height - h)
    return left, top, left + w, top + h


def augment_text(text: str, seed: int) -> str:
    """Leaves out one span of words, a share of ``MASKED_WORDS``. A text of fewer than four words stays whole."""
    words = text.split()
    if len(words) < 4:
        return text
    draw = random.Random(seed)
    span = max(1, round(MASKED_WORDS * len(words)))
    start = draw.randint(0, len(words) - span)
    return " ".join(words[:start] + words[start + span :])


def augment_protein(sequence: str, seed: int) -> str:
    """A part of the sequence, at least ``KEPT_RESIDUES`` of it, with ``MASKED_RESIDUES`` of its residues unknown."""
    draw = random.Random(seed)
    length = len(sequence)
    kept = draw.randint(max(1, round(KEPT_RESIDUES * length)), length)
    start = draw.randint(0, length - kept)
    residues = list(sequence[start : start + kept])
    for at in draw.sample(range(kept), round(MASKED_RESIDUES * kept)):
        residues[at] = MASK
    return "".join(residues)
