"""What a run's page shows of its predictions, from scores and maps made by hand."""

import re
from dataclasses import replace

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REPOSITORY, finished_record

import adlib
from adlib import InputError, Predictions
from adlib.report.claim import claim
from adlib.report.facts import interval_text, metric_table, paired_table, record_table, time_table
from adlib.report.region_breakdown import _binned, defect_table, measured_regions, region_table
from adlib.report.run_curves import operating_thresholds, run_curves
from adlib.report.threshold_transfer import kinds_of_items, threshold_table, transferred
from adlib.runs import Run


def _predictions(scores, labels, defects=None, maps=None):
    table = pd.DataFrame({"image": [f"{number}.png" for number in range(len(labels))], "mask": "", "label": labels})
    table = table.assign(split="test", category="a", group="", defect=defects or ["crack"] * len(labels))
    return Predictions(np.array(scores, np.float32), maps, table)


def _read(html):
    """The tables of some HTML, each cell as text."""
    found = []
    for table in re.findall(r"<table.*?</table>", html.data, re.DOTALL):
        heads, *rows = (re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row) for row in table.split("</tr>")[:-1])
        found.append(pd.DataFrame(rows, columns=heads))
    return found


def test_each_image_is_judged_by_a_threshold_from_the_normal_images_of_the_other_half():
    found = transferred(_predictions([0, 10, 5, 20], [0, 0, 1, 1]), rate=0.5)
    assert sorted(found.thresholds) == pytest.approx([0, 10])
    assert found.held_out == (1, 1)
    assert found.called[[0, 1, 3]].tolist() == [False, True, True]
    assert found.kept
    with pytest.raises(InputError, match="two normal"):
        transferred(_predictions([0, 1], [0, 1]))


def test_a_rate_that_the_held_out_images_cannot_promise_is_not_shown_as_kept():
    scores = [*range(20), *range(15, 25)]
    (table,) = _read(threshold_table(_predictions(scores, [0] * 20 + [1] * 10)))
    assert table["threshold chosen on"].tolist() == [
        "held-out normals, 10 % false alarms",
        "held-out normals, above all of them",
        "best F1 on these labels (oracle)",
    ]
    assert table["found"].tolist()[-1] == "10 of 10"
    assert table["false alarms"].tolist()[-1] == "5 of 20"
    assert table["false-alarm rate % (95 % interval)"].tolist()[-1].startswith("25.0 (")
    assert "best F1" not in threshold_table(_predictions([1, 2], [0, 0])).data


def test_halves_tear_no_item_apart_and_count_items():
    """Ten normal items of two photographs, five defective ones: each half holds five normal items."""
    predictions = _predictions(range(30), [0] * 20 + [1] * 10)
    predictions.samples["item"] = [f"part {number // 2}" for number in range(30)]
    for seed in range(5):
        found = transferred(predictions, rate=0.1, seed=seed)
        assert (found.held_out, found.kept) == ((5, 5), False)  # ten images each would keep 10 %
        low, high = sorted(found.thresholds)
        assert high == pytest.approx(19)  # the half with the highest item, 18 and 19, gives a threshold above both
        assert (low - 1) % 2 == pytest.approx(0, abs=1e-4)  # the higher of an item's two photographs
    alone = transferred(_predictions(range(1, 30, 2), [0] * 10 + [1] * 5), rate=0.1)
    together = transferred(predictions, rate=0.1)
    assert together.thresholds == alone.thresholds
    assert together.called[1::2].tolist() == alone.called.tolist()
    said = "Intervals take images for independent; but 30 images show 15 items, so they are too narrow."
    assert said in threshold_table(predictions).data and said in defect_table(predictions).data
    assert "from 5 normal items of the other half" in threshold_table(predictions).data
    assert "items" not in threshold_table(_predictions(range(30), [0] * 20 + [1] * 10)).data
    one_item = _predictions([0, 1, 2], [0, 0, 1])
    one_item.samples["item"] = ["a", "a", "b"]
    with pytest.raises(InputError, match="of two items"):
        transferred(one_item)


def test_the_note_says_how_many_chose_in_either_half():
    said = threshold_table(_predictions(range(20), [0] * 17 + [1] * 3)).data
    assert re.search("comes from (8 and 9|9 and 8) normal images of the other half", said)


def test_a_rate_is_kept_where_the_smaller_half_can_keep_it():
    for normal, kept in ((17, False), (18, True)):  # halves of 8 and 9, and of 9 twice: 10 % takes nine
        found = transferred(_predictions(range(normal + 1), [0] * normal + [1]), rate=0.1)
        assert (sorted(found.held_out)[0], found.kept) == (normal // 2, kept)


def test_an_item_with_a_normal_image_is_dealt_out_among_the_normal_ones():
    labels, things = np.array([0, 1, 1, 1, -1, 0]), np.array([0, 0, 1, 1, 2, 3])
    assert kinds_of_items(labels, things).tolist() == [0, 1, -1, 0]


def test_the_seed_deals_the_halves():
    predictions = _predictions(range(30), [0] * 20 + [1] * 10)
    found = {transferred(predictions, rate=0.5, seed=seed).thresholds for seed in range(5)}
    assert len(found) > 1 and transferred(predictions, rate=0.5, seed=3).thresholds in found


def test_images_of_unknown_label_change_nothing_on_the_page():
    scores, labels = [0, 10, 3, 5, 20, 99], [0, 0, 0, 1, 1, -1]
    masks, maps = np.zeros((6, 16, 16), bool), np.zeros((6, 16, 16), np.float32)
    masks[3:5, 2:6, 2:6] = maps[3:5, 2:6, 2:6] = True
    maps[5] = 9
    images = _Images(torch.full((3, 16, 16), 0.5) for _ in range(6))
    unsure, sure = (_predictions(scores[:n], labels[:n], ["x"] * n, maps[:n]) for n in (6, 5))
    for each in (sure, unsure, unsure.known):
        each.__dict__ |= {"masks": masks[: len(each)], "images": images}
    areas = dict.fromkeys(("image_auroc", "image_ap", "aupro"), 0.5)
    for shown in (threshold_table, defect_table, lambda each: region_table(each, images)):
        assert shown(unsure).data == shown(sure).data
    curves = [
        [line.get_xydata().tolist() for axis in run_curves(each, areas).axes for line in axis.lines]
        for each in (unsure, sure)
    ]
    assert curves[0] == curves[1]
    assert operating_thresholds(unsure) == operating_thresholds(sure)


@pytest.mark.parametrize(("defects", "bins"), [(5, 1), (6, 3)])
def test_bins_take_two_defects_each(defects, bins):
    table = pd.DataFrame({"area": range(1, defects + 1), "contrast": 1.0, "found": True})
    (shown,) = _read(_binned("size", "area", table, table[:0], "{:.0f}".format))
    assert len(shown) == bins


def test_a_dark_defect_has_the_contrast_of_a_bright_one():
    mask = np.zeros((16, 16), bool)
    mask[4:8, 4:8] = True
    found = [next(iter(measured_regions(mask, mask, np.where(mask, grey, 0.5))))[2] for grey in (0.25, 0.75)]
    assert found == pytest.approx([0.5, 0.5])


def test_the_third_panel_is_of_regions_and_only_there_where_maps_outline_defects():
    masks = np.zeros((2, 10, 10), bool)
    masks[1, 0, 0] = masks[1, 4:6, 4:8] = True  # of 1 and of 8 pixels: the small one is found, or half of the regions
    maps = np.zeros((2, 10, 10), np.float32)
    maps[1, 0, 0] = 2
    predictions = _predictions([0, 1], [0, 1], maps=maps)
    predictions.__dict__ |= {"masks": masks}
    areas = dict.fromkeys(("image_auroc", "image_ap", "aupro"), 0.5)
    panel = run_curves(predictions, areas).axes[2]
    assert panel.lines[0].get_ydata().tolist()[:3] == [0, 0, 0.5]
    explaining = replace(predictions, outlines=False)
    explaining.__dict__ |= {"masks": masks}
    assert len(run_curves(explaining, areas).axes) == 2


def test_an_alarm_as_large_as_a_bins_edge_lies_in_the_bin_of_such_defects():
    defects = pd.DataFrame({"area": range(1, 8), "contrast": 1.0, "found": True})  # edges at 3 and 5
    alarms = pd.DataFrame({"area": [2, 3, 3, 5], "contrast": 1.0, "found": True})
    (table,) = _read(_binned("size", "area", defects, alarms, "{:.0f}".format))
    assert table["size"].tolist() == ["below 3", "3 to 5", "5 and more"]
    assert table[["defects", "false-alarm regions"]].astype(int).to_numpy().tolist() == [[2, 1], [2, 2], [3, 1]]


def test_the_ring_around_a_defect_leaves_out_the_one_beside_it():
    masks = np.zeros((1, 32, 32), bool)
    masks[0, 10:14, 10:14] = masks[0, 10:14, 15:19] = True  # a pixel apart, and both twice as bright
    grey = np.where(masks[0], 0.8, 0.4)
    contrasts = [contrast for _, _, contrast in measured_regions(masks[0], masks[0], grey)]
    assert contrasts == pytest.approx([1, 1])


def test_misses_are_counted_by_kind_of_defect():
    predictions = _predictions([0, 1, 5, 6, -1], [0, 0, 1, 1, 1], ["good", "good", "crack", "crack", "dent"])
    (table,) = _read(defect_table(predictions))
    assert table[["kind of defect", "found", "missed"]].to_numpy().tolist() == [["crack", "2", "0"], ["dent", "0", "1"]]


class _Images(list):
    shape = (16, 16)

    def pixels(self, index):
        return self[index]


def test_defect_regions_and_false_alarms_are_counted_apart():
    masks, maps = np.zeros((2, 16, 16), bool), np.zeros((2, 16, 16), np.float32)
    masks[0, 2:6, 2:6] = masks[1, 12:14, 12:14] = True  # the first is found, the second missed
    maps[0, 3:6, 3:6] = maps[1, 2:5, 2:5] = 1
    images = _Images(torch.full((3, 16, 16), 0.5) for _ in range(2))
    images[0][:, 2:6, 2:6] = 0.75
    predictions = _predictions([1, 1], [1, 1], maps=maps)
    predictions.__dict__ |= {"masks": masks, "images": images}
    size, contrast = _read(region_table(predictions, images))
    for table in (size, contrast):
        row = table.iloc[0]
        assert (row["defects"], row["found"], row["missed"], row["false-alarm regions"]) == ("2", "1", "1", "1")
    assert "Intervals take" not in region_table(predictions, images).data
    predictions.samples["item"] = "part"
    assert "Intervals take defects for independent; but 2 images" in region_table(predictions, images).data
    assert "where there are maps" in region_table(_predictions([1, 0], [1, 0])).data
    explaining = replace(predictions, outlines=False)
    assert "outline defects" in region_table(explaining, images).data


def test_regions_on_black_have_no_contrast_and_are_counted():
    masks, maps = np.zeros((2, 16, 16), bool), np.zeros((2, 16, 16), np.float32)
    masks[0, 4:8, 4:8] = masks[1, 4:8, 4:8] = True  # the first is found, the second missed
    maps[0, 4:8, 4:8] = maps[1, 14, 14] = 1  # and one false alarm
    images = _Images(torch.zeros((3, 16, 16)) for _ in range(2))
    images[0][:, 4:8, 4:8] = 0.75
    predictions = _predictions([1, 1], [1, 1], maps=maps)
    predictions.__dict__ |= {"masks": masks, "images": images}
    for table in _read(region_table(predictions, images)):
        counts = table[["defects", "found", "missed", "false-alarm regions"]].astype(int).sum()
        assert counts.tolist() == [2, 1, 1, 1]
    assert table.iloc[:, 0].tolist() == ["defined", "undefined"]


def test_a_comparison_with_baselines_is_paired_and_says_why_there_is_none(monkeypatch):
    def row(scores, others, labels):
        others = {"mean grey": _predictions(others, labels)}
        monkeypatch.setattr("adlib.baselines.trivial_predictions", lambda *_: others)
        return _read(paired_table(_predictions(scores, labels)))[0].iloc[0].tolist()

    assert row([0, 1, 2, 3], [0, 2, 1, 3], [0, 0, 1, 1])[:2] == ["mean grey", "+25.00"]
    assert row([0, 1, 2, 3], [0, 1, 2, 3], [0, 0, 1, 1])[2:] == [
        "none: it is the same however these images are drawn",
        "–",
    ]
    undefined = row([0, 1], [1, 0], [0, 0])
    assert undefined[1] == "–"
    assert undefined[2].startswith("none: ")


def test_a_comparison_with_baselines_draws_items_and_not_their_images(monkeypatch):
    """Four photographs of each item say no more than one does: the interval and p of one, and not narrower ones."""
    mine, other, labels = [0, 1, 5, 2, 6, 7], [0, 3, 2, 5, 1, 4], [0, 0, 0, 1, 1, 1]

    def row(copies, named):
        several = [np.repeat(values, copies).tolist() for values in (mine, other, labels)]
        first, second = (_predictions(scores, several[2]) for scores in several[:2])
        if named:
            first.samples["item"] = np.repeat([f"part {number}" for number in range(6)], copies)
        monkeypatch.setattr("adlib.baselines.trivial_predictions", lambda *_: {"mean grey": second})
        return _read(paired_table(first))[0].iloc[0].tolist()

    assert row(4, named=True) == row(1, named=True)
    assert float(row(4, named=False)[3]) < float(row(1, named=True)[3])


def test_curves_mark_the_oracle_and_what_held_out_normals_give():
    predictions = _predictions([0, 10, 5, 20], [0, 0, 1, 1])
    drawn = run_curves(predictions, {"image_auroc": 0.75, "image_ap": 0.8})
    roc = {line.get_label(): line.get_xydata().tolist() for line in drawn.axes[0].lines}
    assert roc["best F1 (oracle)"] == [[0.5, 1.0]]
    assert "held-out normals, above all of them (too few for 10 %)" in roc  # one in each half, and 10 % takes nine
    enough = run_curves(_predictions([*range(18), 20], [0] * 18 + [1]), {"image_auroc": 1.0, "image_ap": 1.0})
    assert "held-out normals, 10 % false alarms" in [text.get_text() for text in enough.legends[0].get_texts()]
    assert drawn.axes[0].get_title() == "ROC, AUROC 0.7500"
    assert next(iter(operating_thresholds(predictions).values())) == 5
    assert operating_thresholds(_predictions([1], [0])) == {}
    assert "no curve" in run_curves(_predictions([1], [0]), {}).data


def test_curves_show_the_share_of_anomalous_images_and_mark_what_lies_within_the_limit():
    masks = np.zeros((4, 10, 10), bool)
    masks[3, :5] = True
    for alarms, marked in ((10, 1), (200, 0)):  # pixels of 350 normal ones that lie above the defect
        maps = masks * np.float32(1)
        maps[:2].reshape(-1)[:alarms] = 2
        predictions = _predictions([0, 1, 2, 3], [0, 0, 0, 1], maps=maps)
        predictions.__dict__ |= {"masks": masks}
        drawn = run_curves(predictions, {"image_auroc": 1.0, "image_ap": 1.0, "aupro": 0.9})
        assert [line.get_ydata() for line in drawn.axes[1].lines if line.get_linestyle() == ":"] == [[0.25, 0.25]]
        assert len([line for line in drawn.axes[2].lines if line.get_marker() == "o"]) == marked


def test_the_tint_below_the_pro_curve_ends_where_the_area_does(monkeypatch):
    masks = np.zeros((2, 4, 4), bool)
    masks[1, 0] = True
    monkeypatch.setattr(Predictions, "masks", property(lambda self: masks))
    monkeypatch.setattr(Predictions, "judges_pixels", True)
    found = _predictions([0, 1], [0, 1], maps=masks.astype(np.float32))  # called without any normal pixel, or with all
    axis = run_curves(found, {"image_auroc": 1.0, "image_ap": 1.0, "aupro": 1.0}).axes[2]
    (tint,) = axis.collections
    assert tint.get_paths()[0].get_extents().bounds == pytest.approx((0, 0, 0.3, 1))


def test_a_missing_interval_says_why():
    assert interval_text({"low": 0.5, "high": 0.75, "std": 0.1}) == "0.5000 to 0.7500"
    assert interval_text({"low": None, "high": None, "reason": "one <image>"}) == "none: one <image>"
    assert interval_text({"low": 1.0, "high": 1.0, "std": 0.0}).startswith("none: it is the same")
    shown = metric_table({"image_auroc": 1.0}, {"image_auroc": {"low": None, "reason": "one <image>"}}).data
    assert "none: one &lt;image&gt;" in shown


def test_times_carry_their_unit():
    assert "1.50 s<" in time_table({"fit": 1.5}).data
    resumed = time_table({"fit": 1.5, "predict": 2.0}, resumed=True).data
    assert "1.50 s, from the checkpoint of an earlier attempt on: the whole fit took longer<" in resumed
    assert "2.00 s<" in resumed


def test_the_record_on_the_page_tells_of_a_resumed_fit_and_of_what_fit_decided():
    choices = {"hypothesis": "manifold", "epoch": 3, "prompts": {"thing": "a.png"}}
    about = {"seconds": {"fit": 1.0}, "resumed": True, "choices": choices, "peak_memory_mib": 9, "shared": {}}
    record = finished_record("0" * 16, **about)
    page = record_table(record).data
    assert 'time of fit</th><td class="word">1.00 s, from the checkpoint of an earlier attempt on' in page
    assert 'by fit: hypothesis</th><td class="word">manifold<' in page
    assert 'by fit: epoch</th><td class="word">3<' in page
    assert "a.png" not in page
    assert "an earlier attempt" not in record_table(record | {"resumed": False}).data


def test_the_claim_of_a_run_is_its_record_in_a_sentence():
    record = {"status": "finished", "oracle": {"tp": 9.0, "fn": 1.0, "fp": 1.0, "tn": 4.0}, "intervals": {}}
    record["run"] = {"method": "padim"}
    text = claim(record | {"metrics": {"image_auroc": 0.95, "pixel_auroc": None}})
    assert text.startswith('<p class="adlib-claim">Found 9 of 10 anomalous images, with 1 false alarm on 5 normal ones')
    assert "image AUROC 0.9500" in text
    assert "pixel" not in text
    pixels = {"metrics": {"image_auroc": 0.95, "pixel_auroc": 0.5, "aupro": 0.5}}
    assert "pixel AUROC 0.5000" in claim(record | pixels)
    explaining = claim(record | pixels | {"run": {"method": "mixed_supervised"}})  # its maps outline nothing
    assert "image AUROC" in explaining
    assert "pixel AUROC" not in explaining
    assert "maps that outline nothing" in explaining and "outline nothing" not in claim(record | pixels)
    assert "AUPRO" not in explaining
    untrained = record | pixels | {"run": {"method": "adaclip"}, "weights": {"kind": "random"}}
    assert "CLIP" in claim(untrained)
    assert "0.95" not in claim(untrained)
    assert "Failed: a &lt;reason&gt;" in claim({"status": "failed", "reason": "a <reason>"})


def test_what_is_run_names_the_folders_and_how_they_were_read(tmp_path):
    folders = {"normal": str(tmp_path / "fine"), "abnormal": str(tmp_path / "broken")}
    run = Run("folder", str(tmp_path), "padim", "", folders | {"items": "part_(.*)", "weights": "random"})
    cells = nbformat.read(REPOSITORY / "notebooks" / "01_run.ipynb", 4).cells
    (source,) = [cell.source for cell in cells if "fact_table(" in cell.source]
    source, _, shown = source.rpartition("\n")
    names = {"adlib": adlib, "run": run, "cache": "", "cache_limit": 1e9}
    exec(source, names)
    facts = dict(re.findall(r'<th scope="row">(.*?)</th><td class="word">(.*?)</td>', eval(shown, names).data))
    asked = {"data": str(tmp_path)} | folders | {"items": "part_(.*)", "weights": "random", "size": "256"}
    assert {name: facts[name] for name in asked} == asked
