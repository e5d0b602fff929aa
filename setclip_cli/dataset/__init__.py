"""The DATASET on disk: Parquet shards of unpaired rows and their index; its verification and its description."""
