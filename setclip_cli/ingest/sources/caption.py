"""Captions: jsonl, csv, tsv, Parquet, one a line, and the published JSON layouts (RSICD, UCM, RSITMD; COCO).

These are rejects: an empty caption, one over ``MAX_CAPTION_CHARS``, a line that is not UTF-8 or not of its format, and
a record without a text field. White space at both ends of a caption is dropped. A byte-order mark is skipped.

Ids: the record's ``id`` when it has one; else ``<group>#<n>``, n counting the group's captions from 0; else
``<file>:<line>``. A group is the id of the image (or protein) that the caption describes.
"""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from setclip_cli.errors import SetClipError
from setclip_cli.ingest.sources import rows
from setclip_cli.ingest.sources.base import Item, Record, Reject, Walk, sha256_text, usable_id
from setclip_cli.ingest.sources.reader import Reader
from setclip_cli.ingest.sources.streams import inner_suffix, open_bytes, read_up_to

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

MAX_CAPTION_CHARS = 65_536
MAX_JSON_BYTES = 512 << 20
CAPTION_SUFFIXES = (*rows.ROW_SUFFIXES, ".txt", ".json")
TEXT_FIELDS = ("text", "caption", "raw", "sentence", "title")
GROUP_FIELDS = ("group", "image_id", "image", "filename", "file_name", "filepath")
_CLASS_PREFIX = re.compile(r"([A-Za-z]+(?:_[A-Za-z]+)*)_\d+\.\w+")
_SPLIT_NAMES = {"valid": "val", "validation": "val", "dev": "val", "restval": "train", "training": "train"}


class CaptionFile(Reader):
    """One file of captions. Its suffix, or ``layout``, says how it is read.

    Args:
        path: The file.
        text_column: The column or field of the captions; by default one of ``TEXT_FIELDS``.
        layout: A suffix such as ``.csv``, if that of the file does not say the layout.
    """

    def __init__(self, path: Path, *, text_column: str | None = None, layout: str | None = None) -> None:
        super().__init__(path)
        self._text_fields = (text_column,) if text_column else TEXT_FIELDS
        self._layout = layout or inner_suffix(path)

    def walk(self) -> Walk:
        if self._layout == ".json":
            return Walk((Item("", answer) for answer in self._json()), lambda item: (item.content,))
        return self._rows() if self._layout in rows.ROW_SUFFIXES else self._plain()

    def _plain(self) -> Walk:
        def answer(item: Item) -> Record | Reject:
            if isinstance(item.content, Reject):
                return item.content
            number = item.location.removeprefix("line ")
            return caption_record(item.content, item.location, f"{self.path.name}:{number}")

        return Walk((Item(*located) for located in rows.text_lines(self.path)), lambda item: (answer(item),))

    def _rows(self) -> Walk:
        columns = rows.columns_of(self.path, self._layout)
        if columns and not set(columns) & set(self._text_fields):
            raise rows.missing_column(self.path, self._text_fields, columns, "text_column")
        counts: Counter[str] = Counter()

        def answer(item: Item) -> Record | Reject:
            fields = item.content
            return fields if isinstance(fields, Reject) else self._from_fields(fields, item.location, counts)

        return rows.walk_rows(self.path, lambda item: (answer(item),), self._layout)

    def _json(self) -> Iterator[Record | Reject]:
        with open_bytes(self.path) as file:
            content = read_up_to(file, MAX_JSON_BYTES)
        if len(content) > MAX_JSON_BYTES:
            raise SetClipError(
                f"{self.path}: is JSON of over {MAX_JSON_BYTES:,} bytes",
                fix="write one record a line into a .jsonl file",
            )
        rows.refuse_utf16(self.path, content[:2])
        try:
            whole = json.loads(content.removeprefix(codecs.BOM_UTF8).decode())
        except UnicodeDecodeError as error:
            raise rows.not_utf8(self.path, f"byte 0x{content[error.start]:02x} at offset {error.start:,}") from error
        except (ValueError, RecursionError) as error:
            raise SetClipError(f"{self.path}: not JSON ({error})", fix="download or export the file again") from error
        if isinstance(whole, dict) and isinstance(whole.get("annotations"), list):
            yield from _coco(whole)
        elif isinstance(whole, dict) and isinstance(whole.get("images"), list):
            yield from _published(whole["images"])
        elif isinstance(whole, dict) and whole and all(map(_is_by_class, whole.values())):
            yield from _by_class(whole)
        elif isinstance(whole, list):
            counts: Counter[str] = Counter()
            for number, fields in enumerate(whole, 1):
                if isinstance(fields, dict):
                    yield self._from_fields(fields, f"entry {number}", counts)
                else:
                    yield Reject(f"entry {number}", "no object")
        else:
            raise SetClipError(
                f"{self.path}: is neither a list, nor has it 'images' with 'sentences' or COCO's 'annotations'",
                fix='write one {"text": ...} a line into a .jsonl file',
            )

    def _from_fields(self, fields: Mapping[str, Any], location: str, counts: Counter[str]) -> Record | Reject:
        text = next((fields[name] for name in self._text_fields if fields.get(name) is not None), None)
        if text is None:
            return Reject(location, f"no field {' or '.join(map(repr, self._text_fields))}")
        if not isinstance(text, str):
            return Reject(location, f"caption is no string: {type(text).__name__}")
        group = rows.text_of(rows.first_named(fields, GROUP_FIELDS))
        given = rows.text_of(fields.get("id"))
        identifier = given
        if identifier is None:
            identifier = f"{group}#{counts[group]}" if group else f"{self.path.name}:{location.split()[-1]}"
        if group is not None:
            counts[group] += 1
        return caption_record(
            text,
            location,
            identifier,
            group=group,
            label=rows.text_of(fields.get("label")),
            split=rows.text_of(fields.get("split")),
            made_up=given is None,
        )


def caption_record(
    text: str,
    location: str,
    identifier: str,
    *,
    group: str | None = None,
    label: str | None = None,
    split: str | None = None,
    made_up: bool = True,
) -> Record | Reject:
    """Makes a record from a caption as it is in a file, or says why it cannot. ``made_up``: the file has no such id."""
    if unusable := usable_id(identifier) or (group is not None and usable_id(group)) or None:
        return Reject(location, unusable)
    stripped = text.strip()
    if not stripped:
        return Reject(location, "empty caption")
    if len(stripped) > MAX_CAPTION_CHARS:
        return Reject(location, f"caption longer than {MAX_CAPTION_CHARS:,} characters")
    try:
        digest = sha256_text(stripped)
    except UnicodeEncodeError:  # JSON can spell half of a surrogate pair
        return Reject(location, "not UTF-8: half a surrogate pair")
    return Record(
        "caption",
        identifier,
        stripped,
        digest,
        label=label or None,
        split=usual_split(split),
        group=group,
        columns=(group,),
        made_up=made_up,
    )


def usual_split(split: str | None) -> str | None:
    """train, val or test for the other names that published sets use for them."""
    return _SPLIT_NAMES.get(split, split) if split else None


def class_of_name(filename: str) -> str | None:
    """The class that remote-sensing sets put in front of a file name: ``storage_tanks_12.jpg`` -> ``storage_tanks``."""
    found = _CLASS_PREFIX.fullmatch(filename.rpartition("/")[2])
    return found[1] if found else None


def _published(images: Sequence[Any]) -> Iterator[Record | Reject]:
    """``{"images": [{"filename", "split", "sentences": [{"raw"}]}]}``, the layout of Karpathy and Fei-Fei (2015)."""
    names = [
        image["filename"] for image in images if isinstance(image, dict) and isinstance(image.get("filename"), str)
    ]
    labelled = len({class_of_name(name) for name in names} - {None}) > 1  # not so for img_1.jpg, img_2.jpg
    for number, image in enumerate(images, 1):
        location = f"image {number}"
        if not isinstance(image, dict) or not isinstance(image.get("filename"), str):
            yield Reject(location, "no 'filename'")
            continue
        sentences = image.get("sentences")
        if not isinstance(sentences, list) or not sentences:
            yield Reject(location, "no 'sentences'")
            continue
        filename, split = image["filename"], image.get("split")
        for count, sentence in enumerate(sentences):
            raw = sentence.get("raw") if isinstance(sentence, dict) else None
            where = f"{location}, sentence {count + 1}"
            if not isinstance(raw, str):
                yield Reject(where, "no 'raw' text")
                continue
            yield caption_record(
                raw,
                where,
                f"{filename}#{count}",
                group=filename,
                label=class_of_name(filename) if labelled else None,
                split=rows.text_of(split),
            )


def _is_by_class(entries: Any) -> bool:
    return isinstance(entries, list) and bool(entries) and isinstance(entries[0], dict) and "filename" in entries[0]


def _by_class(whole: Mapping[str, list[Any]]) -> Iterator[Record | Reject]:
    """``{class: [{"filename", "split", "raw", "raw_1", ...}]}``, the layout of NWPU-Captions (Cheng et al. 2022)."""
    for label, entries in whole.items():
        for number, image in enumerate(entries, 1):
            location = f"{label} {number}"
            if not isinstance(image, dict) or not isinstance(image.get("filename"), str):
                yield Reject(location, "no 'filename'")
                continue
            sentences = [value for name, value in image.items() if name == "raw" or name.startswith("raw_")]
            if not sentences:
                yield Reject(location, "no 'raw' text")
            for count, raw in enumerate(sentences):
                if not isinstance(raw, str):
                    yield Reject(f"{location}, sentence {count + 1}", "no 'raw' text")
                    continue
                filename = image["filename"]
                yield caption_record(
                    raw,
                    f"{location}, sentence {count + 1}",
                    f"{filename}#{count}",
                    group=filename,
                    label=label,
                    split=rows.text_of(image.get("split")),
                )


def _coco(whole: Mapping[str, Any]) -> Iterator[Record | Reject]:
    """``{"images": [{"id", "file_name"}], "annotations": [{"image_id", "id", "caption"}]}`` (Chen et al. 2015)."""
    images = whole.get("images")
    names = {
        image["id"]: image["file_name"]
        for image in (images if isinstance(images, list) else [])
        if isinstance(image, dict)
        and isinstance(image.get("id"), int | str)
        and isinstance(image.get("file_name"), str)
    }
    counts: Counter[str] = Counter()
    for number, annotation in enumerate(whole["annotations"], 1):
        location = f"annotation {number}"
        caption = annotation.get("caption") if isinstance(annotation, dict) else None
        image_id = annotation.get("image_id") if isinstance(annotation, dict) else None
        if not isinstance(caption, str) or not isinstance(image_id, int | str):
            yield Reject(location, "no 'caption' and 'image_id'")
            continue
        group = names.get(image_id, str(image_id))
        yield caption_record(caption, location, f"{group}#{counts[group]}", group=group)
        counts[group] += 1
