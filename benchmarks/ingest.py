"""Speed and memory of `setclip ingest` beside bare libraries. Prints one JSON line.

    python benchmarks/ingest.py                       # all of it, some minutes and 20 GB of disk
    python benchmarks/ingest.py --only second-run     # one part: proteins | images | vectors | second-run | sources

Each measurement has its own process, so that its peak memory is its own. Ours and the bare one take turns, and the best
of each is kept, because other work can only make a machine slower.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dnaio
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from setclip_cli.dataset.schemas import ModalityInfo, schema_of
from setclip_cli.ingest.build import SHARD_BYTES, SHARD_ROWS
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions

PARTS = ("proteins", "images", "vectors", "second-run", "sources")
BLOCK_ROWS = 1024


def make_proteins(path: Path, count: int) -> None:
    """UniProt headers and log-normal lengths (median 300), which is what UniProtKB looks like."""
    generator = random.Random(0)
    letters = bytes(generator.choices(b"ACDEFGHIKLMNPQRSTVWY", k=1 << 20)).decode()
    with path.open("w") as file:
        for number in range(count):
            length = min(4000, int(generator.lognormvariate(5.7, 0.6)) + 10)
            start = generator.randrange(len(letters) - length)
            file.write(
                f">tr|Q{number:07d}|Q{number:07d}_HUMAN Protein number {number} OS=Homo sapiens OX=9606 PE=4 SV=1\n"
            )
            file.writelines(f"{letters[i : min(i + 60, start + length)]}\n" for i in range(start, start + length, 60))


def make_images(root: Path, count: int) -> None:
    """JPEG files of 256 x 256 pixels and some 20 KB, as the remote-sensing sets have them; all different."""
    root.mkdir()
    noise = np.random.default_rng(0)
    base = Image.fromarray(noise.integers(0, 256, (40, 40, 3), dtype=np.uint8)).resize((256, 256))
    stream = io.BytesIO()
    base.save(stream, "JPEG", quality=92, subsampling=0)
    content = stream.getvalue()
    for number in range(count):  # a comment makes each one different
        comment = b"\xff\xfe" + (8 + 2).to_bytes(2) + number.to_bytes(8)
        (root / f"{number:06d}.jpg").write_bytes(content[:2] + comment + content[2:])


def make_sources(root: Path, files: int, count: int) -> list[Path]:
    """Files of proteins, all different: the shards of a source that repeats a row of another one are cut again."""
    root.mkdir()
    every = root / "all.fasta"
    make_proteins(every, files * count + files * count // 100 + 10)
    with dnaio.open(every) as records:
        different = iter({record.sequence: record for record in records}.values())
    paths = [root / f"part-{number:03d}.fasta" for number in range(files)]
    for path in paths:
        with dnaio.open(path, mode="w") as file:
            for record in itertools.islice(different, count):
                file.write(record)
    every.unlink()
    return paths


def make_vectors(path: Path, count: int, width: int) -> None:
    """float32 vectors of length 1, all different, as encoders give them."""
    noise = np.random.default_rng(0)
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, width)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, count, BLOCK_ROWS):
            block = noise.standard_normal((min(BLOCK_ROWS, count - start), width), dtype=np.float32)
            file.write((block / np.linalg.norm(block, axis=1, keepdims=True)).data)


def proteins_bare(source: Path, out: Path) -> None:
    """The same columns with dnaio and pyarrow, nothing checked, nothing remembered."""
    out.mkdir(parents=True)
    rows: list[tuple[object, ...]] = []
    shard = 0

    def write() -> None:
        nonlocal shard
        columns = [
            pa.array(column, field.type)
            for column, field in zip(zip(*rows, strict=True), schema_of("protein"), strict=True)
        ]
        table = pa.Table.from_arrays(columns, schema=schema_of("protein"))
        pq.write_table(table, out / f"{shard:05d}.parquet", compression="zstd")
        shard += 1
        rows.clear()

    with dnaio.open(source) as records:
        for record in records:
            first, _, description = record.name.partition(" ")
            sequence = record.sequence
            digest = hashlib.sha256(sequence.encode()).hexdigest()
            rows.append((first.split("|")[1], "train", source.name, digest, None, sequence, len(sequence), description))
            if len(rows) == SHARD_ROWS:
                write()
    if rows:
        write()


def images_bare(source: Path, out: Path) -> None:
    """Names and bytes into Parquet, nothing else."""
    out.mkdir(parents=True)
    names: list[str] = []
    contents: list[bytes] = []
    size = shard = 0

    def write() -> None:
        nonlocal size, shard
        table = pa.table({"id": names, "image": contents})
        pq.write_table(table, out / f"{shard:05d}.parquet", compression="none")
        names.clear()
        contents.clear()
        size, shard = 0, shard + 1

    for path in sorted(source.iterdir()):
        names.append(path.name)
        contents.append(path.read_bytes())
        size += len(contents[-1])
        if size >= SHARD_BYTES:
            write()
    if names:
        write()


def vectors_bare(source: Path, out: Path) -> None:
    """The same columns with NumPy and pyarrow, nothing checked, nothing remembered; shards are synced to disk."""
    out.mkdir(parents=True)
    array = np.load(source, mmap_mode="r")
    count, width = array.shape
    schema = schema_of("vector", ModalityInfo(kind="vector", width=width, dtype="float32"))
    rows = max(1, SHARD_BYTES // (4 * width))
    for shard, start in enumerate(range(0, count, rows)):
        values = np.array(array[start : start + rows])
        digests = [hashlib.sha256(row).hexdigest() for row in values]
        columns = [
            pa.array([f"{source.name}:{row}" for row in range(start, start + len(values))]),
            pa.repeat("train", len(values)),
            pa.repeat(source.name, len(values)),
            pa.array(digests),
            pa.nulls(len(values), pa.string()),
            pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=schema.field("vector").type),
            pa.nulls(len(values), pa.string()),
        ]
        with (out / f"{shard:05d}.parquet").open("wb") as file:
            pq.write_table(
                pa.Table.from_arrays(columns, schema=schema),
                file,
                compression={name: "none" if name == "vector" else "zstd" for name in schema.names},
                write_statistics=[name for name in schema.names if name != "vector"],
                use_dictionary=["split", "source", "label"],
            )
            file.flush()
            os.fsync(file.fileno())


def work(task: str, source: Path, out: Path) -> None:
    """One measurement, in a process of its own; prints seconds, processor seconds and peak memory."""
    started, cpu = time.perf_counter(), time.process_time()
    if task == "proteins_bare":
        proteins_bare(source, out)
    elif task == "images_bare":
        images_bare(source, out)
    elif task == "vectors_bare":
        vectors_bare(source, out)
    elif task == "vectors":
        ingest(source, out, IngestOptions(modality="audio", kind="vector"))
    else:
        ingest(source, out, IngestOptions(modality="protein" if task == "proteins" else "image"))
    wall_s = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_SELF)
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"wall_s": wall_s, "cpu_s": time.process_time() - cpu, "peak_mib": peak / 2**20}))


def measured(task: str, source: Path, folder: Path, attempt: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--work", task, str(source), str(folder / f"{task}-{attempt}")]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(found.stdout))


def compare(task: str, source: Path, folder: Path, repeats: int) -> dict[str, float]:
    """Best of several turns each; a ratio is the bare time over ours: 1 is as fast as bare.

    ``cpu_ratio`` compares processor time of all threads, which other work on the machine disturbs less.
    """
    turns = [(measured(task, source, folder, n), measured(f"{task}_bare", source, folder, n)) for n in range(repeats)]
    ours_s = min(ours["wall_s"] for ours, _ in turns)
    bare_s = min(bare["wall_s"] for _, bare in turns)
    return {
        "ours_s": round(ours_s, 2),
        "bare_s": round(bare_s, 2),
        "ratio": round(bare_s / ours_s, 2),
        "cpu_ratio": round(min(bare["cpu_s"] for _, bare in turns) / min(ours["cpu_s"] for ours, _ in turns), 2),
        "peak_mib": round(max(ours["peak_mib"] for ours, _ in turns)),
        "bare_peak_mib": round(max(bare["peak_mib"] for _, bare in turns)),
    }


def second_run(source: Path, folder: Path, repeats: int) -> dict[str, float]:
    """The whole program on a DATASET that is finished, start of Python included."""
    command = [sys.executable, "-m", "setclip_cli", "ingest", source, "--modality", "image", "--out", folder / "again"]
    times, processor = [], []
    for _ in range(repeats + 1):
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*map(str, command)], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(time.perf_counter() - started)
        processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {
        "first_s": round(times[0], 2),
        "second_s": round(min(times[1:]), 2),
        "second_cpu_s": round(min(processor[1:]), 2),
    }


@contextmanager
def two_nodes() -> Iterator[None]:
    """A Ray cluster of two nodes of one CPU each on this machine."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]


def many_sources(folder: Path, files: int, count: int, repeats: int) -> dict[str, float]:
    """Many files one after the other with one thread, in two processes, and on two nodes: the best of several turns.

    ``share_of_half`` is the time on two nodes over half of the time of one: 1 is perfect, and the goal is 1.15.
    """
    sources = make_sources(folder / "sources", files, count)
    engines: dict[str, IngestOptions] = {
        "local": IngestOptions(modality="protein", workers=1),
        "process": IngestOptions(modality="protein", workers=2, engine="process"),
        "ray": IngestOptions(modality="protein", engine="ray"),
    }
    best = dict.fromkeys(engines, float("inf"))
    with two_nodes():
        ingest(sources[:2], folder / "warm", engines["ray"])
        for turn in range(repeats):
            for name, options in engines.items():
                started = time.perf_counter()
                ingest(sources, folder / f"{name}-{turn}", options)
                best[name] = min(best[name], time.perf_counter() - started)
    for name in engines:  # the same bytes, or there is nothing to compare
        found, expected = (folder / f"{each}-0" / "dataset.json" for each in (name, "local"))
        assert found.read_bytes() == expected.read_bytes(), name
    return {
        **{f"{name}_s": round(seconds, 2) for name, seconds in best.items()},
        "share_of_half": round(best["ray"] / (best["local"] / 2), 2),
        "processes_share_of_half": round(best["process"] / (best["local"] / 2), 2),
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--proteins", type=int, default=1_000_000)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--vectors", type=int, default=1_250_000, help="of --width numbers: 5 GB")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--proteins-of-file", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work:
        work(chosen.work[0], Path(chosen.work[1]), Path(chosen.work[2]))
        return
    result: dict[str, object] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), "pyarrow": pa.__version__, "dnaio": dnaio.__version__},
    }
    with tempfile.TemporaryDirectory(prefix="setclip-benchmark-") as name:
        folder = Path(name)
        if chosen.only in (None, "proteins"):
            make_proteins(folder / "proteins.fasta", chosen.proteins)
            found = compare("proteins", folder / "proteins.fasta", folder, chosen.repeats)
            result["proteins"] = {"count": chosen.proteins, **found}
        if chosen.only in (None, "vectors"):
            make_vectors(folder / "vectors.npy", chosen.vectors, chosen.width)
            found = compare("vectors", folder / "vectors.npy", folder, chosen.repeats)
            per_s = round(chosen.vectors / found["ours_s"])
            result["vectors"] = {"count": chosen.vectors, "width": chosen.width, "rows_per_s": per_s, **found}
        if chosen.only in (None, "images", "second-run"):
            make_images(folder / "images", chosen.images)
        if chosen.only in (None, "images"):
            found = compare("images", folder / "images", folder, chosen.repeats)
            result["images"] = {"count": chosen.images, **found}
        if chosen.only in (None, "second-run"):
            result["second_run"] = {"files": chosen.images, **second_run(folder / "images", folder, chosen.repeats)}
        if chosen.only in (None, "sources"):
            found = many_sources(folder, chosen.files, chosen.proteins_of_file, chosen.repeats)
            result["sources"] = {"files": chosen.files, "proteins_of_file": chosen.proteins_of_file, **found}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
