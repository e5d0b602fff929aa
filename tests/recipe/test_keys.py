"""Claims about the explanation of keys: none is missing, and the defaults are those that a recipe has."""

from __future__ import annotations

import tomllib

from setclip_cli.recipe.keys import as_markdown, recipe_keys
from setclip_cli.recipe.recipe import Recipe
from setclip_cli.recipe.sections import Tower

TOWERS = {"image": Tower(backbone="timm:x"), "caption": Tower(backbone="sentence-transformers:y")}


def flat(table: dict[str, object], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in table.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def test_every_key_of_a_recipe_has_a_help_a_type_and_its_default() -> None:
    keys = {key.name: key for key in recipe_keys()}
    values = flat(Recipe(towers=TOWERS, method="set-clip-plus").model_dump()) | {"method": "auto"}
    expected = {name.replace("towers.image.", "towers.MODALITY.") for name in values if "towers.caption" not in name}
    assert keys.keys() == expected
    for name, key in keys.items():
        assert key.help.endswith("."), name
        assert key.kind, name
        if not key.required:
            shown = key.methods.get("set-clip-plus", key.default)
            default = tomllib.loads(f"value = {shown}")["value"] if shown else None
            assert default == values[name.replace("MODALITY", "image")], name


def test_the_reference_page_has_every_key_in_its_table() -> None:
    page = as_markdown()
    table = ""
    found = []
    for line in page.splitlines():
        if line.startswith("## `["):
            table = line.removeprefix("## `[").removesuffix("]`") + "."
        elif line.startswith("| `"):
            found.append(table + line.split("`")[1])
            assert line.count(" | ") == 3, line
    assert found == [key.name for key in recipe_keys()]
