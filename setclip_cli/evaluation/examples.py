"""Examples behind the numbers: the queries answered best and worst, and the classes that are confused most often."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from setclip_cli.dataset.descriptions import read_description, uniprot_page
from setclip_cli.dataset.schemas import PICTURES
from setclip_cli.evaluation.similarity import distinct_rows
from setclip_cli.pixels.rgb import open_shown

if TYPE_CHECKING:
    from collections.abc import Collection

    import pyarrow as pa

    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.dataset.modality import Modality, RowKind
    from setclip_cli.evaluation.arrays import Embeddings
    from setclip_cli.evaluation.evaluation_set import Side
    from setclip_cli.evaluation.metrics import Retrieval
    from setclip_cli.evaluation.relevance import Relevance
    from setclip_cli.evaluation.zero_shot import ZeroShot


EXAMPLES_SHOWN = 5
ANSWERS_SHOWN = 3
_IMAGE_PX = 144  # twice the size on the page, for sharp screens
_RESIDUES_SHOWN = 30  # one line on a phone
_LETTERS_SHOWN = 180
SHOWN_COLUMNS: dict[RowKind, list[str]] = {
    "protein": ["id", "sequence", "length", "description"],
    "image": ["id", "image"],
    "video": ["id", "frames"],
    "text": ["id", "text"],
    "vector": ["id"],
}


@dataclass(frozen=True)
class Answer:
    """A gallery row in an example; ``copies`` other rows have exactly the same embedding, such as repeated captions."""

    row: int
    rank: float
    copies: int
    relevant: bool


@dataclass(frozen=True)
class Example:
    """A query, the first answers of the ranking, and the right answer that is ranked best."""

    query: int
    average_precision: float
    answers: list[Answer]
    best_relevant: Answer


def best_and_worst_queries(
    queries: Embeddings, gallery: Embeddings, relevance: Relevance, ranking: Retrieval, query_side: Side
) -> tuple[list[Example], list[Example]]:
    """The queries of highest and of lowest average precision, one of each class; more if there are too few classes.

    Queries of equal precision are ordered by id, so the choice does not depend on the order of the rows.
    """
    precision = ranking.values["map"]
    ids = np.array([query_side.ids[row] for row in ranking.queries])
    order = np.lexsort((ids, -precision))
    best = _one_of_each_class([int(place) for place in order], ranking, query_side)
    first, inverse = distinct_rows(gallery)
    repeats = np.bincount(inverse)
    order = np.lexsort((ids, precision))
    worst = _one_of_each_class([int(place) for place in order if place not in best], ranking, query_side)

    def example(place: int) -> Example:
        row = int(ranking.queries[place])
        scores = gallery @ queries[row]
        relevant = relevance.of(row)
        nearest = first[np.argsort(-scores[first], kind="stable")[:ANSWERS_SHOWN]]
        best_relevant = int(relevant[np.argmax(scores[relevant])])

        def answer(found: int) -> Answer:
            above, tied = int((scores > scores[found]).sum()), int((scores == scores[found]).sum())
            copies = int(repeats[inverse[found]]) - 1
            return Answer(found, above + (tied + 1) / 2, copies, bool((relevant == found).any()))

        return Example(row, float(precision[place]), [answer(int(found)) for found in nearest], answer(best_relevant))

    return [example(place) for place in best], [example(place) for place in worst]


def _one_of_each_class(places: list[int], ranking: Retrieval, side: Side) -> list[int]:
    chosen: list[int] = []
    seen: set[str | None] = set()
    for place in places:
        label = side.labels[int(ranking.queries[place])]
        if label is None or label not in seen:
            chosen.append(place)
            seen.add(label)
        if len(chosen) == EXAMPLES_SHOWN:
            return chosen
    return chosen + [place for place in places if place not in chosen][: EXAMPLES_SHOWN - len(chosen)]


@dataclass(frozen=True)
class Confusion:
    """A class that is taken for another: ``rows`` of ``total``. ``example`` is the row with the widest margin."""

    true: str
    taken: str
    rows: int
    total: int
    example: int


def frequent_confusions(found: ZeroShot) -> list[Confusion]:
    """The most frequent mistakes of the classification, at most ``EXAMPLES_SHOWN``."""
    wrong = found.confusion.copy()
    np.fill_diagonal(wrong, 0)
    totals = found.confusion.sum(axis=1)
    mistakes = []
    for place in np.argsort(-wrong, axis=None, kind="stable")[:EXAMPLES_SHOWN]:
        true, taken = np.unravel_index(place, wrong.shape)
        if wrong[true, taken]:
            members = np.flatnonzero((found.truth == true) & (found.taken == taken))
            surest = found.rows[members[np.argmax(found.margin[members])]]
            names = found.classes[true], found.classes[taken]
            mistakes.append(Confusion(*names, int(wrong[true, taken]), int(totals[true]), int(surest)))
    return mistakes


def displayed_rows(dataset: Dataset, side: Side, split: str, rows: set[int]) -> dict[int, dict[str, Any]]:
    """What a reader sees of some rows: a thumbnail, the first residues or the text, with id and label."""
    wanted = {side.ids[row]: row for row in rows}
    shown: dict[int, dict[str, Any]] = {}
    for shard in dataset.shards(side.modality, split):
        table = dataset.read(shard, SHOWN_COLUMNS[side.kind])
        for place, name in enumerate(table["id"].to_pylist()):
            if name in wanted:
                row = wanted[name]
                shown[row] = {"id": name, "label": side.labels[row], **displayed(side.kind, table, place)}
    return shown


def displayed_by_id(
    dataset: Dataset, modality: Modality, split: str, ids: Collection[str]
) -> dict[str, dict[str, Any]]:
    """What a reader sees of some rows of a split, by their ids: each with its id, never with its label."""
    shown: dict[str, dict[str, Any]] = {}
    kind = dataset.kind(modality)
    for shard in dataset.shards(modality, split):
        names = dataset.read(shard, ["id"])["id"].to_pylist()
        if places := [place for place, name in enumerate(names) if name in ids]:
            table = dataset.read(shard, SHOWN_COLUMNS[kind])
            shown |= {names[place]: {"id": names[place], **displayed(kind, table, place)} for place in places}
    return shown


def displayed(kind: RowKind, table: pa.Table, place: int) -> dict[str, Any]:
    """What a reader sees of a row of a table of ``SHOWN_COLUMNS``, beside its id."""
    if kind == "vector":
        return {}
    if kind in PICTURES:
        return {"image": _thumbnail(table[PICTURES[kind]][place].as_py())}
    if kind == "text":
        text = table["text"][place].as_py()
        return {"text": text if len(text) <= _LETTERS_SHOWN else text[: _LETTERS_SHOWN - 1].rstrip() + "…"}
    sequence = table["sequence"][place].as_py()
    first = sequence[:_RESIDUES_SHOWN] + ("…" if len(sequence) > _RESIDUES_SHOWN else "")
    description = table["description"][place].as_py() or ""
    said, page = read_description(description), uniprot_page(table["id"][place].as_py(), description)
    facts = (said.organism, said.enzyme, f"{table['length'][place].as_py():,} residues")
    return {"residues": first, "facts": " · ".join(filter(None, facts)), "text": said.name, "page": page}


def _thumbnail(encoded: bytes | list[bytes]) -> str:
    """A small JPEG as a data URL."""
    small = open_shown(encoded)
    small.thumbnail((_IMAGE_PX, _IMAGE_PX))
    written = io.BytesIO()
    small.save(written, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"
