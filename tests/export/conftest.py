"""Loading an exported model in a process that has no setclip."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_LOADER = """
import json, pickle, sys
from pathlib import Path
import numpy as np
try:
    import setclip_cli
except ImportError:
    pass
else:
    raise SystemExit("setclip can be imported here")
from sentence_transformers import SentenceTransformer
for place in sys.argv[1:]:
    job = pickle.loads(Path(place).read_bytes())
    model = SentenceTransformer(job["folder"], device="cpu", trust_remote_code=job["trusted"])
    found = {name: model.encode(items, **more) for name, (items, more) in job["calls"].items()}
    np.savez(place + ".npz", **found)
"""
Call = tuple[list[Any], dict[str, Any]]


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[dict[str, Any]]]:
    """Loads exported models in one process without setclip, and encodes items there.

    Each job is a folder, whether to trust its code, and by name the items and arguments of one call of ``encode``.
    """
    nowhere = tmp_path_factory.mktemp("nowhere")
    (nowhere / "setclip_cli").mkdir()
    (nowhere / "setclip_cli" / "__init__.py").write_text("raise ImportError('there is no setclip here')\n")

    def run(*jobs: tuple[Path, bool, dict[str, Call]]) -> list[dict[str, Any]]:
        places = []
        for number, (folder, trusted, calls) in enumerate(jobs):
            place = nowhere / f"{number}.pickle"
            place.write_bytes(pickle.dumps({"folder": str(folder), "trusted": trusted, "calls": calls}))
            places.append(str(place))
        environment = {**os.environ, "PYTHONPATH": str(nowhere), "HF_MODULES_CACHE": str(nowhere / "hf")}
        done = subprocess.run(
            [sys.executable, "-c", _LOADER, *places], env=environment, cwd=nowhere, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return [dict(np.load(f"{place}.npz")) for place in places]

    return run
