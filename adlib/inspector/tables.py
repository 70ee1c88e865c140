"""Tables: the small HTML of the inspector, all of it escaped."""

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape

from adlib.inspector.selection import OUTCOMES
from adlib.rounding import rounded_text

RATIOS = {"recall": "recall", "precision": "precision", "fpr": "FPR", "f1": "F1", "mcc": "MCC"}
IN_WORDS = {
    "recall": "of the anomalous images, the share that is called so",
    "precision": "of the images that are called anomalous, the share that is so",
    "fpr": "false-positive rate: of the normal images, the share that is called anomalous",
    "f1": "harmonic mean of recall and precision",
    "mcc": "Matthews correlation coefficient",
}
ORACLE = "Opens at the best F1 on these very labels: an oracle."
BETTER = "Better than any use in practice, where nobody knows the labels."
SHOW = {"tp": "found ones", "fn": "missed ones", "fp": "false alarms", "tn": "passed ones"}


def confusion_table(metrics: Mapping, oracle: bool) -> str:
    """The confusion matrix of one method over all images, each count a button, and what follows from it.

    metrics: of `adlib.metrics.decision_metrics`. oracle: say that the threshold has seen the labels.
    """
    tp, fn, fp, tn = (
        f'<td data-count="{key}"><button type="button" title="Show the {text} alone">{metrics[key]:.0f}</button></td>'
        for key, text in SHOW.items()
    )
    reasons = metrics.get("reasons", {})
    heads = "".join(f'<th scope="col" title="{IN_WORDS[key]}">{text}</th>' for key, text in RATIOS.items())
    ratios = "".join(f'<td title="{escape(reasons.get(key, ""))}">{_number(metrics[key])}</td>' for key in RATIOS)
    return (
        '<div class="adlib-tables"><table><tr><td>all images</td><th scope="col">called anomalous</th>'
        '<th scope="col">called normal</th></tr>'
        f'<tr><th scope="row">anomalous</th>{tp}{fn}</tr>'
        f'<tr><th scope="row">normal</th>{fp}{tn}</tr></table>'
        f"<table><tr>{heads}</tr><tr>{ratios}</tr></table></div>"
        + (f'<p class="adlib-oracle" title="{BETTER}">{ORACLE}</p>' if oracle else "")
    )


def methods_table(metrics: Mapping[str, Mapping], thresholds: Sequence[float], focus: int) -> str:
    """The decisions of several methods, one line each; the one in focus in bold."""
    counts = ("tp", "fp", "fn", "tn")
    lines = "".join(
        f'<tr{" class=focus" if row == focus else ""}><th scope="row">{escape(name)}</th><td>{threshold:.4g}</td>'
        + "".join(f"<td>{values[count]:.0f}</td>" for count in counts)
        + f"<td>{_number(values['f1'])}</td></tr>"
        for row, ((name, values), threshold) in enumerate(zip(metrics.items(), thresholds, strict=True))
    )
    heads = "".join(f'<th scope="col">{text}</th>' for text in ("method", "threshold", "TP", "FP", "FN", "TN", "F1"))
    return f"<table><caption>All methods, each at its own threshold</caption><tr>{heads}</tr>{lines}</table>"


def sample_table(facts: Mapping[str, object]) -> str:
    """Path and metadata of a sample, one line each; empty ones are left out."""
    lines = "".join(
        f'<tr><th scope="row">{escape(str(name))}</th><td class="word">{escape(str(value))}</td></tr>'
        for name, value in facts.items()
        if str(value)
    )
    return f"<table>{lines}</table>"


def score_table(names: Sequence[str], scores, ranks, outcomes: Sequence[str]) -> str:
    """A sample's score by each method, its rank and outcome. scores: [M]; ranks: [M], above 0 and up to 1."""
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{score:.5g}</td><td>{_percent(rank)}</td>'
        f'<td class="outcome">{outcome}: {OUTCOMES[outcome]}</td></tr>'
        for name, score, rank, outcome in zip(names, scores, ranks, outcomes, strict=True)
    )
    heads = "".join(f'<th scope="col">{text}</th>' for text in ("method", "score", "rank", "outcome"))
    return f"<table><tr>{heads}</tr>{lines}</table>"


def download_link(text: str, file: str) -> str:
    """A link that saves a text as a file, without a server."""
    data = base64.b64encode(text.encode()).decode()
    return f'<a download="{escape(file)}" href="data:text/csv;base64,{data}">download them</a>'


def _percent(share: float) -> str:
    """In whole percent; the highest alone reads as 100, and none as 0."""
    text = rounded_text(100 * share, 100, 0)
    return escape("<1" if text == "0" else text) + " %"


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else escape(rounded_text(value, 1, 3))
