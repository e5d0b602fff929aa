"""The names of the two sides of `setclip.fit`."""

from __future__ import annotations

from setclip_cli.arrays.errors import InputError
from setclip_cli.dataset.modality import KINDS_OF_NAMES, why_not_a_name
from setclip_cli.errors import argument


def require_names(names: tuple[str, str]) -> None:
    """Raises InputError unless these are two different names that modalities of vectors can have."""
    if not isinstance(names, tuple | list) or len(names) != 2 or not all(isinstance(name, str) for name in names):
        raise InputError(f"{argument('names')}: is not a pair of names", fix="give two, such as ('audio', 'text')")
    if names[0] == names[1]:
        raise InputError(f"{argument('names')}: both sides are called {names[0]!r}", fix="give two different names")
    for name in names:
        if reason := why_not_a_name(name):
            raise InputError(f"{argument('names')}: {name!r} {reason}", fix="give two names, such as ('audio', 'text')")
        if name in KINDS_OF_NAMES:
            raise InputError(
                f"{argument('names')}: rows called {name!r} are of the kind {KINDS_OF_NAMES[name]}, not vectors",
                fix=f"give another name, such as '{name}-vectors'",
            )
