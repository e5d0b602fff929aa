"""Inputs for `fuzz_readers`: small real files of each format, and ways to spoil them that know their structure."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import random
import re
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w
from PIL import Image

MAX_BYTES = 48 << 10  # of an input, so that each takes milliseconds
REPO = Path(__file__).resolve().parents[2]

NUMBERS = (
    b"0",
    b"-1",
    b"1",
    b"255",
    b"256",
    b"65536",
    b"2147483647",
    b"-2147483648",
    b"4294967296",
    b"9223372036854775807",
    b"18446744073709551616",
    b"1e308",
    b"1e999",
    b"-0.0",
    b"NaN",
    b"Infinity",
    b"0.1",
    b"9" * 400,
)
TOKENS = (
    b"\n",
    b"\r",
    b"\r\n",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xc3",
    b"\xed\xa0\x80",
    b">",
    b",",
    b"\t",
    b";",
    b"|",
    b'"',
    b"'",
    b"\\",
    b"/",
    b"../",
    b"/etc/passwd",
    b"..\\..\\x",
    b"C:\\x",
    b"{",
    b"}",
    b"[",
    b"]",
    b"null",
    b"true",
    b"[[",
    b"{}",
    b"[]",
    b'""',
    b" ",
    b"#",
    b"//",
    b"\xe2\x80\xae",
    b"\x1b[2J",
    b"\xf0\x9f\x98\x80",
    b"A" * 300,
    b"x" * 3000,
    b"[" * 1200,
    b'{"a":' * 600,
    b"%s",
    b"${HOME}",
    b"-----BEGIN",
    b"train",
    b"test",
    b"version https://git-lfs.github.com/spec/v1\n",
    b"id",
    b"label",
    b"text",
    b"caption",
    b"image",
    b"protein",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    10**30,
    1e308,
    float("nan"),
    float("inf"),
    "",
    " ",
    "x",
    "../x",
    "/x",
    "\0",
    "\u202e",
    "\ud800",
    "x" * 3000,
    [],
    {},
    [[]],
    ["a", "b"],
    [None],
    {"a": 1},
    "train",
    "image",
    "caption",
    "protein",
    "a/b.parquet",
    b"x".hex(),
)

FASTA = (
    b">sp|P1|A_B Name OS=Homo sapiens OX=9606\r\nMKVLA\r\nGGL*\n"
    b">gi|1|ref|NP_1.1| x [y]\nmkv\n>\n\n>1ABC_A|Chain A|p\nMKVLX\n>z"
)
FLAT = (
    b"ID   X\nAC   P1; P2;\nDE   RecName: Full=Name {ECO:1};\nDE            EC=1.1.1.1;\nOS   Homo sapiens.\n"
    b"CC   -!- FUNCTION: Does (PubMed:1). {ECO:1}.\nDR   GO; GO:1; F:x; IEA.\nKW   A; B.\nSQ   S\n     MKV LAA\n//\n"
    b"ID   Y\nAC   P3;\nDE   RecName: Full=Other;\nOS   Mus musculus.\nSQ   S\n     MMKV LAA\n//\n"
)
KARPATHY = {
    "images": [
        {"filename": "a_1.jpg", "split": "train", "sentences": [{"raw": "x"}, {"raw": "y"}]},
        {"filename": "b_2.jpg", "split": "restval", "sentences": [{"raw": "z", "tokens": ["z"]}]},
    ],
    "dataset": "d",
}
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
    "annotations": [{"id": 1, "image_id": 1, "caption": "x"}, {"id": 2, "image_id": 2, "caption": "y"}],
}
BY_CLASS = {
    "lake": [{"filename": "a.jpg", "split": "val", "raw": "x", "raw_1": "y"}],
    "sea": [{"filename": "b.jpg", "raw": "z"}],
}
LIST_OF_ROWS = [{"image": "a.jpg", "caption": ["x", "y"]}, {"image": "b.jpg", "caption": "z"}]
CSV = b'image,caption,label\r\n1.jpg,"a ""b"", c",lake\r\n2.jpg,"d\ne",sea\r\n'
JSONL = (
    b'{"id": 1, "text": "x", "group": "g", "label": "l", "split": "test"}\n'
    b'{"caption": "y"}\n{"image": "a.jpg", "captions": ["p", "q"]}\n'
)
FLICKR = b"1.jpg#0\tA dog runs .\n1.jpg#1\tA dog .\n2.jpg#0\tTwo cats sleep .\n"


def picture(kind: str, mode: str = "RGB", size: tuple[int, int] = (13, 9), *, frames: int = 1, **options: Any) -> bytes:
    noise = np.random.default_rng(frames).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise).convert(mode)
    stream = io.BytesIO()
    if frames > 1:
        others = [Image.fromarray(255 - noise).convert(mode)] * (frames - 1)
        options |= {"save_all": True, "append_images": others}
    image.save(stream, kind, **options)
    return stream.getvalue()


@cache
def pictures() -> dict[str, list[bytes]]:
    """Suffix -> small images of that format."""
    found: dict[str, list[bytes]] = {
        ".jpg": [picture("JPEG"), picture("JPEG", progressive=True), picture("JPEG", "L"), picture("JPEG", "CMYK")],
        ".png": [
            picture("PNG"),
            picture("PNG", "RGBA"),
            picture("PNG", "P"),
            picture("PNG", "1"),
            picture("PNG", "I;16"),
        ],
        ".webp": [picture("WEBP"), picture("WEBP", "RGBA", lossless=True)],
        ".tif": [
            picture("TIFF"),
            picture("TIFF", compression="tiff_lzw"),
            picture("TIFF", "F"),
            picture("TIFF", frames=3),
            picture("TIFF", "I;16"),
            *planar(),
        ],
        ".bmp": [picture("BMP"), picture("BMP", "P")],
        ".gif": [picture("GIF", "P"), picture("GIF", "P", frames=3)],
        ".ppm": [picture("PPM")],
    }
    return found


def planar() -> list[bytes]:
    """TIFFs that rasterio writes: several bands, one plane each, other types."""
    try:
        import rasterio
        from rasterio.io import MemoryFile
    except ImportError:
        return []
    import warnings

    found = []
    draw = np.random.default_rng(0)
    for count, kind, options in (
        (4, "uint8", {"interleave": "band"}),
        (13, "uint16", {}),
        (1, "int16", {"nodata": 0}),
        (3, "float32", {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}),
        (1, "complex64", {}),
    ):
        with warnings.catch_warnings(), MemoryFile() as memory:
            warnings.simplefilter("ignore")
            with memory.open(driver="GTiff", width=18, height=20, count=count, dtype=kind, **options) as file:
                file.write(draw.integers(0, 200, (count, 20, 18)).astype(kind))
            found.append(bytes(memory.read()))
    del rasterio
    return found


# --- spoiling bytes


def spoil(content: bytes, draw: random.Random, others: list[bytes] = []) -> bytes:
    """One to four changes of bytes."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 4))):
        changed = bytearray(draw.choice(_BYTE_CHANGES)(changed, draw, others))[:MAX_BYTES]
    return bytes(changed)


def _at(content: bytearray, draw: random.Random) -> int:
    return draw.randrange(len(content) + 1)


def _flip(content: bytearray, draw: random.Random, _: list[bytes]) -> bytes:
    if content:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return content


def _set(content: bytearray, draw: random.Random, _: list[bytes]) -> bytes:
    if content:
        content[draw.randrange(len(content))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, 10, 34, 44))
    return content


def _cut(content: bytearray, draw: random.Random, _: list[bytes]) -> bytes:
    return content[: _at(content, draw)]


def _remove(content: bytearray, draw: random.Random, _: list[bytes]) -> bytes:
    start = _at(content, draw)
    return content[:start] + content[start + draw.choice((1, 2, 4, 8, 40)) :]


def _repeat(content: bytearray, draw: random.Random, _: list[bytes]) -> bytes:
    start = _at(content, draw)
    part = content[start : start + draw.choice((1, 4, 20, 100))]
    return content[:start] + part * draw.choice((2, 3, 30)) + content[start:]


def _token(content: bytearray, draw: random.Random, _: list[bytes]) -> bytes:
    start = _at(content, draw)
    over = draw.choice((0, 0, 1, 4))
    return content[:start] + draw.choice(TOKENS) + content[start + over :]


def _random(content: bytearray, draw: random.Random, _: list[bytes]) -> bytes:
    start = _at(content, draw)
    return content[:start] + draw.randbytes(draw.choice((1, 2, 4, 16))) + content[start + draw.choice((0, 4)) :]


def _splice(content: bytearray, draw: random.Random, others: list[bytes]) -> bytes:
    other = draw.choice(others) if others else bytes(content)
    return content[: _at(content, draw)] + other[draw.randrange(len(other) + 1) :]


_DIGITS = re.compile(rb"-?\d+(?:\.\d+)?")


def _number(content: bytearray, draw: random.Random, _: list[bytes]) -> bytes:
    found = list(_DIGITS.finditer(content[:4000]))
    if not found:
        return content
    one = draw.choice(found)
    return content[: one.start()] + draw.choice(NUMBERS) + content[one.end() :]


def _binary_number(content: bytearray, draw: random.Random, _: list[bytes]) -> bytes:
    """2, 4 or 8 bytes of a header, in both orders, become an extreme."""
    size = draw.choice((2, 4, 8))
    if len(content) < size:
        return content
    start = draw.randrange(min(len(content) - size + 1, 256))
    value = draw.choice((0, 1, 2, 255, (1 << 8 * size) - 1, 1 << (8 * size - 1), (1 << (8 * size - 1)) - 1, 65535))
    content[start : start + size] = (value % (1 << 8 * size)).to_bytes(size, draw.choice(("little", "big")))
    return content


def _lines(content: bytearray, draw: random.Random, _: list[bytes]) -> bytes:
    lines = bytes(content).split(b"\n")
    one, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    kind = draw.randrange(4)
    if kind == 0:
        lines[one], lines[other] = lines[other], lines[one]
    elif kind == 1:
        lines.insert(one, lines[other])
    elif kind == 2:
        del lines[one]
    else:
        lines[one] = lines[one] + lines[other]
    return b"\n".join(lines)


def _encoding(content: bytearray, draw: random.Random, _: list[bytes]) -> bytes:
    kind = draw.randrange(5)
    if kind == 0:
        return bytes(content).decode("latin-1").encode(draw.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig")))
    if kind == 1:
        return bytes(content).replace(b"\n", b"\r")
    if kind == 2:
        return bytes(content).replace(b"\n", b"\r\n")
    if kind == 3:
        return bytes(content).replace(b",", draw.choice((b";", b"\t", b"|")))
    return b"\xef\xbb\xbf" + content


_BYTE_CHANGES = (
    _flip,
    _flip,
    _set,
    _cut,
    _remove,
    _repeat,
    _token,
    _token,
    _random,
    _splice,
    _number,
    _number,
    _binary_number,
    _binary_number,
    _lines,
    _lines,
    _encoding,
)


# --- spoiling what is inside


def spoil_tree(value: Any, draw: random.Random) -> Any:
    """Changes one to three places of a JSON or TOML value."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        value = _spoil_one(value, draw)
    return value


def _spoil_one(value: Any, draw: random.Random) -> Any:
    if isinstance(value, dict) and value and draw.random() < 0.9:
        name = draw.choice(list(value))
        kind = draw.random()
        if kind < 0.12:
            return {key: one for key, one in value.items() if key != name}
        if kind < 0.2:
            return {
                draw.choice(("", "x", f"{name} ", name.upper(), "../x")) if key == name else key: one
                for key, one in value.items()
            }
        if kind < 0.27:
            return value | {draw.choice(("x", "", "id", "text", "__metadata__")): draw.choice(VALUES)}
        return value | {name: _spoil_one(value[name], draw)}
    if isinstance(value, list) and value and draw.random() < 0.85:
        at = draw.randrange(len(value))
        kind = draw.random()
        if kind < 0.12:
            return value[:at] + value[at + 1 :]
        if kind < 0.24:
            return value[:at] + [value[at]] * draw.choice((2, 3, 40)) + value[at:]
        return [*value[:at], _spoil_one(value[at], draw), *value[at + 1 :]]
    if isinstance(value, str) and draw.random() < 0.4:
        return spoil(value.encode("utf-8", "replace"), draw).decode("utf-8", "replace")
    if isinstance(value, int | float) and not isinstance(value, bool) and draw.random() < 0.5:
        return draw.choice((-value, value + 1, value * 10**6, str(value), float(value)))
    return draw.choice(VALUES)


def spoiled_json(whole: Any) -> Callable[[random.Random], bytes]:
    text = json.dumps(whole).encode()
    return lambda draw: (
        json.dumps(spoil_tree(whole, draw)).encode("utf-8", "surrogatepass")
        if draw.random() < 0.6
        else spoil(text, draw)
    )


def spoiled_toml(texts: list[bytes]) -> Callable[[random.Random], bytes]:
    trees = [tomllib.loads(text.decode()) for text in texts]

    def make(draw: random.Random) -> bytes:
        at = draw.randrange(len(texts))
        if draw.random() < 0.5:
            try:
                return tomli_w.dumps(spoil_tree(trees[at], draw)).encode()
            except (TypeError, ValueError, AttributeError):  # null, or half a character: TOML has neither
                pass
        return spoil(texts[at], draw, texts)

    return make


def spoiled(*contents: bytes) -> Callable[[random.Random], bytes]:
    some = list(contents)
    return lambda draw: spoil(draw.choice(some), draw, some)


def packed(content: bytes, pack: Callable[[bytes], bytes]) -> Callable[[random.Random], bytes]:
    """Spoils what is inside, or the packed bytes."""
    whole = pack(content)
    return lambda draw: pack(spoil(content, draw)) if draw.random() < 0.5 else spoil(whole, draw)


def zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


def gzipped(content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0)


def bzipped(content: bytes) -> bytes:
    return bz2.compress(content)


NAMES = (
    "a/1.png",
    "b/2.jpg",
    "../x.png",
    "/abs.png",
    "a/../../y.png",
    "a\\..\\b.png",
    "é/1.png",
    "1.txt",
    "1.json",
    "1.cls",
    "x.png/y.png",
    "22.05.a.png",
    "22.05.a.txt",
    "",
    ".",
    "a//b.png",
    "C:/x.png",
    "a\0b.png",
    "n\nl.png",
    "__MACOSX/._1.png",
    "con.png",
    "x" * 300 + ".png",
    "1.JPG",
    "1.parquet",
    "\u202egnp.exe",
    "1.jpg",
    "1.caption",
)


def _members(draw: random.Random) -> list[tuple[str, bytes]]:
    small = [pictures()[".png"][0], pictures()[".jpg"][0]]
    found = [
        ("a/1.png", small[0]),
        ("a/1.txt", b"words"),
        ("a/1.cls", b"lake"),
        ("b/2.jpg", small[1]),
        ("b/2.json", b'{"caption": ["x", "y"], "label": "sea"}'),
    ]
    for _ in range(draw.choice((0, 1, 2, 3))):
        at = draw.randrange(len(found))
        name, content = found[at]
        kind = draw.randrange(4)
        if kind == 0:
            found[at] = (draw.choice(NAMES), content)
        elif kind == 1:
            found[at] = (name, spoil(content, draw))
        elif kind == 2:
            found.insert(at, (draw.choice(NAMES), draw.choice((b"", content, b"x", small[0]))))
        else:
            del found[at]
    return found


def spoiled_zip(draw: random.Random) -> bytes:
    stream = io.BytesIO()
    method = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(stream, "w", method) as file:
        for name, content in _members(draw):
            info = zipfile.ZipInfo(name or "x")
            info.compress_type = method
            info.external_attr = draw.choice((0o644, 0o644, 0o120777, 0o040755)) << 16
            file.writestr(info, content)
    content = stream.getvalue()
    return spoil(content, draw) if draw.random() < 0.5 else content


def spoiled_tar(mode: str) -> Callable[[random.Random], bytes]:
    def make(draw: random.Random) -> bytes:
        stream = io.BytesIO()
        form = draw.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT))
        with tarfile.open(fileobj=stream, mode=mode, format=form) as file:  # type: ignore[call-overload]
            for name, content in _members(draw):
                info = tarfile.TarInfo(name[:90] if form == tarfile.USTAR_FORMAT else name)
                info.size = len(content)
                info.type = draw.choices(
                    (
                        tarfile.REGTYPE,
                        tarfile.SYMTYPE,
                        tarfile.LNKTYPE,
                        tarfile.FIFOTYPE,
                        tarfile.DIRTYPE,
                        tarfile.CHRTYPE,
                        tarfile.GNUTYPE_SPARSE,
                    ),
                    (20, 1, 1, 1, 1, 1, 1),
                )[0]
                info.linkname = draw.choice(("", "a/1.png", "../../etc/passwd"))
                try:
                    file.addfile(info, io.BytesIO(content) if info.isreg() else None)
                except (ValueError, UnicodeError):
                    continue
        content = stream.getvalue()
        return spoil(content, draw) if draw.random() < 0.5 else content

    return make


_COLUMNS: tuple[tuple[Any, pa.DataType | None], ...] = (
    (["a", "b", None], pa.string()),
    (["MKV", "MKVLA", ""], pa.large_string()),
    ([1, 2, 3], pa.int64()),
    ([1.5, float("nan"), None], pa.float64()),
    ([True, False, None], pa.bool_()),
    ([b"x", b"", None], pa.binary()),
    ([["p", "q"], [], None], pa.list_(pa.string())),
    ([None, None, None], pa.null()),
    ([10**12, 0, 1], pa.timestamp("ns")),
    (
        [{"bytes": b"x", "path": "a.png"}, None, {"bytes": None, "path": None}],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    ),
    ([[("k", "v")], [], None], pa.map_(pa.string(), pa.string())),
    ([["1", "2"]] * 3, pa.list_(pa.string(), 2)),
    ([1, 2, 3], pa.decimal128(10, 2)),
    ([[[1]], [[]], None], pa.list_(pa.list_(pa.int8()))),
)


def spoiled_parquet(table: pa.Table, names: tuple[str, ...]) -> Callable[[random.Random], bytes]:
    """Other columns, other types, names twice; or spoiled bytes."""
    whole = parquet(table)

    def make(draw: random.Random) -> bytes:
        if draw.random() < 0.6:
            return spoil(whole, draw)
        columns = {name: table[name] for name in table.column_names}
        arrays, titles = list(columns.values()), list(columns)
        for _ in range(draw.choice((1, 2))):
            values, kind = draw.choice(_COLUMNS)
            column = pa.chunked_array([pa.array((values * table.num_rows)[: table.num_rows], kind)])
            if draw.random() < 0.3 and pa.types.is_string(column.type):
                column = column.dictionary_encode()
            at = draw.randrange(len(arrays) + 1)
            if draw.random() < 0.5 and at < len(arrays):
                arrays[at] = column
            else:
                arrays.insert(at, column)
                titles.insert(at, draw.choice((*names, "", "x")))
        changed = pa.Table.from_arrays(arrays, names=titles)
        return parquet(changed.slice(0, draw.choice((0, 1, 3))))

    return make


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def spoiled_picture(suffix: str) -> Callable[[random.Random], bytes]:
    def make(draw: random.Random) -> bytes:
        some = pictures()[suffix]
        return spoil(draw.choice(some), draw, some)

    return make
