"""From a RUN and a DATASET to EMBEDDINGS, shard by shard, and the search over them."""
