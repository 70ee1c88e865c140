"""The detector: what all methods share. Devices, batches, progress, saving; nothing about any one method.

A method subclasses `Detector` and writes
    __init__       stores its parameters, with the paper's settings as defaults
    fit_images     learns from normal images, into attributes that end in "_"
    score_batch    images [B, 3, H, W] -> scores [B], maps [B, H, W] or None
    state          the learned tensors, by name; and set_state, which takes them back
"""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from adlib.errors import InputError
from adlib.images import ImageSet
from adlib.predictions import Predictions


class Detector:
    """Base of all methods. Higher scores are more anomalous, for images and for pixels."""

    name = ""  # as in adlib.models
    image_defaults: dict = {"size": 256, "crop": None}  # how the method's paper prepares its images

    @classmethod
    def create(cls, **parameters):
        known = list(inspect.signature(cls.__init__).parameters)[1:]
        if unknown := sorted(set(parameters) - set(known)):
            raise InputError(f"{cls.name} has no parameter {', '.join(unknown)}; it has {', '.join(known)}.")
        return cls(**parameters)

    @property
    def parameters(self) -> dict:
        """The constructor's arguments: create_model(name, **parameters) gives an equal, unfitted detector."""
        return {name: getattr(self, name) for name in list(inspect.signature(type(self).__init__).parameters)[1:]}

    @property
    def origin(self) -> dict | None:
        """Where the pretrained weights came from (kind; file and sha256, or seed); None for a method without any."""
        return self.backbone_.origin if hasattr(self, "backbone_") else None

    @property
    def warnings(self) -> list[str]:
        """What a reader must know of the features before believing the numbers."""
        if self.parameters.get("weights") != "random":
            return []
        return ["Random weights: the features were never trained, so detection is far below the method's."]

    def fit(
        self,
        images: ImageSet,
        val: ImageSet | None = None,
        device: str = "auto",
        seed: int = 0,
        progress: bool = True,
    ):
        """Learn what is normal. Returns self.

        images: the training images; all must be normal.
        val: held-out normal images, for methods that need some; others ignore it.
        device: "auto" (CUDA where there is a device), "cpu", "cuda", "cuda:1" ...
        seed: of all that is random. Same seed and machine, same result on a CPU.
        """
        if len(images) == 0:
            raise InputError("There is no image to fit on.")
        if (images.labels == 1).any():
            first = images.samples.loc[images.labels == 1, "image"].iloc[0]
            raise InputError(f"fit needs normal images only, but {first} is labelled anomalous.")
        torch.manual_seed(seed)
        self.device_ = choose_device(device)
        self.seed_ = seed
        self.fit_images(images, val, progress)
        return self

    def predict(
        self, images: ImageSet, device: str = "auto", batch_size: int = 8, progress: bool = True
    ) -> Predictions:
        """Score every image and every pixel; the batch size changes the speed and not the scores."""
        self.check_fitted()
        self.device_ = choose_device(device)
        self.to(self.device_)
        scores, maps = [], None
        with torch.inference_mode():
            for start, batch in self.batches(images, batch_size, progress, "predict"):
                batch_scores, batch_maps = self.score_batch(batch)
                scores.append(batch_scores.float().cpu().numpy())
                if batch_maps is not None:
                    if maps is None:
                        maps = np.empty((len(images), *images.shape), np.float32)
                    maps[start : start + len(batch)] = batch_maps.float().cpu().numpy()
        return Predictions(np.concatenate(scores), maps, images.samples, images.settings)

    def batches(
        self, images: ImageSet, batch_size: int, progress: bool, what: str
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """(index of the first image, float [B, 3, H, W] on the device) over the images in their order."""
        # Workers pay where a GPU waits for them; on a CPU they would take cores from the network.
        workers = min(8, torch.get_num_threads()) if self.device_.type == "cuda" else 0
        loader = DataLoader(_PixelsOnly(images), batch_size, num_workers=workers, pin_memory=workers > 0)
        with tqdm(total=len(images), desc=f"{self.name} {what}", unit="image", disable=not progress) as bar:
            start = 0
            for batch in loader:
                yield start, batch.to(self.device_, non_blocking=True)
                start += len(batch)
                bar.update(len(batch))

    def check_fitted(self) -> None:
        if not any(key.endswith("_") and not key.startswith("_") for key in vars(self)):
            raise InputError(f"This {self.name} is not fitted: call fit(images) before predict or save.")

    def save(self, path: str | Path) -> Path:
        """Write parameters and learned tensors to one .safetensors file; returns its path."""
        self.check_fitted()
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"name": self.name, "parameters": self.parameters, "seed": self.seed_}
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in self.state().items()}
        partial = path.with_name(path.name + ".partial")
        save_file(tensors, partial, metadata={"adlib": json.dumps(about)})
        partial.replace(path)
        return path

    # What a method writes.

    def fit_images(self, images: ImageSet, val: ImageSet | None, progress: bool) -> None:
        raise NotImplementedError

    def score_batch(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        raise NotImplementedError

    def state(self) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def set_state(self, state: dict[str, torch.Tensor]) -> None:
        raise NotImplementedError

    def to(self, device: torch.device) -> None:
        """Move networks and learned tensors to the device."""
        raise NotImplementedError


class _PixelsOnly(torch.utils.data.Dataset):
    """The pictures without their masks: a detector must not see ground truth, and need not wait for it."""

    def __init__(self, images: ImageSet):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images.pixels(index)


def load(path: str | Path) -> Detector:
    """Read a detector that `Detector.save` wrote. Raises InputError for any other file."""
    from adlib.models import create_model

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
    return model


def choose_device(device: str) -> torch.device:
    """The torch device of "auto", "cpu", "cuda" ... Raises InputError for one that is not here."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device={device!r} is not a torch device: use 'auto', 'cpu' or 'cuda'.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device={device!r}, but torch sees no CUDA device: use device='cpu', see `adlib doctor`.")
    return chosen
