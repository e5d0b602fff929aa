"""The losses: pure functions of tensors, one term a file, and the one kernel sum that they share."""
