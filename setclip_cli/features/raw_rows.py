"""Raw rows of a split by their number, for tuned backbones: an uncompressed copy on disk, mapped into memory."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from setclip_cli.files import atomic
from setclip_cli.files.cache import cache_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.dataset.modality import Modality


class RawRows:
    """One column of a split, in the order of the shards. Reading a row reads nothing else from the disk."""

    def __init__(self, path: Path) -> None:
        self._file = pa.memory_map(str(path))
        self._table = pa.ipc.open_file(self._file).read_all()  # maps, reads nothing yet
        self._column = self._table.column(0)

    def __len__(self) -> int:
        return len(self._column)

    def lengths(self) -> list[int]:
        """Length of each row in bytes."""
        counted: list[int] = pc.binary_length(self._column).to_pylist()
        return counted

    def take(self, rows: Sequence[int]) -> list[str] | list[bytes]:
        values: list[str] | list[bytes] = [self._column[row].as_py() for row in rows]
        return values


def open_raw_rows(
    dataset: Dataset, modality: Modality, split: str, column: str, *, cache_dir: Path | None = None
) -> RawRows:
    """Opens the rows of a split. The first time, they are copied to the cache.

    Args:
        cache_dir: Default ``$SETCLIP_CACHE``, else ``~/.cache/setclip``.
    """
    shards = dataset.shards(modality, split)
    key = hashlib.sha256(":".join([column, *(shard.sha256 for shard in shards)]).encode()).hexdigest()
    path = (cache_dir or cache_folder()) / "items" / f"{key}.arrow"
    if not path.exists():
        with atomic.atomic_path(path) as temporary, pa.OSFile(str(temporary), "wb") as sink:
            writer: pa.RecordBatchFileWriter | None = None
            for shard in shards:
                table = dataset.read(shard, [column])
                writer = writer or pa.ipc.new_file(sink, table.schema)
                writer.write_table(table, max_chunksize=1024)
            if writer is not None:
                writer.close()
    return RawRows(path)
