"""Any bytes give records, rejects or a SetClipError: never another exception, never more memory than the cap.

Inputs are whole random files, and real small files with bytes changed, cut out or repeated. Hypothesis keeps each
input that ever failed in ``.hypothesis``; those found so far are examples below.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from setclip_cli.errors import SetClipError
from setclip_cli.ingest.annotations import read_labels, read_pairs
from setclip_cli.ingest.manifest import load_manifest
from setclip_cli.ingest.options import ReadOptions
from setclip_cli.ingest.sources import open_source
from setclip_cli.ingest.sources.base import Record, Reject
from setclip_cli.ingest.sources.check_image import UnusableImageError, check_image
from setclip_cli.ingest.sources.fasta_headers import parse_header

MEMORY_CAP = 64 << 20  # Python's own allocations; the inputs are a few kilobytes


def picture(kind: str, **options: Any) -> bytes:
    values = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, kind, **options)
    return stream.getvalue()


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/1.png", picture("PNG"))
        file.writestr("b/2.jpg", picture("JPEG"))
    return stream.getvalue()


def tarred(mode: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, format=tarfile.PAX_FORMAT) as file:  # type: ignore[call-overload]
        for name, content in (
            ("é/1.png", picture("PNG")),
            ("é/1.txt", b"words"),
            ("é/1.cls", b"lake"),
            ("é/1.json", b'{"captions": ["x", {"raw": "y"}], "label": 3.0}'),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("é/2.png")
        link.type, link.linkname = tarfile.SYMTYPE, "1.png"
        file.addfile(link)
    return stream.getvalue()


FASTA = b">sp|P1|A_B Name OS=Homo sapiens OX=9606\r\nMKVLA\r\nGGL*\n>gi|1|ref|NP_1.1| x [y]\nmkv\n>\n\n>z"
FLAT = (
    b"ID   X\nAC   P1; P2;\nDE   RecName: Full=Name {ECO:1};\nDE            EC=1.1.1.1;\nOS   Homo sapiens.\n"
    b"CC   -!- FUNCTION: Does (PubMed:1). {ECO:1}.\nDR   GO; GO:1; F:x; IEA.\nKW   A; B.\nSQ   S\n     MKV LAA\n//\n"
)
PUBLISHED = json.dumps(
    {"images": [{"filename": "a_1.jpg", "split": "train", "sentences": [{"raw": "x"}, {"raw": "y"}]}]}
).encode()
COCO = json.dumps(
    {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": 1, "image_id": 1, "caption": "x"}]}
).encode()
BY_CLASS = json.dumps({"lake": [{"filename": "a.jpg", "split": "val", "raw": "x", "raw_1": "y"}]}).encode()
PROTEINS = pa.table({"id": ["a"], "sequence": ["MKV"], "label": ["x"]})

# name of the file, modality, a real small file of the format
READERS: list[tuple[str, str, bytes]] = [
    ("a.fasta", "protein", FASTA),
    ("a.fasta.gz", "protein", gzip.compress(FASTA, mtime=0)),
    ("a.fasta.bz2", "protein", bz2.compress(FASTA)),
    ("a.fasta.zst", "protein", pa.compress(FASTA, codec="zstd", asbytes=True)),
    ("a.dat", "protein", FLAT),
    ("a.tsv", "protein", b"Entry\tSequence\tProtein names\nP1\tMKV\tName\n"),
    ("a.parquet", "protein", parquet(PROTEINS)),
    ("a.jsonl", "caption", b'{"id": 1, "text": "x", "group": "g", "label": "l", "split": "test"}\n{"caption": "y"}\n'),
    ("a.csv", "caption", b'image,caption\r\n1.jpg,"a ""b"", c"\r\n2.jpg,"d\ne"\r\n'),
    ("a.txt", "caption", "one\r\ntwo é\rthree\n".encode()),
    ("t.txt", "caption", b"1.jpg#0\tone\r\n1.jpg#1\ttwo\r\n2.jpg#0\t\r\n"),
    ("h.txt", "caption", b'image,caption\n1.jpg,one, two\n2.jpg,"three"\n'),
    ("s.csv", "caption", b"image;caption\n1.jpg;\"one; two\"\n2.jpg;'[three]'\n"),
    ("l.jsonl", "caption", b'{"captions": ["one", {"raw": "two"}]}\n{"Caption": "[\'x\', \'y\']", "label": 3.0}\n'),
    ("a.json", "caption", PUBLISHED),
    ("lines.json", "caption", b'{"text": "x"}\n{"text": ["y", "z"]}\n'),
    ("coco.json", "caption", COCO),
    ("nwpu.json", "caption", BY_CLASS),
    ("c.parquet", "caption", parquet(pa.table({"text": ["x", None], "image": ["1.jpg", "2.jpg"]}))),
    (
        "l.parquet",
        "caption",
        parquet(pa.table({"captions": [["x", "y"], []], "image": [{"bytes": b"x", "path": "1"}] * 2})),
    ),
    ("a.zip", "image", zipped()),
    ("a.tar", "image", tarred("w")),
    ("a.tar.gz", "image", tarred("w:gz")),
    ("w.tar", "caption", tarred("w")),
    ("i.parquet", "image", parquet(pa.table({"image": [{"bytes": picture("PNG"), "path": "a.png"}], "label": [0]}))),
    *(
        (f"a.{suffix}", "image", picture(kind, **options))
        for suffix, kind, options in (
            ("jpg", "JPEG", {}),
            ("jpeg", "JPEG", {"progressive": True}),
            ("png", "PNG", {}),
            ("webp", "WEBP", {}),
            ("tif", "TIFF", {"compression": "tiff_lzw"}),
            ("bmp", "BMP", {}),
            ("gif", "GIF", {}),
        )
    ),
]

Mutation = tuple[int, int, bytes]  # where, how many bytes give way, to what


def mutate(content: bytes, mutations: list[Mutation]) -> bytes:
    changed = bytearray(content)
    for place, length, replacement in mutations:
        start = place % (len(changed) + 1)
        changed[start : start + length] = replacement
    return bytes(changed)


mutations = st.lists(
    st.tuples(st.integers(0, 1 << 16), st.integers(0, 40), st.binary(max_size=12)), min_size=1, max_size=6
)
fuzzed = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)


def read(path: Path, modality: Any, content: bytes) -> list[Record | Reject]:
    """Reads a file and checks what every record must hold."""
    path.write_bytes(content)
    options = ReadOptions(modality=modality, captions_from="name" if modality == "protein" else None)
    items: list[Record | Reject] = []
    try:
        for item in open_source(path, options).records(0, 1):
            items.append(item)  # noqa: PERF402  # those before an error count too
    except SetClipError:
        pass
    for item in items:
        if isinstance(item, Record):
            assert item.id.isprintable()
            assert item.payload
            assert len(item.sha256) == 64
            item.id.encode()
        else:
            assert item.reason
    return items


@pytest.mark.parametrize(("name", "modality", "content"), READERS, ids=[f"{name}-{kind}" for name, kind, _ in READERS])
def test_the_small_file_itself_gives_records_and_no_error(
    tmp_path: Path, name: str, modality: str, content: bytes
) -> None:
    assert any(isinstance(item, Record) for item in read(tmp_path / name, modality, content))


@pytest.mark.parametrize(("name", "modality", "content"), READERS, ids=[f"{name}-{kind}" for name, kind, _ in READERS])
@pytest.mark.parametrize("attempts", [20, pytest.param(150, marks=pytest.mark.slow)])
def test_a_damaged_file_gives_records_rejects_or_a_clear_error(
    tmp_path: Path, name: str, modality: str, content: bytes, attempts: int
) -> None:
    @settings(fuzzed, max_examples=attempts)
    @given(changes=mutations)
    def attempt(changes: list[Mutation]) -> None:
        read(tmp_path / name, modality, mutate(content, changes))

    tracemalloc.start()
    try:
        attempt()
        assert tracemalloc.get_traced_memory()[1] < MEMORY_CAP
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("name", "modality"), sorted({(name, kind) for name, kind, _ in READERS}))
def test_any_bytes_at_all_give_records_rejects_or_a_clear_error(tmp_path: Path, name: str, modality: str) -> None:
    @settings(fuzzed, max_examples=5)
    @given(content=st.binary(max_size=400))
    @example(b"")
    @example(b"\xef\xbb\xbf")
    @example(b"\xff\xfe" + "x".encode("utf-16-le"))
    @example(b"\0" * 300)
    @example(b"\n\n\r\r\n>")
    @example(b'"' * 9)
    @example(b"[" * 3000)
    @example(b'{"images": [[], {"filename": 1}, {"filename": "a", "sentences": [1]}], "annotations": 3}')
    @example(b'{"images": [{"id": [], "file_name": "a"}], "annotations": [{"image_id": [], "caption": "x"}, 1]}')
    @example(b'{"id": 1e999, "text": "x"}')
    @example(b'{"id": ' + b"9" * 5000 + b', "text": "x"}')
    @example(b'{"text": "\\ud800"}')
    @example(b'{"text": "x", "id": "\\u0000"}')
    @example(b'{"text": "x", "group": "\\udcff"}')
    @example(b'{"text": "x", "label": "\\udcff", "split": "\\udcff"}')
    def attempt(content: bytes) -> None:
        read(tmp_path / name, modality, content)

    attempt()


def quiet(function: Callable[[Any], object], argument: Any, expected: type[Exception]) -> None:
    with contextlib.suppress(expected):
        function(argument)


@fuzzed
@given(line=st.text(max_size=80))
@example("gi|")
@example("sp||")
@example("\x01MULTISPECIES: x")
@example("\t \t")
def test_any_header_line_parses(line: str) -> None:
    header = parse_header(line)
    assert line.strip() == "" or header.accession or header.description or line.strip()


@fuzzed
@given(kind=st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM"]), changes=mutations)
def test_damaged_image_bytes_are_taken_or_refused(kind: str, changes: list[Mutation]) -> None:
    quiet(check_image, mutate(picture(kind), changes), UnusableImageError)


@fuzzed
@given(content=st.binary(max_size=200))
@example(b"id,label\n\xff,x")
@example(b"id,label\n" + b"x" * 200_000)
@example(b"left_modality,left_id,right_modality,right_id\nimage,a,caption\n")
@example(b"schema_version = 1\ntitle = 3")
def test_any_bytes_as_labels_pairs_or_manifest_give_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(content)
    for reader in (read_labels, read_pairs, load_manifest):
        quiet(reader, path, SetClipError)
