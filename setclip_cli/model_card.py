"""RUN/README.md: what the model is, what it was trained on, and how to use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from setclip_cli import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from setclip_cli.model import ModelConfig
    from setclip_cli.recipe import Recipe
    from setclip_cli.shards import Dataset, Modality


def _layers(config: ModelConfig, modalities: Sequence[Modality]) -> list[str]:
    """What ``layer = "best"`` chose, as a paragraph."""
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


def model_card(recipe: Recipe, config: ModelConfig, dataset: Dataset) -> str:
    """The card as Markdown. It holds no date and no path of this machine: equal runs give equal cards."""
    left, right = recipe.modalities()
    towers = [
        f"| {modality} | `{tower.spec}` | {recipe.towers[modality].trainable} | {tower.dim} "
        f"| {sum(shard.rows for shard in dataset.shards(modality, recipe.train.split))} |"
        for modality, tower in config.towers.items()
    ]
    terms = ", ".join(f"{name} {term.weight:g}" for name, term in recipe.objective.active().items()) or "none"
    licences = [
        f"- {manifest.get('title', 'untitled')}: {manifest.get('licence', 'licence not stated')}"
        for manifest in dataset.index.manifests
    ] or ["- The data came without a manifest, so its licence is not known here."]
    lines = [
        f"# {left} - {right} alignment by {config.method}",
        "",
        f"Two towers that map {left}s and {right}s into one space of unit vectors, trained by setclip {__version__} "
        f"on unpaired rows and {config.pairs} known pairs.",
        "",
        "| modality | backbone | trainable | features | unpaired rows |",
        "| --- | --- | --- | --- | --- |",
        *towers,
        "",
        *_layers(config, recipe.modalities()),
        f"Objective, as weights of its terms: {terms}. Seed {config.seed}. The whole recipe is in `recipe.toml`, "
        "every step's losses are in `metrics.jsonl`.",
        "",
        "## Data",
        "",
        *licences,
        "",
        "## Use",
        "",
        "    setclip embed THIS_FOLDER DATASET --out EMBEDDINGS",
        "    setclip evaluate THIS_FOLDER DATASET --out REPORT",
        "",
        "## Limits",
        "",
        "The weights of the backbones are not in this folder; they are found again by name and checked by hash. "
        "With few pairs the result depends on which pairs they are: train several seeds and look at the spread. "
        "A small density gap does not prove a right alignment: a permutation of clusters can match densities as well.",
        "",
    ]
    return "\n".join(lines)
