"""Formulas: textures drawn from random numbers, without any natural image.

The idea is formula-driven learning: Kataoka et al., "Pre-training without Natural Images", ACCV 2020, arXiv 2101.08515
(fractals); Takashima et al., "Visual Atoms", CVPR 2023, arXiv 2303.01112 (waves as contours); Anderson & Farrell,
"Improving Fractal Pre-training", WACV 2022, arXiv 2110.03091; Baradad et al., "Learning to See by Looking at Noise",
NeurIPS 2021, arXiv 2106.05963 (spectra of photographs). A drawing mixes two or three layers out of eight kinds, and
colours them with three colours. Coordinates and sizes are in units of the image's side.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Layer:
    """One ingredient of a drawing. Every kind takes what it needs of these numbers.

    kind: a key of `KINDS`. weight: its share of the mixture.
    frequency: cycles per side, 3 to 48. angle: radians. stretch: 1 (round) to 5 (long).
    number: of shapes, 2 to 40. size: of a shape, share of the side. corners: 3 to 8.
    wave: 0 (smooth, straight) to 1 (sharp, wavy). filled: areas, else outlines.
    """

    kind: str
    weight: float
    frequency: float
    angle: float
    stretch: float
    number: int
    size: float
    corners: int
    wave: float
    filled: bool


def random_layer(kind: str, rng: np.random.Generator) -> Layer:
    return Layer(
        kind,
        weight=rng.uniform(0.4, 1.2),
        frequency=float(np.exp(rng.uniform(np.log(3), np.log(48)))),
        angle=rng.uniform(0, np.pi),
        stretch=rng.uniform(1, 5),
        number=int(np.exp(rng.uniform(np.log(2), np.log(40)))),
        size=float(np.exp(rng.uniform(np.log(0.02), np.log(0.3)))),
        corners=int(rng.integers(3, 9)),
        wave=rng.uniform(0, 1),
        filled=bool(rng.random() < 0.5),
    )


def random_colours(rng: np.random.Generator) -> np.ndarray:
    """float [3, 3] RGB in [0, 1], vivid to pale; every third set is grey, as X-ray and electron microscopes are."""
    while True:
        colours = rng.uniform(0, 1, (3, 3))
        grey = colours.mean(axis=1, keepdims=True)
        colours = grey + (0 if rng.random() < 1 / 3 else rng.uniform(0.2, 1)) * (colours - grey)
        if np.abs(colours[0] - colours[1]).max() > 0.2:
            return colours


def draw(size: int, rng: np.random.Generator) -> np.ndarray:
    """A drawing: uint8 [size, size, 3] RGB."""
    mix = np.zeros((2, size, size), np.float32)
    for index, kind in enumerate(rng.permutation(list(KINDS))[: rng.integers(2, 4)]):
        layer = random_layer(str(kind), rng)
        field = KINDS[layer.kind](layer, size, rng)
        field -= field.mean()
        field *= layer.weight / (field.std() + 1e-3)
        mix[index % 2] += field
    mix = 1 / (1 + np.exp(-rng.uniform(1, 2) * mix.clip(-20, 20)))

    colours = random_colours(rng).astype(np.float32)
    image = np.multiply.outer(mix[0], colours[1] - colours[0]) + colours[0]
    image += np.multiply.outer(mix[1] - 0.5, colours[2] - colours[0])
    return (image.clip(0, 1) * 255).astype(np.uint8)


# The kinds of layers: (layer, side in pixels, generator) -> float32 [side, side].


def _coordinates(size: int, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Turned coordinates in units of the side."""
    axis = np.arange(size, dtype=np.float32) / np.float32(size)
    along = np.float32(np.cos(angle)) * axis[None] + np.float32(np.sin(angle)) * axis[:, None]
    across = np.float32(np.cos(angle)) * axis[:, None] - np.float32(np.sin(angle)) * axis[None]
    return along, across


def _grating(layer: Layer, size: int, rng: np.random.Generator) -> np.ndarray:
    """Parallel waves between sine and stripe; a second, crossing set for every other recipe."""
    along, across = _coordinates(size, layer.angle)
    phases = rng.uniform(0, 2 * np.pi, 2)
    frequency = 2 * np.pi * min(layer.frequency, size / 3)
    bend = np.float32(layer.wave * rng.uniform(0, 1)) * np.sin(np.float32(2 * np.pi) * across)
    field = np.sin(np.float32(frequency) * along + np.float32(phases[0]) + bend)
    if layer.filled:
        field = field * np.sin(np.float32(frequency / layer.stretch**0.5) * across + np.float32(phases[1]))
    return np.tanh(np.float32(1 + 6 * layer.wave) * field)


def _noise(layer: Layer, size: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of one scale, stretched along one direction; sharp-edged for half of the recipes."""
    coarse = int(np.clip(6 * layer.frequency, 12, 1.5 * size))
    noise = rng.standard_normal((coarse, coarse), dtype=np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), 0.8 * layer.stretch, sigmaY=0.8)
    turned = cv2.getRotationMatrix2D((coarse / 2, coarse / 2), np.rad2deg(layer.angle), 1.45)
    noise = cv2.warpAffine(noise, turned, (coarse, coarse), borderMode=cv2.BORDER_REFLECT)
    noise = cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.tanh(8 * layer.wave * noise / noise.std()) if layer.filled else noise


def _cloud(layer: Layer, size: int, rng: np.random.Generator) -> np.ndarray:
    """Noise whose spectrum falls with a power of the frequency, as photographs' does; stretched or not."""
    rows, columns = np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing="ij")
    along = np.cos(layer.angle) * columns + np.sin(layer.angle) * rows
    across = (np.cos(layer.angle) * rows - np.sin(layer.angle) * columns) * (layer.stretch if layer.filled else 1)
    distance = np.hypot(along, across)
    distance[0, 0] = 1
    phases = np.exp(2j * np.pi * rng.random(distance.shape))
    return np.fft.irfft2(phases / distance ** (0.5 + 2 * layer.wave), (size, size)).astype(np.float32)


def _fill(field: np.ndarray, points: np.ndarray, layer: Layer) -> None:
    """Paint a polygon, given in pixels, with a sixteenth of a pixel's accuracy."""
    fixed = [np.round(points * 16).astype(np.int32)]
    if layer.filled:
        cv2.fillPoly(field, fixed, 1.0, cv2.LINE_8, 4)
    else:
        cv2.polylines(field, fixed, True, 1.0, 1 + int(2 * layer.wave), cv2.LINE_8, 4)


def _polygons(layer: Layer, size: int, rng: np.random.Generator) -> np.ndarray:
    """Polygons of one kind, scattered."""
    field = np.zeros((size, size), np.float32)
    for centre in rng.uniform(0, size, (layer.number, 2)):
        angles = np.linspace(0, 2 * np.pi, layer.corners, endpoint=False) + layer.angle + rng.normal(0, 0.1)
        radius = layer.size * size * np.exp(rng.normal(0, 0.15))
        sides = np.stack([np.cos(angles), np.sin(angles) / layer.stretch**0.5], axis=1)
        _fill(field, centre + radius * sides, layer)
    return field


def _contours(layer: Layer, size: int, rng: np.random.Generator) -> np.ndarray:
    """Closed waves, some around one another: r(t) = r0 (1 + a sin(n t)), the atoms of Takashima et al."""
    field = np.zeros((size, size), np.float32)
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    wave = 1 + 0.4 * layer.wave * np.sin(layer.corners * angles + layer.angle)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1) * wave[:, None]
    for centre in rng.uniform(-0.1 * size, 1.1 * size, (1 + layer.number // 4, 2)):
        radius = 1.5 * layer.size * size * np.exp(rng.normal(0, 0.15))
        for ring in range(1 + int(layer.stretch)):
            _fill(field, centre + radius * (1 - ring / (1 + layer.stretch)) * circle, layer)
            if layer.filled:
                break
    return field


def _strokes(layer: Layer, size: int, rng: np.random.Generator) -> np.ndarray:
    """Straight to curled strokes of about one direction, length and width."""
    field = np.zeros((size, size), np.float32)
    steps = np.linspace(-1, 1, 12)
    for centre in rng.uniform(0, size, (layer.number, 2)):
        angle = layer.angle + rng.normal(0, 0.05 + 0.3 * layer.wave)
        bend = 1.5 * layer.wave * rng.normal()
        length = 2 * layer.size * size * np.exp(rng.normal(0, 0.15))
        directions = angle + bend * steps
        points = centre + length * np.cumsum(np.stack([np.cos(directions), np.sin(directions)], 1), axis=0) / 6
        points -= points.mean(axis=0) - centre
        width = 1 + int(layer.stretch)
        cv2.polylines(field, [np.round(points * 16).astype(np.int32)], False, 1.0, width, cv2.LINE_8, 4)
    return field


def _fractal(layer: Layer, size: int, rng: np.random.Generator) -> np.ndarray:
    """The set that four random contractions leave alone, by the chaos game on 64 points at once."""
    maps = rng.uniform(-1, 1, (4, 2, 3))
    norms = np.linalg.norm(maps[:, :, :2], ord=2, axis=(1, 2), keepdims=True)
    linear = maps[:, :, :2] * np.minimum(1, 0.85 / norms)  # contractions, so the points stay together
    points = np.zeros((64, 2))
    steps = 24
    track = np.empty((steps, 64, 2))
    choice = rng.integers(0, 4, (steps, 64))
    for step in range(steps):
        chosen = choice[step]
        points = np.einsum("nij,nj->ni", linear[chosen], points) + maps[chosen, :, 2]
        track[step] = points
    cloud = track[4:].reshape(-1, 2)
    span = max(np.ptp(cloud, axis=0).max(), 1e-6)
    places = (cloud - cloud.min(axis=0)) / span * size * rng.uniform(0.7, 1.2)
    places += rng.uniform(-0.2, 0.2, 2) * size
    inside = ((places >= 0) & (places < size)).all(axis=1)
    rows, columns = places[inside].astype(int).T
    field = np.zeros((size, size), np.float32)
    field[rows, columns] = 1
    return cv2.GaussianBlur(field, (0, 0), 0.6 + 1.5 * layer.wave)


def _cells(layer: Layer, size: int, rng: np.random.Generator) -> np.ndarray:
    """Grains: every pixel takes the value of its nearest seed, or its distance to it."""
    count = int(np.clip(layer.frequency**2 / 6, 4, 400))
    seeds = np.ones((size, size), np.uint8)
    rows, columns = rng.integers(0, size, (2, count))
    seeds[rows, columns] = 0
    distance, owner = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    if not layer.filled:
        return distance
    return rng.standard_normal(count + 2, dtype=np.float32)[owner]


KINDS: dict[str, Callable[[Layer, int, np.random.Generator], np.ndarray]] = {
    "grating": _grating,
    "noise": _noise,
    "cloud": _cloud,
    "polygons": _polygons,
    "contours": _contours,
    "strokes": _strokes,
    "fractal": _fractal,
    "cells": _cells,
}
