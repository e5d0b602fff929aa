"""Maps from features to embeddings, and the nearest-neighbour graphs that some of them need."""

from setclip_cli.encoders.base import Encoder, encoder_from_description, nested_widths, rows_kept
from setclip_cli.encoders.combined import Concatenated, MeanShift, side_by_side
from setclip_cli.encoders.fitted import GraphMap, KernelMap, LinearMap, PoolMap, RelativeMap
from setclip_cli.encoders.heads import Composed, ProjectionHead
from setclip_cli.encoders.start import ResidualHead, UnitRows, WithStart
from setclip_cli.encoders.transform import FeatureTransform

__all__ = [
    "Composed",
    "Concatenated",
    "Encoder",
    "FeatureTransform",
    "GraphMap",
    "KernelMap",
    "LinearMap",
    "MeanShift",
    "PoolMap",
    "ProjectionHead",
    "RelativeMap",
    "ResidualHead",
    "UnitRows",
    "WithStart",
    "encoder_from_description",
    "nested_widths",
    "rows_kept",
    "side_by_side",
]
