"""What is special about RIAD, DDAD and MSAD: masks and edges, noise and denoising, angles around a centre."""

from dataclasses import replace
from types import SimpleNamespace

import matplotlib.figure
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import make_tree, untrained
from torch import nn

from adlib import ImageSet, InputError, Predictions, create_model, evaluate, load_model, load_samples
from adlib.detector import Detector
from adlib.figures import show_illustrations, show_predictions
from adlib.models.ddad import feature_distance, pixel_distance
from adlib.models.msad import UnitFeatures, mean_shifted_loss, random_view
from adlib.models.riad import gradient_magnitude, gradient_similarity, removed_cells
from adlib.networks.denoising_unet import denoising_unet
from adlib.samples import select

R18 = "resnet18.tv_in1k"
SMALL = {
    "riad": {"cells": (4, 8), "epochs": 3, "batch_size": 2, "width": 2, "smoothing_window": 5},
    "ddad": {
        "backbone": R18,
        "weights": "bundled",
        "width": 8,
        "multipliers": (1, 2),
        "attention": (2,),
        "heads": 2,
        "epochs": 3,
        "batch_size": 4,
        "adaptation_epochs": 1,
        "adaptation_batch_size": 4,
        "border": 4,
    },
    "msad": {"backbone": R18, "weights": "bundled", "stage": 3, "epochs": 3, "batch_size": 4, "learning_rate": 0.1},
}


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return load_samples("folder", make_tree(tmp_path_factory.mktemp("tree"), train=9, normal=2, anomalous=2))


@pytest.fixture(scope="module")
def train(samples):
    return ImageSet(select(samples, split="train"), size=32)


@pytest.fixture(scope="module")
def test(samples):
    return ImageSet(select(samples, split="test"), size=32)


@pytest.fixture(scope="module")
def fitted(train):
    """name -> the fitted method, each fitted once."""
    models = {}

    def fit(name: str):
        if name not in models:
            models[name] = create_model(name, **SMALL[name]).fit(train, device="cpu", progress=False)
        return models[name]

    return fit


def stacked(images: ImageSet) -> torch.Tensor:
    return torch.stack([images.pixels(index) for index in range(len(images))])


# All three


@pytest.mark.parametrize("name", SMALL)
def test_an_image_gets_its_score_whatever_else_is_in_the_batch(name, fitted, test, tmp_path):
    model = fitted(name)
    loaded = load_model(model.save(tmp_path / "model.safetensors"))
    batch = stacked(test)
    with torch.inference_mode():
        scores, maps = model.score_batch(batch)
        backwards = model.score_batch(batch.flip(0))[0].flip(0)
        alone = torch.cat([model.score_batch(image[None])[0] for image in batch])
        again, same_maps = loaded.score_batch(batch)
    torch.testing.assert_close(backwards, scores, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(alone, scores, rtol=1e-4, atol=1e-6)
    assert torch.equal(again, scores)
    assert (maps is None and same_maps is None) or torch.equal(maps, same_maps)


@pytest.mark.parametrize(
    ("name", "step", "call"),
    [
        ("riad", "training_losses", 5),
        ("ddad", "noise_loss", 4),
        ("ddad", "adaptation_losses", 2),
        ("msad", "loss", 5),
    ],
)
def test_interrupted_training_resumes_to_the_same_weights(name, step, call, fitted, train, tmp_path, monkeypatch):
    broken = create_model(name, **SMALL[name])
    broken.checkpoint_interval = 0
    original, calls = getattr(broken, step), []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(broken, step, interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt):
        broken.fit(train, device="cpu", progress=False, checkpoint=tmp_path / "c")
    resumed = create_model(name, **SMALL[name]).fit(train, device="cpu", progress=False, checkpoint=tmp_path / "c")
    first, second = fitted(name).state(), resumed.state()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert fitted(name).losses_ == resumed.losses_
    assert list(tmp_path.iterdir()) == []


def test_wrong_settings_are_refused(train):
    for name, settings, sentence in (
        ("riad", {"cells": ()}, "must be a list, at least one, each a whole number of at least 1"),
        ("riad", {"sets": 1}, "sets=1 must be a whole number of at least 2"),
        ("riad", {"validation_share": 1}, r"must be a number in \[0, 1\)"),
        ("riad", {"smoothing_window": 4}, "must be an odd number"),
        ("ddad", {"balance": "test"}, "balance='test' must be one of 'training', 'image', 'batch'"),
        ("ddad", {"step": 30}, "step=30 must divide 1000 and start=250"),
        ("ddad", {"start": 1000}, "which must lie below 1000"),
        ("ddad", {"stages": (2,)}, "must be two at least"),
        ("ddad", {"width": 34}, "must be a multiple of heads=4 and 32"),
        ("ddad", {"chunk": 0}, "chunk=0 must be a whole number of at least 1"),
        ("msad", {"neighbours": 0}, "neighbours=0 must be a whole number of at least 1"),
    ):
        with pytest.raises(InputError, match=sentence):
            create_model(name, **settings)
    for name, settings, sentence in (
        ("riad", {"cells": (5,)}, "multiples of 80 pixels"),
        ("ddad", {"multipliers": (1, 1, 1, 1, 1, 1, 1)}, "multiples of 64 pixels"),
        ("ddad", {"border": 16}, "border=16 leaves nothing of images of 32 x 32"),
        ("msad", {"neighbours": 99}, "neighbours=99, but there are .* training images in all"),
        ("msad", {"trained_layers": ("layer9",)}, "names none of resnet18.tv_in1k's layers conv1, .* layer3"),
    ):
        with pytest.raises(InputError, match=sentence):
            create_model(name, **SMALL[name] | settings).fit(train, device="cpu", progress=False)


def test_a_report_shows_what_a_method_makes_of_images(fitted, test):
    predictions = fitted("riad").predict(test, device="cpu", progress=False)
    figure = show_illustrations(fitted("riad"), predictions, [0, 2, 3])
    assert isinstance(figure, matplotlib.figure.Figure)
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert [title for title in titles if title] == ["image", "inpainted, cells of 4", "inpainted, cells of 8"]
    assert len(figure.axes) == 9
    (denoised,) = fitted("ddad").illustrate(stacked(test)).values()
    assert denoised.shape == (4, 3, 32, 32)
    assert show_illustrations(fitted("msad"), predictions, [0]) is None
    assert show_illustrations(fitted("riad"), predictions, []) is None


class Looking(Detector):
    """A method whose maps are the green channel, and whose illustration is what it was given."""

    name = "looking"

    def fit_images(self, images, val, progress): ...

    def score_batch(self, batch):
        return batch[:, 1].amax((1, 2)), batch[:, 1]

    def illustrate(self, batch):
        self.given = batch
        return {"given": batch}


def test_what_is_illustrated_is_what_was_scored(test):
    ddad = create_model("ddad", **SMALL["ddad"] | {"border": 2, "crop_maps": True})
    ddad.device_, ddad.fitted_, ddad.to = torch.device("cpu"), True, lambda device: None
    ddad.score_batch = lambda batch: (batch[:, 0].amax((1, 2)), batch[:, 0])
    predictions = ddad.predict(test, device="cpu", progress=False)
    looking = Looking()
    looking.device_ = torch.device("cpu")
    show_illustrations(looking, predictions, [0, 3])
    assert looking.given.equal(stacked(test)[[0, 3]])  # whole, although 28 x 28 pixels of each are judged
    assert predictions.images.shape == predictions.maps.shape[1:] == (28, 28)
    assert predictions.seen_settings == test.settings


def test_of_tiles_the_one_with_the_highest_map_is_illustrated(test):
    tiled = ImageSet(test.samples, size=64, tile=(32, 8))
    looking = Looking().fit(ImageSet(test.samples[test.samples["label"] == 0], size=64, tile=(32, 8)), device="cpu")
    predictions = looking.predict(tiled, device="cpu", progress=False)
    maps = np.zeros_like(predictions.maps)
    maps[0, 60, 3], maps[1, 2, 34] = 1, 1  # in the first tile of the last row, and in the second of the first
    figure = show_illustrations(looking, replace(predictions, maps=maps), [0, 1])
    tiles = tiled.tiles()
    assert looking.given.equal(torch.stack([tiles.pixels(6), tiles.pixels(9 + 1)]))
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles[0] == "its tile of 32 x 32 with the highest map"


# RIAD


@pytest.mark.parametrize("cell", [2, 4, 8])
def test_every_pixel_is_removed_by_one_mask(cell):
    removed = removed_cells((16, 24), cell, 3, torch.Generator().manual_seed(0))
    assert removed.shape == (3, 16, 24)
    assert (removed.sum(0) == 1).all()
    cells = removed.view(3, 16 // cell, cell, 24 // cell, cell)
    assert (cells == cells[:, :, :1, :, :1]).all()  # whole cells
    numbers = removed.sum((1, 2)) // cell**2
    assert numbers.max() - numbers.min() <= 1


def test_partitions_are_random_for_training_and_fixed_for_scoring(fitted):
    assert not torch.equal(removed_cells((32, 32), 2, 3), removed_cells((32, 32), 2, 3))
    first, second = (fitted("riad").fixed_partitions(torch.Size((32, 32))) for _ in range(2))
    assert list(first) == [4, 8]
    assert all(torch.equal(*pair) for cell in first for pair in zip(first[cell], second[cell], strict=True))


def test_no_pixel_takes_part_in_its_own_inpainting(fitted, test):
    model, batch = fitted("riad"), 2 * stacked(test) - 1
    removed = removed_cells((32, 32), 8, 3, torch.Generator().manual_seed(0))
    changed = torch.where(removed[0], torch.ones(()), batch)
    with torch.inference_mode():
        before, after = model.inpaint(batch, removed), model.inpaint(changed, removed)
    assert torch.equal(before[:, :, removed[0]], after[:, :, removed[0]])
    assert not torch.equal(before[:, :, removed[1]], after[:, :, removed[1]])


def test_gradient_magnitude_by_hand():
    """A step of 0.6 between columns 3 and 4: both columns see all of it; where the border's zeros end, a third less."""
    grey = torch.zeros(1, 1, 6, 8)
    grey[..., 4:] = 0.6
    magnitude = gradient_magnitude(grey)[0, 0]
    expected = torch.tensor([0, 0, 0, 0.6, 0.6, 0, 0, 0.6])
    torch.testing.assert_close(magnitude[2], expected, atol=2e-6, rtol=0)
    assert magnitude[0, 3] == pytest.approx(((0.6 * 2 / 3) ** 2 + (0.6 / 3) ** 2) ** 0.5)
    torch.testing.assert_close(gradient_magnitude(grey.mT)[0, 0].T, magnitude)


def test_gradient_similarity_by_hand():
    image = torch.zeros(1, 3, 16, 16)
    image[..., 8:] = 0.3
    assert all((one == 1).all() for one in gradient_similarity(image, image))
    maps = gradient_similarity(image, torch.zeros_like(image))
    assert [tuple(one.shape) for one in maps] == [(1, 16, 16), (1, 8, 8), (1, 4, 4), (1, 2, 2)]
    assert maps[0][0, 5, 8].item() == pytest.approx(0.0026 / (0.3**2 + 0.0026), rel=1e-3)
    assert maps[0][0, 5, 3] == 1


def test_inpainting_without_error_costs_nothing():
    model = create_model("riad")
    batch, removed = torch.rand(2, 3, 32, 32), removed_cells((32, 32), 4, 3)
    model.inpaint = lambda images, removed: images
    assert sum(model.losses(batch, removed).values()) == pytest.approx(0, abs=1e-6)
    model.inpaint = lambda images, removed: images + 0.5
    assert model.losses(batch, removed)["squared"] == pytest.approx(0.25)


def test_riad_keeps_the_epoch_that_inpaints_held_out_images_best(train, test, monkeypatch):
    model = create_model("riad", **SMALL["riad"] | {"validation_share": 0})
    values, weights = [3.0, 1.0, 2.0], []

    def mean_loss(images):
        assert images is test
        weights.append(model.inpainting_.out.weight.clone())
        return values[len(weights) - 1]

    monkeypatch.setattr(model, "mean_loss", mean_loss)
    model.fit(train, val=test, device="cpu", progress=False)
    assert torch.equal(model.inpainting_.out.weight, weights[1])
    assert not torch.equal(weights[1], weights[2])


# DDAD


def test_the_unet_has_the_published_size_and_starts_at_zero():
    with torch.device("meta"):  # no memory, no time
        large = denoising_unet(64, (1, 1, 2, 2, 4, 4), (8, 16, 32), heads=4, dropout=0.0)
        small = denoising_unet(32, (1, 1, 2, 2, 4, 4), (8, 16, 32), heads=2, dropout=0.3)
    assert sum(value.numel() for value in large.parameters()) == 32_952_707
    assert sum(value.numel() for value in small.parameters()) == pytest.approx(8.26e6, rel=1e-3)
    attentions = [module for module in large.modules() if type(module).__name__ == "Attention"]
    assert [module.heads for module in attentions] == 16 * [4]  # 3 levels x (2 down + 3 up) and the middle

    unet = denoising_unet(8, (1, 2), (2,), heads=2, dropout=0.0)
    assert (unet(torch.randn(2, 3, 16, 16), torch.tensor([3, 700])).sample == 0).all()


def test_noise_loss_is_summed_over_the_image():
    model = create_model("ddad", **SMALL["ddad"])
    model.seed_ = 0
    model.build("bundled")
    noise = torch.randn(2, 3, 32, 32)
    loss = model.noise_loss(torch.rand(2, 3, 32, 32), noise, torch.tensor([0, 999]))
    torch.testing.assert_close(loss, noise.square().sum((1, 2, 3)))  # an untrained UNet says 0


def test_chunks_change_the_memory_and_not_what_is_learned(train, monkeypatch):
    settings = SMALL["ddad"] | {"steps": 2, "adaptation_epochs": 0, "balance": "image"}
    gradients, make_step = {}, torch.optim.Adam.step

    def step(optimiser, *given):
        values = [value for group in optimiser.param_groups for value in group["params"]]
        gradients[chunk] = torch.cat([value.grad.flatten() for value in values])
        return make_step(optimiser, *given)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    for chunk in (4, 1, 3):
        create_model("ddad", **settings, chunk=chunk).fit(train, device="cpu", progress=False)
    for chunk in (1, 3):
        torch.testing.assert_close(
            gradients[chunk], gradients[4], rtol=1e-2, atol=1e-3 * gradients[4].abs().max().item()
        )


@pytest.mark.parametrize("conditioning", [0.0, 3.0])
def test_denoising_by_hand(conditioning):
    """Three steps, 75 to 0, against the formulas written out in double precision."""
    model = create_model("ddad", **SMALL["ddad"], start=75)
    model.seed_ = 0
    model.build("bundled")
    model.unet_ = lambda x, time: SimpleNamespace(sample=0.3 * x + time / 100)
    generator = torch.Generator().manual_seed(1)
    images, target = torch.rand(2, 2, 3, 4, 4, generator=generator)
    noise = torch.randn(4, 3, 4, 4, generator=generator)
    found = model.denoise(images, target, conditioning, noise)

    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    x = alphas[75] ** 0.5 * images.double() + (1 - alphas[75]) ** 0.5 * noise[0]
    for number, (time, before) in enumerate(((50, alphas[25]), (25, alphas[0]), (0, torch.ones(()).double())), 1):
        alpha, guess = alphas[time], 0.3 * x + time / 100
        noisy_target = alpha**0.5 * target + (1 - alpha) ** 0.5 * guess
        guess = guess - (1 - alpha) ** 0.5 * conditioning * (noisy_target - x)
        clean = (x - (1 - alpha) ** 0.5 * guess) / alpha**0.5
        sigma = ((1 - alpha / before) * (1 - before) / (1 - alpha)) ** 0.5
        x = before**0.5 * clean + sigma * noise[number] + (1 - before - sigma**2) ** 0.5 * guess
    torch.testing.assert_close(found.double(), x, rtol=1e-4, atol=1e-4)


def test_denoising_is_drawn_towards_its_target(fitted, test):
    model, batch = fitted("ddad"), 2 * stacked(test) - 1
    noise = torch.zeros(11, 3, 32, 32)
    with torch.inference_mode():
        free, drawn = (model.denoise(-batch, batch, weight, noise) for weight in (0.0, 3.0))
    assert (drawn - batch).abs().mean() < 0.5 * (free - batch).abs().mean()


def test_distances_by_hand():
    image, denoised = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    denoised[0, :, 0, 1] = torch.tensor([0.3, -0.6, 0.0])
    torch.testing.assert_close(pixel_distance(image, denoised), torch.tensor([[[0, 0.3], [0, 0]]]))
    ones = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    turned = torch.tensor([1.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    distance = feature_distance([ones, ones], [ones, turned], (8, 8))
    torch.testing.assert_close(distance, torch.full((1, 8, 8), 1 - 0.5**0.5))


def scored(balance: str, features: torch.Tensor, pixels: torch.Tensor, border: int = 0):
    model = create_model("ddad", balance=balance, border=border, smoothing=0, pixel_weight=2.0)
    model.largest_ = torch.tensor([3.0, 1.0])
    model.distances = lambda batch: (features, pixels)
    return model.score_batch(torch.zeros(len(features), 3, 4, 4))


def test_only_the_official_balance_lets_other_images_change_a_score():
    features, pixels = torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)
    features[:, 1, 1] = torch.tensor([0.5, 4.0])
    pixels[:, 1, 1] = torch.tensor([0.1, 0.2])
    together = {"training": 0.5 + 2 * 3 * 0.1, "image": 0.5 + 2 * 5 * 0.1, "batch": 0.5 + 2 * 20 * 0.1}
    for balance, expected in together.items():
        assert scored(balance, features, pixels)[0][0].item() == pytest.approx(expected)
        alone = scored(balance, features[:1], pixels[:1])[0].item()
        assert (alone == pytest.approx(expected)) == (balance != "batch")


def test_the_border_counts_in_the_map_and_not_in_the_image_score():
    features = torch.zeros(1, 4, 4)
    features[0, 0, 2], features[0, 2, 2] = 5.0, 1.0
    scores, maps = scored("training", features, torch.zeros(1, 4, 4), border=1)
    assert scores.item() == 1
    assert torch.equal(maps, features)
    assert scored("training", features, torch.zeros(1, 4, 4))[0].item() == 5


def of_red(images: ImageSet, **settings) -> Predictions:
    """What a DDAD says whose maps are the images' red channel."""
    model = create_model("ddad", smoothing=0, multipliers=(1, 2), **settings)
    model.device_, model.fitted_, model.to = torch.device("cpu"), True, lambda device: None
    model.largest_, model.distances = torch.ones(2), lambda batch: (batch[:, 0], torch.zeros_like(batch[:, 0]))
    return model.predict(images, device="cpu", progress=False)


@pytest.mark.parametrize("border", [0, 6, 12])
def test_the_border_of_tiles_is_that_of_their_image(border, test):
    """A defect on a seam counts, whether a neighbour shows it too (overlap) or not."""
    whole = ImageSet(test.samples, size=64)
    image, inside = stacked(whole)[:, 0], slice(border, 64 - border)
    for overlap in (0, 8):
        predictions = of_red(ImageSet(test.samples, size=64, tile=(32, overlap)), border=border)
        np.testing.assert_array_equal(predictions.scores, image[:, inside, inside].amax((1, 2)))
        np.testing.assert_allclose(predictions.maps, image, rtol=1e-6)


def test_maps_of_tiles_lose_the_images_border_too(test):
    for size, tile in ((32, (32, 0)), (64, (32, 8))):
        tiled = ImageSet(test.samples, size=size, tile=tile)
        predictions = of_red(tiled, border=6, crop_maps=True)
        assert predictions.maps.shape == (len(test), size - 12, size - 12)
        assert np.array_equal(predictions.masks, ImageSet(test.samples, size=size).masks()[:, 6:-6, 6:-6])
        assert evaluate(predictions)["pixel_auroc"] > 0.9
        assert predictions.seen_settings == tiled.settings


def test_a_border_must_leave_something_of_what_is_predicted_too(test):
    with pytest.raises(InputError, match="border=16 leaves nothing of images of 32 x 32"):
        of_red(test, border=16)
    with pytest.raises(InputError, match=r"tile=\[32, 0\] is what is seen at once: border=16 leaves nothing"):
        of_red(ImageSet(test.samples, size=64, tile=(32, 0)), border=16)


def test_balance_is_the_largest_distances_on_training_images(fitted, train):
    with torch.inference_mode():
        features, pixels = fitted("ddad").distances(stacked(train))
    torch.testing.assert_close(fitted("ddad").largest_, torch.stack([features.max(), pixels.max()]))


def test_adaptation_trains_the_features_and_not_the_unet(train):
    unet_only, adapted = (
        create_model("ddad", **SMALL["ddad"] | {"adaptation_epochs": epochs}).fit(train, device="cpu", progress=False)
        for epochs in (0, 1)
    )
    same = [
        torch.equal(first, second)
        for first, second in zip(unet_only.unet_.parameters(), adapted.unet_.parameters(), strict=True)
    ]
    assert all(same)
    before, after = (model.features_.net.layer1[0].conv1.weight for model in (unet_only, adapted))
    assert not torch.equal(before, after)
    assert not before.requires_grad
    assert len(adapted.adaptation_losses_) == 1


def test_untrained_features_are_kept_where_they_are(fitted, train):
    """The terms of the adaptation: nothing is lost of features that equal the frozen ones."""
    model = create_model("ddad", **SMALL["ddad"])
    model.seed_ = 0
    model.build("bundled")
    from adlib.features.backbones import Backbone

    terms = model.adaptation_losses(stacked(train)[:4], Backbone(R18, (1, 2, 3), "bundled"))
    assert terms["kept"].item() == pytest.approx(0, abs=1e-5)
    assert terms["same"].item() > 0.01


# MSAD


def test_mean_shifted_loss_by_hand():
    generator = torch.Generator().manual_seed(0)
    first, second = F.normalize(torch.randn(2, 3, 5, generator=generator), dim=2)
    centre, temperature = torch.full((5,), 0.1), 0.25
    views = [F.normalize(view - centre, dim=0) for view in [*first, *second]]
    total = 0.0
    for anchor in range(6):
        terms = {other: torch.exp(views[anchor] @ views[other] / temperature) for other in range(6) if other != anchor}
        total -= torch.log(terms[(anchor + 3) % 6] / sum(terms.values())).item()
    found = mean_shifted_loss(first, second, centre, temperature)
    assert found.item() == pytest.approx(total / 6, rel=1e-5)


def test_trained_layers_learn_and_nothing_else(train, fitted):
    before = UnitFeatures(R18, 3, "bundled", ("layer3",), 0)
    after = fitted("msad").features_
    assert not any(module.training for module in after.train().modules())
    for (key, first), second in zip(before.state_dict().items(), after.state_dict().values(), strict=True):
        learned = key.startswith("net.layer3") and key.endswith(("weight", "bias"))
        assert torch.equal(first, second) != learned, key


def test_all_layers_can_learn():
    features = UnitFeatures(R18, 3, "bundled", None, 0)
    assert all(value.requires_grad for value in features.parameters())
    unit = features(torch.rand(2, 3, 32, 32))
    assert unit.shape == (2, 256)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(2))


def test_score_is_the_sum_of_squared_distances_to_two_neighbours(fitted, test):
    model = fitted("msad")
    with torch.inference_mode():
        scores, maps = model.score_batch(stacked(test))
        cosines = (model.features_(stacked(test)) @ model.memory_bank_.T).topk(2).values
    torch.testing.assert_close(scores, 2 * (2 - cosines.sum(1)), rtol=1e-3, atol=1e-6)
    assert maps is None


def test_the_angular_option_draws_towards_a_centre_of_unit_length(train):
    settings = SMALL["msad"] | {"angular": True, "epochs": 0}
    model = untrained("msad", **settings).fit(train, device="cpu", progress=False)
    assert model.centre_.norm().item() == pytest.approx(1)
    model.view = nn.Identity()
    terms = model.loss(stacked(train)[:4])
    expected = 2 * (model.memory_bank_[:4] - model.centre_).square().sum(1).mean()
    assert terms["angular"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_views_differ_and_follow_the_seed():
    view, image = random_view((24, 24)), torch.rand(3, 32, 32)
    torch.manual_seed(0)
    first, second = view(image), view(image)
    torch.manual_seed(0)
    again = view(image)
    assert first.shape == (3, 24, 24)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_a_method_without_maps_is_evaluated_saved_and_drawn(fitted, test, tmp_path):
    predictions = fitted("msad").predict(test, device="cpu", progress=False)
    assert predictions.maps is None
    metrics = evaluate(predictions)
    assert 0 <= metrics["image_auroc"] <= 1
    for name in ("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro"):
        assert np.isnan(metrics[name])
        assert metrics["reasons"][name] == "the method gives no maps"
    loaded = Predictions.load(predictions.save(tmp_path / "predictions"))
    assert loaded.maps is None
    assert len(show_predictions(loaded, [0, 1]).axes) == 2
