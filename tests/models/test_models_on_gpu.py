"""Every method on a GPU; on a machine without one, on a pretended GPU (pretended_cuda.py says what that can show)."""

import inspect
from typing import Literal, get_args, get_origin

import numpy as np
import pytest
from conftest import make_tree
from pretended_cuda import gpu, is_pretended
from test_models import quick

from adlib import ImageSet, create_model, list_models, load_model, load_samples
from adlib.models import model_class
from adlib.samples import select


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    root = make_tree(tmp_path_factory.mktemp("tree"), train=2, normal=1, anomalous=1)
    samples = load_samples("folder", root)
    return tuple(ImageSet(select(samples, split=split), size=64) for split in ("train", "test"))


def short(name):
    """A method's small settings, with one step of whatever it trains."""
    return quick(name) | {key: 1 for key in quick(name) if key.endswith(("epochs", "steps"))}


def fitted(name, splits, device):
    model = create_model(name, **short(name))
    images = splits[1] if "auxiliary" in model.parameters else splits[0]
    return model.fit(images, device=device, progress=False)


@pytest.mark.parametrize("name", list_models())
def test_method_learns_and_scores_on_a_gpu_and_goes_to_the_cpu_and_back(name, splits, tmp_path):
    _, test = splits
    with gpu():
        model = fitted(name, splits, "cuda")
        parts = {key: value for key, value in model.state().items() if value.is_floating_point() and value.dim()}
        left_behind = [key for key, value in parts.items() if value.device.type != "cuda"]
        assert parts and not left_behind  # though predict() would bring them; single numbers may lie anywhere
        scored = model.predict(test, device="cuda", batch_size=4, progress=False)
        file = model.save(tmp_path / "model.safetensors")
    elsewhere = load_model(file)
    on_cpu = elsewhere.predict(test, device="cpu", batch_size=1, progress=False)  # the batch size changes no score
    assert elsewhere.parameters == model.parameters
    np.testing.assert_allclose(scored.scores, on_cpu.scores, rtol=1e-3)
    with gpu():
        back = load_model(file).predict(test, device="cuda", batch_size=4, progress=False)
    np.testing.assert_allclose(scored.scores, back.scores, rtol=1e-4)
    if is_pretended():  # a real one draws other random numbers
        expected = fitted(name, splits, "cpu").predict(test, device="cpu", batch_size=4, progress=False)
        np.testing.assert_allclose(scored.scores, expected.scores, rtol=1e-3)


# What other parameters a choice asks for; choices that ask for other images than these; numbers that lead elsewhere.
TOKENS = {"embedding": "tokens", "backbone": "vit_tiny_patch16_224", "weights": "random", "stages": (2, 4)}
NEEDED = {("patchcore", "embedding", "tokens"): TOKENS, ("patchcore", "normed", True): TOKENS}
OTHER_IMAGES = {("patchcore", "masked", True), ("mixed_supervised", "synthetic", False)}
ELSEWHERE = [
    ("cfa", {"bank_reduction": 2}),
    ("efficientad", {"distill_steps": 1, "backbone": "resnet18.tv_in1k"}),
    ("patchcore", {"neighbours": 3}),
]


def choices():
    """(method, settings) for every value of a parameter that names its values, but the default and precisions."""
    for name in list_models():
        for key, parameter in inspect.signature(model_class(name)).parameters.items():
            named = get_args(parameter.annotation) if get_origin(parameter.annotation) is Literal else ()
            for value in (True, False) if parameter.annotation is bool else named:
                if value != parameter.default and key != "precision" and (name, key, value) not in OTHER_IMAGES:
                    yield name, {key: value} | NEEDED.get((name, key, value), {})


@pytest.mark.parametrize(("name", "chosen"), ELSEWHERE)
def test_what_defaults_do_not_reach_is_on_the_gpu_what_it_is_on_the_cpu(name, chosen, splits):
    train, test = splits
    images = test if "auxiliary" in create_model(name).parameters else train

    def scored(device):
        model = create_model(name, **short(name) | chosen).fit(images, test, device=device, progress=False)
        parts = {key: value for key, value in model.state().items() if value.is_floating_point() and value.dim()}
        assert {value.device.type for value in parts.values()} == {device}
        return model.predict(test, device=device, batch_size=4, progress=False).scores

    with gpu():
        found = scored("cuda")
    if is_pretended():  # a real one draws other random numbers
        np.testing.assert_allclose(found, scored("cpu"), rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "chosen"), [pytest.param(*one, id=f"{one[0]}-{one[1]}") for one in choices()])
def test_every_choice_of_a_method_is_on_the_gpu_what_it_is_on_the_cpu(name, chosen, splits):
    test_what_defaults_do_not_reach_is_on_the_gpu_what_it_is_on_the_cpu(name, chosen, splits)
