"""What every detector promises, backbones, and the parts of PatchCore."""

from inspect import signature

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from conftest import make_tree
from safetensors.torch import save_file

import adlib
from adlib import ImageSet, InputError, create_model, list_models, load_model, load_samples
from adlib.anomaly_map import smooth
from adlib.features.backbones import MEAN, STD, Backbone
from adlib.features.patch_embedding import concatenated_embedding, pooled_embedding
from adlib.memory.coreset import k_centre_greedy
from adlib.memory.memory_bank import nearest, random_projection
from adlib.models import model_class, own_models
from adlib.samples import select

# Small settings per method, so that each is fitted and asked in seconds.
QUICK = {
    "adaclip": {"towers": "tiny", "weights": "random", "clusters": 4, "epochs": 6, "batch_size": 2, "smoothing": 2.0},
    "cfa": {"backbone": "resnet18.tv_in1k", "weights": "bundled", "epochs": 4, "batch_size": 2, "smoothing": 2.0},
    "cfrg": {
        "backbone": "resnet18.tv_in1k",
        "weights": "bundled",
        "student": None,
        "drop_path": 0.0,
        "norm_momentum": 0.1,
        "epochs": 12,
        "batch_size": 2,
        "learning_rate": 2e-3,
        "image_weight": (0.0, 0.2),
        "smoothing": 2.0,
    },
    "crad": {
        "backbone": "resnet18.tv_in1k",
        "weights": "bundled",
        "stages": (1, 2),
        "blocks": 2,
        "expansion": 0.5,
        "epochs": 12,
        "batch_size": 4,
        "smoothing_window": 5,
        "score_window": 4,
    },
    "ddad": {
        "backbone": "resnet18.tv_in1k",
        "weights": "bundled",
        "width": 8,
        "multipliers": (1, 2, 4),
        "attention": (),
        "heads": 2,
        "epochs": 40,
        "batch_size": 4,
        "learning_rate": 3e-3,
        "weight_decay": 0.0,
        "step": 50,
        "adaptation_epochs": 1,
        "adaptation_batch_size": 4,
        "smoothing": 2.0,
        "border": 4,
    },
    "destseg": {
        "backbone": "resnet18.tv_in1k",
        "weights": "bundled",
        "student_steps": 40,
        "segmentation_steps": 60,
        "batch_size": 4,
        "student_rate": 1.0,
        "head_rate": 0.1,
        "image_weight": (0.0, 0.2),
        "segmentation_width": 32,
    },
    "dinomaly": {
        "backbone": "test_vit",
        "weights": "random",
        "stages": (1, 2, 3, 4),
        "heads": 2,
        "steps": 60,
        "easy_steps": 40,
        "warmup": 10,
        "batch_size": 4,
        "smoothing": 2.0,
    },
    "draem": {
        "epochs": 40,
        "batch_size": 2,
        "learning_rate": 2e-3,
        "reconstruction_width": 8,
        "segmentation_width": 8,
    },
    "efficientad": {"weights": "random", "width": 32, "features": 64, "steps": 150, "learning_rate": 1e-3},
    "fanogan": {
        "width": 4,
        "code": 16,
        "norm_momentum": 0.1,
        "gan_steps": 60,
        "critic_steps": 1,
        "gan_rate": 2e-3,
        "encoder_steps": 60,
        "encoder_rate": 2e-3,
        "batch_size": 4,
    },
    "fastflow": {"backbone": "resnet18.tv_in1k", "weights": "bundled", "steps": 2, "epochs": 10, "batch_size": 4},
    "ganomaly": {
        "width": 8,
        "epochs": 80,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "loss_weights": (1.0, 50.0, 10.0),
    },
    "glass": {
        "backbone": "resnet18.tv_in1k",
        "weights": "random",
        "embedding_size": 384,
        "hidden": 128,
        "hypothesis": "manifold",
        "ascent_steps": 5,
        "epochs": 40,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "smoothing": 2.0,
    },
    "iad_inpainting": {
        "width": 8,
        "epochs": 10,
        "inpainting_epochs": 20,
        "batch_size": 4,
        "learning_rate": 2e-3,
        "inpainting_rate": 2e-3,
    },
    "msflow": {
        "backbone": "resnet18.tv_in1k",
        "weights": "bundled",
        "blocks": (1, 1, 1),
        "epochs": 10,
        "batch_size": 4,
        "learning_rate": 1e-3,
    },
    "mixed_supervised": {
        "backbone": "resnet18.tv_in1k",
        "weights": "bundled",
        "augmentation": "none",
        "epochs": 40,
        "batch_size": 8,
        "learning_rate": 0.02,
        "first_cycle": 40,
        "validation_share": 0,
    },
    "msad": {"backbone": "resnet18.tv_in1k", "weights": "bundled", "stage": 3, "epochs": 2, "batch_size": 4},
    "onenip": {
        "backbone": "resnet18.tv_in1k",
        "weights": "bundled",
        "stages": (1, 2),
        "width": 64,
        "hidden": 128,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "refiner_width": 32,
        "epochs": 30,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "score_window": 4,
    },
    "padim": {"backbone": "resnet18.tv_in1k", "weights": "bundled", "channels": 30, "smoothing": 2.0},
    "patchcore": {"backbone": "resnet18.tv_in1k", "weights": "bundled", "coreset_ratio": 0.05, "smoothing": 2.0},
    "pyramidflow": {"backbone": "none", "channels": 4, "levels": 3, "stacks": 1, "kernel": 3, "epochs": 2},
    "uniad": {
        "backbone": "resnet18.tv_in1k",
        "weights": "bundled",
        "stages": (1, 2),
        "width": 64,
        "hidden": 128,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "epochs": 40,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "score_window": 4,
    },
    "uflow": {
        "backbone": "resnet18.tv_in1k",
        "weights": "bundled",
        "steps": 2,
        "epochs": 10,
        "batch_size": 4,
        "learning_rate": 1e-3,
    },
    "rd4ad": {"backbone": "resnet18.tv_in1k", "weights": "bundled", "epochs": 14, "batch_size": 2, "smoothing": 2.0},
    "rdpp": {
        "backbone": "resnet18.tv_in1k",
        "weights": "bundled",
        "epochs": 12,
        "batch_size": 2,
        "accumulate": 1,
        "smoothing": 2.0,
    },
    "simplenet": {
        "backbone": "resnet18.tv_in1k",
        "weights": "bundled",
        "embedding_size": 384,
        "hidden": 128,
        "noise": 0.1,  # of the size of the bundled features
        "epochs": 40,
        "batch_size": 4,
        "smoothing": 2.0,
    },
    "realnet": {
        "backbone": "resnet18.tv_in1k",
        "weights": "random",
        "stages": (1, 2),
        "channels": (64, 64, 64, 64),
        "selection_batches": 2,
        "residuals": (48, 48),
        "probability": 0.8,
        "epochs": 60,
        "batch_size": 4,
        "learning_rate": 1e-3,
    },
    "riad": {
        "cells": (4, 8),
        "epochs": 10,
        "batch_size": 2,
        "learning_rate": 2e-3,
        "validation_share": 0,
        "width": 8,
        "smoothing_window": 5,
    },
    "stfpm": {
        "backbone": "resnet18.tv_in1k",
        "weights": "bundled",
        "epochs": 10,
        "batch_size": 2,
        "learning_rate": 0.1,
    },
    "supersimplenet": {
        "backbone": "resnet18.tv_in1k",
        "weights": "bundled",
        "stages": (2,),
        "hidden": 128,
        "noise": 0.1,
        "epochs": 60,
        "batch_size": 4,
        "adaptor_rate": 1e-3,
        "head_rate": 2e-3,
        "smoothing": 2.0,
    },
}

# Methods that learn within seconds and stand in `make test` for all: without training, a student, a flow, a
# discriminator. All others train until they find something in `make test-all`; in `make test` they take one step
# (test_models_on_gpu.py). Plug-ins are always tried.
TRIED_ALWAYS = ("padim", "patchcore", "stfpm", "fastflow", "simplenet")

COARSE_MAPS = {"mixed_supervised"}  # methods whose maps explain a score, on a 32nd of the image's side
LOWEST = {"ganomaly": 0.75}  # image AUROC where seconds do not settle the score, here a distance of learned codes


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    samples = load_samples("folder", make_tree(tmp_path_factory.mktemp("tree"), train=8, normal=8, anomalous=8))
    return tuple(ImageSet(select(samples, split=split), size=64) for split in ("train", "test"))


@pytest.fixture(scope="module")
def auxiliary(tmp_path_factory):
    """Labelled images of another data set, of which a zero-shot method learns instead of from splits[0]."""
    samples = load_samples("folder", make_tree(tmp_path_factory.mktemp("other"), "other", 1, normal=8, anomalous=8))
    return ImageSet(select(samples, split="test"), size=64)


def quick(name):
    """A method's small settings; those of a plug-in stand in its class."""
    return QUICK[name] if name in own_models() else model_class(name).quick


def quick_fit(name, splits, auxiliary):
    model = create_model(name, **quick(name))
    images = auxiliary if "auxiliary" in model.parameters else splits[0]
    return model.fit(images, device="cpu", progress=False)


def trained_methods():
    """All methods; those that `make test` leaves out are marked."""
    left_out = set(own_models()) - set(TRIED_ALWAYS)
    return [pytest.param(name, marks=pytest.mark.slow) if name in left_out else name for name in list_models()]


@pytest.fixture(scope="module", params=trained_methods())
def fitted(request, splits, auxiliary):
    return quick_fit(request.param, splits, auxiliary)


def test_detector_finds_the_planted_squares(fitted, splits):
    metrics = adlib.evaluate(fitted.predict(splits[1], device="cpu", progress=False))
    assert metrics["image_auroc"] >= LOWEST.get(fitted.name, 1)
    if not fitted.facts.maps:
        assert metrics["reasons"]["pixel_auroc"] == "the method gives no maps"
        return
    if fitted.name in COARSE_MAPS:
        return
    assert metrics["pixel_auroc"] > 0.95
    assert metrics["aupro"] > 0.8


def test_batch_size_does_not_change_the_scores(fitted, splits):
    one = fitted.predict(splits[1], device="cpu", batch_size=1, progress=False)
    five = fitted.predict(splits[1], device="cpu", batch_size=5, progress=False)
    # Logits cross 0, and nothing is relative to that: a millionth of the largest is rounding.
    rounding = 1e-6 * np.abs(one.scores).max() if fitted.name == "mixed_supervised" else 0
    np.testing.assert_allclose(one.scores, five.scores, rtol=1e-4, atol=rounding)
    if not fitted.facts.maps:
        assert one.maps is five.maps is None
    else:
        np.testing.assert_allclose(one.maps, five.maps, rtol=1e-3, atol=1e-5 * one.maps.max())


def test_same_seed_same_numbers(fitted, splits, auxiliary):
    again = quick_fit(fitted.name, splits, auxiliary)
    first, second = (model.predict(splits[1], device="cpu", progress=False) for model in (fitted, again))
    assert np.array_equal(first.scores, second.scores)
    assert np.array_equal(first.maps, second.maps)


def test_saved_and_loaded_it_predicts_the_same(fitted, splits, tmp_path):
    loaded = load_model(fitted.save(tmp_path / "model.safetensors"))
    assert loaded.parameters == fitted.parameters
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    first, second = (model.predict(splits[1], device="cpu", progress=False) for model in (fitted, loaded))
    np.testing.assert_array_equal(first.scores, second.scores)


@pytest.mark.parametrize("name", list_models())
def test_wrong_calls_get_their_sentence(name, splits, tmp_path):
    train, test = splits
    model = create_model(name, **quick(name))
    with pytest.raises(InputError, match=f"This {name} is not fitted"):
        model.predict(test)
    with pytest.raises(InputError, match=f"This {name} is not fitted"):
        model.save(tmp_path / "m.safetensors")
    if not model.accepts_anomalous:
        with pytest.raises(InputError, match="fit needs normal images only"):
            model.fit(test)
    with pytest.raises(InputError, match=r"Detectors take an adlib\.ImageSet, not DataFrame"):
        model.fit(train, val=train.samples)
    with pytest.raises(InputError, match="val holds no image"):
        model.fit(train, val=ImageSet(train.samples.iloc[:0], **train.settings))
    with pytest.raises(InputError, match="not a torch device"):
        model.fit(train, device="abacus")
    with pytest.raises(InputError, match="has no parameter colour; it has "):
        create_model(name, colour=1)


def test_unknown_model_and_foreign_file(tmp_path):
    with pytest.raises(InputError, match="Unknown model 'patchcor'; known are"):
        create_model("patchcor")
    with pytest.raises(InputError, match="does not exist"):
        load_model(tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(InputError, match="not a model saved by adlib"):
        load_model(tmp_path / "foreign.safetensors")


# Backbones


def test_backbone_shapes_and_normalisation():
    backbone = Backbone("resnet18.tv_in1k", (1, 2, 3), "random")
    images = torch.rand(2, 3, 64, 64)
    features = backbone(images)
    assert [tuple(stage.shape) for stage in features] == [(2, 64, 16, 16), (2, 128, 8, 8), (2, 256, 4, 4)]
    assert backbone.channels == [64, 128, 256]
    assert backbone.strides == [4, 8, 16]
    normalised = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(features[0], backbone.net(normalised)[0])


def test_backbone_is_frozen_whatever_its_parent_does():
    parent = torch.nn.Sequential(Backbone("resnet18.tv_in1k", (1,), "random")).train()
    assert not any(module.training for module in parent[0].modules())
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    assert not parent[0](images)[0].requires_grad


def test_random_weights_depend_on_the_seed_alone():
    first, second, other = (Backbone("resnet18.tv_in1k", (1,), "random", seed).net.conv1.weight for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_weights_from_a_file_and_from_the_folder(tmp_path, monkeypatch):
    source = Backbone("resnet18.tv_in1k", (1, 2, 3), "random", seed=5)
    file = tmp_path / "resnet18.tv_in1k.safetensors"
    save_file({key: value.contiguous() for key, value in source.net.state_dict().items()}, file)
    monkeypatch.setenv("ADLIB_WEIGHTS", str(tmp_path))
    for weights in (file, "pretrained"):
        backbone = Backbone("resnet18.tv_in1k", (2, 3), weights)
        assert torch.equal(backbone.net.conv1.weight, source.net.conv1.weight)
        assert len(backbone.origin["sha256"]) == 64


def test_weights_that_do_not_fit_are_refused(tmp_path, monkeypatch):
    net = Backbone("resnet18.tv_in1k", (1,), "random").net.state_dict()
    cases = {
        "lacks.safetensors": ({"conv1.weight": net["conv1.weight"]}, "lacks .* tensors, bn1.weight for one"),
        "shape.safetensors": ({**net, "conv1.weight": torch.zeros(1)}, "conv1.weight has shape"),
    }
    for name, (state, sentence) in cases.items():
        save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / name)
        with pytest.raises(InputError, match=sentence):
            Backbone("resnet18.tv_in1k", (1,), tmp_path / name)
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        Backbone("resnet18.tv_in1k", (1,), tmp_path / "broken.safetensors")
    with pytest.raises(InputError, match="expected 'pretrained', 'bundled', 'random' or"):
        Backbone("resnet18.tv_in1k", (1,), "imagenet")
    with pytest.raises(InputError, match="does not exist"):
        Backbone("resnet18.tv_in1k", (1,), "missing.safetensors")
    with pytest.raises(InputError, match="timm cannot build"):
        Backbone("resnet17", (1,), "random")
    monkeypatch.setenv("ADLIB_WEIGHTS", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="is not a folder"):
        Backbone("resnet18.tv_in1k", (1,), "pretrained")


def test_without_network_pretrained_says_what_to_fetch(tmp_path, monkeypatch):
    monkeypatch.setenv("ADLIB_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("adlib.features.weights.no_network", lambda: True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match=r"adlib weights pack DIR.*wide_resnet101_2\.tv_in1k\.safetensors"):
        Backbone("wide_resnet101_2.tv_in1k", (1,), "pretrained")


# Coreset and memory bank


def plain_greedy(features: torch.Tensor, count: int, seed: int, starts: int) -> list[int]:
    """The textbook loop, one centre at a time."""
    generator = torch.Generator().manual_seed(seed)
    if starts:
        rows = torch.randperm(len(features), generator=generator)[:starts]
        distance, chosen = torch.cdist(features, features[rows]).mean(1), []
    else:
        chosen = [int(torch.randint(len(features), (1,), generator=generator))]
        distance = torch.cdist(features, features[chosen])[:, 0]
    while len(chosen) < count:
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, torch.cdist(features, features[chosen[-1:]])[:, 0])
    return chosen


@pytest.mark.parametrize("starts", [0, 10])
@pytest.mark.parametrize("count", [1, 50, 300])
def test_coreset_follows_the_plain_loop(starts, count):
    features = torch.rand(2000, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert k_centre_greedy(features, count, seed=1, starts=starts).tolist() == plain_greedy(features, count, 1, starts)


def test_coreset_never_takes_a_row_twice():
    equal = torch.ones(30, 4)
    assert sorted(k_centre_greedy(equal, 30).tolist()) == list(range(30))
    with pytest.raises(ValueError, match=r"count=31 must lie in 1\.\.30"):
        k_centre_greedy(equal, 31)


def test_coreset_by_hand():
    features = torch.tensor([[0.0], [1.0], [10.0], [4.0]])
    chosen = k_centre_greedy(features, 4, seed=0, starts=0).tolist()
    order = {0: [0, 2, 3, 1], 1: [1, 2, 3, 0], 2: [2, 0, 3, 1], 3: [3, 2, 0, 1]}
    assert chosen == order[chosen[0]]


@pytest.mark.parametrize("neighbours", [1, 4])
def test_nearest_agrees_with_cdist(neighbours):
    generator = torch.Generator().manual_seed(0)
    queries, bank = torch.randn(70, 9, generator=generator), torch.randn(40, 9, generator=generator)
    expected = torch.cdist(queries, bank).square().topk(neighbours, largest=False).values
    torch.testing.assert_close(nearest(queries, bank, neighbours, chunk=16), expected, rtol=1e-4, atol=1e-4)


def test_projection_has_the_range_of_a_linear_layer():
    matrix = random_projection(400, 100, seed=0)
    assert matrix.abs().max() <= 400**-0.5
    assert matrix.std() == pytest.approx((1 / 400 / 3) ** 0.5, rel=0.02)


# PatchCore


def test_pooled_embedding_equals_the_official_order_of_steps():
    """Neighbourhoods enlarged to the finest grid first, then pooled: as the official code does it."""
    generator = torch.Generator().manual_seed(0)
    features = [torch.rand(2, 16, 8, 8, generator=generator), torch.rand(2, 32, 4, 4, generator=generator)]
    patches = []
    for stage in features:
        unfolded = F.unfold(stage, 3, padding=1).view(2, -1, *stage.shape[-2:])
        grown = F.interpolate(unfolded, size=(8, 8), mode="bilinear", align_corners=False)
        flat = grown.flatten(2).transpose(1, 2).reshape(2 * 64, 1, -1)
        patches.append(F.adaptive_avg_pool1d(flat, 24))
    joined = F.adaptive_avg_pool1d(torch.stack(patches, 1).reshape(2 * 64, 1, -1), 24)
    torch.testing.assert_close(pooled_embedding(features, 24), joined.view(2, 64, 24))


def test_pooled_embedding_of_a_wide_resnet_by_hand():
    """512 + 1024 channels to 1024 values: 0..511 are 3x3 means of one channel with its centre counted twice, 512..1023
    means of two neighbouring channels' 3x3 means.
    """
    features = [torch.rand(1, 512, 4, 4), torch.rand(1, 1024, 4, 4)]
    embedding = pooled_embedding(features, 1024)
    first, second = (F.unfold(stage, 3, padding=1).view(1, -1, 9, 16) for stage in features)
    weights = torch.full((9,), 0.1)
    weights[4] = 0.2
    torch.testing.assert_close(embedding[0, :, :512], torch.einsum("ckp,k->pc", first[0], weights))
    pairs = second[0].mean(1).view(512, 2, 16).mean(1)
    torch.testing.assert_close(embedding[0, :, 512:], pairs.T)


def test_concatenated_embedding_keeps_all_channels():
    features = [torch.rand(2, 6, 8, 8), torch.rand(2, 10, 4, 4)]
    assert concatenated_embedding(features).shape == (2, 64, 16)
    constant = concatenated_embedding([torch.ones(1, 2, 4, 4)])
    assert constant[0, 5].tolist() == [1, 1]  # inside
    assert constant[0, 0, 0] == pytest.approx(4 / 9)  # a corner sees five zeros of padding


def test_patchcore_bank_sizes(splits):
    settings = QUICK["patchcore"] | {"coreset_ratio": 0.25}
    patches = 8 * 8 * 8
    sizes = {"coreset_limit": {None: patches // 4, 40: 40}, "embedding": {"concatenated": patches // 4}}
    for name, cases in sizes.items():
        for value, expected in cases.items():
            model = create_model("patchcore", **settings, **{name: value}).fit(splits[0], progress=False)
            assert len(model.memory_bank_) == expected
            assert model.memory_bank_.shape[1] == (384 if value == "concatenated" else 1024)


def test_a_training_image_scores_zero_when_every_patch_is_kept(splits):
    model = create_model("patchcore", **QUICK["patchcore"] | {"coreset_ratio": 1.0}).fit(splits[0], progress=False)
    assert model.predict(splits[0], progress=False).scores.max() < 1e-4 * model.predict(splits[1]).scores.max()


def test_smooth_agrees_with_scipy():
    maps = torch.rand(2, 40, 30)
    for sigma in (1.0, 4.0):
        expected = np.stack([scipy.ndimage.gaussian_filter(one, sigma) for one in maps.numpy()])
        np.testing.assert_allclose(smooth(maps, sigma).numpy(), expected, atol=1e-5)
    assert torch.equal(smooth(maps, 0), maps)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("patchcore", {"image_score": "reweighted", "support": 1}, "compares at least 2 stored patches"),
        ("patchcore", {"coreset_limit": 2, "neighbours": 5}, "keeps fewer patches than a score asks for, 5"),
        ("patchcore", {"coreset_limit": 1, "image_score": "reweighted"}, "than a score asks for, 2"),
        ("riad", {"cells": (4, 4)}, r"cells=\(4, 4\) must be different from each other"),
        ("fastflow", {"kernels": ()}, r"kernels=\(\) must be"),
        ("glass", {"shell": (1.0, 0.5)}, r"shell=\(1.0, 0.5\) must be the nearest and the farthest"),
        ("ddad", {"attention": (8, 12)}, r"attention=\(8, 12\) must be powers of 2"),
    ],
)
def test_settings_that_would_be_another_one_are_refused(name, settings, said):
    with pytest.raises(InputError, match=said):
        create_model(name, **settings)


@pytest.mark.parametrize("name", [name for name in QUICK if "stages" in signature(model_class(name)).parameters])
def test_stages_are_those_of_the_network_in_its_order(name):
    given = create_model(name).stages
    assert create_model(name, stages=given[::-1]).stages == given == tuple(sorted(given))


def test_msad_names_a_layer_that_there_is_not_and_takes_those_past_its_stage(splits):
    settings = quick("msad") | {"backbone": "resnet18.tv_in1k", "stage": 3}
    with pytest.raises(InputError, match=r"names layr4, which is none of resnet18.tv_in1k's layers"):
        create_model("msad", **settings | {"trained_layers": ("layer3", "layr4")}).fit(splits[0], progress=False)
    plain = create_model("msad", **settings | {"epochs": 0, "trained_layers": ("layer3", "layer4")})
    scores = plain.fit(splits[0], progress=False).predict(splits[1], progress=False).scores
    bank, asked = (
        torch.cat([plain.features_(batch) for _, batch in plain.batches(images, 8, False, "features")])
        for images in splits
    )
    nearest = torch.cdist(asked.detach(), bank.detach()).square().sort(1).values[:, : plain.neighbours].sum(1)
    np.testing.assert_allclose(scores, nearest, rtol=1e-3, atol=1e-6)


def test_wrong_parameters_are_refused():
    for settings in ({"embedding": "wide"}, {"coreset_ratio": 0}, {"coreset_ratio": 1.5}):
        with pytest.raises(InputError):
            create_model("patchcore", **settings)
