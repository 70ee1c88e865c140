"""Commands for runs that are done: list, delete or redo, compare, tables, pages, the inspector."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from adlib.cli.options import Out, complete_dataset, complete_method, complete_paper, print_warnings
from adlib.errors import InputError, did_you_mean
from adlib.files import check_writable, printable, spreadsheet_csv, write_text
from adlib.rounding import rounded_text


def runs(
    keys: Annotated[list[str] | None, typer.Argument(metavar="[KEY]...", help="these alone; beginnings do")] = None,
    out: Out = Path("reports"),
    dataset: Annotated[str | None, typer.Option(help="of this dataset alone", autocompletion=complete_dataset)] = None,
    category: Annotated[str | None, typer.Option(help="of this category alone")] = None,
    method: Annotated[str | None, typer.Option(help="of this method alone", autocompletion=complete_method)] = None,
    status: Annotated[str | None, typer.Option(help="finished, failed, running or damaged")] = None,
    csv: Annotated[Path | None, typer.Option(help="write all columns to this file")] = None,
    sort: Annotated[str, typer.Option(help="by this column, a metric's highest values first")] = "ended",
    settings: Annotated[bool, typer.Option("--settings", help="say every run's settings, seed and device")] = False,
    delete: Annotated[bool, typer.Option("--delete", help="delete them, after asking")] = False,
    again: Annotated[bool, typer.Option("--rerun", help="do them again, finished ones too, after asking")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="of --rerun: runs at once on this machine")] = None,
) -> None:
    """List the runs that are stored, oldest first or by --sort, those under way and those that are damaged; delete or
    redo them.
    """
    import pandas as pd

    from adlib.runs.conditions import Conditions
    from adlib.runs.selection import delete_runs, rerun, select_runs, settings_text, sorted_runs
    from adlib.runs.standing import dash
    from adlib.runs.store import Store
    from adlib.runs.workers import Workers, default_jobs

    store = Store(out.expanduser().resolve() / "runs")
    selected = bool(keys or dataset or category or method or status)
    found = select_runs(store, keys or [], status, dataset=dataset, category=category, method=method)
    found.table = sorted_runs(found.table, sort)
    if csv is not None:
        check_writable(csv, "table")
        write_text(csv, spreadsheet_csv(found.table))
    for row in found.table.to_dict("records"):
        numbers = {name: row.get(name) for name in ("image_auroc", "pixel_auroc", "aupro")}
        numbers = " ".join(f"{name} {rounded_text(value, 1, 4)}" for name, value in numbers.items() if pd.notna(value))
        record = store.record(row["key"])  # None where it was deleted meanwhile
        numbers = (record and dash(record)) or numbers
        said = f"{row['kind']}: {row['reason']}" if row["reason"] else numbers
        print(printable(f"{row['key']} {row['status']:8} {row['title']} {said}"))
        if settings:
            print(printable(f"{'':25} {settings_text(record)}"))
    for key in found.running:
        print(f"{key} running")
    for key, reason in found.damaged.items():
        print(f"{key} damaged  will be done again: {printable(reason)}")
    print(f"{len(found.table)} runs in {store.folder}")
    if not (delete or again):
        return
    if delete and again:
        raise InputError("--delete or --rerun, not both: what is deleted cannot be done again.")
    if not selected:
        raise InputError("Say which runs: by keys, --status, --dataset, --category or --method.")
    verb = "Delete" if delete else "Do again"
    if not found.keys or not (yes or typer.confirm(f"{verb} these {len(found.keys)} runs?")):
        return
    if delete:
        gone, busy = delete_runs(store, found.keys)
        print(f"{len(gone)} runs deleted.")
        lines = [f"{key}: some process works on it; it stays." for key in busy]
    else:
        with Workers(jobs or min(default_jobs(), len(found.keys)), conditions=Conditions(again=True)) as workers:
            records, lines = rerun(store, found.keys, workers)
        failed = [record for record in records if record["status"] == "failed"]
        print(f"{len(records) - len(failed)} runs done, {len(failed)} failures.")
        lines += [f"{record['key']}: {record['reason']}" for record in failed]
    for line in lines:
        print(f"failed: {line}", file=sys.stderr)
    if lines:
        raise typer.Exit(1)


def compare(
    first: Annotated[str, typer.Argument(help="key of a run, or its beginning")],
    second: Annotated[str, typer.Argument(help="key of another run on the same images")],
    out: Out = Path("reports"),
    pixels: Annotated[bool, typer.Option("--pixels", help="pixel metrics too, which takes minutes")] = False,
    replicates: Annotated[int, typer.Option(min=100, help="of the bootstrap")] = 1000,
) -> None:
    """Is one run better than another on the same images? Differences with paired 95 % intervals."""
    from adlib.runs.paired import compare_runs
    from adlib.runs.store import Store

    found = compare_runs(Store(out.expanduser().resolve() / "runs"), first, second, pixels, replicates)
    for name, title in (("first", found.first), ("second", found.second)):
        print(printable(f"{name:6} {title}"))
    if found.warning:
        print(printable(f"warning: {found.warning}"), file=sys.stderr)
    print(f"{found.images} images that both have and whose label is known; difference: first - second, in percent.")
    print(found.text())


def table(
    paper: Annotated[str, typer.Argument(autocompletion=complete_paper)],
    table: Annotated[str | None, typer.Argument(help="e.g. II; all benchmark tables if not given")] = None,
    out: Out = Path("reports"),
    wide: Annotated[bool, typer.Option("--wide", help="a column per method, published / ours in each cell")] = False,
    printed: Annotated[bool, typer.Option("--printed", help="a row per method, as the paper prints it")] = False,
    form: Annotated[str, typer.Option("--format", help="text, markdown, latex or csv")] = "text",
) -> None:
    """Print published, ours and difference, in percent; as a long table, a wide one with a column per method, or as the
    paper prints it. On drawn data nothing is subtracted, and `--printed` says whether our runs found what was drawn.
    Else rows "baseline: ..." are of trivial baselines on the images of our runs: ours alone, of no paper.
    What must be known before believing ours (drawn data, other weights or settings than the paper's) is said beside.
    """
    import pandas as pd

    from adlib.papers import protocol
    from adlib.report.facts import warnings_of
    from adlib.report.known_answers import known_answers
    from adlib.report.printed_text import printed_text
    from adlib.report.provenance import profile_sentence
    from adlib.report.table_text import FORMS, long_form, table_text, wide_form
    from adlib.report.tables import comparison, profile_of
    from adlib.report.trivial_rows import trivial_rows

    if printed and (wide or form != "text"):
        raise InputError("--printed is a text of its own: leave out --wide and --format.")
    if form not in FORMS:
        raise InputError(f"--format {form!r} must be one of {', '.join(FORMS)}.{did_you_mean(form, FORMS)}")

    names, shaped = [table] if table else list(protocol(paper)["tables"]), []
    for name in names:
        cells = comparison(paper, name, out)
        title = f"{paper}, table {name}" + (" (ours on phantom data)" if cells["phantom"].any() else "")
        trivial = trivial_rows(cells, out)
        if printed:
            print(f"{title}\n{printed_text(cells, known_answers(out, [paper]), trivial)}\n")
        else:
            cells = cells if trivial.empty else pd.concat([cells, trivial], ignore_index=True)
            shaped.append(wide_form(cells) if wide else long_form(cells))
            if form != "csv":
                print(table_text(shaped[-1], form, title), end="")
    if form == "csv":  # no title says which table a row is of, and a file has one line of columns
        if len(names) > 1:
            shaped = [pd.concat(shaped, keys=names, names=["table"]).reset_index("table")]
        print(table_text(shaped[0], form), end="")
    told = warnings_of(paper, out, names)
    told += [profile_sentence([profile_of(paper, out)])] if cells["ours"].notna().any() else []
    print_warnings(dict.fromkeys(filter(None, told)))


def report(out: Out = Path("reports")) -> None:
    """Render every executed notebook as HTML, with an index page."""
    from adlib.report.pages import render_report
    from adlib.runs.environment import available_cpus
    from adlib.runs.store import check_is_output

    print(render_report(check_is_output(out.expanduser().resolve()), available_cpus()))


def inspect_stored_runs(
    keys: Annotated[list[str] | None, typer.Argument(metavar="[KEY]...", help="runs; all if none is given")] = None,
    out: Out = Path("reports"),
    root: Annotated[Path | None, typer.Option(help="where the images lie now, if they have moved")] = None,
    port: Annotated[int, typer.Option(help="the first port to try")] = 8866,
    browser: Annotated[bool, typer.Option("--browser", help="open it in the browser")] = False,
) -> None:
    """Look through stored runs in the browser, without code: this machine alone, at the address that is printed."""
    from adlib.inspector.app import serve

    serve(out, keys or [], root, port, browser)


COMMANDS = (runs, compare, table, report)
