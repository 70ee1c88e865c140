"""Pretraining: formulas, collages, the loss per cell, training that resumes, and the bundled weights."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import make_tree
from safetensors import safe_open
from typer.testing import CliRunner

from adlib import InputError
from adlib.cli.commands import app
from adlib.features.backbones import Backbone
from adlib.features.weights import BUNDLED, file_hash
from adlib.pretrain import pretrain, training
from adlib.pretrain.collage import Collages
from adlib.pretrain.formulas import KINDS, draw, recipe
from adlib.pretrain.own_images import agreement_loss
from adlib.pretrain.training import cell_loss, learning_rate_share

TINY = {"classes": 4, "size": 32, "batch_size": 4, "workers": 0, "device": "cpu", "progress": False}


def test_a_class_is_the_same_recipe_every_time_and_two_drawings_of_it_differ():
    first, second = (recipe(7, seed=3) for _ in range(2))
    assert np.array_equal(first.colours, second.colours)
    assert [layer.kind for layer in first.layers] == [layer.kind for layer in second.layers]
    one, same, other = (draw(first, 40, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert one.dtype == np.uint8 and one.shape == (40, 40, 3)
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_paired_classes_share_structure_and_not_colours():
    even, odd, next_pair = (recipe(label) for label in (6, 7, 8))
    assert [layer.frequency for layer in even.layers] == [layer.frequency for layer in odd.layers]
    assert not np.allclose(even.colours, odd.colours)
    assert [layer.frequency for layer in even.layers] != [layer.frequency for layer in next_pair.layers]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_layer_draws_something(kind):
    layers = [layer for label in range(0, 200, 2) for layer in recipe(label).layers if layer.kind == kind][:8]
    rng = np.random.default_rng(0)
    fields = [KINDS[kind](layer, 64, 0.1, 1.0, rng) for layer in layers]
    assert len(fields) == 8
    assert all(field.shape == (64, 64) and np.isfinite(field).all() for field in fields)
    assert all(field.std() > 0.01 for field in fields)


def test_collages_are_seeded_and_labelled_by_their_drawings():
    first, second = (iter(Collages(classes=6, size=48, per_class=2, seed=5)) for _ in range(2))
    seen = set()
    for _ in range(20):
        (image, labels), (same, same_labels) = next(first), next(second)
        assert np.array_equal(image, same) and np.array_equal(labels, same_labels)
        assert image.shape == (48, 48, 3) and labels.shape == (48, 48)
        seen |= set(np.unique(labels))
    assert seen <= set(range(6)) and len(seen) > 3
    other = next(iter(Collages(classes=6, size=48, per_class=2, seed=5, stream=(1,))))
    assert not np.array_equal(other[0], next(iter(Collages(classes=6, size=48, per_class=2, seed=5)))[0])


def test_a_collage_without_regions_has_one_label():
    _, labels = next(iter(Collages(classes=3, size=32, per_class=1, regions=0)))
    assert len(np.unique(labels)) == 1


def test_cell_loss_takes_the_share_of_each_class_in_a_cell():
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    labels[:, :, 2:] = 1  # the one cell is half class 0, half class 1
    logits = torch.tensor([2.0, 0.0, -1.0]).view(1, 3, 1, 1)
    log_shares = logits.log_softmax(1).flatten()
    expected = -(log_shares[0] + log_shares[1]) / 2
    assert cell_loss(logits, labels, smoothing=0).item() == pytest.approx(expected.item())
    smoothed = 0.9 * expected - 0.1 * log_shares.mean()
    assert cell_loss(logits, labels).item() == pytest.approx(smoothed.item())


def test_learning_rate_warms_up_and_ends_at_zero():
    assert learning_rate_share(0) == pytest.approx(0.02)
    assert learning_rate_share(0.5) == pytest.approx(0.5)
    assert learning_rate_share(1) == pytest.approx(0, abs=1e-12)


def test_agreement_loss_is_low_only_for_equal_varied_uncorrelated_cells():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(4, 3, 16, 16, generator=generator) * 1.5
    good = agreement_loss(maps, maps)
    assert good < 0.2
    assert agreement_loss(maps, torch.randn(4, 3, 16, 16, generator=generator)) > 50  # other places
    assert agreement_loss(maps * 0, maps * 0) > 24  # collapsed
    assert agreement_loss(maps[:, :1].repeat(1, 3, 1, 1), maps[:, :1].repeat(1, 3, 1, 1)) > 5  # repeats itself


def test_pretraining_writes_weights_that_a_backbone_loads(tmp_path):
    out = pretrain(tmp_path / "own.safetensors", minutes=0.02, **TINY)
    assert [file.name for file in tmp_path.iterdir()] == ["own.safetensors"]
    with safe_open(out, "pt") as file:
        about = json.loads(file.metadata()["adlib"])
        assert all(file.get_tensor(key).dtype == torch.float16 for key in file.keys())  # noqa: SIM118
    assert about["steps"] >= 1 and about["seed"] == 0 and about["images"] == 4 * about["steps"]
    trained = Backbone("resnet18.tv_in1k", (1, 2, 3), out)
    random = Backbone("resnet18.tv_in1k", (1, 2, 3), "random")
    assert not torch.equal(trained.net.conv1.weight, random.net.conv1.weight)


def test_the_loss_falls(monkeypatch):
    torch.manual_seed(0)
    trainee = training.Trainee("resnet18", (1,), 3).train()
    stream = iter(Collages(classes=3, size=32, per_class=4))
    optimiser = torch.optim.SGD(trainee.parameters(), 0.05, momentum=0.9)
    losses = []
    for _ in range(40):
        images, labels = (np.stack(part) for part in zip(*(next(stream) for _ in range(8)), strict=True))
        loss = cell_loss(trainee(torch.from_numpy(images).permute(0, 3, 1, 2) / 255), torch.from_numpy(labels))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.85 * math.log(3)


def test_an_interrupted_training_goes_on_where_it_was(tmp_path, monkeypatch):
    out = tmp_path / "own.safetensors"
    real_save = training._save_checkpoint

    def save_and_stop(*arguments):
        real_save(*arguments)
        raise KeyboardInterrupt

    clock = iter(range(0, 100000, 50))  # every look at the clock is 50 seconds later
    monkeypatch.setattr(training.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(training, "_save_checkpoint", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        pretrain(out, minutes=10, **TINY)
    assert not out.exists()
    saved = torch.load(tmp_path / "own.safetensors.checkpoint", weights_only=True)
    monkeypatch.setattr(training, "_save_checkpoint", real_save)
    with pytest.raises(InputError, match="from a training with other settings"):
        pretrain(out, minutes=11, **TINY)
    pretrain(out, minutes=10, **TINY)
    with safe_open(out, "pt") as file:
        about = json.loads(file.metadata()["adlib"])
    assert about["steps"] > saved["steps"] > 1
    assert [file.name for file in tmp_path.iterdir()] == ["own.safetensors"]


def test_own_images_adapt_given_weights(tmp_path):
    tree = make_tree(tmp_path / "tree", train=3, normal=1, anomalous=1)
    start = pretrain(tmp_path / "a.safetensors", minutes=0.01, **TINY)
    adapted = pretrain(tmp_path / "b.safetensors", minutes=0.01, on=tree, start=start, **TINY)
    with safe_open(adapted, "pt") as file:
        assert json.loads(file.metadata()["adlib"])["start"] == file_hash(start)


def test_wrong_calls_get_their_sentence(tmp_path):
    for arguments, sentence in (
        ({"out": tmp_path / "a.bin"}, "name a .safetensors file"),
        ({"out": tmp_path / "a.safetensors", "minutes": 0}, "minutes=0 must be above 0"),
        ({"out": tmp_path / "a.safetensors", "backbone": "abacus"}, "timm cannot build 'abacus'"),
        ({"out": tmp_path / "a.safetensors", "start": "none.safetensors"}, "none.safetensors does not exist"),
    ):
        with pytest.raises(InputError, match=sentence):
            pretrain(**arguments)
    result = CliRunner().invoke(app, ["pretrain", "--minutes", "1", "--out", "a.bin"])
    assert isinstance(result.exception, InputError)


# The bundled weights


def test_bundled_weights_are_small_and_described():
    files = sorted(BUNDLED.glob("*.safetensors"))
    assert files
    card = (BUNDLED / "README.md").read_text(encoding="utf-8")
    for file in files:
        assert file.stat().st_size <= 6e6
        assert file_hash(file) in card
        with safe_open(file, "pt") as opened:
            about = json.loads(opened.metadata()["adlib"])
        for fact in (about["steps"], about["classes"], about["size"]):
            assert f"{fact:,}" in card


def test_bundled_weights_load_by_name_and_say_what_they_are():
    backbone = Backbone("resnet18.tv_in1k", (2, 3), "bundled")
    assert backbone.origin["kind"] == "bundled"
    with pytest.raises(InputError, match=r"'bundled' exist for resnet18, not for backbone='wide_resnet50_2.tv_in1k'"):
        Backbone("wide_resnet50_2.tv_in1k", (2, 3), "bundled")
    with pytest.raises(InputError, match="end with stage 3"):
        Backbone("resnet18.tv_in1k", (3, 4), "bundled")
