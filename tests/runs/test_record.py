"""The record: what it says of undefined metrics, oracles and sub-classes."""

import json

import numpy as np
import pytest
from conftest import make_tree

from adlib import ImageSet, Predictions, evaluate, load_samples
from adlib.runs import Recorder, Run
from adlib.samples import select


@pytest.fixture
def recorder(tmp_path):
    settings = {"backbone": "resnet18.tv_in1k", "weights": "random", "size": 32, "crop": None}
    return Recorder(Run("folder", str(make_tree(tmp_path / "tree")), "patchcore", "thing", settings))


def finish(recorder, change, out=""):
    """The record of predictions that `change` made of the ground truth."""
    test = ImageSet(select(load_samples("folder", recorder.run.root), split="test"), size=32)
    predictions = change(Predictions(test.labels, test.masks(), test.samples, test.settings))
    model = recorder.run.create_model()
    model.device_ = "cpu"
    return recorder.finish(model, predictions, evaluate(predictions), out)


def test_undefined_metrics_are_null_with_a_reason(recorder, tmp_path):
    def one_class(predictions):
        return predictions.select(predictions.samples["label"] == 1)

    record = finish(recorder, one_class, tmp_path / "out")
    assert record["metrics"]["image_auroc"] is None
    assert "normal" in record["reasons"]["image_auroc"]
    assert record["oracle"] == {}
    written = json.loads((tmp_path / "out" / "record.json").read_text())
    assert written["metrics"]["image_auroc"] is None


def test_oracle_decisions_are_at_the_best_f1(recorder):
    record = finish(recorder, lambda predictions: predictions)
    assert record["oracle"]["mcc"] == 1
    assert [record["oracle"][name] for name in ("tp", "fp", "fn", "tn")] == [4, 0, 0, 4]
    assert record["groups"] == {}


def test_constant_scores_leave_undefined_decisions_null(recorder):
    def constant(predictions):
        return Predictions(np.ones(len(predictions)), None, predictions.samples, predictions.settings)

    record = finish(recorder, constant)
    assert record["oracle"]["mcc"] is None
    assert record["metrics"]["aupro"] is None
    json.dumps(record, allow_nan=False)


def test_sub_classes_are_scored_by_themselves(recorder):
    def grouped(predictions):
        groups = ["a", "b"] * 4
        scores = np.where(np.array(groups) == "a", predictions.scores, 1 - predictions.scores)
        samples = predictions.samples.assign(group=groups)
        return Predictions(scores, predictions.maps, samples, predictions.settings)

    groups = finish(recorder, grouped)["groups"]
    assert {name: values["image_auroc"] for name, values in groups.items()} == {"a": 1, "b": 0}


def test_vanished_masks_are_warned_of(recorder):
    def tiny(predictions):
        settings = predictions.settings | {"size": 2}
        return Predictions(predictions.scores, predictions.maps[:, :2, :2], predictions.samples, settings)

    warnings = finish(recorder, tiny)["warnings"]
    assert any("mask that vanishes at the size that is scored" in text for text in warnings)
