"""The table of methods: a row for each, and facts that agree with the methods themselves."""

import inspect

import pytest

from adlib.models import list_models, model_class
from adlib.models.facts import FACTS, default_weights, method_table


def test_every_method_has_its_row():
    assert list(method_table()["method"]) == list_models()


@pytest.mark.parametrize("name", list_models())
def test_year_is_that_of_the_publication_in_the_methods_file(name):
    text, year = inspect.getmodule(model_class(name)).__doc__, FACTS[name].year
    assert str(year) in text or f"arXiv {year % 100}" in text


@pytest.mark.parametrize("name", list_models())
def test_data_besides_normal_images_is_what_the_parameters_ask_for(name):
    detector = model_class(name)
    parameters = inspect.signature(detector.__init__).parameters
    if "textures" in parameters:
        assert "drawn without" in FACTS[name].data
    assert detector.accepts_anomalous == ("label" in FACTS[name].data)
    assert (FACTS[name].joint == "no target") == ("auxiliary" in parameters)
    assert FACTS[name].trained == bool({"epochs", "steps", "gan_steps", "student_steps"} & set(parameters))


def test_weights_are_those_of_the_default_backbone(monkeypatch, tmp_path):
    monkeypatch.delenv("ADLIB_WEIGHTS", raising=False)
    assert default_weights("patchcore") == "wide_resnet50_2.tv_in1k"
    assert default_weights("draem") == ""
    (tmp_path / "wide_resnet50_2.tv_in1k.safetensors").touch()
    monkeypatch.setenv("ADLIB_WEIGHTS", str(tmp_path))
    row = method_table().set_index("method").loc["patchcore"]
    assert row["weights"] == "wide_resnet50_2.tv_in1k (here)"
    assert row["papers"] == "cxr_ad, miic"
    assert row["scores"] == "image, pixel"
