"""The DATASET behind EMBEDDINGS, where texts and pictures of their rows are; nothing here needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from setclip_cli.console import note
from setclip_cli.dataset.dataset import open_dataset
from setclip_cli.embedding.embeddings import INDEX_NAME
from setclip_cli.errors import SetClipError, argument
from setclip_cli.files.what_is import what_is
from setclip_cli.remote.copies import local_path

if TYPE_CHECKING:
    from setclip_cli.dataset.dataset import Dataset, Shard
    from setclip_cli.embedding.embeddings import EmbeddedShard, Embeddings


def dataset_of(embeddings: Embeddings, data: Path | None, *, needed: bool) -> Dataset | None:
    """The DATASET that was embedded: where the user says, or where embeddings.json says, if it is still there."""
    try:
        root = data or local_path(embeddings.index.dataset)
    except SetClipError as error:
        if needed:
            raise
        note(f"note: {error.problem}; {embeddings.root / INDEX_NAME} names it, so only ids and labels are shown")
        return None
    found = what_is(root)
    if found.kind == "dataset":
        return open_dataset(root)
    if data is not None:
        raise SetClipError(
            f"{root}: {found.words}",
            fix=f"give {argument('data')} the path of the DATASET that was embedded; it was in "
            f"{embeddings.index.dataset}",
        )
    problem = f"{root}: {found.words}; {embeddings.root / INDEX_NAME} names it as the DATASET that was embedded"
    if needed:
        moved = f"if the DATASET was moved, give its new path with {argument('data')}"
        raise SetClipError(problem, fix=f"{moved}; else put it back")
    note(f"note: {problem}, so only ids and labels are shown. If it was moved, give its new path with --data")
    return None


def source_shard(dataset: Dataset, shard: EmbeddedShard) -> Shard:
    """The shard of the DATASET that was embedded. Raises SetClipError if it is not there, or has changed."""
    for source in dataset.index.shards:
        if source.path == shard.path and source.sha256 == shard.input_sha256:
            return source
    raise SetClipError(
        f"{dataset.root}: does not hold the {shard.path} that was embedded",
        fix=f"name the DATASET that was embedded with {argument('data')}, or embed again",
    )
