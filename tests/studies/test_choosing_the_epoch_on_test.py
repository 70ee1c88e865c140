"""Choosing the epoch: hindsight is what the best epoch has on the very images that chose it, and on no others."""

import numpy as np
import pandas as pd
import pytest
from stored import run_notebook, store_study

from adlib import InputError, Predictions
from adlib.samples import make_samples
from adlib.studies import choosing_the_epoch_on_test as study

LABELS = [0, 0, 1, 1]
BAD, GOOD = [2, 3, 0, 1], [0, 1, 2, 3]  # AUROC of 0 and of 1, on any half too


def run(epochs: int, scores: list[float], seed: int = 0, table: str = "main") -> dict:
    about = {"split": "test", "category": "thing", "defect": "x"}
    rows = [about | {"image": f"{row}.png", "label": label} for row, label in enumerate(LABELS)]
    return {
        "method": "stfpm",
        "dataset": "folder",
        "category": "thing",
        "seed": seed,
        "settings": {"epochs": epochs},
        "table": table,
        "predictions": Predictions(np.array(scores, float), None, make_samples(rows, "numbers given by hand")),
    }


def values(out) -> dict:
    found = study.choices(study.runs(out))
    return found[found["seed"] == 0].set_index("rule")["value"].to_dict()


def test_an_epoch_that_is_better_on_all_images_is_no_hindsight(tmp_path):
    store_study(tmp_path, study.NAME, [run(2, GOOD), run(4, BAD)])
    assert values(tmp_path) == pytest.approx({"last": 0, "best on test": 100, "other test images": 100})


def test_the_best_of_several_is_neither_the_shortest_nor_the_longest(tmp_path):
    store_study(tmp_path, study.NAME, [run(1, BAD), run(2, GOOD), run(4, BAD)])
    found = values(tmp_path)
    assert (found["last"], found["best on test"]) == (0, 100)


def test_images_of_unknown_label_choose_nothing(tmp_path):
    runs = [run(2, GOOD), run(4, BAD)]
    for each in runs:
        each["predictions"].samples["label"] = [0, 0, 1, -1]
    store_study(tmp_path, study.NAME, runs)
    assert values(tmp_path) == {"last": 0, "best on test": 100}


def test_an_epoch_that_is_as_good_by_luck_gains_nothing_on_other_images(tmp_path):
    # Each epoch tells all pairs but those with one of the normal images, or one of the defects: 2 of 4 pairs, or 3.
    store_study(tmp_path, study.NAME, [run(2, [0, 3, 1, 2]), run(4, [3, 0, 1, 2])])
    found = values(tmp_path)
    assert (found["last"], found["best on test"]) == (50, 50)
    # A half with the first normal image says 2 epochs (1 to 0), the half with the second says 4: each wrong elsewhere.
    assert found["other test images"] == pytest.approx(50 + 100 * (-1 + 0) / 2)


def test_of_equals_the_longest_is_taken_and_few_images_give_no_halves(tmp_path):
    single = run(2, GOOD)["predictions"].select([0, 2, 3])
    store_study(tmp_path, study.NAME, [run(2, GOOD) | {"predictions": single}, run(4, BAD) | {"predictions": single}])
    assert values(tmp_path) == {"last": 100, "best on test": 100}


def test_worth_is_a_difference_within_a_seed_with_students_interval(tmp_path):
    runs = [run(epochs, scores, seed) for seed in (0, 1) for epochs, scores in ((2, GOOD), (4, BAD))]
    runs += [run(4, [0, 2, 1, 3], seed, "validation") for seed in (0, 1)]
    store_study(tmp_path, study.NAME, runs)
    table = study.worth(study.choices(study.runs(tmp_path))).set_index("rule")
    assert table["difference"].to_dict() == pytest.approx(
        {"best on test": 100, "other test images": 100, "validation loss": 75, "hindsight": 0}
    )
    assert set(table["seeds"]) == {2}
    said = study.conclusions(table.reset_index())
    assert said[0].startswith(
        "stfpm on folder, image AUROC against the last epoch: the best epoch on the test images is"
    )
    assert "the lowest validation loss is 75.0 points higher (alike in all 2 seeds: no interval)" in said[0]
    assert "0.0 points of the best epoch are hindsight" in said[1] and "not told from none" in said[1]


@pytest.mark.parametrize(("low", "high", "told"), [(-1.0, 4.0, False), (1.0, 4.0, True), (-4.0, -1.0, True)])
def test_hindsight_is_told_from_none_where_its_interval_leaves_none_out(low, high, told):
    row = {"dataset": "folder", "method": "stfpm", "rule": "hindsight", "difference": (low + high) / 2}
    (_, said) = study.conclusions(pd.DataFrame([row | {"low": low, "high": high, "seeds": 3}]))
    assert ("not told from none" not in said) == told


def test_a_training_of_which_one_number_of_epochs_was_tried_leaves_nothing_to_choose(tmp_path):
    store_study(tmp_path, study.NAME, [run(4, GOOD)])
    assert study.choices(study.runs(tmp_path)).empty


@pytest.mark.parametrize("ask", [study.curves, study.choices])
def test_a_metric_that_scores_of_images_do_not_have_is_refused(ask, tmp_path):
    with pytest.raises(InputError, match="metric = 'aupro' cannot be taken here; possible are image_auroc, image_ap"):
        ask(study.runs(tmp_path), "aupro")


def test_a_seed_whose_longest_training_is_missing_has_no_last_epoch(tmp_path):
    """Its training of two epochs is not what the others' of four is, and no reference for a validated one of four."""
    runs = [run(epochs, scores, seed) for seed in (0, 1) for epochs, scores in ((1, BAD), (2, GOOD), (4, BAD))]
    runs += [run(4, GOOD, seed, "validation") for seed in (0, 1)]
    torn = [each for each in runs if each["seed"] != 1 or each["settings"]["epochs"] != 4 or each["table"] != "main"]
    store_study(tmp_path / "torn", study.NAME, torn)
    found = study.choices(study.runs(tmp_path / "torn"))
    assert set(found["seed"]) == {0}
    of_other = [each for each in runs if each["table"] == "main"] + [run(2, GOOD, 0, "validation")]
    store_study(tmp_path / "other", study.NAME, of_other)
    assert "validation loss" not in set(study.choices(study.runs(tmp_path / "other"))["rule"])


def test_a_training_of_fewer_epochs_is_the_beginning_of_a_longer_one(tree):
    from adlib import ImageSet, create_model, load_samples
    from adlib.samples import select

    images = ImageSet(select(load_samples("folder", tree), split="train"), size=32)
    tiny = {"weights": "random", "stages": (1,), "validation_share": 0, "batch_size": 2}
    short, long = (create_model("stfpm", epochs=epochs, **tiny) for epochs in (1, 2))
    short.fit(images)
    long.fit(images)
    assert long.losses_[:1] == short.losses_


def test_a_figure_without_a_training_says_so(tmp_path):
    """As of runs of one kind of test images, of which no AUROC is defined: they are done."""
    store_study(tmp_path, study.NAME, [run(2, GOOD), run(4, BAD)])
    assert study.show_curves(study.curves(study.runs(tmp_path))[:0]).axes[0].get_title() == "nothing to show"
    nothing = study.worth(study.choices(study.runs(tmp_path)))[:0]
    assert [label.get_text() for label in study.show_worth(nothing).axes[0].get_yticklabels()] == ["nothing to show"]


def test_the_notebook_runs_on_stored_runs_and_on_none(tmp_path):
    store_study(tmp_path, study.NAME, [run(2, GOOD), run(4, BAD), run(2, GOOD, 1), run(4, [0, 3, 2, 1], 1)])
    run_notebook("66_choosing_the_epoch_on_test", tmp_path)
    run_notebook("66_choosing_the_epoch_on_test", tmp_path / "nothing")
