"""Reproduce papers: draw or find the data, do the runs, execute the papers' notebooks, render the report."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from adlib import papers
from adlib.report.known_answers import Verdict, known_answers, verdict
from adlib.report.pages import render_report
from adlib.runs import environment
from adlib.runs.batch import execute_all, run_all
from adlib.runs.obstacles import in_the_way_lines, leave_out_without_weights, rows_without_images, unreadable_lines
from adlib.runs.plan import Cell, Profile, dataset_root, distinct_runs, draw_phantoms, fetch_weights, plan, write_plan
from adlib.runs.record import FAILED
from adlib.runs.standing import of_other_code
from adlib.runs.store import Store
from adlib.runs.titles import stored_titles
from adlib.runs.workers import Workers

PHANTOMS = environment.REPOSITORY / "data" / "phantoms"


@dataclass
class Outcome:
    """index: the report's first page; done: finished runs; failures: one line per failed run or notebook, and
    per page that the report lacks; known: what the runs on plain phantoms found of what was drawn
    (adlib.report.known_answers); other_code: a sentence where finished runs are of other code than this.
    """

    index: Path
    done: int
    failures: list[str]
    known: Verdict
    other_code: str = ""


def make_plan(names: list[str], profile: Profile, processes: int = 1) -> list[Cell]:
    """The cells of the papers' tables under a profile; phantoms that it needs and that are not there are drawn, by so
    many processes (adlib.processes).
    """
    draw_phantoms(names, profile, PHANTOMS, processes)
    return plan(names, profile, PHANTOMS)


def reproduce(
    names: list[str],
    profile: Profile,
    out: Path,
    jobs: int | Workers | None = None,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """All benchmark tables and data analyses of the papers, into `out`; what is done already is not done again.

    names: papers and studies, [] for all papers. jobs: runs at once on this machine, or the workers. What fails, or
    cannot be read, stops nothing else. say: is told, before the first run begins, a line on each that cannot work.
    """
    names = names or papers.list_papers()
    out = Path(out).expanduser().resolve()
    cells = make_plan(names, profile, environment.available_cpus())
    fetch_weights(cells)
    unreadable = unreadable_lines(cells)
    for line in [*unreadable, *leave_out_without_weights(cells), *rows_without_images(cells)]:
        say(line)
    write_plan(cells, profile, out)
    runs, store = distinct_runs(cells), Store(out / "runs")
    for line in in_the_way_lines(run for run in runs if not store.is_finished(run.key)):
        say(line)
    records = run_all(runs, store, jobs, progress)
    titles = stored_titles(records)
    failures = [
        f"{title}: {record['reason']}"
        for title, record in zip(titles, records, strict=True)
        if record["status"] == FAILED
    ]

    notebooks = [task for name in names for task in paper_notebooks(name, profile, out)]
    if not all(map(papers.is_study, names)):
        notebooks += [(notebook, {"out": str(out)} if reads else {}) for notebook, reads in papers.ACROSS.items()]
    failures += execute_all(notebooks, out / "notebooks", jobs, progress)
    finished, planned = [record for record in records if record["status"] != FAILED], {run.key: run for run in runs}
    pairs = [(record, planned[record["key"]]) for record in finished if record["key"] in planned]
    index = render_report(out, environment.available_cpus())
    pages = [f"html/{notebook}.html" for notebook, _ in notebooks]
    pages += [f"html/runs/{record['key']}.html" for record in records if record["status"] != FAILED]
    failures += unreadable
    failures += [f"{page}: the report lacks this page" for page in pages if not (out / page).is_file()]
    return Outcome(index, len(finished), failures, verdict(known_answers(out, names)), of_other_code(pairs))


def cache_for(names: list[str], given: str) -> str:
    """What `shared_cache` is given: `given`, and where that is "", "none" if a study among the papers says `share:
    false`, since it compares times that sharing shortens.
    """
    alone = any(papers.is_study(name) and papers.shared_protocol(name).get("share") is False for name in names)
    return given or ("none" if alone else "")


@contextmanager
def shared_cache(out: Path, given: str = "") -> Iterator[str]:
    """The folder in which the runs of a batch share decoded images and frozen features.

    given: a folder, which is kept; "none" for no sharing, which gives ""; "" for out/cache, which is deleted when the
    block ends, however it does, unless another process still does runs of `out`.
    """
    if given == "none":
        yield ""
    elif given:
        yield str(Path(given).expanduser().resolve())
    else:
        out = Path(out).expanduser().resolve()
        try:
            yield str(out / "cache")
        finally:
            if not Store(out / "runs").running():
                shutil.rmtree(out / "cache", ignore_errors=True)


def paper_notebooks(name: str, profile: Profile, out: Path) -> list[tuple[str, dict]]:
    """The notebooks of a paper, each with its parameters: data notebooks get the data's root, benchmarks the records.

    Data notebooks are left out where the dataset is not there.
    """
    protocol = papers.protocol(name)
    root = dataset_root(name, replace(profile, difficulty="hard"), PHANTOMS)
    notebooks = protocol["notebooks"]
    data = [(notebook, {"root": str(root)}) for notebook in notebooks.get("data", []) if root.is_dir()]
    return data + [(notebook, {"out": str(out)}) for notebook in notebooks.get("benchmark", [])]
