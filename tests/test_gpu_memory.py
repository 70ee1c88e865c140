"""A GPU whose memory is short: smaller parts where no number depends on them, a failure where one would."""

from functools import partial
from itertools import chain

import numpy as np
import pytest
import torch
from conftest import make_tree
from pretended_cuda import gpu

import adlib.models
from adlib import ImageSet, create_model, load_samples
from adlib.detector import Detector
from adlib.features.backbones import Backbone
from adlib.features.fusion import fused
from adlib.figures import show_illustrations
from adlib.gpu_memory import Parts
from adlib.memory.memory_bank import BankSearch, nearest
from adlib.runs import Recorder, Run
from adlib.runs.failures import of_exception
from adlib.samples import select
from adlib.training.checkpoint import unfinished_fit

PADIM = {"backbone": "resnet18.tv_in1k", "weights": "bundled", "stages": (1,), "channels": 8}


def short_of(rows: int, work):
    """The same work on a GPU in which so many rows have room at a time, and no more."""

    def tried(batch, *rest, **options):
        if len(batch) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return work(batch, *rest, **options)

    return tried


def test_parts_are_halved_until_they_fit_and_stay_so():
    parts, asked = Parts(), []

    def work(part):
        asked.append(part.stop - part.start)
        return short_of(3, list)(range(part.start, part.stop))

    assert [*chain(*parts.of(work, 8))] == [*range(8)]
    assert (asked, parts.largest) == ([8, 4, 2, 2, 2, 2], 2)
    assert [*chain(*parts.of(work, 3))] == [*range(3)]
    assert asked[6:] == [2, 1]


def test_not_even_a_single_row_is_the_failure_that_it_is():
    with pytest.raises(torch.OutOfMemoryError):
        Parts().of(lambda part: short_of(0, list)(range(4)), 4)


# What a GPU raises since torch 2.8; a RuntimeError before.
ACCELERATOR_ERROR = getattr(torch, "AcceleratorError", RuntimeError)
SAID_OTHERWISE = [
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ACCELERATOR_ERROR("CUDA error: out of memory"),
]


@pytest.mark.parametrize("error", SAID_OTHERWISE, ids=str)
def test_what_libraries_say_of_short_memory_halves_parts_too(error):
    def work(part):
        if part.stop - part.start > 2:
            raise error
        return [*range(part.start, part.stop)]

    parts = Parts()
    assert [*chain(*parts.of(work, 5))] == [*range(5)] and parts.largest == 2
    assert of_exception(type(error).__name__, str(error)).kind == "out of GPU memory"


def test_another_failure_of_a_gpu_is_not_tried_again():
    asked = []

    def work(part):
        asked.append(part)
        raise ACCELERATOR_ERROR("CUDA error: an illegal memory access was encountered")

    with pytest.raises(ACCELERATOR_ERROR, match="illegal"):
        Parts().of(work, 4)
    assert len(asked) == 1


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return make_tree(tmp_path_factory.mktemp("tree"), train=4, normal=3, anomalous=2)


def images(tree, split, **settings):
    return ImageSet(select(load_samples("folder", tree), split=split), **{"size": 64} | settings)


@pytest.mark.parametrize("tile", [None, (32, 8)])
def test_images_are_scored_in_parts_that_fit_and_the_record_says_so(tree, tile, monkeypatch):
    run = Run("folder", str(tree), "padim", "thing", PADIM | {"size": 64, "crop": None})
    train, test = (images(tree, split, tile=tile) for split in ("train", "test"))
    model = run.create_model().fit(train, device="cpu", progress=False)
    expected = model.predict(test, device="cpu", progress=False)
    assert model.memory_notes == []
    monkeypatch.setattr(model, "score_batch", short_of(3, model.score_batch))
    with gpu():
        found = model.predict(test, device="cuda", batch_size=5, progress=False)
        record = Recorder(run).finish(model, found, {"image_f1max_threshold": 0.5})
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4)
    np.testing.assert_allclose(found.maps, expected.maps, rtol=1e-3, atol=1e-3)
    sentence = "The GPU's memory was short: images were scored 2 at a time. No number depends on it."
    assert model.memory_notes == [sentence] and sentence in record["warnings"]


def test_a_frozen_backbone_sees_as_many_images_as_fit(monkeypatch):
    backbone, batch = Backbone("resnet18.tv_in1k", (1, 2), "bundled"), torch.rand(5, 3, 32, 32)
    expected = backbone(batch)
    monkeypatch.setattr("adlib.features.backbones.fused", lambda net, x: short_of(2, fused(net, x)))
    for whole, joined in zip(expected, backbone(batch), strict=True):
        torch.testing.assert_close(whole, joined)
        assert whole.stride() == joined.stride()
    assert backbone.parts.largest == 2
    with gpu():
        there = Backbone("resnet18.tv_in1k", (1, 2), "bundled").to("cuda")
        for whole, joined in zip(expected, there(batch.to("cuda")), strict=True):
            assert joined.is_cuda
            torch.testing.assert_close(joined.cpu(), whole, rtol=1e-2, atol=1e-2)
    assert there.parts.largest == 2


def test_queries_are_compared_as_many_at_a_time_as_fit(monkeypatch):
    bank, queries = torch.rand(50, 8), torch.rand(9, 8)
    monkeypatch.setattr("adlib.memory.memory_bank.nearest", short_of(4, nearest))
    search = BankSearch(bank)
    torch.testing.assert_close(search.nearest(queries, 2), nearest(queries, bank, 2))
    assert search.parts.largest == 4
    with gpu():
        there = BankSearch(bank.to("cuda"))
        found = there.nearest(queries.to("cuda"), 2)
        assert found.is_cuda and there.parts.largest == 4
        torch.testing.assert_close(found.cpu(), search.nearest(queries, 2), rtol=1e-4, atol=1e-4)


def test_a_memory_bank_that_is_searched_in_parts_is_told(tree, monkeypatch):
    settings = {"backbone": "resnet18.tv_in1k", "weights": "bundled", "coreset_ratio": 0.2}
    with gpu():
        model = create_model("patchcore", **settings).fit(images(tree, "train"), device="cuda", progress=False)
        monkeypatch.setattr("adlib.memory.memory_bank.nearest", short_of(100, nearest))
        model.predict(images(tree, "test"), device="cuda", progress=False)
        sentence = "The GPU's memory was short: the memory bank was searched for 80 patches at a time."
        assert [note[: len(sentence)] for note in model.memory_notes] == [sentence]
        monkeypatch.undo()
        model.search_ = None
        model.predict(images(tree, "test"), device="cuda", progress=False)
        assert model.memory_notes == []


class Forgetful(Detector):
    """A method whose backbone is needed for its fit alone."""

    name = "forgetful"

    def fit_images(self, images, val, progress):
        unfinished = unfinished_fit(self, images).part("features")
        if not unfinished.read():
            backbone = Backbone("resnet18.tv_in1k", (1,), "bundled")
            for _, batch in self.batches(images, 4, progress, "fit"):
                backbone(batch)
            unfinished.note()

    def score_batch(self, batch):
        return batch.mean((1, 2, 3)), None


def test_what_fit_alone_did_in_parts_is_told_also_when_it_was_resumed(tree, tmp_path, monkeypatch):
    given = {"device": "cpu", "progress": False, "checkpoint": tmp_path / "c", "keep_checkpoint": True}
    note = "The GPU's memory was short: the backbone saw 2 images at a time. No number depends on it."
    monkeypatch.setattr("adlib.features.backbones.fused", lambda net, x: short_of(2, fused(net, x)))
    model = Forgetful().fit(images(tree, "train"), **given)
    assert model.memory_notes == [note]
    monkeypatch.undo()
    resumed = Forgetful().fit(images(tree, "train"), **given)
    resumed.predict(images(tree, "test"), device="cpu", progress=False)
    assert resumed.memory_notes == [note]
    assert resumed.fit(images(tree, "train"), device="cpu", progress=False).memory_notes == []


@pytest.mark.parametrize("score", ["max", "reweighted"])
def test_a_memory_bank_without_room_on_the_gpu_stays_on_the_cpu(tree, score, monkeypatch):
    settings = {"backbone": "resnet18.tv_in1k", "weights": "bundled", "coreset_ratio": 0.2, "image_score": score}
    train, test = images(tree, "train"), images(tree, "test")
    expected = create_model("patchcore", **settings).fit(train, device="cpu", progress=False)
    expected = expected.predict(test, device="cpu", progress=False)
    with gpu():
        plain = torch.Tensor.to

        def full(tensor, *where, **options):
            if tensor.ndim == 2 and tensor.shape[1] > 200 and where and torch.device(where[0]).type == "cuda":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
            return plain(tensor, *where, **options)

        model = create_model("patchcore", **settings)
        monkeypatch.setattr(torch.Tensor, "to", full)
        found = model.fit(train, device="cuda", progress=False).predict(test, device="cuda", progress=False)
        assert not model.memory_bank_.is_cuda and model.backbone_.mean.is_cuda
        monkeypatch.undo()
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-3)
    assert model.memory_notes == [
        "The GPU's memory was short: the memory bank was searched on the CPU. No number depends on it."
    ]


def test_a_training_whose_batch_does_not_fit_fails_rather_than_change_its_numbers(tree, monkeypatch):
    loss = adlib.models.model_class("stfpm").distillation_loss
    monkeypatch.setattr(
        "adlib.models.stfpm.STFPM.distillation_loss", lambda self, batch: short_of(1, partial(loss, self))(batch)
    )
    settings = {"backbone": "resnet18.tv_in1k", "weights": "bundled", "epochs": 1, "batch_size": 2}
    with pytest.raises(torch.OutOfMemoryError):
        create_model("stfpm", **settings).fit(images(tree, "train"), device="cpu", progress=False)


def test_pictures_are_made_of_as_many_images_as_fit(tree, monkeypatch):
    shown = []
    monkeypatch.setattr("matplotlib.axes.Axes.imshow", lambda axis, picture, **options: shown.append(picture))
    train, test = images(tree, "train"), images(tree, "test")
    model = create_model("ganomaly", epochs=1, batch_size=4).fit(train, device="cpu", progress=False)
    predictions = model.predict(test, device="cpu", progress=False)
    assert show_illustrations(model, predictions, [0, 1, 2, 3, 4])
    whole = shown.copy()
    shown.clear()
    monkeypatch.setattr(model, "illustrate", short_of(2, model.illustrate))
    with gpu():
        model.to(torch.device("cuda"))
        model.device_ = torch.device("cuda")
        assert show_illustrations(model, predictions, [0, 1, 2, 3, 4])
    assert len(shown) == len(whole) == 10
    np.testing.assert_allclose(shown, whole, rtol=1e-2, atol=1e-2)
