"""Polygons of LabelMe as masks."""

import json

import pytest

from adlib import InputError
from adlib.datasets.labelme import labelme_mask


def annotation(tmp_path, *shapes: dict):
    file = tmp_path / "part.json"
    file.write_text(json.dumps({"imageHeight": 20, "imageWidth": 30, "shapes": shapes}))
    return file


SQUARE = {"label": "bubble", "points": [[2, 3], [6, 3], [6, 7], [2, 7]], "shape_type": "polygon"}


def test_a_polygon_holds_its_border(tmp_path):
    mask = labelme_mask(annotation(tmp_path, SQUARE))
    assert mask.shape == (20, 30)
    assert mask.sum() == 25
    assert mask[3:8, 2:7].all()


def test_shapes_add_up_and_can_be_chosen_by_name(tmp_path):
    crack = {"label": "crack", "points": [[20.4, 10], [22, 10], [22, 12], [20.4, 12]]}
    file = annotation(tmp_path, SQUARE, crack)
    assert labelme_mask(file).sum() == 25 + 9
    assert labelme_mask(file, labels=["crack"]).sum() == 9


def test_what_encloses_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"part\.json holds line: only polygons"):
        labelme_mask(annotation(tmp_path, SQUARE | {"shape_type": "line"}))
    with pytest.raises(InputError, match="fewer than three corners"):
        labelme_mask(annotation(tmp_path, SQUARE | {"points": [[1, 1], [2, 2]]}))
    (tmp_path / "cut.json").write_text('{"imageHeight": 20')
    with pytest.raises(InputError, match=r"cut\.json cannot be read"):
        labelme_mask(tmp_path / "cut.json")
    with pytest.raises(InputError, match="cannot be read"):
        labelme_mask(tmp_path / "none.json")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "1e12", "-3e9", "1000001"])
def test_a_corner_that_is_no_number_or_far_away_is_refused_at_once(tmp_path, number):
    file = tmp_path / "odd.json"
    points = f"[[1, 1], [5, {number}], [9, 9]]"
    file.write_text(f'{{"imageHeight": 20, "imageWidth": 20, "shapes": [{{"label": "a", "points": {points}}}]}}')
    with pytest.raises(
        InputError, match=r"odd\.json holds a polygon with a corner that is no number or lies more than"
    ):
        labelme_mask(file)


def test_what_lies_outside_of_the_image_is_cut_off(tmp_path):
    wide = [[-1_000_000, 5], [1_000_000, 5], [1_000_000, 7], [-1_000_000, 7]]
    mask = labelme_mask(annotation(tmp_path, SQUARE | {"points": wide}))
    assert mask[5:8].all()
    assert mask.sum() == 3 * mask.shape[1]


@pytest.mark.parametrize("height", ["1e400", "1000000000000"])
def test_an_absurd_size_is_one_sentence(tmp_path, height):
    (tmp_path / "tall.json").write_text(f'{{"imageHeight": {height}, "imageWidth": 1000000000, "shapes": []}}')
    with pytest.raises(InputError, match=r"tall\.json cannot be read"):
        labelme_mask(tmp_path / "tall.json")
