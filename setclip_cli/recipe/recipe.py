"""The recipe of one experiment: `Recipe`, made in Python or read from TOML by `load_recipe`.

Both fill in the method's preset under the settings that were given, and both report every mistake at once.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Self

import tomli_w
from pydantic import ModelWrapValidatorHandler, ValidationError, ValidationInfo, model_validator

from setclip_cli.console import note
from setclip_cli.errors import ExitCode, SetClipError, UsageError, argument
from setclip_cli.files.documents import parse_toml, read_toml
from setclip_cli.files.shipped import find
from setclip_cli.recipe.checks import contradictions
from setclip_cli.recipe.messages import mistakes, without_mistakes
from setclip_cli.recipe.presets import METHOD_KEYS, with_preset
from setclip_cli.recipe.renamed import KEYS, in_version, renamed
from setclip_cli.recipe.sections import Section, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


STARTING_KEYS = {"towers", "init_from", "pairs"}
REQUIRED = ("schema_version",)  # of a file; in Python they have their defaults


class RecipeError(SetClipError):
    """A recipe with mistakes.

    Attributes:
        mistakes: Unknown keys and wrong values, one line each.
        contradictions: Settings that are fine alone and wrong together, one line each.
    """

    def __init__(self, source: str, mistakes: list[str], contradictions: list[str]) -> None:
        problems = [*mistakes, *contradictions]
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(
            "\n".join([f"{source}: {count} in the recipe", *(f"  - {problem}" for problem in problems)]),
            fix="correct the keys that are named above; `setclip recipes keys` explains each key",
            exit_code=ExitCode.USAGE,
        )
        self.mistakes, self.contradictions = mistakes, contradictions


class Recipe(Settings):
    """A whole experiment.

    Raises:
        RecipeError: with every mistake, and the nearest known key for an unknown one.
    """

    @model_validator(mode="wrap")
    @classmethod
    def _with_preset_and_checks(
        cls, given: Any, validate: ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:
        context = info.context or {}
        if not isinstance(given, dict) or context.get("as_written"):
            return validate(given)
        document = in_version(renamed(_plain(given))[0])
        missing = [f"missing key {key!r}" for key in context.get("required", ()) if key not in document]
        found: list[str] = []
        try:
            recipe = validate(with_preset(document))
            wrong = contradictions(recipe)
        except ValidationError as error:
            found, wrong = mistakes(error, cls, document), []
            try:
                remaining = validate(with_preset(without_mistakes(error, document)))
            except ValidationError:
                pass
            else:
                towers = any(details["loc"][0] == "towers" for details in error.errors())
                wrong = [line for line in contradictions(remaining) if not (towers and line.startswith("towers:"))]
        if missing or found or wrong:
            raise RecipeError(context.get("source", cls.__name__), [*missing, *found], wrong)
        return recipe

    @classmethod
    def read_back(cls, document: dict[str, Any]) -> Self:
        """The recipe that a RUN keeps, with no preset and no checks: a key that it lacks has its default.

        Raises:
            pydantic.ValidationError: this version does not know a key, or refuses a value.
        """
        stated = {"schema_version": 1} | renamed(document)[0]
        return cls.model_validate(in_version(stated), context={"as_written": True})

    def with_settings(self, **settings: Any) -> Recipe:
        """A copy with top-level settings changed; another method brings its own preset.

        Raises:
            RecipeError: the settings do not fit the rest of the recipe.
        """
        document = self.model_dump(exclude_none=True)
        if settings.get("method", self.method) != self.method:
            settings = {"goal": "auto"} | settings  # a goal is for the choice of a method
            version = {"schema_version": self.schema_version}
            document = version | _difference(document, self._untouched().model_dump(exclude=STARTING_KEYS))
            document["objective"] = {
                name: {key: value for key, value in term.items() if key not in METHOD_KEYS}
                for name, term in document.get("objective", {}).items()
            }
        return Recipe.model_validate(document | settings, context={"source": f"recipe with {settings}"})

    def changed_keys(self) -> list[str]:
        """Dotted keys whose values are not those of the method's preset, in the recipe's order."""
        return list(_flat(_difference(self.model_dump(), self._untouched().model_dump())))

    def _untouched(self) -> Recipe:
        """A recipe of the same method with only that set which decides the preset and what joint towers need."""
        start = {key: getattr(self, key) for key in STARTING_KEYS if getattr(self, key) is not None}
        return Recipe.model_validate({"schema_version": self.schema_version, "method": self.method} | start)

    def to_toml(self) -> str:
        """The resolved recipe; reading it back gives an equal recipe."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def load_recipe(recipe: Path | str, overrides: list[str] | None = None) -> Recipe:
    """Reads a recipe and applies ``a.b=c`` overrides.

    Args:
        recipe: A TOML file, or the name of a recipe that comes with the package.
        overrides: Each sets one key; c is read as a TOML value, or as text if it is not one.

    Raises:
        SetClipError: exit code 2; no such recipe, not TOML, or a `RecipeError`.
    """
    if isinstance(overrides, str):
        raise UsageError(
            f"{argument('overrides', '--set')}: is text, not a list", fix=f"put it into a list: [{overrides!r}]"
        )
    path = find("recipes", recipe)
    document = read_toml(path)
    document, notes = renamed(document)
    for override in overrides or []:
        _apply_override(document, override)
        document, more = renamed(document)
        notes += more
    for line in dict.fromkeys(notes):
        _note_once(f"{path}: {line}")
    return Recipe.model_validate(document, context={"source": str(path), "required": REQUIRED})


@functools.cache
def _note_once(line: str) -> None:
    """A study reads one recipe for each of its cells."""
    note(line)


def _apply_override(document: dict[str, Any], override: str) -> None:
    """Sets one ``a.b=c``; c is read as a TOML value, or as text if it is not one."""
    key, equals, text = override.partition("=")
    table_name, *rest = key.strip().split(".")
    parts = [KEYS.get(table_name, table_name), *rest]
    if not equals or not all(parts):
        raise UsageError(f"--set {override!r}: is not of the form key=value", fix="write it as --set optim.lr=3e-4")
    try:
        found = parse_toml(f"value = {text}")
    except (ValueError, RecursionError):
        found = {"value": text.strip()}
    if found.keys() != {"value"}:
        raise UsageError(f"--set {override!r}: sets more than one key", fix="give each key a --set of its own")
    value = found["value"]
    table = document
    for depth, part in enumerate(parts[:-1], start=1):
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UsageError(
                f"--set {override!r}: {'.'.join(parts[:depth])} is a value, not a table",
                fix=f"set {'.'.join(parts[:depth])} itself",
            )
    table[parts[-1]] = value


def _plain(given: Any) -> Any:
    """Sections as dictionaries of the keys that were given."""
    if isinstance(given, Section):
        return given.model_dump(exclude_unset=True)
    return {key: _plain(value) for key, value in given.items()} if isinstance(given, dict) else given


def _flat(table: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def _difference(table: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The values of a table that differ from another's; tables in it are compared key by key."""
    found = {}
    for key, value in table.items():
        there = other.get(key)
        if isinstance(value, dict) and isinstance(there, dict):
            found[key] = _difference(value, there)
        elif key not in other or value != there:
            found[key] = value
    return found
