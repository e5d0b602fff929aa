"""Run by a test in a process without setclip: local tasks of mteb on an exported model; prints their scores as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mteb
from datasets import Dataset, DatasetDict
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.abstasks.zeroshot_classification import AbsTaskZeroShotClassification
from mteb.models import SentenceTransformerEncoderWrapper
from PIL import Image
from sentence_transformers import SentenceTransformer

world: dict[str, Any] = json.loads(Path(sys.argv[2]).read_text())
IMAGES = [Image.open(path).convert("RGB") for path in world["images"]]
ABOUT: dict[str, Any] = {
    "description": "local",
    "reference": None,
    "dataset": {"path": "local", "revision": "1"},
    "eval_splits": ["test"],
    "eval_langs": ["eng-Latn"],
    "date": ("2026-01-01", "2026-01-02"),
    "domains": [],
    "task_subtypes": [],
    "license": "cc-by-4.0",
    "annotations_creators": "derived",
    "dialect": [],
    "modalities": ["image", "text"],
    "sample_creation": "created",
    "bibtex_citation": "",
}


class LocalRetrieval(AbsTaskRetrieval):  # type: ignore[misc]
    metadata = TaskMetadata(
        name="LocalRetrieval", type="Any2AnyRetrieval", category="i2t", main_score="recall_at_1", **ABOUT
    )

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        numbers = range(len(IMAGES))
        data = RetrievalSplitData(
            queries=Dataset.from_dict({"id": [f"q{n}" for n in numbers], "image": IMAGES}),
            corpus=Dataset.from_dict({"id": [f"d{n}" for n in numbers], "text": world["texts"]}),
            relevant_docs={f"q{n}": {f"d{n}": 1} for n in numbers},
            top_ranked=None,
        )
        self.dataset = {"default": {"test": data}}
        self.data_loaded = True


class LocalZeroShot(AbsTaskZeroShotClassification):  # type: ignore[misc]
    metadata = TaskMetadata(
        name="LocalZeroShot", type="ZeroShotClassification", category="i2t", main_score="accuracy", **ABOUT
    )

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        rows = Dataset.from_dict({"image": IMAGES, "label": world["labels"]})
        self.dataset = DatasetDict({"test": rows})
        self.data_loaded = True

    def get_candidate_labels(self) -> list[str]:
        prompts: list[str] = world["prompts"]
        return prompts


model = SentenceTransformerEncoderWrapper(SentenceTransformer(sys.argv[1], device="cpu", trust_remote_code=True))
model.mteb_model_meta.modalities = ["image", "text"]  # as the docs say
found = mteb.evaluate(model, [LocalRetrieval(), LocalZeroShot()], cache=None, co2_tracker=False)
scores = {result.task_name: result.scores["test"][0] for result in found.task_results}
Path(sys.argv[3]).write_text(json.dumps(scores, default=str))
