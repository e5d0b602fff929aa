"""From RUNs or EMBEDDINGS and a DATASET to a REPORT: right answers, metrics, baselines, gates and pages."""
