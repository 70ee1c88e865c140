"""Two stored runs on the same images, compared: the differences of their metrics with paired intervals."""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from adlib.errors import InputError
from adlib.rounding import rounded_text
from adlib.runs.changed_files import changed_files
from adlib.runs.one_place import in_one_place
from adlib.runs.selection import one_key
from adlib.runs.standing import dash
from adlib.runs.store import Store
from adlib.runs.titles import stored_titles

ALIKE = "the difference is the same however these images are drawn"  # which says nothing of other images


@dataclass
class Comparison:
    """first, second: the runs' titles. images: how many were compared.

    table: a row per metric with the columns metric, first, second, difference (first - second), low and high (the
    paired bootstrap's 95 % interval of the difference), p_value. All but the p-value in percent.
    warning: why it is not known that both runs saw the same pictures; "" where they did.
    reasons: of each metric without an interval that says something, why.
    """

    first: str
    second: str
    images: int
    table: pd.DataFrame
    warning: str = ""
    reasons: dict[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """The table for a terminal: percentages with two decimals, p-values with three digits, "-" where there is none.

        What is below 100 never reads as 100: it is "<100" where two decimals would say so.
        """
        shown = self.table.apply(lambda column: column if column.name == "metric" else column.map(_two_decimals))
        shown["p_value"] = self.table["p_value"].map(lambda value: "-" if pd.isna(value) else f"{value:.3g}")
        shown.loc[self.table["metric"].isin(self.reasons), ["low", "high", "p_value"]] = "-"
        return "\n".join([shown.to_string(index=False), *self._without()])

    def _without(self) -> list[str]:
        """A line per reason for which metrics have no interval."""
        of = {why: [metric for metric, one in self.reasons.items() if one == why] for why in self.reasons.values()}
        return [f"No interval of {', '.join(metrics)}: {why}." for why, metrics in of.items()]


def _two_decimals(value: float) -> str:
    """A percentage, or a difference of two, as text."""
    return "-" if pd.isna(value) else rounded_text(value)


def compare_runs(
    store: Store, first: str, second: str, pixels: bool = False, replicates: int = 1000, seed: int = 0
) -> Comparison:
    """Compare two finished runs on the images that both have and whose label is known (adlib.metrics.compare_images).

    first, second: keys or beginnings. pixels: pixel metrics too, where both have maps of one size.
    Raises InputError for a run that is not finished, for two without a common image, and where labels or maps differ;
    for a run whose numbers stand for nothing (adlib.runs.standing.dash); for runs that did not see the same pictures
    because these were changed in between, and, with pixels, for masks that were changed since.
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
    folders, records = [store.path(key) / "predictions" for key in keys], [store.record(key) for key in keys]
    for key, record in zip(keys, records, strict=True):
        if lacks := dash(record):
            raise InputError(f"The run {key} {lacks}, and its were drawn at random: its numbers stand for nothing.")
    titles = stored_titles(records)
    one, other = _shared(*(each.known for each in in_one_place(map(Predictions.load, folders))), keys)
    warning = _other_pictures(store, keys, folders)
    labels, things = one.samples["label"].to_numpy(), items(one.samples)
    found = compare_images(labels, one.scores, other.scores, replicates, seed, items=things)
    reasons = found.pop("reasons", {})
    if pixels:
        if not (one.judges_pixels and other.judges_pixels) or one.maps.shape != other.maps.shape:
            dropped = [
                f" Those of the run {key} were not kept."
                for key, each in zip(keys, (one, other), strict=True)
                if each.maps_dropped
            ]
            raise InputError(
                "Pixels can be compared only where both runs have maps of one size that outline defects."
                + "".join(dropped)
            )
        for key, folder in zip(keys, folders, strict=True):
            if "masks" in (changed_files(folder) or ()):
                raise InputError(
                    f"The masks of the run {key} have changed since it was done, so that pixels would be counted "
                    "otherwise than in its record: do it again."
                )
        if one.masks is None or (one.masks != other.masks).any():
            raise InputError("Pixels can be compared only where both runs were scored against the same masks.")
        found |= compare_pixels(one.masks, one.maps, other.maps, replicates, seed, items=things)
        reasons |= found.pop("reasons", {})
    names = ("first", "second", "difference", "low", "high")
    rows = [
        {"metric": metric} | {name: 100 * values[name] for name in names} | {"p_value": values["p_value"]}
        for metric, values in found.items()
    ]
    reasons |= {metric: ALIKE for metric, values in found.items() if values["low"] == values["high"]}
    return Comparison(*titles, len(labels), pd.DataFrame(rows), warning, reasons)


def _other_pictures(store: Store, keys: list[str], folders: list[Path]) -> str:
    """A warning where two runs may have seen other pictures in files of one name, "" where they saw the same.

    Raises InputError where the pictures were changed between the runs, or since.
    """
    data = [store.record(key)["data"] for key in keys]
    scored = [about.get("scored", {}).get("images") for about in data]
    if data[0]["fingerprint"] == data[1]["fingerprint"] or (scored[0] and scored[0] == scored[1]):
        return ""
    # Runs may as well have scored other sets of images, a category and all of them, say: what both have is the same
    # if neither set has changed since.
    changed = [changed_files(folder) for folder in folders]
    for key, files in zip(keys, changed, strict=True):
        if files and "images" in files:
            raise InputError(
                f"The images that the run {key} scored have changed since, so the two runs are not known to have seen "
                "the same pictures: do it again."
            )
    if None not in changed:
        return ""
    return (
        f"The data of the two runs differ (fingerprints {data[0]['fingerprint']} and {data[1]['fingerprint']}): it is "
        "not known whether images of one name are the same pictures."
    )


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
