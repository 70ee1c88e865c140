"""EfficientAD: networks as published, the hard loss, training images, calibration, and where a teacher is from."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as tv
from conftest import make_tree, untrained, write
from safetensors.torch import save_file

from adlib import ImageSet, InputError, create_model, load_samples
from adlib.detector import joined_state
from adlib.models import efficientad
from adlib.models.efficientad import DRAWN_PENALTY, NO_PENALTY, TrainingImages, hard_loss, jittered
from adlib.networks.patch_description import (
    Autoencoder,
    ImagesAndTextures,
    PatchDescription,
    channel_statistics,
    load_teacher,
    luminance,
)
from adlib.samples import select
from adlib.synthesis import texture_source

TINY = {"width": 4, "features": 8, "weights": "random", "steps": 3}
DISTILLED = TINY | {"weights": "bundled", "backbone": "resnet18.tv_in1k", "distill_steps": 3, "distill_batch": 2}


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return load_samples("folder", make_tree(tmp_path_factory.mktemp("tree"), train=6))


@pytest.fixture(scope="module")
def train(samples):
    return ImageSet(select(samples, split="train"), size=64)


@pytest.fixture(scope="module")
def normal(samples):
    test = select(samples, split="test")
    return ImageSet(test[test["label"] == 0].reset_index(drop=True), size=64)


def fit(images, val=None, **settings):
    return untrained("efficientad", **TINY | settings).fit(images, val=val, device="cpu", progress=False)


# Networks


@pytest.mark.parametrize(("network", "millions"), [("small", 8.06), ("medium", 20.74)])
def test_networks_of_256_pixels_are_the_published_ones(network, millions):
    with torch.device("meta"):  # shapes without memory and time
        teacher, student = PatchDescription(network, 384), PatchDescription(network, 768)
        autoencoder, images = Autoencoder((256, 256), 384), torch.empty(1, 3, 256, 256)
        assert teacher(images).shape == autoencoder(images).shape == (1, 384, 56, 56)
        assert student(images).shape == (1, 768, 56, 56)
        assert teacher(images, padded=True).shape == (1, 384, 64, 64)
    assert autoencoder.encoder[-1].kernel_size == (8, 8)
    assert [side[0] for side in autoencoder.sides] == [3, 8, 15, 32, 63, 127]
    values = [value.numel() for network in (teacher, student, autoencoder) for value in network.parameters()]
    assert sum(values) == pytest.approx(1e6 * millions, rel=1e-3)


@pytest.mark.parametrize("network", ["small", "medium"])
def test_a_patch_is_33_pixels_wide_and_lies_where_the_framed_map_shows_it(network):
    torch.manual_seed(0)
    teacher = PatchDescription(network, 8, width=4)
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    teacher(image)[0, :, 2, 5].square().sum().backward()
    for axis, cell in ((2, 2), (1, 5)):
        seen = image.grad[0].abs().sum(0).sum(axis - 1).nonzero().flatten()
        assert (seen.min(), seen.max()) == (4 * cell, 4 * cell + 32)
        shown = torch.zeros(1, 1, 8, 8)
        shown[..., cell, :] = 1
        model = create_model("efficientad", **TINY)
        rows = model.framed(shown, (64, 64))[0, 0].sum(1)
        centre = (rows * torch.arange(64)).sum() / rows.sum()
        assert abs(centre - seen.float().mean()) < 2


def test_a_random_pixel_at_the_border_never_reaches_the_unpadded_map_of_its_far_side():
    torch.manual_seed(0)
    teacher, image = PatchDescription("small", 8, width=4), torch.rand(1, 3, 64, 64)
    other = image.clone()
    other[..., 0] = 1 - other[..., 0]
    difference = (teacher(image) - teacher(other)).abs().amax((0, 1, 2))
    assert difference[0] > 0
    assert not difference[1:].any()  # the second column of patches begins at pixel 4


# Loss


def test_hard_loss_keeps_the_values_from_the_quantile_on():
    values = torch.arange(1.0, 1001).view(1, 10, 10, 10)
    assert hard_loss(values, 0.999) == 1000
    assert hard_loss(values, 0.99) == torch.arange(991.0, 1001).mean()
    assert hard_loss(values, 0) == values.mean()


def test_hard_loss_is_the_official_one_of_each_image():
    values = torch.rand(2, 8, 14, 14, generator=torch.Generator().manual_seed(0))
    official = [one[one >= torch.quantile(one, 0.999)].mean() for one in values]
    torch.testing.assert_close(hard_loss(values, 0.999), torch.stack(official).mean())


def test_each_loss_teaches_whom_it_should(train):
    model = fit(train, steps=0)
    for module in model.networks().values():
        module.train()
    batch = {key: value[None] for key, value in TrainingImages(train, texture_source(), 0)[0].items()}
    learners = {"student": model.student_, "autoencoder": model.autoencoder_}
    taught = {}
    for name in ("hard", "penalty", "autoencoder", "student of autoencoder"):
        for module in learners.values():
            module.zero_grad()
        model.losses(batch)[name].backward()
        half = model.student_.conv4.weight.grad
        halves = () if half is None else tuple(bool(part.any()) for part in half.split(8))
        taught[name] = halves, model.autoencoder_.encoder[0].weight.grad is not None
    assert taught == {
        "hard": ((True, False), False),
        "penalty": ((True, False), False),
        "autoencoder": ((), True),
        "student of autoencoder": ((False, True), True),
    }
    assert all(value.grad is None for value in model.teacher_.parameters())


def test_losses_compare_what_they_should(train):
    model = fit(train, steps=0)
    batch = {key: value[None] for key, value in TrainingImages(train, texture_source(), 0)[0].items()}
    batch["jittered"] = 0.8 * batch["image"]  # grey images may be left as they are: their saturation is none
    student, teacher, rebuilt = model.student_, model.said_by_teacher, model.autoencoder_(batch["jittered"])
    expected = {
        "hard": hard_loss((student(batch["image"])[:, :8] - teacher(batch["image"])).square(), 0.999),
        "penalty": student(batch["penalty"])[:, :8].square().mean(),
        "autoencoder": (rebuilt - teacher(batch["jittered"])).square().mean(),
        "student of autoencoder": (rebuilt - student(batch["jittered"])[:, 8:]).square().mean(),
    }
    torch.testing.assert_close(model.losses(batch), expected)


# Training images


def test_jitter_is_one_of_brightness_contrast_and_saturation():
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    adjust = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation)
    seen = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        kind, factor = rng.integers(3), rng.uniform(0.8, 1.2)
        seen.add(int(kind))
        expected = adjust[kind](image, factor)
        torch.testing.assert_close(jittered(image, np.random.default_rng(seed)), expected, rtol=0, atol=2e-3)
    assert seen == {0, 1, 2}


def test_training_images_depend_on_seed_epoch_and_index_alone(train):
    first, second = (TrainingImages(train, texture_source(), seed=4) for _ in range(2))
    second[1]
    for key, value in first[0].items():
        assert value.shape == (3, 64, 64)
        assert value.min() >= 0 and value.max() <= 1
        assert torch.equal(value, second[0][key])
    second.set_epoch(1)
    assert torch.equal(first[0]["image"], second[0]["image"])
    assert not torch.equal(first[0]["jittered"], second[0]["jittered"])
    assert not torch.equal(first[0]["penalty"], second[0]["penalty"])
    assert set(TrainingImages(train, None, seed=4)[0]) == {"image", "jittered"}


def test_a_penalty_folder_shows_the_middle_of_its_pictures_three_in_ten_grey(train, tmp_path):
    picture = np.zeros((128, 128, 3), np.uint8)
    picture[..., 2] = np.arange(128)  # red in OpenCV's order
    write(tmp_path / "pictures" / "deep" / "ramp.png", picture)
    images = TrainingImages(train, texture_source(tmp_path / "pictures"), seed=0)
    shown = [images.penalty(np.random.default_rng(seed)) for seed in range(200)]
    grey = [bool(torch.equal(one[0], one[1])) for one in shown]
    assert 0.2 < np.mean(grey) < 0.4
    coloured = shown[grey.index(False)]
    torch.testing.assert_close(coloured[0, 0] * 255, torch.arange(32.0, 96))
    torch.testing.assert_close(shown[grey.index(True)][2], luminance(coloured)[0])


# Statistics and calibration


def test_channel_statistics_are_the_population_ones_of_all_batches():
    values = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    values[:, 2] = 0.5
    mean, std = channel_statistics(values.split(2))
    torch.testing.assert_close(mean.flatten(), values.mean((0, 2, 3)))
    torch.testing.assert_close(std.flatten()[:2], values.std((0, 2, 3), correction=0)[:2])
    assert std.flatten()[2] == 1  # a channel that never changes is left as it is


def test_maps_are_calibrated_on_val_and_the_teacher_on_all_training_images(train, normal):
    model = fit(train, val=normal)
    said = model.teacher_(torch.stack([train.pixels(index) for index in range(len(train))]))
    torch.testing.assert_close(model.statistics_[0].flatten(), said.mean((0, 2, 3)))
    with torch.no_grad():
        maps = model.differences(torch.stack([normal.pixels(index) for index in range(len(normal))]))
    for kind in range(2):
        expected = torch.quantile(maps[:, kind], torch.tensor([0.9, 0.995]))
        torch.testing.assert_close(model.quantiles_[:, kind], expected)
        levels = model.calibrated(model.quantiles_.view(2, 2, 1, 1))[:, kind].flatten()
        torch.testing.assert_close(levels, torch.tensor([0.0, 0.1]))


def test_without_val_a_tenth_of_the_images_is_held_out(train, monkeypatch):
    seen = {}

    def recorded(name, images):
        seen[name] = set(images.samples["image"])

    original = efficientad.TrainingImages
    monkeypatch.setattr(
        efficientad, "TrainingImages", lambda images, *rest: (recorded("train", images), original(images, *rest))[1]
    )
    model = create_model("efficientad", **TINY)
    quantiles = model.map_quantiles
    monkeypatch.setattr(
        model, "map_quantiles", lambda images, progress: (recorded("val", images), quantiles(images, progress))[1]
    )
    model.fit(train, device="cpu", progress=False)
    assert len(seen["val"]) == 1  # of six
    assert seen["train"] | seen["val"] == set(train.samples["image"])
    assert not seen["train"] & seen["val"]


def test_the_frame_is_at_the_level_of_the_low_quantile_or_of_no_difference(train):
    """Unofficial code: the frame comes after calibration, and says 0. anomalib: before, and says what 0 becomes."""
    batch = train.pixels(0)[None]
    grid, image = fit(train), fit(train, calibration="image")
    scores, maps = grid.score_batch(batch)
    assert not maps[0, :14].any() and maps[0, 20].any()
    inner = grid.calibrated(grid.differences(batch)).mean(1, keepdim=True)
    torch.testing.assert_close(maps, F.interpolate(F.pad(inner, (4, 4, 4, 4)), scale_factor=4, mode="bilinear")[:, 0])
    assert scores == maps.max()
    low, high = image.quantiles_
    frame = (-0.1 * low / (high - low)).mean()
    torch.testing.assert_close(image.score_batch(batch)[1][0, :14], frame.expand(14, 64))


# Where the teacher is from


def test_a_teacher_is_read_under_its_own_and_under_other_names(tmp_path):
    torch.manual_seed(0)
    for network, numbers in (("small", (0, 3, 6, 8)), ("medium", (0, 3, 6, 8, 10, 12))):
        source = PatchDescription(network, 8, width=4)
        own = source.state_dict()
        sequential = {
            f"{number}.{kind}": own[f"conv{place}.{kind}"]
            for place, number in enumerate(numbers, start=1)
            for kind in ("bias", "weight")
        }
        save_file({key: value.contiguous() for key, value in own.items()}, tmp_path / "own.safetensors")
        torch.save(sequential, tmp_path / "sequential.pth")
        for name in ("own.safetensors", "sequential.pth"):
            teacher = PatchDescription(network, 8, width=4)
            origin = load_teacher(teacher, tmp_path / name)
            assert all(torch.equal(value, own[key]) for key, value in teacher.state_dict().items())
            assert origin["file"] == str(tmp_path / name) and len(origin["sha256"]) == 64
    with pytest.raises(InputError, match="is not of this teacher: its weight tensors have shapes"):
        load_teacher(PatchDescription("small", 8, width=4), tmp_path / "own.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="cannot be read as the weights of a teacher"):
        load_teacher(PatchDescription("small", 8), tmp_path / "broken.safetensors")
    with pytest.raises(InputError, match="does not exist; `adlib distill` makes one"):
        load_teacher(PatchDescription("small", 8), tmp_path / "none.safetensors")


def test_a_pickled_object_is_not_a_teacher(tmp_path):
    torch.save(PatchDescription("small", 8, width=4), tmp_path / "whole.pth")
    with pytest.raises(InputError, match="cannot be read as the weights of a teacher"):
        load_teacher(PatchDescription("small", 8, width=4), tmp_path / "whole.pth")


def test_the_teacher_is_looked_for_by_its_name(train, tmp_path, monkeypatch):
    monkeypatch.setenv("ADLIB_WEIGHTS", str(tmp_path))
    with pytest.raises(InputError, match=r"no efficientad_teacher_medium.safetensors.*`adlib distill --network medium"):
        fit(train, network="medium", weights="pretrained")
    torch.manual_seed(5)
    source = PatchDescription("medium", 8, width=4).state_dict()
    file = tmp_path / "efficientad_teacher_medium.safetensors"
    save_file({key: value.contiguous() for key, value in source.items()}, file)
    for settings in ({"weights": "pretrained"}, {"teacher": file}):
        model = fit(train, network="medium", **settings)
        assert all(torch.equal(value, source[key]) for key, value in model.teacher_.state_dict().items())
        assert model.origin["file"] == str(file)
        assert not any("eacher" in text or "andom" in text for text in model.warnings)


def test_a_teacher_can_be_distilled_while_fitting(train):
    model, untrained = fit(train, **DISTILLED), fit(train)
    assert model.origin["kind"] == "distilled" and model.origin["steps"] == 3
    assert model.origin["from"]["kind"] == "bundled" and model.origin["textures"] == "procedural"
    assert not torch.equal(model.teacher_.conv1.weight, untrained.teacher_.conv1.weight)
    assert not any(value.requires_grad for value in model.teacher_.parameters())
    assert fit(train, **DISTILLED | {"penalty": "off"}).origin["textures"] == "off"


@pytest.mark.parametrize("settings", [{}, {"crop": 48}])
def test_a_teacher_is_distilled_from_what_is_seen_at_twice_its_size(settings, train):
    """A tile is cut out of the enlarged image, not a quarter of it and not an enlarged tile."""
    images = ImageSet(train.samples, size=64, tile=(32, 8), **settings)
    tiles, whole = images.tiles(), ImagesAndTextures(ImageSet(train.samples, size=64, **settings), None)
    pictures = ImagesAndTextures(tiles, None)
    assert pictures.shape == (64, 64) and len(pictures) == len(tiles) > len(train)
    for index, place in enumerate(tiles.samples["tile"]):
        top, left = (2 * int(part) for part in place.split())
        image = whole(index // (len(tiles) // len(train)), np.random.default_rng(0))
        assert pictures(index, np.random.default_rng(0)).equal(image[:, top : top + 64, left : left + 64])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, [DRAWN_PENALTY]),
        ({"penalty": "off"}, [NO_PENALTY]),
        ({"penalty": "photographs"}, []),
        ({"weights": "random", "penalty": "off"}, ["Random weights", NO_PENALTY]),
        ({"weights": "bundled", "penalty": "photographs"}, ["Bundled weights", "Teacher: distilled in 500 steps from"]),
        ({"distill_steps": 9}, ["Teacher: distilled in 9 steps from wide_resnet101_2.tv_in1k", DRAWN_PENALTY]),
        ({"teacher": "t.safetensors", "weights": "bundled"}, [DRAWN_PENALTY]),
        ({"distill_steps": 0, "weights": "bundled"}, [DRAWN_PENALTY]),  # a file is looked for
    ],
)
def test_warnings_say_what_differs_from_the_paper(settings, said):
    warnings = create_model("efficientad", **settings).warnings
    assert len(warnings) == len(said)
    assert all(text.startswith(start) for text, start in zip(warnings, said, strict=True))


# Fitting


@pytest.mark.parametrize("stopped", [2, 5])
def test_interrupted_fitting_resumes_to_the_same_weights(stopped, train, tmp_path, monkeypatch):
    """Stopped in the distillation, and in the training behind it."""
    settings = DISTILLED | {"steps": 4}
    whole = fit(train, **settings)
    broken, calls = create_model("efficientad", **settings), []
    broken.checkpoint_interval = 0
    forward = PatchDescription.forward

    def interrupted(self, x, padded=False):
        calls.append(self.training)
        if sum(calls) == stopped:  # calls in training: of the teacher while it is distilled, then of the student
            raise KeyboardInterrupt
        return forward(self, x, padded)

    monkeypatch.setattr(PatchDescription, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        broken.fit(train, device="cpu", progress=False, checkpoint=tmp_path / "c")
    assert list(tmp_path.iterdir())
    monkeypatch.setattr(PatchDescription, "forward", forward)
    resumed = create_model("efficientad", **settings)
    resumed.fit(train, device="cpu", progress=False, checkpoint=tmp_path / "c")
    first, second = whole.state(), resumed.state()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not list(tmp_path.iterdir())


def test_it_trains_in_mixed_precision_and_in_larger_batches(train):
    model = fit(train, precision="bfloat16", batch_size=3, steps=30, learning_rate=1e-3)
    assert model.losses_[-1]["loss"] < 0.9 * model.losses_[0]["loss"]
    assert model.score_batch(train.pixels(0)[None])[1].dtype == torch.float32


def test_the_learning_rate_falls_at_95_percent(train, monkeypatch):
    rates = []
    step = torch.optim.Adam.step
    monkeypatch.setattr(
        torch.optim.Adam, "step", lambda self, *a: (rates.append(self.param_groups[0]["lr"]), step(self, *a))[1]
    )
    fit(train, steps=20)
    assert rates == pytest.approx([1e-4] * 19 + [1e-5])


def test_oblong_images_and_other_sides(samples, train):
    oblong = ImageSet(select(samples, split="train"), size=(64, 96))
    model = fit(oblong)
    assert model.predict(oblong, device="cpu", progress=False).maps.shape == (6, 64, 96)
    with pytest.raises(InputError, match="was fitted on images of 64 x 96 pixels; these have 64 x 64"):
        model.predict(train, device="cpu", progress=False)
    for size in (80, 32):
        with pytest.raises(InputError, match=f"multiples of 32 pixels, from 64 on; the images are {size} x {size}"):
            fit(ImageSet(select(samples, split="train"), size=size))


def test_loaded_it_keeps_size_statistics_and_quantiles(train):
    model = fit(train)
    other = create_model("efficientad", **TINY)
    other.seed_ = 9
    other.set_state(model.state())
    batch = train.pixels(0)[None]
    assert torch.equal(model.score_batch(batch)[1], other.score_batch(batch)[1])
    assert joined_state(other.networks()).keys() < model.state().keys()


def test_wrong_settings_are_refused(train, tmp_path):
    for settings, sentence in (
        ({"network": "large"}, "network='large' must be 'small' or 'medium'"),
        ({"calibration": "map"}, "calibration='map' must be 'grid' or 'image'"),
        ({"teacher": "t.safetensors", "distill_steps": 5}, "a teacher has one origin"),
        ({"hard_share": 1}, r"hard_share=1 must be a number in \[0, 1\)"),
        ({"low": 0.9, "high": 0.5}, "low=0.9 and high=0.5 must be quantiles"),
    ):
        with pytest.raises(InputError, match=sentence):
            create_model("efficientad", **settings)
    with pytest.raises(InputError, match="There is no folder of textures at"):
        fit(train, penalty=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="holds no pictures"):
        fit(train, penalty=str(tmp_path))
