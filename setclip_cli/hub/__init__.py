"""A RUN on a model hub: pushed, pulled, and named by other commands."""
