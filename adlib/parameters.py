"""Parameters of a method: what the annotations of its constructor allow, checked and stored when it is made.

    def __init__(self, epochs: Count = 30, stages: Stages = (1, 2, 3), smoothing: NotNegative = 4.0,
                 image_score: Literal["smoothed", "raw"] = "smoothed", memory: str | None = None): ...

`Detector` has every constructor call `take`: each argument becomes an attribute of its own name, of the annotated type.
What the annotations cannot say, such as that one parameter divides another, the constructor's body checks.
"""

import inspect
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from adlib.errors import InputError, did_you_mean

LONGEST_SHOWN = 300  # characters of a value in a sentence


@dataclass(frozen=True)
class Range:
    """The numbers from low to high; `above` and `below` exclude these two themselves. odd, multiple: only such ones."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    odd: bool = False
    multiple: int = 1

    def __contains__(self, value: float) -> bool:
        inside = self.low <= value <= self.high and value != (self.low if self.above else None)
        fits = value != (self.high if self.below else None) and not (self.odd and value % 2 == 0)
        return inside and fits and (self.multiple == 1 or value % self.multiple == 0)

    def __str__(self) -> str:
        if self.high < math.inf:
            return f" in {'(' if self.above else '['}{self.low}, {self.high}{')' if self.below else ']'}"
        return "" if self.low == -math.inf else f" above {self.low}" if self.above else f" of at least {self.low}"


@dataclass(frozen=True)
class Some:
    """A tuple that must not be empty. distinct: nor have an entry twice. ascending: it is put into that order."""

    distinct: bool = False
    ascending: bool = False


LARGEST_SIDE = 32768  # pixels of an image's side
Side = Annotated[int, Range(1, LARGEST_SIDE)]
Whole = Annotated[int, Range(0)]
Count = Annotated[int, Range(1)]
Odd = Annotated[int, Range(1, odd=True)]
Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
ShareBelowOne = Annotated[float, Range(0, 1, below=True)]
ShareAboveZero = Annotated[float, Range(0, 1, above=True)]
Stages = Annotated[tuple[Whole, ...], Some(distinct=True, ascending=True)]  # as a network gives them


def keeping(constructor: Callable) -> Callable:
    """The constructor of a detector, which first checks and stores its arguments, and then runs with them."""
    signature = inspect.signature(constructor)

    @wraps(constructor)
    def take(self, *args, **kwargs):
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        hints = _hints(constructor)
        for name, parameter in list(signature.parameters.items())[1:]:
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                bound.arguments[name] = checked(name, bound.arguments[name], hints.get(name, Any))
                setattr(self, name, bound.arguments[name])
        constructor(*bound.args, **bound.kwargs)

    return take


@cache
def _hints(constructor: Callable) -> dict[str, Any]:
    try:
        return get_type_hints(constructor, include_extras=True)
    except NameError:  # of a plug-in, whose annotations may exist for type checkers alone
        return {}


def checked(name: str, value: Any, kind: Any) -> Any:
    """The value as an annotation wants it: 2.0 as the whole number 2, [1, 2] as a tuple, a Path as text.

    kind: int, float, str, bool, None, Literal, tuple, dict, unions of these, and Annotated ones with a Range or Some;
        whatever else it is allows everything.
    Raises InputError with the parameter's name, the value received and what is allowed.
    """
    try:
        return _converted(value, kind)
    except ValueError:
        near = did_you_mean(value, _words(kind)) if isinstance(value, str) else ""
        raise InputError(f"{name}={_shown(value)} must be {allowed(kind)}.{near}") from None


def _shown(value: Any) -> str:
    """A value in a sentence: cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # thousands of digits, which Python does not write out
        return "a number of thousands of digits"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _words(kind: Any) -> list[str]:
    """The words that an annotation allows."""
    if get_origin(kind) is Literal:
        return [one for one in get_args(kind) if isinstance(one, str)]
    return [word for part in get_args(kind) if get_origin(kind) is not None for word in _words(part)]


def _converted(value: Any, kind: Any) -> Any:
    """The value as a kind, or ValueError."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        value = _converted(value, parts[0])
        for bound in parts[1:]:
            if isinstance(bound, Range) and value not in bound:
                raise ValueError
            if isinstance(bound, Some) and (not value or (bound.distinct and len(set(value)) < len(value))):
                raise ValueError
            if isinstance(bound, Some) and bound.ascending:
                value = tuple(sorted(value))
        return value
    if origin in (Union, UnionType):
        return _first(value, parts)
    if origin is Literal:
        return value if any(type(one) is type(value) and one == value for one in parts) else _refuse()
    if origin is tuple:
        return _converted_tuple(value, parts)
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError
        return {str(key): _converted(one, parts[1]) for key, one in value.items()}  # a category may be named 01
    if kind in _CONVERTERS:
        return _CONVERTERS[kind](value)
    return value


def _first(value: Any, kinds: tuple) -> Any:
    for kind in kinds:
        try:
            return _converted(value, kind)
        except ValueError:
            continue
    raise ValueError


def _converted_tuple(value: Any, parts: tuple) -> tuple:
    several = len(parts) == 2 and parts[1] is Ellipsis
    if several and isinstance(value, str | numbers.Number):
        value = (value,)
    if not isinstance(value, list | tuple) or not (several or len(value) == len(parts)):
        raise ValueError
    return tuple(_converted(one, parts[0 if several else place]) for place, one in enumerate(value))


def _refuse() -> Any:
    raise ValueError


def _whole(value: Any) -> int:
    if not _number(value).is_integer():
        raise ValueError
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError
    try:
        number = float(value)
    except OverflowError as error:  # a whole number beyond the largest float
        raise ValueError from error
    return number if math.isfinite(number) else _refuse()


_CONVERTERS = {
    int: _whole,
    float: _number,
    bool: lambda value: value if isinstance(value, bool) else _refuse(),
    str: lambda value: str(value) if isinstance(value, str | Path) else _refuse(),
    NoneType: lambda value: value if value is None else _refuse(),
}
_NAMES = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", NoneType: "None"}


def allowed(kind: Any) -> str:
    """What an annotation allows, in words: "a whole number of at least 1 or None"."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        text = allowed(parts[0])
        for bound in parts[1:]:
            if isinstance(bound, Range):
                text = text.replace("a whole number", "an odd number") if bound.odd else text
                text = text.replace("a whole number", f"a multiple of {bound.multiple}") if bound.multiple > 1 else text
                text += str(bound)
            if isinstance(bound, Some):
                text = text.replace("a list", "a list of different entries" if bound.distinct else "a list", 1)
                text = text.replace(", each", ", at least one, each", 1)
        return text
    if origin in (Union, UnionType):
        return " or ".join(allowed(part) for part in parts)
    if origin is Literal:
        texts = [repr(part) for part in parts]
        return " or ".join(texts) if len(texts) < 3 else f"one of {', '.join(texts)}"
    if origin is tuple:
        if parts[1:] == (Ellipsis,):
            return f"a list, each {allowed(parts[0])}"
        return f"a list of {len(parts)}, each {allowed(parts[0])}"
    if origin is dict:
        return f"a dictionary from {allowed(parts[0])} to {allowed(parts[1])}"
    return _NAMES.get(kind, "of another kind")
