"""Captions: jsonl, csv and tsv, one a line, and the published JSON layouts (RSICD, UCM, Sydney, RSITMD; COCO).

Rejected, with the reason: an empty caption, one over ``MAX_CAPTION_CHARS``, a line that is not UTF-8 or not of its
format, a record without a text field. White space at both ends of a caption is dropped. A byte-order mark is skipped.

Ids: the record's ``id`` when it has one; else ``<group>#<n>``, n counting the group's captions from 0; else
``<file>:<line>``. A group is the id of the image (or protein) that the caption describes.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from setclip_cli.errors import SetClipError, nearest
from setclip_cli.sources.base import FileStamp, Record, Reject, sha256_text, stamp, usable_id
from setclip_cli.sources.streams import inner_suffix, lines, open_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

MAX_CAPTION_CHARS = 65_536
MAX_LINE_BYTES = 4 << 20
MAX_JSON_BYTES = 512 << 20
CAPTION_SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".json")
TEXT_FIELDS = ("text", "caption", "raw", "sentence", "title")
GROUP_FIELDS = ("group", "image_id", "image", "filename", "file_name", "filepath")
_CLASS_PREFIX = re.compile(r"([A-Za-z]+(?:_[A-Za-z]+)*)_\d+\.\w+")
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SPLIT_NAMES = {"valid": "val", "validation": "val", "dev": "val", "restval": "train", "training": "train"}


class CaptionFile:
    """One file of captions, its layout taken from its suffix."""

    def __init__(self, path: Path, *, text_field: str | None = None) -> None:
        self.path = path
        self._text_field = text_field

    def files(self) -> Sequence[FileStamp]:
        return [stamp(self.path)]

    def items(self, start: int, workers: int) -> Iterator[Record | Reject]:
        del workers  # one stream, one reader
        suffix = inner_suffix(self.path)
        if suffix == ".json":
            found = self._json()
        elif suffix in (".jsonl", ".ndjson"):
            found = self._json_lines()
        elif suffix in (".csv", ".tsv"):
            found = self._separated("\t" if suffix == ".tsv" else ",")
        else:
            found = self._plain()
        for number, item in enumerate(found):
            if number >= start:
                yield item

    def _lines(self) -> Iterator[tuple[str, str | Reject]]:
        """Yields (location, text or the reason there is none), from line 1."""
        with open_bytes(self.path) as file:
            for number, line in enumerate(lines(file, MAX_LINE_BYTES), 1):
                location = f"line {number}"
                if line is None:
                    yield location, Reject(location, f"line longer than {MAX_LINE_BYTES:,} bytes")
                    continue
                if number == 1:
                    if line.startswith(_UTF16_MARKS):
                        raise _not_utf8(self.path, "starts as UTF-16 does")
                    line = line.removeprefix(codecs.BOM_UTF8)
                try:
                    yield location, line.decode()
                except UnicodeDecodeError as error:
                    yield location, Reject(location, f"not UTF-8: byte 0x{line[error.start]:02x}")

    def _plain(self) -> Iterator[Record | Reject]:
        for location, line in self._lines():
            if isinstance(line, Reject):
                yield line
            else:
                yield caption_record(line, location, f"{self.path.name}:{location.removeprefix('line ')}")

    def _json_lines(self) -> Iterator[Record | Reject]:
        counts: Counter[str] = Counter()
        for location, line in self._lines():
            if isinstance(line, Reject):
                yield line
                continue
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield Reject(location, f"not JSON: {type(error).__name__}")
                continue
            if isinstance(fields, dict):
                yield self._from_fields(fields, location, counts)
            else:
                yield Reject(location, "JSON, but no object")

    def _separated(self, separator: str) -> Iterator[Record | Reject]:
        held: list[Reject] = []
        counts: Counter[str] = Counter()

        def text_lines() -> Iterator[str]:
            for _, line in self._lines():
                if isinstance(line, Reject):
                    held.append(line)
                else:
                    yield line.replace("\0", "\N{REPLACEMENT CHARACTER}") + "\n"

        reader = csv.reader(text_lines(), delimiter=separator)
        header: list[str] | None = None
        while True:
            location = f"line {reader.line_num + 1}"
            try:
                row = next(reader, None)
            except csv.Error as error:
                held.append(Reject(location, f"not CSV: {error}"))
                continue
            yield from held
            held.clear()
            if row is None:
                return
            if not row:
                continue
            if header is None:
                header = [name.strip() for name in row]
                self._check_columns(header)
                continue
            if len(row) != len(header):
                yield Reject(location, f"number of fields differs from the header: {len(row)}, not {len(header)}")
                continue
            yield self._from_fields({k: v for k, v in zip(header, row, strict=True) if v}, location, counts)

    def _check_columns(self, header: list[str]) -> None:
        wanted = (self._text_field,) if self._text_field else TEXT_FIELDS
        if not set(wanted) & set(header):
            raise SetClipError(
                f"{self.path}: no column {' or '.join(map(repr, wanted))} among {', '.join(map(repr, header[:20]))}"
                f"{nearest(wanted[0], header)}",
                fix="name the column of the captions 'text', or pass --text-column NAME",
            )

    def _json(self) -> Iterator[Record | Reject]:
        with open_bytes(self.path) as file:
            content = file.read(MAX_JSON_BYTES + 1)
        if len(content) > MAX_JSON_BYTES:
            raise SetClipError(f"{self.path}: over {MAX_JSON_BYTES:,} bytes of JSON", fix="turn it into .jsonl")
        if content.startswith(_UTF16_MARKS):
            raise _not_utf8(self.path, "starts as UTF-16 does")
        try:
            whole = json.loads(content.removeprefix(codecs.BOM_UTF8).decode())
        except UnicodeDecodeError as error:
            raise _not_utf8(self.path, f"byte 0x{content[error.start]:02x} at offset {error.start:,}") from error
        except (ValueError, RecursionError) as error:
            raise SetClipError(f"{self.path}: not JSON ({error})", fix="fetch or export the file again") from error
        if isinstance(whole, dict) and isinstance(whole.get("annotations"), list):
            yield from _coco(whole)
        elif isinstance(whole, dict) and isinstance(whole.get("images"), list):
            yield from _published(whole["images"])
        elif isinstance(whole, list):
            counts: Counter[str] = Counter()
            for number, fields in enumerate(whole, 1):
                if isinstance(fields, dict):
                    yield self._from_fields(fields, f"entry {number}", counts)
                else:
                    yield Reject(f"entry {number}", "no object")
        else:
            raise SetClipError(
                f"{self.path}: neither a list, nor 'images' with 'sentences', nor COCO's 'annotations'",
                fix='write one {"text": ...} a line into a .jsonl file',
            )

    def _from_fields(self, fields: Mapping[str, Any], location: str, counts: Counter[str]) -> Record | Reject:
        names = (self._text_field,) if self._text_field else TEXT_FIELDS
        text = next((fields[name] for name in names if fields.get(name) is not None), None)
        if text is None:
            return Reject(location, f"no field {' or '.join(map(repr, names))}")
        if not isinstance(text, str):
            return Reject(location, f"caption is a {type(text).__name__}, no string")
        group = next((str(fields[name]) for name in GROUP_FIELDS if fields.get(name) not in (None, "")), None)
        identifier = fields.get("id")
        if identifier is None:
            identifier = f"{group}#{counts[group]}" if group else f"{self.path.name}:{location.split()[-1]}"
        if group is not None:
            counts[group] += 1
        label, split = fields.get("label"), fields.get("split")
        return caption_record(
            text,
            location,
            str(identifier),
            group=group,
            label=None if label is None else str(label),
            split=None if split is None else str(split),
        )


def caption_record(
    text: str,
    location: str,
    identifier: str,
    *,
    group: str | None = None,
    label: str | None = None,
    split: str | None = None,
) -> Record | Reject:
    """Builds a record from a caption as it stands in a file, or says why it cannot."""
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
        split=_SPLIT_NAMES.get(split, split) if split else None,
        group=group,
        columns=(group,),
    )


def class_of_name(filename: str) -> str | None:
    """The class that remote-sensing sets put in front of a file name: ``storage_tanks_12.jpg`` -> ``storage_tanks``."""
    found = _CLASS_PREFIX.fullmatch(filename.rpartition("/")[2])
    return found[1] if found else None


def _published(images: Iterable[Any]) -> Iterator[Record | Reject]:
    """``{"images": [{"filename", "split", "sentences": [{"raw"}]}]}``, the layout of Karpathy and Fei-Fei (2015)."""
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
                label=class_of_name(filename),
                split=split if isinstance(split, str) else None,
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


def _not_utf8(path: Path, found: str) -> SetClipError:
    return SetClipError(
        f"{path}: not UTF-8 ({found})",
        fix=f"iconv -f ENCODING -t UTF-8 {path.name} > utf8-{path.name}   (ENCODING is often UTF-16 or ISO-8859-1)",
    )
