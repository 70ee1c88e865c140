"""Settings: what a paper's protocol makes of a method's parameters, and whether what runs is what the paper says.

`methods` in paper.yaml has for each method, and under `every` for all of them, four fields, parameter by parameter:
states    what the paper states, and where
chosen    what runs where the paper is silent, or says no more than a range, and why
deviates  what runs instead of what the paper states, and why
cannot    what the paper states and no parameter of ours expresses, and why it is left
An entry has `value`, or of a statement `at_most`, or `between` two bounds (included); `categories`, `datasets` or
`methods` if it holds for those alone. `share_of: epochs` says that the paper counts what we give as a share of
`epochs`. `of: 256` says that a crop is of a picture of 256 pixels, whatever size it is resized to. A parameter with
several entries has a list of them.

Parameters are the method's, size, crop, sides and resize of the images, train_limit and the like (adlib.training_set),
and `input`, the side of the pictures that the method sees.
"""

from collections.abc import Container, Iterator
from copy import deepcopy

from adlib.errors import InputError
from adlib.papers import shared_protocol

RUN = ("states", "chosen", "deviates")  # the fields that say what runs, the later ones first
FIELDS = (*RUN, "cannot")
EVERY = "every"


def entries(paper: str, method: str, field: str, dataset: str = "", category: str = "") -> Iterator[tuple[str, dict]]:
    """(parameter, entry) of one of the FIELDS, for a method on a dataset's category; those of `every` first."""
    methods = _methods(paper)
    for name in (EVERY, method):
        for parameter, found in methods.get(name, {}).get(field, {}).items():
            for entry in found if isinstance(found, list) else [found]:
                if method not in entry.get("methods", [method]):
                    continue
                if dataset in entry.get("datasets", [dataset]) and category in entry.get("categories", [category]):
                    yield parameter, entry


def _methods(paper: str) -> dict:
    found = shared_protocol(paper)
    if "settings" in found:
        raise InputError(f"paper.yaml of {paper} has `settings`: write them as `methods`, see adlib.papers.settings.")
    return found.get("methods", {})


def settings(paper: str, method: str, dataset: str = "", category: str = "") -> dict:
    """What the paper's runs of a method set, by parameter: what it states, what is chosen, what deviates.

    category: "" for a run on all categories together.
    """
    found, shares = {}, {}
    for field in RUN:
        for parameter, entry in entries(paper, method, field, dataset, category):
            if parameter != "input" and "value" in entry and "of" not in entry:
                found[parameter] = entry["value"]
                shares[parameter] = entry.get("share_of")
    chosen = {
        parameter: _over(value, found[shares[parameter]]) if shares[parameter] else value
        for parameter, value in found.items()
    }
    return deepcopy(chosen)


def _over(value, whole: int):
    """What the paper counts, as the shares that a parameter takes."""
    return [part / whole for part in value] if isinstance(value, list) else value / whole


def contradictions(
    paper: str, method: str, dataset: str, category: str, runs: dict, row: Container[str] = ()
) -> list[str]:
    """A sentence for every statement, choice or deviation of the protocol that is not what runs; [] if all are.

    runs: parameter -> value of the detector and its images that would run (`Run.quantities`). row: parameters that the
    row of a table sets by itself (an ablation), which may run otherwise than the whole method.
    """
    here = {field: list(entries(paper, method, field, dataset, category)) for field in FIELDS}
    deviations = {parameter for parameter, _ in here["deviates"]}
    exact = {parameter for parameter, entry in here["states"] if "value" in entry and "of" not in entry}
    found = []
    for field in RUN:
        for parameter, entry in here[field]:
            if parameter not in runs:
                found.append(f"{method} has no parameter {parameter}, which the paper {field}")
            elif field == "states" and parameter in deviations:
                if agrees(entry, parameter, runs):
                    found.append(f"{method}: {parameter} is said to deviate, but runs as stated")
            elif parameter not in row and not agrees(entry, parameter, runs):
                found.append(f"{method}: {parameter} runs as {runs[parameter]!r}, but {field} {described(entry)}")
            elif field == "chosen" and parameter in exact:
                found.append(f"{method}: {parameter} is chosen, though the paper states it")
    found += [f"{method} has a parameter {parameter}" for parameter, _ in here["cannot"] if parameter in runs]
    missing = deviations - {parameter for parameter, _ in here["states"]}
    return found + [f"{method}: {parameter} deviates from nothing that is stated" for parameter in sorted(missing)]


def agrees(entry: dict, parameter: str, runs: dict) -> bool:
    """Whether what runs is what an entry says."""
    value = runs[parameter]
    if "of" in entry:  # the crop, in pixels of the picture before it was resized
        sides = runs["size"] if isinstance(runs["size"], list | tuple) else (runs["size"],)
        value = (
            None if value is None else round(entry["of"] * (value if isinstance(value, int) else value[0]) / sides[0])
        )
    elif "share_of" in entry:
        whole = runs[entry["share_of"]]
        value = [round(part * whole) for part in value] if isinstance(value, list | tuple) else round(value * whole)
    if "at_most" in entry:
        return value <= entry["at_most"]
    if "between" in entry:
        low, high = entry["between"]
        return low <= value <= high
    return _plain(value) == _plain(entry["value"])


def _plain(value):
    """A value as it compares: pairs are lists in YAML and tuples in Python."""
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def described(entry: dict) -> str:
    """ "160", "at most 160", "1.25e-05 to 5e-05", "224 of 256"; and for which categories, where not for all."""
    if "at_most" in entry:
        text = f"at most {_shown(entry['at_most'])}"
    elif "between" in entry:
        text = " to ".join(map(_shown, entry["between"]))
    else:
        text = _shown(entry["value"]) + (f" of {entry['of']}" if "of" in entry else "")
    text += f" {entry['share_of']}" if "share_of" in entry else ""
    places = [*entry.get("datasets", []), *entry.get("categories", [])]
    return text + (f" on {', '.join(places)}" if places else "")


def _shown(value) -> str:
    if isinstance(value, list | tuple):
        return " and ".join(map(_shown, value))
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def footnotes(paper: str, method: str) -> list[str]:
    """What a reader of a method's column must know: where its runs deviate from the paper, and why."""
    methods, stated = _methods(paper), {}
    listed = {
        field: [
            (parameter, entry)
            for name in (EVERY, method)
            for parameter, entry in _listed(methods.get(name, {}).get(field, {}))
            if method in entry.get("methods", [method])
        ]
        for field in FIELDS
    }
    for parameter, entry in listed["states"]:
        stated.setdefault(parameter, described(entry))
    texts = []
    for parameter, entry in listed["deviates"]:
        texts.append(f"{parameter} {described(entry)}, where the paper states {stated[parameter]}: {entry['why']}.")
    for parameter, entry in listed["cannot"]:
        texts.append(f"{parameter} {described(entry)} ({entry['where']}) is not run: {entry['why']}.")
    return texts


def _listed(field: dict) -> list[tuple[str, dict]]:
    return [
        (parameter, entry)
        for parameter, found in field.items()
        for entry in (found if isinstance(found, list) else [found])
    ]


def choices(paper: str) -> list[dict]:
    """Every entry of a protocol as one row: method, field, parameter, value (a text), source (where it stands, or why).

    method is "every" for what holds for all of them.
    """
    return [
        {
            "method": method,
            "field": field,
            "parameter": parameter,
            "value": described(entry),
            "source": entry.get("where") or entry.get("why"),
        }
        for method, fields in _methods(paper).items()
        for field in FIELDS
        for parameter, entry in _listed(fields.get(field, {}))
    ]
