"""The command line: it parses, calls and prints. Importing it loads no torch, so help is instant."""

from setclip_cli.cli.app import app, main

__all__ = ["app", "main"]
