"""One page for a colleague who was not there: what was learned, what was found, what to expect, and the list.

The page is one file: pictures are inside, nothing is loaded, nothing runs.
"""

import base64
import io
from html import escape
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from adlib import figures, screening
from adlib.errors import InputError
from adlib.files import write_text
from adlib.images import ImageSet
from adlib.own_images import model_warnings
from adlib.predictions import Predictions
from adlib.samples import count, is_picture, phantom_warning, select

LABELS = {0: "normal", 1: "anomalous", -1: "unknown"}
_STYLE = """body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222;background:#fff}
img{max-width:100%}table{border-collapse:collapse;font-size:.9em}td,th{padding:.2em .7em;border-bottom:1px solid #ccc;
text-align:left;overflow-wrap:anywhere}th{overflow-wrap:normal}
.called{font-weight:600}.warning{border:2px solid #b00;padding:.5em 1em}"""


def write_page(model, samples, predictions: Predictions, file: str | Path, title: str = "", doubts: str = "") -> Path:
    """Write the page of a detector that adlib.own_images.fit_own made; returns its path.

    samples: all of the folder. predictions: of its test images. title: else the name of the images' category.
    doubts: on the normal images that were learned from (adlib.screening.doubts). Raises InputError without test images.
    """
    if not len(predictions):
        raise InputError("There are no test images, so there is no page to write: put those to be judged into test/.")
    threshold = screening.Threshold.of(model.threshold_)
    called = predictions.scores.astype(np.float64) >= threshold.score
    name = title or str(samples["category"].iat[0])
    copies = int((~is_picture(samples)).sum())  # mirrored ones, for training alone
    samples = samples[is_picture(samples)]
    seen = ImageSet(select(samples, split="train"), **model.images_)
    warnings = [
        phantom_warning(samples, "real images"),
        screening.contradiction(threshold, predictions),
        doubts,
        *model_warnings(model),
    ]
    histogram = figures.score_histogram(predictions, {"threshold": threshold.score})
    highest = (-predictions.scores).argsort(kind="stable")[:6].tolist()
    settings = ", ".join(f"{key} {value}" for key, value in model.parameters.items())
    prepared = ", ".join(f"{key} {value}" for key, value in model.images_.items() if value is not None)
    number, mirrored = len(seen), f" and at {copies} mirrored copies of them" if copies else ""
    parts = [
        f"<h1>{escape(name)}: what does not look like the others?</h1>",
        f"<p>Of {len(predictions)} images, {int(called.sum())} are called anomalous. The list is at the end.</p>",
        *(f'<p class="warning">{escape(text)}</p>' for text in dict.fromkeys(filter(None, warnings))),
        "<h2>What was learned</h2>",
        f"<p>The method {escape(model.name)} has looked at {number} images that are said to be normal{mirrored}, "
        "and at nothing else. It has no idea of defects: it finds what differs from these images.</p>",
        count(samples).to_html(border=0),
        "<p>Above, images as they are stored; what is dark was not looked at. Below, what the method sees.</p>",
        _picture(figures.show_seen(seen), "Normal images, as stored and as the detector sees them"),
        "<h2>What was found</h2>",
        "<p>The images with the highest scores, and where they are unusual (bright).</p>",
        _picture(figures.show_predictions(predictions, highest), "The most unusual images with their heat maps"),
        "<p>Scores of all images; images to the right of the line are called anomalous.</p>",
        _picture(histogram, "Histogram of the scores with the threshold"),
        _facts(screening.decision_counts(threshold, predictions)),
        f"<p>{escape(screening.agreement(threshold, predictions))}</p>",
        "<h2>What to expect</h2>",
        *(f"<p>{escape(text)}</p>" for text in threshold.sentences()),
        "<p>This holds for normal images like those it has learned from. When camera, light, or parts change, choose "
        "the threshold anew; how many defects are missed can only be told with known defects.</p>",
        _facts({"method": f"{model.name}: {settings}", "images": prepared, "seed": model.seed_}),
        "<h2>The list</h2>",
        _list(predictions, called),
    ]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(name)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{_STYLE}</style></head><body>'
        + "\n".join(parts)
        + "</body></html>\n"
    )
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, page)
    return file


def _picture(figure: Figure, alt: str) -> str:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(drawn.getvalue()).decode()}">'


def _facts(facts: dict) -> str:
    lines = (f"<tr><th>{escape(str(name))}</th><td>{escape(str(value))}</td></tr>" for name, value in facts.items())
    return f"<table>{''.join(lines)}</table>"


def _list(predictions: Predictions, called: np.ndarray) -> str:
    """A line per image, the most unusual first."""
    lines = []
    for row in (-predictions.scores).argsort(kind="stable"):
        sample = predictions.samples.iloc[row]
        said = "anomalous" if called[row] else "passed"
        cells = (sample["image"], f"{predictions.scores[row]:.5g}", said, LABELS[sample["label"]], sample["defect"])
        mark = ' class="called"' if called[row] else ""
        lines.append(f"<tr{mark}>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>")
    heads = "".join(f"<th>{head}</th>" for head in ("image", "score", "decision", "label", "folder"))
    return f"<table><tr>{heads}</tr>{''.join(lines)}</table>"
