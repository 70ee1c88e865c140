"""Feature cache: what frozen backbones say of images, kept on disk for the other detectors that will ask the same.

Most methods of a table read the same frozen features of the same images. `Detector.share` makes a detector look them up
in a folder before it computes them. Only batches that come from `Detector.batches`, unaugmented and in their order, are
looked up: such a batch carries its cache with it, and whatever is made of it (an augmented picture, say) does not.

An entry is one stage of one backbone for one batch. Its name is a hash of everything that decides its values: the
network with all weights, the mean and deviation that its images are normalised by, the batch's pixels, the machine,
the versions, the number of threads. So an entry never is another's, and a look-up gives the very bits that computing
would have given. Entries are written beside and renamed; one that is cut or damaged fails its checksum and is
computed anew; a full disk ends writing and nothing else.

On a GPU nothing is looked up: there computing is faster than reading.
"""

import hashlib
import math
import os
import platform
import shutil
import struct
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import nn

LIMIT = 20 * 10**9  # bytes of a cache folder, unless somebody says otherwise
RESERVE = 4 * 10**9  # bytes of its disk that a cache leaves free
SUFFIX = ".features"
_HEADER = struct.Struct("<6q")  # shape (4), whether channels lie last in memory, checksum of all the rest


class FeatureCache:
    """A folder of features; several processes may use it at once.

    limit: bytes; when the folder holds that much, or its disk has no more than RESERVE free, nothing is added.
    counts: of how many images that were looked up the features were read, or had to be computed; and how many images
        were taken over decoded, or had to be decoded (adlib.runs.Run.images keeps those in the same folder).
    """

    def __init__(self, folder: str | Path, limit: float = LIMIT):
        self.folder, self.limit = Path(folder), limit
        self.counts = {"features_read": 0, "features_computed": 0, "images_read": 0, "images_decoded": 0}
        self._allowance = 0.0  # bytes to write before the folder is looked at again; negative: it is full
        self._names: dict[nn.Module, str] = {}

    def begin(self) -> None:
        """A loop over images begins: backbones are named anew, because their weights may have changed."""
        self._names.clear()

    def offer(self, batch: torch.Tensor) -> None:
        """Let backbones that are asked about this very tensor look here first."""
        if batch.device.type == "cpu":
            batch.feature_cache = self

    def room(self) -> float:
        """Bytes that may still be added."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with os.scandir(self.folder) as entries:
                held = sum(entry.stat().st_size for entry in entries)
            return min(self.limit - held, shutil.disk_usage(self.folder).free - RESERVE)
        except OSError:  # not writable, or being deleted
            return 0

    def features(self, backbone: nn.Module, x: torch.Tensor, compute: Callable) -> list[torch.Tensor]:
        """compute(x), or what it gave before: a list of float32 [B, C, h, w], one per stage of the backbone."""
        if backbone not in self._names:
            self._names[backbone] = _network_name(backbone)
        name = hashlib.sha256(f"{self._names[backbone]} {tuple(x.shape)}".encode())
        name.update(x.contiguous().numpy())
        files = [self.folder / f"{name.hexdigest()[:32]}-{stage}{SUFFIX}" for stage in backbone.stages]
        found = [read_features(file) for file in files]
        if all(stage is not None for stage in found):
            self.counts["features_read"] += len(x)
            return found
        self.counts["features_computed"] += len(x)
        computed = compute(x)
        for file, before, stage in zip(files, found, computed, strict=True):
            if before is None and self._may_write(stage.nbytes):
                try:
                    write_features(file, stage)
                except OSError:  # the disk is full, or the folder has gone
                    self._allowance = -1.0
        return computed

    def _may_write(self, size: int) -> bool:
        if 0 <= self._allowance < size:
            room = self.room()
            # A look at the folder takes time, and others write too: look again after a hundredth of the limit.
            self._allowance = -1.0 if room < size else max(size, min(room, self.limit / 100))
        if self._allowance < size:
            return False
        self._allowance -= size
        return True


def looked_up(backbone: nn.Module, x: torch.Tensor, compute: Callable) -> list[torch.Tensor]:
    """compute(x) of a frozen backbone, through the cache that the batch carries, if it carries one."""
    cache = getattr(x, "feature_cache", None)
    if cache is None or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return compute(x)
    return cache.features(backbone, x, compute)


def write_features(file: Path, features: torch.Tensor) -> None:
    """Write float32 [B, C, h, w] as it lies in memory, if it lies there without gaps; else nothing. Raises OSError."""
    last = not features.is_contiguous()
    stored = features.permute(0, 2, 3, 1) if last else features
    if features.ndim != 4 or features.dtype != torch.float32 or not stored.is_contiguous():
        return
    values = stored.numpy()
    facts = (*features.shape, last)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with partial.open("wb") as stream:
            stream.write(_HEADER.pack(*facts, _checksum(facts, values)))
            stream.write(values)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def read_features(file: Path) -> torch.Tensor | None:
    """What `write_features` wrote, in the same layout; None for a file that is not there, cut or damaged."""
    try:
        with file.open("rb") as stream:
            *facts, checksum = _HEADER.unpack(stream.read(_HEADER.size))
            *shape, last = facts
            if min(shape) < 1 or os.fstat(stream.fileno()).st_size != _HEADER.size + 4 * math.prod(shape):
                return None
            layout = torch.channels_last if last else torch.contiguous_format
            features = torch.empty(shape, memory_format=layout)  # torch's own memory: aligned as what it computes
            values = (features.permute(0, 2, 3, 1) if last else features).numpy()
            stream.readinto(values)
    except (OSError, struct.error):
        return None
    return features if _checksum(facts, values) == checksum else None


def _checksum(facts, values) -> int:
    return zlib.crc32(values, zlib.crc32(repr([int(value) for value in facts]).encode()))


def _network_name(backbone: nn.Module) -> str:
    """A hash of a network, all its tensors, and of what else decides the bits of its answers.

    The tensors are the backbone's, saved ones or not: mean and deviation are those of timm's tag, and two tags of one
    network, or of one file of weights, need not share them.
    """
    versions = f"{torch.__version__} {timm.__version__} {torch.get_num_threads()} fused"
    machine = f"{platform.node()} {torch.backends.cpu.get_cpu_capability()}"
    architecture = backbone.name.partition(".")[0]
    about = f"{type(backbone).__qualname__} {architecture} {backbone.net} {versions} {machine}"
    digest = hashlib.sha256(about.encode())
    for name, tensor in (*backbone.named_parameters(), *backbone.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
