"""Foreground: which patches of an image show the object, by the first principal component of its features.

As AnomalyDINO reads DINOv2's tokens (Damm, Laszkiewicz, Lederer, Fischer, WACV 2025, arXiv 2405.14529): the tokens of
object and background lie apart along the direction in which they vary most. Which end is the object, the middle of the
image tells.
"""

import torch
import torch.nn.functional as F


def foreground(patches: torch.Tensor, grid: tuple[int, int], threshold: float = 10.0) -> torch.Tensor:
    """bool [B, h * w]: the patches of the object. patches: float [B, h * w, D] of a grid of h x w.

    threshold: of the component, in units of the features; 10 suits DINOv2's tokens. Holes of one patch are filled, and
    the outline grows by one patch.
    """
    centred = (patches - patches.mean(1, keepdim=True)).float()
    direction = torch.linalg.svd(centred, full_matrices=False).Vh[:, 0]
    component = torch.einsum("bnd,bd->bn", centred, direction).view(-1, 1, *grid)
    # A singular vector's sign is arbitrary: make it the same on every machine, the larger swing upwards.
    swing = component.amax((2, 3)) + component.amin((2, 3))
    component = component * torch.where(swing < 0, -1.0, 1.0)[..., None, None]
    above, below = component > threshold, -component > threshold
    rows, columns = (slice(int(0.2 * side), max(int(0.2 * side) + 1, int(0.8 * side))) for side in grid)
    middle = above[..., rows, columns].float().mean((1, 2, 3), keepdim=True)
    mask = torch.where(middle <= 0.35, below, above).float()
    mask = F.max_pool2d(mask, 3, 1, 1)  # grow
    mask = -F.max_pool2d(-F.max_pool2d(mask, 3, 1, 1), 3, 1, 1)  # close
    return mask.flatten(1) > 0
