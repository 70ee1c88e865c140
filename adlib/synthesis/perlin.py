"""Perlin noise and the irregular blobs that a threshold cuts out of it.

K. Perlin, "An image synthesizer", SIGGRAPH 1985. As masks of synthetic anomalies: DRAEM (Zavrtanik, Kristan, Skocaj,
ICCV 2021, section 3.3), whose official settings are the defaults here; DeSTSeg, RealNet and GLASS draw them likewise.

Deviation: the cells need not divide the image's sides. The official code stretches nothing and so asks for sides that
are multiples of 32; where that holds the two agree.
"""

import cv2
import numpy as np


def perlin_noise(shape: tuple[int, int], cells: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """One octave of gradient noise, float32 [H, W], about -1 to 1 and 0 at the nodes of its lattice.

    shape: (H, W). cells: lattice cells along the height and the width; a feature is about one cell large.

    A pixel blends, with the fade 6t^5 - 15t^4 + 10t^3, four dot products: the unit gradients of the nodes around it
    times its offset from them. Each term splits into a factor of the row and one of the column, so rows are blended
    first, at lattice width, and columns second: no loop, and no gradient per pixel.
    """
    angle = rng.uniform(0, 2 * np.pi, (cells[0] + 1, cells[1] + 1)).astype(np.float32)
    row, weights_down, ramps_down = _lattice(shape[0], cells[0])
    column, weights_across, ramps_across = _lattice(shape[1], cells[1])

    def blend(nodes: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
        rows = nodes[row] * down[0][:, None] + nodes[row + 1] * down[1][:, None]  # [H, cells + 1]
        return rows[:, column] * across[0] + rows[:, column + 1] * across[1]  # [H, W]

    noise = blend(np.cos(angle), weights_down, ramps_across) + blend(np.sin(angle), ramps_down, weights_across)
    return np.float32(np.sqrt(2)) * noise


def _lattice(length: int, cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per pixel of one axis: the node before it; [2, length] weights of the nodes before and after; weight x offset."""
    position = np.arange(length) * (cells / length)
    node = position.astype(int)
    t = position - node
    fade = t**3 * (t * (6 * t - 15) + 10)
    weights = np.stack([1 - fade, fade])
    return node, weights.astype(np.float32), (weights * np.stack([t, t - 1])).astype(np.float32)


def perlin_mask(
    shape: tuple[int, int],
    rng: np.random.Generator,
    exponents: tuple[int, int] = (0, 5),
    threshold: float = 0.5,
    rotation: float = 90.0,
    redraws: int = 0,
) -> np.ndarray:
    """Blobs of random scale, bool [H, W]; True where turned noise exceeds the threshold. About 1600/s at 256 px.

    exponents: smallest and largest k; each axis has 2^k cells, k uniform (the code's "scale 6" is an exclusive bound).
    rotation: the noise is turned by up to this many degrees; what comes in from outside is never anomalous.
    redraws: how often an empty mask, common when cells are large, is drawn again. DRAEM, DeSTSeg and RealNet take it
        as it is (0) and call the image normal; GLASS draws until there is one.
    """
    for _ in range(redraws + 1):
        cells = 2 ** rng.integers(exponents[0], exponents[1] + 1, 2)
        noise = perlin_noise(shape, (int(cells[0]), int(cells[1])), rng)
        centre = ((shape[1] - 1) / 2, (shape[0] - 1) / 2)
        turn = cv2.getRotationMatrix2D(centre, rng.uniform(-rotation, rotation), 1)
        mask = cv2.warpAffine(noise, turn, (shape[1], shape[0])) > threshold
        if mask.any():
            break
    return mask
