"""The protein quickstart, against a server on the loopback: its subset, its files, and what it says without them."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from loopback import Server
from swiss_prot_file import PROTEINS, WEIGHTS, entries, entry, flat_file, settings

from setclip_cli.errors import SetClipError, UsageError
from setclip_cli.files.atomic import sha256_bytes
from setclip_cli.ingest.protein_clusters import minhash_clusters
from setclip_cli.quickstart import quickstart as module
from setclip_cli.quickstart import swiss_prot
from setclip_cli.quickstart.options import QuickstartOptions
from setclip_cli.quickstart.quickstart import QuickstartResult, quickstart
from setclip_cli.quickstart.swiss_prot import choose_proteins, write_source
from setclip_cli.verify.verify import verify

MAP = "protein_to_caption/map"


def run(out: Path, from_folder: Path | None = None) -> QuickstartResult:
    return quickstart(out, QuickstartOptions(domain="proteins", from_folder=from_folder))


def as_text(result: QuickstartResult) -> str:
    return json.dumps(result.report.content, sort_keys=True)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_the_installed_command_goes_from_download_to_report(published: dict[str, bytes], tmp_path: Path) -> None:
    with Server() as server:
        server.files = {f"/{name}": content for name, content in published.items()}
        server.break_after = len(published[WEIGHTS]) // 2  # both downloads break off, and go on
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        command = [sys.executable, "-m", "setclip_cli", "quickstart", "--domain", "proteins", "--json"]
        environment = {**os.environ, **settings(server, tmp_path)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        server.shutdown()
        thread.join()
    assert done.returncode == 0, done.stderr
    assert any(wanted for _, wanted in server.asked), "the download was resumed"
    content = json.loads(done.stdout)["report"]
    names = [method["name"] for method in content["methods"]]
    assert set(module.METHODS["proteins"]) | set(module.BASELINES) <= set(names)
    assert all(0 < method["metrics"][MAP]["mean"] <= 1 for method in content["methods"])
    page = (tmp_path / "quickstart-proteins-out" / "report" / "report.html").read_text(encoding="utf-8")
    assert "Homo sapiens" in page
    assert re.search(r'<a href="https://www\.uniprot\.org/uniprotkb/(P\d{5})" rel="noreferrer">\1</a> · Homo', page)
    verify(tmp_path / "quickstart-proteins-out")


def test_everything_is_made_once(online: Server, small: None, tmp_path: Path) -> None:
    first = run(tmp_path / "out")
    asked = list(online.asked)
    assert {path for path, _ in asked} == {f"/{WEIGHTS}", f"/{PROTEINS}"}
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*") if path.is_file()}
    second = run(tmp_path / "out")
    assert as_text(second) == as_text(first)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert online.asked == asked
    assert verify(tmp_path / "out").unchecked == []


def test_files_of_a_folder_give_the_same_as_a_download(
    online: Server, small: None, published: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloaded = json.dumps(run(tmp_path / "out").report.content["methods"], sort_keys=True)
    online.asked.clear()
    brought = tmp_path / "brought"
    brought.mkdir()
    for name, content in published.items():
        (brought / name).write_bytes(content)
    before = sorted(brought.iterdir())
    for name in ("SETCLIP_CACHE", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path / f"other-{name}"))
    assert json.dumps(run(tmp_path / "offline", brought).report.content["methods"], sort_keys=True) == downloaded
    assert online.asked == []
    assert sorted(brought.iterdir()) == before


def test_no_pair_is_hidden_and_no_test_protein_is_like_another(tmp_path: Path) -> None:
    made = write_source(tmp_path / "source", flat_file(tmp_path, entries(240)))
    proteins, texts = lines(tmp_path / "source/proteins.jsonl"), lines(tmp_path / "source/functions.jsonl")
    with (tmp_path / "source/pairs.csv").open(encoding="utf-8") as file:
        paired = {row["left_id"] for row in csv.DictReader(file)}
    split = {one["id"]: one["split"] for one in [*proteins, *texts]}
    assert {one["id"] for one in proteins} & {one["id"] for one in texts} == paired
    assert Counter(split[name] for name in paired)["train"] == made["pairs"]
    assert paired >= {name for name, part in split.items() if part != "train"}
    alone = [sum(one["id"] not in paired for one in rows) for rows in (proteins, texts)]
    assert abs(alone[0] - alone[1]) <= 1
    assert made["splits"] == dict(Counter(split.values()))
    assert 0.65 < made["splits"]["train"] / len(split) < 0.95
    everything = {one.accession: one.sequence for one in choose_proteins(tmp_path / PROTEINS, 10_000)[0]}
    clusters: dict[str, set[str]] = {}
    for name, cluster in minhash_clusters(everything.items()).items():
        clusters.setdefault(cluster, set()).add(split[name])
    assert len(clusters) < len(everything), "there are families"
    assert all(len(splits) == 1 for splits in clusters.values())


def test_the_subset_does_not_depend_on_the_order_of_the_entries(tmp_path: Path) -> None:
    texts = entries(200)
    texts += [entry(f"Q{number:05d}", "MKVLAAGIVGRRSTWYQEND" * 3, "Does the same") for number in range(30)]
    first, _ = choose_proteins(flat_file(tmp_path, texts), 60)
    random.Random(3).shuffle(texts)
    again, _ = choose_proteins(flat_file(tmp_path, texts), 60)
    assert again == first
    assert len({one.text for one in first}) == len({one.sequence for one in first}) == len(first) == 60


def test_a_sequence_counts_once(tmp_path: Path) -> None:
    same = [entry(f"Q{number:05d}", "MKVLAAGIVGRRSTWYQEND" * 3, f"Does thing {number}") for number in range(5)]
    found, _ = choose_proteins(flat_file(tmp_path, [*entries(120), *same]), 10_000)
    assert sum(one.accession.startswith("Q") for one in found) == 1


def test_the_subset_is_that_of_the_least_hashes(tmp_path: Path) -> None:
    path = flat_file(tmp_path, entries(240))
    everything, counts = choose_proteins(path, 10_000)
    assert counts["entries"] == 240
    assert len(everything) == 240 - counts["not reviewed"] - counts["without a text about their function"]
    assert choose_proteins(path, 50)[0] == everything[:50]


def test_a_small_subset_of_many_proteins_has_all_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The subset is chosen by a hash, and the split is drawn by one: they must not be the same."""
    monkeypatch.setattr(swiss_prot, "PROTEINS", 100)
    made = write_source(tmp_path / "source", flat_file(tmp_path, entries(1500)))
    assert min(made["splits"][name] for name in ("train", "val", "test")) >= 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"function": None}, "without a text about their function"),
        ({"reviewed": False}, "not reviewed"),
        ({"sequence": "MKV"}, "fewer than 30 or more than 600 residues"),
        ({"sequence": "MKVL" * 300}, "fewer than 30 or more than 600 residues"),
        ({"sequence": "MK-V" * 20}, "a sequence that cannot be used"),
    ],
)
def test_a_file_without_enough_proteins_says_why(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    given = {"sequence": "MKVLAAGIVGRRSTWYQEND" * 3, "function": "Binds iron", **change}
    path = flat_file(tmp_path, [entry(f"P{number:05d}", **given) for number in range(50)])
    with pytest.raises(SetClipError, match=f"0 of its 50 entries can be used .*{reason}"):
        choose_proteins(path, 100)


def test_one_family_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    family = [
        entry(f"P{number:05d}", "MKVLAAGIVGRRSTWYQEND" * 3 + "A" * number, f"Does {number}") for number in range(50)
    ]
    with pytest.raises(SetClipError, match=r"its 50 proteins .* are in 1 cluster") as caught:
        write_source(tmp_path / "source", flat_file(tmp_path, family))
    assert caught.value.fix.startswith("give the whole of Swiss-Prot")
    assert not (tmp_path / "source/source.json").exists()


def test_a_described_protein_has_a_name_an_organism_and_an_enzyme_number(tmp_path: Path) -> None:
    texts = entries(120)
    texts.append(entry("A00001", "MKVLAAGIVG" * 9, "Eats", name="Eater", enzymes=("3.1.1.7", "3.1.1.8")))
    found = {one.accession: one for one in choose_proteins(flat_file(tmp_path, texts), 1000)[0]}["A00001"]
    assert found.description == "Eater OS=Homo sapiens EC=3.1.1.7,3.1.1.8"
    assert found.text == "Eats."


def test_the_same_file_gives_the_same_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("setclip_cli.ingest.protein_clusters.shutil.which", lambda _: None)
    write_source(tmp_path / "source", flat_file(tmp_path, entries(240)))
    names = ("proteins.jsonl", "functions.jsonl", "pairs.csv")
    written = b"".join((tmp_path / "source" / name).read_bytes() for name in names)
    # Another digest needs another mark in RULES, so that folders of the earlier rules are refused.
    assert swiss_prot.RULES == "swiss-prot-1"
    assert sha256_bytes(written) == "5eb9c46858532e5b84988a6e014b141a5c1408fdf4323d159b0f3f8a1844546f"


def test_a_folder_of_the_other_domain_is_refused(online: Server, small: None, tmp_path: Path) -> None:
    run(tmp_path / "out")
    with pytest.raises(SetClipError, match="is a quickstart of proteins, not of imagery"):
        quickstart(tmp_path / "out")


def test_from_is_for_proteins() -> None:
    with pytest.raises(UsageError, match="is for the quickstart of proteins"):
        QuickstartOptions(from_folder=Path("here"))
