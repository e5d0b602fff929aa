"""From raw files to a DATASET: readers, splits, duplicates, known pairs, and the work that survives a kill."""
