"""The detectors by name: `create_model`, `load_model`, `list_models`.

A method is one file in this folder that defines one subclass of `Detector`. To add one, write the file and name
its class in `_CLASSES`.
"""

import json
from importlib import import_module
from pathlib import Path

from adlib.errors import InputError

_CLASSES = {
    "adaclip": "AdaCLIP",
    "cfa": "CFA",
    "cfrg": "CFRG",
    "crad": "CRAD",
    "ddad": "DDAD",
    "destseg": "DeSTSeg",
    "draem": "DRAEM",
    "efficientad": "EfficientAD",
    "fanogan": "FAnoGAN",
    "fastflow": "FastFlow",
    "ganomaly": "GANomaly",
    "glass": "GLASS",
    "iad_inpainting": "IADInpainting",
    "mixed_supervised": "MixedSupervised",
    "msad": "MSAD",
    "msflow": "MSFlow",
    "onenip": "OneNIP",
    "padim": "PaDiM",
    "patchcore": "PatchCore",
    "pyramidflow": "PyramidFlow",
    "rd4ad": "RD4AD",
    "rdpp": "RDPP",
    "realnet": "RealNet",
    "riad": "RIAD",
    "simplenet": "SimpleNet",
    "stfpm": "STFPM",
    "supersimplenet": "SuperSimpleNet",
    "uflow": "UFlow",
    "uniad": "UniAD",
}


def list_models() -> list[str]:
    """Names that `create_model` knows."""
    return sorted(_CLASSES)


def model_class(name: str) -> type:
    """The Detector subclass of a method's name. Raises InputError for an unknown one."""
    if name not in _CLASSES:
        raise InputError(f"Unknown model {name!r}; known are {', '.join(list_models())}.")
    return getattr(import_module(f"adlib.models.{name}"), _CLASSES[name])


def create_model(name: str, **parameters):
    """A detector, not yet fitted. Keywords are the method's parameters; defaults are its paper's settings.

    Raises InputError for an unknown name, and for an unknown parameter with the list of known ones.
    """
    return model_class(name).create(**parameters)


def load_model(path: str | Path):
    """The fitted detector that `model.save(path)` wrote. Raises InputError for any other file."""
    import torch
    from safetensors import safe_open

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist: there is no saved model to load.")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["adlib"])
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a dictionary
    except Exception as error:  # safetensors raises its own type, without a public base class
        raise InputError(f"{path} is not a model saved by adlib ({error}).") from error
    model = create_model(about["name"], **about["parameters"])
    model.seed_ = about["seed"]
    model.device_ = torch.device("cpu")
    model.set_state(state)
    model.fitted_ = True
    return model
