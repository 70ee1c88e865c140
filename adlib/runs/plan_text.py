"""The plan as text: states of all tables, what failed, which data are missing and how to get them, what is left."""

from collections import Counter, defaultdict
from pathlib import Path

from adlib.datasets import facts, list_datasets
from adlib.papers import is_study
from adlib.runs.estimate import NOTHING_LEFT, estimate
from adlib.runs.obstacles import in_the_way_lines, rows_without_images, unreadable_lines
from adlib.runs.plan import STATES, Cell, Profile, distinct_runs, state
from adlib.runs.store import Store
from adlib.runs.titles import distinct_titles


def plan_text(cells: list[Cell], profile: Profile, store: Store, every_cell: bool = False) -> str:
    """What `adlib plan` prints. every_cell: a line for each cell of each table instead of one per method and data set.

    Cells whose run another process works on now are "running".
    """
    distinct_runs(cells)  # before any key is asked for: it lets runs of the same images read them once
    running, known = store.running(), {}
    for cell in cells:
        key = cell.run.key if cell.run else cell.missing
        if key not in known:
            known[key] = "running" if key in running else state(cell, store)
    states = [known[cell.run.key if cell.run else cell.missing] for cell in cells]
    parts = [
        _cell_lines(cells, states) if every_cell else _table_lines(cells, states),
        _failed_lines(cells, states, store),
        _missing_lines(cells, profile),
        unreadable_lines(cells),
        _hopeless_lines(cells, states),
        rows_without_images(cells),
        _summary_lines(cells, states, store),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _cell_lines(cells: list[Cell], states: list[str]) -> list[str]:
    """One line per cell."""
    lines = []
    for cell, now in zip(cells, states, strict=True):
        place = ", ".join(filter(None, [f"{cell.dataset}/{cell.category}", cell.setting]))
        lines.append(f"{now:19} {cell.paper} table {cell.table}: {cell.method} on {place}, seed {cell.seed}")
    return lines


def _table_lines(cells: list[Cell], states: list[str]) -> list[str]:
    """A line per table, and below it one per method and data set with how many of its cells are in which state."""
    tables: dict = defaultdict(lambda: defaultdict(Counter))
    for cell, now in zip(cells, states, strict=True):
        row = (cell.method + (f", {cell.setting}" if cell.setting else ""), cell.dataset)
        tables[cell.paper, cell.table][row][now] += 1
    lines = []
    for (paper, table), rows in tables.items():
        lines.append(f"{paper} table {table}")
        width = max(len(method) for method, _ in rows)
        lines += [f"  {method:{width}}  {dataset:10}  {_counted(count)}" for (method, dataset), count in rows.items()]
    return lines


def _counted(states: Counter) -> str:
    """ "3 done, 1 failed": numbers of states, in their usual order."""
    return ", ".join(f"{states[name]} {name}" for name in STATES if states[name])


def _failed_lines(cells: list[Cell], states: list[str], store: Store) -> list[str]:
    """Each run that failed, and of what."""
    failed = {cell.run.key: cell.run for cell, now in zip(cells, states, strict=True) if now == "failed"}
    lines = ["Failed, and tried again by the next `adlib reproduce`:"] if failed else []
    for key, title in zip(failed, distinct_titles(failed.values()), strict=True):
        record = store.record(key) or {"kind": "", "reason": ""}  # another process may just be at it
        lines.append(f"  {title}: {record['kind']}: {record['reason']}")
    return lines


def _hopeless_lines(cells: list[Cell], states: list[str]) -> list[str]:
    """What stands in the way of runs that are still to be done, as far as it can be told before they begin."""
    left = {cell.run.key: cell.run for cell, now in zip(cells, states, strict=True) if now in ("to do", "failed")}
    lines = in_the_way_lines(left.values())
    return ["These cannot work as planned:", *(f"  {line}" for line in lines)] if lines else []


def _missing_lines(cells: list[Cell], profile: Profile) -> list[str]:
    """Each data set that is not there, or not whole: how many cells want it, and how to get it."""
    wanted, categories = Counter(), defaultdict(dict)
    for cell in cells:
        for root in cell.lacks if not cell.why else ():
            wanted[root] += 1
            categories[root][cell.category] = None
    if not wanted:
        return []
    if profile.data == "phantoms":
        names = ", ".join(f"{root.name} ({number} cells)" for root, number in wanted.items())
        return [f"No phantom can be drawn of {names}: these cells need real data (--data DIR)."]
    folder = Path(profile.data)
    lines = [f"Data that are not in {folder}" + (":" if folder.is_dir() else ", which does not exist:")]
    for root, number in wanted.items():
        if root.is_dir():
            text = f"there, but without {', '.join(categories[root])}: `adlib check {root.name} --root {root}`"
        elif root.name in list_datasets():
            text = facts(root.name).get.replace("--out DIR", f"--out {folder}").replace("<root>", str(root))
        else:
            text = f"{root} does not exist"
        lines.append(f"  {root.name} ({number} cells): {text}")
    if any(is_study(cell.paper) for cell in cells) and not any(cell.dataset == "folder" for cell in cells):
        lines.append(
            "  A set of yours: give --data its own folder, with train/good and test/<defect> inside (of several "
            "categories one folder each), or a .csv file with a column `image`."
        )
    return lines


def _summary_lines(cells: list[Cell], states: list[str], store: Store) -> list[str]:
    """All cells and runs counted, and what those that are left will cost."""
    runs = distinct_runs(cells)
    lines = [f"{len(cells)} cells of tables: {_counted(Counter(states))}."]
    if not runs:
        return [*lines, "No run is possible yet."]
    lines.append(f"{len(runs)} runs fill {sum(cell.run is not None for cell in cells)} of them.")
    left = str(estimate(runs, store))
    if left == NOTHING_LEFT and "no data" in states:
        left = "Nothing is left to do with the data that are there."
    return [*lines, left]
