"""The figures of reports and studies, as SVG text. Colours are CSS variables, so a figure follows light and dark."""

from __future__ import annotations

import html
import math
from pathlib import Path
from typing import TYPE_CHECKING

from setclip_cli.console import visible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from setclip_cli.evaluation.plane_map import PlaneMap

WIDTH, HEIGHT = 380, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 34
SERIES_COLOURS = 8  # of methods; more methods start again with the first colour
CLASS_COLOURS = 12


def _safe(text: str) -> str:
    return html.escape(visible(text))


def recall_figure(curves: Mapping[str, Sequence[tuple[int, float]]], *, chance: Sequence[tuple[int, float]]) -> str:
    """Share of queries with a right answer among the first k rows; k is on a log axis, chance is dashed."""
    last = max((k for curve in curves.values() for k, _ in curve), default=1)

    def x(k: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(k) / max(math.log(last), 1e-9)

    parts = [_frame("first k rows (log scale)", "queries with a right answer")]
    ticks = [10**power for power in range(math.floor(math.log10(last)) + 1)] if last > 1 else [1]
    parts += [_x_tick(x(tick), f"{tick:,}") for tick in ticks]
    parts += [_y_tick(share, f"{share:.0%}") for share in (0, 0.25, 0.5, 0.75, 1)]
    parts.append(_line([(x(k), _y(share)) for k, share in chance], "chance"))
    parts += [
        _line([(x(k), _y(share)) for k, share in curve], f"series s{place % SERIES_COLOURS}", title=name)
        for place, (name, curve) in enumerate(curves.items())
    ]
    best = ", ".join(f"{name} {curve[0][1]:.0%} at 1" for name, curve in curves.items())
    return _svg(parts, f"Recall curves: {best}.")


def reliability_figure(bins: Sequence[tuple[float, float]]) -> str:
    """The share of right answers by their mean probability; dashed where both are equal."""
    top = _round_up(max(value for one in bins for value in one))

    def x(share: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * share / top

    parts = [_frame("probability that an answer is right", "share of right answers")]
    parts += [_x_tick(x(share * top), f"{share * top:.0%}") for share in (0, 0.25, 0.5, 0.75, 1)]
    parts += [_y_tick(share, f"{share * top:.0%}") for share in (0, 0.25, 0.5, 0.75, 1)]
    parts.append(_line([(x(0), _y(0)), (x(top), _y(1))], "chance"))
    parts.append(_line([(x(judged), _y(right / top)) for judged, right in bins], "series s0"))
    parts += [
        f'<circle class="mark s0" cx="{x(judged):.1f}" cy="{_y(right / top):.1f}" r="3"/>' for judged, right in bins
    ]
    told = ", ".join(f"{right:.0%} of answers with {judged:.0%}" for judged, right in bins)
    return _svg(parts, f"Right answers by probability: {told}.")


def map_figure(mapped: PlaneMap, labels: tuple[Sequence[str | None], Sequence[str | None]], names: tuple[str, str],
          colours: Mapping[str, int]) -> str:  # fmt: skip
    """Dots for left rows, rings for right rows, in the colour of their class if it has one."""
    size, margin = 360, 10

    def marks(side: int) -> list[str]:
        points = (mapped.left, mapped.right)[side]
        shapes = []
        for (u, v), label in zip(points, labels[side], strict=True):
            at = f'cx="{margin + u * (size - 2 * margin):.1f}" cy="{size - margin - v * (size - 2 * margin):.1f}"'
            kind = f"c{colours[label]}" if label is not None and label in colours else "other"
            shapes.append(f'<circle class="{kind} {"ring" if side else "dot"}" {at} r="{3 if side else 2.6}"/>')
        return shapes

    parts = [
        f'<rect class="frame" x="0.5" y="0.5" width="{size - 1}" height="{size - 1}" rx="8"/>',
        *marks(1),
        *marks(0),
    ]
    counts = f"{len(mapped.left)} {names[0]} rows as dots and {len(mapped.right)} {names[1]} rows as rings"
    return _svg(parts, f"{mapped.method} map of {counts}.", size=(size, size))


def density_figure(found: Mapping[str, Sequence[float]], names: tuple[str, str]) -> str:
    """Densities of cosine similarity within each side and between the sides."""
    grid = found["similarity"]
    highest = max(max(found[name]) for name in ("within_left", "within_right", "cross")) or 1.0

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value + 1) / 2

    parts = [_frame("cosine similarity", "density")]
    parts += [_x_tick(x(tick), f"{tick:g}") for tick in (-1, -0.5, 0, 0.5, 1)]
    for place, name in enumerate(("within_left", "within_right", "cross")):
        line = [(x(value), _y(height / highest)) for value, height in zip(grid, found[name], strict=True)]
        area = [(x(-1), _y(0)), *line, (x(1), _y(0))]
        parts.append(f'<path class="area s{place}" d="{_path(area)}Z"/>')
        parts.append(_line(line, f"series s{place}"))
    means = {
        name: sum(value * height for value, height in zip(grid, found[name], strict=True))
        / max(sum(found[name]), 1e-12)
        for name in ("within_left", "within_right", "cross")
    }
    description = (
        f"mean similarity {means['within_left']:.2f} within {names[0]}s, {means['within_right']:.2f} within "
        f"{names[1]}s, {means['cross']:.2f} between them"
    )
    return _svg(parts, f"Similarity densities: {description}.")


def band_figure(
    curves: Mapping[str, Sequence[tuple[float, float, float]]], *, x_label: str, y_label: str, chance: float | None
) -> str:
    """A line through (x, mean, sd) points in a band of ± sd for each name. Log axis if x spans more than tenfold."""
    points = [point for curve in curves.values() for point in curve]
    xs = sorted({x for x, _, _ in points})
    positive = [x for x in xs if x > 0]
    log = len(positive) > 1 and positive[-1] / positive[0] > 10
    zero = positive[0] / 2 if positive else 1.0  # the place of 0 on a log axis

    def place(value: float) -> float:
        return math.log(value if value > 0 else zero) if log else value

    low, high = place(xs[0]), place(xs[-1])
    ceiling = max([mean + sd for _, mean, sd in points] + [chance or 0.0])
    top = _round_up(ceiling)

    def x(value: float) -> float:
        return LEFT + 6 + (WIDTH - LEFT - RIGHT - 12) * ((place(value) - low) / (high - low) if high > low else 0.5)

    parts = [_frame(x_label, y_label)]
    parts += [_x_tick(x(value), f"{value:g}") for value in xs]
    parts += [_y_tick(share / 4, f"{share / 4 * top:.2g}") for share in range(5)]
    if chance is not None:
        parts.append(_line([(LEFT, _y(chance / top)), (WIDTH - RIGHT, _y(chance / top))], "chance"))
    for number, (name, curve) in enumerate(curves.items()):
        upper = [(x(at), _y((mean + sd) / top)) for at, mean, sd in curve]
        lower = [(x(at), _y(max(mean - sd, 0) / top)) for at, mean, sd in reversed(curve)]
        colour = f"s{number % SERIES_COLOURS}"
        parts.append(f'<path class="area {colour}" d="{_path([*upper, *lower])}Z"/>')
        parts.append(_line([(x(at), _y(mean / top)) for at, mean, _ in curve], f"series {colour}", title=name))
        for at, mean, _ in curve:
            parts.append(f'<circle class="mark {colour}" cx="{x(at):.1f}" cy="{_y(mean / top):.1f}" r="3"/>')
    values = [f"{name} {', '.join(f'{mean:.3f} at {at:g}' for at, mean, _ in curve)}" for name, curve in curves.items()]
    return _svg(parts, f"{y_label} against {x_label}: {'; '.join(values)}.")


def bar_figure(
    rows: Sequence[tuple[str, float, float, float | None]], *, label: str, chance: float | None = None
) -> str:
    """A horizontal bar with a whisker of ± sd for each (name, mean, sd, value before training or None)."""
    line, left, width = 26, 172, WIDTH + 120
    ends = [mean + sd for _, mean, sd, _ in rows] + [before for *_, before in rows if before is not None]
    top = _round_up(max([*ends, chance or 0.0]))
    foot = TOP + line * len(rows)

    def x(value: float) -> float:
        return left + (width - left - 44) * max(value, 0) / top

    parts = [f'<path class="grid" d="M{x(share / 4 * top):.1f} {TOP}V{foot}"/>' for share in range(5)]
    parts += [
        f'<text class="tick" x="{x(value):.1f}" y="{foot + 14}" text-anchor="middle">{value:.3g}</text>'
        for value in (share / 4 * top for share in range(5))
    ]
    for number, (name, mean, sd, before) in enumerate(rows):
        y = TOP + line * number + line / 2
        short = name if len(name) <= 25 else name[:24] + "…"
        parts.append(f'<text class="name" x="{left - 8}" y="{y + 4}" text-anchor="end">{_safe(short)}</text>')
        parts.append(f'<rect class="bar-mark s{0 if number == 0 else 2}" x="{left}" y="{y - 7}" height="14" rx="3" '
                     f'width="{x(mean) - left:.1f}"/>')  # fmt: skip
        parts.append(f'<path class="whisker" d="M{x(mean - sd):.1f} {y}H{x(mean + sd):.1f}"/>')
        if before is not None:
            parts.append(f'<circle class="before" cx="{x(before):.1f}" cy="{y}" r="4"><title>before</title></circle>')
        beside = x(mean + sd) + 7
        if before is not None and beside - 12 < x(before) < beside + 45:  # the ring is where the number would be
            beside = x(before) + 9
        parts.append(f'<text class="tick" x="{beside:.1f}" y="{y + 4}">{mean:.3f}</text>')
    if chance is not None:
        parts.append(f'<path class="chance" d="M{x(chance):.1f} {TOP}V{foot}"/>')
    parts.append(
        f'<text class="axis" x="{(left + width) / 2}" y="{foot + 30}" text-anchor="middle">{_safe(label)}</text>'
    )
    description = ", ".join(f"{name} {mean:.3f}" for name, mean, _, _ in rows)
    return _svg(parts, f"{label}: {description}.", size=(width, foot + 36))


def figure_css() -> str:
    """The rules for the classes of the figures."""
    return (Path(__file__).parent / "templates" / "figures.css").read_text(encoding="utf-8")


def standalone_svg(drawing: str, *, legend: Sequence[str] = (), note: str = "") -> str:
    """A figure as a file of its own: with its colours, a background and, below it, a legend of the series."""
    width, height = (int(part) for part in drawing.split('viewBox="0 0 ')[1].split('"')[0].split())
    entries = []
    for place, name in enumerate(legend):
        y = height + 14 + 18 * place
        entries.append(f'<circle class="mark s{place % SERIES_COLOURS}" cx="{LEFT}" cy="{y - 4}" r="5"/>')
        entries.append(f'<text class="name" x="{LEFT + 12}" y="{y}">{_safe(name)}</text>')
    bottom = height + 18 * len(legend) + (22 if note else 8)
    if note:
        entries.append(f'<text class="tick" x="{LEFT}" y="{bottom - 8}">{_safe(note)}</text>')
    inner = drawing.replace("<svg ", f'<svg width="{width}" height="{height}" ', 1)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom}" width="{width * 2}">'
        f'<style>{figure_css()}</style><rect width="{width}" height="{bottom}" style="fill:var(--card)"/>'
        f"{inner}{''.join(entries)}</svg>\n"
    )


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 6, 8 or 10 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 6, 8, 10) if value <= step * power * (1 + 1e-9))


def _svg(parts: Sequence[str], description: str, *, size: tuple[int, int] = (WIDTH, HEIGHT)) -> str:
    return (
        f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{_safe(description)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _frame(x_label: str, y_label: str) -> str:
    middle, foot = (TOP + HEIGHT - BOTTOM) / 2, HEIGHT - 4
    turned = f'x="10" y="{middle}" transform="rotate(-90 10 {middle})"'
    return (
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{foot}" text-anchor="middle">{_safe(x_label)}</text>'
        f'<text class="axis" {turned} text-anchor="middle">{_safe(y_label)}</text>'
        f'<path class="grid" d="M{LEFT} {_y(0)}H{WIDTH - RIGHT}"/>'
    )


def _x_tick(x: float, text: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{_safe(text)}</text>'


def _y_tick(share: float, text: str) -> str:
    y = _y(share)
    return (
        f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        f'<text class="tick" x="{LEFT - 4}" y="{y + 3.5:.1f}" text-anchor="end">{_safe(text)}</text>'
    )


def _y(share: float) -> float:
    return TOP + (HEIGHT - BOTTOM - TOP) * (1 - share)


def _line(points: Sequence[tuple[float, float]], kind: str, *, title: str = "") -> str:
    named = f"<title>{_safe(title)}</title>" if title else ""
    return f'<path class="{kind}" d="{_path(points)}">{named}</path>'


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
