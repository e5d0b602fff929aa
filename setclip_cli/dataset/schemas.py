"""The columns of the shards, by the kind of their rows, and what dataset.json says about a modality."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from setclip_cli.dataset.modality import RowKind

if TYPE_CHECKING:
    from collections.abc import Container

    import numpy as np
    import numpy.typing as npt

_COMMON = [
    pa.field("id", pa.string(), nullable=False),
    pa.field("split", pa.string(), nullable=False),
    pa.field("source", pa.string(), nullable=False),
    pa.field("sha256", pa.string(), nullable=False),  # of the payload: text, bytes of an image, a vector or frames
    pa.field("label", pa.string()),
]
_SCHEMAS: dict[RowKind, pa.Schema] = {
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
    "video": pa.schema(
        [
            *_COMMON,
            pa.field("frames", pa.list_(pa.binary()), nullable=False),  # picture files, in the order of time
            pa.field("width", pa.int32(), nullable=False),  # pixels of the first
            pa.field("height", pa.int32(), nullable=False),
            pa.field("times", pa.list_(pa.float64())),  # seconds from the start of the video, or from the first date
        ]
    ),
    "text": pa.schema([*_COMMON, pa.field("text", pa.string(), nullable=False), pa.field("group", pa.string())]),
}
GROUPED: tuple[RowKind, ...] = ("text", "vector")  # kinds whose rows can say what they describe, in the column group
OPTIONAL_COLUMNS: dict[str, pa.DataType] = {  # only in shards where a row has a value
    "crs": pa.string(),  # GeoTIFF tiles: coordinate reference system
    "transform": pa.list_(pa.float64()),  # GeoTIFF tiles: affine map from pixels to the ground
    "band_means": pa.list_(pa.float64()),  # images of bands: of each band, over the pixels that have a value
    "band_deviations": pa.list_(pa.float64()),
    "original_sha256": pa.string(),  # of an image before its samples were scaled to 8 bits, if they were
    "perceptual_hash": pa.uint64(),
    "near_duplicate_of": pa.string(),  # id of the earlier image that looks the same
    "id_in_source": pa.string(),  # the made-up id that an earlier source had taken, so that the row got a longer one
}
# A column that is there with another one, also if no row has a value in it: readers ask for both.
_THERE_WITH = {"crs": "transform", "near_duplicate_of": "perceptual_hash"}
PAIRS_SCHEMA = pa.schema(
    [
        pa.field(name, pa.string(), nullable=False)
        for name in ("left_modality", "left_id", "right_modality", "right_id", "split")
    ]
)
REJECTS_SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("source", "location", "reason")])


def optional_columns(filled: Container[str]) -> list[pa.Field]:
    """The optional columns of a shard.

    Args:
        filled: Those in which a row has a value.
    """
    return [
        pa.field(name, kind)
        for name, kind in OPTIONAL_COLUMNS.items()
        if name in filled or _THERE_WITH.get(name) in filled
    ]


def schema_of(kind: RowKind, about: ModalityInfo | None = None) -> pa.Schema:
    """The columns of a shard; the first five are those of every kind, the sixth is the payload.

    Args:
        about: Of a modality of vectors: their width and type.
    """
    if kind != "vector":
        return _SCHEMAS[kind]
    assert about is not None
    assert about.width is not None
    values = pa.list_(pa.float16() if about.dtype == "float16" else pa.float32(), about.width)
    return pa.schema([*_COMMON, pa.field("vector", values, nullable=False), pa.field("group", pa.string())])


def payload_column(kind: RowKind) -> str:
    """The column that holds what a row is."""
    return {"protein": "sequence", "image": "image", "text": "text", "vector": "vector", "video": "frames"}[kind]


PICTURES: dict[RowKind, str] = {"image": "image", "video": "frames"}  # kinds that pages show as a picture: its column


class ModalityInfo(BaseModel):
    """What dataset.json says about a modality whose name does not say its kind."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: RowKind
    width: int | None = Field(default=None, ge=1, le=2**31 - 1)  # values of a vector
    dtype: Literal["float32", "float16"] | None = None  # of vectors
    encoder: str | None = None  # what computed the vectors, as the user stated it

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.kind == "vector") != (self.width is not None) or (self.width is None) != (self.dtype is None):
            raise ValueError("vectors, and only they, have a width and a dtype")
        return self


def matrix_of(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    """(rows, width) float32: a copy of a column of vectors."""
    import numpy as np

    parts = [chunk.flatten().to_numpy().reshape(len(chunk), -1) for chunk in column.chunks if len(chunk)]
    return np.concatenate(parts, dtype=np.float32) if parts else np.zeros((0, column.type.list_size), np.float32)
