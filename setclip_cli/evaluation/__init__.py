"""From RUNs or EMBEDDINGS and a DATASET to a REPORT: what counts as a match, the metrics, the page."""
