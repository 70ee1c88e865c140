"""What is run is what the papers say: every cell of every plan, resolved to parameters and held against paper.yaml."""

from itertools import product

import numpy as np
import pytest

from adlib import InputError, list_models, list_papers, published
from adlib.datasets import facts
from adlib.papers import protocol, stated
from adlib.papers.settings import FIELDS, agrees, choices, contradictions, footnotes, settings
from adlib.runs import Run
from adlib.runs.plan import Cell, cell_settings, read_profile
from adlib.training.patch_stream import AUGMENTATIONS


def resolved_cells(paper: str, profile):
    """(cell, category of its run, what would run, parameters that its row sets) of every cell of the paper's tables."""
    about = protocol(paper)
    for table, spec in about["tables"].items():
        rows = spec.get("settings", {"": {}})
        for dataset, method, row in product(spec["datasets"], spec["methods"], rows):
            for category in spec.get("categories", facts(dataset).counts):
                category = "" if method in about.get("joint", []) else category
                cell = Cell(paper, table, method, dataset, category, row, 0)
                run = Run(dataset, "/data", method, category, cell_settings(cell, category, rows[row], profile))
                yield cell, category, run.quantities, set(rows[row])


@pytest.fixture(scope="module")
def profile():
    return read_profile("paper", data="/data")


@pytest.mark.parametrize("paper", list_papers())
def test_what_is_run_is_what_the_paper_says(paper, profile):
    wrong = {
        sentence: f"table {cell.table}, {cell.dataset}/{category} {cell.setting}"
        for cell, category, runs, row in resolved_cells(paper, profile)
        for sentence in contradictions(paper, cell.method, cell.dataset, category, runs, row)
    }
    assert wrong == {}


@pytest.mark.parametrize("paper", list_papers())
def test_every_entry_names_its_source(paper):
    about, methods = protocol(paper), protocol(paper).get("methods", {})
    printed = {method for table in about["tables"].values() for method in table["methods"]}
    assert set(methods) <= printed | {"every"}
    for name, fields in methods.items():
        assert set(fields) <= set(FIELDS), name
        for field, parameters in fields.items():
            for parameter, found in parameters.items():
                for entry in found if isinstance(found, list) else [found]:
                    source = {"states": {"where"}, "cannot": {"where", "why"}}.get(field, {"why"})
                    assert source <= set(entry), (name, parameter)
                    assert len({"value", "at_most", "between"} & set(entry)) == 1, (name, parameter)
                    kept = {"value", "at_most", "between", "of", "share_of", "categories", "datasets", "methods"}
                    assert set(entry) <= kept | source, (name, parameter)
                    assert set(entry.get("methods", [])) <= set(list_models())


# Looked up in the papers' texts, and what would run.
STATED = [
    ("isp_ad", "glass", "LSM-1", {"hypothesis": "manifold", "epochs": 160, "learning_rate": 5e-5, "batch_size": 8}),
    ("isp_ad", "uflow", "LSM-2", {"batch_size": 32, "epochs": 300, "batch_weighted": True, "size": 448}),
    ("isp_ad", "uflow", "ASM", {"input": 448, "size": 512, "crop": 448, "train_limit": 500}),
    ("isp_ad", "glass", "ASM", {"size": 256, "crop": 224}),
    ("isp_ad", "efficientad", "ASM", {"decay_at": 1.0, "input": 256, "network": "medium"}),
    ("isp_ad", "ddad", "LSM-2", {"border": 0, "crop_maps": False, "conditioning": 3}),
    ("isp_ad", "ddad", "LSM-1", {"border": 16, "crop_maps": True, "steps": 3000}),
    ("isp_ad", "mixed_supervised", "ASM", {"brightness": 1, "augmentation": "ASM", "train_limit": None}),
    ("isp_ad", "mixed_supervised", "LSM-1", {"brightness": 1.5, "augmentation": "LSM-1"}),
    ("miic", "patchcore", "MIIC", {"train_share": 0.5, "coreset_limit": 10000, "image_score": "reweighted"}),
    ("miic", "supersimplenet", "MIIC", {"adaptor_rate": 1e-3, "schedule_every": "step", "smoothing": 0.4}),
    ("miic", "fanogan", "MIIC", {"gan_epochs": 7, "patches_per_image": 16}),
    ("texture_ad", "pyramidflow", "cloth", {"levels": 8, "channels": 24, "backbone": "none", "size": 256}),
    ("texture_ad", "draem", "wafer", {"decay": 0.1, "rotation": 45, "epochs": 700, "train_enlarged": 10000}),
    ("texture_ad", "pyramidflow", "metal", {"momentum": 0.1}),
    ("texture_ad", "msad", "wafer", {"momentum": 0.0, "epochs": 10, "batch_size": 64}),
    ("texture_ad", "efficientad", "cloth", {"decay": 0.1, "hard_share": 0.999}),
    ("texture_ad", "simplenet", "cloth", {"slope": 0.2}),
    ("miic", "cfa", "MIIC", {"stages": (1, 2, 3), "smoothing": 0.8, "image_score": "raw"}),
    ("three_cad", "cfrg", "CS", {"backbone": "wide_resnet50_2.tv_in1k", "student": "tf_efficientnet_b0"}),
    ("texture_ad", "simplenet", "metal", {"adaptor_optimiser": "adam", "adaptor_weight_decay": 1e-5, "input": 329}),
    ("three_cad", "uniad", "", {"neighbours": 7, "size": 256, "sides": "both"}),
    ("cxr_ad", "onenip", "", {"size": 320, "encoder_layers": 4}),
]


@pytest.mark.parametrize("case", STATED, ids=lambda case: "-".join(case[:3]))
def test_parameters_that_run(case, profile):
    paper, method, category, expected = case
    cells = resolved_cells(paper, profile)
    runs = next(runs for cell, here, runs, _ in cells if (cell.method, here) == (method, category))
    assert {name: runs[name] for name in expected} == expected


def test_drops_of_the_rate_come_at_the_stated_epochs(profile):
    cells = resolved_cells("texture_ad", profile)
    runs = next(runs for cell, _, runs, _ in cells if cell.method == "draem")
    assert [round(share * runs["epochs"]) for share in runs["milestones"]] == [400, 600]
    cells = resolved_cells("texture_ad", profile)
    runs = next(runs for cell, _, runs, _ in cells if cell.method == "efficientad")
    assert round(runs["decay_at"] * runs["steps"]) == 66500


def test_a_profile_that_contradicts_the_paper_is_found(profile):
    cell = Cell("isp_ad", "4", "glass", "isp_ad", "LSM-1", "", 0)
    own = settings("isp_ad", "glass", "isp_ad", "LSM-1")
    for change, sentence in [
        ({"epochs": 640}, "glass: epochs runs as 640, but states at most 160"),
        ({"learning_rate": 1e-4}, "glass: learning_rate runs as 0.0001, but states 1.25e-05 to 5e-05"),
        ({"hypothesis": "auto"}, "glass: hypothesis runs as 'auto', but states manifold"),
        ({"train_limit": 400}, "glass: train_limit runs as 400, but states 500"),
    ]:
        runs = Run("isp_ad", "/data", "glass", "LSM-1", own | change).quantities
        assert sentence in contradictions("isp_ad", cell.method, "isp_ad", "LSM-1", runs)


def test_a_deviation_must_deviate_and_a_key_must_exist(monkeypatch):
    methods = {
        "patchcore": {
            "states": {"size": {"value": 256, "where": ""}, "epochs": {"value": 3, "where": ""}},
            "chosen": {"size": {"value": 256, "why": ""}},
            "deviates": {"neighbours": {"value": 1, "why": ""}, "size": {"value": 256, "why": ""}},
            "cannot": {"memory": {"value": 3, "where": "", "why": ""}},
        }
    }
    monkeypatch.setattr("adlib.papers.settings.shared_protocol", lambda paper: {"methods": methods})
    runs = Run("cxr_ad", "/data", "patchcore").quantities
    assert contradictions("cxr_ad", "patchcore", "cxr_ad", "UB", runs) == [
        "patchcore: size is said to deviate, but runs as stated",
        "patchcore has no parameter epochs, which the paper states",
        "patchcore: size is chosen, though the paper states it",
        "patchcore has a parameter memory",
        "patchcore: neighbours deviates from nothing that is stated",
    ]


def test_what_is_said_of_a_method_goes_before_what_is_said_of_all(monkeypatch):
    methods = {"padim": {"states": {"size": {"value": 64}}}, "every": {"states": {"size": {"value": 256}}}}
    monkeypatch.setattr("adlib.papers.settings.shared_protocol", lambda paper: {"methods": methods})
    assert settings("any", "padim") == {"size": 64}
    assert settings("any", "patchcore") == {"size": 256}


def test_a_crop_of_a_picture_of_another_size_is_held_against_what_runs_and_sets_nothing(monkeypatch):
    methods = {"padim": {"states": {"crop": {"value": 224, "of": 256}, "size": {"value": 512}}}}
    monkeypatch.setattr("adlib.papers.settings.shared_protocol", lambda paper: {"methods": methods})
    assert settings("any", "padim") == {"size": 512}


def test_what_is_said_of_a_place_is_of_no_other(monkeypatch):
    here = [{"value": 64, "datasets": ["miic"]}, {"value": 32, "datasets": ["isp_ad"], "categories": ["ASM"]}]
    methods = {"every": {"states": {"size": here}}}
    monkeypatch.setattr("adlib.papers.settings.shared_protocol", lambda paper: {"methods": methods})
    places = [("miic", "MIIC"), ("isp_ad", "ASM"), ("isp_ad", "LSM-1"), ("visa", "ASM")]
    assert [settings("any", "padim", *place) for place in places] == [{"size": 64}, {"size": 32}, {}, {}]


def test_a_crop_is_of_the_picture_before_it_is_resized():
    stated = {"value": 224, "of": 256}
    assert agrees(stated, "crop", {"crop": 448, "size": 512})
    assert agrees(stated, "crop", {"crop": 256, "size": 293})
    assert not agrees(stated, "crop", {"crop": None, "size": 256})
    assert not agrees(stated, "crop", {"crop": 224, "size": 512})


def test_deviations_are_the_footnote_of_their_column():
    notes = footnotes("isp_ad", "mixed_supervised")
    assert any(note.startswith("selection training, where the paper states test: ") for note in notes)
    assert any(note.startswith("patience 30 (section 4.3.6) is not run: ") for note in footnotes("isp_ad", "uflow"))
    assert footnotes("isp_ad", "glass") == []
    (note,) = footnotes("miic", "padim")
    assert note.startswith("model_choice half of the test images (section 3.4) is not run: ")
    assert any(note.startswith("map_scale smallest to largest") for note in footnotes("miic", "patchcore"))
    assert footnotes("miic", "ganomaly") == []  # a copied row


def test_choices_lists_every_entry():
    rows = choices("texture_ad")
    found = [row for row in rows if (row["method"], row["parameter"]) == ("draem", "milestones")]
    assert found == [
        {
            "method": "draem",
            "field": "states",
            "parameter": "milestones",
            "value": "400 and 600 epochs",
            "source": "section DRAEM",
        }
    ]


def test_unknown_paper():
    with pytest.raises(InputError, match="Unknown paper"):
        settings("nature", "patchcore")


def test_settings_of_an_older_form_are_not_passed_over_in_silence(monkeypatch):
    monkeypatch.setattr(
        "adlib.papers.settings.shared_protocol", lambda paper: {"settings": {"patchcore": {"size": 128}}}
    )
    with pytest.raises(InputError, match="write them as `methods`"):
        settings("bolt_study", "patchcore")


# Numbers typed in notes


def test_numbers_in_notes_are_those_of_the_tables():
    notes = {paper: protocol(paper)["notes"] for paper in list_papers()}
    split, counts = stated("miic", "split"), facts("miic").counts["MIIC"]
    assert f"{split['train']} training images and {split['test normal']} normal test images" in notes["miic"]["split"]
    assert split["train"] + split["test normal"] == 25160 + 2
    assert "than the 25160 normal images" in notes["miic"]["split"]
    assert "1272 fits" in notes["miic"]["split"]
    assert counts[:2] == (23888, 1272)
    texture = published("texture_ad").query("method == 'msflow' and metric == 'image_auroc' and value == 50")
    assert texture["table"].value_counts().to_dict() == {"2": 3, "3": 1}
    assert "exactly 50.00 on three cloth subclasses and one of wafers" in " ".join(
        notes["texture_ad"]["msflow"].split()
    )
    pro = published("isp_ad").query("metric == 'pro' and table in ['4', '5', '6']")["value"]
    assert (len(pro), (pro < 15).sum()) == (12, 5)
    assert "five of twelve printed values lie below 15" in " ".join(protocol("isp_ad")["pro"]["why"].split())


def test_augmentations_are_those_of_the_printed_table():
    printed = published("isp_ad").query("table == '8'").pivot(index="category", columns="metric", values="value")
    for modality, row in printed.iterrows():
        ours = AUGMENTATIONS[modality]
        assert (ours.rotation, ours.shear) == (row["rotation"], row["shear"])
        assert ours.scale == (row["scale_min"], row["scale_max"])
        light = ("brightness_min", "brightness_max", "contrast_min", "contrast_max")
        expected = [1.0 if np.isnan(row[name]) else row[name] for name in light]
        assert [*ours.brightness, *ours.contrast] == expected
        assert ours.flips == bool(row["vertical_flip"]) == bool(row["horizontal_flip"])
        assert 0.8 <= ours.share <= 0.95  # section 3.2.3
    assert len(printed) == 3
