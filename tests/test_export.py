"""Export: detectors as ONNX, which say what the detectors say; and a sentence where that cannot be."""

import json

import numpy as np
import pytest
import torch
from conftest import make_tree
from pretended_cuda import gpu

from adlib import ImageSet, InputError, create_model, load_model, load_samples
from adlib.anomaly_map import convolved, smooth
from adlib.models.supersimplenet import blur
from adlib.samples import select

NETWORK = {"backbone": "resnet18.tv_in1k", "weights": "random"}
GRAPHS = {
    "padim": NETWORK,
    "fastflow": NETWORK | {"steps": 1, "epochs": 1},
    "draem": {"epochs": 1, "batch_size": 2, "reconstruction_width": 4, "segmentation_width": 4},
}


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    samples = load_samples("folder", make_tree(tmp_path_factory.mktemp("tree"), train=4))
    return tuple(ImageSet(select(samples, split=split), size=64) for split in ("train", "test"))


@pytest.mark.parametrize("name", GRAPHS)
def test_an_exported_detector_says_what_predict_says(name, splits, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = create_model(name, **GRAPHS[name]).fit(splits[0], device="cpu", progress=False)
    predictions = model.predict(splits[1], device="cpu", progress=False)
    middle = float(np.median(predictions.scores))
    model.threshold_ = {"score": middle, "map": float(np.median(predictions.maps))}
    loaded = load_model(model.save(tmp_path / "model.safetensors"))
    session = onnxruntime.InferenceSession(str(loaded.export(tmp_path / "model.onnx")))
    about = session.get_modelmeta().custom_metadata_map
    assert (about["method"], json.loads(about["images"])["size"]) == (name, [64, 64])
    for index in range(len(splits[1])):
        score, maps, called, mask = session.run(None, {"image": splits[1].pixels(index)[None].numpy()})
        size = np.abs(predictions.maps).max()
        assert score[0] == pytest.approx(predictions.scores[index], rel=1e-4, abs=1e-4)
        assert np.abs(maps[0] - predictions.maps[index]).max() <= 1e-4 * max(1, size)
        assert called[0] == (score[0] >= np.float32(middle))
        assert mask.shape == maps.shape
    assert {file.name for file in tmp_path.iterdir()} == {"model.onnx", "model.safetensors"}


def test_a_detector_that_was_fitted_on_a_gpu_is_exported_from_the_cpu(splits, tmp_path, monkeypatch):
    """Up to where PyTorch traces the detector, which it cannot on a pretended GPU."""
    pytest.importorskip("onnxruntime")
    places = set()

    def traced(graph, images, *rest, **options):
        places.update(tensor.device.type for tensor in [*images, *model.state().values()])
        raise KeyboardInterrupt

    monkeypatch.setattr("torch.onnx.export", traced)
    with gpu():
        model = create_model("padim", **GRAPHS["padim"]).fit(splits[0], device="cuda", progress=False)
        with pytest.raises(KeyboardInterrupt):
            model.export(tmp_path / "model.onnx")
    assert places == {"cpu"}


def test_a_memory_bank_is_no_graph_and_says_so(splits, tmp_path):
    pytest.importorskip("onnxruntime")
    model = create_model("patchcore", **NETWORK).fit(splits[0], device="cpu", progress=False)
    with pytest.raises(InputError, match="patchcore cannot be exported: it compares patches with a memory"):
        model.export(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_blur_inside_a_graph_is_opencvs():
    maps = torch.rand(2, 40, 50, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(convolved(maps, 33, 4.0, repeat_edge=True), smooth(maps, 4.0), atol=1e-6)
    assert torch.allclose(convolved(maps, 13, 2.0, repeat_edge=False), blur(maps, 2.0), atol=1e-6)


def test_nothing_is_left_of_a_file_that_cannot_be_run(splits, tmp_path, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")

    def broken(*_, **__):
        raise RuntimeError("no such operator\n" + "%graph\n" * 1000)

    model = create_model("padim", **NETWORK).fit(splits[0], device="cpu", progress=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", broken)
    with pytest.raises(InputError, match=r"its file cannot be run: no such operator$"):
        model.export(tmp_path / "padim.onnx")
    assert not list(tmp_path.iterdir())
