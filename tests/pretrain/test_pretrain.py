"""Pretraining: drawings, collages, the lesson, training that resumes, and the bundled weights."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from conftest import write
from pretended_cuda import gpu
from safetensors import safe_open
from typer.testing import CliRunner

from adlib import InputError
from adlib.cli.commands import app
from adlib.features.backbones import Backbone
from adlib.features.weights import BUNDLED
from adlib.file_hashes import file_hash
from adlib.pretrain import pretrain, training
from adlib.pretrain.collage import Collages
from adlib.pretrain.formulas import KINDS, draw, random_layer
from adlib.pretrain.lesson import Lesson, distance_loss, neighbour_loss
from adlib.pretrain.photographs import Photographs
from adlib.pretrain.training import learning_rate_share, pupil

# A small teacher with random weights: what is learned from it is worth nothing, but learned all the same.
TINY = {"teacher": "test_efficientnet", "teacher_weights": "random", "start": "random", "backbone": "test_resnet"}
TINY |= {"sizes": (32, 64), "batch_size": 2, "drawings": 6, "workers": 0, "device": "cpu", "progress": False}


def test_drawings_are_seeded_and_differ():
    one, same, other = (draw(40, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert one.dtype == np.uint8 and one.shape == (40, 40, 3)
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_layer_draws_something(kind):
    rng = np.random.default_rng(0)
    fields = [KINDS[kind](random_layer(kind, rng), 64, rng) for _ in range(8)]
    assert all(field.shape == (64, 64) and np.isfinite(field).all() for field in fields)
    assert all(field.std() > 0.01 * np.abs(field).max() for field in fields)


def test_collages_are_seeded_and_of_every_size():
    first, second, other = (Collages(pool=4, seed=5, stream=stream) for stream in ((0,), (0,), (1,)))
    for size in (32, 64, 100) * 8:
        whole, spoilt, where = first.pair(size)
        assert whole.shape == spoilt.shape == (size, size, 3) and whole.dtype == spoilt.dtype == np.uint8
        assert where.shape == (size, size) and where.dtype == bool
        assert all(map(np.array_equal, (whole, spoilt, where), second.pair(size)))
    assert not np.array_equal(whole, other.pair(100)[0])


def test_pairs_differ_most_where_they_are_said_to():
    collages, inside, outside = Collages(pool=30, seed=1), [], []
    for _ in range(30):
        whole, spoilt, where = collages.pair(96)
        change = np.abs(spoilt.astype(np.int16) - whole).max(2)
        inside.append(change[where].mean() if where.any() else np.nan)
        outside.append(change[~where].mean())
    assert np.isfinite(inside).sum() >= 27  # a flat drawing may have nothing to spoil
    assert np.nanmean(inside) > 1.5 * np.mean(outside)  # which moves too


def test_batches_have_about_the_same_number_of_pixels():
    batches = Collages(pool=4).batches(4 * 64**2, (64, 128))
    shapes = {tuple(part.shape for part in next(batches)) for _ in range(12)}
    of_size = {
        (count, size): ((count, size, size, 3),) * 2 + ((count, size, size),) for count, size in ((4, 64), (2, 128))
    }
    assert shapes == set(of_size.values())  # of the large ones two, the least


def test_photographs_take_the_place_of_their_share_of_drawings(tmp_path):
    write(tmp_path / "red.png", np.full((120, 100, 3), (200, 0, 0), np.uint8))
    flat = []
    for share in (0, 0.6, 1):
        collages = Collages(pool=50, photographs=Photographs(tmp_path), share=share)
        flat.append(sum(picture.std(axis=(0, 1)).max() == 0 for picture in collages.pool))
    assert flat[0] == 0 and 20 <= flat[1] <= 40 and flat[2] == 50
    assert np.array_equal(Collages(pool=4).pool, Collages(pool=4, photographs=None, share=1).pool)


def test_drawings_are_renewed_by_the_area_of_collages():
    collages = Collages(pool=4, refresh=0.5)
    for _ in range(4):
        collages.pair(256)
    assert collages.drawn == 4 + 4 * 4 * 0.5


def test_distances_count_up_to_one_factor():
    maps = torch.randn(4, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    turned = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1)))[0]
    assert distance_loss(3 * torch.einsum("dc,bchw->bdhw", turned, maps), maps) < 1e-4
    assert distance_loss(maps * torch.tensor([9.0, 1, 1, 1, 1]).view(1, 5, 1, 1), maps) > 0.1


def test_a_pupil_of_one_colour_learns_without_infinite_gradients():
    maps = torch.ones(2, 3, 4, 4, requires_grad=True)
    distance_loss(maps, torch.rand(2, 3, 4, 4)).backward()
    assert maps.grad.isfinite().all()


def neighbours(own, wanted, count=4):
    torch.manual_seed(0)
    where = torch.zeros(count, 64, 64, dtype=torch.bool)
    return neighbour_loss(own.split(count), wanted.split(count), where)


def test_distances_to_neighbours_count_up_to_one_factor_and_small_ones_as_much_as_large():
    torch.manual_seed(0)
    whole = torch.randn(4, 5, 8, 8)
    maps = torch.cat([whole, whole + 0.1 * torch.randn(4, 5, 8, 8)])  # every place has a neighbour
    turned = torch.linalg.qr(torch.randn(5, 5))[0]
    assert neighbours(3 * torch.einsum("dc,bchw->bdhw", turned, maps), maps) < 1e-4
    # Twice as far from its neighbours, which are still near: a third of the distances has doubled, or two thirds.
    further = torch.cat([whole, whole + 2 * (maps[4:] - whole)])
    assert distance_loss(further, maps) < 0.05 < 0.2 < neighbours(further, maps)


def test_neighbours_of_the_pupil_alone_are_its_faults():
    """Places that the pupil takes for alike and the teacher does not: that is how a memory bank misses a defect."""
    torch.manual_seed(0)
    whole, spoilt = torch.randn(2, 4, 5, 8, 8)
    seen = spoilt.clone()
    seen[:, :, :4] = whole[:, :, 4:]  # half of the spoilt places look to the pupil as places of the whole image
    blind, sighted = torch.cat([whole, seen]), torch.cat([whole, spoilt])
    assert neighbours(blind, sighted) > 0.3
    assert neighbours(sighted, sighted) < 1e-6


def lesson_of(magnifications, stages=(1, 2, 3), seed=0):
    return Lesson("test_efficientnet", "random", pupil("test_resnet", stages, "random", seed), seed, magnifications)


def a_pair():
    torch.manual_seed(0)
    where = torch.zeros(2, 64, 64, dtype=torch.bool)
    where[:, 8:20, 8:20] = True
    return torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64), where


def test_every_stage_learns_from_the_teachers_map_of_its_grid():
    lesson = lesson_of((1,))
    assert [lesson.teachers[teacher].strides[place] for teacher, place in lesson.targets] == [4, 8, 16]
    images = torch.rand(2, 3, 64, 64)
    lesson.measure([images])
    assert lesson.mean_2.abs().sum() > 0
    assert [len(part) for part in lesson(*a_pair())] == [3, 3, 3, 3]


def test_of_magnified_images_a_deeper_stage_of_the_teacher_stands_for_a_stage():
    lesson = lesson_of((2, 1))  # the last counts for the third stage too
    assert [(teacher.stages, teacher.strides) for teacher in lesson.teachers] == [((2, 3), [8, 16]), ((2,), [8])]
    images = torch.rand(2, 3, 64, 64)
    maps = lesson.taught_maps(images)
    assert [one.shape[-1] for one in maps] == [16, 8, 4]
    larger = torch.nn.functional.interpolate(images, scale_factor=2, mode="bicubic").clamp(0, 1)
    whole = Backbone("test_efficientnet", (1, 2, 3, 4), "random")
    assert len(lesson.teachers[1].net.blocks) < len(whole.net.blocks)  # what no stage needs is not computed
    assert torch.equal(maps[0], whole(larger)[1])
    assert all(map(torch.equal, maps[1:], whole(images)[1:3]))
    assert [len(part) for part in lesson(*a_pair())] == [3, 3, 3, 3]


def test_a_stage_that_would_learn_nothing_is_refused():
    with pytest.raises(InputError, match="has no map with one value for 64 pixels"):
        lesson_of((2,), (1, 2, 3, 4))
    for wrong in ((0,), (), (2, 1, 1, 1)):
        with pytest.raises(InputError, match="must be whole numbers from 1"):
            lesson_of(wrong)
    lesson_of((2, 1), (1, 2, 3, 4))


def test_learning_rate_warms_up_and_ends_at_zero():
    assert learning_rate_share(0) == pytest.approx(0.02)
    assert learning_rate_share(0.5) == pytest.approx(0.5)
    assert learning_rate_share(1) == pytest.approx(0, abs=1e-12)


def test_the_pupil_learns_what_the_teacher_says():
    torch.manual_seed(0)
    lesson = lesson_of((1,), (1, 2))
    collages = Collages(pool=8).batches(4 * 64**2, (64,))

    def images(batch):
        return torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255

    batches = [
        (images(whole), images(spoilt), torch.from_numpy(where))
        for whole, spoilt, where in (next(collages), next(collages))
    ]
    lesson.measure([batch[1] for batch in batches])
    lesson.train()
    optimiser = torch.optim.AdamW(lesson.taught(), 3e-3)
    before = [tensor.clone() for tensor in lesson.teachers.state_dict().values()]
    losses = []
    for step in range(24):
        loss = sum(sum(part) for part in lesson(*batches[step % 2]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-2:]) < 0.7 * np.mean(losses[:2])
    assert all(map(torch.equal, before, lesson.teachers.state_dict().values()))


def test_pretraining_writes_weights_that_a_backbone_loads(tmp_path):
    out = pretrain(tmp_path / "own.safetensors", minutes=0.01, **TINY)
    assert [file.name for file in tmp_path.iterdir()] == ["own.safetensors"]
    with safe_open(out, "pt") as file:
        about = json.loads(file.metadata()["adlib"])
        assert all(file.get_tensor(key).dtype == torch.float16 for key in file.keys())  # noqa: SIM118
    assert about["steps"] >= 1 and about["seed"] == 0 and about["images"] >= 2 * about["steps"]
    assert about["teacher"] == "test_efficientnet" and about["teacher_weights"] == {"kind": "random", "seed": 0}
    trained = Backbone("test_resnet", (1, 2, 3), out)
    random = Backbone("test_resnet", (1, 2, 3), "random")
    assert not torch.equal(trained.net.conv1[0].weight, random.net.conv1[0].weight)


@pytest.mark.slow
def test_weights_record_the_photographs_that_they_learned_from(tmp_path):
    for number in range(3):
        write(tmp_path / "pictures" / f"{number}.png", draw(100, np.random.default_rng(number)))
    arguments = ["pretrain", "--minutes", "0.002", "--out", str(tmp_path / "own.safetensors"), "--device", "cpu"]
    arguments += ["--backbone", "test_resnet", "--teacher", "test_efficientnet", "--weights", "random"]
    arguments += ["--start", "random", "--batch-size", "2", "--workers", "0"]
    arguments += ["--photographs", str(tmp_path / "pictures"), "--share", "0.5"]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    with safe_open(tmp_path / "own.safetensors", "pt") as file:
        about = json.loads(file.metadata()["adlib"])["photographs"]
    assert about == {"number": 3, "fingerprint": Photographs(tmp_path / "pictures").fingerprint(), "share": 0.5}


@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.slow), "cuda"])  # the same steps on both
def test_an_interrupted_training_goes_on_where_it_was(tmp_path, monkeypatch, device):
    out = tmp_path / "own.safetensors"
    real_save = training._save_checkpoint

    def save_and_stop(*arguments):
        real_save(*arguments)
        raise KeyboardInterrupt

    clock = iter(range(0, 100000, 50))  # every look at the clock is 50 seconds later
    monkeypatch.setattr(training.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(training, "_save_checkpoint", save_and_stop)
    with gpu() if device == "cuda" else nullcontext():
        with pytest.raises(KeyboardInterrupt):
            pretrain(out, minutes=10, **TINY | {"device": device})
        assert not out.exists()
        saved = torch.load(tmp_path / "own.safetensors.checkpoint", weights_only=True)
        assert not any(key.startswith("teachers.") for key in saved["lesson"])
        monkeypatch.setattr(training, "_save_checkpoint", real_save)
        with pytest.raises(InputError, match="from a training with other settings"):
            pretrain(out, minutes=11, **TINY | {"device": device})
        pretrain(out, minutes=10, **TINY | {"device": device})
    with safe_open(out, "pt") as file:
        about = json.loads(file.metadata()["adlib"])
    assert about["steps"] > saved["done"]["steps"] > 1
    assert ("CPU" in about["device"]) == (device == "cpu")
    assert [file.name for file in tmp_path.iterdir()] == ["own.safetensors"]


def test_wrong_calls_get_their_sentence(tmp_path):
    for arguments, sentence in (
        ({"out": tmp_path / "a.bin"}, "name a .safetensors file"),
        ({"out": tmp_path / "a.safetensors", "minutes": 0}, "minutes=0 must be above 0"),
        ({"out": tmp_path / "a.safetensors", "sizes": (100,)}, "must be multiples of 32"),
        ({"out": tmp_path / "a.safetensors", "share": 1.5}, "share=1.5 must be from 0"),
        ({"out": tmp_path / "a.safetensors", "photographs": tmp_path}, "holds no photographs"),
        ({"out": tmp_path / "a.safetensors", "backbone": "abacus"}, "timm cannot build backbone='abacus'"),
        ({"out": tmp_path / "a.safetensors", "start": "none.safetensors"}, "none.safetensors does not exist"),
    ):
        with pytest.raises(InputError, match=sentence):
            pretrain(**(TINY | arguments))
    result = CliRunner().invoke(app, ["pretrain", "--minutes", "1", "--out", "a.bin"])
    assert isinstance(result.exception, InputError)


def test_the_bundled_weights_start_a_training_of_their_own_network(tmp_path):
    start = {"backbone": "resnet18.tv_in1k", "start": "bundled", "sizes": (32,)}
    out = pretrain(tmp_path / "more.safetensors", minutes=0.001, **(TINY | start))
    with safe_open(out, "pt") as file:
        assert json.loads(file.metadata()["adlib"])["start"] == file_hash(BUNDLED / "resnet18.safetensors")


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
        for fact in (about["steps"], about["images"], about["minutes"]):
            assert f"{fact:,}" in card
        assert about["teacher"] in card and about["start"][:8] in card


def test_bundled_weights_load_by_name_and_say_what_they_are():
    backbone = Backbone("resnet18.tv_in1k", (2, 3), "bundled")
    assert backbone.origin["kind"] == "bundled"
    with pytest.raises(InputError, match=r"'bundled' exist for resnet18, not for backbone='wide_resnet50_2.tv_in1k'"):
        Backbone("wide_resnet50_2.tv_in1k", (2, 3), "bundled")
    with pytest.raises(InputError, match="end with stage 3"):
        Backbone("resnet18.tv_in1k", (3, 4), "bundled")
