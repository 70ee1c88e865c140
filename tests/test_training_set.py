"""Which of the training images a run learns from: limits, shares, unscreened defects, mirrored images."""

import numpy as np
import pytest

from adlib import ImageSet, InputError, phantoms
from adlib.decoding.pictures import read_image
from adlib.runs import Run
from adlib.runs.titles import distinct_titles
from adlib.samples import make_samples
from adlib.training_set import choose_real, choose_training_images, describe_training_set


def table(train: int = 10, defects: int = 6, categories=("a", "b")):
    rows = []
    for category in categories:
        rows += [{"image": f"{category}/n{k:02}", "split": "train", "category": category} for k in range(train)]
        rows += [{"image": f"{category}/t{k:02}", "category": category} for k in range(4)]
        broken = {"label": 1, "defect": "hole", "category": category}
        rows += [{"image": f"{category}/d{k:02}", "mask": f"{category}/m{k:02}", **broken} for k in range(defects)]
    return make_samples(rows, "a list")


def learned(samples, category="a"):
    return samples[(samples["split"] == "train") & (samples["category"] == category)]


def test_without_settings_the_table_is_as_it_was():
    samples = table()
    assert choose_training_images(samples, seed=3) is samples


def test_a_limit_concerns_each_category_and_is_contained_in_a_larger_one_of_the_same_seed():
    few, more = (choose_training_images(table(), 0, train_limit=limit) for limit in (3, 5))
    for category in "ab":
        assert len(learned(few, category)) == 3
        assert set(learned(few, category)["image"]) < set(learned(more, category)["image"])
    assert len(few[few["split"] == "test"]) == 20
    assert set(learned(choose_training_images(table(), 1, train_limit=3))["image"]) != set(learned(few)["image"])


def test_a_category_has_the_same_images_alone_and_among_others():
    alone = choose_training_images(table(categories="b"), 0, train_share=0.5)
    assert learned(alone, "b")["image"].tolist() == (
        learned(choose_training_images(table(), 0, train_share=0.5), "b")["image"].tolist()
    )
    assert len(learned(alone, "b")) == 5


def test_a_limit_above_what_there_is_keeps_all_and_the_record_says_how_many_there_were():
    chosen = choose_training_images(table(), 0, train_limit=500)
    assert describe_training_set(table(), chosen)["a"] == {"there": 10, "learned": 10, "unscreened": 0, "mirrored": 0}


def test_unscreened_defects_take_the_place_of_normal_images_and_are_not_tested():
    chosen = choose_training_images(table(), 0, train_contamination=0.2)
    rows = learned(chosen)
    defects = rows[rows["image"].str.contains("/d")]
    assert len(rows) == 10
    assert len(defects) == 2
    assert set(zip(rows["label"], rows["mask"], rows["defect"], strict=True)) == {(0, "", "good")}
    assert not set(defects["image"]) & set(chosen.loc[chosen["split"] == "test", "image"])
    assert (chosen["split"] == "test").sum() == 16
    assert describe_training_set(table(), chosen)["a"] == {"there": 10, "learned": 8, "unscreened": 2, "mirrored": 0}


def test_mirrored_images_join_until_there_are_so_many():
    chosen = learned(choose_training_images(table(), 0, train_enlarged=25))
    assert chosen["mirror"].value_counts().to_dict() == {"": 10, "horizontal": 10, "vertical": 5}
    assert not chosen.duplicated(["image", "mirror"]).any()
    limited = learned(choose_training_images(table(), 0, train_limit=2, train_enlarged=8))
    assert limited.groupby("image")["mirror"].agg(set).tolist() == 2 * [{"", "horizontal", "vertical", "both"}]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"train_limit": 0}, "train_limit=0 must be a number of images"),
        ({"train_limit": True}, "train_limit=True must be"),
        ({"train_share": 0}, "train_share=0 must be a share above 0"),
        ({"train_share": 1.5}, "train_share=1.5 must be a share"),
        ({"train_contamination": 1}, "train_contamination=1 must be a share from 0 to below 1"),
        ({"train_limit": 3, "train_share": 0.5}, "both given"),
        ({"train_contamination": 0.6}, "needs 6 defective images, and one to be left for testing; there are 6"),
        ({"train_enlarged": 41}, "train_enlarged=41, but a has 10 training images: mirroring makes 40 of them at most"),
        ({"train_enlarged": 9}, "set train_limit as well"),
        ({"train_real": 0}, "train_real=0 must be a number of images, at least 1"),
        ({"train_real": 3, "train_real_kind": "none"}, "train_real_kind='none' must name a kind"),
        ({"train_real_kind": "area"}, "set train_real, their number"),
        ({"train_real": 3}, "train_real=3, but a has 0 real defects for training: ask for fewer"),
    ],
)
def test_what_cannot_be_asked_for(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        choose_training_images(table(), 0, **settings)


@pytest.mark.parametrize("number", [np.int64(4), 4.0])
def test_a_number_of_numpy_is_a_number(number):
    assert learned(choose_training_images(table(), 0, train_limit=number)).equals(
        learned(choose_training_images(table(), 0, train_limit=4))
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    place = tmp_path_factory.mktemp("phantom") / "three_cad"
    return phantoms.draw("three_cad", place, counts={"Aluminum_Ipad": (16, 6, 10)})


def small(root, method="patchcore", seed=0, **settings):
    return Run("three_cad", str(root), method, "AI", {"size": 32, **settings}, seed)


def test_mirrored_items_are_mirrored_and_decoded_once(root, tmp_path):
    plain = small(root, crop=None).images("train")
    count = len(plain)
    images = small(root, crop=None, train_enlarged=4 * count).images("train")
    cached = ImageSet(images.samples, cache=tmp_path, **images.settings)
    assert len(images) == len(cached) == 4 * count
    assert cached.cache_bytes == count * 3 * 32 * 32
    assert cached.cache_file.name == ImageSet(plain.samples, cache=tmp_path, **plain.settings).cache_file.name
    rows = images.samples.groupby("image").groups[plain.samples["image"].iat[1]]
    axes = {"": (), "horizontal": (2,), "vertical": (1,), "both": (1, 2)}
    for index in rows:
        expected = plain.pixels(1).flip(axes[images.samples["mirror"].iat[index]])
        assert (images.pixels(index) == expected).all()
        assert (cached.pixels(index) == expected).all()
    assert len(rows) == 4


def test_masks_are_mirrored_with_their_images(root):
    rows = small(root, crop=None).samples.query("label == 1").head(1)
    plain, mirrored = (ImageSet(rows.assign(mirror=mirror), size=32) for mirror in ("", "horizontal"))
    assert np.array_equal(mirrored.masks()[0], plain.masks()[0][:, ::-1])
    assert np.array_equal(mirrored[0]["mask"], plain.masks()[0][:, ::-1])


def test_every_method_with_the_same_seed_learns_from_the_same_images(root):
    settings = {"crop": None, "train_limit": 5}
    of = {method: small(root, method, **settings).images("train").samples for method in ("patchcore", "draem")}
    assert of["patchcore"].equals(of["draem"])
    assert len(of["draem"]) == 5


def test_the_training_set_is_part_of_a_runs_identity(root):
    runs = [small(root, **settings) for settings in ({}, {"train_limit": 5}, {"train_limit": 6}, {"train_share": 0.5})]
    assert len({run.key for run in runs}) == 4
    assert small(root, train_limit=None).key == runs[0].key


def test_a_zero_shot_method_has_no_training_images_to_choose(root):
    with pytest.raises(InputError, match="train_limit: adaclip learns from other data sets"):
        assert not Run("three_cad", str(root), "adaclip", "AI", {"train_limit": 5}).samples


# Real defects


@pytest.fixture(scope="module")
def prints(tmp_path_factory):
    """ISP-AD's phantom, of which each modality has 3 real area and 4 point defects for training, of twice the size."""
    counts = {"ASM": (6, 4, 2, 2), "LSM-1": (6, 4, 2, 2)}
    out = tmp_path_factory.mktemp("phantom") / "isp_ad"
    return phantoms.draw("isp_ad", out, size=64, counts=counts, real=(3, 4))


def printed(root, method="supersimplenet", category="ASM", seed=0, **settings):
    return Run("isp_ad", str(root), method, category, {"size": 32, **settings}, seed)


def joined(run):
    samples = run.samples
    return samples[(samples["split"] == "train") & (samples["label"] == 1)]


@pytest.mark.parametrize(("kind", "seed"), [("mixed", 0), ("mixed", 3), ("points", 3)])
def test_real_defects_are_those_that_mixed_supervision_injects_with_this_seed(prints, kind, seed):
    run = printed(prints, seed=seed, train_real=3, train_real_kind=kind)
    there = printed(prints, "mixed_supervised").all_samples
    injected = there["image"].iloc[choose_real(there[there["split"] == "train"], kind, 3, seed)]
    assert set(joined(run)["image"]) == set(injected)
    assert len(joined(run)) == 3
    fewer = printed(prints, seed=seed, train_real=2, train_real_kind=kind)
    assert set(joined(fewer)["image"]) < set(joined(run)["image"])
    assert set(describe_training_set(run.all_samples, run.samples)["ASM"]["real"]) == set(injected)


def test_real_defects_join_every_category_of_a_joint_run_and_the_test_stays_as_it_is(prints):
    run = printed(prints, category="", train_real=5)
    assert joined(run)["category"].value_counts().to_dict() == {"ASM": 5, "LSM-1": 5}
    tested = [one[one["split"] == "test"]["image"].tolist() for one in (run.samples, run.all_samples)]
    assert tested[0] == tested[1]
    assert run.key != printed(prints, category="", train_real=4).key


@pytest.mark.parametrize("method", ["supersimplenet", "mixed_supervised"])
def test_what_is_told_of_the_files_is_told_of_those_that_join_too(prints, method):
    real = {"train_real": 2} if method == "supersimplenet" else {}
    samples = printed(prints, method, mask_rule="nonzero", items=r"(\d+)", **real).samples
    joined = samples[(samples["split"] == "train") & samples["defect"].isin(["area", "points"])]
    assert set(samples["mask_rule"]) == {"nonzero"}
    assert joined["item"].tolist() == joined["image"].str.extract(r"(\d+)\.\w+$")[0].tolist()
    assert samples["item"].notna().all()


def test_a_real_defect_is_shown_at_the_patches_scale(prints):
    run = printed(prints, train_real=1)
    images = run.images("train")
    assert images.samples["middle"].tolist() == [64] + 6 * [0]
    whole = read_image(images.samples["image"].iat[0])
    assert whole.shape[:2] == (128, 128)
    alone = ImageSet(images.samples.iloc[[0]], size=64)
    assert np.array_equal(255 * alone.pixels(0)[0].numpy(), whole[32:96, 32:96].astype(np.float32))


def test_where_real_defects_have_no_place(prints, root):
    for run, sentence in [
        (printed(prints, train_real=8), "train_real=8, but ASM has 7 real defects for training"),
        (printed(prints, train_real=4, train_real_kind="area"), "ASM has 3 real defects of the kind area"),
        (printed(prints, train_real=4, train_real_kind="dust"), "no such real defect"),
        (printed(prints, "glass", train_real=4), "glass learns from normal images alone"),
        (printed(prints, "mixed_supervised", train_real=4), "mixed_supervised injects real defects itself"),
        (small(root, "supersimplenet", train_real=4), "three_cad has no real defects apart for training; isp_ad has"),
    ]:
        with pytest.raises(InputError, match=sentence):
            assert run.samples is None


# Titles


def test_a_title_names_every_setting_that_is_not_the_default(root):
    run = small(root, crop=224, coreset_ratio=0.02, train_limit=5)
    assert run.name == "patchcore on three_cad/AI, seed 0"
    assert run.title == "patchcore on three_cad/AI, seed 0 (size 32, coreset_ratio 0.02, train_limit 5)"


def test_among_others_a_title_names_what_tells_runs_apart(root):
    runs = [small(root), small(root, train_limit=5), small(root, train_limit=5, stages=[1, 2]), small(root, "draem")]
    name = "patchcore on three_cad/AI, seed 0"
    assert distinct_titles(runs) == [
        f"{name} (default settings)",
        f"{name} (train_limit 5)",
        f"{name} (stages 1 2, train_limit 5)",
        "draem on three_cad/AI, seed 0",
    ]
