"""Photographs: a folder of pictures to learn from, whole or in cuts."""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import torch

from adlib.errors import InputError
from adlib.file_hashes import file_hashes
from adlib.images import read_image
from adlib.synthesis.textures import SUFFIXES

SMALLEST = 96  # pixels of a cut's side: smaller ones are blurred when they are magnified


class Photographs:
    """The pictures anywhere below a folder.

    photographs(i, rng) -> a whole one, as PicturePairs asks for it: float32 [3, h, w] in [0, 1]; grey ones have three
        equal channels.
    cut(side, rng) -> a square of a random one: uint8 [side, side, 3] RGB.
    Raises InputError for a folder that is missing or holds no picture, and for an unreadable picture when it is read.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder).expanduser()
        if not folder.is_dir():
            raise InputError(f"There is no folder of photographs at {folder}.")
        self.files = sorted(
            file for file in folder.rglob("[!.]*") if file.suffix.lower() in SUFFIXES and file.is_file()
        )
        if not self.files:
            raise InputError(f"The folder {folder} holds no photographs ({', '.join(sorted(SUFFIXES))}).")
        self.folder = folder

    def __len__(self) -> int:
        return len(self.files)

    def __call__(self, index: int, rng: np.random.Generator) -> torch.Tensor:
        pixels = read_image(self.files[index])
        scaled = torch.from_numpy(pixels.astype(np.float32)) / np.iinfo(pixels.dtype).max
        return scaled.expand(3, -1, -1) if pixels.ndim == 2 else scaled.permute(2, 0, 1)

    def fingerprint(self) -> str:
        """16 hexadecimal digits of the files' names and contents: the same folder elsewhere has the same."""
        hashes = file_hashes(self.files)
        listing = [(file.relative_to(self.folder).as_posix(), hashes[str(file)]) for file in self.files]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]

    def cut(self, side: int, rng: np.random.Generator) -> np.ndarray:
        """A square of 96 pixels up to the shorter side, turned, mirrored and in other colours, at another size.

        A few photographs must serve for many: colours and brightness are changed as far as a camera, an X-ray or an
        electron microscope would see such shapes otherwise.
        """
        pixels = read_image(self.files[rng.integers(len(self.files))])
        if pixels.dtype == np.uint16:
            pixels = (pixels // 257).astype(np.uint8)
        shorter = min(pixels.shape[:2])
        length = int(np.exp(rng.uniform(np.log(min(SMALLEST, shorter)), np.log(shorter))))
        top, left = (rng.integers(0, full - length + 1) for full in pixels.shape[:2])
        square = np.rot90(pixels[top : top + length, left : left + length], rng.integers(4))
        if rng.random() < 0.5:
            square = square[:, ::-1]
        how = cv2.INTER_AREA if length > side else cv2.INTER_CUBIC
        square = cv2.resize(np.ascontiguousarray(square), (side, side), interpolation=how).astype(np.float32)
        if square.ndim == 2:
            square = np.repeat(square[..., None], 3, 2)

        if rng.random() < 0.5:
            square = square[..., rng.permutation(3)]
        if rng.random() < 0.2:
            square = np.repeat(square.mean(2, keepdims=True), 3, 2)
        square = 255 * (square / 255).clip(0, 1) ** np.exp(rng.uniform(-0.5, 0.5))
        square = square * rng.uniform(0.7, 1.2, 3) + rng.uniform(-20, 20, 3)
        if rng.random() < 0.15:
            square = 255 - square
        return square.clip(0, 255).astype(np.uint8)
