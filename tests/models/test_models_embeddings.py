"""PaDiM and CFA: their parts against plain formulas, and what their parameters change."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import make_tree

from adlib import ImageSet, InputError, create_model, load_model, load_samples
from adlib.models.cfa import PatchDescriptor, hypersphere_loss, nearest_centres, squared_distances
from adlib.models.padim import GaussianPerPosition, choose_channels
from adlib.samples import select

R18 = {"backbone": "resnet18.tv_in1k", "weights": "random", "smoothing": 2.0}
QUICK = {"padim": R18, "cfa": R18 | {"epochs": 2, "batch_size": 2}}


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    samples = load_samples("folder", make_tree(tmp_path_factory.mktemp("tree"), train=8))
    return tuple(ImageSet(select(samples, split=split), size=64) for split in ("train", "test"))


@pytest.fixture(scope="module", params=QUICK)
def fitted(request, splits):
    return create_model(request.param, **QUICK[request.param]).fit(splits[0], device="cpu", progress=False)


def test_neither_batch_size_nor_order_of_images_matters(fitted, splits):
    test = splits[1]
    whole = fitted.predict(test, device="cpu", batch_size=8, progress=False)
    single = fitted.predict(test, device="cpu", batch_size=1, progress=False)
    np.testing.assert_allclose(single.scores, whole.scores, rtol=1e-5)
    np.testing.assert_allclose(single.maps, whole.maps, rtol=1e-5, atol=1e-5 * whole.maps.max())
    turned = fitted.predict(ImageSet(test.samples.iloc[::-1], size=64), device="cpu", progress=False)
    np.testing.assert_allclose(turned.scores[::-1], whole.scores, rtol=1e-5)


def test_loaded_it_gives_the_same_bits(fitted, splits, tmp_path):
    loaded = load_model(fitted.save(tmp_path / "model.safetensors"))
    first, second = (model.predict(splits[1], device="cpu", progress=False) for model in (fitted, loaded))
    assert np.array_equal(first.scores, second.scores)
    assert np.array_equal(first.maps, second.maps)


def test_image_score_is_the_largest_of_the_chosen_map(fitted, splits):
    predictions = fitted.predict(splits[1], device="cpu", progress=False)
    np.testing.assert_array_equal(predictions.scores, predictions.maps.max((1, 2)))
    raw = create_model(fitted.name, **QUICK[fitted.name], image_score="raw").fit(
        splits[0], device="cpu", progress=False
    )
    assert (raw.predict(splits[1], device="cpu", progress=False).scores > predictions.scores).all()


# PaDiM


@pytest.mark.parametrize("offset", [0, 1000])
def test_gaussians_gathered_in_batches_equal_those_of_numpy(offset):
    vectors = torch.randn(3, 23, 5, generator=torch.Generator().manual_seed(0)) + offset
    gaussian = GaussianPerPosition(3, 5, torch.device("cpu"))
    for part in vectors.split([7, 1, 15], 1):
        gaussian.add(part)
    plain = vectors.double().numpy()
    np.testing.assert_allclose(gaussian.mean, plain.mean(1), rtol=1e-6, atol=1e-6)
    # W = L⁻¹ of the regularised covariance L Lᵀ, so inverting WᵀW gives it back.
    whitening = gaussian.whitening(0.01, chunk=2).double()
    found = torch.linalg.inv(whitening.mT @ whitening)
    expected = np.stack([np.cov(position, rowvar=False) + 0.01 * np.eye(5) for position in plain])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_padim_score_is_the_mahalanobis_distance(splits):
    train, test = splits
    model = create_model("padim", **R18 | {"smoothing": 0, "channels": 20, "image_score": "raw"}).fit(
        train, device="cpu", progress=False
    )
    normal, images = (torch.stack([part.pixels(index) for index in range(len(part))]) for part in (train, test))
    seen, asked = (model.embed(batch)[0].double().numpy() for batch in (normal, images))  # [P, B, D]
    expected = []
    for position, vectors in zip(seen, asked, strict=True):
        inverse = np.linalg.inv(np.cov(position, rowvar=False) + 0.01 * np.eye(20))
        off = vectors - position.mean(0)
        expected.append(np.sqrt(np.einsum("bi,ij,bj->b", off, inverse, off)))
    scores = model.predict(test, device="cpu", progress=False).scores
    np.testing.assert_allclose(scores, np.max(expected, axis=0), rtol=1e-4)


def test_padim_embeds_chosen_channels_by_repetition(splits):
    model = create_model("padim", **R18).fit(splits[0], device="cpu", progress=False)
    batch = torch.rand(2, 3, 72, 64)  # 18 x 16, 9 x 8 and 5 x 4 positions: 5 does not divide 18
    grown = [F.interpolate(stage, size=(18, 16), mode="nearest") for stage in model.backbone_(batch)]
    expected = torch.cat(grown, 1)[:, model.kept_]  # [B, D, h, w]
    vectors, grid = model.embed(batch)
    assert grid == (18, 16)
    assert torch.equal(vectors, expected.permute(2, 3, 0, 1).flatten(0, 1))


def test_padim_draws_the_channels_of_the_reference():
    random.seed(1024)  # as the reference does, once, before its one draw
    assert choose_channels(448, 100, 1024).tolist() == sorted(random.sample(range(448), 100))


def test_padim_channels(splits):
    train = ImageSet(splits[0].samples, size=32)
    cases = [({}, 100), ({"channels": 7}, 7), ({"backbone": "resnet34.tv_in1k"}, 448)]
    for settings, expected in cases:
        model = create_model("padim", **R18 | settings).fit(train, device="cpu", progress=False)
        assert len(model.kept_) == len(set(model.kept_.tolist())) == expected
    kept = [
        create_model("padim", **R18, channel_seed=None).fit(train, seed=seed, progress=False).kept_ for seed in (1, 2)
    ]
    assert not torch.equal(*kept)


def test_padim_on_one_image_scores_it_zero(splits):
    one = ImageSet(splits[0].samples.iloc[:1], size=64)
    model = create_model("padim", **R18).fit(one, device="cpu", progress=False)
    assert model.predict(one, device="cpu", progress=False).scores.max() < 1e-3


def test_wrong_parameters_and_sizes_are_refused(splits):
    with pytest.raises(InputError, match="regularisation=0 must be a number above 0"):
        create_model("padim", regularisation=0)
    for name in QUICK:
        with pytest.raises(InputError, match="image_score='mean' must be"):
            create_model(name, image_score="mean")
    with pytest.raises(InputError, match=r"channels=449, but stages \(1, 2, 3\) of resnet18.tv_in1k have 448"):
        create_model("padim", **R18, channels=449).fit(splits[0], progress=False)
    model = create_model("padim", **R18).fit(splits[0], device="cpu", progress=False)
    with pytest.raises(InputError, match="fitted on a grid of 16x16 positions, these images give 24x24"):
        model.predict(ImageSet(splits[1].samples, size=96), device="cpu", progress=False)
    with pytest.raises(InputError, match="bank_reduction=0 must be a whole number of at least 1"):
        create_model("cfa", bank_reduction=0)
    with pytest.raises(InputError, match="radius=0 cannot be learned"):
        create_model("cfa", radius=0)
    assert create_model("cfa", radius=0, learn_radius=False).radius == 0
    with pytest.raises(InputError, match="5 centres are fewer than attracted"):
        create_model("cfa", **R18, bank_reduction=50).fit(splits[0], progress=False)


# CFA


def test_nearest_centres_agree_with_cdist():
    generator = torch.Generator().manual_seed(0)
    patches, bank = torch.randn(70, 9, generator=generator), torch.randn(40, 9, generator=generator)
    expected = torch.cdist(patches, bank).topk(4, largest=False)
    rows = nearest_centres(patches, bank, 4, chunk=16)
    assert torch.equal(rows, expected.indices)
    torch.testing.assert_close(squared_distances(patches, bank, rows), expected.values.square())


def test_hypersphere_loss_by_hand():
    """Radius 2: of 1 and 9 the second lies 5 outside; of 3 and 16 the first 4 - 3 - 0.1 too near."""
    squared = torch.tensor([[1.0, 9.0, 3.0, 16.0]])
    terms = hypersphere_loss(squared, torch.tensor(2.0), attracted=2, margin=0.1, nu=1e-3)
    assert terms["attraction"].item() == pytest.approx(1000 * 5 / 2)
    assert terms["repulsion"].item() == pytest.approx(1000 * 0.9 / 2)


def test_descriptor_pools_enlarges_and_adds_coordinates():
    descriptor = PatchDescriptor([1, 1], reduction=1, radius=1e-5)
    with torch.no_grad():
        descriptor.linear.bias.zero_()
        descriptor.linear.weight[0] = torch.tensor([0.0, 1, 10, 0])  # second stage + 10 x row
        descriptor.linear.weight[1] = torch.tensor([1.0, 0, 0, 10])  # first stage + 10 x column
    features = [torch.ones(1, 1, 5, 5), torch.ones(1, 1, 3, 3)]
    rows, columns = descriptor(features)[0].unbind(2)
    assert rows[[0, 2, 4], 2].tolist() == pytest.approx([-10 + 2 / 3, 1, 10 + 2 / 3])
    assert columns[2].tolist() == pytest.approx([-10 + 2 / 3, -4, 1, 6, 10 + 2 / 3])


def test_cfa_score_by_hand(splits):
    """Distances 3, 4 and 5: the softmin weight of the nearest is 1 / (1 + e^-1 + e^-2)."""
    model = create_model("cfa", **R18 | {"smoothing": 0})
    model.memory_bank_ = torch.tensor([[5.0], [3.0], [-4.0]])
    model.patches = lambda batch: (torch.zeros(4, 1), (2, 2))
    scores, maps = model.score_batch(torch.zeros(1, 3, 8, 8))
    assert scores.tolist() == pytest.approx([3 / (1 + np.exp(-1) + np.exp(-2))])
    assert maps.shape == (1, 8, 8)


def test_cfa_learns_to_draw_patches_in(splits):
    model = create_model("cfa", **R18 | {"epochs": 4, "batch_size": 2}).fit(splits[0], device="cpu", progress=False)
    attraction = [epoch["attraction"] for epoch in model.losses_]
    assert attraction[-1] < 0.5 * attraction[0]
    assert model.descriptor_.radius.item() > 1e-3


def test_cfa_parameters(splits):
    settings = R18 | {"epochs": 1, "batch_size": 4}
    thinned = create_model("cfa", **settings, bank_reduction=8, descriptor_reduction=4)
    thinned.fit(splits[0], device="cpu", progress=False)
    assert thinned.memory_bank_.shape == (256 // 8, 448 // 4)
    still = create_model("cfa", **settings, learn_radius=False).fit(splits[0], device="cpu", progress=False)
    assert still.descriptor_.radius.item() == pytest.approx(1e-5)
    assert still.losses_[0]["repulsion"] == 0


def test_cfa_centres_are_the_mean_of_each_position(splits):
    model = create_model("cfa", **R18 | {"epochs": 1})
    model.seed_, model.device_ = 0, torch.device("cpu")
    model.build("random")
    batch = torch.stack([splits[0].pixels(index) for index in range(len(splits[0]))])
    patches, grid = model.patches(batch)
    expected = patches.view(len(batch), grid[0] * grid[1], -1).mean(0)
    torch.testing.assert_close(model.centres(splits[0], progress=False), expected, rtol=1e-4, atol=1e-5)
