"""A DATASET of coloured pictures and captions, its pools with features that tell colours apart, and a page of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image
from small_world import run_ok

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.labelling.label import LabelResult, label
from setclip_cli.labelling.options import LabelOptions
from setclip_cli.pools import Pools, PoolSide
from setclip_cli.recipe.recipe import Recipe
from setclip_cli.web.serving import LocalServer

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


def pools_of(
    data: Path, pairs: tuple[tuple[int, int], ...] = (), *, embedded: bool = False, distinct: bool = False
) -> Pools:
    """The pools of that DATASET, of features that a good backbone would give.

    Args:
        embedded: As a RUN that knows the colours embeds them.
        distinct: Picture i and caption i are alike in more than their colour.
    """
    dataset = open_dataset(data)
    draw = torch.Generator().manual_seed(0)
    sides = []
    for modality, kind, width in (("image", "image", 12), ("caption", "text", 9)):
        ids = dataset.table(modality, "train", ["id"])["id"].to_pylist()
        places = torch.tensor([int("".join(filter(str.isdigit, name)) or 0) % 4 for name in ids])
        centres = torch.linalg.qr(torch.randn(width, 4, generator=draw))[0].T
        if distinct:
            numbers = torch.tensor([int("".join(filter(str.isdigit, name)) or 0) for name in ids])
            latent = torch.randn(100, 4, generator=torch.Generator().manual_seed(1))
            features = latent[numbers] @ centres + 0.02 * torch.randn(len(ids), width, generator=draw)
        else:
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
def page_of(out: Path, pools: Pools, **options: Any) -> Iterator[tuple[str, list[LabelResult]]]:
    """Serves the page of these pools in a thread; yields its address, and a list that gets the result at its end."""
    addresses: list[str] = []
    results: list[LabelResult] = []
    servers: list[LocalServer] = []
    failed: list[BaseException] = []
    started = threading.Event()

    def ready(address: str) -> None:
        addresses.append(address)
        started.set()

    def work() -> None:
        try:
            settings = LabelOptions(no_browser=True, **options)
            results.append(label(pools.dataset.root, out, options=settings, ready=ready, served=servers.append))
        except BaseException as error:
            failed.append(error)
        finally:
            started.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("setclip_cli.labelling.label.open_towers", lambda *_given, **_options: pools)
        patch.setattr("setclip_cli.labelling.label.read_pools", lambda *_given, **_options: pools)
        # no tower made these features, so none can read words for them
        patch.setattr("setclip_cli.labelling.meaning.Meaning.nearest", lambda *_given: [])
        thread = threading.Thread(target=work)
        thread.start()
        try:
            assert started.wait(120)
            if not failed:
                yield addresses[0], results
        finally:
            for server in servers:
                server.stop()
            thread.join(60)
    if failed:
        raise failed[0]


class Client:
    """Sends requests to a page as a browser does that was given its address."""

    def __init__(self, address: str) -> None:
        found = urlsplit(address)
        self.host, self.query = found.netloc, found.query
        self.cookie = ""
        if self.query:
            _, headers, _ = self.ask("GET", f"/?{self.query}")
            self.cookie = headers["set-cookie"].partition(";")[0]

    def ask(
        self, method: str, path: str, body: object = None, **headers: str | None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer. A header that is None is not sent."""
        sent: dict[str, str | None] = {"host": self.host, "cookie": self.cookie or None}
        if body is not None:
            sent |= {"content-type": "application/json", "origin": f"http://{self.host}"}
        sent |= headers
        connection = HTTPConnection(self.host, timeout=60)
        try:
            content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                if value is not None:
                    connection.putheader(name, value)
            if content is not None:
                connection.putheader("content-length", str(len(content)))
            connection.endheaders(content)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        status, _, body = self.ask("GET", path)
        assert status == 200, body
        return json.loads(body)

    def send(self, path: str, **content: Any) -> Any:
        """Sends a change; the revision is the current one if it is not given."""
        content.setdefault("revision", self.get("/api/state")["revision"])
        status, _, body = self.ask("POST", path, content)
        assert status == 200, body
        return json.loads(body)
