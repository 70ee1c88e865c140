"""Errors that are for the person who made the mistake."""


class InputError(ValueError):
    """Wrong use or missing input: the message says what was wrong, where, and what to do.

    The command line prints the message alone (no traceback) and exits with code 2.
    """
