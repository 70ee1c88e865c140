"""From scores on a feature grid to an anomaly map at image size."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F


def upsample(scores: torch.Tensor, size: tuple[int, int], enlargement: str = "bilinear") -> torch.Tensor:
    """float [B, h, w] -> [B, H, W], bilinear (align_corners=False), or "nearest"."""
    if enlargement == "nearest":
        return F.interpolate(scores[:, None], size=size, mode="nearest")[:, 0]
    return F.interpolate(scores[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def smooth(maps: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of float [B, H, W]; sigma in pixels, 0 leaves the maps as they are. Returns a CPU tensor.

    As scipy.ndimage.gaussian_filter with its defaults, which the official codes of PatchCore, PaDiM and others
    call: kernel cut at 4 sigma, mirrored border with the edge pixel repeated.
    """
    maps = maps.float().cpu()
    if sigma == 0:
        return maps
    width = 2 * round(4 * sigma) + 1
    blurred = [cv2.GaussianBlur(one, (width, width), sigma, borderType=cv2.BORDER_REFLECT) for one in maps.numpy()]
    return torch.from_numpy(np.stack(blurred))
