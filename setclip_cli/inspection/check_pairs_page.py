"""The page of `setclip check-pairs`: the suspect pairs, each beside the known item that fits better."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from setclip_cli.console import visible
from setclip_cli.dataset.modality import plural, singular
from setclip_cli.evaluation import figures
from setclip_cli.evaluation import pages as report_pages
from setclip_cli.evaluation.examples import displayed_by_id

if TYPE_CHECKING:
    from setclip_cli.pools import Pools

TEMPLATES = Path(__file__).parent / "templates"
SHOWN = 50  # suspects


def check_pairs_page(pools: Pools, content: dict[str, Any], sentence: str, gain: str | None) -> str:
    """The page, which loads nothing from elsewhere and runs no script.

    Args:
        content: What check_pairs.json holds.
        sentence: How many pairs are likely wrong.
        gain: What an alignment gains without them.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_safe,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plural": plural, "singular": singular}
    first = content["suspects"][:SHOWN]
    lefts = {pair[key] for pair in first for key in ("left_id", "best_left_id")}
    left = displayed_by_id(pools.dataset, pools.left.modality, pools.split, lefts)
    right = displayed_by_id(pools.dataset, pools.right.modality, pools.split, {pair["right_id"] for pair in first})
    styles = (report_pages.TEMPLATES / "report.css", TEMPLATES / "inspect.css", TEMPLATES / "check_pairs.css")
    return environment.get_template("check_pairs.html.j2").render(
        content=content,
        sentence=sentence,
        gain=gain,
        suspects=[(pair, left[pair["left_id"]], right[pair["right_id"]], left[pair["best_left_id"]]) for pair in first],
        css=Markup(figures.figure_css() + "".join(path.read_text(encoding="utf-8") for path in styles)),
    )


def _safe(value: Any) -> Any:
    return visible(value) if isinstance(value, str | Path) and not isinstance(value, Markup) else value
