"""Synthetic images: a torch Dataset that puts synthetic anomalies into the normal images of a set."""

from collections.abc import Callable

import numpy as np
import torch
from torch.utils.data import Dataset

from adlib.errors import InputError
from adlib.images import ImageSet

Synthesiser = Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]


class SyntheticImages(Dataset):
    """The images of a set, a share of the normal ones with a synthetic anomaly.

    images: an ImageSet. Its anomalous images, if it has any, keep their own picture and mask.
    synthesiser: a function (image float32 [H, W, 3] in [0, 1], rng) -> (image, mask bool [H, W]).
    probability: of an attempt on a normal image. One that leaves an empty mask leaves the image normal.
    keep_normal: items also carry "normal", the image before synthesis, for methods that learn to restore it.

    Item: {"image": float32 [3, H, W] in [0, 1], "mask": bool [H, W], "label": int, "index": int}; the label is 1 where
    the mask has a pixel (for the set's own anomalous images, as the set says).

    Item i of epoch e depends on (seed, e, i) alone: not on the number of loader workers, nor on the order of access;
    workers never repeat one another. Call set_epoch before iterating over the loader; it also reaches workers that
    persist from epoch to epoch. Without it every epoch is the same.
    """

    def __init__(
        self,
        images: ImageSet,
        synthesiser: Synthesiser,
        probability: float = 0.5,
        seed: int = 0,
        keep_normal: bool = False,
    ):
        if not 0 <= probability <= 1:
            raise InputError(f"probability={probability} must lie in 0..1.")
        if seed < 0:
            raise InputError(f"seed={seed} must not be negative.")
        self.images = images
        self.synthesiser = synthesiser
        self.probability = probability
        self.seed = seed
        self.keep_normal = keep_normal
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # persistent workers keep a copy of self

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, 0 and up, whose anomalies are drawn next."""
        if epoch < 0:
            raise InputError(f"epoch={epoch} must not be negative.")
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        item = self.images[index]
        if self.keep_normal:
            item["normal"] = item["image"]
        rng = np.random.default_rng([self.seed, self.epoch, item["index"]])
        if item["label"] == 0 and rng.random() < self.probability:
            image, mask = self.synthesiser(np.ascontiguousarray(item["image"].permute(1, 2, 0).numpy()), rng)
            item["image"] = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32))
            item["mask"] = torch.from_numpy(mask)
            item["label"] = int(mask.any())
        return item
