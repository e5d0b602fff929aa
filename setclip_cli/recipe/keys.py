"""The keys of the recipe, explained from the fields that define them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic.fields import FieldInfo

from setclip_cli.errors import UsageError, nearest
from setclip_cli.recipe.kinds import kind_of
from setclip_cli.recipe.presets import PRESETS, SECTION_PRESETS, Method
from setclip_cli.recipe.recipe import REQUIRED, Recipe
from setclip_cli.recipe.sections import Section, Tower


@dataclass(frozen=True)
class Key:
    """One key of the recipe.

    Attributes:
        name: Dotted, as ``--set`` takes it.
        kind: What it may be, in words.
        default: As TOML writes it; empty if the key may be left out without a value.
        required: Whether a recipe has to give it.
        methods: Method -> its own default, as TOML writes it.
        help: What it does.
    """

    name: str
    kind: str
    default: str
    required: bool
    methods: dict[str, str]
    help: str

    def told_default(self) -> str:
        """The default for a person, with those of the methods."""
        own = ", ".join(f"{method}: {value}" for method, value in self.methods.items())
        default = "none: it has to be given" if self.required else self.default or "not set"
        return f"{default} ({own})" if own else default


def recipe_keys(prefix: str = "") -> list[Key]:
    """Every key whose dotted name starts with ``prefix``, in the order of the recipe.

    Raises:
        SetClipError: exit code 2; no key starts so.
    """
    every = list(_keys_of(Recipe, ""))
    chosen = [key for key in every if f"{key.name}.".startswith(f"{prefix.rstrip('.')}.") or not prefix]
    if not chosen:
        known = {".".join(key.name.split(".")[:depth]) for key in every for depth in (1, 2, 3)}
        raise UsageError(
            f"no key of the recipe starts with {prefix!r}{nearest(prefix, sorted(known))}",
            fix="`setclip recipes keys` lists all keys",
        )
    return chosen


def as_markdown() -> str:
    """The reference page: one table for each table of the recipe."""
    lines = [
        "# Recipe keys",
        "",
        "A recipe is a TOML file. Every key has a default except for the two towers, and each can be changed on the "
        "command line: `setclip align RECIPE ... --set optim.lr=3e-4`. `MODALITY` is protein, image or caption. "
        "`setclip recipes keys` prints the same list.",
    ]
    table = None
    for key in recipe_keys():
        parent, _, name = key.name.rpartition(".")
        if parent != table:
            table = parent
            lines += ["", f"## `[{parent}]`", "", _about(parent), ""] if parent else ["", "## At the top", ""]
            lines += ["| key | value | default | what it does |", "| --- | --- | --- | --- |"]
        lines.append(f"| `{name}` | {key.kind} | {key.told_default()} | {key.help} |")
    return "\n".join(lines) + "\n"


def _keys_of(section: type[Section], prefix: str) -> Iterator[Key]:
    for name, field in section.model_fields.items():
        inner = _table_of(field)
        if inner is not None:
            yield from _keys_of(inner, f"{prefix}{name}.{'MODALITY.' if inner is Tower else ''}")
        else:
            yield _key(f"{prefix}{name}", field)


def _table_of(field: FieldInfo) -> type[Section] | None:
    if field is Recipe.model_fields["towers"]:
        return Tower
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _key(name: str, field: FieldInfo) -> Key:
    *tables, key = name.split(".")
    methods = {}
    for method in get_args(Method):
        preset = PRESETS if tables[:1] == ["objective"] else SECTION_PRESETS
        values = preset.get(method, {}).get(tables[-1] if tables else "", {})
        if key in values:
            methods[method] = _toml(values[key])
    required = field.is_required() or name in REQUIRED
    default = "" if required else _toml(field.default)
    return Key(name, kind_of(field), default, required, methods, " ".join((field.description or "").split()))


def _toml(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return f'"{value}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


def _about(table: str) -> str:
    section: type[Section] = Recipe
    for part in table.split("."):
        if part != "MODALITY":
            section = _table_of(section.model_fields[part]) or section
    return (section.__doc__ or "").partition("\n")[0]
