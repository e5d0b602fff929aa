"""RUN/README.md: what the model is, its data, its figures, how to use it, and what to cite."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from setclip_cli.console import code_in_markdown, in_markdown
from setclip_cli.dataset.dataset import pairs_in_words
from setclip_cli.dataset.modality import plural
from setclip_cli.run.model import keyword
from setclip_cli.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from setclip_cli.dataset.dataset import Dataset
    from setclip_cli.dataset.modality import Modality, RowKind
    from setclip_cli.dataset.schemas import ModalityInfo
    from setclip_cli.recipe.presets import Method
    from setclip_cli.recipe.recipe import Recipe
    from setclip_cli.run.config import ModelConfig

SET_CLIP = "Set-CLIP: Song et al. 2024, arXiv:2406.05766"
PAPERS: dict[Method, str] = {
    "set-clip-plus": SET_CLIP,
    "set-clip": SET_CLIP,
    "set-clip-published": SET_CLIP,
    "clip": "CLIP: Radford et al. 2021, arXiv:2103.00020",
    "s-clip": "S-CLIP: Mo et al. 2023, arXiv:2305.14095",
    "asif": "ASIF: Norelli et al. 2023, arXiv:2210.01738",
    "asif-graph": "ASIF: Norelli et al. 2023, arXiv:2210.01738",
}
BACKBONE_PAPERS = {
    "esm": "ESM-2: Lin et al. 2023, Science 379, doi:10.1126/science.ade2574",
    "timm": "PyTorch Image Models: Wightman 2019, doi:10.5281/zenodo.4414861, and the paper of the model named above",
    "sentence-transformers": "Sentence-BERT: Reimers and Gurevych 2019, arXiv:1908.10084",
}
# Names that model hubs know; of another licence they are told where it is written.
_HUB_LICENCES = {
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0"),
    *("cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "odbl", "odc-by", "pddl"),
}
EXAMPLES: dict[RowKind, str] = {
    "protein": '["MKTAYIAKQRQISFVKSHFSRQ"]',
    "image": '["image.jpg"]',
    "video": '["clip.mp4"]',
    "text": '["many boats in a harbour"]',
}


def model_card(
    recipe: Recipe,
    config: ModelConfig,
    dataset: Dataset,
    *,
    records: Sequence[Mapping[str, float]],
    findings: Mapping[str, float],
) -> str:
    """The card as Markdown. It holds no date and no path of this machine: equal runs give equal cards.

    Args:
        records: The lines of metrics.jsonl up to the step whose weights are kept; empty for a method without steps.
        findings: What the method measured of its own result.
    """
    left, right = recipe.modalities()
    lines = [
        *metadata(config, [str(one.get("licence") or "") for one in dataset.index.manifests]),
        f"# {left} - {right} alignment by {config.method}",
        "",
        f"Two towers that map {plural(left)} and {plural(right)} into one space of unit vectors, trained by setclip "
        f"{__version__} on unpaired rows and {pairs_in_words(config.pairs, config.known_items, noun='known pair')}.",
        "",
        "| modality | backbone | trainable | features | unpaired rows |",
        "| --- | --- | --- | --- | --- |",
        *_towers(recipe, config, dataset),
        "",
        *_dropped(config),
        *_bands(config),
        *_layers(config, recipe.modalities()),
        *_start(recipe),
        f"Objective, as weights of its terms: {_terms(recipe)}. Seed {config.seed}. The whole recipe is in "
        "`recipe.toml`, every step's losses are in `metrics.jsonl`.",
        "",
        *_figures(records, findings, recipe),
        "## Data",
        "",
        *_data(recipe, dataset),
        "",
        "## Use",
        "",
        "    setclip embed THIS_FOLDER DATASET --out EMBEDDINGS",
        "    setclip evaluate THIS_FOLDER DATASET --out REPORT",
        "",
        "From Python, with this folder as the working folder:",
        "",
        "```python",
        *_snippet(config),
        "```",
        "",
        "## Limits",
        "",
        "The weights of the backbones are not in this folder; they are found again by name and checked by hash. "
        "With few pairs the result depends on which pairs they are: train several seeds and look at the spread. "
        "A small density gap does not prove a right alignment: a permutation of clusters can match densities as well.",
        "",
        "## Cite",
        "",
        *_citations(recipe, config, dataset),
        "",
    ]
    return "\n".join(lines)


def metadata(config: ModelConfig, licences: Sequence[str]) -> list[str]:
    """What model hubs read, as YAML between two lines of dashes.

    Args:
        licences: What the manifests of the data say, one each; the result is `unknown` if there are none.
    """
    ids = {one.strip().lower().replace(" ", "-") for one in licences}
    if not ids or ids & {"", "unknown"}:
        licence = ["license: unknown"]
    elif len(ids) == 1 and ids <= _HUB_LICENCES:
        licence = [f"license: {ids.pop()}"]
    else:
        licence = ["license: other", "license_name: see-the-section-data"]
    kinds = sorted({tower.info(modality).kind for modality, tower in config.towers.items()})
    return [
        "---",
        "library_name: setclip",
        *licence,
        "pipeline_tag: feature-extraction",
        "tags:",
        *(f"- {tag}" for tag in ("setclip", "contrastive-learning", "cross-modal-retrieval", *kinds)),
        "---",
        "",
    ]


def _towers(recipe: Recipe, config: ModelConfig, dataset: Dataset) -> list[str]:
    return [
        f"| {modality} | {code_in_markdown(tower.spec)} | {recipe.towers[modality].trainable} | {tower.dim} "
        f"| {sum(shard.rows for shard in dataset.shards(modality, recipe.train.split))} |"
        for modality, tower in config.towers.items()
    ]


def _dropped(config: ModelConfig) -> list[str]:
    """A paragraph about known pairs that were left out, if that was asked for."""
    if config.dropped_pairs is None:
        return []
    listed = " They are listed in `dropped_pairs.csv`." if config.dropped_pairs else ""
    return [
        f"Known pairs that are likely wrong were left out (`drop_suspect`): {config.dropped_pairs:,} of "
        f"{config.pairs + config.dropped_pairs:,}.{listed}",
        "",
    ]


def _bands(config: ModelConfig) -> list[str]:
    """A paragraph for each tower of images of bands."""
    return [
        line
        for modality, tower in config.towers.items()
        if (scale := tower.bands) is not None
        for line in (f"The {modality} tower reads images of {scale.in_words()}.", "")
    ]


def _terms(recipe: Recipe) -> str:
    return ", ".join(f"{name} {term.weight:g}" for name, term in recipe.objective.active().items()) or "none"


def _start(recipe: Recipe) -> list[str]:
    """A paragraph about the embeddings that joint towers start from."""
    if not recipe.joint:
        return []
    start = "of the joint model" if recipe.init_from is None else "of another RUN of these towers"
    return [
        f"Training starts from the embeddings {start}. `start_cosine` is the mean cosine of an embedding with the one "
        "that it started from.",
        "",
    ]


def _layers(config: ModelConfig, modalities: Sequence[Modality]) -> list[str]:
    """A paragraph about the layers that ``layer = "best"`` chose."""
    if config.layer_choice is None:
        return []
    choice = config.layer_choice
    named = ", ".join(
        f"{modality} layer {layer} of {of}"
        for modality, layer, of in zip(modalities, choice["layers"], choice["of"], strict=True)
    )
    return [
        f"Layers with the most {choice['neighbours']} nearest neighbours in common over {choice['pairs']} known pairs: "
        f"{named}, a share of {choice['similarity']:.3f} (the last layers: {choice['last_similarity']:.3f}).",
        "",
    ]


def _figures(records: Sequence[Mapping[str, float]], findings: Mapping[str, float], recipe: Recipe) -> list[str]:
    """The losses and density gap of the last step, and the last validation, if there are any."""
    if not records and not findings:
        return []
    last = records[-1] if records else {}
    shown = [name for name in last if name.startswith("loss/") or name == "density_gap"]
    rows = [(name, last[name], f"the batch of step {last['step']}") for name in shown]
    rows += [(name, value, "the result") for name, value in findings.items()]
    validated = next((record for record in reversed(records) if "validation/criterion" in record), {})
    of = f"split {code_in_markdown(recipe.validation.split)}, step {validated.get('step', 0)}"
    rows += [(name, value, of) for name, value in validated.items() if name.startswith("validation/")]
    return [
        "## Figures",
        "",
        "| figure | value | of |",
        "| --- | --- | --- |",
        *(f"| {name} | {value:.4f} | {where} |" for name, value, where in rows),
        "",
        "The losses of a batch do not show how good the alignment is: `setclip evaluate` measures that.",
        "",
    ]


def _data(recipe: Recipe, dataset: Dataset) -> list[str]:
    """The number of rows in each split, and what the manifests say about origin and licence."""
    rows = []
    for modality in recipe.modalities():
        counts: dict[str, int] = {}
        for shard in dataset.shards(modality):
            counts[shard.split] = counts.get(shard.split, 0) + shard.rows
        splits = ", ".join(f"{count} in {code_in_markdown(split)}" for split, count in counts.items())
        rows.append(f"- {modality} rows: {splits}; trained on {code_in_markdown(recipe.train.split)}.")
    licences = []
    for manifest in dataset.index.manifests:
        said = {key: in_markdown(value) for key, value in manifest.items() if isinstance(value, str)}
        remark = f" ({said['licence_note']})" if said.get("licence_note") else ""
        home = f" {_link(manifest['homepage'])}" if said.get("homepage") else ""
        title, licence = said.get("title", "untitled"), said.get("licence", "not stated")
        licences.append(f"- {title}. Licence: {licence}{remark}.{home}")
    return rows + (licences or ["- The data came without a manifest, so its licence is not known here."])


def _link(homepage: str) -> str:
    """An address as it is, if it can be nothing else; readers make a link of it."""
    return homepage if re.fullmatch(r"https?://[\w.~%/?&=+,:#-]+", homepage, re.ASCII) else in_markdown(homepage)


def _snippet(config: ModelConfig) -> list[str]:
    left, right = config.modalities()
    of_left, of_right = (_example(config.towers[name].info(name)) for name in (left, right))
    return [
        *(["import numpy as np"] if "np." in of_left + of_right else []),
        "import setclip_cli as setclip",
        "",
        'model = setclip.load_model(".")',
        f"embeddings = model.embed({keyword(left)}={of_left})",
        f"cosines = model.similarity(embeddings, {of_right})",
    ]


def _example(rows: ModalityInfo) -> str:
    return f"[np.ones({rows.width})]" if rows.kind == "vector" else EXAMPLES[rows.kind]


def _citations(recipe: Recipe, config: ModelConfig, dataset: Dataset) -> list[str]:
    """The papers of the method, the backbones and the data, as far as they are known."""
    found = [PAPERS[recipe.method]] if recipe.method in PAPERS else []
    kinds = dict.fromkeys(tower.spec.partition(":")[0] for tower in config.towers.values())
    found += [BACKBONE_PAPERS[kind] for kind in kinds if kind in BACKBONE_PAPERS]
    if recipe.joint and recipe.init_from is None and PAPERS["clip"] not in found:
        found.append(PAPERS["clip"])
    found += [
        f"{in_markdown(paper)} (data)" for manifest in dataset.index.manifests if (paper := manifest.get("paper"))
    ]
    return [f"- setclip {__version__}", *(f"- {paper}" for paper in found)]
