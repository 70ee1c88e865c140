"""What the runs behind a paper's tables say beyond them: scores pooled over sub-classes, recall by kind of defect,
masks; runs that learned from real defects in other ways; and readings of a comparison (shares of a gap, limits)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import HTML

from adlib import papers
from adlib.datasets.isp_ad import REAL_FOLDER
from adlib.errors import InputError
from adlib.metrics import decision_metrics, threshold_best_f1
from adlib.models import model_class
from adlib.predictions import Predictions
from adlib.report.tables import largest, part_of, read_plan
from adlib.rounding import rounded
from adlib.runs.record import FINISHED
from adlib.runs.run import Run
from adlib.runs.standing import dash
from adlib.runs.store import Store
from adlib.runs.titles import told_apart

NONE = HTML("<p>None of these runs is done.</p>")


ALL = "all"  # the category of a run on all of a dataset's together


def finished_cells(
    paper: str, out: str | Path, tables: Sequence[str] | None = None, by_category: bool = False
) -> Iterator[tuple[dict, dict]]:
    """(cell of the plan, record) of every finished run behind a paper's tables, each run once.

    The cell is the first that the run fills. by_category: a run on several categories comes once for each of its
    cells' categories instead of once as the category "all".
    """
    store, seen = Store(Path(out) / "runs"), set()
    for cell in (read_plan(paper, out) or {"cells": []})["cells"]:
        record = store.record(cell["key"]) if cell["key"] else None
        once = cell["key"], cell["category"] if by_category else ""
        wanted = (tables is None or cell["table"] in tables) and once not in seen
        if wanted and record is not None and record["status"] == FINISHED:
            seen.add(once)
            yield cell if by_category or not record.get("categories") else cell | {"category": ALL}, record


def _settings(paper: str, out: str | Path) -> dict[str, list[str]]:
    """key of a run -> the settings of all rows that it fills, in the plan's order."""
    found: dict[str, dict] = {}
    for cell in (read_plan(paper, out) or {"cells": []})["cells"]:
        found.setdefault(cell["key"], {})[cell["setting"]] = None
    return {key: list(settings) for key, settings in found.items()}


def pooled_table(paper: str, out: str | Path, metric: str = "image_auroc") -> pd.DataFrame | HTML:
    """A metric over all test images of a category together beside its mean over the groups, in percent, per run.

    Columns: category, method, seed, groups (how many), pooled, mean over groups, difference. Groups in which the metric
    is undefined are left out of the mean, and so are runs whose numbers stand for nothing (adlib.runs.standing.dash). A
    sentence where no category has several groups.
    """
    rows = []
    for cell, record in finished_cells(paper, out, by_category=True):
        if dash(record):
            continue
        groups = record["groups"]
        if record.get("categories"):  # of this category alone
            groups = {name: part for name, part in groups.items() if name.startswith(f"{cell['category']}/")}
        values = [part[metric] for part in groups.values() if part.get(metric) is not None]
        pooled = part_of(record, cell["category"]).get(metric)
        if len(groups) > 1 and values and pooled is not None:
            pooled, mean = 100 * pooled, 100 * float(np.mean(values))
            row = {name: cell[name] for name in ("category", "method", "seed")} | {"groups": len(values)}
            rows.append(row | {"pooled": pooled, "mean over groups": mean, "difference": pooled - mean})
    return pd.DataFrame(rows).apply(rounded) if rows else NONE


def recall_by_defect(paper: str, out: str | Path, tables: Sequence[str]) -> pd.DataFrame | HTML:
    """Recall of each kind of defect at the threshold of best F1 on the test images (an oracle), in percent, per run.

    Columns: category, setting (of every row that the run fills), seed, what the method chose by its seed (numbers of
    injected defects and epochs, where it says so), then "<defect>, n = <test images>". A sentence where no run is done.
    """
    rows, store, settings = [], Store(Path(out) / "runs"), _settings(paper, out)
    for cell, record in finished_cells(paper, out, tables):
        found = Predictions.load(store.path(cell["key"]) / "predictions")
        threshold = record["metrics"]["image_f1max_threshold"]
        row = {"category": cell["category"], "setting": ", ".join(settings[cell["key"]]), "seed": cell["seed"]}
        choices = record.get("choices", {})
        row |= {"injected": len(choices["real defects"])} if "real defects" in choices else {}
        row |= {"epochs": choices["epochs"]} if "epochs" in choices else {}
        for defect, place in found.samples[found.samples["label"] == 1].groupby("defect").groups.items():
            caught = found.scores[found.samples.index.get_indexer(place)] >= threshold
            row[f"{defect}, n = {len(place)}"] = 100 * float(caught.mean())
        rows.append(row)
    return pd.DataFrame(rows).apply(rounded, decimals=1) if rows else NONE


def stored_predictions(
    paper: str, method: str, out: str | Path, category: str | None = None, setting: str | None = None
) -> Predictions | None:
    """The predictions of a method's first finished run behind a paper's tables, of that category, and of that setting
    if there is one; None without a run.

    Of a run on several categories those of all its images. A run may fill rows of several settings.
    """
    settings = _settings(paper, out)
    keys = [
        cell["key"]
        for cell, _ in finished_cells(paper, out, by_category=True)
        if cell["method"] == method and category in (None, cell["category"])
    ]
    if not keys:
        return None
    key = max(keys, key=lambda key: setting in settings[key])
    return Predictions.load(Store(Path(out) / "runs").path(key) / "predictions")


def segmentations(paper: str, method: str, out: str | Path, each: int = 5):
    """Anomalous images with the highest scores, and below each the method's map cut at a threshold, truth outlined.

    The threshold is that of best pixel F1 on these test images: an oracle. Returns a Figure, or a sentence where no run
    is done, and where there are no maps of it. MIIC, Fig. 1.
    """
    from adlib.figures import show_segmentations, telling_samples
    from adlib.metrics import pixel_metrics

    found = stored_predictions(paper, method, out)
    if found is None:
        return NONE
    if found.maps is None:
        return HTML(f"<p>There is no map to look at: {found.no_maps}.</p>")
    found = found.known  # of a picture without a label nobody knows what its map should outline
    threshold = pixel_metrics(found.images.masks(), found.maps)["pixel_f1max_threshold"]
    return show_segmentations(found, telling_samples(found, each)["found"], threshold)


def share_of_gap(table: pd.DataFrame, metrics: Sequence[str], first: str, last: str) -> pd.DataFrame:
    """How much of the way from one row to another each row of a comparison has come, in percent, as published.

    table: of `comparison`, one category; first, last: settings of its rows. One row per setting, a column per metric.
    """
    values = table[table["metric"].isin(metrics)].pivot(index="setting", columns="metric", values="published")
    if missing := {first, last} - set(values.index):
        raise InputError(f"The table has no row {', '.join(sorted(missing))}; it has {', '.join(values.index)}.")
    order = table["setting"].unique()
    shares = 100 * (values - values.loc[first]) / (values.loc[last] - values.loc[first])
    return shares.loc[order, list(metrics)] + 0.0  # never -0


def below_limits(table: pd.DataFrame, metric: str, limits: Mapping[str, float]) -> pd.DataFrame:
    """Which rows of a comparison lie below stated limits: a column per limit for the published and for our values.

    "yes", "no", "" where there is no value, or "20 are too few" where a rate of 1 in 20 normal images, by the table's
    counts, is above the limit: none of them says little then. Where the table has counts, the rate is theirs, with all
    its digits. limits: name -> value in percent, as the table's rates.
    """
    rows = table[table["metric"] == metric].set_index("setting")
    found = {}
    for name, limit in limits.items():
        for column in ("published", "ours"):
            normal, alarms = (counted.reindex(rows.index) for counted in _normal_images(table, column))
            rates = rows[column].astype(float)
            exact = (100 * alarms / normal).combine_first(rates) if metric == "fpr" else rates
            found[f"{column} below {limit:g} ({name})"] = _below(exact, normal, limit).mask(rates.isna(), "")
    return pd.DataFrame(found, index=rows.index)


def _below(rates: pd.Series, normal: pd.Series, limit: float) -> pd.Series:
    """Of rates in percent "yes" below the limit, else "no", "" of NaN; "20 are too few" where one alarm among as many
    normal images is above it. normal: how many these were; NaN where that is not known.
    """
    answers = pd.Series(np.where(rates < limit, "yes", "no"), index=rates.index)
    few = 100 / normal > limit
    answers[few] = normal[few].map("{:.0f} are too few".format)
    return answers.mask(rates.isna(), "")


def _normal_images(table: pd.DataFrame, column: str) -> tuple[pd.Series, pd.Series]:
    """How many normal images each row's counts were taken on, and how many of them were false alarms, by setting; NaN
    without counts.
    """
    counts = {name: table[table["metric"] == name].set_index("setting")[column].astype(float) for name in ("tn", "fp")}
    return counts["tn"] + counts["fp"], counts["fp"]


def real_defect_runs(paper: str, out: str | Path) -> pd.DataFrame | HTML:
    """Stored runs that learned from a dataset's real defects in another way than the paper's tables, beside its rows.

    These are runs with the setting train_real, those that paste the real defects' pictures as textures, and those that
    learn from real defects alone (mixed_supervised with synthetic=False); and the same methods' runs without any, to
    compare with. Columns: category, method, learned (what tells the run apart, in brackets what it set where that is
    not enough; or the paper's row), whose ("published", "ours" or "ours, phantom"), seed, mcc (a fraction), recall and
    fpr in percent, recall of each kind of defect in percent, and whether fpr is below each of the paper's limits, as
    `below_limits` answers. Ours at the threshold of best F1 on the test images (an oracle), as the paper's. A sentence
    where no such run is done.
    """
    about, store = papers.protocol(paper), Store(Path(out) / "runs")
    datasets = {dataset for table in about["tables"].values() for dataset in table["datasets"]}
    records = [record for record in store.records() if record["status"] == FINISHED]
    ours = [(Run(**record["run"]), record) for record in records if record["run"]["dataset"] in datasets]
    methods = {run.method for run, _ in ours if _learned_from(run)}
    ours = [
        (run, record) for run, record in ours if run.method in methods and (_learned_from(run) or not _injects(run))
    ]
    rows, apart = [], _told_apart(ours)
    for run, record in ours:
        found = Predictions.load(store.path(record["key"]) / "predictions")
        own = {"whose": "ours, phantom" if record["data"]["phantom"] else "ours", "learned": apart[record["key"]]}
        rows += [row | own for row in _decisions(run, found)]
    if not rows:
        return HTML("<p>No run that learns from real defects in another way is done.</p>")
    rows = _published_decisions(paper, {row["category"] for row in rows}) + rows
    table = pd.DataFrame(rows).sort_values("category", kind="stable", ignore_index=True)
    for name, limit in papers.stated(paper, "fpr_limits").items():
        normal = table["tn"] + table["fp"]
        exact = (100 * table["fp"] / normal).combine_first(table["fpr"])
        table[f"fpr below {limit:g} ({name})"] = _below(exact, normal, limit)
    table = table.drop(columns=["tn", "fp"]).astype({"seed": "Int64"})
    return table.apply(lambda column: rounded(column, largest(column.name), 2 if column.name in ("mcc", "fpr") else 1))


def _injects(run: Run) -> bool:
    """Whether a run's method injects real defects by itself: its runs with synthetic ones are the paper's tables."""
    return hasattr(model_class(run.method), "training_samples")


def _learned_from(run: Run) -> str:
    """How a run learned from real defects: "mixed 10", "textures real_defects/area", "mixed 10, real alone"; or ""."""
    if number := run.settings.get("train_real"):
        return f"{run.settings.get('train_real_kind') or 'mixed'} {number}"
    textures = str(run.settings.get("textures") or "")
    if REAL_FOLDER in Path(textures).parts:
        return f"textures {textures[textures.rindex(REAL_FOLDER) :]}"
    if _injects(run) and run.settings.get("synthetic", True) is False:
        return f"{run.settings.get('defects', 'mixed')} {run.settings.get('number') or 'all'}, real alone"
    return ""


def _told_apart(runs: list[tuple[Run, dict]]) -> dict[str, str]:
    """key -> how a run learned from real defects, and what it set where others of the method and place did it so."""
    said, places = {}, {}
    for run, record in runs:
        said[record["key"]] = learned = _learned_from(run) or "none"
        places.setdefault((run.method, run.dataset, run.category, run.seed, learned), []).append(record)
    for records in (alike for alike in places.values() if len(alike) > 1):
        for record, text in zip(records, told_apart(records), strict=True):
            said[record["key"]] += f" ({text})"
    return said


def _decisions(run: Run, found: Predictions) -> Iterator[dict]:
    """Decisions of a run, one row per category."""
    for category, samples in found.samples.reset_index(drop=True).groupby("category"):
        labels, scores = samples["label"].to_numpy(), found.scores[samples.index]
        threshold = threshold_best_f1(labels, scores)
        values = decision_metrics(labels, scores, threshold)
        row = {"category": category, "method": run.method, "learned": "", "whose": "", "seed": run.seed}
        row |= {"mcc": values["mcc"]} | {name: 100 * values[name] for name in ("recall", "fpr")}
        row |= {name: values[name] for name in ("tn", "fp")}
        for defect, group in samples[labels == 1].groupby("defect"):
            row[f"recall of {defect}"] = 100 * float((found.scores[group.index] >= threshold).mean())
        yield row


def _published_decisions(paper: str, categories: set[str]) -> list[dict]:
    """The rows of the paper's tables whose settings are numbers of real defects."""
    tables = [name for name, table in papers.protocol(paper)["tables"].items() if "settings" in table]
    printed = papers.published(paper)
    printed = printed[printed["table"].isin(tables) & printed["category"].isin(categories)]
    keys = ["category", "method", "setting"]
    wanted = ["mcc", "recall", "fpr", "tn", "fp"]
    wide = printed[printed["metric"].isin(wanted)].pivot(index=keys, columns="metric", values="value")
    order = printed[keys].drop_duplicates().itertuples(index=False, name=None)
    rows = wide.loc[[key for key in order if key in wide.index]].reset_index().to_dict("records")
    return [
        {"category": row["category"], "method": row["method"], "learned": row["setting"], "whose": "published"}
        | {name: row[name] for name in wanted if name in row}
        for row in rows
    ]
