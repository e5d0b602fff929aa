"""Which image a file beside it belongs to: ``scene.jpg`` and ``scene.txt``, in WebDataset shards and other archives.

A WebDataset key ends at the first dot of a name, but names such as ``22.05.jpg`` and ``22.06.jpg`` exist. So a file
belongs to the image with the longest common stem: one of the two stems (the name without its last suffix) is the
beginning of the other, part by part between the dots. Where two images have it, or two files of one kind fit one image
equally well, nothing is decided.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

_NAMED = 4  # images or files that a reason names
# Words of a file's name that say what is in it, and not whose it is.
_CONTENT_WORDS = {"caption", "captions", "text", "txt", "label", "labels", "class", "cls", "meta", "metadata", "info"}


class _Name(NamedTuple):
    folder: str
    parts: tuple[str, ...]  # of the stem
    suffix: str


class Samples:
    """The images of an archive and the files beside them.

    Args:
        images: The names of the images.
        beside: The names of the other files.
    """

    def __init__(self, images: Iterable[str], beside: Iterable[str]) -> None:
        self._images: dict[tuple[str, str], list[tuple[_Name, str]]] = {}
        for image in images:
            name = _name(image)
            self._images.setdefault((name.folder, name.parts[0]), []).append((name, image))
        files = Counter(beside)
        found = {file: self._images_of(_name(file, _CONTENT_WORDS)) for file in files}
        rivals: dict[tuple[str, str], list[str]] = {}
        for file, images_of_file in found.items():
            if len(images_of_file) == 1:
                rivals.setdefault((images_of_file[0], _name(file).suffix), []).extend([file] * files[file])
        self._image: dict[str, str] = {}
        self._unclear: dict[str, str] = {}
        for file, images_of_file in found.items():
            if len(images_of_file) > 1:
                self._unclear[file] = f"fits several images: {_some(images_of_file)}"
            elif images_of_file:
                of_image = rivals[images_of_file[0], _name(file).suffix]
                closest = [each for each in of_image if _name(each).parts == _name(images_of_file[0]).parts] or of_image
                if closest == [file]:
                    self._image[file] = images_of_file[0]
                else:
                    self._unclear[file] = f"one of several files that fit one image: {_some(of_image)}"

    def image_of(self, file: str) -> str | None:
        """The image that a file beside it belongs to, if there is one and it is clear which."""
        return self._image.get(file)

    def unclear(self, file: str) -> str | None:
        """Why it is not clear to which image a file belongs, or None."""
        return self._unclear.get(file)

    def _images_of(self, file: _Name) -> list[str]:
        """The images with the longest common stem."""
        best = 0
        found: list[str] = []
        for name, image in self._images.get((file.folder, file.parts[0]), []):
            if name.parts == file.parts:
                length = max(len(name.parts), 1) + 1
            else:
                length = min(len(name.parts), len(file.parts))
                if name.parts[:length] != file.parts[:length]:
                    continue
            if length > best:
                best, found = length, []
            if length == best:
                found.append(image)
        return found


def _name(path: str, content_words: Iterable[str] = ()) -> _Name:
    folder, _, base = path.rpartition("/")
    *parts, suffix = base.split(".")
    parts = parts or [suffix]
    while len(parts) > 1 and parts[-1].lower() in content_words:
        parts.pop()
    return _Name(folder, tuple(parts), suffix.lower())


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
