"""Videos are decoded in other processes, whose end costs one file."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from rendered_videos import even, render

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.errors import SetClipError
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions
from setclip_cli.pixels import video_decoders
from setclip_cli.pixels.video import UnusableVideoError, sample_video
from setclip_cli.pixels.video_decoders import Decoders

pytest.importorskip("av")

# In place of a file that crashes FFmpeg: what its name tells the process to do before it decodes.
STRANGE = """
import sys; sys.path[:] = sys.argv[1:]
import os, signal, time
from setclip_cli.pixels import video_decoders
plain = video_decoders.sample_video
def strange(path, count, **more):
    print("what a library says")
    once = path.with_suffix(".seen")
    if path.stem.startswith("crash") or (path.stem.startswith("once") and not once.exists()):
        once.touch()
        os.kill(os.getpid(), getattr(signal, path.stem.partition("-")[2]))
    if path.stem == "slow":
        time.sleep(600)
    return plain(path, count, **more)
video_decoders.sample_video = strange
video_decoders.answer()
"""


@pytest.fixture
def strange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_decoders, "_PROGRAM", STRANGE)


Children = Callable[[], list[psutil.Process]]


@pytest.fixture
def children() -> Children:
    """The processes that this one has started since the test began, and has not waited for."""
    before = psutil.Process().children()
    return lambda: [child for child in psutil.Process().children() if child not in before]


def test_frames_and_reasons_are_those_of_this_process(tmp_path: Path, children: Children) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(99))
    clip = render(tmp_path / os.fsdecode(b"a\xff b.mp4"), times=even(20))
    with Decoders() as decoders:
        for _ in range(2):
            assert decoders.sample(clip, 4) == sample_video(clip, 4)
            with pytest.raises(UnusableVideoError) as apart:
                decoders.sample(tmp_path / "broken.mp4", 4)
            with pytest.raises(UnusableVideoError) as here:
                sample_video(tmp_path / "broken.mp4", 4)
            assert str(apart.value) == str(here.value)
        assert len(children()) == 1
    assert children() == []


@pytest.mark.usefixtures("strange")
@pytest.mark.parametrize("workers", [1, 3])
def test_a_file_that_ends_its_process_is_a_reject_and_the_others_are_rows(
    tmp_path: Path, workers: int, children: Children
) -> None:
    names = ("a", "b", "crash-SIGABRT", "crash-SIGKILL", "crash-SIGSEGV", "once-SIGSEGV")
    for number, name in enumerate(names):
        render(tmp_path / "clips" / f"{name}.mp4", times=even(5 + number))
    ingest([tmp_path / "clips"], tmp_path / "data", IngestOptions(modality="video", frames=2, workers=workers))
    found = open_dataset(tmp_path / "data")
    assert found.table("video")["id"].to_pylist() == ["a.mp4", "b.mp4", "once-SIGSEGV.mp4"]
    rejects = pq.read_table(tmp_path / "data" / "rejects.parquet").to_pylist()
    assert [(each["location"], "crashed" in each["reason"]) for each in rejects] == [
        ("crash-SIGABRT.mp4", True),
        ("crash-SIGKILL.mp4", False),
        ("crash-SIGSEGV.mp4", True),
    ]
    assert children() == []


@pytest.mark.usefixtures("strange")
def test_how_a_process_ended_is_said(tmp_path: Path) -> None:
    with Decoders() as decoders:
        for name, told in {
            "crash-SIGSEGV": r"damaged video, or none: FFmpeg crashed on it \(SIGSEGV\)",
            "crash-SIGKILL": "too large to decode: .* memory ran out",
        }.items():
            with pytest.raises(UnusableVideoError, match=told):
                decoders.sample(render(tmp_path / f"{name}.mp4", times=even(5)), 2)


def test_a_process_that_was_killed_while_it_waited_costs_nothing(tmp_path: Path, children: Children) -> None:
    clip = render(tmp_path / "a.mp4", times=even(9))
    with Decoders() as decoders:
        first = decoders.sample(clip, 2)
        for _ in range(3):
            children()[0].kill()
            assert decoders.sample(clip, 2) == first


@pytest.mark.usefixtures("strange")
def test_a_file_that_takes_too_long_is_unusable(tmp_path: Path) -> None:
    started = time.monotonic()
    with Decoders(within_s=2) as decoders:
        with pytest.raises(UnusableVideoError, match="takes over 2 s to decode"):
            decoders.sample(render(tmp_path / "slow.mp4", times=even(5)), 2)
        assert decoders.sample(render(tmp_path / "a.mp4", times=even(5)), 2).times
    assert time.monotonic() - started < 300  # the machine may be busy, but nobody waits for the 600 s


def test_the_start_of_a_process_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_decoders, "_PROGRAM", "import time; time.sleep(3)\n" + STRANGE)
    with Decoders(within_s=2) as decoders:
        assert decoders.sample(render(tmp_path / "a.mp4", times=even(5)), 2).times


def test_a_process_that_does_not_start_says_nothing_about_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_decoders, "_PROGRAM", "raise SystemExit(5)")
    with Decoders() as decoders, pytest.raises(SetClipError, match=r"ended at its start \(exit code 5\)"):
        decoders.sample(render(tmp_path / "a.mp4", times=even(5)), 2)


@pytest.mark.parametrize("busy", [False, True])
def test_a_process_ends_with_the_one_that_started_it(tmp_path: Path, busy: bool) -> None:
    clip = render(tmp_path / "a.mp4", times=even(9))
    render(tmp_path / "slow.mp4", times=even(9))
    program = (
        "import os, sys, threading, time; from pathlib import Path; from setclip_cli.pixels import video_decoders\n"
        "video_decoders._PROGRAM = sys.argv[2]; decoders = video_decoders.Decoders()\n"
        "clip = Path(sys.argv[1]); decoders.sample(clip, 2)\n"
        "if sys.argv[3]: threading.Thread(target=decoders.sample, args=(clip.with_stem('slow'), 2)).start()\n"
        "time.sleep(1); print(open(f'/proc/self/task/{os.getpid()}/children').read(), flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", program, str(clip), STRANGE, "busy" if busy else ""]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        parent.kill()
    for _ in range(1200):
        if not Path(f"/proc/{child}").exists():
            return
        time.sleep(0.05)
    raise AssertionError("it is still there")
