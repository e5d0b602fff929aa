"""Data manifests: one TOML for each public source. Where it is, what it may be used for, and how it is read.

Unknown is written as unknown: a file without a published size or hash says why in ``unknown``, and a source without
a stated licence has ``licence = "unknown"`` with a ``licence_note``.
"""

from __future__ import annotations

import re
import tomllib
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from setclip_cli import console
from setclip_cli.dataset.modality import Modality  # pydantic reads the annotation when the class is made
from setclip_cli.errors import ExitCode, SetClipError
from setclip_cli.files import atomic
from setclip_cli.files.cache import cache_folder
from setclip_cli.files.download import Wanted, fetch_all, verify
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import sha256_of
from setclip_cli.ingest.sources.archive import unsafe_name
from setclip_cli.ingest.sources.base import ReadOptions

if TYPE_CHECKING:
    from setclip_cli.ingest.result import IngestResult

MAX_MEMBER_BYTES = 2 << 30
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MD5 = re.compile(r"[0-9a-f]{32}")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SourceFile(_Section):
    """One published file."""

    name: str
    urls: list[str] = []
    bytes: int | None = Field(default=None, ge=0)
    sha256: str | None = None
    md5: str | None = None
    unknown: str | None = None  # why there is no size or no sha256

    @model_validator(mode="after")
    def _check(self) -> Self:
        if unsafe_name(self.name) or "/" in self.name or not self.name:
            raise ValueError(f"name {self.name!r} is no plain file name")
        for url in self.urls:
            if not url.startswith(("https://", "http://")):
                raise ValueError(f"url {url!r} is neither https nor http")
        for value, shape, kind in ((self.sha256, _SHA256, "sha256"), (self.md5, _MD5, "md5")):
            if value is not None and not shape.fullmatch(value):
                raise ValueError(f"{kind} {value!r} is not lower-case hex of its length")
        if (self.bytes is None or self.sha256 is None) != (self.unknown is not None):
            raise ValueError("'unknown' says why bytes or sha256 is missing, and stands only where one is")
        return self


class Part(_Section):
    """How one file becomes rows."""

    file: str  # the name of one of the files
    member: str | None = None  # of a zip: read this one member
    modality: Modality
    options: dict[str, Any] = {}  # of ReadOptions
    split: str | None = None  # for this part alone
    rows: int | None = Field(default=None, ge=1)  # records expected to be read, bad ones and repeats included

    @model_validator(mode="after")
    def _check(self) -> Self:
        if unknown := sorted(set(self.options) - set(ReadOptions.__dataclass_fields__)):
            raise ValueError(f"no such option: {', '.join(unknown)}")
        return self


class Manifest(_Section):
    """A public source of data."""

    schema_version: Literal[1]
    title: str
    homepage: str
    paper: str
    licence: str
    licence_note: str | None = None
    obtain: str | None = None  # what to do where there is no address to fetch from
    split: str = "auto"
    pairs_from_group: bool = False
    files: list[SourceFile] = Field(min_length=1)
    parts: list[Part] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [file.name for file in self.files]
        for part in self.parts:
            if part.file not in names:
                raise ValueError(f"part reads {part.file!r}, which is none of the files: {', '.join(names)}")
        if len(set(names)) < len(names):
            raise ValueError("two files have the same name")
        if any(not file.urls for file in self.files) and not self.obtain:
            raise ValueError("'obtain' says how to get the files that have no url")
        if self.licence == "unknown" and not self.licence_note:
            raise ValueError("'licence_note' says why the licence is unknown")
        return self


def load_manifest(path: Path) -> Manifest:
    """Reads a manifest.

    Raises:
        SetClipError: unreadable, no TOML, or not of this form; all mistakes at once.
    """
    try:
        return Manifest.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SetClipError(f"{path}: {error.strerror}", fix="see data_manifests/ for those that come along") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SetClipError(f"{path}: no TOML ({error})", fix="mend the file", exit_code=ExitCode.USAGE) from error
    except ValidationError as error:
        mistakes = "; ".join(
            f"{'.'.join(map(str, mistake['loc'])) or 'manifest'}: {mistake['msg']}" for mistake in error.errors()
        )
        raise SetClipError(
            f"{path}: {mistakes}", fix="see data_manifests/eurosat.toml for the form", exit_code=ExitCode.USAGE
        ) from error


def downloads_folder(path: Path) -> Path:
    """Where a manifest's files are kept: ``downloads/<name>`` in ``$SETCLIP_CACHE``, else in ``~/.cache/setclip``."""
    return cache_folder() / "downloads" / path.stem


def ingest_manifest(
    path: Path,
    *,
    out: Path,
    from_folder: Path | None = None,
    split: str | None = None,
    pairs: Path | int | None = None,
    pairs_from_group: bool = False,
    **others: Any,
) -> IngestResult:
    """Fetches and verifies what a manifest names, reads it, and records the manifest in dataset.json.

    Args:
        path: The manifest.
        out: The DATASET folder.
        from_folder: Take the files from here and fetch nothing.
        split: Instead of what the manifest says.
        pairs: As for ``ingest``, after the last part.
        pairs_from_group: As for ``ingest``, after the last part; a manifest may ask for it too.
        **others: Of ``ingest``, for every part.

    Raises:
        SetClipError: as ``load_manifest``, ``fetch_all`` and ``ingest`` do.
    """
    manifest = load_manifest(path)
    folder = _obtained(path, manifest, from_folder)
    record = {"name": path.name, "sha256": sha256_of(path), **manifest.model_dump(mode="json", exclude_none=True)}
    result: IngestResult | None = None
    for number, part in enumerate(manifest.parts, 1):
        last = number == len(manifest.parts)
        result = ingest(
            [_source(folder, part, downloads_folder(path))],
            modality=part.modality,
            out=out,
            split=split or part.split or manifest.split,
            read=ReadOptions(**part.options),
            pairs=pairs if last else None,
            pairs_from_group=last and (pairs_from_group or manifest.pairs_from_group),
            manifest=record,
            **others,
        )
        for entry in result.new:
            if part.rows is not None and entry["read"] != part.rows:
                console.note(f"{part.file}: {entry['read']:,} records read, the manifest expects {part.rows:,}")
    assert result is not None  # a manifest has at least one part
    return result


def _obtained(path: Path, manifest: Manifest, from_folder: Path | None) -> Path:
    wanted = [Wanted(file.name, tuple(file.urls), file.bytes, file.sha256, file.md5) for file in manifest.files]
    folder = from_folder or downloads_folder(path)
    missing = [file for file in wanted if not (folder / file.name).is_file() and (from_folder or not file.urls)]
    if missing:
        names = ", ".join(file.name for file in missing)
        how = manifest.obtain or f"fetch {', '.join(url for file in missing for url in file.urls[:1])}"
        raise SetClipError(
            f"{folder}: {names} not there" + ("" if from_folder else ", and no address to fetch from is known"),
            fix=f"{how}; put the files in a folder and pass --from FOLDER",
        )
    if from_folder is None:
        fetch_all(wanted, folder)
    else:
        for file in wanted:
            verify(file, folder / file.name, remember=False)  # the folder is the user's
    return folder


def _source(folder: Path, part: Part, ours: Path) -> Path:
    """The path to read: the file, or the one member of it, unpacked into a folder of ours."""
    archive = folder / part.file
    if part.member is None:
        return archive
    if reason := unsafe_name(part.member):
        raise SetClipError(f"{part.member}: {reason}", fix="name a member below the archive's root")
    target = ours / f"{part.file}.unpacked" / PurePosixPath(part.member).name
    try:
        with zipfile.ZipFile(archive) as opened:
            info = opened.getinfo(part.member)
            if info.file_size > MAX_MEMBER_BYTES:
                raise SetClipError(
                    f"{archive}: {part.member} would unpack to {info.file_size:,} bytes",
                    fix="unpack it yourself and ingest the file",
                )
            if not (target.is_file() and target.stat().st_size == info.file_size):
                with opened.open(info) as member, atomic.atomic_path(target) as temporary:
                    temporary.write_bytes(member.read(MAX_MEMBER_BYTES))
    except KeyError as error:
        raise SetClipError(f"{archive}: has no member {part.member}", fix="is it the published file?") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise SetClipError(f"{archive}: no readable zip ({error})", fix=f"rm {archive}, run again") from error
    return target
