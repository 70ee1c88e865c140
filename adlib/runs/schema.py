"""The form of what is read back from disk, declared once: the record of a run, and the plan of a paper.

A file that does not fit is damaged: it is named with the reason, no report stops at it, and its run is done again.
Fields that are not named here are let through, for a later adlib may add some; those of `run` are not, because they
are the run's identity.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import fields as fields_of

from adlib.runs.run import Run

VERSION = 1  # of the record's form; a record without one was written before versions were, in the form of version 1
STATUSES = ("finished", "failed")
KEY = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Kind:
    """What a field may hold: name, for the sentence; whether a value is of it."""

    name: str
    holds: Callable[[object], bool]


def _number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mapping(of: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, dict) and all(map(of, value.values()))


def _listing(of: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(map(of, value))


def _optional_number(value) -> bool:
    return value is None or _number(value)


def _metrics(value) -> bool:
    """Numbers or null by name; those that are shares lie between 0 and 1."""
    return _mapping(_optional_number)(value) and all(
        0 <= number <= 1 for name, number in value.items() if number is not None and _is_share(name)
    )


def _is_share(name: str) -> bool:
    return name.startswith(("image_", "pixel_", "aupro")) and "threshold" not in name and name != "aupro_regions"


def _part(value) -> bool:
    """Metrics of one category or sub-class, and their intervals."""
    if not isinstance(value, dict):
        return False
    intervals = value.get("intervals", {})
    return _metrics({name: number for name, number in value.items() if name != "intervals"}) and _intervals(intervals)


def _whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _interval(value) -> bool:
    """Numbers or null by name, and the reason why there is none."""
    return isinstance(value, dict) and all(
        isinstance(number, str) if name == "reason" else _optional_number(number) for name, number in value.items()
    )


_intervals = _mapping(_interval)

TEXT = Kind("a text", lambda value: isinstance(value, str))
TEXTS = Kind("a list of texts", _listing(lambda value: isinstance(value, str)))
WHOLE = Kind("a whole number", _whole)
YES_NO = Kind("true or false", lambda value: isinstance(value, bool))
YES_NO_UNKNOWN = Kind("true, false or null", lambda value: value is None or isinstance(value, bool))
NUMBER_OR_NULL = Kind("a number or null", _optional_number)
NUMBERS = Kind("numbers by name", _mapping(_number))
SIZES = Kind("sizes by name", _mapping(_whole))
METRICS = Kind("numbers or null by name, shares between 0 and 1", _metrics)
INTERVALS = Kind("intervals by metric", _intervals)
PARTS = Kind("metrics by name of the part", _mapping(_part))
BASELINES = Kind("metrics by baseline, by category", _mapping(_mapping(_metrics)))
COUNTS = Kind("numbers of images by category", _mapping(_mapping(_whole)))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
OBJECT_OR_NULL = Kind("an object or null", lambda value: value is None or isinstance(value, dict))
OBJECTS = Kind("a list of objects", _listing(lambda value: isinstance(value, dict)))
TEXTS_BY_NAME = Kind("texts by name", _mapping(lambda value: isinstance(value, str)))
STATUS = Kind(" or ".join(STATUSES), lambda value: value in STATUSES)
RUN_KEY = Kind("16 hexadecimal digits", lambda value: isinstance(value, str) and KEY.fullmatch(value) is not None)
RUN_KEY_OR_NONE = Kind("16 hexadecimal digits or empty", lambda value: value == "" or RUN_KEY.holds(value))

# field -> (what it holds, which records must have it)
RECORD = {
    "status": (STATUS, STATUSES),
    "key": (RUN_KEY, STATUSES),
    "run": (OBJECT, STATUSES),
    "ended": (TEXT, STATUSES),
    "parameters": (OBJECT, ("finished",)),
    "images": (OBJECT, ("finished",)),
    "data": (OBJECT, ("finished",)),
    "warnings": (TEXTS, ("finished",)),
    "metrics": (METRICS, ("finished",)),
    "seconds": (NUMBERS, ("finished",)),
    "environment": (OBJECT, ("finished",)),
    "code": (OBJECT, ("finished",)),
    "kind": (TEXT, ("failed",)),
    "reason": (TEXT, ("failed",)),
    "version": (WHOLE, ()),
    "weights": (OBJECT_OR_NULL, ()),
    "choices": (OBJECT, ()),
    "reasons": (TEXTS_BY_NAME, ()),
    "intervals": (INTERVALS, ()),
    "ground_truth": (SIZES, ()),
    "oracle": (METRICS, ()),
    "baselines": (BASELINES, ()),
    "categories": (PARTS, ()),
    "groups": (PARTS, ()),
    "resumed": (YES_NO, ()),
    "resumed_from": (OBJECTS, ()),
    "shared": (OBJECT, ()),
    "peak_memory_mib": (NUMBER_OR_NULL, ()),
    "peak_gpu_memory_mib": (NUMBER_OR_NULL, ()),
    "started": (TEXT, ()),
    "attempts": (OBJECTS, ()),
    "files": (SIZES, ()),
    "sha256": (TEXTS_BY_NAME, ()),
    "checksum": (TEXT, ()),
}
RUN = {
    "dataset": (TEXT, STATUSES),
    "root": (TEXT, STATUSES),
    "method": (TEXT, STATUSES),
    "category": (TEXT, STATUSES),
    "settings": (OBJECT, STATUSES),
    "seed": (WHOLE, STATUSES),
    "device": (TEXT, ()),
}
DATA = {"fingerprint": (TEXT, STATUSES), "phantom": (OBJECT_OR_NULL, STATUSES), "counts": (COUNTS, ())}
DATA |= {"scored": (TEXTS_BY_NAME, ())}  # fingerprints of the images that were scored, and of their masks
CODE = {"version": (TEXT, ()), "commit": (TEXT, ()), "dirty": (YES_NO_UNKNOWN, ()), "unknown": (TEXT, ())}
CODE |= {"changes": (TEXT, ()), "packages": (TEXTS_BY_NAME, ())}  # which uncommitted ones; what gave method or data set
PLAN = {"cells": (OBJECTS, STATUSES)} | {name: (TEXT, ()) for name in ("paper", "profile", "data", "difficulty")}
CELL = {name: (TEXT, STATUSES) for name in ("table", "method", "dataset", "category", "setting", "missing")}
CELL |= {"paper": (TEXT, ()), "seed": (WHOLE, STATUSES), "key": (RUN_KEY_OR_NONE, STATUSES)}


def record_problem(record: object, key: str) -> str:
    """Why something read from the folder of a run is not its record, in a few words; "" for a record."""
    if not isinstance(record, dict):
        return "it is no object"
    version = record.get("version", VERSION)
    if _whole(version) and version != VERSION:
        age = "a newer" if version > VERSION else "an older"
        return f"it is of {age} version of the form, {version}, and this adlib reads {VERSION}"
    status = record.get("status")
    if status not in STATUSES:
        return f"its status is not {STATUS.name}"
    return (
        _problem(record, RECORD, status, "")
        or _problem(record["run"], RUN, status, "run: ")
        or _unknown(record["run"])
        or _problem(record.get("data", {}), DATA, "" if status == "failed" else status, "data: ")
        or _problem(record.get("code", {}), CODE, status, "code: ")
        or ("" if record["key"] == key else f"it is of the run {record['key']}")
        or ("" if record.get("checksum", checksum(record)) == checksum(record) else "it was changed after the run")
    )


def checksum(record: dict) -> str:
    """SHA-256 of a record, of all but its own field `checksum`; the same however the JSON is laid out."""
    content = {name: value for name, value in record.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def plan_problem(plan: object) -> str:
    """Why something is not the plan of a paper, in a few words; "" for a plan."""
    if not isinstance(plan, dict):
        return "it is no object"
    return _problem(plan, PLAN, STATUSES[0], "") or next(
        filter(
            None,
            (_problem(cell, CELL, STATUSES[0], f"cell {number}: ") for number, cell in enumerate(plan["cells"], 1)),
        ),
        "",
    )


def _problem(values: dict, form: dict, status: str, place: str) -> str:
    for name, (kind, required) in form.items():
        if name not in values:
            if status in required:
                return f"{place}{name} is missing"
        elif not kind.holds(values[name]):
            return f"{place}{name} is not {kind.name}"
    return ""


def _unknown(run: dict) -> str:
    unknown = sorted(set(run) - {field.name for field in fields_of(Run)})
    return f"run: {unknown[0]} is unknown to this adlib" if unknown else ""
