"""Synthesis: make anomalies in normal images, for methods that learn from them.

A synthesiser is a small dataclass that is called: `synthesiser(image, rng) -> (image, mask)`, image float32 [H, W, 3]
in [0, 1] RGB, mask bool [H, W], rng a numpy Generator; the image handed in is not changed. The mask marks exactly the
pixels that differ, and may be empty. A function of the same form serves as well. To add one, write the file and name
it here.
"""

from adlib.synthesis.cutpaste import CutPaste, CutPaste3Way, CutPasteScar
from adlib.synthesis.nsa import NSA
from adlib.synthesis.perlin import perlin_mask, perlin_noise
from adlib.synthesis.random_walk import RandomWalk
from adlib.synthesis.synthetic_images import SyntheticImages
from adlib.synthesis.texture_paste import TexturePaste, compose
from adlib.synthesis.textures import ProceduralTextures, TextureFolder, texture_source

__all__ = [
    "NSA",
    "CutPaste",
    "CutPaste3Way",
    "CutPasteScar",
    "ProceduralTextures",
    "RandomWalk",
    "SyntheticImages",
    "TextureFolder",
    "TexturePaste",
    "compose",
    "perlin_mask",
    "perlin_noise",
    "texture_source",
]
