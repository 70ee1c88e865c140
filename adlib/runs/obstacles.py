"""What stands in the way of planned runs, as far as it can be told before a batch begins; a sentence on each."""

import json
from collections import Counter
from collections.abc import Iterable

import pandas as pd

from adlib import papers
from adlib.errors import InputError
from adlib.runs.plan import NO_WEIGHTS, Cell
from adlib.runs.run import Run
from adlib.runs.titles import distinct_titles
from adlib.samples import phantom_facts


def unreadable_lines(cells: Iterable[Cell]) -> list[str]:
    """A sentence for each reason that data which are there cannot be read for: the data set, and how many cells."""
    wanted = Counter((cell.dataset, cell.why) for cell in cells if cell.why)
    return [f"{dataset}: {number} cells have no run, for {why}" for (dataset, why), number in wanted.items()]


def leave_out_without_weights(cells: Iterable[Cell]) -> list[str]:
    """Take the runs away from cells whose pretrained weights are not on this machine, where a study says `weights:
    optional`: such rows stay empty, and nothing stands in for them. Call `fetch_weights` first.

    Returns a sentence per study that lacks some, which names the networks and the rows.
    """
    lacking: dict[str, dict[str, set[str]]] = {}
    for cell in cells:
        if cell.run is None or papers.shared_protocol(cell.paper).get("weights") != "optional":
            continue
        files = cell.run.create_model().weight_files()
        for name in [name for name, file in files.items() if file is None]:
            lacking.setdefault(cell.paper, {}).setdefault(name, set()).add(cell.setting or cell.method)
            cell.run, cell.missing = None, NO_WEIGHTS
    return [
        f"{paper}: rows without a run, since their weights are not on this machine: "
        + ", ".join(f"{', '.join(sorted(rows))} ({name})" for name, rows in networks.items())
        + ". `adlib weights pack` brings them from a machine with a network."
        for paper, networks in lacking.items()
    ]


def in_the_way(runs: Iterable[Run]) -> dict[str, str]:
    """key -> why a run cannot work, as far as it can be told before it begins (Run.check), without a network.

    Runs that differ in their seed alone are asked once.
    """
    reasons, known = {}, {}
    for run in runs:
        kind = json.dumps(run.as_dict() | {"seed": 0}, sort_keys=True)
        if kind not in known:
            try:
                run.check(fetch=False)
                known[kind] = ""
            except InputError as error:
                known[kind] = str(error)
        if known[kind]:
            reasons[run.key] = known[kind]
    return reasons


def in_the_way_lines(runs: Iterable[Run]) -> list[str]:
    """A line for each reason of `in_the_way`: the first run that it stops, and how many more."""
    runs = list(runs)
    titles = dict(zip((run.key for run in runs), distinct_titles(runs), strict=True))
    stopped: dict[str, list[str]] = {}
    for key, reason in in_the_way(runs).items():
        stopped.setdefault(reason, []).append(titles[key])
    more = {reason: f" and {len(names) - 1} more" if len(names) > 1 else "" for reason, names in stopped.items()}
    return [f"{names[0]}{more[reason]}: {reason}" for reason, names in stopped.items()]


def rows_without_images(cells: Iterable[Cell]) -> list[str]:
    """A sentence for each category of which a table prints sub-classes that its test images have none of: folders may
    be called otherwise than the table's rows, which then stay empty whatever is run.
    """
    places = {(cell.paper, cell.dataset, cell.category): cell.run for cell in cells if cell.run}
    lines = []
    for (paper, dataset, category), run in places.items():
        printed = pd.DataFrame(columns=papers.COLUMNS) if papers.is_study(paper) else papers.printed(paper)
        rows = printed.loc[printed["dataset"] == dataset, "category"].drop_duplicates()
        wanted = [name.partition("/")[2] for name in rows if name.startswith(f"{category}/")]
        if not wanted:
            continue
        samples = run.loaded_samples
        if phantom_facts(samples):  # drawn with fewer sub-classes, and nobody can rename what it lacks
            continue
        tested = samples.loc[(samples["split"] == "test") & (samples["category"] == category), "group"].unique()
        if lacking := [name for name in wanted if name not in tested]:
            lines.append(
                f"{dataset}/{category}: there are no test images of {', '.join(lacking)}, of which {paper} prints "
                f"rows; the folders are {', '.join(tested)}. Rename them as the rows, or these stay empty."
            )
    return lines
