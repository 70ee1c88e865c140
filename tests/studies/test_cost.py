"""Cost: what is beaten is cheaper's and better's, and times that others shortened are not told."""

import json
import math

import pandas as pd
import pytest
from stored import run_notebook, store_study

from adlib.errors import InputError
from adlib.reproduce import cache_for
from adlib.runs.record import write_json, write_record
from adlib.runs.store import Store
from adlib.studies import best_trivial
from adlib.studies import cost as study


def stored(out, **seconds) -> None:
    """Two runs a method on 10 test images. seconds: method -> (AUROC, seconds of prediction) of each run."""
    runs = []
    for method, pairs in seconds.items():
        for seed, (auroc, predict) in enumerate(pairs):
            counts = {"cloth": {"train": 9, "test_normal": 4, "test_anomalous": 6}}
            record = {"seconds": {"fit": 3.0, "predict": predict}, "peak_memory_mib": 500}
            record["environment"] = {"processor": "one", "threads": 2}
            run = {"dataset": "three_cad", "category": "cloth", "method": method, "seed": seed, "record": record}
            runs.append(run | {"metrics": {"image_auroc": auroc}, "data": {"counts": counts}})
    store_study(out, study.NAME, runs)


def edge(out):
    return study.frontier(study.methods(study.spent(out)))


def test_a_method_is_beaten_by_one_that_costs_less_and_is_better(tmp_path):
    stored(tmp_path, padim=[(0.80, 1), (0.82, 1.2)], patchcore=[(0.95, 4), (0.97, 5)], stfpm=[(0.5, 8), (0.52, 9)])
    found = edge(tmp_path).set_index("method")
    assert found["seconds_per_image"].tolist() == pytest.approx([0.11, 0.45, 0.85])
    assert found["beaten_by"].tolist() == ["", "", "patchcore"]
    assert found.loc["padim", ["value", "seconds_per_image_least", "seconds_per_image_most"]].tolist() == pytest.approx(
        [81, 0.1, 0.12]
    )
    assert found.loc["stfpm", "shown"]  # neither values nor times overlap
    said = study.conclusions(edge(tmp_path))
    assert "padim 81.0" in said[0]
    assert "patchcore takes 4.1 times what padim does for 15.0 points more" in said[1]
    assert said[2].endswith("is beaten by patchcore, cheaper and no worse.")


def test_a_gain_that_overlaps_is_said_not_to_be_shown(tmp_path):
    stored(tmp_path / "apart", padim=[(0.80, 1), (0.801, 1.2)], patchcore=[(0.95, 4), (0.951, 5)])
    stored(tmp_path / "overlap", padim=[(0.80, 1), (0.90, 1.2)], patchcore=[(0.85, 4), (0.97, 5)])
    stored(tmp_path / "wide", padim=[(0.80, 1), (0.801, 1.2)], patchcore=[(0.85, 4), (0.97, 5)])  # 91, and 15 to 100
    apart, *overlap = (study.conclusions(edge(tmp_path / name))[1] for name in ("apart", "overlap", "wide"))
    assert apart.endswith("for 15.0 points more.")
    for said in overlap:
        assert said.endswith("a gain that these runs do not show: intervals overlap or are missing.")


def test_a_method_that_was_run_once_is_not_shown_to_be_slower_than_one_that_was_run_often(tmp_path):
    stored(tmp_path, padim=[(0.90, 1), (0.901, 1.1)], stfpm=[(0.50, 4)])
    table = study.spent(tmp_path)
    found = study.frontier(study.methods(table.assign(low=table["value"] - 1, high=table["value"] + 1)))
    assert found.set_index("method").loc["stfpm", ["beaten_by", "shown"]].tolist() == ["padim", False]


def test_a_single_run_that_ranks_all_right_has_no_interval(tmp_path):
    runs = over_categories(("padim", "easy", 0.9), ("stfpm", "easy", 1.0))
    for run, seconds, low in zip(runs, (1.0, 4.0), (0.8, 1.0), strict=True):
        run["record"] |= {"intervals": {"image_auroc": {"low": low, "high": 1.0 if low == 1 else 0.95}}}
        run["record"]["seconds"] = {"fit": 3.0, "predict": seconds}
    store_study(tmp_path, study.NAME, runs)
    said = study.conclusions(edge(tmp_path))
    assert "stfpm 100.0 (no interval)" in said[0]
    assert said[1].endswith("a gain that these runs do not show: intervals overlap or are missing.")


def test_single_runs_have_no_spread_of_times_and_show_nothing(tmp_path):
    stored(tmp_path, padim=[(0.90, 1)], stfpm=[(0.50, 4)])
    table = study.spent(tmp_path)
    table = table.assign(low=table["value"] - 1, high=table["value"] + 1)  # over the test images of either
    found = study.frontier(study.methods(table)).set_index("method")
    assert found.loc["stfpm", "beaten_by"] == "padim" and not found.loc["stfpm", "shown"]


def test_who_is_as_good_as_a_trivial_baseline_is_no_better():
    found = pd.DataFrame({"dataset": "miic", "method": ["padim", "stfpm", "cfa"], "value": [70.0, 60.0, 80.0]})
    trivial = pd.DataFrame({"dataset": ["miic"], "baseline": "spread", "value": 70.0})
    assert study.beside_trivial(found, trivial)[0].endswith("No better: padim (70.0), stfpm (60.0).")


@pytest.mark.parametrize(
    ("worse", "shown"),
    [
        ([(0.500, 8), (0.501, 9)], True),
        ([(0.500, 1.1), (0.501, 9)], False),  # its faster run is faster than the other's slower one
        ([(0.799, 8), (0.801, 9)], False),  # it may be as good
    ],
)
def test_who_is_beaten_is_shown_where_neither_values_nor_times_overlap(tmp_path, worse, shown):
    stored(tmp_path, padim=[(0.800, 1), (0.801, 1.2)], stfpm=worse)
    found = edge(tmp_path).set_index("method").loc["stfpm"]
    assert (found["beaten_by"], found["shown"]) == ("padim", shown)


def test_what_costs_more_and_is_as_good_is_beaten(tmp_path):
    stored(tmp_path, padim=[(0.80, 1)], stfpm=[(0.80, 4)])
    assert edge(tmp_path).set_index("method")["beaten_by"].to_dict() == {"padim": "", "stfpm": "padim"}


def test_one_slow_run_is_the_most_that_a_method_costs_and_not_its_cost(tmp_path):
    stored(tmp_path, padim=[(0.80, 1), (0.82, 2), (0.81, 9)])
    (row,) = study.methods(study.spent(tmp_path)).to_dict("records")
    assert [row[f"seconds_per_image{end}"] for end in ("_least", "", "_most")] == pytest.approx([0.1, 0.2, 0.9])


def test_what_overlaps_is_not_shown(tmp_path):
    stored(tmp_path, padim=[(0.80, 1), (0.90, 5)], stfpm=[(0.78, 4), (0.84, 6)])
    found = edge(tmp_path).set_index("method")
    assert found.loc["stfpm", "beaten_by"] == "padim"
    assert not found.loc["stfpm", "shown"]
    assert study.conclusions(edge(tmp_path))[1].endswith("though intervals or times overlap or have no spread.")


def test_runs_that_are_all_alike_have_no_interval_and_times_of_two_machines_do_not_compare(tmp_path):
    stored(tmp_path, padim=[(1.0, 1), (1.0, 1.2)], patchcore=[(1.0, 4)])
    found = study.methods(study.spent(tmp_path)).set_index("method")
    assert math.isnan(found.loc["padim", "low"])
    assert "padim 100.0 (no interval) at 0.11" in study.conclusions(edge(tmp_path))[0]
    table = study.spent(tmp_path)
    assert study.left_out(table) == ["3 runs were timed on one, 2 threads."]
    table.loc[0, "machine"] = "another, 4 threads"
    assert study.left_out(table)[-1] == "Times of different machines or threads do not compare."


def test_a_run_on_a_gpu_was_timed_on_it_and_not_on_the_processor_beside_it(tmp_path):
    stored(tmp_path, padim=[(0.8, 1)])
    folder = Store(tmp_path / "runs").path("0" * 16)
    record = json.loads((folder / "record.json").read_text())
    write_record(folder, record | {"environment": {"processor": "one", "gpu": "H200", "threads": 2}})
    assert study.left_out(study.spent(tmp_path)) == ["1 runs were timed on H200, 2 threads."]


@pytest.mark.parametrize("shorter", [{"shared": {"features_read": 3}}, {"resumed": True}])
def test_times_that_were_shortened_are_left_out_and_counted(tmp_path, shorter):
    counts = {"cloth": {"train": 9, "test_normal": 4, "test_anomalous": 6}}
    run = {"dataset": "three_cad", "category": "cloth", "method": "padim", "data": {"counts": counts}}
    peaks = {"peak_memory_mib": 500, "peak_gpu_memory_mib": 50.0}  # without what others had computed
    store_study(tmp_path, study.NAME, [run | {"record": shorter | peaks}])
    runs = study.spent(tmp_path)
    assert runs[list(study.COSTS)].isna().all(axis=None)
    assert math.isnan(runs["seconds_per_image"][0])
    assert runs["value"][0] == 50
    assert edge(tmp_path).empty
    assert study.left_out(runs)[0].startswith("The times of 1 of 1 runs are left out")


def over_categories(*runs) -> list[dict]:
    """Finished runs from (method, category, AUROC), of 1 s each, with a trivial baseline called spread."""
    counts = {"cloth": {"train": 9, "test_normal": 4, "test_anomalous": 6}}
    found = []
    for method, category, auroc in runs:
        record = {"seconds": {"fit": 3.0, "predict": 1.0}, "peak_memory_mib": 500, "environment": {}}
        record["baselines"] = {"": {"spread": {"image_auroc": {"easy": 0.9, "hard": 0.5}[category]}}}
        run = {"dataset": "three_cad", "category": category, "method": method, "record": record}
        found.append(run | {"metrics": {"image_auroc": auroc}, "data": {"counts": counts}})
    return found


def test_methods_are_compared_over_the_categories_that_all_have(tmp_path):
    runs = over_categories(("good", "hard", 0.6), ("bad", "hard", 0.55), ("bad", "easy", 0.94))
    store_study(tmp_path, study.NAME, runs)
    table = study.spent(tmp_path)
    found = study.methods(table).set_index("method")
    assert found["value"].to_dict() == pytest.approx({"good": 60, "bad": 55})
    said = "three_cad: compared over 1 of 2 categories, which all methods have: good lacks easy."
    assert study.lacking(table) == [said]
    trivial = best_trivial(study.NAME, tmp_path, "image_auroc", study.compared(table))
    assert trivial["value"].tolist() == [50]
    assert best_trivial(study.NAME, tmp_path, "image_auroc")["value"].tolist() == pytest.approx([70])
    assert study.lacking(study.compared(table)) == []


def test_seeds_that_are_alike_make_no_interval_over_categories_narrower(tmp_path):
    runs = over_categories(("padim", "easy", 0.9), ("padim", "hard", 0.7))
    found = []
    for seeds in (1, 5):
        store_study(tmp_path / str(seeds), study.NAME, [run | {"seed": seed} for run in runs for seed in range(seeds)])
        found.append(study.methods(study.spent(tmp_path / str(seeds))).iloc[0])
    assert [row["runs"] for row in found] == [2, 10]
    low = 80 - 12.706205 * 10  # t of 1 degree of freedom; both categories lie 10 from their mean
    assert [row["low"] for row in found] == [max(0, low)] * 2
    assert [row["over"] for row in found] == ["categories"] * 2
    said = study.conclusions(edge(tmp_path / "5"))
    assert "padim 80.0 (0.0 to 100.0 over 2 categories)" in said[0]


def test_a_lost_seed_moves_no_weight_to_the_other_category(tmp_path):
    runs = over_categories(("padim", "easy", 0.9), ("padim", "hard", 0.7), ("padim", "hard", 0.8))
    store_study(tmp_path, study.NAME, [run | {"seed": seed} for seed, run in enumerate(runs)])
    assert study.methods(study.spent(tmp_path))["value"].tolist() == pytest.approx([(90 + 75) / 2])


def test_one_seed_that_is_far_off_moves_the_mean_of_its_category(tmp_path):
    runs = over_categories(*(("padim", "easy", value) for value in (0.80, 0.82, 0.90)), ("padim", "hard", 0.7))
    store_study(tmp_path, study.NAME, [run | {"seed": seed} for seed, run in enumerate(runs)])
    assert study.methods(study.spent(tmp_path))["value"].tolist() == pytest.approx([(84 + 70) / 2])


def test_of_one_category_the_interval_is_over_seeds_and_of_one_run_over_its_test_images(tmp_path):
    stored(tmp_path / "two", padim=[(0.80, 1), (0.82, 1.2)])
    assert "over seeds) at" in study.conclusions(edge(tmp_path / "two"))[0]
    (run,) = over_categories(("padim", "hard", 0.6))
    run["record"] |= {"intervals": {"image_auroc": {"value": 0.6, "low": 0.5, "high": 0.7, "std": 0.05}}}
    store_study(tmp_path / "one", study.NAME, [run])
    assert "padim 60.0 (50.0 to 70.0 over test images) at" in study.conclusions(edge(tmp_path / "one"))[0]


def test_a_run_whose_test_images_do_not_move_it_has_no_interval(tmp_path):
    """At the top of a metric each draw of the images is as good: 100 to 100 would say that it is known exactly."""
    (run,) = over_categories(("padim", "hard", 1.0))
    run["record"] |= {"intervals": {"image_auroc": {"value": 1.0, "low": 1.0, "high": 1.0, "std": 0.0}}}
    store_study(tmp_path, study.NAME, [run])
    assert "padim 100.0 (no interval) at" in study.conclusions(edge(tmp_path))[0]


def test_methods_of_which_a_cost_is_not_known_are_named(tmp_path):
    runs = over_categories(("padim", "hard", 0.6), ("cfa", "hard", 0.7))
    runs[0]["record"] |= {"peak_gpu_memory_mib": 700}
    store_study(tmp_path, study.NAME, runs)
    found = study.methods(study.spent(tmp_path))
    first, second = study.costless(found, "gpu_memory_mib")
    assert first == "three_cad: without peak memory of the GPU, so not in the figure: cfa."
    assert second == "Only runs on a GPU have its memory."
    assert study.costless(found) == []
    none = study.show_frontier(found[found["method"] == "cfa"], cost="gpu_memory_mib")
    assert none.axes[0].get_title() == "nothing to show"  # the run is done


@pytest.mark.parametrize(("metric", "said"), [("recall", "recall at best F1 (an oracle)"), ("aupro", "AUPRO")])
def test_a_share_of_decisions_says_at_which_threshold(metric, said, tmp_path):
    (run,) = over_categories(("padim", "hard", 0.6))
    store_study(tmp_path, study.NAME, [run | {"metrics": {metric: 0.5, "image_auroc": 0.6}}])
    found = study.methods(study.spent(tmp_path, metric))
    assert f"on the frontier of {said} against" in study.conclusions(study.frontier(found), metric)[0]
    assert study.show_frontier(found, metric).axes[0].get_ylabel() == f"{said}, %"


def test_methods_without_a_common_category_are_not_compared(tmp_path):
    store_study(tmp_path, study.NAME, over_categories(("good", "hard", 0.6), ("bad", "easy", 0.94)))
    table = study.spent(tmp_path)
    assert study.methods(table).empty
    (said,) = study.lacking(table)
    assert said.endswith("no category is done by all methods: good lacks easy; bad lacks hard.")
    assert best_trivial(study.NAME, tmp_path, "image_auroc", study.compared(table)).empty
    run_notebook("68_cost", tmp_path)


def test_a_method_without_a_time_in_a_category_has_no_cost(tmp_path):
    runs = over_categories(*((method, place, 0.6) for method in ("whole", "short") for place in ("hard", "easy")))
    runs[-1]["record"] |= {"resumed": True}
    store_study(tmp_path, study.NAME, runs)
    found = study.methods(study.spent(tmp_path)).set_index("method")
    assert found.loc["whole", "seconds_per_image"] == pytest.approx(0.1)
    assert math.isnan(found.loc["short", "seconds_per_image"])
    assert found.loc["short", "value"] == pytest.approx(60)


def test_a_baseline_that_lacks_a_category_is_no_candidate(tmp_path):
    runs = over_categories(("padim", "hard", 0.6), ("padim", "easy", 0.9))
    runs[0]["record"]["baselines"][""]["nearest"] = {"image_auroc": 1.0}
    store_study(tmp_path, study.NAME, runs)
    (row,) = best_trivial(study.NAME, tmp_path, "image_auroc").to_dict("records")
    assert (row["baseline"], row["value"]) == ("spread", pytest.approx(70))


def test_runs_of_the_study_share_nothing_unless_a_folder_is_given():
    assert cache_for(["study/cost"], "") == "none"
    assert cache_for(["study/cost"], "here") == "here"
    assert cache_for(["cxr_ad", "study/how_many_normals"], "") == ""


def test_the_notebook_runs_on_stored_runs_and_on_none(tmp_path):
    stored(tmp_path, padim=[(0.80, 1), (0.82, 1.2)], patchcore=[(0.95, 4), (0.97, 5)])
    run_notebook("68_cost", tmp_path)
    run_notebook("68_cost", tmp_path / "nothing")


def test_methods_are_set_beside_the_best_trivial_baseline_of_the_same_images(tmp_path):
    said = {"": {"spread": {"image_auroc": 0.5}, "file size": {"image_auroc": 0.75}, "deviation map": {"aupro": 0.1}}}
    runs = [{"method": name, "metrics": {"image_auroc": value}} for name, value in (("padim", 0.7), ("cfa", 0.9))]
    place = {"dataset": "three_cad", "category": "cloth", "record": {"baselines": said, "environment": {}}}
    counts = {"counts": {"cloth": {"train": 9, "test_normal": 4, "test_anomalous": 6}}}
    store_study(tmp_path, study.NAME, [place | run | {"data": counts} for run in runs])
    trivial = best_trivial(study.NAME, tmp_path, "image_auroc")
    assert trivial.to_dict("records") == [{"dataset": "three_cad", "baseline": "file size", "value": 75}]
    found = study.methods(study.spent(tmp_path))
    (sentence,) = study.beside_trivial(found, trivial)
    assert "file size reaches image AUROC 75.0" in sentence
    assert sentence.endswith("No better: padim (70.0).")
    assert best_trivial(study.NAME, tmp_path, "image_ap").empty


def test_the_baselines_of_a_run_on_several_categories_count_for_each_of_them(tmp_path):
    """A joint run fills a cell per category: the best is that of the mean over them, not of the first."""
    parts = {"one": {"spread": {"image_auroc": 1}, "mean grey": {"image_auroc": 0.8}}}
    parts["two"] = {"spread": {"image_auroc": 0.5}, "mean grey": {"image_auroc": 0.9}}
    run = {"method": "uniad", "dataset": "folder", "category": "one", "record": {"baselines": parts}}
    store_study(tmp_path, study.NAME, [run])
    folder = Store(tmp_path / "runs").path("0" * 16)
    record = json.loads((folder / "record.json").read_text())
    write_record(folder, record | {"run": record["run"] | {"category": ""}})
    file = tmp_path / "plans" / f"{study.NAME}.json"
    plan = json.loads(file.read_text())
    write_json(file, plan | {"cells": [*plan["cells"], plan["cells"][0] | {"category": "two"}]})
    (row,) = best_trivial(study.NAME, tmp_path, "image_auroc").to_dict("records")
    assert (row["baseline"], row["value"]) == ("mean grey", pytest.approx(85))


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("image_aurok", "possible are image_auroc, .*Did you mean 'image_auroc'"),
        ("fpr", "possible are image_auroc, image_ap"),
        ("mcc", "possible are"),
        ("tp", "possible are"),
        ("image_f1max_threshold", "possible are"),
    ],
)
def test_a_metric_that_is_none_or_no_share_that_is_better_high_is_refused(tmp_path, metric, said):
    with pytest.raises(InputError, match=said):
        study.spent(tmp_path, metric)
    for possible in ("aupro", "recall", "pro_per_image"):
        assert study.spent(tmp_path, possible).empty


def test_a_cost_that_is_not_measured_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"cost = 'second_per_image' .*Did you mean 'seconds_per_image'"):
        study.frontier(study.methods(study.spent(tmp_path)), "second_per_image")
    with pytest.raises(InputError, match="possible are seconds_per_image, fit_seconds"):
        study.show_frontier(study.methods(study.spent(tmp_path)), cost="seconds")
