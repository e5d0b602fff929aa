"""How many searches a second `setclip serve` answers, how long each takes, and in how much memory: one JSON line.

100,000 rows of 256 values, and 8 clients that each send the next query as soon as they have the answer. The service is
the command itself; the clients are processes beside it on the same cores, as little Python as HTTP needs. A query is an
embedding (what the service itself can do), or a text (the model's time comes on top; here a tiny one).

    python benchmarks/serve.py --work /tmp/serve-benchmark
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import tiny

from setclip_cli.backbones import load_backbone
from setclip_cli.dataset.dataset import INDEX_NAME, DatasetIndex, write_shard
from setclip_cli.dataset.schemas import ModalityInfo, schema_of
from setclip_cli.encoders import Encoder, ProjectionHead
from setclip_cli.files import atomic
from setclip_cli.run.config import ModelConfig, TowerConfig
from setclip_cli.run.model import save_model

WIDTH, DIM, SHARD = 64, 256, 25_000


def make(work: Path, rows: int) -> None:
    """DATASET, RUN and EMBEDDINGS of ``rows`` vectors and a few captions, unless they are there."""
    if (work / "embeddings" / "embeddings.json").exists():
        return
    info = ModalityInfo(kind="vector", width=WIDTH, dtype="float32")
    schema, shards = schema_of("vector", info), []
    for number, start in enumerate(range(0, rows, SHARD)):
        count = min(SHARD, rows - start)
        values = np.random.default_rng(number).standard_normal((count, WIDTH), dtype=np.float32)
        columns: dict[str, Any] = {
            "id": pa.array([f"item-{start + row:06d}" for row in range(count)]),
            "split": pa.array(["test"] * count),
            "source": pa.array(["made"] * count),
            "sha256": pa.array([atomic.sha256_bytes(row.tobytes()) for row in values]),
            "label": pa.array([f"class {row % 50}" for row in range(count)]),
            "group": pa.nulls(count, pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), WIDTH),
        }
        table = pa.Table.from_arrays(
            [columns[name].cast(schema.field(name).type) for name in schema.names], schema=schema
        )
        shards.append(
            write_shard(work / "data", f"audio/test-{number:05d}.parquet", table, modality="audio", split="test")
        )
    atomic.write_json(work / "data" / INDEX_NAME, DatasetIndex(shards=shards, modalities={"audio": info}).as_json())
    texts = tiny.sentence_folder(work / "text")
    towers: dict[str, TowerConfig] = {}
    encoders: dict[str, Encoder] = {}
    for name, spec, weights, own in (
        ("audio", "vector", "auto", info),
        ("caption", "sentence-transformers:tiny", str(texts), ModalityInfo(kind="text")),
    ):
        backbone = load_backbone(spec, modality=name, info=own, weights=weights)
        encoders[name] = ProjectionHead(backbone.dim, DIM, seed=len(towers))
        described = encoders[name].describe()
        towers[name] = TowerConfig(
            spec=spec,
            kind=own.kind,
            weights=weights,
            pooling="default",
            identity=backbone.identity,
            dim=backbone.dim,
            encoder=described,
            initial=described,
        )
    save_model(
        work / "run", ModelConfig(method="clip", seed=0, pairs=3, dataset_sha256="0", towers=towers), encoders, encoders
    )
    words = ["embed", str(work / "run"), str(work / "data"), "--out", str(work / "embeddings")]
    subprocess.run([sys.executable, "-m", "setclip_cli", *words], check=True, stdout=subprocess.DEVNULL)


def bodies_of(kind: str, client: int) -> list[bytes]:
    random = np.random.default_rng(1000 + client)
    if kind == "embedding":
        queries = random.standard_normal((64, DIM))
        return [
            json.dumps({"embedding": [round(x, 6) for x in row], "as": "caption", "in": "audio"}).encode()
            for row in queries.tolist()
        ]
    words = ("field", "river", "harbour", "road", "forest", "roof", "sand", "ship", "bridge", "snow")
    return [json.dumps({"text": " ".join(random.choice(words, 8)), "in": "audio"}).encode() for _ in range(64)]


def ask(port: int, kind: str, client: int, seconds: float, begin: Any, results: Any) -> None:
    """One client: sends a query, reads the answer, and so on; it keeps its connection."""
    heads = []
    for body in bodies_of(kind, client):
        head = f"POST /search HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: "
        heads.append(head.encode() + str(len(body)).encode() + b"\r\n\r\n" + body)
    connection = socket.create_connection(("127.0.0.1", port))
    took: list[float] = []
    begin.wait()
    end = time.perf_counter() + seconds
    number = 0
    while (started := time.perf_counter()) < end:
        connection.sendall(heads[number % len(heads)])
        answer = connection.recv(1 << 16)
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(1 << 16)
        before, _, content = answer.partition(b"\r\n\r\n")
        assert before.startswith(b"HTTP/1.1 200"), answer[:300]
        length = int(before.lower().partition(b"content-length:")[2].split()[0])
        while len(content) < length:
            content += connection.recv(1 << 16)
        took.append(time.perf_counter() - started)
        number += 1
    results.put(took)


class Served:
    """The command, started and ready."""

    def __init__(self, work: Path, *more: str) -> None:
        words = ["serve", str(work / "run"), str(work / "embeddings"), "--no-token", *more]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "setclip_cli", *words], stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        line = next(line for line in self.process.stderr if line.startswith("ready: "))
        self.port = int(line.strip().rstrip("/").rpartition(":")[2])

    def memory_mib(self) -> float:
        """Resident memory, what is shared with the page cache included."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def measured(served: Served, kind: str, clients: int, seconds: float) -> dict[str, float]:
    context = multiprocessing.get_context("fork")
    begin, results = context.Event(), context.Queue()
    workers = [
        context.Process(target=ask, args=(served.port, kind, client, seconds, begin, results))
        for client in range(clients)
    ]
    for worker in workers:
        worker.start()
    time.sleep(0.5)
    before = served.cpu_s()
    begin.set()
    took = sorted(one for _ in workers for one in results.get(timeout=seconds + 60))
    for worker in workers:
        worker.join()
    cpu_s = served.cpu_s() - before
    return {
        "searches_per_s": round(len(took) / seconds, 1),
        "p50_ms": round(1000 * statistics.median(took), 1),
        "p99_ms": round(1000 * took[int(0.99 * len(took))], 1),
        "most_ms": round(1000 * took[-1], 1),
        "cpu_ms_per_search": round(1000 * cpu_s / len(took), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20)
    given = parser.parse_args()
    os.environ["SETCLIP_CACHE"] = str(given.work / "cache")
    make(given.work, given.rows)
    make(given.work / "few", 100)
    few = Served(given.work / "few")
    measured(few, "text", 1, 1)
    model_mib = few.memory_mib()
    few.stop()
    served = Served(given.work)
    try:
        measured(served, "embedding", given.clients, 2)  # the pages of the vectors come from the disk
        found = {kind: measured(served, kind, given.clients, given.seconds) for kind in ("embedding", "text")}
        alone = measured(served, "embedding", 1, given.seconds / 4)
        all_mib = served.memory_mib()
    finally:
        served.stop()
    vectors_mib = given.rows * DIM * 4 / 2**20
    print(
        json.dumps(
            {
                "rows": given.rows,
                "dim": DIM,
                "clients": given.clients,
                **found,
                "one_client": alone,
                "vectors_mib": round(vectors_mib, 1),
                "memory_mib": round(all_mib, 1),
                "memory_of_the_model_mib": round(model_mib, 1),
                "memory_over_the_model_per_vectors": round((all_mib - model_mib) / vectors_mib, 2),
                "load": os.getloadavg()[0],
                "cores": os.cpu_count(),
                "torch": torch.__version__,
                "platform": platform.platform(),
            }
        )
    )


if __name__ == "__main__":
    main()
