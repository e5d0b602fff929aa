"""From captions as they are in a file to records, or the reasons why they cannot be used.

These are rejects: an empty caption, one over ``MAX_CAPTION_CHARS``, and what is no text. White space at both ends of a
caption is dropped.

Ids: the one that the data give; else ``<group>#<n>``, n counting the group's captions from 0; else ``<file>:<line>``.
A group is the id of the image (or protein) that the caption describes. The captions of one list share a group: that
of their image, or ``<file>:<line>`` if no image is named. Such a made-up group is made unique like a made-up id.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from setclip_cli.ingest.sources.base import Item, Record, Reject, left_out, sha256_text, usable_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_CAPTION_CHARS = 65_536
EMPTY_LIST = "empty list of captions"


class Captions(NamedTuple):
    """The captions of one item, as found: an answer each."""

    texts: list[Any]  # what is no text is a reject
    identifier: str | None = None
    made_up: bool = False  # whether the data do not have this id
    group: str | None = None
    made_up_group: bool = False  # whether the data do not have this group
    of_image: bool = False  # whether the item holds an image, which has no name
    label: str | None = None
    split: str | None = None
    part: str = "caption"  # what one of several is called in a location
    repairs: tuple[str, ...] = ()

    def item(self, location: str) -> Item:
        return Item(location, self, holds=max(len(self.texts), 1))


def caption_answers(file_name: str) -> Callable[[Item], Iterator[Record | Reject]]:
    """Answers to items that hold `Captions` or a Reject; it counts the captions of each group, for their ids."""
    counts: Counter[str] = Counter()

    def answers(item: Item) -> Iterator[Record | Reject]:
        found, location = item.content, item.location
        if isinstance(found, Reject):
            yield found
            return
        if not found.texts:
            yield left_out(location, EMPTY_LIST)
        several = len(found.texts) > 1
        row = f"{file_name}:{location.rpartition(' ')[2]}"
        group, made_up_group = found.group, found.made_up_group
        if not group and (several or found.of_image):
            group, made_up_group = row, True
        for number, text in enumerate(found.texts):
            where = f"{location}, {found.part} {number + 1}" if several else location
            if not several and not isinstance(text, str):
                yield Reject(where, _no_text(text))
                continue
            identifier = f"{group}#{counts[group]}" if group else row
            if group is not None:
                counts[group] += 1
            if found.identifier is not None:
                identifier = f"{found.identifier}#{number}" if several else found.identifier
            record = (
                caption_record(
                    text,
                    where,
                    identifier,
                    made_up=found.made_up or found.identifier is None,
                    group=group,
                    made_up_group=made_up_group,
                    label=found.label,
                    split=found.split,
                )
                if isinstance(text, str)
                else Reject(where, _no_text(text))
            )
            yield record._replace(repairs=found.repairs) if isinstance(record, Record) and found.repairs else record

    return answers


def _no_text(value: Any) -> str:
    return "no text in place of a caption" if value is None else f"caption is no string: {type(value).__name__}"


def caption_record(
    text: str,
    location: str,
    identifier: str,
    *,
    made_up: bool,
    group: str | None = None,
    made_up_group: bool = False,
    label: str | None = None,
    split: str | None = None,
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
    if not stripped.isprintable() and not any(each.isprintable() and each != " " for each in stripped):
        return Reject(location, "empty caption")  # nothing but marks that show nothing, such as a zero-width space
    return Record(
        "caption",
        identifier,
        stripped,
        digest,
        label=label or None,
        split=split or None,
        group=group,
        columns=(group,),
        made_up=made_up,
        made_up_group=made_up_group,
    )
