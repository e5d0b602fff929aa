"""The two files of the protein quickstart: downloads that go wrong, folders that lack a file, and what is said then."""

from __future__ import annotations

import gzip
import io
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from loopback import Server
from swiss_prot_file import PROTEINS, WEIGHTS, entries, entry, packed
from tiny import esm2_checkpoint

from setclip_cli.errors import SetClipError
from setclip_cli.files.shipped import find
from setclip_cli.ingest.manifest import load_manifest
from setclip_cli.quickstart import protein_files
from setclip_cli.quickstart.options import QuickstartOptions
from setclip_cli.quickstart.quickstart import QuickstartResult, quickstart

HTML = b"<!doctype html><html><body>Please log in</body></html>"


def run(out: Path, from_folder: Path | None = None) -> QuickstartResult:
    return quickstart(out, QuickstartOptions(domain="proteins", from_folder=from_folder))


def refused(out: Path, from_folder: Path | None = None) -> tuple[str, str]:
    """Problem and fix, as the command prints them."""
    with pytest.raises(SetClipError) as caught:
        run(out, from_folder)
    return caught.value.for_command_line()


def in_folder(folder: Path, contents: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("absent", [(WEIGHTS,), (PROTEINS,), (WEIGHTS, PROTEINS)])
def test_without_a_network_one_message_names_all_files_and_where_they_are(
    online: Server, published: dict[str, bytes], tmp_path: Path, absent: tuple[str, ...]
) -> None:
    online.files = {f"/{name}": content for name, content in published.items() if name not in absent}
    if WEIGHTS not in absent:
        with pytest.raises(SetClipError):
            run(tmp_path / "first")  # the weights are here then
    with pytest.raises(SetClipError) as caught:
        run(tmp_path / "out")
    problem, fix = caught.value.for_command_line()
    missing = absent if WEIGHTS not in absent else (WEIGHTS, PROTEINS)  # nothing was tried after the first failure
    for name in (WEIGHTS, PROTEINS):
        assert (name in fix) == (name in missing)
    assert problem.startswith(f"the quickstart of proteins needs {' and '.join(missing)}, which ")
    assert f"{online.url}/{WEIGHTS}" in fix or WEIGHTS not in missing
    assert "/uniprot_sprot.dat.gz" in fix
    assert "--from" in fix


def test_a_folder_without_the_files_names_them(online: Server, published: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / WEIGHTS).write_bytes(published[WEIGHTS])
    with pytest.raises(SetClipError, match=r"uniprot_sprot\.dat\.gz is not in this folder") as caught:
        run(tmp_path / "out", tmp_path)
    assert WEIGHTS not in caught.value.fix
    assert caught.value.fix.startswith(f"put {PROTEINS} from ")
    assert "same command" not in caught.value.fix, "with --from it never downloads"
    assert online.asked == []


def test_a_server_that_fails_and_comes_back_is_asked_again(online: Server, small: None, tmp_path: Path) -> None:
    online.failures.update({f"/{WEIGHTS}": 2, f"/{PROTEINS}": 3})
    assert run(tmp_path / "out").report.out.is_dir()


def test_a_server_that_always_fails_is_told_with_its_answer(online: Server, tmp_path: Path) -> None:
    online.failures.update({f"/{WEIGHTS}": 1000})
    problem, fix = refused(tmp_path / "out")
    assert "HTTP 503" in problem
    assert WEIGHTS in fix
    assert PROTEINS in fix


def test_a_download_that_breaks_off_goes_on_with_the_same_command(online: Server, small: None, tmp_path: Path) -> None:
    online.break_after, online.ranges = 9000, False
    problem, _ = refused(tmp_path / "out")
    assert "the transfer stopped at 9,000 of" in problem
    online.break_after, online.ranges = 10**9, True
    online.asked.clear()
    assert run(tmp_path / "out").report.out.is_dir()
    assert (f"/{WEIGHTS}", "bytes=9000-") in online.asked


@pytest.mark.parametrize("content", [HTML, b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"])
def test_a_page_in_place_of_the_weights_is_not_kept(online: Server, tmp_path: Path, content: bytes) -> None:
    online.files[f"/{WEIGHTS}"] = content
    problem, fix = refused(tmp_path / "out")
    assert "arrived damaged" in problem
    assert WEIGHTS in fix
    assert not list(tmp_path.rglob(WEIGHTS))


def test_weights_that_were_cut_before_they_were_published_are_not_kept(
    online: Server, published: dict[str, bytes], tmp_path: Path
) -> None:
    online.files[f"/{WEIGHTS}"] = published[WEIGHTS][:-2000]
    assert "arrived damaged" in refused(tmp_path / "out")[0]
    assert not list(tmp_path.rglob(WEIGHTS))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (HTML, "is an HTML page"),
        (packed(entries(300))[:-500], "is cut short or damaged"),
        (gzip.compress(b""), "0 of its 0 entries can be used"),
        (packed([entry(f"P{number:05d}", "MKVLAAGIVG" * 5, None) for number in range(60)]), "without a text about"),
        (b"".join(packed([one]) for one in entries(300))[:-40], "is cut short or damaged"),
    ],
    ids=["a page", "cut", "empty", "no texts", "cut in the last member"],  # packed files differ from second to second
)
def test_a_swiss_prot_that_cannot_be_used_is_named_and_the_fix_helps(
    online: Server, small: None, published: dict[str, bytes], tmp_path: Path, content: bytes, words: str
) -> None:
    online.files[f"/{PROTEINS}"] = content
    problem, fix = refused(tmp_path / "out")
    kept = tmp_path / "cache/downloads/swiss_prot" / PROTEINS
    assert words in problem
    assert fix == f"rm {kept}, then run the same command again"
    kept.unlink()
    online.files[f"/{PROTEINS}"] = published[PROTEINS]
    assert run(tmp_path / "out").report.out.is_dir()


def test_what_a_user_brought_is_not_called_ours(online: Server, published: dict[str, bytes], tmp_path: Path) -> None:
    brought = in_folder(tmp_path / "brought", published | {PROTEINS: published[PROTEINS][:-500]})
    problem, fix = refused(tmp_path / "out", brought)
    assert problem.startswith(f"{brought / PROTEINS}: is cut short")
    assert "rm " not in fix


def test_weights_that_a_user_brought_damaged_are_refused_before_anything_is_read(
    online: Server, published: dict[str, bytes], tmp_path: Path
) -> None:
    brought = in_folder(tmp_path / "brought", published | {WEIGHTS: published[WEIGHTS][:-500]})
    assert refused(tmp_path / "out", brought)[0].startswith(f"{brought / WEIGHTS}: is damaged")
    assert not (tmp_path / "torch").exists()


def not_weights() -> bytes:
    """A whole file of torch.save, with its own checksums, that is no ESM-2."""
    file = io.BytesIO()
    torch.save({"model": {"weight": torch.zeros(3)}}, file)
    return file.getvalue()


@pytest.mark.parametrize("content", [b"\x80\x02abc" * 100, not_weights()], ids=["no checkpoint", "another model"])
def test_weights_that_a_user_brought_are_kept_only_if_they_load_and_better_ones_then_help(
    online: Server, small: None, published: dict[str, bytes], tmp_path: Path, content: bytes
) -> None:
    brought = in_folder(tmp_path / "brought", published | {WEIGHTS: content})
    assert refused(tmp_path / "out", brought)[0].startswith(f"{brought / WEIGHTS}: ")
    assert not list((tmp_path / "torch").rglob(WEIGHTS))
    (brought / WEIGHTS).write_bytes(published[WEIGHTS])
    assert run(tmp_path / "out", brought).report.out.is_dir()


def in_cache(root: Path, content: bytes) -> Path:
    cached = root / "torch/hub/checkpoints" / WEIGHTS
    cached.parent.mkdir(parents=True)
    cached.write_bytes(content)
    return cached


def test_weights_that_a_user_brought_take_the_place_of_broken_ones(
    online: Server, small: None, published: dict[str, bytes], tmp_path: Path
) -> None:
    cached = in_cache(tmp_path, published[WEIGHTS][:-500])
    only_swiss_prot = in_folder(tmp_path / "less", {PROTEINS: published[PROTEINS]})
    problem, fix = refused(tmp_path / "out", only_swiss_prot)
    assert problem.startswith(f"{cached}: ")
    assert fix.startswith(f"put {WEIGHTS} from ")
    (only_swiss_prot / WEIGHTS).write_bytes(published[WEIGHTS])
    assert run(tmp_path / "out", only_swiss_prot).report.out.is_dir()
    assert cached.read_bytes() == published[WEIGHTS]


def test_broken_weights_on_this_machine_are_named_with_what_removes_them(
    online: Server, small: None, published: dict[str, bytes], tmp_path: Path
) -> None:
    cached = in_cache(tmp_path, published[WEIGHTS][:-500])
    problem, fix = refused(tmp_path / "out")
    assert problem.startswith(f"{cached}: ")
    assert fix == f"rm {cached}, then run the same command again"
    cached.unlink()
    assert run(tmp_path / "out").report.out.is_dir()


def test_other_weights_than_those_of_this_machine_are_not_passed_over(
    online: Server, small: None, published: dict[str, bytes], tmp_path: Path
) -> None:
    cached = in_cache(tmp_path, esm2_checkpoint(tmp_path / "other", layers=3).read_bytes())
    brought = in_folder(tmp_path / "brought", published)
    problem, fix = refused(tmp_path / "out", brought)
    assert problem == f"{brought / WEIGHTS}: holds other weights than {cached}, which every command takes"
    assert fix.startswith("remove one of the two")
    cached.unlink()
    assert run(tmp_path / "out", brought).report.out.is_dir()
    assert cached.read_bytes() == published[WEIGHTS]


def test_a_file_that_was_unpacked_is_found_too(
    online: Server, small: None, published: dict[str, bytes], tmp_path: Path
) -> None:
    unpacked = {WEIGHTS: published[WEIGHTS], PROTEINS.removesuffix(".gz"): gzip.decompress(published[PROTEINS])}
    assert run(tmp_path / "out", in_folder(tmp_path / "brought", unpacked)).report.out.is_dir()


def test_a_folder_that_is_not_there_is_named(online: Server, tmp_path: Path) -> None:
    assert refused(tmp_path / "out", tmp_path / "nowhere")[0] == f"{tmp_path / 'nowhere'}: is not a folder"


@pytest.mark.parametrize("brought", [False, True])
def test_a_wrong_checksum_is_told(
    online: Server, published: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, brought: bool
) -> None:
    manifest = load_manifest(find("manifests", "swiss_prot"))
    file = manifest.files[0].model_copy(update={"sha256": "0" * 64})
    monkeypatch.setattr(protein_files, "load_manifest", lambda _: manifest.model_copy(update={"files": [file]}))
    folder = in_folder(tmp_path / "brought", published) if brought else None
    assert f"{'0' * 64} was published" in refused(tmp_path / "out", folder)[0]


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """As on a full disk: no file can grow over a size."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


@pytest.mark.parametrize("brought", [False, True])
def test_a_full_disk_is_one_message_and_the_same_command_goes_on(
    online: Server, small: None, published: dict[str, bytes], tmp_path: Path, brought: bool
) -> None:
    folder = in_folder(tmp_path / "brought", published) if brought else None
    with small_files(3000):
        problem, fix = refused(tmp_path / "out", folder)
    assert "a file may not be so large here" in problem or "the disk is full" in problem
    assert "TORCH_HOME can name another folder" in fix
    assert run(tmp_path / "out", folder).report.out.is_dir()
