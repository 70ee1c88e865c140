"""Own images: a second, self-supervised task on normal images of the user's, without any label.

Two photographs of one crop differ in light, noise, blur and channel order, but show the same places: their features
must agree place by place, vary over places, and not repeat one another over channels. That is the objective of Bardes,
Ponce, LeCun, "VICReg", ICLR 2022, arXiv 2105.04906, with its weights (25, 25, 1), on the cells of a feature map instead
of on whole images (as in "VICRegL", arXiv 2210.01571, whose crops differ in place, ours do not). Without its expander
network: it is the features themselves that detectors read.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from adlib.errors import InputError
from adlib.images import ImageSet
from adlib.samples import select


class OwnImages:
    """Batches of crops of the images below a folder, and the loss on them.

    folder: as `load_samples("folder", folder)` reads it; without train/ and test/ folders, all images below it.
    trainee: adlib.pretrain.training.Trainee. size: side of a crop in pixels. count: crops per step, a quarter of the
        batch of collages. weight: of this loss beside the cross-entropy of the collages.
    """

    def __init__(self, folder, trainee, size: int, batch_size: int, seed: int, weight: float = 0.05):
        self.images = ImageSet(normal_images(folder), size=2 * size)
        self.trainee, self.size, self.weight = trainee, size, weight
        self.count = max(2, batch_size // 4)
        self.rng = np.random.default_rng([seed, 11])

    def loss(self) -> torch.Tensor:
        """The loss of fresh crops, over all feature maps. A scalar."""
        device = self.trainee.mean.device
        crops = torch.stack([self._crop() for _ in range(self.count)]).to(device)
        both = torch.cat([self._photograph(crops), self._photograph(crops)])
        maps = self.trainee.maps(both)
        return self.weight * sum(agreement_loss(*stage.float().chunk(2)) for stage in maps) / len(maps)

    def _crop(self) -> torch.Tensor:
        image = self.images.pixels(int(self.rng.integers(len(self.images))))
        top, left = self.rng.integers(0, self.size + 1, 2)
        crop = image[:, top : top + self.size, left : left + self.size]
        return crop.flip(-1) if self.rng.random() < 0.5 else crop

    def _photograph(self, crops: torch.Tensor) -> torch.Tensor:
        """Another gain and offset per image and channel, noise, and for half of the images a slight blur."""
        count = len(crops)

        def draw(sigma: float, *shape: int) -> torch.Tensor:
            return torch.from_numpy(self.rng.normal(0, sigma, (count, *shape)).astype(np.float32)).to(crops)

        seen = crops * draw(0.15, 3, 1, 1).exp() + draw(0.04, 3, 1, 1)
        blurred = F.avg_pool2d(F.pad(seen, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        seen = torch.where(draw(1, 1, 1, 1) > 0, seen, blurred)
        return (seen + draw(0.02, *crops.shape[1:])).clamp(0, 1)


def normal_images(folder: str | Path):
    """The normal training samples of a folder of one's own."""
    from adlib.datasets import load_samples

    folder = Path(folder).expanduser()
    samples = load_samples("folder", folder)
    normal = select(samples, split="train")
    normal = normal[normal["label"] == 0]
    if normal.empty:
        raise InputError(f"{folder} has no normal training image; put them into {folder / 'train' / 'good'}.")
    return normal.reset_index(drop=True)


def agreement_loss(first: torch.Tensor, second: torch.Tensor, places: int = 2048) -> torch.Tensor:
    """VICReg's loss over the cells of two feature maps float [B, C, h, w] of the same places. A scalar.

    places: cells that are compared, evenly chosen: the covariance needs some, not all.
    """
    first, second = (maps.permute(0, 2, 3, 1).flatten(0, 2) for maps in (first, second))  # [cells, C]
    step = max(1, len(first) // places)
    first, second = first[::step], second[::step]
    channels = first.shape[1]
    spread = covariance = 0.0
    for cells in (first, second):
        centred = cells - cells.mean(0)
        deviation = (centred.var(0) + 1e-4).sqrt()
        spread = spread + F.relu(1 - deviation).mean() / 2
        products = centred.T @ centred / (len(cells) - 1)
        off_diagonal = products.square().sum() - products.diagonal().square().sum()
        covariance = covariance + off_diagonal / channels
    return 25 * F.mse_loss(first, second) + 25 * spread + covariance
