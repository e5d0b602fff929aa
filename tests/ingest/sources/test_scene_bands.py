"""Scenes with all of their bands: the numbers in the DATASET are those of the scene, and their scale is known."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from setclip_cli.dataset.band_scale import band_scale, bands_of_rows
from setclip_cli.dataset.dataset import Dataset, open_dataset
from setclip_cli.errors import SetClipError, UsageError
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.near_duplicates import perceptual_hash
from setclip_cli.ingest.options import IngestOptions
from setclip_cli.pixels import bands as pixels_of_bands
from setclip_cli.pixels.bands import UnreadableBandsError, bands_to_show, read_bands, shown_bands

rasterio = pytest.importorskip("rasterio", reason="the extra [geo] is not installed")

SENTINEL = Path(__file__).parents[2] / "fixtures" / "sentinel2_six_bands.tif"
GROUND = rasterio.Affine(10, 0, 600_000, 0, -10, 4_700_000)


def write(path: Path, samples: np.ndarray[Any, Any], **options: Any) -> Path:
    count, height, width = samples.shape
    profile = {"width": width, "height": height, "count": count, "dtype": samples.dtype, "transform": GROUND}
    names, scales = options.pop("names", None), options.pop("scales", None)
    with rasterio.open(path, "w", driver="GTiff", **{**profile, **options}) as scene:
        scene.write(samples)
        if names:
            scene.descriptions = names
        if scales:
            scene.scales = scales
    return path


def noise(bands: int, dtype: str = "uint16", side: int = 32, seed: int = 0) -> np.ndarray[Any, Any]:
    draw = np.random.default_rng(seed)
    return (1000 * np.arange(1, bands + 1)[:, None, None] + draw.normal(0, 100, (bands, side, side))).astype(dtype)


def taken(source: Path, out: Path, **options: Any) -> Dataset:
    ingest(source, out, IngestOptions(modality="image", **{"bands": "all", **options}))
    return open_dataset(out)


def test_tiles_of_a_real_scene_keep_all_bands_and_other_tools_read_them_from_the_shard(tmp_path: Path) -> None:
    taken(SENTINEL, tmp_path / "out", tile=64)
    shard = tmp_path / "out" / "image" / "train-00000.parquet"
    rows = duckdb.sql(f"SELECT id, image, width, height, crs, transform FROM '{shard}' ORDER BY id").fetchall()
    assert [row[0] for row in rows] == sorted(
        f"{SENTINEL.name}#{left}_{top}" for left in (0, 64, 128) for top in (0, 64)
    )
    with rasterio.open(SENTINEL) as scene:
        for name, content, width, height, crs, transform in rows:
            left, top = map(int, name.rpartition("#")[2].split("_"))
            with rasterio.MemoryFile(content) as file, file.open() as tile:
                assert tile.dtypes == ("uint16",) * 6
                assert tile.descriptions == scene.descriptions
                assert (tile.width, tile.height) == (width, height) == (64, 64)
                assert tile.crs.to_string() == crs == "EPSG:32719"
                assert list(tile.transform)[:6] == transform
                window = rasterio.windows.Window(left, top, 64, 64)
                np.testing.assert_array_equal(tile.read(), scene.read(window=window))


@pytest.mark.parametrize(
    ("bands", "dtype"), [(13, "uint16"), (2, "float32"), (4, "int16"), (5, "uint8"), (1, "float64"), (3, "uint16")]
)
def test_every_number_of_bands_and_every_sample_type_is_kept(tmp_path: Path, bands: int, dtype: str) -> None:
    samples = noise(bands, dtype) / 7 if dtype.startswith("float") else noise(bands, dtype)
    dataset = taken(write(tmp_path / "scene.tif", samples.astype(dtype)), tmp_path / "out")
    (content,) = dataset.table("image")["image"].to_pylist()
    read = read_bands(content)
    assert read.samples.dtype == dtype
    np.testing.assert_array_equal(read.samples, samples.astype(dtype))
    assert not read.missing.any()
    assert bands_of_rows(dataset, "image", "train") == bands


def test_the_same_scene_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (taken(SENTINEL, tmp_path / name, tile=32, stride=16) for name in "ab")
    assert [shard.sha256 for shard in first.index.shards] == [shard.sha256 for shard in second.index.shards]


def test_the_scale_is_that_of_the_rows_of_the_split_and_the_summary_states_that_of_the_source(tmp_path: Path) -> None:
    for split, seed in (("train", 1), ("test", 2)):
        (tmp_path / "scenes" / split).mkdir(parents=True)
        for number in range(2):
            samples = noise(13, seed=10 * seed + number)
            write(tmp_path / "scenes" / split / f"{number}.tif", samples + (500 if split == "test" else 0))
    result = ingest(tmp_path / "scenes", tmp_path / "out", IngestOptions(modality="image", bands="all", tile=16))
    of_train = np.stack([noise(13, seed=10), noise(13, seed=11)]).astype(float)
    dataset = open_dataset(tmp_path / "out")
    scale = band_scale(dataset, "image", "train")
    np.testing.assert_allclose(scale.mean, of_train.mean((0, 2, 3)))
    np.testing.assert_allclose(scale.std, of_train.std((0, 2, 3)))
    of_all = np.stack([of_train, np.stack([noise(13, seed=20), noise(13, seed=21)]) + 500.0])
    (stated,) = result.new[0]["bands"]
    assert (stated["bands"], stated["rows"]) == (13, 16)
    np.testing.assert_allclose(stated["mean"], of_all.mean((0, 1, 3, 4)))
    np.testing.assert_allclose(stated["std"], of_all.std((0, 1, 3, 4)))
    assert dataset.index.sources[0]["bands"] == [stated]
    summary = result.summary()
    assert "16 with 13 bands, whose numbers are kept" in summary
    assert ", ".join(f"{value:.4g}" for value in stated["mean"]) in summary


def test_a_band_that_never_varies_has_the_deviation_1(tmp_path: Path) -> None:
    samples = noise(4)
    samples[2] = 4095
    scale = band_scale(taken(write(tmp_path / "s.tif", samples), tmp_path / "out"), "image", None)
    assert scale.mean[2] == 4095
    assert scale.std[2] == 1


@pytest.mark.parametrize("missing", ["nodata", "NaN", "infinite"])
def test_missing_samples_are_marked_and_left_out_of_the_scale(tmp_path: Path, missing: str) -> None:
    value = {"nodata": -9999.0, "NaN": np.nan, "infinite": np.inf}[missing]
    samples = noise(2, "float32")
    samples[:, :8] = value
    samples[1, 20] = value
    options = {"nodata": value} if missing == "nodata" else {}
    dataset = taken(write(tmp_path / "scene.tif", samples, **options), tmp_path / "out")
    (row,) = dataset.table("image").to_pylist()
    read = read_bands(row["image"])
    expected = np.zeros((2, 32, 32), bool)
    expected[:, :8] = expected[1, 20] = True
    np.testing.assert_array_equal(read.missing, expected)
    np.testing.assert_array_equal(read.samples[~expected], samples[~expected])
    means = [samples[band][~expected[band]].mean(dtype=float) for band in range(2)]
    np.testing.assert_allclose(row["band_means"], means, rtol=1e-6)


@pytest.mark.parametrize("bands", ["all", "1,2,3"])
def test_tiles_that_are_mostly_missing_or_empty_are_named(tmp_path: Path, bands: str) -> None:
    samples = noise(4, "float32", side=64)
    samples[:, :32, :32] = np.nan
    samples[:, :32, 32:] = 0
    path = write(tmp_path / "scene.tif", samples)
    result = ingest(path, tmp_path / "out", IngestOptions(modality="image", tile=32, bands=bands))
    (entry,) = result.new
    nodata, empty = "more than half of the tile is nodata", "empty tile"
    assert entry["rejects"] == ({nodata: 1, empty: 1} if bands == "all" else {nodata: 1})
    assert entry["bad"] == 0
    assert entry["rows"]["image"]["train"] == (2 if bands == "all" else 3)


def test_some_bands_of_a_scene_are_taken_in_the_order_that_is_given(tmp_path: Path) -> None:
    names = tuple(f"B{number:02d}" for number in range(1, 14))
    source = write(tmp_path / "scene.tif", noise(13), names=names)
    result = ingest(source, tmp_path / "out", IngestOptions(modality="image", bands="8,4,3,2"))
    (content,) = open_dataset(tmp_path / "out").table("image")["image"].to_pylist()
    np.testing.assert_array_equal(read_bands(content).samples, noise(13)[[7, 3, 2, 1]])
    with rasterio.MemoryFile(content) as file, file.open() as tile:
        assert tile.descriptions == ("B08", "B04", "B03", "B02")
    assert "1 changed: bands 8,4,3,2 of 13 taken, as they are" in result.summary()


def test_a_scale_that_the_file_gives_its_bands_is_kept_and_named(tmp_path: Path) -> None:
    source = write(tmp_path / "scene.tif", noise(2), scales=(1e-4, 1e-4))
    result = ingest(source, tmp_path / "out", IngestOptions(modality="image", bands="all"))
    assert "the scale and offset that the file gives its bands" in result.summary()
    (content,) = open_dataset(tmp_path / "out").table("image")["image"].to_pylist()
    with rasterio.MemoryFile(content) as file, file.open() as tile:
        assert tile.scales == (1e-4, 1e-4)


def test_a_nodata_value_that_the_samples_cannot_have_is_no_obstacle(tmp_path: Path) -> None:
    tagged = write(tmp_path / "tagged.tif", noise(2), nodata=65535)
    tagged.write_bytes(tagged.read_bytes().replace(b"65535\0", b"-9999\0"))
    dataset = taken(tagged, tmp_path / "out")
    assert not read_bands(dataset.table("image")["image"][0].as_py()).missing.any()


def test_a_scene_over_the_cap_of_all_its_bands_is_a_reject_that_names_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels_of_bands, "MAX_IMAGE_BYTES", 13 * 16 * 16 * 2)
    source = write(tmp_path / "scene.tif", noise(13))
    with pytest.raises(SetClipError, match=r"over the cap of 6,656 bytes of samples\).*\n.*--tile|tile PIXELS"):
        taken(source, tmp_path / "a")
    said = "over the cap of 6,656 bytes of samples: 32 x 32 x 13 bands of uint16; cut it with --tile"
    assert pq.read_table(tmp_path / "a" / "rejects.parquet")["reason"].to_pylist() == [said]
    assert len(taken(source, tmp_path / "b", tile=16).table("image")) == 4
    with pytest.raises(UnreadableBandsError, match="over the cap"):
        read_bands(source.read_bytes())


def test_the_file_itself_is_no_multi_band_image_if_it_is_damaged_or_something_else() -> None:
    for content in (b"II*\0" + bytes(20), SENTINEL.read_bytes()[:5000], b"\x89PNG\r\n\x1a\n", b"<VRTDataset/>"):
        with pytest.raises(UnreadableBandsError):
            read_bands(content)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bands": "all", "stretch": "2,98"}, "is for 8-bit pictures"),
        ({"bands": "1,x"}, "cannot be read"),
        ({"bands": "0,1"}, "cannot be read"),
        ({"bands": "1,2,9,4"}, "too few bands"),
    ],
)
def test_options_that_do_not_fit_say_so(tmp_path: Path, options: dict[str, str], said: str) -> None:
    with pytest.raises(SetClipError, match=said):
        ingest(SENTINEL, tmp_path / "out", IngestOptions(modality="image", **options))  # type: ignore[arg-type]


def test_without_rasterio_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = SENTINEL.read_bytes()
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(SetClipError, match=r"need the package rasterio\n.*setclip\[geo\]"):
        ingest(SENTINEL, tmp_path / "out", IngestOptions(modality="image", bands="all"))
    with pytest.raises(SetClipError, match=r"need the package rasterio\n.*setclip\[geo\]"):
        read_bands(content)


def test_rows_that_differ_in_their_bands_have_no_common_scale(tmp_path: Path) -> None:
    ingest(SENTINEL, tmp_path / "out", IngestOptions(modality="image", bands="all"))
    ingest(write(tmp_path / "two.tif", noise(2)), tmp_path / "out", IngestOptions(modality="image", bands="all"))
    Image.fromarray(noise(3, "uint8").transpose(1, 2, 0)).save(tmp_path / "picture.png")
    ingest(tmp_path / "picture.png", tmp_path / "out", IngestOptions(modality="image"))
    with pytest.raises(SetClipError, match="1 rows of 6 bands, 1 rows of 2 bands, 1 pictures of three colours"):
        band_scale(open_dataset(tmp_path / "out"), "image", "train")


@pytest.mark.parametrize(
    ("names", "colours", "places"),
    [
        ([None] * 13, ["gray"] + ["undefined"] * 12, (0, 1, 2)),
        (["B01", "B02", "B03", "B04", "B05"], ["gray"] * 5, (3, 2, 1)),
        (["B02 Blue", "B03 Green", "B04 Red", "B08 NIR"], ["gray"] * 4, (2, 1, 0)),
        (["red", "green", "blue", "nir"], ["gray"] * 4, (0, 1, 2)),
        ([None] * 4, ["undefined", "blue", "green", "red"], (3, 2, 1)),
        (["VV", "VH"], ["gray", "undefined"], (0,)),
    ],
)
def test_three_bands_are_shown(names: list[str | None], colours: list[str], places: tuple[int, ...]) -> None:
    assert bands_to_show(names, colours) == places


def test_the_picture_of_a_scene_is_bright_and_has_a_perceptual_hash() -> None:
    content = SENTINEL.read_bytes()
    picture = np.asarray(shown_bands(content))
    assert picture.shape == (128, 192, 3)
    assert ((picture.mean((0, 1)) > 60) & (picture.mean((0, 1)) < 200)).all()
    with rasterio.open(SENTINEL) as scene:
        red = scene.read(3)
    assert np.corrcoef(picture[:, :, 0].ravel(), red.ravel())[0, 1] > 0.95
    assert perceptual_hash(content) is not None


def test_scenes_that_look_alike_are_found(tmp_path: Path) -> None:
    (tmp_path / "scenes").mkdir()
    with rasterio.open(SENTINEL) as scene:
        write(tmp_path / "scenes" / "a.tif", scene.read())
        write(tmp_path / "scenes" / "b.tif", scene.read() * 2)
    options = IngestOptions(modality="image", bands="all", near_duplicates="flag")
    assert ingest(tmp_path / "scenes", tmp_path / "out", options).new[0]["near_duplicates"] == 1


def test_usage_errors_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        ingest(SENTINEL, tmp_path / "out", IngestOptions(modality="image", bands="all", stretch="2,98"))
