"""UniAD, OneNIP and CRAD: masks, streams, losses, memory by hand; prompts; one model of several categories."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_tree, untrained, write

from adlib import ImageSet, InputError, create_model, evaluate, load_model, load_samples
from adlib.features.aligned_features import AlignedBackbone, distances, window_maximum
from adlib.features.backbones import Backbone
from adlib.models import crad, onenip, uniad
from adlib.networks.feature_transformer import Attention, FeatureTransformer, jittered, neighbour_mask
from adlib.samples import select
from adlib.synthesis import SyntheticImages

R18 = {"backbone": "resnet18.tv_in1k", "weights": "random", "stages": (1, 2), "batch_size": 4}
TINY = {"width": 16, "heads": 2, "hidden": 16, "encoder_layers": 1, "decoder_layers": 1}
SMALL = {
    "uniad": R18 | TINY | {"epochs": 1},
    "onenip": R18 | TINY | {"epochs": 1, "refiner_width": 4},
    "crad": R18 | {"blocks": 1, "expansion": 0.25, "epochs": 1, "smoothing_window": 3},
}


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Two categories: stripes, and the same pictures with their grey values reversed."""
    root = make_tree(tmp_path_factory.mktemp("tree"), "stripes", train=4, normal=2, anomalous=2)
    table = load_samples("folder", root)
    images, rows = ImageSet(table, size=64), table.assign(category="reversed")
    for index in range(len(table)):
        pixels = 255 * (1 - images.pixels(index).permute(1, 2, 0).numpy())
        rows.loc[index, "image"] = str(write(root / "reversed" / f"{index}.png", np.rint(pixels).astype(np.uint8)))
    return pd.concat([table, rows], ignore_index=True)


@pytest.fixture(scope="module")
def splits(samples):
    return tuple(ImageSet(select(samples, split=split), size=64) for split in ("train", "test"))


@pytest.fixture(scope="module")
def joint(splits):
    """OneNIP, fitted on both categories together."""
    return create_model("onenip", **SMALL["onenip"]).fit(splits[0], device="cpu", progress=False)


@pytest.fixture(scope="module", params=SMALL)
def fitted(request, splits, joint):
    if request.param == "onenip":
        return joint
    return create_model(request.param, **SMALL[request.param]).fit(splits[0], device="cpu", progress=False)


# All three


def test_one_model_of_all_categories_is_evaluated_by_category(fitted, splits):
    predictions = fitted.predict(splits[1], device="cpu", batch_size=3, progress=False)
    for category in ("stripes", "reversed"):
        mine = predictions.samples["category"] == category
        part = ImageSet(select(splits[1].samples, category=category), size=64)
        alone = fitted.predict(part, device="cpu", progress=False)
        np.testing.assert_allclose(predictions.scores[mine], alone.scores, rtol=1e-4)
        assert evaluate(predictions.select(mine)) == pytest.approx(evaluate(alone), rel=1e-3)


@pytest.mark.parametrize("name", ["uniad", "crad"])
def test_one_model_finds_the_squares_of_both_categories(name, splits):
    budget = {"epochs": 30, "score_window": 4, "weights": "bundled"}
    budget |= {"crad": {"blocks": 2, "expansion": 0.5}, "uniad": {"width": 64, "hidden": 128, "learning_rate": 1e-3}}[
        name
    ]
    model = create_model(name, **SMALL[name] | budget).fit(splits[0], device="cpu", progress=False)
    predictions = model.predict(splits[1], device="cpu", progress=False)
    for category in ("stripes", "reversed"):
        metrics = evaluate(predictions.select(predictions.samples["category"] == category))
        assert metrics["image_auroc"] == 1
        assert metrics["pixel_auroc"] > 0.9


def test_an_interrupted_training_with_prompts_ends_as_a_whole_one(splits, tmp_path, monkeypatch):
    settings = SMALL["onenip"] | {"epochs": 2}
    whole = create_model("onenip", **settings).fit(splits[0], device="cpu", progress=False)
    model, left = create_model("onenip", **settings), iter(range(3))
    model.checkpoint_interval = 0.0
    loss = model.loss

    def fail_at_the_fourth_batch(batch):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return loss(batch)

    monkeypatch.setattr(model, "loss", fail_at_the_fourth_batch)
    with pytest.raises(KeyboardInterrupt):
        model.fit(splits[0], device="cpu", progress=False, checkpoint=tmp_path / "checkpoint")
    resumed = create_model("onenip", **settings)
    resumed.fit(splits[0], device="cpu", progress=False, checkpoint=tmp_path / "checkpoint")
    for name, value in whole.state().items():
        assert torch.equal(value, resumed.state()[name]), name


def test_other_sizes_than_the_learned_are_refused(fitted, splits):
    with pytest.raises(InputError, match="Predict with the size and crop of the training images"):
        fitted.predict(ImageSet(splits[1].samples, size=96), device="cpu", progress=False)


@pytest.mark.parametrize(("grid", "expected"), [("coarsest", (192, 4, 6)), ("finest", (192, 8, 12))])
def test_stages_are_stacked_on_one_grid(grid, expected):
    backbone = AlignedBackbone("resnet18.tv_in1k", (1, 2), "random", grid=grid)
    images = torch.rand(2, 3, 32, 48)
    (features,) = backbone(images)
    assert tuple(features.shape[1:]) == expected == (backbone.channels[0], *backbone.grid((32, 48)))
    first, second = Backbone("resnet18.tv_in1k", (1, 2), "random")(images)
    own, of_stage = (features[:, 64:], second) if grid == "coarsest" else (features[:, :64], first)
    torch.testing.assert_close(own, of_stage)
    other, stage = (features[:, :64], first) if grid == "coarsest" else (features[:, 64:], second)
    torch.testing.assert_close(other[..., 0, 0], stage[..., 0, 0])  # corners on corners
    torch.testing.assert_close(other[..., -1, -1], stage[..., -1, -1])


def test_an_efficientnet_ends_with_the_last_stage_that_is_asked_for():
    backbone = AlignedBackbone("tf_efficientnet_b0.aa_in1k", (1, 2), "random")
    whole = Backbone("tf_efficientnet_b0.aa_in1k", (2,), "random")
    images = torch.rand(1, 3, 32, 32)
    assert len(backbone.net.blocks) == 3
    assert len(whole.net.blocks) == 7
    torch.testing.assert_close(backbone(images)[0][:, 24:], whole(images)[0])


def test_maps_are_distances_over_the_channels_and_scores_the_largest_window():
    features = torch.zeros(1, 2, 2, 2)
    rebuilt = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1) * torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    maps = distances(features, rebuilt, (3, 3))
    torch.testing.assert_close(maps[0], torch.tensor([[0.0, 2.5, 5.0], [5.0, 3.75, 2.5], [10.0, 5.0, 0.0]]))
    assert window_maximum(maps, 1).item() == 10
    assert window_maximum(maps, 2).item() == pytest.approx((5 + 3.75 + 10 + 5) / 4)
    assert window_maximum(maps, 16).item() == pytest.approx(33.75 / 9)


# What UniAD and OneNIP share


@pytest.mark.parametrize(("side", "blocked"), [(14, 7), (16, 9), (20, 11)])
def test_by_default_the_mask_is_that_of_the_official_settings(side, blocked):
    mask = neighbour_mask((side, side), None).view(side, side, side, side)
    assert mask[side // 2, side // 2].sum() == blocked**2
    assert mask[0, 0].sum() == (blocked // 2 + 1) ** 2
    assert mask[side // 2, side // 2, side // 2, side // 2]


def test_neighbour_mask_by_hand():
    mask = neighbour_mask((2, 5), 3)
    assert mask.shape == (10, 10)
    assert mask[2].tolist() == [False, True, True, True, False] * 2  # token (0, 2)
    assert mask[5].tolist() == [True, True, False, False, False] * 2  # token (1, 0)
    assert torch.equal(neighbour_mask((2, 5), 2), mask)
    with pytest.raises(InputError, match="On a grid of 4x4 tokens with neighbours=7 some token would see no other"):
        neighbour_mask((4, 4), 7)


def test_attention_sees_nothing_that_is_blocked():
    attention, blocked = Attention(8, 2, 0.0), neighbour_mask((1, 6), 3)
    x, others = torch.randn(1, 6, 8), torch.randn(1, 6, 8)
    gradient = torch.autograd.functional.jacobian(lambda y: attention(x, y, torch.zeros(6, 8), blocked)[0], others)
    seen = gradient.abs().sum((1, 2, 4)) > 0  # [6 of the output, 6 of the others]
    assert torch.equal(seen, ~blocked)


def test_positions_are_columns_first_and_go_to_no_value():
    network = FeatureTransformer(3, (2, 3), 1, 4, 2, 8, 1, 0.0)
    positions = network.positions()
    assert positions.shape == (6, 4)
    torch.testing.assert_close(positions[4], torch.cat([network.columns[1], network.rows[1]]))  # token (1, 1)
    attention, x = network.encoder[0].attention, torch.randn(1, 6, 4)
    everywhere_equal = x[:, :1].expand(-1, 6, -1)  # values that are all the same are answered whatever the weights
    torch.testing.assert_close(attention(x, everywhere_equal, positions), attention(x, everywhere_equal, 5 * positions))


def test_jitter_is_scaled_by_each_position_s_norm():
    torch.manual_seed(0)
    features = torch.zeros(1, 100, 2, 50)
    features[:, 0, 1] = 5.0  # norms 0 in the first row, 5 in the second
    noise = jittered(features, 20.0) - features
    assert noise[0, :, 0].abs().max() == 0
    assert noise[0, :, 1].std().item() == pytest.approx(20 * 5 / 100, rel=0.05)


def test_width_must_fit_the_heads():
    with pytest.raises(InputError, match="width=20 must be even and a multiple of heads=8"):
        FeatureTransformer(3, (4, 4), 1, 20, 8, 8, 1, 0.0)


# UniAD


def test_decoder_cannot_copy_a_token_s_own_input():
    """Without an encoder, which would spread them, no feature reaches the output of its own neighbourhood."""
    network = uniad.Reconstruction(3, (1, 6), 3, 8, 2, 8, 0, 1, 0.0)
    features = torch.randn(1, 3, 1, 6)
    gradient = torch.autograd.functional.jacobian(lambda x: network(x)[0, :, 0], features)  # [3, 6, 1, 3, 1, 6]
    seen = gradient.abs().sum((0, 2, 3, 4)) > 0
    assert torch.equal(seen, ~neighbour_mask((1, 6), 3))


def test_frozen_features_are_trained_on_as_the_images_are(splits):
    """Kept features and features computed anew give the same network."""
    kept, anew = (
        create_model("uniad", **SMALL["uniad"], cache_gib=cache).fit(splits[0], device="cpu", progress=False)
        for cache in (1, 0)
    )
    for name, value in kept.state().items():
        torch.testing.assert_close(value, anew.state()[name], rtol=1e-3, atol=1e-5)


# OneNIP


def test_an_image_and_its_synthetic_anomaly_share_one_prompt():
    network = onenip.Restoration(3, (3, 3), 1, 8, 2, 8, 1, 2, 0.1).eval()
    images, prompts = torch.randn(4, 3, 3, 3), torch.randn(2, 3, 3, 3)
    restored = network(images, prompts)
    assert restored.shape == images.shape
    torch.testing.assert_close(restored, network(images, torch.cat([prompts, prompts])))
    assert not torch.allclose(restored[:1], network(images[:1], prompts[1:]), atol=1e-3)


def test_dice_loss_by_hand():
    masks = torch.tensor([[[True, True, False, False]], [[False] * 4]])
    probabilities = torch.tensor([[[1.0, 0.5, 0.5, 0.0]], [[0.5, 0.5, 0.0, 0.0]]])
    first, second = 1 - (1.5 + 1) / (1.5 + 2 + 1), 1 - 1 / (0.5 + 0 + 1)
    torch.testing.assert_close(onenip.dice_loss(probabilities, masks), torch.tensor((first + second) / 2))
    perfect = torch.ones(1, 30, 30)
    assert onenip.dice_loss(perfect, perfect.bool()).item() == pytest.approx(0.5, abs=1e-3)


def test_training_items_are_prompted_by_their_own_category(splits):
    images = splits[0]
    prompted = onenip.PromptedImages(
        SyntheticImages(images, lambda image, rng: (image, image[..., 0] < 0), seed=3, keep_normal=True)
    )
    drawn = set()
    for epoch in range(3):
        prompted.set_epoch(epoch)
        for index in range(len(images)):
            prompt = prompted[index]["prompt"]
            assert torch.equal(prompt, prompted[index]["prompt"])
            (found,) = [other for other in range(len(images)) if torch.equal(prompt, images.pixels(other))]
            assert images.samples["category"][found] == images.samples["category"][index]
            drawn.add(found)
    assert len(drawn) > 2


def test_each_category_has_one_prompt_that_the_seed_chooses(joint, splits, tmp_path):
    chosen = joint.choices["prompts"]
    train = splits[0].samples.set_index("image")["category"]
    assert {category: train[path] for category, path in chosen.items()} == {
        "reversed": "reversed",
        "stripes": "stripes",
    }
    assert len({tuple(joint_prompts(splits[0], seed).items()) for seed in range(8)}) > 1
    assert joint_prompts(splits[0], joint.seed_) == chosen
    loaded = load_model(joint.save(tmp_path / "model.safetensors"))
    assert loaded.choices == joint.choices
    assert create_model("uniad").choices == {}


def joint_prompts(images, seed):
    model = create_model("onenip", **SMALL["onenip"])
    model.seed_ = seed
    return model.choose_prompts(images)


def test_prompts_can_be_named_and_change_the_scores(joint, splits):
    stripes = select(splits[1].samples, category="stripes", label=0)
    named = {"reversed": splits[0].samples["image"].iloc[-1], "other": stripes["image"].iloc[0]}
    model = create_model("onenip", **SMALL["onenip"] | {"prompts": named}).fit(splits[0], device="cpu", progress=False)
    assert model.choices["prompts"] == joint.choices["prompts"] | named
    batch = splits[1].pixels(0)[None]
    own, other = (
        model.score_samples(batch, pd.DataFrame({"category": [name]}))[0].item() for name in ("stripes", "reversed")
    )
    assert own != pytest.approx(other, rel=1e-4)


def test_an_image_without_a_prompt_is_refused(joint, splits):
    unknown = ImageSet(splits[1].samples.assign(category="waves"), size=64)
    with pytest.raises(InputError, match="no prompt for category 'waves'; it has one for reversed, stripes"):
        joint.predict(unknown, device="cpu", progress=False)
    with pytest.raises(InputError, match="it must be told the images' categories"):
        joint.score_batch(splits[1].pixels(0)[None])


def test_the_only_prompt_is_that_of_images_whose_category_nobody_names(joint, splits):
    alone = copy.copy(joint)
    alone.prompt_names_, alone.prompts_ = {"reversed": joint.prompt_names_["reversed"]}, joint.prompts_[:1]
    images = ImageSet(select(splits[1].samples, category="reversed"), size=64)
    unnamed = ImageSet(images.samples.assign(category=""), size=64)
    found = [alone.predict(each, device="cpu", progress=False).scores for each in (images, unnamed)]
    assert np.array_equal(*found)
    with pytest.raises(InputError, match="no prompt for category 'stripes'; it has one for reversed"):
        alone.predict(splits[1], device="cpu", progress=False)


@pytest.fixture(scope="module")
def tiled(splits):
    """Both splits as tiles of which the last ones overlap more, and OneNIP fitted on the first."""
    train, test = (ImageSet(images.samples, size=80, tile=(64, 0)) for images in splits)
    model = create_model("onenip", **SMALL["onenip"]).fit(train, device="cpu", progress=False)
    return train, test, model


def test_a_tile_is_prompted_by_the_same_place(tiled, tmp_path):
    train, test, model = tiled
    assert model.prompts_.shape[0] == 2 * 4
    rows = train.tiles().samples
    for category, path in model.choices["prompts"].items():
        own = np.flatnonzero(rows["image"] == path)
        pixels = torch.stack([train.tiles().pixels(index) for index in own])
        torch.testing.assert_close(model.prompts_of(rows.iloc[own]), model.backbone_(pixels)[0], rtol=1e-4, atol=1e-4)
        assert set(rows["category"].iloc[own]) == {category}
    predictions = model.predict(test, device="cpu", batch_size=3, progress=False)
    assert predictions.maps.shape == (len(test), 80, 80)
    loaded = load_model(model.save(tmp_path / "model.safetensors"))
    np.testing.assert_array_equal(
        loaded.predict(test, device="cpu", batch_size=3, progress=False).maps, predictions.maps
    )


def test_training_tiles_are_prompted_by_their_own_place(tiled):
    tiles = tiled[0].tiles()
    synthetic = SyntheticImages(tiles, lambda image, rng: (image, image[..., 0] < 0), seed=3, keep_normal=True)
    members, rows = onenip.PromptedImages(synthetic).members, tiles.samples
    for index, row in enumerate(rows.itertuples()):
        same = (rows["category"] == row.category) & (rows["tile"] == row.tile)
        assert members[index].tolist() == np.flatnonzero(same).tolist()


def test_the_scale_of_test_tiles_is_read_from_tiles(tiled, monkeypatch):
    _, test, model = tiled
    monkeypatch.setattr(model, "refinement", 0.0)
    tiles, used, score = test.tiles(), [], model.score
    with torch.inference_mode():
        alone = [(tiles.pixels(index)[None], tiles.samples.iloc[[index]]) for index in range(len(tiles))]
        maps = torch.cat([model.score_samples(*one)[1] for one in alone])
    monkeypatch.setattr(model, "scale", "test")
    monkeypatch.setattr(model, "score", lambda *given: (used.append(float(model.scale_)), score(*given))[1])
    model.predict(test, device="cpu", progress=False)
    assert used[0] == pytest.approx(float(maps.min() + maps.max()) / 2, rel=1e-4)


def test_tiles_of_other_places_than_the_prompts_are_refused(tiled, splits):
    _, test, model = tiled
    for images in (ImageSet(test.samples, size=100, tile=(64, 0)), splits[1]):
        with pytest.raises(
            InputError, match=r"images of 80 x 80 pixels with tile=\[64, 0\], as those that it was fitted"
        ):
            model.predict(images, device="cpu", progress=False)
    tile = ImageSet(select(test.samples, category="stripes"), size=80, tile=(64, 0)).tiles()
    one = create_model("onenip", **SMALL["onenip"]).fit(
        ImageSet(select(tiled[0].samples, category="stripes"), size=80, tile=(64, 0)), device="cpu", progress=False
    )
    with pytest.raises(InputError, match="it must be told the tiles' places"):
        one.score_batch(tile.pixels(0)[None])


def test_the_scale_is_that_of_the_training_or_of_the_test_images():
    with pytest.raises(InputError, match="scale='tests' must be 'training' or 'test'"):
        create_model("onenip", scale="tests")


def test_map_is_half_distance_and_half_refiner_at_the_scale_of_training(joint, splits):
    batch, rows = torch.stack([splits[1].pixels(index) for index in (0, 5)]), splits[1].samples.iloc[[0, 5]]
    with torch.inference_mode():
        (features,) = joint.backbone_(batch)
        restored = joint.restoration_(features, joint.prompts_of(rows))
        refined = joint.refine(features, restored, (64, 64))
        _, maps = joint.score_samples(batch, rows)
    assert refined.min() >= 0
    assert refined.max() <= 1
    expected = 0.5 * distances(features, restored, (64, 64)) + 0.5 * joint.scale_ * refined
    torch.testing.assert_close(maps, expected)


# CRAD


def memory(**changes) -> crad.ContinuousMemory:
    """One of 2 channels on 2 x 3 positions with a local grid [[0, 1], [2, 3]] (channel 1: ten times that)."""
    torch.manual_seed(0)
    network = crad.ContinuousMemory(
        **{"channels": 2, "shape": (2, 3), "local_side": 2, "global_side": 2, "jitter": 0.0} | changes
    )
    with torch.no_grad():
        network.local_grid.copy_(torch.tensor([[0.0, 1], [2, 3]]) * torch.tensor([1.0, 10]).view(1, 2, 1, 1))
    return network


@pytest.mark.parametrize(
    ("x", "y", "value"),
    # nodes at -0.5 and 0.5; beyond the last one the value fades
    [(0, 0, 1.5), (-0.5, -0.5, 0), (0.5, -0.5, 1), (-0.5, 0.5, 2), (0, 0.5, 2.5), (0.75, 0.5, 0.75 * 3), (1, 0.5, 1.5)],
)
def test_grids_are_read_between_their_nodes(x, y, value):
    network = memory().eval()
    for coordinates in (network.local_coordinates, network.global_coordinates):
        torch.nn.init.zeros_(coordinates[2].weight)
        coordinates[2].bias.data = torch.atanh(torch.tensor([x, y]).clamp(-0.9999999, 0.9999999))
    nodes = network.global_grid.detach().view(2, 2, 3, 2, 2)
    nodes.copy_(nodes[..., :1, :1] * torch.tensor([[0.0, 1], [2, 3]]))
    read = network(torch.rand(2, 2, 2, 3))
    assert read.shape == (2, 4, 2, 3)
    torch.testing.assert_close(read[:, 2], torch.full((2, 2, 3), float(value)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(read[:, 3], torch.full((2, 2, 3), 10.0 * value), atol=1e-4, rtol=1e-5)
    expected = nodes[..., 0, 1] * value  # the whole map, channels first
    torch.testing.assert_close(read[:, :2], expected.expand(2, -1, -1, -1), atol=1e-5, rtol=1e-4)


def test_images_of_a_batch_are_read_each_for_itself():
    network, features = memory().eval(), torch.randn(3, 2, 2, 3)
    torch.testing.assert_close(network(features), torch.cat([network(one[None]) for one in features]))


def test_coordinates_are_shaken_in_half_of_the_training_batches():
    network, features = memory(jitter=0.3), torch.randn(1, 2, 2, 3)
    still = network.eval()(features)
    network.train()
    read = [network(features) for _ in range(60)]
    shaken = [not torch.equal(one[:, 2:], still[:, 2:]) for one in read]
    assert 15 < sum(shaken) < 45
    assert all(torch.equal(one[:, :2], still[:, :2]) for one in read)  # never those of the whole map


def test_refinement_by_hand():
    features = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    cases = {
        (1.0, 0.0): (1.0, 0.0),  # the same: s = 0.3 + 0.7
        (0.0, 1.0): (0.3, 0.7),  # near and orthogonal: s = 0.3
        (-1.0, 0.0): (-1.8, 0.0),  # near and opposite: s = -0.4
        (10.0, 0.0): (3.7, 0.0),  # mean squared error 40.5: s = 0.7
    }
    for rebuilt, expected in cases.items():
        refined = crad.refine(features, torch.tensor(rebuilt).view(1, 2, 1, 1), 0.05, 0.3, 0.7)
        torch.testing.assert_close(refined.flatten(), torch.tensor(expected))


def test_nearness_ends_above_a_mean_squared_error_of_ten():
    features = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    for error, share in ((9.99, 0.3), (10.01, 0.0)):
        rebuilt = torch.tensor([0.0, (2 * error - 1) ** 0.5]).view(1, 2, 1, 1)  # orthogonal
        refined = crad.refine(features, rebuilt, 0.05, 0.3, 0.7)
        assert refined[0, 0].item() == pytest.approx(share)


def test_grids_learn_at_a_rate_of_their_own(splits):
    network = crad.Reconstruction(4, (2, 2), 8, 4, 0.05, 1, 0.5)
    grids, layers = network.grids(), network.layers()
    assert [tuple(grid.shape) for grid in grids] == [(1, 4, 8, 8), (1, 16, 4, 4)]
    assert len(grids) + len(layers) == len(list(network.parameters()))
    model = create_model("crad", **SMALL["crad"] | {"weight_decay": 0.0})
    model.learning_rate = 0.0  # nobody may ask for it
    model.fit(splits[0], device="cpu", progress=False)
    start = untrained("crad", **SMALL["crad"] | {"epochs": 0}).fit(splits[0], device="cpu", progress=False)
    first, second = start.state(), model.state()
    moved = {name for name in first if not torch.equal(first[name], second[name]) and ".bn" not in name}
    moved = {name for name in moved if "running" not in name and "num_batches" not in name}
    assert moved == {"reconstruction.memory.local_grid", "reconstruction.memory.global_grid"}


def test_the_map_s_filter_has_a_middle():
    with pytest.raises(InputError, match="smoothing_window=4 must be an odd number"):
        create_model("crad", smoothing_window=4)
