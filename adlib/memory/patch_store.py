"""The patches of a whole training set while a coreset is chosen from them: in memory, or on disk where they exceed it.

MIIC's 23,888 training images have 18.7 million patches of 1024 values, 77 GB. Choosing needs only their projection
to a few dimensions; whole patches are needed once, for those that are chosen.
"""

import re
import tempfile
from pathlib import Path

import numpy as np
import torch

from adlib.errors import InputError

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
WORKING_SHARE = 1.65  # memory that choosing takes, in sizes of what is chosen from: measured by benchmarks/coreset.py


def parse_bytes(text: str, name: str = "memory") -> int:
    """ "8GB" -> 8_000_000_000. Raises InputError for anything else than a number and a unit, naming the parameter."""
    match = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]*)\s*", str(text))
    if not match or match[2].upper() not in UNITS:
        raise InputError(f"{name}={text!r} is not a size: write it as '8GB' or '512MiB'.")
    return int(float(match[1]) * UNITS[match[2].upper()])


class PatchStore:
    """`count` patches of `size` values that are added batch by batch, and their projections float32 [count, P].

    limit: bytes of main memory, None for no limit. What exceeds it is kept in a temporary file, in half precision
        (relative rounding of 0.0005): patches first, and if they alone exceed it the projections too.
    project: patches float32 [n, size] -> float32 [n, P] on the device where the coreset is chosen.
    """

    def __init__(self, count: int, size: int, projected: int, limit: int | None, project):
        self.folder = tempfile.TemporaryDirectory(prefix="adlib-patches-")
        self.project, self.filled = project, 0
        left = float("inf") if limit is None else limit
        needed = 4 * count * projected * WORKING_SHARE
        self.shard_rows = count if needed <= left else max(1, int(left / (4 * projected * WORKING_SHARE)))
        self.projections = self._array("projections", (count, projected), np.float32, needed <= left)
        in_memory = needed + 4 * count * size <= left
        self.patches = self._array("patches", (count, size), np.float32 if in_memory else np.float16, in_memory)
        self.on_disk = not in_memory

    def _array(self, name: str, shape: tuple[int, int], precision, in_memory: bool) -> np.ndarray:
        if in_memory:
            return np.empty(shape, precision)
        return np.memmap(Path(self.folder.name) / name, precision, "w+", shape=shape)

    def add(self, patches: torch.Tensor) -> None:
        """Append float32 [n, size]."""
        rows = slice(self.filled, self.filled + len(patches))
        self.projections[rows] = self.project(patches).cpu().numpy()
        self.patches[rows] = patches.cpu().numpy()
        self.filled = rows.stop

    def trim(self) -> None:
        """Give up the room that was not filled."""
        self.projections, self.patches = self.projections[: self.filled], self.patches[: self.filled]
        self.shard_rows = min(self.shard_rows, max(1, self.filled))

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """The patches of these rows, float32 [len(rows), size]."""
        order = np.argsort(rows.numpy())  # a disk is read forward
        taken = np.empty((len(rows), self.patches.shape[1]), np.float32)
        taken[order] = self.patches[rows.numpy()[order]]
        return torch.from_numpy(taken)

    def close(self) -> None:
        """Forget the patches and delete their files."""
        del self.projections, self.patches
        self.folder.cleanup()
