"""From the content of report.json to what a person reads: one sentence, a Markdown note and one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from setclip_cli.evaluation import figures
from setclip_cli.files import atomic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TEMPLATES = Path(__file__).parent / "templates"
_PERCENT = ("recall", "top", "precision", "mean_recall", "mean_per_class")
_SPELLED = {"map": "mAP", "mrr": "MRR", "ndcg": "nDCG", "sdd": "SDD", "mmd": "MMD²", "cka": "CKA", "top1": "top-1",
            "top5": "top-5"}  # fmt: skip
_PLURALS = {"protein": "proteins", "image": "images", "caption": "captions"}

Content = dict[str, Any]


def write(out: Path, content: Content, view: Mapping[str, Any]) -> None:
    """Writes the three forms; report.json last, so that it marks the report as whole."""
    atomic.write_text(out / "report.html", page(content, view))
    atomic.write_text(out / "report.md", markdown(content))
    atomic.write_json(out / "report.json", content)


def summary(content: Content) -> str:
    """What was found, in two or three plain sentences: the first method against chance and against the others."""
    left, right = content["modalities"]
    first, *others = content["methods"]
    key = f"{left}_to_{right}/map"
    score = first["metrics"][key]
    low, high = score["interval"]
    runs = f", mean of {len(first['runs'])} seeds," if len(first["runs"]) > 1 else ""
    match = {"label": f"{_PLURALS[right]} of its class", "group": f"its {right}", "pairs": f"its {right}"}
    sentences = [
        f"For {_article(left)} {left}, {first['name']}{runs} ranks {match[content['relevance']]} with a mean average "
        f"precision of {score['mean']:.3f} (95% interval {low:.3f} to {high:.3f}), "
        f"{score['mean'] / score['chance']:.1f} times chance."
    ]
    if "zero_shot/top1" in first["metrics"]:
        top = first["metrics"]["zero_shot/top1"]
        sentences.append(
            f"Zero-shot it names the class of {top['mean']:.1%} of {_PLURALS[left]} (chance {top['chance']:.1%})."
        )
    if others:
        rival = max(others, key=lambda method: method["metrics"][key]["mean"])
        found = next(one for one in content["differences"] if one["against"] == rival["name"] and one["metric"] == key)
        low, high = found["interval"]
        side = "above" if found["difference"] > 0 else "below"
        sure = "" if found["significant"] else ", which is within the noise"
        best = "the best other method" if len(others) > 1 else "the other method"
        sentences.append(
            f"Its mean average precision is {abs(found['difference']):.3f} {side} that of {rival['name']}, {best} here "
            f"(95% interval {low:+.3f} to {high:+.3f}{sure})."
        )
    return " ".join(sentences)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def number(value: float | None, key: str, *, signed: bool = False) -> str:
    """A metric's value as a reader expects it: shares in percent, ranks with one decimal, the rest with three."""
    if value is None:
        return "–"
    name = key.rpartition("/")[2]
    form = ".1%" if name.startswith(_PERCENT) else ",.1f" if name.endswith("_rank") else ".3f"
    return format(value, f"+{form}" if signed else form).replace("-", "−")


def span(interval: Sequence[float], key: str) -> str:
    """An interval as short as it can be read: ``62.5–87.5%``, ``0.585–0.694``; with a sign in it, ``−0.1 to 0.2``."""
    low, high = (number(value, key) for value in interval)
    if "−" in low or "−" in high:
        return f"{low} to {high}"
    return f"{low.removesuffix('%')}–{high}"


def title(key: str) -> str:
    """``image_to_caption/recall_at_5`` -> ``image → caption, recall at 5``."""
    part, _, name = key.partition("/")
    words = " ".join(_SPELLED.get(word, word) for word in name.split("_"))
    where = part.replace("_to_", " → ").replace("_", "-")
    return f"{where}, {words}"


def markdown(content: Content) -> str:
    """A short note: the sentence, the table, what was left out and the command."""
    keys = headline_keys(content)
    head = " | ".join(["method", "runs", *map(title, keys)])
    lines = ["# Retrieval report", "", content["summary"], "", f"| {head} |", f"|{' --- |' * (len(keys) + 2)}"]
    for method in content["methods"]:
        cells = [_cell(method["metrics"][key], key) for key in keys]
        lines.append(f"| {' | '.join([method['name'], str(len(method['runs'])), *cells])} |")
    chance = [number(content["methods"][0]["metrics"][key]["chance"], key) for key in keys]
    lines.append(f"| {' | '.join(['chance', '', *chance])} |")
    lines += ["", "In brackets the 95% bootstrap interval over queries; ± is the standard deviation over seeds.", ""]
    rows = ", ".join(f"{count:,} {_PLURALS[modality]}" for modality, count in content["rows"].items())
    lines += [f"Split `{content['split']}` of `{content['dataset']['path']}`: {rows}; relevant is what has the same "
              f"{content['relevance'].removesuffix('s')}.", ""]  # fmt: skip
    before = content["methods"][0]["before"]
    if before:
        lines += [f"| {content['methods'][0]['name']} | before training | after |", "| --- | --- | --- |"]
        for key in ("geometry/modality_gap", "geometry/sdd", "geometry/mmd"):
            after = content["methods"][0]["metrics"][key]["mean"]
            lines.append(f"| {title(key)} | {number(before[key], key)} | {number(after, key)} |")
        lines.append("")
    lines += [f"- left out: {count:,} {what}" for what, count in content["excluded"].items()]
    lines += [
        f"- gate {gate['metric']}: wanted {gate['wanted']:g}, found {gate['found']:.4g}, "
        f"{'met' if gate['met'] else 'not met'}"
        for gate in content["gates"]
    ]
    lines += ["", f"    {content['command']}", ""]
    return "\n".join(lines)


def _cell(metric: Mapping[str, Any], key: str) -> str:
    spread = f" ± {number(metric['sd'], key)}" if metric["sd"] is not None else ""
    return f"{number(metric['mean'], key)}{spread} ({span(metric['interval'], key)})"


def headline_keys(content: Content) -> list[str]:
    """The metrics of the first table."""
    left, right = content["modalities"]
    keys = [f"{left}_to_{right}/map", f"{right}_to_{left}/map", "zero_shot/top1"]
    return [key for key in keys if key in content["methods"][0]["metrics"]]


def page(content: Content, view: Mapping[str, Any]) -> str:
    """The whole of report.html, with nothing to load from elsewhere."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "span": span, "title": title, "plural": _PLURALS.__getitem__}
    names = tuple(content["modalities"])
    colours = {label: place for place, label in enumerate(_most_frequent(view["map_labels"]))}
    drawings: dict[str, Any] = {
        "maps": {
            moment: Markup(figures.plane(drawn, view["map_labels"], names, colours))
            for moment, drawn in view["maps"].items()
        },
        "densities": {moment: Markup(figures.densities(found, names)) for moment, found in view["densities"].items()},
        "recall": {
            direction: Markup(_recall_figure(content["methods"], direction, view["chance_curves"][direction]))
            for direction in content["methods"][0]["recall_curves"]
        },
    }
    return environment.get_template("report.html.j2").render(
        content=content,
        view=view,
        drawings=drawings,
        colours=colours,
        headline=headline_keys(content),
        css=Markup(figures.style() + (TEMPLATES / "report.css").read_text(encoding="utf-8")),
        scale=_scale(content, headline_keys(content)[0]),
    )


def _recall_figure(methods: Sequence[Mapping[str, Any]], direction: str, chance: Sequence[tuple[int, float]]) -> str:
    return figures.recall_curves({one["name"]: one["recall_curves"][direction] for one in methods}, chance=chance)


def _scale(content: Content, key: str) -> float:
    """The right end of the interval plot: a round number at or above everything it shows."""
    highest = max(method["metrics"][key]["interval"][1] for method in content["methods"])
    return next(step / 10 for step in range(1, 11) if highest <= step / 10 or step == 10)


def _most_frequent(labels: Sequence[Sequence[str | None]]) -> list[str]:
    """The classes that get a colour, in alphabetical order."""
    counts: dict[str, int] = {}
    for label in [*labels[0], *labels[1]]:
        if label is not None:
            counts[label] = counts.get(label, 0) + 1
    chosen = sorted(counts, key=lambda label: (-counts[label], label))[: figures.CLASS_COLOURS]
    return sorted(chosen)
