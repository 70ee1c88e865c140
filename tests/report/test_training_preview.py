"""The training preview shows what training sees, for methods that paste and for those that do not."""

import pytest
import torch
from conftest import finished_record, make_tree

from adlib import ImageSet, create_model, load_samples
from adlib.report import paper_training_preview, training_preview
from adlib.runs import Run
from adlib.runs.record import write_json
from adlib.samples import select

R18 = {"backbone": "resnet18.tv_in1k", "weights": "random", "batch_size": 4}
# method -> settings, and the function that is given the batches of the first epoch
PASTING = {
    "cfrg": (R18 | {"student": "resnet18", "epochs": 1}, "losses"),
    "destseg": (R18 | {"student_steps": 1, "segmentation_width": 32, "rotation": 5.0}, "distillation_loss"),
    "draem": ({"reconstruction_width": 4, "segmentation_width": 4, "epochs": 1, "batch_size": 4}, "losses"),
    "glass": (R18 | {"embedding_size": 32, "hidden": 16, "hypothesis": "manifold", "epochs": 1}, "losses"),
    "onenip": (R18 | {"stages": (1, 2), "width": 16, "heads": 2, "hidden": 16, "epochs": 1}, "loss"),
    "rdpp": (R18 | {"epochs": 1}, "losses"),
    "realnet": (R18 | {"stages": (1, 2), "channels": (64,) * 4, "selection_batches": 1, "epochs": 1}, "losses"),
}


class Seen(Exception):
    """Raised in place of the first step of training, with its batch."""


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    samples = load_samples("folder", make_tree(tmp_path_factory.mktemp("tree"), train=4))
    return ImageSet(select(samples, split="train"), size=64)


def pictures(figure) -> list[list[torch.Tensor]]:
    """What the columns of a preview show, from top to bottom."""
    grid = figure.axes[0].get_gridspec()
    shown = [torch.from_numpy(axis.images[0].get_array().data) for axis in figure.axes]
    return [shown[column :: grid.ncols] for column in range(grid.ncols)]


@pytest.mark.parametrize("name", PASTING)
def test_the_preview_shows_what_the_first_epoch_sees(name, train):
    settings, step = PASTING[name]
    model = create_model(name, **settings)

    def stop(batch):
        raise Seen(batch)

    setattr(model, step, stop)
    with pytest.raises(Seen) as error:
        model.fit(train, device="cpu", seed=3, progress=False)
    batch = error.value.args[0]
    columns = pictures(training_preview(create_model(name, **settings), train, count=4, seed=3))
    assert len(columns) == 4
    assert any(mask.any() for _, mask, _ in columns)
    for _, mask, seen in columns:
        found = [torch.equal(image.permute(1, 2, 0), seen) for image in batch["image"]]
        assert sum(found) == 1
        assert torch.equal(batch["mask"][found.index(True)], mask)
    for normal, mask, seen in columns:
        assert torch.equal(normal[~mask], seen[~mask])


def test_methods_that_draw_anomalies_later_or_otherwise_are_not_said_to_learn_from_images_as_they_are(train):
    second = training_preview(create_model("iad_inpainting", probability=1.0), train, count=4)
    assert any(mask.any() and not torch.equal(normal, seen) for normal, mask, seen in pictures(second))
    mixed = training_preview(create_model("mixed_supervised"), train, count=2)
    assert "drawn defects in half of the normal images" in mixed.get_supxlabel()


def test_the_preview_of_images_with_tiles_shows_tiles(train):
    tiled = ImageSet(train.samples, size=64, tile=(32, 0))
    model = create_model("draem", **PASTING["draem"][0])
    synthetic = model.synthetic_images(tiled.tiles(), 3)
    figure = training_preview(model, tiled, count=16, seed=3)
    columns = pictures(figure)
    assert len(columns) == 16
    for index, (normal, mask, seen) in enumerate(columns):
        item = synthetic[index]
        assert torch.equal(item["image"].permute(1, 2, 0), seen)
        assert normal.shape == (32, 32, 3)
        assert mask.shape == (32, 32)
    assert figure.axes[0].get_ylabel() == "tile of 32 x 32"


def test_methods_that_change_features_say_so(train):
    model = create_model("supersimplenet", **R18, threshold=0.0)
    noisy = [training_preview(model, train, count=4, seed=seed) for seed in range(3)]
    assert noisy[0].get_supxlabel().startswith("No picture is changed: noise is added to features inside such blobs")
    columns = [column for figure in noisy for column in pictures(figure)]
    assert {len(column) for column in columns} == {2}  # image and blobs
    blob = next(mask for _, mask in columns if mask.any() and not mask.all())
    assert torch.equal(blob[::4, ::4], blob[3::4, 3::4])  # 64 pixels, a grid of twice 8
    plain = training_preview(create_model("simplenet"), train, count=2)
    assert "noise is added to the feature of every patch" in plain.get_supxlabel()
    assert [len(column) for column in pictures(plain)] == [1, 1]
    assert "climb the discriminator's loss" in training_preview(create_model("glass"), train, 1).get_supxlabel()
    assert "patchcore offers no synthetic images" in training_preview(create_model("patchcore"), train).get_supxlabel()


def test_a_paper_shows_the_training_of_its_first_finished_run(tmp_path):
    cell = {"table": "6", "method": "cfrg", "dataset": "three_cad", "category": "AI", "setting": "", "seed": 0}
    cell |= {"missing": "", "key": ""}
    plan = {"paper": "three_cad", "cells": [cell]}
    (tmp_path / "plans").mkdir()
    write_json(tmp_path / "plans" / "three_cad.json", plan)
    assert "No run of cfrg" in paper_training_preview("three_cad", "cfrg", tmp_path).data
    run = Run("folder", str(make_tree(tmp_path / "tree")), "cfrg", "thing", {"size": 64, "weights": "random"}, seed=2)
    write_json(tmp_path / "plans" / "three_cad.json", plan | {"cells": [cell | {"key": run.key}]})
    (tmp_path / "runs" / run.key).mkdir(parents=True)
    write_json(tmp_path / "runs" / run.key / "record.json", finished_record(run.key, run.as_dict()))
    found = pictures(paper_training_preview("three_cad", "cfrg", tmp_path, count=2))
    expected = pictures(training_preview(create_model("cfrg"), run.images("train"), count=2, seed=2))
    assert len(found) == 2
    for column, other in zip(found, expected, strict=True):
        assert all(torch.equal(*pair) for pair in zip(column, other, strict=True))
