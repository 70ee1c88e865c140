"""Settings of a run, from text as people type it."""

import math
import re
from functools import cache
from pathlib import Path

from adlib.errors import InputError
from adlib.file_hashes import is_path

# These settings go to the ImageSet, DATA_SETTINGS to load_samples, TRAINING_SETTINGS choose the training images, all
# others go to the method.
IMAGE_SETTINGS = ("size", "crop", "window", "resize", "sides", "mask_resize", "fit", "tile")
DATA_SETTINGS = ("mask_rule", "items", "normal_names", "unknown_names", "normal", "abnormal", "normal_test", "masks")
NAME_SETTINGS = ("normal_names", "unknown_names")  # lists of folders' names
FOLDER_SETTINGS = ("normal", "abnormal", "normal_test", "masks")
TEXT_SETTINGS = (*DATA_SETTINGS, "train_real_kind")  # never numbers: a folder may be called 01, or no
LONGEST_NUMBER = 300  # characters of a number
NUMBER = re.compile(r"[+-]?(0x[0-9a-f]+|(\d+(_\d+)*\.?\d*|\.\d+)(e[+-]?\d+)?)$", re.IGNORECASE)


def parse_settings(pairs: list[str]) -> dict:
    """["size=128", "backbone=resnet18.tv_in1k"] -> {"size": 128, "backbone": "resnet18.tv_in1k"}.

    Values are read as YAML scalars or lists ("0.1", "true", "null", "[1, 2, 3]"), and as people write them elsewhere:
    "None" as `adlib models` shows it, "1e-3", "(64, 96)", "64x96" (height x width) and "0,4095"; for size, crop and
    window "none" as well. Numbers are decimal, with zeros before them too. The path of a file,
    or of a folder written with a "/", becomes absolute: a run's notebook has another working folder. What names
    folders, and the pattern of items, stays the text that it is ("normal_names=01,yes").
    Of a name that is given twice the last value counts.
    Raises InputError for a pair without "=", for a value that cannot be read, and for "1,024", which can be one number
    or two.
    """
    settings = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name = name.strip()
        if not equals or not name:
            raise InputError(f"--set {pair!r}: expected name=value, e.g. size=256.")
        value = _read_value(text.strip(), name, pair)
        if name in IMAGE_SETTINGS and value == "none":
            value = None
        settings[name] = value
    return settings


def said_once(*places: dict) -> dict:
    """Settings from several places of one command line, whose order is not known there.

    Raises InputError for a name that has different values in two of them: which one was meant cannot be told.
    """
    joined: dict = {}
    for given in places:
        for name in joined.keys() & given.keys():
            if joined[name] != given[name]:
                raise InputError(f"{name} is set twice, to {joined[name]!r} and to {given[name]!r}: say it once.")
        joined |= given
    return joined


def _read_value(text: str, name: str, pair: str):
    """A setting's value from the text behind "="."""
    import yaml

    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if name in TEXT_SETTINGS and not quoted and not (name in NAME_SETTINGS and _is_list(text)):
        value = None if text in ("", "~", "null", "None", "NONE") else text
        return _absolute(value) if value and name in FOLDER_SETTINGS else value
    try:
        if _is_list(text) and text.startswith("("):
            text = f"[{text[1:-1]}]"
        elif name not in TEXT_SETTINGS and re.fullmatch(r"\d+\s*[xX×]\s*\d+", text) and not text.startswith("0x"):
            text = f"[{re.sub('[xX×]', ',', text)}]"
        elif "," in text and all(isinstance(_number(part.strip()), int | float) for part in text.split(",")):
            if re.fullmatch(r"[1-9](,\d{3})+", text) or re.search(r",\s*[+-]?0\d", text):
                raise ValueError("is it one number or several? Write one without the comma, several in brackets")
            text = f"[{text}]"
        if name not in TEXT_SETTINGS:
            return _plain_value(read_yaml(text))
        value = yaml.load(text, yaml.BaseLoader)  # makes texts alone, so it is as safe as safe_load
        if not all(isinstance(one, str) for one in value):
            raise ValueError("these are no names")
        return value
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        said = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise InputError(f"--set {pair[:200]!r}: the value cannot be read ({said}).") from error


def _is_list(text: str) -> bool:
    return re.fullmatch(r"\(.*\)|\[.*\]", text, re.DOTALL) is not None


def read_yaml(text: str):
    """What a YAML text says, with numbers as people write them: 0100 is 100, 1e-3 a number, 1:00 none; names are texts.

    Raises yaml.YAMLError, RecursionError where it is nested too deeply, and ValueError for a number that is too long.
    """
    import yaml

    try:
        return yaml.load(text, _loader())  # a SafeLoader
    except (AttributeError, LookupError, TypeError) as error:  # of !!bool before what is none, for one
        raise ValueError("a tag does not fit its value") from error


def given_settings(given) -> dict:
    """Settings as a notebook's parameter gives them: a dictionary, None for none, or the text of one in JSON or YAML.

    Raises InputError for anything else.
    """
    import yaml

    values = given
    if isinstance(given, str):
        try:
            values = read_yaml(given)
        except (yaml.YAMLError, ValueError, RecursionError):
            values = given
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"settings={given!r:.200} must be names with values, such as {{'size': 128}}.")
    return values


@cache
def _loader():
    """A reader of YAML that reads numbers by `_number`: YAML 1.1 takes 0100 for 64, and 1:00 for 60."""
    import yaml

    kept = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {
            first: [rule for rule in rules if rule[0] in kept]
            for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def construct_mapping(self, node, deep=False):
            for name, _ in node.value:
                if isinstance(name, yaml.ScalarNode) and name.tag != kept[2]:
                    name.tag = "tag:yaml.org,2002:str"  # a category may be called 01, or no
            return super().construct_mapping(node, deep)

    def number(loader, node):
        return _number(loader.construct_scalar(node))

    for tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
        Loader.add_constructor(tag, number)
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("+-.0123456789"))
    return Loader


def _plain_value(value):
    """A value with numbers and paths for the texts that mean some, and None for "None"; in lists and dictionaries too.

    Raises ValueError for a number that is too long.
    """
    if isinstance(value, list):
        return [_plain_value(one) for one in value]
    if isinstance(value, dict):
        return {name: _plain_value(one) for name, one in value.items()}
    if value in ("None", "NONE"):
        return None
    return _number(_absolute(value)) if isinstance(value, str) else value


def absolute_paths(value):
    """A value whose paths of files, or of folders written with a "/", are absolute; in lists and dictionaries too."""
    if isinstance(value, list):
        return [absolute_paths(one) for one in value]
    if isinstance(value, dict):
        return {name: absolute_paths(one) for name, one in value.items()}
    return _absolute(value) if isinstance(value, str) else value


def _absolute(text: str) -> str:
    return str(Path(text).expanduser().resolve()) if is_path(text) else text


def _number(text: str) -> int | float | str:
    """ "64", "0100", "1_000", "0x40", "1e-3" or ".5" as a number, other text as it is."""
    if not NUMBER.fullmatch(text):
        return text
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"it has a number of {len(text)} characters")
    if "x" in text.lower():
        return int(text, 16)
    return int(text) if re.fullmatch(r"[+-]?[\d_]+", text) else float(text)


def is_plain(value) -> bool:
    """Whether a setting can be written into a record and read again as it was."""
    if isinstance(value, list | tuple):
        return all(is_plain(one) for one in value)
    if isinstance(value, dict):
        return all(isinstance(name, str) and is_plain(one) for name, one in value.items())
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str | int | bool)
