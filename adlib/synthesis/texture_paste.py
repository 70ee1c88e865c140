"""Texture paste: fill Perlin blobs with an unrelated texture, half transparent (DRAEM).

Zavrtanik, Kristan, Skocaj, "DRAEM - A discriminatively trained reconstruction embedding for surface anomaly
detection", ICCV 2021, arXiv 2108.07610, section 3.3. Defaults are the official code's: 2^0 to 2^5 noise cells per axis,
noise turned by up to 90 degrees, threshold 0.5, three of ten texture operations, weight of the IMAGE uniform in 0..0.8
(the paper's beta, recalled and not checked, weighs the texture, by 0.1 to 1). The official loader also turns the normal
image, with probability 0.3, before synthesis: that changes the target of reconstruction too and is the detector's
business.

Deviations: a pixel that the texture leaves exactly as it was is not marked; the texture source may be a procedural one
(see textures.py), which the paper does not use.
"""

from dataclasses import dataclass, field

import numpy as np

from adlib.errors import InputError
from adlib.synthesis.change import check_image, check_range, keep_changes
from adlib.synthesis.perlin import perlin_mask
from adlib.synthesis.texture_operations import change_texture
from adlib.synthesis.textures import ProceduralTextures, TextureSource, check_texture


def compose(
    image: np.ndarray, texture: np.ndarray, mask: np.ndarray, beta: float, threshold: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """beta x image + (1 - beta) x texture inside the mask, the image outside; hard edges.

    image, texture: float32 [H, W, 3] in [0, 1]; mask: bool [H, W]; beta: weight of the image, 0 to 1.
    Returns (image, mask of the pixels whose mean absolute change exceeds threshold), see `keep_changes`.
    """
    return keep_changes(image, np.float32(beta) * image + np.float32(1 - beta) * texture, mask, threshold)


@dataclass(frozen=True)
class TexturePaste:
    """Paste a texture into Perlin blobs. About 250/s at 256 px with procedural textures, 90/s with a folder of JPEGs.

    textures: a TextureFolder, ProceduralTextures, or a function (shape, rng) -> uint8 [H, W, 3].
    image_weight: range of beta, uniform. DRAEM, DeSTSeg: (0, 0.8); RealNet's equals (0, 0.8) with DTD, (0, 0.5) else.
    exponents, noise_threshold, rotation, redraws: of `perlin_mask`. An empty mask leaves the image as it was (DRAEM).
    operations: how many texture operations. DRAEM, RealNet, OneNIP: 3; DeSTSeg: 0.
    among: those to choose from (adlib.synthesis.texture_operations), None for DRAEM's ten.
    threshold: smallest change that is marked, see `keep_changes`.
    """

    textures: TextureSource = field(default_factory=ProceduralTextures)
    image_weight: tuple[float, float] = (0.0, 0.8)
    exponents: tuple[int, int] = (0, 5)
    noise_threshold: float = 0.5
    rotation: float = 90.0
    redraws: int = 0
    operations: int = 3
    among: tuple | None = None
    threshold: float = 0.0

    def __post_init__(self):
        check_range(self.image_weight, "image_weight", 0, 1)
        check_range(self.exponents, "exponents", 0, 10)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """image: float32 [H, W, 3] in [0, 1]. Returns the image with the anomaly, and its mask, bool [H, W]."""
        shape = check_image(image).shape[:2]
        mask = perlin_mask(shape, rng, self.exponents, self.noise_threshold, self.rotation, self.redraws)
        if not mask.any():
            return image.copy(), mask
        texture = self.textures(shape, rng)
        if texture.dtype != np.uint8 or texture.shape != image.shape:
            raise InputError(f"The texture source returned {texture.dtype} {list(texture.shape)}, not uint8 [H, W, 3].")
        texture = change_texture(
            check_texture(texture, "What the texture source returned"), rng, self.operations, self.among
        )
        return compose(image, texture / np.float32(255), mask, rng.uniform(*self.image_weight), self.threshold)
