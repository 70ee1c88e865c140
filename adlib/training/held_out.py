"""Held-out images: the share of the training images that chooses an epoch (STFPM, RIAD) or a scale (EfficientAD)."""

import numpy as np
from sklearn.model_selection import train_test_split

from adlib.images import ImageSet
from adlib.samples import count_items, draw_share, items


def hold_out(images: ImageSet, share: float, seed: int) -> tuple[ImageSet, ImageSet | None]:
    """The images without a random share of them, and that share: None if it would be all or nothing.

    The images of an item, and a picture and its mirrored copies, lie on one side.
    """
    if share == 0 or count_items(images.samples) < 2:
        return images, None
    if items(images.samples) is None:
        rows = train_test_split(range(len(images)), test_size=share, random_state=seed)
    else:
        held = set(draw_share(images.samples, share, np.random.default_rng(seed)))
        rows = [row for row in range(len(images)) if row not in held], held
    return tuple(ImageSet(images.samples.iloc[sorted(part)], cache=images.cache, **images.settings) for part in rows)
