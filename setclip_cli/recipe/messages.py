"""The mistakes that pydantic finds in a recipe, in the words of its user."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from setclip_cli.errors import nearest
from setclip_cli.recipe.kinds import choices_of, kind_of
from setclip_cli.recipe.sections import Section, Tower


def mistakes(error: ValidationError, recipe: type[Section], document: dict[str, Any]) -> list[str]:
    """One line for each mistake: the key, what it must be and what was found."""
    # A union reports each of its branches: one mistake, one line.
    return list(dict.fromkeys(_in_words(details, recipe, document) for details in error.errors()))


def without_mistakes(error: ValidationError, document: dict[str, Any]) -> dict[str, Any]:
    """A copy of the document that lacks every mistaken value."""
    remaining = deepcopy(document)
    for details in error.errors():
        table: Any = remaining
        for part in (part for part in details["loc"] if part != "[key]"):
            if not isinstance(table.get(part), dict):
                break
            parent, table = table, table[part]
        else:  # the mistake is a table as a whole
            table = parent
        table.pop(part, None)
    return remaining


def _in_words(details: Any, recipe: type[Section], document: dict[str, Any]) -> str:
    location = [str(part) for part in details["loc"]]
    if details["type"] == "extra_forbidden":
        *parents, key = location
        table = _table_at(recipe, parents)
        return f"unknown key {'.'.join(location)!r}{nearest(key, table.model_fields) if table else ''}"
    if details["type"] == "missing":
        return f"missing key {'.'.join(location)!r}"
    path, field = _leaf(recipe, location)
    found: Any = document
    for part in path:
        found = found[part]
    like = nearest(str(found), choices_of(field)) if field else ""
    return f"{'.'.join(path)}: must be {kind_of(field) if field else 'a table'}, found {found!r}{like}"


def _leaf(recipe: type[Section], location: list[str]) -> tuple[list[str], FieldInfo | None]:
    """The key that an error is about, without the branches of its type, and its field; None for a table."""
    for length in range(1, len(location) + 1):
        table = _table_at(recipe, location[: length - 1])
        field = table.model_fields.get(location[length - 1]) if table else None
        if field and not _table_at(recipe, location[:length]) and location[:length] != ["towers"]:
            return location[:length], field
    return location, None


def _table_at(recipe: type[Section], path: list[str]) -> type[Section] | None:
    """The section that the tables of a dotted key lead to."""
    if path[:1] == ["towers"]:
        return Tower if len(path) == 2 else None
    section = recipe
    for part in path:
        annotation = section.model_fields[part].annotation if part in section.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, Section)):
            return None
        section = annotation
    return section
