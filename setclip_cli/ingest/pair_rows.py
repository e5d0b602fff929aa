"""The rows that pairs can name, with their ids and where they come from; a pair of two rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from setclip_cli.dataset.dataset import Pair
from setclip_cli.dataset.modality import Modality, place_in_order
from setclip_cli.ingest.names import Name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    import pyarrow as pa

    from setclip_cli.dataset.dataset import Dataset

SEVERAL = "several rows have the id that a pair names"


class Row(NamedTuple):
    """What is known of one row here."""

    id: str
    split: str
    also: str | None  # its id before that was made longer
    group: str | None


class Origin(NamedTuple):
    """Where a row comes from."""

    path: str  # of its source
    states_split: bool  # whether the user or the source said the split, so that it can tell two images apart

    @property
    def file_name(self) -> str:
        return self.path.rpartition("/")[2]

    @staticmethod
    def of(entry: Mapping[str, Any] | None, modality: Modality) -> Origin:
        if entry is None:
            return Origin("", False)
        said = entry.get("options", {}).get("split") or "auto"
        splits = entry.get("rows", {}).get(modality, {}).keys()
        return Origin(
            entry["path"], splits != {"train"} if said == "auto" else "=" not in said and said != "as-captions"
        )


class Rows:
    """The ids of one modality's rows, with the paths of their sources."""

    def __init__(self, dataset: Dataset, modality: Modality) -> None:
        of_shard = {path: entry for entry in dataset.index.sources for path in entry.get("shards", ())}
        self._vectors = dataset.kind(modality) == "vector"
        self._tables: list[tuple[Origin, pa.Table]] = []
        for shard in dataset.shards(modality):
            present = dataset.columns(shard)
            columns = [name for name in ("id", "split", "id_in_source", "group") if name in present]
            self._tables.append((Origin.of(of_shard.get(shard.path), modality), dataset.read(shard, columns)))

    def __len__(self) -> int:
        return sum(table.num_rows for _, table in self._tables)

    def rows(self) -> Iterator[tuple[Origin, Row]]:
        """(where it comes from, row) for each row."""
        for origin, table in self._tables:
            nothing = [None] * table.num_rows
            also = table["id_in_source"].to_pylist() if "id_in_source" in table.column_names else nothing
            groups = table["group"].to_pylist() if "group" in table.column_names else nothing
            for row in zip(table["id"].to_pylist(), table["split"].to_pylist(), also, groups, strict=True):
                yield origin, Row(*row)

    def names(self) -> Iterator[Name]:
        """The ids; a vector that has a row number as its id is also meant by the number alone."""
        for origin, row in self.rows():
            file, _, number = row.id.rpartition(":")
            numbered = self._vectors and number.isdecimal() and file == origin.file_name
            yield Name(row.id, origin.path, row.also or (number if numbered else None))

    def splits(self, ids: Collection[str] | None = None) -> dict[str, str]:
        """id -> split, of these ids or of all."""
        return {row.id: row.split for _, row in self.rows() if ids is None or row.id in ids}


def unknown_id(modality: str, text: str) -> str:
    """The reason of a reject."""
    return f"pair names an unknown {modality} id: {text}"


def crossing_splits(left: str, right: str) -> str:
    """The reason of a reject."""
    return f"pair joins split {left} with split {right}"


def pair_of(one: tuple[Modality, str], other: tuple[Modality, str], split: str) -> Pair:
    """The pair with its two sides in the order of files."""
    left, right = sorted((one, other), key=lambda side: place_in_order(side[0]))
    return Pair(*left, *right, split)
