"""Claims about `setclip align` on real files: proteins and captions through tiny backbones in the real layouts."""

from __future__ import annotations

import gc
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from small_world import TUNED, VALIDATED, align, invoke, make_world, run_ok

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.files.atomic import sha256_file
from setclip_cli.methods.extra_encoders import without_extra_encoders
from setclip_cli.recipe.recipe import load_recipe
from setclip_cli.run.model import load_model
from setclip_cli.training import loggers
from setclip_cli.training.own_run import align_own


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("align"))


@pytest.fixture(scope="module")
def run(world: Path) -> Path:
    out = world / "run"
    code, _, stderr = align(world, out)
    assert code == 0, stderr
    return out


def test_a_run_holds_what_the_contract_says(run: Path) -> None:
    assert {path.name for path in run.iterdir()} - {".lock", "tensorboard"} == {
        "recipe.toml",
        "config.json",
        "model.safetensors",
        "initial.safetensors",
        "metrics.jsonl",
        "checkpoints",
        "README.md",
    }
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(1, 61))
    model = load_model(run)
    assert list(model.encoders) == ["protein", "caption"]
    assert model.config.pairs == 6
    card = (run / "README.md").read_text()
    assert "6 known pairs" in card
    assert str(run) not in card


def test_protein_and_caption_embed_and_evaluate_end_to_end(world: Path, run: Path, tmp_path: Path) -> None:
    out = json.loads(run_ok("embed", run, world / "data", "--out", tmp_path / "embeddings", "--json"))
    assert out
    from setclip_cli.embedding.embeddings import open_embeddings

    table = open_embeddings(tmp_path / "embeddings").load("protein", "train")
    dim = load_model(run).encoders["protein"].dim
    assert table.embeddings.shape == (36, dim)
    assert dim > 16  # the heads' own, and the companions'


def test_the_same_command_gives_the_same_bytes(world: Path, run: Path, tmp_path: Path) -> None:
    assert align(world, tmp_path / "again")[0] == 0
    for name in (
        "metrics.jsonl",
        "model.safetensors",
        "initial.safetensors",
        "README.md",
        "config.json",
        "recipe.toml",
    ):
        assert sha256_file(run / name) == sha256_file(tmp_path / "again" / name), name


def test_a_finished_run_is_left_as_it_is(world: Path, run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    code, stdout, _ = align(world, run)
    assert code == 0
    assert "nothing to do" in stdout
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before


def test_a_run_of_another_recipe_is_not_overwritten(world: Path, run: Path) -> None:
    code, _, stderr = align(world, run, "--set", "seed=5")
    assert code == 2
    assert "another recipe (seed differ" in stderr


def test_a_folder_that_is_not_a_run_is_not_touched(world: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    code, _, stderr = align(world, tmp_path)
    assert (code, "exists but is not a RUN folder" in stderr) == (3, True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_batch_of_more_rows_than_there_are_is_told(world: Path, tmp_path: Path) -> None:
    for extra in (["--dry-run"], []):
        code, stdout, stderr = align(
            world, tmp_path / "run", "--set", "train.batch=64", "--set", "train.steps=1", *extra
        )
        assert code == 0
        assert "train.batch = 64 is more than the 36 protein rows" in stdout + stderr


def test_dry_run_prints_the_plan_and_writes_nothing(world: Path, tmp_path: Path) -> None:
    code, stdout, _ = align(world, tmp_path / "new", "--dry-run")
    assert code == 0
    assert "set-clip-plus on 6 known pairs" in stdout
    assert "protein: 36 rows" in stdout
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("setting", "code", "words"),
    [
        ("pairs=7", 2, "has 6 protein-caption pairs in split 'train'"),
        ("train.split=trian", 3, "no protein rows in split 'trian' (did you mean 'train'?)"),
        ("towers.protein.weights=/absent/esm.pt", 3, "/absent/esm.pt"),
        ("train.device=cuda", 2, "train.device = 'cuda'"),
        ("validation.every=5", 3, "no protein rows in split 'val'"),
        ("init_from=nowhere", 3, "nowhere"),
        ('train.loggers=["mlflow"]', 3, "mlflow is not installed"),
        ("train.steps=5\nseed = 3", 2, "sets more than one key"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(
    world: Path, tmp_path: Path, setting: str, code: int, words: str
) -> None:
    import torch

    if setting == "train.device=cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    if "mlflow" in setting and importlib.util.find_spec("mlflow"):
        pytest.skip("mlflow is installed here")
    for extra in ([], ["--dry-run"]):
        found, _, stderr = align(world, tmp_path / "out", "--set", setting, *extra)
        if setting == "train.device=cuda" and extra:
            continue  # a dry run may be made on another machine than the run
        assert (found, words in stderr) == (code, True), stderr
        assert "fix:" in stderr
        assert not (tmp_path / "out" / "recipe.toml").exists()


def test_a_folder_in_which_nothing_was_trained_takes_another_recipe(world: Path, tmp_path: Path) -> None:
    assert align(world, tmp_path / "run", "--set", "train.steps=1")[0] == 0
    left_by_a_mistake = tmp_path / "new"
    left_by_a_mistake.mkdir()
    (left_by_a_mistake / "recipe.toml").write_bytes((tmp_path / "run" / "recipe.toml").read_bytes())
    code, _, stderr = align(world, left_by_a_mistake, "--set", "train.steps=2", "--set", "seed=5")
    assert (code, len((left_by_a_mistake / "metrics.jsonl").read_text().splitlines())) == (0, 2), stderr


def test_a_run_with_weights_from_a_relative_path_opens_from_any_folder(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = load_recipe(world / "recipe.toml").towers["protein"].weights
    monkeypatch.chdir(Path(weights).parent)
    setting = f"towers.protein.weights={Path(weights).name}"
    assert align(world, tmp_path / "run", "--set", "train.steps=1", "--set", setting)[0] == 0
    monkeypatch.chdir(tmp_path)
    run_ok("embed", "run", world / "data", "--modality", "protein", "--out", "embeddings")


def test_a_pair_that_names_an_unknown_id_is_refused(world: Path, tmp_path: Path) -> None:
    dataset = open_dataset(world / "data")
    from setclip_cli.training.known_pairs import pair_rows

    ids = dataset.table("protein", "train", ["id"])["id"].to_pylist()
    with pytest.raises(Exception, match="names the caption 'c0', which split 'train' does not have"):
        pair_rows(dataset.pairs("train")[:1], ids, ["other"], split="train")


def test_a_tuned_run_keeps_only_what_changed_and_embeds_with_it(world: Path, tmp_path: Path) -> None:
    code, _, stderr = align(world, tmp_path / "tuned", *TUNED, "--set", "train.chunk=5")
    assert code == 0, stderr
    for modality in ("protein", "caption"):
        assert (tmp_path / "tuned" / f"tuned-{modality}.safetensors").stat().st_size > 0
    model = load_model(tmp_path / "tuned")
    sequences = ["GKKLVGKKLVACD", "LLIFALLIFAHIK"]
    before = model.load_backbone("protein", initial=True).encode(sequences).features
    after = model.load_backbone("protein").encode(sequences).features
    assert not before.equal(after)

    run_ok("embed", tmp_path / "tuned", world / "data", "--out", tmp_path / "embeddings")
    from setclip_cli.embedding.embeddings import open_embeddings

    dataset = open_dataset(world / "data")
    table = open_embeddings(tmp_path / "embeddings").load("protein", "train")
    rows = dataset.table("protein", "train", ["id", "sequence"]).to_pylist()
    sequence = {row["id"]: row["sequence"] for row in rows}[table.ids[0]]
    features = model.load_backbone("protein").encode([sequence]).features
    import torch

    with torch.no_grad():
        expected = model.encoders["protein"](features)[0].numpy()
    assert table.embeddings[0] == pytest.approx(expected, abs=1e-5)


def test_a_new_run_starts_from_the_tuned_weights_of_another(world: Path, tmp_path: Path) -> None:
    from setclip_cli.run.checkpoint import load_tensors

    assert align(world, tmp_path / "first", *TUNED)[0] == 0
    still = ("--set", "optim.backbone_lr=1e-9", "--set", "optim.backbone_weight_decay=0.0", "--set", "train.steps=1")
    code, _, stderr = align(world, tmp_path / "next", *TUNED, "--set", f"init_from={tmp_path / 'first'}", *still)
    assert code == 0, stderr
    before, after = (load_tensors(tmp_path / run / "tuned-protein.safetensors", fix="")[0] for run in ("first", "next"))
    assert all(value.allclose(after[name], rtol=0, atol=1e-6) for name, value in before.items())


def test_a_run_that_another_process_writes_is_left_alone(world: Path, tmp_path: Path) -> None:
    from setclip_cli.files.lock import exclusive

    with exclusive(tmp_path / "run"):
        code, _, stderr = align(world, tmp_path / "run")
    assert (code, "another setclip process is writing here" in stderr) == (3, True)
    assert not (tmp_path / "run" / "recipe.toml").exists()


def test_a_dataset_without_the_recipes_modality_is_told_what_it_holds(world: Path, tmp_path: Path) -> None:
    run_ok("ingest", world / "captions.jsonl", "--modality", "caption", "--out", tmp_path / "data")
    code, _, stderr = invoke(
        "align", world / "recipe.toml", "--data", tmp_path / "data", "--out", tmp_path / "run", "--set", "pairs=0"
    )
    assert (code, "protein" in stderr, "fix:" in stderr) == (3, True, True)
    assert not (tmp_path / "run").exists()


def test_tensorboard_holds_every_term(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert {"loss/total", "loss/sdd", "gradient_share/clip", "density_gap", "lr"} <= set(events.Tags()["scalars"])
    assert len(events.Scalars("loss/total")) == 60


def test_cached_augmented_views_serve_the_self_supervised_term(world: Path, tmp_path: Path) -> None:
    code, _, stderr = align(
        world,
        tmp_path / "views",
        *("--set", "method=set-clip", "--set", "objective.self_supervised.views=2", "--set", "train.steps=3"),
    )
    assert code == 0, stderr
    cached = {path.name.partition("-view-")[2] for path in (world / "cache" / "features").glob("*-view-*")}
    assert cached == {"0.safetensors", "1.safetensors"}


def test_training_stops_early_and_keeps_the_best_state(world: Path, tmp_path: Path) -> None:
    code, stdout, _ = align(world, tmp_path / "run", *VALIDATED, "--set", "train.steps=200")
    assert code == 0
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    seen = {record["step"]: record["validation/criterion"] for record in records if "validation/criterion" in record}
    best = min(seen, key=lambda step: (seen[step], step))
    assert len(records) == best + 10 < 200
    assert f", {best} steps in" in stdout  # the weights kept are those of the best validation
    assert "validation/recall_at_1" in records[4]


def test_validation_without_pairs_watches_densities_and_neighbourhoods(world: Path, tmp_path: Path) -> None:
    settings = ("--set", "pairs=0", "--set", "method=set-clip", "--set", "train.steps=10")
    run_ok("ingest", world / "proteins.fasta", "--modality", "protein", "--out", tmp_path / "data")
    run_ok("ingest", world / "captions.jsonl", "--modality", "caption", "--out", tmp_path / "data")
    code, _, stderr = invoke(
        *("align", world / "recipe.toml", "--data", tmp_path / "data", "--out", tmp_path / "run", *VALIDATED, *settings)
    )
    assert code == 0, stderr
    record = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[4])
    assert record["validation/criterion"] == pytest.approx(
        record["validation/density_gap"] + record["validation/neighbourhood"]
    )


def test_a_new_run_starts_from_the_weights_of_another(world: Path, run: Path, tmp_path: Path) -> None:
    code, _, stderr = align(world, tmp_path / "next", "--set", f"init_from={run}", "--set", "train.steps=1")
    assert code == 0, stderr
    first, following = load_model(run), load_model(tmp_path / "next")
    for modality in ("protein", "caption"):
        trained = without_extra_encoders(first.encoders[modality]).state_dict()
        start = following.initial[modality].state_dict()
        assert all(trained[name].equal(start[name]) for name in trained)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["projection.dim=8"], "init_from: its left encoder is"),
        (["towers.protein.trainable=last-1"], None),  # the heads fit, and the backbone starts as found
        (["init_from=/absent"], "/absent"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    world: Path, run: Path, tmp_path: Path, settings: list[str], words: str | None
) -> None:
    overrides = [word for setting in (f"init_from={run}", "train.steps=1", *settings) for word in ("--set", setting)]
    code, _, stderr = align(world, tmp_path / "next", *overrides)
    assert (code == 0) == (words is None), stderr
    assert words is None or words in stderr


def test_tensorboard_holds_maps_and_histograms(world: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = ("--set", "train.steps=4", "--set", "train.map_every=2")
    assert align(world, tmp_path / "run", *settings)[0] == 0
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), {"histograms": 0, "images": 0}).Reload()
    assert [event.step for event in events.Histograms("density_gap/rows")] == [2, 4]
    assert [event.step for event in events.Images("map")] == [2, 4]


def test_a_map_shows_the_two_sides_apart_in_two_colours() -> None:
    left = torch.tensor([1.0, 0.0, 0.0]).repeat(5, 1)
    picture = loggers._map(left, -left)
    blue, orange = (
        (picture == torch.tensor(colour)[:, None, None]).all(0) for colour in ((31, 119, 180), (255, 127, 14))
    )
    assert int(blue.sum()) == int(orange.sum()) == 9  # five equal rows, one dot of 3 x 3
    assert abs(float(blue.nonzero()[:, 1].float().mean() - orange.nonzero()[:, 1].float().mean())) == 477
    assert loggers._map(left[:, :1], left[:, :1]).shape == picture.shape  # one dimension


def test_other_loggers_get_the_scalars_and_no_weights(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stand-ins that know only these calls: any other, such as an upload, is an error."""
    from types import SimpleNamespace

    calls: list[tuple[str, object]] = []
    session = SimpleNamespace(
        log=lambda values, step: calls.append(("wandb", (step, sorted(values)))),
        finish=lambda: calls.append(("wandb", "finish")),
    )
    wandb = SimpleNamespace(init=lambda **settings: calls.append(("wandb", settings["project"])) or session)
    mlflow = SimpleNamespace(
        start_run=lambda run_name: calls.append(("mlflow", run_name)),
        log_dict=lambda values, name: calls.append(("mlflow", name)),
        log_metrics=lambda values, step: calls.append(("mlflow", (step, sorted(values)))),
        end_run=lambda: calls.append(("mlflow", "end")),
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    code, _, stderr = align(
        world, tmp_path / "run", "--set", "train.steps=2", "--set", 'train.loggers=["wandb", "mlflow"]'
    )
    assert code == 0, stderr
    for name in ("wandb", "mlflow"):
        steps = [call[1][0] for call in calls if call[0] == name and isinstance(call[1], tuple)]
        assert steps == [1, 2]
    assert ("wandb", "finish") in calls
    assert ("mlflow", "end") in calls


def test_a_logger_that_is_not_installed_is_named(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    code, _, stderr = align(world, tmp_path / "run", "--set", 'train.loggers=["wandb"]')
    assert (code, "wandb is not installed" in stderr, "pip install 'setclip[wandb]'" in stderr) == (3, True, True)


def test_a_tuned_tower_reads_its_chunks_by_length(world: Path) -> None:
    import torch

    from setclip_cli.backbones import load_backbone
    from setclip_cli.features.raw_rows import open_raw_rows
    from setclip_cli.recipe.recipe import load_recipe
    from setclip_cli.training.build import build_tower
    from setclip_cli.training.tower import Pool, TunedBackbone

    dataset = open_dataset(world / "data")
    items = open_raw_rows(dataset, "protein", "train", "sequence")
    recipe = load_recipe(world / "recipe.toml")
    backbone = load_backbone("esm:esm2_t6_8M_UR50D", modality="protein", weights=recipe.towers["protein"].weights)
    lengths = torch.tensor(items.lengths())
    tower = build_tower(
        recipe, "left", Pool(torch.randn(36, backbone.dim), tuned=TunedBackbone(backbone, items, lengths))
    )
    rows = torch.randperm(36)[:20]
    ordered = tower.by_length(rows)
    assert sorted(ordered.tolist()) == sorted(rows.tolist())
    read = [len(sequence) for sequence in items.take(ordered.tolist())]
    assert read == sorted(read)


@pytest.mark.parametrize(("labels", "method"), [(True, "set-clip-plus"), (False, "transport")])
def test_labels_on_both_sides_ask_for_kinds(world: Path, tmp_path: Path, labels: bool, method: str) -> None:
    (tmp_path / "labels.csv").write_text("id,label\n" + "".join(f"P{number:03d},any\n" for number in range(36)))
    data = tmp_path / "data"
    given = ["--labels", tmp_path / "labels.csv"] if labels else []
    run_ok("ingest", world / "proteins.fasta", "--modality", "protein", *given, "--out", data)
    captions = ("ingest", world / "captions.jsonl", "--modality", "caption", "--pairs", world / "pairs.csv")
    run_ok(*captions, "--out", data)
    words = ("align", world / "recipe.toml", "--data", data, "--out", tmp_path / "run", "--set", "method=auto")
    assert f"auto: {method}, for the goal" in run_ok(*words, "--dry-run")


def test_a_command_that_aligns_many_runs_keeps_no_backbone(world: Path, tmp_path: Path) -> None:
    """Their weights were in memory once for each RUN: a model of sentence-transformers refers to itself."""
    from sentence_transformers import SentenceTransformer

    recipe = load_recipe(world / "recipe.toml").with_settings(method="procrustes")
    data = open_dataset(world / "data")
    gc.collect()
    gc.disable()
    try:
        before = sum(type(one) is SentenceTransformer for one in gc.get_objects())
        for seed in (0, 1):
            align_own(recipe.with_settings(seed=seed), data, tmp_path / f"run-{seed}")
        after = sum(type(one) is SentenceTransformer for one in gc.get_objects())
    finally:
        gc.enable()
    assert after == before
