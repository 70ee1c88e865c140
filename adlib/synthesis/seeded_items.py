"""Items that are drawn anew in every epoch, and yet the same in every run."""

import numpy as np
import torch
from torch.utils.data import Dataset

from adlib.errors import InputError


class SeededItems(Dataset):
    """Base of Datasets of which item i of epoch e depends on (seed, e, i) alone.

    Neither the number of loader workers matters nor the order of access, and workers never repeat one another. Call
    set_epoch before iterating over the loader; it also reaches workers that persist from epoch to epoch. Without it
    every epoch is the same.
    """

    def __init__(self, seed: int):
        if seed < 0:
            raise InputError(f"seed={seed} must not be negative.")
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # persistent workers keep a copy of self

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, 0 and up, whose items are drawn next."""
        if epoch < 0:
            raise InputError(f"epoch={epoch} must not be negative.")
        self._epoch.fill_(epoch)

    def draws(self, index: int) -> np.random.Generator:
        """The random numbers of an item in this epoch."""
        return np.random.default_rng([self.seed, self.epoch, index])
