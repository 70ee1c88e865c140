"""Small tables for notebooks: what was run, its metrics, the runs behind a paper's table."""

import math
import re
from collections.abc import Mapping
from functools import partial
from html import escape
from pathlib import Path

import pandas as pd
from IPython.display import HTML

from adlib import papers
from adlib.code_version import packages_text
from adlib.report.banner import banner
from adlib.report.labels import metric_label, metric_text
from adlib.report.provenance import profile_sentence
from adlib.report.tables import COUNTS, SAME, largest, profile_of, read_plan, unit
from adlib.rounding import rounded, rounded_text
from adlib.runs.record import FINISHED
from adlib.runs.standing import compared, taken_over
from adlib.runs.store import Store
from adlib.samples import items


def fact_table(facts: Mapping[str, object]) -> HTML:
    """Names and values, one line each, escaped."""
    lines = "".join(
        f'<tr><th scope="row">{escape(str(name))}</th><td class="word">{escape(str(value))}</td></tr>'
        for name, value in facts.items()
    )
    return HTML(f"<table><tbody>{lines}</tbody></table>")


def metric_table(metrics: Mapping, intervals: Mapping[str, Mapping] | None = None) -> HTML:
    """The dictionary of `adlib.evaluate`, or of decisions at a threshold, as a table; an undefined metric says why.

    intervals: as a record keeps them, {metric: {"low", "high", "std", "reason"}}: a further column, in which a missing
    interval says why there is none.
    """
    reasons = metrics.get("reasons", {})
    shown = {
        name: f"undefined: {reasons.get(name, 'no reason given')}"
        if value is None or math.isnan(value)
        else metric_text(name, int(value) if name in COUNTS else value)  # images, which decisions count in floats
        for name, value in metrics.items()
        if name != "reasons"
    }
    if intervals is None:
        return fact_table(shown)
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td>'
        f'<td class="word">{escape(interval_text(intervals[name]) if name in intervals else "")}</td></tr>'
        for name, text in shown.items()
    )
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("metric", "value"))
    heads += '<th scope="col" class="word">95 % interval</th>'
    return HTML(f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>")


def interval_text(interval: Mapping, scale: float = 1, digits: int = 4) -> str:
    """A bootstrap interval of a record as text, "0.9120 to 0.9871"; or why it says nothing or is not there."""
    low, high = interval.get("low"), interval.get("high")
    if low is None or high is None:
        return f"none: {interval.get('reason', 'no reason given')}"
    if low == high:
        return f"none: {SAME}"
    return " to ".join(rounded_text(scale * end, scale, digits) for end in (low, high))


UNITS = {"features_read": "images", "features_computed": "images", "images_read": "images", "images_decoded": "images"}


def time_table(seconds: Mapping[str, float], resumed: bool = False) -> HTML:
    """How long the phases of a run took, in seconds, and together. resumed: whether fit went on from a checkpoint, so
    that its time is not that of the whole fit.
    """
    return fact_table(_times(seconds, resumed) | {"together": f"{sum(seconds.values()):.2f} s"})


def _times(seconds: Mapping[str, float], resumed: bool | None) -> dict[str, str]:
    """The times of a run's phases as text, that of a fit that was resumed with what it is the time of."""
    times = {phase: f"{value:.2f} s" for phase, value in seconds.items()}
    if resumed and "fit" in times:
        times["fit"] += ", from the checkpoint of an earlier attempt on: the whole fit took longer"
    return times


def _is_word(value: object) -> bool:
    return isinstance(value, str | int | float)


def record_table(record: Mapping) -> HTML:
    """What a run's record says of where it ran, how long it took (in seconds), what it shared and what fit decided by
    itself in a word or a number, beside its key.
    """
    times = {f"time of {phase}": text for phase, text in _times(record["seconds"], record.get("resumed")).items()}
    decided = {f"by fit: {name}": value for name, value in record.get("choices", {}).items() if _is_word(value)}
    memory = {"peak memory": f"{record['peak_memory_mib']} MiB"}
    if record.get("peak_gpu_memory_mib") is not None:
        memory["peak memory of the GPU"] = f"{record['peak_gpu_memory_mib']:.0f} MiB"
    shared = {
        name.replace("_", " "): f"{value} {UNITS.get(name, '')}".strip() for name, value in record["shared"].items()
    }
    code = record["code"] | ({"packages": packages} if (packages := packages_text(record["code"])) else {})
    facts = {"key": record["key"]} | decided | times | memory | shared | record["environment"] | code
    return fact_table({name.replace("_", " "): value for name, value in facts.items()})


def baseline_table(
    metrics: Mapping, baselines: Mapping[str, Mapping[str, Mapping]], categories: Mapping[str, Mapping] | None = None
) -> pd.DataFrame:
    """This run and the trivial baselines, one row each, in percent; of several categories also by category.
    Metrics that nothing here has are left out.

    metrics: of `adlib.evaluate`. baselines: of `adlib.baselines`. categories: the run's own metrics by category, as a
    record keeps them.
    """
    shown = [name for name in metrics if name not in ("reasons", "aupro_regions") and "threshold" not in name]
    rows = {("all images", "this run"): {name: metrics[name] for name in shown}}
    for part, found in baselines.items():
        if part.startswith("/"):  # a sub-class or a modality
            continue
        if part and categories and part in categories:
            rows[part, "this run"] = categories[part]
        rows |= {(part or "all images", name): values for name, values in found.items()}
    table = pd.DataFrame(rows, index=shown).T.astype(float).dropna(axis="columns", how="all")
    if set(table.index.get_level_values(0)) == {"all images"}:
        table = table.droplevel(0)
    return (100 * table).map(lambda value: "–" if math.isnan(value) else rounded_text(value))


def paired_table(predictions, images=None, training=None) -> HTML:
    """This run beside each trivial baseline on the same images, paired: the difference of their image AUROCs in points
    with its 95 % bootstrap interval, and the two-sided p-value (adlib.metrics.compare_images). Where items have several
    images, whole items are drawn.

    predictions: of the run. images: the ImageSet that was predicted on, which may have its pictures decoded already.
    training: that which was fitted on, without which there is no nearest thumbnail.
    Where there is no interval its reason stands.
    """
    from adlib.baselines import trivial_predictions
    from adlib.metrics import compare_images

    known = predictions.known
    labels, things, rows = known.samples["label"].to_numpy(), items(known.samples), []
    others = trivial_predictions(known, images if known is predictions else None, training)
    for name, other in others.items():
        found = compare_images(labels, known.scores, other.scores, items=things)
        values, reason = found["image_auroc"], found.get("reasons", {}).get("image_auroc")
        if not reason and values["low"] == values["high"]:
            reason = SAME
        interval = f"none: {reason}" if reason else f"{100 * values['low']:+.2f} to {100 * values['high']:+.2f}"
        difference = "–" if math.isnan(values["difference"]) else f"{100 * values['difference']:+.2f}"
        row = {"this run against": name, "difference of AUROC, points": difference}
        rows.append(row | {"95 % interval": interval, "p": "–" if reason else f"{values['p_value']:.3g}"})
    return HTML(f'<div class="adlib-scroll">{pd.DataFrame(rows).to_html(index=False, border=0)}</div>')


def category_table(metrics: Mapping[str, Mapping]) -> pd.DataFrame | HTML:
    """A record's metrics by category, one row each, in percent and MCC as a fraction, without thresholds, counts,
    intervals, and metrics that no category has. Decisions are at each category's own threshold of best F1 (an oracle).

    A sentence where there is one category only.
    """
    if not metrics:
        return HTML("<p>One category: its metrics are those above.</p>")
    table = pd.DataFrame(metrics).T.dropna(axis="columns", how="all")
    shown = [name for name in table if "threshold" not in name and name not in {*COUNTS, "aupro_regions", "intervals"}]
    scale = {name: 1 if unit(name) == "fraction" else 100 for name in shown}
    return (table[shown].astype(float) * pd.Series(scale)).apply(lambda column: rounded(column, largest(column.name)))


def published_table(paper: str, table: str, rows: str | list[str] = ("dataset", "category")) -> pd.DataFrame:
    """One table of a paper as text: `rows` as its rows, columns its metrics, "" where nothing is printed.

    Categories are left out of the rows where there is but the total of each dataset.
    """
    printed = papers.published(paper)
    printed = printed[printed["table"] == table]
    index = [rows] if isinstance(rows, str) else list(rows)
    if len(index) > 1 and set(printed["category"]) == {"total"}:
        index.remove("category")
    wide = printed.pivot_table(index=index, columns="metric", values="value", sort=False)
    wide.columns = wide.columns.str.replace("_", " ")
    return wide.map(lambda value: "" if math.isnan(value) else f"{value:.10g}")


def _records(paper: str, out: str | Path, tables: list[str] | None = None) -> list[dict]:
    """The finished records behind a paper's tables, each once, with the "setting" of the row that it belongs to.

    tables: of these alone; of all if None.
    """
    store, settings = Store(Path(out) / "runs"), {}
    for cell in (read_plan(paper, out) or {"cells": []})["cells"]:
        if cell["key"] and (tables is None or cell["table"] in tables):
            settings.setdefault(cell["key"], {})[cell["setting"]] = None  # equal work fills several rows
    found = [(store.record(key), ", ".join(names)) for key, names in settings.items()]
    return [record | {"setting": setting} for record, setting in found if record and record["status"] == FINISHED]


def warnings_of(paper: str, out: str | Path, tables: list[str] | None = None) -> list[str]:
    """All that a reader must know before believing our numbers in a paper's tables: these, or all if None."""
    return [text for record in _records(paper, out, tables) for text in record["warnings"]]


def paper_banner(paper: str, out: str | Path, tables: list[str] | None = None) -> HTML:
    """The banner above a paper's tables, of the runs behind these tables (None for all); where no run is done it says
    that there is no number of ours.
    """
    if not _records(paper, out, tables):
        return HTML("<p>None of our runs for these tables is done: the numbers are the published ones alone.</p>")
    return banner([*warnings_of(paper, out, tables), profile_sentence([profile_of(paper, out)])])


def across_banner(out: str | Path) -> HTML:
    """As `paper_banner`, above numbers of all papers together."""
    done = [paper for paper in papers.list_papers() if _records(paper, out)]
    if not done:
        return HTML("<p>None of our runs is done: the numbers are the published ones alone.</p>")
    warnings = [text for paper in done for text in warnings_of(paper, out)]
    return banner([*warnings, profile_sentence(profile_of(paper, out) for paper in done)])


def run_table(paper: str, out: str | Path, tables: list[str] | None = None) -> pd.DataFrame:
    """The finished runs behind a paper's tables, one row each: metrics in percent (MCC a fraction), seconds of fit and
    predict. NaN stands for numbers that are not to be compared (adlib.runs.standing.compared), and for the seconds of a
    fit that was resumed, since those of its earlier attempts are not known.

    tables: those of these tables alone; of all if None.
    The column "run" is the key of the run; "setting" tells rows of one method apart, and is there where a table has
    such rows. "taken over" is there where a run took features or images over from others, and says what of: its seconds
    are short by that.
    """
    rows = []
    for record in _records(paper, out, tables):
        run, seconds = record["run"], record["seconds"]
        row = {name: run[name] for name in ("method", "dataset", "category", "seed")} | {"setting": record["setting"]}
        row["category"] = row["category"] or "all"
        row |= {
            name: (1 if unit(name) == "fraction" else 100) * value if compared(record, name) else math.nan
            for name, value in record["metrics"].items()
            if value is not None and "threshold" not in name and name != "aupro_regions"
        }
        rows.append(
            row
            | {
                "fit s": math.nan if record.get("resumed") else round(seconds.get("fit", math.nan), 2),
                "predict s": round(seconds.get("predict", math.nan), 2),
                "taken over": taken_over(record),
                "run": record["key"],
            }
        )
    table = pd.DataFrame(rows).apply(lambda column: rounded(column, largest(column.name)))
    return table.drop(columns=[name for name in ("setting", "taken over") if name in table and not table[name].any()])


def show_runs(paper: str, out: str | Path, tables: list[str] | None = None, home: str = "../") -> HTML:
    """`run_table` with a link to each run's page. home: as of `show_comparison`."""
    found = run_table(paper, out, tables)
    if found.empty:
        return HTML("<p>None yet.</p>")
    found.insert(0, "run", found.pop("run"))
    above = ""
    if found["category"].eq("all").any():
        above = "<p>Runs on all categories: metrics over all their images, where the tables have each category's.</p>"
    if "taken over" in found:
        above += "<p>Taken over: what came from other runs; the seconds are short by that.</p>"
    found = found.dropna(axis="columns", how="all")
    forms = {name: partial(rounded_text, whole=largest(name)) for name in found.select_dtypes("float")}
    # Words, so that headings break between them.
    heads = {name: metric_label(name).replace("_", " ") for name in found}
    forms = {heads[name]: form for name, form in forms.items()}
    page = found.rename(columns=heads).to_html(
        index=False, na_rep="–", border=0, classes="adlib-runs", formatters=forms
    )
    link = rf'<td><a href="{escape(home)}html/runs/\1.html">\1</a></td>'
    return HTML(above + re.sub(r"<td>([0-9a-f]{16})</td>", link, page))
