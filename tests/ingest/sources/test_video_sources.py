"""Videos as files and as folders of frames."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from pathlib import Path

import pytest
from rendered_videos import BLUE, GREEN, RED, brightness, dated_tiles, even, render
from tiny import jpeg

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.dataset.verify import verify
from setclip_cli.errors import SetClipError
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions
from setclip_cli.ingest.sources.base import Record, Reject
from setclip_cli.ingest.sources.video import VideoFolder, date_of, evenly, in_time

pytest.importorskip("av")


def answers(path: Path, frames: int = 4) -> dict[str, Record | Reject]:
    found = VideoFolder(path, frames=frames).records(0, 1)
    return {each.id if isinstance(each, Record) else each.location: each for each in found}


def reasons(path: Path) -> dict[str, str]:
    return {name: each.reason for name, each in answers(path).items() if isinstance(each, Reject)}


def test_files_and_folders_of_frames_become_rows_with_the_labels_of_their_folders(tmp_path: Path) -> None:
    source = tmp_path / "videos"
    render(source / "train" / "red" / "a.mp4", times=even(10), colour=RED)
    render(source / "test" / "blue" / "b.mkv", times=even(10), colour=BLUE)
    dated_tiles(source / "train" / "green" / "tile 7", [0, 30, 60, 90, 120, 200])
    (source / "train" / "notes.txt").write_text("made in 2021\n")
    result = ingest([source], tmp_path / "data", IngestOptions(modality="video", frames=4))
    table = open_dataset(tmp_path / "data").table("video")
    rows = {row["id"]: row for row in table.to_pylist()}
    assert {name: (row["label"], row["split"]) for name, row in rows.items()} == {
        "train/red/a.mp4": ("red", "train"),
        "test/blue/b.mkv": ("blue", "test"),
        "train/green/tile 7": ("green", "train"),
    }
    tiles = rows["train/green/tile 7"]
    assert [brightness(each) for each in tiles["frames"]] == [30, 60, 120, 200]
    assert [seconds / 86_400 for seconds in tiles["times"]] == [30, 60, 120, 200]
    assert (tiles["width"], tiles["height"]) == (40, 32)
    assert rows["test/blue/b.mkv"]["times"] == [0.1, 0.3, 0.6, 0.8]
    entry = result.new[0]
    assert entry["options"]["frames"] == 4
    assert entry["about"] == {"kind": "video"}
    assert "at most 4 frames of each video, evenly in time" in entry["notes"]
    assert entry["sizes"] == {"video": {"4": 3}}
    assert all(sha256(b"".join(row["frames"])).hexdigest() == row["sha256"] for row in rows.values())
    assert verify(tmp_path / "data").rows == 3
    again = ingest([source], tmp_path / "data", IngestOptions(modality="video", frames=4))
    assert not again.new
    assert ingest(
        [source], tmp_path / "data", IngestOptions(modality="video", frames=3)
    ).new  # other frames: read again


def test_bad_files_are_rejects_with_their_reason(tmp_path: Path) -> None:
    whole = render(tmp_path / "good.mp4", times=even(10)).read_bytes()
    (tmp_path / "text.mp4").write_text("once upon a time\n" * 50)
    (tmp_path / "page.mp4").write_text("<!doctype html><html><body>log in</body></html>")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "1.png").write_bytes(jpeg(1, kind="PNG")[:60])
    (tmp_path / "lfs.mp4").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    found = reasons(tmp_path)
    assert found.pop("text.mp4").startswith("a text file, not a video")
    assert found.pop("page.mp4").startswith("an HTML page")
    assert found.pop("lfs.mp4").startswith("a Git LFS pointer")
    assert found.pop("empty.mp4") == "an empty file"
    assert found.pop("frames").startswith("no frame can be read: 1.png, ")
    assert all(reason.startswith("damaged video, or none") for reason in found.values())
    assert [*found] == ["cut.mp4", "noise.mp4"]


def test_a_source_of_broken_videos_stops_with_advice(tmp_path: Path) -> None:
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    with pytest.raises(SetClipError, match="damaged video") as caught:
        ingest([tmp_path / "noise.mp4"], tmp_path / "data", IngestOptions(modality="video"))
    assert "ffmpeg -i" in str(caught.value.fix)


def test_a_frame_that_cannot_be_read_is_left_out_and_counted(tmp_path: Path) -> None:
    dated_tiles(tmp_path / "tiles", [1, 2, 3])
    second = sorted((tmp_path / "tiles").iterdir())[1]
    second.write_bytes(second.read_bytes()[:50])
    record = answers(tmp_path / "tiles")["tiles"]
    assert isinstance(record, Record)
    assert [brightness(each) for each in record.payload] == [1, 3]  # type: ignore[arg-type]
    assert "frames left out, because they cannot be read" in record.repairs


def test_a_folder_with_one_frame_is_a_video_of_one(tmp_path: Path) -> None:
    record = answers(dated_tiles(tmp_path / "one", [5]))["one"]
    assert isinstance(record, Record)
    assert len(record.payload) == 1


def test_equal_videos_are_kept_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        dated_tiles(tmp_path / "both" / name, [1, 2])
    result = ingest([tmp_path / "both"], tmp_path / "data", IngestOptions(modality="video"))
    assert result.rows == {"video": {"train": 1}}


def test_sixteen_bit_tiles_of_many_bands_are_refused_without_the_options_of_images(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    import numpy as np

    (tmp_path / "bands").mkdir()
    path = tmp_path / "bands" / "2021-01-01.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=8,
        height=8,
        count=6,
        dtype="uint16",
        transform=rasterio.Affine(1, 0, 0, 0, -1, 9),
    ) as out:
        out.write(np.ones((6, 8, 8), np.uint16))
    (reason,) = reasons(tmp_path / "bands").values()
    assert reason == "no frame can be read: 2021-01-01.tif, holds 6 bands of uint16"


def test_dates_order_frames_if_all_names_have_one_else_numbers_do() -> None:
    names = ["b_20210301.png", "a_2021-02-01T1030.png", "c_20201231.png"]
    assert [frame.name[0] for frame in in_time(names)] == ["c", "a", "b"]
    assert in_time(names)[1].seconds == pytest.approx(32 * 86_400 + 10.5 * 3600)
    assert [frame.name for frame in in_time(["f10.png", "f2.png", "f1.png"])] == ["f1.png", "f2.png", "f10.png"]
    assert in_time([*names, "d.png"])[0].seconds is None


@pytest.mark.parametrize(
    ("name", "date"),
    [
        ("2021-06-05.tif", datetime(2021, 6, 5)),
        ("S2A_20210605T103021_B04.tif", datetime(2021, 6, 5, 10, 30, 21)),
        ("2021_06_05 tile.png", datetime(2021, 6, 5)),
        ("frame_20210231.png", None),  # 31 days do not fit
        ("120210605.png", None),
        ("frame_0001.png", None),
    ],
)
def test_dates_of_names(name: str, date: datetime | None) -> None:
    found = date_of(name)
    assert (found and found.replace(tzinfo=None)) == date


def test_dated_frames_are_chosen_by_time_and_others_by_number() -> None:
    dated = in_time([f"202101{day:02d}.png" for day in (1, 2, 3, 4, 5, 6, 7, 31)])
    assert [frame.name[6:8] for frame in evenly(dated, 2)] == ["07", "31"]  # of days 8.5 and 23.5
    numbered = in_time([f"{number}.png" for number in range(8)])
    assert [frame.name for frame in evenly(numbered, 2)] == ["2.png", "6.png"]


def test_the_name_video_may_still_have_rows_of_vectors(tmp_path: Path) -> None:
    import numpy as np

    rows = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    np.save(tmp_path / "a.npy", rows)
    np.save(tmp_path / "b.npy", rows + 1)
    ingest([tmp_path / "a.npy"], tmp_path / "data", IngestOptions(modality="video", kind="vector"))
    ingest([tmp_path / "b.npy"], tmp_path / "data", IngestOptions(modality="video"))  # the DATASET knows the kind
    assert open_dataset(tmp_path / "data").kind("video") == "vector"


def test_own_names_and_green_clips(tmp_path: Path) -> None:
    render(tmp_path / "clips" / "a.gif.mp4", times=even(4), colour=GREEN)
    ingest([tmp_path / "clips"], tmp_path / "data", IngestOptions(modality="film", kind="video"))
    assert open_dataset(tmp_path / "data").kind("film") == "video"
