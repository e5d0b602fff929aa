"""Images and captions in archives, also in WebDataset shards.

A member with the suffix of an image is one; of others, the first bytes say it, as for files in folders.
Folders give labels and splits as they do on disk. Files beside an image belong to it by their names (see `samples`):
``.cls`` gives its label, and so does a ``label`` in its ``.json``; ``.txt``, ``.caption`` and the ``caption`` or
``captions`` in ``.json`` give captions whose group is the image's name.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from setclip_cli.ingest.sources import rows
from setclip_cli.ingest.sources.base import Item, Record, Reject, Walk, left_out
from setclip_cli.ingest.sources.caption_record import MAX_CAPTION_CHARS, Captions, caption_answers
from setclip_cli.ingest.sources.fields import WHOLE_FLOAT, first_named, label_of, texts_of
from setclip_cli.ingest.sources.image import IMAGE_SUFFIXES, image_record, no_image
from setclip_cli.ingest.sources.members import Archive
from setclip_cli.ingest.sources.reader import Reader
from setclip_cli.ingest.sources.samples import Samples
from setclip_cli.ingest.sources.split_folders import FolderNames
from setclip_cli.pixels.bands import MAX_IMAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_SIDECAR_BYTES = 4 * MAX_CAPTION_CHARS
BESIDE = "label, caption or metadata of an image"
_CAPTION_SUFFIXES = (".txt", ".json", ".caption")
_BESIDE_SUFFIXES = (".cls", *_CAPTION_SUFFIXES)
_KNOWN_SUFFIXES = (*IMAGE_SUFFIXES, *_BESIDE_SUFFIXES)
_TEXT_FIELDS = ("caption", "captions", "text", "raw", "sentence", "sentences")  # a title is metadata
_LABEL_FIELDS = ("label", "cls", "class")
_MAX_CLASS_BYTES = 256


class ImageArchive(Reader):
    """The images of an archive, in the order of their names (.zip) or of the archive (.tar)."""

    def walk(self) -> Walk:
        archive = Archive(
            self.path, (".cls", ".json"), MAX_SIDECAR_BYTES, _label_in, known=_KNOWN_SUFFIXES, look=no_image
        )
        images = _images(archive)
        samples = Samples(images, (name for name in archive.names if name.lower().endswith(_BESIDE_SUFFIXES)))
        folders = _folders(self.path.name, images)
        labels, problems = _labels(archive, samples)

        def answer(item: Item) -> Record | Reject:
            name, content, _ = item
            if isinstance(content, Reject):
                return content
            if content is None:
                if problem := problems.get(name):
                    return Reject(name, problem, bad=False)
                beside = name.lower().endswith(_BESIDE_SUFFIXES)
                other = archive.heads.get(name) or Reject(name, "no image suffix", bad=False)
                return left_out(name, BESIDE) if beside else other._replace(location=name)
            split, label = folders.of(_with_slashes(name))
            return image_record(name, content, name, labels.get(name) or label, made_up=True, split=split)

        items = archive.members(frozenset(images).__contains__, MAX_IMAGE_BYTES)
        return Walk(items, lambda item: (answer(item),), lambda: archive.count, one_each=True)


class CaptionArchive(Reader):
    """The captions of WebDataset shards: ``.txt`` and ``.caption`` members, and the captions in ``.json`` ones."""

    def walk(self) -> Walk:
        archive = Archive(self.path, known=_KNOWN_SUFFIXES, look=no_image)
        images = _images(archive)
        are_images = frozenset(images)
        samples = Samples(images, (name for name in archive.names if name.lower().endswith(_CAPTION_SUFFIXES)))
        folders = _folders(self.path.name, images)

        def items() -> Iterator[Item]:
            for name, content, _ in archive.members(_is_caption, MAX_SIDECAR_BYTES):
                unclear = samples.unclear(name)
                found = left_out(name, "no caption") if name in are_images else _found(name, content)
                if isinstance(found, Reject):
                    yield Item(name, found)
                elif unclear and found.texts:
                    yield Item(name, Reject(name, unclear))
                else:
                    image = samples.image_of(name)
                    group = image or (name if len(found.texts) > 1 else None)
                    made_up_group = image is None and group is not None
                    split, _ = folders.of(_with_slashes(name))
                    yield found._replace(group=group, made_up_group=made_up_group, split=split).item(name)

        return Walk(items(), caption_answers(self.path.name), lambda: archive.count)


def _folders(archive: str, images: list[str]) -> FolderNames:
    return FolderNames(archive, map(_with_slashes, images))


def _with_slashes(name: str) -> str:
    """The name of a member as programs for Windows may have written it."""
    return name.replace("\\", "/")


def _is_caption(name: str) -> bool:
    return name.lower().endswith(_CAPTION_SUFFIXES)


def _images(archive: Archive) -> list[str]:
    """The members that are images, as their names or, where these do not say it, their first bytes say."""
    return [
        name
        for name in archive.names
        if name.lower().endswith(IMAGE_SUFFIXES) or (name in archive.heads and archive.heads[name] is None)
    ]


def _found(name: str, content: bytes | Reject | None) -> Captions | Reject:
    """The captions of a member, or what else it is."""
    if isinstance(content, Reject):
        return content
    if content is None:
        is_label = name.lower().endswith(".cls")
        return left_out(name, "no caption") if is_label else Reject(name, "no caption suffix", bad=False)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return Reject(name, "not UTF-8")
    if not name.lower().endswith(".json"):
        return Captions([text], identifier=name, made_up=True)
    try:
        fields = rows.parse_json(text)
    except rows.UnusableJsonError as error:
        return Reject(name, str(error))
    except ValueError:
        return Reject(name, "not JSON")
    value = first_named(fields, _TEXT_FIELDS) if isinstance(fields, dict) else fields
    if value is None:
        return left_out(name, "metadata without a caption")
    label, notes = label_of(fields.get("label") if isinstance(fields, dict) else None)
    return Captions(texts_of(value), identifier=name, made_up=True, label=label, repairs=notes)


class _Label(NamedTuple):
    text: str | None
    problem: str | None = None  # why there is none


def _labels(archive: Archive, samples: Samples) -> tuple[dict[str, str], dict[str, str]]:
    """Image -> its label; member -> why it gives none."""
    found: dict[str, dict[str, str]] = {}  # image -> member -> label
    problems: dict[str, str] = {}
    for name, label in archive.small.items():
        if label.problem or (unclear := samples.unclear(name)):
            problems[name] = label.problem or f"label that {unclear}"
        elif image := samples.image_of(name):
            found.setdefault(image, {})[name] = label.text
    for image, labels in found.items():
        if len(set(labels.values())) > 1:
            problems |= dict.fromkeys(labels, f"one of several labels: {image}")
    clear = {image: set(labels.values()) for image, labels in found.items()}
    return {image: labels.pop() for image, labels in clear.items() if len(labels) == 1}, problems


def _label_in(name: str, content: bytes | Reject) -> _Label | None:
    """The label that a member gives; None if it has none, and need not have one."""
    found = _class_of(content) if name.lower().endswith(".cls") else _label_in_json(content)
    return found if found.text or found.problem else None


def _class_of(content: bytes | Reject) -> _Label:
    """What a ``.cls`` member says: a word or a number, perhaps as JSON."""
    if isinstance(content, Reject):
        return _Label(None, content.reason)
    if len(content) > _MAX_CLASS_BYTES:
        return _Label(None, f"label longer than {_MAX_CLASS_BYTES} bytes")
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return _Label(None, "label that is not UTF-8")
    if whole := WHOLE_FLOAT.fullmatch(text):
        return _Label(whole[1])
    if text.startswith(("[", "{", '"')):
        try:
            return _of_value(json.loads(text))
        except (ValueError, RecursionError):
            return _Label(text)
    return _Label(text)


def _label_in_json(content: bytes | Reject) -> _Label:
    """What a ``.json`` member says in one of ``_LABEL_FIELDS``; one that cannot be read matters to captions only."""
    try:
        fields: Any = json.loads(content) if isinstance(content, bytes) else None
    except (ValueError, RecursionError):
        return _Label(None)
    return _of_value(first_named(fields, _LABEL_FIELDS) if isinstance(fields, dict) else None)


def _of_value(value: Any) -> _Label:
    label, notes = label_of(value)
    return _Label(label) if label is not None else _Label(None, *notes)
