"""Normalising flows: invertible, with exact log-determinants; and what FastFlow, U-Flow, MSFlow and PyramidFlow add."""

import math
from functools import partial

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from conftest import make_tree
from torch import nn

from adlib import ImageSet, InputError, create_model, load_samples
from adlib.models import msflow, pyramidflow, uflow
from adlib.models.fastflow import FastFlowNet
from adlib.networks import flow_blocks
from adlib.networks.flow_blocks import (
    CouplingBlock,
    Flow,
    InvertibleConvolution,
    ScaleNorms,
    TokenBackbone,
    atan_clamp,
    convolutions,
    log_likelihood,
    negative_log_likelihood,
    tanh_clamp,
)
from adlib.samples import select

R18 = {"backbone": "resnet18.tv_in1k", "weights": "random"}


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    samples = load_samples("folder", make_tree(tmp_path_factory.mktemp("tree"), train=4))
    return ImageSet(select(samples, split="train"), size=64)


def disturbed(net: nn.Module, amount: float = 0.3) -> nn.Module:
    """The network in float64 and eval mode with noise on all parameters, so that none sits at its special start."""
    torch.manual_seed(1)
    for value in net.parameters():
        value.data += amount * torch.randn_like(value)
    return net.double().eval()


def log_volume(function, inputs: list[torch.Tensor]) -> torch.Tensor:
    """log |det| of the Jacobian of a function between lists of tensors of one image, worked out by autograd."""
    sizes = [value.numel() for value in inputs]

    def flat(vector: torch.Tensor) -> torch.Tensor:
        parts = [part.view_as(value) for part, value in zip(vector.split(sizes), inputs, strict=True)]
        return torch.cat([value.flatten() for value in function(parts)])

    jacobian = torch.autograd.functional.jacobian(flat, torch.cat([value.flatten() for value in inputs]))
    return torch.linalg.slogdet(jacobian).logabsdet


def random_levels(shapes, count: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, *shape, dtype=torch.float64, generator=generator) for shape in shapes]


# Blocks


def test_clamps_by_their_formulas():
    raw = torch.linspace(-30, 30, 61, dtype=torch.float64)
    torch.testing.assert_close(tanh_clamp(raw, 2.0), 2 * raw.tanh())
    torch.testing.assert_close(tanh_clamp(raw, 1.9, 1.9), 1.9 * (raw / 1.9).tanh())
    torch.testing.assert_close(atan_clamp(raw, 2.0), 2 * 0.636 * (raw / 2).atan())
    for clamp in (tanh_clamp, partial(tanh_clamp, width=1.9), atan_clamp):
        assert clamp(torch.tensor([1e30, -1e30]), 1.9).abs().max() <= 1.9


def test_coupling_block_by_hand():
    """Three channels: two pass; the subnet says raw log-scale 5 and shift 20, the offset is 1."""
    block = CouplingBlock(3, lambda inputs, outputs: nn.Conv2d(inputs, outputs, 1), 2.0)
    nn.init.zeros_(block.subnet.weight)
    block.subnet.bias.data = torch.tensor([5.0, 20.0])
    block.offset.data.fill_(1.0)
    x = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1).expand(-1, -1, 2, 2)
    z, log_det = block(x)
    log_scale = 2 * math.tanh(0.5)
    expected = torch.tensor([2.0, 3.0, 3 * math.exp(log_scale) + 2 + 1])
    torch.testing.assert_close(z[0, :, 1, 1], expected[block.order])
    assert log_det.item() == pytest.approx(4 * log_scale, rel=1e-5)


NETWORKS = {
    "block": (lambda: Flow([CouplingBlock(5, convolutions(3, 1.0), 2.0)]), [(5, 3, 2)]),
    "fusion": (lambda: msflow.FusionFlow([16, 12]), [(16, 2, 2), (12, 1, 1)]),
    "fastflow": (lambda: FastFlowNet([(4, 4, 4), (6, 2, 2)], 2, (3, 1), 1.0, norm=False), [(4, 4, 4), (6, 2, 2)]),
    "uflow": (lambda: uflow.UFlowNet([4, 6, 16], 2), [(4, 4, 4), (6, 2, 2), (16, 1, 1)]),
    "msflow": (lambda: msflow.MSFlowNet([(16, 2, 2), (12, 1, 1)], (1, 2)), [(16, 2, 2), (12, 1, 1)]),
    "msflow, scaled": (lambda: msflow.MSFlowNet([(16, 2, 2), (12, 1, 1)], (2, 1), "scaled"), [(16, 2, 2), (12, 1, 1)]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_log_determinant_is_that_of_the_jacobian(name):
    make, shapes = NETWORKS[name]
    torch.manual_seed(0)
    net, levels = disturbed(make()), random_levels(shapes)

    def call(parts):
        latents, log_det = net(parts[0] if name == "block" else parts)
        return ([latents] if name == "block" else latents), log_det

    torch.testing.assert_close(call(levels)[1][0], log_volume(lambda parts: call(parts)[0], levels))


@pytest.mark.parametrize("name", ["block", "fusion", "uflow", "msflow"])
def test_inverse_gives_the_input_back(name):
    make, shapes = NETWORKS[name]
    torch.manual_seed(0)
    net, levels = disturbed(make()), random_levels(shapes, count=3)
    if name == "block":
        torch.testing.assert_close(net.inverse(net(levels[0])[0]), levels[0])
    else:
        torch.testing.assert_close(net.inverse(net(levels)[0]), levels)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_reach_every_parameter(name):
    make, shapes = NETWORKS[name]
    torch.manual_seed(0)
    net, levels = make().double(), random_levels(shapes, count=2)
    latents, log_det = net(levels[0] if name == "block" else levels)
    negative_log_likelihood([latents] if name == "block" else latents, log_det).backward()
    still = [key for key, value in net.named_parameters() if value.grad is None or not value.grad.any()]
    assert not still


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize("cached", [1, 2**20])
@pytest.mark.parametrize("name", ["block", "fastflow", "uflow", "msflow", "msflow, scaled"])
def test_prediction_gives_the_latents_of_training(name, cached, precision, monkeypatch):
    """All images at a time or each alone; and the features are left as they were."""
    monkeypatch.setattr(flow_blocks, "CACHED_VALUES", cached)
    make, shapes = NETWORKS[name]
    torch.manual_seed(0)
    net, levels = disturbed(make()).to(precision), [level.to(precision) for level in random_levels(shapes, count=3)]
    before = [level.clone() for level in levels]
    close = {"rtol": 1e-4, "atol": 1e-4} if precision == torch.float32 else {}
    for _ in range(2):
        if name == "block":
            torch.testing.assert_close(net.latent(levels[0]), net(levels[0])[0], **close)
        else:
            torch.testing.assert_close(net.latents(levels), net(levels)[0], **close)
        torch.testing.assert_close(levels, before, rtol=0, atol=0)
        latents, log_det = net(levels[0] if name == "block" else levels)
        negative_log_likelihood([latents] if name == "block" else latents, log_det).backward()
        torch.optim.Adam(net.parameters(), 0.05, fused=True).step()  # training goes on, and prediction follows


def test_scale_norms_are_layer_norms():
    norms = ScaleNorms([(3, 4, 2)])
    disturbed(norms)
    x = random_levels([(3, 4, 2)], count=2)[0]
    torch.testing.assert_close(norms([x])[0], norms[0](x))
    torch.testing.assert_close(ScaleNorms([(3, 4, 2)], affine=False)([x])[0], F.layer_norm(x, (3, 4, 2)))


def test_invertible_convolution_keeps_volume():
    torch.manual_seed(0)
    net = InvertibleConvolution(6)
    torch.testing.assert_close(net.weight() @ net.weight().T, torch.eye(6))  # starts as a rotation
    disturbed(net)
    assert net.weight().det().abs().item() == pytest.approx(1)
    x = random_levels([(6, 3, 3)])[0]
    torch.testing.assert_close(net.inverse(net(x)), x)


def test_likelihoods_by_hand():
    latents = [torch.full((2, 3, 2, 2), 2.0), torch.tensor([[[[1.0]]], [[[3.0]]]])]
    assert negative_log_likelihood(latents, torch.tensor([4.0, 6.0])).item() == (24 + 0.5 - 4 + 24 + 4.5 - 6) / 2
    assert log_likelihood(latents[0]).tolist() == [[[-2.0, -2.0], [-2.0, -2.0]]] * 2


def test_extreme_features_stay_finite():
    net = Flow([CouplingBlock(4, convolutions(3, 1.0), 2.0) for _ in range(8)])
    latent, log_det = net(torch.full((1, 4, 8, 8), 1e6))
    assert latent.isfinite().all() and log_det.isfinite().all()
    assert log_likelihood(latent).exp().max() == 0


# Features


def test_tokens_are_those_of_the_whole_network():
    """A small distilled transformer up to its last block: its own forward pass without the first two tokens."""
    backbone = TokenBackbone("deit_tiny_distilled_patch16_224.fb_in1k", 11, "random")
    images = torch.rand(1, 3, 224, 224)
    tokens = backbone.net.forward_features((images - backbone.mean) / backbone.std)[:, 2:]
    (feature,) = backbone(images)
    torch.testing.assert_close(feature, tokens.transpose(1, 2).view(1, 192, 14, 14))
    with pytest.raises(InputError, match=r"takes images of 224x224 pixels, these have 64x32: use ImageSet"):
        backbone(torch.rand(1, 3, 32, 64))


def test_published_transformers_give_the_published_features():
    """Shapes alone, without memory or arithmetic: on torch's meta device."""
    names = {"deit_base_distilled_patch16_384.fb_in1k": (384, 24), "cait_m48_448.fb_dist_in1k": (448, 28)}
    with torch.device("meta"):
        for name, (side, grid) in names.items():
            backbone = create_model("fastflow", backbone=name).build_backbone("random", 0)
            assert backbone(torch.rand(2, 3, side, side))[0].shape == (2, 768, grid, grid)
        pair = create_model("uflow").build_backbone("random", 0)
        shapes = [tuple(stage.shape[1:]) for stage in pair(torch.rand(2, 3, 448, 448))]
        assert shapes == [(768, 28, 28), (384, 14, 14)]
        blocks = [len(part.net.blocks) for part in (pair.fine, pair.coarse)]
        assert blocks == [41, 21]

        latents, _ = create_model("uflow").build_flow(shapes)([torch.rand(2, *shape) for shape in shapes])
        assert [tuple(latent.shape[1:]) for latent in latents] == [(192, 14, 14), (816, 28, 28)]


def coupling(channels: int, kernel: int, ratio: float = 1.0) -> int:
    """Parameters of a block of FastFlow and U-Flow."""
    half = channels // 2
    hidden = int(half * ratio)
    return half * hidden * kernel**2 + hidden + hidden * channels * kernel**2 + channels + 2 * channels


@pytest.mark.parametrize(
    ("model", "shapes", "expected"),
    [
        ("uflow", [(768, 28, 28), (384, 14, 14)], 2 * sum(coupling(c, k) for c in (384, 816) for k in (3, 1))),
        ("fastflow", [(768, 28, 28)], 10 * (coupling(768, 3, 0.16) + coupling(768, 1, 0.16))),
    ],
)
def test_flows_on_transformers_have_the_published_size(model, shapes, expected):
    name = {"uflow": {}, "fastflow": {"backbone": "cait_m48_448.fb_dist_in1k"}}[model]
    with torch.device("meta"):
        net = create_model(model, **name).build_flow(shapes)
    assert sum(value.numel() for value in net.parameters()) == expected
    assert round(expected / 1e6, 2) == {"uflow": 12.22, "fastflow": 7.07}[model]


def test_transformers_refuse_weights_that_are_not_theirs():
    with pytest.raises(InputError, match="a ResNet-18's; cait_m48_448"):
        create_model("fastflow", backbone="cait_m48_448.fb_dist_in1k").build_backbone("bundled", 0)
    with pytest.raises(InputError, match="need two files"):
        create_model("uflow").build_backbone("weights.safetensors", 0)


def test_beside_a_resnet_no_weights_of_a_second_network_are_asked_for():
    networks = ["cait_m48_448.fb_dist_in1k", "cait_s24_224.fb_dist_in1k"]
    assert list(create_model("uflow").weight_files()) == networks
    assert list(create_model("uflow", **R18 | {"weights": "bundled"}).weight_files()) == ["resnet18.tv_in1k"]
    same = create_model("uflow", **R18 | {"weights": "bundled"}, second_backbone="resnet18.tv_in1k")
    assert list(same.weight_files()) == ["resnet18.tv_in1k"]


@pytest.mark.parametrize("name", ["fastflow", "uflow", "msflow"])
def test_features_kept_in_memory_change_no_number(name, train):
    settings = R18 | {"epochs": 1, "batch_size": 2} | ({"blocks": (1, 1, 1)} if name == "msflow" else {"steps": 1})
    kept, live = (create_model(name, **settings, cache_gib=limit).fit(train, progress=False) for limit in (1, 0))
    torch.testing.assert_close(kept.state(), live.state(), rtol=1e-4, atol=1e-6)


def test_another_image_size_is_refused(train):
    for name in ("fastflow", "msflow", "uflow", "pyramidflow"):
        part = {"msflow": {"blocks": (1, 1, 1)}, "pyramidflow": {"stacks": 1, "kernel": 1}}.get(name, {"steps": 1})
        model = create_model(name, **R18, **part, epochs=1, batch_size=2).fit(train, progress=False)
        with pytest.raises(InputError, match="Predict with the size and crop of the training images"):
            model.predict(ImageSet(train.samples, size=32), progress=False)


# FastFlow


def test_fastflow_fuses_likelihoods_of_its_scales(train):
    model = create_model("fastflow", **R18, steps=1, epochs=1, batch_size=2).fit(train, progress=False)
    batch = torch.stack([train.pixels(index) for index in range(2)])
    with torch.inference_mode():
        scores, maps = model.score_batch(batch)
        latents, _ = model.flow_(model.backbone_(batch))
    parts = [F.interpolate((-0.5 * z.square().mean(1, keepdim=True)).exp(), 64, mode="bilinear") for z in latents]
    torch.testing.assert_close(maps, -sum(parts)[:, 0] / 3)
    torch.testing.assert_close(scores, maps.amax((1, 2)))


def test_fastflow_takes_steps_and_kernels_of_its_backbone():
    shapes = [(4, 2, 2)]
    for backbone, kernels in (("resnet18.tv_in1k", [3] * 8), ("wide_resnet50_2.tv_in1k", [3, 1] * 4)):
        net = create_model("fastflow", backbone=backbone).build_flow(shapes)
        assert [block.subnet[0].kernel_size[0] for block in net.flows[0].blocks] == kernels
    frozen = create_model("fastflow", train_norms=False, norm_affine=True).build_flow(shapes)
    assert not any(value.requires_grad for value in frozen.norms.parameters())
    assert not list(create_model("fastflow", norm_affine=False).build_flow(shapes).norms.parameters())


# U-Flow


def test_uflow_shuffles_carried_channels_into_positions():
    net = uflow.UFlowNet([4, 8], 1)
    assert [flow.blocks[0].order.numel() for flow in net.flows] == [8, 5]
    latents, _ = net([torch.rand(1, 4, 4, 4), torch.rand(1, 8, 2, 2)])
    assert [tuple(latent.shape) for latent in latents] == [(1, 4, 2, 2), (1, 5, 4, 4)]


def test_uflow_loss_of_anomalib_weights_energies_by_the_batch():
    latents, log_det = [torch.randn(4, 3, 2, 2)], torch.randn(4)
    official, other = (create_model("uflow", batch_weighted=value).loss(latents, log_det) for value in (False, True))
    energy = 0.5 * latents[0].square().sum()
    torch.testing.assert_close(official, energy / 4 - log_det.mean())
    torch.testing.assert_close(other, energy - log_det.mean())


def significance(energy: float, channels: int, cells: int = 1) -> float:
    ratio = energy / channels
    return -cells * channels / 2 * (ratio - 1 - math.log(ratio)) / math.log(10)


def test_significance_of_regions_by_hand():
    one = uflow.region_significance(np.array([[0.0, 0, 0], [0, 40, 0], [0, 0, 0]]), 4)
    assert one[1, 1] == pytest.approx(significance(40, 4))
    assert (np.delete(one, 4) == 0).all()
    two = uflow.region_significance(np.array([[40.0, 39, 5, 0]]), 4)  # two cells together beat the higher one alone
    np.testing.assert_allclose(two[0], [significance(39, 4, 2)] * 2 + [0, 0], rtol=1e-6)
    apart = uflow.region_significance(np.array([[40.0, 1, 60]]), 4)  # a fork that is worth less than its branches
    np.testing.assert_allclose(apart[0], [significance(40, 4), 0, significance(60, 4)], rtol=1e-6)
    bridge = uflow.region_significance(np.array([[40.0, 38, 41]]), 4)  # and one that is worth more
    np.testing.assert_allclose(bridge[0], [significance(38, 4, 3)] * 3, rtol=1e-6)
    assert not uflow.region_significance(np.full((3, 3), 4.0), 4).any()  # noise as expected


def regions_by_definition(energy: np.ndarray, channels: int) -> np.ndarray:
    """Slow and plain: the tree of level sets by labelling every threshold, chains and forks as the docstring says."""

    def settle(region: np.ndarray) -> list[tuple[float, np.ndarray]]:
        """Kept leaves of the tree below a region, the whole chain on top of it included."""
        chain = [region]
        while True:
            inner = chain[-1] & (energy > energy[chain[-1]].min())
            labels, count = scipy.ndimage.label(inner)
            if count != 1:
                break
            chain.append(inner)
        values = [significance(max(energy[one].min(), channels), channels, one.sum()) for one in chain]
        best = min(values)
        here = (best, chain[values.index(best)])
        branches = [settle(labels == number + 1) for number in range(count)]
        if all(len(one) == 1 for one in branches) and all(best <= one[0][0] for one in branches):
            return [here]
        return [leaf for one in branches for leaf in one]

    result = np.zeros(energy.shape)
    for value, region in settle(np.ones(energy.shape, bool)):
        result[region] = value
    return result


@pytest.mark.parametrize("seed", range(8))
def test_regions_agree_with_their_definition(seed):
    energy = np.random.default_rng(seed).chisquare(4, (6, 7)) * 2
    np.testing.assert_allclose(uflow.region_significance(energy, 4), regions_by_definition(energy, 4), rtol=1e-5)


def test_number_of_tests_by_hand():
    assert uflow.log10_tests([1]) == pytest.approx(math.log10(0.316915 * 4.062570))
    two = 2 * (0.316915 * 4.062570 + 0.316915 * 4.062570**2 / 2)
    assert uflow.log10_tests([2]) == pytest.approx(math.log10(two))
    assert uflow.log10_tests([1, 2]) == pytest.approx(math.log10(0.316915 * 4.062570 + two))
    assert math.isfinite(uflow.log10_tests([10_000]))


def test_false_alarms_are_rare_in_noise_and_an_anomaly_is_significant():
    generator = torch.Generator().manual_seed(0)
    latents = [torch.randn(10, 32, side, side, generator=generator) for side in (12, 6)]
    assert (uflow.log_nfa(latents, (24, 24)) > 0).all()
    latents[0][0, :, 3:8, 2:7] *= 3
    found = uflow.log_nfa(latents, (24, 24)) < 0
    assert found[0, 8:14, 6:12].all()
    assert not found[1:].any()


# MSFlow


def test_position_encoding_by_hand():
    encoding = msflow.position_encoding(8, 3, 4)
    assert encoding.shape == (8, 3, 4)
    expected = [math.sin(3), math.cos(3), math.sin(0.03), math.cos(0.03)]
    expected += [math.sin(2), math.cos(2), math.sin(0.02), math.cos(0.02)]
    np.testing.assert_allclose(encoding[:, 2, 3], expected, atol=1e-6)


def test_msflow_backbone_reflects_at_the_border_and_halves():
    backbone = msflow.MSFlowBackbone("resnet18.tv_in1k", "random")
    flat = backbone(torch.full((1, 3, 64, 64), 0.7))[0]
    assert flat.shape == (1, 64, 8, 8)
    # A constant image stays constant but for the averaging's own zeros at the top and left.
    torch.testing.assert_close(flat[:, :, 1:, 1:], flat[:, :, 4:5, 4:5].expand(-1, -1, 7, 7))
    zeros = create_model("fastflow", **R18).build_backbone("random", 0)(torch.full((1, 3, 64, 64), 0.7))[0]
    assert not torch.allclose(zeros[:, :, :1], zeros[:, :, 8:9])


def test_msflow_learning_rate_of_the_official_schedule():
    model = create_model("msflow")
    assert [model.rate(epoch) for epoch in (0, 6, 12, 69)] == pytest.approx([0.1, 0.55, 1, 1])
    assert [model.rate(epoch) for epoch in (70, 89, 90, 99)] == pytest.approx([0.33, 0.33, 0.1089, 0.1089])


def test_msflow_maps_and_score_by_hand():
    first = torch.tensor([[[[0.0, 2.0], [0.0, 0.0]]]])
    product, total = msflow.likelihood_maps([first, first], (2, 2))
    np.testing.assert_allclose(product[0], [[0, 1 - math.exp(-4)], [0, 0]], atol=1e-6)
    np.testing.assert_allclose(total[0], [[0, 2 - 2 * math.exp(-2)], [0, 0]], atol=1e-6)


# PyramidFlow


def test_pyramid_composes_to_the_image():
    image = random_levels([(3, 16, 24)], count=2)[0]
    pyramid = pyramidflow.build_pyramid(image, 4)
    assert [tuple(level.shape[-2:]) for level in pyramid] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    torch.testing.assert_close(pyramidflow.compose_pyramid(pyramid), image)


def test_blur_is_the_binomial_kernel():
    point = torch.zeros(1, 1, 5, 5)
    point[0, 0, 2, 2] = 256
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0])
    torch.testing.assert_close(pyramidflow.blur(point)[0, 0], line[:, None] * line)


def test_pyramidflow_order_of_steps():
    four = [((0, 2), 1), ((2,), 3), ((1,), 0), ((1, 3), 2)]
    eight = [((0, 2), 1), ((2, 4), 3), ((4, 6), 5), ((6,), 7), ((1,), 0), ((1, 3), 2), ((3, 5), 4), ((5, 7), 6)]
    for levels, passes in ((2, [((0,), 1), ((1,), 0)]), (4, four), (8, eight)):
        net = pyramidflow.PyramidFlowNet((2, 128, 128), levels, stacks=2, kernel=1)
        assert [(step.sources, step.target) for step in net.steps] == passes * 2


@pytest.mark.parametrize("normalisation", ["channel", "spatial"])
def test_pyramidflow_inverts(normalisation):
    torch.manual_seed(0)
    net = disturbed(pyramidflow.PyramidFlowNet((3, 16, 16), 3, 2, 3, normalisation), 0.1)
    for step in net.steps:
        step.norm.running_mean.normal_()
    image = random_levels([(3, 16, 16)], count=2)[0]
    torch.testing.assert_close(net.inverse(net(image)), image)


@pytest.mark.parametrize("normalisation", ["channel", "spatial"])
def test_pyramid_steps_preserve_volume_in_training(normalisation):
    torch.manual_seed(0)
    shapes = [(3, 4, 4), (3, 2, 2), (3, 1, 1)]
    levels = random_levels(shapes)
    for sources, target in (((1,), 0), ((0, 2), 1)):
        step = disturbed(pyramidflow.PyramidStep(sources, target, shapes, 3, normalisation)).train()
        assert log_volume(step, levels).abs() < 1e-9
        assert step.change(levels)[0].abs().max() > 0.01


def test_gradients_reach_every_parameter_of_pyramidflow():
    torch.manual_seed(0)
    net = disturbed(pyramidflow.PyramidFlowNet((3, 16, 16), 3, 1, 3), 0.1).train()
    pyramidflow.contrast(net(random_levels([(3, 16, 16)], count=2)[0])).backward()
    still = [key for key, value in net.named_parameters() if value.grad is None or not value.grad.any()]
    assert not still


def test_contrast_compares_the_halves_of_a_batch():
    image = torch.rand(1, 2, 8, 8)
    same = pyramidflow.build_pyramid(image.repeat(2, 1, 1, 1), 2)
    assert pyramidflow.contrast(same) == 0
    other = [torch.cat([level, level + 1]) for level in pyramidflow.build_pyramid(image, 2)]
    ones = pyramidflow.compose_pyramid([torch.ones(1, 2, 8, 8), torch.ones(1, 2, 4, 4)])
    torch.testing.assert_close(pyramidflow.contrast(other), torch.fft.fft2(ones.mean(1)).abs().mean())


def test_encoder_statistics_drift_only_if_asked(train):
    start = create_model("pyramidflow", **R18).build_backbone("random", 0).state_dict()
    for drifting in (True, False):
        settings = {"epochs": 1, "stacks": 1, "kernel": 1, "levels": 2, "drifting_encoder": drifting}
        model = create_model("pyramidflow", **R18, **settings).fit(train, progress=False)
        state = model.backbone_.state_dict()
        assert torch.equal(state["net.bn1.running_mean"], start["net.bn1.running_mean"]) != drifting
        assert torch.equal(state["net.conv1.weight"], start["net.conv1.weight"])
        assert not any(module.training for module in model.backbone_.modules())


def test_where_no_network_is_pretrained_weights_are_no_reason_to_warn():
    for weights in ("bundled", "random", "pretrained"):
        assert create_model("pyramidflow", backbone="none", weights=weights).warnings == []
        assert bool(create_model("pyramidflow", weights=weights).warnings) == (weights != "pretrained")


def test_flips_keep_the_pixels():
    torch.manual_seed(0)
    batch = torch.rand(16, 3, 4, 4)
    turned = pyramidflow.flipped(batch)
    torch.testing.assert_close(turned.flatten(2).sort(2).values, batch.flatten(2).sort(2).values)
    variants = [batch[0].rot90(k, (1, 2)) for k in range(4)]
    variants += [one.flip(1) for one in variants]
    seen = {next(n for n, one in enumerate(variants) if torch.equal(one, image))
            for image in pyramidflow.flipped(batch[:1].expand(64, -1, -1, -1))}  # fmt: skip
    assert seen == set(range(8))


def test_wrong_parameters_of_flows_are_refused(train):
    cases = {
        "uflow": [{"score": "nfa"}],
        "msflow": [{"clamp": "soft"}, {"maps": "mean"}],
        "pyramidflow": [{"normalisation": "batch"}, {"batch_size": 1}, {"levels": 1}],
    }
    for name, settings in cases.items():
        for one in settings:
            with pytest.raises(InputError, match=f"{next(iter(one))}="):
                create_model(name, **one)
    with pytest.raises(InputError, match="choose fewer levels"):
        create_model("pyramidflow", **R18, levels=6).fit(train, progress=False)
    with pytest.raises(InputError, match="at least two"):
        create_model("pyramidflow", **R18).fit(ImageSet(train.samples[:1], size=64), progress=False)


def test_the_running_mean_of_pyramidflow_moves_by_its_momentum():
    for momentum in (0.1, 0.5):
        flow = create_model("pyramidflow", backbone="none", momentum=momentum).build_flow((2, 16, 16))
        norm = flow.steps[0].norm
        norm(torch.ones(4, *norm.running_mean.shape[1:]))
        assert torch.allclose(norm.running_mean, torch.tensor(momentum))
