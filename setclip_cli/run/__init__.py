"""The RUN on disk: the trained model, its card, its checkpoints, and whether a command may write there."""
