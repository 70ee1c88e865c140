"""The papers: their protocols (paper.yaml) and their tables as printed (table_*.csv). Data, read by this file.

A paper is one folder here. Its CSV files are tidy, with the columns table, method, dataset, category, metric,
value, setting; values as printed, errors included. audit.yaml lists what can be recomputed from them. Papers of
installed packages are found as adlib.plugins says.

A study is a plan of ours without published numbers, one YAML file of the same form in adlib/studies/. It is named
"study/how_many_normals", and everything that takes a paper's name for its runs takes a study's.
"""

from copy import deepcopy
from functools import cache
from pathlib import Path

import pandas as pd
import yaml

from adlib import plugins
from adlib.errors import InputError, did_you_mean

# Notebooks about all papers together, each with whether it reads our runs.
ACROSS = {"60_across_papers": True, "61_published_tables_audit": False}
_FOLDER = Path(__file__).parent
_STUDIES = Path(__file__).parents[1] / "studies"
STUDY = "study/"  # how the names of studies begin
COLUMNS = ["table", "method", "dataset", "category", "metric", "value", "setting"]


def list_papers() -> list[str]:
    """Names of the papers that can be reproduced; those of installed packages that are broken are none of them."""
    return sorted(_own_papers() | set(plugins.plugins("adlib.papers")) - set(broken_papers()))


def _own_papers() -> set[str]:
    return {file.parent.name for file in _FOLDER.glob("*/paper.yaml")}


def list_studies() -> list[str]:
    """Names of the studies, as "study/how_many_normals"."""
    return sorted(f"{STUDY}{file.stem}" for file in _STUDIES.glob("*.yaml"))


def is_study(name: str) -> bool:
    """Whether a name is a study's and not a paper's, if it exists at all."""
    return isinstance(name, str) and name.startswith(STUDY)


def broken_papers() -> dict[str, str]:
    """name -> why it cannot be used, for the papers of installed packages."""
    return plugins.broken("adlib.papers", _own_papers(), protocol)


def _folder(name: str) -> Path:
    if name in _own_papers():
        return _FOLDER / name
    if name in plugins.plugins("adlib.papers"):
        return plugins.folder("adlib.papers", name)
    if name in list_studies():
        raise InputError(f"{name} has no published numbers: it is a study of ours.")
    if is_study(name) or f"{STUDY}{name}" in list_studies():
        near = did_you_mean(name, list_studies())
        raise InputError(f"Unknown study {name!r}; known are {', '.join(list_studies())}.{near}")
    raise InputError(
        f"Unknown paper {name!r}; known are {', '.join(list_papers())}.{did_you_mean(name, list_papers())}"
    )


def protocol(name: str) -> dict:
    """The paper's (or study's) protocol: title, source, notebooks, tables and the settings of its runs, as in
    paper.yaml.
    """
    return deepcopy(shared_protocol(name))


def shared_protocol(name: str) -> dict:
    """The protocol that all who ask for it share, and nobody may change: a plan asks for it thousands of times."""
    file = _STUDIES / f"{name.removeprefix(STUDY)}.yaml"
    if not (is_study(name) and file.is_file()):
        file = _folder(name) / "paper.yaml"
    try:
        about = _parsed(file, file.stat().st_mtime_ns)
        if lacking := {"title", "source", "notebooks", "tables"} - set(about):
            raise InputError(f"The protocol of {name!r}, {file}, lacks {', '.join(sorted(lacking))}.")
    except (OSError, TypeError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"The protocol of {name!r}, {file}, cannot be read ({said}).") from error
    return about


@cache
def _parsed(file: Path, _changed: int) -> dict:
    """What a YAML file says; read once for each state of the file."""
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def published(name: str) -> pd.DataFrame:
    """The paper's tables as printed, one value per row.

    Columns: table ("II"), method (a model name, "" in tables about data), dataset, category as the paper names it
    ("average" for its average row, "total" for its total row and for a dataset as a whole), metric, value (percent
    where the paper prints percent; 1 and 0 for yes and no), setting (tells rows of one method apart, else "").
    """
    table = printed(name)
    return table.assign(value=pd.to_numeric(table["value"]))


def printed(name: str) -> pd.DataFrame:
    """`published` with the values as text, so that "55.90" keeps the digits that the paper prints."""
    files = sorted(_folder(name).glob("table_*.csv"))
    tables = [pd.read_csv(file, dtype=str, keep_default_na=False, comment="#") for file in files]
    return pd.concat(tables, ignore_index=True)[COLUMNS]


def replicates(name: str) -> int | None:
    """How many runs stand behind each number of the paper's benchmark tables, or None where it does not say."""
    return shared_protocol(name).get("replicates")


def pro_variant(name: str, dataset: str) -> str | None:
    """Which definition of PRO a paper's column "pro" is compared with on a dataset (adlib.metrics.PRO_LABELS); None for
    AUPRO, as on datasets other than those that `pro` in paper.yaml lists, if it lists any.
    """
    pro = shared_protocol(name).get("pro", {})
    return pro.get("variant") if dataset in pro.get("datasets", [dataset]) else None


def pro_variants(dataset: str) -> tuple[str, ...]:
    """The definitions of PRO of all papers that print it for a dataset."""
    found = {}
    for name in list_papers():
        for table in shared_protocol(name)["tables"].values():
            if dataset in table["datasets"] and "pro" in table["metrics"]:
                found[pro_variant(name, dataset)] = None
    return tuple(name for name in found if name)


def checks(name: str) -> dict:
    """What the audit recomputes of the paper beyond its averages and totals, and causes of what it finds (audit.yaml).

    Empty for a paper without that file. Its keys: see adlib.papers.audit.
    """
    file = _folder(name) / "audit.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}


def stated(name: str, what: str) -> pd.Series:
    """Numbers that a paper states in its text, by name, as under `stated` in paper.yaml."""
    numbers = shared_protocol(name)["stated"]
    if what not in numbers:
        raise InputError(f"{name} states no {what!r}; it states {', '.join(numbers)}.")
    return pd.Series(numbers[what])
