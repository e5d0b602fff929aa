"""Ids in other spellings: found where only one thing can be meant, and never where two can."""

from __future__ import annotations

import unicodedata

import pytest

from setclip_cli.ingest.names import Name, find, suggestion


def meant(text: str, *ids: str, source: str = "/d/images", wanted: tuple[str, ...] = ()) -> list[str] | None:
    found = find([text, *wanted], lambda: [Name(each, source) for each in ids]).get(text)
    return None if found is None else [name.id for name in found.names]


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("deep/a b.jpg", "the whole id"),
        ("./deep/a b.jpg", "another spelling of the id"),
        ("deep\\a b.jpg", "another spelling of the id"),
        ("deep/a%20b.jpg", "another spelling of the id"),
        ("  deep/a b.jpg ", "another spelling of the id"),
        ("/home/u/images/deep/a b.jpg", "the end of the path"),
        (r"C:\data\images\deep\a b.jpg", "the end of the path"),
        ("images/deep/a b.jpg", "the end of the path"),
        ("a b.jpg", "the end of the path"),
        ("other/a b.jpg", "the file name"),
        ("a b", "the file name without its suffix"),
        ("a b.png", "the file name without its suffix"),
        ("A B.JPG", "upper and lower case taken as one"),
        ("DEEP/A B", "upper and lower case taken as one, without the suffix"),
    ],
)
def test_each_step(text: str, step: str) -> None:
    found = find([text], lambda: [Name("deep/a b.jpg", "/d/images"), Name("deep/c.jpg", "/d/images")])
    assert [name.id for name in found[text].names] == ["deep/a b.jpg"]
    assert found[text].step == step


def test_composed_and_decomposed_letters_are_the_same() -> None:
    assert meant(unicodedata.normalize("NFD", "café.jpg"), "café.jpg") == ["café.jpg"]
    assert meant("café.jpg", unicodedata.normalize("NFD", "café.jpg")) is not None


def test_a_name_that_several_rows_have_is_ambiguous_and_a_stricter_step_decides() -> None:
    assert meant("1.jpg", "a/1.jpg", "b/1.jpg") == ["a/1.jpg", "b/1.jpg"]
    assert meant("1", "1.jpg", "1.png") == ["1.jpg", "1.png"]
    assert meant("a/1.jpg", "a/1.jpg", "b/1.jpg") == ["a/1.jpg"]
    assert meant("A/1.jpg", "a/1.jpg", "b/1.jpg") == ["a/1.jpg"]
    assert meant("1.jpg", "1.jpg", "1.JPG", "1.png") == ["1.jpg"]


def test_folders_that_contradict_each_other_are_two_things() -> None:
    assert meant("train/1.jpg", "1.jpg", source="/d/test") is None
    assert meant("train/1.jpg", "test/1.jpg") is None
    assert meant("forest/1.jpg", "river/1.jpg", wanted=("river/2.jpg",)) is None  # river is known on the other side
    assert meant("forest/1.jpg", "river/1.jpg", "forest/2.jpg") is None
    assert meant("JPEGImages/1.jpg", "images/1.jpg") == ["images/1.jpg"]


def test_an_id_that_was_made_longer_shares_its_former_id() -> None:
    rows = [Name("1.jpg", "/d/forest"), Name("river/1.jpg", "/d/river", "1.jpg")]
    found = find(["1.jpg", "forest/1.jpg", "river/1.jpg"], lambda: rows)
    assert {text: [name.id for name in each.names] for text, each in found.items()} == {
        "1.jpg": ["1.jpg", "river/1.jpg"],
        "forest/1.jpg": ["1.jpg"],
        "river/1.jpg": ["river/1.jpg"],
    }


def test_versions_and_isoforms_are_suggested_only() -> None:
    for text, known in (("NP_000001", "NP_000001.2"), ("NP_000001.1", "NP_000001.2"), ("P12345-2", "P12345")):
        assert meant(text, known) is None
        assert suggestion(text, [Name("X"), Name(known)]) == known
    assert suggestion("P1", [Name("P12")]) is None
    assert meant("4HHB_A", "4HHB_B") is None
