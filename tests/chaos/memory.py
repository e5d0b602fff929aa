"""Peak memory and time of the largest jobs, each in a process of its own.

python -m tests.chaos.memory                    # the sizes of docs/reliability.md: some minutes and 4 GB of disk
python -m tests.chaos.memory --share 0.01       # the same at a hundredth of the rows, to see that it runs

ingest     FASTA of 2,000,000 proteins: bytes of memory a row
search     500,000 x 640 EMBEDDINGS: peak above the file that is mapped
evaluate   20,000 x 20,000 EMBEDDINGS
align      pools of 200,000 rows, 64 numbers each, through `fit` with its default method
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from .tally import Tally, arguments, finish, work_folder

MIB = 1 << 20
PARTS = ("ingest", "search", "evaluate", "align")
ROWS = {"ingest": 2_000_000, "search": 500_000, "evaluate": 20_000, "align": 200_000}
LIMITS = {"ingest": 205, "search": 1024, "evaluate": 1024, "align": 4096}  # bytes a row; MiB; MiB; MiB


def ingest(folder: Path, rows: int) -> dict[str, Any]:
    """Bytes that each further row takes, from a quarter of the rows to all: buffers of one size are in both."""
    few = rows // 4
    for name, count in (("small", few), ("whole", rows)):
        write_fasta(folder / f"{name}.fasta", count)
    small = measured(folder, "_ingest", str(folder / "small.fasta"), str(folder / "small"))
    whole = measured(folder, "_ingest", str(folder / "whole.fasta"), str(folder / "whole"))
    bytes_a_row = (whole["peak_mib"] - small["peak_mib"]) * MIB / (rows - few)
    return {**whole, "bytes_a_row": round(bytes_a_row), "over": bytes_a_row > LIMITS["ingest"]}


def write_fasta(path: Path, count: int) -> None:
    generator = random.Random(0)
    letters = bytes(generator.choices(b"ACDEFGHIKLMNPQRSTVWY", k=1 << 20)).decode()
    with path.open("w") as file:
        for number in range(count):
            length = min(4000, int(generator.lognormvariate(5.7, 0.6)) + 10)
            start = generator.randrange(len(letters) - length)
            file.write(f">tr|Q{number:07d}|Q{number:07d}_HUMAN Protein number {number} OS=Homo sapiens OX=9606\n")
            file.write(letters[start : start + length] + "\n")


def _ingest(source: str, out: str) -> None:
    from setclip_cli.ingest.ingest import ingest as run
    from setclip_cli.ingest.options import IngestOptions

    run(source, out, IngestOptions(modality="protein"))


def search(folder: Path, rows: int) -> dict[str, Any]:
    """The peak apart from the mapped file: of a search that makes this file, and of one that finds it in the cache."""
    measured(folder, "_make_search", str(folder), str(rows))
    first = measured(folder, "_search", str(folder))
    second = measured(folder, "_search", str(folder))
    above = max(first["above_map_mib"], second["above_map_mib"])
    times = {"first_s": first["seconds"], "second_s": second["seconds"]}
    return {"above_map_mib": above, **times, "over": above > LIMITS["search"]}


def _make_search(folder: str, rows: str) -> None:
    """A RUN over a tiny sentence model, and EMBEDDINGS of its width with many random rows."""
    import numpy as np

    make_embeddings(Path(folder) / "embeddings", int(rows), 640, np.random.default_rng(0), sides=("protein",))


def _search(folder: str) -> dict[str, Any]:
    import numpy as np

    from setclip_cli.embedding.embeddings import open_embeddings
    from setclip_cli.embedding.vectors import nearest_rows, unit_vectors

    own = OwnMemory()
    embeddings = open_embeddings(Path(folder) / "embeddings")
    vectors = unit_vectors(embeddings, "protein", None)
    query = np.ones(640, np.float32) / 640**0.5
    nearest_rows(vectors, query, 10)
    return {"above_map_mib": round(own.grown() / MIB, 1)}


def evaluate(folder: Path, rows: int) -> dict[str, Any]:
    measured(folder, "_make_evaluate", str(folder), str(rows))
    found = measured(folder, "_evaluate", str(folder))
    return {**found, "over": found["peak_mib"] > LIMITS["evaluate"]}


def _make_evaluate(folder: str, rows: str) -> None:
    import numpy as np

    make_embeddings(Path(folder) / "embeddings", int(rows), 256, np.random.default_rng(0), sides=("protein", "caption"))


def _evaluate(folder: str) -> None:
    from setclip_cli.evaluation.evaluate import evaluate as run
    from setclip_cli.evaluation.options import EvaluateOptions

    root = Path(folder)
    run(root / "embeddings", root / "dataset", root / "report", EvaluateOptions(baselines=()))


def align(folder: Path, rows: int) -> dict[str, Any]:
    found = measured(folder, "_align", str(rows))
    return {**found, "over": found["peak_mib"] > LIMITS["align"] or found["seconds"] > 15 * 60}


def _align(rows: str) -> None:
    import torch

    from setclip_cli.arrays.fit import fit

    draw = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(50, 64, generator=draw)
    mixing = torch.randn(64, 64, generator=draw) / 8
    count = int(rows)
    names = torch.arange(count) % 50
    left = centres[names] + torch.randn(count, 64, generator=draw)
    right = (centres[names] + torch.randn(count, 64, generator=draw)) @ mixing
    fit(left, right, torch.arange(200).repeat(2, 1).T.contiguous())


def make_embeddings(root: Path, rows: int, dim: int, draw: Any, *, sides: tuple[str, ...]) -> None:
    """A DATASET of one-word rows with ten labels, and EMBEDDINGS of it: a direction for each label, and noise."""
    import pyarrow as pa

    from setclip_cli.dataset.dataset import DatasetIndex, write_shard
    from setclip_cli.dataset.modality import KINDS_OF_NAMES
    from setclip_cli.dataset.schemas import schema_of
    from setclip_cli.embedding.embeddings import EmbeddedShard, EmbeddedTower, EmbeddingsIndex
    from setclip_cli.embedding.writing import write_embedding_shard, write_index
    from setclip_cli.files import atomic

    dataset = root.parent / "dataset"
    centres = draw.normal(size=(10, dim)).astype("float32")
    shards, made = [], []
    for side in sides:
        for start in range(0, rows, 50_000):
            numbers = range(start, min(rows, start + 50_000))
            labels = [f"class {number % 10}" for number in numbers]
            ids = [f"{side}-{number}" for number in numbers]
            table = {"id": ids, "split": ["test"] * len(ids), "source": ["made"] * len(ids), "label": labels}
            texts = [f"row {number}" for number in numbers]
            table["sha256"] = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
            if side == "caption":
                table["text"] = texts
            else:
                table |= {"sequence": texts, "length": [len(text) for text in texts]}
            schema = schema_of(KINDS_OF_NAMES[side])
            columns = [pa.array(table.get(name) or [None] * len(ids), schema.field(name).type) for name in schema.names]
            path = f"{side}/test-{start // 50_000:05}.parquet"
            shard = write_shard(
                dataset, path, pa.Table.from_arrays(columns, schema=schema), modality=side, split="test"
            )
            shards.append(shard)
            values = centres[[number % 10 for number in numbers]] + draw.normal(size=(len(ids), dim)).astype("float32")
            values = values.astype("float32")
            values /= (values**2).sum(1, keepdims=True) ** 0.5
            size, sha256 = write_embedding_shard(root, path, ids=ids, embeddings=values, labels=labels)
            fields = shard.model_dump() | {"bytes": size, "sha256": sha256}
            made.append(EmbeddedShard(**fields, input_sha256=shard.sha256))
    atomic.write_json(dataset / "dataset.json", DatasetIndex(shards=shards).model_dump(mode="json"))
    tower = EmbeddedTower(spec="test:none", pooling="default", identity="0" * 64, encoder={})
    towers = dict.fromkeys(sides, tower)
    index = EmbeddingsIndex(
        model="0" * 64, method="set-clip", dim=dim, dataset=str(dataset), towers=towers, shards=made
    )
    write_index(root, index)


class OwnMemory:
    """The peak of the memory that is not a file: read every few milliseconds, since the system keeps no peak of it."""

    def __init__(self) -> None:
        self._start = self._most = self._now()
        self._running = True
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while self._running:
            self._most = max(self._most, self._now())
            time.sleep(0.002)

    def grown(self) -> int:
        self._running = False
        self._thread.join()
        return max(self._most, self._now()) - self._start

    @staticmethod
    def _now() -> int:
        try:
            status = Path("/proc/self/status").read_text()
        except OSError:  # macOS: with the file
            return peak()
        return 1024 * int(status.partition("RssAnon:")[2].split()[0])


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if sys.platform == "linux" else 1)


def measured(folder: Path, name: str, *words: str) -> dict[str, Any]:
    """Calls a function of this file in a new process; its peak, its time, and what it says."""
    (folder / "cache").mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.memory", "--call", name, *words],
        env={**os.environ, "SETCLIP_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def call(name: str, words: list[str]) -> None:
    started = time.monotonic()
    said = globals()[name](*words) or {}
    told = {"peak_mib": round(peak() / MIB, 1), "seconds": round(time.monotonic() - started, 1)}
    print(json.dumps(told | said))


def main() -> NoReturn:
    if sys.argv[1:2] == ["--call"]:
        call(sys.argv[2], sys.argv[3:])
        sys.exit(0)
    more: dict[str, dict[str, Any]] = {
        "--share": {"type": float, "default": 1.0, "help": "of the rows"},
        "--only": {"choices": PARTS, "help": "only this part"},
    }
    given = arguments(__doc__, count=len(PARTS), minutes=60, more=more)
    tally = Tally("memory", count=given.count, minutes=given.minutes, seed=given.seed)
    for name in PARTS:
        if given.only not in (None, name) or tally.time_is_over():
            continue
        with work_folder(given.work, in_memory=False) as folder:
            rows = max(200, round(ROWS[name] * given.share))
            found = globals()[name](folder, rows)
        over = found.pop("over")
        tally.about[name] = {"rows": rows, "limit": LIMITS[name], **found}
        tally.counts["parts"] += 1
        if over and given.share == 1.0:
            tally.fail("over the limit", name, f"--only {name}", json.dumps(found))
        tally.tell(tally.counts["parts"], every=0)
    sys.exit(finish(tally, given.report))


if __name__ == "__main__":
    main()
