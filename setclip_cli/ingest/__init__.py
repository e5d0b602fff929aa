"""From raw files to a DATASET: readers, splits, duplicates, known pairs, and continuing after a kill."""
