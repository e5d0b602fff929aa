"""Blocks of vectors are decided about as if each row came alone; what is known of a million rows is small."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from setclip_cli.ingest.dedup import Dedup, KeepRules, Kept
from setclip_cli.ingest.known_vectors import KeyIndex, first_of, keys_of_digests, keys_of_ids
from setclip_cli.ingest.sources.base import Reject
from setclip_cli.ingest.sources.split_folders import FileSplit
from setclip_cli.ingest.sources.vectors.rows import Rows, row_digests
from setclip_cli.ingest.splits import parse_split
from setclip_cli.ingest.vector_rows import KeptRows, decide_rows

FEW = st.sampled_from


@st.composite
def sources(draw: st.DrawFn) -> list[tuple[Rows, KeepRules]]:
    """A few sources of a few rows, with repeats of everything."""
    found = []
    for number in range(draw(st.integers(1, 3))):
        count = draw(st.integers(1, 12))
        values = np.array(draw(st.lists(st.integers(1, 9), min_size=count, max_size=count)), "<f4")[:, None]
        ids = draw(
            st.lists(FEW(["x:0", "x:1", "x:2", "s1/x:0", "s2/x:1", "y", "z", "w"]), min_size=count, max_size=count)
        )
        made_up = draw(st.booleans())
        if made_up:
            ids = [f"x:{row}" for row in range(count)]
        optional = {
            name: draw(st.none() | st.lists(st.none() | FEW(words), min_size=count, max_size=count))
            for name, words in {"labels": "ab", "splits": ["train", "test", "Test", "no/name"], "groups": "gh"}.items()
        }
        reasons = dict.fromkeys(draw(st.sets(st.integers(0, count - 1), max_size=2)), "its vector is zero")
        places = [f"row {row}" for row in range(count)]
        rows = Rows(
            "audio", values, ids, row_digests(values), **optional, reasons=reasons, places=places, made_up=made_up
        )
        split = draw(FEW([None, "train", "val", "train=0.5,test=0.5"]))
        rules = KeepRules(
            parse_split(split),
            split_by=draw(FEW(["auto", "id", "label"])),
            keep_duplicates=draw(st.booleans()),
            sources=draw(FEW([(), (f"s{number}",), ("x", f"s{number}")])),
            file_split=draw(FEW([FileSplit(None, ""), FileSplit("test", "as its name says")])),
        )
        found.append((rows, rules))
    return found


def flat(decisions: Any) -> list[tuple[Any, ...]]:
    """What is decided about each row; repairs are counted for all, as they are for a run of rows."""
    found: list[tuple[Any, ...]] = []
    for each in decisions:
        if isinstance(each, Reject):
            found.append(("reject", each.location, each.reason, each.bad))
        elif isinstance(each, Kept):
            record = each.record
            in_source = (record.extra or {}).get("id_in_source")
            found.append(
                (
                    record.id,
                    record.payload,
                    record.label,
                    record.group,
                    each.split,
                    each.distinct,
                    each.crossing,
                    in_source,
                )
            )
        else:
            assert isinstance(each, KeptRows)
            for row, (identifier, split) in enumerate(zip(each.ids, each.splits, strict=True)):
                record = each.rows.one(row)
                assert not isinstance(record, Reject)
                in_source = record.id if record.id != identifier else None
                found.append((identifier, record.payload, record.label, record.group, split, True, False, in_source))
    return found


def repairs(decisions: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for each in decisions:
        found = (
            each.record.repairs
            if isinstance(each, Kept)
            else [what for row in each.repairs or () for what in row]
            if isinstance(each, KeptRows)
            else ()
        )
        for repair in found:
            counts[repair] = counts.get(repair, 0) + 1
    return counts


@settings(max_examples=400)
@given(sources(), st.integers(1, 12))
def test_blocks_of_any_size_are_decided_about_as_rows_one_by_one(
    given_sources: list[tuple[Rows, KeepRules]], size: int
) -> None:
    alone, blocks = Dedup(), Dedup()
    alone.vectors("audio")
    one_by_one: list[Any] = []
    in_blocks: list[Any] = []
    for rows, rules in given_sources:
        for row in range(len(rows)):
            record = rows.one(row)
            one_by_one.append(record if isinstance(record, Reject) else alone.decide(record, rules))
        for start in range(0, len(rows), size):
            part = rows.cut(start, min(start + size, len(rows)))
            in_blocks += decide_rows(blocks, blocks.vectors("audio"), part, rules)
    assert flat(in_blocks) == flat(one_by_one)
    assert repairs(in_blocks) == repairs(one_by_one)


def test_plain_rows_are_taken_at_once() -> None:
    values = np.arange(1, 101, dtype="<f4")[:, None]
    ids = [f"x:{row}" for row in range(100)]
    rows = Rows("audio", values, ids, row_digests(values), None, None, None, {}, ids, True)
    dedup = Dedup()
    kinds = [type(each) for each in decide_rows(dedup, dedup.vectors("audio"), rows, KeepRules(parse_split(None)))]
    assert kinds == [Kept, KeptRows]  # the first row brings its split


@given(st.lists(st.lists(st.integers(0, 30), unique=True, max_size=9), max_size=9))
def test_an_index_finds_what_was_added_and_nothing_else(parts: list[list[int]]) -> None:
    index, expected = KeyIndex(), dict[int, int]()
    for code, part in enumerate(parts):
        new = [key for key in part if key not in expected]
        if code % 2:
            for key in part:  # one that is there keeps its number
                index.add_one(keys_of_ids([str(key)]), code)
        else:
            index.add(keys_of_ids(list(map(str, new))), np.full(len(new), code, np.int16))
        expected |= dict.fromkeys(new, code)
    found = index.find(keys_of_ids(list(map(str, range(31)))))
    assert found.tolist() == [expected.get(key, -1) for key in range(31)]


def test_keys_that_agree_in_their_first_half_are_told_apart() -> None:
    keys = np.array([[7, 1], [7, 2], [7, 1], [8, 1]], np.uint64)
    assert first_of(keys).tolist() == [True, True, False, True]
    index = KeyIndex()
    index.add(keys[:2], np.array([0, 1], np.int16))
    assert index.find(keys).tolist() == [0, 1, 0, -1]
    assert keys_of_digests(bytes(range(64)), 32).tobytes() == bytes(range(16)) + bytes(range(32, 48))
