"""Every dataset's loader on a tree of its real layout, and on each way such a tree goes wrong."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import write

from adlib import ImageSet, InputError, load_samples
from adlib.datasets import facts
from adlib.datasets.check import check
from adlib.datasets.isp_ad import real_defects, supervised_samples
from adlib.datasets.ksdd2 import anomalous_in_train
from adlib.datasets.visa import samples as visa_samples
from adlib.images import image_shape, read_image, read_mask
from adlib.samples import count, select


@dataclass
class Layout:
    """Paths below the root; "~" in a name stands for a prefix that a test chooses."""

    train: list[str] = field(default_factory=list)
    normal: list[str] = field(default_factory=list)
    anomalous: dict[str, str] = field(default_factory=dict)  # image -> mask
    left_out: list[str] = field(default_factory=list)  # on disk, not in the samples
    too_low: str = ""  # a folder that people give instead of the root


def mvtec_like(folder: str, defect: str, good: str = "good", mask: str = "_mask.png", image: str = ".png") -> dict:
    """The parts of a Layout: two training, two normal and two anomalous images of one category."""
    truth = f"{folder}/ground_truth/{defect}"
    return {
        "train": [f"{folder}/train/{good}/~{i}{image}" for i in range(2)],
        "normal": [f"{folder}/test/{good}/~{i}{image}" for i in range(2)],
        "anomalous": {f"{folder}/test/{defect}/~{i}{image}": f"{truth}/~{i}{mask}" for i in range(2)},
    }


def joined(*parts: dict, too_low: str) -> Layout:
    layout = Layout(too_low=too_low)
    for part in parts:
        layout.train += part["train"]
        layout.normal += part["normal"]
        layout.anomalous |= part["anomalous"]
    return layout


VISA = "candle/Data/Images"
LAYOUTS = {
    "isp_ad": joined(mvtec_like("LSM-1", "points"), mvtec_like("ASM", "area", mask=".png"), too_low="ASM"),
    "three_cad": joined(mvtec_like("Copper_Stator", "scratch", mask=".png"), too_low="Copper_Stator"),
    "texture_ad": joined(mvtec_like("cloth/a", "hole"), mvtec_like("wafer/b", "spot", mask=".png"), too_low="cloth"),
    "mpdd": joined(mvtec_like("tubes", "bend"), too_low="tubes"),
    "btad": joined(
        mvtec_like("01", "ko", good="ok", mask=".png", image=".bmp"),
        mvtec_like("03", "ko", good="ok", mask=".bmp"),
        too_low="01",
    ),
    "visa": Layout(
        train=[f"{VISA}/Normal/~0.JPG", f"{VISA}/Normal/~1.JPG"],
        normal=[f"{VISA}/Normal/~2.JPG"],
        anomalous={f"{VISA}/Anomaly/~{i}.JPG": f"candle/Data/Masks/Anomaly/~{i}.png" for i in range(2)},
        too_low="candle",
    ),
    "ksdd2": Layout(
        train=["train/~10001.png", "train/~10002.png"],
        normal=["test/~20000.png"],
        anomalous={f"test/~2000{i}.png": f"test/~2000{i}_GT.png" for i in (1, 2)},
        left_out=["train/~10003.png"],
        too_low="train",
    ),
    "miic": Layout(
        train=["Anomaly_train/~train_normal_1.jpg", "Anomaly_train/~train_normal_2.jpg"],
        normal=["Anomaly_test/normal_img/~3.jpg"],
        anomalous={
            f"Anomaly_test/abnormal_img/~{i}.jpg": f"Anomaly_test/abnormal_mask/~{i}_mask.jpg" for i in (1, 2, 10)
        },
        too_low="Anomaly_test",
    ),
    "colondb": Layout(anomalous={f"images/~{i}.png": f"masks/~{i}.png" for i in range(2)}, too_low="images"),
}
NAMES = sorted(LAYOUTS)


def draw(name: str, root: Path, prefix: str = "") -> Path:
    """Draw a dataset's layout below root: noise for images, one bright square for masks."""
    rng = np.random.default_rng(0)
    layout, square = LAYOUTS[name], np.zeros((32, 32), np.uint8)
    square[8:24, 8:24] = 3 if name == "visa" else 255  # VisA's masks hold class numbers
    for file in (*layout.train, *layout.normal, *layout.anomalous, *layout.left_out):
        write(root / file.replace("~", prefix), rng.integers(0, 256, (32, 32)).astype(np.uint8))
    for file in layout.anomalous.values():
        write(root / file.replace("~", prefix), square)
    if name == "ksdd2":
        for file in (*layout.train, *layout.normal, *layout.left_out):
            truth = square if file in layout.left_out else np.zeros_like(square)
            write(root / file.replace("~", prefix).replace(".png", "_GT.png"), truth)
    if name == "visa":
        write_visa_split(root, prefix)
    return root


def write_visa_split(root: Path, prefix: str = "", split: str = "1cls", train_anomalous: int = 0) -> None:
    layout = LAYOUTS["visa"]
    lines = ["object,split,label,image,mask"]
    lines += [f"candle,train,normal,{file}," for file in layout.train]
    lines += [f"candle,test,normal,{file}," for file in layout.normal]
    for number, (image, mask) in enumerate(layout.anomalous.items()):
        lines.append(f"candle,{'train' if number < train_anomalous else 'test'},anomaly,{image},{mask}")
    (root / "split_csv").mkdir(exist_ok=True)
    (root / "split_csv" / f"{split}.csv").write_text("\n".join(lines).replace("~", prefix) + "\n", encoding="utf-8")


# --- what every loader promises


@pytest.mark.parametrize("prefix", ["", "größe 日本 "])
@pytest.mark.parametrize("name", NAMES)
def test_layout_is_read(name, prefix, tmp_path):
    root = draw(name, tmp_path / "tree", prefix)
    layout = LAYOUTS[name]
    table = load_samples(name, root)
    found = {}
    for kind, part in {
        "train": select(table, split="train", label=0),
        "normal": select(table, split="test", label=0),
        "anomalous": select(table, split="test", label=1),
    }.items():
        files = [Path(file).relative_to(root).as_posix() for file in part["image"]]
        found[kind] = dict(zip(files, part["mask"], strict=True))
    assert sorted(found["train"]) == sorted(file.replace("~", prefix) for file in layout.train)
    assert sorted(found["normal"]) == sorted(file.replace("~", prefix) for file in layout.normal)
    assert found["anomalous"] == {
        image.replace("~", prefix): str(root / mask.replace("~", prefix)) for image, mask in layout.anomalous.items()
    }
    assert len(table) == sum(map(len, found.values()))
    assert (table.loc[table["label"] == 0, "mask"] == "").all()
    images = ImageSet(table, size=32)
    areas = images.masks().sum((1, 2))
    assert (areas[images.labels == 1] == 16 * 16).all()
    assert images[len(images) - 1]["image"].shape == (3, 32, 32)


@pytest.mark.parametrize("name", NAMES)
def test_a_category_can_be_chosen_and_an_unknown_one_is_refused(name, tmp_path):
    root = draw(name, tmp_path / "tree")
    table = load_samples(name, root)
    for category in set(table["category"]):
        assert len(load_samples(name, root, category)) == (table["category"] == category).sum()
    with pytest.raises(InputError, match="No category 'zzz'"):
        load_samples(name, root, "zzz")


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_folder_says_how_to_get_the_set(name, tmp_path):
    with pytest.raises(InputError) as raised:
        load_samples(name, tmp_path / "nowhere")
    assert f"nowhere does not exist. {facts(name).title}: {facts(name).get}" in str(raised.value)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_folder_or_a_file_is_refused(name, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no (category )?folder"):
        load_samples(name, tmp_path / "empty")
    (tmp_path / "set.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"is no folder|holds no folder"):
        load_samples(name, tmp_path / "set.zip")


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_level_names_the_right_one(name, tmp_path):
    root = draw(name, tmp_path / "tree")
    with pytest.raises(InputError, match="One level deeper") as raised:
        load_samples(name, root.parent)
    assert str(raised.value).endswith(f"give {root}.")
    with pytest.raises(InputError, match=r"It is a category itself: give its parent|One level higher") as raised:
        load_samples(name, root / LAYOUTS[name].too_low)
    assert f" {root}" in str(raised.value).partition("give")[2]


@pytest.mark.parametrize("name", NAMES)
def test_an_image_without_mask_is_named(name, tmp_path):
    root = draw(name, tmp_path / "tree")
    image, mask = next(iter(LAYOUTS[name].anomalous.items()))
    (root / mask.replace("~", "")).unlink()
    with pytest.raises(InputError, match=r"is anomalous but has no mask: expected|does not exist; .* lists it") as e:
        load_samples(name, root)
    assert Path(image.replace("~", "")).stem in str(e.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_without_image_is_named(name, tmp_path):
    root = draw(name, tmp_path / "tree")
    image, mask = next(iter(LAYOUTS[name].anomalous.items()))
    image, mask = root / image.replace("~", ""), root / mask.replace("~", "")
    stray = mask.with_name(mask.name.replace(image.stem, "stray"))
    stray.write_bytes(mask.read_bytes())
    with pytest.raises(InputError, match=rf"{stray.name} is a mask without an image"):
        load_samples(name, root)


def test_masks_of_a_defect_without_any_image_are_named(tmp_path):
    root = draw("mpdd", tmp_path)
    write(root / "tubes" / "ground_truth" / "rust" / "000_mask.png", np.ones((4, 4), np.uint8))
    with pytest.raises(InputError, match=r"rust/000_mask\.png is a mask without an image in .*test/rust"):
        load_samples("mpdd", root)


@pytest.mark.parametrize("name", NAMES)
def test_check_names_truncated_and_empty_files(name, tmp_path):
    root = draw(name, tmp_path / "tree")
    layout = LAYOUTS[name]
    cut, empty, *_ = [root / file.replace("~", "") for file in (*layout.anomalous, *layout.normal)]
    cut.write_bytes(cut.read_bytes()[:60])
    empty.write_bytes(b"")
    problems = check(name, root, progress=False).problems
    assert len(problems) == 2, problems
    assert f"{empty} is empty (0 bytes)." in problems
    assert any(problem.startswith(f"{cut} cannot be decoded") for problem in problems)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", NAMES)
def test_links_in_a_circle_do_no_harm(name, tmp_path):
    root = draw(name, tmp_path / "tree")
    table = load_samples(name, root)
    (root / "loop").symlink_to(root)
    (root / LAYOUTS[name].too_low / "loop").symlink_to(root / LAYOUTS[name].too_low)
    (root / "self").symlink_to("self")
    assert load_samples(name, root).equals(table)
    with pytest.raises(InputError, match="One level deeper"):
        load_samples(name, root.parent)


def test_an_image_that_links_to_itself_is_named(tmp_path):
    for name, folder in (("mpdd", "tubes/test/good"), ("miic", "Anomaly_test/normal_img")):
        file = draw(name, tmp_path / name) / folder / "self.png"
        file.symlink_to(file.name)
    assert [
        f"{tmp_path}/mpdd/tubes/test/good/self.png cannot be read" in problem
        for problem in check("mpdd", tmp_path / "mpdd", progress=False).problems
    ] == [True]
    with pytest.raises(InputError, match=r"normal_img/self\.png cannot be read"):  # its content is compared at once
        load_samples("miic", tmp_path / "miic")


def test_hidden_files_of_a_mac_are_no_images(tmp_path):
    root = draw("mpdd", tmp_path)
    before = load_samples("mpdd", root)
    for folder in ("train/good", "test/bend", "ground_truth/bend"):
        (root / "tubes" / folder / "._0.png").write_bytes(b"\0")
    assert load_samples("mpdd", root).equals(before)


# --- published counts


@pytest.mark.parametrize(
    ("name", "totals"),
    [
        ("isp_ad", [4579, 3768, 265]),
        ("miic", [23888, 1272, 116]),
        ("three_cad", [10493, 5084, 11462]),
        ("visa", [8659, 962, 1200]),
        ("btad", [1799, 451, 290]),
        ("mpdd", [888, 176, 282]),
        ("ksdd2", [2085, 894, 110]),
    ],
)
def test_published_totals(name, totals):
    assert facts(name).count_table().sum().tolist() == totals


def test_miic_trains_on_all_normal_images_but_those_of_the_test():
    train, normal, anomalous = facts("miic").counts["MIIC"]
    assert train + normal == 25160
    assert anomalous == 116


# --- what is particular to one


def test_three_cad_knows_both_names_of_a_class(tmp_path):
    root = draw("three_cad", tmp_path)
    table = load_samples("three_cad", root)
    assert set(table["category"]) == {"CS"}
    assert load_samples("three_cad", root, "CS").equals(table)
    assert load_samples("three_cad", root, "Copper_Stator").equals(table)
    for category in ("CS", "Copper_Stator"):
        assert check("three_cad", root, category, progress=False).counts.loc["CS", "published"] == "409 / 196 / 763"
    (root / "Copper_Stator").rename(root / "CS")
    assert set(load_samples("three_cad", root)["category"]) == {"CS"}
    draw("three_cad", root)
    with pytest.raises(InputError, match="are both the category CS"):
        load_samples("three_cad", root)


def test_isp_ad_modality_is_category_and_group_however_its_folder_is_spelled(tmp_path):
    root = draw("isp_ad", tmp_path)
    (root / "LSM-1").rename(root / "lsm_1 unsupervised")
    table = load_samples("isp_ad", root)
    assert set(table["category"]) == {"LSM-1", "ASM"}
    assert table["group"].equals(table["category"])
    assert set(table["defect"]) == {"good", "points", "area"}


def test_texture_ad_trains_on_all_sub_classes_and_tests_on_others(tmp_path):
    root = draw("texture_ad", tmp_path)
    write(root / "cloth" / "c" / "test" / "good" / "0.png", np.zeros((8, 8), np.uint8))
    write(root / "cloth" / "d" / "train" / "good" / "0.png", np.zeros((8, 8), np.uint8))
    (root / "wafer").rename(root / "Wafer")
    table = load_samples("texture_ad", root)
    assert count(table).loc["cloth"].tolist() == [3, 3, 2]
    assert set(select(table, split="train", category="cloth")["group"]) == {"a", "d"}
    assert len(select(table, split="test", group="c")) == 1
    assert set(table["category"]) == {"cloth", "wafer"}

    write(root / "metal_plate" / "red" / "test" / "good" / "0.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(InputError, match="metal_plate holds no sub-class with train/good"):
        load_samples("texture_ad", root, "metal")


def test_btad_refuses_two_masks_of_one_name(tmp_path):
    root = draw("btad", tmp_path)
    write(root / "01" / "ground_truth" / "ko" / "0.bmp", np.ones((32, 32), np.uint8))
    with pytest.raises(InputError, match="have the same name but for the suffix"):
        load_samples("btad", root)


def test_ksdd2_leaves_out_anomalous_training_images_and_the_stray_copies(tmp_path):
    root = draw("ksdd2", tmp_path)
    assert anomalous_in_train(root) == [str(root / "train" / "10003.png")]
    before = load_samples("ksdd2", root)
    for name in ("10001", "10001_GT"):
        (root / "train" / f"{name} (copy).png").write_bytes((root / "train" / f"{name}.png").read_bytes())
    assert load_samples("ksdd2", root).equals(before)
    (root / "test" / "20001_GT.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"20001_GT\.png is empty"):
        load_samples("ksdd2", root)


@pytest.mark.parametrize("named", [True, False])
def test_miic_never_trains_on_what_it_tests(named, tmp_path):
    root = draw("miic", tmp_path)
    train, test = root / "Anomaly_train", root / "Anomaly_test"
    if not named:
        for file in list(train.iterdir()):
            file.rename(train / file.name.replace("train_normal_", "x"))
    for number, kind in enumerate(["normal_img/3", "abnormal_img/1", "abnormal_img/10"]):
        name = f"train_normal_9{number}.jpg" if named and number < 2 else f"y{number}.jpg"
        (train / name).write_bytes((test / f"{kind}.jpg").read_bytes())
    table = load_samples("miic", root)
    assert count(table).loc["MIIC"].tolist() == [2, 1, 3]
    assert check("miic", root, progress=False).problems == []
    for row in select(table, label=1).itertuples():  # by order, 10 would get the mask of 1
        assert Path(row.mask).name == f"{Path(row.image).stem}_mask.jpg"


def test_miic_without_images_of_its_own_to_train_on_is_refused(tmp_path):
    root = draw("miic", tmp_path)
    for file in (root / "Anomaly_train").iterdir():
        file.write_bytes((root / "Anomaly_test" / "normal_img" / "3.jpg").read_bytes())
    with pytest.raises(InputError, match="Anomaly_train holds no image that is not also in"):
        load_samples("miic", root)


def test_visa_splits(tmp_path):
    root = draw("visa", tmp_path)
    write_visa_split(root, split="2cls_fewshot", train_anomalous=1)
    assert load_samples("visa", root)["split"].value_counts().to_dict() == {"test": 3, "train": 2}
    few = visa_samples(root, "candle", split="2cls_fewshot")
    assert select(few, split="train")["label"].sum() == 1
    with pytest.raises(InputError, match="there are the splits 1cls, 2cls_fewshot"):
        visa_samples(root, split="3cls")


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("object,split", "class,split", "has no column object"),
        (",anomaly,", ",broken,", "'broken', neither normal nor anomaly"),
        ("Normal/1.JPG", "Normal/7.JPG", r"Normal/7\.JPG does not exist; .* lists it"),
        (",candle/Data/Masks/Anomaly/1.png", ",", r"Anomaly/1\.JPG is anomalous but has no mask in"),
    ],
)
def test_visa_csv_mistakes(tmp_path, before, after, sentence):
    root = draw("visa", tmp_path)
    file = root / "split_csv" / "1cls.csv"
    file.write_text(file.read_text().replace(before, after))
    with pytest.raises(InputError, match=sentence):
        load_samples("visa", root)


# --- HDF5


@pytest.fixture
def supervised(tmp_path) -> Path:
    """A folder with one file: four grey patches, of which 1 and 3 have a synthetic defect."""
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "LSM-2_train.h5", "w") as file:
        file["syn_stream"] = rng.integers(0, 256, (4, 16, 16)).astype(np.uint8)
        masks = np.zeros((4, 16, 16, 1), np.uint8)
        masks[1, 2:4, 2:4] = masks[3, 0, 0] = 255
        file["ground_truth"] = masks
        file["more/labels"] = np.array([[0], [1], [1], [0]])
        file["colour"] = rng.integers(0, 256, (2, 16, 8, 3)).astype(np.uint8)
        file["short"] = np.zeros((3, 16, 16), np.uint8)
        file["words"] = np.array([b"good", b"bad", b"good", b"bad"])
    return tmp_path


def test_supervised_samples_take_labels_from_the_masks(supervised):
    table = supervised_samples(supervised)
    path = supervised / "LSM-2_train.h5"
    assert table["image"].tolist() == [f"{path}::syn_stream::{index}" for index in range(4)]
    assert table["label"].tolist() == [0, 1, 0, 1]
    assert table["mask"].tolist() == ["", f"{path}::ground_truth::1", "", f"{path}::ground_truth::3"]
    assert set(table["split"]) == {"train"}
    assert set(table["category"]) == set(table["group"]) == {"LSM-2"}
    item = ImageSet(table, size=16)[1]
    assert item["mask"].sum() == 4
    with h5py.File(path) as file:
        assert (item["image"][0].numpy() * 255).round().astype(np.uint8).tolist() == file["syn_stream"][1].tolist()


@pytest.mark.parametrize(("value", "sentence"), [(-1, "holds negative values"), (np.nan, "are no numbers")])
def test_a_patch_whose_mask_is_neither_empty_nor_readable_is_no_normal_one(supervised, value, sentence):
    """255 that was kept in eight bits with a sign is -1: such defects had been taught as normal patches."""
    with h5py.File(supervised / "LSM-2_train.h5", "a") as file:
        masks = file["ground_truth"][()].astype(np.float32)
        masks[masks > 0] = value
        file["signed"] = masks.astype(np.float32 if np.isnan(value) else np.int8)
    table = supervised_samples(supervised, masks_key="signed")
    assert table["label"].tolist() == [0, 1, 0, 1]
    with pytest.raises(InputError, match=sentence):
        ImageSet(table, size=16).masks()


def test_supervised_samples_take_labels_from_a_dataset(supervised):
    table = supervised_samples(supervised, labels_key="more/labels", category="ASM")
    assert table["label"].tolist() == [0, 1, 1, 0]
    assert set(table["category"]) == {"ASM"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"images_key": "images"}, r"has no dataset 'images'; it holds .*syn_stream \[4, 16, 16\] uint8"),
        ({"labels_key": "more"}, r"has no dataset 'more'; it holds .*more/labels \[4, 1\] int64"),
        ({"masks_key": "short"}, "differ in length: syn_stream 4, short 3"),
        ({"labels_key": "syn_stream"}, r"has shape \[4, 16, 16\]; labels are \[N\]"),
        ({"labels_key": "words"}, "labels_key='words' holds no numbers"),
        ({"file": "other.h5"}, r"other\.h5 does not exist"),
    ],
)
def test_supervised_mistakes(supervised, arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        supervised_samples(supervised, **arguments)


def test_supervised_files_are_found_or_must_be_named(supervised, tmp_path_factory):
    (supervised / "LSM-2_train.h5").rename(supervised / "a.h5")
    with pytest.raises(InputError, match="names no modality"):
        supervised_samples(supervised)
    (supervised / "sub").mkdir()
    (supervised / "a.h5").rename(supervised / "sub" / "a.hdf5")
    assert len(supervised_samples(supervised, category="ASM")) == 4
    (supervised / "b.h5").touch()
    with pytest.raises(InputError, match=r"not hold one HDF5 file but b\.h5, sub/a\.hdf5: name it"):
        supervised_samples(supervised)
    with pytest.raises(InputError, match="not hold one HDF5 file but none"):
        supervised_samples(tmp_path_factory.mktemp("empty"))
    with pytest.raises(InputError, match="cannot be opened as an HDF5 file"):
        supervised_samples(supervised, "b.h5", category="ASM")


def test_hdf5_pictures_are_read_like_files(supervised):
    file = supervised / "LSM-2_train.h5"
    assert read_image(f"{file}::colour::1").shape == (16, 8, 3)
    assert image_shape(f"{file}::colour::1") == (16, 8)
    with h5py.File(file) as opened:
        assert (read_image(f"{file}::colour::1") == opened["colour"][1]).all()  # RGB stays RGB
    assert read_mask(f"{file}::ground_truth::3", (16, 16)).sum() == 1
    with h5py.File(file, "a") as opened:
        opened["channels_first"] = np.arange(2 * 3 * 5 * 7, dtype=np.uint8).reshape(2, 3, 5, 7)
        opened["bool"] = np.eye(4, dtype=bool)[None]
        opened["float"] = np.full((1, 4, 4), 2, np.float32)
    assert image_shape(f"{file}::channels_first::0") == read_image(f"{file}::channels_first::0").shape[:2] == (5, 7)
    assert read_mask(f"{file}::bool::0", (4, 4)).sum() == 4
    with pytest.raises(InputError, match="holds float32 values from 2 to 2"):
        read_image(f"{file}::float::0")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nowhere.h5::syn_stream::0", r"nowhere\.h5 does not exist"),
        ("LSM-2_train.h5::images::0", r"has no dataset 'images'; it holds .*colour \[2, 16, 8, 3\] uint8"),
        ("LSM-2_train.h5::syn_stream::4", "holds 4 pictures, counted from 0"),
        ("LSM-2_train.h5::syn_stream::-1", "expected file.h5::dataset::index"),
        ("LSM-2_train.h5::syn_stream", "expected file.h5::dataset::index"),
        ("LSM-2_train.h5::more/labels::0", r"has shape \[4, 1\]; pictures are"),
    ],
)
def test_a_wrong_name_of_an_hdf5_picture_gets_its_sentence(supervised, name, sentence):
    for read in (read_image, image_shape, lambda path: read_mask(path, (16, 16))):
        with pytest.raises(InputError, match=sentence):
            read(supervised / name)


def test_without_h5py_the_message_says_so(supervised, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match="h5py is not installed: pip install h5py"):
        read_image(f"{supervised}/LSM-2_train.h5::syn_stream::0")


def test_real_defects_are_anomalous_training_samples_without_masks(tmp_path):
    for file in ("area/a.png", "points/größe 1.png", "points/b.png"):
        write(tmp_path / file, np.zeros((8, 8), np.uint8))
    table = real_defects(tmp_path, "LSM-1")
    assert table["defect"].tolist() == ["area", "points", "points"]
    assert (table["label"] == 1).all()
    assert set(table["split"]) == {"train"}
    assert set(table["mask"]) == {""}
    with pytest.raises(InputError, match="nowhere does not exist"):
        real_defects(tmp_path / "nowhere", "LSM-1")
