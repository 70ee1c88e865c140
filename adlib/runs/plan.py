"""The plan: every run that the tables of the papers need, under a profile."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import product
from pathlib import Path

import pandas as pd

from adlib import papers, phantoms
from adlib.datasets import FOLDER_OPTIONS, facts, has_training_defects, load_samples
from adlib.datasets.folder import is_own_set
from adlib.errors import InputError
from adlib.models import list_models, model_class
from adlib.papers.settings import settings as paper_settings
from adlib.processes import in_processes
from adlib.runs.profile import (  # noqa: F401  list_profiles and read_profile are asked for here
    Profile,
    list_profiles,
    parameter_names,
    read_profile,
)
from adlib.runs.record import FAILED, write_json
from adlib.runs.run import IMAGE_SETTINGS, Run
from adlib.runs.settings import DATA_SETTINGS
from adlib.runs.store import Store
from adlib.samples import file_fingerprints
from adlib.training_set import SYNTHETIC, TRAINING_SETTINGS

HOW_MANY = ("train_limit", "train_share")  # training images: a run takes one of them
REAL_DEFECTS = ("train_real", "train_real_kind")
# Of a cell's run; the last four are of cells without one.
NO_WEIGHTS = "no weights"
STATES = ("done", "running", "failed", "to do", "no data", NO_WEIGHTS, "not in this profile", "not implemented")


@dataclass
class Cell:
    """One cell of a paper's table, for one seed: the run that fills it, or why there is none.

    setting: tells rows of one method apart, as in adlib.published. A table with a row per sub-class ("cloth/subclass1")
    has one cell per product: the run reports every sub-class. The run of a joint method reports every category and
    belongs to several cells.
    """

    paper: str
    table: str
    method: str
    dataset: str
    category: str
    setting: str
    seed: int
    run: Run | None = None
    missing: str = ""  # "not implemented", "no data", "no weights", "not in this profile"
    lacks: list[Path] = field(default_factory=list)  # folders of the data sets that it has no data for
    why: str = ""  # these are there, but cannot be read

    def as_dict(self) -> dict:
        names = ("paper", "table", "method", "dataset", "category", "setting", "seed", "missing")
        cell = {name: getattr(self, name) for name in names}
        return cell | {"key": self.run.key if self.run else ""}


def draw_phantoms(names: Iterable[str], profile: Profile, folder: Path, processes: int = 1) -> None:
    """Draw the phantoms that the papers need, if the profile runs on phantoms; those that are there stay."""
    if profile.data != "phantoms":
        return
    drawn = {}
    for paper in names:
        protocol, own = adapted(paper, profile)
        for dataset in _datasets(protocol, own):
            drawn[dataset, own.difficulty] = own
            if own.difficulty != "hard" and not papers.is_study(paper):  # what the data notebooks look at
                drawn.setdefault((dataset, "hard"), None)
    wanted = []
    for (dataset, _), own in sorted(drawn.items(), key=lambda item: item[0]):
        if dataset in phantoms.list_phantoms():
            options = own.phantoms.get(dataset, {}) | {"difficulty": own.difficulty} if own else {}
            wanted.append((dataset, dataset_root(dataset, own, folder) if own else folder / dataset, options))
    some = sum(not root.is_dir() for _, root, _ in wanted) > 1  # else starting a process takes longer
    in_processes(_draw, wanted, processes if some else 1)


def _draw(dataset: str, root: Path, options: dict) -> None:
    phantoms.draw(dataset, root, **options)


def adapted(paper: str, profile: Profile) -> tuple[dict, Profile]:
    """A paper's protocol and the profile as they are; a study's with what it says under `profiles` for this profile.

    There a study may replace fields of a Profile (names in a mapping one by one), and under `tables` fields of its
    tables. A number of seeds from the command line stays.
    """
    protocol = papers.protocol(paper)
    changes = dict(protocol.get("profiles", {}).get(profile.name, {}))
    for table, spec in changes.pop("tables", {}).items():
        protocol["tables"][table] |= spec
    if profile.insisted:
        changes.pop("seeds", None)
    own = replace(profile)
    for name, value in changes.items():
        setattr(own, name, getattr(own, name) | value if isinstance(value, dict) else value)
    return protocol, own


def _datasets(protocol: dict, profile: Profile) -> set[str]:
    """The data sets of the paper's tables, and those that the profile has zero-shot methods in them learn from."""
    tables = protocol["tables"].values()
    methods = {method for table in tables for method in table["methods"]}
    auxiliary = {name for method in methods for name in profile.methods.get(method, {}).get("auxiliary", ())}
    return auxiliary.union(*(table["datasets"] for table in tables))


def dataset_root(dataset: str, profile: Profile, phantom_folder: Path) -> Path:
    """Where a dataset lies under a profile; its plain phantoms in a folder of their own beside the hard ones.

    The data may be one set of a person's own (adlib.datasets.folder.is_own_set) instead of a folder per dataset: it
    then is the dataset "folder" itself.
    """
    if profile.data != "phantoms":
        own = dataset == "folder" and is_own_set(Path(profile.data))
        return Path(profile.data) / ("" if own else dataset)
    return phantom_folder / ("" if profile.difficulty == "hard" else profile.difficulty) / dataset


def plan(names: Iterable[str], profile: Profile, phantom_folder: Path) -> list[Cell]:
    """Every cell of every benchmark table of the papers, with its run where one is possible.

    Settings of a run: the method's defaults, then the paper's, then the profile's, then those that make it the table's
    row that it is. Of a joint method one run, on all categories together, fills the cells of a dataset. Where the data
    are one set of a person's own, a table that has the dataset "folder" is of this alone. Data that cannot be read cost
    their own cells the run (adlib.runs.obstacles). Raises InputError where that leaves no run at all.
    """
    cells, unread = [], {}
    asked, alone = profile, profile.data != "phantoms" and is_own_set(Path(profile.data))
    for paper in names:
        protocol, profile = adapted(paper, asked)
        there = cache(partial(_categories_there, settings=profile.settings, unread=unread))
        seeds = profile.seeds or papers.replicates(paper) or 1
        joint = protocol.get("joint", []) if profile.joint is None else profile.joint
        for table, spec in protocol["tables"].items():
            settings = spec.get("settings", {"": {}})
            datasets = ["folder"] if alone and "folder" in spec["datasets"] else spec["datasets"]
            for dataset, method, setting in product(datasets, spec["methods"], settings):
                root = dataset_root(dataset, profile, phantom_folder)
                categories = _categories(spec, dataset) or sorted(there(dataset, root))
                limit = profile.limit(method)
                limit = None if limit and method in joint else limit
                tried = [name for name in categories if name in there(dataset, root)][:limit]
                shared: dict[int, Run] = {}  # by seed
                for category, seed in product(categories, range(seeds)):
                    cell = Cell(paper, table, method, dataset, category, setting, seed)
                    joined = "" if method in joint else category
                    _fill(cell, root, there, joined, settings[setting], profile)
                    cell.why = unread.get(root, "") if root in cell.lacks else ""
                    if cell.run and category not in tried:
                        cell.run, cell.missing = None, "not in this profile"
                    if cell.run and method in joint:
                        cell.run = shared.setdefault(seed, replace(cell.run, category=""))
                    cells.append(cell)
    _leave_out_unreadable(cells)
    if (reasons := [*unread.values(), *filter(None, (cell.why for cell in cells))]) and not any(c.run for c in cells):
        raise InputError(reasons[0])
    _share_where_all_are_injected(cells)
    return cells


def _categories_there(dataset: str, root: Path, settings: dict, unread: dict[Path, str]) -> set[str]:
    """The categories of a dataset on disk, read with the settings for all runs on it; none where it is not there, or
    where it cannot be read: then `unread` says why.
    """
    if not root.exists():
        return set()
    try:
        return set(load_samples(dataset, root, **_data_options(dataset, settings))["category"])
    except InputError as error:
        unread[root] = str(error)
        return set()


def _leave_out_unreadable(cells: Iterable[Cell]) -> None:
    """Take the runs away from cells of which a file cannot be read: else no key could be told, and none would begin."""
    reasons: dict[tuple, str] = {}
    for cell, run in [(cell, cell.run) for cell in cells if cell.run]:
        same = _reading(run)
        if same not in reasons:
            try:
                file_fingerprints(run.loaded_samples)
                reasons[same] = ""
            except InputError as error:
                reasons[same] = str(error)
        if reasons[same]:
            cell.run, cell.missing, cell.lacks, cell.why = None, "no data", [Path(run.root)], reasons[same]


def _reading(run: Run) -> tuple:
    """Equal for runs that read the same images."""
    return run.dataset, run.root, run.category, repr(sorted(run.data_settings.items()))


def _data_options(dataset: str, settings: dict) -> dict:
    """Of settings meant for all runs, how this dataset is read: what speaks of folders is of "folder" alone."""
    of_others = () if dataset == "folder" else FOLDER_OPTIONS
    return {name: value for name, value in settings.items() if name in DATA_SETTINGS and name not in of_others}


def _share_where_all_are_injected(cells: list[Cell]) -> None:
    """Rows that ask for more real defects than there are would all learn from the same ones: give them one run, that of
    the row which asks for most. It says how many there are.
    """
    there: dict[tuple, pd.Series] = {}  # kinds of the real defects, one each
    alike: dict[tuple, list[Cell]] = {}
    for cell in cells:
        if cell.run is None or not cell.run.settings.get("number") or "defects" not in cell.run.settings:
            continue
        run, kind = cell.run, cell.run.settings["defects"]
        if (run.root, run.category) not in there:
            learned = run.all_samples
            real = (learned["split"] == "train") & (learned["label"] == 1) & (learned["defect"] != SYNTHETIC)
            there[run.root, run.category] = learned.loc[real, "defect"]
        kinds = there[run.root, run.category]
        if run.settings["number"] >= (len(kinds) if kind == "mixed" else (kinds == kind).sum()):
            same = repr(sorted((run.settings | {"number": None}).items()))
            alike.setdefault((run.root, run.category, run.method, run.seed, same), []).append(cell)
    for rows in alike.values():
        most = max((cell.run for cell in rows), key=lambda run: run.settings["number"])
        for cell in rows:
            cell.run = most


def _categories(table: dict, dataset: str) -> list[str]:
    """The categories of a dataset in a table: those that it names, for all its datasets or by dataset, else all that
    are published; [] for a set of one's own, in the dataset "folder", of which nothing is.
    """
    named = table.get("categories", {})
    return list((named.get(dataset) if isinstance(named, dict) else named) or facts(dataset).counts)


def cell_settings(cell: Cell, category: str, row: dict, profile: Profile) -> dict:
    """What the run of a cell sets: what the paper's protocol does (adlib.papers.settings), then what the profile does
    for all methods that have such a parameter and for how the data are read, what it does for this method, and what
    makes the table's row. What is said last of how many images are learned from holds alone, be it their number or
    their share.

    category: of the run, "" for all together.
    """
    own = paper_settings(cell.paper, cell.method, cell.dataset, category)
    for_all = _accepted(cell, profile.settings) | _data_options(cell.dataset, profile.settings)
    joined: dict = {}
    for said in (own, for_all, profile.methods.get(cell.method, {}), row):
        if any(said.get(name) is not None for name in HOW_MANY):
            joined = {name: value for name, value in joined.items() if name not in HOW_MANY}
        joined |= said
    return joined


def _fill(
    cell: Cell, root: Path, there: Callable[[str, Path], set], category: str, row: dict, profile: Profile
) -> None:
    """Give the cell its run, or say why it has none."""
    if cell.method not in list_models():
        cell.missing = "not implemented"
    elif cell.category not in there(cell.dataset, root):
        cell.missing, cell.lacks = "no data", [root]
    else:
        settings = cell_settings(cell, category, row, profile)
        cell.run = Run(cell.dataset, str(root), cell.method, cell.category, settings, cell.seed)
        try:
            cell.run.check_settings()
        except InputError as error:
            raise InputError(f"{cell.method} with the profile {profile.name}: {error}") from error
        if lacks := [folder for _, folder in cell.run.auxiliary_roots if not folder.exists()]:
            cell.run, cell.missing, cell.lacks = None, "no data", lacks


def _accepted(cell: Cell, settings: dict) -> dict:
    """Of settings meant for all methods, those that a cell's has, and of the training set those that it has a place
    for: a method that never learns from the target has none, and real defects join for few, where the set has some.
    """
    kind = model_class(cell.method)
    of_training = () if kind.facts.joint == "no target" else TRAINING_SETTINGS
    takes_defects = kind.accepts_anomalous and not hasattr(kind, "training_samples")
    if not (takes_defects and has_training_defects(cell.dataset)):
        of_training = [name for name in of_training if name not in REAL_DEFECTS]
    known = [*parameter_names(kind), *IMAGE_SETTINGS, *of_training]
    return {name: value for name, value in settings.items() if name in known}


def fetch_weights(cells: Iterable[Cell]) -> None:
    """Bring weights that the runs of the cells need from the hub, before their keys are asked for, which cover them.

    Each is asked for once; without a network, the runs that need it fail and say so.
    """
    asked: set[str] = set()
    for run in (cell.run for cell in cells if cell.run):
        missing = {name for name, file in run.create_model().weight_files().items() if file is None}
        if missing - asked:
            run.fetch_weights()
            asked |= missing


def distinct_runs(cells: Iterable[Cell]) -> list[Run]:
    """The runs of the cells, each once, though several cells may share it."""
    runs, read = {}, {}
    for run in (cell.run for cell in cells if cell.run):
        # Runs on the same images read them once: reading takes longer than all else that a key asks for.
        same = _reading(run)
        if same in read:
            vars(run)["loaded_samples"] = read[same]
        runs[run.key] = run
        read[same] = run.loaded_samples
    return list(runs.values())


def state(cell: Cell, store: Store) -> str:
    """One of STATES but "running". A run whose files are damaged is to do."""
    if cell.run is None:
        return cell.missing
    record = store.record(cell.run.key)
    if record is not None and record["status"] == FAILED:
        return "failed"
    return "done" if store.is_finished(cell.run.key) else "to do"


def write_plan(cells: list[Cell], profile: Profile, out: Path) -> None:
    """Leave one plan per paper in out/plans: it tells the tables which runs belong to which cell."""
    for paper in {cell.paper for cell in cells}:
        own = adapted(paper, profile)[1]
        mine = [cell.as_dict() for cell in cells if cell.paper == paper]
        content = {"paper": paper, "profile": profile.name, "data": profile.data, "cells": mine}
        if profile.data == "phantoms":
            content["difficulty"] = own.difficulty
        file = out / "plans" / f"{paper}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, content)
