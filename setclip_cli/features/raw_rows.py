"""Raw rows of a split by their number, for tuned backbones: an uncompressed copy on disk, mapped into memory."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from setclip_cli.files import sealed
from setclip_cli.files.cache import cache_place, if_cache_takes_it

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.dataset.modality import Modality


class RawRows:
    """One column of a split, in the order of the shards. Reading a row reads nothing else from the disk."""

    def __init__(self, table: pa.Table) -> None:
        self._column = table.column(0)

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
    """Opens the rows of a split. The first time, they are copied to the cache; if it takes nothing, to memory.

    Args:
        cache_dir: Default ``$SETCLIP_CACHE``, else ``~/.cache/setclip``.
    """
    shards = dataset.shards(modality, split)
    key = hashlib.sha256(":".join([column, *(shard.sha256 for shard in shards)]).encode()).hexdigest()
    path = cache_place("items", f"{key}.arrow", cache_dir=cache_dir)
    if not sealed.is_whole(path):
        with if_cache_takes_it(), sealed.writing(path) as temporary, pa.OSFile(str(temporary), "wb") as sink:
            writer: pa.RecordBatchFileWriter | None = None
            for shard in shards:
                table = dataset.read(shard, [column])
                writer = writer or pa.ipc.new_file(sink, table.schema)
                writer.write_table(table, max_chunksize=1024)
            if writer is not None:
                writer.close()
    if not path.exists():
        return RawRows(pa.concat_tables([dataset.read(shard, [column]) for shard in shards]))
    return RawRows(pa.ipc.open_file(pa.memory_map(str(path))).read_all())  # maps, reads nothing yet
