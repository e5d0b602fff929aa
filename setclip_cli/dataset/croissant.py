"""croissant.json: describes the DATASET in Croissant 1.0 JSON-LD, for catalogues and other programs.

Specification: Akhtar et al. 2024, arXiv:2403.19546; https://docs.mlcommons.org/croissant/docs/croissant-spec.html
Each modality is one record set over its shards. mlcroissant checks the file in a test but does not write it: it
would save the context alone, and bring rdflib, pandas and ten other packages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from setclip_cli.dataset.dataset import Dataset, open_dataset
from setclip_cli.dataset.modality import Modality
from setclip_cli.dataset.schemas import schema_of
from setclip_cli.files import atomic

if TYPE_CHECKING:
    from pathlib import Path

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_TYPES = {  # of vectors and times: sc:Float
    pa.string(): "sc:Text",
    pa.int32(): "sc:Integer",
    pa.binary(): "sc:ImageObject",
    pa.list_(pa.binary()): "sc:ImageObject",
}


def write_croissant(root: Path) -> Path:
    """Writes ``croissant.json`` into a finished DATASET and returns its path.

    Raises:
        SetClipError: the folder is not a finished DATASET.
    """
    path = root / "croissant.json"
    atomic.write_json(path, croissant(open_dataset(root)))
    return path


def croissant(dataset: Dataset) -> dict[str, Any]:
    """The description as JSON-LD. Title, licence and citation come from the manifests, if there are any."""
    manifests = dataset.index.manifests
    description: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": dataset.root.resolve().name or "dataset",
        "description": "; ".join(manifest["title"] for manifest in manifests)
        or f"Rows of {', '.join(dataset.modalities())} that setclip ingested",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "version": "1.0.0",
        "distribution": [_shard(shard.path, shard.bytes, shard.sha256) for shard in dataset.index.shards],
        "recordSet": [],
    }
    if manifests:
        description["url"] = manifests[0]["homepage"]
        description["license"] = [manifest["licence"] for manifest in manifests]
        description["citeAs"] = "; ".join(manifest["paper"] for manifest in manifests)
    for modality in dataset.modalities():
        description["distribution"].append(_file_set(modality))
        description["recordSet"].append(_record_set(dataset, modality))
    return description


def _shard(path: str, size: int, sha256: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": path,
        "contentUrl": path,
        "contentSize": f"{size} B",
        "encodingFormat": "application/x-parquet",
        "sha256": sha256,
    }


def _file_set(modality: Modality) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{modality}-shards",
        "name": f"{modality}-shards",
        "encodingFormat": "application/x-parquet",
        "includes": f"{modality}/*.parquet",
    }


def _record_set(dataset: Dataset, modality: Modality) -> dict[str, Any]:
    about = dataset.about(modality)
    return {
        "@type": "cr:RecordSet",
        "@id": modality,
        "name": modality,
        "description": f"One {modality} a row; row order means nothing",
        "key": {"@id": f"{modality}/id"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{modality}/{column.name}",
                "name": f"{modality}/{column.name}",
                "dataType": _TYPES.get(column.type, "sc:Float"),
                "source": {"fileSet": {"@id": f"{modality}-shards"}, "extract": {"column": column.name}},
                **({"repeated": True} if pa.types.is_nested(column.type) else {}),
            }
            for column in schema_of(about.kind, about)
        ],
    }
