"""What parameters may be: kinds, ranges, and the sentence that names parameter, value and what is allowed."""

import inspect
import math
from pathlib import Path
from typing import Annotated, Literal, get_args, get_type_hints

import numpy as np
import pytest

from adlib import InputError, create_model, list_models
from adlib.detector import Detector
from adlib.models import model_class
from adlib.parameters import Count, NotNegative, Odd, Range, Share, ShareBelowOne, Some, Stages, Whole, checked


@pytest.mark.parametrize(
    ("kind", "given", "taken"),
    [
        (Count, 3.0, 3),
        (Count, np.int64(3), 3),
        (NotNegative, 2, 2.0),
        (str, Path("weights.safetensors"), "weights.safetensors"),
        (Stages, [1, 2.0], (1, 2)),
        (Stages, 2, (2,)),
        (Stages, (3, 1, 2), (1, 2, 3)),
        (tuple[str, ...], "visa", ("visa",)),
        (Whole | None, None, None),
        (str | dict[str, str] | None, {1: "part"}, {"1": "part"}),
        (Literal["a", 1], 1, 1),
    ],
)
def test_a_value_is_taken_as_its_kind(kind, given, taken):
    value = checked("name", given, kind)
    assert value == taken and type(value) is type(taken)


@pytest.mark.parametrize(
    ("kind", "value", "allowed"),
    [
        (Count, 0, "a whole number of at least 1"),
        (Count, 1.5, "a whole number of at least 1"),
        (Count, True, "a whole number of at least 1"),
        (Count, "3", "a whole number of at least 1"),
        (Count | None, -1, "a whole number of at least 1 or None"),
        (Odd, 4, "an odd number of at least 1"),
        (Annotated[int, Range(64, multiple=64)], 65, "a multiple of 64 of at least 64"),
        (NotNegative, math.nan, "a number of at least 0"),
        (NotNegative, math.inf, "a number of at least 0"),
        (NotNegative, None, "a number of at least 0"),
        (Share, 1.01, "a number in [0, 1]"),
        (ShareBelowOne, 1, "a number in [0, 1)"),
        (bool, 1, "True or False"),
        (str, 18, "a text"),
        (Literal["mean", "max"], "sum", "'mean' or 'max'"),
        (Literal[1, 3], True, "1 or 3"),
        (Stages, (), "a list of different entries, at least one, each a whole number of at least 0"),
        (Stages, (1, 1), "a list of different entries, at least one, each a whole number of at least 0"),
        (Stages, "ab", "a list of different entries, at least one, each a whole number of at least 0"),
        (tuple[Share, Share], (0.1,), "a list of 2, each a number in [0, 1]"),
        (Annotated[tuple[Count, ...], Some()], [0], "a list, at least one, each a whole number of at least 1"),
        (dict[str, str] | None, "x", "a dictionary from a text to a text or None"),
    ],
)
def test_another_value_is_refused_with_what_is_allowed(kind, value, allowed):
    with pytest.raises(InputError) as raised:
        checked("name", value, kind)
    assert str(raised.value) == f"name={value!r} must be {allowed}."


@pytest.mark.parametrize(("digits", "shown"), [(400, f"1{'0' * 299}..."), (5000, "a number of thousands of digits")])
def test_a_number_beyond_all_bounds_is_refused_in_a_short_sentence(digits, shown):
    value = 10**digits
    for kind, allowed in ((Count, "a whole number of at least 1"), (NotNegative, "a number of at least 0")):
        with pytest.raises(InputError) as raised:
            checked("name", value, kind)
        assert str(raised.value) == f"name={shown} must be {allowed}."


def bounded(kind) -> bool:
    """Whether an annotation says more than int or float."""
    return not {int, float} & {kind, *get_args(kind)} or hasattr(kind, "__metadata__")


@pytest.mark.parametrize("name", list_models())
def test_every_number_of_a_method_has_its_range(name):
    hints = get_type_hints(model_class(name).__init__, include_extras=True)
    parameters = list(inspect.signature(model_class(name).__init__).parameters)[1:]
    assert [one for one in parameters if one not in hints] == []
    free = {"threshold"}  # of Perlin noise, which has either sign
    assert [one for one in parameters if not bounded(hints[one]) and one not in free] == []


@pytest.mark.parametrize("name", list_models())
def test_no_method_takes_what_is_no_value_of_its_parameters(name):
    """A text and a list for every number, a number for every text, and NaN: none goes unnoticed."""
    for parameter, default in create_model(name).parameters.items():
        wrong = {str: [18, ["a"]], bool: [1, "yes"], int: ["fast", 1.5, -7], float: ["fast", math.nan, math.inf]}
        for value in wrong.get(type(default), []):
            with pytest.raises(InputError, match=f"^{parameter}="):
                create_model(name, **{parameter: value})


def test_defaults_are_allowed_and_given_back():
    for name in list_models():
        model = create_model(name)
        assert create_model(name, **model.parameters).parameters == model.parameters


def test_what_a_constructor_checks_itself_sees_the_values_as_taken():
    class Own(Detector):
        name = "own"

        def __init__(self, low: NotNegative = 0, high: Count = 1, *, label: str = "x"):
            if low > high:
                raise InputError(f"low={low} must be at most high={high}.")

    assert Own(0.5, 3.0).parameters == {"low": 0.5, "high": 3, "label": "x"}
    with pytest.raises(InputError, match=r"low=5\.0 must be at most high=2\."):
        Own(low=5, high=2)
    with pytest.raises(InputError, match="high=0 must be"):
        Own(high=0)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        Own(size=3)
