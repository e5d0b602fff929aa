"""What a key of the recipe may be, in words: made from the type of its field."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def kind_of(field: FieldInfo) -> str:
    """What a field may be: ``a number above 0``, ``mlp or linear``."""
    extra = field.json_schema_extra
    return str(extra["form"]) if isinstance(extra, dict) else _in_words(field.annotation, field.metadata)


def choices_of(field: FieldInfo) -> list[str]:
    """The words that a field may be; empty if it is free."""
    return [str(choice) for choice in get_args(field.annotation)] if get_origin(field.annotation) is Literal else []


def _in_words(kind: Any, limits: list[Any]) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        # A constrained type within a union keeps its limits in a field of its own.
        inner = [limit for part in parts[1:] for limit in (part.metadata if isinstance(part, FieldInfo) else [part])]
        return _in_words(parts[0], [*limits, *inner])
    if origin in (Union, UnionType):
        return " or ".join(_in_words(part, limits) for part in parts if part is not NoneType)
    if origin is Literal:
        words = [str(part) for part in parts]
        return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    if origin is list:
        item = _in_words(parts[0], [])
        return f"a list of {item.replace('a number', 'numbers').replace('a whole number', 'whole numbers')}"
    if (isinstance(kind, type) and issubclass(kind, BaseModel)) or origin is dict:
        return "a table"
    told = " and ".join(_limit(limit) for limit in limits if isinstance(limit, Ge | Gt | Lt))
    return f"{_NAMES[kind]} {told}".strip()


def _limit(limit: Ge | Gt | Lt) -> str:
    if isinstance(limit, Ge):
        return f"from {limit.ge} on"
    return f"above {limit.gt}" if isinstance(limit, Gt) else f"below {limit.lt}"
