"""The table that the viewer reads: a line for each row of EMBEDDINGS, of all modalities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from setclip_cli.console import note, visible
from setclip_cli.dataset.descriptions import read_description
from setclip_cli.dataset.schemas import PICTURES
from setclip_cli.embedding.embedded_dataset import source_shard
from setclip_cli.embedding.map import principal_plane, read_map
from setclip_cli.embedding.vectors import unit_vectors
from setclip_cli.web.rows import Rows

if TYPE_CHECKING:
    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.dataset.modality import Modality
    from setclip_cli.embedding.embeddings import Embeddings
    from setclip_cli.embedding.umap_places import Places

ROW_NAME = "__row_index__"  # the viewer shows no columns whose names begin so
LETTERS = 200  # of a text
_TEXTS = {"text": "text", "protein": "description"}


def table_of(
    embeddings: Embeddings, split: str | None, dataset: Dataset | None, *, pictures: str
) -> tuple[pa.Table, dict[Modality, Rows]]:
    """The table, and of each modality with pictures the rows that have them.

    Args:
        dataset: Where texts and pictures are; None if it is not there.
        pictures: Where the picture of row n of a modality is served: ``{pictures}/{modality}/{n}/small``.

    Raises:
        SetClipError: there are no such rows, a file is missing or has changed.
    """
    places, parts, shown = _places(embeddings), [], {}
    for modality in embeddings.modalities():
        shards = embeddings.shards(modality)
        kept = np.concatenate([np.full(shard.rows, split in (None, shard.split)) for shard in shards])
        if not kept.any():
            continue
        wanted = [shard for shard in shards if split in (None, shard.split)]
        table = pa.concat_tables([embeddings.read(shard, ["id", "label"]) for shard in wanted])
        columns = {
            "id": _visible(table["id"]),
            "modality": pa.array([modality] * len(table)).dictionary_encode(),
            "split": pa.chunked_array([pa.array([shard.split] * shard.rows) for shard in wanted]).dictionary_encode(),
            "label": _visible(table["label"]).dictionary_encode(),
            "text": pa.array([""] * len(table)),  # the viewer would take null for a word
            "picture": pa.nulls(len(table), pa.string()),
            "x": pa.array(places[modality][kept, 0]),
            "y": pa.array(places[modality][kept, 1]),
        }
        if dataset is not None:
            for shard in wanted:
                source_shard(dataset, shard)
            rows = Rows(dataset, modality, split)
            found = [rows.row_of[name] for name in table["id"].to_pylist()]
            if rows.kind in _TEXTS:
                texts = rows.table[_TEXTS[rows.kind]].take(pa.array(found))
                columns["text"] = _visible(_in_words(texts) if rows.kind == "protein" else texts)
            if rows.kind in PICTURES:
                shown[modality] = rows
                columns["picture"] = pa.array([f"{pictures}/{modality}/{row}/small" for row in found])
        parts.append(pa.table(columns))
    if not parts:
        embeddings.shards(embeddings.modalities()[0], split)  # says which splits there are
    joined = pa.concat_tables([part.unify_dictionaries() for part in parts]).unify_dictionaries()
    used = [name for name in joined.column_names if joined[name].null_count < len(joined)]
    if not any(joined["text"].unique().to_pylist()):
        used = [name for name in used if name != "text"]
    return joined.select(used).append_column(ROW_NAME, pa.array(range(len(joined)))), shown


def _places(embeddings: Embeddings) -> dict[Modality, Places]:
    """The map that was made before, or else the two principal components, which take a second."""
    found = read_map(embeddings)
    if found is not None:
        return found[0]
    note("note: there is no map of these rows yet, so the page shows their two main directions (PCA)")
    note(f"note: for a better one: {embeddings.command('--map')}")
    vectors = {name: unit_vectors(embeddings, name, None) for name in embeddings.modalities()}
    places = principal_plane(np.concatenate([np.asarray(one) for one in vectors.values()]))
    parts = np.split(places, np.cumsum([len(one) for one in vectors.values()])[:-1])
    return dict(zip(vectors, parts, strict=True))


def _in_words(descriptions: pa.ChunkedArray) -> pa.ChunkedArray:
    """Of proteins."""
    return pa.chunked_array([pa.array([read_description(text or "").in_words() for text in descriptions.to_pylist()])])


def _visible(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts cut to ``LETTERS``, with what is not seen escaped."""
    texts = (None if text is None else visible(text[:LETTERS]) for text in column.to_pylist())
    return pa.chunked_array([pa.array(texts, pa.string())])
