"""What the names of folders and files say: the split of what is in them, and the class of images."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import TYPE_CHECKING, NamedTuple

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
# Words that the name of a file may hold beside a split. With any other (`steam_train`, `unit_test`) nothing is sure.
_FILE_FILLERS = {
    "ann", "annotation", "annotations", "caption", "captions", "coco", "description", "descriptions", "file", "files",
    "karpathy", "list", "protein", "proteins", "record", "records", "row", "rows", "sample", "samples", "sentence",
    "sentences", "sequence", "sequences", "text", "texts",
}  # fmt: skip
_HASH = re.compile(r"-[0-9a-f]{16}$")  # of shards that Hugging Face wrote: train-00000-of-00001-b21a0d5e8f3c4a17
_WORDS = re.compile(r"[^\W\d_]+|\d+|[^\w\s.-]+")


def split_of_folder(name: str) -> str | None:
    """The split that the name of one folder or archive says, or None.

    The name is one of the words of ``_SPLITS`` in any case, perhaps with numbers and words such as ``images``:
    ``train``, ``Test``, ``train2017``, ``val_images``, ``train-00000-of-00010``.
    """
    found, others = _splits_in(name)
    return found[0] if len(found) == 1 and not others - _FILLERS else None


def _splits_in(name: str) -> tuple[list[str], set[str]]:
    """The splits whose words are in a name, and its other words but numbers."""
    words = [word.lower() for word in _WORDS.findall(name)]
    found = [_SPLITS[word] for word in words if word in _SPLITS]
    return found, {word for word in words if word not in _SPLITS and not word.isdecimal()}


class FileSplit(NamedTuple):
    """The split of the rows of a file that have none of their own."""

    split: str | None = None
    why: str = ""  # for the summary


NO_SPLIT = FileSplit()


def split_of_file(path: PurePath, *, by_name: bool = True) -> FileSplit:
    """What the folder that a file lies in, or its name, says: ``test/a.csv``, ``test.csv``, ``captions_val2017.json``.

    A name may also hold numbers and words such as ``captions``, as in ``_FILE_FILLERS``. If it holds another word, or
    if the folder and the name contradict each other, there is no split, but a word for the summary.
    """
    of_folder = split_of_folder(path.parent.name)
    stem = _HASH.sub("", PurePath(_stem(path.name)).stem)
    found, others = _splits_in(stem) if by_name else ([], set())
    of_name = found[0] if len(found) == 1 else None
    if of_name and of_folder and of_name != of_folder:
        return FileSplit(None, f"although its folder says {of_folder} and its name {of_name}: choose with --split")
    if of_folder:
        return FileSplit(of_folder, "as the name of its folder says")
    if of_name and not others - _FILLERS - _FILE_FILLERS:
        return FileSplit(of_name, "as the name of its file says")
    unsure = of_name is not None and of_name != "train"
    return FileSplit(None, f"although the name of its file holds {of_name!r}: choose with --split" if unsure else "")


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
