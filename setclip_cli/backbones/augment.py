"""Another view of a raw item: a change that keeps its meaning. The seed alone decides which."""

from __future__ import annotations

import random

from PIL import Image, ImageEnhance

CROP_AREA = (0.5, 1.0)  # share of the image that a crop keeps
CROP_ASPECT = (3 / 4, 4 / 3)
COLOUR = 0.2  # brightness, contrast and saturation change by up to this share
MASKED_WORDS = 0.15
MASKED_RESIDUES = 0.15
KEPT_RESIDUES = 0.7  # least share of a sequence that a crop keeps
MASK = "X"  # the alphabet's unknown residue


def augment_image(image: Image.Image, seed: int) -> Image.Image:
    """Quarter turns, flips, a crop and mild colour changes; for images from above, which have no upright side.

    Args:
        image: RGB; the crop is not resized, which the backbone's own preprocessing does.
    """
    draw = random.Random(seed)
    turn = draw.choice([None, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270])
    if turn is not None:
        image = image.transpose(turn)
    if draw.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    width, height = image.size
    area, aspect = draw.uniform(*CROP_AREA), draw.uniform(*CROP_ASPECT)
    w = max(1, min(width, round((area * width * height * aspect) ** 0.5)))
    h = max(1, min(height, round((area * width * height / aspect) ** 0.5)))
    left, top = draw.randint(0, width - w), draw.randint(0, height - h)
    image = image.crop((left, top, left + w, top + h))
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(draw.uniform(1 - COLOUR, 1 + COLOUR))
    return image


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
