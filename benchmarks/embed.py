"""Embedding against the backbones' own scripts. One JSON line a comparison; every side runs in a process of its own.

    python benchmarks/embed.py proteins --fasta uniprot_sample.fasta.gz --rows 1000
    python benchmarks/embed.py texts --captions dataset_rsicd.json --rows 20000
    python benchmarks/embed.py images --folder rsscn7 --rows 700
    python benchmarks/embed.py million --rows 1000000

The sides take turns (A B B A ...) and the median of the ratios counts, so that a busy machine slows both. ``cpu_ratio``
is of processor seconds, which other programs on the machine disturb less than ``wall_ratio``.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CAP = 2048  # residues
LAYERS, WIDTH, HEADS = 6, 320, 20  # of esm2_t6_8M_UR50D


def proteins(path: str, rows: int) -> list[str]:
    """A seeded draw of real sequences at their natural lengths, cut at ``CAP``."""
    records: list[str] = []
    with gzip.open(path, "rt") as file:
        for line in file:
            if line.startswith(">"):
                records.append("")
            else:
                records[-1] += line.strip()
    return [record[:CAP] for record in random.Random(0).sample(records, rows)]


def captions(path: str, rows: int) -> list[str]:
    images = json.loads(Path(path).read_text())["images"]
    texts = [sentence["raw"] for image in images for sentence in image["sentences"]]
    return random.Random(0).sample(texts, rows)


def image_files(folder: str, rows: int) -> list[Path]:
    return random.Random(0).sample(sorted(Path(folder).rglob("*.jpg")), rows)


def fair_esm_model() -> Any:
    import esm
    import torch

    torch.manual_seed(0)
    return esm.ESM2(LAYERS, WIDTH, HEADS).eval()


def proteins_theirs(source: str, rows: int) -> Callable[[], np.ndarray]:
    """fair-esm's model as its extract.py drives it: 4,096 tokens a batch, mean over residues."""
    import torch
    from esm.data import FastaBatchedDataset

    model, sequences = fair_esm_model(), proteins(source, rows)
    data = FastaBatchedDataset([str(row) for row in range(rows)], sequences)
    batches = data.get_batch_indices(4096, extra_toks_per_seq=1)
    converter = model.alphabet.get_batch_converter(CAP)
    loader = torch.utils.data.DataLoader(data, collate_fn=converter, batch_sampler=batches)

    def run() -> np.ndarray:
        features = np.zeros((rows, WIDTH), dtype=np.float32)
        with torch.no_grad():
            for labels, texts, tokens in loader:
                hidden = model(tokens, repr_layers=[LAYERS])["representations"][LAYERS]
                for at, label in enumerate(labels):
                    features[int(label)] = hidden[at, 1 : len(texts[at]) + 1].mean(0).numpy()
        return features

    return run


def proteins_ours(source: str, rows: int) -> Callable[[], np.ndarray]:
    from setclip_cli.backbones.esm2 import Esm2Backbone, module_from_checkpoint

    tensors = {
        ("encoder." if name.startswith("lm_head") else "encoder.sentence_encoder.") + name: tensor
        for name, tensor in fair_esm_model().state_dict().items()
    }
    settings = {
        "encoder_layers": LAYERS,
        "encoder_embed_dim": WIDTH,
        "encoder_attention_heads": HEADS,
        "token_dropout": True,
    }
    module = module_from_checkpoint({"cfg": {"model": settings}, "model": tensors}, Path("random"))
    backbone, sequences = Esm2Backbone("esm:random", module, window=CAP), proteins(source, rows)
    return lambda: backbone.encode(sequences).features.numpy()


def texts_theirs(source: str, rows: int) -> Callable[[], np.ndarray]:
    backbone, texts = _minilm(), captions(source, rows)
    return lambda: np.asarray(backbone.model.encode(texts, show_progress_bar=False))


def texts_ours(source: str, rows: int) -> Callable[[], np.ndarray]:
    backbone, texts = _minilm(), captions(source, rows)
    return lambda: backbone.encode(texts).features.numpy()


def _minilm() -> Any:
    from setclip_cli.backbones import load_backbone

    return load_backbone("sentence-transformers:all-MiniLM-L6-v2", modality="caption")


def _efficientnet() -> Any:
    from setclip_cli.backbones import load_backbone

    return load_backbone("timm:tf_efficientnet_lite0", modality="image")


class _Files:
    """What a plain loop gives its DataLoader."""

    def __init__(self, files: list[Path], transform: Callable[[Any], Any]) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> Any:
        from PIL import Image

        return self.transform(Image.open(self.files[row]).convert("RGB"))


def images_theirs(source: str, rows: int) -> Callable[[], np.ndarray]:
    """A plain timm loop: DataLoader with two workers, batches of 32, the model as timm makes it."""
    import torch
    from torch.utils.data import DataLoader

    backbone = _efficientnet()
    module = backbone.module.to(memory_format=torch.contiguous_format)
    files: Any = _Files(image_files(source, rows), backbone.transform)
    loader = DataLoader(files, batch_size=32, num_workers=2)

    def run() -> np.ndarray:
        with torch.no_grad():
            return torch.cat([module(batch) for batch in loader]).numpy()

    return run


def images_ours(source: str, rows: int) -> Callable[[], np.ndarray]:
    backbone, files = _efficientnet(), image_files(source, rows)
    return lambda: backbone.encode([file.read_bytes() for file in files]).features.numpy()


def images_bare(source: str, rows: int) -> Callable[[], np.ndarray]:
    """The model alone on tensors decoded beforehand, in the form and the batches that ours uses."""
    import torch

    backbone = _efficientnet()
    data = _Files(image_files(source, rows), backbone.transform)
    pixels = torch.stack([data[row] for row in range(rows)])

    def run() -> np.ndarray:
        with torch.inference_mode():
            return torch.cat(
                [backbone.forward(batch) for batch in torch.split(pixels, backbone.budget.rows or rows)]
            ).numpy()

    return run


def million(rows: int, dim: int = 384, shard_rows: int = 65_536) -> dict[str, Any]:
    """Writes and indexes random rows shard by shard, then searches them; both in a process of their own."""
    with tempfile.TemporaryDirectory() as folder:
        written = _child("_million_write", folder, str(rows), str(dim), str(shard_rows))
        searched = _child("_million_search", folder)
    return {"benchmark": "million", "rows": rows, "dim": dim, "written": written, "searched": searched}


def _million_write(folder: str, rows: str, dim: str, shard_rows: str) -> dict[str, Any]:
    from setclip_cli.embedding.embeddings import (
        EmbeddedShard,
        EmbeddedTower,
        EmbeddingsIndex,
        open_embeddings,
    )
    from setclip_cli.embedding.faiss_index import write_faiss
    from setclip_cli.embedding.vectors import unit_vectors
    from setclip_cli.embedding.writing import write_embedding_shard, write_index

    started, shards = time.perf_counter(), []
    for number, start in enumerate(range(0, int(rows), int(shard_rows))):
        count = min(int(shard_rows), int(rows) - start)
        values = np.random.default_rng(number).standard_normal((count, int(dim)), dtype=np.float32)
        relative = f"caption/train-{number:05}.parquet"
        ids = [f"row-{start + at}" for at in range(count)]
        size, sha256 = write_embedding_shard(Path(folder), relative, ids=ids, embeddings=values, labels=[None] * count)
        entry = {"path": relative, "modality": "caption", "split": "train", "rows": count, "bytes": size}
        shards.append(EmbeddedShard(**entry, sha256=sha256, input_sha256=""))  # type: ignore[arg-type]
    tower = EmbeddedTower(spec="random", pooling="none", identity="random")
    index = EmbeddingsIndex(
        model="random", method="features", dim=int(dim), dataset=folder, towers={"caption": tower}, shards=shards
    )
    write_index(Path(folder), index)
    wrote = time.perf_counter() - started
    unit_vectors(open_embeddings(Path(folder)), "caption", "train", cache_dir=Path(folder))
    write_faiss(open_embeddings(Path(folder)))
    return {"write_s": round(wrote, 1), "index_s": round(time.perf_counter() - started - wrote, 1), **_peak()}


def _million_search(folder: str) -> dict[str, Any]:
    from setclip_cli.embedding.embeddings import open_embeddings
    from setclip_cli.embedding.vectors import nearest_rows, unit_vectors

    vectors = unit_vectors(open_embeddings(Path(folder)), "caption", "train", cache_dir=Path(folder))
    query = np.asarray(vectors[12345]).copy()
    vectors @ query  # brings the file into memory for both
    bare, ours = [], []
    for _ in range(7):
        started = time.perf_counter()
        vectors @ query
        between = time.perf_counter()
        rows, _ = nearest_rows(vectors, query, 10)
        ours.append(time.perf_counter() - between)
        bare.append(between - started)
    assert rows[0] == 12345
    ratios = sorted(mine / plain for mine, plain in zip(ours, bare, strict=True))
    return {
        "bare_s": round(min(bare), 3),
        "search_s": round(min(ours), 3),
        "ratio": round(statistics.median(ratios), 3),
    }


def _peak() -> dict[str, float]:
    return {"peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)}


def _side(name: str, source: str, rows: str, threads: str, out: str) -> dict[str, Any]:
    """One side once: load, then time one pass over all rows."""
    import torch

    torch.set_num_threads(int(threads))
    run = globals()[name](source, int(rows))
    wall, cpu = time.perf_counter(), time.process_time()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    features = run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu += after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    np.save(out, features)
    return {"wall_s": wall, "cpu_s": cpu, **_peak()}


def compare(kind: str, sides: tuple[str, str], source: str, rows: int, threads: int, rounds: int) -> dict[str, Any]:
    """Runs two sides in turns. Ratios over 1 mean that the second is faster."""
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            for side in sides if turn % 2 == 0 else sides[::-1]:
                runs[side].append(_child("_side", side, source, str(rows), str(threads), f"{folder}/{side}.npy"))
        first, second = (np.load(f"{folder}/{side}.npy") for side in sides)
    result: dict[str, Any] = {"benchmark": kind, "sides": sides, "rows": rows, "threads": threads, "rounds": rounds}
    for unit in ("wall_s", "cpu_s"):
        pairs = zip(runs[sides[0]], runs[sides[1]], strict=True)
        result[unit.replace("_s", "_ratio")] = round(statistics.median(a[unit] / b[unit] for a, b in pairs), 3)
        result[unit] = {side: round(statistics.median(run[unit] for run in runs[side]), 2) for side in sides}
    result["peak_gib"] = {side: max(run["peak_gib"] for run in runs[side]) for side in sides}
    result["largest_difference"] = float(np.abs(first - second).max())
    return result


def _child(function: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", function, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        warnings.simplefilter("ignore")
        print(json.dumps(globals()[sys.argv[2]](*sys.argv[3:])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["proteins", "texts", "images", "million"])
    parser.add_argument("--fasta", "--captions", "--folder", dest="source", default="")
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.what == "million":
        print(json.dumps(million(given.rows)))
        return
    sides = (f"{given.what}_theirs", f"{given.what}_ours")
    print(json.dumps(compare(given.what, sides, given.source, given.rows, given.threads, given.rounds)), flush=True)
    if given.what == "images":
        sides = ("images_bare", "images_ours")
        print(json.dumps(compare("bare", sides, given.source, given.rows, given.threads, given.rounds)))


if __name__ == "__main__":
    main()
