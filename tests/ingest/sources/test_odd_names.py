"""Names in folders and archives that are not UTF-8: what has one is a reject, and all else is taken."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.errors import SetClipError
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions


def png(seed: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(content, "PNG")
    return content.getvalue()


def test_a_name_that_is_not_utf8_is_a_reject_and_the_others_are_taken(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    for number, name in enumerate(("a.png", os.fsdecode(b"caf\xe9.png"), "c.png")):
        (root / name).write_bytes(png(number))
    (root / os.fsdecode(b"stra\xdfe")).mkdir()
    (root / os.fsdecode(b"stra\xdfe") / "d.png").write_bytes(png(7))
    (root / os.fsdecode(b"nowhere\xff.png")).symlink_to("gone")
    with tarfile.open(tmp_path / "in.tar", "w") as archive:
        for path in sorted(root.iterdir()):
            archive.add(path, arcname=path.name)
    labels = tmp_path / "labels.csv"
    labels.write_text("id,label\na.png,x\nc.png,y\n")
    for source in (root, tmp_path / "in.tar"):
        for number, options in enumerate([{}, {"labels": labels}, {"near_duplicates": "flag"}, {"split": "val=1"}]):
            out = tmp_path / f"{source.name} {number}"
            result = ingest(source, out, IngestOptions(modality="image", max_bad_fraction=0.9, **options))  # type: ignore[arg-type]
            assert open_dataset(out).table("image", None, ["id"])["id"].to_pylist() == ["a.png", "c.png"]
            rejects = pq.read_table(out / "rejects.parquet").to_pylist()
            reasons = {row["location"]: row["reason"] for row in rejects}
            assert reasons["caf\\xe9.png"] == reasons["stra\\xdfe/d.png"] == "name or id that is not UTF-8"
            assert len(reasons) == 3
            json.dumps(result.as_json()).encode()
            result.summary().encode()


def test_a_zip_whose_names_are_not_the_utf8_that_it_says_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("caf\N{LATIN SMALL LETTER E WITH ACUTE}.png", png(0))
    path.write_bytes(path.read_bytes().replace("\N{LATIN SMALL LETTER E WITH ACUTE}".encode(), b"\xe9x"))
    with pytest.raises(SetClipError, match="a member's name is not UTF-8") as caught:
        ingest(path, tmp_path / "out", IngestOptions(modality="image"))
    assert "unpack" in caught.value.fix
