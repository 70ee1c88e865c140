"""From scores on a feature grid to an anomaly map at image size."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from adlib.errors import InputError


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
    if torch.jit.is_tracing():
        return convolved(maps, width, sigma, repeat_edge=True)
    blurred = [cv2.GaussianBlur(one, (width, width), sigma, borderType=cv2.BORDER_REFLECT) for one in maps.numpy()]
    return torch.from_numpy(np.stack(blurred))


def convolved(maps: torch.Tensor, width: int, sigma: float, repeat_edge: bool) -> torch.Tensor:
    """OpenCV's Gaussian blur of float [B, H, W] by torch alone, for graphs that leave Python (adlib.export).

    repeat_edge: whether the mirrored border repeats the edge pixel. Raises InputError for maps smaller than the border.
    """
    reach = width // 2
    if min(maps.shape[-2:]) <= reach:
        raise InputError(f"Maps of {tuple(maps.shape[-2:])} pixels are too small for a blur of {sigma} pixels.")
    kernel = torch.from_numpy(cv2.getGaussianKernel(width, sigma, cv2.CV_32F)).to(maps)
    first = 0 if repeat_edge else 1
    for _ in range(2):  # along the width, then along the height
        before = maps[..., first : first + reach].flip(-1)
        after = maps[..., maps.shape[-1] - reach - first : maps.shape[-1] - first].flip(-1)
        padded = torch.cat([before, maps, after], -1)[:, None]
        maps = F.conv2d(padded, kernel.view(1, 1, 1, width))[:, 0].transpose(1, 2)
    return maps
