"""What is behind the requests: towers, collections and calibrations, and the work on a batch of jobs."""

from __future__ import annotations

import re
import shlex
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from setclip_cli.dataset.modality import singular
from setclip_cli.dataset.schemas import PICTURES
from setclip_cli.embedding.hit_probabilities import HitJudge, open_hit_judge
from setclip_cli.embedding.query_tower import QueryTower, tower_of_model
from setclip_cli.errors import SetClipError, UsageError
from setclip_cli.remote.copies import local_path
from setclip_cli.run.model import load_model
from setclip_cli.serving.bodies import EmbeddedItem, Hit, SearchAnswer
from setclip_cli.serving.collection import Collection

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Self

    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.dataset.modality import Modality, RowKind
    from setclip_cli.embedding.embeddings import Embeddings
    from setclip_cli.embedding.vectors import Vectors
    from setclip_cli.run.model import Model

_FOLDER = re.compile(
    r"(?<![\w./:-])(?:/[^\s/'\",;:()]+)+/(?P<name>[^\s/'\",;:()]+)"
)  # any other path: its name is left
_ANY = 0.05  # a temperature where no probability is asked for


@dataclass(frozen=True)
class EmbedJob:
    """Items of several modalities, as their towers read them."""

    items: list[tuple[Modality, Any]]


@dataclass(frozen=True)
class SearchJob:
    """One query: an item, or a unit vector.

    Attributes:
        asked: Its modality; None if nothing says it.
        wanted: What is searched.
    """

    asked: Modality | None
    wanted: Modality
    top: int
    item: Any = None
    vector: Vectors | None = None


@dataclass
class Service:
    """A RUN and its EMBEDDINGS, open."""

    run: Path
    model: Model
    embeddings: Embeddings
    split: str | None
    dataset: Dataset | None
    towers: dict[Modality, QueryTower]
    collections: dict[Modality, Collection]
    _judges: dict[tuple[Modality, Modality], tuple[HitJudge | None, str]] = field(default_factory=dict)

    @classmethod
    def open(cls, run: Path, embeddings: Embeddings, *, split: str | None, dataset: Dataset | None) -> Self:
        """Loads everything, so that the first request does not wait.

        Raises:
            SetClipError: the RUN did not make the EMBEDDINGS, weights are missing or have changed, a file is damaged,
                or there are no rows of the split.
        """
        model = load_model(run)
        _require_made_by(embeddings, model, run)
        names = [
            name
            for name in embeddings.modalities()
            if any(shard.modality == name and split in (None, shard.split) for shard in embeddings.index.shards)
        ]
        if not names:
            embeddings.shards(embeddings.modalities()[0], split)  # says which splits there are
        collections = {name: Collection.open(embeddings, name, split, dataset) for name in names}
        towers = {name: tower_of_model(embeddings, model, name, named=run) for name in model.encoders}
        service = cls(run, model, embeddings, split, dataset, towers, collections)
        pa.default_memory_pool().release_unused()  # what reading the shards took
        for asked in towers:
            for wanted in collections:
                judge, why = open_hit_judge(embeddings, run, asked, wanted, split)
                service._judges[asked, wanted] = judge, service.without_paths(why)
        return service

    def without_paths(self, told: str) -> str:
        """A message for somebody on another computer, whom the folders of this one do not concern."""
        roots = [(self.run, "the RUN"), (self.embeddings.root, "the EMBEDDINGS")]
        if self.dataset is not None:
            roots.append((self.dataset.root, "the DATASET"))
        names = {str(path): name for root, name in roots for path in (root.resolve(), root)}
        for path in sorted(names, key=len, reverse=True):
            told = re.sub(rf"(?<![\w./-]){re.escape(path)}(?![\w-])", names[path], told)
        return _FOLDER.sub(lambda found: found["name"], told)

    def kind(self, modality: Modality) -> RowKind:
        return self.towers[modality].backbone.kind

    def modality_of(self, kind: RowKind, given: Modality | None) -> Modality:
        """The modality of an item of a kind.

        Raises:
            UsageError: no tower reads it, the given one does not, or several do and none is given.
        """
        names = [name for name in self.towers if self.kind(name) == kind]
        known = f"this model reads {' and '.join(f'{name} ({self.kind(name)})' for name in self.towers)}"
        if not names:
            raise UsageError(f"no tower reads {_GIVEN[kind]}: {known}", fix="send an item of another kind")
        if given is not None and given not in names:
            raise UsageError(f"as: {given!r} does not read {_GIVEN[kind]}: {known}", fix="leave it out")
        if given is None and len(names) > 1:
            raise UsageError(
                f"{_GIVEN[kind]}: could be of {' or '.join(names)}", fix=f'say which it is, such as "as": "{names[0]}"'
            )
        return given or names[0]

    def collection(self, modality: Modality, field_name: str) -> Collection:
        """Raises UsageError if there are no such rows; ``field_name`` is where the request says so."""
        if modality not in self.collections:
            raise UsageError(
                f"{field_name}: there are no {modality!r} rows here, only {' and '.join(self.collections)}",
                fix=f"choose {' or '.join(self.collections)}",
            )
        return self.collections[modality]

    def work(self, jobs: Sequence[EmbedJob | SearchJob]) -> list[Any]:
        """Of each job its answer, or what is wrong with it.

        Of an `EmbedJob` that is a list of `EmbeddedItem`, of a `SearchJob` a `SearchAnswer`.
        """
        items = [_items_of(job) for job in jobs]
        embedded = iter(self._embed([item for own in items for item in own]))
        results: list[Any] = []
        searched: dict[Modality, list[tuple[int, SearchJob, Vectors, list[str]]]] = {}
        for number, (job, own) in enumerate(zip(jobs, items, strict=True)):
            made = [next(embedded) for _ in own]
            problem = next((one for one in made if isinstance(one, UsageError)), None)
            vectors = [one for one in made if not isinstance(one, UsageError)]
            results.append(problem)
            if problem is not None:
                continue
            if isinstance(job, EmbedJob):
                results[number] = [
                    EmbeddedItem(modality=modality, embedding=vector.tolist(), notes=notes)
                    for (modality, _), (vector, notes) in zip(own, vectors, strict=True)
                ]
            else:
                vector, notes = (job.vector, []) if job.vector is not None else vectors[0]
                searched.setdefault(job.wanted, []).append((number, job, vector, notes))
        for wanted, asked in searched.items():
            answers = self._search(wanted, [job for _, job, _, _ in asked], np.stack([one[2] for one in asked]))
            for (number, _, _, notes), answer in zip(asked, answers, strict=True):
                results[number] = answer.model_copy(update={"notes": notes})
        return results

    def _embed(self, items: Sequence[tuple[Modality, Any]]) -> list[tuple[Vectors, list[str]] | UsageError]:
        """Of each item its unit vector and what was done to it, or why it has none; a tower reads all its items."""
        made: dict[int, tuple[Vectors, list[str]] | UsageError] = {}
        for modality in dict.fromkeys(name for name, _ in items):
            places = [place for place, (name, _) in enumerate(items) if name == modality]
            tower = self.towers[modality]
            found = tower.embed([items[place][1] for place in places])
            for row, place in enumerate(places):
                if row in found.failed:
                    made[place] = UsageError(f"the {singular(modality)} {found.failed[row]}", fix="send another one")
                    continue
                # A batch says how many items were cut, not which.
                alone = found if len(places) == 1 or not found.notes() else tower.embed([items[place][1]])
                made[place] = found.vectors[row], alone.notes()
        return [made[place] for place in range(len(items))]

    def _search(self, wanted: Modality, jobs: Sequence[SearchJob], vectors: Vectors) -> list[SearchAnswer]:
        collection = self.collections[wanted]
        judges = [(None, "") if job.asked is None else self._judges[job.asked, wanted] for job in jobs]
        temperatures = [_ANY if judge is None else judge.direction.temperature for judge, _ in judges]
        found = collection.index.nearest(vectors, [job.top for job in jobs], temperatures)
        answers = []
        for job, (judge, why), nearest in zip(jobs, judges, found, strict=True):
            probabilities: Sequence[float | None] = [None] * len(nearest.rows)
            if judge is not None and nearest.rows:
                probabilities = judge.probabilities(nearest.cosines, nearest.mass, len(collection.index))
            hits = [
                Hit(
                    rank=rank,
                    id=collection.ids[row].as_py(),
                    score=round(cosine, 6),
                    probability=probability,
                    label=collection.labels[row].as_py(),
                    split=collection.splits[row].as_py(),
                    shown=collection.shown(row),
                )
                for rank, (row, cosine, probability) in enumerate(
                    zip(nearest.rows, nearest.cosines, probabilities, strict=True), 1
                )
            ]
            answers.append(
                SearchAnswer(
                    query_modality=job.asked,
                    modality=wanted,
                    searched=len(collection.index),
                    hits=hits,
                    why_no_probability=why,
                    notes=[],
                )
            )
        return answers


def _require_made_by(embeddings: Embeddings, model: Model, run: Path) -> None:
    """Raises SetClipError unless the RUN made them; its fix serves them with the RUN that did, if that is there."""
    if model.identity == embeddings.index.model:
        return
    named = embeddings.index.run or ""
    fix = f"setclip embed {shlex.quote(str(run))} DATASET --out EMBEDDINGS; then serve these"
    with suppress(SetClipError):
        if load_model(local_path(named)).identity == embeddings.index.model:
            fix = shlex.join(["setclip", "serve", named, str(embeddings.root)])
    raise SetClipError(f"{embeddings.root}: was not made by {run}", fix=fix)


def _items_of(job: EmbedJob | SearchJob) -> list[tuple[Modality, Any]]:
    if isinstance(job, EmbedJob):
        return job.items
    return [] if job.vector is not None or job.asked is None else [(job.asked, job.item)]


_GIVEN: dict[RowKind, str] = {
    "text": "a text",
    "protein": "a sequence",
    "image": "an image",
    "vector": "a vector",
    "video": "a video",
}


def picture_of_row(service: Service, modality: Modality, place: int, size: str) -> bytes | None:
    """A picture of a row of the DATASET; None if there is none.

    Raises:
        SetClipError: it cannot be read.
    """
    collection = service.collections.get(modality)
    rows = None if collection is None else collection.rows
    if rows is None or rows.kind not in PICTURES or not 0 <= place < len(rows):
        return None
    try:
        return rows.picture(place, size)
    except SetClipError:
        return None
