"""The plan: every run that the tables of the papers need, under a profile.

A profile (nbconfig/profiles/*.yaml) is plain data that overrides parameters; nothing here asks which one it is.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path

import yaml

from adlib import papers, phantoms
from adlib.datasets import facts, load_samples
from adlib.errors import InputError
from adlib.models import list_models, model_class
from adlib.runs.environment import REPOSITORY
from adlib.runs.record import FAILED, write_json
from adlib.runs.run import Run
from adlib.runs.store import Store

PROFILES = REPOSITORY / "nbconfig" / "profiles"


@dataclass
class Cell:
    """One cell of a paper's table, for one seed: the run that fills it, or why there is none.

    setting: tells rows of one method apart, as in adlib.published. A table with a row per sub-class ("cloth/subclass1")
    has one cell per product: the run reports every sub-class.
    """

    paper: str
    table: str
    method: str
    dataset: str
    category: str
    setting: str
    seed: int
    run: Run | None = None
    missing: str = ""  # "not implemented", "no data", "not in this profile"

    def as_dict(self) -> dict:
        names = ("paper", "table", "method", "dataset", "category", "setting", "seed", "missing")
        cell = {name: getattr(self, name) for name in names}
        return cell | {"key": self.run.key if self.run else ""}


@dataclass
class Profile:
    """What a YAML file in nbconfig/profiles says.

    data: "phantoms", or where the datasets lie (one folder each). seeds: how many; if not given, a paper's own number
    of replicates, else one. phantoms: options of drawing, by dataset. settings: overrides for all methods that have
    such a parameter. methods: overrides by method. categories: method -> on how many categories of each dataset it
    runs, "other" standing for all methods that are not named; on all of them if the profile says nothing.
    """

    name: str
    data: str = ""
    seeds: int | None = None
    phantoms: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    methods: dict = field(default_factory=dict)
    categories: dict = field(default_factory=dict)

    def limit(self, method: str) -> int | None:
        """On how many categories of a dataset a method runs; None for all."""
        return self.categories.get(method, self.categories.get("other"))


def list_profiles() -> list[str]:
    return sorted(file.stem for file in PROFILES.glob("*.yaml"))


def read_profile(name: str, data: str | Path | None = None, seeds: int | None = None) -> Profile:
    """A profile by name or by the path of a YAML file; data and seeds override what it says."""
    file = Path(name) if name.endswith((".yaml", ".yml")) else PROFILES / f"{name}.yaml"
    if not file.is_file():
        raise InputError(f"No profile {name!r}; there are {', '.join(list_profiles())}, or give a .yaml file.")
    try:
        profile = Profile(file.stem, **(yaml.safe_load(file.read_text(encoding="utf-8")) or {}))
    except (TypeError, yaml.YAMLError) as error:
        raise InputError(f"{file} is not a profile: {error}.") from error
    if data is not None:
        profile.data = str(Path(data).expanduser().resolve())
    if seeds is not None:
        profile.seeds = seeds
    if not profile.data:
        raise InputError(f"Profile {profile.name} needs data: give --data DIR, with one folder per dataset in it.")
    return profile


def draw_phantoms(names: Iterable[str], profile: Profile, folder: Path) -> None:
    """Draw the phantoms that the papers need, if the profile runs on phantoms; those that are there stay."""
    if profile.data != "phantoms":
        return
    for dataset in sorted({name for paper in names for name in _datasets(paper)}):
        if dataset in phantoms.list_phantoms():
            phantoms.draw(dataset, folder / dataset, **profile.phantoms.get(dataset, {}))


def _datasets(paper: str) -> list[str]:
    return [dataset for table in papers.protocol(paper)["tables"].values() for dataset in table["datasets"]]


def dataset_root(dataset: str, profile: Profile, phantom_folder: Path) -> Path:
    """Where a dataset lies under a profile."""
    return (phantom_folder if profile.data == "phantoms" else Path(profile.data)) / dataset


def plan(names: Iterable[str], profile: Profile, phantom_folder: Path) -> list[Cell]:
    """Every cell of every benchmark table of the papers, with its run where one is possible.

    Settings of a run: the method's defaults, then the paper's, then the profile's.
    """
    cells = []
    there = cache(lambda root: set(load_samples(root.name, root)["category"]) if root.is_dir() else set())
    for paper in names:
        protocol = papers.protocol(paper)
        seeds = profile.seeds or papers.replicates(paper) or 1
        for table, spec in protocol["tables"].items():
            for dataset, method, setting in product(spec["datasets"], spec["methods"], spec.get("settings", [""])):
                root = dataset_root(dataset, profile, phantom_folder)
                own = protocol.get("settings", {}).get(method, {})
                categories = list(spec.get("categories", facts(dataset).counts))
                tried = [name for name in categories if name in there(root)][: profile.limit(method)]
                for category, seed in product(categories, range(seeds)):
                    cell = Cell(paper, table, method, dataset, category, setting, seed)
                    _fill(cell, root, there, own, profile)
                    if cell.run and category not in tried:
                        cell.run, cell.missing = None, "not in this profile"
                    cells.append(cell)
    return cells


def _fill(cell: Cell, root: Path, there: Callable[[Path], set], paper_settings: dict, profile: Profile) -> None:
    """Give the cell its run, or say why it has none. No method knows a setting of a paper's table yet."""
    if cell.method not in list_models() or cell.setting:
        cell.missing = "not implemented"
    elif cell.category not in there(root):
        cell.missing = "no data"
    else:
        settings = paper_settings | _accepted(cell.method, profile.settings) | profile.methods.get(cell.method, {})
        cell.run = Run(cell.dataset, str(root), cell.method, cell.category, settings, cell.seed)


def _accepted(method: str, settings: dict) -> dict:
    """Of settings meant for all methods, those that this one has."""
    import inspect

    known = [*inspect.signature(model_class(method).__init__).parameters, *model_class(method).image_defaults]
    return {name: value for name, value in settings.items() if name in known}


def distinct_runs(cells: Iterable[Cell]) -> list[Run]:
    """The runs of the cells, each once, though several cells may share it."""
    return list({cell.run.key: cell.run for cell in cells if cell.run}.values())


def state(cell: Cell, store: Store) -> str:
    """ "done", "failed", "to do", "not implemented", "no data" or "not in this profile"."""
    if cell.run is None:
        return cell.missing
    record = store.record(cell.run.key)
    if record is None:
        return "to do"
    return "failed" if record["status"] == FAILED else "done"


def write_plan(cells: list[Cell], profile: Profile, out: Path) -> None:
    """Leave one plan per paper in out/plans: it tells the tables which runs belong to which cell."""
    (out / "plans").mkdir(parents=True, exist_ok=True)
    for paper in {cell.paper for cell in cells}:
        mine = [cell.as_dict() for cell in cells if cell.paper == paper]
        content = {"paper": paper, "profile": profile.name, "data": profile.data, "cells": mine}
        write_json(out / "plans" / f"{paper}.json", content)
