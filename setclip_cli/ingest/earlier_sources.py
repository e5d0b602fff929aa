"""The sources before the next one, kept so that a question about all of them costs the same for many as for few."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from setclip_cli.dataset.modality import Modality


class EarlierSources:
    """What their entries in dataset.json say.

    Attributes:
        places: (path, modality) -> the place of the source, counted from 0.
    """

    def __init__(self, entries: Iterable[dict[str, Any]] = ()) -> None:
        self.places: dict[tuple[str, str], int] = {}
        self._count = 0
        self._chain = b""
        self._ends = PathEnds()
        self._ends_of: dict[str, PathEnds] = {}  # modality -> the ends of its sources
        for entry in entries:
            self.add(entry)

    def add(self, entry: dict[str, Any]) -> None:
        """Adds the entry of a source that is read to its end."""
        self.places.setdefault(source_key(entry), self._count)
        self._count += 1
        text = json.dumps(entry, sort_keys=True).encode()
        self._chain = hashlib.sha256(self._chain + hashlib.sha256(text).digest()).digest()
        path = Path(entry["path"])
        self._ends.add(path)
        self._ends_of.setdefault(entry["modality"], PathEnds()).add(path)

    def identity(self) -> str:
        """A hash of all entries in their order."""
        return self._chain.hex()

    def new_ends(self, path: Path) -> tuple[str, ...]:
        """The ends of a source's path that no earlier source has, the shortest first."""
        return self._ends.new_ends(path)

    def group_source(self, path: Path, modality: Modality | None) -> str | None:
        """The shortest such end among the sources of one modality; None for the first source of it."""
        ends = self._ends_of.get(str(modality))
        return next(iter(ends.new_ends(path)), None) if ends is not None and ends.has_other(path) else None


class PathEnds:
    """The ends of whole paths: ``/data/a.txt`` has the ends ``a.txt`` and ``data/a.txt``."""

    def __init__(self) -> None:
        self._paths: set[Path] = set()
        self._times: Counter[str] = Counter()  # how many of the paths have an end

    def add(self, path: Path) -> None:
        if path not in self._paths:
            self._paths.add(path)
            self._times.update(_ends(path))

    def has_other(self, path: Path) -> bool:
        """Whether there is a path that is not this one."""
        return len(self._paths) > (path in self._paths)

    def new_ends(self, path: Path) -> tuple[str, ...]:
        """The ends of a path, the shortest first, from the first on that none of the other paths has.

        ``/data/test/a.txt`` after ``/data/train/a.txt`` gives ``test/a.txt`` and ``data/test/a.txt``.
        """
        ends, own = _ends(path), path in self._paths
        taken = sum(self._times[end] > own for end in ends)  # an end of a taken one is taken
        return tuple(ends[taken:])


def source_key(entry: dict[str, Any]) -> tuple[str, str]:
    """What tells the sources of a DATASET apart."""
    return entry["path"], entry["modality"]


def _ends(path: Path) -> list[str]:
    parts = [part for part in path.parts if part != path.anchor]
    return ["/".join(parts[-length:]) for length in range(1, len(parts) + 1)]
