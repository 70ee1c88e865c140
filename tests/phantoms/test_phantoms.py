"""Phantoms: same seed same bytes, the paper's own statistics, and nothing that a mean could find."""

import hashlib
import json
import multiprocessing
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from adlib import InputError, load_samples
from adlib.datasets import facts
from adlib.images import read_image
from adlib.metrics import image_metrics
from adlib.phantoms import draw, list_phantoms
from adlib.phantoms.xray import PACKAGES, PUBLISHED, draw_image
from adlib.samples import count, phantom_marker, phantom_warning

FEW = {"counts": {"UB": (3, 2, 2), "DC": (2, 1, 1)}, "size": 64}


def digest(folder: Path) -> dict[str, str]:
    files = sorted(folder.rglob("*.png"))
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path):
    first, second, other = (draw("cxr_ad", tmp_path / str(n), seed=seed, **FEW) for n, seed in enumerate((0, 0, 1)))
    assert digest(first) == digest(second)
    assert len(digest(first)) == 14
    images = {name: value for name, value in digest(first).items() if "ground_truth" not in name}
    assert len(set(images.values())) == len(images)  # no two alike
    assert not set(images.values()) & set(digest(other).values())


def test_an_image_does_not_depend_on_how_many_are_drawn(tmp_path):
    few = digest(draw("cxr_ad", tmp_path / "few", **FEW))
    more = digest(draw("cxr_ad", tmp_path / "more", size=64, counts={"UB": (4, 3, 3), "DC": (2, 1, 1)}))
    assert few.items() <= more.items()


def test_layout_and_counts_are_the_datasets(tmp_path):
    samples = load_samples("cxr_ad", draw("cxr_ad", tmp_path, size=32))
    assert count(samples).to_numpy().tolist() == [[24, 8, 12]] * 5
    assert set(PACKAGES) == set(facts("cxr_ad").counts)
    assert facts("cxr_ad").counts == PUBLISHED


@pytest.mark.slow
def test_published_counts_on_request(tmp_path):
    samples = load_samples("cxr_ad", draw("cxr_ad", tmp_path, size=16, counts="published"))
    assert count(samples).T.to_dict("list") == {name: list(counts) for name, counts in PUBLISHED.items()}


def test_16_bit_images_are_finer_not_brighter(tmp_path):
    deep = read_image(draw("cxr_ad", tmp_path / "16", bits=16, **FEW) / "UB" / "train" / "good" / "000.png")
    flat = read_image(draw("cxr_ad", tmp_path / "8", bits=8, **FEW) / "UB" / "train" / "good" / "000.png")
    assert deep.dtype == np.uint16
    assert len(np.unique(deep)) > 256
    assert np.abs(deep / 257 - flat).max() <= 0.51


@pytest.fixture(scope="module")
def bubbles():
    """class -> 60 anomalous images with their masks, 128 pixels."""
    return {name: [draw_image(name, "bubble", index, size=128) for index in range(60)] for name in PACKAGES}


def test_grey_levels_are_as_the_paper_says(bubbles):
    pixels = np.stack([image for image, _ in bubbles["UB"]])
    assert 0.93 < np.mean((pixels >= 50) & (pixels <= 150)) < 0.97  # 95.47 %
    for name, drawn in bubbles.items():
        pixels = np.stack([image for image, _ in drawn])
        assert np.mean((pixels >= 50) & (pixels <= 150)) > 0.85, name


def test_local_contrast_is_as_the_paper_says(bubbles):
    contrasts = []
    for image, mask in bubbles["UB"]:
        inside, outside = image[mask > 0].mean(), image[mask == 0].mean()
        contrasts.append((inside - outside) / outside)
    assert 0.08 < np.mean(contrasts) < 0.13  # 0.1091
    assert np.mean(np.clip(contrasts, 0.01, 0.22) == contrasts) > 0.9  # 0.01 to 0.22


def test_most_defects_are_small(bubbles):
    """87 %, read as at most 10 % of the largest defect's area."""
    masks = [mask for drawn in bubbles.values() for _, mask in drawn]
    areas = np.concatenate([cv2.connectedComponentsWithStats(mask, connectivity=8)[2][1:, 4] for mask in masks])
    assert len(areas) > 400
    assert 0.82 < np.mean(areas <= 0.1 * areas.max()) < 0.92
    assert np.mean(areas > 0.5 * areas.max()) > 0.005


@pytest.mark.parametrize("name", PACKAGES)
def test_masks_cover_what_the_bubbles_brighten(name):
    for index in range(5):
        image, mask = draw_image(name, "bubble", index, bits=16)
        without, _ = draw_image(name, "bubble", index, bits=16, bubbles=False)
        gain = image.astype(int) - without
        assert set(np.unique(mask)) == {0, 1}
        assert gain[mask > 0].mean() > 257  # more than one 8-bit grey level
        near = cv2.dilate(mask, np.ones((15, 15), np.uint8)) > 0
        assert np.abs(gain[~near]).max() < 257


@pytest.mark.parametrize("name", PACKAGES)
def test_the_mean_grey_level_finds_nothing(name, bubbles):
    normal = [draw_image(name, "normal", index, size=128)[0].mean() for index in range(60)]
    scores = normal + [image.mean() for image, _ in bubbles[name]]
    assert 0.25 < image_metrics([0] * 60 + [1] * 60, scores)["image_auroc"] < 0.75


def test_a_finished_phantom_is_left_as_it_is(tmp_path):
    root = draw("cxr_ad", tmp_path, **FEW)
    marker = json.loads((root / "PHANTOM.json").read_text())
    assert marker["seed"] == 0
    assert "not the data set" in marker["note"]
    before = {file: file.stat().st_mtime_ns for file in root.rglob("*.png")}
    draw("cxr_ad", tmp_path, **FEW)
    assert {file: file.stat().st_mtime_ns for file in root.rglob("*.png")} == before
    with pytest.raises(InputError, match="holds a phantom of cxr_ad with seed 0"):
        draw("cxr_ad", tmp_path, seed=1, **FEW)


def test_an_interrupted_phantom_is_drawn_again(tmp_path, monkeypatch):
    import adlib.phantoms.xray as xray

    save, calls = xray._save, []

    def failing_save(file, pixels):
        calls.append(file)
        if len(calls) == 5:
            raise KeyboardInterrupt
        save(file, pixels)

    monkeypatch.setattr(xray, "_save", failing_save)
    with pytest.raises(KeyboardInterrupt):
        draw("cxr_ad", tmp_path / "cut", **FEW)
    assert json.loads((tmp_path / "cut" / "PHANTOM.json").read_text())["state"] == "drawing"
    monkeypatch.setattr(xray, "_save", save)
    assert digest(draw("cxr_ad", tmp_path / "cut", **FEW)) == digest(draw("cxr_ad", tmp_path / "whole", **FEW))


def killed(dataset: str, out: Path, after: int, **options) -> None:
    """Draw in another process and kill it when so many images are there."""
    process = multiprocessing.get_context("fork").Process(target=draw, args=(dataset, out), kwargs=options)
    process.start()
    deadline = time.monotonic() + 60
    while len(list(out.rglob("*.png"))) < after and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.join()


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_drawn_data_is_known_as_such_from_its_first_file_on(tmp_path, monkeypatch):
    import adlib.phantoms.xray as xray

    class Stop(Exception):
        pass

    def stop(file, pixels):
        raise Stop

    monkeypatch.setattr(xray, "_save", stop)
    with pytest.raises(Stop):
        draw("cxr_ad", tmp_path, **FEW)
    assert phantom_marker(tmp_path)["state"] == "drawing"


def test_a_half_drawn_phantom_is_no_data_and_is_drawn_anew(tmp_path):
    """However far it came, and whichever category is asked for: what a kill leaves is refused, one sentence."""
    whole, half = draw("cxr_ad", tmp_path / "whole", **FEW), tmp_path / "half"
    names = (whole / "PHANTOM.files").read_text().splitlines()
    assert len(names) == 14 == phantom_marker(whole)["files"]
    for number in range(1, 14):
        shutil.rmtree(half, ignore_errors=True)
        for name in names[:number]:
            (half / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(whole / name, half / name)
        (half / "PHANTOM.json").write_text(json.dumps(phantom_marker(whole) | {"state": "drawing"}))
        (half / "PHANTOM.files").write_text("\n".join(names[:number]) + "\n")
        for place, category in ((half, None), (half, "UB"), (half / "UB", None)):
            with pytest.raises(InputError, match="interrupted, or is still under way"):
                load_samples("folder" if place != half else "cxr_ad", place, category)
    assert files_of(draw("cxr_ad", half, **FEW)) == files_of(whole)
    assert len(load_samples("cxr_ad", half)) == 11


def test_a_half_drawn_phantom_of_an_earlier_version_is_refused_too(tmp_path):
    whole = draw("cxr_ad", tmp_path, **FEW)
    for name in ("PHANTOM.json", "PHANTOM.files"):
        (whole / name).unlink()
    (whole / "PHANTOM.partial").touch()
    with pytest.raises(InputError, match="whose drawing was interrupted"):
        load_samples("cxr_ad", whole)
    with pytest.raises(InputError, match="delete the folder or choose another"):
        draw("cxr_ad", whole, **FEW)


def test_leftovers_of_another_drawing_are_cleared_and_nothing_else(tmp_path):
    killed("cxr_ad", tmp_path / "b", 20, size=16, counts="published", seed=1)
    mine = tmp_path / "b" / "DC" / "train" / "good" / "notes.txt"
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    draw("cxr_ad", tmp_path / "b", **FEW)
    expected = files_of(draw("cxr_ad", tmp_path / "whole", **FEW))
    assert files_of(tmp_path / "b") == expected | {"DC/train/good/notes.txt": b"mine"}


def test_a_missing_file_is_noticed_and_drawn_again(tmp_path):
    root = draw("cxr_ad", tmp_path / "a", **FEW)
    before, gone = files_of(root), root / "UB" / "train" / "good" / "001.png"
    gone.unlink()
    with pytest.raises(InputError, match=r"lacks 1 of its files, e\.g\. UB/train/good/001\.png\. Draw it again"):
        load_samples("cxr_ad", root)
    assert files_of(draw("cxr_ad", root, **FEW)) == before


@pytest.mark.parametrize("damage", ["{", "", "[]"])
def test_a_damaged_marker_is_no_crash(damage, tmp_path):
    root = draw("cxr_ad", tmp_path / "a", **FEW)
    before, samples = files_of(root), load_samples("cxr_ad", root)
    (root / "PHANTOM.json").write_text(damage)
    with pytest.raises(InputError, match="is a phantom whose drawing was interrupted"):
        load_samples("cxr_ad", root)
    assert "Phantom data: drawn by adlib" in phantom_warning(samples, "cxr_ad")
    assert files_of(draw("cxr_ad", root, **FEW)) == before


def test_a_damaged_listing_deletes_nothing_outside(tmp_path):
    other = tmp_path / "other.png"
    other.write_bytes(b"x")
    root = draw("cxr_ad", tmp_path / "a", **FEW)
    (root / "PHANTOM.files").write_text(f"../other.png\n{other}\n")
    (root / "PHANTOM.json").unlink()
    draw("cxr_ad", root, **FEW)
    assert other.exists()


def test_files_that_are_saved_by_other_means_are_listed_too(tmp_path, monkeypatch):
    import adlib.phantoms.xray as xray

    write = xray.write
    monkeypatch.setattr(xray, "write", lambda out, *, seed=0: Path(out, "labels.txt").write_text("x"))
    root = draw("cxr_ad", tmp_path)
    monkeypatch.setattr(xray, "write", write)
    assert (root / "PHANTOM.files").read_text() == "labels.txt\n"
    assert phantom_marker(root)["files"] == 1


@pytest.mark.parametrize("dataset", ["isp_ad", "miic", "texture_ad", "three_cad"])
def test_every_file_of_a_phantom_is_in_its_listing(dataset, tmp_path):
    few = {"isp_ad": {"counts": {"ASM": (1, 1, 1, 1)}, "supervised": 2, "real": (1, 1)}, "miic": {"counts": (1, 1, 1)}}
    few |= {"texture_ad": {"counts": (1, 1, 1)}, "three_cad": {"counts": {"Iron_Stator": (1, 1, 1)}}}
    root = draw(dataset, tmp_path, size=64, **few[dataset])
    names = set((root / "PHANTOM.files").read_text().splitlines())
    assert names == set(files_of(root)) - {"PHANTOM.json", "PHANTOM.files"}


def test_nothing_is_drawn_among_other_files(tmp_path):
    (tmp_path / "real.png").write_bytes(b"x")
    with pytest.raises(InputError, match="holds files that are no phantom"):
        draw("cxr_ad", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["real.png"]


def test_wrong_names_and_options():
    assert list_phantoms() == ["cxr_ad", "isp_ad", "miic", "texture_ad", "three_cad"]
    with pytest.raises(InputError, match="no phantom of 'imagenet'"):
        draw("imagenet", "x")
    with pytest.raises(InputError, match="has no option colour; it has seed, size, bits, counts"):
        draw("cxr_ad", "x", colour=1)
    with pytest.raises(InputError, match="No X-ray of 'TO220'"):
        draw_image("TO220", "train", 0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"size": 0}, r"size=0 must be a whole number in \[16, 8192\]"),
        ({"size": "big"}, "size='big' must be a whole number"),
        ({"size": True}, "size=True must be"),
        ({"seed": -1}, "seed=-1 must be a whole number"),
        ({"seed": None}, "seed=None must be"),
        ({"bits": 12}, "bits=12 must be 8 or 16"),
        ({"counts": "many"}, "counts='many' must be 'small' or 'published' or a dictionary"),
        ({"counts": {"UB": (1, 2)}}, "counts=.* each a whole number"),
        ({"counts": {"CFP17": (1, 1, 1)}}, "there is no 'CFP17', only .* Did you mean 'CFP16'"),
    ],
)
def test_a_wrong_value_is_said_before_anything_is_drawn(tmp_path, wrong, words):
    with pytest.raises(InputError, match=words):
        draw("cxr_ad", tmp_path / "new", **wrong)
    assert not list(tmp_path.iterdir())
