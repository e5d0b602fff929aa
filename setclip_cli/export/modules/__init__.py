"""Module files that `setclip export` puts beside a model, for what sentence-transformers has no modules for.

Each file is copied as it is and loads without setclip: it imports nothing of ours.
"""
