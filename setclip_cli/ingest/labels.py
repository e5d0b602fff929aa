"""The labels that a user gives in a file, joined to the records of the sources that are read with them."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from setclip_cli.errors import argument
from setclip_cli.files.atomic import write_text
from setclip_cli.ingest import names
from setclip_cli.ingest.annotations import read_labels, whole_numbers
from setclip_cli.ingest.names import Found, Name
from setclip_cli.ingest.sources.archive import ImageArchive
from setclip_cli.ingest.sources.base import Record, Reject, sha256_text, usable_id
from setclip_cli.ingest.sources.geotiff import GeoFolder
from setclip_cli.ingest.sources.image import ImageFolder
from setclip_cli.ingest.sources.vectors.source import VectorSource
from setclip_cli.joins import Join, Side, check
from setclip_cli.places import named

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from setclip_cli.dataset.modality import Modality
    from setclip_cli.ingest.sources.base import Item, Source


_TILE = re.compile(r"(.+\.\w+)#\d+_\d+")


class Offered(NamedTuple):
    """The names of one record: its own, and that of what it describes or is a part of."""

    own: Name
    whole: Name | None = None


def offered(source: Source) -> Iterator[Offered]:
    """The names of a source's records. Images are not decoded for it if their paths are their ids."""
    path = named(source.path.resolve())
    if isinstance(source, ImageFolder | ImageArchive) and not isinstance(source, GeoFolder):
        for item in source.walk().items:
            usable = not isinstance(item.content, Reject) and usable_id(item.location) is None
            if usable and _is_image(source, item):
                yield Offered(_made_up(item.location, path))
        return
    if isinstance(source, VectorSource):
        for rows in source.rows():
            for row in range(len(rows)):
                if row not in rows.reasons:
                    yield offered_by(rows.without_vector(row), path)
        return
    for record in source.records(0, 1):
        if isinstance(record, Record):
            yield offered_by(record, path)


def _is_image(source: ImageFolder | ImageArchive, item: Item) -> bool:
    if isinstance(source, ImageFolder):
        return item.location not in source.not_images
    return item.content is not None


def offered_by(record: Record, source: str) -> Offered:
    """The names of one record of the source at this path. A made-up id means something in its own source only."""
    own = _made_up(record.id, source) if record.made_up else Name(record.id)
    if record.group is not None:
        return Offered(own, _made_up(record.group, source) if record.made_up_group else Name(record.group))
    tile = _TILE.fullmatch(record.id) if isinstance(record.payload, bytes) else None
    return Offered(own, own._replace(id=tile[1]) if tile else None)


def _made_up(identifier: str, source: str) -> Name:
    folder, _, name = source.rpartition("/")
    return Name(identifier, folder if identifier == name else source)


def labels_by_modality(path: str | Path | None, sources: Mapping[Modality, Sequence[Source]]) -> dict[Modality, Labels]:
    """The same labels for the sources of several modalities: it is enough if those of one of them match."""
    if path is None:
        return {}
    labels = {modality: Labels(path, opened) for modality, opened in sources.items()}
    for each in labels.values():
        each.others = [other for other in labels.values() if other is not each]
    return labels


class Labels:
    """Labels by the ids of records, or by the groups of captions; other spellings of an id are found as well.

    Args:
        path: The file, or None.
        sources: All that are read with these labels: a label that could belong to two of their records belongs to none.
        required: Whether it is an error if no label belongs to a record of these sources.

    Attributes:
        join: What matched; None before `match`.
        others: The same labels for the sources of other modalities; it is enough if one of them matches.
        notes: How the file was read, for the summary.
    """

    def __init__(
        self, path: str | Path | None = None, sources: Sequence[Source] = (), *, required: bool = True
    ) -> None:
        self._name = "" if path is None else Path(path).name
        self._labels = read_labels(Path(path)) if path is not None else {}
        self._sources, self._required = sources, required
        self._fix = ""
        self.others: Sequence[Labels] = ()
        numbers = whole_numbers(self._labels)
        self.notes = (f"labels of {self._name} such as 3.0 read as 3",) if numbers else ()
        self._labels = numbers or self._labels
        self._label_of: dict[Name, str] = {}
        self.join: Join | None = None

    def __len__(self) -> int:
        return len(self._labels)

    def write(self, folder: Path) -> Path:
        """Writes what the labels were found to belong to, for other processes; the file is named by its content."""
        text = json.dumps([[*name, label] for name, label in self._label_of.items()])
        path = folder / f"labels-{sha256_text(text)[:32]}.json"
        write_text(path, text)
        return path

    @classmethod
    def read(cls, path: Path) -> Labels:
        """What `write` wrote."""
        labels = cls()
        labels._label_of = {Name(*name): label for *name, label in json.loads(path.read_text(encoding="utf-8"))}
        labels._labels = {name.id: label for name, label in labels._label_of.items()}
        return labels

    def match(self) -> None:
        """Joins the labels to the records of the sources, once.

        Raises:
            SetClipError: none of the labels belongs to a record, here or in ``others``, and they are required.
        """
        if not self._labels or self.join is not None:
            return
        join = self._joined()
        needed = self._required and not any(other._matches() for other in self.others)
        self.join = check(join, fix=self._fix, tried=names.TRIED) if join.left.matched or needed else join

    def _matches(self) -> bool:
        return (self.join or self._joined()).left.matched > 0

    def _joined(self) -> Join:
        records = [each for source in self._sources for each in offered(source)]
        every = dict.fromkeys(name for each in records for name in each if name is not None)
        found = names.find(self._labels, lambda: every)
        self._label_of, clashes = _labels_of_names(self._labels, found)
        several = {text: meant.in_words() for text, meant in found.items() if meant.only is None} | clashes
        matched = found.keys() - several.keys()
        lone = next((each.own.id for each in records if self._label(each) is None), None)
        join = Join(
            Side.of(f"labels of {self._name}", self._labels, matched),
            Side("records", len(records), sum(self._label(each) is not None for each in records), lone),
            ambiguous=len(several),
            candidates=next((f"{text!r}: {words}" for text, words in sorted(several.items())), None),
            by=dict(sorted(Counter(found[text].step for text in matched).items())),
            both=True,
        )
        near = names.suggestion(str(join.left.example), every)
        like = f"{join.left.example!r} may be {near!r}; " if near else ""
        self._fix = f"{like}write the ids as setclip has them, or leave {argument('labels')} out"
        return join

    def of(self, record: Record, source: str) -> str | None:
        """The label of a record of the source at this path: that of the file, else the one that the source gives."""
        label = self._label(offered_by(record, source))
        return label if label is not None else record.label

    def _label(self, record: Offered) -> str | None:
        label = self._label_of.get(record.own)
        return self._label_of.get(record.whole) if label is None and record.whole is not None else label


def _labels_of_names(labels: dict[str, str], found: dict[str, Found]) -> tuple[dict[Name, str], dict[str, str]]:
    """(name -> its label; text -> why it gives no label). Of two texts for one name the stricter match counts."""
    best: dict[Name, list[str]] = {}
    for text, meant in found.items():
        if (name := meant.only) is not None:
            rivals = best.setdefault(name, [])
            if rivals and found[rivals[0]].strictness > meant.strictness:
                rivals.clear()
            if not rivals or found[rivals[0]].strictness == meant.strictness:
                rivals.append(text)
    label_of: dict[Name, str] = {}
    clashes: dict[str, str] = {}
    for name, texts in best.items():
        if len({labels[text] for text in texts}) == 1:
            label_of[name] = labels[texts[0]]
        else:
            clashes.update(dict.fromkeys(texts, f"{name.id}, which {' and '.join(map(repr, texts[:3]))} fit as well"))
    return label_of, clashes
