"""Synthetic images: a torch Dataset that puts synthetic anomalies into the normal images of a set."""

from collections.abc import Callable

import numpy as np
import torch

from adlib.errors import InputError
from adlib.images import ImageSet
from adlib.synthesis.seeded_items import SeededItems

Synthesiser = Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]


class SyntheticImages(SeededItems):
    """The images of a set, a share of the normal ones with a synthetic anomaly.

    images: an ImageSet. Its anomalous images, if it has any, keep their own picture and mask.
    synthesiser: a function (image float32 [H, W, 3] in [0, 1], rng) -> (image, mask bool [H, W]).
    probability: of an attempt on a normal image. One that leaves an empty mask leaves the image normal.
    keep_normal: items also carry "normal", the image before synthesis, for methods that learn to restore it.

    Item: {"image": float32 [3, H, W] in [0, 1], "mask": bool [H, W], "label": int, "index": int}; the label is 1 where
    the mask has a pixel (for the set's own anomalous images, as the set says).

    Item i of epoch e depends on (seed, e, i) alone: call set_epoch before iterating over the loader (SeededItems).
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
        super().__init__(seed)
        self.images = images
        self.synthesiser = synthesiser
        self.probability = probability
        self.keep_normal = keep_normal

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        item = self.images[index]
        if self.keep_normal:
            item["normal"] = item["image"]
        rng = self.draws(item["index"])
        if item["label"] == 0 and rng.random() < self.probability:
            image, mask = self.synthesiser(np.ascontiguousarray(item["image"].permute(1, 2, 0).numpy()), rng)
            item["image"] = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32))
            item["mask"] = torch.from_numpy(mask)
            item["label"] = int(mask.any())
        return item
