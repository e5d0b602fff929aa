"""`setclip recipes`, `manifests`, `studies` and `tasks`: list, show and copy what comes with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from setclip_cli.cli.json_object import keep_result
from setclip_cli.cli.output import AsJson, say
from setclip_cli.console import visible, visible_lines
from setclip_cli.errors import SetClipError, UsageError
from setclip_cli.files import atomic
from setclip_cli.files.shipped import SINGULAR, Kind, about, find, folder_of, names

_USE = {
    "recipes": "setclip align {name} --data DATASET --out RUN",
    "manifests": "setclip ingest {name} --out DATASET",
    "studies": "setclip study {name} --data DATASET --out DIR",
    "tasks": "setclip evaluate RUN DATASET --out REPORT --task-set {name}",
}

Name = Annotated[str, typer.Argument(help="A name from the list, or the path of a file.")]


def group(kind: Kind, help_line: str) -> typer.Typer:
    """The command of one kind: alone it lists, and it has `show` and `copy`."""
    what, example = SINGULAR[kind], names(kind)[0]
    app = typer.Typer()

    @app.callback(invoke_without_command=True)
    def listed(context: typer.Context, as_json: AsJson = False) -> None:
        if context.invoked_subcommand is None:
            found = [{"name": name, "about": about(folder_of(kind) / f"{name}.toml")} for name in names(kind)]
            width = max(len(each["name"]) for each in found)
            lines = [f"{each['name']:{width}}  {each['about']}" for each in found]
            use = _USE[kind].format(name="NAME")
            keep_result({kind: found}) if as_json else say("\n".join([*lines, "", f"use one: {use}"]))

    listed.__doc__ = f"""{help_line}

    Without a command it lists them.

    Examples:

      setclip {kind}

      setclip {kind} show {example}

      setclip {kind} copy {example} my.toml

      {_USE[kind].format(name=example)}
    """

    @app.command(help=f"Print a {what}.")
    def show(context: typer.Context, name: Name, as_json: AsJson = False) -> None:
        path = find(kind, name)
        text = path.read_text(encoding="utf-8")
        as_json = as_json or _asked_of_group(context)
        keep_result({"name": path.stem, "text": text}) if as_json else say(visible_lines(text), newline=False)

    @app.command(help=f"Copy a {what} to a file to start from. A file that exists is not overwritten.")
    def copy(
        context: typer.Context,
        name: Name,
        file: Annotated[Path | None, typer.Argument(help="The new file (default: NAME.toml in this folder).")] = None,
        as_json: AsJson = False,
    ) -> None:
        path = find(kind, name)
        target = file or Path(f"{path.stem}.toml")
        _write_new(target, path.read_text(encoding="utf-8"))
        use = _USE[kind].format(name=target)
        if as_json or _asked_of_group(context):
            keep_result({"name": path.stem, "file": str(target)})
        else:
            say(f"{visible(target)}: written\n{visible(use)}")

    return app


def _asked_of_group(context: typer.Context) -> bool:
    """Whether --json was given before the name of the command, as in ``setclip recipes --json show NAME``."""
    return bool(context.parent and context.parent.params["as_json"])


def _write_new(target: Path, text: str) -> None:
    if target.exists():
        raise UsageError(f"{target}: exists, and is not overwritten", fix="give another file name")
    if not target.parent.is_dir():
        raise SetClipError(f"{target}: cannot be written (no such folder)", fix="make the folder, or give another file")
    atomic.write_text(target, text)


recipes = group("recipes", "List, show and copy recipes for `setclip align`, and explain their keys.")
manifests = group("manifests", "List, show and copy data manifests: public sources for `setclip ingest`.")
studies = group("studies", "List, show and copy studies for `setclip study`.")
tasks = group("tasks", "List, show and copy task sets for `setclip evaluate --task-set`.")


@recipes.command()
def keys(
    context: typer.Context,
    prefix: Annotated[str, typer.Argument(help="Only the keys that start so, such as objective.sdd.")] = "",
    as_json: AsJson = False,
) -> None:
    """Explain every key of a recipe: what it may be, its default, what it does.

    Examples:

      setclip recipes keys objective.sdd
    """
    from dataclasses import asdict

    from setclip_cli.recipe.keys import recipe_keys

    found = recipe_keys(prefix)
    if as_json or _asked_of_group(context):
        keep_result({"keys": [asdict(key) for key in found]})
    else:
        say("\n".join(f"{key.name}: {key.kind}; default {key.told_default()}\n    {key.help}" for key in found))
