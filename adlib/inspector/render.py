"""Pictures of the inspector: every pixel that it shows is made here, with numpy and OpenCV.

Pictures are uint8 RGB [H, W, 3] until `png` or `jpeg` encodes them. Colours can be told apart by colour-blind readers:
heat in viridis or inferno, the ground truth as a solid line and a method's own mask as a dashed one, both with a dark
halo, so that they stand out on bright and on dark ground.
"""

import cv2
import numpy as np

PALETTES = {"inferno": cv2.COLORMAP_INFERNO, "viridis": cv2.COLORMAP_VIRIDIS}
TRUTH, DECIDED, HALO = (0, 229, 255), (255, 255, 255), (0, 0, 0)


def longest_side(panels: int) -> int:
    """Longer side in pixels of each of several panels side by side, unless the full resolution is asked for."""
    return 512 if panels <= 3 else 384


def fit_shape(shape: tuple[int, int], longest: int | None) -> tuple[int, int]:
    """(h, w) of the picture of an image of (H, W) pixels, its longer side at most `longest`; None: as the image is.

    A small image is enlarged by a whole number, so that its pixels stay squares and outlines are thin lines on them.
    """
    if longest is None:
        return shape
    scale = longest / max(shape)
    scale = float(int(scale)) if scale >= 1 else scale
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def stored_values(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The image's own grey levels or RGB values at the pixel centres of a picture of `shape`: nothing is averaged.

    A picture that is larger than the image has no more values: the image itself is returned.
    """
    return image if shape >= image.shape[:2] else cv2.resize(image, shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def picture(image: np.ndarray, shape: tuple[int, int], window: tuple[float, float]) -> np.ndarray:
    """uint8 RGB of an 8- or 16-bit image, resized; the stored values window[0] and window[1] become 0 and 255."""
    if image.shape[:2] != shape:
        method = cv2.INTER_AREA if shape < image.shape[:2] else cv2.INTER_NEAREST_EXACT
        image = cv2.resize(image, shape[::-1], interpolation=method)
    low, high = window
    scale = 255 / max(high - low, 1e-9)
    levels = np.arange(np.iinfo(image.dtype).max + 1, dtype=np.float32)
    table = np.clip(np.rint((levels - low) * scale), 0, 255).astype(np.uint8)
    grey = cv2.LUT(image, table) if image.dtype == np.uint8 else table[image]
    return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB) if grey.ndim == 2 else grey


def full_window(image: np.ndarray) -> tuple[float, float]:
    """The whole range of the image's type: (0, 255) or (0, 65535)."""
    return 0.0, float(np.iinfo(image.dtype).max)


def auto_window(image: np.ndarray) -> tuple[float, float]:
    """The grey levels between which 99 % of an image's pixels lie."""
    low, high = np.percentile(image[::4, ::4], [0.5, 99.5])
    return float(np.floor(low)), float(max(np.ceil(high), np.floor(low) + 1))


def colour_bar(palette: str) -> np.ndarray:
    """A palette as a picture 256 pixels wide and 8 high, low scores on the left."""
    bar = np.tile(np.arange(256, dtype=np.uint8), (8, 1))
    return cv2.cvtColor(cv2.applyColorMap(bar, PALETTES[palette]), cv2.COLOR_BGR2RGB)


def box_of(frame: tuple[float, float, float, float], shape: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of a picture of `shape` that a map covers, one of each at least.

    frame: left, top, right, bottom as shares of its sides; below 0 and above 1 where the map reaches past the picture.
    """

    def part(low: float, high: float, side: int) -> slice:
        start = min(max(round(low * side), 0), side - 1)
        return slice(start, max(min(round(high * side), side), start + 1))

    left, top, right, bottom = frame
    return part(top, bottom, shape[0]), part(left, right, shape[1])


def laid(
    values: np.ndarray, frame: tuple[float, float, float, float], shape: tuple[int, int], method: int = cv2.INTER_LINEAR
) -> np.ndarray:
    """A map stretched over its frame, at the pixels of a picture of `shape`: [*shape], of the map's type.

    values: float32 or uint8 [h, w]. frame: as of `box_of`, beyond which the map's edge is repeated.
    method: cv2.INTER_LINEAR between the map's pixels, or cv2.INTER_NEAREST for the nearest.
    """
    left, top, right, bottom = frame
    across, down = 1 / (shape[1] * (right - left)), 1 / (shape[0] * (bottom - top))  # shares of the map a pixel
    (height, width) = values.shape
    place = np.array(
        [
            [width * across, 0, width * (across / 2 - left / (right - left)) - 0.5],
            [0, height * down, height * (down / 2 - top / (bottom - top)) - 0.5],
        ]
    )
    flags = method | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(values, place, shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)


def heat(
    ground: np.ndarray, scores: np.ndarray, scale: tuple[float, float], opacity: float, palette: str
) -> np.ndarray:
    """An anomaly map over a picture of the same size.

    scores: float [H, W]. scale: the scores that get the palette's first and last colour. Low scores are let through:
    the colour's weight rises from 0 to `opacity` at a quarter of the scale, so that the image stays readable. Where a
    score is NaN, the image is as it is.
    """
    low, high = scale
    level = np.nan_to_num(np.clip((scores - low) * (255 / max(high - low, 1e-12)), 0, 255)).astype(np.uint8)
    coloured = cv2.cvtColor(cv2.applyColorMap(level, PALETTES[palette]), cv2.COLOR_BGR2RGB)
    weight = (np.clip(np.arange(256) / 64, 0, 1) * opacity).astype(np.float32)[level]
    return cv2.blendLinear(coloured, ground, weight, 1 - weight)


def outline(ground: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], dashed: bool = False) -> None:
    """Draw the border of a mask into a picture, in place, with a dark halo. mask: bool, of any size."""
    height, width = ground.shape[:2]
    small = mask.view(np.uint8)
    if mask.shape != (height, width):
        # Any pixel of the mask counts: a defect smaller than a pixel of the picture keeps its outline.
        method = cv2.INTER_AREA if mask.shape > (height, width) else cv2.INTER_NEAREST_EXACT
        small = (cv2.resize(small * np.uint8(255), (width, height), interpolation=method) > 0).view(np.uint8)
    borders, _ = cv2.findContours(small, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    thin = max(1, round(max(height, width) / 500))
    cv2.polylines(ground, borders, True, HALO, 3 * thin)
    if dashed:
        dash = 4 * thin
        borders = [border[at : at + dash + 1] for border in borders for at in range(0, len(border), 2 * dash)]
    cv2.polylines(ground, borders, not dashed, colour, thin)


def png(image: np.ndarray) -> bytes:
    """The quickest PNG of an RGB picture."""
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    return cv2.imencode(".png", image[..., ::-1], options)[1].tobytes()


def jpeg(image: np.ndarray, quality: int = 85) -> bytes:
    """A small JPEG of an RGB picture, for thumbnails and pages."""
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
