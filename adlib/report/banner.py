"""The banner that stands in red above results that must not be taken for more than they are."""

import re
from collections import Counter
from collections.abc import Iterable
from html import escape

from IPython.display import HTML

STYLE = (
    "background:#b00020;color:#fff;padding:.6em 1em;border-radius:4px;font-weight:600;"
    "-webkit-print-color-adjust:exact;print-color-adjust:exact"
)
HEADS_SHOWN, LONGEST_HEAD = 3, 40  # in the one line; letters of a statement before its colon
FEW_WORDS = 8  # shorter statements that differ in a word are different ones
NUMBER = re.compile(r"[(\[]*[+-]?\d[\d.,]*%?[)\].,;:]*")  # a word that is one, with what stands around it


def banner(warnings: Iterable[str], clear: str = "Real data, trained weights.") -> HTML:
    """A red box with the distinct warnings ("" is none), or `clear` as a plain line without any. Styles are inline: it
    looks the same in JupyterLab, in the HTML report and on paper.

    warnings: of one run or of many. Several take one line that names them, and a fold with their sentences. One that
    several runs have says of how many; those that differ in one word alone (the name of a data set) are one statement,
    but not those that differ in a number: each is of its own run.
    """
    statements = _statements(filter(None, warnings))
    if not statements:
        return HTML(f'<p class="adlib-clear">{escape(clear)}</p>')
    lines = "<br>".join(
        escape(text) + (f' <span style="font-weight:400">({count} runs)</span>' if count > 1 else "")
        for text, count in statements
    )
    if len(statements) > 1:
        lines = f"<details><summary>{escape(_headline([text for text, _ in statements]))}</summary>{lines}</details>"
    return HTML(f'<div class="adlib-warning" role="alert" style="{STYLE}">{lines}</div>')


def _headline(texts: list[str]) -> str:
    """What several statements are about, in a line: "Phantom data, bundled weights and 3 more: ..."."""
    heads = [head.rstrip(".") for head in (text.partition(":")[0] for text in texts) if len(head) <= LONGEST_HEAD]
    heads = list(dict.fromkeys(heads[:HEADS_SHOWN]))
    others = len(texts) - len(heads)
    named = ", ".join([heads[0], *(head[0].lower() + head[1:] for head in heads[1:])]) if heads else ""
    more = f"{' and ' if heads else ''}{others} {'more' if heads else 'warnings'}" if others else ""
    return f"{named}{more}: read before the numbers"


def _statements(warnings: Iterable[str]) -> list[tuple[str, int]]:
    """Each distinct statement with how often it is made, in the order of the first ones."""
    groups: list[dict] = []
    for text, count in Counter(warnings).items():
        words = text.split()
        for group in groups:
            place = _only_difference(group["words"], words)
            if place is not None and group["place"] in (None, place):
                group["place"], group["count"] = place, group["count"] + count
                group["variants"].append(words[place])
                break
        else:
            groups.append({"words": words, "place": None, "variants": [], "count": count})
    for group in groups:
        if group["variants"]:
            first, *others = group["words"][group["place"]], *group["variants"]
            named = sorted(word.rstrip(".,;:") for word in (first, *others))
            group["words"][group["place"]] = ", ".join(named) + first[len(first.rstrip(".,;:")) :]
    return [(" ".join(group["words"]), group["count"]) for group in groups]


def _only_difference(first: list[str], second: list[str]) -> int | None:
    """The place of the one word in which two sentences differ; None if they differ otherwise, in a number too, or have
    few words.
    """
    if len(first) != len(second) or len(first) < FEW_WORDS:
        return None
    places = [place for place, (one, other) in enumerate(zip(first, second, strict=True)) if one != other]
    if len(places) != 1 or any(NUMBER.fullmatch(words[places[0]]) for words in (first, second)):
        return None
    return places[0]
