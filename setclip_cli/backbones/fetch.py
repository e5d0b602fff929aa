"""Downloads a backbone's weights into the local cache, where `weights` finds them the next time."""

from __future__ import annotations

import errno
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from setclip_cli.backbones.weights import esm_cache, esm_url, text_repository, timm_source
from setclip_cli.errors import SetClipError, cause_of, first_line
from setclip_cli.files.download import Wanted, fetch_all
from setclip_cli.files.recognize import EMPTY, EMPTY_ZIP, HTML_PAGE, LFS_POINTER, ZIP, head_of, recognize
from setclip_cli.files.write_errors import WriteError, write_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from setclip_cli.backbones.weights import Kind, Location, Spec

HUB_TIMEOUT_S = 5
MAX_WEIGHTS_BYTES = 100_000_000_000
_TEXT_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]  # of a sentence-transformers repository


def fetch_weights(location: Location) -> Path:
    """The file or folder of the weights. If they are only on the hub, they are downloaded into the local cache.

    Raises:
        SetClipError: the hub cannot be reached or does not have them. The message names every place that was tried.
    """
    if location.path is not None:
        return location.path
    spec = location.spec
    try:
        return _FETCHERS[spec.kind](spec)
    except WriteError:
        raise
    except Exception as error:  # what the hub's client raises has no common type
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            from huggingface_hub import constants

            cannot = write_error(Path(constants.HF_HUB_CACHE), error)
            raise cannot.with_fix("HF_HOME can name another folder") from error
        said = error.problem if isinstance(error, SetClipError) else first_line(error)
        if cause := cause_of(error):
            raise SetClipError(f"weights of {spec}: {cause[0]}", fix=cause[1]) from error
        tried = [*location.tried, f"hub: {said}"]
        raise SetClipError(
            f"weights of {spec}: not found; tried " + "; ".join(tried), fix="one of: " + "; ".join(location.ways)
        ) from error


def _fetch_esm(spec: Spec) -> Path:
    return _fetch_checkpoint(f"{esm_url()}/{spec.name}.pt")


def _fetch_checkpoint(url: str) -> Path:
    """Downloads into torch.hub's folder. No hash is published, but a checkpoint is a zip file with its own checksums.

    Raises:
        SetClipError: the address cannot be reached; the next try continues what was downloaded.
        ValueError: the finished file is damaged; it is removed.
    """
    file = Wanted(url.rsplit("/", 1)[-1], (url,))
    [path] = fetch_all([file], esm_cache(), setting="TORCH_HOME", max_bytes=MAX_WEIGHTS_BYTES)
    if (damage := _damage(path)) is not None:
        path.unlink()
        raise ValueError(f"{url} arrived damaged ({damage})")
    return path


def check_checkpoint(path: Path) -> None:
    """Checks a checkpoint that a user has brought, by its own checksums.

    Raises:
        SetClipError: it is damaged, or is no checkpoint.
    """
    if (damage := _damage(path)) is not None:
        raise SetClipError(f"{path}: is damaged ({damage})", fix="download or copy it again")


def _damage(path: Path) -> str | None:
    """What is wrong with a file of weights; None if nothing is."""
    found = recognize(head_of(path))
    if found in (EMPTY, HTML_PAGE, LFS_POINTER):
        return f"it is {found.what}"
    try:
        if found in (ZIP, EMPTY_ZIP):  # a file that was cut short begins like one, and has no end
            with zipfile.ZipFile(path) as archive:
                broken = archive.testzip()
                return broken and f"{broken} in it has changed"
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        return first_line(error)
    return None


def _fetch_timm(spec: Spec) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    repository, url, filenames = timm_source(spec.name)
    if repository is None:
        if url is None:
            raise ValueError("timm does not say where these weights are")
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
    """Fails in seconds if the hub cannot be reached; its own client would retry for a minute."""
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
