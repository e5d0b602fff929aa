"""Images in Parquet, and GeoTIFF scenes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.errors import SetClipError
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.options import IngestOptions, ReadOptions
from setclip_cli.ingest.sources import open_source
from setclip_cli.ingest.sources.base import Record, Reject


def png(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def test_hugging_face_parquet_gives_paths_class_names_and_bytes(tmp_path: Path) -> None:
    features = {"info": {"features": {"label": {"names": ["lake", "field"], "_type": "ClassLabel"}}}}
    table = pa.table(
        {
            "image": [
                {"bytes": png(1), "path": "a.png"},
                {"bytes": png(2), "path": None},
                {"bytes": None, "path": "c.png"},
            ],
            "label": [1, 0, 1],
        }
    ).replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, tmp_path / "train.parquet")
    first, second, third = open_source(tmp_path / "train.parquet", ReadOptions(modality="image")).records(0, 2)
    assert isinstance(first, Record)
    assert isinstance(second, Record)
    assert (first.id, first.label, first.payload) == ("a.png", "field", png(1))
    assert (second.id, second.label) == ("train.parquet:2", "lake")
    assert third == Reject("row 3", "no image bytes in the row: only the path c.png")


def test_parquet_with_plain_bytes_under_another_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"chip": [png(1)], "filename": ["x.png"], "split": ["validation"]}), tmp_path / "a.parquet")
    (item,) = open_source(tmp_path / "a.parquet", ReadOptions(modality="image", image_column="chip")).records(0, 1)
    assert isinstance(item, Record)
    assert (item.id, item.split) == ("x.png", "val")
    with pytest.raises(SetClipError, match="no column 'image'"):
        list(open_source(tmp_path / "a.parquet", ReadOptions(modality="image")).records(0, 1))


@pytest.mark.parametrize("modality", ["image", "caption", "protein"])
def test_what_is_no_parquet_file_is_one_error(tmp_path: Path, modality: Any) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(SetClipError, match="is not a readable Parquet file"):
        list(open_source(tmp_path / "a.parquet", ReadOptions(modality=modality)).records(0, 1))


rasterio = pytest.importorskip("rasterio", reason="the extra [geo] is not installed")


def scene(path: Path, samples: np.ndarray[Any, Any], **profile: Any) -> Path:
    bands, height, width = samples.shape
    options = {
        "driver": "GTiff",
        "count": bands,
        "height": height,
        "width": width,
        "dtype": samples.dtype,
        "crs": "EPSG:32632",
        "transform": rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000),
        **profile,
    }
    with rasterio.open(path, "w", **options) as file:
        file.write(samples)
    return path


def pixels(item: Record | Reject) -> np.ndarray[Any, Any]:
    assert isinstance(item, Record)
    assert isinstance(item.payload, bytes)
    return np.asarray(Image.open(io.BytesIO(item.payload)))


def test_a_scene_is_cut_into_tiles_that_know_their_place(tmp_path: Path) -> None:
    samples = np.arange(3 * 40 * 60, dtype=np.uint8).reshape(3, 40, 60)
    path = scene(tmp_path / "s.tif", samples)
    found = list(open_source(path, ReadOptions(modality="image", tile=16, stride=20)).records(0, 1))
    assert [item.id for item in found if isinstance(item, Record)] == [
        f"s.tif#{left}_{top}" for top in (0, 20) for left in (0, 20, 40)
    ]
    np.testing.assert_array_equal(pixels(found[4]), np.moveaxis(samples[:, 20:36, 20:36], 0, -1))
    ingest([path], tmp_path / "out", IngestOptions(modality="image", tile=16, stride=20))
    rows = open_dataset(tmp_path / "out").table("image", None, ["id", "crs", "transform"]).to_pylist()
    assert rows[4] == {
        "id": "s.tif#20_20",
        "crs": "EPSG:32632",
        "transform": [10.0, 0.0, 500_200.0, 0.0, -10.0, 4_999_800.0],
    }


def test_bands_are_chosen_and_stretched_between_percentiles_of_the_whole_scene(tmp_path: Path) -> None:
    ramp = np.linspace(0, 3000, 64 * 64).reshape(64, 64).astype(np.uint16)
    path = scene(tmp_path / "s.tif", np.stack([ramp * 0, ramp, ramp.T, ramp[::-1]]))
    (whole,) = open_source(path, ReadOptions(modality="image", bands="2,3,4", stretch="0,100")).records(0, 1)
    np.testing.assert_allclose(pixels(whole)[:, :, 0], ramp / 3000 * 255, atol=0.51)
    np.testing.assert_allclose(pixels(whole)[:, :, 2], ramp[::-1] / 3000 * 255, atol=0.51)
    left, right, *_ = map(pixels, open_source(path, ReadOptions(modality="image", bands="2", tile=32)).records(0, 1))
    assert left.max() > 100
    assert abs(int(left[0, -1]) - int(right[0, 0])) <= 1  # one stretch for all tiles: no seam


def test_nodata_is_black_left_out_of_the_stretch_and_empty_tiles_are_not_taken(tmp_path: Path) -> None:
    samples = np.full((1, 32, 64), 500, dtype=np.int16)
    samples[0, :, :20] = np.linspace(100, 900, 20).astype(np.int16)
    samples[0, :, 32:] = -9999
    path = scene(tmp_path / "s.tif", samples, nodata=-9999)
    taken, empty = open_source(path, ReadOptions(modality="image", tile=32, stretch="0,100")).records(0, 1)
    assert pixels(taken)[0, 0] == 0
    assert pixels(taken)[0, 19] == 255
    assert empty == Reject("s.tif#32_0", "more than half of the tile is nodata", bad=False)


def test_too_few_bands_small_scenes_and_broken_files_are_rejected(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    scene(folder / "one.tif", np.zeros((1, 8, 8), dtype=np.uint8))
    (folder / "broken.tif").write_bytes(b"II*\0 nothing")
    found = list(open_source(folder, ReadOptions(modality="image", bands="4,3,2")).records(0, 1))
    assert [item.reason for item in found if isinstance(item, Reject)] == [
        "damaged TIFF: a directory outside the file",
        "too few bands: 1, 4 asked for",
    ]
    (small,) = open_source(folder / "one.tif", ReadOptions(modality="image", tile=16)).records(0, 1)
    assert small == Reject("one.tif", "smaller than a tile: 8 x 8")


@pytest.mark.parametrize("options", [{"bands": "0,1"}, {"bands": "x"}, {"stretch": "98,2"}, {"tile": 0, "bands": "1"}])
def test_bad_geo_options_are_usage_errors(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(SetClipError, match=r"^(bands|stretch|tile) "):
        open_source(
            scene(tmp_path / "s.tif", np.zeros((1, 8, 8), dtype=np.uint8)), ReadOptions(modality="image", **options)
        )


def test_a_scene_that_only_names_another_file_is_not_followed(tmp_path: Path) -> None:
    secret = scene(tmp_path / "elsewhere.tif", np.full((1, 8, 8), 7, dtype=np.uint8))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tif").write_text(
        '<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f'<SourceFilename relativeToVRT="0">{secret}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
        "</VRTRasterBand></VRTDataset>"
    )
    for options in ({"tile": 8}, {"bands": "all"}):
        (found,) = open_source(tmp_path / "in", ReadOptions(modality="image", **options)).records(0, 1)
        assert isinstance(found, Reject)
        assert found.reason.startswith("no readable scene")
