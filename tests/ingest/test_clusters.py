"""Near copies of a protein or an image end on one side of a split."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.errors import SetClipError
from setclip_cli.ingest.ingest import ingest
from setclip_cli.ingest.near_duplicates import MAX_DISTANCE, LookAlikes, perceptual_hash
from setclip_cli.ingest.options import IngestOptions
from setclip_cli.ingest.protein_clusters import cluster_sequences, minhash_clusters, signature

LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def protein(generator: random.Random, length: int = 300) -> str:
    return "".join(generator.choices(LETTERS, k=length))


def mutated(sequence: str, identity: float, generator: random.Random) -> str:
    return "".join(letter if generator.random() < identity else generator.choice(LETTERS) for letter in sequence)


def test_near_copies_share_a_cluster_and_strangers_do_not() -> None:
    generator = random.Random(0)
    families = [protein(generator, generator.randint(100, 600)) for _ in range(200)]
    proteins = [(f"{family}-0", sequence) for family, sequence in enumerate(families)]
    proteins += [(f"{family}-1", mutated(sequence, 0.9, generator)) for family, sequence in enumerate(families)]
    clusters = minhash_clusters(proteins)
    together = sum(clusters[f"{family}-0"] == clusters[f"{family}-1"] for family in range(200))
    strangers = {clusters[f"{family}-0"] for family in range(200)}
    assert together == 200
    assert len(strangers) == 200


@pytest.mark.parametrize(("identity", "low", "high"), [(0.95, 0.99, 1.0), (0.8, 0.85, 1.0), (0.3, 0.0, 0.01)])
def test_the_share_of_copies_found_falls_with_identity(identity: float, low: float, high: float) -> None:
    generator = random.Random(1)
    found = 0
    for _ in range(100):
        sequence = protein(generator)
        clusters = minhash_clusters([("a", sequence), ("b", mutated(sequence, identity, generator))])
        found += clusters["b"] == "a"
    assert low <= found / 100 <= high


def test_signatures_estimate_the_jaccard_index_of_the_4_mers() -> None:
    generator = random.Random(2)
    one = protein(generator, 3000)
    two = one[:2000] + protein(generator, 1000)
    words = [{sequence[i : i + 4] for i in range(len(sequence) - 3)} for sequence in (one, two)]
    exact = len(words[0] & words[1]) / len(words[0] | words[1])
    assert (signature(one) == signature(two)).mean() == pytest.approx(exact, abs=0.15)


@pytest.mark.parametrize("sequence", ["M", "MK", "MKV", "MKVL"])
def test_very_short_sequences_cluster_with_their_equals_only(sequence: str) -> None:
    clusters = minhash_clusters([("a", sequence), ("b", sequence), ("c", "W" * len(sequence))])
    assert clusters["b"] == "a"
    assert clusters["c"] == "c"


def test_no_sequences_make_no_clusters(tmp_path: Path) -> None:
    assert cluster_sequences([], work=tmp_path)[0] == {}


def test_a_split_by_clusters_puts_no_family_on_both_sides(tmp_path: Path) -> None:
    generator = random.Random(3)
    source = tmp_path / "a.fasta"
    with source.open("w") as file:
        for family in range(60):
            base = protein(generator)
            for member in range(4):
                file.write(f">{family}-{member}\n{mutated(base, 0.95, generator)}\n")
    result = ingest(
        [source], tmp_path / "out", IngestOptions(modality="protein", split="train=0.5,test=0.5", split_by="cluster")
    )
    rows = open_dataset(tmp_path / "out").table("protein", None, ["id", "split"]).to_pylist()
    sides = {(row["id"].partition("-")[0], row["split"]) for row in rows}
    assert len(sides) == 60
    assert {split for _, split in sides} == {"train", "test"}
    assert "split by 60 clusters (" in result.summary()


def test_clusters_are_for_proteins(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("one\n")
    with pytest.raises(SetClipError, match=r"c\.txt holds caption rows, not proteins"):
        ingest(
            [tmp_path / "c.txt"],
            tmp_path / "o",
            IngestOptions(modality="caption", split="a=0.5,b=0.5", split_by="cluster"),
        )


def photo(seed: int, side: int = 96) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_a_re_saved_resized_or_brightened_copy_hashes_near_and_another_image_far() -> None:
    for seed in range(20):
        original = perceptual_hash(encoded(photo(seed), quality=95))
        other = perceptual_hash(encoded(photo(seed + 1000)))
        assert original is not None
        assert other is not None
        for copy in (
            encoded(photo(seed), quality=60),
            encoded(photo(seed), "PNG"),
            encoded(photo(seed).resize((64, 64))),
            encoded(ImageEnhance.Brightness(photo(seed)).enhance(0.9)),
        ):
            value = perceptual_hash(copy)
            assert value is not None
            assert (value ^ original).bit_count() <= MAX_DISTANCE
        assert (other ^ original).bit_count() > 2 * MAX_DISTANCE


def test_flat_and_broken_images_have_no_hash() -> None:
    assert perceptual_hash(encoded(Image.new("RGB", (64, 64), (9, 99, 199)))) is None
    assert perceptual_hash(b"nothing") is None


def test_an_image_on_its_side_hashes_as_the_upright_one() -> None:
    turned = photo(5).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 270 degrees counter-clockwise when it is shown
    stream = io.BytesIO()
    turned.save(stream, "PNG", exif=exif)
    shown, upright = perceptual_hash(stream.getvalue()), perceptual_hash(encoded(photo(5), "PNG"))
    assert shown is not None
    assert upright is not None
    assert (shown ^ upright).bit_count() <= MAX_DISTANCE


@pytest.mark.parametrize(("bits", "found"), [(4, True), (5, False)])
def test_hashes_look_alike_up_to_four_bits(bits: int, found: bool) -> None:
    seen = LookAlikes()
    seen.add(0, "a", "train")
    assert (seen.find((1 << bits) - 1) is not None) == found


def test_a_copy_of_an_image_of_an_earlier_ingest_is_flagged(tmp_path: Path) -> None:
    for name, quality in (("first", 95), ("second", 70)):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.jpg").write_bytes(encoded(photo(1), quality=quality))
        ingest(tmp_path / name, tmp_path / "out", IngestOptions(modality="image", near_duplicates="flag"))
    rows = open_dataset(tmp_path / "out").table("image", None, ["id", "near_duplicate_of"]).to_pylist()
    assert [row["near_duplicate_of"] for row in rows] == [None, "first.jpg"]


def test_every_hash_within_the_distance_is_found_and_none_beyond() -> None:
    generator = random.Random(0)
    seen = LookAlikes()
    values = [generator.getrandbits(64) for _ in range(300)]
    for number, value in enumerate(values):
        seen.add(value, str(number), "train")
    for _ in range(300):
        number = generator.randrange(300)
        bits = generator.sample(range(64), generator.randint(0, 8))
        probe = values[number] ^ sum(1 << bit for bit in bits)
        near = [v for v in values if (v ^ probe).bit_count() <= MAX_DISTANCE]
        found = seen.find(probe)
        assert (found is not None) == bool(near)
        if found is not None:
            assert (values[int(found.id)] ^ probe).bit_count() == min((v ^ probe).bit_count() for v in near)


@pytest.mark.parametrize("mode", ["keep", "flag", "drop"])
def test_look_alikes_are_kept_flagged_or_dropped_and_share_a_split(tmp_path: Path, mode: str) -> None:
    root = tmp_path / "in"
    root.mkdir()
    for seed in range(12):
        (root / f"{seed:02d}-a.jpg").write_bytes(encoded(photo(seed), quality=95))
        (root / f"{seed:02d}-b.jpg").write_bytes(encoded(photo(seed), quality=70))
    result = ingest(
        [root],
        tmp_path / "out",
        IngestOptions(modality="image", split="train=0.5,test=0.5", near_duplicates=mode),
        shard_rows=5,
    )
    dataset = open_dataset(tmp_path / "out")
    rows = dataset.table("image", None, ["id", "split"]).to_pylist()
    assert len(rows) == (12 if mode == "drop" else 24)
    if mode == "flag":
        flags = dataset.table("image", None, ["id", "near_duplicate_of"]).to_pylist()
        assert {row["id"]: row["near_duplicate_of"] for row in flags} == {
            f"{seed:02d}-{kind}.jpg": f"{seed:02d}-a.jpg" if kind == "b" else None
            for seed in range(12)
            for kind in "ab"
        }
        assert len({(row["id"][:2], row["split"]) for row in rows}) == 12
        assert "12 flagged, because they look like an earlier image" in result.summary()
    if mode == "drop":
        assert result.new[0]["rejects"] == {"looks like an image already taken": 12}


def test_mmseqs2_is_used_where_it_is_installed_and_its_failure_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "mmseqs"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    program.write_text(
        '#!/bin/sh\ntest "$1" = easy-linclust || exit 9\nprintf "1\\t1\\n1\\t0\\n2\\t2\\n" > "$3_cluster.tsv"\n'
    )
    program.chmod(0o755)
    clusters, how = cluster_sequences([("a", "MKV"), ("b", "MKL"), ("c", "GGG")], work=tmp_path)
    assert clusters == {"a": "a", "b": "a", "c": "c"}  # named by the first, not by MMseqs2's representative
    assert "mmseqs2" in how
    program.write_text("#!/bin/sh\necho out of memory >&2\nexit 1\n")
    with pytest.raises(SetClipError, match="mmseqs: failed with status 1: out of memory"):
        cluster_sequences([("a", "MKV")], work=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mmseqs"]


def test_what_a_killed_ingest_leaves_of_mmseqs2_is_removed_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MMseqs2 stands for the one that kills: its parent, while its files are there."""
    (tmp_path / "bin").mkdir()
    program, temporary = tmp_path / "bin" / "mmseqs", tmp_path / "temporary"
    temporary.mkdir()
    program.write_text('#!/bin/sh\nprintf "0\\t0\\n" > "$3_cluster.tsv"\ntest -e kill && kill -9 $PPID\nexit 0\n')
    program.chmod(0o755)
    (tmp_path / "p.fasta").write_text(">a\nMKVLLAAG\n")
    (tmp_path / "kill").touch()
    command = [
        *(sys.executable, "-m", "setclip_cli", "ingest", "p.fasta", "--modality", "protein", "--out", "data"),
        *("--split", "train=0.5,test=0.5", "--split-by", "cluster"),
    ]
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "TMPDIR": str(temporary)}

    def ingest_again() -> int:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
        return done.returncode

    assert ingest_again() == -9
    assert list((tmp_path / "data/.ingest").glob(".clusters.*.tmp/found_cluster.tsv"))
    assert list(temporary.iterdir()) == []
    (tmp_path / "kill").unlink()
    assert ingest_again() == 0
    assert {path.name for path in (tmp_path / "data").iterdir()} >= {"dataset.json", "protein"}
    assert not (tmp_path / "data/.ingest").exists()
