"""Search EMBEDDINGS with a text, a protein sequence or an image: the rows of another modality nearest to it."""

from __future__ import annotations

import io
import os
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from setclip_cli.console import note, text_of_lines, visible
from setclip_cli.dataset.descriptions import read_description
from setclip_cli.dataset.modality import Modality, plural, singular
from setclip_cli.dataset.schemas import PICTURES
from setclip_cli.embedding.embedded_dataset import dataset_of, source_shard
from setclip_cli.embedding.embeddings import Embeddings, open_embeddings
from setclip_cli.embedding.hit_probabilities import hit_probabilities
from setclip_cli.embedding.options import SearchOptions
from setclip_cli.embedding.query_tower import open_query_tower
from setclip_cli.embedding.vectors import open_rows
from setclip_cli.errors import ExitCode, UsageError, argument, translated
from setclip_cli.files import atomic
from setclip_cli.files.leftovers import remove_leftovers_of
from setclip_cli.files.recognize import head_of
from setclip_cli.ingest.sources.image import IMAGE_SUFFIXES
from setclip_cli.ingest.sources.video import VIDEO_SUFFIXES, frames_at
from setclip_cli.pixels.video import UnusableVideoError
from setclip_cli.remote.arguments import takes_places
from setclip_cli.remote.copies import local_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from setclip_cli.dataset.modality import RowKind
    from setclip_cli.embedding.query_tower import QueryTower
    from setclip_cli.embedding.vectors import Vectors

_VECTOR_NAME = re.compile(r".+\.npy", re.IGNORECASE | re.DOTALL)
_SEQUENCE = re.compile(r"[A-Z]{12,}")  # shorter capitals may be a word
_ONLY_VIDEO = tuple(sorted({*VIDEO_SUFFIXES} - {*IMAGE_SUFFIXES}))  # a GIF is an image where images can be asked
_SHOWN = {"text": "text", "protein": "description", "image": None, "vector": None, "video": None}


@dataclass(frozen=True)
class Hit:
    """One row found.

    Attributes:
        score: Its cosine with the query.
        shown: Its text or description, if it has one.
        probability: That it is right, if the query has a partner here; None if the RUN has no calibration for it.
    """

    rank: int
    id: str
    score: float
    label: str | None
    shown: str | None
    shard: str
    probability: float | None = None


@dataclass(frozen=True)
class SearchResult:
    """The rows found.

    Attributes:
        query_modality: What the query was taken for.
        modality: What was searched.
        searched: How many rows were compared.
        hits: The rows found, nearest first.
        sheet: The PNG file that was written.
        why_no_probability: Why hits have no probability, and what to do about it; empty if they have one, or if rows of
            the query's own modality were searched.
    """

    query_modality: Modality
    modality: Modality
    searched: int
    hits: list[Hit]
    sheet: Path | None = None
    why_no_probability: str = ""

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "sheet": None if self.sheet is None else str(self.sheet)}

    def summary(self) -> str:
        lines = [
            f"{len(self.hits)} of {self.searched:,} {self.modality} rows nearest to the {singular(self.query_modality)}"
        ]
        for hit in self.hits:
            notes = "  ".join(note for note in (hit.label and f"[{hit.label}]", hit.shown) if note)
            sure = "" if hit.probability is None else f"  {hit.probability:>6.1%}"
            lines.append(f"{hit.rank:>3}  {hit.score:.4f}{sure}  {hit.id}  {notes}".rstrip())
        if any(hit.probability is not None for hit in self.hits):
            lines.append("in percent: the probability that a row is right, if the query has a partner here")
        if self.sheet:
            lines.append(f"contact sheet: {self.sheet}")
        return text_of_lines(lines)


@takes_places("embeddings")
def search(embeddings: str | Path, query: str, *, options: SearchOptions = SearchOptions()) -> SearchResult:
    """The rows nearest to a query by cosine. Every row is compared, of ubinary its bits first.

    Args:
        embeddings: The EMBEDDINGS folder.
        query: A text, a protein sequence, or the path of an image.
        options: What to search, and what to show.

    Raises:
        SetClipError: the query's modality has no tower, the RUN is not the one that made the embeddings, or a contact
            sheet is asked for but the rows are neither images nor videos; the query is empty, or is the path of
            something else.
    """
    if not query.strip():
        raise UsageError("the query is empty", fix="give a text, a protein sequence, or the path of an image")
    opened = open_embeddings(embeddings)
    asked = options.query_modality or guess_modality(query, opened)
    wanted = options.modality or _other_modality(opened, asked)
    run, data, sheet = (None if path is None else Path(path) for path in (options.run, options.data, options.sheet))
    if sheet and opened.kinds().get(wanted) not in PICTURES:
        flag = argument("sheet")
        raise UsageError(
            f"{flag}: {wanted} rows have no images to show", fix=f"leave {flag} out" + _search_pictures_instead(opened)
        )
    if sheet:
        _require_png(sheet)
    searched = open_rows(opened, wanted, options.split)
    vector = embed_query(opened, query, asked, run=run)
    rows, scores = searched.nearest(vector, options.top)
    hits, images = _look_up(opened, wanted, options.split, rows, scores, data=data, images=sheet is not None)
    why = ""
    if opened.index.run is not None:
        judged, why = hit_probabilities(
            opened, run or local_path(opened.index.run), asked, wanted, options.split, searched, vector, scores
        )
        hits = [replace(hit, probability=probability) for hit, probability in zip(hits, judged, strict=True)]
    if sheet:
        remove_leftovers_of(sheet)
        atomic.write_bytes(sheet, contact_sheet(hits, images))
    return SearchResult(asked, wanted, len(searched), hits, sheet, why)


def _require_png(sheet: Path) -> None:
    """Raises SetClipError unless the name ends in .png, and what is there now, if anything, is a PNG file."""
    flag = argument("sheet")
    if sheet.suffix.lower() != ".png":
        raise UsageError(f"{flag} {sheet}: the sheet is a PNG file", fix=f"{flag} {sheet.with_suffix('.png').name}")
    with translated(sheet, OSError, found="cannot be written", fix="choose another name"):
        if sheet.exists() and (not sheet.is_file() or not sheet.read_bytes().startswith(b"\x89PNG")):
            raise UsageError(f"{flag} {sheet}: is there already and is not a PNG file", fix="choose another name")


def _search_pictures_instead(embeddings: Embeddings) -> str:
    shown = next((name for name in embeddings.modalities() if embeddings.kinds()[name] in PICTURES), None)
    return f", or search {plural(shown)} with {argument('modality', '--in')} {shown}" if shown else ""


def guess_modality(query: str, embeddings: Embeddings) -> Modality:
    """What a query is: the path of a file is an image or a video, or a vector if it ends in .npy; twelve or more
    capitals alone are a sequence; the rest is text. If there is only one tower, the query is of its modality.

    Raises:
        SetClipError: the query is the name of a file that is not there, or the path of a folder; or it could be of
            either modality.
    """
    towers: dict[RowKind, list[Modality]] = {}
    for name, kind in embeddings.kinds().items():
        towers.setdefault(kind, []).append(name)
    shown = argument("query_modality", "--as")
    if len(embeddings.index.towers) == 1:
        return next(iter(embeddings.index.towers))
    guessed = _kind_of_query(query, towers)
    names = towers[guessed] if guessed else [*embeddings.index.towers]
    if len(names) > 1:
        raise UsageError(
            f"query {query[:60]!r}: could be of {' or '.join(names)}", fix=f"say which it is with {shown} {names[0]}"
        )
    if guessed in ("image", "vector", "video") and not _is_there(query):
        words = (
            f"; if these are words to search for, say so with {shown} {towers['text'][0]}" if "text" in towers else ""
        )
        raise UsageError(f"query {query[:60]!r}: no such file", fix=f"check the path{words}")
    return names[0]


def _kind_of_query(query: str, towers: Mapping[RowKind, object]) -> RowKind | None:
    """The kind of towers that a query is for; None if several could take it."""
    if "vector" in towers and _VECTOR_NAME.fullmatch(query):
        return "vector"
    name = query.lower()
    if "video" in towers and ((_is_there(query) and Path(query).is_dir()) or name.endswith(_ONLY_VIDEO)):
        return "video"
    if "image" in towers and (_is_there(query) or name.endswith(IMAGE_SUFFIXES)):
        return "image"
    if "video" in towers and (_is_there(query) or name.endswith(VIDEO_SUFFIXES)):
        return "video"
    if "protein" in towers and _SEQUENCE.fullmatch(query):
        return "protein"
    if "text" in towers:
        return "text"
    return "protein" if "protein" in towers else next(iter(towers)) if len(towers) == 1 else None


def _is_there(query: str) -> bool:
    """Whether the query is the path of a file; a folder is one that cannot be read."""
    try:
        return Path(query).is_file() or (Path(query).is_dir() and os.sep in query)
    except (OSError, ValueError):  # too long for a path, or with a NUL character
        return False


def _other_modality(embeddings: Embeddings, asked: Modality) -> Modality:
    others = [modality for modality in embeddings.modalities() if modality != asked]
    return others[0] if others else embeddings.modalities()[0]


def embed_query(embeddings: Embeddings, query: str, modality: Modality, *, run: Path | None) -> Vectors:
    """(d,) float32 unit vector of the query, from the tower that made the embeddings.

    Raises:
        SetClipError: there is no such tower, the RUN or its weights have changed, or the query cannot be read.
    """
    tower = open_query_tower(embeddings, modality, run=run)
    embedded = tower.embed([_item_of(query, tower)])
    for reason in embedded.failed.values():
        raise UsageError(
            f"query {query[:60]!r}: {reason}",
            fix=f"change the query, or say what it is with {argument('query_modality', '--as')}",
        )
    for told in embedded.notes():
        note(f"note: {told}")
    found: Vectors = embedded.vectors[0]
    return found


def _item_of(query: str, tower: QueryTower) -> Any:
    """What the backbone of the tower reads."""
    kind = tower.backbone.kind
    if kind == "protein":
        return residues(query)
    if kind == "vector":
        return _vector_at(query)
    if kind == "video":
        return _frames_at(query, tower.frames)
    return _image_at(query) if kind == "image" else query


def _vector_at(path: str) -> Vectors:
    """The one vector in a .npy file."""
    with translated(
        f"query {path[:60]!r}",
        OSError,
        ValueError,
        found="cannot be read as a .npy file",
        fix="give the path of a .npy file with one vector, as numpy.save writes it",
        exit_code=ExitCode.USAGE,
    ):
        if not head_of(Path(path)).startswith(b"\x93NUMPY"):
            raise ValueError("it does not begin as one")  # numpy would speak of pickles
        found = np.load(path, allow_pickle=False)
        values = np.asarray(found, np.float32)
    if values.ndim == 2 and len(values) == 1:
        values = values[0]
    if values.ndim != 1:
        raise UsageError(f"query {path[:60]!r}: has the shape {values.shape}", fix="give a file with one vector")
    return values


def residues(query: str) -> str:
    """A sequence as ingest takes it: without white space and a stop at its end, in upper case."""
    return "".join(query.split()).removesuffix("*").upper()


def _frames_at(path: str, count: int) -> tuple[bytes, ...]:
    fix = "give the path of a video or of a folder of its frames"
    flag = argument("query_modality", "--as")
    with translated(
        f"query {path[:60]!r}",
        UnusableVideoError,
        OSError,
        found="cannot be read",
        fix=f"{fix}, or say what the query is with {flag}",
        exit_code=ExitCode.USAGE,
    ):
        return frames_at(Path(path), count)


def _image_at(path: str) -> bytes:
    fix = f"give the path of an image, or say what the query is with {argument('query_modality', '--as')}"
    with translated(f"query {path[:60]!r}", OSError, found="cannot be read", fix=fix, exit_code=ExitCode.USAGE):
        return Path(path).read_bytes()


def _look_up(
    embeddings: Embeddings,
    modality: Modality,
    split: str | None,
    rows: list[int],
    scores: list[float],
    *,
    data: Path | None,
    images: bool,
) -> tuple[list[Hit], list[bytes | list[bytes]]]:
    """Ids and labels of rows by number, and their texts or images if the DATASET is still there."""
    shards = embeddings.shards(modality, split)
    ends = np.cumsum([shard.rows for shard in shards])
    column = PICTURES[embeddings.kinds()[modality]] if images else _SHOWN[embeddings.kinds()[modality]]
    dataset = dataset_of(embeddings, data, needed=images) if column else None
    tables: dict[int, Any] = {}
    payloads: dict[int, dict[str, Any]] = {}
    hits: list[Hit] = []
    found: list[bytes | list[bytes]] = []
    for rank, (row, score) in enumerate(zip(rows, scores, strict=True), 1):
        number = int(np.searchsorted(ends, row, side="right"))
        shard = shards[number]
        if number not in tables:
            tables[number] = embeddings.read(shard, ["id", "label"])
            if dataset is not None and column:
                table = dataset.read(source_shard(dataset, shard), ["id", column])
                payloads[number] = dict(zip(table["id"].to_pylist(), table[column].to_pylist(), strict=True))
        at = row - int(ends[number]) + shard.rows
        identifier = tables[number]["id"][at].as_py()
        payload = payloads.get(number, {}).get(identifier)
        shown = None if images else payload
        if column == "description" and shown:
            shown = read_description(shown).in_words()
        hits.append(Hit(rank, identifier, round(score, 6), tables[number]["label"][at].as_py(), shown, shard.path))
        if images and payload is not None:
            found.append(payload)
    return hits, found


def contact_sheet(hits: list[Hit], images: list[bytes | list[bytes]], *, side: int = 200, columns: int = 5) -> bytes:
    """The images, or frames of videos, in a grid, each with rank, score, label and id, as the bytes of a PNG file."""
    from PIL import Image, ImageDraw, ImageFont

    from setclip_cli.pixels.rgb import open_shown

    caption_height, gap = 34, 6
    columns = min(columns, max(1, len(hits)))
    lines = -(-len(hits) // columns)
    size = (columns * (side + gap) + gap, lines * (side + caption_height + gap) + gap)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for at, (hit, content) in enumerate(zip(hits, images, strict=True)):
        left, upper = gap + at % columns * (side + gap), gap + at // columns * (side + caption_height + gap)
        picture = open_shown(content)
        picture.thumbnail((side, side))
        sheet.paste(picture, (left + (side - picture.width) // 2, upper + (side - picture.height) // 2))
        heading = f"{hit.rank}  {hit.score:.3f}  {hit.label or ''}"
        for line, text in enumerate(map(visible, (heading, hit.id))):
            while draw.textlength(text, font) > side:
                text = text[:-2] if len(text) < 4 else "…" + text[2:]
            draw.text((left, upper + side + 2 + 15 * line), text, fill="black", font=font)
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()
