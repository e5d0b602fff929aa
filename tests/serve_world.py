"""RUNs and EMBEDDINGS to serve, and a service of them in a thread of the test."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paired_vectors
import tiny
from label_world import Client
from small_world import run_ok

from setclip_cli.backbones import load_backbone
from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.embedding.embed import embed
from setclip_cli.encoders import ProjectionHead
from setclip_cli.run.config import ModelConfig, TowerConfig
from setclip_cli.run.model import save_model
from setclip_cli.serving.options import ServeOptions
from setclip_cli.serving.serve import serve
from setclip_cli.web.serving import LocalServer

CAPTIONS = ["a harbour", "boats in a harbour", "forest", "a long meadow", "sea and sand", "two runways"]


def make_vectors(folder: Path) -> Path:
    """data, run and embeddings of two modalities of vectors; the RUN is calibrated on its known pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    paired_vectors.write_pools(folder / "data", lonely=20)
    recipe = paired_vectors.write_recipe(folder)
    run_ok("align", recipe, "--data", folder / "data", "--out", folder / "run")
    run_ok("embed", folder / "run", folder / "data", "--out", folder / "embeddings")
    return folder


def make_pictures(folder: Path, images: Path, texts: Path, captions: list[str] = CAPTIONS) -> Path:
    """data, an untrained run, and embeddings of pictures and captions.

    Args:
        images, texts: Weights of tiny backbones.
    """
    tiny.write_dataset(
        folder / "data", {"image": [tiny.jpeg(seed) for seed in range(7)], "caption": captions}, rows_per_shard=3
    )
    towers, encoders = {}, {}
    for modality, spec, weights in (
        ("image", f"timm:{tiny.TINY_TIMM}", images),
        ("caption", "sentence-transformers:tiny", texts),
    ):
        backbone = load_backbone(spec, modality=modality, weights=str(weights))
        encoders[modality] = ProjectionHead(backbone.dim, 8, seed=len(towers))
        towers[modality] = TowerConfig(
            spec=spec,
            weights=str(weights),
            pooling="default",
            identity=backbone.identity,
            dim=backbone.dim,
            encoder=encoders[modality].describe(),
            initial=encoders[modality].describe(),
        )
    config = ModelConfig(method="clip", seed=0, pairs=3, dataset_sha256="0", towers=towers)
    save_model(folder / "run", config, encoders, encoders)
    embed(folder / "run", open_dataset(folder / "data"), folder / "embeddings")
    return folder


@contextmanager
def service_of(folder: Path, **options: Any) -> Iterator[str]:
    """Serves run and embeddings of a folder; yields the address."""
    addresses: list[str] = []
    servers: list[LocalServer] = []
    failed: list[BaseException] = []
    started = threading.Event()

    def ready(address: str) -> None:
        addresses.append(address)
        started.set()

    def work() -> None:
        try:
            settings = ServeOptions(**options)
            serve(folder / "run", folder / "embeddings", options=settings, ready=ready, served=servers.append)
        except BaseException as error:
            failed.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert started.wait(120)
        if not failed:
            yield addresses[0]
    finally:
        for server in servers:
            server.stop()
        thread.join(60)
    if failed:
        raise failed[0]


def token_of(address: str) -> str:
    return address.partition("token=")[2]


class Caller(Client):
    """Sends requests as a program does that was given the token."""

    def __init__(self, address: str, token: str | None = None) -> None:
        super().__init__(address.partition("?")[0])
        self.token = token_of(address) if token is None else token

    def post(self, path: str, body: object, **headers: str | None) -> tuple[int, Any]:
        """Status and content."""

        sent = {"origin": None, "authorization": f"Bearer {self.token}" if self.token else None} | headers
        status, told, content = self.ask("POST", path, body, **sent)
        return status, json.loads(content) if told.get("content-type") == "application/json" else content.decode()

    def fine(self, path: str, **body: Any) -> Any:
        """The content of an answer that must be good. ``as_`` and ``in_`` are sent without their last letter."""
        status, content = self.post(path, {name.removesuffix("_"): value for name, value in body.items()})
        assert status == 200, content
        return content
