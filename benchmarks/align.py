"""Where a training step spends its time and memory.

Backbones are tiny ones made here in the layouts of the real ones; those of epoch_speedup are the [demo] extra's.

    python benchmarks/align.py                  everything, some two minutes on two idle cores
    python benchmarks/align.py loader_wait      one figure

Prints one JSON line:

    frozen_share        of a step at 4,096 + 4,096 unpaired rows and d = 256: time in the projections and the losses
    epoch_speedup       an epoch through the backbones / the same epoch from cached features, same machine and run
    loader_wait         full path: share of the wall time in which a step waits for its rows
    caching_memory      full path: peak memory of batch 1,024 in chunks / that of a batch of one chunk plus the
                        embeddings and their gradients; both above the memory before the first step
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from tiny import esm2_checkpoint, sentence_folder

from setclip_cli.backbones import load_backbone
from setclip_cli.backbones.tuning import make_trainable
from setclip_cli.dataset.modality import Modality
from setclip_cli.recipe.recipe import Recipe, load_recipe
from setclip_cli.sampling import generator
from setclip_cli.training.batches import Batches
from setclip_cli.training.build import build_training
from setclip_cli.training.embedded import EmbeddedPart
from setclip_cli.training.tower import Pool, TrainingTower, TunedBackbone
from setclip_cli.training.training import Training

CHUNK = 128
LARGE = 1024
WIDE = 4096  # the batch of the frozen path
POOL = 8192  # unpaired rows a side that it draws from
EPOCH = 128  # rows a side of the epoch through the backbones and without
EPOCHS = 5  # from cached features, which take milliseconds
TUNED = 128  # batch of the full path whose loader is watched
RESIDUES = (40, 120)  # of the proteins that train a tower
WORDS = ("kinase", "transporter", "protease", "receptor", "binding", "nuclear", "zinc", "finger", "family")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figure", nargs="?", choices=FIGURES, help="only this one")
    parser.add_argument("--steps", type=int, default=3, help="timed, after one that is not")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)  # batch size: a process of its own
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.peak:
            print(json.dumps(peak_bytes(Path(folder), given.peak)))
            return
        measured = {
            name: float(f"{measure(Path(folder), given.steps):.3g}")
            for name, measure in FIGURES.items()
            if given.figure in (None, name)
        }
        line = {
            **measured,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
        }
        print(json.dumps(line))


def frozen_share(folder: Path, steps: int) -> float:
    """Time inside embedding, objective and both backward passes, over the time of whole steps."""
    draw = generator(0, "benchmark")
    left, right = torch.randn(POOL, 256, generator=draw), torch.randn(POOL, 256, generator=draw)
    pairs = torch.arange(64).repeat(2, 1).T.contiguous()
    recipe = recipe_of(folder, batch=WIDE, pca=256)
    training = build_training(recipe, Pool(left), Pool(right), pairs)
    training.advance()
    spent = Spent()
    with (
        spent.inside(TrainingTower, "embed"),
        spent.inside(type(training.objective), "forward"),
        spent.inside(torch.autograd, "grad"),
        spent.inside(EmbeddedPart, "backward"),
    ):
        started = time.perf_counter()
        for _ in range(steps):
            training.advance()
        whole = time.perf_counter() - started
    return spent.seconds / whole


def epoch_speedup(folder: Path, _steps: int) -> float:
    """The [demo] extra's pretrained backbones over the rows, against a default recipe's steps over the same rows."""
    sides, seconds = [], 0.0
    towers: tuple[tuple[str, Modality, list[Any]], ...] = (
        ("timm:tf_efficientnet_lite0", "image", images(EPOCH)),
        ("sentence-transformers:all-MiniLM-L6-v2", "caption", captions(EPOCH)),
    )
    for spec, modality, values in towers:
        backbone = load_backbone(spec, modality=modality)
        backbone.encode(values[:16])
        started = time.perf_counter()
        features = backbone.encode(values).features
        seconds += time.perf_counter() - started
        sides.append(Pool(features))
    pairs = torch.arange(21).repeat(2, 1).T.contiguous()
    training = build_training(recipe_of(folder, batch=64, pca=64), sides[0], sides[1], pairs)
    training.advance()
    started = time.perf_counter()
    for _ in range(EPOCHS * EPOCH // 64):
        training.advance()
    return seconds / ((time.perf_counter() - started) / EPOCHS)


def loader_wait(folder: Path, steps: int) -> float:
    training = full(folder, batch=TUNED)
    training.advance()
    spent = Spent()
    with spent.inside(Batches, "take"):
        started = time.perf_counter()
        for _ in range(steps):
            training.advance()
        whole = time.perf_counter() - started
    return spent.seconds / whole


def caching_memory(_folder: Path, _steps: int) -> float:
    """Peaks are of whole processes, so each batch size has one."""
    large, small = (peak_of(batch) for batch in (LARGE, CHUNK))
    embeddings = 4 * 2 * 4 * LARGE * 256  # float32 embeddings and gradients: two sides, two parts each
    return large / (small + embeddings)


def peak_of(batch: int) -> int:
    done = subprocess.run([sys.executable, __file__, "--peak", str(batch)], capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout))


def peak_bytes(folder: Path, batch: int) -> int:
    training = full(folder, batch=batch)
    before = resident()
    training.advance()
    return max(1, peak() - before)


def full(folder: Path, *, batch: int) -> Training:
    """Both towers trained whole, in chunks."""
    sides = []
    for modality, values in (("protein", sequences(2048, RESIDUES)), ("caption", captions(2048))):
        backbone = backbone_of(folder, modality)
        features = torch.randn(2048, backbone.dim, generator=generator(0, modality))
        make_trainable(backbone, "full")
        sides.append(Pool(features, tuned=TunedBackbone(backbone, InMemory(values))))  # type: ignore[arg-type]
    pairs = torch.arange(64).repeat(2, 1).T.contiguous()
    return build_training(recipe_of(folder, batch=batch, pca=32), sides[0], sides[1], pairs)


class InMemory:
    """Raw items by row, as `setclip_cli.features.raw_rows.RawRows` gives them."""

    def __init__(self, values: list[str]) -> None:
        self.values = values

    def take(self, rows: list[int]) -> list[str]:
        return [self.values[row] for row in rows]


class Spent:
    """Adds up the time inside chosen functions; a call within a call counts once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0

    def inside(self, owner: Any, name: str) -> _Patched:
        original = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            started = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.perf_counter() - started

        return _Patched(owner, name, timed)


class _Patched:
    def __init__(self, owner: Any, name: str, replacement: Callable[..., Any]) -> None:
        self.owner, self.name, self.replacement = owner, name, replacement
        self.original = getattr(owner, name)

    def __enter__(self) -> None:
        setattr(self.owner, self.name, self.replacement)

    def __exit__(self, *_: object) -> None:
        setattr(self.owner, self.name, self.original)


def recipe_of(folder: Path, *, batch: int, pca: int) -> Recipe:
    path = folder / "recipe.toml"
    path.write_text(
        f"""
        schema_version = 2
        projection = {{ dim = 256, pca = {pca} }}
        train = {{ steps = 1000, batch = {batch}, pairs_per_batch = 64, chunk = {CHUNK} }}
        towers.protein = {{ backbone = "esm:esm2_t6_8M_UR50D", trainable = "full" }}
        towers.caption = {{ backbone = "sentence-transformers:all-MiniLM-L6-v2", trainable = "full" }}
        """
    )
    return load_recipe(path)


def backbone_of(folder: Path, modality: str) -> Any:
    """ESM-2 of 4 layers, 128 wide; a BERT of 2 layers, 64 wide."""
    if modality == "protein":
        path = esm2_checkpoint(folder / "esm", layers=4, width=128)
        return load_backbone("esm:esm2_t6_8M_UR50D", modality="protein", weights=str(path))
    path = sentence_folder(folder / "text", width=64)
    return load_backbone("sentence-transformers:all-MiniLM-L6-v2", modality="caption", weights=str(path))


def sequences(count: int, residues: tuple[int, int]) -> list[str]:
    draw = generator(0, "sequences")
    letters = "ACDEFGHIKLMNPQRSTVWY"
    return [
        "".join(letters[at] for at in torch.randint(20, (int(length),), generator=draw).tolist())
        for length in torch.randint(*residues, (count,), generator=draw)
    ]


def images(count: int) -> list[bytes]:
    """JPEG files of 256 x 256 pixels."""
    pixels = torch.randint(256, (count, 256, 256, 3), dtype=torch.uint8, generator=generator(0, "images")).numpy()
    files = []
    for values in pixels:
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, "jpeg")
        files.append(buffer.getvalue())
    return files


def captions(count: int) -> list[str]:
    draw = generator(0, "captions")
    return [
        " ".join(WORDS[at] for at in torch.randint(len(WORDS), (8,), generator=draw).tolist()) for _ in range(count)
    ]


def resident() -> int:
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


FIGURES: dict[str, Callable[[Path, int], float]] = {
    "frozen_share": frozen_share,
    "epoch_speedup": epoch_speedup,
    "loader_wait": loader_wait,
    "caching_memory": caching_memory,
}

if __name__ == "__main__":
    main()
