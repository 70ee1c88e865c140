"""The datasets: what each one is, and its samples.

A dataset is one file in this folder with two things: `FACTS` (what it is, counts, licence, how to get it) and
`samples(root, category=None)`, which turns a root folder into a samples table. To add one, write the file and
name it in `_NAMES`; those of installed packages are found as adlib.plugins says.
"""

import os
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import pandas as pd

from adlib import plugins
from adlib.decoding.masks import check_rule
from adlib.errors import InputError, did_you_mean
from adlib.samples import (
    COLUMNS,
    OPTIONAL,
    check_columns,
    check_phantom,
    count,
    make_samples,
    name_items,
    phantom_root,
)

_NAMES = [
    "btad",
    "colondb",
    "cxr_ad",
    "folder",
    "isp_ad",
    "ksdd2",
    "miic",
    "mpdd",
    "mvtec_ad",
    "texture_ad",
    "three_cad",
    "visa",
]


# Sets in which every picture outside ground_truth is a sample.
_TREES = {"btad", "cxr_ad", "folder", "isp_ad", "mpdd", "mvtec_ad", "texture_ad", "three_cad"}
FOLDER_OPTIONS = ("normal_names", "unknown_names", "normal", "abnormal", "normal_test", "masks")


@dataclass(frozen=True)
class Facts:
    """What is known of a dataset, beside its images."""

    title: str
    source: str  # the publication
    licence: str
    get: str  # how to get it, and how to lay it out
    # category -> (train, test normal, test anomalous), as published
    counts: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    # category -> (train with validation, test), of a set whose publication tells no more apart
    totals: dict[str, tuple[int, int]] = field(default_factory=dict)
    unknown: str = ""  # what the publication does not say
    # (address, SHA-256 or its beginning or "", bytes or 0) of what adlib.datasets.fetch may download; empty where a
    # form must be filled in, or no direct address is known
    archives: tuple[tuple[str, str, int], ...] = ()
    zenodo: str = ""  # number of the set's record on Zenodo, which lists its archives with their checksums

    def count_table(self) -> pd.DataFrame:
        """The published counts: one row per category, columns train, test_normal, test_anomalous."""
        table = pd.DataFrame.from_dict(self.counts, orient="index", columns=["train", "test_normal", "test_anomalous"])
        return table.rename_axis("category")


def list_datasets() -> list[str]:
    """Names that `load_samples` knows."""
    return sorted({*_NAMES, *plugins.plugins("adlib.datasets")})


def _module(name: str):
    if name in _NAMES:
        return import_module(f"adlib.datasets.{name}")
    if name not in list_datasets():
        known = list_datasets()
        raise InputError(f"Unknown dataset {name!r}; known are {', '.join(known)}.{did_you_mean(name, known)}")
    module = plugins.load("adlib.datasets", name)
    if not isinstance(getattr(module, "FACTS", None), Facts) or not callable(getattr(module, "samples", None)):
        raise InputError(f"The dataset {name!r} has to be a module with FACTS and samples(root, category): {module}.")
    return module


def broken_datasets() -> dict[str, str]:
    """name -> why it cannot be used, for the datasets of installed packages."""
    return plugins.broken("adlib.datasets", _NAMES, _module)


def facts(name: str) -> Facts:
    """What is known of a dataset. Raises InputError for an unknown name."""
    return _module(name).FACTS


def load_samples(
    name: str,
    root: str | Path,
    category: str | None = None,
    *,
    mask_rule: str | None = None,
    items: str | None = None,
    **options,
) -> pd.DataFrame:
    """The samples table of a dataset on disk (columns: see adlib.samples).

    name: one of `list_datasets()`.
    root: the dataset's folder (for "folder": any MVTec-like tree, or a .csv file).
    category: read only this one; None reads all.
    mask_rule: what is foreground in the mask files, where it must be told (adlib.decoding.masks); kept in a column.
    items: a regular expression that finds in a file's name what the image shows, for items that are photographed
        several times (adlib.samples.name_items).
    options: of "folder" alone (adlib.datasets.folder): normal_names, unknown_names, normal, abnormal, normal_test,
        masks.
    Images are not opened here: `adlib check` does that. Raises InputError for an unknown name or category, a
    missing folder, an empty class, an anomalous image without a mask, and a phantom that is not whole.
    """
    root = Path(root).expanduser().resolve()
    module = _module(name)
    if not root.exists():
        raise InputError(f"{root} does not exist. {module.FACTS.title}: {module.FACTS.get}")
    check_phantom(root)
    options = {option: value for option, value in options.items() if value is not None}
    if unknown := sorted(set(options) - set(FOLDER_OPTIONS)):
        known = ", ".join(("mask_rule", "items", *FOLDER_OPTIONS))
        near = did_you_mean(unknown[0], ("mask_rule", "items", *FOLDER_OPTIONS))
        raise InputError(f"{unknown[0]} is no option of load_samples; there are {known}.{near}")
    if options and name != "folder":
        raise InputError(f"{min(options)} is for the dataset 'folder' alone: {name} has a layout of its own.")
    if name == "folder":
        options["items"] = items
    samples = module.samples(root, category, **options)
    samples = as_told(samples if name in _NAMES else _checked(name, samples, root), mask_rule, items)
    if (drawn := phantom_root(samples)) and drawn not in (root, *root.parents):  # a list of files that lie elsewhere
        check_phantom(drawn)
    return samples


def _checked(name: str, given, root: Path) -> pd.DataFrame:
    """The samples of a data set of another's, as `make_samples` would have them, in the order and with the further
    columns that it gives: nobody else looks whether an image is listed twice, say, and would count twice.
    """
    if not isinstance(given, pd.DataFrame):
        raise InputError(
            f"samples(root, category) of the dataset {name!r} has to return a samples table, which "
            f"adlib.samples.make_samples makes of dictionaries; it returned {type(given).__name__}."
        )
    check_columns(given)
    made = make_samples(given.to_dict("records"), root)
    made = made.iloc[pd.Index(made["image"]).get_indexer(given["image"].astype(str))].reset_index(drop=True)
    more = {column: given[column].to_numpy() for column in given if column not in (*COLUMNS, *OPTIONAL)}
    return made.assign(**more)


def beside_published(name: str, samples: pd.DataFrame, category: str | None = None) -> pd.DataFrame:
    """Per category the counts "train / test normal / test anomalous" as found and as published ("train / test in all"
    of a set with totals alone), and whether it `agrees`, as all do of a set without either, with which to disagree.

    samples: as `load_samples` gave them for the same name and category.
    """
    found, published, unit = count(samples), facts(name).count_table(), ""
    if totals := facts(name).totals:
        published, unit = pd.DataFrame.from_dict(totals, orient="index", columns=["train", "test"]), " in all"
        # Texture-AD: "images used for training and validation", counted as one.
        train, test = found["train"] + found.get("val", 0), found["test_normal"] + found["test_anomalous"]
        found = found.assign(train=train, test=test)
    known = len(published) > 0
    if category is not None:  # named as in the samples: some sets know a category by two names
        published = published[published.index.isin(samples["category"])]
    columns = list(published)

    def text(table: pd.DataFrame) -> pd.Series:
        return table[columns].astype(int).astype(str).agg(" / ".join, axis=1) + unit if len(table) else pd.Series()

    both = pd.DataFrame({"found": text(found), "published": text(published)}).fillna("none")
    both["agrees"] = (both["found"] == both["published"]) | (not known)
    return both.rename_axis("category")


def unlike_published(name: str, samples: pd.DataFrame, category: str | None = None) -> str:
    """A sentence if these are not as many images as the publication counts: numbers from them are not of that set. ""
    where they are, and where nothing is published.

    samples: as of `beside_published`.
    """
    counts = beside_published(name, samples, category)
    found = [f"{row.Index} {row.found} ({row.published})" for row in counts[~counts["agrees"]].itertuples()]
    if not found:
        return ""
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    told = "Not the published images: train / test normal / test anomalous, and in brackets as published: "
    return f"{told}{', '.join(found[:3])}{more}."


def as_told(samples: pd.DataFrame, mask_rule: str | None = None, items: str | None = None) -> pd.DataFrame:
    """Samples with what `load_samples` is told of their files, in the columns `mask_rule` and `item`."""
    samples = name_items(samples, items)
    return samples if mask_rule is None else samples.assign(mask_rule=check_rule(mask_rule))


def training_defects(name: str, samples: pd.DataFrame) -> pd.DataFrame:
    """The real defects that a dataset has apart for training, labelled anomalous, below the samples table's categories.

    Raises InputError for a dataset that has none apart, and where they are not on disk.
    """
    if not has_training_defects(name):
        have = ", ".join(known for known in list_datasets() if has_training_defects(known))
        raise InputError(f"{name} has no real defects apart for training; {have} has: leave train_real out.")
    return _module(name).training_defects(samples)


def has_training_defects(name: str) -> bool:
    """Whether a dataset has real defects apart for training, wherever it lies (`training_defects`)."""
    return hasattr(_module(name), "training_defects")


def left_out(
    name: str, root: str | Path, samples: pd.DataFrame, category: str | None = None, options: dict | None = None
) -> list[str]:
    """A sentence per folder of pictures that lie with a data set and are none of its samples (adlib.datasets.folders).

    samples: as `load_samples` gave them for the same name, root, category and options. Sets whose layout leaves some
    images out by itself, and CSV files, have none.
    """
    from adlib.datasets.folders import left_out as left_out_below

    root, options = Path(root).expanduser().resolve(), options or {}
    if name == "miic":
        from adlib.datasets import miic

        return miic.left_out(samples)
    if name not in _TREES or not root.is_dir():
        return []
    places = [root]
    if options.get("normal"):
        places = [
            root / Path(options[key]).expanduser() for key in ("normal", "abnormal", "normal_test") if options.get(key)
        ]
    elif category:
        places = [Path(os.path.commonpath([Path(image).parent for image in samples["image"]]))]
    besides = tuple(Path(options[key]).name for key in ("masks",) if options.get(key))
    if name == "isp_ad":
        besides += ("real_defects",)
    return [text for place in places for text in left_out_below(place, samples["image"], besides)]
