"""Pages of the documentation site that are made from other files: mkdocs calls the `on_...` functions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from typer import Context
from typer.cli import get_docs_for_click
from typer.main import get_command

import setclip_cli
from setclip_cli import losses
from setclip_cli.cli.app import app
from setclip_cli.recipe.keys import as_markdown

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# File of the repository -> page of the site.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/results.md": "benchmarks.md",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that do not lie in docs/."""
    from mkdocs.structure.files import File

    generated = {page: (ROOT / source).read_text(encoding="utf-8") for source, page in PAGES.items()}
    generated |= {"commands.md": commands(), "reference.md": reference(), "recipe-keys.md": as_markdown()}
    for page, text in generated.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links of the repository become links of the site."""
    sources = {page: source for source, page in PAGES.items()}
    source = ROOT / sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def rewritten(match: re.Match[str]) -> str:
        target, anchor = match.group(1), match.group(2) or ""
        path = (source.parent / target).resolve().relative_to(ROOT).as_posix()
        return f"]({PAGES.get(path, path.removeprefix('docs/'))}{anchor})"

    return re.sub(r"\]\(([^)#:\s]+)(#[^)\s]*)?\)", rewritten, markdown)


def commands() -> str:
    """Every command's help, as the program prints it."""
    command = get_command(app)
    text = get_docs_for_click(obj=command, ctx=Context(command), name="setclip", title="Commands")
    return re.sub(r"^ *(setclip \S.*)\n", r"    \1\n", text, flags=re.MULTILINE)


def reference() -> str:
    """The public names of `setclip_cli` and of `setclip_cli.losses`, from their docstrings."""
    shown = [
        each
        for package in (setclip_cli, losses)
        for name in sorted(getattr(package, "__all__", []), key=lambda name: (name[0].isupper(), name))
        if hasattr(each := getattr(package, name), "__qualname__")
    ]
    return "\n\n".join(["# Python names", *(f"::: {each.__module__}.{each.__qualname__}" for each in shown)])
