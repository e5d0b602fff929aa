"""Tuned towers beside frozen ones on RSICD, a tenth of its images known. Appends JSON lines, prints one.

    OMP_NUM_THREADS=1 python benchmarks/tuned.py --data ../shared/data --records tuned.jsonl
    python benchmarks/tuned.py --records tuned.jsonl --table       # Markdown of what was measured

Data, pools and scores are those of ``pairs.py``; images are seen at 160 pixels, about their own size. The last five
blocks of EfficientNet-Lite0 and the last two of MiniLM are tuned. What is below them is frozen, so this script computes
it once (`Kept`); `setclip align` reads raw rows and computes it again in each step. Settings were chosen with ``--split
validation``. ``wall_s`` is the time of the steps, without the frozen part.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pairs
import torch
import true_pairs
from timm.data.transforms_factory import create_transform
from torch import Tensor

from setclip_cli.backbones import load_backbone
from setclip_cli.backbones.base import Encoded
from setclip_cli.backbones.tuning import make_trainable
from setclip_cli.encoders import Encoder, side_by_side
from setclip_cli.encoders.graph import kept_graphs
from setclip_cli.methods.extra_encoders import with_extra_encoders
from setclip_cli.methods.partners import fit_partner_maps
from setclip_cli.pixels.rgb import open_rgb
from setclip_cli.recipe.recipe import Recipe, load_recipe
from setclip_cli.training.build import build_training
from setclip_cli.training.fit import fit_method
from setclip_cli.training.tower import Pool, TunedBackbone
from setclip_cli.training.training import Training
from setclip_cli.training.tuned_features import pools_after_training

PIXELS = 160
IMAGE_BLOCKS, IMAGE_STAGE = "last-5", 5  # of EfficientNet-Lite0: its stages from the sixth on have five blocks
TEXT_BLOCKS, TEXT_LAYERS = "last-2", 2
PARTNER = 3.0  # weight of the maps of transport beside the tuned heads
Encoders = tuple[Encoder, Encoder]

FROZEN: dict[str, tuple[str, ...]] = {
    "clip": ("method=clip",),
    "clip, 256 axes": ("method=clip", "projection.pca=256"),
    "cca": ("method=cca", "projection.pca=256"),
    "transport": ("method=transport",),
    "set-clip-plus": ("method=set-clip-plus",),
    "set-clip-plus, 256 axes": ("method=set-clip-plus", "projection.pca=256"),
}
COMMON = ("projection.pca=384", "optim.backbone_lr=3e-4", "train.steps=100", "train.chunk=512")
TUNED: dict[str, tuple[str, ...]] = {
    "tuned, pairs alone": (*COMMON, "method=clip", "train.batch=2", "train.pairs_per_batch=128"),
    "tuned, set-clip-plus": (*COMMON, "method=set-clip-plus", "train.batch=64", "train.pairs_per_batch=64"),
}


class Rows:
    """Stands in for the raw rows of a pool: gives their numbers in the data set."""

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: Sequence[int]) -> list[int]:
        found: list[int] = self.numbers[list(rows)].tolist()
        return found


class Kept:
    """A backbone whose frozen part was computed once. Its items are numbers of rows, its tail is the backbone's own."""

    batch = 32

    def __init__(self, backbone: Any) -> None:
        self.backbone, self.precision = backbone, torch.float32

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backbone, name)

    def prepare(self, items: Sequence[int], *, views: Sequence[int] | None = None) -> Any:
        raise NotImplementedError

    def features(self, prepared: Any) -> Tensor:
        raise NotImplementedError

    @torch.no_grad()
    def encode(self, items: Sequence[int]) -> Encoded:
        parts = [items[start : start + self.batch] for start in range(0, len(items), self.batch)]
        return Encoded(torch.cat([self.features(self.prepare(part)) for part in parts]))


class KeptImages(Kept):
    """EfficientNet-Lite0 from its sixth stage on."""

    def __init__(self, stems: Tensor) -> None:
        super().__init__(load_backbone("timm:tf_efficientnet_lite0", modality="image"))
        make_trainable(self.backbone, IMAGE_BLOCKS)
        self.stems = stems

    def prepare(self, items: Sequence[int], *, views: Sequence[int] | None = None) -> Tensor:
        return self.stems[list(items)].float().contiguous(memory_format=torch.channels_last)

    def features(self, prepared: Tensor) -> Tensor:
        return _tail(self.backbone.module, prepared)


class KeptTexts(Kept):
    """MiniLM from its fifth layer on. Equal texts are kept once."""

    batch = 256

    def __init__(self, states: Tensor, lengths: Tensor, text_of: Tensor) -> None:
        super().__init__(load_backbone("sentence-transformers:all-MiniLM-L6-v2", modality="caption"))
        make_trainable(self.backbone, TEXT_BLOCKS)
        self.states, self.lengths, self.text_of = states, lengths, text_of
        self.starts = lengths.cumsum(0) - lengths

    def prepare(self, items: Sequence[int], *, views: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        texts = self.text_of[list(items)]
        places = torch.arange(int(self.lengths[texts].max()))
        mask = places < self.lengths[texts][:, None]
        return self.states[(self.starts[texts][:, None] + places).clamp_max(len(self.states) - 1)].float(), mask

    def features(self, prepared: tuple[Tensor, Tensor]) -> Tensor:
        hidden, mask = prepared
        for layer in _layers(self.backbone)[-TEXT_LAYERS:]:
            hidden = _through(layer, hidden, mask)
        pooled = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        return torch.nn.functional.normalize(pooled, dim=1)


def _tail(network: Any, stem: Tensor) -> Tensor:
    for stage in network.blocks[IMAGE_STAGE:]:
        stem = stage(stem)
    features: Tensor = network.forward_head(network.bn2(network.conv_head(stem)), pre_logits=True)
    return features


def _layers(backbone: Any) -> Any:
    return backbone.model[0].auto_model.encoder.layer


def _through(layer: Any, hidden: Tensor, mask: Tensor) -> Tensor:
    found = layer(hidden, (~mask[:, None, None, :]) * torch.finfo(torch.float32).min)
    output: Tensor = found[0] if isinstance(found, tuple) else found
    return output


@torch.inference_mode()
def _stems(folder: Path, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """What the sixth stage of EfficientNet-Lite0 reads of each image, and the features of the whole."""
    backbone: Any = load_backbone("timm:tf_efficientnet_lite0", modality="image")
    network, config = backbone.module, dict(backbone.data_config) | {"input_size": (3, PIXELS, PIXELS), "crop_pct": 1.0}
    transform: Any = create_transform(**config, is_training=False)
    stems, features = [], []
    for start in range(0, len(names), 16):
        files = [(folder / name).read_bytes() for name in names[start : start + 16]]
        pixels = torch.stack([transform(open_rgb(file)) for file in files])
        hidden = network.bn1(network.conv_stem(pixels.contiguous(memory_format=torch.channels_last)))
        for stage in network.blocks[:IMAGE_STAGE]:
            hidden = stage(hidden)
        stems.append(hidden.half())
        features.append(_tail(network, hidden))
    return torch.cat(stems), torch.cat(features)


@torch.inference_mode()
def _states(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """What the last layers of MiniLM read of each text, token after token, and the numbers of tokens."""
    backbone: Any = load_backbone("sentence-transformers:all-MiniLM-L6-v2", modality="caption")
    held: dict[int, Tensor] = {}
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    for start in range(0, len(order), 64):
        own = order[start : start + 64]
        made = backbone.prepare([texts[number] for number in own])
        mask = made["attention_mask"].bool()
        hidden = backbone.model[0].auto_model.embeddings(input_ids=made["input_ids"])
        for layer in _layers(backbone)[:-TEXT_LAYERS]:
            hidden = _through(layer, hidden, mask)
        held |= {number: hidden[row, mask[row]].half() for row, number in enumerate(own)}
    return torch.cat([held[number] for number in range(len(texts))]), torch.tensor(
        [len(held[number]) for number in range(len(texts))]
    )


@dataclasses.dataclass(frozen=True)
class World:
    """RSICD with what the tuned parts of the towers read: see `_stems` and `_states`."""

    data: true_pairs.Items
    stems: Tensor
    states: Tensor
    lengths: Tensor
    text_of: Tensor


def load(folder: Path, cache: Path) -> World:
    """RSICD, its image features at ``PIXELS``, and the frozen part of both towers, from the cache if it has them."""
    data = true_pairs.load("rsicd", folder, cache)
    path = cache / f"tuned-rsicd-{PIXELS}.pt"
    texts = [row["text"] for row in true_pairs._read(folder / "rsicd_pairs" / "captions.jsonl")]
    distinct = sorted(set(texts))
    if not path.exists():
        stems, features = _stems(folder / "rsicd_pairs" / "images", data.blocks.tolist())
        states, lengths = _states(distinct)
        torch.save({"stems": stems, "features": features, "states": states, "lengths": lengths}, path)
    kept = torch.load(path, weights_only=True)
    place = {text: number for number, text in enumerate(distinct)}
    text_of = torch.tensor([place[text] for text in texts])
    data = dataclasses.replace(data, features=kept["features"])
    return World(data, kept["stems"], kept["states"], kept["lengths"], text_of)


def draw(
    data: true_pairs.Items, known: int | float, seed: int, split: str
) -> tuple[true_pairs.Problem, Tensor, Tensor]:
    """The problem of `true_pairs.draw`, and the rows of the data set in its two pools."""
    numbers = [torch.arange(len(side))[:, None] for side in (data.features, data.texts)]
    problem = true_pairs.draw(
        dataclasses.replace(data, features=numbers[0], texts=numbers[1]), known, seed, split=split
    )
    rows = problem.left[:, 0], problem.right[:, 0]
    return dataclasses.replace(problem, left=data.features[rows[0]], right=data.texts[rows[1]]), *rows


@kept_graphs()
def tuned(
    world: World, way: str, known: int | float, seed: int, split: str, every: int, changed: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Trains, and scores the heads in every ``every``-th step; at the end also with what is fitted to the features."""
    problem, left_rows, right_rows = draw(world.data, known, seed, split)
    settings = [f"seed={seed}", *TUNED[way], *changed]
    settings += [f"towers.image.trainable={IMAGE_BLOCKS}", f"towers.caption.trainable={TEXT_BLOCKS}"]
    recipe = load_recipe(pairs.RECIPE, settings)
    backbones: Any = KeptImages(world.stems), KeptTexts(world.states, world.lengths, world.text_of)
    rows: Any = Rows(left_rows), Rows(right_rows)
    lengths = world.lengths[world.text_of[right_rows]]
    training = build_training(
        recipe,
        Pool(problem.left, tuned=TunedBackbone(backbones[0], rows[0])),
        Pool(problem.right, tuned=TunedBackbone(backbones[1], rows[1], lengths)),
        problem.pairs,
    )
    wall_s, started = 0.0, time.perf_counter()
    while training.taken < training.steps:
        training.advance()
        if training.taken % every == 0 or training.taken == training.steps:
            wall_s += time.perf_counter() - started
            scored = [
                backbone.encode(own.tolist()).features
                for backbone, own in zip(backbones, (problem.items, problem.texts), strict=True)
            ]
            heads: Any = training.towers[0].encoder(), training.towers[1].encoder()
            yield {"step": training.taken, "wall_s": wall_s, "part": "heads"} | _score(heads, scored, problem, world)
            started = time.perf_counter()
    for part, encoders in _at_the_end(recipe, training, problem, heads):
        yield {"step": training.taken, "wall_s": wall_s, "part": part} | _score(encoders, scored, problem, world)


def _at_the_end(
    recipe: Recipe, training: Training, problem: true_pairs.Problem, heads: Any
) -> Iterator[tuple[str, Encoders]]:
    """The heads with other encoders, and these alone, fitted to the features after training."""
    pools = pools_after_training(training, problem.pairs, seed=recipe.seed)
    cca = fit_method(
        load_recipe(pairs.RECIPE, ["method=cca", "projection.pca=256"]), *pools.features, pools.pairs
    ).encoders
    yield "cca", cca
    maps = fit_partner_maps(*pools.features, pools.pairs, axes=384, seed=recipe.seed, chosen_on=pools.found).encoders
    yield "transport", maps
    yield "heads and transport", side_by_side([heads, maps], [1.0, PARTNER])
    extra = recipe.extra_encoders.model_dump(exclude={"partner"})
    if any(extra.values()):
        joined = with_extra_encoders(heads, pools.inputs, pools.pairs, **extra, seed=recipe.seed)
        yield "heads with their extra encoders", joined
        yield "all together", side_by_side([joined, maps], [1.0, PARTNER])


def _score(encoders: Encoders, scored: Sequence[Tensor], problem: true_pairs.Problem, world: World) -> dict[str, float]:
    with torch.no_grad():
        left, right = (encoder(rows) for encoder, rows in zip(encoders, scored, strict=True))
    found = pairs.score(left, right, problem, world.data)
    return {key: found[key] for key in ("mean_recall", "by_group", "map", "median_rank")}


def frozen(world: World, way: str, known: int | float, seed: int, split: str) -> dict[str, Any]:
    """A method on frozen features at ``PIXELS``."""
    problem, _, _ = draw(world.data, known, seed, split)
    started = time.perf_counter()
    fitted = fit_method(
        load_recipe(pairs.RECIPE, [f"seed={seed}", *FROZEN[way]]), problem.left, problem.right, problem.pairs
    )
    wall_s = time.perf_counter() - started
    scored = world.data.features[torch.from_numpy(problem.items)], world.data.texts[torch.from_numpy(problem.texts)]
    return {"step": 0, "wall_s": wall_s, "part": "frozen"} | _score(fitted.encoders, scored, problem, world)


def table(records: Sequence[dict[str, Any]]) -> str:
    """A line for each way, step and part: means over seeds."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        found[tuple(record[key] for key in ("split", "known", "way", "part", "step"))].append(record)
    lines = ["| known | towers and method | what is scored | steps | mean recall | mAP | seconds | seeds |"]
    lines.append("| --- " * 8 + "|")
    for (_, known, way, part, step), own in found.items():
        cells = []
        for key in ("mean_recall", "map", "wall_s"):
            values = [record[key] for record in own]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 and key != "wall_s" else ""
            cells.append(f"{statistics.mean(values):.{0 if key == 'wall_s' else 1}f}{spread}")
        lines.append(f"| {known} | {way} | {part} | {step or ''} | {' | '.join(cells)} | {len(own)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "setclip" / "benchmarks")
    parser.add_argument("--records", type=Path, default=Path("tuned.jsonl"))
    parser.add_argument("--ways", nargs="+", default=[*FROZEN, *TUNED], choices=[*FROZEN, *TUNED])
    parser.add_argument("--known", default="0.1", help="known items; 0.1 is a share of them")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--split", default="test", choices=["test", "validation"])
    parser.add_argument("--every", type=int, default=50, help="steps between two scores of the heads")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="setting of the tuned ways")
    parser.add_argument("--table", action="store_true", help="print Markdown of the records and stop")
    given = parser.parse_args()
    records = [json.loads(line) for line in given.records.read_text().splitlines()] if given.records.exists() else []
    if given.table:
        print(table(records))
        return
    key_of = ("split", "known", "way", "seed", "set")
    done = {tuple(str(record[key]) for key in key_of) for record in records}
    known = float(given.known) if "." in given.known else int(given.known)
    world = load(given.data, given.cache)
    for seed in given.seeds:
        for way in given.ways:
            key = dict(zip(key_of, (given.split, given.known, way, seed, given.set), strict=True))
            if tuple(str(value) for value in key.values()) in done:
                continue
            found: Any = (
                [frozen(world, way, known, seed, given.split)]
                if way in FROZEN
                else tuned(world, way, known, seed, given.split, given.every, given.set)
            )
            for each in found:
                records.append(key | each)
                with given.records.open("a") as file:
                    file.write(json.dumps(records[-1]) + "\n")
    print(json.dumps({"records": len(records), "threads": torch.get_num_threads(), "torch": torch.__version__}))


if __name__ == "__main__":
    main()
