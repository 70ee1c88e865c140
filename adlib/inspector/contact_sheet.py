"""The contact sheet: the most telling samples as static HTML, for pages where no kernel lives."""

import base64
from collections.abc import Mapping
from dataclasses import replace
from html import escape

import numpy as np

from adlib.errors import InputError
from adlib.inspector import panels, render
from adlib.inspector.decisions import Decisions
from adlib.inspector.joined import Joined
from adlib.inspector.selection import OUTCOMES, disagreement
from adlib.samples import UNKNOWN

TITLES = {
    "found": "Anomalous, highest scores",
    "missed": "Anomalous, lowest scores",
    "alarming": "Normal, highest scores",
    "unsorted": "Not yet sorted, highest scores",
    "disputed": "Methods disagree most",
}
SIDE = 150  # longer side of a picture in pixels


def telling(labels: np.ndarray, scores: np.ndarray, each: int = 3) -> dict[str, list[int]]:
    """Indices of the samples worth looking at, by the keys of TITLES, chosen by score alone; no sample twice.

    labels: [N]; scores: [N, M], of which the first method's choose. "disputed" is there for several methods, and only
    with samples that they rank differently.
    """
    order = np.argsort(scores[:, 0], kind="stable")
    anomalous, normal = order[labels[order] == 1], order[labels[order] == 0]
    ranked = {"found": anomalous[::-1], "missed": anomalous, "alarming": normal[::-1]}
    ranked["unsorted"] = order[labels[order] == UNKNOWN][::-1]
    if scores.shape[1] > 1:
        spread = disagreement(scores)
        ranked["disputed"] = np.argsort(-spread, kind="stable")[: np.count_nonzero(spread)]
    chosen, taken = {}, set()
    for name, indices in ranked.items():
        chosen[name] = [int(index) for index in indices if index not in taken][:each]
        taken.update(chosen[name])
    return {name: indices for name, indices in chosen.items() if indices}


def contact_sheet(
    joined: Joined, decisions: Decisions, look: panels.Look, windows: Mapping[tuple, tuple] | None = None, each: int = 3
) -> str:
    """HTML of the telling samples: image with ground truth, and each method's heat map, score and outcome.

    windows: the reviewer's window for images of a kind (`panels.kind_of`); others are shown as the method saw them.
    Styles are inline, so that it looks the same in every page.
    """
    look = panels.Look(None, look.opacity, look.palette, decided=False, longest=SIDE)
    parts, several = [], len(joined.names) > 1
    for name, indices in telling(joined.labels, joined.scores, each).items():
        sheets = "".join(_sample(joined, index, decisions, look, windows or {}) for index in indices)
        title = TITLES[name] + (f" of {escape(joined.names[0])}" if several and name != "disputed" else "")
        parts.append(f'<h4 style="margin:.6em 0 .2em">{title}</h4><div style="{_FLOW}">{sheets}</div>')
    used = ", ".join(
        f"{escape(name)} {threshold:.4g}{' (best F1 here, an oracle)' if decisions.is_oracle(method) else ''}"
        for method, (name, threshold) in enumerate(zip(joined.names, decisions.thresholds, strict=True))
    )
    return (
        f'<div class="adlib-contact-sheet"><p>The most telling of {len(joined)} samples, chosen by score. '
        f"Ground truth outlined; thresholds: {used}. "
        f"In a running notebook this is the inspector.</p>{''.join(parts)}</div>"
    )


_FLOW = "display:flex;flex-wrap:wrap;gap:10px 16px"


def _sample(joined: Joined, index: int, decisions: Decisions, look: panels.Look, windows: Mapping) -> str:
    sample = joined.samples.iloc[index]
    name = sample["image"].replace("\\", "/").rpartition("/")[2]
    title = " · ".join(filter(None, (sample["category"], sample["defect"], name)))
    try:
        image, levels = joined.read(index)
        window = windows.get(panels.kind_of(image, levels), levels)
        drawn, truth = panels.ground(image, replace(look, window=window)), joined.mask(index)
    except InputError as error:
        return f'<figure style="margin:0;max-width:{SIDE}px"><figcaption>{escape(str(error))}</figcaption></figure>'
    pictures = [_picture(panels.image_panel(drawn, truth, look), title, "image")]
    for method, decision in enumerate(decisions.of(index)):
        scores, outcome = joined.map(index, method), decision.outcome
        frame, scale = joined.frame(method, index), decision.scale or (0, 1)
        panel = panels.method_panel(drawn, truth, scores, frame, scale, np.inf, look)
        said = f"{joined.names[method]}: {decision.score:.4g}, {OUTCOMES[outcome]} ({outcome})"
        pictures.append(_picture(panel, f"{title}, {said}", said))
    return (
        f'<figure style="margin:0;max-width:100%"><figcaption style="font-size:.8em;font-weight:600">{escape(title)}'
        f'</figcaption><div style="display:flex;flex-wrap:wrap;gap:4px">{"".join(pictures)}</div></figure>'
    )


def _picture(panel: np.ndarray, alt: str, caption: str) -> str:
    data = base64.b64encode(render.jpeg(panel, 80)).decode()
    height, width = panel.shape[:2]
    return (
        f'<div style="width:{SIDE}px;font-size:.75em;line-height:1.3"><img src="data:image/jpeg;base64,{data}" '
        f'width="{width}" height="{height}" style="display:block" alt="{escape(alt)}">{escape(caption)}</div>'
    )
