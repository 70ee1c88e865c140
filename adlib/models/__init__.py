"""The detectors by name: `create_model`, `load_model`, `list_models`, and the tables of all of them.

A method is one file in this folder that defines one subclass of `Detector`. Nothing else names it: the file's name is
the method's. Those of installed packages are found as adlib.plugins says.
"""

import inspect
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from adlib import plugins
from adlib.errors import InputError, did_you_mean
from adlib.files import parse_json

if TYPE_CHECKING:
    import pandas as pd


def list_models() -> list[str]:
    """Names that `create_model` knows."""
    return sorted({*own_models(), *plugins.plugins("adlib.models")})


@cache
def own_models() -> list[str]:
    """Names of the methods in this folder."""
    return sorted(module.name for module in iter_modules(__path__))


def model_class(name: str) -> type:
    """The Detector subclass of a method's name. Raises InputError for an unknown one, and for a broken plug-in."""
    from adlib.detector import Detector

    if name not in list_models():
        raise InputError(
            f"Unknown model {name!r}; known are {', '.join(list_models())}.{did_you_mean(name, list_models())}"
        )
    found = import_module(f"adlib.models.{name}") if name in own_models() else plugins.load("adlib.models", name)
    if not isinstance(found, type):
        classes = [one for one in vars(found).values() if isinstance(one, type) and issubclass(one, Detector)]
        defined = [one for one in classes if one.__module__ == found.__name__]
        if len(defined) != 1:
            raise InputError(f"{found.__name__} has to define one subclass of Detector; it defines {len(defined)}.")
        (found,) = defined
    if not issubclass(found, Detector) or getattr(found, "name", None) != name:
        place = f"{found.__module__}.{found.__qualname__}"
        raise InputError(f"{place}, the method {name!r}, has to be a subclass of Detector with name = {name!r}.")
    return found


def usable_models() -> Iterator[tuple[str, type]]:
    """(name, class) of every method but those of installed packages that are broken (adlib.plugins.broken)."""
    for name in list_models():
        try:
            yield name, model_class(name)
        except InputError:
            if name in own_models():
                raise


def broken_models() -> dict[str, str]:
    """name -> why it cannot be used, for the methods of installed packages."""
    return plugins.broken("adlib.models", own_models(), model_class)


@cache
def is_surrogate(name: str) -> bool:
    """Whether ours is not the published method, of which only part is known. False for what is no model of ours."""
    return name in own_models() and model_class(name).facts.surrogate


def create_model(name: str, **parameters):
    """A detector, not yet fitted. Keywords are the method's parameters; defaults are its paper's settings.

    Raises InputError for an unknown name, and for an unknown parameter with the list of known ones.
    """
    return model_class(name).create(**parameters)


def load_model(path: str | Path):
    """The fitted detector that `model.save(path)` wrote. Raises InputError for any other file, and for a
    damaged one.
    """
    import torch
    from safetensors import safe_open

    from adlib.detector import saved_checksum

    path = Path(path)
    if not path.is_file():
        why = "is no file" if path.exists() else "does not exist"
        raise InputError(f"{path} {why}: there is no saved model to load.")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            about = _about(metadata["adlib"], path)
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a dictionary
    except Exception as error:  # safetensors raises its own type, without a public base class
        raise InputError(f"{path} is not a model saved by adlib ({type(error).__name__}: {error}).") from error
    if "crc32" in metadata and metadata["crc32"] != saved_checksum(metadata["adlib"], state):  # older files have none
        raise InputError(f"{path} is damaged: what it holds is not what was saved. Copy or save it again.")
    try:
        model = create_model(about["name"], **about["parameters"])
        model.seed_ = about["seed"]
        model.images_, model.threshold_ = about.get("images"), about.get("threshold")
        model.category_, model.learned_files = about.get("category", ""), about.get("learned_files")
        model.told = about.get("told", {"origin": {}})  # files of versions before do not say
        model.device_ = torch.device("cpu")
        model.set_state(state)
    except Exception as error:  # parameters and tensors may be anything, and each method reads its own
        said = (str(error).splitlines() or [""])[0]
        why = f"what it holds does not fit ({type(error).__name__}: {said[:300]})"
        raise InputError(f"{path} is no model that this adlib can load: {why}.") from error
    model.fitted_ = True
    return model


def _about(text: str, path: Path) -> dict:
    """name, parameters and seed of a saved model. Raises InputError for metadata that say something else."""
    about = parse_json(text.encode("utf-8"), f"the description in {path}")
    kinds = {"name": str, "parameters": dict, "seed": int}
    if not isinstance(about, dict) or not all(isinstance(about.get(key), kind) for key, kind in kinds.items()):
        raise InputError("its description holds no name, parameters and seed")
    if not all(isinstance(about.get(key), dict | None) for key in ("images", "threshold", "told")):
        raise InputError("its description of images, threshold and fit is damaged")
    if not isinstance(about.get("category", ""), str):
        raise InputError("its description of what images show is damaged")
    learned = about.get("learned_files") or []
    if not (isinstance(learned, list) and all(isinstance(name, str) for name in learned)):
        raise InputError("its list of the files that it learned is damaged")
    return about


def default_weights(name: str) -> str:
    """The network whose pretrained weights a method's defaults need ("wide_resnet50_2.tv_in1k"), "" for none."""
    parameters = inspect.signature(model_class(name).__init__).parameters
    found = [parameters[one].default for one in ("backbone", "towers") if one in parameters]
    return found[0] if found and found[0] not in (None, "none") else ""


def method_table() -> "pd.DataFrame":
    """One row per method that can be used, of text alone.

    Columns: method, family, year, scores ("image" or "image, pixel"), trained (yes or no), weights (with "(here)" if
    the folder ADLIB_WEIGHTS has them), data, joint (for these two see adlib.detector.Facts), papers (that
    benchmark it).
    """
    import pandas as pd

    from adlib.features.weights import weights_file
    from adlib.papers import list_papers, protocol

    benchmarks = {
        paper: {method for table in protocol(paper)["tables"].values() for method in table["methods"]}
        for paper in list_papers()
    }
    rows = []
    for name, method in usable_models():
        about, weights = method.facts, default_weights(name)
        rows.append(
            {
                "method": name,
                "family": about.family,
                "year": str(about.year or ""),
                "scores": "image, pixel" if about.maps else "image",
                "trained": "yes" if about.trained else "no",
                "weights": weights + (" (here)" if weights and weights_file(weights) else ""),
                "data": about.data,
                "joint": about.joint,
                "papers": ", ".join(paper for paper, methods in benchmarks.items() if name in methods),
            }
        )
    return pd.DataFrame(rows)


def needed_weights() -> dict[str, list[str]]:
    """timm name, or open_clip's of a pair of towers -> the methods whose default it is."""
    needed: dict[str, list[str]] = {}
    for method, found in usable_models():
        parameters = inspect.signature(found.__init__).parameters
        for parameter in parameters.values():
            pretrained = parameter.name.endswith("backbone") or parameter.name == "towers"
            if pretrained and parameter.default not in (None, "none"):
                needed.setdefault(parameter.default, []).append(method)
    return needed
