"""What must be known of the rows of vectors, to decide about new ones: about 50 bytes a row, looked up in blocks.

A set and a dict of Python would need 205 bytes a row, and a million lookups one by one take longer than to write the
million vectors.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

Keys: TypeAlias = np.ndarray[Any, np.dtype[np.uint64]]  # (n, 2): keys of 128 bits
Codes: TypeAlias = np.ndarray[Any, np.dtype[np.int16]]
Mask: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]
_RECENT = 4096
_FILTER_BITS = 23
_BLOCK_ROWS = 65_536
DIGEST_BYTES = 32


class RowKeys(NamedTuple):
    """What tells rows from others."""

    ids: list[str]
    payloads: list[bytes]  # 16 bytes of sha256
    contents: list[bytes]  # the same object if the payloads are all of the contents
    grouped: list[bytes | None] | None = None  # what tells that a group has a content, of rows in groups

    def part(self, start: int, end: int) -> RowKeys:
        payloads = self.payloads[start:end]
        contents = payloads if self.contents is self.payloads else self.contents[start:end]
        return RowKeys(self.ids[start:end], payloads, contents, self.grouped[start:end] if self.grouped else None)

    def chosen(self, mask: Mask) -> RowKeys:
        places = np.flatnonzero(mask).tolist()
        payloads = [self.payloads[place] for place in places]
        contents = payloads if self.contents is self.payloads else [self.contents[place] for place in places]
        grouped = None if self.grouped is None else [self.grouped[place] for place in places]
        return RowKeys([self.ids[place] for place in places], payloads, contents, grouped)


class _Run(NamedTuple):
    """Keys in the order of their first half."""

    high: np.ndarray[Any, np.dtype[np.uint64]]
    low: np.ndarray[Any, np.dtype[np.uint64]]
    codes: Codes

    def sorted(self) -> _Run:
        order = np.argsort(self.high, kind="stable")  # it merges two sorted runs in one pass
        return _Run(self.high[order], self.low[order], self.codes[order])


class KeyIndex:
    """Keys of 128 bits, each with a small number. The first number that a key gets stays.

    The keys are in sorted runs. Of two runs of nearly one size, one is made, so that there are few of them.
    """

    def __init__(self) -> None:
        self._runs: list[_Run] = []  # the largest first
        self._recent: dict[tuple[int, int], int] = {}  # those that came one by one
        self._may_be_in = np.zeros(1 << _FILTER_BITS, bool)  # by the first bits of the keys

    def find(self, keys: Keys) -> Codes:
        """The number of each key; -1 for a key that is not there."""
        found = np.full(len(keys), -1, np.int16)
        order = np.flatnonzero(self._may_be_in[_first_bits(keys)])  # few, if most are new
        order = order[np.argsort(keys[order, 0])]  # neighbours are looked up near each other
        high, low = keys[order, 0], keys[order, 1]
        for run in self._runs:
            places = np.searchsorted(run.high, high)
            places[places == len(run.high)] = 0
            alike = np.flatnonzero(run.high[places] == high)
            for key, place in zip(alike.tolist(), places[alike].tolist(), strict=True):
                while place < len(run.high) and run.high[place] == high[key]:
                    if run.low[place] == low[key]:
                        found[order[key]] = run.codes[place]
                        break
                    place += 1
        if self._recent:
            for place in order.tolist():
                if found[place] < 0:
                    found[place] = self._recent.get((int(keys[place, 0]), int(keys[place, 1])), -1)
        return found

    def add(self, keys: Keys, codes: Codes) -> None:
        """Adds keys that are not there yet, each once."""
        if not len(keys):
            return
        self._may_be_in[_first_bits(keys)] = True
        self._runs.append(_Run(keys[:, 0], keys[:, 1], codes).sorted())
        while len(self._runs) > 1 and len(self._runs[-1].high) * 2 > len(self._runs[-2].high):
            joined = zip(*self._runs[-2:], strict=True)
            self._runs[-2:] = [_Run(*map(np.concatenate, joined)).sorted()]

    def find_one(self, key: Keys) -> int:
        """The number of the only one of ``keys``."""
        recent = self._recent.get((int(key[0, 0]), int(key[0, 1])))
        return recent if recent is not None else int(self.find(key)[0])

    def add_one(self, key: Keys, code: int) -> None:
        if self.find_one(key) >= 0:
            return
        self._recent[int(key[0, 0]), int(key[0, 1])] = code
        self._may_be_in[_first_bits(key)] = True
        if len(self._recent) >= _RECENT:
            recent, self._recent = self._recent, {}
            self.add(np.array(list(recent), np.uint64), np.array(list(recent.values()), np.int16))


def _first_bits(keys: Keys) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return keys[:, 0] >> np.uint64(64 - _FILTER_BITS)


def keys_of_ids(ids: Sequence[str]) -> Keys:
    """A key for each id, which is the same in this process only: two hashes of 64 bits, of the id in two forms."""
    keys = np.empty((len(ids), 2), np.int64)
    keys[:, 0] = list(map(hash, ids))
    keys[:, 1] = [hash(f"{each}\n") for each in ids]  # no id holds a line break
    return keys.view(np.uint64)


def keys_of_digests(digests: bytes, size: int) -> Keys:
    """The first 16 bytes of each digest of ``size`` bytes."""
    return np.frombuffer(digests, np.uint64).reshape(-1, size // 8)[:, :2]


def first_of(keys: Keys) -> Mask:
    """Which of the keys have not occurred before them."""
    first = np.ones(len(keys), bool)
    order = np.lexsort((np.arange(len(keys)), keys[:, 1], keys[:, 0])) if _may_repeat(keys) else None
    if order is not None:
        ordered = keys[order]
        first[order[1:][(ordered[1:] == ordered[:-1]).all(1)]] = False
    return first


def _may_repeat(keys: Keys) -> bool:
    high = np.sort(keys[:, 0])
    return bool((high[1:] == high[:-1]).any())


class _Set:
    """Keys of which only that they are there is known."""

    def __init__(self) -> None:
        self.index = KeyIndex()

    def __contains__(self, key: bytes) -> bool:
        return self.index.find_one(keys_of_digests(key, 16)) >= 0

    def add(self, key: bytes) -> None:
        self.index.add_one(keys_of_digests(key, 16), 0)


class _Ids:
    """The ids of all rows."""

    def __init__(self) -> None:
        self.index = KeyIndex()

    def __contains__(self, identifier: object) -> bool:
        return isinstance(identifier, str) and self.index.find_one(keys_of_ids([identifier])) >= 0

    def add(self, identifier: str) -> None:
        self.index.add_one(keys_of_ids([identifier]), 0)

    def update(self, ids: Sequence[str]) -> None:
        add_new(self.index, keys_of_ids(ids), np.zeros(len(ids), np.int16))


class _SplitOf:
    """The split of each content."""

    def __init__(self) -> None:
        self.index, self._names = KeyIndex(), list[str]()

    def __contains__(self, content: bytes) -> bool:
        return self.index.find_one(keys_of_digests(content, 16)) >= 0

    def get(self, content: bytes) -> str | None:
        code = self.index.find_one(keys_of_digests(content, 16))
        return None if code < 0 else self._names[code]

    def setdefault(self, content: bytes, split: str) -> None:
        self.index.add_one(keys_of_digests(content, 16), self.code(split))

    def code(self, split: str) -> int:
        if split not in self._names:
            self._names.append(split)
        return self._names.index(split)


class KnownVectors:
    """What is known of the rows of one modality of vectors; `dedup` asks the same of those of other modalities."""

    def __init__(self) -> None:
        self.ids, self.split_of, self.in_group = _Ids(), _SplitOf(), _Set()
        self.split_of_changed: dict[bytes, str] = {}  # the shard holds the whole content of a vector

    def know(self, payload: bytes, original: object, split: str) -> None:
        """Remembers the split of a content."""
        self.split_of.setdefault(payload, split)

    def know_rows(self, contents: Keys, splits: Sequence[str]) -> None:
        """Remembers the splits of contents, of which some may be known."""
        code_of = {split: self.split_of.code(split) for split in dict.fromkeys(splits)}
        add_new(self.split_of.index, contents, np.fromiter((code_of[split] for split in splits), np.int16, len(splits)))

    def remember(self, rows: pa.Table) -> None:
        """Remembers rows that are on disk already: columns id, split, sha256, group."""
        for start in range(0, rows.num_rows, _BLOCK_ROWS):
            part = rows.slice(start, _BLOCK_ROWS)
            digests = bytes.fromhex("".join(part["sha256"].to_pylist()))
            self.ids.update(part["id"].to_pylist())
            self.know_rows(keys_of_digests(digests, DIGEST_BYTES), part["split"].to_pylist())
            for place, group in enumerate(part["group"].to_pylist()):
                if group is not None:
                    digest = digests[place * DIGEST_BYTES : place * DIGEST_BYTES + 16]
                    self.in_group.add(grouped_key(digest, group))

    def find(self, rows: RowKeys) -> Mask:
        """Of which rows the id or the content is known."""
        ids = self.ids.index.find(keys_of_ids(rows.ids)) >= 0
        return ids | (self.split_of.index.find(keys_of_digests(b"".join(rows.contents), 16)) >= 0)

    def know_new(self, rows: RowKeys, splits: Sequence[str]) -> None:
        """Remembers rows of which nothing is known, and which have nothing in common with each other."""
        self.ids.index.add(keys_of_ids(rows.ids), np.zeros(len(rows.ids), np.int16))
        self.know_rows(keys_of_digests(b"".join(rows.contents), 16), splits)
        self.know_groups([key for key in rows.grouped or () if key is not None])

    def know_groups(self, grouped: Sequence[bytes]) -> None:
        """Remembers what tells that groups have their contents, of which some may be known."""
        add_new(self.in_group.index, keys_of_digests(b"".join(grouped), 16), np.zeros(len(grouped), np.int16))

    @staticmethod
    def content(payload: bytes, original: object) -> bytes:
        return payload


def add_new(index: KeyIndex, keys: Keys, codes: Codes) -> None:
    """Adds those of the keys that are not there, with the number that comes first."""
    new = first_of(keys) & (index.find(keys) < 0)
    index.add(keys[new], codes[new])


def grouped_key(digest: bytes, group: str) -> bytes:
    """What tells that a group has a content."""
    return hashlib.blake2b(digest + group.encode(), digest_size=16).digest()
