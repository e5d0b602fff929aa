"""The DATASET on disk: Parquet shards of unpaired rows and their index; its check and its description."""
