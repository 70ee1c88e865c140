"""Mixed supervision: its stream of patches, injected real defects, classifier, schedule and choice of epoch."""

import copy
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import make_tree, untrained, write
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from adlib import ImageSet, InputError, create_model, load_model, load_samples
from adlib.features.backbones import build_network
from adlib.features.weights import BUNDLED
from adlib.models.mixed_supervised import DRAWN_DEFECTS, MixedSupervised, PatchClassifier, Patience, fill_classifier
from adlib.phantoms import draw, screen_print
from adlib.runs.run import Run
from adlib.samples import make_samples, select
from adlib.training.patch_stream import AUGMENTATIONS, Augmentation, PatchStream, supervised_part
from adlib.training_set import choose_real

QUICK = {"backbone": "resnet18.tv_in1k", "weights": "random", "augmentation": "none", "batch_size": 4}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The phantom of one modality: 12 grey patches of 32 pixels in an HDF5 file, 4 + 3 real defects of 64 pixels."""
    options = {"counts": {"LSM-1": (2, 2, 1, 1)}, "supervised": 12, "real": (4, 3)}
    return draw("isp_ad", tmp_path_factory.mktemp("isp_ad"), size=32, **options)


@pytest.fixture(scope="module")
def train(root):
    return ImageSet(select(supervised_part(load_samples("isp_ad", root)), split="train"), size=32)


def patches_of(images: ImageSet) -> np.ndarray:
    return np.flatnonzero(images.samples["defect"].isin(["good", "synthetic"]))


# Samples


def test_supervised_part_takes_the_place_of_the_training_images(root):
    plain = load_samples("isp_ad", root)
    table = supervised_part(plain)
    counts = table.groupby(["split", "defect"]).size().to_dict()
    test = {("test", "good"): 2, ("test", "area"): 1, ("test", "points"): 1}
    real = {("train", "area"): 4, ("train", "points"): 3}
    assert counts == {("train", "good"): 6, ("train", "synthetic"): 6} | real | test
    assert plain[plain["split"] == "train"]["label"].sum() == 0
    assert set(table.loc[table["split"] == "train", "category"]) == {"LSM-1"}


def test_a_run_of_the_method_learns_from_the_supervised_part_and_others_do_not(root):
    small = {"size": 32, "crop": None}
    mixed, other = (Run("isp_ad", str(root), name, "LSM-1", small) for name in ("mixed_supervised", "padim"))
    assert len(mixed.images("train")) == 12 + 7
    assert len(other.images("train")) == 2
    assert len(mixed.images("test")) == len(other.images("test")) == 4
    assert mixed.fingerprint != other.fingerprint


def test_without_a_supervised_part_samples_stay_as_they_are(tmp_path):
    plain = load_samples("isp_ad", draw("isp_ad", tmp_path, size=32, counts={"ASM": (2, 1, 1, 1)}, supervised=0))
    assert supervised_part(plain).equals(plain)
    foreign = load_samples("folder", make_tree(tmp_path / "tree"))
    assert MixedSupervised.training_samples("folder", foreign) is foreign


def test_without_supervised_patches_drawn_defects_are_said_and_no_number_of_real_ones_is_fulfilled_by_none(root):
    normal = ImageSet(select(load_samples("isp_ad", root), split="train"), size=32)

    def fitted(**settings):
        model = untrained("mixed_supervised", **QUICK, epochs=0, validation_share=0, **settings)
        return model.fit(normal, device="cpu", progress=False)

    assert DRAWN_DEFECTS in fitted(defects="none", number=10).warnings
    with pytest.raises(InputError, match="number=10, but the training images hold no real defect"):
        fitted(defects="mixed", number=10)


def test_rows_that_lack_their_real_defects_are_known_before_anything_is_run(tmp_path):
    make_tree(tmp_path, "LSM-1", size=32)

    def check(**settings):
        values = {"weights": "random", "size": 32, "crop": None} | settings
        Run("isp_ad", str(tmp_path), "mixed_supervised", "LSM-1", values, device="cpu").check()

    check(defects="none")
    for settings in ({"defects": "mixed", "number": 172}, {"defects": "area", "number": 10}):
        with pytest.raises(InputError, match="the training images hold no"):
            check(**settings)


def test_two_supervised_files_are_one_too_many(tmp_path):
    root = draw("isp_ad", tmp_path, size=32, counts={"ASM": (1, 1, 1, 1)}, supervised=2)
    (root / "ASM" / "another.h5").touch()
    with pytest.raises(InputError, match="holds 2 HDF5 files of supervised patches"):
        supervised_part(load_samples("isp_ad", root))


# Real defects


def rows(*kinds: str):
    """Samples with a row per kind, "good" and "synthetic" among them."""
    return make_samples(
        [
            {"image": f"{n:02}.png", "defect": kind, "label": int(kind != "good"), "split": "train"}
            for n, kind in enumerate(kinds)
        ],
        "here",
    )


def test_fewer_real_defects_are_always_among_more():
    samples = rows(*["area", "good", "points", "synthetic"] * 8)
    everything = choose_real(samples, "mixed", None, seed=3).tolist()
    assert sorted(everything) == [n for n in range(32) if n % 2 == 0]
    for number in range(17):
        assert choose_real(samples, "mixed", number, seed=3).tolist() == everything[:number]
    areas = [row for row in everything if row % 4 == 0]
    assert choose_real(samples, "area", 5, seed=3).tolist() == areas[:5]
    assert choose_real(samples, "mixed", None, seed=4).tolist() != everything
    assert choose_real(samples, "mixed", 1000, seed=3).tolist() == everything


def test_no_real_defects_where_none_are_wanted_or_there():
    samples = rows("area", "good", "points", "synthetic")
    assert choose_real(samples, "none", None, 0).size == choose_real(samples, "mixed", 0, 0).size == 0
    assert choose_real(rows("good", "synthetic"), "mixed", None, 0).size == 0
    with pytest.raises(InputError, match=r"defects='scratch', but .* none, mixed, area, points"):
        choose_real(samples, "scratch", None, 0)
    with pytest.raises(InputError, match="number=-1 must be"):
        choose_real(samples, "mixed", -1, 0)


def test_every_patch_becomes_a_real_defect_with_the_given_probability(train):
    patches = np.tile(patches_of(train), 50)
    real = choose_real(train.samples, "area", None, 0)
    stream = PatchStream(train, patches, real, probability=0.25, seed=1)
    plain = [PatchStream(train, patches_of(train))[n] for n in range(12)] * 50
    items = [stream[n] for n in range(len(stream))]
    replaced = np.array([not torch.equal(new["image"], old["image"]) for new, old in zip(items, plain, strict=True)])
    labels = np.array([item["label"] for item in plain])
    assert labels.mean() == 0.5
    for label in (0, 1):  # normal patches and synthetic ones alike; of 300 draws three deviations are 0.075
        assert replaced[labels == label].mean() == pytest.approx(0.25, abs=0.075)
    assert all(items[n]["label"] == 1 for n in np.flatnonzero(replaced))
    assert all(items[n]["label"] == labels[n] for n in np.flatnonzero(~replaced))


def test_a_real_defect_is_shown_at_the_patches_scale_around_its_middle(tmp_path):
    """Grey levels of a large picture tell the place: the patch is a part of it, and no farther off than allowed."""
    grey = np.add.outer(np.zeros(64), np.arange(64)).astype(np.uint8)
    samples = make_samples(
        [
            {"image": str(write(tmp_path / "a.png", grey[:, :32])), "split": "train"},
            {"image": str(write(tmp_path / "b.png", grey)), "split": "train", "label": 1, "defect": "area"},
        ],
        tmp_path,
    )
    native = PatchStream(ImageSet(samples, size=32), [0], [1], probability=1.0)
    lefts = []
    for epoch in range(40):
        native.set_epoch(epoch)
        row = native[0]["image"][0, 16] * 255
        np.testing.assert_allclose(np.diff(row), 1, atol=0.05)  # one grey level per pixel, as in the file
        lefts.append(float(row[0]))
    assert 7.9 < min(lefts) < 12 < 20 < max(lefts) < 24.1  # the middle is 16; a quarter of a patch is 8
    halved = PatchStream(ImageSet(samples, size=16), [0], [1], probability=1.0)
    row = halved[0]["image"][0, 8] * 255
    assert float(row[-1] - row[0]) / 15 == pytest.approx(2, abs=0.15)


# Stream


def test_items_depend_on_epoch_and_index_and_not_on_the_workers(train):
    real = choose_real(train.samples, "mixed", None, 0)
    stream = PatchStream(train, patches_of(train), real, 0.5, AUGMENTATIONS["LSM-1"], seed=2)
    alone = torch.stack([stream[n]["image"] for n in range(len(stream))])
    loader = DataLoader(stream, batch_size=5, num_workers=2)
    assert torch.equal(torch.cat([batch["image"] for batch in loader]), alone)
    stream.set_epoch(1)
    assert not torch.equal(torch.stack([stream[n]["image"] for n in range(len(stream))]), alone)


def test_a_stream_of_a_hundred_thousand_patches_reads_only_what_is_asked(tmp_path, monkeypatch):
    """A compressed file of 100 000 empty patches, of which each item opens one."""
    with h5py.File(tmp_path / "LSM-2.h5", "w") as file:
        for name in ("syn_stream", "ground_truth"):
            file.create_dataset(name, (100_000, 32, 32), np.uint8, chunks=(1, 32, 32), fillvalue=7)
        file["syn_stream"][99_999] = np.arange(32)
        file["labels"] = np.arange(100_000) % 2
    from adlib.datasets.isp_ad import supervised_samples

    images = ImageSet(supervised_samples(tmp_path, labels_key="labels"), size=32)
    stream = PatchStream(images, np.arange(100_000))
    opened = []
    monkeypatch.setattr("adlib.hdf5.read_picture", lambda path: opened.append(path) or np.zeros((32, 32), np.uint8))
    assert len(stream) == 100_000
    item = stream[7]
    assert opened == [images.samples["image"].iat[7]]
    assert item["label"] == images.labels[7]
    monkeypatch.undo()
    last = int(np.flatnonzero(images.samples["image"].str.endswith("::99999"))[0])
    assert torch.equal((stream[last]["image"][0, 0] * 255).round(), torch.arange(32.0))


def test_normal_images_alone_get_synthetic_defects_in_half_of_the_cases(tree):
    images = ImageSet(select(load_samples("folder", tree), split="train"), size=64)
    stream = PatchStream(images, np.tile(np.arange(6), 40), synthesise=True)
    items = [stream[n] for n in range(240)]
    changed = [not torch.equal(item["image"], images.pixels(n % 6)) for n, item in enumerate(items)]
    assert [item["label"] for item in items] == changed
    assert np.mean(changed) == pytest.approx(0.5, abs=0.1)  # 240 draws: three deviations


# Augmentation


def test_augmentation_of_nothing_is_the_middle_of_the_picture():
    picture = np.random.default_rng(0).random((12, 10, 3), np.float32)
    same = AUGMENTATIONS["none"](picture, (6, 4), np.random.default_rng(0))
    np.testing.assert_allclose(same, picture[3:9, 3:7], atol=1e-6)


def test_augmentation_turns_scales_and_mirrors_about_the_centre():
    picture = np.zeros((41, 41, 3), np.float32)
    picture[20, 30] = 1  # ten pixels right of the centre
    quiet = {"shear": 0.0, "brightness": (1.0, 1.0), "contrast": (1.0, 1.0), "share": 1.0}
    larger = Augmentation(rotation=0.0, scale=(1.5, 1.5), flips=False, **quiet)
    at = np.unravel_index(larger(picture, (41, 41), np.random.default_rng(0))[..., 0].argmax(), (41, 41))
    assert at == (20, 35)
    found = set()
    for seed in range(20):
        mirrored = Augmentation(rotation=0.0, scale=(1.0, 1.0), **quiet)
        moved = mirrored(picture, (41, 41), np.random.default_rng(seed))
        found.add(np.unravel_index(moved[..., 0].argmax(), (41, 41)))
    assert found == {(20, 30), (20, 10)}
    turned = Augmentation(rotation=45.0, scale=(1.0, 1.0), flips=False, **quiet)
    for seed in range(20):
        moved = turned(picture, (41, 41), np.random.default_rng(seed))[..., 0]
        y, x = np.unravel_index(moved.argmax(), (41, 41))
        assert np.hypot(y - 20, x - 20) == pytest.approx(10, abs=0.8)
        assert abs(np.arctan2(y - 20, x - 20)) <= np.pi / 4 + 0.08


def test_brightness_and_contrast_by_hand():
    picture = np.full((4, 4, 3), 0.5, np.float32)
    picture[0] = 0.7  # mean 0.55
    still = Augmentation(brightness=(1.2, 1.2), contrast=(0.5, 0.5), share=0.0)
    changed = still(picture, (4, 4), np.random.default_rng(0))
    np.testing.assert_allclose(changed[0], 1.2 * (0.55 + 0.5 * 0.15), atol=1e-6)
    np.testing.assert_allclose(changed[1:], 1.2 * (0.55 - 0.5 * 0.05), atol=1e-6)


# Phantom


def test_real_area_defects_of_the_phantom_lie_in_the_middle_and_are_larger_than_synthetic_ones():
    area, walk = [], []
    for index in range(8):
        image, mask = screen_print.draw_image("ASM", "real area", index, size=64)
        assert image.shape == mask.shape == (128, 128)
        assert mask[32:96, 32:96].any()
        area.append(mask.sum())
        walk.append(screen_print.draw_image("ASM", "synthetic", index, size=64)[1].sum())
    assert np.median(area) > 3 * np.median(walk)


# Classifier


def test_score_is_the_mean_of_its_activation_map_and_the_linear_layer_on_pooled_features():
    net = PatchClassifier("resnet18.tv_in1k", brightness=1.0, blur=0.0, grey=False, seed=0).eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        maps = net(images)
        (features,) = net.net((images - net.mean) / net.std)
        pooled = net.head(features.mean((2, 3)))[:, 0]
    assert maps.shape == (2, 2, 3)
    torch.testing.assert_close(maps.mean((1, 2)), pooled)


def test_preparation_by_hand():
    net = PatchClassifier("resnet18.tv_in1k", brightness=1.5, blur=1.0, grey=True, seed=0)
    images = torch.zeros(1, 3, 5, 5)
    images[0, 0, 2, 2] = 1.0  # a red point: 0.299 grey, half as much again
    edge = np.exp(-0.5) / (1 + 2 * np.exp(-0.5))
    prepared = net.prepared(images)
    assert prepared[0, :, 2, 1].numpy() == pytest.approx([1.5 * 0.299 * edge * (1 - 2 * edge)] * 3, rel=1e-5)
    assert float(prepared[0, 0].sum()) == pytest.approx(1.5 * 0.299, rel=1e-5)
    torch.testing.assert_close(net.prepared(torch.ones(1, 3, 4, 4)), torch.ones(1, 3, 4, 4))  # clipped
    plain = PatchClassifier("resnet18.tv_in1k", brightness=1.0, blur=0.0, grey=False, seed=0)
    torch.testing.assert_close(plain.prepared(images), images)


def test_weights_without_layer4_fill_what_is_before_it_and_say_so(train, tmp_path):
    net = build_network("resnet18.tv_in1k", (4,), seed=0)
    before = copy.deepcopy(net.state_dict())
    origin = fill_classifier(net, "resnet18.tv_in1k", "bundled", seed=0)
    assert origin["file"] == str(BUNDLED / "resnet18.safetensors")
    assert "random" in origin["layer4"]
    after = net.state_dict()
    changed = {key.split(".")[0] for key in after if not torch.equal(after[key], before[key])}
    assert changed == {"conv1", "bn1", "layer1", "layer2", "layer3"}

    whole = {key: value.clone() + 1 for key, value in before.items()}
    save_file(whole, tmp_path / "whole.safetensors")
    assert "layer4" not in fill_classifier(net, "resnet18.tv_in1k", str(tmp_path / "whole.safetensors"), seed=0)
    assert torch.equal(net.state_dict()["layer4.1.conv2.weight"], whole["layer4.1.conv2.weight"])
    save_file({key: value for key, value in whole.items() if "layer4" not in key}, tmp_path / "part.safetensors")
    with pytest.warns(UserWarning, match="layer4 start random"):
        model = untrained("mixed_supervised", **QUICK | {"weights": str(tmp_path / "part.safetensors"), "epochs": 0})
        model.fit(train, device="cpu", progress=False)
    assert any("layer4 start random" in sentence for sentence in model.warnings)
    with pytest.raises(InputError, match="does not exist"):
        fill_classifier(net, "resnet18.tv_in1k", "nowhere.safetensors", seed=0)


# Training


def test_a_share_of_the_patches_is_held_out_and_no_real_defect(train):
    model = create_model("mixed_supervised", validation_share=0.25)
    model.seed_ = 0
    stream, held_out = model.streams(train, None)
    assert (len(stream), len(held_out)) == (9, 3)
    assert sorted([*stream.patches, *held_out.patches]) == patches_of(train).tolist()
    assert len(stream.real) == 7
    assert (stream.probability, held_out.probability) == (1 / 32, 0)
    assert stream.walk is held_out.walk is None
    assert create_model("mixed_supervised", validation_share=0).parameters["validation_share"] == 0


def test_test_images_choose_the_epoch_only_where_that_is_asked_for(train, root):
    test = ImageSet(select(load_samples("isp_ad", root), split="test"), size=32)
    model = create_model("mixed_supervised", **QUICK, selection="test", epochs=1)
    assert any("TEST images" in sentence for sentence in model.warnings)
    with pytest.raises(InputError, match="give them to fit as val="):
        model.fit(train, device="cpu", progress=False)
    model.seed_ = 0
    stream, held_out = model.streams(train, test)
    assert len(stream) == 12
    assert [item["label"] for item in map(held_out.__getitem__, range(4))] == test.labels.tolist()
    run = Run("isp_ad", str(root), "mixed_supervised", "LSM-1", {"size": 32, "selection": "test"})
    assert run.selection_images.labels.tolist() == test.labels.tolist()
    assert Run("isp_ad", str(root), "mixed_supervised", "LSM-1", {"size": 32}).selection_images is None
    assert Run("isp_ad", str(root), "padim", "LSM-1", {"size": 32}).selection_images is None


def test_patience_ends_after_epochs_without_a_lower_loss():
    patience = Patience(2)
    for loss, ended in ((3.0, False), (2.0, False), (2.0, False), (1.9, False), (2.5, False), (1.9, True)):
        patience.see(loss)
        assert patience.ended is ended
    kept = Patience(2)
    kept.load_state_dict(patience.state_dict())
    assert kept.ended


def test_training_ends_early_and_keeps_the_lowest_validation_loss(train, monkeypatch):
    losses = iter([0.5, 0.4, 0.6, 0.7, 0.1])
    seen = []

    def mean_loss(self, stream):
        seen.append(self.classifier_.head.weight.detach().clone())
        return next(losses)

    monkeypatch.setattr(MixedSupervised, "mean_loss", mean_loss)
    model = create_model("mixed_supervised", **QUICK, patience=2, learning_rate=0.01)
    model.fit(train, device="cpu", progress=False)
    assert len(model.losses_) == len(seen) == 4
    assert torch.equal(model.classifier_.head.weight, seen[1])


def test_learning_rate_falls_as_a_cosine_and_restarts_twice_as_long(train, monkeypatch):
    rates = []
    step = torch.optim.SGD.step

    def noted(self, *arguments, **keywords):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments, **keywords)

    monkeypatch.setattr(torch.optim.SGD, "step", noted)
    settings = {"validation_share": 0, "epochs": 3, "first_cycle": 3, "learning_rate": 0.1}
    create_model("mixed_supervised", **QUICK, **settings).fit(train, device="cpu", progress=False)
    first = [0.05 * (1 + np.cos(np.pi * n / 3)) for n in range(3)]
    second = [0.05 * (1 + np.cos(np.pi * n / 6)) for n in range(6)]
    np.testing.assert_allclose(rates, first + second, rtol=1e-6)


@pytest.mark.slow
def test_interrupted_training_resumes_to_the_same_weights(train, tmp_path, monkeypatch):
    settings = QUICK | {"epochs": 3, "learning_rate": 0.01, "validation_share": 0.2}
    whole = create_model("mixed_supervised", **settings).fit(train, device="cpu", progress=False)
    broken = create_model("mixed_supervised", **settings)
    broken.checkpoint_interval = 0.0
    loss, calls = MixedSupervised.loss, iter(range(100))

    def fails(self, batch):
        if next(calls) == 5:
            raise KeyboardInterrupt
        return loss(self, batch)

    monkeypatch.setattr(MixedSupervised, "loss", fails)
    with pytest.raises(KeyboardInterrupt):
        broken.fit(train, device="cpu", progress=False, checkpoint=tmp_path / "checkpoint")
    monkeypatch.undo()
    resumed = create_model("mixed_supervised", **settings)
    resumed.fit(train, device="cpu", progress=False, checkpoint=tmp_path / "checkpoint")
    for key, value in whole.state().items():
        assert torch.equal(value, resumed.state()[key]), key


def test_loss_is_the_cross_entropy_of_the_mean(train):
    model = untrained("mixed_supervised", **QUICK, epochs=0, validation_share=0)
    model.fit(train, device="cpu", progress=False)
    batch = {"image": torch.rand(3, 3, 64, 64), "label": torch.tensor([0.0, 1.0, 1.0])}
    logits, maps = model.score_batch(batch["image"])
    signed = torch.where(batch["label"] > 0, logits, -logits)
    torch.testing.assert_close(model.loss(batch), F.softplus(-signed).mean())
    assert maps.shape == (3, 64, 64)
    assert [Path(name).parent.name for name in model.choices["real defects"]].count("points") == 3


def test_asking_for_more_real_defects_than_there_are_is_said(train, tmp_path):
    model = untrained("mixed_supervised", **QUICK | {"epochs": 0, "validation_share": 0, "number": 172})
    model.fit(train, device="cpu", progress=False)
    assert DRAWN_DEFECTS not in model.warnings  # its synthetic patches are on disk
    said = "Asked for 172 real defects, the training images hold 7: all of them are injected."
    assert said in model.warnings
    model.epochs = 1  # none is no setting that can be loaded
    assert load_model(model.save(tmp_path / "model.safetensors")).warnings == model.warnings
    assert len(model.choices["real defects"]) == 7
    enough = untrained("mixed_supervised", **QUICK | {"epochs": 0, "validation_share": 0, "number": 7})
    enough.fit(train, device="cpu", progress=False)
    assert not any("Asked for" in sentence for sentence in enough.warnings)


def test_seeds_choose_other_real_defects_unless_the_shuffle_is_fixed(train):
    def chosen(seed, **settings):
        model = untrained("mixed_supervised", **QUICK | {"epochs": 0, "validation_share": 0, "number": 2} | settings)
        return model.fit(train, device="cpu", seed=seed, progress=False).choices["real defects"]

    assert len({tuple(chosen(seed)) for seed in range(4)}) > 1
    assert chosen(0, shuffle_seed=5) == chosen(1, shuffle_seed=5)


def test_without_synthetic_defects_the_anomalous_half_is_real(train):
    model = create_model("mixed_supervised", **QUICK, synthetic=False, probability=0.5, validation_share=0)
    model.seed_ = 0
    stream, held_out = model.streams(train, None)
    assert held_out is None
    assert train.samples["defect"].iloc[stream.patches].eq("good").all()
    labels = [stream[index]["label"] for _ in range(20) for index in (stream.set_epoch(_) or range(len(stream)))]
    assert 0.3 < np.mean(labels) < 0.7
    with pytest.raises(InputError, match="synthetic=False leaves nothing anomalous"):
        create_model("mixed_supervised", **QUICK, synthetic=False, defects="none").fit(train, progress=False)


def test_mistakes_get_their_sentence(train):
    with pytest.raises(InputError, match="augmentation='much' must be one of 'LSM-1', 'LSM-2', 'ASM', 'none'"):
        create_model("mixed_supervised", augmentation="much")
    with pytest.raises(InputError, match="selection='luck' must be"):
        create_model("mixed_supervised", selection="luck")
    with pytest.raises(InputError, match=r"validation_share=1 must be a number in \[0, 1\)"):
        create_model("mixed_supervised", validation_share=1)
    anomalous = ImageSet(select(train.samples, label=1), size=32)
    with pytest.raises(InputError, match="All training images are anomalous"):
        create_model("mixed_supervised", **QUICK).fit(anomalous, device="cpu", progress=False)
