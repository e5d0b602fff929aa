"""What is kept, and in which split, also when the rows before it come from an earlier ingest."""

from __future__ import annotations

import pyarrow as pa
import pytest

from setclip_cli.ingest.dedup import DUPLICATE, OTHER_SPLIT, REPEATED_ID, Dedup, KeepRules, Kept
from setclip_cli.ingest.near_duplicates import LookAlikes
from setclip_cli.ingest.options import SplitBy
from setclip_cli.ingest.sources.base import Record, Reject, sha256_text
from setclip_cli.ingest.splits import parse_split

TRAIN = KeepRules(parse_split("train"))
DRAWN = KeepRules(parse_split("train=0.5,test=0.5"))


def caption(identifier: str, text: str, group: str | None = None, label: str | None = None) -> Record:
    return Record("caption", identifier, text, sha256_text(text), group=group, label=label, columns=(group,))


def split_of(decision: Kept | Reject) -> str:
    assert isinstance(decision, Kept)
    return decision.split


def remembered(*records: Record, split: str = "train") -> Dedup:
    """A Dedup that has read these rows from a shard."""
    dedup = Dedup()
    columns = {
        "id": [record.id for record in records],
        "split": [split] * len(records),
        "sha256": [record.sha256 for record in records],
        "group": pa.array([record.group for record in records], pa.string()),
    }
    dedup.remember("caption", pa.table(columns))
    return dedup


def decided(*records: Record) -> Dedup:
    """A Dedup that has decided about these records in this run."""
    dedup = Dedup()
    for record in records:
        assert isinstance(dedup.decide(record, TRAIN), Kept)
    return dedup


@pytest.mark.parametrize("known", [remembered, decided])
def test_rows_on_disk_and_rows_of_this_run_are_known_alike(known: type) -> None:
    rows = (caption("1", "a lake", "x.jpg"), caption("2", "a field"))

    def ask(record: Record) -> Kept | Reject:
        return known(*rows).decide(record, TRAIN)  # type: ignore[no-any-return]

    assert ask(caption("9", "a lake", "x.jpg")) == Reject("9", DUPLICATE, bad=False)  # same words, same group
    assert ask(caption("9", "a field")) == Reject("9", DUPLICATE, bad=False)
    assert ask(caption("9", "a lake")) == Reject("9", DUPLICATE, bad=False)  # no group: the words alone count
    assert ask(caption("1", "other words")) == Reject("1", REPEATED_ID)
    other = ask(caption("9", "a lake", "y.jpg"))
    assert isinstance(other, Kept)
    assert (other.distinct, other.crossing) == (False, False)
    new = ask(caption("9", "new words", "x.jpg"))
    assert isinstance(new, Kept)
    assert new.distinct


def test_the_same_id_in_another_modality_is_another_row() -> None:
    protein = Record("protein", "1", "MKV", sha256_text("MKV"), columns=(3, None))
    assert isinstance(decided(caption("1", "words")).decide(protein, TRAIN), Kept)


def test_a_repeat_that_is_kept_goes_to_the_split_of_the_first() -> None:
    keep = KeepRules(DRAWN.rule, keep_duplicates=True)
    assert DRAWN.rule.draw("a") == "test"
    assert split_of(remembered(caption("1", "words")).decide(caption("a", "words"), keep)) == "train"
    assert split_of(remembered(caption("1", "words")).decide(caption("a", "others"), keep)) == "test"


def test_the_same_words_are_left_out_if_the_group_is_drawn_into_another_split() -> None:
    dedup = remembered(caption("1", "words", "x.jpg"))
    assert DRAWN.rule.draw("a") == "test"
    assert dedup.decide(caption("2", "words", "a"), DRAWN) == Reject("2", OTHER_SPLIT, bad=False)


def test_a_content_in_two_splits_is_counted_if_the_source_says_so() -> None:
    keep = KeepRules(parse_split("auto"), keep_duplicates=True)
    decision = remembered(caption("1", "words")).decide(caption("2", "words")._replace(split="test"), keep)
    assert isinstance(decision, Kept)
    assert (decision.split, decision.distinct, decision.crossing) == ("test", False, True)


@pytest.mark.parametrize(
    ("split_by", "key"), [("auto", "group"), ("group", "group"), ("id", "id"), ("label", "label"), ("cluster", "first")]
)
def test_a_drawn_split_follows_its_key_alone(split_by: SplitBy, key: str) -> None:
    clusters = {f"group{n}": f"first{n}" for n in range(20)} if split_by == "cluster" else None
    rules = KeepRules(DRAWN.rule, split_by=split_by, clusters=clusters)
    found = [
        split_of(Dedup().decide(caption(f"id{n}", f"text {n}", f"group{n}", f"label{n}"), rules)) for n in range(20)
    ]
    assert found == [DRAWN.rule.draw(f"{key}{n}") for n in range(20)]


def test_a_record_without_group_or_label_is_drawn_by_its_id() -> None:
    for split_by in ("group", "label"):
        rules = KeepRules(DRAWN.rule, split_by=split_by)  # type: ignore[arg-type]
        assert [split_of(Dedup().decide(caption(f"{n}", "words"), rules)) for n in range(20)] == [
            DRAWN.rule.draw(f"{n}") for n in range(20)
        ]


def test_an_image_is_compared_with_images_that_do_not_look_alike_themselves() -> None:
    """Else a chain of small steps would join images that do not look alike."""
    dedup = Dedup(LookAlikes())
    flags = {}
    for name, value in {"first": 0, "three bits away": 0b111, "six bits away": 0b111111}.items():
        record = Record("image", name, b"x", sha256_text(name), extra={"perceptual_hash": value})
        decision = dedup.decide(record, KeepRules(parse_split("train"), near_duplicates="flag"))
        assert isinstance(decision, Kept)
        assert decision.record.extra is not None
        flags[name] = decision.record.extra["near_duplicate_of"]
    assert flags == {"first": None, "three bits away": "first", "six bits away": None}
