"""Settings of a run, from text as people type it."""

import math
import re
from pathlib import Path

from adlib.errors import InputError

# These settings go to the ImageSet, DATA_SETTINGS to load_samples, TRAINING_SETTINGS choose the training images, all
# others go to the method.
IMAGE_SETTINGS = ("size", "crop", "window", "resize", "sides", "mask_resize", "fit", "tile")
DATA_SETTINGS = ("mask_rule", "items", "normal_names", "unknown_names", "normal", "abnormal", "normal_test", "masks")


def parse_settings(pairs: list[str]) -> dict:
    """["size=128", "backbone=resnet18.tv_in1k"] -> {"size": 128, "backbone": "resnet18.tv_in1k"}.

    Values are read as YAML scalars or lists ("0.1", "true", "null", "[1, 2, 3]"), and as people write them elsewhere:
    "None" as `adlib models` shows it, "1e-3", "(64, 96)", "64x96" (height x width) and "0,4095"; for size, crop and
    window "none" as well. The path of a file, or of a folder written with a "/", becomes absolute: a run's notebook has
    another working folder.
    Of a name that is given twice the last value counts.
    Raises InputError for a pair without "=" and for a value that cannot be read.
    """
    settings = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name = name.strip()
        if not equals or not name:
            raise InputError(f"--set {pair!r}: expected name=value, e.g. size=256.")
        value = _read_value(text.strip(), pair)
        if name in IMAGE_SETTINGS and value == "none":
            value = None
        settings[name] = value
    return settings


def _read_value(text: str, pair: str):
    """A setting's value from the text behind "="."""
    import yaml

    if re.fullmatch(r"\d+\s*[xX×]\s*\d+", text) and not text.startswith("0x"):
        text = f"[{re.sub('[xX×]', ',', text)}]"
    elif re.fullmatch(r"\(.*\)", text, re.DOTALL):
        text = f"[{text[1:-1]}]"
    elif "," in text and all(isinstance(_number(part.strip()), int | float) for part in text.split(",")):
        text = f"[{text}]"
    try:
        return _plain_value(yaml.safe_load(text))
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise InputError(f"--set {pair!r}: the value cannot be read ({said}).") from error


def _plain_value(value):
    """What YAML 1.1 leaves as text though people mean None, a number or a path; in lists and dictionaries too."""
    if isinstance(value, list):
        return [_plain_value(one) for one in value]
    if isinstance(value, dict):
        return {name: _plain_value(one) for name, one in value.items()}
    if value in ("None", "NONE"):
        return None
    if not isinstance(value, str):
        return value
    return str(Path(value).expanduser().resolve()) if is_path(value) else _number(value)


def _number(text: str) -> int | float | str:
    """ "64", "1e-3" or ".5" as a number, other text as it is."""
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text, re.IGNORECASE):
        return text
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)


def is_plain(value) -> bool:
    """Whether a setting can be written into a record and read again as it was."""
    if isinstance(value, list | tuple):
        return all(is_plain(one) for one in value)
    if isinstance(value, dict):
        return all(isinstance(name, str) and is_plain(one) for name, one in value.items())
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str | int | bool)


def is_path(text: str) -> bool:
    try:
        path = Path(text).expanduser()
        path.is_file()
    except (OSError, ValueError, RuntimeError):  # too long for a name, or nobody's home
        return False
    # Without a slash, "bundled" stays a word also where somebody has a folder of that name.
    return path.is_file() or text.endswith(".safetensors") or ("/" in text and path.is_dir())
