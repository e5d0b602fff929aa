"""A RUN that `Aligned.save` wrote is a RUN like any other, and equal to that of the same vectors in a DATASET."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tiny import pools
from typer.testing import CliRunner

import setclip_cli as setclip
from setclip_cli.cli.app import app
from setclip_cli.dataset.dataset import INDEX_NAME, DatasetIndex, write_shard
from setclip_cli.dataset.schemas import ModalityInfo, schema_of
from setclip_cli.embedding.embeddings import open_embeddings
from setclip_cli.files import atomic
from setclip_cli.files.documents import write_document

NAMES = ("text", "audio")  # the left one comes second in the order of files


def arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    left, right, pairs = pools()
    draw = np.random.default_rng(1)
    order = draw.permutation(len(right))
    place = np.argsort(order)
    more = np.array([[12, 14], [12, 17], [30, 31]])
    rows = np.concatenate([pairs.numpy(), more])
    return left.numpy(), right.numpy()[order], np.stack([rows[:, 0], place[rows[:, 1]]], axis=1)


def dataset_of(root: Path, x: np.ndarray, y: np.ndarray, pairs: np.ndarray, split: str = "train") -> setclip.Dataset:
    """The same vectors and pairs as a DATASET."""
    shards, about = [], {}
    for name, rows in zip(NAMES, (x, y), strict=True):
        about[name] = ModalityInfo(kind="vector", width=rows.shape[1], dtype="float32")
        table = pa.table(
            {
                "id": [f"{name}-{row:03}" for row in range(len(rows))],
                "split": [split] * len(rows),
                "source": ["s"] * len(rows),
                "sha256": [atomic.sha256_bytes(row.tobytes()) for row in rows],
                "label": [None] * len(rows),
                "vector": rows.tolist(),
                "group": [None] * len(rows),
            },
            schema=schema_of("vector", about[name]),
        )
        shards.append(write_shard(root, f"{name}/{split}-00000.parquet", table, modality=name, split=split))
    write_document(root / INDEX_NAME, DatasetIndex(shards=shards, modalities=about).as_json())
    (root / "pairs.csv").write_text(
        "left_modality,left_id,right_modality,right_id\n"
        + "".join(f"text,text-{a:03},audio,audio-{b:03}\n" for a, b in pairs)
    )
    return setclip.open_dataset(root)


def recipe_of(method: Any, unit: Any = "auto") -> setclip.Recipe:
    towers = {name: {"backbone": "vector"} for name in NAMES}
    train = {"steps": 4, "batch": 32, "loggers": []}
    return setclip.Recipe(method=method, towers=towers, train=train, pairs_unit=unit)


@pytest.mark.parametrize(
    ("method", "unit"),
    [("auto", "auto"), ("transport", "row"), ("cca", "auto"), ("ridge", "row"), ("clip", "auto"), ("set-clip", "auto")],
)
def test_the_same_vectors_in_a_dataset_give_the_same_bytes(tmp_path: Path, method: Any, unit: Any) -> None:
    x, y, pairs = arrays()
    root = tmp_path / "data"
    dataset_of(root, x, y, pairs)
    run("ingest", "--pairs", root / "pairs.csv", "--out", root)
    recipe = recipe_of(method, unit)
    setclip.align(recipe, root, tmp_path / "aligned")
    aligned = setclip.fit(x, y, pairs, method=method, recipe=recipe, names=NAMES)
    aligned.save(tmp_path / "saved")
    for name in ("model.safetensors", "initial.safetensors", "recipe.toml"):
        assert (tmp_path / "saved" / name).read_bytes() == (tmp_path / "aligned" / name).read_bytes(), name
    config, other = (json.loads((tmp_path / each / "config.json").read_text()) for each in ("saved", "aligned"))
    different = {key for key in {*config, *other} if config.get(key) != other.get(key)}
    assert different <= {"dataset_sha256", "files", "self_sha256"}
    chosen = [(tmp_path / each / "selection.json").exists() for each in ("saved", "aligned")]
    assert chosen == [method == "auto"] * 2


def test_the_same_vectors_in_files_give_the_same_bytes(tmp_path: Path) -> None:
    x, y, pairs = arrays()
    root, ids = tmp_path / "data", []
    for name, rows in zip(NAMES, (x, y), strict=True):
        np.save(tmp_path / f"{name}.npy", rows)
        words = ("--modality", name, "--kind", "vector", "--split", "train", "--out", root)
        run("ingest", tmp_path / f"{name}.npy", *words)
        ids.append(setclip.open_dataset(root).table(name, "train", ["id"])["id"].to_pylist())
    (tmp_path / "pairs.csv").write_text(
        "left_modality,left_id,right_modality,right_id\n"
        + "".join(f"text,{ids[0][a]},audio,{ids[1][b]}\n" for a, b in pairs)
    )
    run("ingest", "--pairs", tmp_path / "pairs.csv", "--out", root)
    recipe = recipe_of("transport")
    setclip.align(recipe, root, tmp_path / "aligned")
    setclip.fit(x, y, pairs, method="transport", recipe=recipe, names=NAMES).save(tmp_path / "saved")
    name = "model.safetensors"
    assert (tmp_path / "saved" / name).read_bytes() == (tmp_path / "aligned" / name).read_bytes()


def run(*words: object) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_command_opens_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "cache"))
    x, y, pairs = arrays()
    aligned = setclip.fit(x, y, pairs, method="transport", names=NAMES)
    saved = aligned.save(str(tmp_path / "run"))
    assert saved == tmp_path / "run"
    assert aligned.save(saved) == saved  # the same again
    model = setclip.load_model(saved)
    assert list(model.encoders) == list(NAMES)
    np.testing.assert_allclose(model.embed(audio=y), aligned.right(y), atol=1e-6)
    np.testing.assert_allclose(model.similarity(list(x), list(y)), aligned.similarity(x, y), atol=1e-6)
    np.testing.assert_allclose(model.similarity(x, y), aligned.similarity(x, y), atol=1e-6)
    np.testing.assert_allclose(model.similarity(aligned.left(x), y), aligned.similarity(x, y), atol=1e-6)

    dataset_of(tmp_path / "data", x, y, pairs, "test")
    run("ingest", "--pairs", tmp_path / "data" / "pairs.csv", "--out", tmp_path / "data")
    run("embed", saved, tmp_path / "data", "--out", tmp_path / "embeddings")
    stored = open_embeddings(tmp_path / "embeddings").load("text", "test")
    np.testing.assert_allclose(stored.embeddings, aligned.left(x), atol=1e-6)
    options = setclip.EvaluateOptions(relevance="pairs")
    report = setclip.evaluate(saved, tmp_path / "data", tmp_path / "report", options)
    assert report.metrics == pytest.approx(aligned.score(x, y, pairs), abs=1e-6)
    assert report.content["baselines_left_out"]
    np.save(tmp_path / "query.npy", x[:1])
    hits = run("search", tmp_path / "embeddings", tmp_path / "query.npy", "--as", "text")["hits"]
    assert hits[0]["id"] == f"audio-{aligned.similarity(x[:1], y)[0].argmax():03}"
    run("verify", saved)


def test_the_report_is_the_scores(tmp_path: Path) -> None:
    x, y, pairs = arrays()
    aligned = setclip.fit(x, y, pairs[:5], method="cca", names=NAMES)
    for _ in range(2):  # a notebook runs its cells again
        report = aligned.report(tmp_path / "out", x, y, pairs[5:])
    assert report.metrics == pytest.approx(aligned.score(x, y, pairs[5:]), abs=1e-6)
    assert (tmp_path / "out" / "report" / "report.html").exists()
    assert setclip.open_dataset(tmp_path / "out" / "dataset").table("audio").num_rows == len(y)
    run("verify", tmp_path / "out" / "dataset")
    with pytest.raises(setclip.SetClipError, match="dataset: holds other rows"):
        aligned.report(tmp_path / "out", x, y, pairs[4:])
    labels: Any = np.arange(60) % 3, [None] + ["1"] * 89
    by_label = aligned.report(tmp_path / "labels", x, y, labels=labels)
    assert by_label.metrics == pytest.approx(aligned.score(x, y, labels=labels), abs=1e-6)
    with pytest.raises(setclip.SetClipError, match="report: does not know the right answers"):
        aligned.report(tmp_path / "none", x, y)
    with pytest.raises(setclip.SetClipError, match="x: has 20 columns, and 12 were fitted"):
        aligned.report(tmp_path / "none", y, x, pairs)
    assert not (tmp_path / "none").exists()


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    x, y, pairs = arrays()
    aligned = setclip.fit(x, y, pairs, method="cca")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    for call in (lambda out: aligned.save(out), lambda out: aligned.report(out, x, y, pairs)):
        with pytest.raises(setclip.SetClipError, match="mine: exists but is not"):
            call(tmp_path / "mine")
    aligned.save(tmp_path / "run")
    with pytest.raises(setclip.SetClipError, match="another recipe"):
        setclip.fit(x, y, pairs, method="ridge").save(tmp_path / "run")
    with pytest.raises(setclip.SetClipError, match="holds a RUN of this recipe on other data"):
        setclip.fit(x + 1, y, pairs, method="cca").save(tmp_path / "run")


def test_the_stated_encoder_is_asked_for_again(tmp_path: Path) -> None:
    x, y, pairs = arrays()
    saved = setclip.fit(x, y, pairs, method="cca", names=NAMES).save(tmp_path / "run", vectors_of=(None, "clap"))
    towers = setclip.load_model(saved).config.towers
    assert (towers["text"].vectors_of, towers["audio"].vectors_of) == (None, "clap")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("a", "a"), "both sides are called 'a'"),
        (("a",), "is not a pair of names"),
        ("ab", "is not a pair of names"),
        (("a", 3), "is not a pair of names"),
        (("a", "Über"), "'Über' is not a small letter"),
        (("x_to_y", "z"), "holds '_to_'"),
        (("image", "text"), "rows called 'image' are of the kind image, not vectors\n  fix: .*image-vectors"),
    ],
)
def test_names_are_checked_before_anything_is_fitted(names: Any, words: str) -> None:
    with pytest.raises(setclip.SetClipError, match=f"names: .*{words}"):
        setclip.fit(*arrays(), method="cca", names=names)


@pytest.mark.parametrize("stated", ["clap", ("clap",), ("a", "b", "c"), (1, 2), None, ("", None)])
def test_what_computed_the_vectors_is_stated_of_both_sides(tmp_path: Path, stated: Any) -> None:
    x, y, pairs = arrays()
    with pytest.raises(setclip.SetClipError, match=r"vectors_of: is (.|\n)*give two names"):
        setclip.fit(x, y, pairs, method="cca").save(tmp_path / "run", vectors_of=stated)
    assert not (tmp_path / "run").exists()
