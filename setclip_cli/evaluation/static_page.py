"""One HTML page that loads nothing from elsewhere and runs no script: what all our pages for readers are made with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from setclip_cli.console import visible
from setclip_cli.dataset.modality import plural, singular
from setclip_cli.evaluation import figures

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

REPORT_STYLE = Path(__file__).parent / "templates" / "report.css"


def static_page(
    template: Path, *styles: Path, filters: Mapping[str, Callable[..., Any]] | None = None, **values: Any
) -> str:
    """Fills a template in. Mark-up in values is shown as text, and what is not seen is escaped.

    Args:
        template: A file of Jinja; ``css`` in it is the style of the report and of ``styles``.
        filters: Functions that the template calls, beside ``plural`` and ``singular``.
        values: What the template shows.
    """
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_safe,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plural": plural, "singular": singular} | dict(filters or {})
    css = figures.figure_css() + "".join(path.read_text(encoding="utf-8") for path in (REPORT_STYLE, *styles))
    return environment.get_template(template.name).render(css=Markup(css), **values)


def _safe(value: object) -> object:
    """What a template shows; Jinja escapes its mark-up."""
    return visible(value) if isinstance(value, str | Path) and not isinstance(value, Markup) else value
