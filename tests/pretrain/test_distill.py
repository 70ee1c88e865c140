"""Distillation: the folder of photographs, what a teacher learns to say, resuming, and the command."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import make_tree, write
from pretended_cuda import gpu, is_pretended
from safetensors import safe_open
from safetensors.torch import load_file
from typer.testing import CliRunner

from adlib import ImageSet, InputError, create_model, load_samples
from adlib.cli.commands import app
from adlib.features.backbones import Backbone
from adlib.networks import patch_description
from adlib.networks.patch_description import PatchDescription, PicturePairs, embedding
from adlib.pretrain import distil
from adlib.pretrain.photographs import Photographs
from adlib.samples import select
from adlib.synthesis import ProceduralTextures

SMALL = {"features": 8, "width": 4}
TINY = SMALL | {"backbone": "resnet18.tv_in1k", "weights": "bundled", "size": 32, "steps": 4, "batch_size": 2}
TINY |= {"device": "cpu", "progress": False}


@pytest.fixture
def photographs(tmp_path):
    """Six photographs of several kinds: in a deeper folder, grey, of 16 bits, oblong."""
    folder, rng, draw = tmp_path / "photographs", np.random.default_rng(0), ProceduralTextures()
    for number in range(4):
        write(folder / "deep" / f"{number}.png", draw((70, 90), rng))
    write(folder / "grey.png", draw((64, 64), rng)[..., 0])
    write(folder / "deep" / "16bit.png", draw((64, 64), rng).astype(np.uint16) * 257)
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_photographs_of_every_kind_become_colour_between_0_and_1(photographs):
    read = Photographs(photographs)
    assert len(read) == 6
    for index, file in enumerate(read.files):
        picture = read(index, np.random.default_rng(0))
        assert picture.dtype == torch.float32 and len(picture) == 3
        assert 0 <= picture.min() < picture.max() <= 1
        assert torch.equal(picture[0], picture[2]) == (file.name == "grey.png")


def test_the_fingerprint_of_photographs_does_not_depend_on_where_they_lie(photographs):
    before = Photographs(photographs).fingerprint()
    moved = photographs.rename(photographs.with_name("elsewhere"))
    assert Photographs(moved).fingerprint() == before
    (moved / "grey.png").unlink()
    assert Photographs(moved).fingerprint() != before


def test_cuts_are_seeded_colour_squares_of_every_kind_of_photograph(photographs):
    folder, one, same = Photographs(photographs), np.random.default_rng(3), np.random.default_rng(3)
    cuts = [folder.cut(48, one) for _ in range(40)]
    assert {(cut.shape, cut.dtype) for cut in cuts} == {((48, 48, 3), np.dtype(np.uint8))}
    assert all(np.array_equal(cut, folder.cut(48, same)) for cut in cuts)
    assert np.mean([cut.std() > 5 for cut in cuts]) > 0.9  # of 16 bits as of 8, not black


def test_pictures_come_in_two_sizes_a_tenth_of_them_grey(photographs):
    pairs = PicturePairs(Photographs(photographs), (32, 48), seed=1)
    item = pairs[3]
    assert item["small"].shape == (3, 32, 48) and item["large"].shape == (3, 64, 96)
    assert torch.equal(item["large"], PicturePairs(Photographs(photographs), (32, 48), seed=1)[3]["large"])
    grey = 0
    for epoch in range(200):
        pairs.set_epoch(epoch)
        item = pairs[3]
        alike = [torch.equal(item[name][0], item[name][1]) for name in ("small", "large")]
        assert alike[0] == alike[1]
        grey += alike[0]
    assert 10 <= grey <= 35


def official_embedding(features, channels):
    """Neighbourhoods of 3x3, enlarged to the finest grid, pooled to 1024 values per stage, then over both stages."""
    batch, grid = len(features[0]), features[0].shape[-2:]
    pooled = []
    for stage in features:
        patches = F.unfold(stage, 3, padding=1).unflatten(2, stage.shape[-2:])  # [B, C * 9, h, w]
        patches = F.interpolate(patches, size=grid, mode="bilinear", align_corners=False)
        pooled.append(F.adaptive_avg_pool1d(patches.flatten(2).transpose(1, 2).flatten(0, 1)[:, None], 1024)[:, 0])
    joined = torch.stack(pooled, 1).flatten(1)[:, None]
    return F.adaptive_avg_pool1d(joined, channels)[:, 0].unflatten(0, (batch, *grid)).permute(0, 3, 1, 2)


def test_the_embedding_is_the_official_one():
    torch.manual_seed(0)
    features = [torch.rand(2, 128, 6, 6), torch.rand(2, 256, 3, 3)]
    torch.testing.assert_close(embedding(features, 384), official_embedding(features, 384))


def test_the_padded_teacher_and_its_target_share_a_grid():
    backbone, image = Backbone("resnet18.tv_in1k", (2, 3), "random"), torch.rand(1, 3, 64, 96)
    target = embedding(backbone(F.interpolate(image, scale_factor=2)), 8)
    for network in ("small", "medium"):
        assert PatchDescription(network, 8, width=4)(image, padded=True).shape == target.shape == (1, 8, 16, 24)


@pytest.mark.slow
def test_a_teacher_learns_what_the_network_says(photographs, tmp_path, monkeypatch):
    """The standardised target has mean 0 and deviation 1, so saying nothing costs 1."""
    histories = []
    train = patch_description.train
    monkeypatch.setattr(patch_description, "train", lambda *a, **k: histories.append(train(*a, **k)) or histories[-1])
    learnable = TINY | {"width": 16, "steps": 90, "batch_size": 6, "learning_rate": 3e-3}
    distil(photographs, tmp_path / "t.safetensors", **learnable)
    losses = [epoch["loss"] for epoch in histories[0]]
    assert losses[0] == pytest.approx(1, abs=0.1)
    assert losses[-1] < 0.9 * losses[0]


def test_the_file_says_what_it_is_and_efficientad_takes_it(photographs, tmp_path):
    out = distil(photographs, tmp_path / "out" / "t.safetensors", **TINY)
    assert [file.name for file in out.parent.iterdir()] == ["t.safetensors"]
    with safe_open(out, "pt") as file:
        about = json.loads(file.metadata()["adlib"])
    assert about["photographs"] == 6 and len(about["photographs_fingerprint"]) == 16
    assert about["backbone"] == "resnet18.tv_in1k" and about["weights"]["kind"] == "bundled"
    assert about["steps"] == 4 and about["seed"] == 0 and about["loss"] > 0
    samples = load_samples("folder", make_tree(tmp_path / "tree", train=2))
    images = ImageSet(select(samples, split="train"), size=64)
    model = create_model("efficientad", teacher=out, steps=1, **SMALL).fit(images, device="cpu", progress=False)
    weights = load_file(out)
    assert all(torch.equal(value, weights[key]) for key, value in model.teacher_.state_dict().items())


def test_an_interrupted_distillation_resumes_to_the_same_teacher(photographs, tmp_path, monkeypatch):
    whole = distil(photographs, tmp_path / "whole.safetensors", **TINY)
    out, calls, forward = tmp_path / "t.safetensors", [], PatchDescription.forward

    def interrupted(self, x, padded=False):
        calls.append(x)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(self, x, padded)

    monkeypatch.setattr(PatchDescription, "forward", interrupted)
    monkeypatch.setattr("adlib.pretrain.teacher.Distillation.checkpoint_interval", 0)
    with pytest.raises(KeyboardInterrupt):
        distil(photographs, out, **TINY)
    assert not out.exists() and out.with_name("t.safetensors.checkpoint").exists()
    monkeypatch.setattr(PatchDescription, "forward", forward)
    with pytest.raises(InputError, match=r"of another training: .*seed=0, now 1"):
        distil(photographs, out, **TINY | {"seed": 1})
    distil(photographs, out, **TINY)
    first, second = load_file(whole), load_file(out)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not out.with_name("t.safetensors.checkpoint").exists()


def test_a_teacher_distilled_on_a_gpu_is_that_of_the_cpu(photographs, tmp_path):
    with gpu():
        found = load_file(distil(photographs, tmp_path / "gpu.safetensors", **TINY | {"device": "cuda"}))
    expected = load_file(distil(photographs, tmp_path / "cpu.safetensors", **TINY | {"device": "cpu"}))
    assert found.keys() == expected.keys()
    for key, value in expected.items() if is_pretended() else ():  # a real one rounds otherwise
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-4)


def test_wrong_calls_get_their_sentence(photographs, tmp_path):
    (tmp_path / "empty").mkdir()
    out = tmp_path / "t.safetensors"
    for images, settings, sentence in (
        (tmp_path / "nowhere", {}, "There is no folder of photographs at"),
        (tmp_path / "empty", {}, "holds no photographs"),
        (photographs, {"network": "large"}, "network='large' must be one of small, medium"),
        (photographs, {"steps": 0}, "steps=0 must be at least 1"),
        (photographs, {"size": 40}, "size=40 must be a multiple of 32"),
        (photographs, {"backbone": "resnet34"}, "'bundled' exist for resnet18, not for backbone='resnet34'"),
    ):
        with pytest.raises(InputError, match=sentence):
            distil(images, out, **TINY | settings)
    with pytest.raises(InputError, match=r"name a \.safetensors file to write"):
        distil(photographs, tmp_path / "t.pth", **TINY)
    (photographs / "bad.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"bad.png is empty \(0 bytes\)"):
        distil(photographs, out, **TINY)
    assert not out.exists()


def test_the_command_distils_and_refuses_an_empty_folder(photographs, tmp_path):
    out = tmp_path / "t.safetensors"
    command = ["distill", "--images", str(photographs), "--out", str(out), "--backbone", "resnet18.tv_in1k"]
    command += ["--weights", "bundled", "--steps", "1", "--batch-size", "1", "--size", "32", "--device", "cpu"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert str(out) in result.output and out.is_file()
    (tmp_path / "empty").mkdir()
    result = CliRunner().invoke(app, ["distill", "--images", str(tmp_path / "empty"), "--out", str(out)])
    assert isinstance(result.exception, InputError)
