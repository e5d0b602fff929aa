"""Files that are not what their name or their place says are named as what they are, by every reader."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from setclip_cli.backbones.tensors import read_checkpoint
from setclip_cli.errors import SetClipError
from setclip_cli.files.recognize import is_text, recognize, refuse_stand_in, refuse_stand_ins_in
from setclip_cli.ingest.annotations import read_labels, read_pairs
from setclip_cli.ingest.options import ReadOptions
from setclip_cli.ingest.sources import open_source
from setclip_cli.ingest.sources.base import Record

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22ead\nsize 12345\n"
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n"
FASTA = b">a\nMKVLA\n"


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "PNG")
    return stream.getvalue()


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("1.png", png())
    return stream.getvalue()


def tarred() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as file:
        info = tarfile.TarInfo("1.png")
        info.size = len(png())
        file.addfile(info, io.BytesIO(png()))
    return stream.getvalue()


def records(path: Path, modality: Any) -> list[Record]:
    found = open_source(path, ReadOptions(modality=modality)).records(0, 1)
    return [item for item in found if isinstance(item, Record)]


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (POINTER, "a Git LFS pointer, not the file itself"),
        (PAGE, "an HTML page, not the file itself"),
        (b"\n  <html lang=en>", "an HTML page, not the file itself"),
        (b"", "an empty file"),
        (gzip.compress(b"x", mtime=0), "a gzip file"),
        (bz2.compress(b"x"), "a bzip2 file"),
        (lzma.compress(b"x"), "an xz file"),
        (zipped()[:512], "a zip file"),
        (tarred()[:512], "a tar archive"),
        (b"Rar!\x1a\x07\x01\0", "a RAR archive"),
        (b"BZh, a caption that begins like bzip2", None),
        (b"version https://example.org", None),
        (b">a\nMKV", None),
    ],
)
def test_the_first_bytes_say_what_a_file_is(head: bytes, what: str | None) -> None:
    found = recognize(head)
    assert (found and found.what) == what


def test_text_may_be_cut_inside_a_letter() -> None:
    assert is_text("é".encode() * 3 + b"\xc3")
    assert not is_text(b"\xc3" + b"abcdef")
    assert not is_text(b"a\0b")


@pytest.mark.parametrize(("content", "what"), [(POINTER, "Git LFS pointer.*\n.*git lfs pull"), (PAGE, "HTML page")])
@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("a.fasta", "protein"),
        ("a.fasta.gz", "protein"),
        ("a.dat", "protein"),
        ("a.parquet", "protein"),
        ("a.csv", "caption"),
        ("a.jsonl", "caption"),
        ("a.json", "caption"),
        ("a.txt", "caption"),
        ("a.parquet", "image"),
        ("a.zip", "image"),
        ("a.tar", "image"),
        ("a.tar.gz", "caption"),
        ("a.unknown", "image"),
        ("a.unknown", "protein"),
        ("a.unknown", "caption"),
    ],
)
def test_every_reader_names_a_pointer_and_a_page(
    tmp_path: Path, name: str, modality: Any, content: bytes, what: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SetClipError, match=f"is .*{what}"):
        records(tmp_path / name, modality)


@pytest.mark.parametrize("read", [read_labels, read_pairs, read_checkpoint, refuse_stand_in])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".csv"])
def test_labels_pairs_and_weights_name_a_pointer(tmp_path: Path, read: Any, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(POINTER)
    with pytest.raises(SetClipError, match=r"is a Git LFS pointer"):
        read(path)


def test_a_model_folder_with_a_pointer_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "config.json").write_text("{}")
    refuse_stand_ins_in(tmp_path)
    (tmp_path / "1_Pooling" / "model.safetensors").write_bytes(POINTER)
    with pytest.raises(SetClipError, match=r"1_Pooling/model\.safetensors: is a Git LFS pointer"):
        refuse_stand_ins_in(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.fasta", gzip.compress(FASTA, mtime=0)),
        ("a.fasta.gz", bz2.compress(FASTA)),
        ("a.fa", pa.compress(FASTA, codec="zstd", asbytes=True)),
        ("a.txt", FASTA),
        ("a", FASTA),
    ],
)
def test_the_content_and_not_the_name_says_how_proteins_are_read(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert [record.id for record in records(tmp_path / name, "protein")] == ["a"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("zip.tar", zipped()),
        ("tar.zip", tarred()),
        ("zip.bin", zipped()),
        ("tar", tarred()),
        ("a.tar", gzip.compress(tarred(), mtime=0)),
        ("a.tgz", tarred()),
    ],
)
def test_the_content_says_how_an_archive_is_read(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    if name == "a.tgz":
        with pytest.raises(SetClipError, match=r"is a tar archive, although its name ends in \.tgz"):
            records(tmp_path / name, "image")
    else:
        assert [record.id for record in records(tmp_path / name, "image")] == ["1.png"]


def test_a_table_under_another_name_is_read_and_another_file_named_parquet_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [png()], "id": ["a"]}), tmp_path / "table")
    assert [record.id for record in records(tmp_path / "table", "image")] == ["a"]
    (tmp_path / "b.parquet").write_bytes(zipped())
    with pytest.raises(SetClipError, match="is not a Parquet file: it is a zip file"):
        records(tmp_path / "b.parquet", "image")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"plain words", r"is not compressed, although its name ends in \.gz: starts with 'plain words'"),
        (b"", r"is an empty file, although its name ends in \.gz"),
        (lzma.compress(FASTA), r"is an xz file, although its name ends in \.gz"),
    ],
)
def test_a_name_that_says_compressed_is_checked(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "a.fasta.gz").write_bytes(content)
    with pytest.raises(SetClipError, match=what):
        records(tmp_path / "a.fasta.gz", "protein")
