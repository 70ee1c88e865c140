"""The papers' tables as printed, and their protocols."""

import pytest
import yaml

from adlib import InputError, list_papers, published
from adlib.datasets import facts, list_datasets
from adlib.papers import COLUMNS, protocol, stated
from adlib.runs.environment import REPOSITORY


def value(rows, **where):
    for column, wanted in where.items():
        rows = rows[rows[column] == wanted]
    assert len(rows) == 1
    return rows["value"].item()


def test_cxr_ad_cells():
    table = published("cxr_ad")
    assert list(table.columns) == COLUMNS
    assert value(table, table="I", category="CDIP", metric="test_anomalous") == 164
    cells = {
        ("patchcore", "CFP20", "image_auroc"): 32.17,
        ("onenip", "DC", "pixel_auroc"): 95.72,
        ("adaclip", "CDIP", "image_auroc"): 21.93,
        ("adaclip", "average", "image_auroc"): 55.32,
    }
    for (method, category, metric), printed in cells.items():
        where = {"table": "II", "dataset": "cxr_ad", "method": method, "category": category, "metric": metric}
        assert value(table, **where) == printed
    assert value(table, dataset="mvtec_ad", method="onenip", category="average", metric="image_auroc") == 97.90


def test_cxr_ad_table_2_is_complete():
    table = published("cxr_ad").query("table == 'II'")
    assert len(table) == 3 * 7 * 2
    assert not table.duplicated(["method", "dataset", "category", "metric"]).any()


def test_table_1_agrees_with_the_dataset_facts():
    table = published("cxr_ad").query("table == 'I'").pivot(index="category", columns="metric", values="value")
    assert table.drop("total").sum().to_dict() == table.loc["total"].to_dict()
    expected = facts("cxr_ad").count_table()
    assert (table.loc[expected.index, expected.columns] == expected).all(axis=None)


@pytest.mark.parametrize("name", list_papers())
def test_protocol_names_what_exists(name):
    about = protocol(name)
    tables = set(published(name)["table"])
    for table, spec in about["tables"].items():
        assert table in tables
        assert set(spec["datasets"]) <= set(list_datasets())
        assert set(spec["methods"]) <= set(published(name)["method"])
    for notebooks in about["notebooks"].values():
        for notebook in notebooks:
            assert (REPOSITORY / "notebooks" / f"{notebook}.ipynb").is_file()


def test_unknown_paper_and_unknown_statement():
    with pytest.raises(InputError, match="Unknown paper 'nature'; known are"):
        published("nature")
    with pytest.raises(InputError, match="states no 'price'; it states grey_share"):
        stated("cxr_ad", "price")


@pytest.mark.parametrize("profile", sorted((REPOSITORY / "nbconfig" / "profiles").glob("*.yaml")), ids=lambda p: p.stem)
def test_profiles_set_parameters_that_exist(profile):
    from adlib.models import create_model, list_models, model_class

    content = yaml.safe_load(profile.read_text())
    for method, settings in content.get("methods", {}).items():
        assert method in list_models()
        own = {name: value for name, value in settings.items() if name not in ("size", "crop", "window")}
        create_model(method, **own)
        assert set(model_class(method).image_defaults) >= set(settings) - set(own)
