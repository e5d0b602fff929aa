"""A second quickstart in the same folder, with one file changed: no change is used without a word."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny

from setclip_cli.errors import SetClipError
from setclip_cli.quickstart import maps, source
from setclip_cli.quickstart import quickstart as module
from setclip_cli.quickstart.quickstart import quickstart
from setclip_cli.recipe.recipe import load_recipe
from setclip_cli.verify.verify import verify


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished quickstart of few places and tiny backbones, with its cache."""
    root = tmp_path_factory.mktemp("made")
    (root / "recipe.toml").write_text(
        f"""
        schema_version = 2
        method = "set-clip-plus"
        projection = {{ dim = 16, pca = 8 }}
        train = {{ steps = 6, batch = 8, checkpoint_every = 3 }}
        [towers.image]
        backbone = "timm:{tiny.TINY_TIMM}"
        weights = {str(tiny.timm_weights(root / "timm"))!r}
        [towers.caption]
        backbone = "sentence-transformers:all-MiniLM-L6-v2"
        weights = {str(tiny.sentence_folder(root / "text"))!r}
        """
    )
    imagery, places, recipe = maps.blue_marble(), maps.survey(), load_recipe(root / "recipe.toml")
    patch = pytest.MonkeyPatch()
    patch.setattr(source, "PLACES_PER_SCENE", 4)
    patch.setattr(source, "PAIRS_PER_SCENE", 2)
    patch.setattr(source, "maps", SimpleNamespace(survey=lambda: places, blue_marble=lambda: imagery, tile=maps.tile))
    patch.setattr(module, "METHODS", {"imagery": ("set-clip", "clip")})
    patch.setattr(module, "SEEDS", (0,))
    patch.setattr(module, "BASELINES", ("cca",))
    patch.setattr(module, "load_recipe", lambda _: recipe)
    patch.setenv("SETCLIP_CACHE", str(root / "cache"))
    quickstart(root / "out")
    yield root
    patch.undo()


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil, at the place where it was made: an ingest knows its sources by their paths."""
    shutil.rmtree(made / "out")
    shutil.copytree(made / "whole", made / "out")
    return made / "out"


@pytest.fixture(scope="module", autouse=True)
def whole(made: Path) -> Path:
    return Path(shutil.copytree(made / "out", made / "whole"))


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder. The times in events of TensorBoard differ in every run."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "tensorboard" not in path.parts
    }


REMADE = [
    "report/report.json",
    "report/report.md",
    "report/report.html",
    "report/files.json",
    "runs/set-clip-0/model.safetensors",
    "runs/set-clip-0/initial.safetensors",
    "runs/set-clip-0/config.json",
    "runs/set-clip-0/recipe.toml",
    "runs/clip-0/metrics.jsonl",
    "embeddings/image/test-00000.parquet",
    "embeddings/caption/test-00000.parquet",
    "dataset/image/train-00000.parquet",
    "dataset/caption/train-00000.parquet",
]
REFUSED = [
    "source/labels.csv",
    "source/pairs.csv",
    "source/captions.jsonl",
    "source/source.json",
    "dataset/dataset.json",
    "embeddings/embeddings.json",
]


def spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 1
    path.write_bytes(content)


def test_nothing_is_made_again_without_a_change(out: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    quickstart(out)
    assert contents(out) == contents(whole)
    assert "again" not in capsys.readouterr().err
    assert verify(out).unchecked == []


@pytest.mark.parametrize("name", REMADE)
def test_a_changed_result_is_named_and_made_again(
    out: Path, whole: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    spoil(out / name)
    with pytest.raises(SetClipError, match=Path(name).name.replace(".", r"\.")):
        verify(out)
    capsys.readouterr()
    quickstart(out)
    assert Path(name).name in capsys.readouterr().err
    verify(out)
    found, wanted = contents(out), contents(whole)
    if not name.startswith("dataset/"):  # its index tells how often a source was read
        assert [one for one in wanted if found.get(one) != wanted[one]] == []


def test_a_report_that_was_not_written_to_its_end_is_made_again(out: Path, whole: Path) -> None:
    (out / "report/files.json").unlink()
    quickstart(out)
    assert contents(out) == contents(whole)


@pytest.mark.parametrize("name", REFUSED)
def test_a_changed_source_or_index_ends_the_command(out: Path, name: str) -> None:
    spoil(out / name)
    with pytest.raises(SetClipError, match=Path(name).name.replace(".", r"\.")) as caught:
        quickstart(out)
    assert caught.value.fix


def test_a_tile_that_is_changed_missing_or_added_is_named_and_the_fix_helps(out: Path, whole: Path) -> None:
    tile = sorted((out / "source/images/train").iterdir())[0]
    spoil(tile)
    with pytest.raises(SetClipError, match=f"{tile.name}: has changed since the quickstart wrote it"):
        quickstart(out)
    tile.unlink()
    with pytest.raises(SetClipError, match=f"{tile.name}: is missing"):
        quickstart(out)
    shutil.copy(whole / tile.relative_to(out), tile)
    shutil.copy(tile, tile.with_name("mine.png"))
    with pytest.raises(SetClipError, match=r"mine\.png: is not a file of the quickstart") as caught:
        quickstart(out)
    assert caught.value.fix == f"remove {out} and run the same command again"
    shutil.rmtree(out)
    quickstart(out)
    for name in ("source/source.json", "runs/set-clip-0/model.safetensors", "embeddings/image/test-00000.parquet"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
