"""Every method on a GPU; on a machine without one, on a pretended GPU (pretended_cuda.py says what that can show)."""

import inspect
from functools import partial
from itertools import zip_longest
from typing import Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from conftest import make_tree
from pretended_cuda import gpu, is_pretended
from safetensors.torch import save_file
from test_models import quick

from adlib import ImageSet, create_model, list_models, load_model, load_samples
from adlib.features.foreground import foreground
from adlib.models import model_class
from adlib.models.uflow import CaiTPair
from adlib.networks.flow_blocks import InvertibleConvolution, TokenBackbone, convolutional_flow
from adlib.networks.patch_description import PatchDescription
from adlib.samples import select


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    root = make_tree(tmp_path_factory.mktemp("tree"), train=2, normal=1, anomalous=1)
    samples = load_samples("folder", root)
    return tuple(ImageSet(select(samples, split=split), size=64) for split in ("train", "test"))


def load_here(monkeypatch):
    """Load images in this process from now on: others, for the few of them, take as long as all the rest."""
    for where in ("detector", "training.loop"):
        monkeypatch.setattr(f"adlib.{where}.loader_workers", lambda device: 0)


def short(name):
    """A method's small settings, with one step of whatever it trains."""
    return quick(name) | {key: 1 for key in quick(name) if key.endswith(("epochs", "steps"))}


def fitted(name, splits, device):
    model = create_model(name, **short(name))
    images = splits[1] if "auxiliary" in model.parameters else splits[0]
    return model.fit(images, device=device, progress=False)


@pytest.mark.parametrize("name", list_models())
def test_method_learns_and_scores_on_a_gpu_and_goes_to_the_cpu_and_back(name, splits, tmp_path, monkeypatch):
    _, test = splits
    with gpu():
        model = fitted(name, splits, "cuda")
        parts = {key: value for key, value in model.state().items() if value.is_floating_point() and value.dim()}
        left_behind = [key for key, value in parts.items() if value.device.type != "cuda"]
        assert parts and not left_behind  # though predict() would bring them; single numbers may lie anywhere
        scored = model.predict(test, device="cuda", batch_size=4, progress=False)
        assert model.device_.type == "cuda"  # on the CPU it would score the same, and nobody would know
        file = model.save(tmp_path / "model.safetensors")
    load_here(monkeypatch)  # what other processes load has been seen
    elsewhere = load_model(file)
    on_cpu = elsewhere.predict(test, device="cpu", batch_size=1, progress=False)  # the batch size changes no score
    assert elsewhere.parameters == model.parameters
    np.testing.assert_allclose(scored.scores, on_cpu.scores, rtol=1e-3)
    shown = torch.stack([test[index]["image"] for index in range(len(test))])
    with torch.inference_mode():
        expected_pictures = elsewhere.illustrate(shown)
    with gpu(), torch.inference_mode():
        pictures = {name: picture.cpu() for name, picture in model.illustrate(shown.to("cuda")).items()}
    assert pictures.keys() == expected_pictures.keys()
    for picture, expected in zip(pictures.values(), expected_pictures.values(), strict=True):
        torch.testing.assert_close(picture, expected, rtol=1e-2, atol=1e-2)
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
    ("crad", {"backbone": "tf_efficientnet_b0", "weights": "random"}),
    ("efficientad", {"distill_steps": 1, "backbone": "resnet18.tv_in1k"}),
    ("mixed_supervised", {"validation_share": 0.5}),
    ("patchcore", {"neighbours": 3}),
    ("riad", {"validation_share": 0.5}),
    ("simplenet", {"cache_gib": 0}),
]


def choices():
    """(method, settings) for every value of a parameter that names its values, but precisions and what is usual."""
    for name in list_models():
        for key, parameter in inspect.signature(model_class(name)).parameters.items():
            named = get_args(parameter.annotation) if get_origin(parameter.annotation) is Literal else ()
            usual = quick(name).get(key, parameter.default)
            for value in (True, False) if parameter.annotation is bool else named:
                if value != usual and key != "precision" and (name, key, value) not in OTHER_IMAGES:
                    yield name, {key: value} | NEEDED.get((name, key, value), {})


def scores_on(device, name, chosen, images, test):
    """A method's scores after it was fitted on a device, where all that it learned has to lie."""
    model = create_model(name, **short(name) | chosen).fit(images, test, device=device, progress=False)
    parts = {key: value for key, value in model.state().items() if value.is_floating_point() and value.dim()}
    assert {value.device.type for value in parts.values()} == {device}
    return model.predict(test, device=device, batch_size=4, progress=False).scores


def compare(name, chosen, images, test):
    with gpu():
        found = scores_on("cuda", name, chosen, images, test)
    if is_pretended():  # a real one draws other random numbers
        np.testing.assert_allclose(found, scores_on("cpu", name, chosen, images, test), rtol=1e-3)


@pytest.mark.parametrize(("name", "chosen"), ELSEWHERE)
def test_what_defaults_do_not_reach_is_on_the_gpu_what_it_is_on_the_cpu(name, chosen, splits, monkeypatch):
    load_here(monkeypatch)
    compare(name, chosen, *splits)


DRAWN = {"anomalies", "augmentation", "foreground"}  # choices of what is drawn on the CPU, whatever the device
# Parameters whose choices do not go together: the one waits in the other's column.
APART = {("cfrg", "segmentation"): "recovery", ("patchcore", "normed"): "embedding"}


def together():
    """(method, settings) in which every choice that may matter stands once, those of different parameters together."""
    columns = {}
    for name, chosen in choices():
        key = next(iter(chosen))
        if key not in DRAWN:
            columns.setdefault(name, {}).setdefault(APART.get((name, key), key), []).append(chosen)
    for name, waiting in columns.items():
        for row in zip_longest(*waiting.values(), fillvalue={}):
            yield name, {key: value for chosen in row for key, value in chosen.items()}


def identified(cases):
    return [pytest.param(*one, id=f"{one[0]}-{one[1]}") for one in cases]


@pytest.mark.parametrize(("name", "chosen"), identified(together()))
def test_choices_of_a_method_run_on_a_gpu(name, chosen, splits, monkeypatch):
    """Each choice by itself, and beside the CPU's: the next test."""
    train, test = splits
    load_here(monkeypatch)
    with gpu():
        scores = scores_on("cuda", name, chosen, test if "auxiliary" in create_model(name).parameters else train, test)
    assert np.isfinite(scores).all()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "chosen"), identified(choices()))
def test_every_choice_of_a_method_is_on_the_gpu_what_it_is_on_the_cpu(name, chosen, splits):
    train, test = splits
    compare(name, chosen, test if "auxiliary" in create_model(name).parameters else train, test)


def test_labelled_defects_are_learned_on_the_gpu_as_on_the_cpu(splits, monkeypatch):
    load_here(monkeypatch)
    compare("supersimplenet", {}, splits[1], splits[1])


def test_images_of_another_size_than_the_towers_are_compared_on_the_gpu(splits, monkeypatch):
    load_here(monkeypatch)
    images = ImageSet(splits[1].samples, size=48)
    compare("adaclip", {}, images, images)


def test_a_teacher_from_a_file_teaches_on_the_gpu(splits, tmp_path, monkeypatch):
    load_here(monkeypatch)
    file = tmp_path / "teacher.safetensors"
    settings = short("efficientad")
    teacher = PatchDescription("small", settings["features"], settings["width"])
    save_file({key: value.contiguous() for key, value in teacher.state_dict().items()}, file)
    compare("efficientad", {"teacher": str(file)}, *splits)


def test_what_the_background_leaves_is_kept_on_the_gpu(splits, monkeypatch):
    """The threshold suits DINOv2's tokens; of these features it would call all background."""
    load_here(monkeypatch)
    monkeypatch.setattr("adlib.models.patchcore.foreground", partial(foreground, threshold=0.01))
    compare("patchcore", {"masked": True}, *splits)


def test_a_scale_of_the_images_asked_about_is_found_on_the_gpu_by_a_loaded_model(splits, tmp_path, monkeypatch):
    load_here(monkeypatch)
    train, test = splits
    with gpu():
        model = create_model("onenip", **short("onenip"), scale="test").fit(train, device="cuda", progress=False)
        scored = model.predict(test, device="cuda", batch_size=4, progress=False)
        loaded = load_model(model.save(tmp_path / "model.safetensors"))
        again = loaded.predict(test, device="cuda", batch_size=4, progress=False)
        assert {model.device_.type, loaded.device_.type} == {"cuda"}
    np.testing.assert_allclose(again.scores, scored.scores, rtol=1e-4)


def test_a_scale_of_the_images_asked_about_is_found_in_parts_that_fit_into_the_gpu(splits, monkeypatch):
    load_here(monkeypatch)
    train, test = splits
    model = create_model("onenip", **short("onenip"), scale="test").fit(train, device="cpu", progress=False)
    expected = model.predict(test, device="cpu", batch_size=2, progress=False)
    restore = model.restoration_.forward

    def short_of_room(features, prompts):
        if len(features) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return restore(features, prompts)

    monkeypatch.setattr(model.restoration_, "forward", short_of_room)
    with gpu():
        found = model.predict(test, device="cuda", batch_size=2, progress=False)
    assert model.memory_notes and model.memory_notes[0].count("scored 1 at a time") == 1
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-3)


def two_transformers():
    """U-Flow's pair of transformers, of the smallest there are."""
    small = "deit_tiny_patch16_224"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("adlib.models.uflow.TokenBackbone", lambda name, block, *rest: TokenBackbone(name, 1, *rest))
        return CaiTPair(small, small, "random")


# Parts that no method with small settings asks, and what to give them.
PARTS = {
    "two transformers": (two_transformers, lambda part, x: part(x), (1, 3, 224, 224)),
    "the way back through a flow": (
        lambda: convolutional_flow(4, 2, (3,), 1.0),
        lambda part, x: [part.inverse(x)],
        (2, 4, 4, 4),
    ),
    "the way back through a convolution": (
        lambda: InvertibleConvolution(4),
        lambda part, x: [part.inverse(x)],
        (2, 4, 4, 4),
    ),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_no_small_method_asks_says_on_a_gpu_what_it_says_on_the_cpu(part):
    make, ask, shape = PARTS[part]
    torch.manual_seed(0)
    network, given = make().requires_grad_(False), torch.rand(shape)
    expected = ask(network, given)
    with gpu():
        found = ask(network.to("cuda"), given.to("cuda"))
        assert all(one.is_cuda for one in found)
        for there, here in zip(found, expected, strict=True):
            torch.testing.assert_close(there.cpu(), here, rtol=1e-2, atol=1e-2)
