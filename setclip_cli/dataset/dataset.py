"""The DATASET: Parquet shards of unpaired rows, one folder for each modality, and an index that is written last.

    DATASET/dataset.json                       DatasetIndex
    DATASET/<modality>/<split>-00000.parquet   schema_of(the kind of the modality)
    DATASET/pairs.parquet                      PAIRS_SCHEMA, the few known pairs
    DATASET/rejects.parquet                    REJECTS_SCHEMA, every record that was not taken

Row order means nothing: row i of one modality has nothing to do with row i of another.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, model_validator

from setclip_cli.dataset.modality import KINDS_OF_NAMES, Modality, RowKind, in_order, why_not_a_name
from setclip_cli.dataset.schemas import PAIRS_SCHEMA, ModalityInfo, payload_column, schema_of
from setclip_cli.errors import SetClipError, nearest, translated
from setclip_cli.files import atomic, hashes
from setclip_cli.files.documents import parse_json
from setclip_cli.files.what_is import what_is
from setclip_cli.options import path_of
from setclip_cli.pixels.video import FRAMES
from setclip_cli.remote.arguments import takes_places

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


INDEX_NAME = "dataset.json"
PAIRS_NAME: Final = "pairs.parquet"
REJECTS_NAME: Final = "rejects.parquet"
WORK_NAME = ".ingest"  # what an ingest keeps there until it is finished
SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

_VECTOR_GROUP_NUMBERS = 2 << 20  # 8 MiB of float32


class Shard(BaseModel):
    """One finished Parquet file and what it must hash to.

    Its path is always ``<modality>/<split>-00000.parquet``: no index can name a file outside its folder.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    path: str  # relative to the folder of the index, with forward slashes
    modality: Modality
    split: str
    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not SPLIT_NAME.fullmatch(self.split):
            raise ValueError(f"split {self.split!r} is not the name of a split")
        if reason := why_not_a_name(self.modality):
            raise ValueError(f"modality {self.modality!r} {reason}")
        if not re.fullmatch(rf"{self.modality}/{self.split}-[0-9]{{5,}}\.parquet", self.path, re.ASCII):
            raise ValueError(f"path {self.path!r} is not {self.modality}/{self.split}-NNNNN.parquet")
        return self


def require_distinct_paths(shards: Sequence[Shard]) -> None:
    """Raises ValueError if two shards of an index have one path."""
    path, times = next(iter(Counter(shard.path for shard in shards).most_common(1)), ("", 0))
    if times > 1:
        raise ValueError(f"path {path!r} is listed {times} times")


class DatasetIndex(BaseModel):
    """dataset.json. Only a finished ingest writes it: a folder that has it is whole."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    shards: list[Shard]
    rejects: dict[str, int] = {}  # reason -> records not taken
    sources: list[dict[str, Any]] = []  # what was read, and with which options
    manifests: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []  # where the rows of pairs.parquet came from
    files: dict[Literal["pairs.parquet", "rejects.parquet"], str] = {}  # their sha256
    modalities: dict[Modality, ModalityInfo] = {}  # those whose names do not say their kind

    @model_validator(mode="after")
    def _check(self) -> Self:
        require_distinct_paths(self.shards)
        listed = {shard.path for shard in self.shards}
        for number, source in enumerate(self.sources):
            named = source.get("shards", [])
            if not isinstance(named, list) or not all(isinstance(path, str) for path in named):
                raise ValueError(f"sources.{number}.shards: is not a list of paths")
            if unknown := sorted(set(named) - listed):
                raise ValueError(f"sources.{number}.shards: {unknown[0]!r} is not one of the shards")
        return self

    def as_json(self) -> dict[str, Any]:
        """What dataset.json holds. Modalities that an early version knows are not described."""
        content = self.model_dump(mode="json", exclude={"modalities"})
        named = {name: info.model_dump(exclude_none=True) for name, info in self.modalities.items()}
        return content | ({"modalities": named} if named else {})


NO_PARTNER = "-"  # in a file of pairs, in place of a partner: the item has none on the other side
LONE_ITEMS = "without_partner"  # in the origin of pairs: (modality, id) of each such item


class Pair(NamedTuple):
    left_modality: str
    left_id: str
    right_modality: str
    right_id: str
    split: str

    def swapped(self) -> Pair:
        return Pair(self.right_modality, self.right_id, self.left_modality, self.left_id, self.split)


def pairs_in_words(pairs: int, items: int | None, *, noun: str = "pair") -> str:
    """``1,000 pairs``, or ``200 items with 1,000 pairs`` if items are counted and some have several pairs."""
    told = f"{pairs:,} {noun}{'' if pairs == 1 else 's'}"
    return told if items in (None, pairs) else f"{items:,} item{'' if items == 1 else 's'} with {told}"


@dataclass(frozen=True)
class Dataset:
    """A finished DATASET on disk."""

    root: Path
    index: DatasetIndex
    sha256: str = ""  # of the bytes of dataset.json, as they were read

    def identity(self) -> str:
        """sha256 of the index as it was opened. It holds the hash of every file: equal identity means equal data."""
        return self.sha256 or atomic.sha256_file(self.root / INDEX_NAME)

    def modalities(self) -> list[Modality]:
        """The modalities with rows: protein, image, caption, then others by their names."""
        return in_order(shard.modality for shard in self.index.shards)

    def kind(self, modality: Modality) -> RowKind:
        """The kind of a modality's rows.

        Raises:
            SetClipError: the dataset has no such rows.
        """
        if modality in self.index.modalities:
            return self.index.modalities[modality].kind
        if modality not in KINDS_OF_NAMES:
            self.shards(modality)
        return KINDS_OF_NAMES[modality]

    def about(self, modality: Modality) -> ModalityInfo:
        """The kind of a modality's rows, and what is known about vectors. Raises SetClipError as ``kind`` does."""
        return self.index.modalities.get(modality) or ModalityInfo(kind=self.kind(modality))

    def of_kind(self, *kinds: RowKind) -> list[Modality]:
        """The modalities with rows of these kinds."""
        return [modality for modality in self.modalities() if self.kind(modality) in kinds]

    def require_rows(self, modality: Modality, wanted: ModalityInfo) -> None:
        """Checks that the rows of a modality are such as a tower reads.

        Raises:
            SetClipError: there are none, they are of another kind, or they are vectors of another width or of another
                encoder, as far as the user stated it.
        """
        found = self.about(modality)
        again = "give a DATASET with such rows as the tower was aligned with, or align again with these"
        for name, has, wants in (("kind", found.kind, wanted.kind), ("width", found.width, wanted.width)):
            if has != wants:
                raise SetClipError(
                    f"{self.root}: its {modality} rows have the {name} {has}, and the tower reads rows of the {name} "
                    f"{wants}",
                    fix=again,
                )
        if None not in (found.encoder, wanted.encoder) and found.encoder != wanted.encoder:
            raise SetClipError(
                f"{self.root}: its {modality} vectors are stated to be of the encoder {found.encoder!r}, and the tower "
                f"was aligned with those of {wanted.encoder!r}",
                fix=again,
            )

    def frames(self, modality: Modality) -> int | None:
        """At most so many frames were taken of each video, of any source; None for rows of another kind."""
        if self.kind(modality) != "video":
            return None
        options = [source.get("options") for source in self.index.sources if source.get("modality") == modality]
        given = [each.get("frames") for each in options if isinstance(each, dict)]
        return max((each if isinstance(each, int) else FRAMES for each in given), default=FRAMES)

    def payload_column(self, modality: Modality) -> str:
        return payload_column(self.kind(modality))

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
                f"{self.root}: holds no {modality} rows, only {', '.join(self.modalities()) or 'nothing'}"
                f"{nearest(modality, self.modalities())}",
                fix=f"setclip ingest SOURCE --modality {modality} "
                + ("" if modality in KINDS_OF_NAMES else "--kind KIND ")
                + f"--out {self.root}",
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
        """Reads one shard after checking that it holds the bytes that were written.

        Raises:
            SetClipError: the file is missing, has changed, is no Parquet file, or has other rows than the index says.
        """
        with self._readable(shard) as path:
            return pq.read_table(path, columns=None if columns is None else list(columns))

    def columns(self, shard: Shard) -> list[str]:
        """The names of one shard's columns. Raises SetClipError as `read` does."""
        with self._readable(shard) as path:
            return list(pq.read_schema(path).names)

    @contextmanager
    def _readable(self, shard: Shard) -> Iterator[Path]:
        path = self._checked(shard.path, shard.sha256)
        with translated(
            path,
            OSError,
            pa.ArrowException,
            found=f"cannot be read as the shard that {INDEX_NAME} lists",
            fix="ingest the dataset again into a new folder",
        ):
            if found := self.other_rows(shard, pq.read_schema(path)):
                raise SetClipError(
                    f"{path}: {found}", fix="restore dataset.json from a copy, or ingest again into a new folder"
                )
            yield path

    def other_rows(self, shard: Shard, schema: pa.Schema) -> str | None:
        """Why the columns of a shard are not those of such rows as the index says; None if they are."""
        wanted = schema_of(self.kind(shard.modality), self.about(shard.modality))
        payload = wanted.field(self.payload_column(shard.modality))
        if payload.name not in schema.names:
            return f"has no column {payload.name!r}, and {INDEX_NAME} says that it holds {shard.modality} rows with one"
        if (found := schema.field(payload.name).type) != payload.type and payload.name == "vector":
            return f"its vectors are {found}, and {INDEX_NAME} says {payload.type}"
        return None

    def beside(self, name: str, sha256: str) -> Path:
        """The path of pairs.parquet or rejects.parquet; in the work folder of an ingest that was killed at its end."""
        moved, new = self.root / name, self.root / WORK_NAME / name
        if new.is_file() and not (moved.is_file() and atomic.sha256_file(moved) == sha256):
            return self._checked(f"{WORK_NAME}/{name}", sha256)
        return self._checked(name, sha256)

    def _checked(self, name: str, sha256: str) -> Path:
        """The path of a file of the DATASET, if it holds the bytes that the index lists."""
        path = self.root / name
        fix = "restore the file from a copy, or run the `setclip ingest` commands again with a new folder"
        try:
            hashes.require_unchanged(path, sha256, since="ingest", listed_in=INDEX_NAME, fix=fix)
        except SetClipError as error:
            if self._index_has_changed():
                raise SetClipError(
                    f"{error.problem}; an ingest has changed {self.root} since this command opened it",
                    fix="run this command again, after the ingest has finished",
                ) from error
            raise
        return path

    def _index_has_changed(self) -> bool:
        path = self.root / INDEX_NAME
        return bool(self.sha256) and path.is_file() and atomic.sha256_file(path) != self.sha256

    def table(self, modality: Modality, split: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one modality and split (all splits when None), with the named columns (all when None).

        An optional column that some shards do not have is null in their rows.

        Raises:
            SetClipError: as ``shards`` and ``read`` do.
        """
        tables = [self.read(shard, columns) for shard in self.shards(modality, split)]
        return pa.concat_tables(tables, promote_options="default")

    def has_labels(self, modality: Modality, split: str) -> bool:
        """Whether any row of the modality in the split has a label."""
        labels = self.table(modality, split, ["label"])["label"]
        return bool(labels.null_count < len(labels))

    def pairs(self, split: str | None = None) -> list[Pair]:
        """The known pairs of a split (all when None), in file order; empty when the dataset has none.

        Raises:
            SetClipError: the file is missing or has changed, or the index does not list it.
        """
        path, sha256 = self.root / PAIRS_NAME, self.index.files.get(PAIRS_NAME)
        if sha256 is not None:
            path = self.beside(PAIRS_NAME, sha256)
        elif not path.exists():
            return []
        elif self.index.files:  # an index without any hash beside those of shards is of an early version
            raise SetClipError(
                f"{path}: {INDEX_NAME} does not list it",
                fix=f"remove it, and add pairs with `setclip ingest --pairs FILE --out {self.root}`",
            )
        with translated(
            path, OSError, KeyError, pa.ArrowException, found="cannot be read as pairs", fix="ingest the pairs again"
        ):
            rows = pq.read_table(path).select(PAIRS_SCHEMA.names).to_pylist()
        return [pair for pair in (Pair(**row) for row in rows) if split in (None, pair.split)]

    def lone_items(self) -> set[tuple[Modality, str]]:
        """(modality, id) of each item that a file of pairs calls one without a partner, and that no pair names."""
        alone = {(modality, row) for origin in self.index.pairs for modality, row in origin.get(LONE_ITEMS, ())}
        if alone:
            for pair in self.pairs():
                alone -= {(pair.left_modality, pair.left_id), (pair.right_modality, pair.right_id)}
        return alone


@takes_places("root")
def open_dataset(root: str | Path) -> Dataset:
    """Opens a DATASET.

    Raises:
        SetClipError: the folder is missing, was never finished, or has an index this version cannot read.
    """
    root = path_of(root, "dataset")
    with translated(root, found="cannot be looked at", fix="check the path"):
        there = root.is_dir()
    if not there:
        raise SetClipError(f"{root}: no such folder", fix=f"setclip ingest SOURCE --modality MODALITY --out {root}")
    path = root / INDEX_NAME
    if not path.exists():
        raise _not_a_dataset(root)
    with translated(path, OSError, found="cannot be read", fix="check the path"):
        text = path.read_bytes()
    index = parse_json(path, text, DatasetIndex, fix="ingest again into a new folder with this version of setclip")
    kinds = {*KINDS_OF_NAMES, *index.modalities}
    if unknown := sorted({shard.modality for shard in index.shards} - kinds):
        raise SetClipError(
            f"{path}: does not say what kind of rows {unknown[0]} rows are",
            fix="ingest again into a new folder with this version of setclip",
        )
    return Dataset(root, index, atomic.sha256_bytes(text))


def _not_a_dataset(root: Path) -> SetClipError:
    """The error of a folder without dataset.json, which says what the folder is."""
    found = what_is(root)
    missing = f"has no {INDEX_NAME}, so it is not a finished DATASET"
    if found.kind == "dataset":
        return SetClipError(f"{root}: {missing}", fix="run the same `setclip ingest` command again")
    if found.kind == "empty":
        fix = f"setclip ingest SOURCE --modality MODALITY --out {root}"
    elif found.kind == "quickstart":
        fix = f"give the DATASET in it: {root / 'dataset'}"
    else:
        fix = "give the folder that `setclip ingest` wrote; in commands that take a RUN too, the DATASET comes after it"
    return SetClipError(f"{root}: {found.words}; it {missing}", fix=fix)


def _rows_of_group(table: pa.Table) -> int | None:
    """Rows of a group in the file. Of vectors, Arrow needs as much memory as a group has, to write or to read it."""
    if "vector" not in table.column_names:
        return None
    width: int = table.schema.field("vector").type.list_size
    return max(1, _VECTOR_GROUP_NUMBERS // width)


def write_shard(
    root: Path, relative: str, table: pa.Table, *, modality: Modality, split: str, remember: bool = True
) -> Shard:
    """Writes one shard atomically and returns its index entry. The same rows give the same bytes.

    Args:
        remember: Whether its hash is remembered; it need not be if the shard is moved before it is read.
    """
    path = root / relative
    with atomic.atomic_path(path) as temporary:
        pq.write_table(
            table,
            temporary,
            # image files are compressed already, vectors hardly get smaller, and unique payloads gain nothing from a
            # dictionary
            compression={
                name: "none" if name in ("image", "vector", "frames") else "zstd" for name in table.column_names
            },
            use_dictionary=[name for name in ("split", "source", "label") if name in table.column_names],
            # the smallest number of all vectors tells nobody anything, and to find it takes a tenth of the time
            row_group_size=_rows_of_group(table),
            write_statistics="vector" not in table.column_names or [n for n in table.column_names if n != "vector"],
        )
    sha256 = atomic.sha256_file(path)
    if remember:
        hashes.remember(path, sha256)
    return Shard(
        path=relative,
        modality=modality,
        split=split,
        rows=table.num_rows,
        bytes=path.stat().st_size,
        sha256=sha256,
    )
