"""The best partners of all rows of a DATASET by a RUN, with a probability for each."""
