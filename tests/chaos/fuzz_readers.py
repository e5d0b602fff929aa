"""Feeds spoiled inputs to every reader: each must give records and rejects that add up, or a SetClipError.

    python -m tests.chaos.fuzz_readers --count 1000000 --seed 0 --minutes 60 --report fuzz.json

An input depends on the seed and its number alone. One that fails is written to the folder of --keep. Each input may
take 5 seconds of the CPU and 2 GiB of memory; the process that reads is replaced if it dies.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from . import fuzz_inputs as inputs
from .tally import Tally, arguments, finish, work_folder

CPU_S = 5.0
STUCK_S = 300.0  # wall time after which a process that tells nothing is killed; a busy machine may pause it
MEMORY = 2 << 30
GROWN = 300 << 20  # growth of the peak by one input of at most 48 KiB
INGESTED = 0.02  # of the inputs go through a whole ingest and its verification, which takes milliseconds


class TooSlowError(BaseException):
    """Raised by the timer inside a reader."""


@dataclass(frozen=True)
class Target:
    """A reader: the name of its file, an input for it, and what is done with the file."""

    name: str
    file: str
    make: Callable[[random.Random], bytes]
    read: Callable[[Path, random.Random], None]
    weight: float = 1.0


def targets() -> list[Target]:
    """All readers. Text and settings are fast and come often; archives, Parquet and scenes take longer."""
    found = [*_row_targets(), *_image_targets(), *_document_targets()]
    return sorted(found, key=lambda one: one.name)


def _row_targets() -> list[Target]:
    import pyarrow as pa

    proteins = pa.table({"id": ["a", "b", "c"], "sequence": ["MKV", "MKL", "MKA"], "label": ["x", None, "y"]})
    captions = pa.table(
        {"text": ["x", None, "z"], "image": ["1.jpg", "2.jpg", "2.jpg"], "captions": [["a"], [], ["b", "c"]]}
    )
    column_names = ("id", "sequence", "label", "text", "caption", "captions", "image", "split", "group")
    table = inputs.spoiled(
        b"Entry\tSequence\tProtein names\nP1\tMKV\tName\nP2\tMKVL\tOther\n",
        b"id,sequence,label,split\na,MKV,x,train\nb,MKL,,test\n",
    )
    aspects = (None, "name", "name,function,keywords,go,ec")
    protein = lambda aspect=None: _reader("protein", captions_from=aspect)  # noqa: E731
    caption = _reader("caption")
    fasta, flat = inputs.spoiled(inputs.FASTA, b">a\nACGTACGTACGT\n>b\nACGGGT\n"), inputs.spoiled(inputs.FLAT)
    found = [Target(f"fasta {one}", "a.fasta", fasta, protein(one), 6) for one in aspects[:2]]
    found += [Target(f"dat {one}", "a.dat", flat, protein(one), 4) for one in aspects]
    for suffix, pack in ((".gz", inputs.gzipped), (".bz2", inputs.bzipped), (".zst", inputs.zstd)):
        found.append(Target(f"fasta{suffix}", f"a.fasta{suffix}", inputs.packed(inputs.FASTA, pack), protein(), 2))
        found.append(Target(f"jsonl{suffix}", f"a.jsonl{suffix}", inputs.packed(inputs.JSONL, pack), caption, 2))
    found += [Target(f"protein {suffix}", f"a{suffix}", table, protein("name"), 3) for suffix in (".tsv", ".csv")]
    rows = inputs.spoiled_parquet(proteins, column_names)
    found.append(Target("protein .parquet", "a.parquet", rows, protein("name"), 1))
    words = inputs.spoiled("one\r\ntwo é\rthree\n".encode(), inputs.FLICKR, inputs.CSV)
    found += [
        Target("jsonl", "a.jsonl", inputs.spoiled(inputs.JSONL), caption, 6),
        Target("csv", "a.csv", inputs.spoiled(inputs.CSV, inputs.FLICKR), caption, 6),
        Target("tsv", "a.tsv", inputs.spoiled(inputs.CSV.replace(b",", b"\t"), inputs.FLICKR), caption, 3),
        Target("txt", "a.txt", words, caption, 4),
        Target("caption .parquet", "c.parquet", inputs.spoiled_parquet(captions, column_names), caption, 1),
    ]
    for name, whole in (
        ("karpathy", inputs.KARPATHY),
        ("coco", inputs.COCO),
        ("by class", inputs.BY_CLASS),
        ("list", inputs.LIST_OF_ROWS),
    ):
        found.append(Target(f"json {name}", "a.json", inputs.spoiled_json(whole), caption, 3))
    return found


def _image_targets() -> list[Target]:
    import pyarrow as pa

    image = _reader("image")
    found = [
        Target(f"image {suffix}", f"a{suffix}", inputs.spoiled_picture(suffix), image, 1.5)
        for suffix in inputs.pictures()
    ]
    png = inputs.pictures()[".png"][0]
    table = pa.table({"image": [{"bytes": png, "path": f"{name}.png"} for name in "abc"], "label": [0, 1, None]})
    found += [
        Target("zip", "a.zip", inputs.spoiled_zip, image, 0.7),
        Target("tar", "a.tar", inputs.spoiled_tar("w"), image, 0.7),
        Target("tar.gz", "a.tar.gz", inputs.spoiled_tar("w:gz"), image, 0.4),
        Target("WebDataset captions", "w.tar", inputs.spoiled_tar("w"), _reader("caption"), 0.7),
        Target(
            "image .parquet", "i.parquet", inputs.spoiled_parquet(table, ("image", "label", "bytes", "id")), image, 0.7
        ),
    ]
    try:
        import rasterio  # noqa: F401
    except ImportError:
        return found
    scene = inputs.spoiled_picture(".tif")
    for name, options in (
        ("tiles", {"tile": 8}),
        ("bands", {"bands": "1,2,3", "tile": 6, "stride": 4}),
        ("stretch", {"stretch": "0,100"}),
    ):
        found.append(Target(f"scene {name}", "s.tif", scene, _reader("image", **options), 0.3))
    return found


def _document_targets() -> list[Target]:
    read_bytes = lambda folder: [path.read_bytes() for path in sorted((inputs.REPO / folder).glob("*.toml"))]  # noqa: E731
    recipes, manifests, studies = read_bytes("recipes"), read_bytes("data_manifests"), read_bytes("studies")
    tasks = read_bytes("setclip_cli/evaluation/task_sets")
    labels = inputs.spoiled(b"id,label\na,x\nb,y\n", b'filename,class\na.jpg,"x, y"\n')
    pairs = inputs.spoiled(b"left_modality,left_id,right_modality,right_id\nimage,a,caption,c\nprotein,p,caption,d\n")
    kept = inputs.REPO / "tests" / "fixtures" / "before_rooms"
    json_of = lambda name: json.loads((kept / name).read_bytes())  # noqa: E731
    return [
        Target("labels", "labels.csv", labels, _labels, 3),
        Target("pairs", "pairs.csv", pairs, _pairs, 3),
        Target("manifest", "m.toml", inputs.spoiled_toml(manifests), _manifest, 2),
        Target("task set", "t.toml", inputs.spoiled_toml(tasks), _task_set, 2),
        Target("recipe", "r.toml", inputs.spoiled_toml(recipes), _recipe, 1),
        Target(
            "recipe override",
            "o.txt",
            inputs.spoiled(b"train.steps=5", b'towers.image.weights="a"', b"pairs=0.5", b"objective.sdd.weight=0.3"),
            _override,
            1,
        ),
        Target("study", "s.toml", inputs.spoiled_toml(studies), _study, 2),
        Target("dataset.json", "dataset.json", inputs.spoiled_json(json_of("dataset/dataset.json")), _dataset, 2),
        Target(
            "embeddings.json",
            "embeddings.json",
            inputs.spoiled_json(json_of("embeddings/embeddings.json")),
            _embeddings,
            2,
        ),
        Target("config.json", "config.json", inputs.spoiled_json(json_of("run/config.json")), _config, 2),
        Target(
            "safetensors",
            "step-00000001.safetensors",
            inputs.spoiled((kept / "run" / "model.safetensors").read_bytes()),
            _checkpoint,
            1,
        ),
        Target(
            "option texts",
            "o.txt",
            inputs.spoiled(b"train=0.8,val=0.1,test=0.1", b"auto", b"name,go", b"2,98", b"1,2,3"),
            _options,
            2,
        ),
    ]


# --- what is done with a file


def _reader(modality: Any, **options: Any) -> Callable[[Path, random.Random], None]:
    from setclip_cli.ingest.options import IngestOptions, ReadOptions
    from setclip_cli.ingest.sources import open_source
    from setclip_cli.ingest.sources.base import Record, Reject, usable_id

    settings = ReadOptions(modality=modality, **options)
    whole = IngestOptions(modality=modality, max_bad_fraction=1.0, **options)

    def read(path: Path, draw: random.Random) -> None:
        if draw.random() < INGESTED:
            _ingest(path, whole)
            return
        for item in open_source(path, settings).records(0, 1):
            if isinstance(item, Record):
                content = item.payload if isinstance(item.payload, bytes) else item.payload.encode()
                assert item.id, "a record has an empty id"
                assert usable_id(item.id) is None, f"{item.id!r}: {usable_id(item.id)}"
                assert content, "a record has an empty payload"
                assert item.sha256 == hashlib.sha256(content).hexdigest(), "a record has another hash than its payload"
                for text in (item.id, item.label, item.group):  # a split's name is checked by ingest
                    assert text is None or text.encode() is not None
            else:
                assert isinstance(item, Reject), f"{item!r} is neither record nor reject"
                assert item.reason, "a reject has no reason"

    return read


def _ingest(path: Path, options: Any) -> None:
    from setclip_cli.dataset.dataset import open_dataset
    from setclip_cli.dataset.verify import verify
    from setclip_cli.ingest.ingest import ingest

    out = path.parent / "out"
    try:
        result = ingest(path, out, options)
        rows = verify(out).rows
        entry = open_dataset(out).index.sources[0]
        taken = sum(count for of_modality in entry["rows"].values() for count in of_modality.values())
        assert taken == rows, f"dataset.json says {taken} rows, the shards hold {rows}"
        other = sum(entry["rejects"].values()) + sum(entry["left_out"].values())
        assert entry["read"] == taken + other, f"{entry['read']} read, {taken} taken, {other} rejected or left out"
        assert result.as_json()
        json.dumps(result.as_json(), allow_nan=False)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _labels(path: Path, _: random.Random) -> None:
    from setclip_cli.ingest.annotations import read_labels

    assert all(key and value for key, value in read_labels(path).items())


def _pairs(path: Path, _: random.Random) -> None:
    from setclip_cli.ingest.annotations import read_pairs

    read_pairs(path)


def _manifest(path: Path, _: random.Random) -> None:
    from setclip_cli.ingest.manifest import load_manifest

    for file in load_manifest(path).files:
        assert "/" not in file.name
        assert file.name not in ("", ".", ".."), f"a manifest may name the file {file.name!r}"


def _task_set(path: Path, _: random.Random) -> None:
    from setclip_cli.evaluation.task_set import load_task_set

    load_task_set(str(path))


def _recipe(path: Path, _: random.Random) -> None:
    from setclip_cli.recipe.recipe import load_recipe

    load_recipe(path).to_toml()


def _override(path: Path, _: random.Random) -> None:
    from setclip_cli.recipe.recipe import load_recipe

    load_recipe(inputs.REPO / "recipes" / "quickstart.toml", [path.read_bytes().decode("utf-8", "replace")]).to_toml()


def _study(path: Path, draw: random.Random) -> None:
    from setclip_cli.study.planned_runs import plan_runs
    from setclip_cli.study.study_file import load_study

    study = load_study(path)
    if draw.random() < 0.05 and study.seeds < 4 and sum(map(len, study.axes.values())) + len(study.variants) < 9:
        for run in plan_runs(study, path):
            assert "/" not in run.name, f"a run may be named {run.name!r}"


def _dataset(path: Path, _: random.Random) -> None:
    from setclip_cli.dataset.dataset import open_dataset

    for shard in open_dataset(path.parent).index.shards:
        _inside(shard.path)


def _embeddings(path: Path, _: random.Random) -> None:
    from setclip_cli.embedding.embeddings import open_embeddings

    for shard in open_embeddings(path.parent).index.shards:
        _inside(shard.path)


def _inside(name: str) -> None:
    """S1: an index names no file outside of its folder."""
    parts = name.replace("\\", "/").split("/")
    assert len(parts) == 2 and ".." not in parts and "" not in parts, f"an index may name the file {name!r}"  # noqa: PT018


def _config(path: Path, _: random.Random) -> None:
    from setclip_cli.run.config import load_config

    load_config(path.parent)


def _checkpoint(path: Path, _: random.Random) -> None:
    from setclip_cli.run import checkpoint

    checkpoint.load(path)


def _options(path: Path, _: random.Random) -> None:
    from setclip_cli.errors import SetClipError
    from setclip_cli.evaluation.gates import parse_thresholds
    from setclip_cli.ingest.sources.uniprot import parse_aspects
    from setclip_cli.ingest.splits import parse_split

    text = path.read_bytes().decode("utf-8", "replace")
    for parse in (parse_split, parse_aspects, lambda one: parse_thresholds((one,))):
        with contextlib.suppress(SetClipError):
            parse(text)


# --- the process that reads


def _read_numbers(
    seed: int, first: int, last: int, folder: Path, keep: Path | None, shared: memoryview, only: str
) -> None:
    """Reads the inputs of these numbers; writes failures as lines of JSON; ``shared`` always tells where it is."""
    from setclip_cli.errors import SetClipError

    warnings.simplefilter("ignore")
    chosen = [one for one in targets() if only in one.name]
    weights = [one.weight for one in chosen]
    for target in chosen:  # what libraries load for the first file of a kind is not the file's memory
        _read_one(target, seed, 0, folder, SetClipError)
    _limit_memory()
    signal.signal(signal.SIGPROF, _too_slow)
    peak = _peak()
    with (folder / "failures.jsonl").open("a", encoding="utf-8") as failures:
        for number in range(first, last):
            target = random.Random(f"{seed}:{number}:target").choices(chosen, weights)[0]
            shared[0], shared[1] = number, int(time.monotonic())
            signal.setitimer(signal.ITIMER_PROF, CPU_S)
            kind, place, detail = _read_one(target, seed, number, folder, SetClipError)
            signal.setitimer(signal.ITIMER_PROF, 0)
            grown, peak = _peak() - peak, _peak()
            if not kind and grown > GROWN:
                kind, place, detail = "memory", target.name, f"the peak grew by {grown >> 20} MiB"
            if kind:
                failures.write(json.dumps([kind, f"{target.name}: {place}", number, detail]) + "\n")
                failures.flush()
                _keep(keep, target, seed, number)
    shared[0], shared[1] = last, int(time.monotonic())


def _read_one(target: Target, seed: int, number: int, folder: Path, fine: type[Exception]) -> tuple[str, str, str]:
    draw = random.Random(f"{seed}:{number}")
    path = folder / target.file
    try:
        content = target.make(draw)
    except (TooSlowError, MemoryError):
        return "", "", ""  # the making, not the reading
    path.write_bytes(content)
    try:
        target.read(path, draw)
    except fine:
        pass
    except TooSlowError as error:
        return "slow", _innermost(error), f"more than {CPU_S} s"
    except MemoryError as error:
        return "memory", _innermost(error), traceback.format_exc()
    except BaseException as error:
        return "tracebacks", f"{type(error).__name__} in {_innermost(error)}", traceback.format_exc()
    finally:
        path.unlink(missing_ok=True)
    return "", "", ""


def _innermost(error: BaseException) -> str:
    """The last place in setclip of an error, so that failures of one cause are counted together."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "setclip_cli" in frame.filename] or list(frames)
    last = ours[-1]
    said = str(error)[:50] if isinstance(error, AssertionError) else ""
    return f"{Path(last.filename).name}:{last.name} {said}".strip()


def _keep(keep: Path | None, target: Target, seed: int, number: int) -> None:
    if keep is not None:
        folder = keep / f"{seed}-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / target.file).write_bytes(target.make(random.Random(f"{seed}:{number}")))


def _too_slow(_signal: int, _frame: Any) -> NoReturn:
    raise TooSlowError


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if sys.platform == "linux" else 1)


def _limit_memory() -> None:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return  # macOS does not enforce the limit
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def fuzz(tally: Tally, root: Path, *, keep: Path | None = None, only: str = "") -> None:
    """Reads ``tally.wanted`` inputs in a process that is replaced when it dies."""
    number, last = tally.start, tally.start + tally.wanted
    # Stored as two whole numbers: `struct` would clear them first, and the watch would see that.
    shared = memoryview(mmap.mmap(-1, 16)).cast("Q")
    while number < last and not tally.time_is_over():
        shared[0], shared[1] = number, int(time.monotonic())
        pid = os.fork()
        if pid == 0:  # pragma: no cover
            try:
                _read_numbers(tally.seed, number, last, root, keep, shared, only)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        why = _watch(pid, shared, tally, last)
        number = shared[0]
        if why:  # this input ended the process
            tally.fail("crashes", why, f"--seed {tally.seed} --start {number} --count 1", why)
            number += 1
    tally.counts["inputs"] = number - tally.start
    path = root / "failures.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        kind, place, at, detail = json.loads(line)
        tally.fail(kind, place, f"--seed {tally.seed} --start {at} --count 1", detail)
    tally.about["next_start"] = number


def _watch(pid: int, shared: memoryview, tally: Tally, last: int) -> str:
    """Waits for the process. Returns what is wrong if one input ended it."""
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        number, moment = shared
        if found:
            code = os.waitstatus_to_exitcode(status)
            return "" if code == 0 else f"the process ended with {code}"
        tally.tell(number - tally.start)
        if time.monotonic() - moment > STUCK_S:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return f"nothing for {STUCK_S} s"
        if tally.time_is_over():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return ""
        time.sleep(0.05)


def main() -> NoReturn:
    more = {
        "--only": {"default": "", "help": "only readers whose name contains this"},
        "--keep": {"type": Path, "help": "a folder for inputs that fail"},
    }
    given = arguments(__doc__, count=1_000_000, minutes=60, more=more)
    with work_folder(given.work) as root:
        tally = Tally("fuzz_readers", count=given.count, minutes=given.minutes, seed=given.seed, start=given.start)
        fuzz(tally, root, keep=given.keep, only=given.only)
        sys.exit(finish(tally, given.report))


if __name__ == "__main__":
    main()
