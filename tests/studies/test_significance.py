"""Significance: differences of stored scores, and what test sets of the printed sizes can tell apart."""

import numpy as np
import pandas as pd
import pytest
from stored import run_notebook, store_study

from adlib import InputError, Predictions
from adlib.datasets import facts
from adlib.samples import make_samples
from adlib.studies import significance as study

LABELS = [0] * 10 + [1] * 10
PERFECT = np.arange(20.0)
POOR = np.tile([1.0, 0, 3, 2, 5], 4)  # as many of each score among normal and anomalous images: AUROC 50


def predictions(scores: np.ndarray, photographs: int = 1, category: str = "cloth") -> Predictions:
    """photographs: of each item, all with its score."""
    about = {"split": "test", "category": category}
    rows = [
        about | {"image": f"{row:02}_{shot}.png", "label": label, "item": str(row) if photographs > 1 else ""}
        for row, label in enumerate(LABELS)
        for shot in range(photographs)
    ]
    scores = np.repeat(scores, photographs)
    return Predictions(scores, None, make_samples(rows, "numbers given by hand"))


def stored(out, photographs: int = 1) -> None:
    runs = {"padim": PERFECT, "patchcore": PERFECT + 5, "stfpm": POOR}
    place = {"dataset": "three_cad", "category": "cloth"}
    found = {method: predictions(scores, photographs) for method, scores in runs.items()}
    store_study(out, study.NAME, [place | {"method": method, "predictions": one} for method, one in found.items()])


def test_holm_multiplies_the_smallest_by_all_and_never_falls():
    assert study.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert study.holm([0.9, 0.8]).tolist() == [1, 1]
    one, undefined = study.holm([0.02, np.nan])
    assert one == pytest.approx(0.04)  # the undefined one was a test too
    assert np.isnan(undefined)


def test_pairs_are_told_apart_where_their_ranking_differs(tmp_path):
    stored(tmp_path)
    found = study.comparisons(tmp_path, replicates=200).set_index(["better", "other"])
    same = found.loc["padim", "patchcore"]  # another unit, the same order
    assert (same["difference"], same["p_value"], same["told"]) == (0, 1, False)
    assert np.isnan(same["low"])  # no resampling moves it
    apart = found.loc["padim", "stfpm"]
    assert (apart["better_auroc"], apart["other_auroc"], apart["difference"]) == (100, 50, 50)
    assert 0 < apart["low"] < 50 < apart["high"]
    assert apart["holm"] >= 2 * apart["p_value"] > 0
    assert apart["told"]
    again = study.comparisons(tmp_path, replicates=200).set_index(["better", "other"])
    assert found.equals(again)
    said = study.pair_conclusions(found.reset_index())
    assert said[0].startswith("three_cad: 2 of 3 pairs of methods are told apart, corrected for their number; ")
    assert "the smallest difference among them is 50.0 points" in said[0]
    assert "10 normal and 10 anomalous images); the largest that is not is 0.0 points" in said[0]


def test_the_smallest_that_is_told_and_the_largest_that_is_not_are_named():
    about = {"dataset": "set", "category": "c", "better": "a", "other": "b", "normal": 5, "anomalous": 6, "reason": ""}
    rows = [(3.0, True), (9.0, True), (2.0, False), (5.0, False)]
    table = pd.DataFrame(
        [about | {"difference": far, "told": told, "low": 0.5, "high": 10, "correlation": 0.5} for far, told in rows]
    )
    said = study.pair_conclusions(table)[0]
    assert said.startswith("set: 2 of 4 pairs of methods are told apart")
    assert "the smallest difference among them is 3.0 points" in said and "largest that is not is 5.0 points" in said


def test_p_values_are_corrected_for_the_pairs_of_all_categories_of_a_dataset(tmp_path):
    runs = [
        {
            "dataset": "three_cad",
            "category": category,
            "method": method,
            "predictions": predictions(scores, 1, category),
        }
        for category in ("cloth", "metal")
        for method, scores in {"padim": PERFECT, "stfpm": POOR}.items()
    ]
    store_study(tmp_path, study.NAME, runs)
    found = study.comparisons(tmp_path, replicates=50)
    assert found["holm"].tolist() == pytest.approx((2 * found["p_value"]).tolist())
    assert found["holm"].tolist() == pytest.approx(study.holm(found["p_value"]))


def test_two_that_differ_without_an_interval_are_not_told_apart(tmp_path):
    place = {"dataset": "three_cad", "category": "cloth"}
    runs = {"padim": PERFECT, "stfpm": -PERFECT}  # however items are drawn, one is right and the other wrong
    found = {method: predictions(scores, photographs=2) for method, scores in runs.items()}
    store_study(tmp_path, study.NAME, [place | {"method": method, "predictions": one} for method, one in found.items()])
    (row,) = study.comparisons(tmp_path, replicates=200).to_dict("records")
    assert row["holm"] < study.ALPHA and np.isnan(row["low"])
    assert not row["told"]


def test_a_pair_is_the_same_whichever_method_comes_first(tmp_path):
    place = {"dataset": "three_cad", "category": "cloth"}
    runs = [place | {"method": name, "predictions": predictions(of)} for name, of in (("a", PERFECT), ("b", POOR))]
    found = []
    for name, order in (("better first", runs), ("better last", runs[::-1])):
        store_study(tmp_path / name, study.NAME, order)
        (row,) = study.comparisons(tmp_path / name, replicates=200).to_dict("records")
        assert (row["better"], row["other"], row["better_auroc"], row["other_auroc"]) == ("a", "b", 100, 50)
        found.append([row["low"], row["difference"], row["high"]])
    assert found[0] == pytest.approx(found[1]) and found[0][0] < 50 < found[0][2]


def test_two_that_rank_images_alike_are_correlated_by_one(tmp_path):
    place, scores = {"dataset": "three_cad", "category": "cloth"}, PERFECT - 6 * (PERFECT == 12)
    runs = {"padim": scores, "stfpm": 2 * scores}
    store_study(
        tmp_path, study.NAME, [place | {"method": name, "predictions": predictions(of)} for name, of in runs.items()]
    )
    found = study.comparisons(tmp_path, replicates=50)
    assert found["correlation"].tolist() == pytest.approx([1])
    assert "are correlated by 1.00, in the one pair" in study.pair_conclusions(found)[1]


def test_two_that_rank_images_the_other_way_round_are_correlated_by_minus_one(tmp_path):
    place, scores = {"dataset": "three_cad", "category": "cloth"}, PERFECT - 6 * (PERFECT == 12)
    runs = [place | {"method": name, "predictions": predictions(of)} for name, of in (("a", scores), ("b", -scores))]
    store_study(tmp_path, study.NAME, runs)
    found = study.comparisons(tmp_path, replicates=50)
    assert found["correlation"].tolist() == pytest.approx([-1])


def test_of_several_seeds_the_first_is_compared(tmp_path):
    place = {"dataset": "three_cad", "category": "cloth"}
    padim = [
        place | {"method": "padim", "seed": seed, "predictions": predictions(of)}
        for seed, of in ((1, POOR), (0, PERFECT))
    ]
    store_study(tmp_path, study.NAME, [*padim, place | {"method": "stfpm", "predictions": predictions(POOR)}])
    assert study.comparisons(tmp_path, replicates=50)[["better", "difference"]].to_numpy().tolist() == [["padim", 50]]


def test_images_of_one_kind_alone_are_no_pair(tmp_path):
    place = {"dataset": "three_cad", "category": "cloth"}
    runs = {"padim": predictions(PERFECT), "stfpm": predictions(POOR)}
    store_study(
        tmp_path,
        study.NAME,
        [place | {"method": method, "predictions": one.select(list(range(10)))} for method, one in runs.items()],
    )
    assert study.comparisons(tmp_path, replicates=50).empty


def test_why_there_is_no_interval_is_said_as_it_is(tmp_path):
    place = {"dataset": "three_cad", "category": "cloth"}
    for name, rows, reason in (("tie", range(20), "no resampling moves it"), ("one", range(11), "but one anomalous")):
        both = {"padim": predictions(PERFECT), "stfpm": predictions(PERFECT if name == "tie" else POOR)}
        runs = [place | {"method": method, "predictions": one.select(list(rows))} for method, one in both.items()]
        store_study(tmp_path / name, study.NAME, runs)
        found = study.comparisons(tmp_path / name, replicates=50)
        assert np.isnan(found["low"].iat[0]) and reason in found["reason"].iat[0]
        assert f"no interval: {found['reason'].iat[0]}" in study.pair_conclusions(found)[0]
        named = study.show_pairs(found).axes[0].get_yticklabels()[0].get_text()
        assert named == ("padim = stfpm" if name == "tie" else "padim > stfpm")


@pytest.mark.parametrize(
    ("wrong", "name"), [((1.0, 0.8), "correlation"), ((-3, 0.8), "correlation"), ((0.5, 80), "power")]
)
def test_what_is_assumed_of_printed_leads_has_bounds(wrong, name):
    with pytest.raises(InputError, match=f"{name}={wrong[name == 'power']}.*must lie above"):
        study.printed_leads(*wrong)


def test_leads_below_zero_are_drawn():
    leads = study.printed_leads()
    axis = study.show_leads(leads).axes[0]
    assert leads["low"].min() < 0
    assert axis.get_xlim()[0] < leads["low"].min()
    assert min(line.get_xdata()[0] for line in axis.lines if len(line.get_xdata()) == 2) == leads["low"].min()


def test_photographs_of_an_item_make_no_difference_more_certain(tmp_path):
    p_values, intervals = [], []
    for photographs in (1, 2, 8):
        stored(tmp_path / str(photographs), photographs)
        found = study.comparisons(tmp_path / str(photographs), replicates=200).set_index(["better", "other"])
        p_values.append(found.loc["padim", "stfpm"]["p_value"])
        intervals.append(found.loc["padim", "stfpm"][["low", "high"]].tolist())
        assert found.loc["padim", "patchcore"]["p_value"] == 1
    assert p_values[1:] == pytest.approx([2 / 201] * 2)  # the least that 200 replicates can give
    assert p_values[0] < 2 / 201  # DeLong's, of one photograph each
    assert intervals[1] == pytest.approx(intervals[0]) and intervals[2] == pytest.approx(intervals[0])


def test_an_interval_above_zero_is_not_enough_where_many_pairs_were_tried(tmp_path):
    stored(tmp_path, photographs=2)
    found = study.comparisons(tmp_path, replicates=50).set_index(["better", "other"])
    apart = found.loc["padim", "stfpm"]
    assert apart["p_value"] == pytest.approx(2 / 51) and apart["low"] > 0  # of itself it would be told
    assert apart["holm"] == pytest.approx(6 / 51) and not apart["told"]  # but not among three pairs


def test_the_variance_of_an_auroc_is_that_of_hanley_and_mcneil():
    assert study.auroc_variance(0.5, 1, 1) == 0.25  # one pair, in order or not
    assert study.auroc_variance(1.0, 7, 9) == 0
    # By hand, A = 0.8: Q1 = 0.8 / 1.2, Q2 = 1.28 / 1.8.
    by_hand = (0.16 + 9 * (0.8 / 1.2 - 0.64) + 4 * (1.28 / 1.8 - 0.64)) / 50
    assert study.auroc_variance(0.8, 10, 5) == pytest.approx(by_hand)


def test_the_smallest_difference_lies_as_many_standard_errors_off_as_the_power_asks():
    counts = [(20, 60)]
    found = study.smallest_difference([0.9], counts, 0.5, power=0.8)
    assert found == pytest.approx((1.959964 + 0.841621) * study.difference_std([0.9], [0.9 - found], counts, 0.5))
    assert study.smallest_difference([0.9], counts, 0.9) < found  # alike methods are told apart by less
    assert study.smallest_difference([0.9], [(2000, 6000)], 0.5) < found / 5
    assert study.smallest_difference([0.9, 0.9], counts * 2, 0.5) < found  # an average over more images
    assert np.isnan(study.smallest_difference([0.6], [(2, 2)], 0.0))  # no difference is large enough


def test_delong_finds_the_smallest_difference_as_often_as_the_power_says():
    from adlib.metrics import delong_compare

    rng, labels = np.random.default_rng(0), np.repeat([0, 1], 150)
    best, correlation = 0.85, 0.5
    worse = best - study.smallest_difference([best], [(150, 150)], correlation)
    shift = np.sqrt(2) * np.array([_quantile(best), _quantile(worse)])  # two normal distributions of deviation 1
    noise = np.array([[1, 0.55], [0.55, 1]])  # of scores, which gives AUROCs about that correlation
    found = 0
    for _ in range(200):
        scores = rng.multivariate_normal([0, 0], noise, 300) + labels[:, None] * shift
        found += delong_compare(labels, *scores.T)["p_value"] < 0.05
    assert 0.7 < found / 200 < 0.9


def _quantile(share: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(share)


def test_printed_leads_are_those_of_the_papers_on_their_own_numbers_of_images():
    leads = study.printed_leads().set_index(["paper", "table", "dataset", "category"])
    miic = leads.loc["miic", "3", "miic", "MIIC"]
    assert (miic["best"], miic["second"], miic["normal"], miic["anomalous"]) == ("iad_inpainting", "cfa", 1272, 116)
    assert miic["lead"] == pytest.approx(99.27 - 99.01)
    assert not miic["found"]
    few = leads.loc["cxr_ad", "II", "cxr_ad", "CFP16"]
    assert (few["normal"], few["anomalous"]) == (10, 60)
    assert few["smallest"] > leads.loc["cxr_ad", "II", "cxr_ad", "CDIP"]["smallest"]
    assert ("three_cad", "5", "mvtec_ad", "average") in leads.index
    assert ("three_cad", "5", "three_cad", "average") not in leads.index  # printed again
    counts = study.by_correlation()
    said = study.lead_conclusions(study.printed_leads())
    for paper, text in zip(counts.index, said, strict=False):
        least, most = counts.loc[paper, ["r = 0", "r = 0.9"]]
        assert f"({least} if the methods' AUROCs were correlated by 0, {most} by 0.9)" in text
    assert study.uncounted().to_dict("records") == [{"paper": "texture_ad", "dataset": "texture_ad", "columns": 15}]


def test_an_average_of_categories_that_are_not_printed_counts_each_with_the_average():
    row = study.printed_leads().set_index(["table", "dataset", "category"]).loc["5", "mvtec_ad", "average"]
    counts = [counts[1:] for counts in facts("mvtec_ad").counts.values()]
    smallest = study.smallest_difference([row["best_auroc"] / 100] * len(counts), counts)
    assert row["smallest"] == pytest.approx(100 * smallest)


def test_the_notebook_runs_on_stored_runs_and_on_none(tmp_path):
    stored(tmp_path)
    run_notebook("69_significance", tmp_path)
    run_notebook("69_significance", tmp_path / "nothing")
