"""The command line: `adlib --help`. It parses, calls the library, prints; nothing here would need a test of its own.

Exit codes: 0 done; 1 the work failed (one line per failure, the rest finished); 2 wrong use or missing input.
"""

import errno
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from adlib.cli.own import COMMANDS
from adlib.cli.weights import distill, pretrain, weights_app
from adlib.errors import InputError, did_you_mean
from adlib.files import printable, spreadsheet_csv, write_text

app = typer.Typer(
    name="adlib",
    help="Industrial visual anomaly detection: reproduce benchmarks, run methods, read reports.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(weights_app, name="weights")
app.command()(pretrain)
app.command()(distill)
for command in COMMANDS:
    app.command()(command)

Root = Annotated[Path, typer.Option("--root", help="the dataset's folder (or a .csv file)")]
OptionalRoot = Annotated[
    Path | None, typer.Option("--root", help="the dataset's folder (or a .csv file); not needed with --normal")
]
Normal = Annotated[Path | None, typer.Option("--normal", metavar="DIR", help="of folder: normal images, in no layout")]
Abnormal = Annotated[Path | None, typer.Option("--abnormal", metavar="DIR", help="of folder: abnormal images")]
Out = Annotated[Path, typer.Option("--out", help="folder of runs and report")]
Data = Annotated[Path | None, typer.Option("--data", help="folder with one folder per dataset")]
Seeds = Annotated[int | None, typer.Option("--seeds", min=1, help="repeat every run with this many seeds")]
Seed = Annotated[int, typer.Option(min=0, help="of all that is random")]
CacheLimit = Annotated[str, typer.Option("--cache-limit", metavar="SIZE", help="of the cache: it grows no further")]
ProfileName = Annotated[str, typer.Option("--profile", help="smoke, paper, or a .yaml file")]


# A path that was given cannot be used; any other failure of the system is one of the work.
OF_THE_PATH = (
    *(errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR),
    *(errno.EPERM, errno.EROFS),
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from adlib import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print it and end")
    ] = False,
) -> None:
    """Industrial visual anomaly detection: reproduce benchmarks, run methods, read reports."""


def main() -> None:
    """Entry point: a person's mistake is one sentence and exit code 2, never a traceback."""
    for stream in (sys.stdout, sys.stderr):  # names of files may hold what the terminal cannot show
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except InputError as error:
        print(f"adlib: {printable(error)}", file=sys.stderr)
        sys.exit(2)
    except UnicodeEncodeError as error:
        name = error.object[:200] if isinstance(error.object, str) else error.object
        print(f"adlib: {printable(name)} is a name that is no Unicode: rename it.", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"adlib: {printable(place)}{error.strerror or error}.", file=sys.stderr)
        sys.exit(2 if error.errno in OF_THE_PATH else 1)


def _print_warnings(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        print(f"warning: {sentence}", file=sys.stderr)


@app.command()
def datasets(data: Data = None) -> None:
    """List the datasets: images published, licence, how to get them; whether they are in --data, or can be drawn."""
    from adlib.datasets import broken_datasets, facts, list_datasets
    from adlib.phantoms import broken_phantoms, list_phantoms

    broken = broken_datasets()
    for name in (name for name in list_datasets() if name not in broken):
        about = facts(name)
        total = about.count_table().sum().astype(int)
        numbers = f"{total['train']} train, {total['test_normal']} normal + {total['test_anomalous']} anomalous test"
        print(f"{name:12} {about.title}" + (f": {numbers}, {len(about.counts)} categories" if about.counts else ""))
        print(f"{'':12} licence {about.licence}; {about.get}")
        if data is not None and name != "folder":
            print(f"{'':12} {'found' if (data / name).is_dir() else 'NOT FOUND'}: {data / name}")
        if name in list_phantoms():
            print(f"{'':12} phantom: adlib phantoms {name} --out DIR")
    _print_warnings([*broken.values(), *broken_phantoms().values()])


@app.command()
def models(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[METHOD]...", help="for all about these methods")
    ] = None,
) -> None:
    """List the methods in a table; of those that are named, what they are and their parameters with defaults."""
    import inspect

    from adlib import conformance
    from adlib.features.weights import weights_file
    from adlib.models import broken_models, default_weights, method_table, model_class

    if not names:
        table = method_table()
        widths = {column: max(len(column), *table[column].str.len()) for column in table}
        for row in [dict(zip(table, table, strict=True)), *table.to_dict("records")]:
            print("  ".join(row[column].ljust(width) for column, width in widths.items()).rstrip())
        print("\nParameters of a method: adlib models METHOD")
        _print_warnings(broken_models().values())
    for name in names or []:
        detector = model_class(name)
        print(f"{name:12} {(inspect.getmodule(detector).__doc__ or '').partition(chr(10))[0]}")
        for parameter in list(inspect.signature(detector.__init__).parameters.values())[1:]:
            print(f"{'':12} {parameter.name} = {parameter.default!r}")
        for key, value in detector.image_defaults.items():
            print(f"{'':12} {key} = {value!r}")
        if weights := default_weights(name):
            print(f"{'':12} weights: {weights_file(weights) or 'not in ADLIB_WEIGHTS, will be asked of the hub'}")
        for line in conformance.lines(name):
            print(f"{'':12} {line}")


@app.command()
def papers() -> None:
    """List the papers that can be reproduced, with their benchmark tables, and the studies."""
    from adlib.papers import broken_papers, list_papers, list_studies, protocol

    for name in list_papers():
        about = protocol(name)
        print(f"{name:12} {about['title']} ({about['source']})")
        for table, spec in about["tables"].items():
            print(f"{'':12} table {table}: {spec['title']}")
    for name in list_studies():
        print(f"{name}: {protocol(name)['question']}")
    _print_warnings(broken_papers().values())


@app.command()
def doctor(data: Data = None) -> None:
    """Say what works on this machine, what is missing and how to get it."""
    from adlib.cli.doctor import examine

    findings = examine(data)
    for finding in findings:
        print(f"{finding.state:5} {finding.what}: {finding.text}")
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(1)


@app.command()
def check(
    dataset: str,
    root: OptionalRoot = None,
    category: str | None = None,
    normal: Normal = None,
    abnormal: Abnormal = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="mask_rule, items, normal_names ...")
    ] = None,
    size: Annotated[int | None, typer.Option(help="count the defects that vanish at this side in pixels")] = None,
    crop: Annotated[int | None, typer.Option(help="and in its centre crop of this side")] = None,
) -> None:
    """Open every file of a dataset: counts beside the published ones, bad files, masks, duplicates by content."""
    from adlib.datasets.check import check as check_dataset
    from adlib.datasets.folder import place_of_two
    from adlib.runs.run import DATA_SETTINGS, parse_settings

    root, folders = place_of_two(dataset, root, normal, abnormal)
    options = parse_settings(set_ or [])
    if unknown := sorted(set(options) - set(DATA_SETTINGS)):
        raise InputError(
            f"--set {unknown[0]}: check knows {', '.join(DATA_SETTINGS)}.{did_you_mean(unknown[0], DATA_SETTINGS)}"
        )
    findings = check_dataset(dataset, root, category, size=size, crop=crop, **options | folders)
    print("images: train / test normal / test anomalous")
    print(findings.counts.to_string())
    for remark in findings.remarks:
        print(f"remark   {remark}")
    for problem in findings.problems:
        print(f"problem  {problem}")
    if findings.problems:
        raise typer.Exit(1)


@app.command()
def fetch(
    dataset: str,
    out: Annotated[Path, typer.Option("--out", help="folder of datasets; it goes into DIR/DATASET")],
    address: Annotated[str | None, typer.Option(help="fetch this instead (a mirror, a link you were sent)")] = None,
) -> None:
    """Download a dataset that has a public address, verify and unpack it. Call again to resume."""
    from adlib.datasets.fetch import fetch as fetch_dataset

    print(fetch_dataset(dataset, out, address))


@app.command()
def phantoms(
    dataset: str,
    out: Annotated[Path, typer.Option("--out", help="folder to draw into")],
    seed: Seed = 0,
    size: Annotated[int | None, typer.Option(min=16, help="side of the images in pixels")] = None,
    bits: Annotated[int | None, typer.Option(help="8 or 16, where the set has both")] = None,
    counts: Annotated[str, typer.Option(help="small, or published for the paper's counts")] = "small",
) -> None:
    """Draw the stand-in of a dataset, in the dataset's own layout."""
    from adlib.phantoms import draw

    given = {"size": size, "bits": bits, "counts": counts}
    print(draw(dataset, out, seed=seed, **{name: value for name, value in given.items() if value is not None}))


@app.command()
def run(
    dataset: str,
    method: str,
    root: OptionalRoot = None,
    settings: Annotated[list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="more settings")] = None,
    normal: Normal = None,
    abnormal: Abnormal = None,
    category: Annotated[str, typer.Option(help="one category; all together if not given")] = "",
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="a parameter")] = None,
    seed: Seed = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    out: Out = Path("reports"),
    cache: Annotated[str, typer.Option(metavar="DIR|none", help="share images and features with other runs")] = "none",
    cache_limit: CacheLimit = "20GB",
) -> None:
    """Fit and score one method on one category, as a notebook; prints where the record and the page are.

    Settings are the method's parameters; size, crop, sides, resize, window of the images; and train_limit, train_share,
    train_contamination, train_enlarged, train_real, train_real_kind of the training set: --set resize=linear --set
    train_limit=500. How the data are read: mask_rule, mask_resize, items, normal_names, unknown_names, normal_test,
    masks (data/README.md).
    """
    from adlib.datasets.folder import place_of_two
    from adlib.memory.patch_store import parse_bytes
    from adlib.report.pages import render_report
    from adlib.reproduce import shared_cache
    from adlib.runs.execute import Conditions, NotebookFailed, execute
    from adlib.runs.run import Run, parse_settings
    from adlib.runs.store import Store

    root, folders = place_of_two(dataset, root, normal, abnormal)
    values = parse_settings([*(set_ or []), *(settings or [])]) | folders
    this = Run(dataset, str(root.expanduser().resolve()), method, category, values, seed, device)
    this.check()
    store = Store(out.expanduser().resolve() / "runs")
    with shared_cache(out, cache) as folder:
        conditions = Conditions(cache=folder, cache_limit=parse_bytes(cache_limit, "--cache-limit"))
        try:
            record = execute(this, store, conditions=conditions, keep_mistakes=False)
        except NotebookFailed as error:
            print(f"failed: {this.title}: {error.reason}", file=sys.stderr)
            raise typer.Exit(1) from None
    index = render_report(out.expanduser().resolve())
    print(store.path(this.key) / "record.json")
    print(index.parent / "html" / "runs" / f"{this.key}.html")
    if record["status"] == "failed":
        print(f"failed: {this.title}: {record['reason']}", file=sys.stderr)
        raise typer.Exit(2 if record["kind"] == "wrong input" else 1)
    for name, value in record["metrics"].items():
        print(
            f"{name:24} {'undefined' if value is None else value if isinstance(value, int) else format(value, '.4f')}"
        )
    _print_warnings(record["warnings"])


PaperNames = Annotated[list[str] | None, typer.Argument(metavar="[PAPER]...", help="all papers if none is given")]


@app.command()
def plan(
    papers: PaperNames = None,
    profile: ProfileName = "smoke",
    data: Data = None,
    out: Out = Path("reports"),
    seeds: Seeds = None,
    cells: Annotated[bool, typer.Option("--cells", help="a line for every cell of the tables")] = False,
) -> None:
    """Show how much of the papers' tables is done, running, failed, to do, and why the rest cannot be; which data are
    missing and how to get them; what the runs that are left will cost.
    """
    from adlib.papers import list_papers
    from adlib.reproduce import make_plan
    from adlib.runs.plan import read_profile
    from adlib.runs.plan_text import plan_text
    from adlib.runs.store import Store

    chosen = read_profile(profile, data, seeds)
    planned = make_plan(papers or list_papers(), chosen)
    print(plan_text(planned, chosen, Store(out.expanduser().resolve() / "runs"), cells))


@app.command()
def reproduce(
    papers: PaperNames = None,
    profile: ProfileName = "smoke",
    data: Data = None,
    out: Out = Path("reports"),
    jobs: Annotated[int | None, typer.Option(min=1, help="runs at once on this machine")] = None,
    seeds: Seeds = None,
    scheduler: Annotated[str, typer.Option(metavar="tcp://HOST:PORT", help="use this Dask cluster's workers")] = "",
    patience: Annotated[
        float, typer.Option(min=0, metavar="MINUTES", help="wait so long for workers that are gone, then end")
    ] = 60,
    time_limit: Annotated[float | None, typer.Option(min=0, metavar="MINUTES", help="of each run")] = None,
    stall_limit: Annotated[
        float, typer.Option(min=0.01, metavar="MINUTES", help="a kernel that does nothing for so long hangs: end it")
    ] = 30,
    retries: Annotated[int, typer.Option(min=0, help="after a dead or hanging kernel or short memory")] = 1,
    maps: Annotated[bool, typer.Option("--maps/--no-maps", help="keep the anomaly maps of every run")] = True,
    cache: Annotated[
        str,
        typer.Option(metavar="DIR|none", help="where runs share images and features; OUT/cache, deleted at the end"),
    ] = "",
    cache_limit: CacheLimit = "20GB",
    strict: Annotated[
        bool, typer.Option("--strict", help="fail if a run on plain phantoms misses what was drawn")
    ] = False,
) -> None:
    """Do every run of the papers' tables, execute their notebooks, render the report. Call again to resume.

    On plain phantoms, as in the profile smoke, runs that do not find what was drawn are named, here and on the index.
    """
    import signal

    from adlib.memory.patch_store import parse_bytes
    from adlib.reproduce import reproduce as reproduce_papers
    from adlib.reproduce import shared_cache
    from adlib.runs.execute import Conditions
    from adlib.runs.plan import read_profile
    from adlib.runs.workers import Workers

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    seconds = None if time_limit is None else 60 * time_limit
    limit = parse_bytes(cache_limit, "--cache-limit")
    conditions = Conditions(seconds, retries, maps, cache_limit=limit, stall_limit=60 * stall_limit)
    try:
        with (
            shared_cache(out, cache) as folder,
            Workers(jobs, scheduler, replace(conditions, cache=folder), 60 * patience) as workers,
        ):
            chosen = read_profile(profile, data, seeds)
            outcome = reproduce_papers(
                papers or [], chosen, out, workers, say=lambda line: print(f"cannot work: {line}", file=sys.stderr)
            )
    except KeyboardInterrupt:
        print("\nadlib: interrupted; finished runs are kept, call again to go on.", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"{outcome.done} runs done, {len(outcome.failures)} failures.")
    for failure in outcome.failures:
        print(f"failed: {failure}", file=sys.stderr)
    for line in outcome.known.lines:
        print(f"not found: {line}", file=sys.stderr)
    for line in outcome.known.dashes:
        print(f"not judged: {line}")
    if outcome.known.sentence:
        print(f"{outcome.known.sentence}.")
    print(outcome.index)
    if outcome.failures or (strict and outcome.known.lines):
        raise typer.Exit(1)


PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


@app.command(context_settings=PASSED_ON)
def scheduler(context: typer.Context) -> None:
    """Run a Dask scheduler for `adlib reproduce --scheduler`; started anew if it ends. Options of `dask scheduler`."""
    from adlib.runs.cluster import keep

    raise typer.Exit(keep("scheduler", context.args))


@app.command(context_settings=PASSED_ON)
def worker(context: typer.Context) -> None:
    """Run a Dask worker, one run at a time; started anew whenever its scheduler was lost. Options of `dask worker`."""
    from adlib.runs.cluster import keep

    raise typer.Exit(keep("worker", context.args))


@app.command()
def runs(
    keys: Annotated[list[str] | None, typer.Argument(metavar="[KEY]...", help="these alone; beginnings do")] = None,
    out: Out = Path("reports"),
    dataset: Annotated[str | None, typer.Option(help="of this dataset alone")] = None,
    category: Annotated[str | None, typer.Option(help="of this category alone")] = None,
    method: Annotated[str | None, typer.Option(help="of this method alone")] = None,
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

    from adlib.runs.execute import Conditions
    from adlib.runs.selection import delete_runs, rerun, select_runs, settings_text, sorted_runs
    from adlib.runs.store import Store
    from adlib.runs.workers import Workers, default_jobs

    store = Store(out.expanduser().resolve() / "runs")
    selected = bool(keys or dataset or category or method or status)
    found = select_runs(store, keys or [], status, dataset=dataset, category=category, method=method)
    found.table = sorted_runs(found.table, sort)
    if csv is not None:
        write_text(csv, spreadsheet_csv(found.table))
    for row in found.table.to_dict("records"):
        numbers = {name: row.get(name) for name in ("image_auroc", "pixel_auroc", "aupro")}
        numbers = " ".join(f"{name} {value:.4f}" for name, value in numbers.items() if pd.notna(value))
        said = f"{row['kind']}: {row['reason']}" if row["reason"] else numbers
        print(printable(f"{row['key']} {row['status']:8} {row['title']} {said}"))
        if settings:
            print(printable(f"{'':25} {settings_text(store.record(row['key']))}"))
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


@app.command()
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
    print(f"{found.images} images that both have and whose label is known; difference: first - second, in percent.")
    print(found.table.to_string(index=False, na_rep="-", float_format=lambda value: f"{value:.3g}"))


@app.command()
def table(
    paper: str,
    table: Annotated[str | None, typer.Argument(help="e.g. II; all benchmark tables if not given")] = None,
    out: Out = Path("reports"),
    wide: Annotated[bool, typer.Option("--wide", help="a column per method, published / ours in each cell")] = False,
    printed: Annotated[bool, typer.Option("--printed", help="a row per method, as the paper prints it")] = False,
    form: Annotated[str, typer.Option("--format", help="text, markdown, latex or csv")] = "text",
) -> None:
    """Print published, ours and difference, in percent; as a long table, a wide one with a column per method, or as the
    paper prints it. On drawn data nothing is subtracted, and `--printed` says whether our runs found what was drawn.
    """
    from adlib.papers import protocol
    from adlib.report.known_answers import known_answers
    from adlib.report.printed_text import printed_text
    from adlib.report.table_text import FORMS, long_form, table_text, wide_form
    from adlib.report.tables import comparison

    if printed and (wide or form != "text"):
        raise InputError("--printed is a text of its own: leave out --wide and --format.")
    if form not in FORMS:
        raise InputError(f"--format {form!r} must be one of {', '.join(FORMS)}.{did_you_mean(form, FORMS)}")

    for name in [table] if table else protocol(paper)["tables"]:
        cells = comparison(paper, name, out)
        title = f"{paper}, table {name}" + (" (ours on phantom data)" if cells["phantom"].any() else "")
        if printed:
            print(f"{title}\n{printed_text(cells, known_answers(out, [paper]))}\n")
        else:
            print(table_text(wide_form(cells) if wide else long_form(cells), form, title), end="")


@app.command()
def audit(papers: PaperNames = None) -> None:
    """Recompute the papers' published tables from themselves, and print what does not agree."""
    from adlib.papers.audit import audit as audit_papers
    from adlib.papers.audit import disagreeing

    found = audit_papers(papers or None)
    for row in disagreeing(found).itertuples():
        cause = f" ({row.likely_cause})" if row.likely_cause else ""
        print(f"{row.paper} {row.table}, {row.where}: printed {row.printed:g}, recomputed {row.recomputed:.6g}{cause}")
    print(f"{len(disagreeing(found))} of {len(found)} recomputed numbers do not agree with what is printed.")


@app.command()
def report(out: Out = Path("reports")) -> None:
    """Render every executed notebook as HTML, with an index page."""
    from adlib.report.pages import render_report
    from adlib.runs.store import check_is_output

    print(render_report(check_is_output(out.expanduser().resolve())))


@app.command("inspect")
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


if __name__ == "__main__":
    main()
