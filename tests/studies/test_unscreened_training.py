"""Unscreened training: shares are compared on the images that all of them have tested, and nothing else."""

import numpy as np
import pandas as pd
import pytest
from conftest import make_tree
from stored import run_notebook, store_study

from adlib import Predictions, load_samples
from adlib.errors import InputError
from adlib.samples import select
from adlib.studies import unscreened_training as study

SHARES = {0.0: [0, 1, 2, 3, 4, 5, 6, 7], 0.25: [0, 1, 2, 3, 5, 6, 7]}  # the fifth image, a defect, was learned


@pytest.fixture
def out(tmp_path):
    """Four normal images with scores 0 to 3 and three defects, of which one is lost where one was learned."""
    test = select(load_samples("folder", make_tree(tmp_path / "folder", size=32)), split="test").reset_index(drop=True)
    assert test["label"].tolist() == [0] * 4 + [1] * 4
    runs = []
    for seed in (0, 1):
        for share, rows in SHARES.items():
            scores = np.array([0, 1, 2, 3, -9, 9, 9, 9 if share == 0 else 1.5 + seed])[rows]
            maps = np.zeros((8, 32, 32), np.float32)
            maps[:4, 0, 0] = 1  # of normal images: little
            maps[5:, 8:24, 8:24] = 9 if share == 0 else 0.1
            runs.append(
                {
                    "method": "padim",
                    "dataset": "folder",
                    "category": "thing",
                    "seed": seed,
                    "settings": {"train_contamination": share},
                    "predictions": Predictions(scores, maps[rows], test.iloc[rows], {"size": 32}),
                    "images": 3 if share else 4,
                    "unscreened": int(share > 0),
                }
            )
    store_study(tmp_path, study.NAME, runs)
    return tmp_path


def test_every_share_is_scored_on_the_images_that_the_highest_has_left(out):
    found = study.values(study.runs(out)).set_index(["seed", "share"])
    assert set(found["tested"]) == {7}
    assert set(found["defects"]) == {3}
    # The defect that scores -9 counts at no share. Of the others' 12 pairs with normal images one loses 2, or 1.
    assert found["value"].tolist() == pytest.approx([100, 100 * 10 / 12, 100, 100 * 11 / 12])


def test_of_a_run_on_several_categories_each_is_scored_on_its_own_images(out):
    table = study.runs(out)
    alone = study.values(table)
    for folder in table["predictions"]:  # another category's images, which it finds the wrong way round
        mine = Predictions.load(folder)
        other = mine.samples.assign(category="other", image=mine.samples["image"] + ".other.png")
        samples = pd.concat([mine.samples, other], ignore_index=True)
        scores = np.concatenate([mine.scores, -mine.scores])
        Predictions(scores, None, samples, mine.settings).save(folder)
    assert study.values(table).equals(alone)


def test_where_no_share_costs_anything_the_highest_is_told(out):
    table = study.costs(study.runs(out), study.values(study.runs(out)))
    more = table[table["share"] > 0].assign(share=0.5, unscreened=2)
    (said,) = study.conclusions(pd.concat([table, more], ignore_index=True))
    assert "with 2 unscreened of 4 training images (50% asked for)" in said


def test_metrics_of_pixels_are_of_the_maps(out):
    found = study.values(study.runs(out), "pixel_auroc").set_index(["seed", "share"])["value"]
    assert len(found) == 4 and (found.xs(0.0, level="share") > found.xs(0.25, level="share")).all()


def test_a_cost_is_taken_within_a_draw_and_its_interval_is_over_the_draws(out):
    table = study.costs(study.runs(out), study.values(study.runs(out))).set_index("share")
    row = table.loc[0.25]
    assert row[["unscreened", "learned", "seeds"]].tolist() == [1, 4, 2]
    assert row["difference"] == pytest.approx(-12.5)
    reach = 12.706205 * 100 / 24  # t of 1 degree of freedom; both lie 100/24 from their mean, over the root of 2 x 1/2
    assert row[["low", "high"]].tolist() == pytest.approx([-12.5 - reach, -12.5 + reach])
    assert table.loc[0.0, "difference"] == 0
    found = study.values(study.runs(out))
    more = found.assign(category="another", defects=9)
    assert set(study.costs(study.runs(out), pd.concat([found, more]))["defects"]) == {3}  # the fewest of a category


def test_conclusions_follow_the_numbers(out):
    table = study.costs(study.runs(out), study.values(study.runs(out)))
    (said,) = study.conclusions(table)
    assert said == (
        "padim on folder: no share that was tried is shown to cost anything: with 1 unscreened of 4 training images "
        "(25% asked for) image AUROC is 12.5 points lower (95 % interval -65.4 to 40.4, 2 draws, 3 defects tested)."
    )
    (said,) = study.conclusions(table.assign(high=-1.0))
    assert "the lowest share that is shown to cost something" in said


def test_a_cost_that_all_draws_have_alike_has_no_interval_and_is_not_shown(out):
    runs = study.runs(out)
    table = study.costs(runs, study.values(runs))
    (said,) = study.conclusions(table.assign(difference=-2.0, low=-2.0, high=-2.0))
    assert "no share that was tried is shown to cost anything" in said
    assert "no interval" in said


def test_contrast_is_in_units_of_the_maps_of_normal_images(out):
    found = next(study.common_predictions(study.runs(out)))[1][0.0].select([0, 6])  # a normal one and a defect
    maps, mask = np.stack([np.arange(1024.0).reshape(32, 32)] * 2), np.zeros((2, 32, 32), bool)
    mask[1, :2] = True
    middle, high = np.percentile(maps[0], [50, 99])
    maps[1, :2] = middle + 3 * (high - middle)
    found.maps, found.__dict__["masks"] = maps, mask
    assert np.isnan(study.contrast(found)[0]) and study.contrast(found)[1] == pytest.approx(3)


def test_defects_that_fade_stand_out_less_and_those_that_fade_most_come_first(out):
    labels = study.points(study.runs(out))["label"].tolist()
    lost = [float(label.rpartition("stands out by ")[2].partition(" less")[0]) for label in labels]
    assert min(lost) > 0 and lost == sorted(lost, reverse=True)


def test_a_share_of_less_than_one_image_is_no_level(out):
    run = {"method": "stfpm", "dataset": "folder", "category": "thing", "settings": {"train_contamination": 0.01}}
    store_study(out / "few", study.NAME, [run])
    assert study.runs(out / "few").empty


def test_a_defect_stands_out_by_the_maps_of_normal_images(out):
    draw, found = next(study.common_predictions(study.runs(out)))
    contrast = study.contrast(found[0.0])
    assert np.isnan(contrast[:4]).all()
    assert (contrast[4:] > study.contrast(found[0.25])[4:]).all()
    assert (draw["method"], list(found)) == ("padim", [0.0, 0.25])


@pytest.mark.parametrize(("lost", "said"), [(0.71, "by 0.7 less"), (-0.3, "by 0.3 more"), (-0.01, "as much")])
def test_what_does_not_fade_is_not_said_to_stand_out_by_less(lost, said):
    assert study._change(lost) == said


def test_the_notebook_runs_on_stored_runs_and_on_none(out, tmp_path):
    run_notebook("64_unscreened_training", out)
    run_notebook("64_unscreened_training", tmp_path / "nothing")


@pytest.mark.parametrize("metric", ["image_aurok", "recall", "aupro_regions", "image_f1max_threshold"])
def test_a_metric_that_ranks_nothing_is_refused(out, metric):
    with pytest.raises(InputError, match=r"possible are image_auroc, .*, aupro"):
        study.values(study.runs(out), metric)
