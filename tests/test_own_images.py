"""From a folder of one's own to a detector, its threshold, and what it finds, written to files."""

import csv
import json
import os
import shutil
from html import unescape
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import command_line, make_tree, write

from adlib import ImageSet, InputError, load_model
from adlib.detector import Detector
from adlib.figures import show_seen
from adlib.files import read_json
from adlib.findings import file_names, find_regions, list_images, map_on_picture, passed_over, write_findings
from adlib.own_images import (
    bench,
    fit_own,
    new_threshold,
    own_run,
    own_samples,
    own_warnings,
    rate_and_folds,
    whole_image_settings,
)
from adlib.report.own_page import write_page
from adlib.samples import select

SETTINGS = {"backbone": "resnet18.tv_in1k", "weights": "random", "size": 64, "coreset_ratio": 0.5}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return make_tree(tmp_path_factory.mktemp("own")) / "thing"


@pytest.fixture(scope="module")
def detector(tree):
    """A detector fitted on the tree, as its file gives it back."""
    model, _, _ = fit_own(own_run(tree, settings=SETTINGS, device="cpu"), rate=0.2, folds=2, progress=False)
    return load_model(model.save(tree.parent / "detector.safetensors"))


def test_images_of_ones_own_are_seen_whole_and_unsquashed():
    assert whole_image_settings("patchcore") == {"crop": None, "sides": "both", "fit": "pad", "size": 256}
    assert whole_image_settings("patchcore", {"sides": "shorter"}) == {"sides": "shorter"}
    assert whole_image_settings("patchcore", '{"sides": "shorter"}') == {"sides": "shorter"}


@pytest.mark.parametrize(
    "settings", [{}, {"crop": None}, {"sides": "both"}, {"fit": "pad"}, {"crop": None, "size": 64}]
)
def test_asking_that_nothing_is_cut_cuts_nothing(settings, tmp_path):
    picture = np.zeros((64, 128, 3), np.uint8)
    picture[:, :8] = picture[:, -8:] = 255
    write(tmp_path / "train" / "good" / "0.png", picture)
    run = own_run(tmp_path, settings=settings)
    pixels = ImageSet(own_samples(run), **run.image_settings).pixels(0)
    assert float((pixels > 0.5).float().mean()) == pytest.approx(0.125, abs=0.01)


def test_a_crop_that_is_asked_for_is_taken_of_the_whole_image():
    wanted = {"crop": 128, "sides": "both", "fit": "pad"}
    assert whole_image_settings("patchcore", {"crop": 128}) == wanted


def test_what_the_notebook_asks_for_becomes_a_rate_and_parts():
    assert rate_and_folds(0.75, 0.25) == (0.25, 4)
    for quantile, held_out, sentence in (
        ("0.9", 0.25, "quantile='0.9' must be a number in"),
        (90, 0.25, "quantile=90 must be a number in"),
        (1, 0.25, "quantile=1 must be a number in"),
        (0.9, 0, "held_out=0 must be a number in"),
        (0.9, None, "held_out=None must be a number in"),
        (0.9, 0.75, r"held_out=0.75 must be a number in \(0, 0.5\]"),  # that would be one part, and none to learn from
    ):
        with pytest.raises(InputError, match=sentence):
            rate_and_folds(quantile, held_out)


def test_a_detectors_file_keeps_how_images_are_prepared_and_the_threshold(detector):
    assert (detector.images_["size"], detector.images_["crop"], detector.images_["fit"]) == ([64, 64], None, "pad")
    assert detector.threshold_["held_out"] == 6
    assert detector.threshold_["map"] > detector.threshold_["usual"]


def test_a_folder_of_nothing_but_pictures_is_all_normal(tree, tmp_path):
    shutil.copytree(tree / "train" / "good", tmp_path / "parts")
    samples = own_samples(own_run(tmp_path / "parts"))
    assert set(samples["split"]) == {"train"}
    assert set(samples["label"]) == {0}
    assert set(samples["category"]) == {"parts"}


def test_settings_choose_among_nothing_but_pictures_as_they_do_in_a_tree(tree, tmp_path):
    flat = shutil.copytree(tree / "train" / "good", tmp_path / "thing")  # 000.png to 005.png

    def learned(folder, **settings):
        samples = own_samples(own_run(folder, settings=settings, seed=3))
        return [Path(image).name for image in samples.loc[samples["split"] == "train", "image"]]

    for settings, number in (({"train_limit": 2}, 2), ({"train_share": 0.5}, 3), ({"train_enlarged": 12}, 12)):
        assert len(learned(flat, **settings)) == number
        assert learned(flat, **settings) == learned(tree, **settings)
    named = own_samples(own_run(flat, settings={"items": "00([0-5])"}))
    assert named["item"].tolist() == list("012345")
    for name, value in {"mask_rule": "dark", "normal_names": "gut", "masks": "masks"}.items():
        with pytest.raises(InputError, match=f"{name}: .* holds nothing but pictures"):
            own_samples(own_run(flat, settings={name: value}))
    with pytest.raises(InputError, match="needs 3 defective images"):
        own_samples(own_run(flat, settings={"train_contamination": 0.5}))
    shutil.copy(flat / "000.png", flat / "000_mask.png")
    with pytest.raises(InputError, match="is called as the mask of"):
        own_samples(own_run(flat))


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "@eaDir"])
def test_a_folder_of_a_system_makes_no_tree_of_a_flat_folder(name, tree, tmp_path):
    shutil.copytree(tree / "train" / "good", tmp_path / "parts")
    shutil.copytree(tree / "train" / "good", tmp_path / "parts" / name)
    samples = own_samples(own_run(tmp_path / "parts"))
    assert len(samples) == len(list((tree / "train" / "good").iterdir()))
    assert {str(tmp_path / "parts")} == {image.rpartition("/")[0] for image in samples["image"]}
    assert own_warnings(own_run(tmp_path / "parts")) == []


def test_pictures_that_are_left_out_are_named_before_anything_is_learned(tree, tmp_path, monkeypatch):
    shutil.copytree(tree / "train" / "good", tmp_path / "parts")
    for index in range(5):
        shutil.copy(tree / "train" / "good" / "000.png", tmp_path / "parts" / f"{index}.jfif")
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path / "parts", "parts"):
        (said,) = own_warnings(own_run(place))
        assert said.startswith("5 pictures in ") and "0.jfif has another suffix" in said
    shutil.copytree(tree, tmp_path / "tree")
    shutil.copytree(tree / "train" / "good", tmp_path / "tree" / "train" / "good" / "more")
    (said,) = own_warnings(own_run(tmp_path / "tree"))
    assert "more are no samples" in said
    torn = own_warnings(own_run(tmp_path / "tree", settings={"items": r"\d+"}))
    assert [text for text in torn if "items have images in training and in another split" in text]


def test_a_copy_of_a_normal_image_is_no_further_one_for_the_threshold(tree, tmp_path):
    parts, number = tmp_path / "parts", len(list((tree / "train" / "good").iterdir()))
    shutil.copytree(tree / "train" / "good", parts / "train" / "good")
    plain = fit_own(own_run(parts, settings=SETTINGS, device="cpu"), rate=0.2, folds=2, progress=False)[0].threshold_
    for file in sorted((parts / "train" / "good").iterdir()):
        shutil.copy(file, file.with_name(f"z{file.name}"))
    (parts / "train" / "good" / "zz.png").symlink_to(parts / "train" / "good" / "000.png")
    run = own_run(parts, settings=SETTINGS, device="cpu")
    (said,) = own_warnings(run)
    assert said.startswith(f"{number + 1} of {2 * number + 1} normal images are copies of others")
    model, held, samples = fit_own(run, rate=0.2, folds=2, progress=False)
    assert len(samples) == 2 * number + 1 and model.threshold_ == plain and len(held.scores) == number
    shutil.copytree(tree / "train" / "good", parts / "val" / "good")  # which the detector has learned
    assert fit_own(run, rate=0.2, folds=2, progress=False)[0].threshold_ == plain
    flat = new_threshold(model, parts / "train" / "good", 0.2, "cpu", False)
    assert flat.held_out == number


def test_fit_warns_of_pictures_that_it_leaves_out(tree, tmp_path):
    shutil.copytree(tree / "train" / "good", tmp_path / "parts")
    shutil.copy(tree / "train" / "good" / "000.png", tmp_path / "parts" / "x.gif")
    words = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
    out = tmp_path / "d.safetensors"
    done = command_line("fit", tmp_path / "parts", "--out", out, "--folds", "2", "--device", "cpu", *words)
    assert done.returncode == 0
    assert "warning: A picture is no sample: " in done.stderr and "x.gif has another suffix" in done.stderr


def test_bundled_weights_of_ones_own_images_are_set_beside_the_methods_default_and_not_a_papers(tree, tmp_path):
    words = ["--set", "weights=bundled", "--set", "backbone=resnet18.tv_in1k", "--set", "size=64", "--folds", "2"]
    out, page = tmp_path / "d.safetensors", tmp_path / "page.html"
    done = command_line("fit", tree, "--out", out, "--page", page, "--device", "cpu", "--rate", "0.2", *words)
    assert done.returncode == 0
    for text in (done.stdout, unescape(page.read_text("utf-8"))):
        assert "by an ImageNet network, where the method's default are ImageNet's." in text
        assert "paper's" not in text
    assert load_model(out).warnings[0].endswith("where the paper's were ImageNet's.")  # as the record of a run has it


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seed", "-1"], "seed=-1: a seed is a whole number from 0 to 4294967295."),
        (["--seed", str(2**70)], f"seed={2**70}: a seed is a whole number from 0 to 4294967295."),
        (["--set", "size=40000"], "size=40000 is more than 32768 pixels a side."),
    ],
)
def test_fit_refuses_what_run_refuses(words, said, tree, tmp_path):
    done = command_line("fit", tree, "--out", tmp_path / "d.safetensors", "--device", "cpu", *words)
    assert (done.returncode, done.stderr) == (2, f"adlib: {said}\n")
    assert not list(tmp_path.iterdir())


def test_fit_looks_at_the_place_before_it_learns(tree, tmp_path, monkeypatch):
    monkeypatch.setattr("adlib.own_images.fit_own", lambda *_: pytest.fail("it has begun to learn"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    good = tmp_path / "d.safetensors"
    for words in (["--out", tmp_path / "folder"], ["--out", good, "--page", tmp_path / "folder"]):
        done = command_line("fit", tree, *words, "--device", "cpu")
        assert done.returncode == 2
        assert "folder is a folder, where a file is to be written" in done.stderr
    done = command_line("fit", tree, "--out", tmp_path / "file" / "d.safetensors", "--device", "cpu")
    assert done.returncode == 2
    assert "d.safetensors cannot be written (" in done.stderr
    assert {file.name for file in tmp_path.iterdir()} == {"folder", "file"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "new.png"], "new.png is the name of a picture: name a .safetensors file to write."),
        (["--out", "d", "--page", "d"], "d cannot be both the detector and its page: give two names."),
    ],
)
def test_fit_refuses_names_that_would_be_in_the_way(words, said, tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command_line("fit", tree, *words, "--device", "cpu")
    assert (done.returncode, done.stderr) == (2, f"adlib: {said}\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["--out", "0.png"], ["--out", "d.safetensors", "--page", "0.png"]])
def test_fit_replaces_no_file_that_is_none_of_its_own(words, tree, tmp_path):
    content = next((tree / "train" / "good").iterdir()).read_bytes()
    (tmp_path / "0.png").write_bytes(content)
    words = [tmp_path / word if "." in word else word for word in words]
    done = command_line("fit", tmp_path, *words, "--device", "cpu")
    assert done.returncode == 2
    assert "0.png is there and no " in done.stderr and done.stderr.count("\n") == 1
    assert (tmp_path / "0.png").read_bytes() == content


def test_a_detector_becomes_no_onnx_file_in_the_place_of_a_picture(detector, tree, tmp_path):
    (tmp_path / "0.png").write_bytes(next((tree / "train" / "good").iterdir()).read_bytes())
    done = command_line("export", detector.save(tmp_path / "d.safetensors"), tmp_path / "0.png")
    assert (done.returncode, "0.png is there and no ONNX file of adlib's" in done.stderr) == (2, True)


@pytest.mark.parametrize("name", ["scores.csv", "scores.json", "masks/good/000.png", "maps/good/000.png"])
def test_findings_replace_no_file_that_is_none_of_theirs(name, detector, tree, tmp_path):
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"mine")
    with pytest.raises(InputError, match="it would be lost"):
        write_findings(detector, list_images([tree / "test"]), tmp_path, device="cpu", progress=False)
    assert file.read_bytes() == b"mine"
    file.unlink()
    for _ in range(2):  # their own they do
        write_findings(detector, list_images([tree / "test"]), tmp_path, device="cpu", progress=False)
    assert file.exists()


@pytest.mark.parametrize("number", [0, -1, 2.5])
def test_a_batch_of_no_images_is_refused(number, detector, tree):
    images = ImageSet(list_images([tree / "test"]), **detector.images_)
    with pytest.raises(InputError, match=f"batch_size={number} must be a whole number of images, at least 1"):
        detector.predict(images, device="cpu", batch_size=number, progress=False)


def test_a_batch_size_may_be_a_number_of_numpy(detector, tree):
    images = ImageSet(list_images([tree / "test"]), **detector.images_)
    by_two = [detector.predict(images, device="cpu", batch_size=two, progress=False) for two in (2, np.int64(2), 2.0)]
    assert by_two[0].scores.tolist() == by_two[1].scores.tolist() == by_two[2].scores.tolist()


@pytest.mark.parametrize("settings", [{}, {"tile": [32, 8]}])
def test_of_no_images_there_are_no_predictions(settings, detector, tree):
    none = list_images([tree / "test"]).iloc[:0]
    found = detector.predict(ImageSet(none, **detector.images_ | settings), device="cpu", progress=False)
    assert (len(found), found.scores.dtype, found.maps.shape) == (0, np.float32, (0, 64, 64))


def test_there_is_no_page_on_no_images(detector, tree, tmp_path):
    none = detector.predict(ImageSet(list_images([tree / "test"]).iloc[:0], **detector.images_), device="cpu")
    with pytest.raises(InputError, match="no test images, so there is no page to write"):
        write_page(detector, own_samples(own_run(tree)), none, tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


def test_findings_are_complete_and_an_unreadable_image_stops_no_other(detector, tree, tmp_path):
    place = tmp_path / "new"
    shutil.copytree(tree / "test", place)
    (place / "square" / "broken.png").write_bytes(b"no picture")
    said = write_findings(detector, list_images([place]), tmp_path / "out", device="cpu", progress=False)
    assert (said.images, said.unreadable) == (9, 1)
    with (tmp_path / "out" / "scores.csv").open(newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert len(rows) == 9
    assert "broken.png" in rows[str(place / "square" / "broken.png")]["error"]
    written = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert [one["image"] for one in written["findings"]] == list(rows)
    assert sum(bool(one["anomalous"]) for one in written["findings"]) == said.anomalous
    first = place / "good" / "000.png"
    shape = cv2.imread(str(first)).shape[:2]
    laid = cv2.imread(str(tmp_path / "out" / "maps" / "good" / "000.tiff"), cv2.IMREAD_UNCHANGED)
    assert (laid.shape, laid.dtype) == (shape, np.float32)
    assert cv2.imread(str(tmp_path / "out" / "masks" / "good" / "000.png"), cv2.IMREAD_UNCHANGED).shape == shape
    assert not list((tmp_path / "out").glob("*.partial"))


def test_a_name_that_is_no_unicode_stops_no_other(detector, tree, tmp_path):
    place = tmp_path / "new"
    shutil.copytree(tree / "test" / "good", place)
    try:
        (place / os.fsdecode(b"lat\xe4.png")).write_bytes((place / "000.png").read_bytes())
    except OSError:
        pytest.skip("this file system has no such names")
    said = write_findings(detector, list_images([place]), tmp_path / "out", device="cpu", progress=False)
    assert said.unreadable == 1 and said.images == 1 + len(list(place.glob("0*.png")))
    with (tmp_path / "out" / "scores.csv").open(encoding="utf-8", newline="") as table:
        (refused,) = [row for row in csv.DictReader(table) if row["error"]]
    assert refused["image"].endswith("lat\\udce4.png") and "rename it" in refused["error"]
    findings = read_json(tmp_path / "out" / "scores.json")["findings"]
    assert refused["image"] in [one["image"] for one in findings]


def test_no_map_or_mask_of_earlier_findings_stays_beside_the_new_ones(detector, tree, tmp_path):
    place, out = tmp_path / "new", tmp_path / "out"
    shutil.copytree(tree / "test" / "square", place)
    names = sorted(file.stem for file in place.iterdir())

    def there() -> list[str]:
        return sorted(file.relative_to(out).as_posix() for file in out.glob("ma*/*"))

    def find(maps=True) -> None:
        write_findings(detector, list_images([place]), out, maps, device="cpu", progress=False)

    find()
    assert there() == sorted(
        f"{kind}.{suffix}".replace("NAME", name)
        for name in names
        for kind, suffix in (("maps/NAME", "tiff"), ("maps/NAME", "png"), ("masks/NAME", "png"))
    )
    (out / "masks" / "mine.png").write_bytes(b"mine")
    (place / f"{names[0]}.png").write_bytes(b"")  # it cannot be read any more
    find()
    assert not [name for name in there() if names[0] in name] and f"maps/{names[1]}.tiff" in there()
    find(maps=False)
    assert there() == ["masks/mine.png"]


def test_two_at_once_into_one_folder_do_not_mix_their_tables(detector, tree, tmp_path):
    out, predict = tmp_path / "out", detector.predict

    class Interrupted:
        """The detector, while whose first image another writes its findings into the same folder."""

        name, images_, threshold_ = detector.name, detector.images_, detector.threshold_
        begun = False

        def check_fitted(self):
            detector.check_fitted()

        def predict(self, *args, **kwargs):
            if not self.begun:
                self.begun = True
                write_findings(detector, list_images([tree / "test" / "square"]), out, False, "cpu", progress=False)
            return predict(*args, **kwargs)

    write_findings(Interrupted(), list_images([tree / "test" / "good"]), out, False, "cpu", progress=False)
    with (out / "scores.csv").open(newline="") as file:
        images = [row["image"] for row in csv.DictReader(file)]
    assert images == [str(file) for file in sorted((tree / "test" / "good").iterdir())]
    assert [one["image"] for one in json.loads((out / "scores.json").read_text())["findings"]] == images
    assert {file.name for file in out.iterdir()} == {"scores.csv", "scores.json", "regions.csv"}


def test_findings_that_fail_leave_nothing_half_written(detector, tree, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no memory")

    monkeypatch.setattr(detector, "predict", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        write_findings(detector, list_images([tree / "test"]), tmp_path / "out", False, "cpu", progress=False)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_detector_without_finite_scores_is_refused(detector, tree, tmp_path):
    file = tmp_path / "d.safetensors"
    damaged = load_model(detector.save(file))
    damaged.memory_bank_ = damaged.memory_bank_ * float("nan")
    damaged.save(file)
    done = command_line("predict", file, tree / "test", "--out", tmp_path / "out", "--device", "cpu")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        "is no finite number: what it learned is damaged, or its training went astray; fit it anew."
    )
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_device_that_is_not_here_is_no_images_fault(detector, tree, tmp_path):
    with pytest.raises(InputError, match="torch sees no CUDA device"):
        write_findings(detector, list_images([tree / "test"]), tmp_path / "out", device="cuda", progress=False)
    assert not (tmp_path / "out").exists()


def test_chunks_change_no_score(detector, tree, tmp_path, monkeypatch):
    texts = []
    for chunk in (2, 100):
        monkeypatch.setattr("adlib.findings.CHUNK", chunk)
        write_findings(detector, list_images([tree / "test"]), tmp_path / str(chunk), False, "cpu", progress=False)
        texts.append((tmp_path / str(chunk) / "scores.csv").read_text())
    assert texts[0] == texts[1]
    assert not (tmp_path / "2" / "maps").exists()


def test_links_are_followed_once_and_pictures_of_other_suffixes_are_named(tree, tmp_path):
    place, elsewhere = tmp_path / "place", tmp_path / "elsewhere"
    picture = tree / "test" / "good" / "000.png"
    for file in (place / "a.png", place / "b.jfif", place / "c.gif", place / ".x.gif", elsewhere / "e.png"):
        file.parent.mkdir(exist_ok=True)
        shutil.copy(picture, file)
    (place / "linked").symlink_to(elsewhere)
    (place / "circle").symlink_to(place)
    assert list(list_images([place])["image"]) == [str(elsewhere / "e.png"), str(place / "a.png")]
    (said,) = passed_over([place, picture])
    assert said.startswith(f"2 pictures are not read: {place / 'b.jfif'} has another suffix than .bmp, ")


def test_pictures_that_may_be_masks_are_judged_and_named(tree):
    truth = tree / "ground_truth"
    (said,) = passed_over([tree])
    assert said == f"{truth} is called as folders of masks are: what is in it is judged, too."
    assert set(map(str, truth.rglob("*.png"))) < set(list_images([tree])["image"])
    assert passed_over([truth]) == passed_over([tree / "test"]) == []  # asked for by name


def test_what_was_found_before_is_no_image_to_look_at(detector, tree, tmp_path):
    shutil.copytree(tree / "test" / "good", tmp_path / "new")
    images = list(list_images([tmp_path / "new"])["image"])
    for out in (tmp_path / "new", tmp_path / "new" / "found", tmp_path / "new"):
        write_findings(detector, list_images([tmp_path / "new"]), out, device="cpu", progress=False)
        assert list(list_images([tmp_path / "new"])["image"]) == images
    (tmp_path / "new" / "scores.json").unlink()
    with pytest.raises(InputError, match="lies where maps and masks are written: choose another place than"):
        write_findings(detector, list_images([tmp_path / "new"]), tmp_path / "new", device="cpu", progress=False)


def test_a_padded_map_lies_where_its_picture_is():
    values = np.zeros((8, 8), np.float32)
    values[4, 1] = 5  # a picture twice as high as wide fills columns 2 to 5
    values[4, 2] = 3
    laid = map_on_picture(values, (32, 16), {"size": 8, "fit": "pad"})
    assert laid.shape == (32, 16)
    assert np.unravel_index(laid.argmax(), laid.shape)[1] == 0
    square = np.kron(np.pad(np.ones((2, 2)), 3), np.ones((1, 1))).astype(np.float32)
    assert find_regions(map_on_picture(square, (80, 80), {"size": 8}), 0.999)[0]["left"] == 35


def test_what_a_crop_has_not_seen_is_no_region():
    laid = map_on_picture(np.ones((4, 4), np.float32), (80, 80), {"size": 8, "crop": 4})
    assert np.isnan(laid[:19]).all()
    assert [(r["left"], r["top"], r["width"], r["height"], r["area"]) for r in find_regions(laid, 1)] == [
        (20, 20, 40, 40, 1600)
    ]


def test_regions_have_boxes_areas_and_scores():
    laid = np.zeros((10, 12), np.float32)
    laid[1:3, 2:6], laid[7, 8], laid[8, 9] = 1, 4, 3
    assert find_regions(laid, 0.5) == [
        {"left": 8, "top": 7, "width": 2, "height": 2, "area": 2, "score": 4.0},
        {"left": 2, "top": 1, "width": 4, "height": 2, "area": 8, "score": 1.0},
    ]


def test_what_is_written_of_two_images_never_has_one_name():
    assert file_names(["/a/x/1.png", "/a/y/1.png", "/a/y/1.jpg"]) == ["x/1", "y/1.png", "y/1.jpg"]
    assert file_names(["/a/x/1.png"]) == ["1"]
    assert file_names(["/a/ok.png.bmp", "/a/ok.png", "/a/ok.jpg"]) == ["ok.png.bmp", "ok.png", "ok.jpg"]
    assert file_names(["/a/ok.png.bmp", "/a/ok.png"]) == ["ok.png.bmp", "ok"]
    assert file_names(["/a/ok", "/a/b.png"]) == ["ok", "b"]


def test_a_threshold_is_chosen_anew_on_images_that_were_not_learned(detector, tree, tmp_path):
    for index in range(5):
        write(tmp_path / "normal" / f"{index}.png", np.full((40, 40), 100 + index, np.uint8))
    assert new_threshold(detector, tmp_path / "normal", 0.2, "cpu", progress=False).held_out == 5
    for view in "ab":
        for part in range(3):
            write(tmp_path / "parts" / f"{part}{view}.png", np.full((40, 40), 100 + part, np.uint8))
    parts = new_threshold(detector, tmp_path / "parts", 0.2, "cpu", progress=False, items="[0-9]+")
    assert (parts.held_out, parts.images) == (3, 6)
    assert new_threshold(detector, tree, 0.2, "cpu", progress=False).held_out == 4  # those of test/good
    assert detector.threshold_["held_out"] == 4


def test_validation_images_decide_before_those_of_the_test(detector, tmp_path):
    tree = make_tree(tmp_path)
    for index in range(2):
        write(tree / "thing" / "val" / "good" / f"{index}.png", np.full((40, 40), 100 + index, np.uint8))
    assert new_threshold(detector, tree, 0.2, "cpu", progress=False).held_out == 2


def test_a_copy_of_a_training_image_is_none_that_the_detector_has_not_seen(detector, tmp_path):
    tree = make_tree(tmp_path) / "thing"
    shutil.copy(tree / "train" / "good" / "000.png", tree / "test" / "good" / "000.png")
    assert new_threshold(detector, tree.parent, 0.2, "cpu", progress=False).held_out == 3  # of the four in test


def test_a_threshold_on_images_that_were_learned_says_so(detector, tree, tmp_path):
    normal = shutil.copytree(tree / "train" / "good", tmp_path / "normal")
    loaded = load_model(detector.save(tmp_path / "model.safetensors"))
    number = len(list(normal.iterdir()))
    write(normal / "new.png", np.full((40, 40), 100, np.uint8))
    found = new_threshold(loaded, normal, 0.2, "cpu", progress=False)
    assert f"from {number + 1} normal images ({number} of which it has learned" in found.sentences()[0]
    write(tmp_path / "new" / "new.png", np.full((40, 40), 100, np.uint8))
    assert new_threshold(loaded, tmp_path / "new", 0.2, "cpu", progress=False).how == "held out of learning"
    loaded.learned_files = None  # as of files of versions before, and of detectors fitted in Python
    assert "must not" in new_threshold(loaded, tmp_path / "new", 0.2, "cpu", progress=False).how
    loaded.fit(
        ImageSet(select(own_samples(own_run(tree)), split="train"), **loaded.images_), device="cpu", progress=False
    )
    assert loaded.learned_files is None


def test_a_detector_that_does_not_say_how_images_are_prepared_is_told_so():
    with pytest.raises(InputError, match="fit it anew"):
        write_findings(Detector(), list_images([__file__]), "nowhere")


def test_the_time_of_an_image_is_taken(detector, tree):
    found = bench(detector, list_images([tree / "test"]), number=3, warm=1)
    assert 0 < found["p50"] <= found["p95"]


def test_the_page_for_a_colleague_is_one_file_that_loads_nothing(detector, tree, tmp_path):
    samples = own_samples(own_run(tree))
    samples.loc[samples["defect"] == "square", "defect"] = "<b>square</b>"
    test = samples[samples["split"] == "test"]
    predictions = detector.predict(ImageSet(test, **detector.images_), device="cpu", progress=False)
    page = write_page(detector, samples, predictions, tmp_path / "page.html", doubts="a.png scores far").read_text()
    assert '<p class="warning">a.png scores far</p>' in page
    assert "&lt;b&gt;square&lt;/b&gt;" in page and "<b>square" not in page
    assert page.count("data:image/png;base64,") == 3
    assert "http://" not in page.replace("http-equiv", "") and "<script" not in page
    assert all(image in page for image in test["image"])
    assert "false alarms to expect" in page and "normal test images" in page


def test_the_page_counts_pictures_and_says_how_many_mirrored_copies_were_learned(detector, tree, tmp_path):
    samples = own_samples(own_run(tree, settings={"train_enlarged": 24}))
    test = samples[samples["split"] == "test"]
    predictions = detector.predict(ImageSet(test, **detector.images_), device="cpu", progress=False)
    page = " ".join(write_page(detector, samples, predictions, tmp_path / "page.html").read_text().split())
    assert "6 images that are said to be normal and at 18 mirrored copies of them, and at nothing else" in page


def test_a_figure_shows_what_is_cut_off(tree):
    samples = own_samples(own_run(tree))
    for settings, share in (({"size": 32, "crop": 16}, "25% seen"), ({"size": 32}, "100% seen")):
        figure = show_seen(ImageSet(samples, **settings), count=1)
        assert share in figure.axes[0].get_title()


def test_a_figure_shows_a_tile_where_tiles_are_what_goes_into_the_network(tree):
    images = ImageSet(own_samples(own_run(tree)), size=48, tile=(16, 0))
    below = show_seen(images, count=1).axes[1]
    assert below.get_title() == "16 x 16, one of 9 tiles of 48 x 48"
    index = np.random.default_rng(0).permutation(len(images))[0]
    middle = images.pixels(index).permute(1, 2, 0).numpy()[16:32, 16:32]
    assert np.array_equal(below.images[0].get_array(), middle)


@pytest.mark.parametrize(
    ("method", "settings", "sentence"),
    [
        (
            "adaclip",
            {"towers": "tiny"},
            r"learns from other data sets \(visa, colondb\), which `adlib fit` does not read",
        ),
        (
            "mixed_supervised",
            {"selection": "test"},
            "selection='test' chooses the epoch by test images, which `adlib fit`",
        ),
    ],
)
def test_what_a_folder_cannot_give_is_said_before_anything_is_learned(method, settings, sentence, tree):
    run = own_run(tree, method, {"weights": "random", "size": 64} | settings, device="cpu")
    with pytest.raises(InputError, match=sentence):
        fit_own(run, rate=0.3, folds=2, progress=False)
