"""Diffusion synthesis: one step by hand, the strength of the noise, training, and the folder that RealNet reads."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from conftest import make_tree
from pretended_cuda import gpu, is_pretended

from adlib import ImageSet, InputError, create_model, load_samples
from adlib.images import read_image
from adlib.samples import select
from adlib.synthesis import diffusion
from adlib.synthesis.diffusion import (
    denoise_step,
    denoiser,
    draw_pictures,
    fill_folder,
    noise_schedule,
    train_denoiser,
)

SMALL = {"widths": (32, 32, 32), "batch_size": 4, "average": 0.9}


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    samples = load_samples("folder", make_tree(tmp_path_factory.mktemp("tree"), train=6, size=16))
    return tuple(ImageSet(select(samples, split=split), size=16) for split in ("train", "test"))


def test_sampling_takes_twenty_steps_from_950_to_0():
    schedule = noise_schedule()
    schedule.set_timesteps(20)
    assert schedule.timesteps.tolist() == list(range(950, -1, -50))
    assert schedule.betas[0].item() == pytest.approx(1e-4)
    assert schedule.betas[-1].item() == pytest.approx(0.02)


@pytest.mark.parametrize("time", [950, 500, 50, 0])
def test_a_step_without_strength_is_that_of_the_scheduler(time):
    schedule = noise_schedule()
    schedule.set_timesteps(20)
    predicted, noisy = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(time))
    expected = schedule.step(predicted, time, noisy, generator=torch.Generator().manual_seed(5)).prev_sample
    noise = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(denoise_step(schedule, predicted, time, noisy, noise, 0.0), expected)


def test_strength_makes_the_noise_of_a_step_stronger_and_nothing_else():
    schedule = noise_schedule()
    schedule.set_timesteps(20)
    predicted, noisy, noise = torch.randn(3, 1, 3, 4, 4)
    mean = denoise_step(schedule, predicted, 500, noisy, torch.zeros_like(noise), 0.21)
    weak, strong = (denoise_step(schedule, predicted, 500, noisy, noise, s) - mean for s in (0.0, 0.21))
    torch.testing.assert_close(strong, 1.1 * weak)  # the root of 1.21
    last = [denoise_step(schedule, predicted, 0, noisy, noise, s) for s in (0.0, 0.21)]
    assert torch.equal(*last)  # the last step adds none


@pytest.mark.slow
def test_the_denoiser_learns_and_averages_its_weights(splits):
    network, losses = train_denoiser(splits[0], steps=60, learning_rate=2e-3, **SMALL, progress=False)
    assert len(losses) == 60
    assert np.mean(losses[-15:]) < 0.6 * np.mean(losses[:5])
    assert not network.training
    start = denoiser(SMALL["widths"], 0).state_dict()
    moved = [not torch.equal(value, start[key]) for key, value in network.state_dict().items()]
    assert all(moved)


@pytest.mark.slow
def test_stronger_noise_draws_pictures_that_are_further_off(splits):
    """The same noise, the same network: with strength the pictures leave those that are drawn without."""
    network, _ = train_denoiser(splits[0], steps=60, learning_rate=2e-3, **SMALL, progress=False)

    def drawn(strength):
        return np.stack([*draw_pictures(network, 4, (16, 16), (strength, strength), seed=3, progress=False)]) / 255

    normal, slight, strong = drawn(0.0), drawn(0.1), drawn(1.0)
    assert normal.shape == (4, 16, 16, 3)
    assert 0 < np.abs(slight - normal).mean() < np.abs(strong - normal).mean()


def test_a_folder_is_filled_at_once_and_realnet_pastes_from_it(splits, tmp_path):
    settings = SMALL | {"steps": 2}
    folders = [
        fill_folder(splits[0], tmp_path / name, count=5, seed=1, progress=False, **settings) for name in ("a", "b")
    ]
    files = sorted(file.name for file in folders[0].glob("*.png"))
    assert files == [f"{number:05}.png" for number in range(5)]
    pictures = [[read_image(folder / name) for name in files] for folder in folders]
    assert all(picture.shape == (16, 16, 3) for picture in pictures[0])
    assert np.array_equal(*pictures)  # same seed, same pictures
    about = json.loads((folders[0] / "synthesis.json").read_text())
    assert about["strength"] == [0.1, 0.2]
    assert about["training"]["steps"] == 2
    assert len(about["loss"]["first"]) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}

    model = create_model("realnet", synthesised=folders[0])
    assert model.warnings == []
    item = model.synthetic_images(ImageSet(splits[0].samples, size=64), 1)
    found = [entry for entry in (item[index] for index in range(6)) if entry["mask"].any()]
    assert found
    with pytest.raises(InputError, match="is there already"):
        fill_folder(splits[0], folders[0])


def test_pictures_drawn_on_a_gpu_are_those_of_the_cpu(splits, tmp_path, monkeypatch):
    images = ImageSet(splits[0].samples, size=8)
    settings = SMALL | {"batch_size": 2, "steps": 2, "count": 2, "progress": False}
    # Three steps of drawing show what twenty do: each of them is the same to the device.
    monkeypatch.setattr(diffusion, "draw_pictures", partial(draw_pictures, steps=3))
    with gpu():
        found = fill_folder(images, tmp_path / "gpu", device="cuda", **settings)
    expected = fill_folder(images, tmp_path / "cpu", device="cpu", **settings)
    for name in (f"{number:05}.png" for number in range(2)):
        there, here = read_image(found / name), read_image(expected / name)
        assert there.shape == here.shape
        if is_pretended():  # a real one rounds otherwise
            np.testing.assert_allclose(there.astype(int), here.astype(int), atol=1)


def test_wrong_calls_get_their_sentence(splits, tmp_path):
    with pytest.raises(InputError, match="learns from normal images alone"):
        fill_folder(splits[1], tmp_path / "c", progress=False)
    with pytest.raises(InputError, match="three or more multiples of 32"):
        fill_folder(splits[0], tmp_path / "d", widths=(32, 48), progress=False)
    odd = ImageSet(splits[0].samples, size=18)
    with pytest.raises(InputError, match="multiples of 4 pixels"):
        train_denoiser(odd, **SMALL, progress=False)
    assert not (tmp_path / "c").exists()
