"""Both pools of a DATASET as tensors: rows, known pairs, embeddings of a RUN."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small_world
import torch

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.errors import ExitCode, SetClipError, UsageError
from setclip_cli.pools import memory, read_pools
from setclip_cli.pools import pools as module
from setclip_cli.run.model import load_model


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 left and 30 right vectors, five pairs."""
    folder = tmp_path_factory.mktemp("vectors")
    draw = np.random.default_rng(0)
    for name, rows, width in (("left", 40, 6), ("right", 30, 5)):
        np.save(folder / f"{name}.npy", draw.normal(size=(rows, width)).astype(np.float32))
    lines = [f"{3 * number},{29 - number}" for number in range(5)]
    (folder / "pairs.csv").write_text("\n".join(["left,right", *lines]) + "\n")
    small_world.run_ok(
        "ingest", f"left={folder / 'left.npy'}", f"right={folder / 'right.npy'}", "--kind", "vector",
        "--pairs", folder / "pairs.csv", "--out", folder / "data",
    )  # fmt: skip
    return folder


def test_vectors_and_pairs_are_those_of_the_files(vectors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pools = read_pools(vectors / "data")
    assert [side.modality for side in pools.sides] == ["left", "right"]
    for side in pools.sides:
        stored = np.load(vectors / f"{side.modality}.npy")
        found = {tuple(row) for row in side.features.numpy().tolist()}
        assert found == {tuple(row) for row in stored.tolist()}
        assert side.embeddings is None
    for number, (left, right) in enumerate(pools.pairs.tolist()):
        assert np.array_equal(pools.left.features[left], np.load(vectors / "left.npy")[3 * number])
        assert np.array_equal(pools.right.features[right], np.load(vectors / "right.npy")[29 - number])
    assert pools.item_count == 5
    assert pools.trained_on is None
    assert "left by vector, right by vector" in capsys.readouterr().err


def test_a_run_gives_its_embeddings_and_says_which_pairs_it_knew(vectors: Path, tmp_path: Path) -> None:
    small_world.run_ok(
        "align", "vectors", "--data", vectors / "data", "--set", "pairs=3", "--set", 'method="cca"', "--out",
        tmp_path / "run",
    )  # fmt: skip
    pools = read_pools(vectors / "data", run=tmp_path / "run")
    model = load_model(tmp_path / "run")
    for side in pools.sides:
        assert side.embeddings is not None
        expected = model.embed(**{side.modality: side.features.numpy()})
        assert np.allclose(side.embeddings.numpy(), expected, atol=1e-6)
    assert pools.trained_on is not None
    assert pools.trained_on.tolist().count(True) == 3
    # More pairs: nothing says any longer which of them the RUN knew.
    (tmp_path / "more.csv").write_text("left,right\n1,1\n")
    small_world.run_ok("ingest", f"left={vectors / 'left.npy'}", f"right={vectors / 'right.npy'}", "--kind", "vector",
                       "--pairs", vectors / "pairs.csv", "--out", tmp_path / "data")  # fmt: skip
    small_world.run_ok("ingest", "--pairs", tmp_path / "more.csv", "--out", tmp_path / "data")
    later = read_pools(tmp_path / "data", run=tmp_path / "run")
    assert len(later.pairs) == 6
    assert later.trained_on is None


def test_no_pairs_are_an_empty_table(vectors: Path, tmp_path: Path) -> None:
    small_world.run_ok("ingest", f"left={vectors / 'left.npy'}", f"right={vectors / 'right.npy'}", "--kind", "vector",
                       "--out", tmp_path / "data")  # fmt: skip
    pools = read_pools(open_dataset(tmp_path / "data"))
    assert pools.pairs.shape == (0, 2)
    assert pools.pairs.dtype == torch.int64
    assert pools.item_count == 0


def test_one_side_is_not_enough(vectors: Path, tmp_path: Path) -> None:
    small_world.run_ok("ingest", f"left={vectors / 'left.npy'}", "--kind", "vector", "--out", tmp_path / "data")
    with pytest.raises(SetClipError, match="has 1 modality, left") as caught:
        read_pools(tmp_path / "data")
    assert caught.value.exit_code is ExitCode.DATA


def test_a_run_of_other_modalities_is_named_with_both(vectors: Path, tmp_path: Path) -> None:
    words = ["--set", 'method="cca"', "--out", tmp_path / "run"]
    small_world.run_ok("align", "vectors", "--data", vectors / "data", *words)
    small_world.run_ok("ingest", f"right={vectors / 'right.npy'}", f"sonar={vectors / 'left.npy'}", "--kind", "vector",
                       "--out", tmp_path / "data")  # fmt: skip
    with pytest.raises(SetClipError, match=r"reads left and right rows, and .* holds right, sonar") as caught:
        read_pools(tmp_path / "data", run=tmp_path / "run")
    assert caught.value.exit_code is ExitCode.DATA
    assert "--modality left --kind KIND" in caught.value.fix


def test_a_run_and_a_recipe_are_refused_together(vectors: Path) -> None:
    with pytest.raises(UsageError, match="both given"):
        read_pools(vectors / "data", run="some/run", recipe="vectors")


def test_a_split_that_is_not_there_is_named(vectors: Path) -> None:
    with pytest.raises(SetClipError, match="nosuch"):
        read_pools(vectors / "data", split="nosuch")


def test_towers_of_a_recipe_are_taken(tmp_path: Path) -> None:
    world = small_world.make_world(tmp_path)
    pools = read_pools(world / "data", recipe=world / "recipe.toml")
    assert [side.modality for side in pools.sides] == ["protein", "caption"]
    assert len(pools.pairs) == 6
    assert len(pools.left.ids) == len(pools.left.features) == 36


def test_pools_larger_than_memory_are_refused_before_a_row_is_read(
    vectors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the kernel ends the command after minutes, without a word."""
    needed = 4 * (40 * 6 + 30 * 5)
    monkeypatch.setattr(memory, "machine_memory", lambda: needed - 1)
    monkeypatch.setattr(module, "frozen_features", None)
    with pytest.raises(SetClipError, match="40 left rows and 30 right rows need") as caught:
        read_pools(vectors / "data")
    assert caught.value.fix.startswith("choose a split with fewer rows by split")
    monkeypatch.undo()
    monkeypatch.setattr(memory, "machine_memory", lambda: needed)
    assert len(read_pools(vectors / "data").left.ids) == 40


@pytest.mark.parametrize(("text", "limit"), [("max", None), ("1048576", 2**20), ("no number", None)])
def test_a_container_may_use_less_than_the_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, limit: int | None
) -> None:
    (tmp_path / "memory.max").write_text(f"{text}\n")
    monkeypatch.setattr(memory, "_LIMIT_OF_CONTAINER", tmp_path / "missing")
    whole = memory.machine_memory()
    [line] = [line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:")]
    assert whole == pytest.approx(1024 * int(line.split()[1]), rel=0.01)
    monkeypatch.setattr(memory, "_LIMIT_OF_CONTAINER", tmp_path / "memory.max")
    assert memory.machine_memory() == (limit or whole)
