"""Videos as queries of the service: as files, as frames, and dropped on the page."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from browser_world import Window
from rendered_videos import BLUE, GREEN, RED, even, render
from serve_world import Caller, in_base64, service_of
from small_world import run_ok
from untrained_pictures import untrained_run

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.pixels import video_decoders

pytest.importorskip("av")

CLIPS = {"red.mp4": RED, "green.mp4": GREEN, "blue.mp4": BLUE}
SLOW = """
import sys; sys.path[:] = sys.argv[1:]
import os, time
from pathlib import Path
from setclip_cli.pixels import video_decoders
def slow(*given, **more):
    Path(os.environ["TEST_BEGUN"]).touch()
    time.sleep(600)
video_decoders.sample_video = slow
video_decoders.answer()
"""
DROP = """(files) => {
  const dataTransfer = new DataTransfer();
  for (const [name, type, content] of files) {
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    dataTransfer.items.add(new File([bytes], name, { type }));
  }
  document.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
}"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_timm: Path, tiny_sentence: Path) -> Path:
    """Three clips with four frames each, and captions; an untrained RUN over both, and its EMBEDDINGS."""
    folder = tmp_path_factory.mktemp("videos")
    for number, (name, colour) in enumerate(CLIPS.items()):
        render(folder / "clips" / name, times=even(12 + number), colour=colour)
    (folder / "captions.txt").write_text("a red film\na green film\nnothing\n")
    run_ok("ingest", folder / "clips", "--modality", "video", "--frames", "4", "--out", folder / "data")
    run_ok("ingest", folder / "captions.txt", "--modality", "caption", "--out", folder / "data")
    towers = {"video": (f"timm:{tiny.TINY_TIMM}", tiny_timm), "caption": ("sentence-transformers:tiny", tiny_sentence)}
    untrained_run(folder / "run", towers)
    run_ok("embed", folder / "run", folder / "data", "--out", folder / "embeddings")
    return folder


@pytest.fixture(scope="module")
def caller(world: Path) -> Iterator[Caller]:
    with service_of(world) as address:
        yield Caller(address)


def frames_of(world: Path, name: str) -> list[str]:
    rows = open_dataset(world / "data").table("video").to_pylist()
    return next([in_base64(each) for each in row["frames"]] for row in rows if row["id"] == name)


def test_a_file_and_its_frames_find_what_the_command_finds(world: Path, caller: Caller) -> None:
    clip = world / "clips" / "green.mp4"
    told = run_ok("search", world / "embeddings", clip, "--in", "video", "--json")
    wanted = [(hit["id"], hit["score"]) for hit in json.loads(told)["hits"]]
    assert wanted[0] == ("green.mp4", pytest.approx(1, abs=1e-5))
    file = in_base64(clip.read_bytes())
    for query in ({"video": file}, {"frames": frames_of(world, "green.mp4")}):
        found = caller.fine("/search", in_="video", **query)
        assert [(hit["id"], hit["score"]) for hit in found["hits"]] == [
            (name, pytest.approx(score, abs=1e-5)) for name, score in wanted
        ]
    assert caller.fine("/search", video=file)["modality"] == "caption"
    many = [frame for frame in frames_of(world, "green.mp4") for _ in range(9)]  # of which four are taken, evenly
    [first, second] = caller.fine("/embed", items=[{"video": file}, {"frames": many}])["embeddings"]
    assert second["embedding"] == pytest.approx(first["embedding"], abs=1e-5)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"video": "not base64!"}, "video: is not base64"),
        ({"video": in_base64(b"#EXTM3U\n#EXTINF:1\nfile:///etc/passwd\n")}, "video: cannot be used: a text file"),
        ({"video": in_base64(b"\0\0\0\x18ftypmp42" + bytes(99))}, "video: cannot be used: damaged video, or none"),
        ({"video": in_base64(tiny.jpeg(1))}, "video: cannot be used"),
        ({"frames": []}, "frames: "),
        ({"frames": ["aa=="]}, "frames.0: is not a picture that can be read"),
        ({"frames": [in_base64(tiny.jpeg(1))] * 65}, "frames: "),
        ({"video": "aa==", "frames": ["aa=="]}, "got video and frames"),
        ({"image": in_base64(tiny.jpeg(1))}, "no tower reads an image: this model reads "),
    ],
)  # fmt: skip
def test_what_is_no_video_is_422_and_says_why(caller: Caller, body: dict[str, Any], told: str) -> None:
    status, content = caller.post("/search", body)
    assert (status, told in content["error"], "/tmp" in str(content)) == (422, True, False), content
    assert content["fix"]


def test_the_videos_and_frames_of_one_request_are_bounded(world: Path, caller: Caller) -> None:
    frames = {"frames": frames_of(world, "red.mp4") * 9}
    for items, told in (([{"video": "aaaa"}] * 5, "have 5 videos"), ([frames] * 2, "have 72 frames")):
        status, content = caller.post("/embed", {"items": items})
        assert (status, told in content["error"]) == (422, True)


def test_frames_of_too_many_pixels_are_not_decoded(caller: Caller, tmp_path: Path) -> None:
    large = render(tmp_path / "large.mp4", times=even(2), size=(8000, 3200))
    status, content = caller.post("/search", {"video": in_base64(large.read_bytes())})
    assert (status, "over the cap of 25,000,000 pixels" in content["error"]) == (422, True)


def test_a_file_that_takes_too_long_is_refused_and_does_not_keep_the_service_from_ending(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_decoders, "_PROGRAM", SLOW)
    monkeypatch.setenv("TEST_BEGUN", str(tmp_path / "begun"))
    body = {"video": in_base64((world / "clips" / "red.mp4").read_bytes())}
    with service_of(world, timeout=2.0) as address:
        status, content = Caller(address).post("/search", body)
        assert (status, "takes over 2 s to decode" in content["error"]) == (422, True)
    (tmp_path / "begun").unlink()
    answers: list[tuple[int, Any]] = []
    with service_of(world, timeout=600.0) as address:
        client = threading.Thread(target=lambda: answers.append(Caller(address).post("/search", body)))
        client.start()
        while not (tmp_path / "begun").exists():
            assert client.is_alive()
            time.sleep(0.02)
        stopped = time.monotonic()
    client.join(60)
    assert (answers[0][0], time.monotonic() - stopped < 120) == (503, True)  # the machine may be busy


@pytest.mark.slow
def test_a_person_drops_a_video_or_its_frames(world: Path, browser: Any) -> None:
    with service_of(world) as address:
        window = Window(browser, address)
        page = window.page
        page.wait_for_selector('body[data-page="ready"]')
        assert "drop a video" in str(page.get_attribute("#words", "placeholder"))
        assert page.locator("#choose-box").inner_text().startswith("video or frames")
        page.select_option("#in", "video")  # a search without a query
        clip = (world / "clips" / "blue.mp4").read_bytes()
        page.evaluate(DROP, [["blue.mp4", "video/mp4", base64.b64encode(clip).decode()]])
        page.wait_for_selector('body[data-searched="2"]')
        assert page.locator("#hits .id").all_inner_texts()[0].startswith("blue.mp4")
        assert "nearest to the video first" in page.locator("#status").inner_text()
        frames = [[f"{place}.jpg", "image/jpeg", text] for place, text in enumerate(frames_of(world, "red.mp4"))]
        page.evaluate(DROP, frames[::-1])
        page.wait_for_selector('body[data-searched="3"]')
        assert page.locator("#dropped-name").inner_text() == "4 frames: 0.jpg …"
        assert page.locator("#hits .id").all_inner_texts()[0].startswith("red.mp4")
        window.close()
