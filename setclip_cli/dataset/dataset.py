"""The DATASET: Parquet shards of unpaired rows, one folder for each modality, and an index that is written last.

    DATASET/dataset.json                       DatasetIndex
    DATASET/<modality>/<split>-00000.parquet   SCHEMAS[modality]
    DATASET/pairs.parquet                      PAIRS_SCHEMA, the few known pairs
    DATASET/rejects.parquet                    REJECTS_SCHEMA, every record that was not taken

Row order means nothing: row i of one modality has nothing to do with row i of another.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from setclip_cli.dataset.modality import MODALITIES, Modality
from setclip_cli.errors import SetClipError, nearest
from setclip_cli.files import atomic
from setclip_cli.files.documents import read_json

if TYPE_CHECKING:
    from collections.abc import Sequence

INDEX_NAME = "dataset.json"
_COMMON = [
    pa.field("id", pa.string(), nullable=False),
    pa.field("split", pa.string(), nullable=False),
    pa.field("source", pa.string(), nullable=False),
    pa.field("sha256", pa.string(), nullable=False),  # of the payload: residues, image bytes, text
    pa.field("label", pa.string()),
]
SCHEMAS: dict[Modality, pa.Schema] = {
    "protein": pa.schema(
        [
            *_COMMON,
            pa.field("sequence", pa.string(), nullable=False),
            pa.field("length", pa.int32(), nullable=False),  # residues
            pa.field("description", pa.string()),
        ]
    ),
    "image": pa.schema(
        [
            *_COMMON,
            pa.field("image", pa.binary(), nullable=False),
            pa.field("width", pa.int32(), nullable=False),  # pixels
            pa.field("height", pa.int32(), nullable=False),
        ]
    ),
    "caption": pa.schema([*_COMMON, pa.field("text", pa.string(), nullable=False), pa.field("group", pa.string())]),
}
OPTIONAL_COLUMNS: dict[str, pa.DataType] = {  # only in shards where a row has a value
    "crs": pa.string(),  # GeoTIFF tiles: coordinate reference system
    "transform": pa.list_(pa.float64()),  # GeoTIFF tiles: affine map from pixels to the ground
    "perceptual_hash": pa.uint64(),
    "near_duplicate_of": pa.string(),  # id of the earlier image that looks the same
    "id_in_source": pa.string(),  # the made-up id that an earlier source had taken, so that the row got a longer one
}
PAIRS_SCHEMA = pa.schema(
    [
        pa.field(name, pa.string(), nullable=False)
        for name in ("left_modality", "left_id", "right_modality", "right_id", "split")
    ]
)
REJECTS_SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("source", "location", "reason")])


class Shard(BaseModel):
    """One finished Parquet file and what it must hash to."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    path: str  # relative to the folder of the index, with forward slashes
    modality: Modality
    split: str
    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str


class DatasetIndex(BaseModel):
    """dataset.json. Only a finished ingest writes it: a folder that has it is whole."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    shards: list[Shard]
    rejects: dict[str, int] = {}  # reason -> records not taken
    sources: list[dict[str, Any]] = []  # what was read, and with which options
    manifests: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []  # where the rows of pairs.parquet came from
    files: dict[str, str] = {}  # sha256 of pairs.parquet and rejects.parquet


class Pair(NamedTuple):
    left_modality: str
    left_id: str
    right_modality: str
    right_id: str
    split: str

    def swapped(self) -> Pair:
        return Pair(self.right_modality, self.right_id, self.left_modality, self.left_id, self.split)


@dataclass(frozen=True)
class Dataset:
    """A finished DATASET on disk."""

    root: Path
    index: DatasetIndex

    def identity(self) -> str:
        """sha256 of the index, which holds the hash of every shard: equal identity means equal data."""
        return atomic.sha256_file(self.root / INDEX_NAME)

    def modalities(self) -> list[Modality]:
        """The modalities with rows, in the order of ``MODALITIES``."""
        return [modality for modality in MODALITIES if any(shard.modality == modality for shard in self.index.shards)]

    def splits(self, modality: Modality) -> list[str]:
        return sorted({shard.split for shard in self.index.shards if shard.modality == modality})

    def shards(self, modality: Modality, split: str | None = None) -> list[Shard]:
        """The shards of one modality and split (all splits when None), in the order of their names.

        Raises:
            SetClipError: the dataset has no rows of that modality, or none in that split.
        """
        of_modality = [shard for shard in self.index.shards if shard.modality == modality]
        if not of_modality:
            raise SetClipError(
                f"{self.root}: holds no {modality} rows, only {', '.join(self.modalities()) or 'nothing'}",
                fix=f"setclip ingest SOURCE --modality {modality} --out {self.root}",
            )
        found = [shard for shard in of_modality if split in (None, shard.split)]
        if not found:
            splits = self.splits(modality)
            raise SetClipError(
                f"{self.root}: no {modality} rows in split {split!r}{nearest(str(split), splits)}",
                fix=f"choose one of: {', '.join(splits)}",
            )
        return sorted(found, key=lambda shard: shard.path)

    def read(self, shard: Shard, columns: Sequence[str] | None = None) -> pa.Table:
        """Reads one shard.

        Raises:
            SetClipError: the file is missing, or is not a Parquet file any more.
        """
        path = self.root / shard.path
        try:
            return pq.read_table(path, columns=None if columns is None else list(columns))
        except (OSError, pa.ArrowException) as error:
            raise SetClipError(
                f"{path}: cannot be read as the shard that {INDEX_NAME} lists ({error})",
                fix="ingest the dataset again into a new folder",
            ) from error

    def read_verified(self, shard: Shard, columns: Sequence[str] | None = None) -> pa.Table:
        """Reads one shard after checking that its bytes are those the index lists.

        Raises:
            SetClipError: as `read` does, or the file has changed since it was ingested.
        """
        path = self.root / shard.path
        if path.is_file() and (found := atomic.sha256_file(path)) != shard.sha256:
            raise SetClipError(
                f"{path}: has changed since ingest (sha256 is {found[:12]}…, {INDEX_NAME} lists {shard.sha256[:12]}…)",
                fix="restore the file, or ingest the dataset again into a new folder",
            )
        return self.read(shard, columns)

    def table(self, modality: Modality, split: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one modality and split (all splits when None), with the named columns (all when None).

        An optional column that some shards do not have is null in their rows.

        Raises:
            SetClipError: as ``shards`` and ``read`` do.
        """
        tables = [self.read(shard, columns) for shard in self.shards(modality, split)]
        return pa.concat_tables(tables, promote_options="default")

    def pairs(self, split: str | None = None) -> list[Pair]:
        """The known pairs of a split (all when None), in file order; empty when the dataset has none."""
        path = self.root / "pairs.parquet"
        if not path.exists():
            return []
        rows = pq.read_table(path).select(PAIRS_SCHEMA.names).to_pylist()
        return [pair for pair in (Pair(**row) for row in rows) if split in (None, pair.split)]


def open_dataset(root: str | Path) -> Dataset:
    """Opens a DATASET.

    Raises:
        SetClipError: the folder is missing, was never finished, or has an index this version cannot read.
    """
    root = Path(root)
    if not root.is_dir():
        raise SetClipError(f"{root}: no such folder", fix=f"setclip ingest SOURCE --modality MODALITY --out {root}")
    path = root / INDEX_NAME
    if not path.exists():
        raise SetClipError(
            f"{root}: has no {INDEX_NAME}, so it is not a finished DATASET",
            fix="run the same `setclip ingest` command again",
        )
    return Dataset(root, read_json(path, DatasetIndex, fix="ingest again with this version of setclip"))


def write_shard(root: Path, relative: str, table: pa.Table, *, modality: Modality, split: str) -> Shard:
    """Writes one shard atomically and returns its index entry. The same rows give the same bytes."""
    path = root / relative
    with atomic.atomic_path(path) as temporary:
        pq.write_table(
            table,
            temporary,
            # image files are compressed already, and unique payloads gain nothing from a dictionary
            compression={name: "none" if name == "image" else "zstd" for name in table.column_names},
            use_dictionary=[name for name in ("split", "source", "label") if name in table.column_names],
        )
    return Shard(
        path=relative,
        modality=modality,
        split=split,
        rows=table.num_rows,
        bytes=path.stat().st_size,
        sha256=atomic.sha256_file(path),
    )
