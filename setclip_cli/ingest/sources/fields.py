"""What the fields of a row are called, and what their values mean: text, captions, a label, an id, a split."""

from __future__ import annotations

import ast
import json
import math
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TEXT_FIELDS = ("text", "caption", "raw", "sentence", "captions", "sentences", "title", "comment")
GROUP_FIELDS = (
    "group", "image_id", "image", "filename", "file_name", "filepath", "image_name", "image_path", "img", "img_path",
    "video_id", "video",
)  # fmt: skip
IMAGE_FIELDS = ("image", "img", "jpg", "png", "bytes")
IMAGE_ID_FIELDS = ("id", "filename", "file_name", "path", "image_id")
WHOLE_LABEL = "label such as 3.0 read as 3"
SPACE_AROUND_LABEL = "white space at the ends of a label dropped"
WHOLE_FLOAT = re.compile(r"(-?\d{1,15})\.0+")
_SPLIT_NAMES = {
    **{name: name for name in ("train", "val", "test")},
    **{"valid": "val", "validation": "val", "dev": "val", "restval": "train", "training": "train"},
}
_MAX_LIST_CHARS = 1 << 20


class Fields(dict[str, Any]):
    """The fields of a row, and what was changed to read it."""

    repairs: tuple[str, ...] = ()


def first_named(fields: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first of the named fields that has a value, or None."""
    return next((fields[name] for name in names if fields.get(name) not in (None, "")), None)


def text_of(value: Any) -> str | None:
    """A description or an id as text; None if it is neither text nor a number."""
    if type(value) is str:
        return value
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, str | int | float | Decimal) else None


def id_of(value: Any) -> tuple[str | None, str | None]:
    """(id, None); (None, None) if there is none; or (None, why the value cannot be an id)."""
    if value is None or value == "":
        return None, None
    if (text := text_of(value)) is not None:
        return text, None
    found = repr(float(value)) if isinstance(value, float | Decimal) else f"its type is {type(value).__name__}"
    return None, f"id cannot be used: {found}"


def label_of(value: Any) -> tuple[str | None, tuple[str, ...]]:
    """(label, what to count); (None, what to count) for a value that cannot be a label. 3.0 is the label 3."""
    if value is None:
        return None, ()
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        return str(int(value)), ()
    if isinstance(value, str):
        stripped = value.strip()
        if stripped != value:
            return label_of(stripped)[0], (*label_of(stripped)[1], SPACE_AROUND_LABEL)
        if value.isascii():
            return value or None, ()
        try:
            value.encode()
        except UnicodeEncodeError:
            return None, ("label not used: it is not UTF-8",)
    label = text_of(value)
    if label is not None or value is None or (isinstance(value, float | Decimal) and math.isnan(value)):
        return label or None, ()
    return None, (f"label not used: its type is {type(value).__name__}",)


def split_of(value: Any) -> str | None:
    """The split that a row gives, or None: train, val or test in any case, also for other names that they have.

    What cannot be a split is given as text that is no name of a split, so that it is a reject.
    """
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    text = text_of(value) or f"<{value!r}>"
    return _SPLIT_NAMES.get(text.strip().lower(), text)


def texts_of(value: Any) -> list[Any]:
    """The captions in a field, one by one: text, or what is there in place of a text.

    A list holds texts, or objects that have their text in one of ``TEXT_FIELDS``. It may be written as JSON, or as
    Python writes it.
    """
    if isinstance(value, str):
        return (_listed(value) if "[" in value else None) or [value]
    if isinstance(value, dict):
        inner = first_named(value, TEXT_FIELDS)
        return [value] if inner is None else texts_of(inner)
    if isinstance(value, list | tuple):
        return [text for each in value for text in (texts_of(each) if isinstance(each, dict) else [each])]
    return [value]


def _listed(text: str) -> list[Any] | None:
    """The texts of a list that is written as a string, or None if the string is no such list."""
    stripped = text.strip()
    if not (stripped.startswith(("['", '["', "[{")) and stripped.endswith("]")) or len(stripped) > _MAX_LIST_CHARS:
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(stripped)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        texts = texts_of(found) if isinstance(found, list) else []
        return texts if texts and all(isinstance(each, str) for each in texts) else None
    return None


def group_of(fields: Mapping[str, Any], image: Mapping[str, Any] | None) -> tuple[str | None, tuple[str, ...]]:
    """The image, video or protein that the captions of a row describe, by its id; and what is to be counted.

    Where the row holds the ``image`` itself, this is the id that the image gets: see ``image_id_of``.
    """
    notes: tuple[str, ...] = ()
    for name in GROUP_FIELDS if image is None else ("group",):
        value = fields.get(name)
        if value is None:
            continue
        if text := text_of(value):
            return text, notes
        if isinstance(value, list) or (isinstance(value, dict) and name not in IMAGE_FIELDS):
            notes = (f"group not used: its type is {type(value).__name__}",)
    return (image_id_of(fields, image) if image is not None else None), notes


def image_in(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """The image that a row of Parquet holds, as an object with its bytes, its path, or neither."""
    for name in IMAGE_FIELDS:
        value = fields.get(name)
        if type(value) is dict:
            return value
    return None


def image_id_of(fields: Mapping[str, Any], image: Any) -> str | None:
    """The id of an image in a row: its id or file name, else the path that is stored with its bytes."""
    path = image.get("path") if isinstance(image, dict) else None
    return text_of(first_named(fields, IMAGE_ID_FIELDS)) or text_of(path)
