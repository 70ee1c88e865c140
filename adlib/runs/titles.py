"""Titles: what runs are called, so that those of one name are told apart by what differs in them.

One rule for the progress log, `adlib runs`, the report's lists and the inspector: a label names the settings in which
runs differ, as far as the run sets them itself; "default settings" is the run that sets none of them.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath

DEFAULT = "default settings"
KEY_DIGITS = 6  # of a run's key, where nothing else tells it from another


def titled(name: str, settings: Mapping) -> str:
    """ "name (size 128, crop none)"; the name alone without settings."""
    return _bracketed(name, ", ".join(f"{setting} {shown(value)}" for setting, value in settings.items()))


def shown(value) -> str:
    """A setting's value in a title: 0.1, none, 2 3."""
    if isinstance(value, list | tuple):
        return " ".join(map(shown, value))
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def distinct_titles(runs: Iterable) -> list[str]:
    """Of each Run its name, and where several have the same, what tells them apart. Loads the methods of these.

    Two runs that are equal in all of that have the same title.
    """
    runs = list(runs)
    alike = Counter(run.name for run in runs)
    usual = [run.usual_settings if alike[run.name] > 1 else {} for run in runs]
    data = [run.__dict__.get("fingerprint", run.root) for run in runs]
    parts = [
        {"settings": run.settings, "full": values, "data": found, "root": run.root}
        for run, values, found in zip(runs, usual, data, strict=True)
    ]
    return _bracketed_all([run.name for run in runs], parts)


def stored_titles(records: Sequence[Mapping]) -> list[str]:
    """As `distinct_titles`, of records of runs that have ended; no two are the same, and no method is loaded.

    Where nothing else tells two runs apart (other weights, say), the beginning of their keys does.
    """
    titles = _bracketed_all([_name(record["run"]) for record in records], [_parts(record) for record in records])
    return _with_keys(titles, [record["key"] for record in records])


def told_apart(records: Sequence[Mapping]) -> list[str]:
    """What tells each of several stored runs of one method from the others: "seed 1, coreset_ratio 0.5"; "" for one."""
    seeds = [record["run"]["seed"] for record in records]
    settings = _tell([_parts(record) for record in records])
    if len(set(seeds)) > 1:
        settings = [
            f"seed {seed}" + (f", {text}" if text and text != DEFAULT else "")
            for seed, text in zip(seeds, settings, strict=True)
        ]
    return _with_keys(settings, [record["key"] for record in records])


def run_name(method: str, dataset: str, category: str, seed: int) -> str:
    """ "patchcore on cxr_ad/UB, seed 0": what runs that differ only in settings have in common."""
    return f"{method} on {f'{dataset}/{category}' if category else dataset}, seed {seed}"


def distinct_tails(paths: Sequence[str]) -> list[str]:
    """Of each path as many of its last parts as tell it from every other one: "a/parts" and "b/parts"."""
    split = {path: PurePath(path).parts for path in paths}

    def tail(path: str) -> str:
        for length in range(1, len(split[path])):
            end = split[path][-length:]
            if all(other == path or parts[-length:] != end for other, parts in split.items()):
                return "/".join(end)
        return path

    return [tail(path) for path in paths]


def _name(run: Mapping) -> str:
    return run_name(run["method"], run["dataset"], run["category"], run["seed"])


def _parts(record: Mapping) -> dict:
    """What may tell a stored run from others: what it set, all its parameters, its data and where they lay."""
    run = record["run"]
    images = {name: _square(value) for name, value in record.get("images", {}).items()}
    full = dict(record.get("parameters", {})) | images
    data = record.get("data", {}).get("fingerprint", run["root"])
    return {"settings": run["settings"], "full": full, "data": data, "root": run["root"]}


def _square(value):
    """A size as settings give it: 64 for [64, 64]."""
    return value[0] if isinstance(value, list) and len(value) == 2 and value[0] == value[1] else value


def _bracketed_all(names: list[str], parts: list[dict]) -> list[str]:
    alike = defaultdict(list)
    for at, name in enumerate(names):
        alike[name].append(at)
    titles = list(names)
    for name, places in alike.items():
        for at, text in zip(places, _tell([parts[at] for at in places]), strict=True):
            titles[at] = _bracketed(name, text)
    return titles


def _bracketed(name: str, text: str) -> str:
    return f"{name} ({text})" if text else name


def _tell(parts: list[dict]) -> list[str]:
    """What differs among runs of one name; "" where nothing does."""
    parameters = {name for one in parts for name in one["full"]}
    # An option of the data or of the training set that is None is not set; a parameter may well be None.
    chosen = [
        {name: value for name, value in one["settings"].items() if value is not None or name in parameters}
        for one in parts
    ]
    listed: list[list[tuple[int, str]]] = [[] for _ in parts]  # how many runs share it, and what it is
    differs = False
    for name in dict.fromkeys([*(name for own in chosen for name in own), *sorted(parameters)]):
        values = [
            shown((own if name in own else one["full"])[name]) if name in own or name in one["full"] else None
            for own, one in zip(chosen, parts, strict=True)
        ]
        known = set(values) - {None}
        unknown_default = None in values and any(name in own for own in chosen)
        if len(known) < 2 and not (known and unknown_default):
            continue
        differs = True
        left_out = {value for value, own in zip(values, chosen, strict=True) if name not in own} - {None}
        default = left_out.pop() if len(left_out) == 1 else None
        texts = values
        if any("/" in value for value in known):  # files of weights, say
            texts = distinct_tails([value or "" for value in values])
        for line, value, text in zip(listed, values, texts, strict=True):
            if value not in (None, default):
                line.append((values.count(value), f"{name} {text}"))
    roots = [one["root"] for one in parts]
    if len({one["data"] for one in parts}) > 1 and len(set(roots)) > 1:
        differs = True
        listed = [[(0, f"data {tail}"), *line] for line, tail in zip(listed, distinct_tails(roots), strict=True)]
    # What is rarest stands first: where there is room for the beginning alone, that tells most.
    texts = [", ".join(text for _, text in sorted(line, key=lambda each: each[0])) for line in listed]
    return [text or (DEFAULT if differs else "") for text in texts]


def _with_keys(texts: list[str], keys: list[str]) -> list[str]:
    """The texts, those that are the same with the beginning of their run's key."""
    alike = Counter(texts)
    return [
        text if alike[text] < 2 else f"{text}{', ' * bool(text)}run {key[:KEY_DIGITS]}"
        for text, key in zip(texts, keys, strict=True)
    ]
