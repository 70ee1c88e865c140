"""Frozen features: what a backbone says of each training image, computed once for a training of many epochs.

A training without augmentation shows a frozen backbone the same images in every epoch and gets the same answers.
Keeping them saves the backbone's whole work from the second epoch on.
"""

import math

import torch
from torch.utils.data import Dataset

from adlib.detector import Detector
from adlib.errors import InputError
from adlib.images import ImageSet


class FrozenFeatures(Dataset):
    """The feature maps of a set's images, in main memory. Item: a tuple of float32 [C, h, w], one per stage.

    A DataLoader makes of them a list of float32 [B, C, h, w], as the backbone itself would.
    """

    def __init__(self, detector: Detector, images: ImageSet, progress: bool):
        self.images = images
        self.stages: list[torch.Tensor] = []
        # A DataLoader draws a random number: the training's own should not depend on where its features come from.
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for start, batch in detector.batches(images, 8, progress, "features"):
                for level, features in enumerate(detector.backbone_(batch)):
                    if start == 0:
                        self.stages.append(torch.empty(len(images), *features.shape[1:]))
                    self.stages[level][start : start + len(batch)] = features.cpu()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        return tuple(stage[index] for stage in self.stages)


def frozen_features(
    detector: Detector, images: ImageSet, limit_gib: float, progress: bool
) -> FrozenFeatures | ImageSet:
    """The images' features where they fit into limit_gib of memory, else the images as they are.

    A loss that is trained on the result tells a list of features from a tensor of images: see `features_of`.
    """
    backbone = detector.backbone_
    positions = [math.prod(-(-side // stride) for side in images.shape) for stride in backbone.strides]
    values = len(images) * sum(math.prod(pair) for pair in zip(backbone.channels, positions, strict=True))
    return FrozenFeatures(detector, images, progress) if 4 * values <= limit_gib * 2**30 else images


def features_of(detector: Detector, batch: torch.Tensor | list[torch.Tensor]) -> list[torch.Tensor]:
    """The feature maps of a batch, whether it holds them already or is of images float [B, 3, H, W].

    Always in convolutions' layout: by another one, what follows would be rounded otherwise.
    """
    features = detector.backbone_(batch) if isinstance(batch, torch.Tensor) else batch
    return [stage.contiguous(memory_format=torch.channels_last) for stage in features]


def check_shapes(features: list[torch.Tensor], shapes: list[tuple[int, int, int]]) -> None:
    """Raises InputError unless the feature maps have the shapes (C, h, w) that the detector was fitted on."""
    found = [tuple(stage.shape[1:]) for stage in features]
    if found != list(shapes):
        raise InputError(
            f"This detector was fitted on images that gave feature maps {list(shapes)}; these give {found}. "
            "Predict with the size and crop of the training images."
        )
