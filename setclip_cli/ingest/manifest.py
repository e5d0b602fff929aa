"""Data manifests: a TOML file for each public source says where it is, what it may be used for, and how it is read.

A manifest says what is not known: ``unknown`` tells why a file has no published size or hash, and ``licence_note`` why
the licence of a source is "unknown".
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import fields, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from setclip_cli import console
from setclip_cli.dataset.modality import KINDS_OF_NAMES, USUAL_KINDS, Modality, RowKind, why_not_a_name
from setclip_cli.errors import SetClipError, argument, nearest
from setclip_cli.files import sealed
from setclip_cli.files.cache import cache_folder
from setclip_cli.files.documents import read_settings
from setclip_cli.files.download import Wanted, fetch_all, verify
from setclip_cli.ingest.build import build_dataset
from setclip_cli.ingest.labels import Labels, labels_by_modality
from setclip_cli.ingest.options import IngestOptions, ReadOptions, sha256_of
from setclip_cli.ingest.sources import open_source
from setclip_cli.ingest.sources.members import unsafe_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from setclip_cli.ingest.result import IngestResult
    from setclip_cli.ingest.sources.base import Source

MAX_MEMBER_BYTES = 2 << 30
_PART_OPTIONS = {field.name for field in fields(ReadOptions)} - {"modality", "kind"}
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
            raise ValueError(f"name {self.name!r} is not a plain file name")
        for url in self.urls:
            if not url.startswith(("https://", "http://")):
                raise ValueError(f"url {url!r} is neither https nor http")
        for value, shape, kind in ((self.sha256, _SHA256, "sha256"), (self.md5, _MD5, "md5")):
            if value is not None and not shape.fullmatch(value):
                raise ValueError(f"{kind} {value!r} must be lower-case hex digits, as many as a {kind} has")
        if (self.bytes is None or self.sha256 is None) != (self.unknown is not None):
            raise ValueError("'unknown' must say why bytes or sha256 is missing, and must not be there if neither is")
        return self


class Part(_Section):
    """How one file becomes rows."""

    file: str  # the name of one of the files
    member: str | None = None  # of a zip: read this one member
    modality: Modality
    kind: RowKind | None = None  # if the name of the modality does not say it
    options: dict[str, Any] = {}  # fields of ReadOptions
    split: str | None = None  # of this part only
    rows: int | None = Field(default=None, ge=1)  # expected number of records, bad ones and repeats included

    @model_validator(mode="after")
    def _check(self) -> Self:
        if unknown := sorted(set(self.options) - _PART_OPTIONS):
            raise ValueError(f"there is no option {', '.join(unknown)}")
        if reason := why_not_a_name(self.modality):
            raise ValueError(f"modality {self.modality!r} {reason}")
        if self.kind is None and self.modality not in [*KINDS_OF_NAMES, *USUAL_KINDS]:
            near = nearest(self.modality, [*KINDS_OF_NAMES, *USUAL_KINDS])
            raise ValueError(f"modality {self.modality!r}: there must be a key kind for this name{near}")
        return self


class Manifest(_Section):
    """A public source of data."""

    schema_version: Literal[1]
    title: str
    homepage: str
    paper: str
    licence: str
    licence_note: str | None = None
    obtain: str | None = None  # how to get the files that have no address
    split: str = "auto"
    pairs_from_group: bool = False
    files: list[SourceFile] = Field(min_length=1)
    parts: list[Part] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [file.name for file in self.files]
        for part in self.parts:
            if part.file not in names:
                raise ValueError(f"part reads {part.file!r}, which is not one of the files: {', '.join(names)}")
        if len(set(names)) < len(names):
            raise ValueError("two files have the same name")
        if any(not file.urls for file in self.files) and not self.obtain:
            raise ValueError("'obtain' must say how to get the files that have no url")
        if self.licence == "unknown" and not self.licence_note:
            raise ValueError("'licence_note' must say why the licence is unknown")
        return self


def load_manifest(path: Path) -> Manifest:
    """Reads a manifest.

    Raises:
        SetClipError: the file cannot be read, is not TOML, or has mistakes, which are all listed.
    """
    return read_settings(path, Manifest, fix="see `setclip manifests show eurosat` for the form")


def downloads_folder(path: Path) -> Path:
    """The folder for a manifest's files: ``downloads/<name>`` in the cache folder of setclip."""
    return cache_folder() / "downloads" / path.stem


class _Step(NamedTuple):
    """One part of a manifest, ready to be read."""

    part: Part
    source: Path
    options: IngestOptions
    record: dict[str, Any]  # the manifest, for dataset.json


def ingest_manifests(paths: Sequence[Path], out: Path, options: IngestOptions) -> IngestResult:
    """Fetches and verifies the files of manifests, reads their parts, and records the manifests in dataset.json.

    The modality of a part, and the options that the manifest gives it, come before those of ``options``; the split of
    ``options`` comes before that of the manifest. Pairs are added after the last part of each manifest. Labels are
    joined to all parts of one modality; it is enough if those of one modality match.

    Returns:
        What the last part gave.

    Raises:
        SetClipError: as ``load_manifest``, ``fetch_all`` and ``ingest`` do.
    """
    steps: Iterable[_Step] = (step for path in paths for step in _steps(path, options))
    labels: dict[Modality, Labels] = {}
    if options.labels is not None:
        steps = list(steps)
        sources: dict[Modality, list[Source]] = {}
        for step in steps:
            sources.setdefault(step.part.modality, []).append(open_source(step.source, step.options))
        labels = labels_by_modality(options.labels, sources)
    for part, source, part_options, record in steps:
        result = build_dataset([source], out, part_options, manifest=record, labels=labels.get(part.modality))
        for entry in result.new:
            if part.rows is not None and entry["read"] != part.rows:
                console.note(f"{part.file}: {entry['read']:,} records read, but the manifest says {part.rows:,}")
    return result


def _steps(path: Path, options: IngestOptions) -> Iterator[_Step]:
    manifest = load_manifest(path)
    folder = _obtained(path, manifest, options)
    record = {"name": path.name, "sha256": sha256_of(path), **manifest.model_dump(mode="json", exclude_none=True)}
    for number, part in enumerate(manifest.parts, 1):
        last = number == len(manifest.parts)
        part_options = replace(
            options,
            modality=part.modality,
            kind=part.kind,
            split=options.split or part.split or manifest.split,
            pairs=options.pairs if last else None,
            pairs_from_group=last and (options.pairs_from_group or manifest.pairs_from_group),
            **part.options,
        )
        yield _Step(part, _source(folder, part, downloads_folder(path)), part_options, record)


def _obtained(path: Path, manifest: Manifest, options: IngestOptions) -> Path:
    from_folder = None if options.from_folder is None else Path(options.from_folder)
    wanted = [Wanted(file.name, tuple(file.urls), file.bytes, file.sha256, file.md5) for file in manifest.files]
    folder = from_folder or downloads_folder(path)
    missing = [file for file in wanted if not (folder / file.name).is_file() and (from_folder or not file.urls)]
    if missing:
        names = ", ".join(file.name for file in missing)
        how = manifest.obtain or f"download {', '.join(url for file in missing for url in file.urls[:1])}"
        raise SetClipError(
            f"{folder}: {names}: not there" + ("" if from_folder else ", and the manifest has no address for it"),
            fix=f"{how}; put the files into a folder and give it as {argument('from_folder', '--from')}",
        )
    if from_folder is None:
        fetch_all(wanted, folder, max_bytes=options.max_bytes)
    else:
        for file in wanted:
            verify(file, folder / file.name, remember=False)  # write nothing into the user's folder
    return folder


def _source(folder: Path, part: Part, ours: Path) -> Path:
    """The path to read: the file, or its one member, which is unpacked into the folder ``ours``."""
    archive = folder / part.file
    if part.member is None:
        return archive
    if reason := unsafe_name(part.member):
        raise SetClipError(f"{part.member}: {reason}", fix=f"correct 'member' of {part.file} in the manifest")
    target = ours / f"{part.file}.unpacked" / PurePosixPath(part.member).name
    try:
        with zipfile.ZipFile(archive) as opened:
            info = opened.getinfo(part.member)
            if info.file_size > MAX_MEMBER_BYTES:
                raise SetClipError(
                    f"{archive}: {part.member} would be {info.file_size:,} bytes when unpacked",
                    fix="unpack it yourself and ingest the member as a file",
                )
            if not (sealed.is_whole(target) and target.stat().st_size == info.file_size):
                with opened.open(info) as member, sealed.writing(target) as temporary:
                    temporary.write_bytes(member.read(MAX_MEMBER_BYTES))
    except KeyError as error:
        raise SetClipError(
            f"{archive}: has no member {part.member}",
            fix="check that it is the file that the manifest describes",
        ) from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise SetClipError(
            f"{archive}: is not a zip archive that can be read ({error})", fix="remove it, and get the file again"
        ) from error
    return target
