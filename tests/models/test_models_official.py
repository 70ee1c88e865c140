"""What official codes do around their networks: batches, rates, initial weights, padding, crops; by numbers."""

import inspect
import sys

import numpy as np
import pytest
import timm
import torch
from conftest import make_tree
from test_models import QUICK
from torch import nn

from adlib import ImageSet, create_model, list_models, load_samples
from adlib.features.aligned_features import AlignedBackbone, pad_for
from adlib.models import crad, draem, model_class, pyramidflow
from adlib.networks.losses import structural_similarity
from adlib.samples import select
from adlib.training.loop import step_schedule


class Asked(Exception):
    """What a method asks of the training loop."""

    def __init__(self, options: dict):
        self.options = options


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    samples = load_samples("folder", make_tree(tmp_path_factory.mktemp("tree"), train=7, normal=2, anomalous=3))
    return tuple(ImageSet(select(samples, split=split), size=64) for split in ("train", "test"))


def asked(name: str, images: ImageSet, monkeypatch, **settings) -> dict:
    """The options of the first call of `train` in a fit."""

    def stop(*args, **options):
        raise Asked(options | {"optimisers": args[4] if len(args) > 4 else options.get("optimisers")})

    for module in {kind.__module__ for kind in model_class(name).__mro__}:  # its own file and those of its bases
        if hasattr(sys.modules[module], "train"):
            monkeypatch.setattr(sys.modules[module], "train", stop)
    model = create_model(name, **QUICK[name] | settings)
    with pytest.raises(Asked) as found:
        model.fit(images, device="cpu", progress=False)
    return found.value.options


# What the official codes' loaders say (mixed_supervised and iad_inpainting: no public code, our choice; EfficientAD's
# reader of single images never has a smaller batch).
DROP_LAST = {
    "adaclip": False, "cfa": True, "cfrg": False, "crad": False, "ddad": True, "destseg": True,
    "dinomaly": True, "draem": False,
    "efficientad": False, "fanogan": True, "fastflow": True, "ganomaly": True, "glass": False, "iad_inpainting": True,
    "mixed_supervised": True, "msad": False, "msflow": False, "onenip": False, "pyramidflow": True, "rd4ad": False,
    "rdpp": False, "realnet": False, "riad": False, "simplenet": False, "stfpm": False, "supersimplenet": False,
    "uflow": False, "uniad": False,
}  # fmt: skip


def test_every_method_that_trains_decides_about_its_last_batch():
    assert set(DROP_LAST) == {name for name in list_models() if model_class(name).facts.trained}


@pytest.mark.parametrize("name", sorted(DROP_LAST))
def test_the_last_batch_of_an_epoch_is_treated_as_in_the_official_code(name, splits, monkeypatch):
    images = splits[1] if name == "adaclip" else splits[0]
    assert asked(name, images, monkeypatch)["drop_last"] is DROP_LAST[name]


def rates(options: dict, epochs: int) -> list[float]:
    """The learning rate of each epoch's steps, of the optimiser's first group."""
    (schedule,) = options["schedules"]
    found = []
    for _ in range(epochs):
        found.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    ("name", "epochs", "full", "decay"),
    [
        ("uniad", 1000, [801], 0.1),  # a scheduler that is told the epoch which has just ended
        ("onenip", 1000, [801], 0.1),
        ("crad", 50, [41], 0.1),
        ("riad", 300, [249], 0.1),  # the rate drops before epoch 250, counted from 1
        ("supersimplenet", 300, [240, 270], 0.4),
        ("supersimplenet", 5, [4], 0.4),  # nine tenths of 5 epochs are no whole number, and never come
        ("draem", 700, [560, 630], 0.2),
        ("cfrg", 50, [40, 45], 0.2),
    ],
)
def test_rates_drop_at_the_epoch_of_the_official_code(name, epochs, full, decay, splits, monkeypatch):
    found = rates(asked(name, splits[0], monkeypatch, epochs=epochs), epochs)
    drops = [number for number in range(1, epochs) if found[number] != found[number - 1]]
    assert drops == full
    assert found[-1] == pytest.approx(found[0] * decay ** len(full))


def test_a_drop_before_the_first_epoch_waits_for_it():
    optimiser = torch.optim.SGD(nn.Linear(1, 1).parameters(), 1.0)
    assert dict(step_schedule(optimiser, 1, (0.8,), 0.1, late=-1).milestones) == {1: 1}


def test_crads_initial_weights_are_small_everywhere_but_in_the_grids():
    torch.manual_seed(0)
    network = crad.Reconstruction(24, (6, 6), 8, 4, 0.05, blocks=2, expansion=2.0)
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    weights = torch.cat([module.weight.detach().flatten() for module in layers])
    assert weights.std().item() == pytest.approx(0.01, rel=0.03)
    assert abs(weights.mean().item()) < 1e-3
    assert all(module.bias is None or not module.bias.any() for module in layers)
    grid = network.memory.local_grid.detach()
    # Xavier counts 24 x 64 inputs and 64 outputs of a tensor [1, 24, 8, 8]
    assert grid.std().item() == pytest.approx((2 / (24 * 64 + 64)) ** 0.5, rel=0.1)


def test_draems_ssim_widens_its_range_while_a_restored_value_is_below_minus_a_half():
    assert draem.value_span(torch.tensor([0.2, -0.5])) == 1
    assert draem.value_span(torch.tensor([0.2, -0.51])) == 2
    # Constant planes of one pixel in 11 x 11 zeros: means are w times the value, w the window's middle weight.
    line = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
    w = (line[5] / line.sum()) ** 2
    a, b = 0.9, -0.6
    means, squares, product = (w * a, w * b), (w * a * a, w * b * b), w * a * b
    for span in (1.0, 2.0):
        c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
        variance = squares[0] - means[0] ** 2 + squares[1] - means[1] ** 2
        above = (2 * means[0] * means[1] + c1) * (2 * (product - means[0] * means[1]) + c2)
        expected = above / ((means[0] ** 2 + means[1] ** 2 + c1) * (variance + c2))
        planes = (torch.full((1, 3, 1, 1), value) for value in (a, b))
        assert structural_similarity(*planes, span).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_pyramidflow_compares_every_image_of_a_batch_with_every_other(count):
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(count, 2, side, side, generator=generator) for side in (8, 4)]
    each = [pyramidflow.contrast([level[[one, two]] for level in levels]) for one in range(count) for two in range(one)]
    assert len(each) == count * (count - 1) / 2
    torch.testing.assert_close(pyramidflow.contrast(levels), torch.stack(each).mean())


def test_efficientnet_is_padded_for_380_pixels_whatever_it_sees():
    """380 halves to 190, 95, 48: the 5x5 convolution at 95 lacks 4 pixels, 2 on each side; at 56 it lacks 1 and 2."""
    net = timm.create_model("tf_efficientnet_b4", pretrained=False, features_only=True, out_indices=(0, 1, 2, 3))
    fresh = {side: AlignedBackbone("tf_efficientnet_b4.aa_in1k", (0, 1, 2, 3), "random", padded_for=side).net
             for side in (380, 224)}  # fmt: skip
    sides = {side: [layer.sides for layer in one.modules() if hasattr(layer, "sides")] for side, one in fresh.items()}
    assert sides[380] == [[0, 1, 0, 1], [0, 1, 0, 1], [2, 2, 2, 2], [0, 1, 0, 1]]
    assert sides[224] == [[0, 1, 0, 1], [0, 1, 0, 1], [1, 2, 1, 2], [0, 1, 0, 1]]
    assert set(net.state_dict()) >= set(fresh[380].state_dict())
    assert not pad_for(nn.Sequential(nn.Conv2d(1, 1, 3, padding=1)), 380)


def test_padding_for_the_images_own_side_is_timms():
    images = torch.rand(1, 3, 95, 95, generator=torch.Generator().manual_seed(0))
    made = {side: AlignedBackbone("tf_efficientnet_b0.aa_in1k", (1, 2), "random", padded_for=side)
            for side in (None, 95, 380)}  # fmt: skip
    found = {side: backbone(images)[0] for side, backbone in made.items()}
    assert torch.equal(found[None], found[95])
    assert not torch.allclose(found[None], found[380], atol=1e-3)
    for side, backbone in made.items():
        assert backbone.grid((95, 95)) == tuple(found[side].shape[-2:])
    assert repr(made[95].net) != repr(made[380].net)  # shared features are told apart by it


def test_onenips_scale_may_be_that_of_the_test_images(splits):
    model = create_model("onenip", **QUICK["onenip"] | {"epochs": 1}).fit(splits[0], device="cpu", progress=False)
    learned = float(model.scale_)

    def maps(scale: str, refinement: float, batch_size: int = 8) -> np.ndarray:
        model.scale, model.refinement = scale, refinement
        return model.predict(splits[1], device="cpu", batch_size=batch_size, progress=False).maps

    distance = maps("training", 0.0)
    mean = (distance.min() + distance.max()) / 2
    assert mean != pytest.approx(learned, rel=1e-3)
    np.testing.assert_allclose(maps("test", 1.0) / mean, maps("training", 1.0) / learned, rtol=1e-4)
    np.testing.assert_allclose(maps("test", 1.0, batch_size=2), maps("test", 1.0), rtol=1e-4)
    assert float(model.scale_) == learned
    assert any("test images" in text for text in create_model("onenip", scale="test").warnings)


def test_ddads_maps_and_masks_lose_the_same_border_when_asked(splits):
    settings = QUICK["ddad"] | {"epochs": 1, "adaptation_epochs": 0, "step": 125, "border": 6}
    model = create_model("ddad", **settings).fit(splits[0], device="cpu", progress=False)
    whole = model.predict(splits[1], device="cpu", progress=False)
    model.crop_maps = True
    cropped = model.predict(splits[1], device="cpu", progress=False)
    assert np.array_equal(cropped.maps, whole.maps[:, 6:58, 6:58])
    assert np.array_equal(cropped.masks, whole.masks[:, 6:58, 6:58])
    assert np.array_equal(cropped.scores, whole.scores)
    assert np.array_equal(cropped.scores, cropped.maps.max((1, 2)))


# How the official codes prepare images: filter, and which sides get the size.
PREPARED = {
    "patchcore": ("antialias", "shorter", 256, 224), "padim": ("lanczos", "shorter", 256, 224),
    "cfa": ("lanczos", "shorter", 256, 224), "stfpm": ("antialias", "both", 256, None),
    "rd4ad": ("antialias", "both", 256, None), "rdpp": ("linear", "both", 256, None),
    "uflow": ("antialias", "shorter", 448, None), "msflow": ("lanczos", "both", 512, None),
    "pyramidflow": ("antialias", "shorter", 1024, None), "simplenet": ("antialias", "shorter", 329, 288),
    "supersimplenet": ("linear", "both", 256, None), "glass": ("antialias", "shorter", 288, None),
    "draem": ("linear", "both", 256, None), "destseg": ("antialias", "both", 256, None),
    "riad": ("lanczos", "shorter", 256, None), "adaclip": ("bicubic", "both", 518, None),
    "ganomaly": ("antialias", "shorter", 256, None), "uniad": ("antialias", "both", 224, None),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(PREPARED))
def test_images_are_prepared_as_in_the_official_code(name):
    expected = dict(zip(("resize", "sides", "size", "crop"), PREPARED[name], strict=True))
    assert model_class(name).image_defaults == expected


def test_no_method_gets_an_image_setting_that_images_do_not_have():
    known = set(inspect.signature(ImageSet).parameters)
    for name in list_models():
        assert set(model_class(name).image_defaults) <= known
