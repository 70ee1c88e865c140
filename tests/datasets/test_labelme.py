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
