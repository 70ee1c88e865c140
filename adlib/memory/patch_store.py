"""The patches of a whole training set while a coreset is chosen from them: in memory, or on disk where they exceed it.

MIIC's 23,888 training images have 18.7 million patches of 1024 values, 77 GB. Choosing needs only their projection
to a few dimensions; whole patches are needed once, for those that are chosen.
"""

import math
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

from adlib.errors import InputError
from adlib.memory.unfinished import Unfinished

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
LONGEST_NUMBER = 30  # characters of the number in a size
WORKING_SHARE = 1.65  # memory that choosing takes, in sizes of what is chosen from: measured by benchmarks/coreset.py


def parse_bytes(text: str, name: str = "memory") -> int:
    """ "8GB" -> 8_000_000_000. Raises InputError for anything else than a number and a unit, naming the parameter."""
    match = re.fullmatch(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*([A-Za-z]*)\s*", str(text))
    if not match or match[2].upper() not in UNITS or len(match[1]) > LONGEST_NUMBER:
        raise InputError(f"{name}={str(text)[:60]!r} is not a size: write it as '8GB' or '512MiB'.")
    return int(float(match[1]) * UNITS[match[2].upper()])


class PatchStore:
    """`count` patches of `size` values that are added batch by batch, and their projections float32 [count, P].

    limit: bytes of main memory, None for no limit. What exceeds it is kept in files, in half precision (relative
        rounding of 0.0005): patches first, and if they alone exceed it the projections too.
    project: patches float32 [n, size] -> float32 [n, P] on the device where the coreset is chosen.
    unfinished: with a file, what lies on disk lies beside it and survives the process: a store for the same
        computation begins with what the last note says was there. Without one, files are temporary and without a name,
        so that a killed process leaves none.
    images: how many images the patches are of, those of an earlier process among them.
    Raises InputError where the disk has no room for the files.
    """

    def __init__(
        self, count: int, size: int, projected: int, limit: int | None, project, unfinished: Unfinished | None = None
    ):
        self.project, self.filled, self.images = project, 0, 0
        self.noted = (unfinished or Unfinished(None)).part("patches", count=count, size=size, projected=projected)
        left = float("inf") if limit is None else limit
        needed = 4 * count * projected * WORKING_SHARE
        self.shard_rows = count if needed <= left else max(1, int(left / (4 * projected * WORKING_SHARE)))
        self.on_disk = needed + 4 * count * size > left
        self.survives = self.on_disk and self.noted.file is not None
        self.files = []
        if self.survives:
            noted = self.noted.read()
            self.filled, self.images = noted.get("filled", 0), noted.get("images", 0)
        self.patches = self._array("values", (count, size), np.float16 if self.on_disk else np.float32, self.on_disk)
        exceeds = needed > left or self.survives
        self.projections = self._array("projections", (count, projected), np.float32, exceeds)

    def _array(self, name: str, shape: tuple[int, int], precision, in_file: bool) -> np.ndarray:
        if not in_file:
            return np.empty(shape, precision)
        there, needed = self.filled > 0, math.prod(shape) * np.dtype(precision).itemsize
        if not self.survives:
            self._need_room(Path(tempfile.gettempdir()), needed)
            return np.memmap(tempfile.TemporaryFile(), precision, "w+", shape=shape)
        file = self.noted.part(name).file
        file.parent.mkdir(parents=True, exist_ok=True)
        self.files.append(file)
        if there and not (file.exists() and file.stat().st_size == needed):
            raise InputError(f"{file} is missing or cut off: delete {self.noted.file}, to start anew.")
        if not there:
            self._need_room(file.parent, needed)
        return np.memmap(file, precision, "r+" if there else "w+", shape=shape)

    @staticmethod
    def _need_room(folder: Path, needed: int) -> None:
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise InputError(
                f"The patches beyond memory take {needed / 1e9:.1f} GB on disk, and {folder} has {free / 1e9:.1f}: "
                "make room there, choose another folder, or use smaller images."
            )

    def add(self, patches: torch.Tensor, images: int = 0) -> None:
        """Append float32 [n, size], the patches of so many images."""
        rows = slice(self.filled, self.filled + len(patches))
        self.projections[rows] = self.project(patches).cpu().numpy()
        self.patches[rows] = patches.cpu().numpy()
        self.filled, self.images = rows.stop, self.images + images
        if self.survives and self.noted.due:
            self.note()

    def note(self) -> None:
        """Note what is there for a process that goes on, if files survive this one."""
        if self.survives:
            self.patches.flush()
            self.projections.flush()
            self.noted.note(filled=self.filled, images=self.images)

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
        for file in (*self.files, *([self.noted.file] if self.survives else [])):
            file.unlink(missing_ok=True)
