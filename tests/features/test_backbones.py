"""Any timm backbone gives what timm itself gives: one member of every family, and the sizes that it takes."""

import pytest
import timm
import torch
from timm.layers import Format

from adlib import InputError, create_model
from adlib.features.backbones import Backbone, build_network, takes
from adlib.models.stfpm import Student

# Small members of families that differ in how timm takes features from them: lists of stages, hooks, getters; channels
# first and last; with class and register tokens.
QUICK = """
test_resnet test_convnext test_efficientnet test_maxvit test_nfnet test_vit mobilenetv3_small_050 hrnet_w18_small
deit_tiny_patch16_224 vit_tiny_patch16_dinov3_qkvb pit_ti_224 convit_tiny swinv2_tiny_window8_256
swin_tiny_patch4_window7_224
"""
OTHERS = """
beit_base_patch16_224 halonet_h1 test_byobnet cait_xxs24_224 coat_tiny convmixer_768_32 cpubone_nano crossvit_tiny_240
csatv2 cs3darknet_focus_s cspnext_tiny davit_tiny densenet121 dla46x_c dpn48b edgenext_xx_small efficientformer_l1
efficientformerv2_s0 efficientvim_m1 efficientvit_b0 efficientvit_m0 fasternet_t0 fastvit_t8 focalnet_tiny_srf
gcvit_xxtiny ghostnet_050 hardcorenas_a hgnetv2_b0 hiera_tiny_224 iformer_t inception_next_atto inception_resnet_v2
inception_v3 inception_v4 levit_128s lowformer_b0 mambaout_femto coatnet_pico_rw_224 poolformerv2_s12 resmlp_12_224
mobilenetv5_base mobilevit_xxs mvitv2_tiny nest_tiny_jx nextvit_small naflexvit_base_patch16_gap pvt_v2_b0 rdnet_tiny
regnetx_002 repghostnet_050 repvit_m1 res2net50_48w_2s resnest14d resnetv2_50 rexnet_100 sam2_hiera_tiny selecsls42
legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s1 swiftformer_xs swinv2_cr_tiny_224 tiny_vit_5m_224
tnt_s_patch16_224 tresnet_m twins_svt_small vgg11 visformer_tiny vit_tiny_r_s16_p8_224 vit_relpos_small_patch16_224
vitamin_small_224 volo_d1_224 vovnet39a xception xception41 xcit_nano_12_p16_224
"""
STAGES = (1, 2)
FAMILIES = [*QUICK.split(), *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS.split())]
# What a GPU raises since torch 2.8; a RuntimeError before.
ACCELERATOR_ERROR = getattr(torch, "AcceleratorError", RuntimeError)


def of_timm(name: str, backbone: Backbone, images: torch.Tensor) -> list[torch.Tensor]:
    """Features of timm's own network with the backbone's weights, as timm says that images are to be prepared."""
    net = timm.create_model(name, features_only=True, out_indices=STAGES).eval().double()
    held = {key.removeprefix("model.").replace(".", "_"): value for key, value in backbone.net.state_dict().items()}
    for key, tensor in net.state_dict().items():
        tensor.copy_(held[key.removeprefix("model.").replace(".", "_")])
    asked = timm.data.resolve_data_config(model=timm.create_model("test_resnet"), pretrained_cfg=net.pretrained_cfg)
    mean, std = (torch.tensor(asked[key], dtype=torch.float64).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        maps = net((images - mean) / std)
    last = getattr(net, "output_fmt", Format.NCHW) == Format.NHWC
    return [stage.permute(0, 3, 1, 2) if last else stage for stage in maps]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_timms_own_features(name):
    backbone = Backbone(name, STAGES, "random").double()  # random networks make much of the last digit
    own = backbone.net.pretrained_cfg["input_size"][1:]
    size = own if max(own) < 300 else (192, 192)
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    features, expected = backbone(images), of_timm(name, backbone, images)
    assert [stage.shape for stage in features] == [stage.shape for stage in expected]
    assert [stage.shape[1] for stage in features] == backbone.channels
    for stage, wanted in zip(features, expected, strict=True):
        scale = wanted.abs().max().item()
        assert scale > 0
        torch.testing.assert_close(stage, wanted, rtol=0, atol=1e-5 * max(1, scale), check_dtype=False)


@pytest.mark.parametrize("name", ["test_vit", "vit_tiny_patch16_dinov3_qkvb", "swin_tiny_patch4_window7_224"])
def test_transformers_take_images_of_other_sizes(name):
    backbone = Backbone(name, STAGES, "random")
    features = backbone(torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)))
    for stage, channels, stride in zip(features, backbone.channels, backbone.strides, strict=True):
        assert stage.shape == (2, channels, 64 // stride, 96 // stride)


def test_tokens_of_a_vit_lie_where_their_patches_lie():
    backbone = Backbone("test_vit", (0, 5), "random")
    images = torch.full((1, 3, 64, 96), 0.5)
    changed = images.clone()
    changed[:, :, 32:48, 64:80] = 0.9  # patch (2, 4)
    before, after = backbone(images)[0], backbone(changed)[0]
    first = (after - before).abs().sum(1)[0]
    assert first.argmax().item() == 2 * 6 + 4


def test_normed_tokens_are_those_after_the_last_normalisation():
    plain, normed = (Backbone("test_vit", (3,), "random", normed=normed) for normed in (False, True))
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    (tokens,), (after,) = plain(images), normed(images)
    norm = normed.net.model.norm
    expected = torch.nn.functional.layer_norm(
        tokens.permute(0, 2, 3, 1), tokens.shape[1:2], norm.weight, norm.bias, norm.eps
    )
    torch.testing.assert_close(after.permute(0, 2, 3, 1), expected)


def test_weights_bring_their_own_mean_and_deviation():
    lite, plain = (Backbone(name, (1,), "random") for name in ("tf_efficientnet_lite0.in1k", "resnet18.tv_in1k"))
    assert lite.mean.flatten().tolist() == lite.std.flatten().tolist() == [0.5] * 3
    assert plain.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    student = Student("tf_efficientnet_lite0.in1k", (1,), 0)
    assert student.mean.flatten().tolist() == [0.5] * 3


def test_what_cannot_be_is_one_sentence():
    with pytest.raises(InputError, match="does not take images of 65 x 64 pixels"):
        Backbone("test_vit", (1,), "random")(torch.rand(1, 3, 65, 64))
    with pytest.raises(InputError, match="its own size is 224 x 224"):
        Backbone("cait_xxs24_224", (1,), "random")(torch.rand(1, 3, 64, 64))
    with pytest.raises(InputError, match=r"with feature stages \(77,\)"):
        build_network("test_vit", (77,), 0)
    with pytest.raises(InputError, match="does not take images"):
        model = create_model("patchcore", backbone="cait_xxs24_224", stages=(1,), weights="random")
        model.backbone_ = Backbone(model.backbone, model.stages, "random")
        model.embed(torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"),
        ACCELERATOR_ERROR("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        ACCELERATOR_ERROR("CUDA error: an illegal memory access was encountered"),
    ],
    ids=["memory", "GPU memory", "cuBLAS", "GPU"],
)
@pytest.mark.parametrize("name", ["resnet18.tv_in1k", "test_vit"])
def test_short_memory_and_a_gpu_that_fails_are_no_matter_of_the_images_size(name, error, monkeypatch):
    def fails(seen):
        raise error

    monkeypatch.setattr("adlib.features.backbones.fused", lambda net, seen: fails)
    backbone = Backbone(name, (1,), "random")
    with pytest.raises(type(error)) as found:
        backbone(torch.rand(2, 3, 64, 64))
    assert found.value is error


def test_whether_a_network_takes_a_size_is_told_from_sizes_alone():
    net = build_network("test_vit", (1,), 0)
    assert takes(net, (2, 3, 64, 64)) and not takes(net, (2, 3, 65, 64))
    assert takes(net, (10**6, 3, 1024, 1024))  # 12 TB
