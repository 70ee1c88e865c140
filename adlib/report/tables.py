"""Tables: published numbers, ours, and the difference, side by side and never mixed. table_html.py shows them."""

import math
from pathlib import Path

import pandas as pd

from adlib import papers
from adlib.errors import InputError, did_you_mean
from adlib.files import read_json
from adlib.report.provenance import record_code
from adlib.runs.record import FINISHED
from adlib.runs.schema import plan_problem
from adlib.runs.standing import dash
from adlib.runs.store import Store


def read_plan(paper: str, out: str | Path) -> dict | None:
    """The plan that the last `adlib reproduce` left for a paper, or None. Raises InputError for a damaged one."""
    file = Path(out) / "plans" / f"{paper}.json"
    if not (file.exists() or file.is_symlink()):
        return None
    plan = read_json(file)
    if problem := plan_problem(plan):
        raise InputError(f"{file} is no plan: {problem}. `adlib reproduce {paper}` writes it anew.")
    return plan


KEYS = ["dataset", "category", "setting", "method", "metric"]
AVERAGED = ["dataset", "setting", "method", "metric"]  # what one average over categories is of
# What is not a share that we print in percent.
COUNTS = ("tn", "tp", "fn", "fp")
AS_FRACTION = (*COUNTS, "mcc")
SAME = "it is the same however these images are drawn"  # so that resampling cannot show its uncertainty


def profile_of(paper: str, out: str | Path) -> str:
    """The profile of a paper's plan; "" where there is none, or it does not say."""
    return str((read_plan(paper, out) or {}).get("profile") or "")


def comparison(paper: str, table: str, out: str | Path = "reports") -> pd.DataFrame:
    """A benchmark table of a paper, one row per cell and metric.

    out: the folder with runs/ and plans/.
    Columns: paper, table, dataset, category, setting, method, metric, published, recomputed, ours, sd, seeds, low,
    high, no_interval, difference, aupro, state, phantom, runs, joint, code.
    published: as printed, percent but for MCC and counts; NaN for a dash. recomputed: in average rows the mean of the
    printed categories, else NaN. ours: mean over seeds, in the same unit; sd: standard deviation over seeds (NaN for
    one), of an average that of the seeds' averages. low, high: of one run, its 95 % bootstrap interval over the test
    images (image metrics), else NaN, and no_interval says why where a record does. difference: ours - published, in
    percentage points; of an average that lacks categories, over those that both have; NaN for counts, and where ours is
    of drawn data. aupro: beside PRO, which is ours by the paper's own definition (`pro` in paper.yaml), the area under
    the curve up to a false-positive rate of 0.3; NaN for other metrics. state: "done", "partly" (a mean that lacks
    seeds or categories, since they are missing or since the metric is undefined there), "to do", "failed", "not
    implemented", "no data", "not in this profile", or what a run lacks without which it stands for nothing ("needs
    CLIP's weights"). phantom: whether any of our numbers comes from drawn data. runs: keys of the runs behind ours (or
    of those that failed) which have left a notebook, separated by blanks. joint: whether these are runs on all
    categories together. code: states of adlib that made ours, one a line. Decision metrics (MCC, recall ...) are ours
    at the threshold of best F1 on the test images: an oracle.
    Raises InputError for a table that the paper does not have.
    """
    spec = papers.protocol(paper)["tables"].get(table)
    if spec is None:
        known = papers.protocol(paper)["tables"]
        near = did_you_mean(table, known)
        raise InputError(f"{paper} has no benchmark table {table!r}; it has {', '.join(known)}.{near}")
    printed = papers.published(paper)
    printed = printed[(printed["table"] == table) & printed["metric"].isin(spec["metrics"])]
    printed = _with_dashes(printed, spec["methods"])
    seeds = _our_seeds(paper, table, printed, out)
    ours = average_rows(_over_seeds(seeds), _spreads(seeds))
    beside = ours.loc[ours["metric"] == "aupro"].assign(metric="pro").rename(columns={"ours": "aupro"})

    joined = printed[[*KEYS, "value"]].rename(columns={"value": "published"}).merge(ours, on=KEYS, how="left")
    joined = joined.merge(beside[[*KEYS, "aupro"]], on=KEYS, how="left")
    joined["state"] = joined["state"].fillna("to do")
    joined[["phantom", "joint"]] = joined[["phantom", "joint"]].eq(True)
    joined["difference"] = _difference(joined)
    joined["recomputed"] = _recomputed(joined)
    joined[["runs", "code"]] = joined[["runs", "code"]].fillna("")
    joined["no_interval"] = joined["no_interval"].fillna("")
    ours = ["ours", "sd", "seeds", "low", "high", "no_interval", "difference", "aupro", "state", "phantom", "runs"]
    columns = ["paper", "table", *KEYS, "published", "recomputed", *ours, "joint", "code"]
    return joined.assign(paper=paper, table=table)[columns]


def comparisons(out: str | Path = "reports") -> pd.DataFrame:
    """`comparison` of every benchmark table of every paper, one below the other."""
    tables = [(paper, table) for paper in papers.list_papers() for table in papers.protocol(paper)["tables"]]
    return pd.concat([comparison(paper, table, out) for paper, table in tables], ignore_index=True)


def _with_dashes(printed: pd.DataFrame, methods: list[str]) -> pd.DataFrame:
    """Every method in every row of a metric: without a value where the paper prints a dash, as for a method without
    maps.
    """
    rows = printed[[key for key in KEYS if key != "method"]].drop_duplicates()
    return rows.merge(pd.DataFrame({"method": methods}), how="cross").merge(printed, on=KEYS, how="left")


def _our_seeds(paper: str, table: str, printed: pd.DataFrame, out: str | Path) -> pd.DataFrame:
    """Per key and seed: the number of its run, the interval, the state. From the plan and the records."""
    store, rows = Store(Path(out) / "runs"), []
    metrics, categories = list(printed["metric"].unique()), printed["category"].unique()
    metrics += ["aupro"] * ("pro" in metrics)
    for cell in (read_plan(paper, out) or {"cells": []})["cells"]:
        if cell["table"] != table:
            continue
        record = store.record(cell["key"]) if cell["key"] else None
        done = record is not None and record["status"] == FINISHED
        state = cell["missing"] or ("to do" if record is None else "done" if done else "failed")
        if done and dash(record):
            done, state = False, dash(record)
        phantom = bool(done and record["data"]["phantom"])
        run = cell["key"] if record and (store.path(cell["key"]) / "run.ipynb").exists() else ""
        joint = record is not None and not record["run"]["category"]
        code = record_code(record) if done else ""
        groups = [name for name in categories if name.startswith(f"{cell['category']}/")]
        for category in groups or [cell["category"]]:
            now = "no data" if done and _lacks(record, category) else state
            pro = papers.pro_variant(paper, cell["dataset"]) or "aupro"  # where a record keeps what papers call so
            for metric in metrics:
                value = _our_value(record, category, pro if metric == "pro" else metric) if done else float("nan")
                low, high, why = _our_interval(record, category, metric) if done else (float("nan"), float("nan"), "")
                key = [cell["dataset"], category, cell["setting"], cell["method"], metric]
                rows.append([*key, cell["seed"], value, low, high, why, now, phantom, run, joint, code])
    columns = [*KEYS, "seed", "value", "low", "high", "no_interval", "state", "phantom", "runs", "joint", "code"]
    return pd.DataFrame(rows, columns=columns)


def _over_seeds(seeds: pd.DataFrame) -> pd.DataFrame:
    """Per key: mean and sd over seeds, interval of a single run, state. seeds: of `_our_seeds`."""
    means = seeds.groupby(KEYS, sort=False).agg(
        ours=("value", "mean"),
        sd=("value", "std"),
        seeds=("value", "count"),
        asked=("value", "size"),
        low=("low", "min"),
        high=("high", "max"),
        no_interval=("no_interval", "first"),
        state=("state", lambda states: _joint_state(list(states))),
        phantom=("phantom", "any"),
        runs=("runs", _joint_runs),
        joint=("joint", "any"),
        code=("code", _joint_lines),
    )
    means.loc[means["seeds"] != 1, ["low", "high"]] = float("nan")  # the spread over seeds stands for it
    means.loc[means["seeds"] != 1, "no_interval"] = ""
    means.loc[(means["state"] == "done") & means["seeds"].between(1, means["asked"] - 1), "state"] = "partly"
    return means.drop(columns="asked").reset_index()


def _spreads(seeds: pd.DataFrame) -> dict[tuple, float]:
    """(dataset, setting, method, metric) -> standard deviation over the seeds of their means over the categories that
    have a number; left out where a seed lacks one of these, for then the means differ by their categories, too.
    """
    found = {}
    for place, rows in seeds.dropna(subset="value").groupby(AVERAGED, sort=False):
        each = rows.groupby("seed")["value"].agg(["mean", "size"])
        if (each["size"] == rows["category"].nunique()).all():
            found[place] = each["mean"].std()
    return found


def unit(metric: str) -> str:
    """What a metric is printed in: "count", "fraction" (MCC) or "percent"."""
    return "count" if metric in COUNTS else "fraction" if metric in AS_FRACTION else "percent"


def largest(metric: str) -> float:
    """What a metric cannot exceed in its unit, so that nothing below it reads as it; infinite of a count."""
    return {"percent": 100, "fraction": 1, "count": math.inf}[unit(metric)]


def _lacks(record: dict, category: str) -> bool:
    """Whether a run on several sub-classes or categories had no image of this one."""
    parts, name = _parts(record, category)
    return bool(parts) and name not in parts


def _our_value(record: dict, category: str, metric: str) -> float:
    """One number of a record in the paper's unit; NaN where it is undefined or not recorded.

    category: of the table, "cloth/subclass4" for a sub-class. A run on several categories has them one by one.
    """
    value = part_of(record, category).get(metric)
    if value is None:
        return float("nan")
    return value if metric in AS_FRACTION else 100 * value


def _our_interval(record: dict, category: str, metric: str) -> tuple[float, float, str]:
    """The bootstrap interval of a metric in the paper's unit; NaN where none is kept, and then why, if that is told.
    One whose ends are equal is none.
    """
    found = part_of(record, category).get("intervals", {}).get(metric) or {}
    if found.get("low") is not None and found["low"] == found.get("high"):
        found = {"reason": SAME}
    scale = 1 if metric in AS_FRACTION else 100
    low, high = (float("nan") if found.get(end) is None else scale * found[end] for end in ("low", "high"))
    return low, high, found.get("reason", "") if pd.isna(low) else ""


def part_of(record: dict, category: str) -> dict:
    """Metrics by name, and "intervals", of the part of a record that stands for a category or sub-class of a table."""
    parts, name = _parts(record, category)
    if parts or "/" in category:
        return parts.get(name, {})
    return record["metrics"] | record.get("oracle", {}) | {"intervals": record.get("intervals", {})}


def _parts(record: dict, category: str) -> tuple[dict, str]:
    """A record's parts of which a category or sub-class is one, and its name there."""
    joint, group = record.get("categories", {}), category.partition("/")[2]
    if not group:
        return joint, category
    # A joint run has sub-classes of several categories, which may be called the same.
    return record.get("groups", {}), category if joint else group


def _joint_state(states: list[str]) -> str:
    """One state for several runs: theirs if they agree, "partly" if only some are done, else the worst."""
    if len(set(states)) == 1:
        return states[0]
    return "partly" if "done" in states else next(state for state in ("failed", *states) if state in states)


def _joint_runs(runs: pd.Series) -> str:
    """Keys of the runs of several cells, each once."""
    return " ".join(dict.fromkeys(" ".join(runs).split()))


def _joint_lines(texts: pd.Series) -> str:
    """The lines of several texts, each once."""
    return "\n".join(dict.fromkeys(line for text in texts for line in text.splitlines()))


def average_rows(cells: pd.DataFrame, spreads: dict[tuple, float]) -> pd.DataFrame:
    """Add the category "average" to each dataset, setting, method and metric: the mean over its categories.

    The mean covers the categories that have a number; `state` is "partly" unless all have one, of all their seeds.
    spreads: its sd, of `_spreads`.
    """
    rows = []
    for (dataset, setting, method, metric), group in cells.groupby(AVERAGED, sort=False):
        has, whole = group["ours"].notna(), group["state"].eq("done")
        rows.append(
            {
                "dataset": dataset,
                "category": "average",
                "setting": setting,
                "method": method,
                "metric": metric,
                "ours": group["ours"].mean(),
                "sd": spreads.get((dataset, setting, method, metric), float("nan")),
                "seeds": (group.loc[has, "seeds"] if has.any() else group["seeds"]).min(),
                "low": float("nan"),
                "high": float("nan"),
                "no_interval": "",
                "state": "partly" if has.any() and not (has & whole).all() else _joint_state(list(group["state"])),
                "phantom": group["phantom"].any(),
                "runs": _joint_runs(group["runs"]),
                "joint": group["joint"].any(),
                "code": _joint_lines(group["code"]),
            }
        )
    return pd.concat([cells, pd.DataFrame(rows, columns=cells.columns)], ignore_index=True) if rows else cells


def _difference(joined: pd.DataFrame) -> pd.Series:
    """Ours minus published where both are of the same thing: of the same categories, in a share, on real data."""
    keys = [key for key in KEYS if key != "category"]
    average = joined["category"] == "average"
    each = (joined["ours"] - joined["published"]).where(~average)
    parts = each.groupby([joined[key] for key in keys])
    whole = joined["state"].eq("done") & (parts.transform("count") == parts.transform("size") - 1)
    found = each.where(~average, (joined["ours"] - joined["published"]).where(whole, parts.transform("mean")))
    return found.mask(joined["metric"].isin(COUNTS) | joined["phantom"])


def _recomputed(joined: pd.DataFrame) -> pd.Series:
    """The mean of the printed categories, in the average rows of tables that print categories."""
    keys = [key for key in KEYS if key != "category"]
    means = joined[joined["category"] != "average"].groupby(keys)["published"].mean()
    found = means.reindex(pd.MultiIndex.from_frame(joined[keys])).set_axis(joined.index)
    return found.where(joined["category"] == "average")
