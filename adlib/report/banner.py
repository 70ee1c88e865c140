"""The banner that stands in red above results that must not be taken for more than they are."""

from collections.abc import Iterable
from html import escape

from IPython.display import HTML


def banner(warnings: Iterable[str]) -> HTML:
    """A red box with the distinct warnings ("" is none), or one plain line without any. Styles are inline: it looks
    the same in JupyterLab, in the HTML report and on paper.
    """
    texts = list(dict.fromkeys(filter(None, warnings)))
    if not texts:
        return HTML('<p class="adlib-clear">Real data, trained weights.</p>')
    style = (
        "background:#b00020;color:#fff;padding:.6em 1em;border-radius:4px;font-weight:600;"
        "-webkit-print-color-adjust:exact;print-color-adjust:exact"
    )
    lines = "<br>".join(escape(text) for text in texts)
    return HTML(f'<div class="adlib-warning" role="alert" style="{style}">{lines}</div>')
