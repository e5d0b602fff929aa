"""What a recipe of an earlier version says: old names of keys and values, and old meanings of keys left out."""

from __future__ import annotations

from typing import Any

# The old dotted key -> the new one. Where a document has both, the old one wins: an override that uses it comes later.
KEYS = {
    "companions": "extra_encoders",
    "objective.clip.full_at": "objective.clip.full_weight_at_pairs",
    "objective.sdd.bandwidths": "objective.sdd.bandwidth",
}
VERSION_1 = {"pairs_unit": "row", "method": "set-clip-plus"}  # today auto is the default of both
# The (new) dotted key -> the old value -> the new one.
VALUES = {"train.precision": {"bf16": "bfloat16", "fp16": "float16"}}


def renamed(document: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A copy of a recipe's document in today's names, and one note for each old name in it."""
    notes: list[str] = []
    for old, new in KEYS.items():
        document, value = _without(document, old.split("."))
        # `bandwidths = []` was the default: it left the choice to `bandwidth`.
        if value is not None and value != []:
            document = _with(document, new.split("."), value)
            notes.append(f"{old} is now called {new}")
    for key, values in VALUES.items():
        rest, value = _without(document, key.split("."))
        if isinstance(value, str) and value in values:
            document = _with(rest, key.split("."), values[value])
            notes.append(f"{key} = {value!r} is now written {values[value]!r}")
    return document, notes


def in_version(document: dict[str, Any]) -> dict[str, Any]:
    """The document with what its version means by a key that it lacks."""
    return VERSION_1 | document if document.get("schema_version") == 1 else document


def _without(table: dict[str, Any], path: list[str]) -> tuple[dict[str, Any], Any]:
    """A copy of the table without the value at the path, and the value; None where the table has no such path."""
    key, *rest = path
    if not rest:
        return {name: value for name, value in table.items() if name != key}, table.get(key)
    if not isinstance(table.get(key), dict):
        return table, None
    inner, value = _without(table[key], rest)
    return table | {key: inner}, value


def _with(table: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """A copy of the table with the value at the path. A table is laid over the one that is there, key by key."""
    key, *rest = path
    there = table.get(key, {})
    if rest:
        value = _with(there, rest, value)
    elif isinstance(value, dict) and isinstance(there, dict):
        value = there | value
    return table | {key: value}
