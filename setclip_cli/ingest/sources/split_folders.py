"""What the folders that images lie in say: the split and the class."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
_FILLERS = {"image", "images", "img", "imgs", "photos", "set", "data", "dataset", "split", "of", "part", "shard"}
_WORDS = re.compile(r"[^\W\d_]+|\d+|[^\w\s.-]+")


def split_of_folder(name: str) -> str | None:
    """The split that the name of one folder or archive says, or None.

    The name is one of the words of ``_SPLITS`` in any case, perhaps with numbers and words such as ``images``:
    ``train``, ``Test``, ``train2017``, ``val_images``, ``train-00000-of-00010``.
    """
    words = [word.lower() for word in _WORDS.findall(name)]
    found = [_SPLITS[word] for word in words if word in _SPLITS]
    rest = [word for word in words if word not in _SPLITS and word not in _FILLERS and not word.isdecimal()]
    return found[0] if len(found) == 1 and not rest else None


class FolderNames:
    """The splits and classes that the paths of one source's images give.

    The outermost folder that names a split gives the split; the name of the SOURCE itself counts as the outermost. The
    innermost folder that names no split gives the class, if the images are in two such folders or more.

    Args:
        source: The name of the folder or archive; empty for a single image.
        paths: Those of all images below the source, with forward slashes.
    """

    def __init__(self, source: str, paths: Iterable[str]) -> None:
        self._split = split_of_folder(_stem(source))
        self._known: dict[str, tuple[str | None, str | None]] = {}
        folders = {path.rpartition("/")[0] for path in paths}
        self._labelled = len({_classes(folder) for folder in folders}) > 1

    def of(self, path: str) -> tuple[str | None, str | None]:
        """(split, class) of the image with this path; None for what its folders do not say."""
        folder = path.rpartition("/")[0]
        if folder not in self._known:
            splits = (split_of_folder(name) for name in folder.split("/"))
            classes = _classes(folder) if self._labelled else ()
            split = self._split or next((split for split in splits if split), None)
            self._known[folder] = split, classes[-1] if classes else None
        return self._known[folder]


def _classes(folder: str) -> tuple[str, ...]:
    """The folders of a path that name no split."""
    return tuple(name for name in folder.split("/") if name and split_of_folder(name) is None)


def _stem(name: str) -> str:
    """The name of an archive without its suffixes; a folder's name has none that count."""
    stem = PurePath(name)
    while stem.suffix.lower() in (".zip", ".tar", ".tgz", ".tbz2", ".gz", ".bz2", ".zst"):
        stem = PurePath(stem.stem)
    return stem.name
