"""The picture of true pairs: mean recall against known items, a panel a data set and a line a method. See ``pairs``.

A line has its name at its right end, and a mark and a colour that are the same in all panels. The colours are those of
Okabe and Ito, which people with any common colour blindness can tell apart; the marks tell the rest.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pairs_found

from setclip_cli.evaluation.figures import standalone_svg

TITLES = {
    "rsicd": "RSICD: aerial images and captions",
    "flickr8k": "Flickr8k: photographs and captions",
    "yeast": "Yeast: proteins and descriptions",
    "swissprot": "Swiss-Prot: proteins and GO terms",
}
WIDTH, HEIGHT = 410, 290  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 40, 118, 30, 36  # around its plot; names of lines are on the right
COLUMNS = 2
NO_PAIRS = 0.45  # decades that 0 known items are left of the fewest
LINE_HEIGHT = 13  # of names
NARROWEST = 23  # between ticks

# Colour in light and in dark, and mark.
OURS = ("#000000", "#ffffff", "circle")
LINES = {
    "transport": OURS,
    "set-clip-plus": ("#d55e00", "#ff8a3d", "square"),
    "set-clip": ("#d55e00", "#ff8a3d", "ring"),
    "clip": ("#d55e00", "#ff8a3d", "cross"),
    "cca": ("#0072b2", "#5ab4e5", "square"),
    "procrustes": ("#0072b2", "#5ab4e5", "ring"),
    "ridge": ("#0072b2", "#5ab4e5", "cross"),
    "asif": ("#009e73", "#3fd0a4", "square"),
    "asif-graph": ("#009e73", "#3fd0a4", "ring"),
    "relative": ("#009e73", "#3fd0a4", "cross"),
    "sotalign": ("#cc79a7", "#e59cc5", "square"),
    "structure": ("#cc79a7", "#e59cc5", "ring"),
    "csa": ("#cc79a7", "#e59cc5", "cross"),
    "mini_vec2vec": ("#a58a00", "#f0e442", "square"),
}
STYLE = """<style>
svg text { fill: var(--ink); }
:root { --ink: #24282e; }
.line { fill: none; stroke: var(--colour); stroke-width: 1.4; stroke-linejoin: round; }
.line.ours { stroke-width: 4; }
.lead { fill: none; stroke: var(--colour); stroke-width: 0.8; stroke-dasharray: 1 3; }
.full { fill: var(--colour); stroke: none; }
.open { fill: var(--card); stroke: var(--colour); stroke-width: 1.4; }
svg .title { font-size: 13px; font-weight: 600; }
svg .halo { paint-order: stroke; stroke: var(--card); stroke-width: 4; }
svg .ours-name { font-weight: 700; }
svg .dotted { fill: none; stroke: var(--muted); stroke-width: 1.5; stroke-dasharray: 1.5 3.5; }
%s
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; } %s }
</style>"""


@dataclass(frozen=True)
class Panel:
    """Where a data set is drawn.

    Attributes:
        chance: Mean recall of chance.
        curves: For each method its (known items, mean recall), the fewest items first.
    """

    name: str
    chance: float
    curves: dict[str, list[tuple[int, float]]]

    def x(self, items: int) -> float:
        counts = [count for curve in self.curves.values() for count, _ in curve]
        positive = [count for count in counts if count]
        low = math.log10(min(positive, default=1)) - (NO_PAIRS if 0 in counts else 0)
        high = math.log10(max(positive, default=10))
        share = (math.log10(items) - low) / max(high - low, 1e-9) if items else 0.0
        return LEFT + 8 + (WIDTH - LEFT - RIGHT - 16) * share

    def y(self, value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / self.top)

    @property
    def top(self) -> float:
        return 1.04 * max(value for curve in self.curves.values() for _, value in curve)

    @property
    def step(self) -> float:
        return next(step for step in (0.5, 1, 2, 5, 10, 20) if self.top / step <= 6)


def picture(records: Iterable[dict[str, Any]]) -> str:
    """An SVG file of the records of the test split."""
    panels = _panels(records)
    rows = math.ceil(len(panels) / COLUMNS)
    size = WIDTH * min(len(panels), COLUMNS), HEIGHT * rows
    parts = [_style()]
    for number, panel in enumerate(panels):
        at = WIDTH * (number % COLUMNS), HEIGHT * (number // COLUMNS)
        parts.append(f'<g transform="translate({at[0]} {at[1]})">{"".join(_drawn(panel))}</g>')
    label = "Mean recall of each method against known items, on " + ", ".join(panel.name for panel in panels)
    drawing = (
        f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{html.escape(label)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )
    return standalone_svg(drawing)


def _panels(records: Iterable[dict[str, Any]]) -> list[Panel]:
    panels: dict[str, Panel] = {}
    for (name, _), here in pairs_found.by_method(records).items():
        first = next(iter(here.values()))[0]
        panel = panels.setdefault(name, Panel(name, first["chance"], {}))
        for method, found in here.items():
            if method in LINES:
                point = (first["items"], pairs_found.mean(found, "mean_recall"))
                panel.curves.setdefault(method, []).append(point)
    return list(panels.values())


def _style() -> str:
    rules = [[f".m{n} {{ --colour: {colours[mode]}; }}" for n, colours in enumerate(LINES.values())] for mode in (0, 1)]
    return STYLE % (" ".join(rules[0]), " ".join(rules[1]))


def _drawn(panel: Panel) -> list[str]:
    parts = [f'<text class="title" x="{LEFT}" y="16">{html.escape(TITLES.get(panel.name, panel.name))}</text>']
    parts += _axes(panel)
    ends = {method: curve[-1] for method, curve in panel.curves.items()}
    heights = spread([panel.y(value) for _, value in ends.values()], LINE_HEIGHT, TOP, HEIGHT - BOTTOM)
    ours_last = sorted(panel.curves, key=lambda method: method == pairs_found.OURS)
    for method in ours_last:
        points = [(panel.x(items), panel.y(value)) for items, value in panel.curves[method]]
        kind = f"m{list(LINES).index(method)}"
        ours = " ours" if method == pairs_found.OURS else ""
        joined = [(panel.x(items), panel.y(value)) for items, value in panel.curves[method] if items]  # no log of 0
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in joined or points)
        parts.append(f'<path class="line {kind}{ours}" d="M{path}"><title>{method}</title></path>')
        parts += [_mark(method, *point) for point in points]
        height = heights[list(ends).index(method)]
        edge = WIDTH - RIGHT + 12
        x, y = points[-1]
        parts.append(f'<path class="lead {kind}" d="M{x + 5:.1f} {y:.1f}L{edge - 4} {height:.1f}"/>')
        parts.append(_mark(method, edge + 2, height))
        name = f'class="name{" ours-name" if ours else ""}" x="{edge + 10}" y="{height + 4:.1f}"'
        parts.append(f"<text {name}>{method.replace('_', '-')}</text>")
    at = f'x="{WIDTH - RIGHT}" y="{panel.y(panel.chance) - 4:.1f}" text-anchor="end"'
    return [*parts, f'<text class="tick halo" {at}>chance</text>']


def _axes(panel: Panel) -> list[str]:
    foot, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for number in range(math.floor(panel.top / panel.step) + 1):
        value = number * panel.step
        parts.append(f'<path class="grid" d="M{LEFT} {panel.y(value):.1f}H{right}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 5}" y="{panel.y(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    last = -math.inf
    for items in sorted({items for curve in panel.curves.values() for items, _ in curve}):
        x = panel.x(items)
        parts.append(f'<path class="grid" d="M{x:.1f} {foot}v4"/>')
        if x - last >= NARROWEST:
            parts.append(f'<text class="tick" x="{x:.1f}" y="{foot + 16}" text-anchor="middle">{items:,}</text>')
            last = x
    parts.append(f'<path class="dotted" d="M{LEFT} {panel.y(panel.chance):.1f}H{right}"><title>chance</title></path>')
    middle = (LEFT + right) / 2
    parts.append(
        f'<text class="axis" x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">known items (log scale)</text>'
    )
    turned = f'x="10" y="{(TOP + foot) / 2}" transform="rotate(-90 10 {(TOP + foot) / 2})"'
    parts.append(f'<text class="axis" {turned} text-anchor="middle">mean recall (%)</text>')
    return parts


def _mark(method: str, x: float, y: float) -> str:
    kind, shape = f"m{list(LINES).index(method)}", LINES[method][2]
    if method == pairs_found.OURS:
        return f'<circle class="full {kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
    if shape == "square":
        return f'<rect class="full {kind}" x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6"/>'
    if shape == "ring":
        return f'<circle class="open {kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
    return f'<path class="line {kind}" d="M{x - 3:.1f} {y - 3:.1f}l6 6m0 -6l-6 6"/>'


def spread(wanted: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones and in their order, ``distance`` or more apart, within ``low`` and ``high``."""
    order = sorted(range(len(wanted)), key=lambda n: wanted[n])
    placed = list(wanted)
    floor = low
    for number in order:
        placed[number] = floor = max(placed[number], floor)
        floor += distance
    ceiling = high
    for number in reversed(order):
        placed[number] = ceiling = min(placed[number], ceiling)
        ceiling -= distance
    return placed
