"""The report for people: a few sentences, a Markdown note and one HTML page."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from setclip_cli.console import code_in_markdown, in_markdown, visible
from setclip_cli.dataset.modality import plural, singular
from setclip_cli.evaluation import figures
from setclip_cli.evaluation.formatting import format_interval, format_metric, format_spread, metric_title
from setclip_cli.evaluation.report import write_files
from setclip_cli.evaluation.static_page import static_page
from setclip_cli.files import atomic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from setclip_cli.evaluation.page_details import PageDetails
    from setclip_cli.evaluation.report import ReportFile

TEMPLATES = Path(__file__).parent / "templates"

Content = dict[str, Any]


def write_report(out: Path, content: Content, details: PageDetails) -> None:
    """Writes report.html, report.md, report.json and their hashes, all or none."""
    files: dict[ReportFile, str] = {
        "report.html": html_page(content, details),
        "report.md": markdown_note(content),
        "report.json": atomic.json_text(content),
    }
    write_files(out, files)


def summary_sentences(content: Content) -> str:
    """Two or three plain sentences: the first method compared with chance and with the other methods."""
    left, right = content["modalities"]
    first, *others = content["methods"]
    key = f"{left}_to_{right}/map"
    score = first["metrics"][key]
    low, high = score["interval"]
    runs = f", mean of {len(first['runs'])} seeds," if len(first["runs"]) > 1 else ""
    match = {
        "label": f"{plural(right)} of its class",
        "group": f"its {singular(right)}",
        "pairs": f"its {singular(right)}",
    }
    sentences = [
        f"For {'an' if left[0] in 'aeiou' else 'a'} {singular(left)}, {visible(first['name'])}{runs} ranks "
        f"{match[content['relevance']]} with a mean average precision of {score['mean']:.3f} (95% interval {low:.3f} "
        f"to {high:.3f}). This is {score['mean'] / score['chance']:.1f} times chance."
    ]
    if "zero_shot/top1" in first["metrics"]:
        top = first["metrics"]["zero_shot/top1"]
        sentences.append(
            f"In zero-shot classification it finds the class of {top['mean']:.1%} of the {plural(left)} "
            f"(chance {top['chance']:.1%})."
        )
    if others:
        rival = max(others, key=lambda method: method["metrics"][key]["mean"])
        found = next(one for one in content["differences"] if one["against"] == rival["name"] and one["metric"] == key)
        low, high = found["interval"]
        apart = f"{abs(found['difference']):.3f}"
        side = "above" if found["difference"] > 0 else "below"
        compared = f"{apart} {side} that of" if float(apart) else "as high, to three digits, as that of"
        unsure = "" if found["significant"] or not float(apart) else ": the difference may be chance"
        best = "the best other method" if len(others) > 1 else "the other method"
        sentences.append(
            f"Its mean average precision is {compared} {visible(rival['name'])}, {best} here "
            f"(95% interval {low:+.3f} to {high:+.3f}{unsure})."
        )
    return " ".join(sentences)


def markdown_note(content: Content) -> str:
    """The sentences, the table, what was left out and the command."""
    keys = headline_keys(content)
    first = content["methods"][0]
    head = " | ".join(["method", "runs", *map(metric_title, keys)])
    lines = [
        "# Retrieval report",
        "",
        in_markdown(content["summary"]),
        "",
        f"| {head} |",
        f"|{' --- |' * (len(keys) + 2)}",
    ]
    for method in content["methods"]:
        metrics = method["metrics"]
        cells = [
            f"{format_spread(metrics[key], key)} ({format_interval(metrics[key]['interval'], key)})" for key in keys
        ]
        lines.append(f"| {' | '.join([in_markdown(method['name']), str(len(method['runs'])), *cells])} |")
    chance = [format_metric(first["metrics"][key]["chance"], key) for key in keys]
    rows = ", ".join(f"{count:,} {plural(modality)}" for modality, count in content["rows"].items())
    split, path = (code_in_markdown(value) for value in (content["split"], content["dataset"]["path"]))
    lines += [
        f"| {' | '.join(['chance', '', *chance])} |",
        "",
        "The brackets hold the 95% bootstrap interval over queries; ± is the standard deviation over seeds.",
        "",
        f"Split {split} of {path} has {rows}. A right answer has the same {content['relevance'].removesuffix('s')}.",
        "",
    ]
    if first["before"]:
        lines += [f"| {in_markdown(first['name'])} | before training | after |", "| --- | --- | --- |"]
        for key in ("geometry/modality_gap", "geometry/sdd", "geometry/mmd"):
            before, after = (
                format_metric(value, key) for value in (first["before"][key], first["metrics"][key]["mean"])
            )
            lines.append(f"| {metric_title(key)} | {before} | {after} |")
        lines.append("")
    if "widths" in first:
        keys = width_keys(content)
        lines += [
            f"The first values of an embedding alone ({in_markdown(first['name'])}):",
            "",
            f"| {' | '.join(['values', *map(metric_title, keys)])} |",
            f"|{' ---: |' * (len(keys) + 1)}",
        ]
        for one in first["widths"]:
            cells = [format_metric(one["metrics"][key], key) for key in keys]
            lines.append(f"| {' | '.join([str(one['width']), *cells])} |")
        lines.append("")
    if "trust" in content:
        error = first["metrics"]["trust/ece"]
        lines += [
            f"The probabilities of its answers are off by {format_metric(error['mean'], 'trust/ece')} on average "
            f"(expected calibration error, {format_interval(error['interval'], 'trust/ece')}).",
            "",
        ]
    if content["relevance_reason"]:
        lines.append(f"- relevance: {content['relevance']} ({in_markdown(content['relevance_reason'])})")
    lines += [f"- left out: {count:,} {in_markdown(what)}" for what, count in content["excluded"].items()]
    lines += [
        f"- gate {gate['metric']}: wanted {gate['wanted']:g}, found {gate['found']:.4g}, "
        f"{'met' if gate['met'] else 'not met'}"
        for gate in content["gates"]
    ]
    lines += ["", f"    {visible(content['command'])}", ""]
    return "\n".join(lines)


def headline_keys(content: Content) -> list[str]:
    """The metrics of the first table."""
    left, right = content["modalities"]
    keys = [f"{left}_to_{right}/map", f"{right}_to_{left}/map", "zero_shot/top1"]
    return [key for key in keys if key in content["methods"][0]["metrics"]]


def width_keys(content: Content) -> list[str]:
    """The metrics of the table of nested widths."""
    left, right = content["modalities"]
    directions = (f"{left}_to_{right}", f"{right}_to_{left}")
    return [f"{direction}/{name}" for name in ("map", "recall_at_10") for direction in directions]


def html_page(content: Content, details: PageDetails) -> str:
    """The whole of report.html, which loads nothing from elsewhere."""
    names = tuple(content["modalities"])
    colours = {label: place for place, label in enumerate(_coloured_classes(details.map_labels))}
    drawings: dict[str, Any] = {
        "maps": {
            moment: Markup(figures.map_figure(mapped, details.map_labels, names, colours))
            for moment, mapped in details.maps.items()
        },
        "densities": {
            moment: Markup(figures.density_figure(found, names)) for moment, found in details.densities.items()
        },
        "recall": {
            direction: Markup(
                figures.recall_figure(
                    {method["name"]: method["recall_curves"][direction] for method in content["methods"]}, chance=chance
                )
            )
            for direction, chance in details.chance_curves.items()
        },
    }
    if "trust" in content:
        bins = [(one["mean_probability"], one["share_right"]) for one in content["trust"]["reliability"]]
        drawings["reliability"] = Markup(figures.reliability_figure(bins))
    return static_page(
        TEMPLATES / "report.html.j2",
        filters={"metric": format_metric, "interval": format_interval, "metric_title": metric_title},
        content=content,
        details=details,
        drawings=drawings,
        colours=colours,
        headline=headline_keys(content),
        width_keys=width_keys(content),
        scale=_interval_plot_end(content, headline_keys(content)[0]),
    )


def _interval_plot_end(content: Content, key: str) -> float:
    """The right end of the interval plot: a multiple of 0.1 at or above all that it shows."""
    highest = max(method["metrics"][key]["interval"][1] for method in content["methods"])
    return next(step / 10 for step in range(1, 11) if highest <= step / 10 or step == 10)


def _coloured_classes(labels: Sequence[Sequence[str | None]]) -> list[str]:
    """The classes that get a colour, the most frequent ones, in alphabetical order."""
    counts = Counter(label for side in labels for label in side if label is not None)
    return sorted(sorted(counts, key=lambda label: (-counts[label], label))[: figures.CLASS_COLOURS])
