"""Towers without a backbone: stored vectors through align, embed, evaluate and search."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_world import invoke, run_ok

from setclip_cli.dataset.dataset import INDEX_NAME, PAIRS_NAME, DatasetIndex, open_dataset, write_shard
from setclip_cli.dataset.schemas import PAIRS_SCHEMA, ModalityInfo, matrix_of, schema_of
from setclip_cli.embedding.embeddings import open_embeddings
from setclip_cli.files import atomic
from setclip_cli.files.documents import read_toml
from setclip_cli.ingest.batches import write_table
from setclip_cli.recipe.recipe import Recipe
from setclip_cli.run.config import load_config
from setclip_cli.run.model import load_model
from setclip_cli.training.known_pairs import known_pairs

WIDTHS = {"audio": 12, "text-vectors": 7}
ENCODERS = {"audio": "clap", "text-vectors": None}
ROWS = 60


def vectors(name: str, rows: int, seed: int = 0) -> np.ndarray:
    """Both sides are views of one hidden space, so that few pairs are enough."""
    hidden = np.random.default_rng(seed).normal(size=(rows, 4))
    view = np.random.default_rng(len(name)).normal(size=(4, WIDTHS[name]))
    return (hidden @ view).astype(np.float32)


def write_vectors(
    root: Path, *, dtype: str = "float32", encoders: dict[str, str | None] = ENCODERS, widths: dict[str, int] = WIDTHS
) -> Path:
    """A DATASET of two modalities of vectors, with all pairs of the split train."""
    shards = []
    infos = {
        name: ModalityInfo(kind="vector", width=width, dtype=dtype, encoder=encoders[name])
        for name, width in widths.items()
    }
    for name, info in infos.items():
        for split, seed in (("train", 0), ("test", 1)):
            values = vectors(name, ROWS, seed)[:, : info.width].astype(dtype)
            column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), info.width)
            rows = {
                "id": [f"{split}{number}" for number in range(ROWS)],
                "split": [split] * ROWS,
                "source": ["made"] * ROWS,
                "sha256": [atomic.sha256_bytes(row.tobytes()) for row in values],
                "label": [None] * ROWS,
                "group": [None] * ROWS,
            }
            schema = schema_of("vector", info)
            columns = [column if field.name == "vector" else pa.array(rows[field.name], field.type) for field in schema]
            table = pa.Table.from_arrays(columns, schema=schema)
            shards.append(write_shard(root, f"{name}/{split}-00000.parquet", table, modality=name, split=split))
    pairs = [
        {"left_modality": "audio", "left_id": f"{split}{row}", "right_modality": "text-vectors"}
        | {"right_id": f"{split}{row}", "split": split}
        for split in ("train", "test")
        for row in range(ROWS)
    ]
    write_table(root / PAIRS_NAME, pa.Table.from_pylist(pairs, schema=PAIRS_SCHEMA))
    files = {PAIRS_NAME: atomic.sha256_file(root / PAIRS_NAME)}
    atomic.write_json(root / INDEX_NAME, DatasetIndex(shards=shards, modalities=infos, files=files).as_json())
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vectors(tmp_path_factory.mktemp("vectors"))


def recipe_of(folder: Path, extra: str = "", tower: str = "") -> Path:
    path = folder / "r.toml"
    towers = "".join(f'[towers.{name}]\nbackbone = "vector"\n{tower}' for name in WIDTHS)
    path.write_text(f"schema_version = 2\n{extra}\n{towers}")
    return path


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run_ok("align", recipe_of(folder, 'method = "cca"\npairs = 20'), "--data", data, "--out", folder / "run")
    return folder / "run"


def test_vectors_are_aligned_embedded_and_scored(data: Path, run: Path, tmp_path: Path) -> None:
    tower = load_config(run).towers["audio"]
    assert (tower.spec, tower.kind, tower.dim, tower.vectors_of) == ("vector", "vector", 12, "clap")
    run_ok("embed", run, data, "--out", tmp_path / "e")
    run_ok("evaluate", run, tmp_path / "e", data, "--out", tmp_path / "r", "--baselines", "none")
    first, second = json.loads((tmp_path / "r" / "report.json").read_text())["targets"]
    for key in ("audio_to_text-vectors/recall_at_1", "text-vectors_to_audio/recall_at_1"):
        assert first["metrics"][key]["value"] == second["metrics"][key]["value"] > 0.5  # chance is 0.02
    model, embedded = load_model(run), open_embeddings(tmp_path / "e").load("audio", "test")
    assert np.allclose(model.embed(audio=vectors("audio", ROWS, 1)), embedded.embeddings, atol=1e-6)
    assert model.similarity([vectors("audio", 1, 1)[0]], [vectors("text-vectors", 1, 1)[0]]).item() > 0.5


@pytest.mark.slow
def test_every_trained_method_takes_vectors(data: Path, tmp_path: Path) -> None:
    for method in ("clip", "set-clip", "set-clip-plus", "transport", "s-clip"):
        extra = f'method = "{method}"\npairs = 20'
        told = ["--set", "train.steps=10"] if method not in ("transport",) else []
        run_ok("align", recipe_of(tmp_path, extra), "--data", data, "--out", tmp_path / method, *told)


def test_the_plan_says_that_there_is_no_model(data: Path, tmp_path: Path) -> None:
    told = run_ok("align", recipe_of(tmp_path, "pairs = 20"), "--data", data, "--out", tmp_path / "x", "--dry-run")
    assert "  audio: 60 rows of stored vectors\n" in told


def test_half_precision_and_a_query_from_a_file(data: Path, run: Path, tmp_path: Path) -> None:
    half = write_vectors(tmp_path / "half", dtype="float16")
    assert open_dataset(half).table("audio", "test")["vector"].type.value_type == pa.float16()
    run_ok("embed", run, half, "--out", tmp_path / "e")
    np.save(tmp_path / "query.npy", vectors("audio", 3, 1)[2])
    told = run_ok("search", tmp_path / "e", tmp_path / "query.npy", "--as", "audio", "--split", "test", "--top", "1")
    assert told.splitlines()[1].split()[2] == "test2"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (np.zeros((3, 12), np.float32), "has the shape (3, 12)"),
        (np.ones(5, np.float32), "vectors of 5 values, and the tower reads 12"),
        (np.array([{"a": 1}], dtype=object), "cannot be read as a .npy file"),
        (b"\x89HDF\r\n\x1a\n", "cannot be read as a .npy file (it does not begin as one)"),
        (np.zeros(12, np.float32), "is zero"),
        (np.full(12, np.nan, np.float32), "not finite"),
        (None, "no such file"),
    ],
)
def test_a_query_that_is_no_vector_of_the_tower(
    data: Path, run: Path, tmp_path: Path, content: np.ndarray | bytes | None, words: str
) -> None:
    run_ok("embed", run, data, "--out", tmp_path / "e")
    if isinstance(content, bytes):
        (tmp_path / "q.npy").write_bytes(content)
    elif content is not None:
        np.save(tmp_path / "q.npy", content, allow_pickle=True)
    code, _, stderr = invoke("search", tmp_path / "e", tmp_path / "q.npy", "--as", "audio")
    assert code == 2
    assert words in stderr


def test_a_run_refuses_vectors_of_another_width_or_encoder(run: Path, tmp_path: Path) -> None:
    narrow = write_vectors(tmp_path / "narrow", widths=WIDTHS | {"audio": 11})
    other = write_vectors(tmp_path / "other", encoders=ENCODERS | {"audio": "beats"})
    for data, words in ((narrow, "its audio rows have the width 11"), (other, "of the encoder 'beats'")):
        for command in (
            ["embed", run, data, "--out", tmp_path / "e"],
            ["evaluate", run, data, "--out", tmp_path / "r"],
        ):
            code, _, stderr = invoke(*command)
            assert code == 3
            assert words in stderr
    unstated = write_vectors(tmp_path / "unstated", encoders={"audio": None, "text-vectors": "x"})
    run_ok("embed", run, unstated, "--out", tmp_path / "e")


@pytest.mark.parametrize(
    ("extra", "tower", "words"),
    [
        ("", 'trainable = "full"\n', "towers.audio.trainable = 'full': the features are stored vectors"),
        ("", "layer = 3\n", "layer = 3"),
        ("", 'pooling = "cls"\n', "pooling = 'cls'"),
        ("", 'weights = "hub"\n', "weights = 'hub'"),
        ("", "in_chans = 4\n", "in_chans"),
        ('method = "set-clip-plus"\n[objective.self_supervised]\nweight = 1.0\nviews = 2', "", "no augmented views"),
        ("", "joint = true\n", "vector (12 values) and vector (7 values)"),
    ],
)
def test_what_has_no_meaning_for_vectors_is_refused(
    data: Path, tmp_path: Path, extra: str, tower: str, words: str
) -> None:
    code, _, stderr = invoke("align", recipe_of(tmp_path, extra, tower), "--data", data, "--out", tmp_path / "run")
    assert code == 2
    assert words in stderr


def test_vectors_of_one_joint_model_are_a_start(tmp_path: Path) -> None:
    """Two towers of one width: step 0 is the vectors' own cosine."""
    data = write_vectors(tmp_path / "d", widths={"audio": 7, "text-vectors": 7}, encoders=dict.fromkeys(WIDTHS, "m"))
    recipe = recipe_of(tmp_path, 'method = "set-clip"\npairs = 0', "joint = true\n")
    run_ok("align", recipe, "--data", data, "--out", tmp_path / "run", "--set", "train.steps=1")
    rows = matrix_of(open_dataset(data).table("audio", "test")["vector"])
    initial = load_model(tmp_path / "run").initial["audio"]
    import torch

    with torch.inference_mode():
        found = initial(torch.from_numpy(rows)).numpy()
    wanted = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert np.allclose(found @ found.T, wanted @ wanted.T, atol=1e-5)


def test_the_same_vectors_give_the_same_bytes(data: Path, run: Path, tmp_path: Path) -> None:
    run_ok("align", recipe_of(tmp_path, 'method = "cca"\npairs = 20'), "--data", data, "--out", tmp_path / "again")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (run / name).read_bytes()


def test_pairs_that_training_knew_are_not_asked_for(data: Path, run: Path, tmp_path: Path) -> None:
    """Two pools without a test split: the other pairs are found among all rows."""
    code, _, stderr = invoke("evaluate", run, data, "--out", tmp_path / "r", "--split", "train")
    assert code == 0
    content = json.loads((tmp_path / "r" / "report.json").read_text())
    assert content["excluded"] == {"known pairs that training used": 20}
    assert content["queries"] == dict.fromkeys(("audio_to_text-vectors", "text-vectors_to_audio"), ROWS - 20)
    assert content["rows"] == dict.fromkeys(WIDTHS, ROWS)
    assert "left out: 20 known pairs that training used" in stderr
    recipe = Recipe.read_back(read_toml(run / "recipe.toml"))
    known = {pair.left_id for pair in known_pairs(open_dataset(data), recipe).pairs}
    assert len(known) == 20
    values = vectors("audio", ROWS), vectors("text-vectors", ROWS)
    left, right = load_model(run).embed(audio=values[0]), load_model(run).embed(**{"text-vectors": values[1]})
    asked = [row for row in range(ROWS) if f"train{row}" not in known]
    cosines = left @ right.T
    wanted = np.mean([cosines[row].argmax() == row for row in asked])
    metric = content["targets"][0]["metrics"]["audio_to_text-vectors/recall_at_1"]["value"]
    assert metric == pytest.approx(wanted, abs=1e-9)


def test_if_training_knew_all_pairs_all_are_scored(data: Path, tmp_path: Path) -> None:
    run_ok("align", recipe_of(tmp_path, 'method = "cca"'), "--data", data, "--out", tmp_path / "run")
    told = ["--split", "train", "--baselines", "none"]
    code, _, stderr = invoke("evaluate", tmp_path / "run", data, "--out", tmp_path / "r", *told)
    assert code == 0
    assert "were used for training too" in stderr
    content = json.loads((tmp_path / "r" / "report.json").read_text())
    assert (content["excluded"], content["queries"]["audio_to_text-vectors"]) == ({}, ROWS)


def test_embeddings_alone_are_scored_as_their_run_is(data: Path, run: Path, tmp_path: Path) -> None:
    """Without labels and groups the known pairs are asked for, but not those of the training."""
    run_ok("embed", run, data, "--out", tmp_path / "e", "--split", "train")
    contents = []
    for model, out in ((run, tmp_path / "of-run"), (tmp_path / "e", tmp_path / "of-rows")):
        words = ("evaluate", model, data, "--out", out, "--split", "train", "--baselines", "none")
        code, _, stderr = invoke(*words)
        assert code == 0
        assert "relevance: pairs (there are known pairs, " in stderr
        contents.append(json.loads((out / "report.json").read_text()))
    of_run, of_rows = contents
    for key in ("relevance", "relevance_reason", "excluded", "queries", "rows"):
        assert of_rows[key] == of_run[key]
    maps = [one["methods"][0]["metrics"]["audio_to_text-vectors/map"]["mean"] for one in contents]
    assert maps[0] == pytest.approx(maps[1], abs=1e-6)


def test_embeddings_whose_run_has_gone_are_asked_for_all_pairs(data: Path, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    run_ok("embed", tmp_path / "run", data, "--out", tmp_path / "e", "--split", "train")
    shutil.rmtree(tmp_path / "run")
    run_ok("evaluate", tmp_path / "e", data, "--out", tmp_path / "r", "--split", "train", "--baselines", "none")
    content = json.loads((tmp_path / "r" / "report.json").read_text())
    assert (content["relevance"], content["excluded"]) == ("pairs", {})


def test_one_run_under_two_names_is_not_two_seeds(data: Path, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "copy")
    (tmp_path / "link").symlink_to(run)
    (tmp_path / "files").mkdir()
    for path in run.iterdir():
        (tmp_path / "files" / path.name).symlink_to(path)
    for other, words in (("copy", "is the same RUN as"), ("files", "is the same RUN as"), ("link", "more than once")):
        given = ("evaluate", run, tmp_path / other, data, "--out", tmp_path / "r", "--split", "train")
        code, _, stderr = invoke(*given)
        assert code == 2
        assert words in stderr
        assert not (tmp_path / "r").exists()
    run_ok("align", recipe_of(tmp_path, 'method = "cca"\npairs = 20'), "--data", data, "--out", tmp_path / "other",
           "--set", "seed=1")  # fmt: skip
    words = ("--out", tmp_path / "r", "--split", "train", "--baselines", "none")
    run_ok("evaluate", run, tmp_path / "other", data, *words)


def test_embeddings_of_one_run_under_two_names_are_not_two_models(data: Path, run: Path, tmp_path: Path) -> None:
    for name, more in (("one", ()), ("two", ()), ("small", ("--dtype", "int8"))):
        run_ok("embed", run, data, "--out", tmp_path / name, "--split", "train", *more)
    words = ("--out", tmp_path / "r", "--split", "train", "--baselines", "none")
    code, _, stderr = invoke("evaluate", tmp_path / "one", tmp_path / "two", data, *words)
    assert code == 2
    assert "has the embeddings of the same model as" in stderr
    run_ok("evaluate", tmp_path / "one", tmp_path / "small", data, *words)
