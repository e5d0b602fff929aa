"""Folders and files that are not on this machine: how they are named, read and written whole."""
