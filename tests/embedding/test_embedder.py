"""Claims about embedding: the same rows whatever the engine, the batch or the interruption; bad rows are reported."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner
from untrained_pictures import untrained_run

from setclip_cli.backbones import load_backbone
from setclip_cli.cli.app import app
from setclip_cli.dataset.dataset import DatasetIndex, open_dataset
from setclip_cli.embedding import worker
from setclip_cli.embedding.embed import EmbedResult, embed, embed_backbone
from setclip_cli.embedding.embeddings import open_embeddings
from setclip_cli.embedding.options import EmbedOptions
from setclip_cli.encoders import ProjectionHead
from setclip_cli.errors import SetClipError
from setclip_cli.files import atomic

ESM = "esm:esm2_t6_8M_UR50D"
TEXT = "sentence-transformers:all-MiniLM-L6-v2"
CAPTIONS = ["a harbour", "boats in a harbour", "forest", "a long meadow " * 40, "sea and sand"]
LENIENT = EmbedOptions(max_bad_fraction=0.5)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tiny.write_dataset(tmp_path / "data", {"protein": tiny.proteins(10), "caption": CAPTIONS})


@pytest.fixture
def run(tmp_path: Path, tiny_esm2: Path, tiny_sentence: Path) -> Path:
    """A RUN of two tiny towers with untrained heads."""
    return untrained_run(tmp_path / "run", {"protein": (ESM, tiny_esm2), "caption": (TEXT, tiny_sentence)})


def features(data: Path, out: Path, weights: Path, options: EmbedOptions = EmbedOptions()) -> EmbedResult:
    return embed_backbone(ESM, open_dataset(data), out, weights=str(weights), options=options)


def tree(root: Path) -> dict[str, bytes]:
    """Every visible file and its bytes."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_a_run_embeds_both_towers_as_encoder_of_backbone(
    run: Path, data: Path, tmp_path: Path, tiny_esm2: Path
) -> None:
    result = embed(run, open_dataset(data), tmp_path / "out")
    table = open_embeddings(tmp_path / "out").load("protein", "train")
    backbone = load_backbone(ESM, modality="protein", weights=str(tiny_esm2))
    expected = ProjectionHead(32, 8, seed=0)(backbone.encode(tiny.proteins(10)).features).detach().numpy()
    np.testing.assert_allclose(table.embeddings, expected, atol=1e-5)
    assert table.ids == [f"protein-{n}" for n in range(10)]
    assert table.labels == ["even", "odd"] * 5
    assert (result.rows, result.made, result.kept, result.truncated) == (15, 5, 0, 1)
    np.testing.assert_allclose(np.linalg.norm(table.embeddings, axis=1), 1, atol=1e-5)


def test_one_tower_at_a_time_gives_the_same_folder(run: Path, data: Path, tmp_path: Path) -> None:
    embed(run, open_dataset(data), tmp_path / "both")
    for modality in ("caption", "protein"):
        embed(run, open_dataset(data), tmp_path / "one", options=EmbedOptions(modality=modality))
    assert tree(tmp_path / "one") == tree(tmp_path / "both")


def test_the_batch_size_changes_nothing_beyond_rounding(data: Path, tmp_path: Path, tiny_esm2: Path) -> None:
    features(data, tmp_path / "a", tiny_esm2)
    features(data, tmp_path / "b", tiny_esm2, EmbedOptions(tokens_per_batch=130, rows_per_batch=2))
    a, b = (open_embeddings(tmp_path / name).load("protein").embeddings for name in "ab")
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_second_run_makes_nothing_and_a_damaged_or_missing_shard_is_made_again(
    data: Path, tmp_path: Path, tiny_esm2: Path
) -> None:
    features(data, tmp_path / "out", tiny_esm2)
    before = tree(tmp_path / "out")
    assert (features(data, tmp_path / "out", tiny_esm2).made, tree(tmp_path / "out")) == (0, before)
    damaged = tmp_path / "out" / "protein" / "train-00001.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    (tmp_path / "out" / "protein" / "train-00002.parquet").unlink()
    again = features(data, tmp_path / "out", tiny_esm2)
    assert (again.made, again.kept, tree(tmp_path / "out")) == (2, 1, before)


@pytest.mark.slow
def test_processes_give_the_bytes_of_one_process(data: Path, tmp_path: Path, tiny_esm2: Path) -> None:
    features(data, tmp_path / "one", tiny_esm2, EmbedOptions())
    features(data, tmp_path / "two", tiny_esm2, EmbedOptions(workers=2))
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_a_machine_that_cannot_compile_says_so_and_embeds_the_same_bytes(
    data: Path, tmp_path: Path, tiny_esm2: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_compiler(*_: object, **__: object) -> None:
        raise RuntimeError("no C++ compiler")

    features(data, tmp_path / "plain", tiny_esm2)
    monkeypatch.setattr(torch, "compile", no_compiler)
    features(data, tmp_path / "compiled", tiny_esm2, EmbedOptions(compile=True))
    assert "--compile: this machine cannot compile (no C++ compiler)" in capsys.readouterr().err
    assert tree(tmp_path / "compiled") == tree(tmp_path / "plain")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the compiler
@pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="torch.compile needs a C++ compiler here")
def test_a_compiled_backbone_gives_the_same_rows(data: Path, tmp_path: Path, tiny_esm2: Path) -> None:
    features(data, tmp_path / "plain", tiny_esm2)
    features(data, tmp_path / "compiled", tiny_esm2, EmbedOptions(compile=True))
    plain, compiled = (open_embeddings(tmp_path / name).load("protein") for name in ("plain", "compiled"))
    np.testing.assert_allclose(compiled.embeddings, plain.embeddings, atol=1e-5)


def test_an_unreadable_row_is_reported_and_absent_and_the_run_goes_on(tmp_path: Path, tiny_timm: Path) -> None:
    images = [tiny.jpeg(seed) for seed in range(5)]
    images[2] = images[2][:40]
    data = open_dataset(tiny.write_dataset(tmp_path / "data", {"image": images}))
    out, spec = tmp_path / "out", f"timm:{tiny.TINY_TIMM}"
    result = embed_backbone(spec, data, out, weights=str(tiny_timm), options=LENIENT)
    assert list(result.bad) == ["image-2"]
    assert "1 rows are absent, the first 'image-2': cannot be decoded" in result.summary()
    assert open_embeddings(out).load("image").ids == ["image-0", "image-1", "image-3", "image-4"]
    strict = replace(LENIENT, max_bad_fraction=0.1)
    with pytest.raises(SetClipError, match="1 rows cannot be embedded, the first 'image-2'"):
        embed_backbone(spec, data, tmp_path / "strict", weights=str(tiny_timm), options=strict)


def test_an_embedding_that_is_not_finite_is_a_bad_row(
    data: Path, tmp_path: Path, tiny_esm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from setclip_cli.backbones.esm2 import Esm2Backbone

    whole = Esm2Backbone.encode

    def spoiled(self: Esm2Backbone, items: list[str]) -> object:
        encoded = whole(self, items)
        encoded.features[1, 3] = float("nan")
        return encoded

    monkeypatch.setattr(Esm2Backbone, "encode", spoiled)
    result = features(data, tmp_path / "out", tiny_esm2, LENIENT)
    assert result.bad == {f"protein-{n}": "its embedding is not finite in float32" for n in (1, 5, 9)}
    assert np.isfinite(open_embeddings(tmp_path / "out").load("protein").embeddings).all()


def test_an_input_shard_that_changed_is_refused_and_finished_shards_stay(
    data: Path, tmp_path: Path, tiny_esm2: Path
) -> None:
    last = data / "protein" / "train-00002.parquet"
    whole = last.read_bytes()
    last.write_bytes(whole[:-4] + b"XXXX")
    with pytest.raises(SetClipError, match=r"train-00002\.parquet: has changed since ingest"):
        features(data, tmp_path / "out", tiny_esm2)
    last.write_bytes(whole)
    assert features(data, tmp_path / "out", tiny_esm2).kept == 2


def test_a_run_whose_backbone_changed_is_refused(run: Path, data: Path, tmp_path: Path, tiny_sentence: Path) -> None:
    tiny.edit_document(run / "config.json", lambda config: config["towers"]["protein"].update(identity="0" * 64))
    with pytest.raises(SetClipError, match="are not those this RUN was trained on"):
        embed(run, open_dataset(data), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_is_refused_when_its_backbone_now_prepares_items_otherwise(run: Path, data: Path, tmp_path: Path) -> None:
    tiny.edit_document(
        run / "config.json", lambda config: config["towers"]["caption"]["preprocessing"].update(max_tokens=64)
    )
    with pytest.raises(SetClipError, match=r"caption tower was trained with max_tokens = 64, and .* now says 32"):
        embed(run, open_dataset(data), tmp_path / "out", options=EmbedOptions(modality="caption"))


def test_a_run_from_before_preprocessing_was_kept_still_embeds(run: Path, data: Path, tmp_path: Path) -> None:
    tiny.edit_document(
        run / "config.json", lambda config: [tower.pop("preprocessing") for tower in config["towers"].values()]
    )
    assert embed(run, open_dataset(data), tmp_path / "out", options=EmbedOptions(modality="caption")).rows == 5


def test_a_run_whose_weights_do_not_match_its_config_is_refused(run: Path, data: Path, tmp_path: Path) -> None:
    tiny.edit_document(run / "config.json", lambda config: config["towers"]["protein"]["encoder"].update(dim=16))
    with pytest.raises(SetClipError, match=r"model\.safetensors: does not hold the protein encoder"):
        embed(run, open_dataset(data), tmp_path / "out")


def test_another_models_folder_and_another_dataset_are_refused(
    run: Path, data: Path, tmp_path: Path, tiny_esm2: Path
) -> None:
    features(data, tmp_path / "out", tiny_esm2)
    with pytest.raises(SetClipError, match="was made with another model"):
        embed(run, open_dataset(data), tmp_path / "out")
    other = tiny.write_dataset(tmp_path / "other", {"protein": tiny.proteins(3)}, split="test")
    with pytest.raises(SetClipError, match="was made from another DATASET"):
        features(other, tmp_path / "out", tiny_esm2)


def test_a_folder_of_other_things_is_refused_also_one_that_a_run_has_locked(
    run: Path, data: Path, tmp_path: Path, tiny_esm2: Path
) -> None:
    (run / ".lock").touch()
    before = tree(run)
    with pytest.raises(SetClipError, match="exists but is not an EMBEDDINGS folder"):
        features(data, run, tiny_esm2)
    assert tree(run) == before


def test_out_of_memory_goes_on_with_smaller_batches(
    data: Path, tmp_path: Path, tiny_esm2: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from setclip_cli.backbones.esm2 import Esm2

    features(data, tmp_path / "roomy", tiny_esm2)
    forward = Esm2.forward

    def cramped(self: Esm2, tokens: torch.Tensor) -> torch.Tensor:
        if len(tokens) > 1:
            raise torch.OutOfMemoryError
        return forward(self, tokens)

    monkeypatch.setattr(Esm2, "forward", cramped)
    features(data, tmp_path / "cramped", tiny_esm2)
    assert "out of memory with 4 rows" in capsys.readouterr().err
    a, b = (open_embeddings(tmp_path / name).load("protein").embeddings for name in ("roomy", "cramped"))
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_modality_the_run_or_the_dataset_lacks_is_named(run: Path, tmp_path: Path) -> None:
    images = open_dataset(tiny.write_dataset(tmp_path / "images", {"image": [tiny.jpeg(0)]}))
    with pytest.raises(SetClipError, match="holds no protein or caption rows"):
        embed(run, images, tmp_path / "out")
    with pytest.raises(SetClipError, match="has no image tower, only protein and caption"):
        embed(run, images, tmp_path / "out", options=EmbedOptions(modality="image"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "needs a RUN and a DATASET, got 1 paths"),
        (["--tokens-per-batch", "many"], "neither a"),
        (["--dtype", "int4"], "int4"),
        (["--backbone", "esm:esm2_t6_8M"], "did you mean"),
        (["--backbone", ESM, "--pooling", "max"], "error: --pooling 'max': esm backbones do not have it"),
        (["--backbone", ESM, "--pooling", "clss"], "do not have it (did you mean 'cls'?)"),
        (["--backbone", ESM, "--pooling", "attention"], "error: --pooling 'attention': is learned"),
        (["--backbone", ESM, "--modality", "image"], "--modality image: esm backbones read proteins"),
        (["{data}", "--weights", "hub"], "--weights: works only with --backbone"),
    ],
)
def test_a_wrong_command_line_exits_2_and_writes_nothing(
    data: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    filled = [argument.format(data=data) for argument in arguments]
    result = CliRunner().invoke(app, ["embed", str(data), "--out", str(tmp_path / "out"), *filled])
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_command_prints_one_json_object(data: Path, tmp_path: Path, tiny_esm2: Path) -> None:
    arguments = ["embed", "--backbone", ESM, "--weights", str(tiny_esm2), str(data), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, "--json", "--batch-size", "auto"])
    assert json.loads(result.stdout)["rows"] == 10
    assert worker.load_tower.cache_info().currsize == 1


def test_faiss_opens_the_index_and_finds_what_numpy_finds(data: Path, tmp_path: Path, tiny_esm2: Path) -> None:
    faiss = pytest.importorskip("faiss")
    result = features(data, tmp_path / "out", tiny_esm2, EmbedOptions(faiss=True))
    [path] = result.faiss
    assert path == tmp_path / "out" / "protein" / "train.faiss"
    values = open_embeddings(tmp_path / "out").load("protein").embeddings
    index = faiss.read_index(str(path))
    assert (index.ntotal, index.d, index.metric_type) == (10, 32, faiss.METRIC_INNER_PRODUCT)
    np.testing.assert_array_equal(index.reconstruct_n(0, 10), values)
    _, found = index.search(values[:3], 4)
    np.testing.assert_array_equal(found, np.argsort(-(values[:3] @ values.T), axis=1)[:, :4])
    own = faiss.IndexFlatIP(32)
    own.add(values)
    assert path.read_bytes() == np.asarray(faiss.serialize_index(own)).tobytes()
    features(data, tmp_path / "out", tiny_esm2)
    assert path.exists()
    (tmp_path / "out" / "protein" / "train-00001.parquet").unlink()
    features(data, tmp_path / "out", tiny_esm2)  # makes rows anew, without an index of them
    assert not path.exists()


def test_faiss_that_is_not_installed_is_said_before_any_work(
    data: Path, tmp_path: Path, tiny_esm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(SetClipError, match="FAISS is not installed"):
        features(data, tmp_path / "out", tiny_esm2, EmbedOptions(faiss=True))
    assert not (tmp_path / "out").exists()


def test_rows_are_counted_over_all_calls_and_a_bad_row_leaves_the_others_in_place(
    tmp_path: Path, tiny_esm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "ROWS_PER_CALL", 2)
    sequences = ["MKT", "MJJ", "AG" * 550, "M1", "MJ", "LV" * 600]
    data = tiny.write_dataset(tmp_path / "data", {"protein": sequences}, rows_per_shard=6)
    result = features(data, tmp_path / "out", tiny_esm2, LENIENT)
    assert (list(result.bad), result.windowed, result.replaced_letters) == (["protein-3"], 2, 3)
    embeddings = open_embeddings(tmp_path / "out")
    table = embeddings.read(embeddings.shards("protein")[0])
    assert table["id"].to_pylist() == [f"protein-{row}" for row in (0, 1, 2, 4, 5)]
    assert table["label"].to_pylist() == ["even", "odd", "even", "even", "odd"]
    assert table["windows"].to_pylist() == [1, 1, 2, 1, 2]
    backbone = load_backbone(ESM, modality="protein", weights=str(tiny_esm2))
    expected = backbone.encode([sequences[row] for row in (0, 1, 2, 4, 5)]).features
    np.testing.assert_allclose(embeddings.load("protein").embeddings, expected, atol=1e-5)


def test_texts_that_were_cut_are_counted_over_all_calls(
    tmp_path: Path, tiny_sentence: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "ROWS_PER_CALL", 1)
    data = tiny.write_dataset(tmp_path / "data", {"caption": ["sea " * 90, "sand", "boat " * 90]})
    assert embed_backbone(TEXT, data, tmp_path / "out", weights=str(tiny_sentence)).truncated == 2


def test_a_value_too_large_for_float16_makes_its_row_bad(
    data: Path, tmp_path: Path, tiny_esm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from setclip_cli.backbones.esm2 import Esm2Backbone

    whole = Esm2Backbone.encode

    def enlarged(self: Esm2Backbone, items: list[str]) -> object:
        encoded = whole(self, items)
        encoded.features[0] = 1e6
        return encoded

    monkeypatch.setattr(Esm2Backbone, "encode", enlarged)
    with np.errstate(over="ignore"):
        result = features(data, tmp_path / "out", tiny_esm2, replace(LENIENT, dtype="float16"))
    assert set(result.bad.values()) == {"its embedding is not finite in float16"}
    embeddings = open_embeddings(tmp_path / "out")
    shard = embeddings.read(embeddings.shards("protein")[0])
    assert str(shard.schema.field("embedding").type.value_type) == "halffloat"


def test_precision_changes_the_values_and_is_never_mixed(data: Path, tmp_path: Path, tiny_esm2: Path) -> None:
    half = EmbedOptions(precision="bfloat16")
    features(data, tmp_path / "full", tiny_esm2)
    features(data, tmp_path / "half", tiny_esm2, half)
    full, rounded = (open_embeddings(tmp_path / name).load("protein").embeddings for name in ("full", "half"))
    assert 1e-5 < np.abs(full - rounded).max() < 0.1
    with pytest.raises(SetClipError, match=r"made with another precision \(float32, now bfloat16\)"):
        features(data, tmp_path / "full", tiny_esm2, half)


def test_a_shard_whose_rows_were_ingested_anew_is_made_again(data: Path, tmp_path: Path, tiny_esm2: Path) -> None:
    features(data, tmp_path / "out", tiny_esm2)
    shutil.rmtree(data)
    tiny.write_dataset(data, {"protein": [*tiny.proteins(10)[:9], "MKTAYIAK"], "caption": CAPTIONS})
    assert features(data, tmp_path / "out", tiny_esm2).made == 1
    features(data, tmp_path / "new", tiny_esm2)
    assert tree(tmp_path / "out") == tree(tmp_path / "new")


def test_weights_that_changed_in_place_are_loaded_again(data: Path, tmp_path: Path, tiny_sentence: Path) -> None:
    weights = shutil.copytree(tiny_sentence, tmp_path / "weights")
    embed_backbone(TEXT, data, tmp_path / "before", weights=str(weights))
    [file] = weights.rglob("*.safetensors")
    tensors = load_file(file)
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, file, metadata={"format": "pt"})
    embed_backbone(TEXT, data, tmp_path / "after", weights=str(weights))
    before, after = (open_embeddings(tmp_path / name) for name in ("before", "after"))
    assert before.index.model != after.index.model
    assert not np.allclose(before.load("caption").embeddings, after.load("caption").embeddings)


@pytest.mark.parametrize(("bad", "stops"), [((0, 5), True), ((5,), False)])
def test_the_share_of_bad_rows_is_of_all_rows_also_when_shards_are_kept(
    tmp_path: Path, tiny_timm: Path, bad: tuple[int, ...], stops: bool
) -> None:
    images = [tiny.jpeg(row)[: 40 if row in bad else None] for row in range(6)]
    data = tiny.write_dataset(tmp_path / "data", {"image": images}, rows_per_shard=2)
    out, spec = tmp_path / "out", f"timm:{tiny.TINY_TIMM}"
    embed_backbone(spec, data, out, weights=str(tiny_timm), options=LENIENT)
    (out / "image" / "train-00002.parquet").unlink()
    with (
        pytest.raises(SetClipError, match="2 rows cannot be embedded, the first 'image-0'") if stops else nullcontext()
    ):
        embed_backbone(spec, data, out, weights=str(tiny_timm), options=EmbedOptions(max_bad_fraction=0.2))


def test_only_the_split_asked_for_is_embedded(data: Path, tmp_path: Path, tiny_esm2: Path) -> None:
    train = open_dataset(data).index.shards
    test = open_dataset(tiny.write_dataset(data, {"protein": tiny.proteins(3)}, split="test")).index.shards
    atomic.write_json(data / "dataset.json", DatasetIndex(shards=[*train, *test]).model_dump())
    assert features(data, tmp_path / "out", tiny_esm2, EmbedOptions(split="test")).rows == 3
    assert {shard.split for shard in open_embeddings(tmp_path / "out").index.shards} == {"test"}


def test_batch_limits_reach_the_backbone(tiny_esm2: Path) -> None:
    source = worker.TowerSource("protein", backbone=ESM, weights=str(tiny_esm2))
    budget = worker.load_tower(source, EmbedOptions(tokens_per_batch=130, rows_per_batch=2)).backbone.budget
    assert (budget.tokens, budget.rows) == (130, 2)


KILLER = """
import contextlib, os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)  # a pool of threads does not survive a fork
from setclip_cli.embedding.embed import embed_backbone
from setclip_cli.embedding.embeddings import open_embeddings
from setclip_cli.dataset.dataset import open_dataset
data, out, weights = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
spec = "esm:esm2_t6_8M_UR50D"
embed_backbone(spec, open_dataset(data), out / "whole", weights=weights)
reference = {path.name: path.read_bytes() for path in (out / "whole" / "protein").iterdir()}
draw, folder, finished = random.Random(0), 0, 0
for moment in range(25):
    target = out / str(folder)
    child = os.fork()
    if child == 0:
        embed_backbone(spec, open_dataset(data), target, weights=weights)
        os._exit(0)
    made = draw.randrange(len(reference) + 2)  # a moment told by the work done, not by a clock that others share
    while len(list(target.glob("protein/*.parquet"))) < made and os.waitpid(child, os.WNOHANG) == (0, 0):
        pass
    time.sleep(draw.uniform(0, 0.01))
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    for path in target.glob("protein/*.parquet"):
        assert path.read_bytes() == reference[path.name], path
    if (target / "embeddings.json").exists():
        folder, finished = folder + 1, finished + 1
for name in range(folder + 1):
    embed_backbone(spec, open_dataset(data), out / str(name), weights=weights)
    assert {p.name: p.read_bytes() for p in (out / str(name) / "protein").glob("*.parquet")} == reference
    assert (out / str(name) / "embeddings.json").read_bytes() == (out / "whole" / "embeddings.json").read_bytes()
print(finished)
"""


@pytest.mark.slow
def test_killed_at_25_random_moments_it_ends_with_the_same_bytes(tmp_path: Path, tiny_esm2: Path) -> None:
    data = tiny.write_dataset(tmp_path / "data", {"protein": tiny.proteins(60)}, rows_per_shard=2)
    command = [sys.executable, "-W", "ignore", "-c", KILLER, str(data), str(tmp_path / "out"), str(tiny_esm2)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 20  # most kills came before the end
