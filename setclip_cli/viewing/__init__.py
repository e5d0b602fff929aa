"""EMBEDDINGS as an interactive map in the browser."""
