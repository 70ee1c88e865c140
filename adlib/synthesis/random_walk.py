"""Random walk: small defects drawn by a walk with momentum, from pinholes to fibres, in OUR parametrisation.

Haselmann & Gruber, "Supervised Machine Learning Based Surface Inspection by Synthetizing Artificial Defects", ICMLA
2017, and "Pixel-Wise Defect Detection by CNNs without Manually Labeled Training Data", Applied Artificial Intelligence
33(6), 2019; ISP-AD trains its supervised detectors with it. Public text says that a multi-step stochastic process
resembling a random walk with momentum makes punctual and elongated defect textures which are added to normal patches,
on half of the patches and after geometric augmentation, tuned by hand per modality. It gives no equations and no
values: every distribution below is ours, every number a parameter. This does not claim to reproduce their generator.

A defect is a chain of discs. Direction, radius and brightness each walk: the direction with momentum (small: a blob;
near 1: a fibre), the radius between reflecting walls, the brightness back to its mean. The result is smoothed, made
uneven by coarse noise, and added to the image, times it, or as its local maximum or minimum. Marked are the pixels that
changed by more than the image's own noise; a defect that nobody could see is drawn again.
"""

from dataclasses import dataclass
from itertools import accumulate

import cv2
import numpy as np

from adlib.errors import InputError
from adlib.synthesis.change import check_image, keep_changes
from adlib.synthesis.perlin import perlin_noise


@dataclass(frozen=True)
class WalkKind:
    """What one kind of defect looks like. Pairs are ranges, drawn uniformly unless said otherwise."""

    momentum: tuple[float, float]  # of the direction: 0 forgets at once, 1 goes straight on
    steps: tuple[int, int]  # log-uniform; a step is 0.5 to 1 px
    radius: tuple[float, float]  # px
    contrast: tuple[float, float]  # share of the full range, log-uniform; raised to 1.5 times the local noise
    bipolar: bool = False  # a bright and a dark copy, 1 to 2 px apart, as light falling from a side leaves them


KINDS = {
    "pinhole": WalkKind((0.3, 0.3), (3, 8), (0.5, 1.5), (0.15, 0.5)),
    "curl": WalkKind((0.8, 0.95), (30, 100), (0.5, 1.5), (0.05, 0.3)),
    "fibre": WalkKind((0.985, 0.985), (60, 150), (0.5, 1.0), (0.05, 0.25)),
    "dent": WalkKind((0.6, 0.6), (8, 25), (2.0, 4.0), (0.05, 0.2), bipolar=True),
}


@dataclass(frozen=True)
class RandomWalk:
    """Add one to three small defects to an image. About 700/s at 256 px.

    kinds: names of KINDS or WalkKinds of your own; each defect is one of them, equally often.
    counts: probabilities of one, two, three ... defects.
    margin: px between a defect's start and the border (a quarter of the side where that is less).
    visibility: a pixel is marked when it changed by more than this many standard deviations of the local noise.
    min_area: smallest marked area of a defect in px; a smaller one is drawn again, at most `attempts` times.
    compositions: probabilities of added, multiplied, local maximum / minimum.
    branch, flip: probabilities of a second arm, and of a sign that changes along the way.
    levels: synthesised values are rounded to this many steps: 255 for 8-bit images, 65535 for 16-bit ones.

    Sizes are in pixels whatever the image's size, as defects are on patches at the camera's own resolution.
    """

    kinds: tuple[str | WalkKind, ...] = ("pinhole", "curl", "fibre", "dent")
    counts: tuple[float, ...] = (0.8, 0.15, 0.05)
    margin: int = 16
    visibility: float = 1.25
    min_area: int = 4
    attempts: int = 20
    compositions: tuple[float, float, float] = (0.6, 0.3, 0.1)
    branch: float = 0.2
    flip: float = 0.1
    levels: int = 255

    def __post_init__(self):
        unknown = [kind for kind in self.kinds if not isinstance(kind, WalkKind) and kind not in KINDS]
        if unknown or not self.kinds:
            raise InputError(f"kinds={self.kinds} must be WalkKinds or names of {', '.join(KINDS)}.")
        for name in ("counts", "compositions"):
            if not np.isclose(sum(getattr(self, name)), 1):
                raise InputError(f"{name}={getattr(self, name)} are probabilities and must add up to 1.")

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """image: float32 [H, W, 3] in [0, 1]. Returns the image with defects, and its mask, bool [H, W]."""
        after = check_image(image).copy()
        mask = np.zeros(image.shape[:2], bool)
        for _ in range(1 + rng.choice(len(self.counts), p=self.counts)):
            kind = self.kinds[rng.integers(len(self.kinds))]
            kind = KINDS[kind] if isinstance(kind, str) else kind
            for _ in range(self.attempts):
                window, part, marked = self._defect(after, kind, rng)
                if marked.sum() >= self.min_area:
                    after[window], mask[window] = part, mask[window] | marked
                    break
        return after, mask & (after != image).any(axis=2)  # one defect may undo another in a pixel

    def _defect(self, image: np.ndarray, kind: WalkKind, rng: np.random.Generator):
        """(window, its new pixels, its marked pixels) of one defect."""
        sides = np.array(image.shape[:2])
        margin = np.minimum(self.margin, sides // 4)
        start = rng.uniform(margin, sides - margin)
        noise = local_noise(image, start)
        contrast = max(np.exp(rng.uniform(*np.log(kind.contrast))), 1.5 * noise)
        stamps = self._walk(start, kind, contrast, rng)
        if rng.random() < self.branch:
            arm = self._walk(stamps[rng.integers(len(stamps)), :2], kind, contrast, rng)
            arm = arm[: max(1, len(arm) // 2)] * [1, 1, 1, np.sign(stamps[0, 3] * arm[0, 3])]
            stamps = np.concatenate([stamps, arm])
        if kind.bipolar:
            angle, apart = rng.uniform(0, 2 * np.pi), rng.uniform(1, 2)
            other = stamps * [1, 1, 1, -1] + [apart * np.sin(angle), apart * np.cos(angle), 0, 0]
            stamps = np.concatenate([stamps, other])

        reach = int(np.ceil(stamps[:, 2].max() + 6))  # room for the smoothing
        low = np.floor(stamps[:, :2].min(0)).astype(int).clip(0, sides - 1) - reach
        high = np.ceil(stamps[:, :2].max(0)).astype(int).clip(0, sides - 1) + reach
        defect = render(stamps, low, high)
        peak = np.abs(defect).max()
        defect = cv2.GaussianBlur(defect, (0, 0), rng.uniform(0.3, 1.5))
        defect *= peak / max(np.abs(defect).max(), 1e-9)  # smoothing must not hide what is thin
        cells = np.maximum(1, (high - low) // 12)
        defect *= 1 + 0.4 * perlin_noise(defect.shape, (int(cells[0]), int(cells[1])), rng)

        inner_low, inner_high = low.clip(0), np.minimum(high, sides)
        window = tuple(slice(a, b) for a, b in zip(inner_low, inner_high, strict=True))
        defect = defect[tuple(slice(a, b) for a, b in zip(inner_low - low, inner_high - low, strict=True))]
        before = np.ascontiguousarray(image[window])
        changed = self._compose(before, defect[..., None], rng).clip(0, 1)
        changed = np.rint(changed * self.levels).astype(np.float32) / np.float32(self.levels)
        return window, *keep_changes(before, changed, defect != 0, self.visibility * noise)

    def _walk(self, start: np.ndarray, kind: WalkKind, contrast: float, rng: np.random.Generator) -> np.ndarray:
        """One walk as discs, float [N, 4]: y, x, radius in px and signed brightness."""
        steps = round(np.exp(rng.uniform(*np.log(kind.steps))))
        momentum = rng.uniform(*kind.momentum)
        shocks = (1 - momentum) * (rng.standard_normal(steps) + 1j * rng.standard_normal(steps))
        heading = np.exp(2j * np.pi * rng.random())  # the plane as complex numbers: x + iy
        velocity = np.array(list(accumulate(shocks, lambda v, shock: momentum * v + shock, initial=heading))[1:])
        path = np.cumsum(rng.uniform(0.5, 1) * velocity / np.maximum(np.abs(velocity), 1e-9))

        low, high = kind.radius
        radius = rng.uniform(low, high) + np.cumsum(0.1 * (high - low) * rng.standard_normal(steps))
        span = max(high - low, 1e-9)
        radius = low + span - np.abs((radius - low) % (2 * span) - span)  # reflected at both walls
        end = max(1, min(5, steps // 3))
        place = np.arange(steps)
        radius *= np.minimum(1, np.minimum(place + 1, steps - place) / end)  # taper

        waver = list(accumulate(rng.normal(0, 0.13, steps), lambda a, shock: 0.9 * a + shock))  # deviation 0.3
        sign = np.full(steps, rng.choice([-1, 1]))
        if rng.random() < self.flip:
            sign[rng.integers(steps) :] *= -1
        brightness = sign * contrast * np.clip(1 + np.array(waver), 0.3, 1.7)
        return np.stack([start[0] + path.imag, start[1] + path.real, radius, brightness], axis=1)

    def _compose(self, image: np.ndarray, defect: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """image [h, w, 3] with defect [h, w, 1], alike in all channels."""
        way = rng.choice(3, p=self.compositions)
        if way == 0:
            return image + defect
        if way == 1:
            return image * (1 + defect / max(float(image.mean()), 0.05))  # as strong as added, on average
        level = cv2.GaussianBlur(image, (0, 0), 3) + defect  # covers the texture underneath
        extreme = np.where(defect > 0, np.maximum(image, level), np.minimum(image, level))
        cover = np.minimum(1, 2 * np.abs(defect) / max(float(np.abs(defect).max()), 1e-9))  # fades with the defect
        return image + cover * (extreme - image)


def local_noise(image: np.ndarray, place: np.ndarray, reach: int = 16) -> float:
    """Standard deviation of the fine noise around a place (y, x), at least one grey level of 255.

    Median absolute deviation of what a blur of 1 px takes away, so that edges and structure count little; divided by
    0.873, the share of white noise that this leaves (sqrt(1 - 2 g(0) + sum g^2) of the Gaussian g).
    """
    top, left = np.maximum(0, np.asarray(place, int) - reach)
    grey = image[top : top + 2 * reach + 1, left : left + 2 * reach + 1].mean(axis=2)
    fine = grey - cv2.GaussianBlur(grey, (0, 0), 1)
    return max(float(1.4826 * np.median(np.abs(fine - np.median(fine)))) / 0.873, 1 / 255)


def render(stamps: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Draw discs with soft edges: float32 [high - low]; bright ones as their maximum, less that of the dark ones.

    stamps: float [N, 4], y, x, radius, signed brightness. low, high: corners (y, x) of the window.
    """
    reach = int(np.ceil(stamps[:, 2].max() + 1))
    offsets = np.arange(-reach, reach + 1)
    centre = np.rint(stamps[:, :2]).astype(int)
    y = (centre[:, 0, None] + offsets)[:, :, None]  # [N, k, 1]
    x = (centre[:, 1, None] + offsets)[:, None, :]
    distance = np.hypot(y - stamps[:, 0, None, None], x - stamps[:, 1, None, None])
    value = np.clip(stamps[:, 2, None, None] + 0.5 - distance, 0, 1) * stamps[:, 3, None, None]
    inside = (y >= low[0]) & (y < high[0]) & (x >= low[1]) & (x < high[1])
    cell = np.where(inside, (y - low[0]) * (high[1] - low[1]) + x - low[1], 0)
    value = np.where(inside, value, 0.0)
    bright, dark = (np.zeros(int(np.prod(high - low))) for _ in range(2))
    np.maximum.at(bright, cell.ravel(), value.ravel())
    np.maximum.at(dark, cell.ravel(), -value.ravel())
    return (bright - dark).astype(np.float32).reshape(*(high - low))
