"""What the mean shift does to finding one single partner, where pairs are true ones. Prints one JSON line.

    OMP_NUM_THREADS=1 python benchmarks/partners.py --data ../shared/data

Two captions of the same RSICD image, and a protein's sequence and its own name. 2,000 rows are the pools, 500 others
are scored: recall at 10 of the partner among them, the mean of both directions. By class: benchmarks/alignment.py.
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
from collections import defaultdict
from pathlib import Path

import measured
import numpy as np
import torch
from torch import Tensor

from setclip_cli.backbones import load_backbone
from setclip_cli.recipe.recipe import load_recipe
from setclip_cli.training.fit import fit

RECIPE = Path(__file__).with_name("alignment.toml")
SETTINGS = {
    "cca": ['method="cca"'],
    "set-clip-plus": [],
    "set-clip-plus, shifted 0.2": ["extra_encoders.shifted=0.2"],
    "set-clip-plus, not shifted": ["extra_encoders.shifted=0"],
}
POOL, SCORED = 2000, 500
SHORTEST = 31  # residues


def captions(data: Path, cache: Path) -> tuple[Tensor, Tensor]:
    _, table = measured.load("rs", data, cache)
    of_image: dict[str, list[int]] = defaultdict(list)
    for row, image in enumerate(table.sources):
        of_image[image].append(row)
    first, second = zip(*(rows[:2] for rows in of_image.values() if len(rows) > 1), strict=True)
    return table.features[list(first)], table.features[list(second)]


def proteins(data: Path, _: Path) -> tuple[Tensor, Tensor]:
    with gzip.open(data / "uniprot" / "uniprot_sample.fasta.gz", "rt") as file:
        entries = [entry.partition("\n") for entry in file.read().split(">")[1:]]
    named = [
        (residues.replace("\n", ""), header.partition(" ")[2].partition(" OS=")[0]) for header, _, residues in entries
    ]
    named = [row for row in named if len(row[0]) >= SHORTEST]
    taken = [named[row] for row in np.random.default_rng(0).permutation(len(named))[: POOL + SCORED]]
    text = load_backbone("sentence-transformers:all-MiniLM-L6-v2", modality="caption")
    words = np.stack([measured.word_frequencies(residues) for residues, _ in taken])
    return torch.from_numpy(words), text.encode([name for _, name in taken]).features


def recall_at_10(queries: Tensor, gallery: Tensor) -> float:
    """In percent; row i of both is a pair, and ties count half."""
    cosines = queries @ gallery.T
    own = cosines.diag()[:, None]
    ahead = (cosines > own).sum(1) + 0.5 * ((cosines == own).sum(1) - 1)
    return 100 * float((ahead < 10).float().mean())


def measure(left: Tensor, right: Tensor, pairs: int, seed: int, settings: list[str]) -> float:
    order = torch.randperm(len(left), generator=torch.Generator().manual_seed(seed))
    scored, pool = order[:SCORED], order[SCORED : SCORED + POOL]
    recipe = load_recipe(RECIPE, [f"seed={seed}", f"pairs={pairs}", *settings])
    fitted = fit(recipe, left[pool], right[pool], torch.arange(pairs).repeat(2, 1).T)
    with torch.no_grad():
        a, b = (encoder(side[scored]) for encoder, side in zip(fitted.encoders, (left, right), strict=True))
    return (recall_at_10(a, b) + recall_at_10(b, a)) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "setclip" / "benchmarks")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    results = []
    for name, read, counts in (("captions", captions, (70, 700)), ("proteins", proteins, (120, 700))):
        left, right = read(given.data, given.cache)
        for pairs in counts:
            for setting, changed in SETTINGS.items():
                found = [measure(left, right, pairs, seed, changed) for seed in range(given.seeds)]
                results.append(
                    {
                        "data": name,
                        "pairs": pairs,
                        "setting": setting,
                        "recall_at_10": round(float(np.mean(found)), 2),
                        "sd": round(float(np.std(found, ddof=1)), 2) if len(found) > 1 else None,
                    }
                )
    machine = {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    print(json.dumps(machine | {"results": results}))


if __name__ == "__main__":
    main()
