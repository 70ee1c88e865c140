"""Loaders: the layouts they read, and the sentence for each way a folder goes wrong."""

import shutil

import numpy as np
import pytest
from conftest import make_tree, write

from adlib import InputError, list_datasets, load_samples, papers, phantoms
from adlib.datasets import facts, isp_ad
from adlib.datasets.check import check
from adlib.images import read_image

MVTEC_LIKE = ["mvtec_ad", "cxr_ad", "folder"]


@pytest.mark.parametrize("name", MVTEC_LIKE)
def test_mvtec_tree_is_read(name, tree):
    samples = load_samples(name, tree)
    test = samples[samples["split"] == "test"]
    assert (samples["category"] == "thing").all()
    assert (samples["split"] == "train").sum() == 6
    assert test.groupby("defect")["label"].agg(["size", "max"]).loc["square"].tolist() == [4, 1]
    masks = test.loc[test["label"] == 1, "mask"]
    assert masks.str.endswith("_mask.png").all()
    assert (samples.loc[samples["label"] == 0, "mask"] == "").all()


def test_masks_pair_by_name_with_every_usual_ending(tmp_path):
    for ending in ("_mask", "", "_gt"):
        root = make_tree(tmp_path / f"tree{ending}")
        folder = root / "thing" / "ground_truth" / "square"
        for mask in list(folder.iterdir()):
            mask.rename(folder / f"{mask.stem.removesuffix('_mask')}{ending}.png")
        samples = load_samples("folder", root)
        found = samples.loc[samples["label"] == 1]
        assert [f"{row.image.split('/')[-1][:-4]}{ending}.png" == row.mask.split("/")[-1] for row in found.itertuples()]
        assert found["mask"].str.endswith(f"{ending}.png").all()


def test_one_category_folder_can_be_given_itself(tree):
    assert len(load_samples("folder", tree / "thing")) == 14


@pytest.mark.parametrize("name", ["masks", "Ground_Truth", "ground-truth", "GT"])
@pytest.mark.parametrize("dataset", ["folder", "mvtec_ad"])
def test_masks_in_a_folder_of_another_name_are_not_passed_over(name, dataset, tree):
    expected = tree / "thing" / "ground_truth"
    expected.rename(tree / "thing" / name)
    if expected.is_dir():
        pytest.skip("here names in capital letters are the same")
    with pytest.raises(InputError) as caught:
        load_samples(dataset, tree)
    assert str(caught.value).startswith(f"Masks are looked for in {expected}, and there is {tree / 'thing' / name}: ")
    for file in (tree / "thing" / name).rglob("*.png"):
        file.unlink()
    if dataset == "folder":  # a folder without pictures is no folder of masks
        assert (load_samples(dataset, tree)["mask"] == "").all()


@pytest.mark.parametrize("name", ["masks", "ground_truth", "GT"])
def test_masks_among_the_folders_of_images_are_no_defects(name, tree):
    """Without any ground_truth/ they had counted as images of a defect called masks, the easiest of all."""
    (tree / "thing" / "ground_truth" / "square").rename(tree / "thing" / "test" / name)
    (tree / "thing" / "ground_truth").rmdir()
    with pytest.raises(InputError, match=f"test/{name} is called as folders of masks are, .*: move what it holds to"):
        load_samples("folder", tree)


@pytest.mark.parametrize("ending", ["_mask", "_GT"])
def test_masks_beside_their_images_are_no_defects(ending, tree):
    masks = tree / "thing" / "ground_truth"
    for mask in (masks / "square").iterdir():
        mask.rename(tree / "thing" / "test" / "square" / mask.name.replace("_mask", ending))
    shutil.rmtree(masks)
    with pytest.raises(InputError, match=rf"000{ending}\.png is called as the mask of 000\.png beside it"):
        load_samples("folder", tree)


def test_a_defect_may_be_called_mask_where_it_has_masks(tree):
    for place in ("test", "ground_truth"):
        (tree / "thing" / place / "square").rename(tree / "thing" / place / "mask")
    assert set(load_samples("folder", tree)["defect"]) == {"good", "mask"}


def test_folder_without_ground_truth_has_labels_and_no_masks(tree):
    shutil.rmtree(tree / "thing" / "ground_truth")
    samples = load_samples("folder", tree)
    assert samples["label"].sum() == 4
    assert (samples["mask"] == "").all()
    with pytest.raises(InputError, match=r"square/000\.png is anomalous but has no mask"):
        load_samples("mvtec_ad", tree)


@pytest.mark.parametrize("name", MVTEC_LIKE)
def test_wrong_levels_are_named(name, tree):
    with pytest.raises(InputError, match="One level deeper there are some: give"):
        load_samples(name, tree.parent)
    if name != "folder":
        with pytest.raises(InputError, match="It is a category itself: give its parent"):
            load_samples(name, tree / "thing")


def test_missing_folder_says_how_to_get_the_set(tmp_path):
    with pytest.raises(InputError, match=r"does not exist\. MVTec AD: download"):
        load_samples("mvtec_ad", tmp_path / "nowhere")


def test_unknown_names_list_the_known(tree):
    with pytest.raises(InputError, match="Unknown dataset 'mvtec'; known are btad, colondb, cxr_ad, folder, isp_ad"):
        load_samples("mvtec", tree)
    with pytest.raises(InputError, match=r"No category 'screw' in .*: found thing"):
        load_samples("mvtec_ad", tree, "screw")


@pytest.mark.parametrize("name", MVTEC_LIKE)
def test_an_anomalous_image_without_mask_is_named(name, tree):
    (tree / "thing" / "ground_truth" / "square" / "002_mask.png").unlink()
    with pytest.raises(InputError, match=r"square/002\.png is anomalous but has no mask: expected .*002_mask\.png"):
        load_samples(name, tree)


def test_a_mask_without_image_is_named(tree):
    (tree / "thing" / "test" / "square" / "002.png").unlink()
    with pytest.raises(InputError, match=r"002_mask\.png is a mask without an image"):
        load_samples("mvtec_ad", tree)


def test_an_empty_class_is_named(tree):
    for image in (tree / "thing" / "test" / "good").iterdir():
        image.unlink()
    with pytest.raises(InputError, match="test/good holds no image"):
        load_samples("mvtec_ad", tree)


def test_defects_among_training_images_are_refused(tree):
    write(tree / "thing" / "train" / "scratch" / "0.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match="train/scratch is in train/ but not named good"):
        load_samples("mvtec_ad", tree)


def csv_of(tree, text):
    file = tree / "list.csv"
    file.write_text(text)
    return file


def test_csv_lists_images_relative_to_itself(tree):
    file = csv_of(
        tree,
        "image,mask,split,category\n"
        "thing/train/good/000.png,,train,a\n"
        "thing/test/square/000.png,thing/ground_truth/square/000_mask.png,test,a\n"
        "thing/test/good/000.png,,test,b\n",
    )
    samples = load_samples("folder", file)
    assert samples["label"].tolist() == [1, 0, 0]
    assert samples["defect"].tolist() == ["anomalous", "good", "good"]
    assert len(load_samples("folder", file, "b")) == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("picture,split\n", "unknown columns picture"),
        ("image,label\nthing/train/good/000.png,0\n", "has no column split"),
        ("image,split\nthing/train/good/000.png,train\n", "neither a column label nor a column mask"),
        ("image,split,label\nthing/nothing.png,train,0\n", "nothing.png does not exist"),
        ("image,split,label\n", "No images found"),
    ],
)
def test_a_wrong_csv_gets_its_sentence(tree, text, sentence):
    with pytest.raises(InputError, match=sentence):
        load_samples("folder", csv_of(tree, text))


@pytest.mark.parametrize("name", sorted(set(list_datasets()) - {"folder"}))
def test_facts_are_complete(name):
    about = facts(name)
    assert all((about.title, about.source, about.licence, about.get))
    assert about.count_table().shape == (len(about.counts), 3)


def test_published_totals():
    assert facts("mvtec_ad").count_table().sum().tolist() == [3629, 467, 1258]
    assert facts("cxr_ad").count_table().sum().tolist() == [559, 94, 561]


def test_check_lists_every_problem(tree):
    folder = tree / "thing"
    (folder / "test" / "good" / "000.png").write_bytes(b"")
    (folder / "test" / "good" / "001.png").write_bytes((folder / "train" / "good" / "001.png").read_bytes())
    (folder / "train" / "good" / "002.png").write_bytes((folder / "train" / "good" / "003.png").read_bytes())
    write(folder / "ground_truth" / "square" / "000_mask.png", np.ones((5, 5), np.uint8))
    write(folder / "ground_truth" / "square" / "001_mask.png", np.zeros((64, 64), np.uint8))
    cut = folder / "test" / "square" / "002.png"
    cut.write_bytes(cut.read_bytes()[:20])

    findings = check("folder", tree, progress=False)
    text = "\n".join(findings.problems)
    assert len(findings.problems) == 5
    for part in (
        "000.png is empty (0 bytes)",
        "000_mask.png is 5x5 pixels",
        "001_mask.png is empty",
        "002.png cannot be decoded",
        "shared by test and train",
    ):
        assert part in text
    assert any("a duplicate" in remark for remark in findings.remarks)


def test_check_names_a_file_of_each_split_and_a_contradiction_of_labels(tree):
    folder = tree / "thing"
    copied = (folder / "train" / "good" / "001.png").read_bytes()
    for name in ("000.png", "001.png"):
        (folder / "test" / "good" / name).write_bytes(copied)
    (folder / "test" / "square" / "000.png").write_bytes((folder / "test" / "good" / "002.png").read_bytes())
    shared, both = check("folder", tree, progress=False).problems
    assert "test/good/000.png has the same bytes as" in shared
    assert "train/good/001.png and 1 more: shared by test and train." in shared
    assert "test/good/002.png has the same bytes as" in both
    assert both.endswith("test/square/000.png: one normal, one anomalous.")


def test_check_knows_a_copy_in_another_file(tree):
    """Saved in another format, or with another date inside: the detector has learned it all the same."""
    picture = read_image(tree / "thing" / "train" / "good" / "000.png")
    (tree / "thing" / "test" / "good" / "000.png").unlink()
    write(tree / "thing" / "test" / "good" / "000.bmp", picture)
    (problem,) = check("folder", tree, progress=False).problems
    assert "test/good/000.bmp has the same pixels as" in problem
    assert problem.endswith("train/good/000.png: shared by test and train.")


def test_check_opens_the_masks_of_normal_images(tree):
    folder = tree / "thing" / "ground_truth"
    write(folder / "good" / "001_mask.png", np.eye(64, dtype=np.uint8))
    write(folder / "good" / "002_mask.png", np.zeros((64, 64), np.uint8))
    write(folder / "train" / "good" / "003_mask.png", np.eye(64, dtype=np.uint8))
    problems = sorted(check("folder", tree, progress=False).problems)
    assert len(problems) == 2
    for problem, image in zip(problems, ("test/good/001.png", "train/good/003.png"), strict=True):
        assert f"{image} is labelled normal but its mask" in problem and problem.endswith("is not empty.")


def test_check_opens_what_isp_ad_keeps_for_other_trainings(tmp_path):
    root = tmp_path / "isp"
    phantoms.draw("isp_ad", root, size=32, counts={"ASM": (2, 1, 1, 1)}, supervised=2, real=(1, 1))
    assert check("isp_ad", root, progress=False).problems == []
    real = sorted((root / "ASM" / "real_defects").glob("*/*.png"))
    real[0].write_bytes(b"no picture")
    real[1].write_bytes(next((root / "ASM" / "test" / "area").glob("*.png")).read_bytes())
    file = isp_ad.supervised_files(root / "ASM")[0]
    file.write_bytes(file.read_bytes()[:1000])
    problems = "\n".join(check("isp_ad", root, progress=False).problems)
    for part in (f"{real[0]} cannot be decoded", f"{real[1]}: shared by test and train", f"{file} cannot be opened"):
        assert part in problems


def test_check_says_which_of_miics_training_images_are_test_images(tmp_path):
    root = tmp_path / "miic"
    phantoms.draw("miic", root, size=64, counts=(4, 2, 1))
    image = sorted((root / "Anomaly_train").iterdir())[1]
    image.write_bytes(next((root / "Anomaly_test" / "normal_img").iterdir()).read_bytes())
    findings = check("miic", root, progress=False)
    assert any(f"1 images in {image.parent} are test images' copies" in remark for remark in findings.remarks)
    assert any(str(image) in remark for remark in findings.remarks)


def test_check_of_one_category_disagrees_as_the_whole_set_does(tmp_path):
    root = make_tree(tmp_path, category="widget")
    for category in (None, "widget"):
        row = check("mvtec_ad", root, category, progress=False).counts.loc["widget"]
        assert (row["published"], row["agrees"]) == ("none", False)


def test_check_compares_totals_where_a_publication_counts_no_more(tmp_path):
    make_tree(tmp_path / "cloth", "subclass1", train=5, normal=2, anomalous=1, size=8)
    row = check("texture_ad", tmp_path, progress=False).counts.loc["cloth"]
    assert row.to_dict() == {"found": "5 / 3 in all", "published": "4569 / 1714 in all", "agrees": False}
    good = tmp_path / "cloth" / "subclass1" / "val" / "good"  # the paper counts "training and validation" together
    write(good / "000.png", np.zeros((8, 8), np.uint8))
    assert check("texture_ad", tmp_path, progress=False).counts.loc["cloth", "found"] == "6 / 3 in all"
    for product, (train, test) in facts("texture_ad").totals.items():  # as the paper's protocol has them
        stated = papers.stated("texture_ad", product)
        assert (stated["train"], stated["test"]) == (train, test)


def test_check_compares_counts_and_warns_of_dark_16_bit_images(tmp_path):
    root = make_tree(tmp_path, category="UB")
    rng = np.random.default_rng(0)
    for file in root.glob("UB/*/*/*.png"):
        if "ground_truth" not in file.parts:
            write(file, rng.integers(0, 4096, (64, 64)).astype(np.uint16))
    findings = check("cxr_ad", root, "UB", progress=False)
    assert findings.problems == []
    assert findings.counts.loc["UB"].tolist() == ["6 / 4 / 4", "196 / 20 / 62", False]
    assert any("window=(0, 4095)" in remark for remark in findings.remarks)
