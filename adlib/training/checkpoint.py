"""The checkpoint of a training: all that training changes, in one file from which it resumes exactly."""

import json

import torch
from torch.utils.data import Dataset

from adlib.code_version import code
from adlib.detector import Detector
from adlib.file_hashes import content, file_hash
from adlib.images import ImageSet
from adlib.memory.unfinished import Unfinished
from adlib.plugins import package_code
from adlib.samples import fingerprint


class Checkpoint:
    """Progress on disk: the file detector.checkpoint_ (with the stage's name behind it, if any), or nothing if None.

    parts: kind -> objects with state_dict and load_state_dict; losses: the history and the sums of the running epoch;
    training: what else must be equal for a file to be resumed from. best: the lowest value of `validate`, the
    weights that had it and their epoch from 1. Read with weights_only=True; written beside and renamed, so that it is
    always whole.
    """

    def __init__(self, detector: Detector, dataset: Dataset, parts: dict[str, list], losses, training: dict):
        self.parts, self.losses, self.device = parts, losses, detector.device_
        self.best: tuple[float, dict | None, int | None] = (float("inf"), None, None)
        self.finished = False
        whole = unfinished_fit(detector, dataset, **training)
        self.unfinished = whole.part(training["stage"]) if training["stage"] else whole

    def load(self) -> int:
        """Bring everything to where the file left it; returns the steps done, 0 without a file."""
        saved = self.unfinished.read()
        if not saved:
            return 0
        for kind, states in saved["parts"].items():
            for part, state in zip(self.parts[kind], states, strict=True):
                part.load_state_dict(state)
        torch.set_rng_state(saved["random"])
        if self.device.type == "cuda" and saved["random_cuda"] is not None:
            torch.cuda.set_rng_state(saved["random_cuda"], self.device)
        self.best, self.finished = (*saved["best"], None)[:3], saved["finished"]  # versions before knew no epoch
        self.losses.history, self.losses.sums, self.losses.count = saved["history"], saved["sums"], saved["count"]
        return saved["step"]

    def save_if_due(self, step: int) -> None:
        """Write the file if the interval has passed, or at the end."""
        if self.unfinished.file is None or not (self.finished or self.unfinished.due):
            return
        self.losses.read()
        state = {
            "step": step,
            "finished": self.finished,
            "best": list(self.best),
            "history": self.losses.history,
            "sums": self.losses.sums,
            "count": self.losses.count,
            "parts": {kind: [part.state_dict() for part in parts] for kind, parts in self.parts.items()},
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }
        self.unfinished.note(**state)


def unfinished_fit(detector: Detector, dataset: Dataset, **training) -> Unfinished:
    """Where a fit keeps how far it is, and by whom (detector.makers); what keeps nothing without a checkpoint."""
    if detector.checkpoint_ is None:
        return Unfinished(None)
    if not detector.makers:
        known = code() | package_code(detector.name)
        by = {name: known[name] for name in ("version", "commit", "dirty", "changes", "packages") if name in known}
        detector.makers.append(by | {"torch": str(torch.__version__), "device": detector.device_.type})
    about = about_training(detector, dataset, **training)
    return Unfinished(detector.checkpoint_, about, detector.checkpoint_interval, detector.makers)


def about_training(detector: Detector, dataset: Dataset, **more) -> dict:
    """What must be equal for an unfinished fit to be gone on with: method, parameters, seed, images; plain values. Of
    files and folders that parameters name, and of weights wherever they come from, their content counts.
    """
    images = image_set(dataset)
    parameters = {name: content(value) for name, value in detector.parameters.items()}
    about = {"method": detector.name, **parameters, "seed": detector.seed_, **more}
    files = detector.weight_files() if isinstance(detector, Detector) else {}
    about |= {f"weights of {name}": file_hash(file) for name, file in files.items() if file and file.is_file()}
    if isinstance(images, ImageSet):
        about |= {"images": fingerprint(images.samples), **images.settings}
    return json.loads(json.dumps(about, default=str))


def image_set(dataset: Dataset) -> Dataset:
    """The ImageSet below a Dataset that keeps it as `images`."""
    while not isinstance(dataset, ImageSet) and hasattr(dataset, "images"):
        dataset = dataset.images
    return dataset
