"""Textures: what is pasted as an anomaly; from a folder of pictures such as DTD, or drawn.

DTD: Cimpoi et al., "Describing Textures in the Wild", CVPR 2014, 5640 images in 47 classes, which DRAEM and its
successors paste. Where it is absent, `ProceduralTextures` draws gratings, oriented noise, blobs, checkers and fractal
noise in random colours: not the paper's setting, so `describe()` says which source was used and a run records it.

A source is called with a shape and a generator and returns a texture, uint8 [H, W, 3] RGB.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from adlib.decoding.resizing import check_filter, check_sides, crop_corner, resize, resized_shape
from adlib.errors import InputError
from adlib.images import read_image
from adlib.synthesis.perlin import perlin_noise

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
TextureSource = Callable[[tuple[int, int], np.random.Generator], np.ndarray]


def texture_source(
    folder: str | Path | None = None, resize: str = "linear", sides: str = "both"
) -> "TextureFolder | ProceduralTextures":
    """The pictures of a folder, or drawn textures for None. A folder without pictures is refused."""
    return ProceduralTextures() if folder is None else TextureFolder(folder, resize, sides)


def check_texture(texture: np.ndarray, source: str) -> np.ndarray:
    """Return the texture, or raise InputError if it is one flat colour: pasted, it would teach to find a uniform patch.

    Flat: no channel's standard deviation reaches one grey level of 255.
    """
    if cv2.meanStdDev(texture)[1].max() < 1:
        raise InputError(
            f"{source} is a flat colour, not a texture: take it out, or give a folder such as DTD's images."
        )
    return texture


@dataclass(frozen=True)
class TextureFolder:
    """The pictures anywhere below a folder, one at random each time, resized to the image.

    resize: one of decoding.resizing.FILTERS; DRAEM, RealNet and OneNIP: "linear"; DeSTSeg, CFRG, GLASS: "antialias".
    sides: "both", proportions ignored; or the "shorter", of which the centre is cut out (GLASS).

    About 110/s at 256 px with DTD-sized JPEGs (640 x 480), which decoding takes.
    Raises InputError for a folder that is missing or holds no picture; for an unreadable or flat picture when it is
    drawn, and for up to eight pictures spread over the folder at once, so that a useless folder is known in time.
    """

    folder: str | Path
    resize: str = "linear"
    sides: str = "both"
    files: tuple[Path, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        check_filter(self.resize)
        check_sides(self.sides)
        folder = Path(self.folder)
        if not folder.is_dir():
            raise InputError(f"There is no folder of textures at {folder}.")
        found = sorted(file for file in folder.rglob("[!.]*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if not found:
            raise InputError(f"The folder of textures {folder} holds no pictures ({', '.join(sorted(SUFFIXES))}).")
        object.__setattr__(self, "files", tuple(found))
        for place in np.unique(np.linspace(0, len(found) - 1, 8).astype(int)):
            self._read(found[place])

    def __call__(self, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        texture = self._read(self.files[rng.integers(len(self.files))])
        # The shorter side of an oblong target is as long as its longer one, or the crop would not fit.
        size = (max(shape),) * 2 if self.sides == "shorter" else tuple(shape)
        full = resized_shape(texture.shape[:2], size, self.sides)
        resized = resize(texture.transpose(2, 0, 1), full, self.resize)
        top, left = crop_corner(full, shape)
        return np.ascontiguousarray(resized[:, top : top + shape[0], left : left + shape[1]].transpose(1, 2, 0))

    def describe(self) -> dict:
        """What a run records of its textures."""
        described = {"textures": "folder", "folder": str(self.folder), "images": len(self.files)}
        return described | {"resize": self.resize, "sides": self.sides}

    @staticmethod
    def _read(file: Path) -> np.ndarray:
        texture = read_image(file)
        if texture.dtype == np.uint16:
            texture = (texture // 257).astype(np.uint8)
        if texture.ndim == 2:
            texture = np.repeat(texture[..., None], 3, axis=2)
        return check_texture(texture, str(file))


@dataclass(frozen=True)
class ProceduralTextures:
    """Textures drawn anew each time: one of `kinds`, coloured by a random map of three colours. About 300/s at 256 px.

    All choices (kinds, their scales, the colours) are ours; no paper gives any.
    """

    kinds: tuple[str, ...] = ("grating", "oriented_noise", "blobs", "checker", "fractal")

    def __post_init__(self):
        unknown = sorted(set(self.kinds) - set(_DRAW))
        if unknown or not self.kinds:
            named = ", ".join(unknown) or "(none given)"
            raise InputError(f"No procedural texture {named}; there are {', '.join(_DRAW)}.")

    def __call__(self, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        field = _DRAW[self.kinds[rng.integers(len(self.kinds))]](shape, rng)
        low, high = float(field.min()), float(field.max())
        levels = ((field - low) * (255 / (high - low))).astype(np.uint8)
        return cv2.LUT(np.repeat(levels[..., None], 3, axis=2), _colours(rng))

    def describe(self) -> dict:
        """What a run records of its textures."""
        return {"textures": "procedural", "kinds": list(self.kinds)}


def _colours(rng: np.random.Generator) -> np.ndarray:
    """A smooth map from 256 levels to colours, uint8 [1, 256, 3], through three random ones that differ visibly."""
    while True:
        colours = rng.uniform(0, 255, (3, 3))
        if min(np.abs(colours[0] - colours[1]).max(), np.abs(colours[1] - colours[2]).max()) > 60:
            break
    levels = np.arange(256)
    channels = [np.interp(levels, [0, 128, 255], channel) for channel in colours.T]
    return np.stack(channels, axis=-1)[None].astype(np.uint8)


def _coordinates(shape: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two float32 [H, W] axes at right angles, turned at random and a little warped, in pixels."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    warp = rng.uniform(0, 12) * perlin_noise(shape, (3, 3), rng)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cos + y * sin + warp, y * cos - x * sin + warp


def _period(shape: tuple[int, int], rng: np.random.Generator, low: float = 5.0) -> float:
    """A period in pixels, log-uniform from `low` to a quarter of the image."""
    return float(np.exp(rng.uniform(np.log(low), np.log(max(low + 1, min(shape) / 4)))))


def _grating(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    across, _ = _coordinates(shape, rng)
    wave = np.sin(across * np.float32(2 * np.pi / _period(shape, rng)) + np.float32(rng.uniform(0, 2 * np.pi)))
    return np.tanh(np.float32(rng.uniform(0.5, 6)) * wave)  # from a sine to stripes with sharp edges


def _oriented_noise(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    side = int(np.ceil(np.hypot(*shape)))  # large enough to be turned and still cover the image
    noise = rng.standard_normal((side, side), dtype=np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), sigmaX=rng.uniform(4, 16), sigmaY=rng.uniform(0.6, 2))
    turn = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), rng.uniform(0, 180), 1)
    turn[:, 2] += (shape[1] - side) / 2, (shape[0] - side) / 2
    return cv2.warpAffine(noise, turn, (shape[1], shape[0]), borderMode=cv2.BORDER_REFLECT)


def _blobs(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(shape, dtype=np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), _period(shape, rng, low=2.0) / 4)  # several blobs in every texture
    noise = (noise - noise.mean()) / noise.std()
    return np.tanh(np.float32(rng.uniform(1, 6)) * (noise - np.float32(rng.uniform(-0.7, 0.7))))


def _checker(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    across, along = _coordinates(shape, rng)
    period = _period(shape, rng)
    squares = (np.floor(across / period) + np.floor(along / (period * rng.uniform(0.5, 2)))) % 2
    return squares + 0.2 * perlin_noise(shape, (8, 8), rng)


def _fractal(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    start, persistence = 2 ** rng.integers(1, 4), rng.uniform(0.4, 0.8)
    octaves = [persistence**k * perlin_noise(shape, (int(start * 2**k),) * 2, rng) for k in range(4)]
    return np.sum(octaves, axis=0)


_DRAW = {
    "grating": _grating,
    "oriented_noise": _oriented_noise,
    "blobs": _blobs,
    "checker": _checker,
    "fractal": _fractal,
}
