"""What training reads of a DATASET: features of frozen backbones, raw rows of tuned ones, the choice of layers."""
