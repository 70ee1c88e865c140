"""Commands that do runs: one, or those of the papers, here or on a cluster."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from adlib.cli.options import (
    Abnormal,
    CacheLimit,
    Data,
    Dataset,
    Method,
    Normal,
    OptionalRoot,
    Out,
    PaperNames,
    ProfileName,
    Seed,
    Seeds,
    print_warnings,
)


def run(
    dataset: Dataset,
    method: Method,
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
    from adlib.report.labels import metric_text
    from adlib.report.pages import render_report
    from adlib.reproduce import shared_cache
    from adlib.runs.conditions import Conditions
    from adlib.runs.execute import execute
    from adlib.runs.failures import NotebookFailed
    from adlib.runs.run import Run
    from adlib.runs.settings import parse_settings, said_once
    from adlib.runs.standing import done_before
    from adlib.runs.store import Store

    root, folders = place_of_two(dataset, root, normal, abnormal)
    values = said_once(parse_settings(set_ or []), parse_settings(settings or []), folders)
    this = Run(dataset, str(root.expanduser().resolve()), method, category, values, seed, device)
    this.check()
    store = Store(out.expanduser().resolve() / "runs")
    this.fetch_weights()  # before its key is asked for
    before = store.record(this.key)
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
        print(f"{name:24} {metric_text(name, value)}")
    if record == before:
        print(done_before(record, this), file=sys.stderr)
    print_warnings(record["warnings"])


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
    from adlib.runs.environment import available_cpus
    from adlib.runs.plan_text import plan_text
    from adlib.runs.profile import read_profile
    from adlib.runs.store import Store

    chosen = read_profile(profile, data, seeds)
    planned = make_plan(papers or list_papers(), chosen, available_cpus())
    print(plan_text(planned, chosen, Store(out.expanduser().resolve() / "runs"), cells))


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
    from adlib.reproduce import cache_for, shared_cache
    from adlib.reproduce import reproduce as reproduce_papers
    from adlib.runs.conditions import Conditions
    from adlib.runs.profile import read_profile
    from adlib.runs.workers import Workers

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    seconds = None if time_limit is None else 60 * time_limit
    limit = parse_bytes(cache_limit, "--cache-limit")
    conditions = Conditions(seconds, retries, maps, cache_limit=limit, stall_limit=60 * stall_limit)
    try:
        with (
            shared_cache(out, cache_for(papers or [], cache)) as folder,
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
    if outcome.other_code:
        print(f"warning: {outcome.other_code}", file=sys.stderr)
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


def scheduler(context: typer.Context) -> None:
    """Run a Dask scheduler for `adlib reproduce --scheduler`; started anew if it ends. Options of `dask scheduler`."""
    from adlib.runs.cluster import keep

    raise typer.Exit(keep("scheduler", context.args))


def worker(context: typer.Context) -> None:
    """Run a Dask worker, one run at a time; started anew whenever its scheduler was lost. Options of `dask worker`."""
    from adlib.runs.cluster import keep

    raise typer.Exit(keep("worker", context.args))


COMMANDS = (run, plan, reproduce)
