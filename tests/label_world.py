"""A DATASET of coloured pictures and captions, its pools with features that tell the colours apart, and a page of it."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from small_world import run_ok

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.labelling.label import LabelResult, label
from setclip_cli.labelling.options import LabelOptions
from setclip_cli.pools import Pools, PoolSide
from setclip_cli.recipe.recipe import Recipe

COLOURS = {"red": (200, 40, 40), "green": (40, 160, 60), "blue": (40, 60, 200), "grey": (128, 128, 128)}


def make_dataset(folder: Path, pictures: int = 40, captions: int = 60, extra: tuple[str, ...] = ()) -> Path:
    """Picture i and caption i have colour i % 4. ``extra`` are texts of further captions."""
    (folder / "pictures").mkdir(parents=True)
    for number in range(pictures):
        noise = np.random.default_rng(number).normal(0, 12, (48, 48, 3))
        pixels = np.clip(np.array([*COLOURS.values()][number % 4]) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"picture{number:02d}.png")
    texts = [f"a {[*COLOURS][number % 4]} square, the one of number {number}" for number in range(captions)]
    lines = [json.dumps({"id": f"c{number}", "text": text}) for number, text in enumerate([*texts, *extra])]
    (folder / "captions.jsonl").write_text("\n".join(lines))
    run_ok("ingest", folder / "captions.jsonl", "--modality", "caption", "--out", folder / "data")
    run_ok("ingest", folder / "pictures", "--modality", "image", "--out", folder / "data")
    return folder / "data"


def pools_of(data: Path, pairs: tuple[tuple[int, int], ...] = (), *, embedded: bool = False) -> Pools:
    """The pools of that DATASET, of features that a good backbone would give."""
    dataset = open_dataset(data)
    draw = torch.Generator().manual_seed(0)
    sides = []
    for modality, kind, width in (("image", "image", 12), ("caption", "text", 9)):
        ids = dataset.table(modality, "train", ["id"])["id"].to_pylist()
        places = torch.tensor([int("".join(filter(str.isdigit, name)) or 0) % 4 for name in ids])
        centres = torch.linalg.qr(torch.randn(width, 4, generator=draw))[0].T
        features = centres[places] + 0.15 * torch.randn(len(ids), width, generator=draw)
        embeddings = torch.nn.functional.one_hot(places, 4).float() if embedded else None
        sides.append(PoolSide(modality, kind, ids, features, embeddings))
    recipe = Recipe.model_validate(
        {
            "schema_version": 2,
            "method": "cca",
            "towers": {
                "image": {"backbone": "timm:tf_efficientnet_lite0"},
                "caption": {"backbone": "sentence-transformers:all-MiniLM-L6-v2"},
            },
        }
    )
    return Pools(
        dataset=dataset,
        split="train",
        left=sides[0],
        right=sides[1],
        pairs=torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2),
        items=torch.arange(len(pairs)),
        trained_on=None,
        recipe=recipe,
        run=None,
    )


@contextmanager
def page_of(out: Path, data: Path, **options: Any) -> Iterator[tuple[str, list[LabelResult]]]:
    """Serves a page in a thread; yields its address, and the list that gets the result when the page is closed."""
    from setclip_cli.web import serving

    addresses: list[str] = []
    results: list[LabelResult] = []
    servers: list[serving.LocalServer] = []
    failed: list[BaseException] = []
    started = threading.Event()

    def work() -> None:
        try:
            settings = LabelOptions(no_browser=True, **options)
            results.append(label(data, out, options=settings, ready=ready, served=servers.append))
        except BaseException as error:
            failed.append(error)
        finally:
            started.set()

    def ready(address: str) -> None:
        addresses.append(address)
        started.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(120)
    if failed:
        thread.join()
        raise failed[0]
    try:
        yield addresses[0], results
    finally:
        servers[0].stop()
        thread.join(60)
    assert not failed, failed
