"""Maps from features to embeddings, and the nearest-neighbour graphs that some of them need."""
