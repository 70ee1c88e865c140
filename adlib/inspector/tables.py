"""Tables: the small HTML of the inspector, all of it escaped."""

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape

from adlib.inspector.selection import OUTCOMES

RATIOS = {"recall": "recall", "precision": "precision", "fpr": "false-positive rate", "f1": "F1", "mcc": "MCC"}


ORACLE = "The threshold opens at the best F1 on these very labels: an oracle, better than any use in practice."


def confusion_table(metrics: Mapping, name: str, oracle: bool) -> str:
    """The confusion matrix of one method, and what follows from it.

    metrics: of `adlib.metrics.decision_metrics`. oracle: say that the threshold has seen the labels.
    """
    tp, fn, fp, tn = (f"{metrics[key]:.0f}" for key in ("tp", "fn", "fp", "tn"))
    reasons = metrics.get("reasons", {})
    ratios = "".join(
        f'<tr><th scope="row">{text}</th>'
        f'<td title="{escape(reasons.get(key, ""))}">{_number(metrics[key], ".4f")}</td></tr>'
        for key, text in RATIOS.items()
    )
    return (
        f'<div class="adlib-tables"><table><caption>Confusion matrix, {escape(name)}, all images</caption>'
        '<tr><td></td><th scope="col">called anomalous</th><th scope="col">called normal</th></tr>'
        f'<tr><th scope="row">anomalous</th><td data-count="tp">{tp}</td><td data-count="fn">{fn}</td></tr>'
        f'<tr><th scope="row">normal</th><td data-count="fp">{fp}</td><td data-count="tn">{tn}</td></tr></table>'
        f"<table>{ratios}</table></div>" + (f'<p class="adlib-oracle">{ORACLE}</p>' if oracle else "")
    )


def methods_table(metrics: Mapping[str, Mapping], thresholds: Sequence[float], focus: int) -> str:
    """The decisions of several methods, one line each; the one in focus in bold."""
    counts = ("tp", "fp", "fn", "tn")
    lines = "".join(
        f'<tr{" class=focus" if row == focus else ""}><th scope="row">{escape(name)}</th><td>{threshold:.4g}</td>'
        + "".join(f"<td>{values[count]:.0f}</td>" for count in counts)
        + f"<td>{_number(values['f1'], '.3f')}</td></tr>"
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
    """A sample's score by each method, its rank and outcome. scores, ranks: [M]."""
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{score:.5g}</td><td>{100 * rank:.0f} %</td>'
        f'<td class="word">{outcome}: {OUTCOMES[outcome]}</td></tr>'
        for name, score, rank, outcome in zip(names, scores, ranks, outcomes, strict=True)
    )
    heads = "".join(f'<th scope="col">{text}</th>' for text in ("method", "score", "rank", "outcome"))
    return f"<table><tr>{heads}</tr>{lines}</table>"


def download_link(text: str, file: str) -> str:
    """A link that saves a text as a file, without a server."""
    data = base64.b64encode(text.encode()).decode()
    return f'<a download="{escape(file)}" href="data:text/csv;base64,{data}">download them</a>'


def _number(value: float, form: str) -> str:
    return "undefined" if math.isnan(value) else f"{value:{form}}"
