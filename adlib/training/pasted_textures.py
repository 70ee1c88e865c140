"""Pasted textures: what DRAEM, DeSTSeg, CFRG, RealNet and GLASS share.

They learn from normal images into which a texture is pasted through irregular blobs (adlib.synthesis.TexturePaste). The
papers paste pictures of DTD (Cimpoi et al., CVPR 2014); where no folder is given, textures are drawn, which is our
substitute and which the detector warns of.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from adlib.detector import Detector
from adlib.images import ImageSet
from adlib.synthesis import SyntheticImages, texture_source

TEXTURES = "textures (DTD; drawn without)"  # what a pasting method takes besides normal images, for its Facts
FOREGROUNDS = ("all", "bright", "dark", "triangle")
DRAWN_TEXTURES = "Drawn textures: the pasted anomalies are filled with procedural textures, where the paper's are DTD."


class PastingDetector(Detector):
    """Base of the methods that paste textures. A subclass has the parameter `textures`: a folder's path, or None; and
    `synthetic_images`, from which both its training and adlib.report.training_preview draw.
    """

    texture_resizing = ("linear", "both")  # how the official code resizes a folder's pictures (adlib.synthesis)

    @property
    def warnings(self) -> list[str]:
        return super().warnings + ([DRAWN_TEXTURES] if self.textures is None else [])

    def texture_source(self):
        """The folder's pictures or drawn textures. Raises InputError for a folder that is missing, empty or flat.

        It is read when fit begins and not before, so that a saved model can be used where the folder is not.
        """
        return texture_source(self.textures, *self.texture_resizing)

    def synthetic_images(self, images: ImageSet, seed: int) -> SyntheticImages:
        """What a fit with this seed trains on, item for item: "image" as the network sees it, "mask", and "normal"."""
        raise NotImplementedError


def foreground_mask(image: np.ndarray, rule: str) -> np.ndarray:
    """Where the object is: float32 [H, W, 3] in [0, 1] -> bool [H, W].

    rule: one of FOREGROUNDS. "all" of the image; "bright" or "dark" side of Otsu's threshold of the grey values; the
    bright side of the "triangle" threshold. Gaps and specks of less than 6 pixels are closed and removed.
    """
    if rule == "all":
        return np.ones(image.shape[:2], bool)
    grey = cv2.cvtColor(np.rint(image * 255).astype(np.uint8), cv2.COLOR_RGB2GRAY)
    kind = cv2.THRESH_TRIANGLE if rule == "triangle" else cv2.THRESH_OTSU
    mask = (cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY | kind)[1] > 0) != (rule == "dark")
    mask, square = mask.astype(np.uint8), np.ones((6, 6), np.uint8)
    # An even square has no centre: the second step of each pair is mirrored, or the object would move by a pixel.
    mask = cv2.erode(cv2.dilate(mask, square, anchor=(3, 3)), square, anchor=(2, 2))
    return cv2.dilate(cv2.erode(mask, square, anchor=(3, 3)), square, anchor=(2, 2)) > 0


@dataclass(frozen=True)
class Turn:
    """Turns an image about its centre. Called as a synthesiser is, but returns the image alone.

    degrees: up to this many to either side. share: of the images that are turned at all.
    quarters: also by 0, 90, 180 or 270 degrees. fill: value, 0 to 1, of what comes in from outside.
    """

    degrees: float = 0.0
    share: float = 1.0
    quarters: bool = False
    fill: float = 0.0

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= self.share or not (self.degrees or self.quarters):
            return image
        angle = rng.uniform(-self.degrees, self.degrees) + (90 * rng.integers(4) if self.quarters else 0)
        height, width = image.shape[:2]
        turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1)
        return cv2.warpAffine(image, turn, (width, height), borderValue=(self.fill,) * 3)


class TurnedSyntheticImages(SyntheticImages):
    """SyntheticImages of which the normal image is turned first: "normal" and "image" of an item are turned alike."""

    def __init__(self, images: ImageSet, synthesiser, turn: Turn, probability: float, seed: int):
        super().__init__(images, synthesiser, probability, seed, keep_normal=True)
        self.images = _Turned(images, turn, seed, self._epoch)


class _Turned(Dataset):
    """The images of a set, turned. Item i of epoch e depends on (seed, e, i) alone; epoch: shared with the owner."""

    def __init__(self, images: ImageSet, turn: Turn, seed: int, epoch: torch.Tensor):
        self.images, self.turn, self.seed, self.epoch = images, turn, seed, epoch

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        item = self.images[index]
        rng = np.random.default_rng([self.seed, int(self.epoch), item["index"], 1])
        turned = self.turn(np.ascontiguousarray(item["image"].permute(1, 2, 0).numpy()), rng)
        # warpAffine may leave the range by a rounding error
        item["image"] = torch.from_numpy(np.ascontiguousarray(turned.clip(0, 1).transpose(2, 0, 1)))
        return item
