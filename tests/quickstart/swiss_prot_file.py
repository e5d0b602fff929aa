"""Entries of a UniProtKB flat file, made up: families of similar sequences, each with what its members do."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

from loopback import Server

from setclip_cli.files.shipped import find
from setclip_cli.ingest.manifest import load_manifest

WEIGHTS, PROTEINS = "esm2_t6_8M_UR50D.pt", "uniprot_sprot.dat.gz"

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
VERBS = ("Binds", "Transports", "Hydrolyses", "Regulates", "Folds", "Methylates", "Protects", "Assembles")
THINGS = ("iron", "sugar", "membranes", "histones", "ribosomes", "lipids", "light", "nitrate", "zinc", "heme")
PLACES = ("in roots", "in the nucleus", "at the pole", "during sporulation", "in the dark", "under heat", "in venom")


def entry(
    accession: str,
    sequence: str,
    function: str | None,
    *,
    name: str = "Some protein",
    organism: str = "Homo sapiens (Human)",
    enzymes: tuple[str, ...] = (),
    reviewed: bool = True,
) -> str:
    """One entry with its closing ``//``."""
    lines = [
        f"ID   {accession}_TEST              {'Reviewed' if reviewed else 'Unreviewed'};    {len(sequence)} AA.",
        f"AC   {accession}; Q99999;",
        f"DE   RecName: Full={name} {{ECO:0000255|HAMAP-Rule:MF_00001}};",
        *(f"DE            EC={number} {{ECO:0000269|PubMed:1}};" for number in enzymes),
        f"OS   {organism}.",
    ]
    if function is not None:
        lines += [f"CC   -!- FUNCTION: {function} (PubMed:123). {{ECO:0000269|PubMed:123}}."]
    lines += [
        "CC   -!- SUBUNIT: Homodimer.",
        "KW   Cytoplasm.",
        f"SQ   SEQUENCE   {len(sequence)} AA;  1 MW;  0 CRC64;",
    ]
    for start in range(0, len(sequence), 60):
        row = sequence[start : start + 60]
        lines.append("     " + " ".join(row[at : at + 10] for at in range(0, len(row), 10)))
    return "\n".join([*lines, "//", ""])


def entries(count: int, *, seed: int = 0, longest: int = 90) -> list[str]:
    """Proteins of families of three, which differ in a tenth of their residues; some cannot be in the quickstart."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        if number % 3 == 0:
            family = draw.choices(AMINO_ACIDS, k=draw.randint(40, longest))
            does = f"{draw.choice(VERBS)} {draw.choice(THINGS)}"
            enzymes = (f"{number % 7 + 1}.2.3.4",) if number % 2 else ()
        sequence = [draw.choice(AMINO_ACIDS) if draw.random() < 0.1 else residue for residue in family]
        place = draw.choice(PLACES)
        made.append(
            entry(
                f"P{number:05d}",
                "".join(sequence),
                None if number % 10 == 9 else f"{does} {place}, as number {number}",
                name=f"Protein {number}",
                enzymes=enzymes,
                reviewed=number % 25 != 24,
            )
        )
    return made


def packed(texts: list[str]) -> bytes:
    return gzip.compress("".join(texts).encode(), mtime=0)


def flat_file(folder: Path, texts: list[str]) -> Path:
    path = folder / PROTEINS
    path.write_bytes(packed(texts))
    return path


def settings(server: Server, root: Path) -> dict[str, str]:
    """The environment of a command that reaches this server and nothing else."""
    [url] = load_manifest(find("manifests", "swiss_prot")).files[0].urls
    closed = "http://127.0.0.1:9"
    return {
        "SETCLIP_MIRRORS": f"{url.rpartition('/')[0]}/={server.url}/",
        "SETCLIP_ESM_URL": server.url,
        "SETCLIP_CACHE": str(root / "cache"),
        "TORCH_HOME": str(root / "torch"),
        "HF_HUB_OFFLINE": "1",
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), closed),
        **dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1"),
    }
