"""Stored runs in the inspector: which are laid side by side, under which names, and what is said where none can be."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import finished_record, make_tree

import adlib
from adlib.cli.stored import runs as list_runs
from adlib.errors import InputError
from adlib.inspector.app import notebook_of_app
from adlib.inspector.stored_runs import comparable_runs, inspect_runs, load_runs, notes_table, run_names, run_table
from adlib.predictions import Predictions
from adlib.samples import select


def store(
    out: Path, key: str, *, seed: int = 0, parameters: dict | None = None, data: str = "d0", category: str = "thing"
) -> None:
    """A finished run as `adlib run` leaves it, of random scores on a tree in the same folder."""
    if not (out / category).exists():
        make_tree(out, category)
    samples = select(adlib.load_samples("folder", out / category), split="test")
    scores = np.random.default_rng(seed).random(len(samples))
    Predictions(scores, None, samples, {"size": 64, "crop": None}).save(out / "runs" / key / "predictions")
    record = finished_record(
        key,
        {"category": category, "method": "patchcore", "seed": seed},
        parameters=parameters or {},
        data={"fingerprint": data, "phantom": None},
        metrics={"image_auroc": 0.5, "pixel_auroc": None},
        warnings=["Random weights: a test."],
        ended=f"2026-01-01T00:00:{int(key[0], 16):02}+00:00",
    )
    (out / "runs" / key / "record.json").write_text(json.dumps(record))


def test_runs_of_the_same_data_are_one_set_the_newest_first(tmp_path):
    store(tmp_path, "1" * 16)
    store(tmp_path, "2" * 16, seed=1)
    store(tmp_path, "3" * 16, category="other", data="d1")
    sets = comparable_runs(tmp_path)
    assert {name: [record["key"][0] for record in records] for name, records in sets.items()} == {
        "data/other": ["3"],
        "data/thing": ["2", "1"],
    }
    assert run_table(tmp_path).loc["1" * 16, "image_auroc"] == 0.5


def test_numbers_that_stand_for_nothing_are_in_neither_list(tmp_path, capsys):
    store(tmp_path, "1" * 16)
    file = tmp_path / "runs" / ("1" * 16) / "record.json"
    record = json.loads(file.read_text())
    record["run"]["method"], record["weights"] = "adaclip", {"kind": "random"}
    file.write_text(json.dumps(record))
    assert run_table(tmp_path)["image_auroc"].isna().all()
    list_runs(out=tmp_path)
    said = capsys.readouterr().out
    assert "needs CLIP's weights" in said
    assert "image_auroc" not in said


def test_a_list_of_runs_says_1_of_nothing_less(tmp_path, capsys):
    store(tmp_path, "1" * 16)
    file = tmp_path / "runs" / ("1" * 16) / "record.json"
    record = json.loads(file.read_text())
    record["metrics"] |= {"image_auroc": 0.99996, "aupro": 1.0}
    file.write_text(json.dumps(record))
    list_runs(out=tmp_path)
    assert "image_auroc <1 aupro 1.0000" in capsys.readouterr().out


def drawn(difficulty: str) -> dict:
    return {"fingerprint": difficulty, "phantom": {"options": {"difficulty": difficulty}}}


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        ({"data": drawn("hard")}, {"data": drawn("plain")}, ["drawn, plain", "drawn, hard"]),
        ({"data": {"fingerprint": "real", "phantom": None}}, {"data": drawn("plain")}, ["drawn, plain", "real"]),
        (
            {"root": "/a/data", "data": {"fingerprint": "a", "phantom": None}},
            {"root": "/b/data"},
            ["in b/data", "in a/data"],
        ),
        (
            {"data": {"fingerprint": "few", "phantom": None, "counts": {"thing": {"train": 5}}}},
            {"data": {"fingerprint": "all", "phantom": None, "counts": {"thing": {"train": 24}}}},
            ["24 training images", "5 training images"],
        ),
        (
            {},
            {"data": {"fingerprint": "d1", "phantom": None}, "ended": "2026-01-02T10:30:00+00:00"},
            ["until 2026-01-02 10:30", "until 2026-01-01 00:00"],
        ),
        ({}, {"data": {"fingerprint": "d1", "phantom": None}}, ["no. 1", "no. 2"]),
    ],
)
def test_data_of_one_name_are_told_apart_in_words(tmp_path, first, second, names):
    for key, more in (("1" * 16, first), ("2" * 16, second)):
        root = more.pop("root", "/data")
        record = finished_record(key, {"root": root}, **({"ended": f"2026-01-01T00:00:0{key[0]}+00:00"} | more))
        (tmp_path / "runs" / key / "predictions").mkdir(parents=True)
        (tmp_path / "runs" / key / "record.json").write_text(json.dumps(record))
    assert list(comparable_runs(tmp_path)) == [f"data/thing ({name})" for name in names]


def test_runs_of_one_method_are_named_by_what_differs(tmp_path):
    store(tmp_path, "1" * 16, parameters={"coreset_ratio": 0.1, "k": 1})
    store(tmp_path, "2" * 16, parameters={"coreset_ratio": 0.5, "k": 1})
    store(tmp_path, "3" * 16, parameters={"coreset_ratio": 0.5, "k": 1}, seed=1)
    assert run_names(comparable_runs(tmp_path)["data/thing"]) == [
        "patchcore, seed 1, coreset_ratio 0.5",
        "patchcore, seed 0, coreset_ratio 0.5",
        "patchcore, seed 0, coreset_ratio 0.1",
    ]
    assert run_names(comparable_runs(tmp_path, ["1" * 16])["data/thing"]) == ["patchcore"]
    assert comparable_runs(tmp_path, "1" * 16) == comparable_runs(tmp_path, ["1" * 16])


def test_where_nothing_can_be_shown_the_sentence_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"no finished run in .*make one with `adlib run`"):
        comparable_runs(tmp_path)
    store(tmp_path, "1" * 16)
    with pytest.raises(InputError, match="no finished run abc in"):
        comparable_runs(tmp_path, ["abc"])


def test_inspector_shows_one_set_and_the_menu_changes_it(tmp_path):
    store(tmp_path, "1" * 16)
    store(tmp_path, "2" * 16, category="other", data="d1")
    shown = inspect_runs(tmp_path)
    assert "Random weights" in shown.place.children[0].value
    assert set(shown.place.children[1].joined.samples["category"]) == {"other"}
    shown.menu.value = "data/thing"
    assert set(shown.place.children[1].joined.samples["category"]) == {"thing"}
    assert load_runs(tmp_path, shown.sets["data/thing"])["patchcore"].scores.shape == (8,)


def test_a_page_without_a_kernel_gets_banner_and_contact_sheet(tmp_path):
    store(tmp_path, "1" * 16)
    page = inspect_runs(tmp_path)._repr_mimebundle_()["text/html"]
    assert "adlib-warning" in page
    assert "adlib-contact-sheet" in page
    assert "<img" in page


def test_notes_are_kept_beside_the_runs_for_all_of_them(tmp_path):
    store(tmp_path, "1" * 16)
    assert notes_table(tmp_path).empty
    inspector = inspect_runs(tmp_path).place.children[1]
    inspector.controls.note_text.value = "faint"
    assert (tmp_path / "review_notes.csv").is_file()
    assert notes_table(tmp_path)["text"].tolist() == ["faint"]
    assert notes_table(tmp_path)["image"].tolist() == ["000.png"]


def test_app_is_one_cell_with_absolute_paths(tmp_path):
    notebook = notebook_of_app(tmp_path, ["1" * 16], None)
    (code,) = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert f"inspect_runs('{tmp_path}', ['1111111111111111'], None)" in code
    compile(code, "cell", "exec")
