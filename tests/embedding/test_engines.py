"""Claims about engines: a lost worker costs time and nothing else."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from unittest import mock

import pytest
import tiny

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.embedding import embed as embedder
from setclip_cli.embedding import engines
from setclip_cli.embedding.embed import EmbedResult, embed_backbone
from setclip_cli.embedding.embeddings import EmbeddedShard
from setclip_cli.embedding.options import EmbedOptions
from setclip_cli.embedding.worker import ShardToEmbed, embed_shard
from setclip_cli.errors import ExitCode, SetClipError

ESM = "esm:esm2_t6_8M_UR50D"


def features(data: Path, out: Path, weights: Path, options: EmbedOptions) -> EmbedResult:
    return embed_backbone(ESM, open_dataset(data), out, weights=str(weights), options=options)


def tree(root: Path) -> dict[str, bytes]:
    """Every visible file and its bytes."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and path.name != ".lock")
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def lost_once(marker: Path) -> Callable[[ShardToEmbed], EmbeddedShard]:
    """Embeds a shard; the first worker that wrote one is killed before it could record it."""

    def die(*_: object) -> None:  # nested functions travel by value: a worker cannot import the tests
        os.kill(os.getpid(), signal.SIGKILL)

    def work(job: ShardToEmbed) -> EmbeddedShard:
        with suppress(FileExistsError):
            marker.touch(exist_ok=False)
            mock.patch("setclip_cli.embedding.worker.record_finished", die).start()
        return embed_shard(job)

    return work


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_on_two_nodes_with_a_killed_worker_gives_the_bytes_of_this_process(
    cluster: object, tmp_path: Path, tiny_esm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # relative paths, as a user gives them
    data = tiny.write_dataset(Path("data"), {"protein": tiny.proteins(48, longest=900)}, rows_per_shard=4)
    features(data, Path("local"), tiny_esm2, EmbedOptions())
    marker = tmp_path / "killed"
    monkeypatch.setattr(embedder, "embed_shard", lost_once(marker))
    result = features(data, Path("ray"), tiny_esm2, EmbedOptions(engine="ray"))
    assert marker.exists()
    assert result.made == 12
    assert tree(Path("ray")) == tree(Path("local"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_users_mistake_comes_back_from_the_cluster_as_itself(
    cluster: object, tmp_path: Path, tiny_esm2: Path
) -> None:
    data = tiny.write_dataset(tmp_path / "data", {"protein": tiny.proteins(4)})
    shard = data / "protein" / "train-00000.parquet"
    shard.write_bytes(shard.read_bytes() + b"!")
    with pytest.raises(SetClipError, match="has changed since ingest"):
        features(data, tmp_path / "out", tiny_esm2, EmbedOptions(engine="ray"))


def test_ray_that_is_not_installed_is_a_usage_error(
    tmp_path: Path, tiny_esm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    data = tiny.write_dataset(tmp_path / "data", {"protein": ["MK"]})
    with pytest.raises(SetClipError, match="Ray is not installed") as caught:
        features(data, tmp_path / "out", tiny_esm2, EmbedOptions(engine="ray"))
    assert caught.value.exit_code == ExitCode.USAGE


def end_abruptly(_job: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


@pytest.mark.slow
def test_a_killed_local_worker_is_one_message() -> None:
    with pytest.raises(SetClipError, match="a worker process was killed"):
        list(engines.run_locally(end_abruptly, [1, 2], device="cpu", workers=2))
