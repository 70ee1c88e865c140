"""Features: differences on the same test images, one domain one vote, and nothing stands in for missing weights."""

import numpy as np
import pandas as pd
import pytest
from conftest import make_tree
from stored import run_notebook, store_study

from adlib import Predictions
from adlib.errors import InputError
from adlib.runs.obstacles import leave_out_without_weights
from adlib.runs.plan import plan, read_profile
from adlib.samples import make_samples
from adlib.studies import features as study

GOOD, BAD = [0, 1, 2, 3], [0, 2, 1, 3]  # AUROC of 1 and of 3/4


def run(dataset: str, features: str, scores: list[float], category: str = "thing", items=("",) * 4) -> dict:
    about = {"split": "test", "category": category, "defect": "x"}
    rows = [about | {"image": f"{row}.png", "label": int(row > 1), "item": items[row]} for row in range(4)]
    samples = make_samples(rows, "numbers given by hand")
    place = {"method": "padim", "dataset": dataset, "category": category, "setting": features}
    return place | {"predictions": Predictions(np.array(scores, float), None, samples)}


@pytest.fixture
def out(tmp_path):
    runs = [run("miic", "bundled", BAD), run("miic", "random", GOOD)]  # 25 points higher
    for category, scores in (("a", BAD), ("b", GOOD)):
        runs += [run("cxr_ad", "bundled", GOOD, category), run("cxr_ad", "random", scores, category)]  # -25 and 0
    store_study(tmp_path, study.NAME, runs)
    return tmp_path


def test_a_domain_counts_once_however_many_categories_it_has(out):
    compared = study.comparisons(study.runs(out), replicates=20)
    assert set(compared["images"]) == {4}
    table = study.across(compared).set_index("features")
    assert table.loc["random", ["difference", "datasets", "better"]].tolist() == pytest.approx([(25 - 12.5) / 2, 2, 1])
    reach = 12.706205 * 18.75  # t of 1 degree of freedom; both domains lie 18.75 from their mean
    assert table.loc["random", "high"] == pytest.approx(6.25 + reach)
    assert table.loc["bundled", ["value", "difference"]].tolist() == pytest.approx([(75 + 100) / 2, 0])


def test_photographs_of_one_item_have_no_interval(tmp_path):
    for name, items, lacks in (("images", ("",) * 4, False), ("items", ("a", "a", "b", "b"), True)):
        runs = [run("miic", "bundled", BAD, items=items), run("miic", "random", GOOD, items=items)]
        store_study(tmp_path / name, study.NAME, runs)
        found = study.comparisons(study.runs(tmp_path / name), replicates=50).set_index("features")
        assert np.isnan(found.loc["random", "low"]) == lacks


def test_features_that_no_draw_of_the_images_tells_apart_have_no_interval(tmp_path):
    """Both at the top of the metric: an interval of 0 to 0 would say that they are known to be alike."""
    store_study(tmp_path, study.NAME, [run("miic", kind, GOOD) for kind in ("bundled", "random")])
    found = study.comparisons(study.runs(tmp_path), replicates=20).set_index("features").loc["random"]
    assert found["difference"] == 0 and np.isnan([found["low"], found["high"]]).all()


def test_a_data_set_on_which_features_are_as_good_is_none_on_which_they_are_better(tmp_path):
    store_study(tmp_path, study.NAME, [run(name, kind, GOOD) for name in ("a", "b") for kind in ("bundled", "random")])
    found = study.across(study.comparisons(study.runs(tmp_path), replicates=20)).set_index("features")
    assert found.loc["random", ["datasets", "better"]].tolist() == [2, 0]


def test_images_are_those_that_both_have_tested(tmp_path):
    runs = [run("miic", "bundled", BAD), run("miic", "random", GOOD)]
    runs[1]["predictions"] = runs[1]["predictions"].select([3, 2, 0])
    store_study(tmp_path, study.NAME, runs)
    found = study.comparisons(study.runs(tmp_path), replicates=50).set_index("features")
    assert found["images"].to_dict() == {"random": 3, "bundled": 4}


def test_images_of_unknown_label_are_no_images_of_the_comparison(tmp_path):
    runs = [run("miic", "bundled", BAD), run("miic", "random", GOOD)]
    for each in runs:
        each["predictions"].samples["label"] = [0, -1, 1, 1]
    store_study(tmp_path, study.NAME, runs)
    found = study.comparisons(study.runs(tmp_path), replicates=50).set_index("features")
    assert found[["value", "images"]].to_numpy().tolist() == [[100, 3], [100, 3]]


def test_images_of_data_that_were_moved_between_two_runs_are_the_same(tmp_path):
    runs = [run("miic", "bundled", BAD), run("miic", "random", GOOD)]
    for each, folder in zip(runs, ("/here", "/there"), strict=True):
        samples = each["predictions"].samples
        samples["image"] = [f"{folder}/{number}.png" for number in range(4)]
        each["data"] = {"scored": {"images": "the same bytes"}}
    store_study(tmp_path, study.NAME, runs)
    found = study.comparisons(study.runs(tmp_path), replicates=50).set_index("features")
    assert found.loc["random", ["difference", "images"]].tolist() == pytest.approx([25, 4])


@pytest.mark.parametrize(("low", "high", "told"), [(-1.0, 4.0, False), (1.0, 4.0, True), (-4.0, -1.0, True)])
def test_features_that_are_shown_to_be_worse_are_told_from_none_as_better_ones_are(low, high, told):
    row = {"method": "padim", "features": "random", "value": 50.0, "difference": (low + high) / 2}
    table = pd.DataFrame([row | {"low": low, "high": high, "datasets": 3, "better": 1}])
    (said,) = study.conclusions(table, pd.DataFrame({"features": ["random"], "runs": [1], "missing": [""]}))
    assert ("not told from none" not in said) == told


def test_random_features_lack_no_weights(tmp_path):
    there = study.features_there(tmp_path).set_index("features")
    assert there.loc["random", "missing"] == "not in this profile"


def test_features_without_a_run_are_named_with_the_reason(out, monkeypatch):
    monkeypatch.setattr(study, "find_weights", lambda name, weights: None if weights == "pretrained" else name)
    there = study.features_there(out).set_index("features")
    assert there.loc["random", ["runs", "missing"]].tolist() == [3, ""]
    assert there.loc["DINOv2", "missing"] == "not in this profile, no weights here"
    said = study.conclusions(study.across(study.comparisons(study.runs(out), replicates=20)), there.reset_index())
    assert said[0].startswith(
        "padim on features random: image AUROC is 6.2 points higher than on bundled, higher in 1 of 2"
    )
    assert "not told from none" in said[0]
    assert "Nothing is said of ResNet-18 (not in this profile, no weights here)" in said[1]


def test_without_the_reference_nothing_is_compared(tmp_path):
    store_study(tmp_path, study.NAME, [run("miic", "random", GOOD)])
    assert study.comparisons(study.runs(tmp_path)).empty


def test_the_notebook_runs_on_stored_runs_and_on_none(out, tmp_path):
    run_notebook("67_features", out)
    run_notebook("67_features", tmp_path / "nothing")


def test_rows_whose_weights_are_not_here_stay_empty_and_are_named_in_one_sentence(tmp_path, monkeypatch):
    from adlib.features import backbones

    find = backbones.find_weights
    monkeypatch.setattr(backbones, "find_weights", lambda *given: None if given[1] == "pretrained" else find(*given))
    root = make_tree(tmp_path / "mine", "part", train=2, normal=1, anomalous=1)
    cells = plan([study.NAME], read_profile("paper", data=root), tmp_path)
    (sentence,) = leave_out_without_weights(cells)
    assert "rows without a run" in sentence
    assert "DINOv2 (vit_small_patch14_dinov2.lvd142m)" in sentence
    assert {cell.setting for cell in cells if cell.run} == {"random", "bundled"}
    assert {cell.missing for cell in cells if not cell.run} == {"no weights"}
    others = plan(["study/cost"], read_profile("paper", data=root), tmp_path)
    assert leave_out_without_weights(others) == []  # they fail and say why, as a paper's do
    assert all(cell.run for cell in others)


@pytest.mark.parametrize("metric", ["image_aurok", "aupro", "recall", "image_f1max_threshold"])
def test_a_metric_that_is_not_of_image_scores_is_refused(out, metric):
    with pytest.raises(InputError, match="possible are image_auroc, image_ap, image_f1max"):
        study.comparisons(study.runs(out), metric=metric, replicates=20)


def test_a_reference_that_no_features_are_called_is_refused(out):
    with pytest.raises(InputError, match=r"reference = 'bundeld' .*Did you mean 'bundled'"):
        study.comparisons(study.runs(out), "bundeld", replicates=20)
    assert study.comparisons(study.runs(out), "DINOv2", replicates=20).empty  # planned, and not done
