"""GANomaly, f-AnoGAN, the surrogate of IAD + inpainting: losses by hand, alternation, patches, collapse, resuming."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import make_tree, untrained
from torch import nn

from adlib import ImageSet, InputError, create_model, load_model, load_samples
from adlib.models import fanogan, ganomaly, iad_inpainting
from adlib.runs import Run
from adlib.samples import select
from adlib.synthesis import SyntheticImages
from adlib.training.adversarial import COLLAPSED, diversity, signed, spread, unsigned

SMALL = {
    "ganomaly": {"width": 4, "code": 8, "epochs": 2, "batch_size": 2},
    "fanogan": {"width": 2, "code": 4, "gan_steps": 7, "critic_steps": 3, "encoder_steps": 3, "batch_size": 2},
    "iad_inpainting": {"width": 4, "code": 8, "epochs": 2, "inpainting_epochs": 2, "batch_size": 2},
}
METHODS = list(SMALL)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return make_tree(tmp_path_factory.mktemp("tree"), train=4, normal=2, anomalous=2)


@pytest.fixture(scope="module")
def splits(tree):
    samples = load_samples("folder", tree)
    return tuple(ImageSet(select(samples, split=split), size=64) for split in ("train", "test"))


def fit(name: str, images: ImageSet, **changes):
    return untrained(name, **SMALL[name] | changes).fit(images, device="cpu", progress=False)


def millions(module: nn.Module) -> float:
    return round(sum(value.numel() for value in module.parameters()) / 1e6, 2)


# All three


def test_networks_have_the_published_sizes():
    with torch.device("meta"):
        colour = ganomaly.Generator(3, 64, 256, 100)
        assert [millions(part) for part in (colour.encoder, colour.decoder, colour.again)] == [47.98, 47.98, 47.98]
        assert millions(ganomaly.Encoder(3, 64, 256, 1)) == 44.74
        assert [millions(ganomaly.Generator(1, 64, 64, 100)), millions(ganomaly.Encoder(1, 64, 64, 1))] == [10.72, 2.76]
        assert millions(ganomaly.Generator(1, 64, 256, 100, shared=True)) == 95.96
        patches = [fanogan.Generator(1, 64, 128, nn.BatchNorm2d), fanogan.Trunk(1, 64, 1, fanogan.LayerNorm)]
        patches.append(fanogan.Trunk(1, 64, 128, nn.BatchNorm2d))
        assert [millions(network) for network in patches] == [8.54, 7.49, 8.53]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_of_more_weights_than_values_is_one_product_and_the_same(layout, monkeypatch):
    convolution = ganomaly.Halving(48, 96).to(memory_format=layout)
    images = torch.randn(2, 48, 4, 4, requires_grad=True)
    asked = []
    monkeypatch.setattr(ganomaly.F, "linear", lambda *given: asked.append(1) or torch._C._nn.linear(*given))
    found = {}
    for many in (math.inf, 0):
        monkeypatch.setattr(ganomaly, "MANY", many)
        output = convolution(images)
        found[many] = [output, *torch.autograd.grad(output.square().sum(), [images, convolution.weight])]
    assert len(asked) == 1
    for one, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(one, other)


def test_images_are_seen_between_minus_one_and_one():
    images = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    assert signed(images, 3).flatten().tolist() == [1, -1, -1]
    assert signed(images, 1).item() == pytest.approx(2 * 0.299 - 1)
    grey = torch.rand(2, 1, 4, 4)
    torch.testing.assert_close(signed(grey.expand(2, 3, 4, 4), 1), 2 * grey - 1)
    torch.testing.assert_close(unsigned(signed(grey.expand(2, 3, 4, 4), 1)), grey.expand(2, 3, 4, 4))
    torch.testing.assert_close(unsigned(signed(images, 3)), images)


def test_spread_by_hand_and_without_noise():
    flat = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 8, 8)
    assert spread(flat) == pytest.approx(1)
    assert diversity(flat / 4, flat) == pytest.approx(1 / 4)
    assert diversity(flat[:1].repeat(5, 1, 1, 1), flat) == 0
    assert math.isnan(diversity(flat, flat[:1]))  # one real image
    noise = torch.randn(200, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert spread(noise) == pytest.approx(1 / 4, rel=0.05)  # means of 16 values


@pytest.mark.parametrize("name", METHODS)
def test_collapse_is_said_and_survives_saving(name, splits, tmp_path, monkeypatch):
    def collapsed(model) -> list[str]:
        return [text for text in model.warnings if text.startswith("Collapsed")]

    assert collapsed(create_model(name)) == []  # nothing is fitted yet
    module = fanogan if name == "fanogan" else ganomaly
    monkeypatch.setattr(module, "diversity", lambda generated, real: COLLAPSED)
    assert collapsed(fit(name, splits[0])) == []
    monkeypatch.setattr(module, "diversity", lambda generated, real: 0.034)
    model = fit(name, splits[0])
    assert "varies 3.4% as much as the training images" in collapsed(model)[0]
    assert load_model(model.save(tmp_path / "model.safetensors")).warnings == model.warnings


def test_a_generator_that_ignores_its_input_has_collapsed(splits):
    """GANomaly without any training step, its decoder's last layer at zero: every reconstruction is grey."""
    model = fit("ganomaly", splits[0], epochs=0)
    nn.init.zeros_(model.generator_.decoder[-2].weight)
    assert model.diversity(splits[0]) == 0
    with torch.no_grad():  # and one that gives back what it sees has not
        model.generator_.forward = lambda x: (x, None, None)
        assert model.diversity(splits[0]) == 1


INTERRUPTED = {  # module, function that a step calls once, calls until it fails, finished stages
    "ganomaly": (ganomaly, "adversarial_step", 4, []),
    "fanogan": (fanogan, "gradient_penalty", 6, []),  # after five steps of the critic and one of the generator
    "iad_inpainting": (iad_inpainting, "adversarial_step", 7, ["reconstruction"]),
}


@pytest.mark.parametrize("name", METHODS)
def test_interrupted_training_resumes_to_the_same_weights(name, splits, tmp_path, monkeypatch):
    whole = fit(name, splits[0])
    module, function, failing, stages = INTERRUPTED[name]
    original, calls = getattr(module, function), []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == failing:
            raise KeyboardInterrupt
        return original(*arguments)

    broken = create_model(name, **SMALL[name])
    broken.checkpoint_interval = 0
    with monkeypatch.context() as patch:
        patch.setattr(module, function, interrupted)
        with pytest.raises(KeyboardInterrupt):
            broken.fit(splits[0], device="cpu", progress=False, checkpoint=tmp_path / "c")
    written = [file.name for file in tmp_path.iterdir()]
    assert all(f"c.stage-{stage}" in written for stage in stages)
    torch.rand(5)  # a new process has other random numbers
    resumed = create_model(name, **SMALL[name])
    resumed.fit(splits[0], device="cpu", progress=False, checkpoint=tmp_path / "c")
    first, second = whole.state(), resumed.state()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert whole.losses_ == resumed.losses_
    assert not list(tmp_path.iterdir())


def test_wrong_settings_are_refused(splits):
    for name, settings, sentence in (
        ("ganomaly", {"channels": 2}, "must be 1"),
        ("fanogan", {"image_score": "sum"}, "must be 'max' or 'mean'"),
        ("fanogan", {"critic_steps": 0}, "must be a whole number of at least 1"),
        ("iad_inpainting", {"anomalies": "scratch"}, "must be one of 'cutpaste', 'scar'"),
        ("iad_inpainting", {"score": "max"}, "must be one of 'top', 'mean', 'code'"),
        ("iad_inpainting", {"top": 0}, r"must be a number in \(0, 1\]"),
    ):
        with pytest.raises(InputError, match=sentence):
            create_model(name, **settings)
    for name, size, sentence in (
        ("ganomaly", 96, "must be a power of two, 32 or more. They are 96 x 96"),
        ("ganomaly", 16, "must be a power of two"),
        ("iad_inpainting", (64, 128), "They are 64 x 128"),
        ("fanogan", (64, 96), "does not fit 64 x 96"),
    ):
        with pytest.raises(InputError, match=sentence):
            fit(name, ImageSet(splits[0].samples, size=size))
    model = fit("ganomaly", splits[0], epochs=0)
    with pytest.raises(InputError, match="fitted on images of 64 x 64 pixels; these are 128 x 128"):
        model.predict(ImageSet(splits[1].samples, size=128), progress=False)


@pytest.mark.parametrize("name", METHODS)
def test_what_the_generator_makes_of_images_can_be_shown(name, splits):
    model = fit(name, splits[0])
    batch = torch.stack([splits[1].pixels(index) for index in range(2)])
    with torch.inference_mode():
        (picture,) = model.illustrate(batch).values()
        maps = model.score_batch(batch)[1]
    assert picture.shape == batch.shape
    assert 0 <= picture.min() <= picture.max() <= 1
    if name != "iad_inpainting":  # whose map is blurred
        torch.testing.assert_close(2 * (picture - batch).abs().mean(1), maps, rtol=1e-3, atol=1e-3)


# GANomaly


def adversarial_parts(code: float = 2.0, again: float = 5.0):
    """A generator of one weight and constant codes, a discriminator of one weight, on images of one pixel."""
    generator, discriminator = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.constant_(generator.weight, 0.5)
    nn.init.constant_(discriminator.weight, 3.0)
    codes = [nn.Parameter(torch.full((1, 1, 1, 1), value)) for value in (code, again)]

    def generate(image):
        return generator(image), *codes

    def discriminate(image):
        return discriminator(image), discriminator(image) - 1

    return generate, discriminate, generator, discriminator, codes


def test_the_terms_of_a_step_by_hand():
    """Image 1, target 2: restored 0.5; features 3 x restored and 3 x target; logits one less."""
    generate, discriminate, generator, discriminator, codes = adversarial_parts()
    optimisers = [torch.optim.SGD([generator.weight, *codes], 0.0), torch.optim.SGD(discriminator.parameters(), 0.0)]
    image = torch.ones(1, 1, 1, 1)
    terms = ganomaly.adversarial_step(generate, discriminate, optimisers, image, 2 * image, (1.0, 50.0, 1.0))
    logistic = F.softplus(torch.tensor([-5.0, 0.5]))  # real logit 5, drawn logit 0.5
    expected = {"adversarial": 4.5**2, "reconstruction": 1.5, "latent": 9, "discriminator": logistic.mean().item()}
    assert {key: value.item() for key, value in terms.items()} == pytest.approx(expected | {"restarts": 0})
    # of the generator: 2 (3 w - 6) 3 from the features, -50 from |w - 2|
    assert generator.weight.grad.item() == pytest.approx(2 * -4.5 * 3 - 50)
    assert [code.grad.item() for code in codes] == [-6, 6]
    # of the discriminator: its own loss alone, half of -2 sigmoid(-5) + 0.5 sigmoid(0.5)
    own = 0.5 * (-2 * torch.tensor(-5.0).sigmoid() + 0.5 * torch.tensor(0.5).sigmoid())
    assert discriminator.weight.grad.item() == pytest.approx(own.item(), rel=1e-4)


def test_a_fixed_code_is_a_target_and_learns_nothing():
    generate, discriminate, generator, discriminator, codes = adversarial_parts()
    optimisers = [torch.optim.SGD([generator.weight, *codes], 0.0), torch.optim.SGD(discriminator.parameters(), 0.0)]
    image = torch.ones(1, 1, 1, 1)
    ganomaly.adversarial_step(generate, discriminate, optimisers, image, image, (1, 50, 1), fixed_code=True)
    assert codes[0].grad is None
    assert codes[1].grad.item() == 6


def test_a_discriminator_that_has_won_starts_anew(splits, monkeypatch):
    monkeypatch.setattr(ganomaly, "WON", float("inf"))
    model = fit("ganomaly", splits[0], epochs=1)
    assert model.losses_[0]["restarts"] == 1
    weight = model.discriminator_.features[0].weight  # just drawn from N(0, 0.02)
    assert weight.std().item() == pytest.approx(0.02, rel=0.2)
    monkeypatch.setattr(ganomaly, "WON", 0.0)
    assert fit("ganomaly", splits[0], epochs=1).losses_[0]["restarts"] == 0


def test_ganomaly_scores_codes_and_maps_pixels(splits):
    model = fit("ganomaly", splits[0], epochs=0)
    first, again = torch.zeros(1, 8, 1, 1), torch.full((1, 8, 1, 1), 3.0)
    model.generator_.forward = lambda x: (x + 0.5, first, again)
    scores, maps = model.score_batch(torch.rand(1, 3, 64, 64))
    assert scores.item() == 9
    torch.testing.assert_close(maps, torch.full((1, 64, 64), 0.5))


def test_norms_do_not_move_while_predicting(splits):
    for name in METHODS:
        model = fit(name, splits[0])
        before = {key: value.clone() for key, value in model.state().items()}
        model.predict(splits[1], device="cpu", progress=False)
        assert all(torch.equal(value, before[key]) for key, value in model.state().items())
        assert not any(part.training for network in model.networks().values() for part in network.modules())


# f-AnoGAN


def test_gradient_penalty_of_a_plane_by_hand():
    """A critic w.x with |w| = 3 has that gradient everywhere: (3 - 1)^2."""
    weight = torch.tensor([1.0, 2.0, 2.0]).view(1, 3, 1, 1).requires_grad_()

    def critic(x):
        return x, (weight * x).sum((1, 2, 3))[:, None]

    penalty, norm = fanogan.gradient_penalty(critic, torch.randn(5, 3, 1, 1), torch.randn(5, 3, 1, 1))
    assert penalty.item() == pytest.approx(4)
    assert norm.item() == pytest.approx(3)
    penalty.backward()  # 2 (|w| - 1) w / |w|
    torch.testing.assert_close(weight.grad.flatten(), 4 / 3 * torch.tensor([1.0, 2.0, 2.0]))


def test_the_critic_treats_each_image_by_itself():
    critic = fanogan.Trunk(1, 2, 1, fanogan.LayerNorm)
    patches = torch.randn(3, 1, 64, 64)
    together = critic(patches)[1]
    torch.testing.assert_close(together, torch.cat([critic(patch[None])[1] for patch in patches]))


def test_layer_norm_is_over_channels_and_pixels():
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(fanogan.LayerNorm(3)(x), F.layer_norm(x, (3, 4, 5)))


def test_initial_weights_have_their_variance():
    block = fanogan.Residual(64, 128, nn.BatchNorm2d, up=False)
    fanogan.initialise(block)
    for module, variance in (
        (block.second, 4 / (9 * (64 + 128))),
        (block.shortcut, 2 / (64 + 128)),
    ):
        assert module.weight.var().item() == pytest.approx(variance, rel=0.05)
    trunk = fanogan.Trunk(1, 64, 1, nn.BatchNorm2d)
    fanogan.initialise(trunk)
    assert trunk.first.weight.var().item() == pytest.approx(2 / (9 * 65), rel=0.2)
    assert trunk.blocks[0].first.weight.var().item() == pytest.approx(4 / (9 * 128), rel=0.05)


def test_tiles_are_cut_and_joined_row_by_row():
    images = torch.rand(2, 1, 128, 192)
    tiles = fanogan.cut(images)
    assert tiles.shape == (12, 1, 64, 64)
    assert torch.equal(tiles[7], images[1, :, :64, 64:128])
    assert torch.equal(fanogan.join(tiles, (128, 192)), images)
    colour = torch.rand(1, 3, 64, 128)
    assert torch.equal(fanogan.join(fanogan.cut(colour), (64, 128)), colour)


def test_patches_are_windows_of_their_images_half_of_them_mirrored():
    torch.manual_seed(0)
    ramp = torch.arange(70 * 80).view(1, 70, 80).float()
    mirrored, rows, columns = 0, set(), set()
    for patch in fanogan.random_patches(ramp.expand(300, 1, 70, 80)):
        flipped = bool(patch[0, 0, 0] > patch[0, 0, 1])
        patch = patch.flip(-1) if flipped else patch
        row, column = divmod(int(patch[0, 0, 0]), 80)
        assert torch.equal(patch, ramp[:, row : row + 64, column : column + 64])
        mirrored, rows, columns = mirrored + flipped, rows | {row}, columns | {column}
    assert 120 < mirrored < 180
    assert rows == set(range(7))
    assert columns == set(range(17))


def test_the_generator_steps_after_so_many_steps_of_the_critic(splits):
    start, before, after = (fit("fanogan", splits[0], gan_steps=steps, encoder_steps=0) for steps in (0, 2, 3))

    def same(name: str, one, other) -> bool:
        pairs = zip(one.networks()[name].parameters(), other.networks()[name].parameters(), strict=True)
        return all(torch.equal(a, b) for a, b in pairs)

    assert same("generator", start, before)
    assert not same("critic", start, before)
    assert not same("generator", start, after)


def test_the_gan_rests_while_the_encoder_learns(splits):
    first, both = fit("fanogan", splits[0], encoder_steps=0), fit("fanogan", splits[0])
    one, other = first.state(), both.state()
    changed = {key.split(".")[0] for key in one if not torch.equal(one[key], other[key])}
    assert changed == {"encoder"}
    assert all(value.requires_grad for network in both.networks().values() for value in network.parameters())


def test_fanogan_scores_an_image_by_its_tiles(splits):
    """Two tiles, the first 0.5 away everywhere; features are twice the mean."""
    model = fit("fanogan", splits[0], gan_steps=0, encoder_steps=0, feature_weight=0.1)
    offset = torch.tensor([0.5, 0.0]).view(2, 1, 1, 1)
    model.redraw = lambda tiles: tiles + offset
    model.critic_ = lambda tiles: (2 * tiles.mean((2, 3)), None)
    batch = torch.rand(1, 3, 64, 128)
    scores, maps = model.score_batch(batch)
    expected = 0.25 + 0.1 * 1.0
    assert scores.item() == pytest.approx(expected, rel=1e-4)
    assert maps.shape == (1, 64, 128)
    torch.testing.assert_close(maps[0, 0, [0, 63, 64, 127]], torch.tensor([0.5, 0.5, 0.0, 0.0]))
    model.image_score = "mean"
    assert model.score_batch(batch)[0].item() == pytest.approx(expected / 2, rel=1e-4)


def test_a_bounded_encoder_stays_within_one(splits):
    model = fit("fanogan", splits[0], gan_steps=0, encoder_steps=0)
    model.encoder_ = lambda patches: (None, torch.tensor([[50.0, -50.0]]))
    model.generator_ = lambda codes: codes
    assert model.redraw(None).tolist() == [[1, -1]]
    model.bounded = False
    assert model.redraw(None).tolist() == [[50, -50]]


@pytest.mark.parametrize(
    ("norm", "said"), [(float("nan"), False), (0.4, True), (0.5, False), (2.0, False), (3.0, True)]
)
def test_an_unsteady_critic_is_said(norm, said):
    model = create_model("fanogan")
    model.gradient_norm_ = norm
    assert any(text.startswith("Unsteady") for text in model.warnings) == said


def test_the_watched_norm_is_that_of_the_last_epoch(splits):
    model = fit("fanogan", splits[0])
    assert model.gradient_norm_ == model.losses_["gan"][-1]["gradient_norm"] > 0


# The surrogate of IAD + inpainting


def test_the_surrogate_says_so_before_anything_is_fitted(tree):
    assert Run("folder", str(tree), "iad_inpainting").warnings == [iad_inpainting.SURROGATE]
    assert "SURROGATE" in iad_inpainting.__doc__


def test_both_codes_come_from_one_encoder(splits):
    model = fit("iad_inpainting", splits[0], epochs=0, inpainting_epochs=0)
    assert not any(key.startswith("generator.again") for key in model.state())
    restored, code, again = model.generator_(torch.zeros(1, 1, 64, 64))
    assert torch.equal(model.generator_.encoder(restored)[1], again)
    assert torch.equal(model.generator_.encoder(torch.zeros(1, 1, 64, 64))[1], code)


def test_inpainting_restores_the_normal_image_of_each_pair(splits, monkeypatch):
    seen, original = [], iad_inpainting.adversarial_step

    def spied(generator, discriminator, optimisers, image, target, loss_weights, fixed_code):
        seen.append((image, target, loss_weights, fixed_code))
        return original(generator, discriminator, optimisers, image, target, loss_weights, fixed_code)

    monkeypatch.setattr(iad_inpainting, "adversarial_step", spied)
    model = fit("iad_inpainting", splits[0], epochs=1, inpainting_epochs=1, probability=1.0)
    normal = [signed(splits[0].pixels(index)[None], 1)[0] for index in range(4)]
    for image, target, loss_weights, fixed_code in seen[:2]:
        assert torch.equal(image, target)
        assert (loss_weights, fixed_code) == ((1, 50, 1), True)
    for images, targets, loss_weights, _ in seen[2:]:
        assert loss_weights == (1, 50, 0)
        for image, target in zip(images, targets, strict=True):
            assert any(torch.allclose(target, one, atol=1e-6) for one in normal)
            assert (image != target).any()
    assert list(model.losses_) == ["reconstruction", "inpainting"]


@pytest.mark.parametrize("anomalies", iad_inpainting.ANOMALIES)
def test_every_kind_of_anomaly_changes_images(anomalies, splits):
    pairs = SyntheticImages(splits[0], iad_inpainting.ANOMALIES[anomalies](), 1.0, seed=0, keep_normal=True)
    items = [pairs[index] for index in range(4)]
    changed = [item["mask"].any() and (item["image"] != item["normal"]).any() for item in items]
    assert any(changed)


def test_the_surrogates_scores_by_hand(splits):
    residual = torch.zeros(1, 64, 64)
    residual[0, 0, :41] = 2.0  # one in a hundred of 4096 pixels
    residual[0, 1, :41] = 1.0
    found = {}
    for score in iad_inpainting.SCORES:
        model = create_model("iad_inpainting", score=score, smoothing=0)
        model.codes_and_residual = lambda batch: (torch.tensor([7.0]), residual)
        scores, maps = model.score_batch(torch.zeros(1, 3, 64, 64))
        found[score] = scores.item()
        assert torch.equal(maps, residual)
    assert found == pytest.approx({"top": 2, "mean": 3 * 41 / 4096, "code": 7})


def test_the_surrogates_map_is_blurred(splits):
    model = fit("iad_inpainting", splits[0], epochs=0, inpainting_epochs=0, smoothing=4.0)
    batch = torch.from_numpy(np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32))
    with torch.no_grad():
        blurred, raw = model.score_batch(batch)[1], model.codes_and_residual(batch)[1]
    assert blurred.std() < raw.std() / 3
    assert blurred.mean().item() == pytest.approx(raw.mean().item(), rel=0.05)
