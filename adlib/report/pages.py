"""Pages: executed notebooks as HTML, and the index that links them. Everything a page needs is inside it."""

import math
from datetime import UTC, datetime
from pathlib import Path

import jinja2
import nbformat
import pandas as pd

from adlib import papers
from adlib.errors import InputError
from adlib.files import write_text
from adlib.processes import in_processes
from adlib.report.banner import banner
from adlib.report.claim import claim
from adlib.report.harmless import policy
from adlib.report.known_answers import floor_sentence, known_answers, verdict
from adlib.report.labels import metric_label
from adlib.report.notebooks import notebook_title, read_notebook, render_notebook, style
from adlib.report.provenance import code_sentence, profile_sentence, record_code, unsealed_sentence
from adlib.report.table_html import table_page
from adlib.report.tables import comparison, profile_of, read_plan
from adlib.report.trivial_rows import trivial_rows
from adlib.rounding import rounded_text
from adlib.runs import environment
from adlib.runs.record import FAILED
from adlib.runs.schema import KEY
from adlib.runs.standing import compared, taken_over
from adlib.runs.store import Store
from adlib.runs.titles import stored_titles

SCRIPT = Path(__file__).with_name("tables.js")
WORTH_PROCESSES = 20  # new pages: a process takes as long to start as ten take to render
INDEX_METRICS = ["image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro"]


def render_report(out: str | Path, processes: int = 1) -> Path:
    """Render every executed notebook below `out` and write out/index.html; returns its path.

    processes: that many render new pages beside each other (adlib.processes).

    out/runs/<key>/run.ipynb becomes out/html/runs/<key>.html, out/notebooks/<name>.ipynb out/html/<name>.html.
    A damaged record, notebook or plan is named on the index with the reason, and stops no other page. Raises InputError
    where nothing can be written.
    """
    out = Path(out)
    store = Store(out / "runs")
    damaged = dict(store.damaged())
    records = store.records()
    titles = {record["key"]: title for record, title in zip(records, stored_titles(records), strict=True)}
    records.sort(key=lambda record: titles[record["key"]])
    claims = {record["key"]: claim(record) for record in records}
    jobs, pages = _run_pages(store, titles, claims, out)
    more, notebooks = _notebook_pages(out)
    _render_all([*jobs, *more], damaged, processes)
    executed = {name: _problem(name, notebook, damaged) for name, notebook in notebooks.items()}
    planned = [*papers.list_papers(), *papers.list_studies()]
    planned = {name: plan for name in planned if (plan := _plan(name, out, damaged)) is not None}
    plans = {name: plan for name, plan in planned.items() if not papers.is_study(name)}
    studies = [_study(name, executed) for name in planned if papers.is_study(name)]
    known = known_answers(out, [name for name, readable in plans.items() if readable])

    warnings = [text for record in records if record["status"] != FAILED for text in record["warnings"]]
    profiles = sorted({profile_of(name, out) for name, readable in planned.items() if readable} - {""})
    warnings.append(profile_sentence(profiles))
    template = jinja2.Environment(
        loader=jinja2.PackageLoader("adlib", "report"), autoescape=True, undefined=jinja2.StrictUndefined
    ).get_template("index.html.j2")
    done = [record for record in records if record["status"] != FAILED]
    script = SCRIPT.read_text(encoding="utf-8")
    page = template.render(
        style=style(),
        script=script,
        policy=policy(script),
        banner=banner(warnings).data if done else "",
        known=verdict(known),
        floors=floor_sentence(),
        provenance=code_sentence(map(record_code, done)),
        unsealed=unsealed_sentence([titles[record["key"]] for record in done if "checksum" not in record]),
        done=len(done),
        profiles=profiles,
        failures=[_failed_row(record, titles, pages) for record in records if record["status"] == FAILED],
        damaged=[{"name": name, "reason": reason} for name, reason in damaged.items()],
        runs=[_run_row(record, titles, pages) for record in done],
        metrics=[metric_label(name) for name in INDEX_METRICS],
        across=[_page(name, executed) for name in papers.ACROSS],
        papers=[
            _paper(name, out, executed, readable, known[known["paper"] == name]) for name, readable in plans.items()
        ],
        studies=studies,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        code=environment.code_text(environment.code()),
    )
    write_text(out / "index.html", page)
    return out / "index.html"


def _run_pages(store: Store, titles: dict[str, str], claims: dict[str, str], out: Path) -> tuple[list[tuple], dict]:
    """The page of every run that has left a notebook, to be rendered, and their addresses in the index, by key.

    titles, claims: of all runs, by key. A page without a run goes: it would be of a run that was deleted, or came with
    somebody's store.
    """
    folder, jobs, found = out / "html" / "runs", [], {}
    for key, title in titles.items():
        notebook = store.path(key) / "run.ipynb"
        if notebook.is_symlink() or notebook.exists():
            jobs.append((key, notebook, folder / f"{key}.html", "../../index.html", title, claims[key]))
            found[key] = f"html/runs/{key}.html"
    for page in folder.glob("*.html"):
        if page.stem not in found and KEY.fullmatch(page.stem):
            page.unlink()
    return jobs, found


def _notebook_pages(out: Path) -> tuple[list[tuple], dict[str, Path]]:
    """The pages of out/notebooks, to be rendered, and the notebooks by name."""
    notebooks = {notebook.stem: notebook for notebook in sorted((out / "notebooks").glob("*.ipynb"))}
    return [
        (name, notebook, out / "html" / f"{name}.html", "../index.html", "", "") for name, notebook in notebooks.items()
    ], notebooks


def _render_all(jobs: list[tuple], damaged: dict[str, str], processes: int) -> None:
    """Render pages; what is wrong with a notebook is added to `damaged`, by its name."""
    new = sum(not job[2].exists() for job in jobs)
    reasons = in_processes(_render, [job[1:] for job in jobs], processes if new >= WORTH_PROCESSES else 1)
    for (name, *_), reason in zip(jobs, reasons, strict=True):
        if reason:
            damaged.setdefault(name, reason)


def _render(notebook: Path, page: Path, home: str, title: str, lead: str) -> str:
    """Render one page; returns what is wrong with its notebook, "" where nothing is."""
    try:
        render_notebook(notebook, page, home, title, lead)
    except InputError as error:
        return str(error)
    return ""


def _problem(name: str, notebook: Path, damaged: dict[str, str]) -> str:
    """What is wrong with an executed notebook; "" where nothing is."""
    return "damaged" if name in damaged else "stopped with an error" if _has_error(notebook) else ""


def _has_error(notebook: Path) -> bool:
    cells = read_notebook(notebook).cells
    return any(output.output_type == "error" for cell in cells for output in cell.get("outputs", []))


def _plan(name: str, out: Path, damaged: dict[str, str]) -> bool | None:
    """Whether the plan of a paper can be read; None where there is none."""
    try:
        return None if read_plan(name, out) is None else True
    except InputError as error:
        damaged[f"plan of {name}"] = str(error)
        return False


def _paper(name: str, out: Path, executed: dict[str, str], readable: bool, known: pd.DataFrame) -> dict:
    """What the index shows of a paper; without its tables where the plan, which says whose numbers go there, is not
    readable. known: its known answers.
    """
    protocol = papers.protocol(name)
    tables = []
    for table, spec in protocol["tables"].items() if readable else ():
        cells = comparison(name, table, out)
        html = table_page(cells, known, "", trivial_rows(cells, out), profile_of(name, out))
        tables.append({"name": table, "title": spec["title"], "html": html})
    pages = [_page(notebook, executed) for kind in protocol["notebooks"].values() for notebook in kind]
    about = {key: protocol[key] for key in ("title", "authors", "source", "question")}
    return about | {"name": name, "pages": pages, "tables": tables, "readable": readable}


def _study(name: str, executed: dict[str, str]) -> dict:
    """What the index shows of a study: its question and its page."""
    protocol = papers.protocol(name)
    pages = [_page(notebook, executed) for kind in protocol["notebooks"].values() for notebook in kind]
    return {"name": name, "question": protocol["question"], "pages": pages}


def _page(name: str, executed: dict[str, str]) -> dict:
    """Link to an executed notebook's page; without one, its title and that it is missing."""
    title = notebook_title(nbformat.read(environment.notebook(name), 4))
    href = f"html/{name}.html" if name in executed else ""
    return {"name": name, "title": title, "href": href, "problem": executed.get(name, "not executed yet")}


def _run_row(record: dict, titles: dict[str, str], pages: dict[str, str]) -> dict:
    values = [record["metrics"].get(name) for name in INDEX_METRICS]
    shown = [compared(record, name) for name in INDEX_METRICS]
    return {
        "key": record["key"],
        "title": titles[record["key"]],
        "href": pages.get(record["key"], ""),
        "metrics": [
            "–" if not fits else "undefined" if value is None or math.isnan(value) else rounded_text(100 * value)
            for value, fits in zip(values, shown, strict=True)
        ],
        "seconds": f"{sum(record['seconds'].values()):.1f}" + ", resumed" * bool(record.get("resumed")),
        "over": taken_over(record),
    }


def _failed_row(record: dict, titles: dict[str, str], pages: dict[str, str]) -> dict:
    return {
        "key": record["key"],
        "title": titles[record["key"]],
        "href": pages.get(record["key"], ""),
        "kind": record["kind"],
        "reason": record["reason"],
    }
