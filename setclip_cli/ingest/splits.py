"""The split of a record: the same for all, as its source says, or drawn by hash."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from difflib import get_close_matches

from setclip_cli.dataset.dataset import SPLIT_NAME
from setclip_cli.errors import SetClipError, UsageError, argument

_USUAL = ("train", "val", "test", "validation")
_MEANT = re.compile(r"(train|val|test)[-_]")  # such as train-a
_OTHERS = {"valid", "dev", "eval", "rest", "text", "training", "testing", "trainval", "restval", "pretrain"}


@dataclass(frozen=True)
class SplitRule:
    """A parsed ``--split``.

    Attributes:
        fixed: The split of every record, or None.
        as_captions: Whether records take the split of the captions that describe them.
        shares: (split, upper bound of its share in [0, 1]) in the order given, when the split is drawn.
    """

    fixed: str | None
    as_captions: bool = False
    shares: tuple[tuple[str, float], ...] = ()

    @property
    def drawn(self) -> bool:
        return bool(self.shares)

    @property
    def as_source(self) -> bool:
        """Whether the source says the split of each record."""
        return self.fixed is None and not self.as_captions and not self.shares

    def draw(self, key: str) -> str:
        """The split that the hash of ``key`` gives: the same on every machine and in every run."""
        position = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64
        return next((name for name, bound in self.shares if position < bound), self.shares[-1][0])


def parse_split(text: str | None) -> SplitRule:
    """Parses ``auto``, ``as-captions``, the name of a split, or shares such as ``train=0.8,val=0.1,test=0.1``.

    ``auto`` (also None) takes the split that the source gives a record; ``as-captions`` takes that of the captions
    which describe the record. In both cases the split is ``train`` if there is none.

    Raises:
        SetClipError: a name that cannot be part of a file name, a mistyped name, or shares that do not add up to 1.
    """
    if text is None or text == "auto":
        return SplitRule(None)
    if text == "as-captions":
        return SplitRule(None, as_captions=True)
    if "=" not in text:
        if not SPLIT_NAME.fullmatch(text):
            raise _bad(text, "the name of a split may have letters, digits, '-' and '_' only")
        _refuse_near_miss(text, text, ("auto", "as-captions", *_USUAL))
        return SplitRule(text)
    shares: list[tuple[str, float]] = []
    total = 0.0
    for part in text.split(","):
        name, _, share_text = part.strip().partition("=")
        try:
            share = float(share_text)
        except ValueError:
            raise _bad(text, f"{share_text!r} is not a number") from None
        if not SPLIT_NAME.fullmatch(name) or name.lower() in {earlier.lower() for earlier, _ in shares}:
            raise _bad(text, f"{name!r} is not the name of a split, or is there twice (also in another case)")
        _refuse_near_miss(text, name, _USUAL)
        if not 0 < share <= 1:
            raise _bad(text, f"the share of {name!r} must be over 0 and at most 1")
        total += share
        shares.append((name, total))
    if abs(total - 1) > 1e-6:
        raise _bad(text, f"the shares add up to {total:g}, not 1")
    return SplitRule(None, shares=tuple(shares))


def _refuse_near_miss(text: str, name: str, known: tuple[str, ...]) -> None:
    """Raises UsageError for a name that is nearly a known one: it would make a split that nothing else asks for."""
    if name in known or name in _OTHERS or not re.fullmatch(r"[A-Za-z_-]+", name) or _MEANT.match(name):
        return
    plain = name.lower().replace("_", "-")
    near = [plain] if plain in known else get_close_matches(plain, known, n=1, cutoff=0.8)
    near = near or [each for each in known if len(each) > 3 and sorted(each) == sorted(plain)]  # two letters exchanged
    if near:
        raise _bad(text, f"{name!r} is nearly {near[0]!r}: a mistyped name would make a split of its own")


def _bad(text: str, why: str) -> SetClipError:
    return UsageError(
        f"{argument('split')} {text}: {why}",
        fix="give a name such as train; as-captions; or shares such as train=0.8,val=0.1,test=0.1",
    )
