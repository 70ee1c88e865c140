"""Formulas: labelled textures drawn from a class number, without any natural image.

The idea is formula-driven supervised learning: Kataoka et al., "Pre-training without Natural Images", ACCV 2020, arXiv
2101.08515 (fractals); Takashima et al., "Visual Atoms", CVPR 2023, arXiv 2303.01112 (waves as contours); Anderson &
Farrell, "Improving Fractal Pre-training", WACV 2022, arXiv 2110.03091. A class is a recipe: two or three layers out of
seven kinds, with their parameters, and three colours. Two drawings of a class differ in place, phase, turn, scale,
colours, light, blur and noise, the nuisance that features should learn to overlook.

Classes come in pairs of one structure in two sets of colours, so that neither structure nor colour alone tells them
apart. Coordinates and sizes are in units of the image's side, so a recipe looks alike at any size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Layer:
    """One ingredient of a recipe. Every kind takes what it needs of these numbers.

    kind: a key of `KINDS`. weight: its share of the mixture.
    frequency: cycles per side, 3 to 48. angle: radians. stretch: 1 (round) to 5 (long).
    number: of shapes, 2 to 40. size: of a shape, share of the side. corners: 3 to 8.
    wave: 0 (smooth, straight) to 1 (sharp, wavy). filled: areas, else outlines.
    maps: float [4, 2, 3], the affine maps of a fractal.
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
    maps: np.ndarray


@dataclass(frozen=True)
class Recipe:
    """What all drawings of a class share. colours: float [3, 3] RGB in [0, 1]."""

    layers: tuple[Layer, ...]
    colours: np.ndarray


def recipe(label: int, seed: int = 0) -> Recipe:
    """The recipe of a class. Labels 2k and 2k + 1 share their layers and differ in their colours."""
    rng = np.random.default_rng([seed, label // 2])
    kinds = rng.permutation(list(KINDS))[: rng.integers(2, 4)]
    layers = tuple(_random_layer(str(kind), rng) for kind in kinds)
    return Recipe(layers, _random_colours(np.random.default_rng([seed, label, 1])))


def _random_layer(kind: str, rng: np.random.Generator) -> Layer:
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
        maps=rng.uniform(-1, 1, (4, 2, 3)),
    )


def _random_colours(rng: np.random.Generator) -> np.ndarray:
    """Three colours; every third recipe is grey, as X-ray and electron microscopes are."""
    while True:
        colours = rng.uniform(0, 1, (3, 3))
        if rng.random() < 1 / 3:
            colours[:] = colours.mean(axis=1, keepdims=True)
        if np.abs(colours[0] - colours[1]).max() > 0.25:
            return colours


def draw(recipe: Recipe, size: int, rng: np.random.Generator) -> np.ndarray:
    """One drawing of a class: uint8 [size, size, 3] RGB."""
    mix = np.zeros((2, size, size), np.float32)
    turn = rng.normal(0, 0.12)
    scale = np.exp(rng.normal(0, 0.1))
    for index, layer in enumerate(recipe.layers):
        field = KINDS[layer.kind](layer, size, turn, scale, rng)
        field -= field.mean()
        field *= layer.weight / (field.std() + 1e-3)
        mix[index % 2] += field
    mix = 1 / (1 + np.exp(-rng.uniform(1, 2) * mix.clip(-20, 20)))

    colours = recipe.colours + rng.normal(0, 0.08, (3, 3))
    image = np.multiply.outer(mix[0], (colours[1] - colours[0]).astype(np.float32)) + colours[0].astype(np.float32)
    image += np.multiply.outer(mix[1] - 0.5, (colours[2] - colours[0]).astype(np.float32))
    return (image.clip(0, 1) * 255).astype(np.uint8)


# The kinds of layers: (layer, side in pixels, turn in radians, scale, generator) -> float32 [side, side].


def _coordinates(size: int, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Turned coordinates in units of the side."""
    axis = np.arange(size, dtype=np.float32) / np.float32(size)
    along = np.float32(np.cos(angle)) * axis[None] + np.float32(np.sin(angle)) * axis[:, None]
    across = np.float32(np.cos(angle)) * axis[:, None] - np.float32(np.sin(angle)) * axis[None]
    return along, across


def _grating(layer: Layer, size: int, turn: float, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Parallel waves between sine and stripe; a second, crossing set for every other recipe."""
    along, across = _coordinates(size, layer.angle + turn)
    phases = rng.uniform(0, 2 * np.pi, 2)
    frequency = 2 * np.pi * min(layer.frequency / scale, size / 3)
    bend = np.float32(layer.wave * rng.uniform(0, 1)) * np.sin(np.float32(2 * np.pi) * across)
    field = np.sin(np.float32(frequency) * along + np.float32(phases[0]) + bend)
    if layer.filled:
        field = field * np.sin(np.float32(frequency / layer.stretch**0.5) * across + np.float32(phases[1]))
    return np.tanh(np.float32(1 + 6 * layer.wave) * field)


def _noise(layer: Layer, size: int, turn: float, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Noise of one scale, stretched along one direction; sharp-edged for half of the recipes."""
    coarse = int(np.clip(6 * layer.frequency / scale, 12, 1.5 * size))
    noise = rng.standard_normal((coarse, coarse), dtype=np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), 0.8 * layer.stretch, sigmaY=0.8)
    turned = cv2.getRotationMatrix2D((coarse / 2, coarse / 2), np.rad2deg(layer.angle + turn), 1.45)
    noise = cv2.warpAffine(noise, turned, (coarse, coarse), borderMode=cv2.BORDER_REFLECT)
    noise = cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.tanh(8 * layer.wave * noise / noise.std()) if layer.filled else noise


def _fill(field: np.ndarray, points: np.ndarray, layer: Layer) -> None:
    """Paint a polygon, given in pixels, with a sixteenth of a pixel's accuracy."""
    fixed = [np.round(points * 16).astype(np.int32)]
    if layer.filled:
        cv2.fillPoly(field, fixed, 1.0, cv2.LINE_8, 4)
    else:
        cv2.polylines(field, fixed, True, 1.0, 1 + int(2 * layer.wave), cv2.LINE_8, 4)


def _polygons(layer: Layer, size: int, turn: float, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Polygons of one kind, scattered."""
    field = np.zeros((size, size), np.float32)
    for centre in rng.uniform(0, size, (layer.number, 2)):
        angles = np.linspace(0, 2 * np.pi, layer.corners, endpoint=False) + layer.angle + turn + rng.normal(0, 0.1)
        radius = layer.size * size * scale * np.exp(rng.normal(0, 0.15))
        sides = np.stack([np.cos(angles), np.sin(angles) / layer.stretch**0.5], axis=1)
        _fill(field, centre + radius * sides, layer)
    return field


def _contours(layer: Layer, size: int, turn: float, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Closed waves, some around one another: r(t) = r0 (1 + a sin(n t)), the atoms of Takashima et al."""
    field = np.zeros((size, size), np.float32)
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    wave = 1 + 0.4 * layer.wave * np.sin(layer.corners * angles + layer.angle + turn)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1) * wave[:, None]
    for centre in rng.uniform(-0.1 * size, 1.1 * size, (1 + layer.number // 4, 2)):
        radius = 1.5 * layer.size * size * scale * np.exp(rng.normal(0, 0.15))
        for ring in range(1 + int(layer.stretch)):
            _fill(field, centre + radius * (1 - ring / (1 + layer.stretch)) * circle, layer)
            if layer.filled:
                break
    return field


def _strokes(layer: Layer, size: int, turn: float, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Straight to curled strokes of about one direction, length and width."""
    field = np.zeros((size, size), np.float32)
    steps = np.linspace(-1, 1, 12)
    for centre in rng.uniform(0, size, (layer.number, 2)):
        angle = layer.angle + turn + rng.normal(0, 0.05 + 0.3 * layer.wave)
        bend = 1.5 * layer.wave * rng.normal()
        length = 2 * layer.size * size * scale * np.exp(rng.normal(0, 0.15))
        directions = angle + bend * steps
        points = centre + length * np.cumsum(np.stack([np.cos(directions), np.sin(directions)], 1), axis=0) / 6
        points -= points.mean(axis=0) - centre
        width = 1 + int(layer.stretch * scale)
        cv2.polylines(field, [np.round(points * 16).astype(np.int32)], False, 1.0, width, cv2.LINE_8, 4)
    return field


def _fractal(layer: Layer, size: int, turn: float, scale: float, rng: np.random.Generator) -> np.ndarray:
    """The set that four random contractions leave alone, by the chaos game on 64 points at once."""
    maps = layer.maps + rng.normal(0, 0.02, layer.maps.shape)
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
    cloud = cloud @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    span = max(np.ptp(cloud, axis=0).max(), 1e-6)
    places = (cloud - cloud.min(axis=0)) / span * size * rng.uniform(0.7, 1.2) * scale
    places += rng.uniform(-0.2, 0.2, 2) * size
    inside = ((places >= 0) & (places < size)).all(axis=1)
    rows, columns = places[inside].astype(int).T
    field = np.zeros((size, size), np.float32)
    field[rows, columns] = 1
    return cv2.GaussianBlur(field, (0, 0), 0.6 + 1.5 * layer.wave)


def _cells(layer: Layer, size: int, turn: float, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Grains: every pixel takes the value of its nearest seed, or its distance to it."""
    count = int(np.clip((layer.frequency / scale) ** 2 / 6, 4, 400))
    seeds = np.ones((size, size), np.uint8)
    rows, columns = rng.integers(0, size, (2, count))
    seeds[rows, columns] = 0
    distance, owner = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    if not layer.filled:
        return distance
    return rng.standard_normal(count + 2, dtype=np.float32)[owner]


KINDS: dict[str, Callable[[Layer, int, float, float, np.random.Generator], np.ndarray]] = {
    "grating": _grating,
    "noise": _noise,
    "polygons": _polygons,
    "contours": _contours,
    "strokes": _strokes,
    "fractal": _fractal,
    "cells": _cells,
}
