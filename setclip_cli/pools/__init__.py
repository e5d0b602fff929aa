"""Both sides of a DATASET as tensors: frozen features, embeddings of a RUN, and the known pairs as rows of them."""

from setclip_cli.pools.pools import Pools, PoolSide, Towers, open_towers, read_pools
from setclip_cli.pools.towers import recipe_for

__all__ = ["PoolSide", "Pools", "Towers", "open_towers", "read_pools", "recipe_for"]
