"""The samples table: columns, labels, counts, identity."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from adlib import InputError, load_samples
from adlib.samples import (
    COLUMNS,
    count,
    count_items,
    draw_share,
    fingerprint,
    is_picture,
    items,
    make_samples,
    phantom_facts,
    phantom_warning,
    select,
    torn_items,
)


def test_defaults_are_filled_and_labels_checked():
    table = make_samples([{"image": "b.png", "label": 1}, {"image": "a.png"}], "here")
    assert list(table.columns) == COLUMNS
    assert table["image"].tolist() == ["a.png", "b.png"]
    assert table["defect"].tolist() == ["good", "anomalous"]
    assert table["label"].dtype == "int8"


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"image": "a.png", "label": 2}, "a.png has a label that is neither 0"),
        ({"image": "a.png", "split": "holdout"}, "a.png has a split that is none of train, val, test"),
        ({"image": "a.png", "label": 1, "defect": "good"}, "a.png is labelled 1 but named good"),
    ],
)
def test_a_wrong_row_is_named(row, sentence):
    with pytest.raises(InputError, match=sentence):
        make_samples([row], "here")


def test_no_rows_and_double_images_are_refused():
    with pytest.raises(InputError, match="No images found in here"):
        make_samples([], "here")
    with pytest.raises(InputError, match=r"a\.png is listed twice"):
        make_samples([{"image": "a.png"}, {"image": "a.png"}], "here")


def test_counts_per_category(tree):
    table = count(load_samples("folder", tree))
    assert table.loc["thing"].to_dict() == {"train": 6, "test_normal": 4, "test_anomalous": 4}


def test_fingerprint_ignores_the_place_and_sees_the_content(tree, tmp_path):
    before = fingerprint(load_samples("folder", tree))
    moved = shutil.copytree(tree, tmp_path / "elsewhere")
    assert fingerprint(load_samples("folder", moved)) == before

    image = moved / "thing" / "train" / "good" / "000.png"
    shutil.copyfile(moved / "thing" / "train" / "good" / "001.png", image)
    assert fingerprint(load_samples("folder", moved)) != before


def test_fingerprint_of_pictures_in_an_hdf5_file(tmp_path):
    import h5py

    for name, number in (("a", 3), ("b", 4)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["pictures"] = np.zeros((number, 8, 8), np.uint8)
    rows = [{"image": f"{tmp_path}/a.h5::pictures::{index}"} for index in range(3)]
    samples = make_samples(rows, tmp_path)
    assert fingerprint(samples) == fingerprint(make_samples(rows, tmp_path))
    assert fingerprint(samples) != fingerprint(make_samples(rows[:2], tmp_path))
    assert fingerprint(samples) != fingerprint(samples.assign(image=samples["image"].str.replace("a.h5", "b.h5")))


def test_fingerprint_sees_a_changed_label(tree):
    samples = load_samples("folder", tree)
    changed = samples.assign(label=1 - samples["label"])
    assert fingerprint(changed) != fingerprint(samples)


def test_phantom_is_known_by_its_marker_whatever_happens_to_the_table(tree):
    samples = load_samples("folder", tree)
    assert phantom_facts(samples) is None
    assert phantom_warning(samples, "folder") == ""
    (tree / "PHANTOM.json").write_text(json.dumps({"seed": 7}))
    copied = pd.DataFrame(select(samples, split="test").to_dict("records"))
    assert phantom_facts(copied) == {"seed": 7, "state": "complete"}
    assert "seed 7" in phantom_warning(copied, "folder")


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
@pytest.mark.parametrize("what", ["image", "mask"])
def test_fingerprint_sees_a_pixel_that_is_edited_in_place(what, suffix, tree):
    samples = load_samples("folder", tree)
    row = samples.index[samples["mask"] != ""][0]
    original = Path(samples.at[row, what])
    pixels = cv2.imread(str(original), cv2.IMREAD_UNCHANGED)
    file = original.with_name(f"edited.{suffix}")
    cv2.imwrite(str(file), pixels)
    samples.at[row, what] = str(file)
    before, size = fingerprint(samples), file.stat().st_size
    pixels[5, 5] ^= 1
    cv2.imwrite(str(file), pixels)
    if suffix == "bmp":
        assert file.stat().st_size == size
    assert fingerprint(samples) != before


def test_fingerprint_sees_values_changed_inside_an_hdf5_file(tmp_path):
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["pictures"] = np.zeros((3, 8, 8), np.uint8)
    samples = make_samples([{"image": f"{tmp_path}/a.h5::pictures::{index}"} for index in range(3)], tmp_path)
    before = fingerprint(samples)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["pictures"][1, 2, 3] = 1
    assert fingerprint(samples) != before


def test_fingerprint_sees_a_column_that_only_some_sets_have(tree):
    samples = load_samples("folder", tree).assign(item=range(14))
    assert fingerprint(samples) == fingerprint(samples[sorted(samples)])
    assert fingerprint(samples) != fingerprint(samples.assign(item=0))


def photographed(*items, split="train"):
    rows = [{"image": f"{row}.png", "split": split, "item": item} for row, item in enumerate(items)]
    return make_samples(rows, "test")


def test_items_keep_their_images_together():
    samples = photographed("a", "a", "a", "b", "b", "c", "", "")
    for seed in range(20):
        drawn = draw_share(samples, 0.3, np.random.default_rng(seed))
        held = samples.index.isin(drawn)
        assert 3 <= held.sum() < 8
        for item in "abc":
            assert held[samples["item"] == item].all() or not held[samples["item"] == item].any()
    assert len(np.unique(items(samples))) == 5  # images without an item are one each


def test_a_share_is_of_images_where_there_are_no_items():
    samples = photographed(*[""] * 10)
    assert "item" not in samples
    assert items(samples) is None
    assert len(draw_share(samples, 0.25, np.random.default_rng(0))) == 3
    with pytest.raises(InputError, match="There is 1 item"):
        draw_share(photographed("a", "a"), 0.5, np.random.default_rng(0))


def test_an_item_in_training_and_in_test_is_named():
    rows = [
        {"image": f"{row}.png", "split": split, "item": item}
        for row, (split, item) in enumerate([("train", "a"), ("test", "a"), ("train", "b"), ("test", "c")])
    ]
    assert torn_items(make_samples(rows, "test")) == ["a"]


def test_mirrored_copies_of_a_picture_are_one_thing():
    rows = photographed("", "", "")
    twice = pd.concat([rows.assign(mirror=mirror) for mirror in ("", "horizontal")], ignore_index=True)
    assert items(twice).tolist() == [0, 1, 2, 0, 1, 2]
    assert (count_items(rows), count_items(twice)) == (3, 3)
    assert is_picture(twice).tolist() == [True] * 3 + [False] * 3
    drawn = draw_share(twice, 0.1, np.random.default_rng(0))  # 1 of 6 rows, so one picture and its copy
    assert len(drawn) == 2 and twice.loc[drawn, "image"].nunique() == 1
    assert items(rows.assign(mirror="")) is None  # as the test images of an enlarged run are
