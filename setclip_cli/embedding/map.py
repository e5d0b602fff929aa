"""EMBEDDINGS/map.parquet: a place in the plane for every row; what is near in the space is near there."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from setclip_cli.console import note
from setclip_cli.embedding.embeddings import Embeddings
from setclip_cli.embedding.umap_places import NEIGHBOURS, has_umap, umap_places
from setclip_cli.embedding.vectors import unit_vectors
from setclip_cli.errors import SetClipError, translated
from setclip_cli.files import atomic

if TYPE_CHECKING:
    from pathlib import Path

    from setclip_cli.dataset.modality import Modality
    from setclip_cli.embedding.umap_places import Places

MAP_NAME: Final = "map.parquet"
_SHARDS: Final = b"setclip.shards"  # in the metadata of the file: what it is a map of
_METHOD: Final = b"setclip.method"


def write_map(embeddings: Embeddings) -> Path:
    """Writes the map of all rows of all modalities, with UMAP if it is installed, else with PCA; says which.

    A map of the same rows by the same method is kept.

    Returns:
        The file: a line a row, with modality, split, id, x and y, in the order of the modalities and their shards.

    Raises:
        SetClipError: a shard cannot be read, or the file cannot be written.
    """
    path = embeddings.root / MAP_NAME
    enough = sum(shard.rows for name in embeddings.modalities() for shard in embeddings.shards(name)) > NEIGHBOURS
    with_umap = enough and has_umap()
    method = "umap" if with_umap else "pca"
    found = None
    with suppress(SetClipError):  # a damaged map is made anew
        found = read_map(embeddings)
    kept = found is not None and found[1] == method
    note(f"note: {path} {'is kept; it was' if kept else 'is'} made with {method.upper()}")
    if enough and not with_umap:
        note("note: UMAP shows more than PCA: pip install 'setclip[maps]', and run the command again")
    if kept:
        return path
    vectors = {name: unit_vectors(embeddings, name, None) for name in embeddings.modalities()}
    joined = np.concatenate([np.asarray(values) for values in vectors.values()])
    places = umap_places(joined) if with_umap else principal_plane(joined)
    shards = [shard for name in vectors for shard in embeddings.shards(name)]
    tables = [embeddings.read(shard, ["id"]) for shard in shards]
    table = pa.table(
        {
            "modality": pa.array([shard.modality for shard in shards for _ in range(shard.rows)]).dictionary_encode(),
            "split": pa.array([shard.split for shard in shards for _ in range(shard.rows)]).dictionary_encode(),
            "id": pa.chunked_array([chunk for one in tables for chunk in one["id"].chunks], pa.string()),
            "x": pa.array(places[:, 0]),
            "y": pa.array(places[:, 1]),
        }
    ).replace_schema_metadata({_SHARDS: _hash_of(embeddings), _METHOD: method})
    with atomic.atomic_path(path) as temporary:
        pq.write_table(table, temporary)
    return path


def read_map(embeddings: Embeddings) -> tuple[dict[Modality, Places], str] | None:
    """The places of the rows of each modality, in the order of its shards, and the method; None without a map of these
    rows: there is no file, or shards have changed since.

    Raises:
        SetClipError: the file is damaged.
    """
    path = embeddings.root / MAP_NAME
    if not path.exists():
        return None
    again = "run the same `setclip embed` command with --map again: it makes this file anew"
    with translated(path, OSError, ValueError, pa.ArrowException, found="cannot be read as a map", fix=again):
        table = pq.read_table(path, columns=["x", "y"])
        told = table.schema.metadata or {}
        if told.get(_SHARDS) != _hash_of(embeddings).encode():
            return None
        places = np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1).astype(np.float32, copy=False)
    sizes = [sum(shard.rows for shard in embeddings.shards(name)) for name in embeddings.modalities()]
    if len(places) != sum(sizes) or not np.isfinite(places).all():
        raise SetClipError(f"{path}: does not hold a place for each row", fix=again)
    parts = np.split(places, np.cumsum(sizes)[:-1])
    return dict(zip(embeddings.modalities(), parts, strict=True)), told.get(_METHOD, b"").decode()


def principal_plane(vectors: np.ndarray[Any, np.dtype[np.float32]]) -> Places:
    """(n, 2) the two principal components, each with its largest value positive."""
    if not len(vectors):
        return np.zeros((0, 2), np.float32)
    centre = vectors.mean(0, dtype=np.float64).astype(np.float32)
    covariance = np.zeros((vectors.shape[1],) * 2)
    for start in range(0, len(vectors), 8192):
        block = vectors[start : start + 8192] - centre
        covariance += block.T @ block
    axes = np.linalg.eigh(covariance)[1][:, ::-1][:, :2].astype(np.float32)
    places = np.concatenate([(vectors[start : start + 8192] - centre) @ axes for start in range(0, len(vectors), 8192)])
    places = np.pad(places, ((0, 0), (0, 2 - places.shape[1])))
    signs = np.sign(places[np.abs(places).argmax(0), range(2)])
    found: Places = (places * np.where(signs == 0, 1, signs)).astype(np.float32)
    return found


def _hash_of(embeddings: Embeddings) -> str:
    shards = (shard for name in embeddings.modalities() for shard in embeddings.shards(name))
    return hashlib.sha256("".join(shard.sha256 for shard in shards).encode()).hexdigest()
