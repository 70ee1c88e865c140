"""Two stored runs on the same images, compared: the differences of their metrics with paired intervals."""

from dataclasses import dataclass

import pandas as pd

from adlib.errors import InputError
from adlib.runs.selection import one_key
from adlib.runs.store import Store
from adlib.runs.titles import stored_titles


@dataclass
class Comparison:
    """first, second: the runs' titles. images: how many were compared.

    table: a row per metric with the columns metric, first, second, difference (first - second), low and high (the
    paired bootstrap's 95 % interval of the difference), p_value. All but the p-value in percent.
    """

    first: str
    second: str
    images: int
    table: pd.DataFrame


def compare_runs(
    store: Store, first: str, second: str, pixels: bool = False, replicates: int = 1000, seed: int = 0
) -> Comparison:
    """Compare two finished runs on the images that both have and whose label is known (adlib.metrics.compare_images).

    first, second: keys or beginnings. pixels: pixel metrics too, where both have maps of one size.
    Raises InputError for a run that is not finished, for two without a common image, and where labels or maps differ.
    """
    from adlib.metrics import compare_images, compare_pixels
    from adlib.predictions import Predictions
    from adlib.samples import items

    keys = [one_key(store, key) for key in (first, second)]
    if keys[0] == keys[1]:
        raise InputError(f"{first!r} and {second!r} are one run: name two.")
    for key in keys:
        if not store.is_finished(key):
            raise InputError(f"The run {key} is not finished: there is nothing to compare.")
    titles = stored_titles([store.record(key) for key in keys])
    one, other = _shared(*(Predictions.load(store.path(key) / "predictions").known for key in keys), keys)
    labels, things = one.samples["label"].to_numpy(), items(one.samples)
    found = compare_images(labels, one.scores, other.scores, replicates, seed, items=things)
    if pixels:
        if not (one.judges_pixels and other.judges_pixels) or one.maps.shape != other.maps.shape:
            raise InputError("Pixels can be compared only where both runs have maps of one size that outline defects.")
        if one.masks is None or (one.masks != other.masks).any():
            raise InputError("Pixels can be compared only where both runs were scored against the same masks.")
        found |= compare_pixels(one.masks, one.maps, other.maps, replicates, seed, items=things)
    names = ("first", "second", "difference", "low", "high")
    rows = [
        {"metric": metric} | {name: 100 * values[name] for name in names} | {"p_value": values["p_value"]}
        for metric, values in found.items()
        if metric != "reasons" and isinstance(values, dict)
    ]
    return Comparison(*titles, len(labels), pd.DataFrame(rows))


def _shared(one, other, keys: list[str]):
    """Both predictions on the images that both have, in one order."""
    places = pd.Index(other.samples["image"]).get_indexer(one.samples["image"])
    one = one.select(places >= 0)
    other = other.select(places[places >= 0])
    if not len(one):
        raise InputError(f"The runs {keys[0]} and {keys[1]} have no image of known label in common.")
    if (differs := one.samples["label"].to_numpy() != other.samples["label"].to_numpy()).any():
        image = one.samples["image"][int(differs.argmax())]
        raise InputError(f"{image} is labelled one way in {keys[0]} and the other way in {keys[1]}.")
    return one, other
