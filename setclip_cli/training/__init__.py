"""From a recipe and a DATASET to a RUN: the data of a step, the step, the loop around it."""
