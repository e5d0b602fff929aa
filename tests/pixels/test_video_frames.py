"""Frames of a video file, evenly in time."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from rendered_videos import brightness, even, render

from setclip_cli.errors import SetClipError
from setclip_cli.pixels import video
from setclip_cli.pixels.video import ENDS_EARLY, FEWER, SMALLER, UnusableVideoError, sample_video

pytest.importorskip("av")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.webm", "a.mov"])
def test_the_frames_shown_in_the_middles_of_equal_parts_are_taken(name: str, tmp_path: Path) -> None:
    frames = sample_video(render(tmp_path / name, times=even(30)), 4)
    assert frames.times == (0.3, 1.1, 1.8, 2.6)  # of 0.375, 1.125, 1.875 and 2.625
    assert [brightness(each) for each in frames.pictures] == pytest.approx([26, 97, 158, 229], abs=8)
    assert (frames.width, frames.height, frames.repairs) == (64, 48, ())


@pytest.mark.parametrize("name", ["a.mpg", "a.ts"])
def test_a_length_that_ffmpeg_would_guess_is_taken_from_the_packets(name: str, tmp_path: Path) -> None:
    times = sample_video(render(tmp_path / name, times=even(50, 25)), 4).times
    assert times == pytest.approx((0.25, 0.75, 1.25, 1.75), abs=0.05)


def test_a_variable_frame_rate_is_sampled_by_time_and_each_frame_once(tmp_path: Path) -> None:
    held = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 5.0, 9.0]
    frames = sample_video(render(tmp_path / "slides.mp4", times=held), 5)
    assert frames.times == (0.9, 5.0)
    assert frames.repairs == (FEWER,)


def test_ten_hours_are_searched_and_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = render(tmp_path / "long.mp4", times=[100.0 * number for number in range(360)])
    decoded = 0
    original = video._Sampler._decoded

    def counted(self: video._Sampler) -> object:
        nonlocal decoded
        for each in original(self):
            decoded += 1
            yield each

    monkeypatch.setattr(video._Sampler, "_decoded", counted)
    sought = sample_video(path, 8)
    assert sought.times == pytest.approx([35_900 * (k + 0.5) / 8 for k in range(8)], abs=101)
    assert decoded <= 8 * 14  # a key frame each 12 frames
    monkeypatch.setattr(video, "LONG_SECONDS", 1e9)
    assert sample_video(path, 8) == sought


def test_far_key_frames_bound_what_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "MOST_AFTER_KEY_FRAME", 20)
    path = render(tmp_path / "far.mp4", times=[2.0 * number for number in range(100)], key_frame_every=600)
    assert video.FAR_KEY_FRAME in sample_video(path, 4).repairs


def test_a_large_frame_is_made_smaller_and_a_huge_one_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = render(tmp_path / "large.mp4", times=even(3), size=(1280, 768))
    frames = sample_video(path, 2)
    assert (frames.width, frames.height) == (853, 512)
    assert SMALLER in frames.repairs
    monkeypatch.setattr(video, "MAX_PIXELS", 1000 * 768)
    with pytest.raises(UnusableVideoError, match="over the cap of 768,000 pixels: 1,280 x 768"):
        sample_video(path, 2)


def test_a_video_cut_short_says_so_or_is_refused(tmp_path: Path) -> None:
    whole = render(tmp_path / "a.mkv", times=even(30)).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    assert ENDS_EARLY in sample_video(tmp_path / "cut.mkv", 4).repairs
    whole = render(tmp_path / "a.mp4", times=even(30)).read_bytes()  # its index is at the end
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnusableVideoError, match="damaged video"):
        sample_video(tmp_path / "cut.mp4", 4)


def test_no_playlist_leads_to_another_file(tmp_path: Path) -> None:
    other = render(tmp_path / "secret.ts", times=even(30, 25))
    for number, text in enumerate(
        (
            f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:3,\n{other}\n#EXT-X-ENDLIST\n",
            f"ffconcat version 1.0\nfile {other}\n",
        )
    ):
        path = tmp_path / f"list{number}.mp4"
        path.write_text(text)
        with pytest.raises(UnusableVideoError):
            sample_video(path, 2)


def test_an_animated_gif_is_a_video(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (32, 32), (40 * number, 0, 0)) for number in range(6)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    found = sample_video(tmp_path / "a.gif", 3)
    assert [brightness(each) for each in found.pictures] == pytest.approx([40, 120, 200], abs=12)


def test_a_video_that_lies_on_its_side_is_turned_upright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(render(tmp_path / "a.mp4", times=even(4), size=(64, 32)).read_bytes())
    one, zero = (1 << 16).to_bytes(4), bytes(4)
    last = (1 << 30).to_bytes(4)
    straight = one + zero * 3 + one + zero * 3 + last
    at = content.rfind(straight)  # of the track; the first is that of the whole file
    turned = zero + one + zero + (-(1 << 16)).to_bytes(4, signed=True) + zero * 4 + last
    content[at : at + len(turned)] = turned
    (tmp_path / "turned.mp4").write_bytes(content)
    found = sample_video(tmp_path / "turned.mp4", 2)
    assert (found.width, found.height) == (32, 64)


def test_an_old_av_is_refused_before_it_can_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("av.__version__", "17.0.0")
    with pytest.raises(SetClipError, match=r"av 17\.0\.0 is too old"):
        sample_video(tmp_path / "a.mp4", 2)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    import av
    import numpy as np

    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(UnusableVideoError, match="no video stream"):
        sample_video(path, 2)
