"""The card of a RUN on a hub: RUN/README.md, with the metrics of a REPORT in its metadata if one is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from setclip_cli.errors import SetClipError, argument, translated
from setclip_cli.evaluation.formatting import metric_title
from setclip_cli.places import named
from setclip_cli.run.config import load_config
from setclip_cli.run.model_card import metadata

# What a reader of the hub compares: the metrics of retrieval and of zero-shot classification, not those of geometry.
_SHOWN = ("/map", "/mrr", "/recall_at_1", "/recall_at_5", "/recall_at_10", "/top1", "/top5", "/mean_recall")


def card_for_hub(run: Path, repo: str, *, report: Path | None = None) -> str:
    """RUN/README.md as the hub takes it.

    Args:
        run: The RUN folder.
        repo: The name of the repository, which the metrics are listed under.
        report: A REPORT of `evaluate` with this RUN in it.

    Raises:
        SetClipError: the card cannot be read, or the report is not of this RUN.
    """
    path = run / "README.md"
    with translated(path, OSError, UnicodeDecodeError, found="cannot be read", fix="restore it from a copy of the RUN"):
        text = path.read_text(encoding="utf-8")
    if not text.startswith("---\n"):  # of a RUN of an earlier version
        text = "\n".join([*metadata(load_config(run), ()), text])
    if report is None:
        return text
    from huggingface_hub import ModelCard

    card = ModelCard(text)
    data: Any = card.data  # of a class whose attributes it does not declare
    data.model_name = repo.rpartition("/")[2]
    data.eval_results = _results(run, report)
    return str(card)


def _results(run: Path, report: Path) -> list[Any]:
    from huggingface_hub import EvalResult

    with translated(report, OSError, ValueError, found="is not a REPORT", fix="give a folder of `setclip evaluate`"):
        content = json.loads((report / "report.json").read_bytes())
        target = _target(run, content)
    if target is None:
        raise SetClipError(
            f"{argument('report')} {report}: is not about {named(run)}",
            fix=f"setclip evaluate {named(run)} DATASET --out REPORT, and give that REPORT",
        )
    relevance, split = content["relevance"], content["split"]
    return [
        EvalResult(
            task_type="feature-extraction",
            task_name=f"retrieval by {relevance}",
            dataset_type="setclip",
            dataset_name=str(content["dataset"]["path"]).rpartition("/")[2],
            dataset_split=split,
            metric_type=key,
            metric_name=metric_title(key),
            metric_value=round(float(metric["value"]), 4),
        )
        for key, metric in target["metrics"].items()
        if key.endswith(_SHOWN)
    ]


def _target(run: Path, content: Any) -> Any:
    """The entry of a RUN in report.json; None if there is none, or more than one could be it."""
    config = load_config(run)
    if content["modalities"] != list(config.modalities()):
        return None
    found = [
        one
        for one in content["targets"]
        if one["kind"] == "run" and (one["method"], one["seed"]) == (config.method, config.seed)
    ]
    places = {named(run), named(run.resolve()), str(run.resolve())}
    same = [one for one in found if one["path"] in places or str(Path(one["path"]).resolve()) in places]
    return same[0] if len(same) == 1 else None
