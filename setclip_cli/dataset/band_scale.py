"""How the numbers of an image's bands become what a backbone sees: (value - mean) / standard deviation, band by band.

Each row of an image with bands has the mean and the standard deviation of its bands in the columns ``band_means`` and
``band_deviations``. Those of a split follow from them; each row counts the same, whatever its size, since a backbone
sees all rows in one size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from setclip_cli.errors import SetClipError, argument
from setclip_cli.pixels.bands import BandScale

if TYPE_CHECKING:
    from setclip_cli.dataset.dataset import Dataset, Shard
    from setclip_cli.dataset.modality import Modality

BAND_MEANS, BAND_DEVIATIONS = "band_means", "band_deviations"
BandSums = dict[str, dict[str, Any]]  # number of bands -> rows, and for each band sums over the rows


def band_sums(table: pa.Table) -> BandSums:
    """Sums over the rows of a shard that have bands; `add_band_sums` adds them up."""
    sums: BandSums = {}
    if BAND_MEANS not in table.column_names:
        return sums
    columns = [table[name].combine_chunks() for name in (BAND_MEANS, BAND_DEVIATIONS)]
    counted = pc.list_value_length(columns[0])
    for bands in pc.unique(counted.drop_null()).to_pylist():
        rows = pc.equal(counted, bands)
        means, deviations = (
            pc.list_flatten(column.filter(rows)).to_numpy(zero_copy_only=False).reshape(-1, bands) for column in columns
        )
        sums[str(bands)] = {
            "rows": len(means),
            "values": means.sum(0).tolist(),
            "squares": (means**2 + deviations**2).sum(0).tolist(),
        }
    return sums


def add_band_sums(sums: BandSums, more: BandSums) -> None:
    """Adds to ``sums``, number of bands by number of bands."""
    for bands, part in more.items():
        zeros = {"rows": 0, "values": [0.0] * int(bands), "squares": [0.0] * int(bands)}
        held = sums.setdefault(bands, zeros)
        held["rows"] += part["rows"]
        for name in ("values", "squares"):
            held[name] = [old + new for old, new in zip(held[name], part[name], strict=True)]


def scale_of_sums(sums: dict[str, Any]) -> BandScale:
    """The mean and standard deviation of each band. A band that never varies has the deviation 1."""
    means = [value / sums["rows"] for value in sums["values"]]
    variances = [square / sums["rows"] - mean * mean for square, mean in zip(sums["squares"], means, strict=True)]
    smallest = [1e-12 * mean * mean for mean in means]  # rounding leaves so much of a variance of 0
    deviations = [
        variance**0.5 if variance > least else 1.0 for variance, least in zip(variances, smallest, strict=True)
    ]
    return BandScale(tuple(means), tuple(deviations))


def bands_of_rows(dataset: Dataset, modality: Modality, split: str | None) -> int | None:
    """The number of bands of the rows of a split; None if they are pictures.

    Raises:
        SetClipError: the rows differ in it.
    """
    return None if (found := _sums(dataset, modality, split)) is None else len(found["values"])


def band_scale(dataset: Dataset, modality: Modality, split: str | None) -> BandScale:
    """The mean and standard deviation of each band over the rows of a split (all splits when None).

    Raises:
        SetClipError: the rows are pictures, or differ in their number of bands.
    """
    sums = _sums(dataset, modality, split)
    if sums is None:
        raise SetClipError(
            f"{dataset.root}: its {modality} rows are pictures of three colours, not images of bands",
            fix=f"leave towers.{modality}.in_chans out, or ingest the scenes with {argument('bands')} all into a new "
            "folder",
        )
    return scale_of_sums(sums)


def require_bands(dataset: Dataset, modality: Modality, split: str | None, bands: BandScale | None) -> None:
    """Checks that the rows of a split are what the tower of a RUN reads: images of as many bands, or pictures (None).

    Raises:
        SetClipError: they are not, or differ in their number of bands.
    """
    found, wanted = bands_of_rows(dataset, modality, split), None if bands is None else len(bands.mean)
    if found != wanted:
        of_rows, of_tower = (
            "pictures of three colours" if count is None else f"images of {count} {'band' if count == 1 else 'bands'}"
            for count in (found, wanted)
        )
        raise SetClipError(
            f"{dataset.root}: its {modality} rows are {of_rows}, and the {modality} tower reads {of_tower}",
            fix=f"give a DATASET of {of_tower}, or train a RUN on rows like these",
        )


def _has_bands(dataset: Dataset, shard: Shard) -> bool:
    """From the end of the file alone: the hash of a shard is compared when its rows are read."""
    try:
        return BAND_MEANS in pq.read_schema(dataset.root / shard.path).names
    except (OSError, pa.ArrowException):
        return BAND_MEANS in dataset.columns(shard)  # says what is wrong with it


def _sums(dataset: Dataset, modality: Modality, split: str | None) -> dict[str, Any] | None:
    sums: BandSums = {}
    pictures = 0
    if dataset.kind(modality) != "image":
        return None
    for shard in dataset.shards(modality, split):
        held = 0
        if _has_bands(dataset, shard):
            table = dataset.read(shard, [BAND_MEANS, BAND_DEVIATIONS])
            held = table.num_rows - table[BAND_MEANS].null_count
            add_band_sums(sums, band_sums(table))
        pictures += shard.rows - held
    if not sums:
        return None
    if len(sums) > 1 or pictures:
        kinds = [f"{part['rows']:,} rows of {bands} bands" for bands, part in sums.items()]
        kinds += [f"{pictures:,} pictures of three colours"] if pictures else []
        raise SetClipError(
            f"{dataset.root}: its {modality} rows differ in their bands: {', '.join(kinds)}",
            fix="ingest rows of one kind into a folder of their own, such as with --bands 1,2,3,8",
        )
    return next(iter(sums.values()))
