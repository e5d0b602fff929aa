"""Captions in the JSON layouts in which data sets are published."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Any

from setclip_cli.errors import SetClipError
from setclip_cli.ingest.sources import rows
from setclip_cli.ingest.sources.base import Item, Reject, left_out
from setclip_cli.ingest.sources.caption_record import Captions
from setclip_cli.ingest.sources.fields import TEXT_FIELDS, first_named, label_of, split_of, texts_of
from setclip_cli.ingest.sources.split_folders import split_of_folder
from setclip_cli.ingest.sources.streams import open_bytes, read_up_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

MAX_JSON_BYTES = 512 << 20
UNLISTED = "image is not in the list of images: its number is the group"
NAME_FIELDS = ("filename", "file_name", "image")
_CLASS_PREFIX = re.compile(r"([A-Za-z]+(?:_[A-Za-z]+)*)_\d+\.\w+")
_IMAGE_NAME = re.compile(r".+\.(?:jpe?g|png|webp|gif|bmp|tiff?|jp2|avif)", re.IGNORECASE)


def is_json_lines(path: Path) -> bool:
    """Whether a file has one JSON object a line, and more than one."""
    first = [line for _, line in zip(range(2), _lines_with_text(path), strict=False)]
    return len(first) == 2 and all(_is_object(line) for line in first)


def is_json_list(path: Path) -> bool:
    """Whether a file begins as a list, whatever its suffix says."""
    first = next(_lines_with_text(path), "")
    return isinstance(first, str) and first.lstrip().startswith("[")


def _lines_with_text(path: Path) -> Iterator[str | Reject]:
    return (line for _, line in rows.text_lines(path) if isinstance(line, Reject) or line.strip())


def _is_object(line: str | Reject) -> bool:
    try:
        return isinstance(line, str) and line.lstrip().startswith("{") and isinstance(rows.parse_json(line), dict)
    except rows.UnusableJsonError:
        return True
    except ValueError:
        return False


def captions_in_json(
    path: Path, table: rows.Table, from_fields: Callable[[Mapping[str, Any], str], Item]
) -> Iterator[Item]:
    """The items of a JSON file.

    Args:
        path: The file.
        table: Knows the names of fields.
        from_fields: Makes the item of an object in a list.

    Raises:
        SetClipError: it is not JSON, too large, or has none of the known layouts.
    """
    whole = _parsed(path)
    if isinstance(whole, dict) and isinstance(whole.get("annotations"), list):
        yield from _coco(whole)
    elif isinstance(whole, dict) and isinstance(whole.get("images"), list):
        yield from _by_image(whole["images"])
    elif isinstance(whole, dict) and whole and all(map(_is_by_class, whole.values())):
        yield from _by_class(whole)
    elif isinstance(whole, dict) and whole and all(map(_is_image_and_texts, *zip(*whole.items(), strict=True))):
        for number, (name, texts) in enumerate(whole.items(), 1):
            yield Captions(texts_of(texts), group=name).item(f"entry {number}")
    elif isinstance(whole, dict) and whole and all(map(_is_split, *zip(*whole.items(), strict=True))):
        entries = [_in_split(entry, split_of_folder(name)) for name, part in whole.items() for entry in part]
        yield from _entries(entries, table, from_fields)
    elif isinstance(whole, list) or (isinstance(whole, dict) and (set(whole) & set(TEXT_FIELDS) or _lists(whole))):
        entries = whole if isinstance(whole, list) else (_lists(whole) or [whole])
        yield from _entries(entries, table, from_fields)
    else:
        raise SetClipError(
            f"{path}: is neither a list, nor has it 'images' with 'sentences' or COCO's 'annotations'",
            fix='write one {"text": ...} a line into a .jsonl file',
        )


def class_of_name(filename: str) -> str | None:
    """The class that remote-sensing sets put in front of a file name: ``storage_tanks_12.jpg`` -> ``storage_tanks``."""
    found = _CLASS_PREFIX.fullmatch(filename.rpartition("/")[2])
    return found[1] if found else None


def _parsed(path: Path) -> Any:
    with open_bytes(path) as file:
        content = read_up_to(file, MAX_JSON_BYTES)
    if len(content) > MAX_JSON_BYTES:
        raise SetClipError(
            f"{path}: is JSON of over {MAX_JSON_BYTES:,} bytes",
            fix="write one record a line into a .jsonl file",
        )
    rows.refuse_utf16(path, content[:2])
    try:
        return rows.parse_json(content.removeprefix(codecs.BOM_UTF8).decode())
    except UnicodeDecodeError as error:
        raise rows.not_utf8(path, f"byte 0x{content[error.start]:02x} at offset {error.start:,}") from error
    except rows.UnusableJsonError as error:
        raise SetClipError(f"{path}: {error}", fix=error.fix) from error
    except ValueError as error:
        raise SetClipError(f"{path}: not JSON ({error})", fix="download or export the file again") from error


def _entries(
    entries: Sequence[Any], table: rows.Table, from_fields: Callable[[Mapping[str, Any], str], Item]
) -> Iterator[Item]:
    """A list of objects; or of texts, each of which is a caption."""
    texts = all(isinstance(entry, str) for entry in entries)
    renamed: dict[tuple[str, ...], list[str] | Reject] = {}
    for number, entry in enumerate(entries, 1):
        location = f"entry {number}"
        if isinstance(entry, dict):
            fields = table.named(entry, location, renamed)
            yield Item(location, fields) if isinstance(fields, Reject) else from_fields(fields, location)
        else:
            yield Captions([entry]).item(location) if texts else Item(location, Reject(location, "no object"))


def _lists(whole: Mapping[str, Any]) -> list[Any] | None:
    """The one list of objects in an object, such as that of ``{"version": 1, "data": [{...}]}``."""
    found = [value for value in whole.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    return found[0] if len(found) == 1 else None


def _by_image(images: Sequence[Any]) -> Iterator[Item]:
    """``{"images": [{"filename", "split", "sentences": [{"raw"}]}]}``, the layout of Karpathy and Fei-Fei (2015)."""
    named = [name for image in images if isinstance(image, dict) and (name := _name(image))]
    labelled = len({class_of_name(name) for name in named} - {None}) > 1  # not so for img_1.jpg, img_2.jpg
    for number, image in enumerate(images, 1):
        location = f"image {number}"
        name = _name(image) if isinstance(image, dict) else None
        if name is None:
            yield Item(location, Reject(location, "no 'filename'"))
            continue
        texts = texts_of(first_named(image, ("sentences", "captions", *TEXT_FIELDS)))
        if texts in ([], [None]):
            yield Item(location, Reject(location, "no 'sentences'"))
            continue
        label = class_of_name(name) if labelled else None
        yield Captions(texts, group=name, label=label, split=split_of(image.get("split")), part="sentence").item(
            location
        )


def _name(image: Mapping[str, Any]) -> str | None:
    return next((image[name] for name in NAME_FIELDS if isinstance(image.get(name), str)), None)


def _is_by_class(entries: Any) -> bool:
    return isinstance(entries, list) and bool(entries) and isinstance(entries[0], dict) and "filename" in entries[0]


def _by_class(whole: Mapping[str, list[Any]]) -> Iterator[Item]:
    """``{class: [{"filename", "split", "raw", "raw_1", ...}]}``, the layout of NWPU-Captions (Cheng et al. 2022)."""
    for label, entries in whole.items():
        for number, image in enumerate(entries, 1):
            location = f"{label} {number}"
            if not isinstance(image, dict) or not isinstance(image.get("filename"), str):
                yield Item(location, Reject(location, "no 'filename'"))
                continue
            texts = [value for name, value in image.items() if name == "raw" or name.startswith("raw_")]
            if not texts:
                yield Item(location, Reject(location, "no 'raw' text"))
                continue
            split = split_of(image.get("split"))
            yield Captions(texts, group=image["filename"], label=label, split=split, part="sentence").item(location)


def _is_split(name: str, entries: Any) -> bool:
    """Whether this is one part of ``{"train": [{...}], "test": [{...}]}``."""
    return split_of_folder(name) is not None and isinstance(entries, list)


def _in_split(entry: Any, split: str | None) -> Any:
    return {"split": split, **entry} if isinstance(entry, dict) else entry


def _is_image_and_texts(name: str, texts: Any) -> bool:
    return _IMAGE_NAME.fullmatch(name) is not None and isinstance(texts, str | list)


def _coco(whole: Mapping[str, Any]) -> Iterator[Item]:
    """``{"images": [{"id", "file_name"}], "annotations": [{"image_id", "id", "caption"}]}`` (Chen et al. 2015)."""
    images = whole.get("images")
    listed = [image for image in (images if isinstance(images, list) else []) if isinstance(image, dict)]
    names = {
        str(image["id"]): name for image in listed if isinstance(image.get("id"), int | str) and (name := _name(image))
    }
    described = set()
    for number, annotation in enumerate(whole["annotations"], 1):
        location = f"annotation {number}"
        texts = texts_of(first_named(annotation, TEXT_FIELDS)) if isinstance(annotation, dict) else [None]
        image_id = annotation.get("image_id", _name(annotation)) if isinstance(annotation, dict) else None
        if texts == [None] or not isinstance(image_id, int | str):
            yield Item(location, Reject(location, "no 'caption' and 'image_id'"))
            continue
        described.add(str(image_id))
        known = names.get(str(image_id))
        label, notes = label_of(annotation.get("label"))
        group, split = known or str(image_id), split_of(annotation.get("split"))
        unlisted = () if known or not names else (UNLISTED,)
        yield Captions(texts, group=group, label=label, split=split, repairs=(*notes, *unlisted)).item(location)
    for image_id, name in names.items():
        if image_id not in described:
            yield Item(name, left_out(name, "image without a caption"))
