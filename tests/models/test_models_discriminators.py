"""SimpleNet, SuperSimpleNet and GLASS: losses, noise, blobs and ascent by hand, frozen features, real defects."""

import cv2
import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from conftest import make_tree, write

from adlib import ImageSet, InputError, create_model, load_model, load_samples
from adlib.anomaly_map import smooth, upsample
from adlib.features.patch_embedding import pooled_embedding
from adlib.models.glass import (
    OPERATIONS,
    Centre,
    LocalOverlay,
    hard_focal_loss,
    is_hypersphere,
    mirror,
    project,
    upside_down,
)
from adlib.models.simplenet import margin_loss
from adlib.models.supersimplenet import (
    BalancedImages,
    Heads,
    blobs,
    blur,
    focal_loss,
    truncated_loss,
    upscaled,
)
from adlib.networks.discriminator import Discriminator, linear
from adlib.samples import select
from adlib.synthesis import ProceduralTextures
from adlib.training.frozen_features import FrozenFeatures, frozen_features

COMMON = {"backbone": "resnet18.tv_in1k", "weights": "random", "batch_size": 2, "hidden": 16}
SMALL = {
    "simplenet": COMMON | {"embedding_size": 32, "epochs": 2},
    "supersimplenet": COMMON | {"epochs": 2},
    "glass": COMMON | {"embedding_size": 32, "epochs": 2, "hypothesis": "hypersphere"},
}


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return load_samples("folder", make_tree(tmp_path_factory.mktemp("tree"), train=5, normal=3, anomalous=3))


@pytest.fixture(scope="module")
def train(samples):
    return ImageSet(select(samples, split="train"), size=64)


@pytest.fixture(scope="module")
def test(samples):
    return ImageSet(select(samples, split="test"), size=64)


@pytest.fixture(scope="module", params=SMALL)
def fitted(request, train):
    return create_model(request.param, **SMALL[request.param]).fit(train, device="cpu", progress=False)


@pytest.fixture
def built(request):
    """An unfitted method with networks."""
    model = create_model(request.param, **SMALL[request.param])
    model.seed_, model.device_ = 0, torch.device("cpu")
    torch.manual_seed(0)
    model.build("random")
    return model


# All three


def test_batches_and_files_do_not_change_the_scores(fitted, test, tmp_path):
    one, eight = (fitted.predict(test, device="cpu", batch_size=size, progress=False) for size in (1, 8))
    np.testing.assert_allclose(one.scores, eight.scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(one.maps, eight.maps, rtol=0, atol=1e-5)
    loaded = load_model(fitted.save(tmp_path / "m.safetensors")).predict(test, device="cpu", progress=False)
    assert np.array_equal(loaded.scores, eight.scores)
    assert np.array_equal(loaded.maps, eight.maps)


def test_backbone_stays_as_it_was(fitted):
    fresh = type(fitted.backbone_)(fitted.backbone, fitted.stages, "random", fitted.seed_)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), fitted.backbone_.parameters(), strict=True))
    assert not any(
        module.training for net in (fitted.backbone_, *fitted.trained().values()) for module in net.modules()
    )


@pytest.mark.parametrize("name", SMALL)
def test_interrupted_training_resumes_to_the_same_weights(name, train, tmp_path, monkeypatch):
    whole = create_model(name, **SMALL[name]).fit(train, device="cpu", progress=False)
    broken = create_model(name, **SMALL[name])
    broken.checkpoint_interval = 0
    step, calls = ("loss" if name == "simplenet" else "losses"), []
    original = getattr(broken, step)

    def interrupted(batch):
        calls.append(batch)
        if len(calls) == 5:  # the second batch of the second epoch
            raise KeyboardInterrupt
        return original(batch)

    monkeypatch.setattr(broken, step, interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt):
        broken.fit(train, device="cpu", progress=False, checkpoint=tmp_path / "c")
    resumed = create_model(name, **SMALL[name]).fit(train, device="cpu", progress=False, checkpoint=tmp_path / "c")
    first, second = whole.state(), resumed.state()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert whole.losses_ == resumed.losses_


def test_wrong_settings_are_refused():
    for name, settings, sentence in (
        ("simplenet", {"adaptor_optimiser": "sgd"}, "adaptor_optimiser='sgd' must be"),
        ("supersimplenet", {"image_score": "sum"}, "image_score='sum' must be"),
        ("supersimplenet", {"schedule_every": "year"}, "schedule_every='year' must be"),
        ("glass", {"hypothesis": "torus"}, "hypothesis='torus' must be"),
        ("glass", {"foreground": "left"}, "foreground='left' must be"),
    ):
        with pytest.raises(InputError, match=sentence):
            create_model(name, **settings)


# Frozen features


def test_frozen_features_are_the_backbones_and_stay_within_their_memory(fitted, train):
    features = frozen_features(fitted, train, 1.0, progress=False)
    assert isinstance(features, FrozenFeatures)
    expected = fitted.backbone_(torch.stack([train.pixels(index) for index in range(5)]))
    for level, stage in enumerate(expected):
        torch.testing.assert_close(torch.stack([features[index][level] for index in range(5)]), stage)
    needed = 4 * sum(stage.numel() for stage in expected) / 2**30
    assert isinstance(frozen_features(fitted, train, needed, progress=False), FrozenFeatures)
    assert frozen_features(fitted, train, 0.99 * needed, progress=False) is train


@pytest.mark.parametrize("name", SMALL)
def test_training_is_the_same_without_kept_features(name, train, test):
    kept, computed = (
        create_model(name, **SMALL[name], cache_gib=size).fit(train, device="cpu", progress=False) for size in (1, 0)
    )
    assert kept.losses_[-1] == pytest.approx(computed.losses_[-1], rel=1e-3)
    first, second = (model.predict(test, device="cpu", progress=False) for model in (kept, computed))
    np.testing.assert_allclose(first.maps, second.maps, rtol=0, atol=0.02 * np.ptp(first.maps))


# SimpleNet


def test_discriminator_in_two_steps_is_the_whole():
    discriminator = Discriminator(6, 4)
    patches = torch.randn(10, 6)
    whole = discriminator(patches)
    assert whole.shape == (10,)
    discriminator.norm.reset_running_stats()
    torch.testing.assert_close(discriminator.head(discriminator.linear(patches)), whole)
    assert discriminator.out.bias is None
    flat = Discriminator(6, 4, slope=0)
    flat.load_state_dict(discriminator.state_dict())
    flat.eval(), discriminator.eval()
    normed = discriminator.norm(discriminator.linear(patches))
    lost = discriminator.out(0.2 * normed.clamp_max(0))[:, 0]  # of what lies below 0, a fifth
    torch.testing.assert_close(discriminator(patches) - flat(patches), lost)
    assert linear(400, 200).weight.std().item() == pytest.approx((2 / 600) ** 0.5, rel=0.02)  # Xavier


def test_margin_loss_by_hand():
    terms = margin_loss(torch.tensor([1.0, 0.3]), torch.tensor([-1.0, 0.5]), margin=0.5)
    assert terms["normal"].item() == pytest.approx(0.1)  # 0 and 0.2
    assert terms["noisy"].item() == pytest.approx(0.5)  # 0 and 1


@pytest.mark.parametrize("built", ["simplenet"], indirect=True)
def test_noise_of_the_given_strength_is_added_behind_the_adaptor(built):
    seen = []
    built.discriminator_.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    built.loss(torch.rand(4, 3, 64, 64))
    normal, noisy = seen[0].chunk(2)  # one batch of the batch norm holds both
    assert normal.shape == (4 * 8 * 8, 32)
    assert (noisy - normal).std().item() == pytest.approx(0.015, rel=0.05)


@pytest.mark.parametrize("built", ["simplenet"], indirect=True)
def test_simplenet_scores_are_the_negated_answers(built):
    built.discriminator_.eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        scores, maps = built.score_batch(images)
        embedded = pooled_embedding(built.backbone_(images), 32).flatten(0, 1)
        answers = -built.discriminator_(built.adaptor_(embedded)).view(2, 8, 8)
    torch.testing.assert_close(scores, answers.amax((1, 2)))  # two layers in one: equal up to rounding
    torch.testing.assert_close(maps, smooth(upsample(answers, (64, 64)), 4.0))


# SuperSimpleNet


def test_features_are_enlarged_joined_and_then_averaged():
    features = [torch.rand(2, 3, 4, 4), torch.rand(2, 5, 2, 2)]
    for align_corners in (True, False):
        grown = [F.interpolate(f, size=(8, 8), mode="bilinear", align_corners=align_corners) for f in features]
        expected = F.avg_pool2d(torch.cat(grown, 1), 3, 1, 1)
        torch.testing.assert_close(upscaled(features, align_corners), expected)
    ones = upscaled([torch.ones(1, 1, 2, 2)], True)
    assert ones[0, 0, 0, 0] == pytest.approx(4 / 9)  # a corner sees five zeros of padding


def test_stopped_gradient_keeps_the_classification_from_the_map():
    features = torch.randn(2, 6, 8, 8)
    for stop in (True, False):
        heads = Heads(6, 4, stop)
        maps, scores = heads(features)
        assert maps.shape == (2, 8, 8)
        assert scores.shape == (2,)
        scores.sum().backward()
        assert (heads.segment[0].weight.grad is None) == stop
        assert heads.classify[0].weight.grad.abs().max() > 0


def test_half_of_the_blobs_are_empty_and_a_higher_threshold_makes_them_smaller():
    low, high = (blobs(400, (16, 16), threshold, np.random.default_rng(0)) for threshold in (0.2, 0.6))
    assert low.shape == (400, 16, 16)
    filled = low.flatten(1).any(1).float().mean().item()
    assert 0.4 < filled < 0.6
    assert (low | ~high).all()  # the same noise: the higher threshold's blobs lie inside
    assert 0.05 < high.float().mean() / low.float().mean() < 0.5
    assert blobs(3, (2, 5), 0.2, np.random.default_rng(0)).shape == (3, 2, 5)


def test_truncated_loss_by_hand():
    maps = torch.tensor([[[-1.0, 0.0], [0.25, 2.0]]])
    masks = torch.tensor([[[False, False], [True, True]]])
    assert truncated_loss(maps, masks).item() == pytest.approx((0 + 0.5) / 2 + (0.25 + 0) / 2)
    assert truncated_loss(maps, masks & False).item() == pytest.approx((0 + 0.5 + 0.75 + 2.5) / 4)
    assert truncated_loss(maps, masks | True).item() == pytest.approx((1.5 + 0.5 + 0.25 + 0) / 4)


def test_focal_loss_by_hand():
    logits, targets = torch.tensor([0.7, -1.2]), torch.tensor([True, True])
    right = 1 / (1 + np.exp(-logits.numpy().astype(float)))
    expected = np.mean(-((1 - right) ** 4) * np.log(right))
    assert focal_loss(logits, targets).item() == pytest.approx(expected, rel=1e-5)
    assert focal_loss(-logits, ~targets).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("built", ["supersimplenet"], indirect=True)
def test_noise_lies_in_the_blobs_alone_and_off_the_real_defects(built):
    seen = []
    built.heads_.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    images, mask = torch.rand(4, 3, 64, 64), torch.zeros(4, 64, 64, dtype=torch.bool)
    mask[0, 16:32, 16:32] = True
    built.losses({"image": images, "mask": mask, "label": torch.tensor([1, 0, 0, 0])})
    noise = seen[0] - torch.cat([built.adapted(built.backbone_(images))] * 2)  # [8, C, 16, 16]
    touched = (noise.abs() > 1e-5).any(1)
    assert 0.01 < touched.float().mean() < 0.5
    assert not touched[[0, 4], 4:8, 4:8].any()
    assert noise.movedim(1, -1)[touched].std().item() == pytest.approx(0.015, rel=0.05)


def test_blur_agrees_with_scipy():
    maps = torch.rand(2, 40, 30)
    expected = [scipy.ndimage.gaussian_filter(one, 4, mode="mirror", truncate=3) for one in maps.numpy()]
    np.testing.assert_allclose(blur(maps, 4.0).numpy(), expected, atol=1e-5)
    assert torch.equal(blur(maps, 0), maps)


@pytest.fixture(scope="module")
def defects(samples):
    """Training images of which three carry a defect."""
    return ImageSet(samples[(samples["split"] == "train") | (samples["label"] == 1)], size=64)


def test_real_defects_come_in_four_positions_beside_as_many_normal_images(defects):
    balanced = BalancedImages(defects, seed=0)
    items = [balanced[index] for index in range(len(balanced))]
    assert [item["label"] for item in items] == [1] * 12 + [0] * 12
    first = defects[int(np.flatnonzero(defects.labels == 1)[0])]
    for item, axes in zip(items[:12:3], ((), (1,), (2,), (1, 2)), strict=True):
        assert torch.equal(item["image"], first["image"].flip(axes))
        assert torch.equal(item["mask"], first["mask"].flip([axis - 1 for axis in axes]))
    counts = {}
    for epoch in range(5):  # 5 epochs x 12 normal images of 5
        balanced.set_epoch(epoch)
        for index in range(12, 24):
            key = balanced[index]["image"].numpy().tobytes()
            counts[key] = counts.get(key, 0) + 1
    assert list(counts.values()) == [12] * 5


def test_supersimplenet_learns_from_real_defects(defects, test):
    settings = SMALL["supersimplenet"] | {"threshold": 0.6, "stop_gradient": False, "clip_norm": 1.0}
    model = create_model("supersimplenet", **settings).fit(defects, device="cpu", progress=False)
    assert len(model.losses_) == 2
    assert model.predict(test, device="cpu", progress=False).maps.shape == (6, 64, 64)
    alone = ImageSet(defects.samples[defects.samples["label"] == 1], size=64)
    with pytest.raises(InputError, match="needs normal images too"):
        create_model("supersimplenet", **settings).fit(alone, device="cpu", progress=False)


def test_supersimplenet_learns_from_real_defects_without_masks(defects):
    images = ImageSet(defects.samples.assign(mask=""), size=64)
    assert [BalancedImages(images, 0)[index]["known"] for index in range(24)] == [False] * 12 + [True] * 12
    model = create_model("supersimplenet", **SMALL["supersimplenet"]).fit(images, device="cpu", progress=False)
    assert len(model.losses_) == 2
    assert np.isfinite([list(losses.values()) for losses in model.losses_]).all()


@pytest.mark.parametrize("built", ["supersimplenet"], indirect=True)
def test_without_a_mask_a_defect_counts_for_the_classification_alone(built):
    """Numbers: the map's losses are those of the other images, the classification is the focal loss of all."""
    seen = []
    built.heads_.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], *output)))
    batch = {"image": torch.rand(4, 3, 64, 64), "mask": torch.zeros(4, 64, 64, dtype=torch.bool)}
    batch |= {"label": torch.tensor([1, 0, 0, 1]), "known": torch.tensor([False, True, True, False])}
    batch["mask"][0] = True  # not to be believed
    with torch.no_grad():
        losses, plain = built.losses(batch), torch.cat([built.adapted(built.backbone_(batch["image"]))] * 2)
    features, maps, scores = seen[0]
    noisy = ((features - plain).abs() > 1e-5).any(1)  # [8, 16, 16]
    assert not noisy[[0, 3, 4, 7]].any()
    others = [1, 2, 5, 6]
    torch.testing.assert_close(losses["truncated"], truncated_loss(maps[others], noisy[others]))
    torch.testing.assert_close(losses["focal"], focal_loss(maps[others], noisy[others]))
    called = torch.tensor([True, False, False, True] * 2) | noisy.flatten(1).any(1)
    torch.testing.assert_close(losses["classification"], focal_loss(scores, called))
    batch["known"][:] = False
    losses = built.losses(batch)
    assert losses["truncated"] == losses["focal"] == 0


# GLASS


def test_projection_moves_points_along_their_ray():
    centres = torch.tensor([[1.0, 1.0]]).repeat(3, 1)
    points = centres + torch.tensor([[0.3, 0.4], [0.0, 0.8], [-3.0, 4.0]])  # at 0.5, 0.8 and 5
    moved = project(points, centres, 0.7, 1.0) - centres
    torch.testing.assert_close(moved, torch.tensor([[0.42, 0.56], [0.0, 0.8], [-0.6, 0.8]]))


def test_focal_loss_takes_the_hard_half():
    answers, masks = torch.tensor([3.0, -0.5, 0.4, -2.0]), torch.tensor([True, True, False, False])
    right = torch.sigmoid(torch.tensor([-0.5, -0.4]))  # the two with the largest error
    smoothed = right * (1 - 1e-5) + (1 - right) * 1e-5 + 1e-5
    expected = (-((1 - smoothed) ** 2) * smoothed.log()).mean()
    torch.testing.assert_close(hard_focal_loss(answers, masks, share=0.5), expected)


@pytest.mark.parametrize("built", ["glass"], indirect=True)
def test_ascent_is_the_plain_one_and_ends_in_the_shell(built):
    """Against the plain reading: both halves through the whole discriminator in every step."""
    normal = built.patches(built.backbone_(torch.rand(2, 3, 64, 64))).detach().requires_grad_()
    statistics = {key: value.clone() for key, value in built.discriminator_.state_dict().items()}
    torch.manual_seed(1)
    near = built.ascended(normal, normal, 0.5, 1.0)
    ours = {key: value.clone() for key, value in built.discriminator_.state_dict().items()}

    built.discriminator_.load_state_dict(statistics)
    torch.manual_seed(1)
    points = (normal + 0.015 * torch.randn_like(normal)).detach()
    start = points.clone()
    for step in range(20):
        points = points.requires_grad_()
        answers = built.discriminator_(torch.cat([normal, points]))[len(normal) :].sigmoid()
        (gradient,) = torch.autograd.grad(F.binary_cross_entropy(answers, torch.ones_like(answers)), points)
        points = (points + 0.001 * F.normalize(gradient, dim=1, eps=1e-10)).detach()
        if step % 5 == 4:
            away = points - normal.detach()
            points = normal.detach() + F.normalize(away, dim=1) * away.norm(dim=1, keepdim=True).clamp(0.5, 1.0)
    torch.testing.assert_close(near, points, rtol=1e-4, atol=1e-4)
    for key, value in built.discriminator_.state_dict().items():  # every pass counts for the batch norm
        torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-5)
    assert ours["norm.num_batches_tracked"] == 20

    distance = (near - normal).norm(dim=1)
    assert distance.min() > 0.4999
    assert distance.max() < 1.0001
    climbed = near - project(start, normal, 0.5, 1.0)
    gradient = torch.autograd.grad(built.discriminator_(torch.cat([normal, start.requires_grad_()])).sum(), start)[0]
    assert (climbed * gradient).sum() < 0  # towards what the discriminator takes for normal


@pytest.mark.parametrize("built", ["glass"], indirect=True)
def test_adaptor_learns_from_all_three_kinds_and_the_backbone_from_none(built, train):
    batch = torch.stack([train.pixels(index) for index in range(2)])
    mask = torch.zeros(2, 64, 64, dtype=torch.bool)
    mask[0, 8:30, 8:30] = True
    items = {"image": torch.where(mask[:, None], 1 - batch, batch), "mask": mask, "normal": batch}
    for centre in (None, Centre(built.mean_patches(train), every=1)):
        built.centre_ = centre
        for value in built.losses(items).values():
            gradients = torch.autograd.grad(value, built.adaptor_.weight, retain_graph=True)
            assert gradients[0].abs().max() > 0
    assert all(value.grad is None for value in built.backbone_.parameters())


@pytest.mark.parametrize("built", ["glass"], indirect=True)
def test_centre_is_the_mean_adapted_patch_and_is_renewed_once_per_epoch(built, train):
    with torch.no_grad():
        images = torch.stack([train.pixels(index) for index in range(5)])
        expected = built.patches(built.backbone_(images)).view(5, 64, 32).mean(0)
        for features in (train, frozen_features(built, train, 1.0, progress=False)):
            centre = Centre(built.mean_patches(features), every=2)
            torch.testing.assert_close(centre(built.adaptor_), expected, rtol=1e-4, atol=1e-5)
        built.adaptor_.weight.zero_()
        torch.testing.assert_close(centre(built.adaptor_), expected, rtol=1e-4, atol=1e-5)  # the second step
        torch.testing.assert_close(centre(built.adaptor_), built.adaptor_.bias.expand(64, -1))


def test_hypersphere_is_for_objects_and_manifold_for_fine_texture():
    rows, columns = np.mgrid[:96, :96]
    ring = (np.abs(np.hypot(rows - 48, columns - 48) - 30) < 8).astype(np.float32)
    texture = np.random.default_rng(0).uniform(0.4, 0.6, (96, 96)).astype(np.float32)
    assert is_hypersphere(np.repeat(ring[..., None], 3, 2))
    assert not is_hypersphere(np.repeat(texture[..., None], 3, 2))
    assert not is_hypersphere(np.zeros((96, 96, 3), np.float32))


def test_the_hypothesis_that_the_spectrum_chose_is_told(train, monkeypatch):
    for hypothesis, sphere, told in (
        ("auto", True, {"hypothesis": "hypersphere"}),
        ("auto", False, {"hypothesis": "manifold"}),
        ("manifold", True, {}),  # the parameters tell
    ):
        monkeypatch.setattr("adlib.models.glass.is_hypersphere", lambda mean, sphere=sphere: sphere)
        model = create_model("glass", **SMALL["glass"] | {"hypothesis": hypothesis, "epochs": 1})
        assert model.choices == {}
        assert model.fit(train, device="cpu", progress=False).choices == told


def test_overlay_marks_what_it_changes_and_stays_on_the_object():
    image = np.full((64, 64, 3), 0.1, np.float32)
    image[16:48, 16:48] = np.random.default_rng(0).uniform(0.7, 0.8, (32, 32, 3))
    original = image.copy()
    for seed in range(12):
        for foreground in ("all", "bright"):
            overlaid, mask = LocalOverlay(foreground=foreground)(image, np.random.default_rng(seed))
            assert np.array_equal((overlaid != image).any(2), mask)
            assert mask.any()
            assert overlaid.min() >= 0
            assert overlaid.max() <= 1
        assert not mask[:14].any()  # a rim may stay from closing gaps
        assert not mask[:, 52:].any()
    assert np.array_equal(image, original)


def test_image_keeps_a_fifth_to_four_fifths_under_the_overlay(monkeypatch):
    monkeypatch.setattr("adlib.models.glass.OPERATIONS", (mirror, mirror, upside_down))

    def white(shape, rng):
        return np.full((*shape, 3), 255, np.uint8)

    black, weights = np.zeros((32, 32, 3), np.float32), []
    for seed in range(60):
        overlaid, mask = LocalOverlay(white)(black, np.random.default_rng(seed))
        weights.append(1 - overlaid[mask].max())
    assert min(weights) > 0.19
    assert max(weights) < 0.81
    assert 0.4 < np.median(weights) < 0.6


def test_texture_operations_keep_the_format():
    texture = ProceduralTextures()((40, 30), np.random.default_rng(0))
    for operation in OPERATIONS:
        changed = operation(texture, np.random.default_rng(1))
        assert (changed.dtype, changed.shape) == (np.uint8, (40, 30, 3)), operation
        assert not np.array_equal(changed, texture), operation


def test_textures_come_from_a_folder_or_are_drawn_with_a_warning(train, tmp_path):
    drawn = create_model("glass", **SMALL["glass"])
    assert [text for text in drawn.warnings if "Drawn textures" in text]
    folder = create_model("glass", **SMALL["glass"], textures=tmp_path)
    assert folder.parameters["textures"] == str(tmp_path)
    assert not [text for text in folder.warnings if "Drawn textures" in text]
    with pytest.raises(InputError, match="holds no pictures"):
        folder.fit(train, device="cpu", progress=False)
    write(tmp_path / "a" / "flat.png", np.full((20, 20, 3), 90, np.uint8))
    with pytest.raises(InputError, match="is a flat colour"):
        folder.fit(train, device="cpu", progress=False)
    write(tmp_path / "a" / "flat.png", cv2.resize(np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5, (40, 40)))
    assert folder.fit(train, device="cpu", progress=False).losses_ != drawn.fit(train, progress=False).losses_


def test_an_epoch_ends_with_the_batch_that_passes_its_images(train):
    for epoch_images, steps in ((1, 1), (2, 2), (3, 2), (4, 3), (392, 3)):  # of batches of 2, of 5 images
        model = create_model("glass", **SMALL["glass"] | {"epochs": 1, "epoch_images": epoch_images})
        calls = []
        model.losses = lambda batch, model=model, calls=calls: calls.append(1) or type(model).losses(model, batch)
        model.fit(train, device="cpu", progress=False)
        assert len(calls) == steps
