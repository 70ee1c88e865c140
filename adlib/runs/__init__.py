"""Runs: one cell of work each, planned, executed as a notebook by papermill, and kept in a store."""

from adlib.runs.record import Recorder
from adlib.runs.run import Run
from adlib.runs.store import Store

__all__ = ["Recorder", "Run", "Store"]
