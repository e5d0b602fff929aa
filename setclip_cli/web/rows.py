"""What a page shows of the rows of one modality: ids, texts, sequences and small pictures; and the search by words."""

from __future__ import annotations

import io
import re
import threading
from collections import OrderedDict
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from setclip_cli.console import visible
from setclip_cli.dataset.descriptions import read_description
from setclip_cli.dataset.schemas import PICTURES
from setclip_cli.errors import SetClipError
from setclip_cli.pixels.rgb import open_shown

if TYPE_CHECKING:
    from torch import Tensor

    from setclip_cli.dataset.dataset import Dataset, Shard
    from setclip_cli.dataset.modality import Modality, RowKind

PICTURE_PX = {"small": 240, "large": 720}  # the longer side
PICTURES_BYTES = 64 << 20  # of the small pictures that are kept
SHARDS_BYTES = 256 << 20  # of the image files that are kept; a shard has 64 MiB
LETTERS = 600  # of a text
RESIDUES = 120
_SHOWN: dict[RowKind, list[str]] = {
    "protein": ["sequence", "length", "description"],
    "image": ["width", "height"],
    "video": ["width", "height", "times"],
    "text": ["text"],
    "vector": [],
}
_SEARCHED: dict[RowKind, list[str]] = {
    "protein": ["description"],
    "image": [],
    "video": [],
    "text": ["text"],
    "vector": [],
}
_WHOLE = r"(?:^|[^\pL\pN])%s(?:$|[^\pL\pN])"  # \b of RE2 knows ASCII letters alone


class Rows:
    """The rows of one modality and split, in the order of the shards."""

    def __init__(self, dataset: Dataset, modality: Modality, split: str | None) -> None:
        """Reads ids and texts. Image files are read when they are shown.

        Args:
            split: None for all splits.

        Raises:
            SetClipError: a shard is missing or has changed.
        """
        self.dataset, self.modality, self.kind = dataset, modality, dataset.kind(modality)
        self.table = dataset.table(modality, split, ["id", *_SHOWN[self.kind]])
        self._shards = dataset.shards(modality, split)
        self._starts = np.cumsum([0, *(shard.rows for shard in self._shards)])
        self._files = _Recent(SHARDS_BYTES)
        self._pictures = _Recent(PICTURES_BYTES)
        self._reading = threading.Lock()

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def ids(self) -> list[str]:
        names: list[str] = self.table["id"].to_pylist()
        return names

    @cached_property
    def row_of(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.ids)}

    def shown(self, row: int) -> dict[str, Any]:
        """A row as the page gets it. What is not seen in a text, or moves it, is escaped; mark-up is left as it is."""
        found: dict[str, Any] = {"row": row, "id": visible(self.table["id"][row]), "kind": self.kind}
        values = {name: self.table[name][row].as_py() for name in _SHOWN[self.kind]}
        if self.kind == "image":
            found["size"] = f"{values['width']:,} × {values['height']:,}"
        elif self.kind == "video":
            lasts = _lasting(values["times"])
            found["size"] = f"{values['width']:,} × {values['height']:,}{lasts and f', {lasts}'}"
        elif self.kind == "text":
            found["text"] = _cut(values["text"], LETTERS)
        elif self.kind == "protein":
            said = read_description(values["description"] or "")
            found |= {part: _cut(text, LETTERS) for part, text in said._asdict().items()}
            found |= {"residues": _cut(values["sequence"], RESIDUES), "length": f"{values['length']:,} residues"}
        return found

    def with_words(self, words: str, likely: Tensor | None = None) -> list[int]:
        """Rows whose id or text holds all the words, in small or capital letters, the fitting ones first.

        A text with the words side by side is before one with the words apart, that before one with parts of other words
        ("forest" in "afforestation"), and a hit in the id alone is last. Among equals the likely rows are first. Of
        many equal texts one is among the others; the rest follow at the end.

        Args:
            likely: (n,) how likely each row is what is looked for; None leaves equals in the order of the rows.
        """
        parts = words.split()
        if not parts:
            return []
        texts = [self.table[name] for name in _SEARCHED[self.kind]]
        ids = [self.table["id"]]
        fits = [_all_hold([*texts, *ids], parts, whole=False)]
        if texts:
            in_text = [([" ".join(parts)], True), (parts, True), (parts, False)]
            fits = [*(_all_hold(texts, wanted, whole=whole) for wanted, whole in in_text), *fits]
        place = np.select(fits, range(len(fits)), len(fits))
        found = np.flatnonzero(place < len(fits))
        scores = np.zeros(len(self)) if likely is None else -likely.double().numpy()
        ordered = found[np.lexsort((found, scores[found], place[found]))].tolist()
        seen: set[str] = set()
        first: list[int] = []
        copies: list[int] = []
        for row in ordered:
            text = " ".join(str(each[row].as_py() or "") for each in texts) or self.ids[row]
            (copies if text in seen else first).append(row)
            seen.add(text)
        return first + copies

    def picture(self, row: int, size: str) -> bytes:
        """A small JPEG of an image, or of some frames of a video.

        Raises:
            SetClipError: the row has no picture, or it cannot be read.
        """
        key = (row, size)
        with self._reading:  # Pillow's warnings, which bound the pixels, are set for the whole process
            if (kept := self._pictures.get(key)) is not None:
                return bytes(kept)
            made = _small(self._file(row), PICTURE_PX[size], str(self.table["id"][row]))
            self._pictures.keep(key, made, len(made))
            return made

    def _file(self, row: int) -> bytes | list[bytes]:
        if self.kind not in PICTURES:
            raise SetClipError(f"{self.modality} rows have no pictures", fix="reload the page")
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        shard: Shard = self._shards[number]
        files = self._files.get(number)
        if files is None:
            column = PICTURES[self.kind]
            files = self.dataset.read(shard, [column])[column]
            self._files.keep(number, files, shard.bytes)
        content: bytes | list[bytes] = files[row - int(self._starts[number])].as_py()
        return content


class _Recent:
    """What was used last, up to a number of bytes; the newest is kept whatever its size."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._kept: OrderedDict[Any, tuple[Any, int]] = OrderedDict()

    def get(self, key: Any) -> Any:
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def keep(self, key: Any, value: Any, size: int) -> None:
        self._kept[key] = value, size
        self._size += size
        while self._size > self._limit and len(self._kept) > 1:
            self._size -= self._kept.popitem(last=False)[1][1]


def _all_hold(texts: list[pa.ChunkedArray], parts: list[str], *, whole: bool) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows hold all the parts, each in any of the texts; ``whole`` wants each part as words of its own."""
    held = np.ones(len(texts[0]), bool)
    for part in parts:
        found = [
            pc.match_substring_regex(text, _WHOLE % re.escape(part), ignore_case=True)
            if whole
            else pc.match_substring(text, part, ignore_case=True)
            for text in texts
        ]
        held &= np.logical_or.reduce([pc.fill_null(each, False).to_numpy() for each in found])
    return held


def _cut(text: str, letters: int) -> str:
    return visible(text if len(text) <= letters else text[: letters - 1].rstrip() + "…")


def _lasting(times: list[float] | None) -> str:
    """How far the first and the last frame of a video are apart: seconds, or days of dated frames."""
    if not times or times[-1] <= times[0]:
        return ""
    seconds = times[-1] - times[0]
    return f"{seconds / 86_400:,.0f} days" if seconds >= 2 * 86_400 else f"{seconds:,.1f} s"


def _small(content: bytes | list[bytes], longest: int, name: str) -> bytes:
    try:
        image = open_shown(content)
    except Exception as error:  # whatever Pillow raises for a file that it cannot read
        raise SetClipError(f"the picture {visible(name)} cannot be shown ({error})", fix="skip it") from error
    image.thumbnail((longest, longest))
    written = io.BytesIO()
    image.save(written, "JPEG", quality=85)
    return written.getvalue()
