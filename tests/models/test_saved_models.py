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
