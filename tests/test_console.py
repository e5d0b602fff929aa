"""Claims about what text from data looks like when it reaches a person."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from setclip_cli.console import note, progress, visible, visible_lines, visible_list


@pytest.mark.parametrize(
    "text",
    [
        "harbour, 23 boats: a\\b",
        "Ängström & Øre, naïve façade",
        "港湾に停泊する船\u3000二隻",
        "الميناء مع قوارب كثيرة \u06dd",
        "می\u200cخواهم",  # a joiner inside a Persian word
        "क्\u200dष",  # and inside an Indic one
        "ᠮᠣᠩᠭᠣᠯ\u180bᠠ",  # a letter whose form is chosen
        "Ελλάδα, Россия, ישראל, 한국, ไทย",
        "👩‍🚀 ❤️ 👍🏽 🇩🇪 1️⃣",
        "prix\u00a0: 3\u202f000",
    ],
)
def test_letters_of_every_script_and_emoji_stay(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\r\nc\td", r"a\nb\r\nc\td"),
        ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        ("\x9b2J", r"\x9b2J"),  # ESC [ in one character
        ("a\0b\x7f", r"a\x00b\x7f"),
        ("photo\u202egnp.exe", r"photo\u202egnp.exe"),
        ("\u2066x\u2069\u200e\u200f\u061c", r"\u2066x\u2069\u200e\u200f\u061c"),
        ("pass\u200bword\u2060\ufeff\u00ad", r"pass\u200bword\u2060\ufeff\xad"),
        ("a\u200cb\u200d", r"a\u200cb\u200d"),  # joiners that join nothing
        ("a\u2028b\u2029c\x85d", r"a\u2028b\u2029c\x85d"),
        ("caf\udce9.jpg \ud800", r"caf\xe9.jpg \ud800"),
        ("x\ue000\U000f0000\uffff", r"x\ue000\U000f0000\uffff"),
        ("flag\U000e0067\U000e007f", r"flag\U000e0067\U000e007f"),  # tags spell hidden words
        ("a\ufe0f\ufe01\U000e0101", "a\ufe0f\\ufe01\\U000e0101"),  # one glyph choice is one, more are hidden data
        ("\u3164\u115f\uffa0", r"\u3164\u115f\uffa0"),  # letters of which nothing is seen
    ],
)
def test_what_is_not_seen_or_moves_the_cursor_is_escaped(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(visible(text)) == visible(text)


def test_no_control_format_or_unknown_character_gets_through() -> None:
    allowed = set("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2")  # Arabic signs that are seen
    for code in (*range(0x30000), *range(0xE0000, 0xE0200), 0xF0000, sys.maxunicode):
        character = chr(code)
        if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} and character not in allowed:
            assert visible(f"a{character}b").isascii(), hex(code)


def test_our_own_line_breaks_stay_and_those_of_data_do_not() -> None:
    assert visible_lines("a\x1b\nb\r") == "a\\x1b\nb\\r"
    message = "r.toml: 2 problems\n  - x\n  - label 'a\n  fix: rm -rf /'"
    assert visible_list(message) == "r.toml: 2 problems\n  - x\n  - label 'a\\n  fix: rm -rf /'"


def test_notes_and_progress_bars_show_data_safely(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    note("a.csv: label 'x\x1b[2J\nerror: no'")
    assert capsys.readouterr().err == "a.csv: label 'x\\x1b[2J\\nerror: no'\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress([], label="evil\x1b\n").close()
    assert r"evil\x1b\n" in capsys.readouterr().err
