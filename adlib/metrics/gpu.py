"""The ranking counts on the GPU where the maps already are; the same exact values as on the CPU.

Sorting and searching run on the device; regions are labelled and the sums are formed on the CPU in float64.
At most CHUNK normal pixels are sorted at a time, so device memory beside the maps stays bounded.
"""

import numpy as np

from adlib.errors import InputError
from adlib.metrics.inputs import as_mask, planes, region_areas, to_numpy
from adlib.metrics.sums import RankingSums

CHUNK = 1 << 24  # pixels sorted at a time


def rank_on_device(masks, maps, limits=()) -> RankingSums:
    """RankingSums of maps (torch tensor [N, H, W], [H, W] or [N, 1, H, W] on any device) and their masks."""
    import torch

    scores = planes(maps.detach(), "maps")
    exact = (torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.uint8, torch.int8, torch.int16)
    if scores.dtype == torch.int64 and scores.numel() and max(abs(int(scores.min())), abs(int(scores.max()))) > 2**53:
        raise InputError("maps: integers beyond 2**53 would be rounded into ties; subtract what they have in common")
    scores = scores.to(torch.float32 if scores.dtype in exact else torch.float64)
    mask = as_mask(planes(to_numpy(masks), "masks"), "masks")
    if tuple(mask.shape) != tuple(scores.shape):
        raise InputError(f"masks {tuple(mask.shape)} and maps {tuple(scores.shape)} differ in shape")
    if mask.size == 0:
        return RankingSums(0, 0)
    finite = torch.isfinite(scores).flatten(1).all(1).cpu().numpy()
    if not finite.all():
        raise InputError(f"image {int(np.flatnonzero(~finite)[0])}: its map holds scores that are not finite")

    with_defect = np.flatnonzero(mask.any(axis=(1, 2)))
    found = [region_areas(mask[i]) for i in with_defect]
    n_regions = sum(len(regions) for _, regions in found)
    truth = torch.from_numpy(np.ascontiguousarray(mask)).to(scores.device)
    anomalous, order = scores[truth].sort()
    n_anomalous, n_normal = len(anomalous), mask.size - len(anomalous)
    sums = RankingSums(n_anomalous, n_normal, n_regions, limits)
    if n_anomalous == 0 or n_normal == 0:
        return sums

    distinct, count = torch.unique_consecutive(anomalous, return_counts=True)
    below = torch.zeros(len(distinct), dtype=torch.int64, device=scores.device)
    upto = below.clone()
    step = max(1, CHUNK // mask[0].size)
    for start in range(0, len(scores), step):
        part = slice(start, start + step)
        normal = scores[part][~truth[part]].sort().values
        below += torch.searchsorted(normal, distinct)
        upto += torch.searchsorted(normal, distinct, right=True)

    below, upto, count = (x.cpu().numpy() for x in (below, upto, count))
    areas = np.concatenate([areas for areas, _ in found])[order.cpu().numpy()]
    first = np.concatenate([[0], np.cumsum(count)[:-1]])
    weight = np.add.reduceat(1.0 / areas, first)
    falling = slice(None, None, -1)
    sums.add(
        distinct.cpu().numpy()[falling],
        count[falling],
        (n_normal - upto)[falling],
        (upto - below)[falling],
        weight[falling],
    )
    return sums
