"""The table of methods: a row for each, and facts that agree with the methods themselves."""

import inspect
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import make_tree

from adlib import ImageSet, InputError, load_samples
from adlib.detector import Detector
from adlib.models import default_weights, list_models, method_table, model_class, own_models


def test_every_method_has_its_row():
    assert list(method_table()["method"]) == list_models()


@pytest.mark.parametrize("name", list_models())
def test_year_is_that_of_the_publication_in_the_methods_file(name):
    text, year = inspect.getmodule(model_class(name)).__doc__, model_class(name).facts.year
    assert str(year) in text or f"arXiv {year % 100}" in text


@pytest.mark.parametrize("name", list_models())
def test_data_besides_normal_images_is_what_the_parameters_ask_for(name):
    detector = model_class(name)
    parameters = inspect.signature(detector.__init__).parameters
    if "textures" in parameters:
        assert "drawn without" in model_class(name).facts.data
    assert detector.accepts_anomalous == ("label" in model_class(name).facts.data)
    assert (model_class(name).facts.joint == "no target") == ("auxiliary" in parameters)
    assert model_class(name).facts.trained == bool({"epochs", "steps", "gan_steps", "student_steps"} & set(parameters))


def test_weights_are_those_of_the_default_backbone(monkeypatch, tmp_path):
    monkeypatch.delenv("ADLIB_WEIGHTS", raising=False)
    assert default_weights("patchcore") == "wide_resnet50_2.tv_in1k"
    assert default_weights("draem") == ""
    (tmp_path / "wide_resnet50_2.tv_in1k.safetensors").touch()
    monkeypatch.setenv("ADLIB_WEIGHTS", str(tmp_path))
    row = method_table().set_index("method").loc["patchcore"]
    assert row["weights"] == "wide_resnet50_2.tv_in1k (here)"
    assert row["papers"] == "cxr_ad, miic"
    assert row["scores"] == "image, pixel"


@pytest.mark.parametrize("name", own_models())
def test_the_methods_file_and_its_class_bear_one_name(name):
    found = model_class(name)
    assert found.name == name
    assert found.__module__ == f"adlib.models.{name}"


def test_listing_the_methods_needs_no_torch():
    code = "import sys, adlib; names = adlib.list_models(); print(len(names), 'torch' in sys.modules)"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == [str(len(list_models())), "False"]


class Brightness(Detector):
    """A method without networks, as short as one can be: the mean image, and what differs from it."""

    name = "brightness"

    def __init__(self, factor: float = 1.0): ...

    def fit_images(self, images, val, progress):
        self.mean_ = torch.stack([batch.mean(0) for _, batch in self.batches(images, 1, progress, "fit")]).mean(0)

    def score_batch(self, batch):
        maps = self.factor * (batch - self.mean_).abs().mean(1)
        return maps.amax((1, 2)), maps


def test_a_method_without_networks_needs_two_functions(tmp_path):
    images = ImageSet(load_samples("folder", make_tree(tmp_path, size=32)), size=32)
    normal = ImageSet(images.samples[images.labels == 0].reset_index(drop=True), size=32)
    model = Brightness(2.0).fit(normal, device="cpu", progress=False)
    other = Brightness(2.0)
    other.seed_ = 0
    other.set_state(model.state())
    other.fitted_ = True
    assert list(model.state()) == ["mean"] and model.networks() == {}
    expected, again = (one.predict(images, device="cpu", progress=False).scores for one in (model, other))
    np.testing.assert_array_equal(again, expected)


def test_a_method_without_parameters_needs_no_init(tmp_path):
    class Mean(Detector):
        name = "mean"

        def fit_images(self, images, val, progress):
            self.mean_ = torch.zeros(())

        def score_batch(self, batch):
            return batch.mean((1, 2, 3)), None

    assert (Mean().parameters, Mean.create().parameters) == ({}, {})
    with pytest.raises(InputError, match="mean has no parameter factor"):
        Mean.create(factor=2)
    images = ImageSet(load_samples("folder", make_tree(tmp_path, size=32)), size=32)
    normal = ImageSet(images.samples[images.labels == 0].reset_index(drop=True), size=32)
    assert Mean().fit(normal, device="cpu", progress=False).save(tmp_path / "mean.safetensors").exists()


def test_what_a_method_lacks_is_a_sentence(tmp_path):
    class Nothing(Detector):
        name = "nothing"

    with pytest.raises(InputError, match=r"Nothing .* has to define score_batch\(self, batch\), which gives scores"):
        Nothing().score_batch(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (lambda maps: (maps.amax((1, 2)), maps[:, None]), "returned (3,) and (3, 1, 8, 8)"),
        (lambda maps: (maps.amax((1, 2))[:, None], maps), "returned (3, 1) and (3, 8, 8)"),
        (lambda maps: (maps, maps.amax((1, 2))), "returned (3, 8, 8) and (3,)"),
        (lambda maps: (maps.max(), maps), "returned () and (3, 8, 8)"),
        (lambda maps: maps.amax((1, 2)), "returned (3,)."),
        (lambda maps: (maps.amax((1, 2)).tolist(), None), "returned list and NoneType"),
        (lambda maps: (maps.amax((1, 2)), maps[:, :1, :1]), "maps of the images' size, 8 x 8; it returned 1 x 1"),
    ],
)
def test_a_score_batch_that_returns_other_shapes_is_told_what_it_returned(given, sentence, tmp_path):
    class Odd(Detector):
        name = "odd"

        def fit_images(self, images, val, progress):
            self.mean_ = torch.zeros(())

        def score_batch(self, batch):
            return given(batch.mean(1))

    images = ImageSet(load_samples("folder", make_tree(tmp_path, train=3, size=8)), size=8)
    normal = ImageSet(images.samples[images.samples["split"] == "train"], size=8)
    odd = Odd().fit(normal, device="cpu", progress=False)
    with pytest.raises(InputError, match=re.escape(sentence)):
        odd.predict(normal, device="cpu", progress=False)
    for images in (normal.samples, torch.utils.data.Subset(normal, [0]), None):
        with pytest.raises(InputError, match=rf"take an adlib\.ImageSet, not {type(images).__name__}"):
            odd.predict(images, device="cpu", progress=False)
        with pytest.raises(InputError, match=r"take an adlib\.ImageSet"):
            odd.fit(images, device="cpu", progress=False)
    for seed in (1.5, True, -1, 2**32):  # a record would have named it, and torch drawn by another
        with pytest.raises(InputError, match=rf"seed={seed} must be a whole number in \[0, 4294967295\]"):
            odd.fit(normal, device="cpu", seed=seed, progress=False)
