"""The command line `adlib`: thin, over the library."""

from adlib.cli.commands import app, main

__all__ = ["app", "main"]
