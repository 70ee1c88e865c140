"""What is not on this machine is said before a run begins: every network that a method has, not the first one alone."""

import pytest

import adlib
from adlib import InputError
from adlib.features.weights import weights_file


@pytest.mark.parametrize(
    ("method", "parameters", "said"),
    [
        ("uflow", {"weights": "pretrained"}, "weights of cait_s24_224.fb_dist_in1k are not on this machine"),
        ("uflow", {"weights": "random", "second_backbone": "no_network"}, ""),
        ("uflow", {"weights": "random", "backbone": "resnet18.tv_in1k", "second_backbone": "no_network"}, ""),
        ("adaclip", {}, "weights of ViT-L-14-336.openai are not on this machine; the hub is asked"),
        ("adaclip", {"weights": "bundled"}, "'bundled' do not exist for CLIP"),
        ("adaclip", {"towers": "tiny"}, "open_clip names no weights for towers='tiny'"),
        ("adaclip", {"weights": "/not/there.safetensors"}, "neither pretrained, random nor a file"),
        (
            "adaclip",
            {"towers": "tiny", "weights": "random", "prompts": "/not/there.pth"},
            "'/not/there.pth' is no file",
        ),
        ("adaclip", {"towers": "tiny", "weights": "random"}, ""),
        ("efficientad", {"weights": "pretrained"}, "efficientad needs a teacher"),
        ("efficientad", {"teacher": "/not/there.safetensors"}, "file /not/there.safetensors does not exist"),
        ("efficientad", {"weights": "random"}, ""),
    ],
)
def test_every_network_whose_weights_are_missing_is_named(method, parameters, said, tmp_path, monkeypatch):
    monkeypatch.setenv("ADLIB_WEIGHTS", str(tmp_path))
    (tmp_path / "cait_m48_448.fb_dist_in1k.safetensors").touch()  # of U-Flow's two networks the first
    assert weights_file("cait_m48_448.fb_dist_in1k")
    model = adlib.create_model(method, **parameters)
    if not said:
        model.check_networks(fetch=False)
        return
    with pytest.raises(InputError, match=said):
        model.check_networks(fetch=False)
