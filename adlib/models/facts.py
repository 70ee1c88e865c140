"""What the parameters of a method do not tell, and the table of all methods that `adlib models` prints."""

import inspect
from dataclasses import dataclass

import pandas as pd

from adlib.models import list_models, model_class


@dataclass(frozen=True)
class Facts:
    """What a person who chooses a method asks first.

    family: what it does with normal images. year: of its publication. maps: whether it also scores pixels.
    trained: whether gradients change a network; if not, fit is one pass over the images.
    data: what fit takes besides normal images of the category. Where "drawn without" stands, adlib has a substitute,
        and a run with it warns.
    joint: "meant" for one model of all categories of a data set; "possible" if its paper has one per category and fit
        takes images of several all the same; "no target" if fit never sees the target.
    surrogate: whether only part of the method is published, so that ours stands in for it: tables say so.
    """

    family: str
    year: int
    data: str = ""
    maps: bool = True
    trained: bool = True
    joint: str = "possible"
    surrogate: bool = False


TEXTURES = "textures (DTD; drawn without)"

FACTS = {
    "adaclip": Facts("vision and language", 2024, "labelled images of other sets (VisA, ColonDB)", joint="no target"),
    "cfa": Facts("memory of features", 2022),
    "cfrg": Facts("student and teacher", 2025, TEXTURES),
    "crad": Facts("feature reconstruction", 2024, joint="meant"),
    "ddad": Facts("image reconstruction, diffusion", 2023),
    "destseg": Facts("student and teacher", 2023, TEXTURES),
    "draem": Facts("image reconstruction", 2021, TEXTURES),
    "efficientad": Facts("student and teacher", 2024, "its teacher's file; natural images (ImageNet; drawn without)"),
    "fanogan": Facts("image reconstruction, adversarial", 2019),
    "fastflow": Facts("normalising flow", 2021),
    "ganomaly": Facts("image reconstruction, adversarial", 2018),
    "glass": Facts("discriminator of features", 2024, TEXTURES),
    "iad_inpainting": Facts("image reconstruction, adversarial", 2021, surrogate=True),
    "mixed_supervised": Facts("supervised classifier", 2025, "labelled synthetic and real defects, or neither"),
    "msad": Facts("memory of features", 2023, maps=False),
    "msflow": Facts("normalising flow", 2024),
    "onenip": Facts("feature reconstruction", 2024, TEXTURES, joint="meant"),
    "padim": Facts("distribution of features", 2020, trained=False),
    "patchcore": Facts("memory of features", 2022, trained=False),
    "pyramidflow": Facts("normalising flow", 2023),
    "rd4ad": Facts("student and teacher", 2022),
    "rdpp": Facts("student and teacher", 2023),
    "realnet": Facts("feature reconstruction", 2024, "drawn defects (SDAS), or textures (DTD; drawn without)"),
    "riad": Facts("image reconstruction", 2021),
    "simplenet": Facts("discriminator of features", 2023),
    "stfpm": Facts("student and teacher", 2021),
    "supersimplenet": Facts("discriminator of features", 2024, "labelled defects, or none"),
    "uflow": Facts("normalising flow", 2024),
    "uniad": Facts("feature reconstruction", 2022, joint="meant"),
}


def default_weights(name: str) -> str:
    """The network whose pretrained weights a method's defaults need ("wide_resnet50_2.tv_in1k"), "" for none."""
    parameters = inspect.signature(model_class(name).__init__).parameters
    found = [parameters[one].default for one in ("backbone", "towers") if one in parameters]
    return found[0] if found and found[0] not in (None, "none") else ""


def method_table() -> pd.DataFrame:
    """One row per method of list_models(), of text alone.

    Columns: method, family, year, scores ("image" or "image, pixel"), trained (yes or no), weights (with "(here)" if
    the folder ADLIB_WEIGHTS has them), data, joint (for data and joint see Facts), papers (those that benchmark it).
    """
    from adlib.features.weights import weights_file
    from adlib.papers import list_papers, protocol

    benchmarks = {
        paper: {method for table in protocol(paper)["tables"].values() for method in table["methods"]}
        for paper in list_papers()
    }
    rows = []
    for name in list_models():
        about, weights = FACTS[name], default_weights(name)
        rows.append(
            {
                "method": name,
                "family": about.family,
                "year": str(about.year),
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
    for method in list_models():
        parameters = inspect.signature(model_class(method).__init__).parameters
        for parameter in parameters.values():
            pretrained = parameter.name.endswith("backbone") or parameter.name == "towers"
            if pretrained and parameter.default not in (None, "none"):
                needed.setdefault(parameter.default, []).append(method)
    return needed
