"""Features of frozen backbones: computed once, then read from the cache under the hash of all they depend on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from setclip_cli.backbones.vector import VectorBackbone, rows_read_by
from setclip_cli.console import progress
from setclip_cli.dataset.schemas import matrix_of
from setclip_cli.errors import SetClipError
from setclip_cli.features.on_disk import LARGE_ROWS, FeatureRows, stored_file
from setclip_cli.files import sealed
from setclip_cli.files.cache import cache_must_take_it, cache_place, if_cache_takes_it
from setclip_cli.vectors import unusable_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from setclip_cli.backbones.base import Backbone
    from setclip_cli.dataset.dataset import Dataset, Shard
    from setclip_cli.dataset.modality import Modality
    from setclip_cli.features.on_disk import StoredFile

ROWS_PER_VIEW = 64  # rows in one pass of an augmented view
ROWS_PER_CALL = 512  # rows encoded between two moves of the progress bar


@dataclass(frozen=True)
class FeatureTable:
    """Features of one modality and split, in the order of the shards. No labels: training must not see any.

    Attributes:
        features: (n, p) float32.
        truncated: Number of texts that are longer than the backbone reads.
        windowed: Number of proteins that were read in more than one window.
        replaced_letters: Number of residues that were read as X.
    """

    ids: list[str]
    features: Tensor
    truncated: int = 0
    windowed: int = 0
    replaced_letters: int = 0


def frozen_features(
    backbone: Backbone, dataset: Dataset, modality: Modality, split: str | None, *, cache_dir: Path | None = None
) -> FeatureTable:
    """Features of all rows of a split (all splits when None), from the cache where it has them.

    Args:
        cache_dir: Default ``$SETCLIP_CACHE``, else ``~/.cache/setclip``.

    Raises:
        SetClipError: a shard is damaged, or a row cannot be read by the backbone.
    """
    dataset.require_rows(modality, rows_read_by(backbone))
    if isinstance(backbone, VectorBackbone):
        return _stored_vectors(backbone, dataset, modality, split)
    tables, parts, counts = [], [], [0, 0, 0]
    shards = dataset.shards(modality, split)
    for shard in progress(shards, label=f"{modality} features", unit="shard"):
        tables.append(dataset.read(shard, ["id", backbone.column]))
        path = _place(backbone, shard, None, cache_dir)
        found = _cached(path, rows=shard.rows, dim=backbone.dim)
        if found is None:
            found = _compute(backbone, tables[-1], shard)
            _require_usable(backbone, shard, tables[-1]["id"].to_pylist(), found[0])
            _store(path, *found)
        parts.append(found[0])
        counts = [total + count for total, count in zip(counts, found[1], strict=True)]
    ids = [value for table in tables for value in table["id"].to_pylist()]
    features = torch.cat(parts) if parts else torch.zeros(0, backbone.dim)
    return FeatureTable(ids, features, *counts)


def has_features(backbone: Backbone, shard: Shard) -> bool:
    """Whether the cache has the features of a shard."""
    return _cached(_place(backbone, shard, None, None), rows=shard.rows, dim=backbone.dim) is not None


def keep_features(backbone: Backbone, shard: Shard, features: Tensor, counts: list[int]) -> None:
    """Puts features of a shard that were made elsewhere into the cache.

    Args:
        features: (n, p) float32, in the order of the rows.
        counts: Truncated texts, windowed proteins, replaced letters.

    Raises:
        SetClipError: the cache cannot be written.
    """
    with cache_must_take_it():
        _write(_place(backbone, shard, None, None), features, counts)


def _stored_vectors(backbone: VectorBackbone, dataset: Dataset, modality: Modality, split: str | None) -> FeatureTable:
    """The vectors of a DATASET as features. They are not cached: they are in the shards."""
    shards = dataset.shards(modality, split)
    ids: list[str] = []
    features = torch.empty(0, backbone.dim)
    for shard in progress(shards, label=f"{modality} vectors", unit="shard"):
        table = dataset.read(shard, ["id", backbone.column])
        if not ids:  # the first shard has shown that the width is true
            features = torch.empty(sum(each.rows for each in shards), backbone.dim)
        features[len(ids) : len(ids) + shard.rows] = torch.from_numpy(matrix_of(table[backbone.column]))
        ids += table["id"].to_pylist()
    return FeatureTable(ids, features)


def open_features(
    backbone: Backbone,
    dataset: Dataset,
    modality: Modality,
    split: str | None,
    *,
    view: int | None = None,
    cache_dir: Path | None = None,
) -> FeatureRows:
    """Features of all rows of a split, left on disk: for pools that are larger than memory.

    They are in files of the cache. What it lacks is computed, a shard at a time; stored vectors are copied to it.

    Args:
        view: Number of an augmented view, see `augmented_features`.

    Raises:
        SetClipError: as `frozen_features`, or the cache does not take the files.
    """
    dataset.require_rows(modality, rows_read_by(backbone))
    files = []
    for shard in progress(dataset.shards(modality, split), label=f"{modality} features", unit="shard"):
        path = _place(backbone, shard, view, cache_dir)
        found = _stored(path, shard, backbone)
        if found is None:
            _store_shard(backbone, dataset, shard, path, view)
            found = _stored(path, shard, backbone)
        if found is None:
            raise SetClipError(
                f"{path}: changed while it was used", fix="run the same command again; it will be made again"
            )
        files.append(found)
    return FeatureRows(files, backbone.dim)


def features_in_blocks(
    backbone: Backbone, dataset: Dataset, modality: Modality, split: str | None
) -> tuple[list[str], Iterator[Tensor]]:
    """The ids of a split and the features of its rows: of a large split a block at a time, else all at once.

    Raises:
        SetClipError: as `open_features` and `frozen_features`.
    """
    if sum(shard.rows for shard in dataset.shards(modality, split)) <= LARGE_ROWS:
        table = frozen_features(backbone, dataset, modality, split)
        return table.ids, iter([table.features])
    ids: list[str] = dataset.table(modality, split, ["id"])["id"].to_pylist()
    return ids, open_features(backbone, dataset, modality, split).blocks()


def _stored(path: Path, shard: Shard, backbone: Backbone) -> StoredFile | None:
    return stored_file(path, rows=shard.rows, dim=backbone.dim) if sealed.is_whole(path) else None


def _store_shard(backbone: Backbone, dataset: Dataset, shard: Shard, path: Path, view: int | None) -> None:
    """Computes the features of a shard and writes them to the cache. Raises SetClipError if it does not take them."""
    table = dataset.read(shard, ["id", backbone.column])
    counts = [0, 0, 0]
    if isinstance(backbone, VectorBackbone):
        features = torch.from_numpy(matrix_of(table[backbone.column]))
    elif view is None:
        features, counts = _compute(backbone, table, shard)
    else:
        features = _compute_view(backbone, table, shard, view)
    _require_usable(backbone, shard, table["id"].to_pylist(), features)
    with cache_must_take_it():
        _write(path, features, counts)


def augmented_features(
    backbone: Backbone, dataset: Dataset, modality: Modality, split: str, *, view: int, cache_dir: Path | None = None
) -> Tensor:
    """(n, p) float32 features of one augmented view of every row (see `backbones.augment`), from the cache or computed.

    Args:
        view: Number of the view; a row's augmentation depends on it and on the row's id alone.

    Raises:
        SetClipError: a shard is damaged, or a row cannot be read by the backbone.
    """
    parts = []
    for shard in dataset.shards(modality, split):
        path = _place(backbone, shard, view, cache_dir)
        found = _cached(path, rows=shard.rows, dim=backbone.dim)
        if found is None:
            table = dataset.read(shard, ["id", backbone.column])
            found = _compute_view(backbone, table, shard, view), [0, 0, 0]
            _require_usable(backbone, shard, table["id"].to_pylist(), found[0])
            _store(path, *found)
        parts.append(found[0])
    return torch.cat(parts)


def _compute_view(backbone: Backbone, table: pa.Table, shard: Shard, view: int) -> Tensor:
    items, ids = table[backbone.column].to_pylist(), table["id"].to_pylist()
    seeds = [int.from_bytes(hashlib.sha256(f"{view}:{name}".encode()).digest()[:4], "big") for name in ids]
    features = torch.empty(len(items), backbone.dim)
    starts = range(0, len(items), ROWS_PER_VIEW)
    for start in progress(starts, label=f"{shard.path} view {view}", unit="batch"):
        some = slice(start, start + ROWS_PER_VIEW)
        with torch.inference_mode():
            features[some] = backbone.features(backbone.prepare(items[some], views=seeds[some])).cpu()
    return features


def _place(backbone: Backbone, shard: Shard, view: int | None, cache_dir: Path | None) -> Path:
    of_view = "" if view is None else f"-view-{view}"
    return cache_place("features", f"{_key(backbone, shard)}{of_view}.safetensors", cache_dir=cache_dir)


def _key(backbone: Backbone, shard: Shard) -> str:
    return hashlib.sha256(f"{backbone.identity}:{shard.sha256}".encode()).hexdigest()


def _compute(backbone: Backbone, table: pa.Table, shard: Shard) -> tuple[Tensor, list[int]]:
    """Features of a shard and its counts: truncated, windowed, replaced letters."""
    items = table[backbone.column].to_pylist()
    features = torch.empty(len(items), backbone.dim)
    counts = [0, 0, 0]
    starts = range(0, len(items), ROWS_PER_CALL)
    for start in progress(starts, label=f"{shard.path} by {backbone.spec}", unit="batch"):
        encoded = backbone.encode(items[start : start + ROWS_PER_CALL])
        for position, reason in encoded.failed.items():
            raise SetClipError(
                f"{shard.path}: row {table['id'][start + position].as_py()!r}: {reason}",
                fix="remove this row from its source and ingest again",
            )
        features[start : start + ROWS_PER_CALL] = encoded.features
        windowed = sum(count > 1 for count in encoded.windows or ())
        counts = [counts[0] + encoded.truncated, counts[1] + windowed, counts[2] + encoded.replaced_letters]
    return features, counts


def _require_usable(backbone: Backbone, shard: Shard, ids: Sequence[str], features: Tensor) -> None:
    """Raises SetClipError if a row's features are zero or not finite: nothing can be learned from such a row."""
    if bad := unusable_rows(features.numpy()):
        first, reason = next(iter(bad.items()))
        weights = "check the weights of the backbone, or take others"
        raise SetClipError(
            f"{shard.path}: {backbone.spec} gives {len(bad)} of {len(ids)} rows a feature vector that {reason}, "
            f"the first {ids[first]!r}",
            fix=weights
            if len(bad) == len(ids)
            else f"remove these rows from their source and ingest again, or {weights}",
        )


def _cached(path: Path, *, rows: int, dim: int) -> tuple[Tensor, list[int]] | None:
    """Features and counts from the cache, or None if they are missing there or have changed."""
    if not sealed.is_whole(path):
        return None
    try:
        with safe_open(path, framework="pt") as file:
            features, counts = file.get_tensor("features"), file.get_tensor("counts").tolist()
    except (OSError, SafetensorError):
        return None
    return (features, counts) if features.shape == (rows, dim) and not unusable_rows(features.numpy()) else None


def _store(path: Path, features: Tensor, counts: list[int]) -> None:
    with if_cache_takes_it():
        _write(path, features, counts)


def _write(path: Path, features: Tensor, counts: list[int]) -> None:
    with sealed.writing(path, needs=features.nbytes) as temporary:
        save_file({"features": features, "counts": torch.tensor(counts)}, temporary)
