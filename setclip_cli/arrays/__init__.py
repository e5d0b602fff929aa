"""`setclip.fit` and `setclip.Aligner`: align, score and save matrices in memory, without a DATASET or a backbone."""
