"""Pages: executed notebooks as HTML, and the index that links them. Everything a page needs is inside it."""

import math
import re
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import jinja2
import nbformat

import adlib
from adlib import papers
from adlib.report.banner import banner
from adlib.report.table_html import comparison_page
from adlib.report.tables import comparison, read_plan, unit
from adlib.runs import environment
from adlib.runs.record import FAILED
from adlib.runs.run import Run, distinct_titles
from adlib.runs.store import Store

TEMPLATES = environment.REPOSITORY / "nbconfig" / "nbconvert"
SCRIPT = Path(__file__).with_name("tables.js")
INDEX_METRICS = ["image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro"]


def render_notebook(source: Path, target: Path, home: str, title: str = "") -> Path:
    """Render an executed notebook to one HTML file; skipped if the file is newer than notebook and template.

    home: relative address of the index page. title: of the page; the notebook's first heading if not given.
    """
    newest = max(file.stat().st_mtime for file in (source, *(TEMPLATES / "adlib").iterdir()))
    if target.exists() and target.stat().st_mtime > newest:
        return target
    notebook = nbformat.read(source, as_version=4)
    about = {
        "title": title or notebook_title(notebook),
        "home": home,
        "style": _style(),
        "alt": _alternative_texts(notebook),
        "footer": f"adlib {adlib.__version__}, executed notebook {source.name}",
    }
    page, _ = _exporter().from_notebook_node(notebook, resources={"adlib": about})
    _write(target, page)
    return target


@cache
def _exporter():
    """The one exporter of all pages: reading the templates takes longer than filling them."""
    from nbconvert import HTMLExporter

    return HTMLExporter(
        template_name="adlib",
        extra_template_basedirs=[str(TEMPLATES)],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )


def notebook_title(notebook) -> str:
    """The first heading of a notebook's text cells, without markup."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (found := re.search(r"^#+\s+(.*)", cell.source, re.MULTILINE)):
            return re.sub(r"[*`_]", "", found[1])
    return "untitled"


def _alternative_texts(notebook) -> dict[str, str]:
    """For each cell the last line of text above it, as alternative text of its pictures."""
    texts, last = {}, ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.strip():
            last = re.sub(r"[*`_#]", "", cell.source.strip().splitlines()[-1]).strip()
        texts[cell.get("id", "")] = last
    return texts


def _style() -> str:
    return (TEMPLATES / "adlib" / "style.css").read_text(encoding="utf-8")


def _write(target: Path, text: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(target)


def render_report(out: str | Path) -> Path:
    """Render every executed notebook below `out` and write out/index.html; returns its path.

    out/runs/<key>/run.ipynb becomes out/html/runs/<key>.html, out/notebooks/<name>.ipynb out/html/<name>.html.
    """
    out = Path(out)
    store = Store(out / "runs")
    records = store.records()
    titles = distinct_titles(Run(**record["run"]) for record in records)
    titles = {record["key"]: title for record, title in zip(records, titles, strict=True)}
    for record in records:
        if (notebook := store.path(record["key"]) / "run.ipynb").exists():
            page = out / "html" / "runs" / f"{record['key']}.html"
            render_notebook(notebook, page, "../../index.html", titles[record["key"]])
    for notebook in sorted((out / "notebooks").glob("*.ipynb")):
        render_notebook(notebook, out / "html" / f"{notebook.stem}.html", "../index.html")

    template = jinja2.Environment(
        loader=jinja2.PackageLoader("adlib", "report"), autoescape=True, undefined=jinja2.StrictUndefined
    ).get_template("index.html.j2")
    records.sort(key=lambda record: titles[record["key"]])
    done = [record for record in records if record["status"] != FAILED]
    code = environment.code()
    page = template.render(
        style=_style(),
        script=SCRIPT.read_text(encoding="utf-8"),
        banner=banner(text for record in done for text in record["warnings"]).data if done else "",
        done=len(done),
        failures=[_failed_row(record, titles[record["key"]], out) for record in records if record["status"] == FAILED],
        runs=[_run_row(record, titles[record["key"]], out) for record in done],
        metrics=INDEX_METRICS,
        across=[_page(name, out) for name in papers.ACROSS],
        papers=[_paper(name, out) for name in papers.list_papers() if read_plan(name, out)],
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=adlib.__version__,
        commit=code["commit"] + (" (with uncommitted changes)" if code["dirty"] else ""),
    )
    _write(out / "index.html", page)
    return out / "index.html"


def _paper(name: str, out: Path) -> dict:
    protocol = papers.protocol(name)
    tables = []
    for table, spec in protocol["tables"].items():
        cells = comparison(name, table, out)
        parts = [
            {"metric": metric, "unit": unit(metric), "html": comparison_page(cells[cells["metric"] == metric], "")}
            for metric in spec["metrics"]
        ]
        tables.append({"name": table, "title": spec["title"], "parts": parts})
    pages = [_page(notebook, out) for kind in protocol["notebooks"].values() for notebook in kind]
    about = {key: protocol[key] for key in ("title", "authors", "source", "question")}
    return about | {"name": name, "pages": pages, "tables": tables}


def _page(notebook: str, out: Path) -> dict:
    """Link to an executed notebook's page; without one, its title and that it is missing."""
    source = environment.notebook(notebook)
    page = {"name": notebook, "title": notebook_title(nbformat.read(source, 4)), "href": "", "problem": ""}
    if (out / "html" / f"{notebook}.html").exists():
        page["href"] = f"html/{notebook}.html"
        executed = nbformat.read(out / "notebooks" / f"{notebook}.ipynb", 4)
        if any(output.output_type == "error" for cell in executed.cells for output in cell.get("outputs", [])):
            page["problem"] = "stopped with an error"
    else:
        page["problem"] = "not executed yet"
    return page


def _run_row(record: dict, title: str, out: Path) -> dict:
    values = [record["metrics"].get(name) for name in INDEX_METRICS]
    return {
        "title": title,
        "href": _run_page(record["key"], out),
        "metrics": ["undefined" if value is None or math.isnan(value) else f"{value:.4f}" for value in values],
        "seconds": f"{sum(record['seconds'].values()):.1f}",
    }


def _failed_row(record: dict, title: str, out: Path) -> dict:
    return {
        "title": title,
        "href": _run_page(record["key"], out),
        "kind": record["kind"],
        "reason": record["reason"],
    }


def _run_page(key: str, out: Path) -> str:
    """The address of a run's page in the index; "" where there is none, for the run has left no notebook."""
    page = f"html/runs/{key}.html"
    return page if (out / page).exists() else ""
