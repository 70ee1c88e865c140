"""What installed packages add: methods, datasets, phantoms and papers, so that no clone need be edited.

A package names each in its pyproject.toml, in one of GROUPS, as what would otherwise lie in adlib's own folder:

    [project.entry-points."adlib.models"]
    blur = "lab.blur"

means that the module lab.blur is to adlib.models what adlib/models/blur.py would be. Names are listed without importing
anything; a package that cannot be used is said to be so, and why, where it is used or listed (`broken`).
"""

import hashlib
from collections.abc import Callable, Collection
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from adlib.errors import InputError

GROUPS = ("adlib.models", "adlib.datasets", "adlib.phantoms", "adlib.papers")
CODE = (".py", ".yaml", ".csv")  # suffixes of what a package computes with, as of adlib itself


@cache
def _named(group: str) -> dict[str, list[EntryPoint]]:
    """The entry points of a group by name; looked up once, for it reads the metadata of every installed package."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=group):
        found.setdefault(entry.name, []).append(entry)
    return found


def plugins(group: str) -> list[str]:
    """The names that installed packages give in a group."""
    return sorted(_named(group))


def load(group: str, name: str) -> ModuleType | type:
    """The module (or class) that a package gives under a name. Raises InputError if it cannot be imported."""
    return _tried(group, name, EntryPoint.load)


def folder(group: str, name: str) -> Path:
    """The folder of the package that is given under a name. Raises InputError if there is none."""

    def find(entry: EntryPoint) -> Path:
        spec = find_spec(entry.value)
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError(f"{entry.value} is no package that can be found")
        return Path(next(iter(spec.submodule_search_locations)))

    return _tried(group, name, find)


def _tried(group: str, name: str, use: Callable):
    """use(entry), where whatever goes wrong in another's package becomes a sentence that names it."""
    first, *more = _named(group)[name]
    if more:
        owners = ", ".join(sorted(_package(entry) for entry in (first, *more)))
        raise InputError(f"{name!r} is named in {group} by several packages ({owners}): uninstall all but one.")
    try:
        return use(first)
    except Exception as error:
        raise InputError(
            f"{name!r} of {group} cannot be used: its package {_package(first)} names {first.value}, which fails with "
            f"{type(error).__name__}: {error}."
        ) from error


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "of unknown name"


def package_code(method: str, dataset: str = "") -> dict[str, dict[str, str]]:
    """{"packages": {"lab 1.0": 12 hexadecimal digits of its files}} of the packages that give a method and a data set;
    {} where adlib has both itself. What they compute with is no part of adlib's own version or commit.

    As of the first time that this process asks, so ask when work begins.
    """
    found = _package_code("adlib.models", method) | _package_code("adlib.datasets", dataset)
    return {"packages": dict(sorted(found.items()))} if found else {}


@cache
def _package_code(group: str, name: str) -> dict[str, str]:
    entries = _named(group).get(name, [])
    if len(entries) != 1 or (_own_folder(group) / f"{name}.py").is_file():  # nobody's, or adlib's own
        return {}
    (entry,) = entries
    label = f"{_package(entry)} {entry.dist.version}" if entry.dist else _package(entry)
    spec = find_spec(entry.module.partition(".")[0])
    if spec is None:
        return {label: "not found"}
    digest = hashlib.sha256()
    for folder in map(Path, spec.submodule_search_locations or [Path(spec.origin).parent]):
        files = folder.rglob("*") if spec.submodule_search_locations else [Path(spec.origin)]
        for file in sorted(file for file in files if file.suffix in CODE and file.is_file()):
            if not any(part.startswith(".") for part in file.relative_to(folder).parts):
                place = file.relative_to(folder).as_posix()
                digest.update(f"\0{place}\0".encode(errors="surrogateescape") + file.read_bytes())
    return {label: digest.hexdigest()[:12]}


def _own_folder(group: str) -> Path:
    return Path(__file__).parent / group.removeprefix("adlib.")


def broken(group: str, own: Collection[str], use: Callable[[str], object]) -> dict[str, str]:
    """name -> why it cannot be used, for the names of a group that adlib has itself or that use(name) refuses."""
    reasons = {}
    for name, entries in _named(group).items():
        if name in own:
            package = _package(entries[0])
            reasons[name] = f"{name!r} of {group} is adlib's own: what the package {package} gives is left out."
            continue
        try:
            use(name)
        except InputError as error:
            reasons[name] = str(error)
    return reasons
