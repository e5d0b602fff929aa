"""Progress bars and notes on stderr, and text from data made safe to show."""

from __future__ import annotations

import html
import re
import sys
import unicodedata
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from tqdm import tqdm

from setclip_cli.places import in_words

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")

_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_FILLERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")  # letters and marks of which nothing is seen
_JOINERS = frozenset("\u180e\u200c\u200d")  # inside Mongolian, Persian and Indic words, and inside emoji
_ARABIC_SIGNS = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2")  # seen, yet formats
_GLYPH_CHOICES = re.compile("[\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
# The signs of mark-up; "_" at the edge of a word, "-" at the start, and what makes a link of an address.
_MARKDOWN = re.compile(r"[\\`*\[\]|~#]|(?<![^\W_])_|_(?![^\W_])|^[-+=](?=\s|$)|(?<=:)//|(?<=www)\.")
_NEW_LINE_OF_OURS = re.compile(r"\n(?=  - )")  # of the lists in our own messages


def visible(text: object) -> str:
    r"""Text from data as a person may safely see it, in one line: what is not seen, or moves the cursor, is escaped.

    That is control characters with line breaks and ESC, marks that change the direction, characters without width,
    surrogates (of a file name that is not UTF-8: its byte) and characters that Unicode does not know. Letters of every
    script, spaces and emoji stay as they are. Escaped text is not escaped again.
    """
    plain = str(text)
    if plain.isprintable() and plain.isascii():
        return plain
    return "".join(
        character if _is_seen(character, plain[max(place - 1, 0) : place], plain[place + 1 : place + 2])
        else _escaped(character)
        for place, character in enumerate(plain)
    )  # fmt: skip


def _is_seen(character: str, before: str, after: str) -> bool:
    if character in _JOINERS:  # in the middle of a word or an emoji
        return all(one != "" and not one.isascii() and one.isprintable() for one in (before, after))
    if _GLYPH_CHOICES.match(character):  # one, after what it changes
        return before.isprintable() and not (before in ("", " ") or _GLYPH_CHOICES.match(before))
    if character.isprintable():
        return character not in _FILLERS
    return character in _ARABIC_SIGNS or unicodedata.category(character) == "Zs"


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00  # a byte of a file name that is not UTF-8
    if code <= 0xFF:
        return _SHORT.get(character, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def text_of_lines(lines: Iterable[str]) -> str:
    """Lines that hold text from data, as one text: `visible`, each of them in one line."""
    return "\n".join(map(visible, lines))


def visible_lines(text: str) -> str:
    """`visible` for text whose line breaks and tabs are ours."""
    return "\n".join("\t".join(map(visible, line.split("\t"))) for line in text.split("\n"))


def in_markdown(text: object) -> str:
    """`visible`, and no mark-up: for text from data in a Markdown document, also within a cell of a table."""
    return _MARKDOWN.sub(r"\\\g<0>", html.escape(visible(text).strip(), quote=False))


def code_in_markdown(text: object) -> str:
    """`visible`, as code in a line of Markdown, also within a cell of a table."""
    plain = visible(text).replace("|", r"\x7c")  # a table would end there
    ticks = "`" * (1 + max(map(len, re.findall("`+", plain)), default=0))
    gap = " " if plain[:1] in ("`", "", " ") or plain[-1:] in ("`", " ") else ""
    return f"{ticks}{gap}{plain}{gap}{ticks}"


def visible_list(text: str) -> str:
    """`visible` for a message that may hold one of our lists, in which each item starts with a dash."""
    return "\n".join(map(visible, _NEW_LINE_OF_OURS.split(text)))


def note(message: str) -> None:
    """Writes one line to stderr; stdout is for results."""
    with suppress(BrokenPipeError):  # `setclip ... 2>&1 | head`: the work goes on
        tqdm.write(visible_list(in_words(message)), file=sys.stderr)


def warning(message: str) -> None:
    """Writes one line to stderr that stands out."""
    bold = ("\033[1;33m", "\033[0m") if sys.stderr.isatty() else ("", "")
    tqdm.write(f"{bold[0]}WARNING:{bold[1]} {visible_list(in_words(message))}", file=sys.stderr)


def progress(items: Iterable[T], *, total: int | None = None, label: str, unit: str = "it") -> tqdm[T]:
    """A progress bar on stderr; nothing if stderr is not a terminal."""
    shown = visible(label)
    return tqdm(items, total=total, desc=shown, unit=unit, file=sys.stderr, disable=not sys.stderr.isatty())
