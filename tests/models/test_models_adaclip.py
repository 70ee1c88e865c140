"""AdaCLIP: towers, prompts, fusion and losses by hand, the authors' checkpoints, and the way to zero-shot runs."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
import yaml
from conftest import make_tree, write
from safetensors.torch import save_file
from torch import nn

from adlib import ImageSet, InputError, create_model, evaluate, load_model, load_samples
from adlib.features import clip_towers
from adlib.features.clip_towers import ClipTowers, tokenise
from adlib.features.prompts import OFFICIAL_NAMES, HybridPrompts, sentences
from adlib.findings import list_images
from adlib.models.adaclip import LabelledImages, class_names, dice_loss, fused_feature
from adlib.own_images import fit_own, new_threshold, own_run
from adlib.runs import Recorder, Run
from adlib.runs.plan import plan, read_profile
from adlib.samples import select

SMALL = {"towers": "tiny", "weights": "random", "clusters": 4, "epochs": 3, "batch_size": 2, "smoothing": 2.0}


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """Two data sets in two folders: the auxiliary one, whose test images are labelled, and the target."""
    other = make_tree(tmp_path_factory.mktemp("other"), "other-thing", train=1, normal=4, anomalous=4)
    return other, make_tree(tmp_path_factory.mktemp("target"), train=2, normal=3, anomalous=3)


@pytest.fixture(scope="module")
def run(trees):
    return Run("folder", str(trees[1]), "adaclip", "thing", SMALL | {"size": 64, "auxiliary": [f"folder:{trees[0]}"]})


@pytest.fixture(scope="module")
def fitted(run):
    return run.create_model().fit(run.images("train"), device="cpu", progress=False)


@pytest.fixture(scope="module")
def towers():
    return ClipTowers("tiny", "random")


# Towers


def test_towers_give_what_open_clip_gives(towers):
    images, words = torch.rand(2, 3, 64, 64), sentences("cable")[:3]
    features, (middle, last) = towers.encode_images(images, (2, 4))
    with torch.no_grad():
        torch.testing.assert_close(features, towers.net.encode_image((images - towers.mean) / towers.std))
        expected = towers.net.visual.forward_intermediates((images - towers.mean) / towers.std, indices=[1, 3])
        for own, other in zip((middle, last), expected["image_intermediates"], strict=True):
            torch.testing.assert_close(own, other.flatten(2).transpose(1, 2))
        # Cut behind the longest sentence, where open_clip computes all 77 positions.
        assert tokenise(words).shape[1] < 20
        whole = towers.net.encode_text(open_clip.tokenize(list(words)))
        torch.testing.assert_close(towers.encode_sentences(tokenise(words)), whole)


def test_positions_of_another_size_are_open_clips(towers):
    larger = open_clip.CLIP(**clip_towers.TINY | {"vision_cfg": clip_towers.TINY["vision_cfg"] | {"image_size": 96}})
    state = {"visual.positional_embedding": towers.net.visual.positional_embedding.clone()}
    open_clip.model.resize_pos_embed(state, larger, antialias=False)  # as its version of the official code
    torch.testing.assert_close(towers.positions(torch.Size((12, 12))), state["visual.positional_embedding"])
    assert towers.encode_images(torch.rand(1, 3, 40, 72), (4,))[1][0].shape == (1, 5 * 9, 64)


def test_towers_are_frozen_with_the_activation_asked_for(towers):
    towers.train()
    assert not any(module.training for module in towers.modules())
    assert not any(value.requires_grad for value in towers.parameters())
    exact = ClipTowers("tiny", "random", quick_gelu=False)
    assert isinstance(exact.image_layers[0].mlp.gelu, nn.GELU)
    assert isinstance(towers.image_layers[0].mlp.gelu, open_clip.transformer.QuickGELU)
    assert torch.equal(exact.net.visual.proj, towers.net.visual.proj)  # the same draw
    assert not torch.equal(ClipTowers("tiny", "random", seed=1).net.visual.proj, towers.net.visual.proj)


def test_weights_from_the_folder_and_sentences_without_them(towers, tmp_path, monkeypatch):
    save_file(
        {key: value.contiguous() for key, value in towers.net.state_dict().items()}, tmp_path / "tiny.safetensors"
    )
    monkeypatch.setenv("ADLIB_WEIGHTS", str(tmp_path))
    loaded = ClipTowers("tiny", "pretrained", seed=5)
    assert torch.equal(loaded.net.visual.proj, towers.net.visual.proj)
    assert loaded.origin["file"] == str(tmp_path / "tiny.safetensors")
    monkeypatch.setattr("adlib.features.weights.no_network", lambda: True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    fetch = r"fetch open_clip_model\.safetensors .* as DIR/ViT-L-14-336\.openai\.safetensors and set ADLIB_WEIGHTS=DIR"
    with pytest.raises(InputError, match=fetch):
        clip_towers.download("ViT-L-14-336.openai")
    with pytest.raises(InputError, match=r"there are ViT-L-14-336\.openai"):
        clip_towers.download("ViT-L-14-336.laion")
    with pytest.raises(InputError, match="'bundled' do not exist for CLIP"):
        ClipTowers("tiny", "bundled")
    for name, sentence in (
        ("ViT-X.openai", "does not know it"),
        ("convnext_base.laion400m_s13b_b51k", "builds someth"),
    ):
        with pytest.raises(InputError, match=sentence):
            ClipTowers(name, "random")


# Prompts


def test_sentences_are_every_state_in_every_template():
    texts = sentences("metal-nut")
    assert len(texts) == len(set(texts)) == (7 + 5) * 4
    assert texts[0] == "a bad photo of a metal nut."
    assert texts[27] == "a cropped photo of the metal nut without damage."
    assert texts[28] == "a bad photo of a damaged metal nut."


def test_prompts_stand_behind_the_patches_and_on_the_first_words():
    sizes = SimpleNamespace(image_width=6, text_width=4, joint_width=3)
    prompts = HybridPrompts(sizes, length=2, depth=3, taps=4)
    features = torch.rand(2, 3)
    dynamic = torch.stack([linear(features) for linear in prompts.image_dynamic], 1)
    before, tokens = prompts.in_image(features), torch.rand(2, 5, 6)
    first = before(0, tokens)
    assert torch.equal(first[:, :5], tokens)
    assert torch.equal(first[:, 5:], dynamic + prompts.image_static[0])
    second = before(1, first)
    assert torch.equal(second[:, :5], tokens)
    assert torch.equal(second[:, 5:], dynamic + prompts.image_static[1])
    assert before(3, second) is second

    dynamic = torch.stack([linear(features) for linear in prompts.text_dynamic], 1)
    before, words = prompts.in_text(features, count=3), torch.rand(6, 8, 4)  # three sentences for each image
    assert before(0, words) is words
    changed = before(2, words)
    assert torch.equal(changed[:, [0, 3, 4, 5, 6, 7]], words[:, [0, 3, 4, 5, 6, 7]])
    assert torch.equal(changed[4, 1:3], dynamic[1] + prompts.text_static[2])
    assert before(3, words) is words


def test_class_names_come_from_the_samples_or_the_parameter(trees):
    samples = load_samples("folder", trees[1])
    assert set(class_names(samples, None)) == {"thing"}
    assert set(class_names(samples, "chip package")) == {"chip package"}
    assert set(class_names(samples, {"thing": "cable", "other": "pill"})) == {"cable"}
    assert set(class_names(samples.assign(category=""), None)) == {"object"}


# Fusion and losses


def test_fusion_is_the_mean_of_centres_whatever_their_sizes():
    patches = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 2 + [[-1.0, 0.0]] * 6)[None, :, None]  # [1, 11, 1, 2]
    logits = torch.tensor([[0.0, 5.0]] * 5 + [[0.0, 1.0]] * 5 + [[9.0, 0.0]])[None]
    assert fused_feature(patches[:, :5], logits[:, :5], 2, seed=0)[0].tolist() == pytest.approx([0.5**0.5] * 2)
    # One cluster takes the five most suspicious patches: three to the right, two upwards.
    expected = np.array([3, 2]) / np.hypot(3, 2)
    assert fused_feature(patches, logits, 1, seed=0)[0].tolist() == pytest.approx(expected.tolist())


def test_dice_of_rows_and_of_images():
    target = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    probability = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    assert dice_loss(probability, target, rows=False) == pytest.approx(1 - 3 / 4)
    assert dice_loss(probability, target, rows=True) == pytest.approx(1 - (3 / 4 + 1) / 2)


# Zero-shot


def test_a_run_learns_from_other_sets_and_scores_its_target(run, fitted, trees):
    train = run.images("train").samples
    assert set(train["category"]) == {"other-thing"}
    assert sorted(train["label"]) == [0] * 4 + [1] * 4
    losses = [epoch["loss"] for epoch in fitted.losses_]
    assert losses[-1] < losses[0] / 2
    predictions = fitted.predict(run.images("test"), device="cpu", progress=False)
    assert set(predictions.samples["category"]) == {"thing"}
    assert predictions.maps.shape == (6, 64, 64)
    assert predictions.maps.min() >= 0
    assert predictions.maps.max() <= 1
    assert fitted.origin["kind"] == "random"
    assert "Random weights" in fitted.warnings[0]
    fresh = ClipTowers("tiny", "random", seed=0).state_dict()
    assert all(torch.equal(value, fresh[key]) for key, value in fitted.towers_.state_dict().items())


def test_the_name_of_what_is_on_an_image_counts_and_the_batch_does_not(run, fitted, tmp_path):
    images = run.images("test")
    loaded = load_model(fitted.save(tmp_path / "model.safetensors"))
    first, second = (model.predict(images, device="cpu", progress=False) for model in (fitted, loaded))
    assert np.array_equal(first.maps, second.maps)
    loaded.class_names = {"thing": "transmission electron microscope"}
    other = loaded.predict(images, device="cpu", progress=False)
    assert np.abs(other.scores - first.scores).max() > 1e-4
    mixed = ImageSet(images.samples.assign(category=["thing", "a much longer name of a thing"] * 3), **images.settings)
    fitted_alone, together = (fitted.predict(mixed, device="cpu", batch_size=n, progress=False) for n in (1, 6))
    np.testing.assert_allclose(fitted_alone.maps, together.maps, rtol=1e-3, atol=1e-5)


def test_the_key_of_a_run_follows_the_auxiliary_images(run, trees, tmp_path):
    copy = make_tree(tmp_path / "copy", "other-thing", train=1, normal=4, anomalous=4)
    moved = Run(**run.as_dict() | {"settings": run.settings | {"auxiliary": [f"folder:{copy}"]}})
    assert moved.key == run.key
    (copy / "other-thing" / "test" / "good" / "000.png").unlink()
    assert Run(**moved.as_dict()).key != run.key


def test_the_record_says_that_the_auxiliary_images_were_learned(run, fitted, official):
    def learned(run, model):
        predictions = model.predict(run.images("test"), device="cpu", progress=False)
        return Recorder(run).finish(model, predictions, evaluate(predictions))["data"]["training"]

    counts = {"there": 4, "learned": 4, "unscreened": 0, "mirrored": 0, "anomalous": 4}
    assert learned(run, fitted) == {"other-thing": counts}
    taken = Run(**run.as_dict() | {"settings": run.settings | {"prompts": str(official[0])}})
    model = taken.create_model().fit(taken.images("train"), device="cpu", progress=False)
    assert learned(taken, model) == {}


def test_two_folders_of_one_kind_of_data_set_are_both_learned_from(run, trees, tmp_path):
    second = make_tree(tmp_path / "second", "second-thing", train=1, normal=2, anomalous=2)

    def asked(*folders):
        return Run(**run.as_dict() | {"settings": run.settings | {"auxiliary": [f"folder:{one}" for one in folders]}})

    both = asked(trees[0], second)
    assert both.images("train").samples["category"].value_counts().to_dict() == {"other-thing": 8, "second-thing": 4}
    assert len({both.key, run.key, asked(second).key}) == 3
    assert asked(trees[0], trees[0]).key == run.key


def test_the_levels_that_are_shown_of_the_target_are_not_those_of_the_sets_learned_from(run):
    wide = replace(run, settings=run.settings | {"window": [0, 4095]})
    assert wide.images("test").settings["window"] == (0, 4095)
    assert wide.images("train").settings["window"] is None


def test_auxiliary_sets_that_are_drawn_or_not_whole_are_said(run, tmp_path):
    tree = make_tree(tmp_path / "cxr_ad", "CDIP")
    asked = Run(**run.as_dict() | {"settings": run.settings | {"auxiliary": [f"cxr_ad:{tree}"]}})
    (said,) = [text for text in asked.warnings if text.startswith("Learned from")]
    assert said.startswith("Learned from cxr_ad. Not the published images:")
    assert "CDIP 6 / 4 / 4 (94 / 13 / 164), CFP16 none (54 / 10 / 60)" in said
    (tree / "PHANTOM.json").write_text('{"seed": 0}')
    drawn = Run(**asked.as_dict())
    assert f"Learned from phantom data: cxr_ad in {tree} is drawn by adlib." in drawn.warnings
    assert not [text for text in run.warnings if text.startswith("Learned from")]


def test_wrong_auxiliary_sets_get_their_sentence(run, trees):
    def asked(**settings):
        return Run(**run.as_dict() | {"settings": run.settings | settings})

    with pytest.raises(InputError, match=r"adaclip learns from visa, colondb: .*/visa does not exist\. VisA: .*fetch"):
        asked(auxiliary=["visa", "colondb"]).images("train")
    with pytest.raises(InputError, match="must not learn from its target"):
        asked(auxiliary=[f"folder:{trees[1]}"]).images("train")
    model, samples = create_model("adaclip", **SMALL), load_samples("folder", trees[0])
    with pytest.raises(InputError, match="every image to fit on is normal"):
        model.fit(ImageSet(select(samples, split="train"), 64), device="cpu", progress=False)
    with pytest.raises(InputError, match="not every anomalous image to fit on has one"):
        model.fit(ImageSet(samples.assign(mask=""), 64), device="cpu", progress=False)
    with pytest.raises(InputError, match="multiples of 8 pixels"):
        model.fit(ImageSet(samples, 60), device="cpu", progress=False)
    with pytest.raises(InputError, match=r"prompt_length=8 must lie in 1\.\.7"):
        create_model("adaclip", prompt_length=8)


def test_a_plan_has_the_run_once_the_auxiliary_sets_are_there(tmp_path):
    make_tree(tmp_path / "cxr_ad", "UB")
    methods = {"adaclip": SMALL | {"size": 64, "auxiliary": ["colondb"]}}
    file = tmp_path / "profile.yaml"
    file.write_text(yaml.safe_dump({"methods": methods}))

    def cell():
        cells = plan(["cxr_ad"], read_profile(str(file), data=tmp_path, seeds=1), tmp_path)
        return next(cell for cell in cells if (cell.method, cell.category) == ("adaclip", "UB"))

    assert cell().missing == "no data"
    for index in range(2):
        write(tmp_path / "colondb" / "images" / f"{index}.png", np.full((64, 64), 90 + index, np.uint8))
        write(tmp_path / "colondb" / "masks" / f"{index}.png", np.eye(64, dtype=np.uint8) * 255)
    assert len(cell().run.images("train")) == 2


# The authors' checkpoint


@pytest.fixture
def official(towers, tmp_path):
    """A file with the authors' names: 38 tensors behind "clip_model."."""
    torch.manual_seed(3)
    prompts = HybridPrompts(towers, length=5, depth=4, taps=4)
    saved = {}
    for theirs, ours in OFFICIAL_NAMES.items():
        own = {key: value for key, value in prompts.state_dict().items() if key.startswith(ours)}
        saved |= {f"clip_model.{theirs}{key.removeprefix(ours)}": value.half() for key, value in own.items()}
    assert len(saved) == 38
    names = (
        "text_prompter.static_prompts.3",
        "dynamic_text_prompt_generator.head.4.bias",
        "cls_token_layer.head.0.weight",
    )
    assert {f"clip_model.{name}" for name in names} <= set(saved)
    torch.save(saved, tmp_path / "official.pth")
    return tmp_path / "official.pth", prompts


def test_the_authors_prompts_need_no_training(official, trees, run):
    file, prompts = official
    target = Run(**run.as_dict() | {"settings": run.settings | {"prompts": str(file)}})
    assert target.auxiliary is None
    assert target.key != run.key
    model = target.create_model().fit(target.images("train"), device="cpu", progress=False)
    for key, value in model.prompts_.state_dict().items():
        assert torch.equal(value, prompts.state_dict()[key].half().float()), key
    assert isinstance(model.towers_.image_layers[0].mlp.gelu, nn.GELU)  # under which they were trained
    assert len(model.origin["prompts"]["sha256"]) == 64
    assert model.predict(target.images("test"), device="cpu", progress=False).maps.shape == (6, 64, 64)


def test_images_of_ones_own_show_what_was_learned_wherever_they_lie(official, trees, tmp_path):
    settings = SMALL | {"size": 64, "prompts": str(official[0])}
    model, _, samples = fit_own(own_run(trees[1] / "thing", "adaclip", settings, device="cpu"), 0.5, 2, progress=False)
    test = select(samples, split="test")
    expected = model.predict(ImageSet(test, **model.images_), device="cpu", progress=False).scores
    loaded = load_model(model.save(tmp_path / "model.safetensors"))
    listed = ImageSet(list_images(test["image"]), **loaded.images_)  # of which nobody says what they show
    assert np.array_equal(loaded.predict(listed, device="cpu", progress=False).scores, expected)
    folders = [shutil.copytree(trees[1] / "thing" / "train" / "good", tmp_path / name) for name in ("thing", "monday")]
    one, other = (new_threshold(loaded, folder, 0.5, device="cpu", progress=False).score for folder in folders)
    assert one == other


def test_other_files_than_the_authors_are_refused(official, trees, tmp_path):
    images = ImageSet(load_samples("folder", trees[0]), 64)
    torch.save({"clip_model.cls_token_layer.head.0.weight": torch.zeros(2, 2)}, tmp_path / "few.pth")
    (tmp_path / "broken.pth").write_bytes(b"no")
    cases = [
        ({"prompts": tmp_path / "few.pth"}, "does not fit: 38 tensors differ"),
        ({"prompts": official[0], "prompt_depth": 3}, "does not fit: 2 tensors differ"),
        ({"prompts": tmp_path / "broken.pth"}, "not a checkpoint of the official AdaCLIP"),
        ({"prompts": tmp_path / "none.pth"}, "does not exist"),
    ]
    for settings, sentence in cases:
        with pytest.raises(InputError, match=sentence):
            create_model("adaclip", **SMALL, **settings).fit(images, device="cpu", progress=False)


def test_more_prompts_than_layers_are_refused_with_how_many_there_are(trees):
    images = ImageSet(select(load_samples("folder", trees[0]), split="test"), 64)
    with pytest.raises(InputError, match="prompt_depth=5: the smaller tower of tiny has 4 layers"):
        create_model("adaclip", **SMALL, prompt_depth=5).fit(images, device="cpu", progress=False)


def test_position_embedding_is_made_smaller_by_plain_bicubic():
    """Half way between two nodes the cubic kernel (a = -3/4) weighs its four neighbours -3/32, 19/32, 19/32, -3/32."""
    towers = ClipTowers("tiny", "random")
    trained = towers.net.visual.positional_embedding.detach()
    grid = trained[1:].T.unflatten(1, (8, 8)).numpy()
    weights = np.zeros((4, 8))
    for row in range(4):
        for place, weight in zip(range(2 * row - 1, 2 * row + 3), (-3 / 32, 19 / 32, 19 / 32, -3 / 32), strict=True):
            weights[row, np.clip(place, 0, 7)] += weight
    found = towers.positions(torch.Size((4, 4))).detach().numpy()
    np.testing.assert_allclose(found[1:].T.reshape(-1, 4, 4), weights @ grid @ weights.T, atol=1e-6)
    assert np.array_equal(found[0], trained[0].numpy())


def test_mosaics_hold_four_halved_images_of_the_category(run):
    images = run.images("train")
    table = images.samples.assign(category=["bottle"] * 5 + ["other"] * (len(images) - 5))
    labelled = ImageSet(table, **images.settings)
    model = create_model("adaclip", towers="tiny", weights="random")
    share = model.mosaics(labelled)
    assert share.tolist() == [0.2] * 5 + [0.0] * (len(images) - 5)  # bottle is one of MVTec AD's
    items = LabelledImages(labelled, ["thing"] * len(images), np.ones(len(images)), seed=3)
    halves = ImageSet(table, **images.settings | {"size": 32})
    item = items[0]
    assert item["image"].shape == (3, 64, 64)
    corners = [item["image"][:, top : top + 32, left : left + 32] for top in (0, 32) for left in (0, 32)]
    found = [next(row for row in range(5) if torch.equal(halves[row]["image"], part)) for part in corners]
    assert len(set(found)) == 4
    masks = [item["mask"][top : top + 32, left : left + 32] for top in (0, 32) for left in (0, 32)]
    assert all(torch.equal(halves[row]["mask"], mask) for row, mask in zip(found, masks, strict=True))
    assert item["label"] == labelled.labels[0]
    items.set_epoch(1)
    assert not torch.equal(items[0]["image"], item["image"])
    shown = LabelledImages(labelled, ["thing"] * len(images), share, seed=0)
    mosaics = 0
    for epoch in range(100):
        shown.set_epoch(epoch)
        mosaics += sum(not torch.equal(shown[row]["image"], labelled[row]["image"]) for row in (0, 1))
    assert 20 <= mosaics <= 62  # 200 draws of 0.2; 40, four deviations either way 5.7
    plain = LabelledImages(labelled, ["thing"] * len(images), share * 0, seed=0)
    assert torch.equal(plain[0]["image"], labelled[0]["image"])


def test_mosaics_of_tiles_hold_four_halved_tiles(run):
    samples = run.images("train").samples
    tiles, halves = (ImageSet(samples, size=4 * side, tile=(2 * side, 0)).tiles() for side in (16, 8))
    items = LabelledImages(tiles, ["thing"] * len(tiles), np.ones(len(tiles)), seed=3)
    seen = set()
    for index in range(8):
        item = items[index]
        assert item["image"].shape == (3, 32, 32)
        for top, left in ((0, 0), (0, 16), (16, 0), (16, 16)):
            image, mask = (item[key][..., top : top + 16, left : left + 16] for key in ("image", "mask"))
            (row,) = [row for row in range(len(halves)) if torch.equal(halves[row]["image"], image)]
            assert torch.equal(halves[row]["mask"], mask)
            seen.add(halves.samples["tile"][row])
    assert len(seen) == 4
    tiled = ImageSet(samples, size=64, tile=(32, 8))
    model = create_model("adaclip", **SMALL | {"epochs": 1, "mosaic": 1.0}).fit(tiled, device="cpu", progress=False)
    assert model.predict(tiled, device="cpu", progress=False).maps.shape == (len(samples), 64, 64)
