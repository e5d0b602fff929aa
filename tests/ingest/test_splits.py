"""Splits drawn by hash: stable, and in the shares asked for."""

from __future__ import annotations

from collections import Counter

import pytest

from setclip_cli.errors import ExitCode, SetClipError
from setclip_cli.ingest.splits import SplitRule, parse_split


def test_a_name_marks_all_and_auto_leaves_it_to_the_source() -> None:
    assert parse_split("test") == SplitRule("test")
    assert parse_split("auto") == SplitRule(None)
    assert not parse_split("auto").drawn


def test_the_draw_follows_the_shares_and_depends_on_the_key_alone() -> None:
    rule = parse_split("train=0.8,val=0.1,test=0.1")
    counts = Counter(rule.draw(str(number)) for number in range(20_000))
    assert counts["train"] == pytest.approx(16_000, rel=0.03)
    assert counts["val"] == pytest.approx(2_000, rel=0.1)
    assert counts["test"] == pytest.approx(2_000, rel=0.1)
    assert rule.draw("7") == parse_split("train=0.8, val=0.1, test=0.1").draw("7")


def test_draws_stay_as_they_were_in_the_first_release() -> None:
    """64 keys with their splits as literal values: another hash would move every user's rows to other splits."""
    rule = parse_split("train=0.5,val=0.25,test=0.25")
    keys = [f"P{number:05d}" for number in range(40)] + [f"airport_{number}.jpg" for number in range(16)]
    keys += ["", "é", "日本", "a/b.png", "a/b.png#1", "x" * 100, "\n", "0"]
    letters = {"train": "t", "val": "v", "test": "e"}
    assert "".join(letters[rule.draw(key)] for key in keys) == (
        "vveeevvvttetvvvvevtttttvtttttttettttvtvetttttevtevttteveetevtttt"
    )


def test_a_draw_beyond_the_last_bound_goes_to_the_last_split() -> None:
    """Shares add up to 1 only up to rounding."""
    assert SplitRule(None, shares=(("train", 0.0), ("test", 0.0))).draw("a") == "test"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train=0.8", "add up to 0.8"),
        ("train=0.8,train=0.2", "is there twice"),
        ("train=x", "'x' is not a number"),
        ("train=-1,test=2", r"must be over 0 and at most 1"),
        ("train=nan,test=1", r"must be over 0 and at most 1"),
        ("../up", "letters, digits"),
        ("", "letters, digits"),
    ],
)
def test_a_bad_split_says_what_is_wrong_and_is_a_usage_error(text: str, words: str) -> None:
    with pytest.raises(SetClipError, match=words) as caught:
        parse_split(text)
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("as-caption", "as-captions"),
        ("as_captions", "as-captions"),
        ("ascaptions", "as-captions"),
        ("Auto", "auto"),
        ("trian", "train"),
        ("tran", "train"),
        ("Train", "train"),
        ("tset", "test"),
        ("tests", "test"),
        ("validaton", "validation"),
        ("train=0.8,tets=0.2", "test"),
    ],
)
def test_a_mistyped_word_does_not_make_a_split(text: str, meant: str) -> None:
    with pytest.raises(SetClipError, match=f"nearly '{meant}'"):
        parse_split(text)


@pytest.mark.parametrize("name", ["train", "eval", "dev", "test2", "train-a", "holdout", "extra", "validation", "lab"])
def test_other_names_of_splits_are_free(name: str) -> None:
    assert parse_split(name).fixed == name
