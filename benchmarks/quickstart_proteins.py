"""Time and memory of `setclip quickstart --domain proteins` after the download. One JSON line.

    python benchmarks/quickstart_proteins.py                       # a file as large as Swiss-Prot
    python benchmarks/quickstart_proteins.py --entries 20000       # a smaller one

There is no network here, so both files are made: weights of ESM-2 8M drawn by chance, and entries in the layout of
Swiss-Prot with lengths as it has them (log-normal, median 314 residues), half of them with a text of 30 to 120 words.
Time and memory depend on the sizes and not on what is written, so the scores mean nothing. The command is the one that
a user gives, in a process of its own, with a cache of its own.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from argparse import Namespace
from pathlib import Path

import esm
import numpy as np
import torch

SWISS_PROT = 573_000  # entries
AMINO_ACIDS = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", np.uint8)
WORDS = [
    f"{one}{two}{three}" for one in "bdfgklmnprst" for two in "aeiou" for three in ("se", "tin", "ric", "lon", "m")
]


def write_weights(path: Path) -> None:
    """A checkpoint as fair-esm publishes them, with the sizes of esm2_t6_8M_UR50D and random numbers."""
    torch.manual_seed(0)
    layers, width, heads = 6, 320, 20
    module = esm.ESM2(num_layers=layers, embed_dim=width, attention_heads=heads, token_dropout=True)
    tensors = {
        ("encoder." if name.startswith("lm_head") else "encoder.sentence_encoder.") + name: tensor
        for name, tensor in module.state_dict().items()
        if not name.startswith("contact_head")
    }
    model = Namespace(
        encoder_layers=layers, encoder_embed_dim=width, encoder_attention_heads=heads, token_dropout=True, arch="esm2"
    )
    torch.save({"cfg": {"model": model}, "model": tensors}, path)


def write_entries(path: Path, count: int) -> None:
    """Reviewed entries of a UniProtKB flat file, packed; half of them say what the protein does."""
    draw = np.random.default_rng(0)
    with gzip.open(path, "wt", compresslevel=1) as out:
        for number in range(count):
            length = int(np.clip(draw.lognormal(np.log(314), 0.7), 10, 5_000))
            residues = AMINO_ACIDS[draw.integers(20, size=length)].tobytes().decode()
            lines = [
                f"ID   P{number:05d}_MADE              Reviewed;    {length} AA.",
                f"AC   P{number:06d};",
                f"DE   RecName: Full=Protein {number};",
                "OS   Homo sapiens (Human).",
            ]
            if number % 2:
                words = " ".join(WORDS[at] for at in draw.integers(len(WORDS), size=int(draw.integers(30, 120))))
                lines.append(f"CC   -!- FUNCTION: {words}, as number {number}.")
            lines.append(f"SQ   SEQUENCE   {length} AA;  1 MW;  0 CRC64;")
            lines += [f"     {residues[start : start + 60]}" for start in range(0, length, 60)]
            out.write("\n".join([*lines, "//", ""]))


def peak_mib(pid: int, stop: threading.Event) -> list[int]:
    """The largest resident set of a process, read again and again; a child's `ru_maxrss` begins at its parent's."""
    found = [0]

    def watch() -> None:
        while not stop.wait(0.2):
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                return
            peaks = [line for line in status.splitlines() if line.startswith("VmHWM")]
            found[0] = max([found[0], *(int(line.split()[1]) // 1024 for line in peaks)])

    threading.Thread(target=watch, daemon=True).start()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=SWISS_PROT)
    parser.add_argument("--work", type=Path, help="A folder with room, some 500 MB.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="quickstart-proteins-", dir=given.work) as name:
        folder = Path(name)
        brought = folder / "brought"
        brought.mkdir()
        write_weights(brought / "esm2_t6_8M_UR50D.pt")
        write_entries(brought / "uniprot_sprot.dat.gz", given.entries)
        places = {"SETCLIP_CACHE": str(folder / "cache"), "TORCH_HOME": str(folder / "torch"), "TQDM_DISABLE": "1"}
        out = folder / "out"
        command = ["quickstart", "--domain", "proteins", "--from", str(brought), "--out", str(out)]
        started, stop = time.perf_counter(), threading.Event()
        process = subprocess.Popen(
            [sys.executable, "-m", "setclip_cli", *command], stdout=sys.stderr, env=os.environ | places
        )
        peak = peak_mib(process.pid, stop)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        stop.set()
        if process.returncode:
            raise SystemExit(f"the quickstart ended with {process.returncode}")
        found = {
            "entries": given.entries,
            "file_mib": round((brought / "uniprot_sprot.dat.gz").stat().st_size / 2**20),
            "s": round(time.perf_counter() - started, 1),
            "processor_s": round(usage.ru_utime + usage.ru_stime, 1),
            "peak_mib": peak[0],
            "source": json.loads((out / "source" / "source.json").read_text())["splits"],
            "load": round(os.getloadavg()[0], 1),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
