"""The rows of one modality of EMBEDDINGS: their vectors, ids, labels, and what a person sees of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from setclip_cli.console import visible
from setclip_cli.dataset.schemas import PICTURES
from setclip_cli.embedding.embedded_dataset import source_shard
from setclip_cli.embedding.vectors import open_rows, unit_vectors
from setclip_cli.serving.bodies import Shown
from setclip_cli.serving.index import Index, SmallIndex, WholeIndex
from setclip_cli.web.rows import Rows

if TYPE_CHECKING:
    from typing import Self

    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.dataset.modality import Modality
    from setclip_cli.embedding.embeddings import EmbeddedShard, Embeddings
    from setclip_cli.embedding.vectors import Vectors


@dataclass(frozen=True)
class Collection:
    """Attributes:
    ids, labels, splits: (n,).
    rows: What is shown of them; None if the DATASET is not there.
    places: (n,) the place of each in ``rows``.
    """

    embeddings: Embeddings
    modality: Modality
    shards: list[EmbeddedShard]
    index: Index
    ids: pa.ChunkedArray
    labels: pa.ChunkedArray
    splits: pa.ChunkedArray
    rows: Rows | None
    places: np.ndarray[tuple[int], np.dtype[np.int64]]

    @classmethod
    def open(cls, embeddings: Embeddings, modality: Modality, split: str | None, dataset: Dataset | None) -> Self:
        """Reads all but the pictures.

        Raises:
            SetClipError: a file is missing or has changed, or the DATASET is not the one that was embedded.
        """
        shards = embeddings.shards(modality, split)
        table = pa.concat_tables([embeddings.read(shard, ["id", "label"]) for shard in shards])
        splits = [pa.array([shard.split] * shard.rows).dictionary_encode() for shard in shards]
        index: Index
        if embeddings.index.dtype in ("int8", "ubinary"):
            index = SmallIndex(open_rows(embeddings, modality, split))
        else:
            index = WholeIndex(unit_vectors(embeddings, modality, split))
        rows, places = None, np.arange(len(table))
        if dataset is not None:
            for shard in shards:
                source_shard(dataset, shard)
            rows = Rows(dataset, modality, split)
            if not rows.table["id"].combine_chunks().equals(table["id"].combine_chunks()):
                places = np.array([rows.row_of[name] for name in table["id"].to_pylist()], np.int64)
        return cls(
            embeddings, modality, shards, index, table["id"], table["label"], pa.chunked_array(splits), rows, places
        )

    def row_of(self, identifier: str) -> int | None:
        """The first row with this id; None if there is none."""
        found = pc.index(self.ids, identifier).as_py()
        return None if found < 0 else int(found)

    def vector(self, row: int) -> Vectors:
        """(d,) the unit vector of a row, read from its shard.

        Raises:
            SetClipError: the shard is missing or has changed.
        """
        for shard in self.shards:
            if row >= shard.rows:
                row -= shard.rows
                continue
            for block in self.embeddings.blocks(shard):
                if row < len(block):
                    found: Vectors = block[row] / np.linalg.norm(block[row])
                    return found
                row -= len(block)
        raise IndexError(row)

    def shown(self, row: int) -> Shown:
        if self.rows is None:
            return Shown(id=visible(self.ids[row]))
        place = int(self.places[row])
        return shown_of(self.rows, place)


def shown_of(rows: Rows, place: int) -> Shown:
    """What a person sees of a row of a DATASET."""
    found = rows.shown(place)
    del found["row"]
    return Shown(**found, picture=f"/picture/{rows.modality}/{place}" if rows.kind in PICTURES else None)
