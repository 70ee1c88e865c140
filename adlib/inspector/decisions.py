"""Decisions: the thresholds of all methods, and what follows from them for every sample."""

from collections.abc import Mapping

import numpy as np

from adlib.errors import InputError
from adlib.inspector.joined import Joined
from adlib.inspector.panels import Decision
from adlib.inspector.selection import both_classes, opening_threshold, outcomes
from adlib.metrics import decision_metrics
from adlib.samples import UNKNOWN


class Decisions:
    """Per method a threshold of the image score and one of the map, for its mask; both can be changed.

    threshold: opening threshold, one number or {name: number}; None as in `opening_threshold`. Raises InputError for a
        name that the predictions do not have.

    thresholds: list of M floats. scales: (low, high) of each method's colours, None for a method without maps, or
    without a finite number in them.
    follows: list of M bools, whether the mask uses the image's threshold. It opens as True where that lies in the
    range of the maps; where it does not (a score in another unit), the mask begins with the top of the colour scale.
    own: list of M floats, the masks' own thresholds, used where `follows` is False.
    masks: list of M bools, whether the method's maps make masks: not where they only explain its score.
    """

    def __init__(self, joined: Joined, threshold: float | Mapping[str, float] | None = None):
        self._labels, self._scores = joined.labels, joined.scores
        if isinstance(threshold, Mapping):
            named = {str(name): value for name, value in threshold.items()}
            if unknown := [repr(name) for name in named if name not in joined.names]:
                raise InputError(
                    f"threshold names {', '.join(unknown)}, of which there are no predictions: give one number, "
                    f"or name {' or '.join(map(repr, joined.names))}."
                )
            given = [named.get(name) for name in joined.names]
        else:
            given = [threshold] * len(joined.names)
        self.thresholds = [0.0] * len(given)
        for method, value in enumerate(given):
            scores = self._scores[:, method]
            self.set(method, opening_threshold(self._labels, scores) if value is None else value)
        both = both_classes(self._labels)
        self._oracles = [
            threshold if both and value is None else None
            for threshold, value in zip(self.thresholds, given, strict=True)
        ]
        self.masks = [joined.outlines(method) for method in range(len(given))]
        self.scales = [joined.map_range(method) for method in range(len(given))]
        self.own = [scale[1] if scale else 0.0 for scale in self.scales]
        self.follows = [
            scale is None or scale[0] <= value <= 2 * scale[1] - scale[0]
            for value, scale in zip(self.thresholds, self.scales, strict=True)
        ]

    def set(self, method: int, threshold: float) -> None:
        """Set a threshold of the image score. Raises InputError unless it is a finite number."""
        if not np.isfinite(threshold):
            raise InputError(f"threshold must be a finite number, got {threshold}.")
        self.thresholds[method] = float(threshold)

    def is_oracle(self, method: int) -> bool:
        """Whether a threshold still is the opening one, chosen on the labels that it is judged by."""
        return self.thresholds[method] == self._oracles[method]

    def mask_threshold(self, method: int) -> float:
        """Map values from here on are outlined as a method's mask; infinite where it has none."""
        if not self.masks[method]:
            return np.inf
        return self.thresholds[method] if self.follows[method] else self.own[method]

    def outcomes(self, method: int) -> np.ndarray:
        """[N] "TP", "FP", "FN" or "TN"; "?" where the label is unknown."""
        return outcomes(self._labels, self._scores[:, method], self.thresholds[method])

    def metrics(self, method: int) -> dict:
        """`adlib.metrics.decision_metrics` of all samples whose label is known."""
        known = self._labels != UNKNOWN
        return decision_metrics(self._labels[known], self._scores[known, method], self.thresholds[method])

    def of(self, index: int, shared_scale: bool = True) -> list[Decision]:
        """What each method says about one sample."""
        return [
            Decision(
                score=float(self._scores[index, method]),
                outcome=str(self.outcomes(method)[index]),
                mask_threshold=self.mask_threshold(method),
                scale=self.scales[method] if shared_scale else None,
            )
            for method in range(len(self.thresholds))
        ]
