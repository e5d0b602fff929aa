"""A RUN and its EMBEDDINGS behind HTTP: embed, search, match, and one page to search in."""
