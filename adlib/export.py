"""Export: a fitted detector as an ONNX file, for machines of a line that have neither Python nor torch.

Only where a detector's computation is a graph: a memory that is searched by an index decides image by image what it
computes. The file takes one image, float32 [1, 3, H, W], RGB in [0, 1], prepared as its metadata say (`images`), and
gives score [1], map [1, H, W], and with a threshold `anomalous` [1] and `mask` [1, H, W]. Means and deviations of the
backbone, blur and threshold are inside. Every file is run on images that it was not traced with, beside the detector,
before it gets its name.
"""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from adlib import __version__
from adlib.errors import InputError
from adlib.files import replacing

OPSET = 18
TOLERANCE = 1e-4  # of a score's or map's size: as far as ONNX may be from the detector
TRIALS = 3


class Graph(torch.nn.Module):
    """What of a detector goes into the file. model: fitted, on the CPU."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.networks = torch.nn.ModuleDict(model.networks())
        self.limits = model.threshold_ or {}

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        score, maps = self.model.score_batch(image)
        found = [score.float()]
        if maps is not None:
            found.append(maps.float())
        if "score" in self.limits:
            found.append(found[0] >= self.limits["score"])
            if maps is not None and self.limits.get("map") is not None:
                found.append(found[1] >= self.limits["map"])
        return tuple(found)

    @property
    def outputs(self) -> list[str]:
        named = ["score"] + ["map"] * self.model.facts.maps
        if "score" in self.limits:
            named += ["anomalous"] + ["mask"] * (self.model.facts.maps and self.limits.get("map") is not None)
        return named


def export(model, file: str | Path, seed: int = 0) -> Path:
    """Write a fitted detector as ONNX, opset OPSET, checked with onnxruntime; returns the file's path.

    Raises InputError without the packages onnx and onnxruntime, for a detector that is not fitted or whose file does
    not say how images are prepared, for a method whose computation is no graph, and where the file's scores or maps
    differ from the detector's by more than TOLERANCE.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise InputError(f"The export needs onnx and onnxruntime ({error}): pip install 'adlib[export]'.") from error

    model.check_fitted()
    if model.images_ is None:
        raise InputError("This detector was saved by an adlib that did not keep how images are prepared: fit it anew.")
    if model.why_no_graph:
        raise InputError(f"{model.name} cannot be exported: {model.why_no_graph}.")
    model.device_ = torch.device("cpu")
    model.to(model.device_)
    graph = Graph(model).eval()
    images = _trials(model, seed)
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial:
        _write_graph(model, graph, images[0], partial)
        try:
            written = onnx.load(partial)
            about = {"adlib": __version__, "method": model.name, "images": model.images_, "threshold": model.threshold_}
            for key, value in about.items():
                written.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
            onnx.checker.check_model(written)
            onnx.save(written, partial)
            session = onnxruntime.InferenceSession(str(partial), providers=["CPUExecutionProvider"])
            for image in images[1:]:
                _compare(graph, session, image)
        except InputError:
            raise
        except Exception as error:  # of onnx or onnxruntime, each with kinds of its own
            raise InputError(
                f"{model.name} cannot be exported, its file cannot be run: {_first_line(error)}"
            ) from error
    return file


def _write_graph(model, graph: Graph, image: torch.Tensor, file: Path) -> None:
    """Write the graph as it computes one image. Raises InputError where it is none."""
    try:
        with warnings.catch_warnings(), torch.inference_mode(), _quiet():
            warnings.simplefilter("ignore")  # of the tracer, on what might depend on an image: the check tells
            torch.onnx.export(
                graph,
                (image,),
                str(file),
                input_names=["image"],
                output_names=graph.outputs,
                opset_version=OPSET,
                dynamo=False,
            )
    except Exception as error:  # the exporter raises whatever the part of torch does that knows no graph
        raise InputError(
            f"{model.name} cannot be exported, its computation is no graph of ONNX: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    """What an error of the exporter says, without its advice and its thousands of lines of graph."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return said.split(" Please ")[0].split("  [Caused")[0][:300]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's print of a graph, thousands of lines, where an operator has no form in ONNX."""
    torch._C._jit_set_onnx_log_enabled(False)
    try:
        yield
    finally:
        torch._C._jit_set_onnx_log_enabled(True)


def _trials(model, seed: int) -> list[torch.Tensor]:
    """Images [1, 3, H, W] of the detector's size: one to trace, others to check; of noise, a ramp, and structure."""
    settings = model.images_
    if settings.get("tile"):
        height = width = settings["tile"][0]
    else:
        height, width = settings.get("crop") or settings["size"]
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(TRIALS, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    noise = torch.rand(TRIALS, 3, height, width, generator=generator)
    return [(0.8 * one + 0.2 * other)[None].contiguous() for one, other in zip(smooth, noise, strict=True)]


def _compare(graph: Graph, session, image: torch.Tensor) -> None:
    """Raise InputError where onnxruntime's score or map of an image is not the detector's."""
    with torch.inference_mode():
        expected = graph(image)
    found = session.run(None, {"image": image.numpy()})
    for name, ours, theirs in zip(graph.outputs[: 1 + graph.model.facts.maps], expected, found, strict=False):
        theirs = torch.from_numpy(theirs)
        scale = max(1.0, float(ours.abs().max()))
        away = float((ours.cpu() - theirs).abs().max()) / scale
        if not away <= TOLERANCE:
            raise InputError(
                f"The exported {graph.model.name} gives another {name} than the detector, by {away:.2g} of its size: "
                "its computation depends on the image in a way that a graph cannot hold, so nothing was written."
            )
