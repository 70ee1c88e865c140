"""STFPM, RD4AD and RD++: losses and maps by hand, networks, frozen teachers, noise, and training that resumes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import make_tree
from torch import nn

from adlib import ImageSet, InputError, create_model, load_model, load_samples
from adlib.features.backbones import Backbone
from adlib.models.rdpp import Projection, SimplexPatch, projection_loss, simplex_noise
from adlib.models.stfpm import Student, level_distance
from adlib.networks.distillation import (
    Bottleneck,
    Decoder,
    ResidualBlock,
    cosine_distance,
    distance_map,
    image_cosine_distance,
    teacher_shape,
)
from adlib.samples import select
from adlib.training.held_out import hold_out
from adlib.training_set import choose_training_images

SMALL = {"backbone": "resnet18.tv_in1k", "weights": "random", "batch_size": 2}
METHODS = ("stfpm", "rd4ad", "rdpp")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return load_samples("folder", make_tree(tmp_path_factory.mktemp("tree"), train=5, normal=3, anomalous=3))


@pytest.fixture(scope="module")
def train(samples):
    return ImageSet(select(samples, split="train"), size=64)


@pytest.fixture(scope="module")
def test(samples):
    return ImageSet(select(samples, split="test"), size=64)


@pytest.fixture(scope="module", params=METHODS)
def fitted(request, train):
    return create_model(request.param, epochs=2, **SMALL).fit(train, device="cpu", progress=False)


def tensors(*modules: nn.Module) -> list[torch.Tensor]:
    return [value.clone() for module in modules for value in module.state_dict().values()]


# All three


def test_neither_batches_nor_order_change_the_scores(fitted, test):
    one, eight = (fitted.predict(test, device="cpu", batch_size=size, progress=False) for size in (1, 8))
    np.testing.assert_allclose(one.scores, eight.scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(one.maps, eight.maps, rtol=0, atol=1e-5)
    turned = ImageSet(test.samples[::-1], **test.settings)
    again = fitted.predict(turned, device="cpu", batch_size=8, progress=False)
    np.testing.assert_allclose(again.scores[::-1], eight.scores, rtol=0, atol=1e-5)


def test_a_loaded_model_has_the_same_maps_to_the_last_bit(fitted, test, tmp_path):
    loaded = load_model(fitted.save(tmp_path / "model.safetensors"))
    first, second = (model.predict(test, device="cpu", progress=False) for model in (fitted, loaded))
    assert np.array_equal(first.maps, second.maps)
    assert first.maps.std() > 0


def test_the_teacher_stays_as_it_was(fitted):
    fresh = Backbone("resnet18.tv_in1k", (1, 2, 3), "random", seed=0)
    assert all(torch.equal(a, b) for a, b in zip(tensors(fresh), tensors(fitted.backbone_), strict=True))
    assert not any(value.requires_grad for value in fitted.backbone_.parameters())


@pytest.mark.parametrize("name", ["stfpm", pytest.param("rdpp", marks=pytest.mark.slow)])  # one loop for both
def test_interrupted_training_resumes_to_the_same_weights(name, train, tmp_path, monkeypatch):
    settings = SMALL | {"epochs": 2}
    whole = create_model(name, **settings).fit(train, device="cpu", progress=False)
    broken = create_model(name, **settings)
    broken.checkpoint_interval = 0
    loss, calls = (("losses" if name == "rdpp" else "distillation_loss"), [])
    original = getattr(broken, loss)

    def interrupted(batch):
        calls.append(batch)
        if len(calls) == (5 if name == "rdpp" else 4):
            raise KeyboardInterrupt
        return original(batch)

    monkeypatch.setattr(broken, loss, interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt):
        broken.fit(train, device="cpu", progress=False, checkpoint=tmp_path / "c")
    assert (tmp_path / "c").exists()
    resumed = create_model(name, **settings).fit(train, device="cpu", progress=False, checkpoint=tmp_path / "c")
    first, second = whole.state(), resumed.state()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert whole.losses_ == resumed.losses_


def test_wrong_settings_are_refused(train):
    for name, settings, sentence in (
        ("stfpm", {"loss": "sum"}, "loss='sum' must be"),
        ("stfpm", {"train_levels": 2}, "train_levels=2 must be"),
        ("stfpm", {"multiply": "grid"}, "multiply='grid' must be"),
        ("stfpm", {"validation_share": 1}, r"must be a number in \[0, 1\)"),
        ("rd4ad", {"loss": "pixel"}, "loss='pixel' must be"),
    ):
        with pytest.raises(InputError, match=sentence):
            create_model(name, **settings)
    with pytest.raises(InputError, match="is not a ResNet"):
        create_model("rd4ad", **SMALL | {"backbone": "mobilenetv3_small_050.lamb_in1k"}).fit(train, progress=False)


# STFPM


def test_level_distance_is_twice_one_minus_cosine():
    teacher, student = torch.randn(2, 2, 5, 3, 3).unbind()
    expected = 2 - 2 * F.cosine_similarity(teacher, student, dim=1)
    torch.testing.assert_close(level_distance(teacher, student), expected)
    axes = torch.tensor([[1.0, 0.0], [0.0, 7.0]]).view(2, 1, 2, 1, 1)
    assert level_distance(*axes).item() == 2  # orthogonal, whatever their length


def test_stfpm_loss_by_hand(train):
    """Two levels, one position: orthogonal there (2) and opposite here (4)."""
    model = create_model("stfpm", **SMALL)
    model.backbone_ = lambda batch: [torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)] * 2
    model.student_ = lambda batch: [torch.tensor(v).view(1, 2, 1, 1) for v in ([0.0, 3.0], [-5.0, 0.0])]
    batch = torch.zeros(6, 3, 8, 8)
    expected = {("mean", "all"): 6, ("mean", "last"): 4, ("batch", "all"): 0.5 * 6 * 6, ("batch", "last"): 12}
    for (model.loss, model.train_levels), value in expected.items():
        assert model.distillation_loss(batch).item() == value
    scores, maps = model.score_batch(batch[:1])
    assert (scores.item(), maps.shape, maps.min(), maps.max()) == (8, (1, 8, 8), 8, 8)  # the product


def test_product_on_the_finest_grid_or_at_image_size():
    levels = torch.rand(1, 1, 4, 4), torch.rand(1, 1, 2, 2)
    model = create_model("stfpm", **SMALL)
    model.backbone_ = lambda batch: [torch.cat([one, one * 0], 1) for one in levels]
    model.student_ = lambda batch: [torch.cat([one, 1 - one], 1) for one in levels]
    distances = [level_distance(a, b)[:, None] for a, b in zip(model.backbone_(0), model.student_(0), strict=True)]

    def grown(scores, size):
        return F.interpolate(scores, size=(size, size), mode="bilinear", align_corners=False)

    expected = {
        "finest": grown(distances[0] * grown(distances[1], 4), 16),
        "image": grown(distances[0], 16) * grown(distances[1], 16),
    }
    for model.multiply, maps in expected.items():
        torch.testing.assert_close(model.score_batch(torch.zeros(1, 3, 16, 16))[1], maps[:, 0])
    assert not torch.allclose(*expected.values())


def test_student_starts_from_random_weights_of_its_own():
    teacher = Backbone("resnet18.tv_in1k", (1, 2, 3), "random", seed=3)
    student = Student("resnet18.tv_in1k", (1, 2, 3), seed=3)
    convolutions = [module for module in student.net.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 15
    for ours, theirs in zip(convolutions, (m for m in teacher.net.modules() if isinstance(m, nn.Conv2d)), strict=True):
        assert not torch.equal(ours.weight, theirs.weight)
        fan_out = ours.out_channels * ours.kernel_size[0] ** 2
        assert ours.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    norms = [module for module in student.net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in norms)


def test_stfpm_keeps_the_epoch_that_is_lowest_on_held_out_images(train):
    model = create_model("stfpm", epochs=3, **SMALL)
    values, seen, real = [], [], model.score_batch

    def watched(batch):
        scores, maps = real(batch)
        values.append(maps.mean().item())
        seen.append(tensors(model.student_))
        return scores, maps

    model.score_batch = watched
    model.fit(train, device="cpu", progress=False)
    assert len(values) == 3
    best = seen[int(np.argmin(values))]
    assert all(torch.equal(a, b) for a, b in zip(best, tensors(model.student_), strict=True))


def test_hold_out_takes_a_share_and_never_everything(train):
    rest, held_out = hold_out(train, 0.2, seed=0)
    assert (len(rest), len(held_out)) == (4, 1)
    assert sorted([*rest.samples["image"], *held_out.samples["image"]]) == sorted(train.samples["image"])
    assert hold_out(train, 0, seed=0) == (train, None)
    single = ImageSet(train.samples.iloc[:1], **train.settings)
    assert hold_out(single, 0.2, seed=0) == (single, None)


def test_hold_out_keeps_a_picture_and_its_mirrored_copies_together(samples):
    enlarged = ImageSet(select(choose_training_images(samples, train_enlarged=10), split="train"), size=64)
    for seed in range(5):
        rest, held_out = hold_out(enlarged, 0.2, seed=seed)
        assert (len(rest), len(held_out)) == (8, 2)
        assert not set(rest.samples["image"]) & set(held_out.samples["image"])


# Reverse distillation


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50", "wide_resnet50_2"])
def test_decoder_rebuilds_what_the_teacher_gives(backbone):
    shape = teacher_shape(backbone)
    features = [
        torch.rand(1, channels, 16 // 2**level, 16 // 2**level) for level, channels in enumerate(shape.channels)
    ]
    bottleneck, decoder = Bottleneck(shape).eval(), Decoder(shape).eval()
    embedding = bottleneck(features)
    assert embedding.shape == (1, 2 * shape.channels[2], 2, 2)
    rebuilt = decoder(embedding)
    assert [level.shape for level in rebuilt] == [level.shape for level in features]
    assert all((level >= 0).all() for level in rebuilt)  # like the teacher's, behind a ReLU


def test_blocks_of_the_wide_decoder_are_the_published_ones():
    decoder = Decoder(teacher_shape("wide_resnet50_2"))
    assert [len(stage) for stage in decoder.stages] == [3, 4, 6]
    first = decoder.stages[0][0]
    assert [(type(m).__name__, m.in_channels, m.out_channels, m.kernel_size[0]) for m in first.body[::3]] == [
        ("Conv2d", 2048, 512, 1), ("ConvTranspose2d", 512, 512, 2), ("Conv2d", 512, 1024, 1)
    ]  # fmt: skip
    assert isinstance(first.shortcut[0], nn.ConvTranspose2d)
    assert isinstance(decoder.stages[0][1].shortcut, nn.Identity)


@pytest.mark.parametrize(("scale", "side"), [(0.5, 4), (1, 8), (2, 16)])
@pytest.mark.parametrize("inner", [None, 0.5])
def test_residual_block_changes_the_grid_as_told(scale, side, inner):
    block = ResidualBlock(6, 8, inner, scale)
    assert block(torch.rand(2, 6, 8, 8)).shape == (2, 8, side, side)


def test_distances_of_positions_and_of_whole_maps():
    first, second = torch.randn(2, 3, 5, 4, 4).unbind()
    torch.testing.assert_close(cosine_distance(first, second), 1 - F.cosine_similarity(first, second))
    flat = 1 - F.cosine_similarity(first.flatten(1), second.flatten(1))
    torch.testing.assert_close(image_cosine_distance(first, second), flat)
    turned = first.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(image_cosine_distance(turned, second), flat)
    assert image_cosine_distance(first, torch.zeros_like(first)).tolist() == [1, 1, 1]  # nothing there: no NaN


def test_distance_map_sums_levels_enlarged_with_aligned_corners():
    teacher = [torch.tensor([[1.0, 0.0]]).view(1, 2, 1, 1).expand(1, 2, 2, 2) for _ in range(2)]
    student = [level.clone() for level in teacher]
    student[1][0, :, 1, 1] = torch.tensor([-1.0, 0.0])  # opposite in one corner: distance 2
    maps = distance_map(teacher, student, (5, 5))
    assert maps.shape == (1, 5, 5)
    assert maps[0, 4, 4] == 2
    assert maps[0, 2, 2] == pytest.approx(0.5)  # aligned corners: the middle is the mean of all four
    assert maps[0, 0].abs().max() < 1e-6


def test_rd4ad_loss_takes_one_cosine_per_image_or_per_position():
    model = create_model("rd4ad", **SMALL)
    levels = torch.randn(2, 3, 4, 2, 2).unbind()
    model.features = lambda batch: ([levels[0]], [levels[1]])
    model.loss = "image"
    assert model.distillation_loss(None) == pytest.approx(image_cosine_distance(*levels).mean().item())
    model.loss = "position"
    assert model.distillation_loss(None) == pytest.approx(cosine_distance(*levels).mean().item())


# RD++


def test_projection_keeps_the_shape_and_has_the_published_size():
    sizes = {256: 737_856, 512: 2_950_272, 1024: 11_798_784}
    for channels, size in sizes.items():
        assert sum(value.numel() for value in Projection(channels).parameters()) == size
    assert Projection(8)(torch.rand(2, 8, 5, 5)).shape == (2, 8, 5, 5)


def test_projection_loss_by_hand():
    clean = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    aside = torch.tensor([0.0, 2.0]).view(1, 2, 1, 1)
    cases = {
        (clean, clean): 0.1 * 0.5,  # noisy raw features like the projected clean ones: cosine 1, margin 0.5
        (aside, clean): 0.0,
        (aside, aside): 0.01 * 1,  # the projection kept the noise: cosine distance 1
        (clean, aside): 0.01 * 1 + 0.1 * 0.5,
    }
    for (noisy, projected_noisy), value in cases.items():
        loss = projection_loss([noisy] * 3, [projected_noisy] * 3, [clean] * 3)
        assert loss.item() == pytest.approx(3 * value / 1.11)


def test_simplex_noise_has_the_strength_that_its_formula_gives():
    """Variance at a random point: nodes lie with density 1/2, gradients have length sqrt(153) in all directions, so it
    is 153 / 3 / 2 x the integral of (2 - r^2)^8 r^2 over the ball of radius sqrt(2), divided by 103^2: 0.0985.
    """
    r = np.linspace(0, np.sqrt(2), 20001)
    integral = np.trapezoid((2 - r**2) ** 8 * r**2 * 4 * np.pi * r**2, r)
    deviation = np.sqrt(153 / 3 / 2 * integral / 103**2)
    assert deviation == pytest.approx(0.3139, abs=1e-4)
    # A frequency that is no whole number visits the cells at every place.
    noise = simplex_noise((40, 60, 60), 1.37, np.random.default_rng(0).permutation(256))
    assert noise.dtype == np.float32
    assert noise.std() == pytest.approx(deviation, rel=0.02)
    assert abs(noise.mean()) < 0.01
    assert 0.7 < np.abs(noise).max() <= 1


def test_simplex_noise_is_smooth_and_follows_its_table():
    rng = np.random.default_rng(0)
    table = rng.permutation(256)
    for axis in range(3):
        steps = np.abs(np.diff(simplex_noise((24, 24, 24), 64.0, table), axis=axis))
        assert steps.max() < 0.05  # no jump where one node is left and another one reached
    near = simplex_noise((2, 2, 2), 1.0, table)  # at a node, only its neighbours count
    assert near[0, 0, 0] != near[1, 1, 1]
    assert not np.array_equal(simplex_noise((3, 9, 9), 4.0, table), simplex_noise((3, 9, 9), 4.0, rng.permutation(256)))


def test_simplex_patch_adds_a_fifth_of_six_octaves_one_node_at_a_time():
    """Octave k: 0.6^k times the noise of a frequency 2^k as high, all of one table, from the patch's first corner."""
    noisy, mask = SimplexPatch()(np.zeros((64, 64, 3), np.float32), np.random.default_rng(5))
    rng = np.random.default_rng(5)
    height, width = rng.integers(10, 31, 2, endpoint=True)
    top, left = rng.integers(1, 64 - height), rng.integers(1, 64 - width)
    table = rng.permutation(256)
    assert mask.sum() == height * width
    corners = [
        (1 - 2 * np.array(signs)) * np.roll([11, 4, 4], axis) for axis in range(3) for signs in np.ndindex(2, 2, 2)
    ]

    def octave(point: np.ndarray) -> float:
        total, centre = 0.0, np.floor(point - point.sum() / 6).astype(int)
        for step in np.ndindex(7, 7, 7):
            node = centre + np.array(step) - 3
            away = point - node - node.sum() / 3
            if (reach := 2 - away @ away) > 0:
                number = table[(table[(table[node[0] % 256] + node[1]) % 256] + node[2]) % 256] % 24
                total += reach**4 * (corners[number] @ away) / 103
        return total

    for channel, y, x in [(0, 0, 0), (1, 3, 7), (2, height - 1, width - 1)]:
        point = np.array([channel, y, x])
        expected = 0.2 * sum(0.6**k * octave(point * 2**k / 32) for k in range(6))
        assert noisy[top + y, left + x, channel] == pytest.approx(expected, abs=1e-6)


def test_simplex_patch_changes_one_rectangle_within_the_published_sides():
    image = np.full((64, 80, 3), 0.5, np.float32)
    for seed in range(20):
        noisy, mask = SimplexPatch()(image, np.random.default_rng(seed))
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert 10 <= np.ptp(rows) + 1 <= 31
        assert 10 <= np.ptp(columns) + 1 <= 31
        assert np.array_equal((noisy != image).any(2), mask)
        assert 0.05 < np.abs(noisy - image).max() < 0.2 * 2.4
    assert (image == 0.5).all()
    assert SimplexPatch()(image[:6, :6], np.random.default_rng(0))[0].shape == (6, 6, 3)


def test_rdpp_distils_the_raw_features_and_projects_both_images(train):
    model = create_model("rdpp", **SMALL)
    model.seed_ = 0
    model.build("random")
    batch = {"normal": torch.rand(2, 3, 64, 64), "image": torch.rand(2, 3, 64, 64)}
    terms = model.losses(batch)
    teacher, rebuilt = model.features(batch["normal"])
    expected = sum(image_cosine_distance(*pair).mean() for pair in zip(teacher, rebuilt, strict=True))
    torch.testing.assert_close(terms["distillation"], expected)
    sum(terms.values()).backward()
    assert all(value.grad is not None for module in model.trained().values() for value in module.parameters())
    assert all(value.grad is None for value in model.backbone_.parameters())
