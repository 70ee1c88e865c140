"""The pretended GPU itself: it allows what CUDA allows, and finds a tensor that was left on the wrong side."""

import copy
import importlib.util
import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_tree
from pretended_cuda import gpu, is_pretended, pretended_cuda
from torch import nn
from torch.utils.data import DataLoader, Dataset

from adlib import ImageSet, load_samples
from adlib.models import model_class
from adlib.samples import select


class Toucher(Dataset):
    """A dataset that uses the GPU in the processes that load it, which CUDA refuses."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return torch.zeros(2).to("cuda").cpu()


def loaded_by_processes():
    return list(DataLoader(Toucher(), num_workers=1))


def left_behind(here):
    """A network whose optimiser updates it after it was moved, asked about an image that was not."""
    network = nn.Linear(3, 2).to("cuda")
    optimiser = torch.optim.Adam(network.parameters())
    network(here).sum().backward()
    optimiser.step()
    return network(torch.ones(2, 3))


def made_in_a_hook(here):
    """A hook of a gradient that makes a tensor without its device, in a backward pass on the GPU."""
    here = here.requires_grad_()
    hooked = 2 * here
    hooked.register_hook(lambda gradient: gradient * torch.ones(2, 3))
    hooked.sum().backward()


def hooked(here):
    """The gradient after a hook that keeps to its device."""
    here = here.clone().requires_grad_()
    twice = 2 * here
    twice.register_hook(lambda gradient: gradient * torch.ones(2, 3, device=gradient.device))
    twice.sum().backward()
    return here.grad


FAULTS = {
    "a tensor made without its device": lambda here: here + torch.ones(2, 3),
    "a mask of the CPU": lambda here: here.masked_fill(torch.zeros(2, 3, dtype=torch.bool), 0),
    "a sum begun on the CPU": lambda here: torch.zeros(()).add_(here.sum()),
    "a list of losses from two devices": lambda here: torch.stack([here.sum(), torch.zeros(())]),
    "a tensor like one of the GPU, made on the CPU": lambda here: here + torch.ones_like(here, device="cpu"),
    "a new tensor beside one of the GPU, made on the CPU": lambda here: here + here.new_ones(2, 3, device="cpu"),
    "a type taken from the CPU": lambda here: here + here.type_as(torch.ones(2)),
    "a type of the CPU by name": lambda here: here + here.type(torch.DoubleTensor),
    "a tensor made in a hook without its device": made_in_a_hook,
    "a single index of the CPU to select": lambda here: here.index_select(0, torch.tensor(1)),
    "a single index of the CPU to gather": lambda here: here.sum().gather(0, torch.tensor(0)),
    "a single word of the CPU": lambda here: nn.functional.embedding(torch.tensor(1), here),
    "a single class of the CPU": lambda here: nn.functional.cross_entropy(here[0], torch.tensor(1)),
    "a single number of the CPU to find": lambda here: torch.searchsorted(here[0], torch.tensor(1.0)),
    "a single number of the CPU to compare": lambda here: torch.equal(here.sum(), torch.tensor(6.0)),
    "an index of the GPU into a tensor of the CPU": lambda here: torch.ones(4)[here.long()[0]],
    "values of the CPU written into a tensor of the GPU": lambda here: here.index_put_(
        (torch.tensor([0]),), torch.ones(3)
    ),
    "NumPy without cpu()": lambda here: here.numpy(),
    "NumPy without cpu(), unasked": lambda here: np.asarray(here),
    "an input that was not moved": left_behind,
    "a generator of the CPU": lambda here: torch.rand(3, device="cuda", generator=torch.Generator()),
    "a second GPU": lambda here: here + here.cpu().to("cuda:1"),
    "a GPU that is not there": lambda here: here.to("cuda:2"),
    "the GPU in a process that loads images": lambda here: loaded_by_processes(),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_gpu_refuses_is_refused(fault):
    kind = TypeError if fault.startswith("NumPy") else RuntimeError
    with pretended_cuda(count=2), pytest.raises(kind, match=r"cuda|CUDA"):
        FAULTS[fault](torch.ones(2, 3, device="cuda"))


def test_what_a_gpu_allows_is_allowed():
    with gpu():
        here, there = torch.ones(2, 3, device="cuda"), torch.ones(2, 3)
        made = {
            "number": here * 2 + torch.tensor(1.0),
            "index": here[torch.tensor([1])],
            "index of a list": here[[0, 1]],
            "like": torch.zeros_like(here),
            "new": here.new_zeros(4),
            "data": torch.tensor([1.0], device=here.device),
            "array": torch.as_tensor(np.ones(2), device="cuda"),
            "one-hot": nn.functional.one_hot(here.long(), 3),
            "attention": nn.functional.scaled_dot_product_attention(here[None], here[None], here[None], is_causal=True),
            "copy": copy.deepcopy(here),
            "copied into": torch.empty_like(here).copy_(there),
            "type": there.type_as(here) + there.type("torch.cuda.FloatTensor"),
            "through a hook": hooked(here),
        }
        assert {name for name, tensor in made.items() if tensor.device != torch.device("cuda", 0)} == set()
        network = nn.Linear(3, 2)
        weight = network.weight
        network.to("cuda")
        assert network.weight is weight and weight.is_cuda and copy.deepcopy(network).weight.is_cuda
        wanted = torch.ones(2, 3, requires_grad=True)
        network(wanted.cuda()).sum().backward()
        assert (weight.grad.device.type, wanted.grad.device.type) == ("cuda", "cpu")
        assert float(here.sum()) == here.cpu().numpy().sum() == 6
        assert here.to("cuda") is here and there.to("cpu") is there
        on_cpu = torch.zeros_like(here, device="cpu") + here.new_ones(2, 3, device="cpu") + here.type_as(there)
        assert on_cpu.device.type == "cpu" and torch.sparse.mm(there.to_sparse(), there.T).sum() == 12


@pytest.mark.skipif(not is_pretended(), reason="there is a GPU here, which has that memory")
def test_what_was_saved_on_a_gpu_needs_a_map_location_where_there_is_none():
    file = io.BytesIO()
    with gpu():
        torch.save(torch.ones(2, device="cuda"), file)
        file.seek(0)
        assert torch.load(file, weights_only=True).is_cuda
    file.seek(0)
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(file, weights_only=True)
    file.seek(0)
    assert not torch.load(file, map_location="cpu", weights_only=True).is_cuda


# Method, a line of its file, and the same line with a tensor on the wrong side.
PLANTED = [
    ("padim", "count, self.device_)", 'count, "cpu")'),
    ("patchcore", "self.seed_).to(self.device_)", "self.seed_)"),
    ("fanogan", "1, 1, 1).to(real.device)", "1, 1, 1)"),
    ("efficientad", "flatten(1).cpu().numpy()", "flatten(1).numpy()"),
    ("riad", "removed = removed.to(batch.device)", "pass"),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    samples = load_samples("folder", make_tree(tmp_path_factory.mktemp("tree"), train=2, normal=1, anomalous=1))
    return ImageSet(select(samples, split="train"), size=64)


@pytest.mark.parametrize(("name", "right", "wrong"), PLANTED, ids=[name for name, *_ in PLANTED])
def test_a_tensor_that_a_method_leaves_on_the_wrong_side_is_found(name, right, wrong, images, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "models"))
    from test_models_on_gpu import short

    source = Path(sys.modules[model_class(name).__module__].__file__).read_text("utf-8")
    assert source.count(right) == 1
    file = tmp_path / "planted.py"
    file.write_text(source.replace(right, wrong), "utf-8")
    specification = importlib.util.spec_from_file_location("planted", file)
    planted = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(planted)
    (method,) = [kind for kind in vars(planted).values() if getattr(kind, "name", "") == name]
    with gpu(), pytest.raises((RuntimeError, TypeError), match=r"cuda"):
        method.create(**short(name)).fit(images, device="cuda", progress=False)
