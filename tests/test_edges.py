"""Each edge of the package, and what the library behind it may raise: always a message with the place and a fix."""

from __future__ import annotations

import errno
import os
import pickle
import zipfile
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch
from safetensors import SafetensorError
from small_world import align, invoke, make_world, run_ok

from setclip_cli import cluster as on_cluster
from setclip_cli import processes
from setclip_cli.backbones import fetch, load_backbone
from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.embedding import engines
from setclip_cli.embedding.embeddings import open_embeddings
from setclip_cli.errors import SetClipError
from setclip_cli.files.cache import cache_folder
from setclip_cli.files.documents import read_toml
from setclip_cli.run.model import load_model


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


FILE_ERRORS = {
    "no permission": os_error(errno.EACCES),
    "a loop of links": os_error(errno.ELOOP),
    "a long name": os_error(errno.ENAMETOOLONG),
    "a folder": os_error(errno.EISDIR),
    "a broken disk": os_error(errno.EIO),
    "a NUL": ValueError("embedded null byte"),
    "no number": OSError("odd"),
    "no memory": MemoryError(),
}
ARROW_ERRORS = {
    "invalid": pa.ArrowInvalid("Parquet magic bytes not found in footer"),
    "not implemented": pa.lib.ArrowNotImplementedError("Unsupported encoding"),
    "no key": pa.lib.ArrowKeyError("No such column"),
    "no memory": pa.lib.ArrowMemoryError("malloc of size 10 failed"),
    "a broken disk": os_error(errno.EIO),
    "a short file": OSError("Unexpected end of stream"),
}
TORCH_ERRORS = {
    "not a pickle": pickle.UnpicklingError("invalid load key, '<'."),
    "a broken archive": RuntimeError("PytorchStreamReader failed reading zip archive"),
    "a bad zip file": zipfile.BadZipFile("File is not a zip file"),
    "an end": EOFError(),
    "no key": KeyError("encoder.layers.0"),
    "no memory": RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
    "no memory at all": MemoryError(),
    "a broken disk": os_error(errno.EIO),
}
MODEL_ERRORS = {
    "other shapes": RuntimeError("size mismatch for weight"),
    "a wrong setting": ValueError("hidden size is not a multiple of the number of heads"),
    "an odd setting": AssertionError("embed_dim must be divisible by num_heads"),
    "no attribute": AttributeError("'NoneType' object has no attribute 'get'"),
    "an odd type": TypeError("'str' object cannot be interpreted as an integer"),
    "a bare exception": Exception("data did not match any variant of untagged enum ModelWrapper"),  # of tokenizers
    "no file": OSError("no file named model.safetensors"),
    "damaged tensors": SafetensorError("Error while deserializing header: header too large"),
    "no module": ImportError("sentencepiece is not installed"),
    "no memory": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"),
}
WORKER_ERRORS = {
    "no more processes": os_error(errno.EAGAIN),
    "no memory": os_error(errno.ENOMEM),
    "no memory for Python": MemoryError(),
    "a full disk": os_error(errno.ENOSPC),
}


@dataclass(frozen=True)
class Edge:
    """A place where another library is called.

    Attributes:
        target: What is replaced by something that raises.
        act: What the user does.
        place: What the message begins with.
    """

    target: str
    act: Callable[[Path], object]
    place: str
    errors: dict[str, Exception]


def esm2(world: Path) -> object:
    weights = str(world / "esm" / "esm2_t6_8M_UR50D.pt")
    return load_backbone("esm:esm2_t6_8M_UR50D", modality="protein", weights=weights)


def text_model(world: Path) -> object:
    weights = str(world / "text" / "tiny-sentence")
    return load_backbone("sentence-transformers:all-MiniLM-L6-v2", modality="caption", weights=weights)


EDGES = {
    "a TOML file": Edge("pathlib.Path.read_bytes", lambda w: read_toml(w / "recipe.toml"), "{w}/recipe", FILE_ERRORS),
    "dataset.json": Edge("pathlib.Path.read_bytes", lambda w: open_dataset(w / "data"), "{w}/data", FILE_ERRORS),
    "config.json": Edge("pathlib.Path.read_bytes", lambda w: load_model(w / "run"), "{w}/run", FILE_ERRORS),
    "embeddings.json": Edge("pathlib.Path.read_bytes", lambda w: open_embeddings(w / "emb"), "{w}/emb", FILE_ERRORS),
    "a shard of a DATASET": Edge(
        "pyarrow.parquet.read_table",
        lambda w: open_dataset(w / "data").table("protein"),
        "{w}/data/protein",
        ARROW_ERRORS,
    ),
    "known pairs": Edge(
        "pyarrow.parquet.read_table", lambda w: open_dataset(w / "data").pairs(), "{w}/data/pairs", ARROW_ERRORS
    ),
    "a shard of EMBEDDINGS": Edge(
        "pyarrow.parquet.read_table",
        lambda w: open_embeddings(w / "emb").load("protein"),
        "{w}/emb/protein",
        ARROW_ERRORS,
    ),
    "a shard that is searched": Edge(
        "pyarrow.parquet.ParquetFile",
        lambda w: [list(open_embeddings(w / "emb").blocks(s)) for s in open_embeddings(w / "emb").shards("protein")],
        "{w}/emb/protein",
        ARROW_ERRORS,
    ),
    "a checkpoint": Edge("torch.load", esm2, "{w}/esm", TORCH_ERRORS),
    "the model of a checkpoint": Edge("setclip_cli.backbones.esm2.Esm2", esm2, "{w}/esm", MODEL_ERRORS),
    "a text model": Edge("setclip_cli.backbones.sentence.SentenceTransformer", text_model, "{w}/text", MODEL_ERRORS),
    "the tensors of a RUN": Edge(
        "setclip_cli.run.checkpoint.safe_open",
        lambda w: load_model(w / "run"),
        "{w}/run/model.safetensors",
        MODEL_ERRORS | {"no permission": os_error(errno.EACCES)},
    ),
    "the encoders of a RUN": Edge(
        "setclip_cli.run.model.encoder_from_description",
        lambda w: load_model(w / "run"),
        "{w}/run/model.safetensors",
        {key: MODEL_ERRORS[key] for key in ("other shapes", "an odd type", "no memory")},
    ),
}


def raising(error: Exception) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call


def checked(caught: SetClipError, place: str, error: Exception, name: str) -> None:
    assert caught.exit_code in (2, 3)
    assert caught.problem.startswith(place), caught.problem
    assert caught.fix
    assert caught.__cause__ is error
    assert ("memory" in caught.problem) == ("memory" in name), caught.problem


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_world(tmp_path_factory.mktemp("edges"))
    assert align(folder, folder / "run", "--set", "train.steps=2")[0] == 0
    run_ok("embed", folder / "run", folder / "data", "--out", folder / "emb")
    return folder


@pytest.mark.parametrize(
    ("edge", "name"), [(edge, name) for edge, found in EDGES.items() for name in found.errors], ids=str
)
def test_whatever_a_library_raises_becomes_a_message(
    edge: str, name: str, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = EDGES[edge]
    monkeypatch.setattr(found.target, raising(found.errors[name]))
    with pytest.raises(SetClipError) as caught:
        found.act(world)
    checked(caught.value, found.place.format(w=world), found.errors[name], name)


class Pool:
    """A pool of processes that fails when a job is given to it, or when the job's result is asked for."""

    _processes = None

    def __init__(self, submit: Exception | None, result: Exception | None) -> None:
        self._submit, self._result = submit, result

    def submit(self, *_: Any) -> Future[Any]:
        if self._submit:
            raise self._submit
        future: Future[Any] = Future()
        future.set_exception(self._result)
        return future

    def shutdown(self, **_: Any) -> None: ...


@pytest.mark.parametrize("name", WORKER_ERRORS)
def test_a_worker_that_cannot_be_started_becomes_a_message(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error = WORKER_ERRORS[name]
    monkeypatch.setattr(processes, "ProcessPoolExecutor", lambda *_: Pool(error, None))
    with pytest.raises(SetClipError) as caught:
        list(engines.run_locally(str, [1, 2], device="cpu", workers=2))
    checked(caught.value, "a worker process", error, name)


def test_a_killed_worker_becomes_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = BrokenProcessPool("A process in the process pool was terminated abruptly")
    monkeypatch.setattr(processes, "ProcessPoolExecutor", lambda *_: Pool(None, killed))
    with pytest.raises(SetClipError, match="a worker process was killed, most likely because memory ran out"):
        list(engines.run_locally(str, [1, 2], device="cpu", workers=2))


def test_a_bug_in_a_worker_stays_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = ray(raising(RayTaskError(ZeroDivisionError())))
    monkeypatch.setattr(on_cluster.importlib, "import_module", lambda _: cluster)
    with pytest.raises(RayTaskError):
        list(engines.run_on_ray(str, [1], device="cpu"))


class RayError(Exception):
    """What all of Ray's own errors are."""


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        super().__init__()
        self.cause = cause


def ray(get: Callable[..., Any], init: Callable[..., Any] = lambda **_: None) -> SimpleNamespace:
    """As much of Ray as the engine uses."""

    def remote(**_: Any) -> Callable[..., Any]:
        return lambda task: SimpleNamespace(remote=lambda job: (task, job))

    return SimpleNamespace(
        is_initialized=lambda: False,
        init=init,
        cluster_resources=dict,
        remote=remote,
        get=get,
        wait=lambda pending: (pending[:1], pending[1:]),
        cancel=lambda *_, **__: None,
        exceptions=SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError),
    )


@pytest.mark.parametrize(
    ("cluster", "says"),
    [
        (ray(raising(RayError("The node died."))), "was lost 4 times (The node died.)"),
        (ray(raising(RayTaskError(MemoryError()))), "too little free memory"),
        (ray(raising(RayTaskError(os_error(errno.ENOSPC)))), "the disk is full"),
        (ray(raising(RayTaskError(SetClipError("ours", fix="of ours")))), "ours"),
        (ray(str, init=raising(ConnectionError("no cluster"))), "cannot be started or reached (no cluster)"),
        (ray(str, init=raising(ValueError("Malformed address"))), "cannot be started or reached (Malformed address)"),
    ],
)
def test_what_ray_raises_becomes_a_message(
    cluster: SimpleNamespace, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_cluster.importlib, "import_module", lambda _: cluster)
    with pytest.raises(SetClipError) as caught:
        list(engines.run_on_ray(str, [1], device="cpu"))
    assert says in caught.value.problem
    assert caught.value.fix


@pytest.mark.parametrize(
    "error", [*MODEL_ERRORS.values(), ConnectionError("refused"), TimeoutError(), zipfile.BadZipFile("x")], ids=repr
)
def test_what_the_hub_raises_becomes_a_message_with_the_ways(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fetch._FETCHERS, "esm", raising(error))
    location = fetch_location()
    with pytest.raises(SetClipError) as caught:
        fetch.fetch_weights(location)
    assert caught.value.problem.startswith("weights of esm:")
    memory = "memory" in str(error)
    assert ("too little free memory" in caught.value.problem) == memory
    assert ("one of: " in caught.value.fix) == (not memory)


def fetch_location() -> Any:
    from setclip_cli.backbones.weights import Location, Spec

    return Location(Spec("esm", "esm2_t6_8M_UR50D"), "hub", None, ("local cache: not there",), ("copy it",))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.ENOTDIR, errno.ENAMETOOLONG])
def test_a_cache_that_cannot_be_used_is_named(number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.TemporaryFile", raising(os_error(number)))
    with pytest.raises(SetClipError) as caught:
        cache_folder()
    assert "SETCLIP_CACHE" in str(caught.value)
    assert caught.value.exit_code in (2, 3)


def test_a_cache_that_is_a_file_is_a_message_in_every_command(
    world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SETCLIP_CACHE", str(tmp_path / "file"))
    for code, _, stderr in (
        invoke("search", world / "emb", "a kinase"),
        align(world, tmp_path / "run"),
        invoke(
            *("evaluate", world / "run", world / "data", "--out", tmp_path / "report"),
            *("--split", "train", "--relevance", "pairs"),
        ),
    ):
        assert code in (2, 3)
        assert "SETCLIP_CACHE" in stderr
        assert "fix: " in stderr


def test_weights_that_are_not_finite_are_not_saved(world: Path, tmp_path: Path) -> None:
    from setclip_cli.run.model import save_model

    model = load_model(world / "run")
    with torch.no_grad():
        next(iter(model.encoders["protein"].parameters()))[0] = torch.nan
    with pytest.raises(SetClipError, match=r"model.safetensors: is not written, since protein\..* not finite"):
        save_model(tmp_path, model.config, model.encoders, model.initial)
    assert not (tmp_path / "config.json").exists()
    assert not (tmp_path / "model.safetensors").exists()
