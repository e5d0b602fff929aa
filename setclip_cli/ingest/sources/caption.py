"""Captions in files: jsonl, csv, tsv, Parquet, JSON, and text with one caption a line or a table.

A line that is not UTF-8 or not of its format, and a record without a text field, are rejects. A byte-order mark is
skipped. The suffix says how a file is read; for .txt and .json, the content decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from setclip_cli.ingest.sources import rows
from setclip_cli.ingest.sources.base import Item, Record, Reject, Walk, left_out
from setclip_cli.ingest.sources.caption_json import captions_in_json, is_json_lines, is_json_list
from setclip_cli.ingest.sources.caption_record import Captions, caption_answers
from setclip_cli.ingest.sources.counts import LineCount
from setclip_cli.ingest.sources.fields import (
    GROUP_FIELDS,
    IMAGE_FIELDS,
    IMAGE_ID_FIELDS,
    TEXT_FIELDS,
    Fields,
    first_named,
    group_of,
    id_of,
    image_in,
    label_of,
    split_of,
    texts_of,
)
from setclip_cli.ingest.sources.reader import Reader
from setclip_cli.ingest.sources.streams import inner_suffix
from setclip_cli.ingest.sources.tables import Names, is_header_alone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

CAPTION_SUFFIXES = (*rows.ROW_SUFFIXES, ".txt", ".json")


class CaptionFile(Reader):
    """One file of captions. Its suffix, or ``layout``, says how it is read, and its content where that is not enough.

    Args:
        path: The file.
        text_column: The column or field of the captions; by default one of ``TEXT_FIELDS``.
        layout: A suffix such as ``.csv``, if that of the file does not say the layout.
    """

    def __init__(self, path: Path, *, text_column: str | None = None, layout: str | None = None) -> None:
        super().__init__(path)
        self._text_fields = (text_column,) if text_column else TEXT_FIELDS
        self._suffix = layout or inner_suffix(path)
        known = {*self._text_fields, *GROUP_FIELDS, *IMAGE_FIELDS, *IMAGE_ID_FIELDS, "label", "split"}
        self._names = Names(frozenset(known), self._text_fields, "text_column", text_column)

    def walk(self) -> Walk:
        answers = caption_answers(self.path.name)
        if (self._suffix == ".json" and not is_json_lines(self.path)) or (
            self._suffix in (".jsonl", ".ndjson") and is_json_list(self.path)
        ):
            return Walk(captions_in_json(self.path, self._rows(), self.from_fields), answers)
        table = self._rows()
        if self._suffix == ".txt" and table.layout is None:
            return self._plain(answers)
        walk = table.walk(answers)
        return walk._replace(items=(self._item(item) for item in walk.items))

    def notes(self) -> list[str]:
        return self._rows().notes()

    def _rows(self) -> rows.Table:
        return rows.Table(self.path, self._suffix, self._names, skip_images=True)

    def _item(self, item: Item) -> Item:
        return item if isinstance(item.content, Reject) else self.from_fields(item.content, item.location)

    def _plain(self, answers: Callable[[Item], Iterable[Record | Reject]]) -> Walk:
        count = LineCount()

        def items() -> Iterator[Item]:
            for location, line in rows.text_lines(self.path, count):
                if isinstance(line, Reject):
                    yield Item(location, line)
                elif location == "line 1" and is_header_alone(line):
                    yield Item(location, left_out(location, "header line"))
                else:
                    yield Captions([line]).item(location)

        return Walk(items(), answers, lambda: count.total)

    def from_fields(self, fields: Mapping[str, Any], location: str) -> Item:
        """The item of a row: its captions, or the reason why it has none."""
        value = first_named(fields, self._text_fields)
        if value is None and not any(name in fields for name in self._text_fields):
            return Item(location, Reject(location, f"no field {' or '.join(map(repr, self._text_fields))}"))
        identifier, problem = id_of(fields.get("id"))
        if problem:
            return Item(location, Reject(location, problem))
        label, notes = label_of(fields.get("label"))
        image = image_in(fields)
        group, unused = group_of(fields, image)
        return Captions(
            texts_of("" if value is None else value),
            identifier=identifier,
            group=group,
            of_image=image is not None,
            label=label,
            split=split_of(fields.get("split")),
            repairs=(*notes, *unused, *(fields.repairs if isinstance(fields, Fields) else ())),
        ).item(location)
