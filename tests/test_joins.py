"""The report of a join: an error if nothing matches, a warning if little does."""

from __future__ import annotations

import pytest

from setclip_cli.errors import SetClipError
from setclip_cli.joins import Join, Side, check


def join(matched: int, *, right: int = 10, both: bool = False, ambiguous: int = 0) -> Join:
    return Join(
        Side("labels of l.csv", 10, matched, "a"),
        Side("image rows", 10, right, "b"),
        ambiguous=ambiguous,
        candidates="'1.jpg': x/1.jpg, y/1.jpg" if ambiguous else None,
        both=both,
    )


def test_nothing_matched_is_an_error_with_an_example_of_each_side() -> None:
    with pytest.raises(
        SetClipError, match=r"none of the 10 labels of l.csv(.|\n)*'a'(.|\n)*'b'(.|\n)*fix: do it"
    ) as error:
        check(join(0, right=0), fix="do it", tried="the whole id")
    assert error.value.exit_code == 3
    assert "compared: the whole id" in str(error.value)


def test_less_than_half_is_a_warning_that_stands_out(capsys: pytest.CaptureFixture[str]) -> None:
    check(join(4), fix="")
    assert capsys.readouterr().err == "WARNING: 4 of 10 labels of l.csv (not 'a') match 10 of 10 image rows\n"
    check(join(5), fix="")
    check(join(5, right=1), fix="")
    assert capsys.readouterr().err == ""
    check(join(5, right=1, both=True), fix="")
    assert "WARNING: 5 of 10" in capsys.readouterr().err


def test_an_empty_left_side_is_no_error() -> None:
    empty = Join(Side("x", 0, 0), Side("y", 3, 0))
    assert check(empty, fix="") is empty


def test_the_counts_add_up_in_json() -> None:
    found = join(3, ambiguous=2).as_json()
    assert (found["matched"], found["unmatched_left"], found["ambiguous"], found["unmatched_right"]) == (3, 5, 2, 0)
    assert "2 have several candidates and match none ('1.jpg': x/1.jpg, y/1.jpg)" in join(3, ambiguous=2).sentence()
