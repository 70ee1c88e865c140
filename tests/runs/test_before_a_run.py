"""What is known before a run begins is said before: in seconds, in one sentence, by exit code 2."""

import pytest
from conftest import make_tree

from adlib import InputError, create_model
from adlib.cli import main
from adlib.runs.run import Run
from adlib.runs.settings import parse_settings


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_tree(tmp_path_factory.mktemp("tree"))


def planned(root, method, *settings, **more) -> Run:
    small = ["backbone=resnet18.tv_in1k", "weights=bundled", "size=64", "crop=None"]
    values = parse_settings([*small, *settings])
    own = {"backbone", "weights"} - set(create_model(method).parameters)  # that the method does not have
    values = {name: value for name, value in values.items() if name not in own}
    return Run("folder", str(root), method, "", values, 0, **{"device": "cpu"} | more)


def test_a_good_run_passes(root):
    planned(root, "patchcore").check()
    planned(root, "rd4ad").check()
    planned(root, "rd4ad", "size=100", "tile=[64,16]").check()  # the tiles are what it sees
    planned(root, "ganomaly", "size=100", "tile=[64,16]").check()


@pytest.mark.parametrize(
    ("method", "settings", "sentence"),
    [
        ("patchcore", ["coreset_limit=-5"], "coreset_limit=-5 must be a whole number of at least 1 or None"),
        ("patchcore", ["neighbours=0"], "neighbours=0 must be a whole number of at least 1"),
        ("patchcore", ["smoothing=None"], "smoothing=None must be a number of at least 0"),
        ("patchcore", ["stages=[1, 9]"], "timm cannot build backbone='resnet18.tv_in1k' with feature stages"),
        ("patchcore", ["backbone=resnet19", "weights=random"], "timm cannot build backbone='resnet19'"),
        ("patchcore", ["backbone=resnet34.tv_in1k"], "exist for resnet18, not for backbone="),
        (
            "patchcore",
            ["weights=nowhere.safetensors"],
            "is neither pretrained, bundled, random nor a file",
        ),
        ("patchcore", ["color=1"], "patchcore has no parameter color; it has"),
        ("patchcore", ["size=fast"], "size='fast' must be a number of pixels"),
        ("patchcore", ["size=64x40000", "sides=both"], "size=[64, 40000] is more than"),
        ("patchcore", ["size=64", "crop=128"], "crop=128 is larger than size=64"),
        ("stfpm", ["epochs=0"], "epochs=0 must be a whole number of at least 1"),
        ("stfpm", ["learning_rate=nan"], "learning_rate='nan' must be a number above 0"),
        ("rd4ad", ["size=50"], "rd4ad needs sides that are multiples of 32 pixels; the images are 50 x 50"),
        ("rd4ad", ["size=128", "tile=[50,10]"], "tile=[50, 10] is what is seen at once: rd4ad needs sides that are"),
        ("ganomaly", ["size=64", "tile=[48,0]"], "tile=[48, 0] is what is seen at once: ganomaly halves"),
        ("patchcore", ["tile=[0,0]"], "tile=[0, 0] must be (side, overlap)"),
        ("patchcore", ["memory=1.2.3GB"], "memory='1.2.3GB' is not a size"),
        ("rdpp", ["size=64x72"], "rdpp needs sides that are multiples of 32 pixels; the images are 64 x 72"),
        ("stfpm", ["size=8"], "stfpm needs sides of at least 32 pixels; the images are 8 x 8"),
        ("msad", ["size=8"], "msad needs sides of at least 32 pixels"),
        ("destseg", ["size=8"], "destseg needs sides of at least 32 pixels"),
        ("ganomaly", ["size=50"], "must be a power of two"),
        ("fanogan", ["size=100"], "tiles of 64 x 64 pixels, which does not fit 100 x 100"),
        ("efficientad", ["size=50", "weights=random"], "multiples of 32 pixels, from 64 on"),
        ("uflow", ["size=39", "sides=both"], "uflow needs sides that are multiples of 32 pixels"),
    ],
)
def test_what_cannot_work_is_said(root, method, settings, sentence):
    with pytest.raises(InputError) as raised:
        planned(root, method, *settings).check()
    assert sentence in str(raised.value)


def test_a_device_that_is_not_here_and_a_split_without_images(root, tmp_path):
    with pytest.raises(InputError, match="not a torch device"):
        planned(root, "patchcore", device="abacus").check()
    only = make_tree(tmp_path, train=0)
    with pytest.raises(InputError, match="train"):
        planned(only, "patchcore").check()


def test_the_command_line_says_it_with_exit_code_2_and_leaves_nothing(root, tmp_path, monkeypatch, capsys):
    asked = ["run", "folder", "rd4ad", "--root", str(root), "size=50", "weights=random", "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["adlib", *asked])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err == (
        "adlib: rd4ad needs sides that are multiples of 32 pixels; the images are 50 x 50.\n"
    )
    assert not (tmp_path / "out").exists()
