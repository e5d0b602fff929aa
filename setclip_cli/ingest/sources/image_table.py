"""Images in Parquet files, as Hugging Face data sets have them: bytes, or a struct of bytes and path."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from setclip_cli.ingest.sources import rows
from setclip_cli.ingest.sources.base import Item, Record, Reject, Walk
from setclip_cli.ingest.sources.caption import usual_split
from setclip_cli.ingest.sources.image import image_record
from setclip_cli.ingest.sources.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

IMAGE_FIELDS = ("image", "img", "jpg", "png", "bytes")
ID_FIELDS = ("id", "filename", "file_name", "path", "image_id")


class ImageTable(Reader):
    """A Parquet file with an image column. The metadata of the file gives the names of integer labels."""

    def __init__(self, path: Path, *, image_column: str | None = None) -> None:
        super().__init__(path)
        self._image_fields = (image_column,) if image_column else IMAGE_FIELDS

    def walk(self) -> Walk:
        columns = rows.columns_of(self.path, ".parquet") or []
        if not set(columns) & set(self._image_fields):
            raise rows.missing_column(self.path, self._image_fields, columns, "image_column")
        names = class_names(self.path)

        def check(item: Item) -> Record | Reject:
            location, fields = item.location, item.content
            if isinstance(fields, Reject):
                return fields
            value = rows.first_named(fields, self._image_fields)
            content = value.get("bytes") if isinstance(value, dict) else value
            path = value.get("path") if isinstance(value, dict) else None
            if not isinstance(content, bytes):
                return Reject(location, "no image bytes in the row")
            given = rows.text_of(rows.first_named(fields, ID_FIELDS))
            identifier = given or rows.text_of(path) or f"{self.path.name}:{location.split()[-1]}"
            record = image_record(identifier, content, location, made_up=not given)
            if isinstance(record, Reject):
                return record
            return record._replace(
                label=_label(fields.get("label"), names), split=usual_split(rows.text_of(fields.get("split")))
            )

        return rows.walk_rows(self.path, lambda item: (check(item),), ".parquet")._replace(one_each=True)


def _label(value: Any, names: Sequence[str]) -> str | None:
    if isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return rows.text_of(value) or None


def class_names(path: Path) -> list[str]:
    """The names of the integers in a ``label`` column, from the ``huggingface`` entry of the file's metadata."""
    with rows.opened_parquet(path) as file:
        metadata = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    try:
        names = json.loads(metadata)["info"]["features"]["label"]["names"]
    except (ValueError, KeyError, TypeError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []
