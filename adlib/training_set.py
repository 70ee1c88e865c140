"""The training set of a run: which of a dataset's training images a detector learns from, and how often.

Papers cut, thin out, enlarge and pollute training sets; these settings say so, for every method alike. What is random
comes from the run's seed alone, so with the same seed all methods learn from the same images.

train_limit          at most so many normal images of each category, drawn at random; a smaller category keeps all
train_share          this share of each category's normal images, drawn at random
train_contamination  this share of them gives way to defective test images, which pass for normal and are then not
                     tested: defects that nobody screened
train_enlarged       mirrored images join each category until it has so many: all mirrored left to right first, then
                     all upside down, then all both ways
train_real           so many real defects join each category, labelled anomalous, for a method that learns from such:
                     the same ones that mixed supervision injects with this seed, and fewer always among more
train_real_kind      of which kind they are; "mixed", the default, is of all kinds
"""

import zlib

import numpy as np
import pandas as pd

from adlib.errors import InputError
from adlib.parameters import Count, ShareAboveZero, ShareBelowOne, checked

TRAINING_SETTINGS = (
    "train_limit",
    "train_share",
    "train_contamination",
    "train_enlarged",
    "train_real",
    "train_real_kind",
)
_NUMBERS = {
    **dict.fromkeys(("train_limit", "train_enlarged", "train_real"), (Count, "a number of images, at least 1")),
    "train_share": (ShareAboveZero, "a share above 0 and at most 1"),
    "train_contamination": (ShareBelowOne, "a share from 0 to below 1"),
}
SYNTHETIC = "synthetic"  # how samples name a defect that was drawn into a normal patch
MIRRORED = ("horizontal", "vertical", "both")  # in the order in which they join


def check_training_settings(settings: dict) -> dict:
    """The settings that are set, or InputError naming the one that makes no sense."""
    settings = {name: value for name, value in settings.items() if value is not None}
    for name, (kind, allowed) in _NUMBERS.items():
        if name in settings:
            try:
                settings[name] = checked(name, settings[name], kind)
            except InputError as error:
                raise InputError(f"{name}={settings[name]!r} must be {allowed}.") from error
    kind = settings.get("train_real_kind", "mixed")
    if not isinstance(kind, str) or kind == "none":
        raise InputError(f"train_real_kind={kind!r} must name a kind of defects, or be 'mixed' for all of them.")
    if "train_real_kind" in settings and "train_real" not in settings:
        raise InputError(f"train_real_kind={kind!r} says of which kind real defects are: set train_real, their number.")
    if "train_limit" in settings and "train_share" in settings:
        raise InputError("train_limit and train_share were both given: one of them says how many images are learned.")
    return settings


def choose_training_images(
    samples: pd.DataFrame,
    seed: int = 0,
    train_limit: int | None = None,
    train_share: float | None = None,
    train_contamination: float | None = None,
    train_enlarged: int | None = None,
    train_real: int | None = None,
    train_real_kind: str | None = None,
) -> pd.DataFrame:
    """The samples table of a run with these settings; without any, the table as it is.

    samples: of a run, with its training and test rows (adlib.samples). Labelled defects in the training split, of
    supervised methods, stay as they are; with train_real so many of each category are kept. Categories are treated one
    by one, those of a joint run among them. Smaller limits, shares and contaminations are contained in larger ones of
    the same seed.
    With train_enlarged the table has the column `mirror`: "", "horizontal", "vertical" or "both", as ImageSet
    understands it; no file is written.
    Raises InputError for settings that make no sense, for more defects than the test images spare (one has to be left),
    for an enlargement to fewer images than there are, or to more than four times as many, and for more real defects
    than there are.
    """
    given = {
        "train_limit": train_limit,
        "train_share": train_share,
        "train_contamination": train_contamination,
        "train_enlarged": train_enlarged,
        "train_real": train_real,
        "train_real_kind": train_real_kind,
    }
    given = check_training_settings(given)
    if not given:
        return samples
    normal = (samples["split"] == "train") & (samples["label"] == 0)
    parts = [samples[~normal]]
    if "train_real" in given:
        parts[0] = _with_real(parts[0], sorted(set(samples["category"])), seed, given)
    for category, rows in samples[normal].groupby("category", sort=True):
        rng = np.random.default_rng([seed, zlib.crc32(category.encode())])  # alone and in a joint run the same images
        rows = rows.iloc[np.sort(rng.permutation(len(rows))[: _count(len(rows), given)])]
        if given.get("train_contamination"):
            tested = samples[(samples["split"] == "test") & (samples["category"] == category)]
            rows, moved = _contaminated(rows, tested, given["train_contamination"], rng)
            parts[0] = parts[0].drop(index=moved)
        parts.append(_enlarged(rows, category, given["train_enlarged"], rng) if "train_enlarged" in given else rows)
    chosen = pd.concat(parts)
    if "mirror" in chosen:
        chosen["mirror"] = chosen["mirror"].fillna("")
    return chosen.sort_values(["split", "category"], kind="stable", ignore_index=True)


def choose_real(samples: pd.DataFrame, defects: str, number: int | None, seed: int) -> np.ndarray:
    """Rows of the real defects to learn from, in random order: int [N].

    Real is what is labelled 1 and not named "synthetic". defects: "mixed" for all kinds, "none", or the one kind of
    that name. number: at most so many, None for all. The rows are shuffled once, by the seed alone, and taken from the
    beginning: fewer are always among more, as in the paper, and those of one kind keep the order they have among all.
    Raises InputError for a kind of which there is none.
    """
    if number is not None and number < 0:
        raise InputError(f"number={number} must be None, for all real defects, or 0 and more.")
    real = samples[(samples["label"] == 1) & (samples["defect"] != SYNTHETIC)].sort_values(["defect", "image"])
    if defects == "none" or number == 0 or (defects == "mixed" and real.empty):
        return np.empty(0, int)
    shuffled = real.iloc[np.random.default_rng(seed).permutation(len(real))]
    if defects != "mixed":
        shuffled = shuffled[shuffled["defect"] == defects]
        if shuffled.empty:
            known = ", ".join(["none", "mixed", *sorted(set(real["defect"]))])
            raise InputError(f"defects={defects!r}, but the training images hold no such real defect: {known}.")
    return shuffled.index.to_numpy()[:number]


def _count(there: int, settings: dict) -> int:
    """How many of a category's images are learned from."""
    if "train_share" in settings:
        return max(1, round(settings["train_share"] * there))
    return min(there, settings.get("train_limit", there))


def _contaminated(
    rows: pd.DataFrame, tested: pd.DataFrame, share: float, rng: np.random.Generator
) -> tuple[pd.DataFrame, pd.Index]:
    """Training rows of which a share are defects of the test rows that pass for normal, and the index of these."""
    defects = tested[tested["label"] == 1]
    count = round(share * len(rows))
    if count >= len(defects) and count:
        raise InputError(
            f"train_contamination={share:g} of {len(rows)} training images needs {count} defective images, and one to "
            f"be left for testing; there are {len(defects)}."
        )
    moved = defects.iloc[rng.permutation(len(defects))[:count]]
    kept = rows.iloc[np.sort(rng.permutation(len(rows))[count:])]
    unscreened = moved.assign(split="train", label=np.int8(0), mask="", defect="good")
    return pd.concat([kept, unscreened]).sort_values("image"), moved.index


def _with_real(rows: pd.DataFrame, categories: list[str], seed: int, settings: dict) -> pd.DataFrame:
    """The rows, of whose real defects in the training split each category keeps the number that is asked for."""
    kind, number = settings.get("train_real_kind", "mixed"), settings["train_real"]
    training = rows["split"] == "train"
    kept = [rows[~training]]
    for category in categories:
        there = rows[training & (rows["category"] == category)]
        chosen = choose_real(there, kind, number, seed)
        if len(chosen) < number:
            of_kind = "" if kind == "mixed" else f" of the kind {kind}"
            raise InputError(
                f"train_real={number}, but {category} has {len(chosen)} real defects{of_kind} for training: "
                "ask for fewer."
            )
        kept.append(there.loc[np.sort(chosen)])
    return pd.concat(kept)


def _enlarged(rows: pd.DataFrame, category: str, number: int, rng: np.random.Generator) -> pd.DataFrame:
    """The rows, and mirrored ones below them until there are `number`."""
    if not len(rows) <= number <= (1 + len(MIRRORED)) * len(rows):
        advice = "set train_limit as well" if number < len(rows) else f"mirroring makes {4 * len(rows)} of them at most"
        raise InputError(f"train_enlarged={number}, but {category} has {len(rows)} training images: {advice}.")
    parts, left = [rows.assign(mirror="")], number - len(rows)
    for mirror in MIRRORED:
        order = rng.permutation(len(rows))
        parts.append(rows.iloc[np.sort(order[: max(0, min(left, len(rows)))])].assign(mirror=mirror))
        left -= len(rows)
    return pd.concat(parts)


def describe_training_set(samples: pd.DataFrame, chosen: pd.DataFrame) -> dict:
    """What the choice made of the training images, for a record: numbers, by category.

    samples, chosen: the table before and after `choose_training_images`. there: normal training images; learned:
    different ones of them that are learned from; unscreened: defects that pass for normal; mirrored: further images;
    real, where there are any: the files of the real defects that joined, labelled as such.
    """
    found = {}
    for category, rows in samples[(samples["split"] == "train") & (samples["label"] == 0)].groupby("category"):
        mine = chosen[(chosen["split"] == "train") & (chosen["label"] == 0) & (chosen["category"] == category)]
        mirrored = (mine["mirror"] != "").sum() if "mirror" in mine else 0
        images = set(mine["image"])
        learned = len(images & set(rows["image"]))
        counts = {"there": len(rows), "learned": learned, "unscreened": len(images) - learned}
        found[category] = counts | {"mirrored": int(mirrored)}
        labelled = (chosen["split"] == "train") & (chosen["label"] == 1) & (chosen["category"] == category)
        joined = chosen[labelled & ~chosen["image"].isin(samples["image"])]
        if len(joined):
            found[category]["real"] = joined["image"].tolist()
    return found


def describe_auxiliary(samples: pd.DataFrame) -> dict:
    """`describe_training_set` of what a zero-shot method learns from instead: all of the auxiliary sets' images.

    anomalous: those that are labelled so, with which it learns beside the normal ones.
    """
    found = {}
    for category, rows in samples.groupby("category"):
        normal = int((rows["label"] == 0).sum())
        counts = {"there": normal, "learned": normal, "unscreened": 0, "mirrored": 0}
        found[category] = counts | {"anomalous": int((rows["label"] == 1).sum())}
    return found
