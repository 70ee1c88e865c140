"""What surrounds the methods, on a GPU or a pretended one: metrics, memory banks, tiles, loading, runs, own images.

The methods themselves: tests/models/test_models_on_gpu.py. Checkpoints: tests/training/test_training.py.
"""

from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REPOSITORY, make_tree
from pretended_cuda import gpu, is_pretended, pretended_cuda
from torch.utils.data import DataLoader
from typer.testing import CliRunner

from adlib import ImageSet, InputError, create_model, load_samples
from adlib.cli.commands import app
from adlib.detector import PixelsOnly, choose_device, loader_workers
from adlib.memory import coreset
from adlib.memory.coreset import covering_radius, k_centre_greedy, k_centre_greedy_in_shards
from adlib.memory.memory_bank import BankSearch
from adlib.memory.unfinished import Unfinished
from adlib.metrics import pixel_metrics
from adlib.runs import Store
from adlib.samples import select

PADIM = {"backbone": "resnet18.tv_in1k", "weights": "bundled", "stages": (1,), "channels": 8}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return make_tree(tmp_path_factory.mktemp("tree"), train=4, normal=2, anomalous=2)


def split(tree, name, **settings):
    return ImageSet(select(load_samples("folder", tree), split=name), **{"size": 64} | settings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.int64])
def test_pixel_metrics_of_maps_on_a_gpu_are_those_of_the_cpu(dtype):
    rng = np.random.default_rng(0)
    masks = np.zeros((6, 16, 16), bool)
    masks[1, 2:5, 2:5] = masks[1, 10:12, 3:9] = masks[4, 8:, 8:] = True
    maps = torch.as_tensor(rng.integers(0, 40, masks.shape) + 8 * masks).to(dtype)
    settings = {"pro_limit": (0.3, 0.05), "auroc_limit": 0.1, "regions": True}
    expected = pixel_metrics(masks, maps, **settings)
    with gpu():
        for truth in (masks, torch.from_numpy(masks), torch.from_numpy(masks).to("cuda")):
            assert pixel_metrics(truth, maps.to("cuda"), **settings) == pytest.approx(expected, rel=1e-12)


def test_maps_on_a_gpu_that_are_not_finite_name_the_image():
    with gpu(), pytest.raises(InputError, match="image 1"):
        pixel_metrics(np.zeros((2, 4, 4)), torch.tensor([0.0, torch.nan]).repeat_interleave(16).view(2, 4, 4).cuda())


@pytest.mark.parametrize("neighbours", [1, 3])
def test_memory_bank_on_a_gpu_finds_the_distances_of_the_cpu(neighbours):
    generator = torch.Generator().manual_seed(0)
    bank, queries = (torch.randn(count, 32, generator=generator) for count in (5000, 40))  # grouped on a CPU
    expected = BankSearch(bank).nearest(queries, neighbours)
    with gpu():
        found = BankSearch(bank.to("cuda")).nearest(queries.to("cuda"), neighbours)
        assert found.is_cuda
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4)


def test_memory_bank_on_the_cpu_answers_a_gpu():
    """As one does for which the GPU has no room; of 5,000 rows it is searched in groups."""
    generator = torch.Generator().manual_seed(0)
    bank, queries = (torch.randn(count, 32, generator=generator) for count in (5000, 40))
    expected = BankSearch(bank).nearest(queries)
    with gpu():
        search = BankSearch(bank)
        found = search.nearest(queries.to("cuda"))
        assert search.grouped and found.is_cuda
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4)


# With fewer candidates than choices there are several rounds, between which distances are brought up to date.
@pytest.mark.parametrize(("starts", "candidates"), [(0, coreset.CANDIDATES), (10, coreset.CANDIDATES), (0, 8)])
def test_coreset_on_a_gpu_is_that_of_the_cpu(starts, candidates, monkeypatch):
    monkeypatch.setattr(coreset, "CANDIDATES", candidates)
    features = torch.randn(9000, 32, generator=torch.Generator().manual_seed(0))  # enough for outlines
    expected = k_centre_greedy(features, 20, starts=starts)
    with gpu():
        there = features.to("cuda")
        chosen = k_centre_greedy(there, 20, starts=starts)
        in_shards = k_centre_greedy_in_shards(there[:900], 10, 300)
        radius = covering_radius(there, chosen)
    if is_pretended():  # a real one rounds otherwise, and may choose another one of two that are equally far
        assert torch.equal(chosen, expected)
    assert radius == pytest.approx(covering_radius(features, expected), rel=1e-3)
    assert len(set(in_shards.tolist())) == 10


def test_a_coreset_on_a_gpu_whose_choice_was_interrupted_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(coreset, "CANDIDATES", 8)  # many rounds of few choices
    rounds, left = coreset._round, [1, 1, 1]

    def interrupted(*arguments):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return rounds(*arguments)

    with gpu():
        there = torch.randn(900, 32, generator=torch.Generator().manual_seed(0)).to("cuda")
        whole = k_centre_greedy(there, 100)
        monkeypatch.setattr(coreset, "_round", interrupted)
        with pytest.raises(KeyboardInterrupt):
            k_centre_greedy(there, 100, unfinished=Unfinished(tmp_path / "fit", interval=0.0))
        monkeypatch.setattr(coreset, "_round", rounds)
        noted = Unfinished(tmp_path / "fit").part("coreset", rows=900, count=100, seed=0, starts=10).read()
        assert 0 < len(noted["chosen"]) < 100
        assert torch.equal(k_centre_greedy(there, 100, unfinished=Unfinished(tmp_path / "fit")), whole)


@pytest.mark.parametrize("memory", ["1GB", "100kB"])
def test_patchcore_on_a_gpu_keeps_to_its_memory(memory, tree, monkeypatch):
    """With 100 kB the coreset is chosen on the CPU, in parts, from patches in half precision on disk."""
    settings = {"backbone": "resnet18.tv_in1k", "weights": "bundled", "coreset_ratio": 0.2, "memory": memory}
    on_cpu = create_model("patchcore", **settings).fit(split(tree, "train"), device="cpu", progress=False)
    expected = on_cpu.predict(split(tree, "test"), device="cpu", progress=False)
    chosen_on = []

    def choose(features, *rest, **options):
        chosen_on.append(features.device.type)
        return k_centre_greedy_in_shards(features, *rest, **options)

    monkeypatch.setattr("adlib.models.patchcore.k_centre_greedy_in_shards", choose)
    with gpu():
        model = create_model("patchcore", **settings).fit(split(tree, "train"), device="cuda", progress=False)
        found = model.predict(split(tree, "test"), device="cuda", progress=False)
        assert model.memory_bank_.is_cuda
    assert chosen_on == ["cpu" if memory == "100kB" else "cuda"]  # the CPU would choose the same, slowly
    assert (model.shards_ > 1) == (on_cpu.shards_ > 1) == (memory == "100kB")
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-2)


def test_tiles_on_a_gpu_are_put_together_as_on_the_cpu(tree):
    train, test = (split(tree, name, tile=(32, 8)) for name in ("train", "test"))
    expected = create_model("padim", **PADIM).fit(train, device="cpu", progress=False)
    with gpu():
        found = create_model("padim", **PADIM).fit(train, device="cuda", progress=False)
        found = found.predict(test, device="cuda", batch_size=3, progress=False)
    expected = expected.predict(test, device="cpu", progress=False)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-3)
    np.testing.assert_allclose(found.maps, expected.maps, rtol=1e-3, atol=1e-3)


def test_features_are_not_shared_from_a_gpu_and_change_nothing(tree, tmp_path):
    train, test = (split(tree, name) for name in ("train", "test"))
    with gpu():
        plain = create_model("padim", **PADIM).fit(train, device="cuda", progress=False)
        sharing = create_model("padim", **PADIM).share(tmp_path).fit(train, device="cuda", progress=False)
        plain, shared = (model.predict(test, device="cuda", progress=False) for model in (plain, sharing))
    np.testing.assert_allclose(plain.scores, shared.scores, rtol=1e-4)
    assert list(tmp_path.iterdir()) == []
    assert not any(sharing.feature_cache.counts.values())


def test_images_for_a_gpu_come_from_other_processes_pinned_and_in_order(tree, monkeypatch):
    train, pinned = split(tree, "train"), []
    with gpu():
        assert choose_device("auto").type == "cuda"
        workers = loader_workers(torch.device("cuda"))
        assert workers >= 1
        pin = torch.Tensor.pin_memory
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *rest: pinned.append(1) or pin(tensor, *rest))
        batches = list(DataLoader(PixelsOnly(train), 3, num_workers=workers, pin_memory=True))
        model = create_model("padim", **PADIM)
        model.device_ = torch.device("cuda")
        moved = list(model.batches(train, 3, False, "fit"))
    assert len(pinned) == 4
    assert [start for start, _ in moved] == [0, 3]
    for (_, there), here in zip(moved, batches, strict=True):
        assert torch.equal(there.cpu(), here)
    assert torch.equal(torch.cat(batches), torch.stack([train.pixels(index) for index in range(4)]))


def test_a_single_image_is_scored_without_starting_processes(tree, monkeypatch):
    """`adlib bench` would time their start; `adlib predict` would wait for it at images that it looks at alone."""
    workers, loader = [], DataLoader
    with gpu():
        model = create_model("padim", **PADIM).fit(split(tree, "train"), device="cuda", progress=False)
        note = lambda *given, num_workers, **options: workers.append(num_workers) or loader(*given, **options)  # noqa: E731
        monkeypatch.setattr("adlib.detector.DataLoader", note)
        one = ImageSet(select(load_samples("folder", tree), split="test")[:1], size=64)
        model.predict(one, device="cuda", batch_size=1, progress=False)
    assert workers == [0]


def in_this_process(name, out, parameters, *_):
    """What papermill does with a notebook, without a kernel: cells one after the other, parameters after their cell."""
    notebook = nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", as_version=4)
    names = {"__name__": "__main__"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
            names |= parameters | {"progress": False} if "parameters" in cell.metadata.get("tags", []) else {}
    nbformat.write(notebook, out)
    return Path(out)


def test_a_run_on_a_gpu_leaves_a_record_that_names_it(tree, tmp_path, monkeypatch):
    monkeypatch.setattr("adlib.runs.execute.execute_notebook", in_this_process)
    monkeypatch.chdir(REPOSITORY / "notebooks")
    monkeypatch.setenv("MPLBACKEND", "agg")
    settings = ["backbone=resnet18.tv_in1k", "weights=bundled", "stages=[1]", "channels=8", "size=64", "crop=null"]
    arguments = ["run", "folder", "padim", "--root", str(tree), "--category", "thing", *settings]
    with gpu():
        told = CliRunner().invoke(app, [*arguments, "--device", "cuda", "--out", str(tmp_path)])
        assert told.exit_code == 0, (told.output, told.exception)
        named = torch.cuda.get_device_name("cuda")
    (record,) = Store(tmp_path / "runs").records()
    assert record["environment"]["device"].startswith("cuda") and record["environment"]["gpu"] == named
    assert record["peak_gpu_memory_mib"] > 0
    assert len(list((tmp_path / "runs").glob("*/predictions/maps.npy"))) == 1


def test_a_detector_of_ones_own_is_made_on_a_gpu_and_used_without(tree, tmp_path):
    settings = ["backbone=resnet18.tv_in1k", "weights=bundled", "stages=[1]", "channels=8", "size=64"]
    given = [part for setting in settings for part in ("--set", setting)]
    detector = tmp_path / "detector.safetensors"
    fit = ["fit", str(tree / "thing"), "--method", "padim", *given, "--out", str(detector), "--device", "cuda"]
    look = ["predict", str(detector), str(tree / "thing" / "test"), "--device"]
    with gpu():
        told = CliRunner().invoke(app, fit)
        assert told.exit_code == 0, (told.output, told.exception)
        told = CliRunner().invoke(app, [*look, "cuda", "--out", str(tmp_path / "there")])
        assert told.exit_code == 0, (told.output, told.exception)
    told = CliRunner().invoke(app, [*look, "cpu", "--out", str(tmp_path / "here")])
    assert told.exit_code == 0, (told.output, told.exception)
    there, here = (pd.read_csv(tmp_path / name / "scores.csv")["score"] for name in ("there", "here"))
    np.testing.assert_allclose(there, here, rtol=1e-3)


@pytest.mark.parametrize("device", ["meta", "mps", "xpu", "hip", "privateuseone", None])
def test_a_device_that_holds_no_numbers_here_is_refused(device):
    try:
        torch.zeros(1, device=device or "meta").cpu()
    except (RuntimeError, AssertionError, ImportError):
        with pytest.raises(InputError, match=f"device={device!r} is not .*use 'auto', 'cpu' or 'cuda'"):
            choose_device(device)
    else:
        assert choose_device(device).type == device


def test_there_is_one_cpu_whatever_its_number():
    assert choose_device("cpu:7") == torch.device("cpu")


def test_a_gpu_that_is_not_there_is_refused_by_name():
    with pretended_cuda(count=2), pytest.raises(InputError, match=r"'cuda:2', but the last of .* is 'cuda:1'"):
        choose_device("cuda:2")
