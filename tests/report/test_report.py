"""The report: published beside ours, escaped, in red where it must be."""

import io
import json
import math
import os
import re
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import finished_record
from IPython.display import HTML

import adlib
from adlib import InputError
from adlib.cli.stored import table as print_table
from adlib.papers import protocol
from adlib.report import (
    across_banner,
    banner,
    baseline_table,
    category_table,
    comparison,
    metric_table,
    pages,
    paper_banner,
    run_table,
    show_comparison,
    show_runs,
    show_table,
    warnings_of,
)
from adlib.report.known_answers import COLUMNS
from adlib.report.notebooks import notebook_title, render_notebook, without_row_numbers
from adlib.report.pages import render_report
from adlib.report.printed_text import printed_text
from adlib.report.ranks import best
from adlib.report.table_html import table_page
from adlib.report.table_notes import agreement, code_line, legend, order_line, shared_runs
from adlib.report.table_text import long_form, table_text, wide_form
from adlib.runs import Run, Store, environment
from adlib.runs.record import failure, write_json, write_record
from adlib.runs.titles import stored_titles


def leave_run(out, category, image_auroc, seed=0, dataset="cxr_ad", phantom=None, **more):
    """A finished record in the store, as a run would leave it, and its cell for the plan."""
    run = Run(dataset, "/data", "patchcore", category, {}, seed)
    key = f"{abs(hash((dataset, category, seed))):016x}"[:16]
    record = finished_record(
        key,
        run.as_dict(),
        data={"fingerprint": "d0", "phantom": phantom},
        warnings=["Phantom data: drawn."] if phantom else [],
        metrics={"image_auroc": image_auroc, "pixel_auroc": 0.5, "aupro": None},
        **more,
    )
    folder = Store(out / "runs").path(key)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "record.json", record)
    return cell(category, key, seed, dataset)


def cell(category, key="", seed=0, dataset="cxr_ad", method="patchcore", missing=""):
    place = {"paper": "cxr_ad", "table": "II", "dataset": dataset, "category": category, "setting": ""}
    return place | {"method": method, "seed": seed, "missing": missing, "key": key}


def leave_plan(out, cells):
    (out / "plans").mkdir(parents=True, exist_ok=True)
    write_json(out / "plans" / "cxr_ad.json", {"paper": "cxr_ad", "cells": cells})


def row(table, category, metric="image_auroc", method="patchcore", dataset="cxr_ad"):
    found = table.query("category == @category and metric == @metric and method == @method and dataset == @dataset")
    assert len(found) == 1
    return found.iloc[0]


def test_the_seconds_of_a_resumed_run_are_not_shown_as_those_of_a_whole_one(tmp_path):
    leave_plan(tmp_path, [leave_run(tmp_path, "UB", 0.9), leave_run(tmp_path, "DC", 0.9, resumed=True)])
    found = run_table("cxr_ad", tmp_path).set_index("category")
    assert found.loc["UB", "fit s"] == 1
    assert np.isnan(found.loc["DC", "fit s"])
    assert found["predict s"].tolist() == [2, 2]
    render_report(tmp_path)
    index = (tmp_path / "index.html").read_text()
    assert "<td>3.0</td>" in index
    assert "<td>3.0, resumed</td>" in index


def test_seconds_that_are_short_by_what_other_runs_left_are_marked(tmp_path):
    shared = {"features_read": 12, "features_computed": 3, "images_read": 0, "images_decoded": 4}
    alone = {"features_read": 0, "features_computed": 15, "images_read": 0, "images_decoded": 4}
    leave_plan(tmp_path, [leave_run(tmp_path, "UB", 0.9, shared=alone)])
    assert "taken over" not in run_table("cxr_ad", tmp_path)
    assert "aken over" not in show_runs("cxr_ad", tmp_path).data
    assert "shared</span>" not in index_row(tmp_path)
    leave_plan(tmp_path, [leave_run(tmp_path, "UB", 0.9, shared=alone), leave_run(tmp_path, "DC", 0.9, shared=shared)])
    found = run_table("cxr_ad", tmp_path).set_index("category")
    assert found["taken over"].to_dict() == {"UB": "", "DC": "features of 12 images"}
    assert "the seconds are short by that" in show_runs("cxr_ad", tmp_path).data
    mark = '<td>3.0, <span title="short by what came from other runs: features of 12 images">shared</span></td>'
    assert index_row(tmp_path).count(mark) == 1
    pictures = shared | {"images_read": 5}
    leave_plan(tmp_path, [leave_run(tmp_path, "UB", 0.9, shared=pictures)])
    assert run_table("cxr_ad", tmp_path)["taken over"].tolist() == ["features of 12 images, 5 images"]


def test_without_any_run_the_published_table_stands(tmp_path):
    table = comparison("cxr_ad", "II", tmp_path)
    assert len(table) == 42
    assert set(table["state"]) == {"to do"}
    assert row(table, "UB")["published"] == 99.43
    assert "56.58" in show_comparison(table, "image_auroc").data


def test_mean_and_sd_over_seeds_and_difference_in_points(tmp_path):
    leave_plan(tmp_path, [leave_run(tmp_path, "UB", 0.90, seed=0), leave_run(tmp_path, "UB", 0.94, seed=1)])
    found = row(comparison("cxr_ad", "II", tmp_path), "UB")
    assert found["ours"] == pytest.approx(92)
    assert found["sd"] == pytest.approx(8**0.5)
    assert found["difference"] == pytest.approx(92 - 99.43)
    assert found["state"] == "done"


def test_the_spread_of_an_average_is_that_of_the_averages_of_the_seeds(tmp_path):
    scores = {"UB": (0.90, 0.94), "DC": (0.70, 0.68)}  # averages of 80 and 81
    runs = [leave_run(tmp_path, name, value, seed) for name, each in scores.items() for seed, value in enumerate(each)]
    leave_plan(tmp_path, runs)
    found = row(comparison("cxr_ad", "II", tmp_path), "average")
    assert (found["ours"], found["sd"], found["seeds"]) == pytest.approx((80.5, 0.5**0.5, 2))
    assert "80.50 ± 0.71" in show_comparison(comparison("cxr_ad", "II", tmp_path), "image_auroc").data
    leave_plan(tmp_path, [*runs, leave_run(tmp_path, "CDIP", 0.5)])  # seed 1 lacks it
    assert math.isnan(row(comparison("cxr_ad", "II", tmp_path), "average")["sd"])


def test_a_table_in_the_terminal_says_what_the_page_says_in_red(tmp_path, capsys):
    drawn = leave_run(tmp_path, "DC", 0.9, phantom={"seed": 0})
    (tmp_path / "plans").mkdir()
    plan = {"paper": "cxr_ad", "profile": "mine.yaml", "cells": [drawn, leave_run(tmp_path, "UB", 0.9)]}
    write_json(tmp_path / "plans" / "cxr_ad.json", plan)
    for form in ({}, {"wide": True}, {"printed": True}, {"form": "csv"}):
        print_table("cxr_ad", "II", tmp_path, **form)
        printed = capsys.readouterr()
        assert "warning: Phantom data: drawn.\nwarning: Profile mine.yaml: its budgets" in printed.err
        assert "warning" not in printed.out  # which goes into files
    leave_plan(tmp_path, [])
    print_table("cxr_ad", "II", tmp_path)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("wide", [False, True])
def test_several_tables_as_csv_are_one_file_whose_rows_name_their_table(tmp_path, capsys, wide):
    print_table("three_cad", None, tmp_path, form="csv", wide=wide)
    found = pd.read_csv(io.StringIO(capsys.readouterr().out), dtype={"table": str})
    assert found["table"].unique().tolist() == ["3", "4", "5", "6"]
    print_table("three_cad", "6", tmp_path, form="csv", wide=wide)
    alone = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert "table" not in alone
    assert len(alone) == (found["table"] == "6").sum()


def test_one_seed_that_is_far_off_moves_the_mean(tmp_path):
    leave_plan(tmp_path, [leave_run(tmp_path, "UB", score, seed) for seed, score in enumerate((0.9, 0.9, 0.6))])
    assert row(comparison("cxr_ad", "II", tmp_path), "UB")["ours"] == pytest.approx(80)


@pytest.mark.parametrize("done", [True, False])
def test_the_page_across_papers_tells_runs_that_cannot_be_compared_from_none(tmp_path, done):
    leave_plan(tmp_path, [leave_run(tmp_path, "UB", 0.9)])
    notebook = nbformat.read(environment.notebook("60_across_papers"), 4)
    (source,) = [cell.source for cell in notebook.cells if "compared =" in cell.source]
    names = {"adlib": adlib, "HTML": HTML, "cells": comparison("cxr_ad", "II", tmp_path), "done": done}
    names["no_number"] = HTML("No run of ours is done.")
    *before, last = source.splitlines()
    exec("\n".join(before), names)
    assert ("could be compared yet" in eval(last, names).data) == done


def test_of_several_seeds_none_lends_its_interval_and_one_on_drawn_data_is_enough(tmp_path):
    own = {"intervals": {"image_auroc": {"low": 0.8, "high": 0.95, "std": 0.04}}}
    seeds = [
        leave_run(tmp_path, "UB", 0.9, seed, phantom=drawn, **own) for seed, drawn in ((0, None), (1, {"seed": 0}))
    ]
    for there, low, phantom in ((seeds[:1], 80, False), (seeds, math.nan, True)):
        leave_plan(tmp_path, there)
        found = row(comparison("cxr_ad", "II", tmp_path), "UB")
        assert found["low"] == pytest.approx(low, nan_ok=True)
        assert (found["phantom"], math.isnan(found["difference"])) == (phantom, phantom)


def test_an_average_is_of_drawn_data_where_a_category_is_and_has_the_fewest_seeds(tmp_path):
    real = [leave_run(tmp_path, "UB", 0.9, seed) for seed in (0, 1)]
    leave_plan(tmp_path, [*real, leave_run(tmp_path, "DC", 0.9, phantom={"seed": 0})])
    table = comparison("cxr_ad", "II", tmp_path)
    assert (row(table, "average")["phantom"], row(table, "average")["seeds"]) == (True, 1)
    assert order_line(table) != ""
    leave_plan(tmp_path, [leave_run(tmp_path, "DC", 0.9, phantom={"seed": 0})])
    assert order_line(comparison("cxr_ad", "II", tmp_path)) == ""  # no order is asked of drawn data


def test_decisions_of_ours_are_called_an_oracles_where_there_are_some():
    cell = {"category": "UB", "method": "padim", "metric": "mcc", "state": "done"}
    cell |= {"phantom": False, "difference": math.nan}
    for ours, said in ((0.9, True), (math.nan, False)):
        assert ("an oracle" in legend(pd.DataFrame([cell | {"ours": ours}]), None)) == said


def test_hundredths_are_spoken_of_where_mcc_is_compared():
    cell = {"category": "UB", "method": "padim", "state": "done", "phantom": False, "ours": 0.9, "difference": 0.01}
    for metric, said in (("mcc", True), ("image_auroc", False)):
        table = pd.DataFrame([cell | {"metric": metric}])
        assert ("beyond; hundredths of MCC." in legend(table, None)) == said


def test_metrics_by_category_are_percent_but_for_mcc():
    table = category_table({name: {"image_auroc": 0.9, "mcc": 0.5, "tp": 7} for name in ("a", "b")})
    assert table.loc["a"].to_dict() == {"image_auroc": 90, "mcc": 0.5}


def test_runs_on_all_categories_are_said_to_be_of_all_their_images(tmp_path):
    for category, said in (("UB", False), ("", True)):
        leave_plan(tmp_path, [leave_run(tmp_path, category, 0.9)])
        assert ("Runs on all categories: metrics over all" in show_runs("cxr_ad", tmp_path).data) == said


def test_averages_are_subtracted_over_the_same_categories_and_counts_never(tmp_path):
    cells = [leave_run(tmp_path, "UB", 0.9), leave_run(tmp_path, "DC", 0.7), cell("CDIP", missing="no data")]
    leave_plan(
        tmp_path, [*cells, leave_run(tmp_path, "bottle", 0.7, dataset="mvtec_ad"), cell("cable", dataset="mvtec_ad")]
    )
    table = comparison("cxr_ad", "II", tmp_path)
    assert row(table, "average")["difference"] == pytest.approx((90 + 70 - 99.43 - 56.28) / 2)
    assert math.isnan(row(table, "average", dataset="mvtec_ad")["difference"])  # of which no category is printed
    left = leave_run(tmp_path, "LSM-1", 0.9, dataset="isp_ad", oracle={"tp": 80, "mcc": 0.9})
    place = {"paper": "isp_ad", "table": "2", "method": "mixed_supervised", "setting": "none 0"}
    write_json(tmp_path / "plans" / "isp_ad.json", {"paper": "isp_ad", "cells": [left | place]})
    table = comparison("isp_ad", "2", tmp_path).query("setting == 'none 0'").set_index("metric")
    assert table.loc["mcc", "difference"] == pytest.approx(0.9 - 0.81)
    assert (table.loc["tp", "ours"], math.isnan(table.loc["tp", "difference"])) == (80, True)


def test_average_says_when_categories_are_missing(tmp_path):
    cells = [leave_run(tmp_path, "UB", 0.9), leave_run(tmp_path, "DC", 0.7), cell("CDIP", missing="no data")]
    leave_plan(tmp_path, cells)
    found = row(comparison("cxr_ad", "II", tmp_path), "average")
    assert found["ours"] == pytest.approx(80)
    assert found["state"] == "partly"
    page = show_comparison(comparison("cxr_ad", "II", tmp_path), "image_auroc").data
    assert "80.00 (partly)<br>" in page
    said = "the difference is over the categories that both have"  # else 80.00 less 56.58 should stand below
    assert said in page
    assert (
        said not in show_comparison(comparison("cxr_ad", "II", tmp_path).query("category == 'UB'"), "image_auroc").data
    )


@pytest.mark.parametrize("missing", ["", "no data", "not in this profile"])
def test_an_average_of_nothing_but_halves_is_marked_and_never_the_best(tmp_path, missing):
    half = [leave_run(tmp_path, "UB", 0.9), cell("UB", seed=1)]  # of two seeds one is done
    whole = {each: {"image_auroc": 0.4} for each in ("UB", "DC", "CDIP", "CFP16", "CFP20")}
    joint = leave_run(tmp_path, "", 0.4, seed=2, categories=whole)
    others = [joint | {"category": name, "method": "onenip", "seed": 0} for name in whole]
    leave_plan(tmp_path, [cell("CDIP", missing=missing), *half, *others])
    table = comparison("cxr_ad", "II", tmp_path)
    assert row(table, "average")["ours"] == pytest.approx(90)
    assert row(table, "average")["state"] == "partly"
    assert "90.00 (partly)<br>" in show_comparison(table, "image_auroc").data
    assert "average" not in {key[1] for key in best(table, "ours") if key[3] == "patchcore"}


def test_a_difference_over_some_categories_says_so_and_one_of_whole_averages_does_not(tmp_path):
    said = '<small title="over the categories that both have">'
    cells = [leave_run(tmp_path, name, 0.9) for name in ("UB", "DC", "CDIP", "CFP16", "CFP20")]
    for there, times in ((cells[:2], 1), (cells, 0)):
        leave_plan(tmp_path, there)
        table = comparison("cxr_ad", "II", tmp_path)
        assert show_comparison(table, "image_auroc").data.count(said) == times
    whole = row(table, "average")
    assert whole["difference"] == pytest.approx(90 - whole["published"])


def test_warnings_are_those_of_the_tables_that_are_asked_for(tmp_path):
    drawn = leave_run(tmp_path, "DC", 0.9, phantom={"seed": 0})
    leave_plan(tmp_path, [leave_run(tmp_path, "UB", 0.9), drawn | {"table": "III"}])
    assert warnings_of("cxr_ad", tmp_path, ["II"]) == []
    assert warnings_of("cxr_ad", tmp_path, ["III"]) == warnings_of("cxr_ad", tmp_path) == ["Phantom data: drawn."]


def test_a_mean_that_lacks_what_is_undefined_is_marked_and_never_the_best(tmp_path):
    found = [
        leave_run(tmp_path, "UB", None),
        *(leave_run(tmp_path, name, 0.9) for name in ("DC", "CDIP", "CFP16", "CFP20")),
    ]
    parts = {each: {"image_auroc": 0.4} for each in ("UB", "DC", "CDIP", "CFP16", "CFP20")}
    joint = leave_run(tmp_path, "", 0.4, seed=1, categories=parts)
    others = [joint | {"category": name, "method": "onenip", "seed": 0} for name in parts]
    leave_plan(tmp_path, found + others)
    table = comparison("cxr_ad", "II", tmp_path)
    assert row(table, "average")["ours"] == pytest.approx(90)
    assert row(table, "average")["state"] == "partly"
    assert row(table, "UB")["state"] == "done"
    assert row(table, "average", method="onenip")["state"] == "done"
    assert {"average", "UB"} & {key[1] for key in best(table, "ours") if key[3] == "patchcore"} == set()
    page = show_comparison(table, "image_auroc").data
    assert "90.00 (partly)<br>" in page
    assert row(table, "average", "pixel_auroc")["state"] == "done"  # which is defined in all

    leave_plan(tmp_path, [leave_run(tmp_path, "DC", 0.9), leave_run(tmp_path, "DC", None, seed=1)])
    assert row(comparison("cxr_ad", "II", tmp_path), "DC")["state"] == "partly"  # of two seeds one
    leave_plan(tmp_path, [leave_run(tmp_path, "DC", None), leave_run(tmp_path, "DC", None, seed=1)])
    assert row(comparison("cxr_ad", "II", tmp_path), "DC")["state"] == "done"


def test_a_misprinted_average_carries_its_recomputed_mean(tmp_path):
    table = comparison("cxr_ad", "II", tmp_path)
    assert row(table, "average", method="adaclip")["recomputed"] == pytest.approx(55.284)
    page = show_comparison(table, "image_auroc").data
    assert '55.32 <span title="mean of the printed categories">(55.28)</span>' in page
    assert "56.58 <span" not in page  # this one is right
    wrong = table["method"].eq("adaclip") & table["category"].eq("average") & table["metric"].eq("image_auroc")
    for printed, marked in ((55.28, False), (55.29, True)):  # 0.4 and 0.6 of the last digit off
        page = show_comparison(table.assign(published=table["published"].mask(wrong, printed)), "image_auroc").data
        assert (f"{printed} <span" in page) == marked

    halves = comparison("three_cad", "3", tmp_path)  # 86.15 is rounded to 86.2 or cut to 86.1, 6.25 to 6.3 or 6.2
    for metric, method, means in (
        ("pixel_auroc", "padim", ("86.1", "86.2")),
        ("pixel_ap", "simplenet", ("6.2", "6.3")),
    ):
        found = row(halves, "average", metric, method, "three_cad")
        assert abs(found["recomputed"] - found["published"]) == pytest.approx(0.05)
        page = show_comparison(halves, metric).data
        assert not any(f">({mean})<" in page for mean in means)


def test_a_difference_of_mcc_is_marked_by_its_hundredths():
    sizes = [(1.0, "recall"), (0.03, "recall"), (0.01, "mcc"), (0.03, "mcc"), (-0.06, "mcc")]
    found = [agreement({"method": "padim", "metric": metric, "difference": value})[1] for value, metric in sizes]
    assert found == ["close", "close", "close", "near", "far"]


def test_states_of_adlib_are_counted_by_number_and_not_again_in_averages():
    cells = [("UB", 90.0, "adlib 1, uncommitted"), ("DC", 80.0, "adlib 2"), ("CDIP", math.nan, "adlib 3")]
    cells.append(("average", 85.0, "adlib 1, uncommitted\nadlib 2"))
    said = code_line(pd.DataFrame(cells, columns=["category", "ours", "code"]))
    assert "2 states of adlib, which may differ: adlib 1, uncommitted (1); adlib 2 (1)." in said


def test_missing_cells_say_why(tmp_path):
    store = Store(tmp_path / "runs")
    run = Run("folder", str(tmp_path), "patchcore")
    record = failure(_with_key(run, "f" * 16), "error", "boom")
    store.path("f" * 16).mkdir(parents=True)
    write_json(store.path("f" * 16) / "record.json", record)
    cells = [cell("UB", "f" * 16), cell("DC", "e" * 16), cell("UB", method="onenip", missing="not implemented")]
    leave_plan(tmp_path, cells)
    table = comparison("cxr_ad", "II", tmp_path)
    assert row(table, "UB")["state"] == "failed"
    assert row(table, "DC")["state"] == "to do"
    assert row(table, "UB", method="onenip")["state"] == "not implemented"


def test_of_seeds_that_are_to_do_and_one_that_failed_the_failure_is_told(tmp_path):
    key = "f" * 16
    Store(tmp_path / "runs").path(key).mkdir(parents=True)
    record = failure(_with_key(Run("folder", str(tmp_path), "patchcore"), key), "error", "boom")
    write_json(Store(tmp_path / "runs").path(key) / "record.json", record)
    leave_plan(tmp_path, [cell("UB", "e" * 16), cell("UB", key, seed=1)])
    assert row(comparison("cxr_ad", "II", tmp_path), "UB")["state"] == "failed"


def test_no_number_on_drawn_data_is_the_best(tmp_path):
    cells = [leave_run(tmp_path, place, value, phantom={"seed": 0}) for place, value in (("UB", 0.9), ("DC", 0.8))]
    other = leave_run(tmp_path, "UB", 0.7, seed=7, phantom={"seed": 0}) | {"method": "onenip", "seed": 0}
    leave_plan(tmp_path, [*cells, other])
    folded = show_table("cxr_ad", "II", tmp_path).data.partition("All our numbers on drawn data")[2]
    ours = folded.partition("</details>")[0]
    assert ">90.00" in ours and ">70.00" in ours and "<strong>" not in ours


def _with_key(run, key):
    object.__setattr__(run, "key", key)
    return run


def test_a_defined_state_with_an_undefined_metric(tmp_path):
    leave_plan(tmp_path, [leave_run(tmp_path, "UB", None)])
    assert (
        '<td class="missing">undefined</td>'
        in show_comparison(comparison("cxr_ad", "II", tmp_path), "image_auroc").data
    )


def test_unknown_table_lists_the_known(tmp_path):
    with pytest.raises(InputError, match="no benchmark table 'IX'; it has II"):
        comparison("cxr_ad", "IX", tmp_path)


def test_phantom_numbers_are_marked_and_warned_of(tmp_path):
    leave_plan(tmp_path, [leave_run(tmp_path, "UB", 0.9, phantom={"seed": 0})])
    table = comparison("cxr_ad", "II", tmp_path)
    assert row(table, "UB")["phantom"]
    assert "Ours are of drawn data" in show_comparison(table, "image_auroc").data
    assert warnings_of("cxr_ad", tmp_path) == ["Phantom data: drawn."]
    assert run_table("cxr_ad", tmp_path).loc[0, "image_auroc"] == pytest.approx(90)
    index = render_report(tmp_path).read_text()
    assert 'class="adlib-warning"' in index
    assert "Phantom data: drawn." in index


def test_numbers_link_to_the_run_or_to_the_list_of_their_runs(tmp_path):
    cells = [leave_run(tmp_path, "UB", 0.9, seed=seed) for seed in (0, 1)] + [leave_run(tmp_path, "DC", 0.8)]
    for each in cells:
        (tmp_path / "runs" / each["key"] / "run.ipynb").write_text("{}")
    leave_plan(tmp_path, [*cells, leave_run(tmp_path, "CDIP", 0.7)])  # this one has left no notebook
    table = comparison("cxr_ad", "II", tmp_path)
    assert row(table, "UB")["runs"] == f"{cells[0]['key']} {cells[1]['key']}"
    page = show_comparison(table, "image_auroc").data
    assert f'<a href="../html/runs/{cells[2]["key"]}.html">80.00</a>' in page
    first, second, third = (each["key"] for each in cells)
    of_seeds = f"find=patchcore%20on%20cxr_ad%2FUB%2C&amp;runs={first}.{second}"
    assert f'<a href="../index.html?{of_seeds}#runs" title="2 runs">90.00 ± 0.00</a>' in page
    of_all = f"find=patchcore%20on%20cxr_ad&amp;runs={first}.{second}.{third}"
    assert f'<a href="../index.html?{of_all}#runs" title="3 runs">80.00</a>' in page
    assert ">70.00<br>" in page


def test_links_to_several_runs_find_the_titles_that_these_have_in_the_list(tmp_path):
    """The list keeps the rows whose title has all words of `find` (tables.js)."""
    parts = {name: {"image_auroc": 0.8} for name in ("UB", "DC")}
    joint = [leave_run(tmp_path, "", 0.8, seed, categories=parts) for seed in (0, 1)]
    alone = [leave_run(tmp_path, "CFP16", 0.8, seed) for seed in (0, 1)]
    for each in [*joint, *alone]:
        (tmp_path / "runs" / each["key"] / "run.ipynb").write_text("{}")
    # Of the joint runs one category alone is in the table: what a link finds must not hang on the others.
    leave_plan(tmp_path, [*(each | {"category": "UB"} for each in joint), *alone])
    store = Store(tmp_path / "runs")
    records = {each["key"]: store.record(each["key"]) for each in [*joint, *alone]}
    titles = dict(zip(records, stored_titles(list(records.values())), strict=True))
    assert titles[joint[0]["key"]] == "patchcore on cxr_ad, seed 0"

    table = comparison("cxr_ad", "II", tmp_path)
    assert row(table, "UB")["joint"]
    assert not row(table, "CFP16")["joint"]
    for category, runs in (("UB", joint), ("CFP16", alone), ("average", joint + alone)):
        page = show_comparison(table[table["category"] == category], "image_auroc").data
        ((query, keys),) = set(re.findall(r'index\.html\?find=([^"]*)&amp;runs=([^"]*)#runs', page))
        words = unquote(query).lower().split()
        found = {key for key, title in titles.items() if all(word in title.lower() for word in words)}
        assert found == {each["key"] for each in runs}
        assert set(keys.split(".")) == found


@pytest.mark.parametrize(
    ("score", "kind", "text"),
    [
        (0.9943, "close", "+0.00 ≈"),
        (0.9843, "close", "-1.00 ≈"),
        (0.9643, "near", "-3.00 ▽"),
        (0.6043, "far", "-39.00 ▼"),
    ],
)
def test_differences_are_marked_by_their_size(tmp_path, score, kind, text):
    leave_plan(tmp_path, [leave_run(tmp_path, "UB", score)])
    page = show_comparison(comparison("cxr_ad", "II", tmp_path), "image_auroc").data
    assert page.count(f'<td class="{kind}"') == 2  # and the average, over this one category
    assert f">{text}</small></td>" in page
    assert "within 1 point" in page and "hundredths" not in page


def test_on_drawn_data_nothing_is_subtracted_and_the_known_answer_stands_apart(tmp_path):
    plain = {"seed": 0, "options": {"difficulty": "plain"}}
    leave_plan(tmp_path, [leave_run(tmp_path, "UB", 0.9, phantom=plain), leave_run(tmp_path, "DC", 0.8, phantom=plain)])
    assert comparison("cxr_ad", "II", tmp_path)["difference"].isna().all()
    page = show_table("cxr_ad", "II", tmp_path).data
    for mark in ("≈", "▽", "▼", "△", "▲", 'class="near"', 'class="far"', "-9.43", "Kendall"):
        assert mark not in page
    whole, folded = page.split("<details>")[:2]
    assert '<td class="published"><strong>99.43</strong></td>' in whole
    assert '<td class="known failed" title="at least 85">✗ 80.00<br><small>lowest of 2</small></td>' in whole
    assert "90.00" not in whole
    assert "All our numbers on drawn data" in folded
    assert "<td>90.00</td>" in folded


def test_the_whole_table_is_shown_as_printed_a_row_per_method_the_best_in_bold(tmp_path):
    page = show_table("isp_ad", "4", tmp_path).data
    assert page.count("<table") == 1
    heads = re.findall(r'<th colspan="(\d)" scope="colgroup">([^<]*)</th>', page)
    assert heads == [("2", name) for name in ("image AUROC", "MCC", "recall", "precision", "FPR", "pixel AUROC")] + [
        ("3", "PRO")
    ]
    assert [name for name in re.findall(r'<th scope="row">(\w+)', page)] == ["efficientad", "uflow", "glass", "ddad"]
    assert re.findall(r'published"><strong>([\d.]+)', page) == ["94.0", "0.3", "28.3", "99.5", "0.89", "92.6", "99.2"]
    assert show_table("three_cad", "3", tmp_path).data.count("<table") == 2  # of eight categories, a metric each


def test_one_run_shows_its_bootstrap_interval_and_several_their_spread(tmp_path):
    interval = {"image_auroc": {"low": 0.85, "high": 0.96, "std": 0.03}}
    one, two = (leave_run(tmp_path, "UB", 0.90 + 0.04 * seed, seed, intervals=interval) for seed in (0, 1))
    leave_plan(tmp_path, [one])
    page = show_comparison(comparison("cxr_ad", "II", tmp_path), "image_auroc").data
    assert 'title="85.00 to 96.00"' in page
    assert "<summary>Intervals, or spread over seeds</summary>" in page
    assert "<td>85.00 to 96.00</td>" in page
    leave_plan(tmp_path, [one, two])
    page = show_comparison(comparison("cxr_ad", "II", tmp_path), "image_auroc").data
    assert "92.00 ± 2.83<br>" in page
    assert "<td>± 2.83 over 2 seeds</td>" in page


def test_a_missing_interval_says_why_in_the_table(tmp_path):
    why = {"image_auroc": {"low": None, "high": None, "reason": "there is but one <anomalous> image"}}
    leave_plan(tmp_path, [leave_run(tmp_path, "UB", 0.9, intervals=why)])
    page = show_comparison(comparison("cxr_ad", "II", tmp_path), "image_auroc").data
    assert "<td>none: there is but one &lt;anomalous&gt; image</td>" in page
    same = {"image_auroc": {"low": 1.0, "high": 1.0, "std": 0.0}}  # as the run's own page says it
    leave_plan(tmp_path, [leave_run(tmp_path, "UB", 1.0, intervals=same)])
    page = show_comparison(comparison("cxr_ad", "II", tmp_path), "image_auroc").data
    assert "<td>none: it is the same however these images are drawn</td>" in page
    leave_plan(tmp_path, [leave_run(tmp_path, "UB", 0.9, seed, intervals=why) for seed in (0, 1)])
    assert row(comparison("cxr_ad", "II", tmp_path), "UB")["no_interval"] == ""  # their spread stands for it


def test_known_answers_are_of_images_and_pixels_where_a_table_has_both(tmp_path):
    place = ["miic", "3", "padim", "miic", "MIIC", "", 0, "a" * 16]
    both = [[*place, f"{level}_auroc", 0.9, 0.85, "done", True] for level in ("image", "pixel")]
    known, cells = pd.DataFrame(both, columns=COLUMNS), comparison("miic", "3", tmp_path)
    for metrics, said in (
        (["image_auroc", "pixel_ap"], [1, 1]),
        (["image_auroc", "image_ap"], [1, 0]),
        (["pixel_auroc", "pro"], [0, 1]),
    ):
        page = table_page(cells[cells["metric"].isin(metrics)], known)
        below = page.partition("known answer")[2].partition("</thead>")[0]
        heads = re.findall(r'scope="col">(image|pixel) AUROC<', below)[-sum(said) :]
        assert [heads.count("image"), heads.count("pixel")] == said


def test_each_category_of_a_joint_run_shows_its_own_interval(tmp_path):
    parts = {
        name: {"image_auroc": auroc, "intervals": {"image_auroc": {"low": auroc - 0.1, "high": auroc + 0.05}}}
        for name, auroc in {"UB": 0.9, "DC": 0.7}.items()
    }
    joint = leave_run(tmp_path, "", 0.8, categories=parts, intervals={"image_auroc": {"low": 0.1, "high": 0.2}})
    leave_plan(tmp_path, [joint | {"category": name} for name in parts])
    rows = comparison("cxr_ad", "II", tmp_path).query("metric == 'image_auroc'").set_index(["category", "method"])
    assert rows.loc[("UB", "patchcore"), ["ours", "low", "high"]].squeeze().tolist() == pytest.approx([90, 80, 95])
    assert rows.loc[("DC", "patchcore"), ["ours", "low", "high"]].squeeze().tolist() == pytest.approx([70, 60, 75])


def test_orders_of_methods_are_compared_below_the_table(tmp_path):
    """PatchCore 99.43, OneNIP 89.79 ... on UB: see table_2.csv; ours in the reverse of the printed order."""
    printed = comparison("cxr_ad", "II", tmp_path).query("category == 'UB' and metric == 'image_auroc'")
    order, cells = printed.sort_values("published")["method"], []
    for place, method in enumerate(order):
        left = leave_run(tmp_path, "UB", 0.9 - 0.1 * place, seed=place)
        cells.append(left | {"method": method, "seed": 0})
    leave_plan(tmp_path, cells)
    page = show_comparison(comparison("cxr_ad", "II", tmp_path), "image_auroc").data
    assert "image AUROC on cxr_ad: Kendall&#x27;s tau -1.00 over 3 methods and 1 category." in page
    assert "image AUROC on mvtec_ad: not compared, fewer than three methods have both numbers." in page


def test_notes_stand_beside_what_they_concern_and_are_escaped(tmp_path, monkeypatch):
    about = protocol("cxr_ad")
    about["notes"] = {"patchcore and onenip": 'a <b> "quoted"', "image_auroc": "of <images>", "sizes": "general"}
    about["tables"]["II"]["notes"] = "of the <table>"
    monkeypatch.setattr("adlib.papers.protocol", lambda name: about)
    table = comparison("cxr_ad", "II", tmp_path)
    page = show_comparison(table, "image_auroc").data
    assert page.count('<sup title="a &lt;b&gt; &quot;quoted&quot;">1</sup>') == 2
    assert "<li>patchcore and onenip: a &lt;b&gt; &quot;quoted&quot;</li>" in page
    assert "<p>of &lt;images&gt;</p><p>of the &lt;table&gt;</p>" in page
    assert "general" not in page
    assert "of &lt;images&gt;" not in show_comparison(table, "pixel_auroc").data


def test_rows_of_one_method_are_told_apart_by_their_setting(tmp_path):
    """Table 6 of 3CAD: six rows of CFRG; those whose runs are done stand beside the published ones."""
    settings = list(protocol("three_cad")["tables"]["6"]["settings"])
    place = {"paper": "three_cad", "table": "6", "dataset": "three_cad", "category": "AI", "method": "cfrg"}
    cells = [place | {"setting": name, "seed": 0, "missing": "not in this profile", "key": ""} for name in settings]
    for number, setting in enumerate(["no push", ""]):
        left = leave_run(tmp_path, "AI", 0.7 + 0.1 * number, seed=number, dataset="three_cad")
        cells[settings.index(setting)] |= {"key": left["key"], "missing": ""}
    (tmp_path / "plans").mkdir()
    write_json(tmp_path / "plans" / "three_cad.json", {"paper": "three_cad", "cells": cells})
    table = comparison("three_cad", "6", tmp_path)
    scores = table[table["metric"] == "image_auroc"].set_index("setting")
    assert scores.index.tolist() == settings
    assert scores["published"].tolist() == [82.2, 79.1, 85.9, 85.9, 85.7, 86.5]
    assert scores["ours"].dropna().to_dict() == pytest.approx({"no push": 70, "": 80})
    assert scores.loc["no recovery", "state"] == "not in this profile"
    page = show_comparison(table, "image_auroc").data
    assert all(f'<th scope="row">cfrg, {name} <sup' in page for name in settings if name)
    assert run_table("three_cad", tmp_path)["setting"].tolist() == ["no push", ""]
    assert len(run_table("three_cad", tmp_path, ["6"])) == 2
    assert run_table("three_cad", tmp_path, ["3"]).empty
    assert f'<a href="../html/runs/{left["key"]}.html">{left["key"]}</a>' in show_runs("three_cad", tmp_path).data


def test_a_sub_class_that_the_data_lack_is_said_to_be_missing(tmp_path):
    groups = {"subclass1": {"image_auroc": 0.6}, "subclass2": {"image_auroc": None}}
    left = leave_run(tmp_path, "cloth", 0.6, dataset="texture_ad", groups=groups)
    place = {"paper": "texture_ad", "table": "2", "method": "simplenet"}
    (tmp_path / "plans").mkdir()
    write_json(tmp_path / "plans" / "texture_ad.json", {"paper": "texture_ad", "cells": [left | place]})
    table = comparison("texture_ad", "2", tmp_path).query("metric == 'image_auroc' and method == 'simplenet'")
    states = table.set_index("category")["state"]
    assert states["cloth/subclass1"] == states["cloth/subclass2"] == "done"
    assert states["cloth/subclass4"] == "no data"
    assert states["average"] == "partly"
    page = show_comparison(table, "image_auroc").data
    assert (page.count(">undefined<"), page.count(">no data<")) == (1, 3)
    assert "sub-classes go by their folders" not in page
    (Store(tmp_path / "runs").path(left["key"]) / "run.ipynb").touch()  # a run that can be looked at
    page = show_comparison(comparison("texture_ad", "2", tmp_path), "image_auroc").data
    said = "Our runs on cloth have no test images of subclass3, subclass4, subclass5: sub-classes go by their folders."
    assert page.count(said) == 1
    drawn = comparison("texture_ad", "2", tmp_path).assign(phantom=True)
    assert "go by their folders" not in show_comparison(drawn, "image_auroc").data


def test_sub_classes_of_a_joint_run_are_those_of_their_own_category(tmp_path):
    """All three products have a first sub-class: each has the number of its own."""
    groups = {f"{name}/subclass1": {"image_auroc": value} for name, value in (("cloth", 0.6), ("wafer", 0.9))}
    joint = {"categories": {"cloth": {"image_auroc": 0.7}, "wafer": {"image_auroc": 0.8}}, "groups": groups}
    left = leave_run(tmp_path, "", 0.5, dataset="texture_ad", **joint)
    place = {"paper": "texture_ad", "method": "simplenet"}
    cells = [left | place | {"table": table, "category": name} for table, name in (("2", "cloth"), ("3", "wafer"))]
    (tmp_path / "plans").mkdir()
    write_json(tmp_path / "plans" / "texture_ad.json", {"paper": "texture_ad", "cells": cells})
    for table, name, value in (("2", "cloth", 60), ("3", "wafer", 90)):
        found = comparison("texture_ad", table, tmp_path).query("metric == 'image_auroc' and method == 'simplenet'")
        found = found.set_index("category")
        assert found.loc[f"{name}/subclass1", "ours"] == pytest.approx(value)
        assert found.loc[f"{name}/subclass2", "state"] == "no data"


def test_a_paper_without_runs_claims_nothing(tmp_path):
    assert "None of our runs" in paper_banner("cxr_ad", tmp_path).data
    leave_plan(tmp_path, [leave_run(tmp_path, "UB", 0.9)])
    assert "Real data" in paper_banner("cxr_ad", tmp_path).data


def test_banner_is_red_only_with_reason_and_escapes():
    red = banner(["<script>", "<script>", "two"]).data
    assert red.count("&lt;script&gt; <span") == 1
    assert "#b00020" in red
    assert "<summary>&lt;script&gt;, two: read before the numbers</summary>" in red
    assert "<details>" not in banner(["One alone stands in full."]).data
    many = banner([f"{name}: why." for name in ("A", "B", "C", "D")] + ["without a head " * 4]).data
    assert "<summary>A, b, c and 2 more: read before the numbers</summary>" in many
    for none in ([], [""]):
        assert "adlib-warning" not in banner(none).data


def test_banner_counts_the_runs_of_a_statement_and_joins_those_on_several_data_sets():
    drawn = [f"Phantom data: drawn by adlib, not {name}. They say nothing about it." for name in ("miic", "cxr_ad")]
    page = banner([*drawn, drawn[0], "Random weights.", "Bundled weights."]).data
    assert "drawn by adlib, not cxr_ad, miic. They say" in page
    assert page.count("(3 runs)") == 1
    assert page.count("<br>") == 2  # the two short ones are no one statement
    assert "<summary>Phantom data, random weights, bundled weights: read before the numbers</summary>" in page
    assert "Random weights.<br>Bundled weights." in page


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("{} of 40 defect regions are cut by the crop.", ("3", "10")),
        ("Phantom data: drawn by adlib (seed {}), not miic: they say nothing of it.", ("0", "1")),
        ("Collapsed: what the generator of ganomaly gives varies {} as much as images do.", ("1.5%", "0.25%")),
    ],
)
def test_banner_never_joins_statements_that_differ_in_a_number(statement, values):
    one, other = (statement.format(value) for value in values)
    page = banner([one, other, other]).data
    assert f'{one}<br>{other} <span style="font-weight:400">(2 runs)</span>' in page


def test_undefined_metrics_say_why():
    page = metric_table({"aupro": math.nan, "image_auroc": 0.5, "reasons": {"aupro": "no <mask>"}}).data
    assert "undefined: no &lt;mask&gt;" in page
    assert "0.5000" in page


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("image_f1max_threshold", 3.2e-5, "3.2e-05"),
        ("pixel_f1max_threshold", 17.123456, "17.12"),
        ("image_auroc", 0.73961, "0.7396"),
        ("aupro_regions", 12, "12"),
        ("tn", 23456.0, "23456"),
        ("image_auroc", None, "undefined: no reason given"),
    ],
)
def test_thresholds_are_shown_with_significant_digits_and_metrics_with_four_decimals(name, value, text):
    assert f'<td class="word">{text}</td>' in metric_table({name: value}).data


def test_decisions_say_why_a_ratio_is_undefined_and_count_in_whole_numbers():
    page = metric_table(adlib.metrics.confusion_metrics(tn=23456, tp=0, fn=0, fp=0)).data
    assert '<th scope="row">recall</th><td class="word">undefined: nothing is anomalous</td>' in page
    assert '<th scope="row">tn</th><td class="word">23456</td>' in page


def test_index_lists_failures_with_escaped_reasons(tmp_path):
    leave_plan(tmp_path, [leave_run(tmp_path, "UB", None)])
    run = _with_key(Run("folder", str(tmp_path), "patchcore", "<b>bold</b>"), "f" * 16)
    folder = Store(tmp_path / "runs").path("f" * 16)
    folder.mkdir(parents=True)
    write_json(folder / "record.json", failure(run, "error", "<img src=x>"))
    index = render_report(tmp_path).read_text()
    assert "1 failed" in index
    assert "&lt;img src=x&gt;" in index
    assert "&lt;b&gt;bold" in index
    assert "undefined" in index
    assert "not executed yet" in index


@pytest.fixture
def executed(tmp_path):
    """A notebook with text, code, a table, a picture's bytes, a widget and an error."""
    output = nbformat.v4.new_output
    dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "a slider"}
    cells = [
        nbformat.v4.new_markdown_cell("# Why `this`?\n\nText with a\n*picture* below.", id="a"),
        nbformat.v4.new_code_cell(
            "code = 1",
            id="b",
            outputs=[
                output("execute_result", {"text/html": "<table></table>", "text/plain": "plain"}),
                output("display_data", {"image/png": dot, "text/plain": "figure"}),
                output("display_data", widget),
                output("stream", name="stdout", text="<printed>"),
                output("error", ename="E", evalue="v", traceback=["\x1b[31mTraceback <here>\x1b[0m"]),
            ],
        ),
    ]
    file = tmp_path / "executed.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), file)
    return file


def test_page_holds_everything_and_loads_nothing(executed, tmp_path):
    page = render_notebook(executed, tmp_path / "page.html", "index.html").read_text()
    assert "<title>Why this?</title>" in page
    assert '<details class="code"><summary>code</summary>' in page
    assert 'src="data:image/png;base64,' in page
    assert 'alt="Text with a picture below."' in page
    for text in ("<table></table>", "a slider", "&lt;printed&gt;", "Traceback &lt;here&gt;"):
        assert text in page
    assert "plain</pre>" not in page  # the table stands for it
    for outside in ("http://", "https://", "<script", "cdn"):
        assert outside not in page
    assert "default-src 'none'" in unescape(page)


def test_page_is_rendered_again_only_when_the_notebook_changed(executed, tmp_path):
    """By content: whatever the clock or a copy made of the files' times."""
    page = render_notebook(executed, tmp_path / "page.html", "index.html")
    before = page.stat().st_mtime_ns
    os.utime(executed, (2e9, 2e9))
    render_notebook(executed, page, "index.html")
    assert page.stat().st_mtime_ns == before
    notebook = nbformat.read(executed, 4)
    assert notebook_title(notebook) == "Why this?"
    notebook.cells[0].source = "# Why that?"
    nbformat.write(notebook, executed)
    os.utime(executed, (1, 1))
    assert "Why that?" in render_notebook(executed, page, "index.html").read_text()


@pytest.mark.parametrize("change", ["cut", "script added", "somebody else's seal"])
def test_a_page_that_is_not_as_we_made_it_is_made_anew(executed, tmp_path, change):
    page = render_notebook(executed, tmp_path / "page.html", "index.html")
    made = page.read_text()
    changed = {
        "cut": made[:-500],
        "script added": made.replace("</main>", "<script>alert(1)</script></main>"),
        "somebody else's seal": re.sub("adlib [0-9a-f]{64}", f"adlib {'0' * 64}", made),
    }
    page.write_text(changed[change])
    assert render_notebook(executed, page, "index.html").read_text() == made


class Addresses(HTMLParser):
    """The addresses that a page refers to, and the places in it that can be referred to."""

    def __init__(self, page: str):
        super().__init__()
        self.used, self.places = [], set()
        self.feed(page)

    def handle_starttag(self, _, attributes):
        given = dict(attributes)
        self.used += [given[name] for name in ("href", "src") if given.get(name)]
        self.places.add(given.get("id"))


def broken_links(folder: Path) -> list[str]:
    """What the pages below a folder refer to and is not in it; addresses of the outside world are broken, too."""
    pages = {file.resolve(): Addresses(file.read_text(encoding="utf-8")) for file in folder.rglob("*.html")}
    broken = []
    for file, page in pages.items():
        for address in page.used:
            parts = urlsplit(address)
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            inside = not parts.scheme and not parts.netloc and target.is_file() and target.is_relative_to(folder)
            lost = parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].places
            if parts.scheme != "data" and (not inside or lost):
                broken.append(f"{file.relative_to(folder)}: {address}")
    return broken


@pytest.mark.slow
def test_pages_rendered_by_several_processes_are_those_of_one(executed, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "WORTH_PROCESSES", 2)
    texts = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        cells = [leave_run(out, category, 0.9) for category in ("UB", "DC")]
        (out / "runs" / cells[0]["key"] / "run.ipynb").write_bytes(executed.read_bytes())
        (out / "runs" / cells[1]["key"] / "run.ipynb").write_text("no notebook")
        assert "run.ipynb is damaged" in render_report(out, processes).read_text()
        page = (out / "html" / "runs" / f"{cells[0]['key']}.html").read_text()
        texts.append(page[: page.rindex("<!--")])  # without the seal
    assert texts[0] == texts[1] and "</html>" in texts[0]


def test_a_report_refers_to_nothing_outside_of_its_folder(executed, tmp_path):
    out = tmp_path / "out"
    cells = [leave_run(out, "UB", 0.9, seed=seed) for seed in (0, 1)] + [leave_run(out, "DC", 0.8)]
    for each in cells:
        (out / "runs" / each["key"] / "run.ipynb").write_bytes(executed.read_bytes())
    leave_plan(out, cells)
    shown = show_comparison(comparison("cxr_ad", "II", out), "image_auroc").data
    output = nbformat.v4.new_output("display_data", {"text/html": shown})
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=[output])])
    (out / "notebooks").mkdir()
    nbformat.write(notebook, out / "notebooks" / "11_cxr_ad_benchmark.ipynb")
    index = render_report(out).read_text()
    assert f'<a href="html/runs/{cells[2]["key"]}.html">80.00</a>' in index
    assert "html/runs/" in (out / "html" / "11_cxr_ad_benchmark.html").read_text()
    moved = out.rename(tmp_path / "moved")
    assert broken_links(moved.resolve()) == []
    (moved / "html" / "runs" / f"{cells[2]['key']}.html").unlink()
    assert len(broken_links(moved.resolve())) == 4  # in two metrics of the index, in its list, in the notebook's page


def written_notebook(file, *sources):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(source) for source in sources]), file)
    return file


def test_a_page_says_below_its_title_what_to_take_away(tmp_path):
    away = "## What to take away\n\nOf the printed numbers:\n\n- Points are *easy*,\n  areas are not.\n- More."
    notebook = written_notebook(tmp_path / "a.ipynb", "# How hard?\n\nTwo tables.", "## Table 1", away)
    page = render_notebook(notebook, tmp_path / "a.html", "index.html").read_text()
    places = [page.index(text) for text in (">How hard?", 'adlib-claim">', "Two tables.", ">Table 1", ">More.")]
    assert places == sorted(places)
    opening = page[places[1] : places[2]]
    assert "Of the printed numbers:" in opening
    assert "areas are not." in opening
    assert "More" not in opening
    plain = written_notebook(tmp_path / "b.ipynb", "# How hard?", "## What to take away\n\nLook first.\n\nThen more.")
    assert 'adlib-claim"><p>Look first.</p>' in render_notebook(plain, tmp_path / "b.html", "").read_text()
    without = written_notebook(tmp_path / "c.ipynb", "# How hard?")
    assert 'adlib-claim"' not in render_notebook(without, tmp_path / "c.html", "").read_text()


def test_the_page_of_a_run_has_the_run_for_its_title(tmp_path):
    notebook = written_notebook(tmp_path / "a.ipynb", "# What does one detector find?\n\nThe run.")
    page = render_notebook(notebook, tmp_path / "a.html", "", "crad_x on [a](b) *c*", "<p>found 3</p>").read_text()
    body = page[page.index("<h1") :]
    assert ">crad_x on [a](b) *c*" in body
    places = [body.index(text) for text in ("crad_x", "<p>found 3</p>", "<strong>What does one", "The run.")]
    assert places == sorted(places)
    assert body.count("<h1") == 1
    headless = written_notebook(tmp_path / "b.ipynb", "No heading.")
    page = render_notebook(headless, tmp_path / "b.html", "", "x", "<p>found 3</p>").read_text()
    assert page.index("<p>found 3</p>") < page.index("No heading.")


def test_a_page_leaves_out_what_only_counts_the_rows():
    table = pd.DataFrame({"name": ["a", "b"], "value": [1.5, float("nan")]})
    page = without_row_numbers(table._repr_html_())
    assert "<th>0</th>" not in page
    assert len(re.findall("<th[ >]", page)) == 2
    assert "<td>–</td>" in page
    for meant in (table.set_index("name"), table.rename_axis("seed"), table.set_axis([3, 4])):
        page, whole = without_row_numbers(meant._repr_html_()), meant._repr_html_()
        assert len(re.findall("<th[ >]", page)) == len(re.findall("<th[ >]", whole))


def test_columns_of_words_are_read_from_the_left():
    table = pd.DataFrame(
        {"n": [1, 2], "what": ["12", "a scratch"], "share": ["3 %", "inf"], "é": ["–", "20 are too few"]}
    )
    page = without_row_numbers(table._repr_html_())
    assert re.findall(r'<th class="word">(.*?)</th>', page) == ["what", "é"]
    assert re.findall(r'<td class="word">(.*?)</td>', page) == ["12", "–", "a scratch", "20 are too few"]
    linked = pd.DataFrame({"method": ['<a href="x">padim</a>'], "AUROC": ['<a href="x">98.2</a>']})
    listed = without_row_numbers(linked.to_html(escape=False, index=False, classes="adlib-runs"))
    assert '<th class="word">method</th>' in listed and "<th>AUROC</th>" in listed
    named = without_row_numbers(table.set_index("n")._repr_html_())
    assert '<th class="word">what</th>' in named and '<th class="word">n</th>' in named and "<th>share</th>" in named
    grouped = table.set_axis(pd.MultiIndex.from_product([["a", "b"], ["c", "d"]]), axis=1)._repr_html_()
    assert "word" not in without_row_numbers(grouped)


def test_a_profile_that_is_not_the_papers_is_named(tmp_path):
    cells = [leave_run(tmp_path, "UB", 0.9)]
    leave_plan(tmp_path, cells)
    assert "Profile" not in show_table("cxr_ad", "II", tmp_path).data
    for name, named in (("paper", False), ("smoke", True), ("<b>", True)):
        write_json(tmp_path / "plans" / "cxr_ad.json", {"paper": "cxr_ad", "profile": name, "cells": cells})
        pages = show_table("cxr_ad", "II", tmp_path).data, paper_banner("cxr_ad", tmp_path).data
        pages += (render_report(tmp_path).read_text(), across_banner(tmp_path).data)
        assert [f"Profile {escape(name)}: " in page for page in pages] == [named] * 4
        assert f"Runs done: 1, profile {escape(name)}." in pages[2]
    assert "None of our runs is done" in across_banner(tmp_path / "none").data


def test_numbers_that_are_not_to_be_compared_are_in_no_list(tmp_path):
    leave_plan(tmp_path, [leave_run(tmp_path, "UB", 0.9)])
    file = next((tmp_path / "runs").glob("*/record.json"))
    record = json.loads(file.read_text())
    for method in ("mixed_supervised", "msad"):  # its maps outline nothing, and it has none
        record["run"]["method"] = method
        record["metrics"]["pro_per_image"] = 0.5
        write_json(file, record)
        assert run_table("cxr_ad", tmp_path).loc[0, "image_auroc"] == pytest.approx(90)
        assert run_table("cxr_ad", tmp_path).loc[0, ["pixel_auroc", "pro_per_image"]].isna().all()
        assert "<td>90.00</td><td>undefined</td><td>–</td><td>–</td><td>–</td>" in index_row(tmp_path)
    record["run"]["method"], record["weights"] = "adaclip", {"kind": "random"}
    write_json(file, record)
    assert np.isnan(run_table("cxr_ad", tmp_path).loc[0, "image_auroc"])
    assert "90.00" not in index_row(tmp_path)


def test_what_is_just_below_100_reads_as_100_nowhere(tmp_path):
    ours = [leave_run(tmp_path, "UB", 0.99996, 0), leave_run(tmp_path, "UB", 0.99998, 1)]
    leave_plan(tmp_path, ours)
    assert "<td>&lt;100</td>" in index_row(tmp_path)
    assert "<td>&lt;100</td>" in show_runs("cxr_ad", tmp_path).data
    assert "&lt;100 ± 0.00" in show_table("cxr_ad", "II", tmp_path).data  # a mean of two
    assert run_table("cxr_ad", tmp_path)["image_auroc"].tolist() == pytest.approx([99.996, 99.998])
    cells = comparison("cxr_ad", "II", tmp_path)
    for text in (table_text(long_form(cells)), table_text(wide_form(cells)), printed_text(cells, no_answers())):
        assert "<100" in text
        assert "100.00" not in text
    assert r"\textless{}100" in table_text(long_form(cells), "latex")
    assert "99.997" in table_text(long_form(cells), "csv")
    metrics = {"image_auroc": 0.99996}
    intervals = {"image_auroc": {"low": 0.99, "high": 0.99998, "std": 0.1, "reason": ""}}
    assert '<td>&lt;1</td><td class="word">0.9900 to &lt;1</td>' in metric_table(metrics, intervals).data
    assert category_table({"UB": metrics}).loc["UB", "image_auroc"] == pytest.approx(99.996)
    assert baseline_table(metrics, {}).loc["this run", "image_auroc"] == "<100"


def test_a_record_without_a_checksum_is_readable_and_named_in_red(tmp_path):
    leave_run(tmp_path, "UB", 0.9)
    leave_run(tmp_path, "DC", 0.9)
    store = Store(tmp_path / "runs")
    for record in store.records():
        if record["run"]["category"] == "UB":
            write_record(store.path(record["key"]), record)
    said = "1 record carries no checksum, as older versions left them: an edit would not be noticed. "
    assert f'<p class="failed">{said}patchcore on cxr_ad/DC, seed 0.</p>' in render_report(tmp_path).read_text()
    for record in store.records():
        write_record(store.path(record["key"]), {name: record[name] for name in record if name != "checksum"})
    assert "no checksum" not in render_report(tmp_path).read_text()


def no_answers():
    return pd.DataFrame(columns=COLUMNS)


def index_row(out):
    """The list of runs on the index, without line breaks."""
    return render_report(out).read_text().split('id="list-of-runs"')[1].split("</table>")[0].replace("\n", "")


def test_rows_that_one_run_fills_are_named():
    cells = [{"method": "m", "dataset": "d", "category": "c", "setting": name, "runs": "k"} for name in ("a", "b", "c")]
    cells += [{"method": "m", "dataset": "d", "category": "c", "setting": "d", "runs": "l"}]
    assert shared_runs(pd.DataFrame(cells)) == [
        "One run of m fills the rows a, b and c: on our data they ask for the same work."
    ]
