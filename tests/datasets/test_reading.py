"""What is data and what is not, whose mask is whose, lists of any encoding, folders without layout, and the check."""

import shutil

import cv2
import numpy as np
import pytest
from conftest import make_tree, write

from adlib import InputError, load_samples
from adlib.datasets import left_out
from adlib.datasets.check import check
from adlib.inspector import joined
from adlib.runs import Run
from adlib.runs.settings import parse_settings
from adlib.samples import count, select, torn_items


@pytest.fixture
def thing(tree):
    return tree / "thing"


def classes(root, **options):
    table = load_samples("folder", root, **options)
    return table.groupby(["split", "defect"]).size().to_dict()


USUAL = {("train", "good"): 6, ("test", "good"): 4, ("test", "square"): 4}
STRAY = [".ipynb_checkpoints", "@eaDir", "__MACOSX", "Thumbnails", ".hidden", "$RECYCLE.BIN"]


@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize("place", ["", "train", "test", "test/square", "ground_truth", "ground_truth/square"])
@pytest.mark.parametrize("name", STRAY)
def test_what_systems_and_tools_leave_is_never_data(thing, name, place, filled):
    (thing / place / name).mkdir()
    if filled:
        shutil.copy(thing / "test" / "good" / "000.png", thing / place / name / "000.png")
    assert classes(thing) == USUAL
    assert left_out("folder", thing, load_samples("folder", thing)) == []


@pytest.mark.parametrize("name", ["._000.png", ".000.png", "Thumbs.db", "desktop.ini", "~$000.png"])
def test_hidden_files_are_never_data(thing, name):
    for place in ("train/good", "test/square", "ground_truth/square"):
        (thing / place / name).write_bytes(b"no picture")
    assert classes(thing) == USUAL


def test_a_hidden_copy_of_a_category_is_no_category(tree):
    shutil.copytree(tree / "thing", tree / ".thing_backup")
    assert set(load_samples("folder", tree)["category"]) == {"thing"}


def test_pictures_that_are_no_samples_are_told_by_the_check_and_by_the_run(thing):
    first = thing / "train" / "good" / "000.png"
    (first.parent / "cam2").mkdir()
    for copy in (first.parent / "cam2" / "a.png", thing / "train" / "b.png", first.parent / "c.jfif", thing / "d.png"):
        shutil.copy(first, copy)
    remarks = "\n".join(check("folder", thing, progress=False).remarks)
    warnings = "\n".join(Run("folder", str(thing), "patchcore", "", {"weights": "random"}).warnings)
    for name in ("cam2/a.png is not where", "train/b.png is not where", "c.jfif has another suffix", "d.png is not"):
        assert name in remarks
    assert "cam2/a.png" not in warnings
    assert "train/b.png is not where images are looked for" in warnings
    assert "1 more folders hold pictures" in warnings


def test_a_class_folder_with_deeper_images_alone_says_where_they_are(thing):
    (thing / "test" / "square").rename(thing / "test" / "cam1")
    (thing / "test" / "square").mkdir()
    (thing / "test" / "cam1").rename(thing / "test" / "square" / "cam1")
    with pytest.raises(InputError, match=r"square holds no image .* There are some deeper, in .*cam1"):
        load_samples("folder", thing)


@pytest.mark.parametrize("name", ["GOOD", "Ok", "normal"])
def test_what_is_normal_is_told_by_name_whatever_its_case(thing, name):
    for split in ("train", "test"):
        (thing / split / "good").rename(thing / split / name)
    assert classes(thing) == USUAL


def test_names_of_normal_folders_can_be_given(thing):
    for split in ("train", "test"):
        (thing / split / "good").rename(thing / split / "i.O.")
    with pytest.raises(InputError, match="not named good or ok or normal"):
        load_samples("folder", thing)
    assert classes(thing, normal_names=["I.o.", "gut"]) == USUAL
    settings = {"weights": "random", "normal_names": "gut,i.o."}
    assert len(select(Run("folder", str(thing), "patchcore", "", settings).samples, label=0)) == 10
    with pytest.raises(InputError, match="normal_names is for the dataset 'folder' alone"):
        load_samples("mvtec_ad", thing.parent, normal_names=["i.O."])
    with pytest.raises(InputError, match="normal_name is no option"):
        load_samples("folder", thing, normal_name="i.O.")


@pytest.mark.parametrize("option", ["normal_names", "unknown_names"])
def test_names_of_folders_are_refused_where_something_else_says_what_images_are(thing, option):
    lines = ["image,split,label", "train/good/000.png,train,0", "test/square/000.png,test,1"]
    (thing / "list.csv").write_text("\n".join(lines))
    with pytest.raises(InputError, match=f"{option} is of a tree's folders; here the list says"):
        load_samples("folder", thing / "list.csv", **{option: "square"})
    two = {"normal": "train", "abnormal": "test/square"}
    assert set(load_samples("folder", thing, **two)["label"]) == {0, 1}
    with pytest.raises(InputError, match=f"{option} is of a tree's folders; here normal and abnormal say"):
        load_samples("folder", thing, **two, **{option: "square"})


@pytest.mark.parametrize("name", ["0", "1", "01", "yes", "no"])
def test_a_folder_may_be_called_as_a_number_or_as_yes(thing, name):
    for split in ("train", "test"):
        (thing / split / "good").rename(thing / split / name)
    assert classes(thing, **parse_settings([f"normal_names={name}"])) == USUAL
    (thing / "test" / "square").rename(thing / "test" / "3")
    shutil.rmtree(thing / "ground_truth")
    named = {"normal_names": [name], "unknown_names": 3}
    assert set(load_samples("folder", thing, **named)["label"]) == {0, -1}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"normal_names": True}, "normal_names=True: True is no name of a folder"),
        ({"unknown_names": ["a", None]}, r"unknown_names=\['a', None\]: None is no name of a folder"),
        ({"items": 7}, "items=7 must be a text"),
        ({"items": False}, "items=False must be a text"),
        ({"normal": 5, "abnormal": 6}, "normal=5 must be the path of a folder"),
        ({"mask_rule": ["half"]}, r"mask_rule=\['half'\] must be one of"),
    ],
)
def test_options_of_another_kind_are_named(thing, options, sentence):
    with pytest.raises(InputError, match=sentence):
        load_samples("folder", thing, **options)


def test_a_file_may_have_colons_in_its_name(thing):
    (thing / "train" / "good" / "000.png").rename(thing / "train" / "good" / "12::30.png")
    run = Run("folder", str(thing), "patchcore", "", {"weights": "random"})
    assert run.samples["image"].str.contains("::").sum() == 1
    before = run.fingerprint
    write(thing / "train" / "good" / "12::30.png", np.full((64, 64), 7, np.uint8))
    assert Run("folder", str(thing), "patchcore", "", {"weights": "random"}).fingerprint != before
    assert joined._move("/gone/thing/train/good/12::30.png", thing) == ("/gone/thing/", f"{thing}/")


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"size": 0}, r"size=0 must be a whole number in \[1, 32768\]"),
        ({"size": -5}, "size=-5 must be a whole number"),
        ({"size": 999999}, "size=999999 must be a whole number"),
        ({"size": 64, "crop": 0}, "crop=0 must be a whole number"),
        ({"size": 64, "crop": 128}, "crop=128 is larger than size=64"),
        ({"crop": 16}, "crop=16 is cut out of images of a size: give size too"),
    ],
)
def test_a_size_that_cannot_be_checked_is_refused(thing, asked, sentence):
    with pytest.raises(InputError, match=sentence):
        check("folder", thing, progress=False, **asked)


# --- whose mask is whose


def test_masks_are_matched_over_validation_and_test_together(thing):
    (thing / "val" / "square").mkdir(parents=True)
    (thing / "test" / "square" / "003.png").rename(thing / "val" / "square" / "003.png")
    table = load_samples("folder", thing)
    assert select(table, split="val")["mask"].str.endswith("003_mask.png").tolist() == [True]
    assert select(table, label=1)["mask"].nunique() == 4


def test_two_images_never_share_a_mask(thing):
    (thing / "val" / "square").mkdir(parents=True)
    shutil.copy(thing / "test" / "square" / "003.png", thing / "val" / "square" / "003.png")
    with pytest.raises(InputError, match=r"val/square/003\.png and .*test/square/003\.png would share the mask"):
        load_samples("folder", thing)
    own = thing / "ground_truth" / "val" / "square"
    own.mkdir(parents=True)
    shutil.copy(thing / "ground_truth" / "square" / "003_mask.png", own / "003_mask.png")
    table = load_samples("folder", thing)
    assert select(table, split="val")["mask"].iat[0] == str(own / "003_mask.png")
    assert select(table, label=1)["mask"].nunique() == 5


def test_an_image_named_like_anothers_mask_is_refused(thing):
    shutil.copy(thing / "test" / "square" / "000.png", thing / "test" / "square" / "000_mask.png")
    with pytest.raises(InputError, match="would share the mask"):
        load_samples("folder", thing)


# --- lists

LIST = "image,label,split\ntrain/good/000.png,0,train\ntest/höle/000.png,1,test\n"


@pytest.fixture
def listed(thing):
    (thing / "test" / "square").rename(thing / "test" / "höle")
    return thing / "list.csv"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "latin-1"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_list_of_any_encoding_and_separator_is_read(listed, encoding, separator):
    listed.write_bytes(LIST.replace(",", separator).replace("\n", "\r\n").encode(encoding))
    assert select(load_samples("folder", listed), label=1)["image"].tolist() == [
        str(listed.parent / "test" / "höle" / "000.png")
    ]


@pytest.mark.parametrize(
    "text",
    [
        LIST.replace("image,label,split", "Image, LABEL ,Split"),
        LIST.replace("/", "\\"),
        LIST.replace("\n", ",,\n"),
        LIST.replace("train\n", "Train\n").replace("test\n", "TEST\n"),
        "\n" + LIST + ",,\n\n",
        LIST.replace("test/höle/000.png", '"test/höle/000.png"'),
        LIST.replace("\n", "\r"),
        LIST.replace("split\n", "split,defect\n").replace("test\n", f"test,{'x' * 200_000}\n"),
        LIST.replace("ö", "o\u0308"),
    ],
    ids=[
        "capitals",
        "backslashes",
        "empty columns",
        "splits",
        "empty lines",
        "quotes",
        "old Mac",
        "long",
        "decomposed",
    ],
)
def test_what_spreadsheets_add_to_a_list_does_no_harm(listed, text):
    listed.write_text(text, encoding="utf-8")
    assert len(load_samples("folder", listed)) == 2


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"  \r\n", "is empty"),
        (b"image,label,split\n", "No images found"),
        (b"file,label,split\nx.png,0,train\n", "unknown columns file"),
        (b"image,label\nx.png,0\n", "has no column split; it has image, label"),
        (b"image,image,split\nx.png,y.png,train\n", "names the column image twice"),
        (b",,\n,\n", "is empty"),
        (b"image,label,split\n,0,train\n", "list.csv names no image in line 2: fill in the path"),
        (b'image,label,split\r\r"a\n\nb",0,train\r ,0,test\r', "list.csv names no image in line 6"),
        (b"image,split\nx.png,train,more\n", "more cells in line 2 than names of columns"),
        (b"\xff\xfe\x00", "cannot be read as utf-16"),
        (b"PK\x03\x04\x00image\x00\x01,split", "is no text|unknown columns"),
    ],
)
def test_a_list_that_cannot_be_read_is_one_sentence(listed, content, sentence):
    listed.write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        load_samples("folder", listed)


@pytest.mark.parametrize("again", ["train/good/000.png", "./train/good/000.png", "test/../train/good/000.png"])
def test_an_image_that_is_listed_under_two_paths_is_listed_twice(listed, again):
    listed.write_text(f"{LIST}{again},0,test\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"000\.png is listed twice"):
        load_samples("folder", listed)


def test_a_list_may_not_give_one_mask_to_two_images_unless_they_show_one_item(listed):
    mask = "ground_truth/square/000_mask.png"
    rows = "".join(f"test/höle/00{n}.png,1,test,{mask},{{}}\n" for n in range(2))
    listed.write_text("image,label,split,mask,item\n" + rows.format("a", "b"), encoding="utf-8")
    with pytest.raises(InputError, match="share the mask"):
        load_samples("folder", listed)
    listed.write_text("image,label,split,mask,item\n" + rows.format("a", "a"), encoding="utf-8")
    assert load_samples("folder", listed)["item"].tolist() == ["a", "a"]


# --- folders without layout


@pytest.fixture
def two(tmp_path, thing):
    shutil.copytree(thing / "train" / "good", tmp_path / "two" / "fine")
    shutil.copytree(thing / "test" / "square", tmp_path / "two" / "broken" / "square")
    shutil.copytree(thing / "ground_truth", tmp_path / "two" / "truth")
    return tmp_path / "two"


def test_two_folders_of_no_layout_are_read(two):
    table = load_samples("folder", two, normal="fine", abnormal=two / "broken")
    assert table.groupby(["split", "label"]).size().to_dict() == {("test", 0): 2, ("test", 1): 4, ("train", 0): 4}
    assert set(table["defect"]) == {"good", "square"}
    assert set(table["category"]) == {"two"}
    assert table.equals(load_samples("folder", two, normal="fine", abnormal="broken"))
    masked = load_samples("folder", two, normal="fine", abnormal="broken", masks="truth")
    assert (masked.loc[masked["label"] == 1, "mask"] != "").all()
    with pytest.raises(InputError, match="would be its own mask"):
        load_samples("folder", two, normal="fine", abnormal="broken", masks="broken")
    shutil.copytree(two.parent / "tree" / "thing" / "test" / "good", two / "fine, for test")
    tested = load_samples("folder", two, normal="fine", abnormal="broken", normal_test="fine, for test")
    assert tested.groupby(["split", "label"]).size().to_dict() == {("test", 0): 4, ("test", 1): 4, ("train", 0): 6}
    settings = {"weights": "random", "normal": str(two / "fine"), "abnormal": str(two / "broken"), "masks": "truth"}
    assert Run("folder", str(two), "patchcore", "", settings).samples.equals(masked)


def test_masks_that_lie_in_one_of_two_folders_are_no_images(two):
    (two / "truth").rename(two / "broken" / "masks")
    table = load_samples("folder", two, normal="fine", abnormal="broken", masks="broken/masks")
    assert (table["label"].sum(), set(table["defect"])) == (4, {"good", "square"})
    for folders in ({"normal": "fine", "abnormal": "broken"}, {"normal": "broken", "abnormal": "fine"}):
        with pytest.raises(InputError, match=r"masks is called as folders of masks are, .*: name it by masks=DIR"):
            load_samples("folder", two, **folders)


def test_masks_beside_the_images_of_two_folders_are_no_images(two):
    shutil.copy(two / "truth" / "square" / "000_mask.png", two / "broken" / "square")
    with pytest.raises(InputError, match=r"000_mask\.png is called as the mask of 000\.png beside it"):
        load_samples("folder", two, normal="fine", abnormal="broken")


def test_two_folders_keep_the_images_of_an_item_on_one_side(two):
    for number, file in enumerate(sorted((two / "fine").iterdir())):
        file.rename(file.with_name(f"part{number // 2}_shot{number % 2}.png"))
    table = load_samples("folder", two, normal="fine", abnormal="broken", items=r"(part\d+)_")
    assert torn_items(table) == []
    assert select(table, split="test", label=0)["item"].nunique() == 1
    assert set(table["item"]) == {"part0", "part1", "part2", ""}
    for wrong, sentence in (("(", "is no regular expression"), ("lot", "matches no file's name")):
        with pytest.raises(InputError, match=sentence):
            load_samples("folder", two, normal="fine", abnormal="broken", items=wrong)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"normal": "fine"}, "belong together"),
        ({"normal": "fine", "abnormal": "nowhere"}, "nowhere is no folder"),
        ({"normal": "fine", "abnormal": "truth/square", "masks": "fine"}, "is anomalous but has no mask"),
        ({"masks": "truth"}, "go with normal and abnormal"),
    ],
)
def test_two_folders_that_do_not_fit_are_one_sentence(two, options, sentence):
    with pytest.raises(InputError, match=sentence):
        load_samples("folder", two, **options)


# --- the check


def test_the_check_lists_masks_that_are_not_plain_and_what_was_made_of_them(thing):
    files = sorted((thing / "ground_truth" / "square").iterdir())
    masks = [cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in files]
    cv2.imwrite(str(files[0]), cv2.GaussianBlur(masks[0], (3, 3), 0))
    cv2.imwrite(str(files[1]), masks[1] // 255 * 3 + np.eye(64, dtype=np.uint8))
    cv2.imwrite(str(files[2]), np.pad(np.full((54, 54), 255, np.uint8), 5))
    cv2.imwrite(str(files[3]), 255 - masks[3])
    found = check("folder", thing, progress=False)
    remarks = "\n".join(found.remarks)
    assert "000_mask.png has values between" in remarks
    assert "above 127.5 is foreground" in remarks
    assert "001_mask.png has class numbers" in remarks
    assert "002_mask.png covers 71% of its image" in remarks
    assert len(found.problems) == 1
    assert "003_mask.png is not 0 on 98% of its pixels" in found.problems[0]
    assert not [text for text in check("folder", thing, progress=False, mask_rule="dark").problems if "003" in text]


def test_the_check_says_beforehand_what_a_size_takes_away(tmp_path):
    root = make_tree(tmp_path / "tree", size=256)
    for number, file in enumerate(sorted((root / "thing" / "ground_truth" / "square").iterdir())):
        mask = np.zeros((256, 256), np.uint8)
        mask[8 + number, 9 : 11 + number] = 255
        write(file, mask)
    remarks = check("folder", root, progress=False, size=64).remarks
    assert any("At 64x64, with mask_resize=area: 0 of 4 defect regions" in text for text in remarks)
    nearest = next(text for text in remarks if "mask_resize=nearest" in text)
    assert " 3 of 4 defect regions have no ground truth left" in nearest
    cropped = check("folder", root, progress=False, size=64, crop=32).remarks
    assert any("At 64x64, cropped to 32x32, with mask_resize=area: 4 of 4 defect" in text for text in cropped)
    with pytest.raises(InputError, match="crop=65 is larger"):
        check("folder", root, progress=False, size=64, crop=65)


def test_an_item_in_training_and_test_is_a_problem(thing):
    problems = check("folder", thing, progress=False, items=r"\d+").problems
    assert any("4 items have images in training and in another split, such as 000" in text for text in problems)


@pytest.mark.parametrize("name", ["unsorted", "Unknown", "un-labelled", "To Review", "to_check"])
def test_images_in_a_folder_of_unknown_ones_are_neither_normal_nor_anomalous_and_need_no_mask(thing, name):
    (thing / "test" / name).mkdir()
    shutil.copy(thing / "train" / "good" / "000.png", thing / "test" / name / "new.png")
    table = load_samples("folder", thing)
    assert table.loc[table["defect"] == name, "label"].tolist() == [-1]
    assert count(table)["test_unknown"].tolist() == [1]
    assert count(table)["test_anomalous"].tolist() == [4]
    assert any(
        "label of 1 test images is unknown" in remark for remark in check("folder", thing, progress=False).remarks
    )


def test_a_folder_of_unknown_images_may_be_empty_when_all_is_sorted(thing):
    (thing / "test" / "unsorted").mkdir()
    assert classes(thing) == USUAL


def test_which_folders_are_of_unknown_images_can_be_said(thing):
    (thing / "test" / "square").rename(thing / "test" / "neu")
    shutil.rmtree(thing / "ground_truth")
    assert set(load_samples("folder", thing)["label"]) == {0, 1}
    assert set(load_samples("folder", thing, unknown_names="neu, alt")["label"]) == {0, -1}


def test_a_folder_of_unknown_images_must_not_be_learnt_from(thing):
    (thing / "train" / "unsorted").mkdir()
    shutil.copy(thing / "train" / "good" / "000.png", thing / "train" / "unsorted" / "new.png")
    with pytest.raises(InputError, match="training images must be normal"):
        load_samples("folder", thing)


def test_a_list_can_say_that_a_label_is_unknown(tmp_path):
    for name in ("a", "b", "c"):
        write(tmp_path / f"{name}.png", np.zeros((8, 8), np.uint8))
    (tmp_path / "list.csv").write_text("image,split,label\na.png,train,0\nb.png,test,Unknown\nc.png,test,-1\n")
    table = load_samples("folder", tmp_path / "list.csv")
    assert table.set_index("split")["label"].to_dict() == {"train": 0, "test": -1}
    (tmp_path / "list.csv").write_text("image,split,label\na.png,train,unknown\n")
    with pytest.raises(InputError, match="not known to be normal or not"):
        load_samples("folder", tmp_path / "list.csv")
