"""The regions of a mask: one defect each, as far as a mask can tell."""

from collections.abc import Iterator

import numpy as np


def regions(mask: np.ndarray, joined: bool = False) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """Each 8-connected region of a mask bool [H, W]: its pixels' rows and columns, int [n] each, and its aspect ratio.

    joined: all foreground counts as one region. An empty mask has none.
    The aspect ratio is long over short side of the smallest rectangle around the pixel centres, turned as it may be,
    with one pixel added to each side: a line one pixel wide has a finite one. 3CAD, Fig. 3.
    """
    import cv2  # here, so that other metrics need not wait for it

    label = np.ascontiguousarray(mask).view(np.uint8)
    boxes = [[0, 0, label.shape[1], label.shape[0]]] if mask.any() else []
    if boxes and not joined:
        _, label, stats, _ = cv2.connectedComponentsWithStats(label, connectivity=8)
        boxes = stats[1:, :4]
    for number, (left, top, width, height) in enumerate(boxes, 1):
        rows, columns = np.nonzero(label[top : top + height, left : left + width] == number)
        rows, columns = rows + top, columns + left
        _, sides, _ = cv2.minAreaRect(np.stack([columns, rows], axis=1).astype(np.float32))
        yield rows, columns, (max(sides) + 1) / (min(sides) + 1)
