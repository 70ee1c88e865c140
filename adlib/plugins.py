"""What installed packages add: methods, datasets, phantoms and papers, so that no clone need be edited.

A package names each in its pyproject.toml, in one of GROUPS, as what would otherwise lie in adlib's own folder:

    [project.entry-points."adlib.models"]
    blur = "lab.blur"

means that the module lab.blur is to adlib.models what adlib/models/blur.py would be. Names are listed without importing
anything; a package that cannot be used is said to be so, and why, where it is used or listed (`broken`).
"""

from collections.abc import Callable, Collection
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from adlib.errors import InputError

GROUPS = ("adlib.models", "adlib.datasets", "adlib.phantoms", "adlib.papers")


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
