"""What stands below a paper's table: what marks and signs mean, notes of the protocol, the order of methods."""

from html import escape

import pandas as pd

from adlib import papers
from adlib.metrics import PRO_LABELS
from adlib.models import is_surrogate
from adlib.papers.settings import footnotes
from adlib.report.labels import metric_label
from adlib.report.provenance import code_sentence, profile_sentence
from adlib.report.ranks import rank_agreement
from adlib.report.tables import COUNTS, unit

# The difference of a cell by its size: up to how many percentage points, class, marks below and above. The tints let
# light and dark pages through, blue and orange are told apart by colour-blind readers, and the marks do without colour.
AGREEMENT = [
    (1, "close", "≈", "≈", "rgba(0, 114, 178, .2)"),
    (5, "near", "▽", "△", "rgba(240, 228, 66, .3)"),
    (float("inf"), "far", "▼", "▲", "rgba(213, 94, 0, .3)"),
]
LONG_NOTE = 250  # letters
SHORT = {"not in this profile": "·"}  # states that fill whole tables
DECISIONS = ("mcc", "recall", "precision", "fpr", *COUNTS)
# Notes of a protocol on metrics; a key that is a metric or a method itself speaks for itself.
NOTES_ON_METRICS = {
    "f1": ("image_f1max", "pixel_f1max"),
    "pr": ("image_ap", "pixel_ap"),
    "thresholds": DECISIONS,
}


def agreement(cell: dict) -> tuple | None:
    """The row of AGREEMENT that a cell's difference falls into; None where there is none, and for surrogates, whose
    size says nothing.
    """
    if pd.isna(cell["difference"]) or is_surrogate(cell["method"]):
        return None
    points = round(abs(cell["difference"]) * (100 if unit(cell["metric"]) == "fraction" else 1), 9)
    return next(level for level in AGREEMENT if points <= level[0])


def protocol_notes(table: pd.DataFrame) -> tuple[list[tuple[list[str], str]], list[str]]:
    """What the protocols say of the table's methods, as (methods, text), and of its metrics and the table itself.

    A key of paper.yaml's notes may name several methods: "fanogan and ganomaly".
    """
    methods, metrics, on_methods, on_metrics = list(table["method"].unique()), set(table["metric"]), [], []
    for paper, name in table[["paper", "table"]].drop_duplicates().itertuples(index=False):
        protocol = papers.protocol(paper)
        if "pro" in metrics and "pro" in protocol:
            on_metrics.append(_on_pro(protocol["pro"]))
        for key, text in protocol.get("notes", {}).items():
            if concerned := [method for method in key.split(" and ") if method in methods]:
                on_methods.append((concerned, text))
            elif metrics & {key, *NOTES_ON_METRICS.get(key, ())}:
                on_metrics.append(text)
        on_metrics += filter(None, [protocol["tables"][name].get("notes")])
        on_methods += [([method], text) for method in methods if (text := " ".join(footnotes(paper, method)))]
    return sorted(on_methods, key=lambda note: methods.index(note[0][0])), on_metrics  # numbered from top to bottom


def shared_runs(table: pd.DataFrame) -> list[str]:
    """A sentence for each run of ours that fills several rows of one column: numbers that are the same for that."""
    cells = table[(table["category"] != "average") & (table["runs"] != "") & (table["setting"] != "")]
    said = {}
    for (method, *_), rows in cells.groupby(["method", "dataset", "category", "runs"], sort=False)["setting"]:
        settings = list(rows.drop_duplicates())
        if len(settings) > 1:
            named = f"{', '.join(settings[:-1])} and {settings[-1]}"
            said[f"One run of {method} fills the rows {named}: on our data they ask for the same work."] = None
    return list(said)


def unnamed_rows(table: pd.DataFrame) -> list[str]:
    """A sentence for each category that was run but has no test images of sub-classes that the table has rows of: these
    are found by the names of their folders.
    """
    cells = table[table["category"].str.contains("/") & table["state"].eq("no data") & table["runs"].ne("")]
    lacking: dict[str, dict[str, None]] = {}
    for name in () if table["phantom"].any() else cells["category"]:  # phantoms are drawn with fewer
        category, _, group = name.partition("/")
        lacking.setdefault(category, {})[group] = None
    return [
        f"Our runs on {category} have no test images of {', '.join(groups)}: sub-classes go by their folders."
        for category, groups in lacking.items()
    ]


def _on_pro(pro: dict) -> str:
    """What is compared in the columns of PRO. pro: as in paper.yaml."""
    return (
        f"PRO, ours: {PRO_LABELS[pro['variant']]}. {pro['why'].strip()} With it stands AUPRO, the exact area up to a "
        "false-positive rate of 0.3, which is another quantity"
        + (
            f", except on other sets than {' and '.join(pro['datasets'])}: ours is AUPRO there."
            if "datasets" in pro
            else "."
        )
    )


def note_mark(number: int, note: str) -> str:
    """The raised number of a method's note; the note itself shows when the pointer rests on it."""
    return f' <sup title="{escape(note)}">{number}</sup>'


def note_list(on_methods: list[tuple[list[str], str]], on_metrics: list[str], profile: str = "") -> str:
    """The notes below a table: on its metrics and the table itself, and on methods; folded but for the short ones.

    profile: of our runs, whose settings may differ from those that the notes tell.
    """
    short = "".join(f"<p>{escape(text)}</p>" for text in on_metrics if len(text) <= LONG_NOTE)
    long = "".join(f"<p>{escape(text)}</p>" for text in on_metrics if len(text) > LONG_NOTE)
    items = "".join(f"<li>{escape(' and '.join(names))}: {escape(text)}</li>" for names, text in on_methods)
    said = profile_sentence([profile])
    warning = f"<p>Settings named here are the paper's. {escape(said)}</p>" if said else ""
    folds = {"Notes on the metrics": long, "Notes on the methods": f"{warning}<ol>{items}</ol>" if items else ""}
    return short + "".join(
        f"<details><summary>{title}</summary>{text}</details>" for title, text in folds.items() if text
    )


def legend(cells: pd.DataFrame, known: pd.DataFrame | None) -> str:
    """What the numbers are in, and what bold print, marks and signs mean, where there are any."""
    units = {unit(metric) for metric in cells["metric"]}
    texts = ["Percent" + (", MCC a fraction" if "fraction" in units else "") + (", counts" if "count" in units else "")]
    texts[0] += "; bold: best of the column."
    if known is not None and not known.empty:
        texts.append(
            "Known answer: the lowest AUROC of our runs on plain drawn data, sub-classes pooled; ✓ found what was "
            "drawn, ✗ did not."
        )
    if cells["phantom"].any():
        texts.append("Ours are of drawn data, and say nothing about the published numbers: nothing is subtracted.")
    if any(agreement(cell) for cell in cells.to_dict("records")):
        mcc = "; hundredths of MCC" if "fraction" in units else ""
        texts.append(f"Below ours the difference: ≈ within 1 point, △ ▽ within 5, ▲ ▼ beyond{mcc}.")
    if (cells["category"].eq("average") & cells["state"].eq("partly") & cells["difference"].notna()).any():
        texts.append("Of an average that is there partly the difference is over the categories that both have.")
    if set(cells["metric"]) & set(DECISIONS) and cells["ours"].notna().any():
        texts.append("Decisions of ours are at the threshold of best F1 on the test images: an oracle.")
    states = set(cells["state"])
    texts += [f"{sign} {state}." for state, sign in SHORT.items() if state in states]
    return f"<p>{escape(' '.join(texts))}</p>"


def code_line(table: pd.DataFrame) -> str:
    """Which states of adlib made our numbers, where that is not one clean commit."""
    cells = table[(table["category"] != "average") & table["ours"].notna()]
    sentence = code_sentence(line for text in cells["code"] for line in text.splitlines())
    return f"<p>{escape(sentence)}</p>" if sentence else ""


def order_line(table: pd.DataFrame) -> str:
    """How well our order of methods agrees with the published one, folded; "" without numbers of ours on real data."""
    if table.loc[~table["phantom"], "ours"].isna().all():
        return ""
    lines, several = [], table["dataset"].nunique() > 1
    for row in rank_agreement(table).itertuples():
        place = f"{metric_label(row.metric)}{f' on {row.dataset}' if several else ''}"
        if row.reason:
            lines.append(f"{place}: not compared, {row.reason}.")
            continue
        categories = "category" if row.categories == 1 else "categories"
        lines.append(
            f"{place}: Kendall's tau {row.tau:+.2f} over {row.methods} methods and {row.categories} {categories}."
        )
    listed = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<details><summary>Order of methods, ours beside the published</summary><ul>{listed}</ul></details>"
