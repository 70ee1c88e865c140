"""`python -m adlib` is the command `adlib`."""

from adlib.cli import main

main()
