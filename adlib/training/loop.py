"""The training loop of all methods that train a network: batches, optimiser steps, checkpoints that resume exactly.

A method brings its networks, its optimisers and a loss; `train` does the rest. Interrupted and resumed on a CPU, it
ends with the very weights of an uninterrupted run: the order of an epoch's images depends on (seed, epoch) alone, and
the checkpoint holds everything else (networks, optimisers, schedules, random numbers, sums of the running epoch).
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from adlib.detector import Detector, PixelsOnly, loader_workers
from adlib.errors import InputError
from adlib.images import ImageSet
from adlib.training.checkpoint import Checkpoint, image_set

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TrainingDiverged(RuntimeError):
    """A loss became infinite or not a number: the message names the step and the images of its batch."""


def train(
    detector: Detector,
    images: ImageSet | Dataset,
    loss: Callable | None,
    modules: dict[str, nn.Module],
    optimisers: torch.optim.Optimizer | list[torch.optim.Optimizer],
    *,
    batch_size: int,
    drop_last: bool,
    epochs: int | None = None,
    steps: int | None = None,
    update: Callable | None = None,
    schedules: list = (),
    schedule_every: str = "epoch",
    accumulate: int = 1,
    clip_norm: float | None = None,
    precision: str = "float32",
    validate: Callable[[], float] | None = None,
    on_epoch: Callable[[int, dict], bool | None] | None = None,
    stage: str = "",
    progress: bool = True,
) -> list[dict[str, float]]:
    """Train networks in place; returns the mean of every loss term over each epoch's batches.

    detector: gives the name, the seed and the device, and the file and interval of checkpoints.
    images: an ImageSet, of which batches are float [B, 3, H, W] in [0, 1] on the device; or any Dataset, of which
        batches are what its items collate to (tuple, dictionary), their tensors on the device. An item must depend on
        its index alone (and on the epoch, if the Dataset has `set_epoch`) for training to be repeatable.
    loss: batch -> scalar, or a dictionary of named terms whose sum is minimised.
    update: instead of `loss` (then None), for methods that alternate between optimisers: batch -> dictionary of terms
        to report; it does zero_grad, backward and step itself.
    modules: the trained networks by name: in train mode during an epoch, in eval mode and without gradients at the end.
    optimisers: one or several; all of them step on the gradients of the one loss.
    epochs or steps: give one. A step is one batch.
    batch_size, drop_last: whether a smaller last batch of an epoch is left out is every method's own decision, as its
        official code has it. Fewer images than batch_size make one smaller batch all the same.
    schedules: learning-rate schedules, stepped after every "epoch" or every "step" of the optimisers, as
        schedule_every says.
    accumulate: batches whose gradients add up (undivided) before the optimisers step. They are counted anew in each
        epoch, as in RD++'s official code: what an odd last batch leaves adds to the next epoch's first step, and is
        lost at the end of the training. An epoch of fewer batches steps once, at its end.
    clip_norm: the largest norm of all gradients together, or None.
    precision: "float32"; "bfloat16" or (GPU only, with loss scaling) "float16" compute `loss` in mixed precision.
    validate: called after each epoch in eval mode without gradients; the weights of the epoch with the lowest value
        are the ones that remain (`detector.chosen_epoch`, from 1). It must not look at test images.
    on_epoch: called after each epoch with its number (from 0) and mean losses; a true answer ends the training.
    stage: a name for each training of a method that trains more than once, so that each has its own checkpoint.

    Raises TrainingDiverged for a loss that is not finite, InputError for a checkpoint of another training.
    """
    if (epochs is None) == (steps is None) or (loss is None) == (update is None):
        raise ValueError("Give one of epochs and steps, and one of loss and update.")
    device = detector.device_
    if precision not in PRECISIONS or (precision == "float16" and (device.type != "cuda" or update)):
        raise InputError(
            f"precision={precision!r} must be one of {', '.join(PRECISIONS)}; float16 needs a GPU, and a method whose "
            "optimisers step together."
        )
    if len(images) == 0:
        raise InputError("There is no image to train on.")
    dataset = PixelsOnly(images) if isinstance(images, ImageSet) else images
    optimisers = list(optimisers) if isinstance(optimisers, list | tuple) else [optimisers]
    parameters = [value for one in optimisers for group in one.param_groups for value in group["params"]]
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
    order = _Order(len(dataset), batch_size, drop_last, detector.seed_)
    total = epochs * len(order) if steps is None else steps
    losses = _Losses(detector.name, dataset, order, every=1 if device.type == "cpu" else 20)
    parts = {"modules": list(modules.values()), "optimisers": optimisers, "schedules": list(schedules)}
    parts["scaler"] = [scaler]
    checkpoint = Checkpoint(detector, dataset, parts, losses, {"stage": stage, "steps": total, "batch": batch_size})
    step = checkpoint.load()
    best_value, best_weights, best_epoch = checkpoint.best

    together = min(accumulate, len(order))

    def enough(step: int) -> bool:
        """Whether the gradients of this step's batch complete a sum."""
        return (step % len(order) + 1) % together == 0

    def learn(batch) -> dict[str, torch.Tensor]:
        mixed = torch.autocast(device.type, PRECISIONS[precision]) if precision != "float32" else nullcontext()
        with mixed:
            terms = update(batch) if update else loss(batch)
        if update:
            return terms
        terms = terms if isinstance(terms, dict) else {"loss": terms}
        value = sum(terms.values())
        scaler.scale(value).backward()
        if enough(step):
            if clip_norm is not None:
                for one in optimisers:
                    scaler.unscale_(one)
                nn.utils.clip_grad_norm_(parameters, clip_norm)
            for one in optimisers:
                scaler.step(one)
            scaler.update()
            for one in optimisers:
                one.zero_grad(set_to_none=True)
        return terms if "loss" in terms else {"loss": value, **terms}

    workers = loader_workers(device)
    loader = DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=workers,
        pin_memory=workers > 0,
        persistent_workers=workers > 0,
        generator=torch.Generator().manual_seed(detector.seed_),
    )
    bar = tqdm(total=order.images(0, total), initial=order.images(0, step), unit="image", disable=not progress)
    bar.set_description(f"{detector.name} {stage or 'fit'}")
    with bar:
        while step < total and not checkpoint.finished:
            epoch = step // len(order)
            order.choose(step, total)
            if hasattr(dataset, "set_epoch"):
                dataset.set_epoch(epoch)
            for module in modules.values():
                module.train()
            for batch in loader:
                losses.add(step, learn(to_device(batch, device)))
                if schedule_every == "step" and enough(step):
                    for schedule in schedules:
                        schedule.step()
                bar.update(order.images(step, step + 1))
                bar.set_postfix(losses.last, refresh=False)
                step += 1
                if enough(step - 1) and step % len(order) and step < total:
                    checkpoint.save_if_due(step)

            means = losses.end_epoch()
            if schedule_every == "epoch":
                for schedule in schedules:
                    schedule.step()
            for module in modules.values():
                module.eval()
            if validate is not None:
                with torch.no_grad():
                    value = float(validate())
                if value < best_value:
                    best_value, best_epoch = value, epoch + 1
                    best_weights = {name: _copied(module) for name, module in modules.items()}
                    checkpoint.best = best_value, best_weights, best_epoch
            checkpoint.finished = bool(on_epoch and on_epoch(epoch, means)) or step == total
            if checkpoint.finished and best_weights:
                for name, module in modules.items():
                    module.load_state_dict(best_weights[name])
            if checkpoint.finished or enough(step - 1):  # gradients that wait for more are in no checkpoint
                checkpoint.save_if_due(step)
    for module in modules.values():
        module.eval().zero_grad(set_to_none=True)  # gradients take as much memory as the weights
    if best_weights:
        detector.chosen_epoch = best_epoch
    return losses.history


def step_schedule(
    optimiser: torch.optim.Optimizer, epochs: int, milestones: tuple[float, ...], decay: float, late: int = 0
):
    """A learning rate that is multiplied by `decay` after each of these shares of all epochs.

    late: so many epochs later (or earlier, below 0), where the official code does not drop it at a round number.
    """
    counts = [max(round(share * epochs) + late, 1) for share in milestones]
    return torch.optim.lr_scheduler.MultiStepLR(optimiser, counts, decay)


def to_device(batch, device: torch.device):
    """A batch as a DataLoader gives it (tensor, or tuple, list, dictionary of such) on the device."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)(to_device(value, device) for value in batch)
    return batch


class _Order:
    """Batches of indices, shuffled anew in each epoch from (seed, epoch) alone: a DataLoader's batch_sampler."""

    def __init__(self, count: int, batch_size: int, drop_last: bool, seed: int):
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size} must be at least 1.")
        self.count, self.seed = count, seed
        self.size = min(batch_size, count)
        self.used = count - count % self.size if drop_last else count  # images per epoch
        self.step = self.end = 0

    def __len__(self) -> int:
        return -(-self.used // self.size)

    def choose(self, step: int, total: int) -> None:
        """What the next iteration gives: the epoch of this step, from it on, and no step past the total."""
        self.step, self.end = step, min(total, (step // len(self) + 1) * len(self))

    def __iter__(self) -> Iterator[list[int]]:
        order = self._shuffled(self.step // len(self))
        for step in range(self.step, self.end):
            yield self._batch(order, step)

    def indices(self, step: int) -> list[int]:
        return self._batch(self._shuffled(step // len(self)), step)

    def images(self, first: int, last: int) -> int:
        """How many images the steps first, ..., last - 1 see."""
        return self._until(last) - self._until(first)

    def _until(self, step: int) -> int:
        epoch, done = divmod(step, len(self))
        return epoch * self.used + min(done * self.size, self.used)

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.count)

    def _batch(self, order: np.ndarray, step: int) -> list[int]:
        start = step % len(self) * self.size
        return order[start : min(start + self.size, self.used)].tolist()


class _Losses:
    """The loss terms of an epoch. They are read from a GPU every few steps only, because reading makes it wait."""

    def __init__(self, name: str, dataset: Dataset, order: _Order, every: int):
        self.name, self.dataset, self.order, self.every = name, dataset, order, every
        self.pending: list[tuple[int, dict[str, torch.Tensor]]] = []
        self.history: list[dict[str, float]] = []
        self.sums: dict[str, float] = {}
        self.count = 0
        self.last: dict[str, str] = {}

    def add(self, step: int, terms: dict[str, torch.Tensor]) -> None:
        self.pending.append((step, {name: torch.as_tensor(value).detach() for name, value in terms.items()}))
        if len(self.pending) >= self.every:
            self.read()

    def read(self) -> None:
        """Add the pending terms to the sums. Raises TrainingDiverged at the first that is not finite."""
        if not self.pending:
            return
        values = torch.stack([value.float() for _, terms in self.pending for value in terms.values()]).tolist()
        values = iter(values)
        for step, terms in self.pending:
            for name in terms:
                value = next(values)
                if not np.isfinite(value):
                    raise TrainingDiverged(self._sentence(step, name, value))
                self.sums[name] = self.sums.get(name, 0.0) + value
                self.last[name] = f"{value:.4g}"
            self.count += 1
        self.pending.clear()

    def end_epoch(self) -> dict[str, float]:
        self.read()
        self.history.append({name: value / self.count for name, value in self.sums.items()})
        self.sums, self.count = {}, 0
        return self.history[-1]

    def _sentence(self, step: int, name: str, value: float) -> str:
        samples = getattr(image_set(self.dataset), "samples", None)
        names = [str(index) if samples is None else samples["image"].iat[index] for index in self.order.indices(step)]
        return (
            f"The training of {self.name} diverged: {name} is {value} at step {step + 1} (epoch "
            f"{step // len(self.order) + 1}). Try a lower learning rate, or precision='float32'. The batch held "
            f"{', '.join(names)}."
        )


def _copied(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.detach().cpu().clone() for key, value in module.state_dict().items()}
