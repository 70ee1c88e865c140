"""The feature cache: the same numbers to the last bit, fewer forward passes, and no failure of its own."""

import multiprocessing

import pytest
import torch
from conftest import make_tree

import adlib
from adlib.datasets import load_samples
from adlib.features import feature_cache
from adlib.features.backbones import Backbone
from adlib.features.feature_cache import SUFFIX, FeatureCache, read_features, write_features
from adlib.images import ImageSet
from adlib.reproduce import shared_cache
from adlib.runs.batch import run_all
from adlib.runs.conditions import Conditions
from adlib.runs.execute import execute
from adlib.runs.run import Run
from adlib.runs.store import Store
from adlib.runs.workers import Workers
from adlib.samples import select

SMALL = {"backbone": "resnet18.tv_in1k", "weights": "random"}
BRIEF = {"epochs": 2, "batch_size": 4}
METHODS = {
    "padim": SMALL,
    "patchcore": SMALL | {"coreset_ratio": 0.1},
    "cfa": SMALL | {"epochs": 1},
    "fastflow": SMALL | BRIEF | {"steps": 1},
    "stfpm": SMALL | BRIEF,
}


@pytest.fixture(autouse=True)
def any_disk(monkeypatch):
    """Tests also run where hardly any disk is left."""
    monkeypatch.setattr(feature_cache, "RESERVE", 0)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    samples = load_samples("folder", make_tree(tmp_path_factory.mktemp("tree"), train=10, normal=2, anomalous=3))
    return [ImageSet(select(samples, split=split), size=64) for split in ("train", "test")]


def answers(method: str, sets, folder=""):
    """(scores, maps) of a method that shares features in the folder, and its counts."""
    train, test = sets
    model = adlib.create_model(method, **METHODS[method]).share(folder)
    found = model.fit(train, device="cpu", progress=False).predict(test, device="cpu", progress=False)
    return torch.from_numpy(found.scores), torch.from_numpy(found.maps), getattr(model.feature_cache, "counts", None)


@pytest.fixture
def backbone():
    return Backbone("resnet18.tv_in1k", (1, 2), "random")


def offered(folder, seed: int = 0, limit: float = 1e9):
    """A batch that may be looked up, and its cache."""
    cache, batch = FeatureCache(folder, limit), torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    cache.offer(batch)
    return cache, batch


@pytest.mark.parametrize("method", METHODS)
def test_sharing_changes_no_bit(method, sets, tmp_path):
    plain, first, second = answers(method, sets), answers(method, sets, tmp_path), answers(method, sets, tmp_path)
    for with_cache in (first, second):
        assert torch.equal(plain[0], with_cache[0])
        assert torch.equal(plain[1], with_cache[1])
    # Ten images to fit on and five to predict; STFPM looks at eight in training, shuffled, and at two after each epoch.
    assert first[2]["features_computed"] == (7 if method == "stfpm" else 15)
    assert second[2]["features_computed"] == 0
    assert second[2]["features_read"] == first[2]["features_computed"] + first[2]["features_read"]


def test_methods_share_the_stages_that_they_have_in_common(sets, tmp_path):
    answers("padim", sets, tmp_path)  # stages 1, 2, 3
    *_, counts = answers("patchcore", sets, tmp_path)  # stages 2, 3
    assert (counts["features_read"], counts["features_computed"]) == (15, 0)


def test_a_batch_that_is_offered_is_read_the_second_time(backbone, tmp_path):
    cache, batch = offered(tmp_path)
    computed = backbone(batch)
    read = backbone(batch)
    assert cache.counts["features_computed"] == cache.counts["features_read"] == 2
    for expected, found in zip(computed, read, strict=True):
        assert torch.equal(expected, found)
        assert expected.stride() == found.stride()


@pytest.mark.parametrize("change", [lambda x: x.flip(3), lambda x: x.clone(), lambda x: x[:1]])
def test_what_is_made_of_a_batch_is_not_looked_up(change, backbone, tmp_path):
    cache, batch = offered(tmp_path)
    backbone(change(batch))
    assert list(tmp_path.iterdir()) == []
    assert cache.counts["features_computed"] == 0


def test_augmented_training_writes_nothing(sets, tmp_path):
    model = adlib.create_model("destseg", weights="random", segmentation_width=8, student_steps=1, segmentation_steps=1)
    model.share(tmp_path).fit(sets[0], device="cpu", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_other_pixels_and_other_weights_are_other_entries(backbone, tmp_path):
    cache, batch = offered(tmp_path)
    backbone(batch)
    with torch.no_grad():
        batch[0, 0, 0, 0] += 1e-3
    backbone(batch)
    other = Backbone("resnet18.tv_in1k", (1, 2), "random", seed=1)
    assert torch.equal(other(batch)[0], other(batch.clone())[0])
    next(backbone.net.parameters()).mul_(1.5)
    cache.begin()
    assert torch.equal(backbone(batch)[0], backbone(batch.clone())[0])
    assert cache.counts["features_read"] == 0


def test_networks_that_normalise_otherwise_share_no_entry(tmp_path):
    """Two tags of one network, drawn alike or filled from one file, whose images have another mean and deviation."""
    one, other = (Backbone(f"resnet34.{tag}", (1, 2), "random") for tag in ("a1_in1k", "ra4_e3600_r224_in1k"))
    assert not torch.equal(one.mean, other.mean)
    assert torch.equal(next(one.net.parameters()), next(other.net.parameters()))
    cache, batch = offered(tmp_path)
    expected = other(batch.clone())
    one(batch)
    for found, right in zip(other(batch), expected, strict=True):
        assert torch.equal(found, right)
    assert cache.counts["features_read"] == 0
    like = Backbone("resnet34.a2_in1k", (1, 2), "random")  # this one's images are normalised as the first one's
    assert torch.equal(like(batch)[0], like(batch.clone())[0])
    assert cache.counts["features_read"] == len(batch)


def test_the_order_in_which_stages_are_named_changes_no_entry(tmp_path):
    one, other = (Backbone("resnet18.tv_in1k", stages, "random") for stages in ((2, 1), (1, 2)))
    assert one.stages == other.stages == (1, 2)
    cache, batch = offered(tmp_path)
    expected = other(batch.clone())
    for found in (one(batch), other(batch)):
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert cache.counts["features_read"] == len(batch)


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: data[:-5] + b"wrong", lambda _: b""]
)
def test_damaged_entries_are_computed_anew(damage, backbone, tmp_path):
    cache, batch = offered(tmp_path)
    expected = backbone(batch)
    for file in tmp_path.glob(f"*{SUFFIX}"):
        file.write_bytes(damage(file.read_bytes()))
    for _ in range(2):
        assert all(torch.equal(*pair) for pair in zip(expected, backbone(batch), strict=True))
    assert (cache.counts["features_computed"], cache.counts["features_read"]) == (4, 2)


def test_every_flipped_byte_of_an_entry_is_found(tmp_path):
    file = tmp_path / f"entry{SUFFIX}"
    write_features(file, torch.rand(1, 2, 2, 2))
    data = file.read_bytes()
    for place in range(len(data)):
        file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert read_features(file) is None


def test_the_folder_does_not_outgrow_its_limit(backbone, tmp_path):
    for seed in range(6):
        _, batch = offered(tmp_path, seed, limit=150_000)  # one batch takes 50 kB
        backbone(batch)
    assert 100_000 < sum(file.stat().st_size for file in tmp_path.iterdir()) <= 150_000


@pytest.mark.parametrize("trouble", ["full disk", "no folder"])
def test_a_disk_that_takes_nothing_fails_nobody(trouble, backbone, tmp_path, monkeypatch):
    if trouble == "full disk":
        monkeypatch.setattr(feature_cache, "RESERVE", 10**18)
    else:
        (tmp_path / "folder").write_text("a file is in the way")
    cache, batch = offered(tmp_path / "folder")
    assert all(torch.equal(*pair) for pair in zip(backbone(batch), backbone(batch.clone()), strict=True))
    assert cache.counts["features_computed"] == 2


def fill(folder) -> None:
    torch.set_num_threads(1)
    backbone = Backbone("resnet18.tv_in1k", (1, 2), "random")
    for seed in range(8):
        _, batch = offered(folder, seed)
        backbone(batch)


def test_two_processes_may_fill_a_folder_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=fill, args=(tmp_path,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    files = list(tmp_path.iterdir())
    assert len(files) == 16
    assert all(read_features(file) is not None for file in files)


def test_a_run_shares_its_decoded_images(tmp_path):
    run = Run("folder", str(make_tree(tmp_path / "tree")), "padim", "thing", SMALL | {"size": 32, "crop": None})
    plain, caches = run.images("train"), [FeatureCache(tmp_path / "cache") for _ in range(2)]
    for cache in caches:
        assert torch.equal(run.images("train", cache).pixels(3), plain.pixels(3))
    assert [cache.counts["images_decoded"] for cache in caches] == [6, 0]
    assert [cache.counts["images_read"] for cache in caches] == [0, 6]


def test_a_run_goes_without_a_cache_that_has_no_room(tmp_path):
    run = Run("folder", str(make_tree(tmp_path / "tree")), "padim", "thing", SMALL | {"size": 32, "crop": None})
    images = run.images("train", FeatureCache(tmp_path / "cache", limit=1000))
    assert images.cache is None
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_batch_deletes_its_own_cache_and_keeps_a_given_one(tmp_path):
    for given in ("", str(tmp_path / "mine")):
        with shared_cache(tmp_path, given) as folder:
            FeatureCache(folder).room()  # makes the folder
        assert (tmp_path / "mine").is_dir() == bool(given)
    assert not (tmp_path / "cache").exists()
    with shared_cache(tmp_path, "none") as folder:
        assert folder == ""


@pytest.mark.slow
def test_the_second_run_of_a_batch_reads_what_the_first_computed_and_its_record_says_so(tree, tmp_path):
    settings = SMALL | {"size": 64, "crop": None}
    runs = [Run("folder", str(tree), "padim", "thing", settings | {"smoothing": sigma}) for sigma in (1, 2, 3)]
    store = Store(tmp_path / "runs")
    with Workers(1, conditions=Conditions(cache=str(tmp_path / "cache"))) as workers:
        first, second = run_all(runs[:2], store, workers, progress=False)
    alone = execute(runs[2], store, progress=False)
    assert [record["status"] for record in (first, second, alone)] == ["finished"] * 3
    computed = {"features_read": 0, "features_computed": 14, "images_read": 0, "images_decoded": 14}
    read = {"features_read": 14, "features_computed": 0, "images_read": 14, "images_decoded": 0}
    assert (first["shared"], second["shared"], alone["shared"]) == (computed, read, {})
