"""Images in Parquet files, as Hugging Face data sets have them: bytes, or a struct of bytes and path."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from setclip_cli.ingest.sources import rows
from setclip_cli.ingest.sources.base import Item, Record, Reject, Walk
from setclip_cli.ingest.sources.fields import (
    IMAGE_FIELDS,
    IMAGE_ID_FIELDS,
    first_named,
    id_of,
    image_id_of,
    label_of,
    split_of,
)
from setclip_cli.ingest.sources.image import image_record
from setclip_cli.ingest.sources.reader import Reader
from setclip_cli.ingest.sources.tables import Names

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class ImageTable(Reader):
    """A Parquet file with an image column. The metadata of the file gives the names of integer labels."""

    def __init__(self, path: Path, *, image_column: str | None = None) -> None:
        super().__init__(path)
        self._image_fields = (image_column,) if image_column else IMAGE_FIELDS

    def walk(self) -> Walk:
        used = frozenset({*self._image_fields, *IMAGE_ID_FIELDS, "label", "split"})
        chosen = self._image_fields[0] if len(self._image_fields) == 1 else None
        table = rows.Table(self.path, ".parquet", Names(used, self._image_fields, "image_column", chosen))
        names = class_names(self.path)

        def check(item: Item) -> Record | Reject:
            location, fields = item.location, item.content
            if isinstance(fields, Reject):
                return fields
            value = first_named(fields, self._image_fields)
            content = value.get("bytes") if isinstance(value, dict) else value
            if not isinstance(content, bytes):
                path = value.get("path") if isinstance(value, dict) else None
                return Reject(location, f"no image bytes in the row{f': only the path {path}' if path else ''}")
            given, problem = id_of(first_named(fields, IMAGE_ID_FIELDS))
            if problem:
                return Reject(location, problem)
            identifier = given or image_id_of(fields, value) or f"{self.path.name}:{location.split()[-1]}"
            record = image_record(identifier, content, location, made_up=not given)
            if isinstance(record, Reject):
                return record
            label, notes = _label(fields.get("label"), names)
            split = split_of(fields.get("split"))
            return record._replace(label=label, split=split, repairs=(*record.repairs, *notes))

        return table.walk(lambda item: (check(item),))._replace(one_each=True)


def _label(value: Any, names: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """As `label_of`, with the names of integers."""
    label, notes = label_of(value)
    if isinstance(value, int | float) and label is not None and label.isdecimal() and int(label) < len(names):
        return names[int(label)], ()
    return label, notes


def class_names(path: Path) -> list[str]:
    """The names of the integers in a ``label`` column, from the ``huggingface`` entry of the file's metadata."""
    with rows.opened_parquet(path) as file:
        metadata = (file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    try:
        names = json.loads(metadata)["info"]["features"]["label"]["names"]
    except (ValueError, KeyError, TypeError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []
