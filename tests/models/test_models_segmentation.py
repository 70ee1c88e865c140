"""DRAEM, DeSTSeg, CFRG and RealNet: networks, losses and maps by hand, sources of textures, stages and switches."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import make_tree, untrained, write
from torch import nn

from adlib import ImageSet, InputError, create_model, load_model, load_samples
from adlib.anomaly_map import upsample
from adlib.features.backbones import Backbone
from adlib.models import cfrg, destseg, draem
from adlib.models.realnet import NO_SDAS, ForegroundPaste, foreground_mask
from adlib.networks import realnet_blocks
from adlib.networks.distillation import cosine_distance, distance_map
from adlib.networks.losses import focal_loss, structural_similarity
from adlib.papers import protocol
from adlib.runs import Run
from adlib.samples import select
from adlib.synthesis import TexturePaste
from adlib.training.loop import step_schedule
from adlib.training.pasted_textures import DRAWN_TEXTURES, Turn, TurnedSyntheticImages

R18 = {"backbone": "resnet18.tv_in1k", "weights": "random", "batch_size": 2}
SMALL = {
    "draem": {"reconstruction_width": 4, "segmentation_width": 4, "epochs": 1, "batch_size": 2},
    "destseg": R18 | {"student_steps": 2, "segmentation_steps": 2, "segmentation_width": 32},
    "cfrg": R18 | {"epochs": 1},
    "realnet": R18 | {"stages": (1, 2), "channels": (64, 64, 64, 64), "selection_batches": 2, "epochs": 1},
}
METHODS = list(SMALL)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return make_tree(tmp_path_factory.mktemp("tree"), train=4, normal=3, anomalous=3)


@pytest.fixture(scope="module")
def splits(tree):
    samples = load_samples("folder", tree)
    return tuple(ImageSet(select(samples, split=split), size=64) for split in ("train", "test"))


@pytest.fixture(scope="module")
def textures(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("textures"), np.random.default_rng(0)
    for index in range(2):
        write(folder / f"{index}.png", random.integers(0, 256, (32, 40, 3), dtype=np.uint8))
    return folder


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flat")
    write(folder / "grey.png", np.full((32, 32, 3), 128, np.uint8))
    return folder


@pytest.fixture(scope="module", params=METHODS)
def fitted(request, splits):
    return create_model(request.param, **SMALL[request.param]).fit(splits[0], device="cpu", progress=False)


def count(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


# All four


def test_batch_size_does_not_change_the_maps(fitted, splits):
    one, eight = (fitted.predict(splits[1], device="cpu", batch_size=size, progress=False) for size in (1, 8))
    np.testing.assert_allclose(one.scores, eight.scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(one.maps, eight.maps, rtol=0, atol=1e-5)
    assert eight.maps.std() > 0


def test_a_loaded_model_has_the_same_maps_to_the_last_bit(fitted, splits, tmp_path):
    loaded = load_model(fitted.save(tmp_path / "model.safetensors"))
    first, second = (model.predict(splits[1], device="cpu", progress=False) for model in (fitted, loaded))
    assert np.array_equal(first.maps, second.maps)
    assert np.array_equal(first.scores, second.scores)


def test_the_backbone_stays_as_it_was(fitted):
    if fitted.name == "draem":
        assert fitted.origin is None
        return
    fresh = Backbone("resnet18.tv_in1k", fitted.backbone_.stages, "random", seed=0).state_dict()
    assert all(torch.equal(value, fresh[key]) for key, value in fitted.backbone_.state_dict().items())


def test_drawn_textures_are_told_and_a_folder_is_not(tree, textures):
    for name in METHODS:
        drawn = Run("folder", str(tree), name, settings=SMALL[name])
        assert DRAWN_TEXTURES in drawn.warnings
        pasted = Run("folder", str(tree), name, settings=SMALL[name] | {"textures": str(textures)})
        assert DRAWN_TEXTURES not in pasted.warnings
        assert pasted.create_model().parameters["textures"] == str(textures)
        assert pasted.key != drawn.key


def test_realnet_tells_that_sdas_is_missing(textures):
    create = {"drawn": {}, "textures": {"textures": textures}, "pictures": {"synthesised": textures}}
    told = {name: create_model("realnet", **settings).warnings for name, settings in create.items()}
    assert told == {"drawn": [DRAWN_TEXTURES, NO_SDAS], "textures": [NO_SDAS], "pictures": []}


@pytest.mark.parametrize("name", METHODS)
def test_a_flat_empty_or_missing_folder_is_refused(name, splits, flat, tmp_path):
    cases = {flat: "flat colour", tmp_path: "holds no pictures", tmp_path / "none": "no folder of textures"}
    for folder, sentence in cases.items():
        with pytest.raises(InputError, match=sentence):
            create_model(name, **SMALL[name], textures=folder).fit(splits[0], device="cpu", progress=False)
    if name == "realnet":
        with pytest.raises(InputError, match="flat colour"):
            create_model(name, **SMALL[name], synthesised=flat).fit(splits[0], device="cpu", progress=False)


def test_a_saved_model_does_not_need_its_textures(splits, tmp_path):
    folder = tmp_path / "textures"
    file = write(folder / "noise.png", np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    model = create_model("draem", **SMALL["draem"], textures=folder).fit(splits[0], device="cpu", progress=False)
    saved = model.save(tmp_path / "model.safetensors")
    file.unlink()
    folder.rmdir()
    loaded = load_model(saved)
    assert loaded.parameters == model.parameters
    assert loaded.predict(splits[1], device="cpu", progress=False).scores.shape == (6,)


@pytest.mark.slow
def test_interrupted_training_resumes_to_the_same_weights(splits, tmp_path, monkeypatch):
    """DeSTSeg, in its second stage: the first is read from its checkpoint."""
    whole = create_model("destseg", **SMALL["destseg"]).fit(splits[0], device="cpu", progress=False)
    broken = create_model("destseg", **SMALL["destseg"])
    broken.checkpoint_interval = 0
    original, calls = broken.segmentation_loss, []

    def interrupted(batch):
        calls.append(batch)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(batch)

    monkeypatch.setattr(broken, "segmentation_loss", interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt):
        broken.fit(splits[0], device="cpu", progress=False, checkpoint=tmp_path / "c")
    assert {file.name for file in tmp_path.iterdir()} == {"c.stage-student", "c.stage-segmentation"}
    resumed = create_model("destseg", **SMALL["destseg"])

    def never(batch):
        raise AssertionError("the student is done")

    resumed.distillation_loss = never
    resumed.fit(splits[0], device="cpu", progress=False, checkpoint=tmp_path / "c")
    first, second = whole.state(), resumed.state()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not list(tmp_path.iterdir())


def test_wrong_settings_are_refused(splits):
    for name, settings, sentence in (
        ("draem", {"score_window": 20}, "must be an odd number"),
        ("cfrg", {"recovery": False, "segmentation": False}, "cannot both be left out"),
        ("realnet", {"foreground": "blue"}, "must be one of 'all', 'bright', 'dark', 'triangle'"),
        ("realnet", {"stages": (0, 1)}, r"each a whole number in \[1, 4\]"),
        ("realnet", {"channels": (256, 512, 512)}, "must be a list of 4, each a multiple of 64"),
        ("realnet", {"selection_batches": 0}, "must be a whole number of at least 1"),
        ("realnet", {"residuals": (0, 0)}, r"residuals=\(0, 0\) leave no residual to look at: one of the two must"),
    ):
        with pytest.raises(InputError, match=sentence):
            create_model(name, **settings)
    odd = ImageSet(splits[0].samples, size=(48, 64))
    for name, multiple in (("draem", 32), ("cfrg", 32), ("realnet", 32)):
        with pytest.raises(InputError, match=f"multiples of {multiple} pixels; the images are 48 x 64"):
            create_model(name, **SMALL[name]).fit(odd, device="cpu", progress=False)
    for student, sentence in (
        ("resnet17", "timm cannot build"),
        ("vit_tiny_patch16_224", "no feature maps at strides"),
    ):
        with pytest.raises(InputError, match=sentence):
            create_model("cfrg", **SMALL["cfrg"] | {"student": student}).fit(splits[0], device="cpu", progress=False)
    one = ImageSet(splits[0].samples[:1], size=64)
    with pytest.raises(InputError, match="needs at least two images"):
        create_model("destseg", **SMALL["destseg"]).fit(one, device="cpu", progress=False)


# Turned images


def test_quarter_turns_are_exact():
    image = np.random.default_rng(0).random((8, 8, 3), dtype=np.float32)
    found = [Turn(quarters=True)(image, np.random.default_rng(seed)) for seed in range(30)]
    turned = [np.rot90(image, quarters) for quarters in range(4)]
    which = [[np.abs(one - other).max() < 1e-5 for other in turned].index(True) for one in found]
    assert set(which) == {0, 1, 2, 3}


def test_a_turned_image_gets_its_fill_at_the_corners():
    image = np.ones((9, 9, 3), np.float32)
    for seed in range(5):
        turned = Turn(45, fill=0.25)(image, np.random.default_rng(seed))
        assert turned[4, 4].tolist() == [1, 1, 1]
        assert turned[0, 0].max() < 1
        assert turned.min() >= 0.25


def test_normal_and_pasted_image_are_turned_alike(splits):
    plain = splits[0]
    never = TurnedSyntheticImages(plain, TexturePaste(), Turn(90, share=0), 0.0, seed=0)
    assert torch.equal(never[1]["image"], plain[1]["image"])
    always = TurnedSyntheticImages(plain, TexturePaste(redraws=50), Turn(90), 1.0, seed=0)
    items = [always[1]]
    always.set_epoch(1)
    items.append(always[1])
    for item in items:
        outside = ~item["mask"]
        assert item["mask"].any()
        assert torch.equal(item["image"][:, outside], item["normal"][:, outside])
        assert not torch.allclose(item["normal"], plain[1]["image"], atol=0.1)
    assert not torch.allclose(items[0]["normal"], items[1]["normal"], atol=0.1)  # another epoch, another turn
    assert torch.equal(always[1]["normal"], items[1]["normal"])  # asked again, the same


def test_learning_rate_falls_at_shares_of_the_epochs():
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    schedule, rates = step_schedule(optimiser, 700, (4 / 7, 6 / 7), 0.1), []
    for _ in range(700):
        rates.append(schedule.get_last_lr()[0])
        optimiser.step()
        schedule.step()
    assert [rates.index(pytest.approx(rate)) for rate in (1, 0.1, 0.01)] == [0, 400, 600]


# DRAEM


def test_draem_has_the_published_size():
    """69.05 and 28.37 million, 97.42 together."""
    with torch.device("meta"):
        sizes = count(draem.Reconstruction(128)), count(draem.Segmentation(64))
    assert [round(size / 1e6, 2) for size in (*sizes, sum(sizes))] == [69.05, 28.37, 97.42]


def test_structural_similarity_by_hand():
    images = torch.rand(2, 3, 16, 16)
    assert structural_similarity(images, images).item() == pytest.approx(1, abs=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert structural_similarity(images, images).item() == pytest.approx(1, abs=1e-5)
    # one pixel: all but the window's centre, of weight g, falls on the zeros past the border
    a, b = 0.8, 0.3
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    g = 1 / line.sum() ** 2
    covariance, variances = g * a * b - g * a * g * b, g * a**2 - (g * a) ** 2 + g * b**2 - (g * b) ** 2
    expected = (2 * g * a * g * b + 1e-4) * (2 * covariance + 9e-4)
    expected /= ((g * a) ** 2 + (g * b) ** 2 + 1e-4) * (variances + 9e-4)
    found = structural_similarity(torch.full((1, 3, 1, 1), a), torch.full((1, 3, 1, 1), b))
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_draem_focal_loss_by_hand():
    logits = torch.tensor([[0.0, 0.0], [np.log(3), 0.0]]).reshape(1, 2, 1, 2)  # anomalous: 3/4 and 1/2
    mask = torch.tensor([[[True, False]]])
    expected = (0.25**2 * -np.log(0.75) + 0.5**2 * -np.log(0.5)) / 2
    assert focal_loss(logits, mask).item() == pytest.approx(expected, rel=1e-3)


def test_draem_segmentation_teaches_the_reconstruction(splits):
    model = create_model("draem", **SMALL["draem"])
    model.seed_ = 0
    model.build()
    item = TurnedSyntheticImages(splits[0], TexturePaste(), Turn(), 1.0, seed=0)[0]
    batch = {key: torch.as_tensor(value)[None] for key, value in item.items()}
    model.losses(batch)["focal"].backward()
    assert all(value.grad.abs().max() > 0 for value in model.reconstruction_.net[-1].parameters())


def test_draem_image_score_is_the_largest_mean_of_21_pixels():
    model = create_model("draem")
    logits = torch.full((1, 2, 64, 64), -50.0)
    logits[0, 0] = 50.0
    logits[0, :, 0, 0] = logits[0, :, 30, 30] = torch.tensor([-50.0, 50.0])  # two anomalous pixels
    model.restore_and_segment = lambda batch: (batch, logits)
    scores, maps = model.score_batch(torch.zeros(1, 3, 64, 64))
    assert maps.sum().item() == pytest.approx(2)
    assert scores.item() == pytest.approx(1 / 441)
    model.score_window = 1
    assert model.score_batch(torch.zeros(1, 3, 64, 64))[0].item() == pytest.approx(1)


# DeSTSeg


def test_similarities_of_a_level_add_up_to_minus_its_cosine():
    teacher, student = ([torch.randn(2, 6, 8, 8), torch.randn(2, 10, 4, 4)] for _ in range(2))
    joined = destseg.similarities(teacher, student)
    assert joined.shape == (2, 16, 8, 8)
    torch.testing.assert_close(-joined[:, :6].sum(1), F.cosine_similarity(teacher[0], student[0], dim=1))
    cosine = F.cosine_similarity(teacher[1], student[1], dim=1)
    torch.testing.assert_close(-joined[:, 6:].sum(1), upsample(cosine, (8, 8)))


def test_binary_focal_loss_by_hand():
    logits, target = torch.tensor([np.log(3), np.log(3)]).float(), torch.tensor([1.0, 0.0])  # p = 3/4
    expected = (0.25**4 * -np.log(0.75) + 0.75**4 * -np.log(0.25)) / 2
    assert destseg.binary_focal_loss(logits, target, 4).item() == pytest.approx(expected, rel=1e-5)


def test_destseg_distillation_loss_is_summed_over_the_batch():
    """Two levels of 2 x 2: orthogonal everywhere (1), and equal in half of the positions (mean 1/2)."""
    axis, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    level = axis.view(1, 2, 1, 1).expand(5, 2, 2, 2)
    half = torch.stack([axis, other], 1).view(1, 2, 1, 2).expand(5, 2, 2, 2)
    model = create_model("destseg")
    model.backbone_, model.student_ = (lambda x: [level, level]), (lambda x: [level.flip(1), half])
    assert model.distillation_loss({"normal": None, "image": None}).item() == pytest.approx(5 * 1.5)


def test_destseg_compares_the_pasted_image_with_the_clean_one():
    model = create_model("destseg")
    model.backbone_ = lambda x: [x]
    model.student_ = lambda x: [-x]
    clean, pasted = torch.rand(2, 1, 3, 2, 2)
    expected = cosine_distance(clean, -pasted).mean()
    torch.testing.assert_close(model.distillation_loss({"normal": clean, "image": pasted}), expected)


def test_the_student_rests_while_the_segmentation_learns(splits):
    settings = SMALL["destseg"] | {"segmentation_steps": 0}
    first = untrained("destseg", **settings).fit(splits[0], device="cpu", progress=False).state()
    both = create_model("destseg", **SMALL["destseg"]).fit(splits[0], device="cpu", progress=False).state()
    changed = {key.split(".")[0] for key in first if not torch.equal(first[key], both[key])}
    assert changed == {"segmentation"}


def test_destseg_image_score_is_the_mean_of_the_largest_pixels():
    model = create_model("destseg", top=3)
    logits = torch.full((1, 8, 8), -50.0)
    logits[0, 2, :2] = 50.0
    model.segment = lambda batch: logits
    scores, maps = model.score_batch(torch.zeros(1, 3, 8, 8))
    assert maps.sum().item() == pytest.approx(2)
    assert scores.item() == pytest.approx(2 / 3)


# CFRG


def test_cfrg_has_the_published_size():
    """Adapters of 12,680, 37,944 and 243,408 parameters, a decoder of 20.36 million."""
    with torch.device("meta"):
        adapters = [count(cfrg.Adapter(*pair)) for pair in ((24, 256), (40, 512), (112, 1024))]
        segmentation = count(cfrg.Segmentation([256, 512, 1024]))
    assert adapters == [12_680, 37_944, 243_408]
    assert round(segmentation / 1e6, 2) == 20.36
    student = cfrg.Student("tf_efficientnet_b0", [64, 128, 256], 0.2, 0.01, seed=0)
    assert student.net.feature_info.channels() == [24, 40, 112]
    norms = [module for module in student.net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.01, 1e-3)}
    assert all(value.grad_fn is not None and value.min() >= 0 for value in student(torch.rand(2, 3, 32, 32)))


def test_every_weight_of_the_student_learns():
    student = cfrg.Student("tf_efficientnet_b0", [64, 128, 256], 0.0, 0.01, seed=0)
    sum(level.sum() for level in student(torch.rand(2, 3, 64, 64))).backward()
    assert [name for name, value in student.named_parameters() if value.grad is None] == []


def test_cfrg_distillation_loss_by_hand():
    """One level, two positions, a quarter of the distance 1: pulled where the mask is 0, pushed where it is 1."""
    teacher = [torch.tensor([[1.0, 1.0], [0.0, 0.0]]).view(1, 2, 1, 2)]
    student = [torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(1, 2, 1, 2)]  # d = 0 and 1
    for mask, push, expected in (
        ([0.0, 0.0], True, 0.5),  # d of both
        ([0.0, 1.0], True, 0.0),  # d = 0 where normal, 1 - d = 0 where pasted
        ([1.0, 0.0], True, 1.0),
        ([1.0, 0.0], False, 0.5),
    ):
        loss = cfrg.distillation_loss(teacher * 3, student * 3, torch.tensor(mask).view(1, 1, 2), push)
        assert loss.item() == pytest.approx(expected), (mask, push)


ABLATIONS = [
    {"recovery": False},
    {"segmentation": False},
    {"push": False},
    {"recovery_weight": False},
    {"student": None, "drop_path": 0.0, "norm_momentum": 0.1},
]


def test_the_ablation_of_the_paper_is_the_one_that_is_tried():
    assert [row for row in protocol("three_cad")["tables"]["6"]["settings"].values() if row] == ABLATIONS


@pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda ablation: next(iter(ablation)))
def test_every_row_of_the_ablation_trains_and_scores(ablation, splits):
    model = create_model("cfrg", **SMALL["cfrg"], **ablation, smoothing=0).fit(splits[0], device="cpu", progress=False)
    parts = {"bottleneck", "decoder", "student", "segmentation"}
    parts -= {"bottleneck", "decoder"} if "recovery" in ablation else set()
    parts -= {"student", "segmentation"} if "segmentation" in ablation else set()
    assert {key.split(".")[0] for key in model.state()} == parts | {"backbone"}
    terms = {"recovery", "distillation", "segmentation"}
    terms -= {"recovery"} if "recovery" in ablation else set()
    terms -= {"distillation", "segmentation"} if "segmentation" in ablation else set()
    assert set(model.losses_[0]) == terms | {"loss"}
    maps = model.predict(splits[1], device="cpu", progress=False).maps
    assert maps.std() > 0
    if "recovery" in ablation:
        assert maps.max() <= 1
    if "student" in ablation:  # the teacher's architecture, not its weights
        student, teacher = (part.net.state_dict() for part in (model.trained_["student"], model.backbone_))
        assert {key: value.shape for key, value in student.items()} == {k: v.shape for k, v in teacher.items()}
        assert not torch.equal(student["conv1.weight"], teacher["conv1.weight"])


def test_cfrg_map_is_recovery_plus_segmentation(splits):
    model = create_model("cfrg", **SMALL["cfrg"], smoothing=0).fit(splits[0], device="cpu", progress=False)
    batch = torch.stack([splits[1].pixels(index) for index in range(2)])
    with torch.no_grad():
        teacher = model.backbone_(batch)
        recovered = model.recover(teacher)
        student = model.trained_["student"](batch)
        fine = model.segment(teacher, student, recovered).sigmoid()
        expected = distance_map(teacher, recovered, (64, 64)) + fine
        scores, maps = model.score_batch(batch)
        torch.testing.assert_close(maps, expected)
        assert torch.equal(scores, maps.amax((1, 2)))
        model.recovery_weight = False
        other = model.segment(teacher, student, recovered).sigmoid()
        assert not torch.equal(fine, other)
        torch.testing.assert_close(model.segment(teacher, student, None).sigmoid(), other)


# RealNet


def test_selection_errors_by_hand():
    """Of three channels the first changes in the mask alone, the second everywhere, the third not at all."""
    normal = torch.zeros(1, 3, 2, 2)
    pasted = normal.clone()
    pasted[0, 0, 0, 0] = 2.0
    pasted[0, 1] = torch.tensor([[1.0, 2.0], [0.0, 2.0]])
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, :2, :2] = True
    errors = realnet_blocks.selection_errors(normal, pasted, mask)
    # squares 1, 4, 0, 4, stretched: 1/4, 1, 0, 1; the mask is 1, 0, 0, 0
    torch.testing.assert_close(errors, torch.tensor([0.0, (0.75**2 + 2) / 4, 0.25]), rtol=1e-3, atol=1e-4)


def test_channels_with_the_lowest_errors_are_kept_in_order():
    selection = realnet_blocks.FeatureSelection([2, 1])
    selection.choose([torch.tensor([0.3, 0.9, 0.1, torch.nan]), torch.tensor([torch.nan, 5.0])])
    assert [kept.tolist() for kept in selection.indices()] == [[0, 2], [1]]
    features = [torch.arange(4.0).view(1, 4, 1, 1), torch.arange(2.0).view(1, 2, 1, 1)]
    assert [stage.flatten().tolist() for stage in selection(features)] == [[0, 2], [1]]


def test_realnet_keeps_the_channels_that_its_pasted_images_choose(splits):
    model = create_model("realnet", **SMALL["realnet"]).fit(splits[0], device="cpu", progress=False)
    first, second = (kept.tolist() for kept in model.selection_.indices())
    assert first == list(range(64))  # layer1 has no more
    assert len(set(second)) == 64
    assert second == sorted(second)
    assert max(second) >= 64  # of layer2's 128 not just the first


def test_residuals_are_passed_on_as_they_are_the_worst_first():
    network = realnet_blocks.ResidualSelection(3, (2, 1)).eval()
    joined = torch.tensor([[[1.0, 5.0], [4.0, 4.0], [0.0, 1.0]], [[1.0, 0.0], [2.0, 3.0], [9.0, 0.0]]])[:, :, None]
    chosen = network.select(joined)[:, :, 0].tolist()
    assert chosen == [[[1, 5], [4, 4], [4, 4]], [[9, 0], [2, 3], [9, 0]]]
    network.rank_norm.running_var[:] = torch.tensor([1.0, 1.0, 1e-4])  # the third channel is usually next to nothing
    assert network.select(joined)[0, 0, 0].tolist() == [0, 1]
    everything = realnet_blocks.ResidualSelection(3, (256, 256))
    assert everything.counts == [3, 3]


def test_reconstruction_starts_as_nothing_and_has_the_published_parts():
    net = realnet_blocks.UNet(64)
    assert not net(torch.rand(2, 64, 8, 8)).any()
    parts = [type(module).__name__ for step in (*net.down, *net.up) for module in step.modules()]
    # attention behind each of two blocks down and three up, at two of three levels
    assert parts.count("Attention") == 2 * 2 + 2 * 3
    assert parts.count("ConvTranspose2d") == 2 * 2  # both branches of both enlarging blocks
    assert len(net.down) == 1 + 3 * 2 + 2
    assert len(net.up) == 3 * 3


def test_attention_agrees_with_the_plain_formula():
    attention = realnet_blocks.Attention(128)
    nn.init.normal_(attention.out.weight)
    x = torch.randn(2, 128, 3, 2)
    queries, keys, values = attention.queries_keys_values(attention.norm(x)).flatten(2).chunk(3, 1)
    heads = []
    for head in (slice(0, 64), slice(64, 128)):
        weights = (queries[:, head].transpose(1, 2) @ keys[:, head] / 8).softmax(2)  # 8: root of 64 channels
        heads.append(values[:, head] @ weights.transpose(1, 2))
    expected = x + attention.out(torch.cat(heads, 1).view(x.shape))
    torch.testing.assert_close(attention(x), expected, rtol=1e-4, atol=1e-4)


def test_foreground_rules():
    image = np.zeros((40, 40, 3), np.float32)
    image[10:30, 10:30] = 0.9
    image[3, 3] = 0.9  # a speck
    inside = np.zeros((40, 40), bool)
    inside[10:30, 10:30] = True
    assert foreground_mask(image, "all").all()
    assert np.array_equal(foreground_mask(image, "bright"), inside)
    assert np.array_equal(foreground_mask(image, "triangle"), inside)
    assert (foreground_mask(1 - image, "dark") == inside).all()


def test_anomalies_stay_on_the_foreground():
    image = np.zeros((64, 64, 3), np.float32)
    image[:, 32:] = 0.9
    paste = ForegroundPaste((TexturePaste(redraws=50, exponents=(3, 4)),), "bright")
    pasted, mask = paste(image, np.random.default_rng(0))
    assert mask[:, 32:].any()
    assert not mask[:, :32].any()
    assert np.array_equal((pasted != image).any(2), mask)


def test_realnet_pastes_pictures_as_they_are_and_textures_changed(textures):
    both = create_model("realnet", synthesised=textures, textures=textures).synthesiser().pastes
    assert [(paste.operations, paste.image_weight) for paste in both] == [(0, (0.0, 0.5)), (3, (0.0, 0.8))]
    assert [len(paste.textures.files) for paste in both] == [2, 2]
    assert len(create_model("realnet", synthesised=textures).synthesiser().pastes) == 1
