"""A look at a DATASET before it is used: wrong pairs, rows without a partner, copies of test rows in training."""
