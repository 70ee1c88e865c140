"""Diffusion synthesis: pictures of slightly abnormal objects from a denoiser of normal ones (SDAS of RealNet).

Zhang, Xu, Zhou, "RealNet: A Feature Selection Network with Realistic Synthetic Anomaly for Anomaly Detection", CVPR
2024, arXiv 2403.05897. A denoising diffusion model (Ho et al., NeurIPS 2020) learns the normal images. Sampling in 20
steps, each step's noise is made stronger by sqrt(1 + s): s = 0 draws normal objects, s of 0.1 to 0.2 objects that are a
little off, parts of which RealNet then pastes into normal images.

    from adlib.synthesis.diffusion import fill_folder
    fill_folder(images, "synthesised", steps=20_000)
    model = adlib.create_model("realnet", synthesised="synthesised")

Smaller than the paper's by far, and not it: the official model is one class-conditional UNet for all categories of a
dataset, of 256 channels at 256 pixels with learned variances, started from a model of ImageNet and trained for two days
on four A40; its code adds guidance by a classifier. Here one unconditional UNet learns one set of images from random
weights, with the posterior's fixed variance, and nothing guides it. Schedule (1000 steps, linear), the 20 steps of
sampling, Adam, clipping at 1 and the strength are the official ones; widths, steps, batch and averaging are ours.

Cost, measured on one core of a busy machine: the default network (18.5 million parameters) on 64 pixels takes 5 s for a
step on 16 images and 2 s for a picture, so that its 20,000 steps are a GPU's work.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DModel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from adlib.errors import InputError
from adlib.images import ImageSet


def noise_schedule() -> DDPMScheduler:
    """1000 steps, beta linear from 0.0001 to 0.02, the network predicts the noise."""
    return DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", variance_type="fixed_small")


def denoiser(widths: tuple[int, ...], seed: int) -> UNet2DModel:
    """float [B, 3, H, W] in [-1, 1] and steps [B] -> the noise in it. Sides must be multiples of 2^(levels - 1).

    widths: channels per level, multiples of 32, each level half the size of the one before. Two residual blocks per
    level; attention on the deepest two.
    """
    if len(widths) < 3 or any(width < 32 or width % 32 for width in widths):
        raise InputError(f"widths={tuple(widths)} must be three or more multiples of 32.")
    plain = len(widths) - 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DModel(
            block_out_channels=tuple(widths),
            down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",) * 2,
            up_block_types=("AttnUpBlock2D",) * 2 + ("UpBlock2D",) * plain,
            attention_head_dim=32,
        )


def train_denoiser(
    images: ImageSet,
    steps: int = 20_000,
    batch_size: int = 16,
    learning_rate: float = 1e-4,
    widths: tuple[int, ...] = (64, 128, 128, 256),
    average: float = 0.999,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = True,
) -> tuple[UNet2DModel, list[float]]:
    """Learn what normal images look like: the network with averaged weights, and the loss of every step.

    images: normal ones; their size is that of the pictures drawn later. average: how much of the running average of
    the weights stays at each step; it should cover a small part of the steps. Loss: mean squared error of the noise.
    """
    if len(images) == 0 or (images.labels == 1).any():
        raise InputError("A denoiser learns from normal images alone, and from at least one.")
    if any(side % 2 ** (len(widths) - 1) for side in images.shape):
        raise InputError(f"Sides must be multiples of {2 ** (len(widths) - 1)} pixels; the images are {images.shape}.")
    network, schedule = denoiser(widths, seed).to(device).train(), noise_schedule()
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(average))
    optimiser = torch.optim.Adam(network.parameters(), learning_rate, fused=True)
    random = torch.Generator().manual_seed(seed)
    losses = []
    for _ in tqdm(range(steps), desc="denoiser", unit="step", disable=not progress):
        chosen = torch.randint(len(images), (batch_size,), generator=random).tolist()
        clean = 2 * torch.stack([images.pixels(index) for index in chosen]) - 1
        noise = torch.randn(clean.shape, generator=random)
        times = torch.randint(1000, (batch_size,), generator=random)
        noisy = schedule.add_noise(clean, noise, times).to(device)
        loss = F.mse_loss(network(noisy, times.to(device)).sample, noise.to(device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        averaged.update_parameters(network)
        losses.append(loss.detach())
    return averaged.module.eval(), torch.stack(losses).tolist() if losses else []


def denoise_step(
    schedule: DDPMScheduler, predicted: torch.Tensor, time: int, noisy: torch.Tensor, noise: torch.Tensor, strength
) -> torch.Tensor:
    """One ancestral step back, its noise times sqrt(1 + strength); with strength 0 the step of Ho et al., eqs. 6 and 7.

    predicted: the noise that the network sees in `noisy`; noise: the step's own, not used in the last one.
    """
    before = int(schedule.previous_timestep(time))
    kept, kept_before = schedule.alphas_cumprod[time], schedule.alphas_cumprod[before] if before >= 0 else 1.0
    beta = 1 - kept / kept_before
    clean = ((noisy - (1 - kept) ** 0.5 * predicted) / kept**0.5).clamp(-1, 1)
    mean = kept_before**0.5 * beta / (1 - kept) * clean + (1 - beta) ** 0.5 * (1 - kept_before) / (1 - kept) * noisy
    if time == 0:
        return mean
    return mean + ((1 - kept_before) / (1 - kept) * beta * (1 + strength)) ** 0.5 * noise


@torch.no_grad()
def draw_pictures(
    network: UNet2DModel,
    count: int,
    shape: tuple[int, int],
    strength: tuple[float, float] = (0.1, 0.2),
    steps: int = 20,
    batch_size: int = 16,
    seed: int = 0,
    progress: bool = True,
) -> Iterator[np.ndarray]:
    """Pictures from pure noise, uint8 [H, W, 3] RGB, one after the other.

    shape: (H, W). strength: range of s, drawn anew for each batch; (0, 0) for normal objects. steps: of sampling.
    """
    device, schedule = next(network.parameters()).device, noise_schedule()
    schedule.set_timesteps(steps)
    random = torch.Generator().manual_seed(seed)
    with tqdm(total=count, desc="pictures", unit="image", disable=not progress) as bar:
        for first in range(0, count, batch_size):
            size = (min(batch_size, count - first), 3, *shape)
            extra = strength[0] + (strength[1] - strength[0]) * torch.rand((), generator=random).item()
            pictures = torch.randn(size, generator=random).to(device)
            for time_step in schedule.timesteps.tolist():
                noise = torch.randn(size, generator=random).to(device)
                predicted = network(pictures, time_step).sample
                pictures = denoise_step(schedule, predicted, time_step, pictures, noise, extra)
            for picture in (pictures.cpu().clamp(-1, 1) + 1) / 2 * 255:
                yield picture.round().byte().permute(1, 2, 0).numpy()
                bar.update()


def fill_folder(
    images: ImageSet,
    folder: str | Path,
    count: int = 256,
    strength: tuple[float, float] = (0.1, 0.2),
    seed: int = 0,
    device: str = "cpu",
    progress: bool = True,
    **training,
) -> Path:
    """Train a denoiser on normal images and fill a new folder with pictures for `realnet(synthesised=folder)`.

    count: pictures; the official default is 256, the published results had 10,000 per category. training: of
    `train_denoiser`. Beside the pictures lies synthesis.json: settings, losses, seconds. The folder appears when all is
    done. Raises InputError if it is there already.
    """
    folder = Path(folder)
    if folder.exists():
        raise InputError(f"{folder} is there already: give the name of a new folder.")
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    network, losses = train_denoiser(images, seed=seed, device=device, progress=progress, **training)
    trained = time.perf_counter()
    pictures = draw_pictures(network, count, images.shape, strength, seed=seed + 1, progress=progress)
    for number, picture in enumerate(pictures):
        encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
        (partial / f"{number:05}.png").write_bytes(encoded.tobytes())
    about = {"count": count, "strength": list(strength), "seed": seed, "training": training, "images": images.settings}
    about["seconds"] = {"train": round(trained - start, 1), "draw": round(time.perf_counter() - trained, 1)}
    about["loss"] = {"first": losses[:10], "last": losses[-10:]}
    (partial / "synthesis.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    partial.replace(folder)
    return folder
