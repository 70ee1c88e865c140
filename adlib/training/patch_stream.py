"""Patch stream: what mixed supervision learns from, patches from an HDF5 file with real defects strewn in.

As ISP-AD has it (Krassnig and Gruber, arXiv 2503.04997, sections 3.2, 4.1 and 5.2): normal and synthetic patches in
equal number, already augmented on disk, each of which is replaced by an augmented real defect with a small probability.
Pictures are read one by one when they are asked for, so a stream takes the same memory for a hundred patches and for
200 000, and any number of loader workers may read it.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch

from adlib import hdf5
from adlib.datasets import isp_ad
from adlib.errors import InputError
from adlib.images import ImageSet, image_shape
from adlib.synthesis import RandomWalk
from adlib.synthesis.seeded_items import SeededItems

BALANCE = 0.5  # share of normal patches that get a synthetic defect, where no synthetic ones are on disk

# Samples


def supervised_part(samples: pd.DataFrame) -> pd.DataFrame:
    """Samples of ISP-AD with the supervised part as training images, for every modality that has it on disk.

    samples: of the unsupervised part, as adlib.datasets.isp_ad reads it. A modality whose folder holds an HDF5 file is
    trained on that file's patches (labelled by its dataset "labels" if there is one, else by their masks) and on the
    real defects in real_defects/<kind> beside it, no longer on the unsupervised part's normal images.
    Raises InputError for two such files in one folder, and for what isp_ad's readers refuse.
    """
    parts = []
    for category, rows in samples.groupby("category", sort=False):
        folder = Path(rows["image"].iloc[0]).parents[2]  # <modality>/train/good/000.png
        files = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in hdf5.SUFFIXES]
        if not files:
            parts.append(rows)
            continue
        if len(files) > 1:
            raise InputError(f"{folder} holds {len(files)} HDF5 files of supervised patches: keep one of them there.")
        labels = "labels" if "labels" in hdf5.describe(files[0]) else None
        patches = isp_ad.supervised_samples(folder, files[0].name, labels_key=labels, category=category)
        parts += [rows[rows["split"] != "train"], patches]
        if (folder / isp_ad.REAL_FOLDER).is_dir():
            parts.append(isp_ad.real_defects(folder / isp_ad.REAL_FOLDER, category))
    return pd.concat(parts, ignore_index=True)


# Pictures


@dataclass(frozen=True)
class Augmentation:
    """A random affine transformation about the centre, then contrast and brightness; the defaults are LSM-1's.

    rotation, shear: degrees to either side. scale, brightness, contrast: factors (lowest, highest). flips: mirror each
    axis, or not, with equal probability. share: of the pictures that are transformed; the paper says 80 to 95 %.
    """

    rotation: float = 45.0
    scale: tuple[float, float] = (0.9, 1.1)
    shear: float = 10.0
    flips: bool = True
    brightness: tuple[float, float] = (0.75, 1.25)
    contrast: tuple[float, float] = (0.75, 1.25)
    share: float = 0.9

    def __call__(
        self,
        picture: np.ndarray,
        shape: tuple[int, int],
        rng: np.random.Generator,
        shift: tuple[float, float] = (0.0, 0.0),
    ) -> np.ndarray:
        """float32 [h, w, 3] in [0, 1] -> float32 [H, W, 3]: the middle of the picture, transformed, at the same scale.

        shape: (H, W). shift: up to so many pixels (x, y) off the centre lies the part that is cut out. Outside of the
        picture is its mirror image.
        """
        matrix = np.eye(2)  # from the picture's offsets (x, y) to those of the result
        if rng.random() < self.share:
            c, s = np.cos(turn := np.deg2rad(rng.uniform(-1, 1) * self.rotation)), np.sin(turn)
            lean = np.tan(np.deg2rad(rng.uniform(-1, 1) * self.shear))
            signs = rng.choice([-1.0, 1.0], 2) if self.flips else np.ones(2)
            matrix = np.array([[c, -s], [s, c]]) @ [[1, lean], [0, 1]] @ np.diag(signs * rng.uniform(*self.scale))
        back = np.linalg.inv(matrix)
        middle, target = (np.array([width - 1, height - 1]) / 2 for height, width in (picture.shape[:2], shape))
        middle = middle + np.rint(rng.uniform(-1, 1, 2) * shift)  # whole pixels: nothing is blurred by that
        move = np.column_stack([back, middle - back @ target])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        moved = cv2.warpAffine(picture, move, shape[::-1], flags=flags, borderMode=cv2.BORDER_REFLECT_101)
        contrast, brightness, mean = rng.uniform(*self.contrast), rng.uniform(*self.brightness), float(moved.mean())
        return ((mean + contrast * (moved - mean)) * brightness).clip(0, 1).astype(np.float32)


# Table 8 of the paper; "none" leaves pictures as they are.
AUGMENTATIONS = {
    "LSM-1": Augmentation(),
    "LSM-2": Augmentation(shear=20.0),
    "ASM": Augmentation(rotation=10.0, scale=(1.0, 1.2), brightness=(1.0, 1.0), contrast=(1.0, 1.0)),
    "none": Augmentation(share=0.0, brightness=(1.0, 1.0), contrast=(1.0, 1.0)),
}


class PatchStream(SeededItems):
    """Patches with their labels, of which some are replaced by real defects.

    images: an ImageSet. patches: rows of its normal and synthetic patches, one item each. real: rows of real defects.
    probability: with which a patch, normal or synthetic, is replaced by a real defect.
    augmentation: of real defects.
    synthesise: draw synthetic defects into half of the patches, which are then all normal ones, by a random walk
        (adlib.synthesis.RandomWalk) and after the augmentation: the order in which the paper made those on disk.

    The picture of a real defect may be larger than a patch (in the paper 512 pixels, where a patch has 256, with the
    defect in the middle). It is shown at the patches' scale: a part of their size, up to a quarter off the centre.

    Item: {"image": float32 [3, H, W] in [0, 1], "label": float32, 1 for anomalous}. It depends on (seed, epoch, index)
    alone, not on the number of workers. Without set_epoch every epoch is the same.
    """

    def __init__(
        self,
        images: ImageSet,
        patches: np.ndarray,
        real: np.ndarray = (),
        probability: float = 0.0,
        augmentation: Augmentation = AUGMENTATIONS["none"],
        synthesise: bool = False,
        seed: int = 0,
    ):
        super().__init__(seed)
        self.images, self.patches, self.real = images, np.asarray(patches, int), np.asarray(real, int)
        self.probability = probability if len(self.real) else 0.0
        self.augmentation = augmentation
        self.walk = RandomWalk() if synthesise else None
        self.labels = images.labels

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, index: int) -> dict:
        rng = self.draws(index)
        if self.probability and rng.random() < self.probability:
            return _item(self._real_defect(int(self.real[rng.integers(len(self.real))]), rng), 1)
        row = int(self.patches[index])
        pixels, label = self.images.pixels(row), int(self.labels[row])
        if self.walk is None:
            return {"image": pixels, "label": np.float32(label)}
        picture = self.augmentation(_channels_last(pixels), self.images.shape, rng)
        if rng.random() < BALANCE:
            picture, mask = self.walk(picture, rng)
            label = int(mask.any())
        return _item(picture, label)

    def _real_defect(self, row: int, rng: np.random.Generator) -> np.ndarray:
        """float32 [H, W, 3]: the defect's picture at the patches' scale, augmented and cut out."""
        samples = self.images.samples
        patch = np.array(image_shape(samples["image"].iat[int(self.patches[0])]))
        stored = np.array(image_shape(samples["image"].iat[row]))
        size = tuple(int(side) for side in np.rint(stored * self.images.size / patch))
        whole = self.images.settings | {"size": size, "crop": None, "sides": "both"}
        picture = ImageSet(samples.iloc[[row]], **whole).pixels(0)
        shift = np.clip((np.array(size) - self.images.shape) / 2, 0, np.array(self.images.shape) / 4)
        return self.augmentation(_channels_last(picture), self.images.shape, rng, tuple(shift[::-1]))


def _channels_last(pixels: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())


def _item(picture: np.ndarray, label: int) -> dict:
    return {"image": torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))), "label": np.float32(label)}
