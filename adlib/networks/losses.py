"""Losses of more than one method: structural similarity (DRAEM, RIAD), focal loss (DRAEM, AdaCLIP)."""

import torch
import torch.nn.functional as F


def structural_similarity(first: torch.Tensor, second: torch.Tensor, span: float | torch.Tensor = 1.0) -> torch.Tensor:
    """SSIM of float [B, C, H, W] twice: the mean over all pixels and channels, at most 1.

    span: L, between the lowest and the highest value that there can be.
    Gaussian window of 11 pixels, sigma 1.5, zeros past the border; C1 = (0.01 L)^2, C2 = (0.03 L)^2.
    """
    offsets = torch.arange(11, device=first.device, dtype=first.dtype) - 5
    line = torch.exp(-offsets.square() / (2 * 1.5**2))
    window = torch.outer(line, line) / line.sum() ** 2
    channels = first.shape[1]
    planes = torch.cat([first, second, first * first, second * second, first * second], 1)
    with torch.autocast(first.device.type, enabled=False):  # differences of squares need all their digits
        means = F.conv2d(planes, window.expand(5 * channels, 1, 11, 11), padding=5, groups=5 * channels)
    mean1, mean2, square1, square2, product = means.split(channels, 1)
    variance = square1 - mean1**2 + square2 - mean2**2
    covariance = product - mean1 * mean2
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    above = (2 * mean1 * mean2 + c1) * (2 * covariance + c2)
    return (above / ((mean1**2 + mean2**2 + c1) * (variance + c2))).mean()


def focal_loss(logits: torch.Tensor, mask: torch.Tensor, gamma: float = 2.0) -> torch.Tensor:
    """-(1 - p)^gamma log p, p the probability of the right class: logits [B, 2, H, W], mask bool [B, H, W] -> mean.

    Targets are kept 1e-5 from 0 and 1 and p from 0, as in the official code. Lin et al., ICCV 2017.
    """
    margin = 1e-5
    target = torch.stack([~mask, mask], 1).float().clamp(margin, 1 - margin)
    right = (target * logits.softmax(1)).sum(1) + margin
    return (-((1 - right).clamp_min(0) ** gamma) * right.log()).mean()
