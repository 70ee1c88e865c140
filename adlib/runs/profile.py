"""Profiles: budgets and data of a batch (nbconfig/profiles/*.yaml).

A profile is plain data that overrides parameters; no code asks which one it is.
"""

import inspect
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from adlib.datasets import list_datasets
from adlib.errors import InputError, did_you_mean
from adlib.models import list_models, usable_models
from adlib.phantoms.plain import DIFFICULTIES
from adlib.runs.environment import REPOSITORY
from adlib.runs.settings import DATA_SETTINGS, IMAGE_SETTINGS, absolute_paths, read_yaml
from adlib.training_set import TRAINING_SETTINGS

PROFILES = REPOSITORY / "nbconfig" / "profiles"


@dataclass
class Profile:
    """What a YAML file in nbconfig/profiles says, or one of somebody's own.

    name: of a built-in one its word ("smoke"), of others that of the file ("smoke.yaml"): what is said and done of a
    built-in profile by its name is never of a file that happens to be called so. data: "phantoms", or where the
    datasets lie (one folder each). seeds: how many; if not given, a paper's own number of replicates, else one.
    phantoms: options of drawing, by dataset. difficulty: of drawn data in benchmark runs, "hard" or "plain"
    (adlib.phantoms.plain); data notebooks always show the hard ones. settings: overrides for all methods that have such
    a parameter, and of how images, training sets and data are read. methods: overrides by method. categories: method ->
    on how many categories of each dataset it runs, "other" standing for all methods that are not named; on all of them
    if the profile says nothing. joint: the methods of which one model learns all categories of a dataset together,
    where a paper has them; if not given, as each paper says. No limit of categories concerns these, except 0, which
    leaves a method out.
    """

    name: str
    data: str = ""
    seeds: int | None = None
    phantoms: dict = field(default_factory=dict)
    difficulty: str = "hard"
    settings: dict = field(default_factory=dict)
    methods: dict = field(default_factory=dict)
    categories: dict = field(default_factory=dict)
    joint: list[str] | None = None
    insisted: bool = field(default=False, init=False)  # that `seeds` holds whatever a study says

    def limit(self, method: str) -> int | None:
        """On how many categories of a dataset a method runs; None for all."""
        return self.categories.get(method, self.categories.get("other"))


_OF_ALL = (*IMAGE_SETTINGS, *TRAINING_SETTINGS, *DATA_SETTINGS)  # settings of runs, whatever the method


def parameter_names(method: type) -> list[str]:
    """The names of a method's parameters, of the class that `adlib.models.model_class` gives."""
    return list(inspect.signature(method.__init__).parameters)[1:]


def _is_setting(name: object) -> bool:
    """Whether a run of some method takes a setting of this name. Loads methods until one does."""
    return name in _OF_ALL or any(name in parameter_names(method) for _, method in usable_models())


def list_profiles() -> list[str]:
    return sorted(file.stem for file in PROFILES.glob("*.yaml"))


def read_profile(name: str, data: str | Path | None = None, seeds: int | None = None) -> Profile:
    """A profile by name or by the path of a YAML file; data and seeds override what it says. Its paths are relative to
    the working folder, as those of the command line.
    """
    file = Path(name) if name.endswith((".yaml", ".yml")) else PROFILES / f"{name}.yaml"
    if not file.is_file():
        known = list_profiles()
        raise InputError(
            f"No profile {name!r}; there are {', '.join(known)}, or give a .yaml file.{did_you_mean(name, known)}"
        )
    try:
        content = read_yaml(file.read_text(encoding="utf-8-sig")) or {}
        _check_profile(content)
        content = {name: value for name, value in content.items() if value is not None}  # empty: as if left out
        profile = Profile(_name_of(file), **content)
    except (TypeError, ValueError, OSError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{file} is not a profile: {str(error) or 'it is nested too deeply'}.") from error
    # A run's notebook has another working folder: paths are as on the command line, from here.
    if data is not None or profile.data not in ("", "phantoms"):
        profile.data = str(Path(profile.data if data is None else data).expanduser().resolve())
    profile.settings, profile.methods = absolute_paths(profile.settings), absolute_paths(profile.methods)
    if seeds is not None:
        profile.seeds, profile.insisted = seeds, True
    _check_names(profile, file)
    if not profile.data:
        raise InputError(f"Profile {profile.name} needs data: give --data DIR, with one folder per dataset in it.")
    return profile


def _name_of(file: Path) -> str:
    """A profile's name, see Profile; a built-in one has its own by its path too."""
    there = file.resolve()
    return there.stem if there.parent == PROFILES.resolve() else file.name


def _check_profile(content: object) -> None:
    """Raise ValueError for what the fields of a Profile do not hold."""
    if not isinstance(content, dict):
        raise ValueError("it holds no names with values")
    kinds = {"data": str, "seeds": int, "phantoms": dict, "settings": dict, "methods": dict, "categories": dict}
    for name, value in content.items():
        kind = kinds.get(name, list if name == "joint" else object)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ValueError(f"{name} is {value!r}, not of the kind {kind.__name__}")
    for name in ("phantoms", "methods"):
        for key, value in (content.get(name) or {}).items():
            if not isinstance(value, dict):
                raise ValueError(f"{name}: {key} is {value!r}, not names with values")
    if content.get("difficulty") is not None and content["difficulty"] not in DIFFICULTIES:
        raise ValueError(f"difficulty is {content['difficulty']!r}, neither {' nor '.join(DIFFICULTIES)}")
    if content.get("seeds") is not None and content["seeds"] < 1:
        raise ValueError(f"seeds is {content['seeds']}, and must be 1 or more")


def _check_names(profile: Profile, file: Path) -> None:
    """Raise InputError for a method or data set that does not exist, and for a limit that is no number."""
    methods, datasets = list_models(), list_datasets()
    given = {"methods": methods, "categories": [*methods, "other"], "joint": methods, "phantoms": datasets}
    for of, known in given.items():
        for name in getattr(profile, of) or ():
            if name not in known:
                near = did_you_mean(name, known)
                raise InputError(f"{file} is not a profile: {of} names {name!r}, which does not exist.{near}")
    for name in profile.settings or ():
        if not _is_setting(name):
            known = {*_OF_ALL, *(parameter for _, method in usable_models() for parameter in parameter_names(method))}
            near = did_you_mean(name, sorted(known))
            raise InputError(
                f"{file} is not a profile: settings names {name!r}, which is no parameter of any method and no setting "
                f"of images, training sets or data.{near}"
            )
    for name, limit in (profile.categories or {}).items():
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
            raise InputError(
                f"{file} is not a profile: categories, {name} is {limit!r}, not a number from 0, or null for all."
            )
