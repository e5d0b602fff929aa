"""Claims about models for sentence-transformers: without setclip they give the embeddings of the RUN."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from export_world import make_run
from PIL import Image

from setclip_cli.errors import SetClipError, UsageError
from setclip_cli.export.export import INDEX_NAME, export_run
from setclip_cli.export.options import ExportOptions
from setclip_cli.run.model import load_model

TEXTS = ["a harbour", "boats in a harbour", "forest", "a long meadow " * 40, "sea, and sand; 42 - x"]
PLAIN = ExportOptions(form="plain")
Elsewhere = Callable[..., list[dict[str, Any]]]


def opened(*contents: bytes) -> list[Image.Image]:
    return [Image.open(io.BytesIO(content)) for content in contents]


def sideways() -> bytes:
    """A JPEG that a reader has to turn, as cameras write them."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.open(io.BytesIO(tiny.jpeg(3))).save(file, "JPEG", exif=exif)
    return file.getvalue()


def deep() -> bytes:
    """A dark grey PNG of 16 bits."""
    file = io.BytesIO()
    Image.fromarray((np.arange(64 * 48).reshape(48, 64) * 2).astype(np.uint16)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.slow
def test_image_and_text_without_setclip(
    tmp_path: Path, tiny_timm: Path, tiny_sentence: Path, elsewhere: Elsewhere
) -> None:
    run = make_run(tmp_path / "run", {"image": tiny_timm, "caption": tiny_sentence}, kind="all")
    full = export_run(run, tmp_path / "full")
    plain = export_run(run, tmp_path / "plain", options=PLAIN)
    assert full.trust_remote_code
    assert full.modules == ["setclip_encoder.py", "setclip_image.py", "setclip_router.py"]
    assert full.plain
    assert not plain.trust_remote_code
    assert plain.agreement is not None
    assert -1 <= plain.agreement < 1
    odd = [sideways(), deep(), tiny.jpeg(5, kind="PNG", mode="RGBA"), tiny.jpeg(6, kind="PNG", mode="P")]
    images = [*(tiny.jpeg(seed) for seed in range(3)), tiny.jpeg(4, mode="L"), *odd]
    pictures = images[:3]
    by_full, by_plain = elsewhere(
        (
            tmp_path / "full",
            True,
            {"image": (opened(*images), {}), "caption": (TEXTS, {}), "files": (images, {"task": "image"})},
        ),
        (tmp_path / "plain", False, {"image": (opened(*pictures), {}), "caption": (TEXTS, {"task": "caption"})}),
    )
    model = load_model(run)
    np.testing.assert_allclose(by_full["image"], model.embed(images=images), atol=1e-5)
    np.testing.assert_allclose(by_full["files"], model.embed(images=images), atol=1e-5)
    np.testing.assert_allclose(by_full["caption"], model.embed(captions=TEXTS), atol=1e-5)
    heads = {modality: encoder.encoder.encoders[0] for modality, encoder in model.encoders.items()}  # type: ignore[union-attr, index]
    model.encoders.update(heads)
    np.testing.assert_allclose(by_plain["image"], model.embed(images=pictures), atol=1e-5)
    np.testing.assert_allclose(by_plain["caption"], model.embed(captions=TEXTS), atol=1e-5)


def test_an_export_of_ours_is_replaced_and_a_foreign_folder_is_not(
    tmp_path: Path, tiny_timm: Path, tiny_sentence: Path
) -> None:
    run = make_run(tmp_path / "run", {"image": tiny_timm, "caption": tiny_sentence})
    out = tmp_path / "out"
    export_run(run, out)
    export_run(run, out, options=PLAIN)
    assert not list(out.glob("setclip_*.py"))
    assert json.loads((out / INDEX_NAME).read_text())["finished"]
    assert [path.name for path in out.glob(".*")] in ([], [".lock"])
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(SetClipError, match=r"thesis\.txt"):
        export_run(run, foreign)
    assert [path.name for path in foreign.iterdir()] == ["thesis.txt"]
    (out / "notes").mkdir()
    (out / "notes" / "n.txt").write_text("mine")  # beside an export of ours
    for options in (PLAIN, ExportOptions(to="safetensors")):
        with pytest.raises(SetClipError, match=r"not of the export, such as 'notes/n\.txt'"):
            export_run(run, out, options=options)
    assert (out / "notes" / "n.txt").read_text() == "mine"
    shutil.rmtree(out / "notes")
    export_run(run, out, options=ExportOptions(to="safetensors"))
    assert not (out / "modules.json").exists()


def test_what_has_no_plain_form_says_so(tmp_path: Path, tiny_timm: Path, tiny_sentence: Path) -> None:
    run = make_run(tmp_path / "run", {"image": tiny_timm, "caption": tiny_sentence}, kind="relative")
    with pytest.raises(UsageError, match="any part of these encoders"):
        export_run(run, tmp_path / "out", options=PLAIN)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, tiny_timm: Path, tiny_sentence: Path) -> dict[str, Any]:
    """Both forms of one RUN, as the library loads them."""
    from sentence_transformers import SentenceTransformer

    root = tmp_path_factory.mktemp("names")
    run = make_run(root / "run", {"image": tiny_timm, "caption": tiny_sentence})
    models = {}
    for form in ("full", "plain"):
        made = export_run(run, root / form, options=ExportOptions(form=form))  # type: ignore[arg-type]
        trusted = made.trust_remote_code
        models[form] = SentenceTransformer(str(root / form), device="cpu", trust_remote_code=trusted)
    return models


@pytest.mark.parametrize(
    ("items", "more"),
    [
        ([{"captoin": "a harbour"}], {}),
        ([{"Image": Image.new("RGB", (64, 48))}], {}),
        ([{"protein": "MKTAYIAKQR"}], {}),
        (["a harbour"], {"task": "captions"}),
        ([{"expression": np.zeros(6, np.float32)}], {}),
    ],
)
def test_a_name_that_no_tower_has_is_refused(loaded: dict[str, Any], items: list[Any], more: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="this model has no tower of this name, only caption, image"):
        loaded["full"].encode(items, **more)


@pytest.mark.parametrize("form", ["full", "plain"])
def test_what_no_tower_reads_goes_to_none(loaded: dict[str, Any], form: str) -> None:
    model = loaded[form]
    for items in ([{"audio": np.zeros(6, np.float32)}], [np.zeros(6, np.float32)]):
        with pytest.raises(ValueError, match=r"not supported|no tower|determine route"):
            model.encode(items)
    with pytest.raises(ValueError, match="Could not determine route"):
        model[0]._resolve_route(modality="audio")
    for kind in (model.encode_query, model.encode_document):
        assert kind(["a harbour"]).shape == model.encode([{"caption": "a harbour"}]).shape
