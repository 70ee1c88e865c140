"""Model files of others: what does not fit is refused in a sentence, whatever is wrong with it."""

import json
import struct

import pytest
import torch
from conftest import make_tree
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import adlib
from adlib import InputError


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    images = adlib.ImageSet(adlib.load_samples("folder", make_tree(folder / "tree")).query("split == 'train'"), size=32)
    model = adlib.create_model("padim", backbone="resnet18.tv_in1k", weights="random")
    return model.fit(images, device="cpu", progress=False).save(folder / "model.safetensors")


def about(**change) -> dict:
    parameters = {"backbone": "resnet18.tv_in1k", "weights": "random"}
    return {"adlib": json.dumps({"name": "padim", "parameters": parameters, "seed": 0} | change)}


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"adlib": ""},
        {"adlib": "[]"},
        {"adlib": "[" * 100_000},
        {"adlib": '{"name": "padim"}'},
        about(name="nope"),
        about(name=["padim"]),
        about(parameters=[]),
        about(parameters={"colour": 1}),
        about(parameters={"self": 1}),
        about(parameters={"backbone": 5}),
        about(seed="x"),
        about(category=1),
        about(learned_files=[1]),
        about(learned_files="a"),
    ],
)
def test_odd_metadata_are_refused(saved, tmp_path, metadata):
    save_file(load_file(saved), tmp_path / "odd.safetensors", metadata=metadata)
    with pytest.raises(InputError, match=r"odd\.safetensors is no"):
        adlib.load_model(tmp_path / "odd.safetensors")


def test_tensors_that_do_not_fit_are_refused(saved, tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "odd.safetensors", metadata=about())
    with pytest.raises(InputError, match="no model that this adlib can load"):
        adlib.load_model(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("length", [2**63, 10**8, 10**12, 0])
def test_an_oversized_header_is_refused(tmp_path, length):
    (tmp_path / "odd.safetensors").write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(InputError, match="not a model saved by adlib"):
        adlib.load_model(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("part", ["tensors", "description"])
def test_a_detector_with_one_damaged_bit_is_refused(saved, tmp_path, part):
    content = bytearray(saved.read_bytes())
    at = content.rindex(b'seed\\":') + 8 if part == "description" else len(content) - 1000
    content[at] ^= 1  # a seed of 1; another number
    (tmp_path / "odd.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"odd\.safetensors is damaged"):
        adlib.load_model(tmp_path / "odd.safetensors")


def test_a_detector_of_an_older_adlib_without_a_checksum_loads(saved, tmp_path):
    with safe_open(saved, "pt") as file:
        metadata = {"adlib": file.metadata()["adlib"]}
    save_file(load_file(saved), tmp_path / "old.safetensors", metadata=metadata)
    assert adlib.load_model(tmp_path / "old.safetensors").name == "padim"


def test_a_folder_is_no_model(tmp_path):
    with pytest.raises(InputError, match="is no file"):
        adlib.load_model(tmp_path)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("patchcore", {"weights": "bundled", "coreset_ratio": 0.5}),
        ("stfpm", {"epochs": 2, "batch_size": 2}),
        ("msad", {"weights": "bundled", "stage": 3, "epochs": 1}),
        ("efficientad", {"width": 8, "features": 8, "steps": 1, "penalty": "off"}),
        ("mixed_supervised", {"augmentation": "none", "epochs": 1, "first_cycle": 1, "number": 1, "defects": "none"}),
    ],
)
def test_a_loaded_detector_tells_of_its_fit_as_the_fitted_one_does(tmp_path, method, settings):
    samples = adlib.load_samples("folder", make_tree(tmp_path / "tree"))
    images = adlib.ImageSet(samples.query("split == 'train'"), size=64)
    backbone = {} if method == "efficientad" else {"backbone": "resnet18.tv_in1k"}
    model = adlib.create_model(method, **{"weights": "random"} | backbone | settings)
    model.fit(images, device="cpu", progress=False)
    loaded = adlib.load_model(model.save(tmp_path / "model.safetensors"))
    assert (loaded.origin, loaded.choices) == (model.origin, model.choices)
    assert loaded.warnings == model.warnings
    again = adlib.load_model(loaded.save(tmp_path / "again.safetensors"))
    assert (again.origin, again.choices) == (model.origin, model.choices)
    assert bool(model.choices) == (method in ("stfpm", "mixed_supervised"))
    loaded.fit(images, device="cpu", seed=5, progress=False)  # tells of the new fit from now on
    assert loaded.origin == model.origin | ({"seed": 5} if "seed" in (model.origin or {}) else {})


def test_a_detector_of_an_older_adlib_does_not_guess_where_its_weights_came_from(saved, tmp_path):
    with safe_open(saved, "pt") as file:
        about = json.loads(file.metadata()["adlib"])
    del about["told"]
    metadata = {"adlib": json.dumps(about)}
    save_file(load_file(saved), tmp_path / "old.safetensors", metadata=metadata)
    loaded = adlib.load_model(tmp_path / "old.safetensors")
    assert (loaded.origin, loaded.choices) == ({}, {})
