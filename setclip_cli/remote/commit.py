"""How a folder on another machine is replaced at once, though its server replaces one file at a time.

    PLACE/.setclip/writer.json       who writes there now; see `claim`
    PLACE/.setclip/begun             there until the first command that writes there has finished
    PLACE/.setclip/commit.json       there only while files are replaced: where the new ones are, and what is removed
    PLACE/.setclip/new-*/NAME        the new files, until they have taken the places of the old ones

The new files are sent beside the old ones. Then commit.json is written: from this moment on the folder is the new one,
because who reads it through setclip takes the files that it names. Then they are copied to their places, and all of
`.setclip` is removed. A writer that was killed before commit.json has changed nothing; after it, the next one goes on.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from setclip_cli.errors import SetClipError
from setclip_cli.remote.errors import ChangedError, tried
from setclip_cli.remote.store import Entry, Store

if TYPE_CHECKING:
    from collections.abc import Mapping

OURS = ".setclip"
CLAIM = f"{OURS}/writer.json"
COMMIT = f"{OURS}/commit.json"
BEGUN = f"{OURS}/begun"


class Commit(BaseModel):
    """The content of commit.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: dict[str, str]  # name -> where the new file is
    removed: list[str]


def is_ours(name: str) -> bool:
    """Whether a file is one by which setclip replaces others, and no part of the folder."""
    return name.startswith(f"{OURS}/")


def read_commit(store: Store, entries: Mapping[str, Entry]) -> Commit | None:
    """The replacement that has begun; None if there is none.

    Raises:
        ChangedError: it has ended since the folder was listed.
    """
    if COMMIT not in entries:
        return None

    def read() -> bytes:
        try:
            return store.read(COMMIT, 0, max(entries[COMMIT].size, 1))
        except FileNotFoundError:
            raise ChangedError(COMMIT) from None

    try:
        return Commit.model_validate(json.loads(tried(read, store.place, "be read")))
    except (ValueError, ValidationError) as error:
        raise SetClipError(
            f"{store.place.inside(COMMIT).shown}: is not what setclip wrote",
            fix="if nobody writes there now, remove this file: the folder is then as its other files are",
        ) from error


def committed(store: Store, entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """The files of a folder with those that take the places of others in theirs. Raises ChangedError."""
    commit = read_commit(store, entries)
    if commit is None:
        return dict(entries)
    found = {name: entry for name, entry in entries.items() if name not in commit.removed}
    for name, key in commit.files.items():
        if key not in entries:
            raise ChangedError(name)
        entry = entries[key]
        found[name] = Entry(entry.size, entry.tag, entry.modified_s, key)
    return found
